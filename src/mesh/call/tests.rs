use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use libp2p::PeerId;
use proptest::prelude::*;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::codec::Decoder as _;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use tokio_util::sync::CancellationToken;

use super::codec::{FRAME_BYTES, FrameDecoder, FrameWriter, PIECE_BYTES, REQUEST_BYTES, request_parts};
use super::{InboundCall, Limits, Sent, ServerLimits, call, serve};
use crate::capability::{
    Call, CapabilityId, Chunk, ErrorClass, Failure, Frame, FrameStream, Load, Operation, Phase, Progress, Rejection,
};
use crate::wire::{self, v1};

/// What a stream in memory holds, like a small flow control window.
const WINDOW: usize = 64 * 1024;
pub(super) const LOAD: Load = Load { running: 1, queued: 0, limit: 2 };

/// A callee without a network.
pub(super) struct Callee {
    pub(super) streams: mpsc::Sender<(PeerId, Compat<DuplexStream>)>,
    pub(super) calls: mpsc::Receiver<InboundCall>,
}

impl Callee {
    pub(super) fn start(limits: ServerLimits) -> Self {
        let (streams, incoming) = mpsc::channel(64);
        let (sender, calls) = mpsc::channel(4);
        tokio::spawn(serve(ReceiverStream::new(incoming), |_| Ok(()), sender, limits, CancellationToken::new()));
        Self { streams, calls }
    }

    pub(super) async fn stream(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(WINDOW);
        self.streams.send((PeerId::random(), far.compat())).await.expect("it serves");
        near
    }

    /// Makes a call, and has it answered with these frames.
    async fn answer(&mut self, request: Call, frames: FrameStream) -> Result<FrameStream, Failure> {
        let stream = self.stream().await.compat();
        let called = calling(stream, request);
        let serving = async {
            let inbound = self.calls.recv().await.expect("a call");
            tokio::spawn(inbound.reply.send_all(frames));
        };
        tokio::join!(called, serving).0
    }
}

async fn calling(stream: Compat<DuplexStream>, request: Call) -> Result<FrameStream, Failure> {
    call(stream, PeerId::random(), &request, Limits::default(), drop).await.map_err(|unanswered| unanswered.failure)
}

pub(super) fn request() -> Call {
    Call {
        id: "c1".into(),
        capability: CapabilityId::from("ollama/llm/chat/m"),
        operation: Operation::Chat,
        payload: Bytes::from_static(b"{}"),
        content_type: "application/json".into(),
        stream: true,
        deadline: Duration::from_secs(60),
        headers: BTreeMap::from([("traceparent".to_owned(), "00-1".to_owned())]),
    }
}

fn chunk(data: impl Into<Bytes>) -> Frame {
    Frame::Chunk(Chunk { data: data.into(), content_type: None })
}

pub(super) fn typed(data: impl Into<Bytes>, media_type: &str) -> Frame {
    Frame::Chunk(Chunk { data: data.into(), content_type: Some(media_type.to_owned()) })
}

pub(super) const END: Frame = Frame::End { usage: None, load: None };
pub(super) const BUSY: Frame = Frame::Progress(Progress { phase: Phase::Prefill, queue_position: 0 });

pub(super) fn frames(frames: impl IntoIterator<Item = Frame>) -> FrameStream {
    let frames: Vec<_> = frames.into_iter().collect();
    Box::pin(stream::iter(frames))
}

/// These frames, and then nothing more, not even an end.
fn stuck(first: impl IntoIterator<Item = Frame>) -> FrameStream {
    Box::pin(frames(first).chain(stream::pending()))
}

/// Says when the stream is dropped.
fn watched(inner: FrameStream) -> (FrameStream, oneshot::Receiver<()>) {
    let (alive, dropped) = oneshot::channel::<()>();
    (
        Box::pin(inner.map(move |frame| {
            let _alive = &alive;
            frame
        })),
        dropped,
    )
}

/// Waits until the watched work is dropped.
async fn ends(work: oneshot::Receiver<()>) {
    let dropped = tokio::time::timeout(Duration::from_secs(90), work).await.expect("it ends soon");
    dropped.expect_err("nothing is sent, the work is dropped");
}

async fn failure(mut frames: FrameStream) -> Failure {
    loop {
        match frames.next().await {
            Some(Frame::Error(failure)) => {
                assert_eq!(frames.next().await, None, "nothing comes after the end");
                return failure;
            }
            Some(_) => {}
            None => panic!("ended without an end"),
        }
    }
}

