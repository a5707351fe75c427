//! Answers that are shared, and what they cost those who share them.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::question::Form;
use super::*;
use crate::capability::{Capability, Kind, PeerId};
use crate::dispatch::ReplyBody;
use crate::router::{Candidate, Parts};

const SECOND: Duration = Duration::from_secs(1);

fn cache() -> Arc<Cache> {
    let settings = Settings { mode: Mode::Repeatable, bytes: 64 << 20, answers: 100, ttl: Duration::from_secs(600) };
    Arc::new(Cache::new(settings, &Metrics::default()))
}

fn candidate(model: &str) -> Candidate {
    Candidate {
        node: PeerId::random(),
        node_name: "gpu".into(),
        capability: Arc::new(Capability::new("p", Kind::LLM_CHAT, model)),
        score: 0.0,
        predicted: SECOND,
        parts: Parts::default(),
    }
}

fn decision(model: &str) -> Decision {
    Decision { id: "d".into(), candidates: vec![candidate(model)], candidates_total: 1, ..Decision::default() }
}

fn intent() -> Intent {
    let mut intent = crate::router::testing::intent(Some("m"));
    intent.payload = Bytes::from_static(br#"{"model":"m","messages":[],"temperature":0,"stream":true}"#);
    intent.requirements.stream = true;
    intent.deadline = 10 * SECOND;
    intent
}

/// A backend whose pieces the test sends, and which counts how often it was asked and left.
struct Backend {
    asked: AtomicUsize,
    pieces: parking_lot::Mutex<Vec<mpsc::Receiver<Result<Bytes, Failure>>>>,
}

impl Backend {
    /// Answers as many times as there are senders, in their order from the last one.
    fn new(times: usize) -> (Arc<Self>, Vec<mpsc::Sender<Result<Bytes, Failure>>>) {
        let (senders, receivers) = (0..times).map(|_| mpsc::channel(64)).unzip();
        (Arc::new(Self { asked: AtomicUsize::new(0), pieces: parking_lot::Mutex::new(receivers) }), senders)
    }

    fn run(self: &Arc<Self>, model: &'static str) -> impl FnOnce(Intent) -> Running + use<> {
        let backend = Arc::clone(self);
        move |_| {
            backend.asked.fetch_add(1, Ordering::SeqCst);
            let pieces = backend.pieces.lock().pop().expect("no more often than the test wants");
            let body: ReplyBody = Box::pin(ReceiverStream::new(pieces));
            let reply = Reply {
                decision: Arc::new(decision(model)),
                served: candidate(model),
                attempts: 1,
                content_type: "text/event-stream".into(),
                origin: Origin::Made,
                body,
            };
            futures::future::ready(Ok(reply)).boxed()
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn ask(cache: &Cache, backend: &Arc<Backend>) -> Reply {
    cache.answer(intent(), |_| decision("m"), backend.run("m")).await.expect("an answer")
}

fn event(text: &str) -> Bytes {
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n").into()
}

async fn rest(body: ReplyBody) -> Result<String, Failure> {
    let pieces: Vec<_> = body.collect().await;
    let pieces = pieces.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(String::from_utf8(pieces.concat()).expect("text"))
}

#[tokio::test]
async fn who_joins_reads_from_the_beginning_and_the_end_is_kept() {
    let (cache, (backend, send)) = (cache(), Backend::new(1));
    let mut first = ask(&cache, &backend).await;
    assert_eq!(first.origin, Origin::Missed);
    send[0].send(Ok(event("a"))).await.expect("read");
    assert_eq!(first.body.next().await.expect("a piece").expect("a piece"), event("a"));
    let second = ask(&cache, &backend).await;
    assert_eq!(second.origin, Origin::Kept(Duration::ZERO));
    // The second one waits for what the first one, which does not read on, would have driven.
    let reading = tokio::spawn(rest(second.body));
    send[0].send(Ok(event("b"))).await.expect("read");
    drop(send);
    let all = [event("a"), event("b")].concat();
    assert_eq!(reading.await.expect("no panic").expect("whole").as_bytes(), all);
    assert_eq!(rest(first.body).await.expect("whole").as_bytes(), &event("b")[..]);
    let third = ask(&cache, &backend).await;
    assert!(matches!(third.origin, Origin::Kept(_)));
    assert_eq!(rest(third.body).await.expect("whole").as_bytes(), all);
    assert_eq!(backend.asked(), 1);
}

#[tokio::test]
async fn all_who_wait_for_it_to_begin_get_it_whoever_reads_it_to_its_end_first() {
    let (cache, (backend, mut send)) = (cache(), Backend::new(1));
    let begin = Arc::new(tokio::sync::Notify::new());
    let asking = |run: bool| {
        let (cache, backend, begin) = (Arc::clone(&cache), Arc::clone(&backend), Arc::clone(&begin));
        async move {
            let run = move |intent| -> Running {
                assert!(run, "the first one's answer serves all");
                async move {
                    begin.notified().await;
                    backend.run("m")(intent).await
                }
                .boxed()
            };
            let reply = cache.answer(intent(), |_| decision("m"), run).await.expect("an answer");
            (reply.origin, rest(reply.body).await.expect("whole"))
        }
    };
    let mut waiting: Vec<_> = (0..8).map(|place| Box::pin(asking(place == 0))).collect();
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none(), "nobody has answered yet");
    }
    send[0].send(Ok(event("a"))).await.expect("there is room");
    send.clear();
    begin.notify_one();
    // Each reads as far as it can before the next one looks.
    let mut answers = Vec::new();
    for one in waiting.into_iter().rev() {
        answers.push(one.await);
    }
    assert_eq!(answers.pop().map(|(origin, _)| origin), Some(Origin::Missed));
    let all = String::from_utf8(event("a").to_vec()).expect("text");
    assert!(answers.iter().all(|answer| *answer == (Origin::Kept(Duration::ZERO), all.clone())), "{answers:?}");
    assert_eq!(backend.asked(), 1);
}

#[tokio::test]
async fn a_failure_reaches_all_and_is_not_kept() {
    let (cache, (backend, send)) = (cache(), Backend::new(2));
    let (first, second) = (ask(&cache, &backend).await, ask(&cache, &backend).await);
    send[1].send(Ok(event("a"))).await.expect("read");
    send[1].send(Err(Failure::new(ErrorClass::Interrupted, "cut"))).await.expect("read");
    for reply in [first, second] {
        assert_eq!(rest(reply.body).await.expect_err("cut").message, "cut");
    }
    assert_eq!(ask(&cache, &backend).await.origin, Origin::Missed);
    assert_eq!(backend.asked(), 2);
}

#[tokio::test]
async fn the_work_ends_with_its_last_reader() {
    let (cache, (backend, send)) = (cache(), Backend::new(2));
    let (first, second) = (ask(&cache, &backend).await, ask(&cache, &backend).await);
    drop(first);
    assert!(!send[1].is_closed());
    drop(second);
    assert!(send[1].is_closed(), "the source is dropped");
    assert_eq!(ask(&cache, &backend).await.origin, Origin::Missed, "nobody joins what is gone");
}

#[tokio::test]
async fn an_answer_that_is_too_long_goes_through_is_not_kept_and_holds_no_more_than_that() {
    let (cache, (backend, send)) = (cache(), Backend::new(2));
    let (mut fast, mut slow) = (ask(&cache, &backend).await, ask(&cache, &backend).await);
    let piece = Bytes::from(vec![b'x'; LONGEST_ANSWER / 4]);
    for _ in 0..12 {
        send[1].send(Ok(piece.clone())).await.expect("room");
    }
    // The fast one is held up by the slow one in the end, and by nobody before.
    let mut read = 0;
    while let Some(piece) = fast.body.next().now_or_never() {
        piece.expect("more").expect("no failure");
        read += 1;
    }
    assert_eq!(read, 5);
    assert_eq!(ask(&cache, &backend).await.origin, Origin::Missed, "its beginning is kept for nobody new");
    slow.body.next().await.expect("a piece").expect("a piece");
    slow.body.next().await.expect("a piece").expect("a piece");
    assert!(fast.body.next().now_or_never().is_some(), "it goes on as the slow one does");
    drop(slow);
    let mut senders = send;
    drop(senders.pop());
    let mut read = 6;
    while let Some(piece) = fast.body.next().await {
        piece.expect("no failure");
        read += 1;
    }
    assert_eq!(read, 12);
}

#[tokio::test(start_paused = true)]
async fn a_short_request_does_not_wait_longer_than_it_may_and_a_long_one_survives_a_short_ones_end() {
    let cache = cache();
    let never = |_| -> Running { futures::future::pending().boxed() };
    let patient = {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move { cache.answer(intent(), |_| decision("m"), never).await })
    };
    tokio::task::yield_now().await;
    let hasty = Intent { deadline: SECOND, ..intent() };
    let (backend, _send) = Backend::new(1);
    let error = cache.answer(hasty, |_| decision("m"), backend.run("m")).await.expect_err("no answer in time");
    assert_eq!((error.failure.class, backend.asked()), (ErrorClass::Timeout, 0));
    patient.abort();

    let cache = self::cache();
    let short = |_| -> Running {
        let failure = Failure::new(ErrorClass::Timeout, "over");
        async move {
            tokio::time::sleep(SECOND).await;
            Err(DispatchError { decision: Arc::new(decision("m")), attempts: 1, failure })
        }
        .boxed()
    };
    let first = cache.answer(Intent { deadline: SECOND, ..intent() }, |_| decision("m"), short);
    let (backend, _send) = Backend::new(1);
    let second = async {
        tokio::task::yield_now().await;
        cache.answer(intent(), |_| decision("m"), backend.run("m")).await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_err());
    assert_eq!((second.expect("asked by itself").origin, backend.asked()), (Origin::Missed, 1));
}

#[tokio::test]
async fn an_answer_belongs_to_the_model_that_made_it() {
    let (cache, (backend, send)) = (cache(), Backend::new(1));
    // It was to be "m", and came from "n" in the end.
    let reply = cache.answer(intent(), |_| decision("m"), backend.run("n")).await.expect("an answer");
    send[0].send(Ok(event("a"))).await.expect("read");
    drop(send);
    rest(reply.body).await.expect("whole");
    let by = async |model: &'static str| {
        let reuse = Reuse { only_kept: true, ..Reuse::default() };
        let (backend, _send) = Backend::new(0);
        cache.answer(Intent { reuse, ..intent() }, |_| decision(model), backend.run(model)).await.is_ok()
    };
    assert!(by("n").await && !by("m").await);
}

