//! What a caller gets, whatever the nodes do.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::oneshot;

use super::*;
use crate::capability::{Call, Frame, FrameStream, Load, PeerId, Phase, Rejection, Target, Usage};
use crate::dispatch::LocalSettings;
use crate::dispatch::testing::{Backend, Nodes, One, World, accepted, at, chunk, end, frames, hanging, streamed, text};
use crate::router::testing::{catalog, chat_model, intent};
use crate::router::{Outcome, Role, Signals};

fn served(_: Call) -> FrameStream {
    let usage = Some(Usage { prompt_tokens: 5, completion_tokens: 2, ..Usage::default() });
    frames(vec![
        accepted(),
        at(Phase::Prefill),
        chunk("data: {1}\n\n"),
        chunk("data: {2}\n\n"),
        Frame::End { usage, load: None },
    ])
}

fn failure(class: ErrorClass) -> Failure {
    Failure::new(class, format!("{class:?}"))
}

#[tokio::test(start_paused = true)]
async fn before_the_first_content_every_kind_of_failure_moves_on() {
    type Bad = fn() -> FrameStream;
    let table: [(&str, Bad); 12] = [
        ("overloaded", || {
            let retry_after = Some(Duration::from_secs(3));
            frames(vec![Frame::Rejected(Rejection { reason: "full".into(), retry_after, load: None })])
        }),
        ("no such capability", || {
            frames(vec![Frame::Rejected(Rejection { reason: "gone".into(), retry_after: None, load: None })])
        }),
        ("backend overloaded", || frames(vec![accepted(), Frame::Error(failure(ErrorClass::Overloaded))])),
        ("backend gone", || frames(vec![accepted(), Frame::Error(failure(ErrorClass::Unavailable))])),
        ("backend broken", || frames(vec![accepted(), at(Phase::Prefill), Frame::Error(failure(ErrorClass::Backend))])),
        ("backend timeout", || frames(vec![accepted(), Frame::Error(failure(ErrorClass::Timeout))])),
        ("interrupted", || frames(vec![accepted(), Frame::Error(failure(ErrorClass::Interrupted))])),
        ("fault", || frames(vec![accepted(), Frame::Error(failure(ErrorClass::Internal))])),
        ("connection lost", || frames(vec![accepted(), at(Phase::Prefill)])),
        ("connection lost at once", || frames(vec![])),
        ("protocol broken", || frames(vec![chunk("x")])),
        ("error event", || frames(vec![accepted(), chunk("data: {\"error\":{\"message\":\"x\"}}\n\n"), end()])),
    ];
    for (name, bad) in table {
        let world = World::new(2);
        world.nodes.answer(world.others[0], move |_| bad());
        world.nodes.answer(world.others[1], served);
        let reply = world.ask().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((reply.served.node, reply.attempts), (world.others[1], 2), "{name}");
        assert_eq!(reply.content_type, "text/event-stream");
        assert_eq!(text(reply.body).await, ("data: {1}\n\ndata: {2}\n\n".to_owned(), None), "{name}");
        assert_eq!(world.in_flight(), 0, "{name}");
        let (outcome, attempts) = world.outcome();
        assert_eq!((outcome, attempts.len(), attempts[1].as_str()), (Outcome::Served, 2, "ok"), "{name}");
        let id = chat_model("model", 7).id;
        let signals = world.dispatcher.router().signals();
        assert!(signals.cooling(&world.others[0], &id, std::time::Instant::now()).is_some(), "{name}: it rests");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_noticed_within_two_seconds() {
    type Dead = fn() -> futures::future::BoxFuture<'static, Result<FrameStream, Failure>>;
    let (keep, _gone) = oneshot::channel();
    let keep = std::sync::Mutex::new(Some(keep));
    let dead: [Dead; 2] = [
        || Box::pin(futures::future::pending()),
        || Box::pin(async { Err(Failure::new(ErrorClass::Unavailable, "connection refused")) }),
    ];
    for dead in dead {
        let world = World::new(2);
        world.nodes.opening(world.others[0], move |_| dead());
        world.nodes.answer(world.others[1], served);
        let start = Instant::now();
        let reply = world.ask().await.expect("the second answers");
        assert_eq!(reply.attempts, 2);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
    // One that dies after it took the call falls silent.
    let world = World::new(2);
    world.nodes.answer(world.others[0], move |_| {
        let keep = keep.lock().expect("no panic").take().expect("called once");
        hanging(vec![accepted(), at(Phase::Prefill)], keep)
    });
    world.nodes.answer(world.others[1], served);
    let start = Instant::now();
    assert_eq!(world.ask().await.expect("the second answers").attempts, 2);
    assert!(start.elapsed() < Duration::from_millis(2600), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_mistake_of_the_client_is_returned_as_it_is_and_nobody_rests() {
    let body = Some((Bytes::from_static(b"{\"error\":1}"), "application/json".to_owned()));
    let mistake = Failure { status: 422, code: Some("odd".into()), body, ..failure(ErrorClass::Request) };
    let world = World::new(2);
    let answer = mistake.clone();
    world.nodes.answer(world.others[0], move |_| frames(vec![accepted(), Frame::Error(answer.clone())]));
    for _ in 0..10 {
        let error = world.ask().await.expect_err("a mistake");
        assert_eq!((error.failure, error.attempts), (mistake.clone(), 1));
    }
    assert_eq!(*world.nodes.called.lock(), vec![world.others[0]; 10], "the same node is asked again and again");
}

#[tokio::test(start_paused = true)]
async fn after_the_first_content_a_failure_is_told_and_nobody_else_is_asked() {
    type Rest = fn() -> Vec<Frame>;
    let table: [(&str, Rest, ErrorClass); 3] = [
        ("error", || vec![Frame::Error(failure(ErrorClass::Backend))], ErrorClass::Backend),
        ("lost", Vec::new, ErrorClass::Interrupted),
        (
            "rejected",
            || vec![Frame::Rejected(Rejection { reason: "no".into(), retry_after: None, load: None })],
            ErrorClass::Internal,
        ),
    ];
    for (name, rest, class) in table {
        let world = World::new(2);
        world
            .nodes
            .answer(world.others[0], move |_| frames([vec![accepted(), chunk("data: {1}\n\n")], rest()].concat()));
        let reply = world.ask().await.expect("it begins");
        let (got, failure) = text(reply.body).await;
        assert_eq!((got.as_str(), failure.map(|failure| failure.class)), ("data: {1}\n\n", Some(class)), "{name}");
        assert_eq!(world.nodes.called.lock().len(), 1, "{name}");
        assert!(matches!(world.outcome().0, Outcome::Failed { .. }), "{name}");
        assert_eq!(world.in_flight(), 0, "{name}");
    }
    let world = World::new(1);
    let (keep, gone) = oneshot::channel();
    let keep = std::sync::Mutex::new(Some(keep));
    world.nodes.answer(world.others[0], move |_| {
        hanging(vec![accepted(), chunk("x")], keep.lock().expect("no panic").take().expect("called once"))
    });
    let (_, failure) = text(world.ask().await.expect("it begins").body).await;
    assert_eq!(failure.map(|failure| failure.class), Some(ErrorClass::Interrupted), "silence");
    assert!(gone.await.is_err(), "and the call is cancelled");
}

#[tokio::test]
async fn the_only_candidate_rests_too_and_comes_back() {
    let world = World::new(1);
    world.nodes.answer(world.others[0], |_| frames(vec![accepted(), Frame::Error(failure(ErrorClass::Interrupted))]));
    assert_eq!(world.ask().await.expect_err("broken").failure.status, 502);
    let error = world.ask().await.expect_err("it rests");
    let wait = error.failure.retry_after.expect("a time to come again");
    assert_eq!((error.failure.status, error.attempts), (503, 0));
    assert!(wait <= Duration::from_secs(1));
    world.nodes.answer(world.others[0], served);
    tokio::time::sleep(wait).await;
    assert_eq!(world.ask().await.expect("it is back").attempts, 1);
}

#[tokio::test]
async fn one_bad_request_rests_nobody_however_often_an_sdk_repeats_it() {
    let world = World::new(2);
    for node in &world.others {
        world.nodes.answer(*node, |_| frames(vec![accepted(), Frame::Error(failure(ErrorClass::Backend))]));
    }
    for _ in 0..3 {
        let error = world.ask().await.expect_err("nobody can serve it");
        assert_eq!((error.failure.status, error.attempts), (502, 2), "both were asked");
    }
    for node in &world.others {
        world.nodes.answer(*node, served);
    }
    assert_eq!(world.ask().await.expect("a sound request").attempts, 1);
    // What fails whatever it is asked rests in the end.
    for node in &world.others {
        world.nodes.answer(*node, |_| frames(vec![accepted(), Frame::Error(failure(ErrorClass::Internal))]));
    }
    for _ in 0..9 {
        let _ = world.ask().await;
    }
    assert_eq!(world.ask().await.expect_err("they rest").attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hasty_caller_rests_nobody() {
    let late = || Frame::Error(failure(ErrorClass::Timeout));
    type Late = fn(Duration, Frame) -> FrameStream;
    let table: [(&str, Late); 2] = [
        ("before it began", |deadline, late| {
            Box::pin(futures::stream::iter([accepted()]).chain(futures::stream::once(async move {
                tokio::time::sleep(deadline).await;
                late
            })))
        }),
        ("in the middle", |deadline, late| {
            Box::pin(futures::stream::iter([accepted(), chunk("x")]).chain(futures::stream::once(async move {
                tokio::time::sleep(deadline).await;
                late
            })))
        }),
    ];
    for (name, frames) in table {
        let world = World::new(1);
        world.nodes.answer(world.others[0], move |call| frames(call.deadline, late()));
        let mut intent = streamed(Some("model"));
        intent.deadline = Duration::from_millis(300);
        if let Ok(reply) = world.dispatcher.dispatch(intent).await {
            assert!(text(reply.body).await.1.is_some(), "{name}");
        }
        world.nodes.answer(world.others[0], served);
        assert_eq!(world.ask().await.expect(name).attempts, 1);
    }
}

#[tokio::test]
async fn an_error_that_the_backend_tells_in_its_stream_may_be_the_requests_own() {
    let world = World::new(1);
    for status in [400, 500] {
        world.nodes.answer(world.others[0], move |_| {
            let body = Some((Bytes::from_static(b"{}"), "application/json".to_owned()));
            let told = Failure { status, body, ..failure(ErrorClass::Interrupted) };
            frames(vec![accepted(), chunk("x"), Frame::Error(told)])
        });
        for _ in 0..3 {
            let (_, failure) = text(world.ask().await.expect("it begins").body).await;
            assert_eq!(failure.map(|failure| failure.status), Some(status));
        }
    }
}

#[tokio::test]
async fn retry_after_is_honoured_and_passed_on() {
    let world = World::new(2);
    for (node, seconds) in [(world.others[0], 7), (world.others[1], 5)] {
        world.nodes.answer(node, move |_| {
            let retry_after = Some(Duration::from_secs(seconds));
            frames(vec![Frame::Rejected(Rejection { reason: "full".into(), retry_after, load: None })])
        });
    }
    let error = world.ask().await.expect_err("both are full");
    assert_eq!((error.failure.class, error.failure.status), (ErrorClass::Overloaded, 503));
    assert_eq!(error.failure.retry_after, Some(Duration::from_secs(5)));
    assert_eq!(error.failure.message, "2 were tried and failed: model on a: full; model on b: full");
    let error = world.ask().await.expect_err("both rest");
    assert_eq!(error.attempts, 0, "nobody is hammered");
    assert!(error.failure.retry_after.is_some_and(|wait| wait > Duration::from_secs(4)));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_hanging_request_and_says_where_it_hung() {
    let world = World::new(1);
    world.nodes.answer(world.others[0], |_| {
        let beats = futures::stream::unfold(true, |first| async move {
            if first {
                return Some((accepted(), false));
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
            Some((at(Phase::Loading), false))
        });
        Box::pin(beats)
    });
    let mut intent = streamed(Some("model"));
    intent.deadline = Duration::from_secs(20);
    let start = Instant::now();
    let error = world.dispatcher.dispatch(intent).await.expect_err("it hangs");
    assert_eq!(start.elapsed(), Duration::from_secs(20));
    assert_eq!((error.failure.class, error.failure.status), (ErrorClass::Timeout, 504));
    assert!(error.failure.message.contains("model on a") && error.failure.message.contains("being loaded"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn patience_with_a_backend_that_hangs_ends_while_there_is_somebody_else() {
    let world = World::new(2);
    world.nodes.answer(world.others[0], |_| {
        let beats = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Some((at(Phase::Prefill), ()))
        });
        Box::pin(futures::stream::iter([accepted()]).chain(beats))
    });
    world.nodes.answer(world.others[1], served);
    let mut intent = streamed(Some("model"));
    intent.deadline = Duration::from_secs(600);
    let reply = world.dispatcher.dispatch(intent).await.expect("the second answers");
    assert_eq!(reply.attempts, 2);
}

/// A callee that reads the prompt for so long, with a heartbeat, and then answers.
fn reading(time: Duration) -> FrameStream {
    reading_then(time, vec![chunk("data: {1}\n\n"), end()])
}

fn reading_then(time: Duration, last: Vec<Frame>) -> FrameStream {
    let until = Instant::now() + time;
    let beats = futures::stream::unfold((), move |()| async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        (Instant::now() < until).then(|| (at(Phase::Prefill), ()))
    });
    Box::pin(futures::stream::iter([accepted()]).chain(beats).chain(frames(last)))
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_takes_ten_minutes_to_read_is_never_cut() {
    let ten_minutes = Duration::from_secs(600);
    // Alone; beside others that are busy or broken; and beside one that is no faster.
    type Other = fn() -> FrameStream;
    let others: [Option<Other>; 4] = [
        None,
        Some(|| frames(vec![accepted(), Frame::Error(failure(ErrorClass::Unavailable))])),
        Some(|| {
            let retry_after = Some(Duration::from_secs(3));
            frames(vec![Frame::Rejected(Rejection { reason: "full".into(), retry_after, load: None })])
        }),
        Some(|| reading(Duration::from_secs(3000))),
    ];
    for (row, other) in others.into_iter().enumerate() {
        let world = World::new(if other.is_some() { 2 } else { 1 });
        world.nodes.answer(world.others[0], move |_| reading(ten_minutes));
        if let Some(other) = other {
            world.nodes.answer(world.others[1], move |_| other());
        }
        let mut intent = streamed(Some("model"));
        intent.deadline = Duration::from_secs(3600);
        let start = Instant::now();
        let reply = world.dispatcher.dispatch(intent).await.unwrap_or_else(|error| panic!("row {row}: {error}"));
        assert_eq!(reply.served.node, world.others[0], "row {row}");
        assert_eq!(text(reply.body).await, ("data: {1}\n\n".to_owned(), None));
        assert!(start.elapsed() >= ten_minutes && world.in_flight() == 0, "row {row}");
        let id = chat_model("model", 7).id;
        let cooling = world.dispatcher.router().signals().cooling(&world.others[0], &id, std::time::Instant::now());
        assert_eq!(cooling, None, "row {row}: slow is not broken");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_asks_a_second_node_and_gives_up_the_slower() {
    for hedge in [None, Some(false), Some(true)] {
        let world = World::new(3);
        let (keep, gone) = oneshot::channel::<()>();
        let keep = std::sync::Mutex::new(Some(keep));
        world.nodes.answer(world.others[0], move |_| {
            let keep = keep.lock().expect("no panic").take().expect("called once");
            let reading = reading(Duration::from_secs(20));
            Box::pin(reading.inspect(move |_| {
                let _ = &keep;
            }))
        });
        world.nodes.answer(world.others[1], served);
        let mut intent = streamed(Some("model"));
        intent.handling.hedge = hedge;
        let start = Instant::now();
        let reply = world.dispatcher.dispatch(intent).await.expect("an answer");
        let hedged = hedge == Some(true);
        assert_eq!((reply.served.node == world.others[1], reply.attempts), (hedged, 1 + u32::from(hedged)));
        assert_eq!(start.elapsed() < Duration::from_secs(15), hedged, "{:?}", start.elapsed());
        if hedged {
            assert!(gone.await.is_err(), "the slower call is given up");
            let logged = world.dispatcher.router().log().latest(1).remove(0);
            let tried: Vec<_> = logged.attempts.iter().map(|it| (it.role, it.result.as_str())).collect();
            assert_eq!(tried, [(Role::First, "overtaken by b")]);
        }
        text(reply.body).await;
        assert_eq!(world.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_has_as_much_time_before_it_is_hedged_as_the_first_had() {
    let world = World::new(3);
    let mut intent = streamed(Some("model"));
    intent.handling.hedge = Some(true);
    let p95 = world.dispatcher.router().decide(&intent).candidates[0].parts.first_p95_ms;
    let p95 = Duration::from_secs_f64(p95 / 1e3);
    assert!(p95 > Duration::from_secs(2), "{p95:?} is more than the beats that the calls are made of");
    let failing = move |_| reading_then(p95.mul_f64(0.8), vec![Frame::Error(failure(ErrorClass::Backend))]);
    world.nodes.answer(world.others[0], failing);
    world.nodes.answer(world.others[1], move |_| reading(p95.mul_f64(0.7)));
    let reply = world.dispatcher.dispatch(intent).await.expect("an answer");
    assert_eq!((reply.served.node, reply.attempts), (world.others[1], 2));
}

#[tokio::test]
async fn who_reaches_nobody_hears_when_to_come_again() {
    let world = World::new(2);
    for node in &world.others {
        let refused = || Failure::new(ErrorClass::Unavailable, "connection refused");
        world.nodes.opening(*node, move |_| Box::pin(async move { Err(refused()) }));
    }
    let error = world.ask().await.expect_err("nobody is there");
    assert_eq!((error.failure.status, error.attempts), (503, 2));
    let wait = error.failure.retry_after.expect("a time to come again");
    assert!(!wait.is_zero() && wait <= Duration::from_secs(1), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_asked_beside_the_first_is_asked_after_it() {
    // Two models of one node: what is slow there is slow twice, and a failure of one says nothing of the other.
    let world = World::each(1, &[chat_model("one", 7), chat_model("two", 7)]);
    let first = Arc::new(std::sync::Mutex::new(None));
    let known = Arc::clone(&first);
    world.nodes.answer(world.others[0], move |call| {
        let mut first = known.lock().expect("no panic");
        if *first.get_or_insert_with(|| call.capability.clone()) != call.capability {
            return served(call);
        }
        let beats = futures::stream::iter(0..100).then(|_| async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            at(Phase::Prefill)
        });
        let broken = frames(vec![Frame::Error(failure(ErrorClass::Backend))]);
        Box::pin(futures::stream::iter([accepted()]).chain(beats).chain(broken))
    });
    let mut intent = streamed(None);
    intent.deadline = Duration::from_secs(600);
    let reply = world.dispatcher.dispatch(intent).await.expect("the other answers");
    assert_eq!(reply.attempts, 2);
    assert_ne!(Some(reply.served.capability.id.clone()), first.lock().expect("no panic").clone());
}

#[tokio::test(start_paused = true)]
async fn no_number_that_a_node_tells_breaks_an_answer() {
    let world = World::new(1);
    let most = Load { running: u32::MAX, queued: u32::MAX, limit: u32::MAX };
    let usage = Usage { prompt_tokens: u64::MAX, completion_tokens: u64::MAX, cached_tokens: Some(u64::MAX) };
    world.nodes.answer(world.others[0], move |_| {
        let end = Frame::End { usage: Some(usage), load: Some(most) };
        frames(vec![Frame::Accepted(most), chunk("data: {1}\n\n"), end])
    });
    for _ in 0..3 {
        let (got, failure) = text(world.ask().await.expect("it begins").body).await;
        assert_eq!((got.as_str(), failure), ("data: {1}\n\n", None));
    }
}

#[tokio::test(start_paused = true)]
async fn retries_and_hedges_keep_to_their_budget() {
    let mut world = World::new(2);
    world.dispatcher = world.dispatcher.with_settings(Settings { retry_share: 0.0, ..Settings::default() });
    world.nodes.answer(world.others[0], |_| frames(vec![accepted(), Frame::Error(failure(ErrorClass::Unavailable))]));
    let error = world.ask().await.expect_err("nothing is tried twice");
    assert_eq!((error.attempts, world.nodes.called.lock().len()), (1, 1));
}

#[tokio::test]
async fn when_the_caller_leaves_the_work_stops() {
    // Before the first content, which for an answer in one piece is all the time.
    for stream in [true, false] {
        let world = World::new(1);
        let (keep, gone) = oneshot::channel();
        let (began, begun) = oneshot::channel();
        let keep = std::sync::Mutex::new(Some((keep, began)));
        world.nodes.answer(world.others[0], move |_| {
            let (keep, began) = keep.lock().expect("no panic").take().expect("called once");
            let _ = began.send(());
            hanging(vec![accepted()], keep)
        });
        let mut intent = streamed(Some("model"));
        intent.requirements.stream = stream;
        tokio::select! {
            _ = world.dispatcher.dispatch(intent) => panic!("it cannot answer"),
            started = begun => started.expect("the call was made"),
        }
        assert!(gone.await.is_err(), "the call was dropped");
        assert_eq!(world.in_flight(), 0);
        assert_eq!(world.outcome(), (Outcome::Cancelled, vec!["the caller left".to_owned()]));
    }
    // After it.
    let world = World::new(1);
    let (keep, gone) = oneshot::channel();
    let keep = std::sync::Mutex::new(Some(keep));
    world.nodes.answer(world.others[0], move |_| {
        hanging(vec![accepted(), chunk("x")], keep.lock().expect("no panic").take().expect("called once"))
    });
    let mut reply = world.ask().await.expect("it begins");
    assert!(matches!(reply.body.next().await, Some(Ok(_))));
    assert_eq!(world.in_flight(), 1);
    drop(reply);
    assert!(gone.await.is_err(), "the call was dropped");
    assert_eq!(world.in_flight(), 0);
    assert_eq!(world.outcome().0, Outcome::Cancelled);
}

#[tokio::test]
async fn no_more_are_tried_than_the_budget_allows_and_each_once() {
    let world = World::new(6);
    for node in &world.others {
        world.nodes.answer(*node, |_| frames(vec![accepted(), Frame::Error(failure(ErrorClass::Unavailable))]));
    }
    let error = world.ask().await.expect_err("all are gone");
    assert_eq!(error.attempts, 4);
    assert_eq!(*world.nodes.called.lock(), world.others[..4]);
    assert_eq!(error.failure.status, 503);
}

#[tokio::test]
async fn an_unknown_model_is_a_404_and_nobody_is_asked() {
    let world = World::new(1);
    let error = world.dispatcher.dispatch(streamed(Some("other"))).await.expect_err("unknown");
    assert_eq!((error.failure.status, error.failure.code.as_deref()), (404, Some("model_not_found")));
    assert_eq!(error.failure.class, ErrorClass::Request);
    assert!(world.nodes.called.lock().is_empty());
    let mut long = streamed(Some("model"));
    long.operation = Operation::Embed;
    let error = world.dispatcher.dispatch(long).await.expect_err("it cannot");
    assert_eq!((error.failure.status, error.failure.code.as_deref()), (400, Some("unsupported_by_model")));
}

#[tokio::test]
async fn an_empty_answer_and_one_in_one_piece_are_answers() {
    let world = World::new(1);
    world.nodes.answer(world.others[0], |_| frames(vec![accepted(), end()]));
    let reply = world.ask().await.expect("an empty answer");
    assert_eq!(text(reply.body).await, (String::new(), None));
    world.nodes.answer(world.others[0], |_| frames(vec![accepted(), chunk("{\"error\":null}"), end()]));
    let reply = world.dispatcher.dispatch(intent(Some("model"))).await.expect("an answer");
    assert_eq!(reply.content_type, "application/json");
    assert_eq!(text(reply.body).await, ("{\"error\":null}".to_owned(), None));
}

#[tokio::test]
async fn comments_before_content_are_passed_on_and_decide_nothing() {
    let world = World::new(2);
    world.nodes.answer(world.others[0], |_| {
        frames(vec![accepted(), chunk(": hello\n\n"), Frame::Error(failure(ErrorClass::Backend))])
    });
    world.nodes.answer(world.others[1], |_| frames(vec![accepted(), chunk(": hi\n\n"), chunk("data: {}\n\n"), end()]));
    let reply = world.ask().await.expect("the second answers");
    assert_eq!(text(reply.body).await.0, ": hi\n\ndata: {}\n\n");
}

#[tokio::test]
async fn this_nodes_own_models_need_no_network() {
    let own = PeerId::random();
    let model = chat_model("model", 7);
    let router = Router::new(
        catalog(vec![(own, "own", vec![model.clone()])]),
        Arc::new(Signals::new(own)),
        Default::default(),
        own,
    );
    let backend = Backend::new(|_| frames(vec![chunk("{}"), end()]));
    let local = Arc::new(Local::new(Arc::new(One(Arc::new(backend), Arc::new(model))), LocalSettings::default()));
    let nodes = Arc::new(Nodes::default());
    let remote: Arc<dyn Remote> = Arc::clone(&nodes) as _;
    let dispatcher = Dispatcher::new(Arc::new(router), local, remote, EventBus::default(), Settings::default());
    let mut intent = intent(None);
    intent.target = Target::Auto;
    let reply = dispatcher.dispatch(intent).await.expect("an answer");
    assert_eq!(reply.served.node, own);
    assert_eq!(text(reply.body).await.0, "{}");
    assert!(nodes.called.lock().is_empty());
}

#[tokio::test]
async fn watchers_see_the_decision_and_the_end() {
    let world = World::new(1);
    world.nodes.answer(world.others[0], served);
    let mut watch = world.events.subscribe();
    let reply = world.ask().await.expect("an answer");
    let id = reply.decision.id.clone();
    text(reply.body).await;
    let decision = watch.recv().await.expect("an event");
    assert_eq!(
        (decision.kind, &decision.data["id"], &decision.data["node_name"]),
        ("decision", &id.as_str().into(), &"a".into())
    );
    let progress = watch.recv().await.expect("an event");
    assert_eq!((progress.kind, &progress.data["phase"]), ("call.progress", &"prefill".into()));
    let end = watch.recv().await.expect("an event");
    assert_eq!((end.kind, &end.data["status"], &end.data["completion_tokens"]), ("call.end", &200.into(), &2.into()));
}
