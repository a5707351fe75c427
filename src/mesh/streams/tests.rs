use std::collections::HashSet;
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::Version;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr, Transport as _};
use libp2p::identity::Keypair;
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    Config, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour as _, Swarm,
    SwarmEvent, ToSwarm,
};
use libp2p::{PeerId, StreamProtocol, quic};
use libp2p_swarm_test::SwarmExt as _;
use prometheus_client::metrics::counter::Counter;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::links::{Best, Link, Links, Rank};
use super::*;
use crate::capability::{Call, CapabilityId, Chunk, Frame, Load, Operation};
use crate::mesh::call;
use crate::mesh::calling::{self, NotCalled};
use crate::wire::v1;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/atmosphere/test/call/1");
/// Long enough for a loaded machine: no test waits for it.
const SOON: Duration = Duration::from_secs(30);

/// A node that runs until it is dropped.
struct Node {
    id: PeerId,
    control: Control,
    inbound: Option<mpsc::Receiver<Inbound>>,
    address: Multiaddr,
    running: JoinHandle<()>,
}

impl Node {
    async fn start() -> Self {
        Self::speaking(PROTOCOL).await
    }

    async fn speaking(protocol: StreamProtocol) -> Self {
        let mut parts = None;
        let mut swarm = Swarm::new_ephemeral_tokio(|key| {
            let (behaviour, control, inbound) = new(key.public().to_peer_id(), protocol, Counter::default());
            parts = Some((control, inbound));
            behaviour
        });
        let (control, inbound) = parts.expect("made");
        let (address, _) = swarm.listen().await;
        Self::run(swarm, address, control, inbound)
    }

    async fn over_quic() -> Self {
        let key = Keypair::generate_ed25519();
        let id = key.public().to_peer_id();
        let (behaviour, control, inbound) = new(id, PROTOCOL, Counter::default());
        let transport = quic::tokio::Transport::new(quic::Config::new(&key));
        let transport = transport.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed();
        let config = Config::with_tokio_executor().with_substream_upgrade_protocol_override(Version::V1Lazy);
        let mut swarm = Swarm::new(transport, behaviour, id, config);
        swarm.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address")).expect("listens");
        let address = swarm
            .wait(|event| match event {
                SwarmEvent::NewListenAddr { address, .. } => Some(address),
                _ => None,
            })
            .await;
        Self::run(swarm, address, control, inbound)
    }

    fn run(
        mut swarm: Swarm<Behaviour>,
        address: Multiaddr,
        control: Control,
        inbound: mpsc::Receiver<Inbound>,
    ) -> Self {
        let id = *swarm.local_peer_id();
        let running = tokio::spawn(async move {
            loop {
                swarm.next().await;
            }
        });
        Self { id, control, inbound: Some(inbound), address, running }
    }

    async fn open(&self, to: &Node, prefer: Prefer) -> Result<Stream, OpenError> {
        self.control.open(to.id, || vec![to.address.clone()], prefer, SOON).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Takes what comes, says "hi" and keeps it.
fn greet(node: &mut Node) {
    let mut inbound = node.inbound.take().expect("not taken yet");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(Inbound { mut stream, .. }) = inbound.recv().await {
            stream.write_all(b"hi").await.expect("written");
            stream.flush().await.expect("flushed");
            kept.push(stream);
        }
    });
}

async fn greeting(stream: &mut Stream) -> std::io::Result<[u8; 2]> {
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting).await?;
    Ok(greeting)
}