#[test]
fn what_is_kept_is_bounded_in_bytes_and_in_number() {
    let settings = Settings { mode: Mode::Repeatable, bytes: 1 << 20, answers: 10, ttl: Duration::from_secs(600) };
    let shelf = Shelf::new(&settings);
    let question = |number: usize| {
        let body = format!("{{\"n\":{number}}}");
        Question::of(crate::capability::Operation::Chat, body.as_bytes(), false).expect("a question")
    };
    let head = shelf::Head {
        decision: Arc::new(decision("m")),
        served: candidate("m"),
        attempts: 1,
        content_type: "application/json".into(),
    };
    let count = |size: usize| {
        for number in 0..50 {
            let body = Bytes::from(vec![b' '; size]);
            let answer = shelf::Answer::new(crate::capability::Operation::Chat, Form::Whole, body, &head).expect("one");
            shelf.put(question(number).key(&[0; 32], crate::capability::Operation::Chat, "m"), answer);
        }
        shelf.settle();
        let found = |number: &usize| {
            let key = question(*number).key(&[0; 32], crate::capability::Operation::Chat, "m");
            shelf.find(&key, Form::Whole, None).is_some()
        };
        (0..50).filter(found).count()
    };
    assert!((1..=10).contains(&count(10)));
    assert!(shelf.bytes().get() <= 100);
    assert!((1..=4).contains(&count(250 * 1024)));
}
