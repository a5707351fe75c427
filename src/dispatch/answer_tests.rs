//! What a caller gets of a streamed answer whose node is lost in the middle.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::capability::{
    Call, Capability, Chunk, ErrorClass, Failure, Feature, Frame, FrameStream, Intent, Phase, Usage,
};
use crate::dispatch::testing::{World, accepted, at, frames, streamed, text};
use crate::dispatch::transcript::Transcript;
use crate::router::testing::chat_model;
use crate::router::{Outcome, Role};

/// What every node says when it decodes deterministically.
const WORDS: [&str; 8] = ["The ", "llama ", "of ", "the ", "Andes ", "is ", "not ", "amused."];

fn chunk(data: String) -> Frame {
    Frame::Chunk(Chunk { data: Bytes::from(data), content_type: None })
}

fn event(id: &str, body: Value) -> Frame {
    let mut event = json!({"id": id, "created": 1, "model": "model", "choices": [body]});
    if event["choices"][0].is_null() {
        event["choices"] = json!([]);
    }
    chunk(format!("data: {event}\n\n"))
}

fn word(id: &str, word: &str) -> Frame {
    event(id, json!({"index": 0, "delta": {"content": word}, "finish_reason": null}))
}

/// An answer of these words, whole.
fn whole(id: &str, words: &[&str], prompt_tokens: u64) -> Vec<Frame> {
    let usage = Usage { prompt_tokens, completion_tokens: words.len() as u64, ..Usage::default() };
    let total = usage.prompt_tokens + usage.completion_tokens;
    let mut all = vec![accepted(), event(id, json!({"index": 0, "delta": {"role": "assistant", "content": ""}}))];
    all.extend(words.iter().map(|said| word(id, said)));
    all.push(event(id, json!({"index": 0, "delta": {}, "finish_reason": "stop"})));
    let counts = json!({"prompt_tokens": prompt_tokens, "completion_tokens": words.len(), "total_tokens": total});
    all.push(chunk(format!("data: {}\n\n", json!({"id": id, "choices": [], "usage": counts}))));
    all.push(chunk("data: [DONE]\n\n".into()));
    all.push(Frame::End { usage: Some(usage), load: None });
    all
}

/// The first `count` frames of it, and then death: the stream just ends.
fn dying(id: &'static str, count: usize) -> impl Fn(Call) -> FrameStream + Send + Sync + 'static {
    move |_| frames(whole(id, &WORDS, 5).into_iter().take(count).collect())
}

fn asked(more: &str) -> Intent {
    let mut intent = streamed(Some("model"));
    let body = format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],"stream":true{more}}}"#);
    intent.payload = body.into();
    intent
}

fn prefilling() -> Capability {
    let mut model = chat_model("model", 7);
    model.features.insert(Feature::Prefill);
    model
}

/// The text, the usage and the number of `[DONE]`s of what a caller got.
fn read(got: &str) -> (String, Option<Value>, usize) {
    let mut transcript = Transcript::new(true);
    transcript.add(&Bytes::from(got.to_owned()));
    let usage = got.lines().filter_map(|line| line.strip_prefix("data: ")).find_map(|data| {
        let event: Value = serde_json::from_str(data).ok()?;
        event.get("usage").filter(|usage| !usage.is_null()).cloned()
    });
    (transcript.read().expect("a chat").said, usage, got.matches("[DONE]").count())
}

