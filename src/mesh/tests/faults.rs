//! Strangers, liars and doubles.

use futures::StreamExt as _;
use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use prost::Message;

use super::*;
use crate::capability::limits;
use crate::mesh::behaviour::{Behaviour, Event, topic};
use crate::mesh::statement::Signer;
use crate::mesh::{MeshId, make_swarm};
use crate::telemetry;
use crate::wire::v1;

async fn next_event(events: &mut tokio::sync::broadcast::Receiver<telemetry::Event>, kind: &str) -> telemetry::Event {
    let wait = async {
        loop {
            let event = events.recv().await.expect("the bus");
            if event.kind == kind {
                return event;
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("waited in vain for {kind}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_mesh_opens_no_protocol_and_hears_why() {
    for path in ["udp/PORT/quic-v1", "tcp/PORT"] {
        let a = run(on_loopback("a"));
        let mut events = a.events.subscribe();
        let seed = format!("/ip4/127.0.0.1/{}", path.replace("PORT", &a.mesh.port().expect("a port").to_string()));
        let stranger = run(Settings { mesh_name: "other".into(), ..on_loopback("stranger") });
        let error = stranger.mesh.join(seed.parse().expect("a seed")).await.expect_err("refused").to_string();
        assert!(error.contains("another mesh"), "{path}: {error}");
        let refused = next_event(&mut events, "gate.refused").await;
        assert_eq!(refused.data["node"], stranger.id().to_base58());
        assert_eq!(refused.data["inbound"], true);
        assert!(a.mesh.view().peers.is_empty() && stranger.mesh.view().peers.is_empty());
        assert!(!a.mesh.adverts().borrow().contains_key(&stranger.id()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_knows_no_gate_opens_no_protocol() {
    #[derive(libp2p::swarm::NetworkBehaviour)]
    struct Curious {
        identify: libp2p::identify::Behaviour,
        ping: libp2p::ping::Behaviour,
    }
    let a = run(on_loopback("a"));
    for path in ["udp/PORT/quic-v1", "tcp/PORT"] {
        let key = libp2p::identity::Keypair::generate_ed25519();
        let tcp = libp2p::tcp::tokio::Transport::default()
            .upgrade(libp2p::core::upgrade::Version::V1Lazy)
            .authenticate(libp2p::noise::Config::new(&key).expect("keys"))
            .multiplex(libp2p::yamux::Config::default())
            .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
        let quic = libp2p::quic::tokio::Transport::new(libp2p::quic::Config::new(&key))
            .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
        let transport = quic.or_transport(tcp).map(|either, _| either.into_inner()).boxed();
        let behaviour = Curious {
            identify: libp2p::identify::Behaviour::new(libp2p::identify::Config::new("x".into(), key.public())),
            ping: libp2p::ping::Behaviour::default(),
        };
        let config = libp2p::swarm::Config::with_tokio_executor();
        let mut stranger = Swarm::new(transport, behaviour, key.public().to_peer_id(), config);
        let port = a.mesh.port().expect("a port").to_string();
        let address: Multiaddr = format!("/ip4/127.0.0.1/{}", path.replace("PORT", &port)).parse().expect("an address");
        stranger.dial(address).expect("dialled");
        let turned_away = async {
            loop {
                match stranger.select_next_some().await {
                    SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => return,
                    SwarmEvent::Behaviour(CuriousEvent::Identify(libp2p::identify::Event::Received { .. })) => {
                        panic!("a protocol was opened")
                    }
                    SwarmEvent::Behaviour(CuriousEvent::Ping(libp2p::ping::Event { result: Ok(_), .. })) => {
                        panic!("a protocol was opened")
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, turned_away).await.expect("turned away");
        assert!(a.mesh.view().peers.is_empty());
    }
}

/// A member that says what it wants: a swarm without a driver.
async fn hostile(target: &Node) -> (Swarm<Behaviour>, Identity) {
    let identity = Identity::generate();
    let settings = quiet("hostile");
    let mesh = MeshId::open(&settings.mesh_name);
    let (reports, _) = mpsc::channel(1);
    let runtime = tokio::runtime::Handle::current();
    let (mut swarm, ..) = make_swarm(&settings, mesh, &identity, &runtime, reports).expect("a swarm");
    let address: Multiaddr =
        format!("/ip4/127.0.0.1/tcp/{}", target.mesh.port().expect("a port")).parse().expect("an address");
    let dial = libp2p::swarm::dial_opts::DialOpts::peer_id(target.id()).addresses(vec![address]).build();
    swarm.dial(dial).expect("dialled");
    let subscribed = async {
        loop {
            if let SwarmEvent::Behaviour(Event::Gossip(event)) = swarm.select_next_some().await
                && matches!(*event, libp2p::gossipsub::Event::Subscribed { .. })
            {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, subscribed).await.expect("connected");
    (swarm, identity)
}

fn advert_of(identity: &Identity, name: &str) -> v1::SignedStatement {
    let mesh = MeshId::open(super::super::DEFAULT_MESH_NAME);
    let signer = Signer::new(identity.keypair().clone(), *mesh.as_bytes()).expect("a signer");
    let advert = Advert {
        node: identity.peer_id(),
        epoch: 1,
        seq: 1,
        ttl: Duration::from_secs(60),
        name: name.into(),
        version: "1".into(),
        addresses: Vec::new(),
        capabilities: model(name).into(),
        load: 0,
        relay: false,
    };
    signer.advert(&advert).expect("signed").wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_malformed_statements_are_refused_and_nothing_else_is_disturbed() {
    let a = run(on_loopback("a"));
    let honest = run(with_seed(on_loopback("honest"), &a.seed()));
    honest.mesh.advertise(model("before"), 0).await;
    a.until_offered(honest.id(), "before").await;

    let (mut swarm, identity) = hostile(&a).await;
    let good = advert_of(&identity, "good");
    let mut forged = good.clone();
    forged.signature = vec![7; 64].into();
    // Its own words in another node's name.
    let mut impostor = good.clone();
    impostor.node = honest.id().to_bytes().into();
    let mut changed = good.clone();
    changed.statement = [&good.statement[..], &[0x50, 0x01]].concat().into();
    let mut swapped = good.clone();
    swapped.body = advert_of(&identity, "else").body;
    let gossip_topic = topic(MeshId::open(super::super::DEFAULT_MESH_NAME));
    let bad = [forged.clone(), impostor, changed, swapped];
    for message in bad.iter().map(Message::encode_to_vec).chain([vec![0xff; 300], Vec::new()]) {
        let _ = swarm.behaviour_mut().gossip.publish(gossip_topic.hash(), message);
    }
    // And by sync: too large a body, and forged ones.
    let mut huge = good.clone();
    huge.body = vec![0; limits::BODY_BYTES + 1].into();
    for statement in bad.into_iter().chain([huge]) {
        let push = vec![v1::AgedStatement { statement: Some(statement), age_ms: 0 }];
        let digest = v1::SyncDigest { positions: Vec::new(), push };
        let request = v1::SyncRequest { body: Some(v1::sync_request::Body::Digest(digest)) };
        swarm.behaviour_mut().sync.send_request(&a.id(), request);
    }
    let hostile = tokio::spawn(async move {
        let mut swarm = swarm;
        loop {
            if let SwarmEvent::Behaviour(Event::Gossip(_)) = swarm.select_next_some().await {}
        }
    });
    // What the honest node says afterwards arrives as before.
    honest.mesh.advertise(model("after"), 0).await;
    a.until_offered(honest.id(), "after").await;
    let adverts = Arc::clone(&a.mesh.adverts().borrow());
    assert!(!adverts.contains_key(&identity.peer_id()), "nothing of what it said was valid");
    assert_eq!(adverts[&honest.id()].name, "honest");
    hostile.abort();

    // The same member is believed once it tells the truth: its words were refused for what they were.
    let (mut swarm, identity) = self::hostile(&a).await;
    let good = advert_of(&identity, "good");
    let _ = swarm.behaviour_mut().gossip.publish(gossip_topic.hash(), good.encode_to_vec());
    let driven = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    a.until_offered(identity.peer_id(), "good").await;
    driven.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_notices_that_another_one_has_its_identity() {
    let hub = run(on_loopback("hub"));
    let identity = Identity::generate();
    // It hears of the other one when its next beat is out of date.
    let beats_often = Settings { advert_ttl: Duration::from_secs(4), ..on_loopback("first") };
    let first = run_as(with_seed(beats_often, &hub.seed()), identity.clone());
    first.mesh.advertise(model("of-first"), 0).await;
    hub.until_offered(first.id(), "of-first").await;
    let mut events = first.events.subscribe();
    let _second = run_as(with_seed(on_loopback("second"), &hub.seed()), identity);
    let clash = next_event(&mut events, "mesh.identity_clash").await;
    assert_eq!(clash.data["node"], first.id().to_base58());
}
