//! What leaves a node keeps to the contract, whatever its providers do.

use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::capability::{Capability, Operation, Usage};
use crate::dispatch::testing::{Backend, One, at, call, chunk, end, frames as script, hanging};
use crate::router::testing::chat_model;

const MINUTE: Duration = Duration::from_secs(60);

fn local(backend: Backend) -> (Local, Capability) {
    let model = chat_model("model", 7);
    let settings = LocalSettings { queue: 2, ..LocalSettings::default() };
    (Local::new(Arc::new(One(Arc::new(backend), Arc::new(model.clone()))), settings), model)
}

async fn all(stream: FrameStream) -> Vec<Frame> {
    stream.collect().await
}

fn error_of(frame: Option<&Frame>) -> &Failure {
    match frame {
        Some(Frame::Error(failure)) => failure,
        other => panic!("expected an error, got {other:?}"),
    }
}

fn position_of(frame: Option<&Frame>) -> u32 {
    match frame {
        Some(Frame::Progress(Progress { phase: Phase::Queued, queue_position })) => *queue_position,
        other => panic!("expected a place in the queue, got {other:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_accepted_first_and_ends_with_the_load() {
    let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 1, ..Usage::default() });
    let (local, model) =
        local(Backend::new(move |_| script(vec![chunk("data: 1\n\n"), Frame::End { usage, load: None }])));
    let frames = all(local.run(call(&model, MINUTE), None)).await;
    let limit = LocalSettings::default().concurrency;
    assert_eq!(
        frames,
        [
            Frame::Accepted(Load { running: 1, queued: 0, limit }),
            chunk("data: 1\n\n"),
            Frame::End { usage, load: Some(Load { running: 0, queued: 0, limit }) },
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_provider_never_makes_a_silent_call() {
    let (dropped, _) = oneshot::channel();
    let dropped = Mutex::new(Some(dropped));
    let (local, model) =
        local(Backend::new(move |_| hanging(vec![at(Phase::Loading)], dropped.lock().take().expect("called once"))));
    let mut stream = local.run(call(&model, MINUTE), None);
    let mut last = Instant::now();
    for _ in 0..20 {
        let frame = stream.next().await.expect("a frame");
        assert!(last.elapsed() <= Duration::from_millis(500), "{frame:?} came after {:?}", last.elapsed());
        last = Instant::now();
    }
    assert_eq!(stream.next().await, Some(progress(Phase::Loading, 0)), "the phase is the provider's own");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_hanging_call_and_stops_the_work() {
    let (dropped, gone) = oneshot::channel();
    let dropped = Mutex::new(Some(dropped));
    let (local, model) =
        local(Backend::new(move |_| hanging(vec![chunk("x")], dropped.lock().take().expect("called once"))));
    let start = Instant::now();
    let frames = all(local.run(call(&model, Duration::from_secs(5)), None)).await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    let failure = error_of(frames.last());
    assert_eq!((failure.class, failure.status), (ErrorClass::Timeout, 504));
    assert!(failure.message.contains("the answer was being written"), "{failure}");
    assert!(gone.await.is_err(), "the provider's stream was dropped");
    assert_eq!(local.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_never_stops_is_held_to_the_deadline_too() {
    let (local, model) = local(Backend::new(|_| {
        Box::pin(futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((chunk("x"), ()))
        }))
    }));
    let frames = all(local.run(call(&model, Duration::from_secs(1)), None)).await;
    assert_eq!(error_of(frames.last()).class, ErrorClass::Timeout);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_hear_their_place_and_the_rest_when_to_come_again() {
    let (release, gate) = tokio::sync::watch::channel(false);
    let mut backend = Backend::new(move |_| {
        let mut gate = gate.clone();
        Box::pin(stream! {
            // An error would mean that the test is over.
            let _ = gate.wait_for(|open| *open).await;
            yield chunk("x");
            yield end();
        })
    });
    backend.concurrency = Some(1);
    let (local, model) = local(backend);
    let mut first = local.run(call(&model, MINUTE), None);
    let mut second = local.run(call(&model, MINUTE), None);
    let mut third = local.run(call(&model, MINUTE), None);
    let fourth = all(local.run(call(&model, MINUTE), None)).await;
    let [Frame::Rejected(rejection)] = &fourth[..] else { panic!("expected one rejection, got {fourth:?}") };
    assert!(rejection.retry_after.is_some_and(|wait| wait >= Duration::from_secs(1)));
    assert_eq!(rejection.load, Some(Load { running: 1, queued: 2, limit: 1 }));
    assert_eq!(local.load_class(), 4);

    assert!(matches!(first.next().await, Some(Frame::Accepted(_))));
    assert!(matches!(second.next().await, Some(Frame::Accepted(_))));
    assert!(matches!(third.next().await, Some(Frame::Accepted(_))));
    assert_eq!(position_of(second.next().await.as_ref()), 1);
    assert_eq!(position_of(third.next().await.as_ref()), 2);
    drop(second);
    assert_eq!(position_of(third.next().await.as_ref()), 1, "who leaves makes room");
    release.send_replace(true);
    assert_eq!(all(first).await.last().map(std::mem::discriminant), Some(std::mem::discriminant(&end())));
    assert!(matches!(all(third).await.last(), Some(Frame::End { .. })));
    assert_eq!(local.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_runs_in_the_queue_too() {
    let (dropped, _gone) = oneshot::channel();
    let dropped = Mutex::new(Some(dropped));
    let mut backend = Backend::new(move |_| hanging(vec![], dropped.lock().take().expect("called once")));
    backend.concurrency = Some(1);
    let (local, model) = local(backend);
    let _first = local.run(call(&model, MINUTE), None);
    let frames = all(local.run(call(&model, Duration::from_secs(2)), None)).await;
    assert_eq!(
        error_of(frames.last()).message,
        "the time of 2.0 s ran out while the call waited in place 1 of the queue"
    );
}

#[tokio::test]
async fn dropping_the_stream_reaches_the_provider() {
    let (dropped, gone) = oneshot::channel();
    let dropped = Mutex::new(Some(dropped));
    let (local, model) =
        local(Backend::new(move |_| hanging(vec![chunk("x")], dropped.lock().take().expect("called once"))));
    let mut stream = local.run(call(&model, MINUTE), None);
    while !matches!(stream.next().await, Some(Frame::Chunk(_))) {}
    assert_eq!(local.active(), 1);
    drop(stream);
    assert!(gone.await.is_err(), "dropped");
    assert_eq!(local.active(), 0);
}

#[tokio::test]
async fn a_panic_is_an_error_of_one_call() {
    let (local, model) = local(Backend::new(|call| match call.id.as_str() {
        "at once" => panic!("at once"),
        _ => Box::pin(stream! {
            yield chunk("x");
            panic!("later");
        }),
    }));
    for id in ["at once", "later"] {
        let mut call = call(&model, MINUTE);
        call.id = id.into();
        let frames = all(local.run(call, None)).await;
        assert_eq!(error_of(frames.last()).class, ErrorClass::Internal, "{id}");
        assert_eq!(local.active(), 0, "{id}: the place is free again");
    }
}

#[tokio::test]
async fn what_is_not_offered_is_refused_before_anything_is_done() {
    let mut backend = Backend::new(|_| panic!("must not be called"));
    backend.shared = false;
    let (local, model) = local(backend);
    let mut embed = call(&model, MINUTE);
    embed.operation = Operation::Embed;
    let mut unknown = call(&model, MINUTE);
    unknown.capability = CapabilityId::from("gone");
    for (call, from, reason) in [
        (
            call(&model, MINUTE),
            Some(PeerId::random()),
            "the owner of this node keeps test/llm/chat/model to themselves",
        ),
        (embed, None, "test/llm/chat/model does not serve embed"),
        (unknown, None, "this node no longer has the capability gone"),
    ] {
        let frames = all(local.run(call, from)).await;
        let [Frame::Rejected(rejection)] = &frames[..] else { panic!("expected one rejection, got {frames:?}") };
        assert_eq!((rejection.reason.as_str(), rejection.retry_after), (reason, None));
    }
    local.close();
    let frames = all(local.run(call(&model, MINUTE), None)).await;
    assert!(matches!(&frames[..], [Frame::Rejected(rejection)] if rejection.reason.contains("leaving")));
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        4 => Just(chunk("data: {}\n\n")),
        2 => Just(at(Phase::Prefill)),
        1 => Just(end()),
        1 => Just(Frame::Error(Failure::new(ErrorClass::Backend, "broken"))),
        1 => Just(Frame::Accepted(Load::default())),
        1 => Just(Frame::Rejected(Rejection { reason: "no".into(), retry_after: None, load: None })),
    ]
}

proptest! {
    #[test]
    fn whatever_a_provider_says_a_call_begins_once_and_ends_once(said in proptest::collection::vec(any_frame(), 0..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (local, model) = local(Backend::new(move |_| script(said.clone())));
        let frames = runtime.block_on(all(local.run(call(&model, MINUTE), None)));
        let terminal = |frame: &Frame| matches!(frame, Frame::End { .. } | Frame::Error(_));
        prop_assert!(matches!(frames.first(), Some(Frame::Accepted(_))));
        prop_assert_eq!(frames.iter().filter(|frame| terminal(frame)).count(), 1);
        prop_assert!(frames.last().is_some_and(terminal));
        prop_assert!(!frames[1..].iter().any(|frame| matches!(frame, Frame::Accepted(_) | Frame::Rejected(_))));
        prop_assert_eq!(local.active(), 0);
    }
}