#[tokio::test]
async fn an_answer_arrives_as_it_was_sent() {
    let mut callee = Callee::start(ServerLimits::default());
    let sent = [Frame::Accepted(LOAD), BUSY, typed("data: 1\n\n", "text/event-stream"), chunk("data: 2\n\n"), END];
    let answer = callee.answer(request(), frames(sent.clone())).await.expect("admitted");
    assert_eq!(answer.collect::<Vec<_>>().await, sent);
}

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_whatever_its_size() {
    let mut callee = Callee::start(ServerLimits::default());
    for size in [0, 1, 16 * 1024, 16 * 1024 + 1, 3 * 1024 * 1024] {
        let wanted = Call { payload: vec![7; size].into(), ..request() };
        let stream = callee.stream().await.compat();
        let calling = tokio::spawn(calling(stream, wanted.clone()));
        let InboundCall { call: got, reply, .. } = callee.calls.recv().await.expect("a call");
        assert_eq!((&got.id, &got.payload, &got.headers), (&wanted.id, &wanted.payload, &wanted.headers));
        assert_eq!((got.operation, got.stream, got.deadline), (wanted.operation, wanted.stream, wanted.deadline));
        let sending = tokio::spawn(reply.send_all(frames([Frame::Accepted(LOAD), END])));
        drop(calling.await.expect("no panic").expect("admitted"));
        // The caller may be gone before it has read the end, which nobody promised it would.
        assert_ne!(sending.await.expect("no panic"), Sent::Stalled);
    }
    let large = Call { payload: vec![0; REQUEST_BYTES].into(), ..request() };
    let refused = calling(callee.stream().await.compat(), large).await;
    assert_eq!(refused.err().map(|f| (f.class, f.status)), Some((ErrorClass::Request, 413)));
}

#[tokio::test]
async fn a_rejection_is_the_only_frame_and_an_error_is_an_error() {
    let mut callee = Callee::start(ServerLimits::default());
    let rejection = Rejection { reason: "full".into(), retry_after: Some(Duration::from_secs(3)), load: Some(LOAD) };
    let sent = [Frame::Rejected(rejection.clone()), chunk("never sent")];
    let answer = callee.answer(request(), frames(sent)).await.expect("answered");
    assert_eq!(answer.collect::<Vec<_>>().await, [Frame::Rejected(rejection)]);

    let gone = Failure::new(ErrorClass::Unavailable, "no such capability");
    let answer = callee.answer(request(), frames([Frame::Error(gone.clone())])).await;
    assert_eq!(answer.err(), Some(gone));
}

#[tokio::test]
async fn large_chunks_are_cut_and_large_events_are_joined_again() {
    let mut callee = Callee::start(ServerLimits::default());
    let image: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let sent = [Frame::Accepted(LOAD), typed(image.clone(), "image/png"), END];
    let got: Vec<_> = callee.answer(request(), frames(sent)).await.expect("admitted").collect().await;
    let mut joined = Vec::new();
    for frame in &got[1..got.len() - 1] {
        let Frame::Chunk(chunk) = frame else { panic!("{frame:?}") };
        assert!(chunk.data.len() <= PIECE_BYTES);
        assert_eq!(chunk.content_type.is_some(), joined.is_empty());
        joined.extend_from_slice(&chunk.data);
    }
    assert!(joined == image && got.last() == Some(&END));

    let events =
        [typed("data: 1\n\n", "text/event-stream; charset=utf-8"), chunk(image), chunk(vec![b'x'; PIECE_BYTES + 1])];
    let sent: Vec<_> = [Frame::Accepted(LOAD)].into_iter().chain(events).chain([END]).collect();
    let got: Vec<_> = callee.answer(request(), frames(sent.clone())).await.expect("admitted").collect().await;
    assert!(got == sent, "every event whole");
}

