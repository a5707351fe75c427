//! Strangers at a closed mesh: whoever they are and however they come, they open no protocol.

use std::future::poll_fn;
use std::task::Poll;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::core::Transport as _;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _};
use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::upgrade::Version;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm, gossipsub, identify, kad, noise, ping, quic, relay, tcp, yamux};
use prost::Message as _;
use rand::RngExt as _;

use super::*;
use crate::mesh::gate::{Gate, Handshakes, Membership};
use crate::mesh::member::{Closed, InviteOptions, Token, forge};
use crate::mesh::{Admission, MeshId, RelayServer, enter};
use crate::wire::v1;
use crate::wire::v1::gate_message::Body;

/// Everything that a libp2p host of nobody in particular speaks.
#[derive(libp2p::swarm::NetworkBehaviour)]
struct Curious {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    kad: kad::Behaviour<kad::store::MemoryStore>,
    gossip: gossipsub::Behaviour,
    relay: relay::client::Behaviour,
}

fn curious() -> Swarm<Curious> {
    let key = Keypair::generate_ed25519();
    let own = key.public().to_peer_id();
    let secure = || noise::Config::new(&key).expect("keys");
    let (relay, relay_client) = relay::client::new(own);
    let relay = relay
        .upgrade(Version::V1Lazy)
        .authenticate(secure())
        .multiplex(yamux::Config::default())
        .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
    let tcp = tcp::tokio::Transport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(secure())
        .multiplex(yamux::Config::default())
        .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
    let quic =
        quic::tokio::Transport::new(quic::Config::new(&key)).map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
    let sockets = quic.or_transport(tcp).map(|either, _| either.into_inner());
    let transport = relay.or_transport(sockets).map(|either, _| either.into_inner()).boxed();
    let signed = gossipsub::MessageAuthenticity::Signed(key.clone());
    let behaviour = Curious {
        identify: identify::Behaviour::new(identify::Config::new("x".into(), key.public())),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(100))),
        kad: kad::Behaviour::new(own, kad::store::MemoryStore::new(own)),
        gossip: gossipsub::Behaviour::new(signed, gossipsub::Config::default()).expect("sound"),
        relay: relay_client,
    };
    Swarm::new(transport, behaviour, own, libp2p::swarm::Config::with_tokio_executor())
}

async fn closed_node(settings: Settings) -> (Node, Closed) {
    let identity = Identity::generate();
    let closed = Closed::create(None, &identity, "home").expect("made");
    let node = run_as(Settings { closed: Some(closed.clone()), ..settings }, identity);
    node.until_view("an address", |view| (view.listening.len() >= 2).then_some(())).await;
    (node, closed)
}

fn address(node: &Node, path: &str) -> Multiaddr {
    let port = node.mesh.port().expect("a port");
    format!("/ip4/127.0.0.1/{}", path.replace("PORT", &port.to_string())).parse().expect("an address")
}

/// Connections that behaviours of this node ever saw, and handshakes that let somebody in.
fn let_in(node: &Node) -> (usize, usize) {
    let text = node.metrics.encode();
    let count = |name: &str, label: &str| {
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
    };
    (
        count("atmosphere_libp2p_swarm_connections_established_total", ""),
        count("atmosphere_mesh_gate_handshakes_total", "outcome=\"Admitted\""),
    )
}

