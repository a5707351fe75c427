//! Calls from one node to another.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};

use super::*;
use crate::capability::{Call, CapabilityId, Chunk, ErrorClass, Frame, FrameStream, Load, Operation};

pub(super) fn call() -> Call {
    Call {
        id: "test".into(),
        capability: CapabilityId::from("test/llm/chat/m"),
        operation: Operation::Chat,
        payload: r#"{"messages":[]}"#.into(),
        content_type: "application/json".into(),
        stream: true,
        deadline: LIMIT,
        headers: BTreeMap::new(),
    }
}

fn chunk(text: &'static str) -> Frame {
    Frame::Chunk(Chunk { data: text.into(), content_type: None })
}

async fn pair() -> (Node, Node) {
    let provider = run(on_loopback("provider"));
    let caller = run(with_seed(on_loopback("caller"), &provider.seed()));
    provider.mesh.advertise(model("m"), 0).await;
    caller.until_offered(provider.id(), "m").await;
    (caller, provider)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_streams_frames_from_one_node_to_another() {
    let (caller, mut provider) = pair().await;
    let from = caller.id();
    let served = tokio::spawn(async move {
        let inbound = provider.calls.recv().await.expect("a call");
        assert_eq!((inbound.from, &*inbound.call.payload), (from, &br#"{"messages":[]}"#[..]));
        let frames = [
            Frame::Accepted(Load::default()),
            chunk("data: one\n\n"),
            chunk("data: two\n\n"),
            Frame::End { usage: None, load: None },
        ];
        inbound.reply.send_all(Box::pin(stream::iter(frames))).await;
        provider
    });
    let provider_id = *caller.mesh.view().peers.keys().next().expect("connected");
    let frames = caller.mesh.call(provider_id, call()).await.expect("admitted");
    let frames: Vec<_> = tokio::time::timeout(LIMIT, frames.collect()).await.expect("an end");
    assert!(matches!(frames.first(), Some(Frame::Accepted(_))), "{frames:?}");
    let text: String = frames
        .iter()
        .filter_map(|frame| match frame {
            Frame::Chunk(chunk) => Some(String::from_utf8_lossy(&chunk.data).into_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "data: one\n\ndata: two\n\n");
    assert!(matches!(frames.last(), Some(Frame::End { .. })), "{frames:?}");
    served.await.expect("served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_stops_the_work() {
    struct Told(Option<tokio::sync::oneshot::Sender<()>>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.take().expect("dropped once").send(());
        }
    }
    let (caller, mut provider) = pair().await;
    let (told, dropped) = tokio::sync::oneshot::channel();
    let provider_id = provider.id();
    tokio::spawn(async move {
        let inbound = provider.calls.recv().await.expect("a call");
        let guard = Told(Some(told));
        let endless = stream::iter([Frame::Accepted(Load::default()), chunk("data: one\n\n")])
            .chain(stream::pending())
            .map(move |frame| {
                let _ = &guard;
                frame
            });
        inbound.reply.send_all(Box::pin(endless) as FrameStream).await;
        provider
    });
    let mut frames = caller.mesh.call(provider_id, call()).await.expect("admitted");
    while !matches!(frames.next().await, Some(Frame::Chunk(_))) {}
    drop(frames);
    tokio::time::timeout(LIMIT, dropped).await.expect("in time").expect("dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_dialled_when_it_is_called() {
    let (caller, mut provider) = pair().await;
    let provider_id = provider.id();
    let mut events = caller.events.subscribe();
    // A third node that only hears of the provider through the caller, and may or may not be connected to it.
    let third = run(with_seed(on_loopback("third"), &caller.seed()));
    third.until_offered(provider_id, "m").await;
    let answer = tokio::spawn(async move {
        let inbound = provider.calls.recv().await.expect("a call");
        let frames = [Frame::Accepted(Load::default()), Frame::End { usage: None, load: None }];
        inbound.reply.send_all(Box::pin(stream::iter(frames))).await;
        provider
    });
    let frames = third.mesh.call(provider_id, call()).await.expect("admitted");
    let frames: Vec<_> = tokio::time::timeout(LIMIT, frames.collect()).await.expect("an end");
    assert!(matches!(frames.last(), Some(Frame::End { .. })), "{frames:?}");
    answer.await.expect("served");
    assert!(events.try_recv().is_ok(), "the caller saw the third node come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_to_a_node_that_is_not_there_says_so() {
    let (caller, provider) = pair().await;
    let failure = |result: Result<FrameStream, crate::capability::Failure>| match result {
        Ok(_) => panic!("nobody is there"),
        Err(failure) => failure,
    };
    let unknown = failure(caller.mesh.call(PeerId::random(), call()).await);
    assert_eq!(unknown.class, ErrorClass::Unavailable);
    assert!(unknown.message.contains("not in the mesh"), "{unknown}");

    let id = provider.id();
    drop(provider);
    caller.until_view("the loss", |view| (!view.peers.contains_key(&id)).then_some(())).await;
    let lost = failure(caller.mesh.call(id, call()).await);
    assert_eq!(lost.class, ErrorClass::Unavailable);
    assert!(lost.message.contains("provider"), "{lost}");
}