#[tokio::test]
async fn an_error_too_large_for_a_frame_loses_its_body_only() {
    let mut callee = Callee::start(ServerLimits::default());
    let large = Failure {
        body: Some((vec![b'x'; FRAME_BYTES].into(), "text/html".into())),
        ..Failure::new(ErrorClass::Backend, "backend failed")
    };
    let sent = frames([Frame::Accepted(LOAD), Frame::Error(large.clone())]);
    let got = failure(callee.answer(request(), sent).await.expect("admitted")).await;
    assert_eq!(got, Failure { body: None, ..large });
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_work_at_once() {
    let mut callee = Callee::start(ServerLimits::default());
    let (work, dropped) = watched(stuck([Frame::Accepted(LOAD), BUSY]));
    let answer = callee.answer(request(), work).await.expect("admitted");
    drop(answer);
    ends(dropped).await;
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_work_also_when_it_reads_nothing() {
    let mut callee = Callee::start(ServerLimits::default());
    let endless = stream::repeat_with(|| chunk(vec![0; 10_000]));
    let (work, dropped) = watched(Box::pin(frames([Frame::Accepted(LOAD)]).chain(endless)));
    let answer = callee.answer(request(), work).await.expect("admitted");
    tokio::task::yield_now().await;
    drop(answer);
    ends(dropped).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_the_work_and_a_stalled_one_ends_it() {
    let mut callee = Callee::start(ServerLimits::default());
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let endless = stream::repeat_with(move || {
        count.fetch_add(1, Ordering::Relaxed);
        chunk(vec![0; 10_000])
    });
    let work: FrameStream = Box::pin(frames([Frame::Accepted(LOAD)]).chain(endless));
    let stream = callee.stream().await.compat();
    let patient = Call { deadline: Duration::from_secs(600), ..request() };
    let calling = tokio::spawn(calling(stream, patient));
    let sending = tokio::spawn(callee.calls.recv().await.expect("a call").reply.send_all(work));
    let mut answer = calling.await.expect("no panic").expect("admitted");
    for _ in 0..3 {
        // A slow reader is no silence, however slow.
        tokio::time::sleep(Duration::from_secs(20)).await;
        for _ in 0..30 {
            assert!(matches!(answer.next().await, Some(Frame::Accepted(_) | Frame::Chunk(_))));
        }
    }
    assert!(made.load(Ordering::Relaxed) * 10_000 < 90 * 10_000 + 4 * WINDOW, "only what fits is made ahead");
    assert_eq!(sending.await.expect("no panic"), Sent::Stalled);
    assert_eq!(failure(answer).await.class, ErrorClass::Interrupted);
}

#[tokio::test(start_paused = true)]
async fn silence_means_dead() {
    let mut callee = Callee::start(ServerLimits::default());
    let started = tokio::time::Instant::now();
    let answer = callee.answer(request(), stuck([Frame::Accepted(LOAD), BUSY])).await.expect("admitted");
    let early = failure(answer).await;
    assert_eq!(early.class, ErrorClass::Unavailable, "before the first chunk: {early}");
    assert!(started.elapsed() < Duration::from_secs(3));
    let answer = callee.answer(request(), stuck([Frame::Accepted(LOAD), chunk("half")])).await.expect("admitted");
    assert_eq!(failure(answer).await.class, ErrorClass::Interrupted);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_says_nothing_at_first_is_given_up() {
    let mut callee = Callee::start(ServerLimits::default());
    let answer = callee.answer(request(), stuck([])).await;
    assert_eq!(answer.err().map(|f| f.class), Some(ErrorClass::Unavailable));
    let hurried = Call { deadline: Duration::from_secs(1), ..request() };
    let answer = callee.answer(hurried, stuck([])).await;
    assert_eq!(answer.err().map(|f| f.class), Some(ErrorClass::Timeout));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_a_call_alive_until_its_deadline() {
    let mut callee = Callee::start(ServerLimits::default());
    let beats = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Some((BUSY, ()))
    });
    let started = tokio::time::Instant::now();
    let work: FrameStream = Box::pin(frames([Frame::Accepted(LOAD)]).chain(beats));
    let (work, dropped) = watched(work);
    let answer = callee.answer(request(), work).await.expect("admitted");
    assert_eq!(failure(answer).await.class, ErrorClass::Timeout);
    assert!(started.elapsed() >= Duration::from_secs(60));
    ends(dropped).await;
}

#[tokio::test]
async fn an_end_without_end_is_a_failure() {
    let mut callee = Callee::start(ServerLimits::default());
    let answer = callee.answer(request(), frames([Frame::Accepted(LOAD), chunk("half")])).await.expect("admitted");
    assert_eq!(failure(answer).await.class, ErrorClass::Internal, "the callee notices");

    // A callee that dies.
    for (sent, class) in [
        (vec![Frame::Accepted(LOAD), BUSY], ErrorClass::Unavailable),
        (vec![Frame::Accepted(LOAD), chunk("half")], ErrorClass::Interrupted),
    ] {
        let answer = raw(&encoded(sent)).await.expect("admitted");
        assert_eq!(failure(answer).await.class, class);
    }
    let answer = raw(b"").await;
    assert_eq!(answer.err().map(|f| f.class), Some(ErrorClass::Unavailable));
}

fn encoded(frames: impl IntoIterator<Item = Frame>) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut writer = FrameWriter::default();
    for frame in frames {
        writer.frame(frame, &mut out);
        while writer.piece(&mut out) {}
    }
    out.to_vec()
}

/// A call to a callee that answers with these bytes and dies.
async fn raw(bytes: &[u8]) -> Result<FrameStream, Failure> {
    let (near, mut far) = tokio::io::duplex(8 * 1024 * 1024);
    far.write_all(bytes).await.expect("room");
    far.shutdown().await.expect("open");
    let calling = calling(near.compat(), request());
    let answer = calling.await;
    drop(far);
    answer
}

#[tokio::test]
async fn frames_that_make_no_sense_end_the_call_with_an_error() {
    let accepted = encoded([Frame::Accepted(LOAD)]);
    let huge = u32::try_from(FRAME_BYTES + 1).expect("small").to_be_bytes();
    let success = v1::Error { status: 200, ..Default::default() };
    let success = v1::Frame { body: Some(v1::frame::Body::Error(success)) }.encode_to_vec();
    let success = [&[0, 0, 0, u8::try_from(success.len()).expect("short")][..], &success].concat();
    let more = v1::Chunk { data: Bytes::from_static(b"half"), content_type: String::new(), more: true };
    let more = v1::Frame { body: Some(v1::frame::Body::Chunk(more)) }.encode_to_vec();
    let more = [&[0, 0, 0, u8::try_from(more.len()).expect("short")][..], &more].concat();
    for (what, bytes) in [
        ("garbage", vec![0, 0, 0, 3, 0xff, 0xff, 0xff]),
        ("an oversized frame", huge.to_vec()),
        ("a second Accepted", accepted.clone()),
        ("an error that is a success", success),
        ("an end in the middle of an event", [more, encoded([END])].concat()),
        ("a torn frame", accepted[..3].to_vec()),
    ] {
        let answer = raw(&[accepted.clone(), bytes.clone()].concat()).await.expect("admitted");
        assert_eq!(failure(answer).await.class, ErrorClass::Unavailable, "{what}");
        if what != "a second Accepted" {
            assert!(raw(&bytes).await.is_err(), "{what} at first");
        }
    }
    for out_of_order in [END, BUSY, chunk("x")] {
        assert!(raw(&encoded([out_of_order])).await.is_err());
    }
    // A frame of a newer version is no error.
    let newer = [vec![0, 0, 0, 3, 0xfa, 0x01, 0x00], accepted, encoded([END])].concat();
    assert_eq!(raw(&newer).await.expect("admitted").count().await, 2);
}

/// Sends these bytes as a request, and returns the one frame that comes back.
async fn refused(callee: &Callee, bytes: &[u8]) -> Frame {
    let mut stream = callee.stream().await;
    stream.write_all(bytes).await.expect("open");
    let mut answer = Vec::new();
    let mut scratch = [0; 4096];
    let mut decoder = FrameDecoder::new();
    loop {
        let read = stream.read(&mut scratch).await.expect("open");
        assert!(read > 0, "answered before it closes");
        answer.extend_from_slice(&scratch[..read]);
        if let Some(frame) = decoder.decode(&mut BytesMut::from(&answer[..])).expect("a frame") {
            return wire::frame_from_wire(frame).expect("makes sense").expect("known");
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(u32::try_from(message.len()).expect("short"));
    out.extend_from_slice(message);
    out
}

#[tokio::test(start_paused = true)]
async fn a_bad_request_is_answered_and_disturbs_nothing_else() {
    let mut callee = Callee::start(ServerLimits::default());
    let (work, dropped) = watched(stuck([Frame::Accepted(LOAD)]));
    let bystander = callee.answer(request(), work).await.expect("admitted");
    let unknown = v1::CallRequest { operation: "teleport".into(), ..wire::call_to_wire(&request()) }.encode_to_vec();
    let headers = (0..99).map(|n| (n.to_string(), String::new())).collect();
    let headers = v1::CallRequest { headers, ..wire::call_to_wire(&request()) }.encode_to_vec();
    for (bytes, class, status) in [
        (framed(&[0xff; 9]), ErrorClass::Request, 400),
        (framed(&headers), ErrorClass::Request, 400),
        (framed(&unknown), ErrorClass::Unavailable, 501),
        (u32::MAX.to_be_bytes().to_vec(), ErrorClass::Request, 413),
        (vec![0, 0, 1, 0, 7], ErrorClass::Timeout, 504),
        (vec![0], ErrorClass::Timeout, 504),
    ] {
        match refused(&callee, &bytes).await {
            Frame::Error(failure) => assert_eq!((failure.class, failure.status), (class, status), "{failure}"),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
    drop(callee.stream().await);
    drop(bystander);
    ends(dropped).await;
    assert!(callee.answer(request(), frames([Frame::Accepted(LOAD), END])).await.is_ok());
}

#[tokio::test]
async fn more_calls_than_there_is_room_for_are_rejected() {
    let mut callee = Callee::start(ServerLimits { calls: 1, request_bytes: 4096, ..ServerLimits::default() });
    let rejected = async |callee: &Callee, request| {
        let stream = callee.stream().await.compat();
        let answer = calling(stream, request).await.expect("answered");
        match &answer.collect::<Vec<_>>().await[..] {
            [Frame::Rejected(rejection)] => assert!(rejection.retry_after.is_some()),
            other => panic!("{other:?}"),
        }
    };
    let first = callee.answer(request(), stuck([Frame::Accepted(LOAD)])).await.expect("admitted");
    rejected(&callee, request()).await;
    // A caller whose request is too large to be taken is told while it still writes.
    rejected(&callee, Call { payload: vec![0; 10 * WINDOW].into(), ..request() }).await;
    drop(first);
    let mut small = None;
    while small.is_none() {
        // The room comes back when the callee has seen the caller leave.
        let stream = callee.stream().await.compat();
        let calling = tokio::spawn(calling(stream, request()));
        tokio::select! {
            inbound = callee.calls.recv() => small = inbound,
            answer = calling => drop(answer.expect("no panic").expect("answered")),
        }
    }
    drop(small);
    loop {
        let large = Call { payload: vec![0; 8192].into(), ..request() };
        let answer = calling(callee.stream().await.compat(), large).await;
        match &answer.expect("answered").collect::<Vec<_>>().await[..] {
            [Frame::Rejected(rejection)] if rejection.reason.contains("bytes") => break,
            [Frame::Rejected(_)] => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_nobody_takes_are_rejected() {
    let callee = Callee::start(ServerLimits::default());
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let stream = callee.stream().await.compat();
        waiting.push(tokio::spawn(calling(stream, request())));
    }
    let (first, ..) = futures::future::select_all(waiting).await;
    let frames: Vec<_> = first.expect("no panic").expect("answered").collect().await;
    assert!(matches!(&frames[..], [Frame::Rejected(_)]), "{frames:?}");
}

#[test]
fn a_request_is_written_as_the_contract_says() {
    for payload in [Bytes::new(), Bytes::from_static(b"{\"a\":1}"), vec![1; 70_000].into()] {
        let wanted = Call { payload, ..request() };
        let (head, payload) = request_parts(&wanted).expect("small");
        let bytes = [&head[..], &payload[..]].concat();
        assert_eq!(bytes[..4], u32::try_from(bytes.len() - 4).expect("small").to_be_bytes());
        let read = v1::CallRequest::decode(&bytes[4..]).expect("decodes");
        assert_eq!(read, v1::CallRequest { keep: true, ..wire::call_to_wire(&wanted) });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut decoder = FrameDecoder::new();
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = decoder.decode(&mut buffer) {
            let _ = wire::frame_from_wire(frame);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            if let Ok(frames) = raw(&bytes).await {
                frames.count().await;
            }
            let callee = Callee::start(ServerLimits::default());
            let mut stream = callee.stream().await;
            stream.write_all(&bytes).await.expect("open");
            stream.shutdown().await.expect("open");
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
    }

    #[test]
    fn chunks_of_any_size_arrive_whole(
        sizes in proptest::collection::vec(prop_oneof![0..100usize, PIECE_BYTES - 1..PIECE_BYTES + 2, 1_030_000..1_060_000usize], 1..4),
        events in any::<bool>(),
    ) {
        let media_type = if events { "text/event-stream" } else { "application/octet-stream" };
        let sent: Vec<_> = sizes.iter().enumerate().map(|(n, size)| {
            let data = vec![u8::try_from(n).expect("few"); *size];
            if n == 0 { typed(data, media_type) } else { chunk(data) }
        }).collect();
        let all = [Frame::Accepted(LOAD)].into_iter().chain(sent.clone()).chain([END]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let got: Vec<_> = runtime.block_on(async { raw(&encoded(all)).await.expect("admitted").collect().await });
        let got = &got[1..got.len() - 1];
        if events {
            prop_assert!(got == sent);
        }
        let bytes = |frames: &[Frame]| -> Vec<u8> {
            frames.iter().flat_map(|f| match f { Frame::Chunk(c) => c.data.to_vec(), _ => vec![] }).collect()
        };
        prop_assert!(bytes(got) == bytes(&sent));
    }
}