const DIRECT: [&str; 2] = ["udp/PORT/quic-v1", "tcp/PORT"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_libp2p_host_opens_no_protocol_by_quic_by_tcp_and_by_a_relay() {
    let (target, closed) = closed_node(Settings { relay_server: RelayServer::On, ..on_loopback("target") }).await;
    let identity = Identity::generate();
    let token = target.mesh.invite(InviteOptions::default()).await.expect("invited").token;
    let hidden_is = enter(None, &identity, &token).await.expect("let in");
    let hidden = run_as(Settings { closed: Some(hidden_is), ..quiet("hidden") }, identity);
    hidden.until_connected(target.id()).await;
    hidden
        .until_view("a circuit", |view| {
            view.listening.iter().any(|address| address.contains("p2p-circuit")).then_some(())
        })
        .await;
    let circuit = format!("{}/p2p/{}/p2p-circuit/p2p/{}", address(&target, "tcp/PORT"), target.id(), hidden.id());
    let (before_target, before_hidden) = (let_in(&target), let_in(&hidden));
    let ways = DIRECT.iter().map(|path| address(&target, path)).chain([circuit.parse().expect("an address")]);
    for way in ways {
        let mut stranger = curious();
        stranger.dial(way.clone()).expect("dialled");
        let mut opened = 0;
        let turned_away = async {
            loop {
                match stranger.select_next_some().await {
                    SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => return,
                    SwarmEvent::Behaviour(
                        CuriousEvent::Identify(identify::Event::Received { .. })
                        | CuriousEvent::Ping(ping::Event { result: Ok(_), .. })
                        | CuriousEvent::Kad(kad::Event::RoutingUpdated { .. })
                        | CuriousEvent::Gossip(gossipsub::Event::Subscribed { .. })
                        | CuriousEvent::Relay(_),
                    ) => opened += 1,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, turned_away).await.expect("turned away");
        println!("{way}: {opened} protocols opened");
        assert_eq!(opened, 0, "{way}");
    }
    assert_eq!((let_in(&target), let_in(&hidden)), (before_target, before_hidden), "no behaviour saw a stranger");
    assert_eq!(closed.members().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_node_and_a_member_of_another_mesh_open_no_protocol() {
    let (target, _) = closed_node(on_loopback("target")).await;
    let open = run(on_loopback("open"));
    let (other, _) = closed_node(on_loopback("other")).await;
    for path in DIRECT {
        let seed: Seed = address(&target, path).to_string().parse().expect("a seed");
        for stranger in [&open, &other] {
            let error = stranger.mesh.join(seed.clone()).await.expect_err("refused").to_string();
            assert!(error.contains("another mesh") && error.contains("atmosphere join TOKEN"), "{path}: {error}");
        }
        println!("{path}: {:?} connections and admissions", let_in(&target));
    }
    assert_eq!((let_in(&target), let_in(&open), let_in(&other)), ((0, 0), (0, 0), (0, 0)));
}

/// What a stranger may present at the gate of a mesh of which it knows the id.
enum Forgery {
    Nothing,
    OwnRoot(Closed),
    Invite(Box<Token>),
    Raw(Vec<Vec<u8>>),
}

/// Dials with what is forged, and returns whether it was let in.
async fn knock(target: Multiaddr, mesh: MeshId, forgery: Forgery) -> bool {
    let identity = Identity::generate();
    let key = identity.keypair().clone();
    let mut transport = tcp::tokio::Transport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key).expect("keys"))
        .multiplex(yamux::Config::default())
        .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)))
        .boxed();
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let Ok((node, mut muxer)) = transport.dial(target.clone(), options).expect("dialled").await else { return false };
    let membership = match forgery {
        Forgery::Nothing => Membership::Open(Admission::Everybody),
        Forgery::OwnRoot(closed) => Membership::Closed(closed),
        Forgery::Invite(token) => Membership::Joining(crate::mesh::gate::Joining::new(*token)),
        Forgery::Raw(messages) => return shout(&mut muxer, messages).await,
    };
    let (reports, _unread) = mpsc::channel(1);
    let gate = Gate::new(identity, mesh, membership, Handshakes::register(&Metrics::default()), reports);
    let endpoint = ConnectedPoint::Dialer { address: target, role_override: Endpoint::Dialer, port_use: PortUse::New };
    gate.pass(node, muxer, endpoint).await.is_ok()
}