#[tokio::test]
async fn two_hundred_at_once_to_a_node_without_a_connection_all_succeed() {
    let (near, mut far) = (Node::start().await, Node::start().await);
    greet(&mut far);
    let mut opening = JoinSet::new();
    for _ in 0..200 {
        let (control, id, address) = (near.control.clone(), far.id, far.address.clone());
        opening.spawn(async move {
            let mut stream = control.open(id, || vec![address.clone()], Prefer::Any, SOON).await.expect("opened");
            assert_eq!(&greeting(&mut stream).await.expect("greeted"), b"hi");
            stream
        });
    }
    let streams = opening.join_all().await;
    assert_eq!(streams.len(), 200);
    assert!(streams.iter().all(|stream| stream.peer() == far.id && !stream.is_relayed()));
    assert_eq!(near.control.open_streams(&far.id), 200);
    eventually("the other side counts them too", || far.control.open_streams(&near.id) == 200).await;
    drop(streams);
    eventually("none is left", || near.control.open_streams(&far.id) == 0).await;
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_an_error_at_once_for_everyone() {
    let near = Node::start().await;
    let nobody = PeerId::random();
    let nowhere: Multiaddr = "/memory/4242424242".parse().expect("an address");
    let mut opening = JoinSet::new();
    for _ in 0..50 {
        let (control, nowhere) = (near.control.clone(), nowhere.clone());
        opening.spawn(async move { control.open(nobody, || vec![nowhere.clone()], Prefer::Any, SOON).await });
    }
    for answer in opening.join_all().await {
        assert!(matches!(answer, Err(OpenError::Unreachable { node, .. }) if node == nobody), "{answer:?}");
    }
    for prefer in [Prefer::Any, Prefer::Direct, Prefer::DirectOnly] {
        let answer = near.control.open(nobody, Vec::new, prefer, SOON).await;
        assert!(matches!(answer, Err(OpenError::NoAddress { .. })), "{answer:?}");
    }
    let relayed: Multiaddr = "/memory/1/p2p-circuit".parse().expect("an address");
    let answer = near.control.open(nobody, || vec![relayed.clone()], Prefer::DirectOnly, SOON).await;
    assert!(matches!(answer, Err(OpenError::NoAddress { .. })), "{answer:?}");
    let other = Node::start().await;
    let answer = near.control.open(nobody, || vec![other.address.clone()], Prefer::Any, SOON).await;
    assert!(
        matches!(&answer, Err(OpenError::Unreachable { reason, .. }) if reason.contains("answers node")),
        "{answer:?}"
    );
    let answer = near.control.open(near.id, || vec![near.address.clone()], Prefer::Any, SOON).await;
    assert_eq!(answer.err(), Some(OpenError::OwnNode));
}

#[tokio::test]
async fn a_node_that_speaks_something_else_is_told_apart() {
    let near = Node::start().await;
    let far = Node::speaking(StreamProtocol::new("/other/1")).await;
    let answer = near.open(&far, Prefer::Any).await;
    assert_eq!(answer.err(), Some(OpenError::Unsupported { node: far.id }));
}

#[tokio::test]
async fn when_the_other_node_goes_every_opener_is_answered() {
    let (near, mut far) = (Node::start().await, Node::start().await);
    greet(&mut far);
    let mut first = near.open(&far, Prefer::Any).await.expect("opened");
    greeting(&mut first).await.expect("greeted");
    let mut opening = JoinSet::new();
    for n in 0..300 {
        let (control, id, address) = (near.control.clone(), far.id, far.address.clone());
        opening.spawn(async move { control.open(id, || vec![address.clone()], Prefer::Any, SOON).await });
        if n == 150 {
            far.running.abort();
        }
    }
    let answers = tokio::time::timeout(SOON, opening.join_all()).await.expect("all are answered");
    assert_eq!(answers.len(), 300);
    let gone = far.id;
    drop((answers, first, far));
    eventually("nothing is left of it", || near.control.open_streams(&gone) == 0).await;
    let answer = near.control.open(gone, Vec::new, Prefer::Any, SOON).await;
    assert!(matches!(answer, Err(OpenError::NoAddress { .. })), "{answer:?}");
}

#[tokio::test]
async fn the_swarm_gone_answers_every_opener() {
    let (near, far) = (Node::start().await, Node::start().await);
    near.running.abort();
    let answer = near.open(&far, Prefer::Any).await;
    assert_eq!(answer.err(), Some(OpenError::Stopped));
}

#[tokio::test]
async fn the_deadline_holds_when_the_other_side_is_frozen() {
    let (near, far) = (Node::start().await, Node::start().await);
    far.running.abort();
    let answer = near.control.open(far.id, || vec![far.address.clone()], Prefer::Any, Duration::from_millis(200)).await;
    assert!(answer.is_err());
}

#[tokio::test]
async fn streams_that_nobody_takes_are_reset_and_do_not_hang() {
    let (near, far) = (Node::start().await, Node::start().await);
    let mut opening = JoinSet::new();
    for _ in 0..400 {
        let (control, id, address) = (near.control.clone(), far.id, far.address.clone());
        opening.spawn(async move {
            let mut stream = control.open(id, || vec![address.clone()], Prefer::Any, SOON).await?;
            // 256 wait in the queue, where nobody greets them; the others are reset.
            greeting(&mut stream).await.expect_err("reset");
            Ok::<_, OpenError>(())
        });
    }
    for _ in 256..400 {
        let reset = tokio::time::timeout(SOON, opening.join_next()).await.expect("nothing hangs");
        reset.expect("there are more").expect("no panic").expect("opened, and then reset");
    }
    assert_eq!(far.inbound.as_ref().map(mpsc::Receiver::len), Some(256));
    assert_eq!(near.control.open_streams(&far.id), 256);
}

#[tokio::test]
async fn a_call_runs_over_tcp_like_streams_and_ends_when_the_caller_leaves() {
    calls_between(Node::start().await, Node::start().await).await;
}

#[tokio::test]
async fn a_call_runs_over_quic_where_leaving_looks_like_a_clean_end() {
    calls_between(Node::over_quic().await, Node::over_quic().await).await;
}

fn request(payload: impl Into<bytes::Bytes>) -> Call {
    Call {
        id: "1".into(),
        capability: CapabilityId::from("c"),
        operation: Operation::Chat,
        payload: payload.into(),
        content_type: "application/json".into(),
        stream: true,
        deadline: SOON,
        headers: std::collections::BTreeMap::new(),
    }
}

async fn calls_between(near: Node, mut far: Node) {
    let inbound = far.inbound.take().expect("not taken yet");
    let (sender, mut calls) = mpsc::channel(8);
    let streams = ReceiverStream::new(inbound).map(|inbound| (inbound.from, inbound.stream));
    tokio::spawn(call::serve(streams, |_| Ok(()), sender, call::ServerLimits::default(), CancellationToken::new()));
    let request = request(vec![b'x'; 1_000_000]);
    let piece = || Frame::Chunk(Chunk { data: vec![1; 300_000].into(), content_type: None });
    let end = Frame::End { usage: None, load: None };
    for leaves in [false, true] {
        let stream = near.open(&far, Prefer::Direct).await.expect("opened");
        let calling = tokio::spawn({
            let (request, far) = (request.clone(), far.id);
            async move { call::call(stream, far, &request, call::Limits::default(), Stream::keep).await }
        });
        let inbound = calls.recv().await.expect("a call");
        assert_eq!((inbound.from, &inbound.call.payload), (near.id, &request.payload));
        let frames = futures::stream::iter([Frame::Accepted(Load::default()), piece(), end.clone()]);
        if leaves {
            let work = frames.take(2).chain(futures::stream::pending());
            let sending = tokio::spawn(inbound.reply.send_all(Box::pin(work)));
            drop(calling.await.expect("no panic").expect("admitted"));
            let sent = tokio::time::timeout(SOON, sending).await.expect("noticed").expect("no panic");
            assert_eq!(sent, call::Sent::CallerLeft);
        } else {
            let sending = tokio::spawn(inbound.reply.send_all(Box::pin(frames)));
            let got: Vec<_> = calling.await.expect("no panic").expect("admitted").collect().await;
            assert_eq!(got.last(), Some(&end));
            assert_eq!(sending.await.expect("no panic"), call::Sent::Complete);
        }
    }
    eventually("no stream is left", || near.control.open_streams(&far.id) + far.control.open_streams(&near.id) == 0)
        .await;
}

#[tokio::test]
async fn a_stream_that_was_kept_is_the_next_one_unless_the_other_side_closed_it() {
    let (near, mut far) = (Node::start().await, Node::start().await);
    let mut inbound = far.inbound.take().expect("not taken yet");
    let mut first = near.open(&far, Prefer::Any).await.expect("opened");
    assert!(!first.is_kept());
    first.write_all(b"one").await.expect("written");
    first.flush().await.expect("flushed");
    let mut there = inbound.recv().await.expect("it came").stream;
    let mut said = [0; 3];
    there.read_exact(&mut said).await.expect("read");
    there.write_all(b"two").await.expect("written");
    there.flush().await.expect("flushed");
    first.read_exact(&mut said).await.expect("read");

    first.keep();
    assert_eq!(near.control.open_streams(&far.id), 0, "what waits is not open");
    let mut again = near.open(&far, Prefer::Any).await.expect("taken");
    assert!(again.is_kept() && near.control.open_streams(&far.id) == 1);
    again.write_all(b"six").await.expect("written");
    again.flush().await.expect("flushed");
    there.read_exact(&mut said).await.expect("read");
    assert_eq!(&said, b"six", "on the very same stream");

    again.keep();
    let (addresses, prefer) = (|| vec![far.address.clone()], Prefer::Any);
    let new = near.control.open_new(far.id, addresses, prefer, SOON).await.expect("opened");
    assert!(!new.is_kept());
    drop(there);
    // Whoever asks before the end has come gets the old one, and keeps it again.
    let mut kept = true;
    let end = tokio::time::Instant::now() + SOON;
    while kept && tokio::time::Instant::now() < end {
        let stream = near.open(&far, Prefer::Any).await.expect("opened");
        kept = stream.is_kept();
        if kept {
            stream.keep();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(!kept, "what the other side has closed is not taken");
}

/// Reads a request off a stream.
async fn request_on(stream: &mut Stream) {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await.expect("a length");
    let mut request = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut request).await.expect("a request");
}

/// Answers it with nothing, and says that the stream takes another one.
async fn answer_on(stream: &mut Stream) {
    let end = v1::frame::Body::End(v1::End { keep: true, ..v1::End::default() });
    for body in [v1::frame::Body::Accepted(v1::Accepted::default()), end] {
        let frame = v1::Frame { body: Some(body) }.encode_to_vec();
        let len = u32::try_from(frame.len()).expect("short").to_be_bytes();
        stream.write_all(&[&len[..], &frame].concat()).await.expect("written");
    }
    stream.flush().await.expect("flushed");
}

#[tokio::test]
async fn a_call_on_a_stream_that_the_other_side_gives_up_just_then_is_made_once_more_on_a_new_one() {
    let (near, mut far) = (Node::start().await, Node::start().await);
    let mut inbound = far.inbound.take().expect("not taken yet");
    let answering = tokio::spawn(async move {
        for answers in [true, true, false] {
            let mut stream = inbound.recv().await.expect("a stream").stream;
            request_on(&mut stream).await;
            if answers {
                answer_on(&mut stream).await;
                // The next one comes on it, and gets no answer any more.
                request_on(&mut stream).await;
            }
        }
        inbound
    });
    let (request, addresses) = (request("small"), || vec![far.address.clone()]);
    let ask = async || calling::call(&near.control, far.id, addresses, &request, SOON).await;
    for _ in 0..2 {
        let frames: Vec<_> = ask().await.expect("admitted").collect().await;
        assert_eq!(frames.len(), 2, "{frames:?}");
    }
    assert!(matches!(ask().await, Err(NotCalled::Failed(_))), "once more, and not for ever");
    let mut inbound = answering.await.expect("no panic");
    assert!(inbound.try_recv().is_err(), "three streams for three calls and two more attempts");
}

#[test]
fn a_direct_connection_beats_a_relayed_one_and_quic_beats_tcp() {
    let rank = |address: &str| Rank::of(&[&address.parse().expect("an address")]);
    assert_eq!(rank("/ip4/10.0.0.1/udp/1/quic-v1"), Rank::Quic);
    assert_eq!(rank("/ip4/10.0.0.1/tcp/1"), Rank::Direct);
    let relay = format!("/ip4/10.0.0.1/udp/1/quic-v1/p2p/{}/p2p-circuit", PeerId::random());
    assert_eq!(rank(&relay), Rank::Relayed);

    let links = Links::default();
    let peer = PeerId::random();
    let mut alive = Vec::new();
    let mut add = |id, rank, streams: usize| {
        let (requests, receiver) = mpsc::channel(1);
        alive.push(receiver);
        let connection = ConnectionId::new_unchecked(id);
        links.add(
            peer,
            Link {
                connection,
                rank,
                requests,
                streams: std::sync::Arc::new(streams.into()),
                kept: std::sync::Arc::default(),
            },
        );
        connection
    };
    let best = |prefer| match links.best(&peer, prefer) {
        Best::Link(link) => Some(link.connection),
        Best::OnlyRelayed | Best::None => None,
    };
    let relayed = add(1, Rank::Relayed, 0);
    assert_eq!((best(Prefer::Any), best(Prefer::DirectOnly)), (Some(relayed), None));
    let tcp = add(2, Rank::Direct, 9);
    assert_eq!((best(Prefer::Any), best(Prefer::DirectOnly)), (Some(tcp), Some(tcp)));
    let busy = add(3, Rank::Quic, 5);
    assert_eq!(best(Prefer::Direct), Some(busy));
    let idle = add(4, Rank::Quic, 4);
    assert_eq!(best(Prefer::Any), Some(idle));
    assert_eq!((links.streams(&peer), links.streams_on(&peer, busy)), (18, 5));
    // A connection whose handler is gone is not chosen, even before the swarm has said so.
    alive.pop();
    assert_eq!(best(Prefer::Any), Some(busy));
    for connection in [relayed, tcp, busy, idle] {
        links.remove(&peer, connection);
    }
    assert!(matches!(links.best(&peer, Prefer::Any), Best::None));
    assert_eq!(links.streams(&peer), 0);
}

#[test]
fn errors_say_which_node_and_why() {
    let node = PeerId::random();
    let errors = [
        OpenError::Timeout { node },
        OpenError::Unreachable { node, reason: "refused".into() },
        OpenError::NoAddress { node },
        OpenError::Busy { node },
    ];
    let texts: HashSet<_> = errors.iter().map(ToString::to_string).collect();
    assert!(texts.len() == 4 && texts.iter().all(|text| text.contains(&node.to_string())));
}

/// A behaviour without a swarm, told what a swarm would tell.
struct Bench {
    behaviour: Behaviour,
    control: Control,
    peer: PeerId,
    handlers: Vec<Box<dyn std::any::Any>>,
}

impl Bench {
    fn new() -> Self {
        let (behaviour, control, _) = new(PeerId::random(), PROTOCOL, Counter::default());
        Self { behaviour, control, peer: PeerId::random(), handlers: Vec::new() }
    }

    fn opening(&self, prefer: Prefer, addresses: &[&str]) -> JoinHandle<Result<Stream, OpenError>> {
        let (control, peer) = (self.control.clone(), self.peer);
        let addresses: Vec<Multiaddr> = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        tokio::spawn(async move { control.open(peer, || addresses.clone(), prefer, SOON).await })
    }

    /// The next dial that it asks for.
    async fn dial(&mut self) -> DialOpts {
        let event = std::future::poll_fn(|cx| self.behaviour.poll(cx));
        match tokio::time::timeout(SOON, event).await.expect("it dials") {
            ToSwarm::Dial { opts } => opts,
            other => panic!("{other:?}"),
        }
    }

    fn established(&mut self, connection: ConnectionId, address: &str) {
        let address: Multiaddr = address.parse().expect("an address");
        let (role, port) = (Endpoint::Dialer, PortUse::Reuse);
        let handler =
            self.behaviour.handle_established_outbound_connection(connection, self.peer, &address, role, port);
        self.handlers.push(Box::new(handler.expect("admitted")));
        let endpoint = ConnectedPoint::Dialer { address, role_override: role, port_use: port };
        self.behaviour.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: self.peer,
            connection_id: connection,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    fn failed(&mut self, connection_id: ConnectionId, error: &DialError) {
        let failure = DialFailure { peer_id: Some(self.peer), error, connection_id };
        self.behaviour.on_swarm_event(FromSwarm::DialFailure(failure));
    }
}

#[tokio::test]
async fn only_a_direct_connection_will_do_when_that_is_asked() {
    let mut bench = Bench::new();
    let circuit = format!("/memory/1/p2p/{}/p2p-circuit", PeerId::random());
    bench.established(ConnectionId::new_unchecked(1_000_001), &circuit);
    let opening = bench.opening(Prefer::DirectOnly, &[&circuit, "/memory/7"]);
    let opts = bench.dial().await;
    let dialled = format!("{opts:?}");
    assert!(dialled.contains("/memory/7") && !dialled.contains("p2p-circuit"), "{dialled}");
    bench.failed(opts.connection_id(), &DialError::Aborted);
    assert!(matches!(opening.await.expect("no panic"), Err(OpenError::Unreachable { .. })));
}

#[tokio::test]
async fn somebody_elses_dial_is_waited_for_and_then_ours_is_made() {
    let mut bench = Bench::new();
    let other = ConnectionId::new_unchecked(1_000_002);
    let opening = bench.opening(Prefer::Any, &["/memory/7"]);
    let first = bench.dial().await;
    let busy = DialError::DialPeerConditionFalse(PeerCondition::DisconnectedAndNotDialing);
    bench.failed(first.connection_id(), &busy);
    bench.failed(other, &DialError::Aborted);
    let second = bench.dial().await;
    assert_ne!(first.connection_id(), second.connection_id());
    bench.failed(other, &DialError::Aborted);
    assert!(!opening.is_finished(), "that was not ours");
    bench.failed(second.connection_id(), &DialError::LocalPeerId { address: Multiaddr::empty() });
    assert_eq!(opening.await.expect("no panic").err(), Some(OpenError::OwnNode));
}

#[tokio::test]
async fn a_connection_that_another_behaviour_refuses_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let opening = bench.opening(Prefer::Any, &["/memory/7"]);
    let opts = bench.dial().await;
    let address: Multiaddr = "/memory/7".parse().expect("an address");
    let (role, port) = (Endpoint::Dialer, PortUse::Reuse);
    let handler =
        bench.behaviour.handle_established_outbound_connection(opts.connection_id(), bench.peer, &address, role, port);
    drop(handler);
    bench.failed(opts.connection_id(), &DialError::Denied { cause: ConnectionDenied::new("no room") });
    let answer = opening.await.expect("no panic");
    assert!(matches!(&answer, Err(OpenError::Unreachable { reason, .. }) if reason.contains("no room")), "{answer:?}");
    assert!(bench.behaviour.is_idle());
}

#[tokio::test]
async fn openers_that_gave_up_are_not_dialled_for() {
    let mut bench = Bench::new();
    let opening = bench.opening(Prefer::Any, &["/memory/7"]);
    let first = bench.dial().await;
    let busy = DialError::DialPeerConditionFalse(PeerCondition::DisconnectedAndNotDialing);
    bench.failed(first.connection_id(), &busy);
    opening.abort();
    opening.await.expect_err("aborted");
    bench.failed(ConnectionId::new_unchecked(1_000_003), &DialError::Aborted);
    assert!(bench.behaviour.is_idle());
}
