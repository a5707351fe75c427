use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt as _;
use libp2p::PeerId;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::codec::Decoder as _;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use tokio_util::sync::CancellationToken;

use super::codec::FrameDecoder;
use super::tests::{BUSY, Callee, END, LOAD, frames, request, typed};
use super::{Limits, Sent, ServerLimits, call, serve};
use crate::capability::{ErrorClass, Failure, Frame, FrameStream, Rejection};
use crate::wire::{self, v1};

/// Makes a call on a stream, has it answered, and gives the stream back if the callee keeps it.
async fn on_kept(
    callee: &mut Callee,
    stream: Compat<DuplexStream>,
    frames: FrameStream,
) -> Option<Compat<DuplexStream>> {
    let (kept, back) = oneshot::channel();
    let request = request();
    let keep = move |stream| drop(kept.send(stream));
    let calling = call(stream, PeerId::random(), &request, Limits::default(), keep);
    let serving = async {
        let inbound = callee.calls.recv().await.expect("a call");
        tokio::spawn(inbound.reply.send_all(frames));
    };
    let (answer, ()) = tokio::join!(calling, serving);
    let _: Vec<_> = answer.expect("admitted").collect().await;
    back.await.ok()
}

#[tokio::test(start_paused = true)]
async fn a_stream_serves_call_after_call_until_it_has_rested_for_long() {
    let mut callee = Callee::start(ServerLimits { calls: 1, ..ServerLimits::default() });
    let mut stream = callee.stream().await.compat();
    for _ in 0..20 {
        let answer = frames([Frame::Accepted(LOAD), BUSY, typed("data: 1\n\n", "text/event-stream"), END]);
        stream = on_kept(&mut callee, stream, answer).await.expect("kept");
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    let unanswered = call(stream, PeerId::random(), &request(), Limits::default(), drop).await.err();
    assert!(unanswered.is_some_and(|u| u.unheard && u.failure.class == ErrorClass::Unavailable));
}

#[tokio::test]
async fn only_a_stream_whose_call_ended_well_is_kept() {
    let mut callee = Callee::start(ServerLimits::default());
    let failed = Frame::Error(Failure::new(ErrorClass::Backend, "it failed"));
    let rejected = Frame::Rejected(Rejection { reason: "full".into(), retry_after: None, load: None });
    for (sent, kept) in [
        (frames([Frame::Accepted(LOAD), END]), true),
        (frames([Frame::Accepted(LOAD), failed]), false),
        (frames([Frame::Accepted(LOAD)]), false),
        (frames([rejected]), false),
    ] {
        let stream = callee.stream().await.compat();
        assert_eq!(on_kept(&mut callee, stream, sent).await.is_some(), kept);
    }
    let mut callee = Callee::start(ServerLimits { waiting: 1, ..ServerLimits::default() });
    let stream = callee.stream().await.compat();
    let first = on_kept(&mut callee, stream, frames([Frame::Accepted(LOAD), END])).await;
    let stream = callee.stream().await.compat();
    let second = on_kept(&mut callee, stream, frames([Frame::Accepted(LOAD), END])).await;
    assert!(first.is_some() && second.is_none(), "only one may wait");
}

#[tokio::test]
async fn a_caller_that_keeps_no_streams_sees_the_end_of_its_own() {
    let mut callee = Callee::start(ServerLimits::default());
    let mut stream = callee.stream().await;
    let old = wire::call_to_wire(&request()).encode_to_vec();
    stream.write_u32(old.len() as u32).await.expect("written");
    stream.write_all(&old).await.expect("written");
    let inbound = callee.calls.recv().await.expect("a call");
    let sending = tokio::spawn(inbound.reply.send_all(frames([Frame::Accepted(LOAD), END])));
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.expect("it ends");
    let (mut said, mut got) = (BytesMut::from(&said[..]), Vec::new());
    while let Some(frame) = FrameDecoder::new().decode(&mut said).expect("frames") {
        got.push(frame.body);
    }
    let end = v1::frame::Body::End(v1::End::default());
    assert_eq!((got.len(), got[1].as_ref()), (2, Some(&end)), "it is as it always was");
    drop(stream);
    assert_eq!(sending.await.expect("no panic"), Sent::Complete);
}

#[tokio::test]
async fn who_may_not_call_any_more_is_refused_on_a_kept_stream_too() {
    let (streams, incoming) = mpsc::channel(4);
    let (sender, calls) = mpsc::channel(4);
    let allowed = Arc::new(AtomicUsize::new(1));
    let may_call = {
        let allowed = Arc::clone(&allowed);
        move |_: &PeerId| if allowed.load(Ordering::SeqCst) == 1 { Ok(()) } else { Err("revoked".to_owned()) }
    };
    tokio::spawn(serve(
        ReceiverStream::new(incoming),
        may_call,
        sender,
        ServerLimits::default(),
        CancellationToken::new(),
    ));
    let mut callee = Callee { streams, calls };
    let stream = callee.stream().await.compat();
    let stream = on_kept(&mut callee, stream, frames([Frame::Accepted(LOAD), END])).await.expect("kept");
    allowed.store(0, Ordering::SeqCst);
    let refused = call(stream, PeerId::random(), &request(), Limits::default(), drop).await.err();
    assert_eq!(refused.map(|unanswered| (unanswered.failure.status, unanswered.unheard)), Some((403, false)));
}

#[tokio::test]
async fn streams_that_wait_end_with_the_server() {
    let mut callee = Callee::start(ServerLimits::default());
    let stream = callee.stream().await.compat();
    let stream = on_kept(&mut callee, stream, frames([Frame::Accepted(LOAD), END])).await.expect("kept");
    let Callee { streams, calls } = callee;
    drop((streams, calls));
    let mut stream = stream.into_inner();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.expect("it ends at once");
    assert!(ended.is_err());
}

#[tokio::test]
async fn who_leaves_keeps_no_streams() {
    let (streams, incoming) = mpsc::channel(4);
    let (sender, calls) = mpsc::channel(4);
    let leaving = CancellationToken::new();
    let limits = ServerLimits::default();
    tokio::spawn(serve(ReceiverStream::new(incoming), |_: &PeerId| Ok(()), sender, limits, leaving.clone()));
    let mut callee = Callee { streams, calls };
    let stream = callee.stream().await.compat();
    let waiting = on_kept(&mut callee, stream, frames([Frame::Accepted(LOAD), END])).await.expect("kept");
    leaving.cancel();
    let mut waiting = waiting.into_inner();
    let ended = tokio::time::timeout(Duration::from_secs(10), waiting.read_u8()).await.expect("it ends at once");
    assert!(ended.is_err());
    let stream = callee.stream().await.compat();
    let answered = on_kept(&mut callee, stream, frames([Frame::Accepted(LOAD), END])).await;
    assert!(answered.is_none(), "it still answers, and no more");
}