#[tokio::test(start_paused = true)]
async fn a_deterministic_answer_is_replayed_and_goes_on_where_it_broke() {
    // Wherever it breaks: after the first word, in the middle, before the usage was told.
    for count in 3..12 {
        let world = World::new(2);
        world.nodes.answer(world.others[0], dying("first", count));
        world.nodes.answer(world.others[1], |_| frames(whole("second", &WORDS, 5)));
        let reply = world.dispatcher.dispatch(asked(r#","temperature":0,"stream_options":{"include_usage":true}"#));
        let (got, failure) = text(reply.await.expect("it begins").body).await;
        assert_eq!(failure, None, "{count}: {got}");
        let (said, usage, dones) = read(&got);
        assert_eq!((said.as_str(), dones), (WORDS.concat().as_str(), 1), "{count}");
        assert_eq!(usage.expect("counted")["total_tokens"], 13);
        assert!(!got.contains("\"second\""), "one answer has one id: {got}");
        assert_eq!(got.matches("\"role\"").count(), 1);
        assert_eq!(got.matches("\"finish_reason\":\"stop\"").count(), 1);
        assert!(got.contains(": atmosphere failover model on a was lost"), "{got}");
        assert!(got.contains(": atmosphere continued node=b model=model by=replay"), "{got}");
        assert_eq!(world.in_flight(), 0);
        let logged = world.dispatcher.router().log().latest(1).remove(0);
        assert_eq!(logged.outcome, Outcome::Served);
        let roles: Vec<_> = logged.attempts.iter().map(|attempt| (attempt.role, attempt.result == "ok")).collect();
        assert_eq!(roles, [(Role::First, false), (Role::Replay, true)]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_failed_lately_is_asked_when_the_answer_is_lost_otherwise() {
    let world = World::new(2);
    let now = std::time::Instant::now();
    world.dispatcher.router().signals().fail_node(&world.others[1], now, now);
    world.nodes.answer(world.others[0], dying("first", 5));
    world.nodes.answer(world.others[1], |_| frames(whole("second", &WORDS, 5)));
    let reply = world.dispatcher.dispatch(asked(r#","temperature":0"#)).await.expect("it begins");
    assert_eq!(reply.decision.candidates.len(), 1, "one of the two rests");
    let (got, failure) = text(reply.body).await;
    assert_eq!(failure, None, "{got}");
    assert_eq!(read(&got).0, WORDS.concat());
    let logged = world.dispatcher.router().log().latest(1).remove(0);
    assert_eq!(logged.decision.candidates.len(), 2, "the decision tells of both: {:?}", logged.decision);
    assert!(logged.decision.rejected.iter().all(|rejected| rejected.node != world.others[1]));
}

#[tokio::test(start_paused = true)]
async fn an_answer_by_chance_is_continued_where_the_backend_can_and_its_usage_adds_up() {
    let world = World::of(2, &prefilling());
    world.nodes.answer(world.others[0], dying("first", 6));
    let seen = Arc::new(parking_lot::Mutex::new(None));
    let body = Arc::clone(&seen);
    world.nodes.answer(world.others[1], move |call| {
        *body.lock() = Some(call.payload);
        frames(whole("second", &WORDS[4..], 9))
    });
    let reply = world.dispatcher.dispatch(asked(r#","max_tokens":100"#)).await.expect("it begins");
    let (got, failure) = text(reply.body).await;
    assert_eq!(failure, None);
    let (said, usage, dones) = read(&got);
    assert_eq!((said, dones), (WORDS.concat(), 1));
    let usage = usage.expect("counted");
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&5.into(), &8.into()));
    assert_eq!(usage["total_tokens"], 13);
    assert!(got.contains("by=prefill after=17"), "{got}");
    let body: Value = serde_json::from_slice(&seen.lock().take().expect("asked")).expect("JSON");
    assert_eq!(body["messages"][1], json!({"role": "assistant", "content": WORDS[..4].concat()}));
    assert_eq!((&body["max_tokens"], &body["continue_final_message"]), (&96.into(), &true.into()));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_honestly_go_on_ends_with_an_error_that_says_why() {
    type Change = fn(&mut Intent);
    let table: [(&str, Change, &str); 5] = [
        ("", |_| (), "no other backend of the model continues a partial answer"),
        (r#","temperature":0"#, |intent| intent.handling.failover = Some(false), ""),
        (r#","tools":[{"type":"function"}]"#, |_| (), "tools or a grammar"),
        (r#","temperature":0,"n":2"#, |_| (), "several choices"),
        (r#","response_format":{"type":"json_object"}"#, |_| (), "a schema"),
    ];
    for (more, change, why) in table {
        let world = World::new(2);
        world.nodes.answer(world.others[0], dying("first", 6));
        world.nodes.answer(world.others[1], |_| frames(whole("second", &WORDS, 5)));
        let mut intent = asked(more);
        change(&mut intent);
        let reply = world.dispatcher.dispatch(intent).await.expect("it begins");
        let (got, failure) = text(reply.body).await;
        let failure = failure.unwrap_or_else(|| panic!("{more}: it must not look whole: {got}"));
        assert_eq!(failure.class, ErrorClass::Interrupted, "{more}");
        assert!(failure.message.contains(why), "{more}: {}", failure.message);
        assert_eq!(read(&got), (WORDS[..4].concat(), None, 0), "{more}");
        assert_eq!(world.nodes.called.lock().len(), 1, "{more}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_tool_call_is_never_gone_on_with() {
    let world = World::of(2, &prefilling());
    world.nodes.answer(world.others[0], |_| {
        let call = json!({"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{\"a"}}]}});
        frames(vec![accepted(), event("first", call)])
    });
    world.nodes.answer(world.others[1], |_| frames(whole("second", &WORDS, 5)));
    let reply = world.dispatcher.dispatch(asked(r#","temperature":0"#)).await.expect("it begins");
    let (_, failure) = text(reply.body).await;
    assert!(failure.expect("an error").message.contains("tool call was half sent"));
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_differs_is_not_believed_and_the_next_is_asked() {
    let world = World::new(3);
    world.nodes.answer(world.others[0], dying("first", 6));
    world.nodes.answer(world.others[1], |_| frames(whole("second", &["The ", "alpaca "], 5)));
    world.nodes.answer(world.others[2], |_| frames(whole("third", &WORDS, 5)));
    let reply = world.dispatcher.dispatch(asked(r#","seed":1"#)).await.expect("it begins");
    let (got, failure) = text(reply.body).await;
    assert_eq!((failure, read(&got).0), (None, WORDS.concat()));
    assert!(got.contains("continued node=c"), "{got}");
    let (_, attempts) = world.outcome();
    assert_eq!(attempts.len(), 3);
    assert!(attempts[1].contains("differs from what was sent after 4 bytes"), "{attempts:?}");
    let id = chat_model("model", 7).id;
    let cooling = world.dispatcher.router().signals().cooling(&world.others[1], &id, std::time::Instant::now());
    assert_eq!(cooling, None, "to write something else is no failure");
    // With nobody left it is an error, and the alpaca never shows.
    let world = World::new(2);
    world.nodes.answer(world.others[0], dying("first", 6));
    world.nodes.answer(world.others[1], |_| frames(whole("second", &["The ", "alpaca "], 5)));
    let reply = world.dispatcher.dispatch(asked(r#","seed":1"#)).await.expect("it begins");
    let (got, failure) = text(reply.body).await;
    assert!(failure.expect("an error").message.contains("differs"), "{got}");
    assert_eq!(read(&got), (WORDS[..4].concat(), None, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_survives_the_death_of_two() {
    let world = World::new(3);
    world.nodes.answer(world.others[0], dying("first", 4));
    world.nodes.answer(world.others[1], dying("second", 7));
    world.nodes.answer(world.others[2], |_| frames(whole("third", &WORDS, 5)));
    let reply = world.dispatcher.dispatch(asked(r#","temperature":0"#)).await.expect("it begins");
    let (got, failure) = text(reply.body).await;
    assert_eq!((failure, read(&got).0, read(&got).2), (None, WORDS.concat(), 1));
    assert_eq!(got.matches(": atmosphere continued").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_replaced_within_two_seconds() {
    let silent = || {
        let first = futures::stream::iter(whole("first", &WORDS, 5).into_iter().take(6));
        Box::pin(first.chain(futures::stream::pending())) as FrameStream
    };
    let world = World::new(2);
    world.nodes.answer(world.others[0], move |_| silent());
    world.nodes.answer(world.others[1], |_| frames(whole("second", &WORDS, 5)));
    let start = Instant::now();
    let reply = world.dispatcher.dispatch(asked(r#","temperature":0"#)).await.expect("it begins");
    let (got, failure) = text(reply.body).await;
    assert_eq!((failure, read(&got).0), (None, WORDS.concat()));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // With nobody to go on it is waited for longer: a network may come back.
    let world = World::new(1);
    world.nodes.answer(world.others[0], move |_| silent());
    let start = Instant::now();
    let reply = world.dispatcher.dispatch(asked(r#","temperature":0"#)).await.expect("it begins");
    assert!(text(reply.body).await.1.is_some());
    assert!(start.elapsed() > Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_for_a_moment_is_not_given_up_for_one_that_has_just_failed() {
    let silence = Duration::from_secs(3);
    let world = World::new(2);
    let refused = Frame::Error(Failure::new(ErrorClass::Unavailable, "it is gone"));
    world.nodes.answer(world.others[0], move |_| frames(vec![refused.clone()]));
    world.nodes.answer(world.others[1], move |_| {
        let mut words = whole("second", &WORDS, 5);
        let later = words.split_off(6);
        let pause = futures::stream::once(tokio::time::sleep(silence)).filter_map(|()| async { None });
        Box::pin(futures::stream::iter(words).chain(pause).chain(futures::stream::iter(later)))
    });
    let reply = world.dispatcher.dispatch(asked(r#","temperature":0"#)).await.expect("it begins");
    let (got, failure) = text(reply.body).await;
    assert_eq!((failure, read(&got).0), (None, WORDS.concat()));
    assert_eq!(*world.nodes.called.lock(), world.others, "each once: {got}");
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_long_to_go_on_is_waited_for_beside_another() {
    // The second has read the prompt after two minutes, and the third is broken, or sooner.
    let heard = |after: u64| {
        let beats = futures::stream::iter(0..after * 2).then(|_| async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            at(Phase::Prefill)
        });
        let mut words = whole("slow", &WORDS, 5);
        let first = words.remove(0);
        Box::pin(futures::stream::iter([first]).chain(beats).chain(futures::stream::iter(words))) as FrameStream
    };
    let broken = |_| frames(vec![accepted(), Frame::Error(Failure::new(ErrorClass::Unavailable, "broken"))]);
    for (third, goes_on, limit) in [(None, 1, 130), (Some(1), 2, 40)] {
        let world = World::new(3);
        world.nodes.answer(world.others[0], dying("first", 5));
        world.nodes.answer(world.others[1], move |_| heard(120));
        match third {
            None => world.nodes.answer(world.others[2], broken),
            Some(after) => world.nodes.answer(world.others[2], move |_| heard(after)),
        }
        let start = Instant::now();
        let mut intent = asked(r#","temperature":0"#);
        intent.deadline = Duration::from_secs(600);
        let reply = world.dispatcher.dispatch(intent).await.expect("it begins");
        let (got, failure) = text(reply.body).await;
        assert_eq!((failure, read(&got).0), (None, WORDS.concat()), "{third:?}");
        assert!(got.contains(&format!("continued node={}", ["a", "b", "c"][goes_on])), "{third:?}: {got}");
        assert!(start.elapsed() < Duration::from_secs(limit), "{third:?}: {:?}", start.elapsed());
        assert_eq!((world.nodes.called.lock().len(), world.in_flight()), (3, 0), "{third:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_decoder_with_a_heartbeat_is_not_dead() {
    let world = World::new(2);
    world.nodes.answer(world.others[0], |_| {
        let words = futures::stream::iter(whole("first", &WORDS, 5).into_iter().enumerate());
        // From the first content on a word a minute, and in between the heartbeat that the callee's node sends.
        let beats = words.flat_map(|(place, frame)| {
            let beats = futures::stream::iter(0..if place < 2 { 0 } else { 150 }).then(|_| async {
                tokio::time::sleep(Duration::from_millis(400)).await;
                at(Phase::Decode)
            });
            futures::stream::once(async { frame }).chain(beats)
        });
        Box::pin(beats)
    });
    let mut intent = asked(r#","temperature":0"#);
    intent.deadline = Duration::from_secs(3600);
    let reply = world.dispatcher.dispatch(intent).await.expect("it begins");
    let (got, failure) = text(reply.body).await;
    assert_eq!((failure, read(&got).0), (None, WORDS.concat()));
    assert_eq!(world.nodes.called.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_all_was_said_only_the_end_mark_is_added() {
    // Words, reason; neither usage nor end mark.
    for (more, count) in [("", 11), (r#","temperature":0"#, 11)] {
        let world = World::new(2);
        world.nodes.answer(world.others[0], dying("first", count));
        let reply = world.dispatcher.dispatch(asked(more)).await.expect("it begins");
        let (got, failure) = text(reply.body).await;
        assert_eq!((failure, read(&got)), (None, (WORDS.concat(), None, 1)), "{more}");
        assert_eq!(world.nodes.called.lock().len(), 1, "nobody else is asked");
        assert_eq!(world.outcome().0, Outcome::Served);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_requests_own_is_not_carried_elsewhere() {
    let world = World::new(2);
    world.nodes.answer(world.others[0], |_| {
        let body = Some((Bytes::from_static(b"{}"), "application/json".to_owned()));
        let told = Failure { status: 400, body, ..Failure::new(ErrorClass::Interrupted, "too long") };
        frames([whole("first", &WORDS, 5).into_iter().take(6).collect(), vec![Frame::Error(told)]].concat())
    });
    let reply = world.dispatcher.dispatch(asked(r#","temperature":0"#)).await.expect("it begins");
    assert_eq!(text(reply.body).await.1.map(|failure| failure.message), Some("too long".into()));
    assert_eq!(world.nodes.called.lock().len(), 1);
}