/// Sends messages of any kind, and returns whether a verdict came that admits.
async fn shout(muxer: &mut StreamMuxerBox, messages: Vec<Vec<u8>>) -> bool {
    let talk = async {
        let mut stream = poll_fn(|cx| {
            if let Poll::Ready(stream) = muxer.poll_outbound_unpin(cx) {
                return Poll::Ready(stream);
            }
            let _ = muxer.poll_unpin(cx);
            Poll::Pending
        })
        .await
        .ok()?;
        let mut answer = Vec::new();
        let io = async {
            for message in messages {
                if stream.write_all(&message).await.is_err() || stream.flush().await.is_err() {
                    break;
                }
            }
            let _ = stream.close().await;
            let _ = stream.read_to_end(&mut answer).await;
        };
        let mut io = std::pin::pin!(io);
        poll_fn(|cx| {
            if io.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match muxer.poll_unpin(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
        Some(())
    };
    // Nothing that is sent here is a whole handshake, so nothing that comes back can be more than a refusal.
    let _ = tokio::time::timeout(Duration::from_secs(8), talk).await;
    false
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(message.len()).expect("small").to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    bytes
}

fn rss_kib() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_forged_tokens_and_handshakes_let_nobody_in() {
    const ALL: usize = 1000;
    const AT_ONCE: usize = 48;
    let (target, closed) = closed_node(on_loopback("target")).await;
    let way = address(&target, "tcp/PORT");
    let token = target.mesh.invite(InviteOptions { uses: 3, ..InviteOptions::default() }).await.expect("invited").token;
    // What a member really presents, to be changed and replayed.
    let member = Identity::generate();
    let member_is = enter(None, &member, &token).await.expect("let in");
    let credential = member_is.credential();
    let hello = v1::Hello {
        wire_major: 1,
        wire_minor: 0,
        mesh_id: closed.mesh().as_bytes().to_vec().into(),
        nonce: vec![7; 32].into(),
    };
    let hello = v1::GateMessage { body: Some(Body::Hello(hello)) }.encode_to_vec();
    let proof = |credential| {
        let proof = v1::Proof { credential: Some(credential), signature: vec![1; 64].into(), grant: None };
        v1::GateMessage { body: Some(Body::Proof(proof)) }.encode_to_vec()
    };
    let stolen = proof(v1::proof::Credential::Membership(credential.into()));
    let mut rng: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(7);
    let text = token.to_string();
    let mut unread = 0;
    let mut forge_one = |number: usize| match number % 8 {
        0 => Forgery::Nothing,
        1 => Forgery::OwnRoot(Closed::create(None, &Identity::generate(), "home").expect("made")),
        2 => Forgery::Invite(Box::new(forge(&token))),
        3 => {
            // A mistyped token does not even get that far.
            let mut bytes = text.clone().into_bytes();
            let at = rng.random_range(5..bytes.len());
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            unread += usize::from(changed.parse::<Token>().is_err());
            changed.parse::<Token>().map_or(Forgery::Nothing, |token| Forgery::Invite(Box::new(token)))
        }
        4 => Forgery::Raw(vec![framed(&hello), framed(&stolen)]),
        5 => {
            let mut changed = stolen.clone();
            let at = rng.random_range(0..changed.len());
            changed[at] ^= rng.random_range(1..=255_u8);
            Forgery::Raw(vec![framed(&hello), framed(&changed)])
        }
        6 => Forgery::Raw(vec![framed(&hello), u32::MAX.to_be_bytes().to_vec()]),
        _ => Forgery::Raw(vec![(0..rng.random_range(1..600)).map(|_| rng.random()).collect()]),
    };
    let forgeries: Vec<Forgery> = (0..ALL).map(&mut forge_one).collect();
    let mesh = closed.mesh();
    let began = std::time::Instant::now();
    let mut let_through = 0;
    let mut sizes = Vec::new();
    let mut knocks = futures::stream::iter(forgeries)
        .map(|forgery| tokio::spawn(knock(way.clone(), mesh, forgery)))
        .buffer_unordered(AT_ONCE);
    let mut done = 0;
    while let Some(knocked) = knocks.next().await {
        let_through += usize::from(knocked.expect("no panic"));
        done += 1;
        if done % 250 == 0 {
            sizes.push(rss_kib());
        }
    }
    println!(
        "{ALL} forgeries in {:?} ({unread} tokens were noticed as mistyped): {let_through} let in; resident KiB after each 250: {sizes:?}",
        began.elapsed()
    );
    assert_eq!(let_through, 0);
    assert_eq!(closed.members().len(), 2, "the admin and the one that was invited");
    let growth = sizes.last().copied().unwrap_or_default().saturating_sub(sizes.first().copied().unwrap_or_default());
    assert!(growth < 32 * 1024, "memory grew by {growth} KiB");
    // Who has the right token still gets in.
    enter(None, &Identity::generate(), &token).await.expect("let in");
}
