//! Nodes that cannot reach each other, and a member that relays.

use futures::StreamExt as _;

use super::calls::call;
use super::*;
use crate::capability::{Chunk, Frame, Load};
use crate::mesh::{PathClass, RelayServer};

async fn call_through_a_relay(relay: Settings, seed: impl Fn(&Node) -> Seed) {
    let relay = run(Settings { relay_server: RelayServer::On, ..relay });
    // These listen nowhere: the only way between them is a circuit.
    let mut provider = run(with_seed(quiet("provider"), &seed(&relay)));
    let caller = run(with_seed(quiet("caller"), &seed(&relay)));
    provider.mesh.advertise(model("m"), 0).await;
    let id = provider.id();
    caller
        .until_adverts("an address of the provider", |adverts| {
            adverts.get(&id)?.addresses.iter().any(|address| address.contains("p2p-circuit")).then_some(())
        })
        .await;
    caller.until_offered(id, "m").await;
    let served = tokio::spawn(async move {
        let inbound = provider.calls.recv().await.expect("a call");
        let chunk = Frame::Chunk(Chunk { data: vec![7; 300 * 1024].into(), content_type: None });
        let frames = [Frame::Accepted(Load::default()), chunk, Frame::End { usage: None, load: None }];
        inbound.reply.send_all(Box::pin(futures::stream::iter(frames))).await;
        provider
    });
    let frames = caller.mesh.call(id, call()).await.expect("admitted");
    let frames: Vec<_> = tokio::time::timeout(LIMIT, frames.collect()).await.expect("an end");
    assert!(matches!(frames.last(), Some(Frame::End { .. })), "{frames:?}");
    let bytes = |frame: &Frame| if let Frame::Chunk(chunk) = frame { chunk.data.len() } else { 0 };
    // More than libp2p's own limit for a circuit, 128 KiB.
    assert_eq!(frames.iter().map(bytes).sum::<usize>(), 300 * 1024);
    let peer = caller.until_view("the circuit", |view| view.peers.get(&id).cloned()).await;
    assert_eq!(peer.path, PathClass::Relayed);
    let provider = served.await.expect("no panic");
    let back = provider.until_view("the circuit", |view| view.peers.get(&caller.id()).cloned()).await;
    assert_eq!(back.path, PathClass::Relayed);
    assert!(back.address.contains("p2p-circuit"), "{}", back.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_passes_through_a_relay_in_memory() {
    let (settings, seed) = in_memory("relay");
    call_through_a_relay(settings, |_| seed.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_passes_through_a_relay_on_loopback() {
    call_through_a_relay(on_loopback("relay"), Node::seed).await;
}
