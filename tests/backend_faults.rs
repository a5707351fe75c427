//! Whatever a backend does, the client gets a clear outcome, and nobody else is disturbed.

mod support;

use serde_json::json;
use support::{
    Backend, Cluster, Events, Mode, NodePlan, PATIENCE, Streamed, TestNode, chat, chat_stream, error_message,
    eventually,
};

/// The request timeout in these tests, so that a hanging backend is over soon.
const TIMEOUT: &str = "4s";

/// A node that asks and one that has two backends: `bad-model` on one that misbehaves, `good-model` on one that does not.
struct Pair {
    bad: Backend,
    good: Backend,
    cluster: Cluster,
}

impl Pair {
    async fn start() -> Self {
        let (bad, good) = (Backend::start("bad", &["bad-model"]), Backend::start("good", &["good-model"]));
        let plan = |name: &str| NodePlan::named(name).env("ATMOSPHERE_API_REQUEST_TIMEOUT", TIMEOUT);
        let gpu = plan("gpu").backend(bad.url()).backend(good.url());
        let cluster = Cluster::start(vec![plan("laptop"), gpu]).await;
        for node in &cluster.nodes {
            node.sees_model("bad-model").await;
            node.sees_model("good-model").await;
        }
        Self { bad, good, cluster }
    }

    fn far(&self) -> &TestNode {
        &self.cluster[0]
    }

    async fn others_are_undisturbed(&self) {
        for node in &self.cluster.nodes {
            let (status, answer) = node.ask("/v1/chat/completions", &chat("good-model", "hello")).await;
            assert_eq!(status, 200, "{answer}");
        }
        assert_eq!(self.good.counts().cancelled, 0);
    }
}

async fn stream(node: &TestNode) -> Streamed {
    let response = node.post("/v1/chat/completions", &chat_stream("bad-model", "hello")).await;
    assert_eq!(response.status(), 200, "content came before the fault, so the answer had begun");
    Events::of(response).rest().await
}

/// What a stream that goes wrong looks like: what came before, one error event, no `[DONE]`.
fn broke_off_clearly(streamed: &Streamed) {
    assert!(streamed.text().starts_with("bad: t0"), "what came before the fault is there: {:?}", streamed.events);
    let error = streamed.error().unwrap_or_else(|| panic!("no error event: {:?}", streamed.events));
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    assert_eq!(streamed.dones, 0, "an answer that is not whole must not look whole");
}

async fn mid_stream(mode: Mode) {
    let pair = Pair::start().await;
    pair.bad.set(mode);
    broke_off_clearly(&stream(pair.far()).await);
    pair.others_are_undisturbed().await;
}

#[tokio::test]
async fn death_mid_stream_is_an_error_event_and_no_done() {
    mid_stream(Mode::Die { after: 3 }).await;
}

#[tokio::test]
async fn an_error_inside_the_stream_is_passed_on_and_ends_it() {
    mid_stream(Mode::ErrorInside { after: 3 }).await;
}

#[tokio::test]
async fn a_clean_end_without_done_is_not_taken_for_the_end() {
    mid_stream(Mode::Truncate { after: 3 }).await;
}

#[tokio::test]
async fn garbage_inside_the_stream_is_an_error_event() {
    mid_stream(Mode::GarbageInside { after: 3 }).await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends_with_an_error_event() {
    mid_stream(Mode::Stall { after: 3 }).await;
}

#[tokio::test]
async fn a_backend_that_hangs_is_a_timeout() {
    let pair = Pair::start().await;
    pair.bad.set(Mode::Hang);
    let body = chat("bad-model", "hello");
    let hanging = pair.far().ask("/v1/chat/completions", &body);
    let ((status, answer), ()) = tokio::join!(hanging, pair.others_are_undisturbed());
    assert!(matches!(status, 503 | 504), "{status} {answer}");
    assert!(!error_message(&answer).is_empty());
    eventually("the backend is left", PATIENCE, async || pair.bad.counts().cancelled >= 1).await;
}

#[tokio::test]
async fn garbage_is_a_bad_gateway() {
    let pair = Pair::start().await;
    pair.bad.set(Mode::Garbage);
    for body in [chat("bad-model", "hello"), chat_stream("bad-model", "hello")] {
        let (status, answer) = pair.far().ask("/v1/chat/completions", &body).await;
        assert!(matches!(status, 502 | 503), "{status} {answer}");
        assert!(!error_message(&answer).is_empty());
    }
    pair.others_are_undisturbed().await;
}

#[tokio::test]
async fn too_many_requests_says_when_to_come_back() {
    let pair = Pair::start().await;
    pair.bad.set(Mode::too_many(7));
    let response = pair.far().post("/v1/chat/completions", &chat("bad-model", "hello")).await;
    let status = response.status().as_u16();
    let wait = response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
    assert!(matches!(status, 429 | 503), "{status}");
    let wait: u64 = wait.expect("there is a Retry-After").parse().expect("it is seconds");
    assert!((1..=7).contains(&wait), "{wait}");
    let asked = pair.bad.counts().started;
    assert_eq!(asked, 1, "who asks for a pause is not hammered");
    // Until then nobody asks it again.
    let (status, _) = pair.far().ask("/v1/chat/completions", &chat("bad-model", "hello")).await;
    assert!(matches!(status, 429 | 503), "{status}");
    pair.others_are_undisturbed().await;
}

#[tokio::test]
async fn a_refusal_moves_on_to_the_next_holder() {
    let (bad, good) = (Backend::start("bad", &["llama3.1:8b"]), Backend::start("good", &["llama3.1:8b"]));
    let cluster = Cluster::start(vec![
        NodePlan::named("laptop"),
        NodePlan::named("first").backend(bad.url()),
        NodePlan::named("second").backend(good.url()),
    ])
    .await;
    cluster[0].sees_holders("llama3.1:8b", 2).await;
    for mode in [Mode::too_many(30), Mode::broken(), Mode::Die { after: 0 }] {
        bad.set(mode.clone());
        for _ in 0..3 {
            let (status, answer) = cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
            assert_eq!(status, 200, "{mode:?}: {answer}");
            let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
            assert!(text.starts_with("good:"), "{mode:?}: answered by {text:?}");
        }
    }
}

#[tokio::test]
async fn a_clients_own_mistake_comes_back_as_it_is_and_harms_nobody() {
    let pair = Pair::start().await;
    let own = json!({"error": {"message": "max_tokens is too large", "type": "invalid_request_error", "param": "max_tokens",
        "code": "bad_value"}, "extra": [1, 2]});
    pair.bad.set(Mode::Refuse { status: 400, body: own.clone(), retry_after: None });
    for _ in 0..12 {
        let (status, answer) = pair.far().ask("/v1/chat/completions", &chat("bad-model", "hello")).await;
        assert_eq!(status, 400, "{answer}");
        assert_eq!(answer, own);
    }
    assert_eq!(pair.bad.counts().started, 12, "a client's mistake is not retried");
    pair.bad.set(Mode::quick());
    let (status, answer) = pair.far().ask("/v1/chat/completions", &chat("bad-model", "hello")).await;
    assert_eq!(status, 200, "mistakes of a client close no circuit: {answer}");
}

#[tokio::test]
async fn a_server_error_is_an_error_and_a_clear_one() {
    let pair = Pair::start().await;
    pair.bad.set(Mode::broken());
    let (status, answer) = pair.far().ask("/v1/chat/completions", &chat("bad-model", "hello")).await;
    assert!((500..=503).contains(&status), "{status} {answer}");
    assert!(!error_message(&answer).is_empty());
    pair.others_are_undisturbed().await;
}
