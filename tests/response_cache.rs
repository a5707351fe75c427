//! The response cache on a real node: who gets a kept answer, who does not, and what an answer in the other form is.

mod support;

use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};
use support::{Backend, Events, Mode, NodePlan, PATIENCE, TestNode, chat, chat_stream, eventually};

/// A node with a cache in this mode, before a backend.
async fn node(backend: &Backend, mode: &str) -> TestNode {
    let node = NodePlan::named("laptop").backend(backend.url()).env("ATMOSPHERE_CACHE_MODE", mode).start().await;
    node.sees_model("m").await;
    node
}

fn repeatable(prompt: &str) -> Value {
    let mut body = chat("m", prompt);
    body["temperature"] = 0.into();
    body
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = true.into();
    body
}

async fn post(node: &TestNode, body: &Value, headers: &[(&str, &str)]) -> Response {
    let mut request =
        reqwest::Client::builder().no_proxy().build().expect("a client").post(node.url("/v1/chat/completions"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.json(body).send().await.expect("an answer")
}

fn x_cache(response: &Response) -> &str {
    response.headers().get("x-cache").map_or("", |value| value.to_str().expect("text"))
}

/// Asks, and says what `x-cache` said.
async fn asked(node: &TestNode, body: &Value, headers: &[(&str, &str)]) -> String {
    let response = post(node, body, headers).await;
    assert_eq!(response.status(), 200);
    let said = x_cache(&response).to_owned();
    assert_eq!(response.headers().contains_key("age"), said == "HIT", "{said}");
    let _ = response.bytes().await.expect("a body");
    said
}

#[tokio::test]
async fn an_answer_that_comes_out_the_same_is_asked_for_once_and_served_byte_for_byte() {
    let backend = Backend::start("b", &["m"]);
    let node = node(&backend, "repeatable").await;
    let first = post(&node, &repeatable("hi"), &[]).await;
    assert_eq!(x_cache(&first), "MISS");
    let (made_by, first) = (first.headers()["x-atmosphere-decision"].clone(), first.bytes().await.expect("a body"));
    let mut same = repeatable("hi");
    same["user"] = "somebody".into();
    same["metadata"] = json!({"run": 7});
    let second = post(&node, &same, &[]).await;
    assert_eq!((x_cache(&second), &second.headers()["x-atmosphere-decision"]), ("HIT", &made_by));
    assert_eq!(
        (&second.headers()["x-atmosphere-model"], &second.headers()["x-atmosphere-node"]),
        (&"m".parse().expect("v"), &"laptop".parse().expect("v"))
    );
    assert_eq!(second.bytes().await.expect("a body"), first);
    assert_eq!(backend.counts().started, 1);
    assert_eq!(asked(&node, &repeatable("ho"), &[]).await, "MISS", "another question");
    let metrics = node.get("/metrics").await.text().await.expect("text");
    assert!(metrics.contains("atmosphere_cache_lookups_total{outcome=\"hit\"} 1"), "{metrics}");
}

#[tokio::test]
async fn embeddings_are_kept_and_what_is_sampled_is_not_unless_it_is_asked_for() {
    let backend = Backend::start("b", &["m", "nomic-embed-text"]);
    let node = node(&backend, "repeatable").await;
    node.sees_model("nomic-embed-text").await;
    for wanted in ["MISS", "HIT"] {
        let response = node.post("/v1/embeddings", &json!({"model": "nomic-embed-text", "input": "a"})).await;
        assert_eq!((response.status().as_u16(), x_cache(&response)), (200, wanted));
    }
    assert_eq!(asked(&node, &chat("m", "hi"), &[]).await, "");
    assert_eq!(asked(&node, &chat("m", "hi"), &[("x-atmosphere-cache", "on")]).await, "MISS");
    assert_eq!(asked(&node, &chat("m", "hi"), &[("x-atmosphere-cache", "on")]).await, "HIT");
    assert_eq!(asked(&node, &repeatable("hi"), &[("x-atmosphere-cache", "off")]).await, "");
}

#[tokio::test]
async fn nothing_is_kept_unless_the_owner_wants_it() {
    let backend = Backend::start("b", &["m"]);
    let node_off = NodePlan::named("laptop").backend(backend.url()).start().await;
    node_off.sees_model("m").await;
    for _ in 0..2 {
        assert_eq!(asked(&node_off, &repeatable("hi"), &[("x-atmosphere-cache", "on")]).await, "");
    }
    let node = node(&backend, "asked").await;
    assert_eq!(asked(&node, &repeatable("hi"), &[]).await, "");
    assert_eq!(asked(&node, &repeatable("hi"), &[("x-atmosphere-cache", "on")]).await, "MISS");
    assert_eq!(asked(&node, &repeatable("hi"), &[("x-atmosphere-cache", "on")]).await, "HIT");
}

#[tokio::test]
async fn cache_control_is_honoured() {
    let backend = Backend::start("b", &["m"]);
    let node = node(&backend, "repeatable").await;
    let body = repeatable("hi");
    let only = post(&node, &body, &[("cache-control", "only-if-cached")]).await;
    assert_eq!(only.status(), 504);
    assert_eq!(only.json::<Value>().await.expect("JSON")["error"]["code"], "not_cached");
    assert_eq!(asked(&node, &body, &[("cache-control", "no-store")]).await, "", "neither taken nor kept");
    assert_eq!(asked(&node, &body, &[]).await, "MISS");
    assert_eq!(asked(&node, &body, &[("cache-control", "max-age=60")]).await, "HIT");
    assert_eq!(asked(&node, &body, &[("cache-control", "only-if-cached")]).await, "HIT");
    assert_eq!(backend.counts().started, 2);
    assert_eq!(asked(&node, &body, &[("cache-control", "no-cache")]).await, "MISS", "a new one, which is kept");
    assert_eq!(asked(&node, &body, &[("cache-control", "max-age=0")]).await, "MISS");
    assert_eq!(backend.counts().started, 4);
    assert_eq!(asked(&node, &body, &[]).await, "HIT");
}

#[tokio::test]
async fn callers_with_different_keys_never_share_an_answer() {
    let backend = Backend::start("b", &["m"]);
    let plan = NodePlan::named("laptop").backend(backend.url()).env("ATMOSPHERE_CACHE_MODE", "repeatable");
    let node = plan.env("ATMOSPHERE_API_KEYS", "").start().await;
    node.sees_model("m").await;
    let (one, two) = (("authorization", "Bearer one-one-one"), ("authorization", "Bearer two-two-two"));
    assert_eq!(asked(&node, &repeatable("hi"), &[one]).await, "MISS");
    assert_eq!(asked(&node, &repeatable("hi"), &[one]).await, "HIT");
    assert_eq!(asked(&node, &repeatable("hi"), &[two]).await, "MISS");
    assert_eq!(asked(&node, &repeatable("hi"), &[]).await, "MISS");
}

#[tokio::test]
async fn a_stream_is_replayed_as_it_was_and_serves_those_who_want_it_whole() {
    let backend = Backend::start("b", &["m"]);
    let node = node(&backend, "repeatable").await;
    let mut body = streamed(repeatable("hi"));
    body["stream_options"] = json!({"include_usage": true});
    let first = post(&node, &body, &[]).await;
    assert_eq!((x_cache(&first), &first.headers()["content-type"]), ("MISS", &"text/event-stream".parse().expect("v")));
    let first = first.bytes().await.expect("a body");
    let second = post(&node, &body, &[]).await;
    assert_eq!(x_cache(&second), "HIT");
    assert_eq!(second.bytes().await.expect("a body"), first);

    let whole = post(&node, &repeatable("hi"), &[]).await;
    assert_eq!((x_cache(&whole), &whole.headers()["content-type"]), ("HIT", &"application/json".parse().expect("v")));
    let whole: Value = whole.json().await.expect("JSON");
    assert_eq!(whole["choices"][0]["message"], json!({"role": "assistant", "content": "b: t0 t1 t2 t3 t4 t5 t6 t7"}));
    assert_eq!((&whole["object"], &whole["choices"][0]["finish_reason"]), (&json!("chat.completion"), &json!("stop")));
    assert_eq!(whole["usage"]["prompt_tokens"], 7);
    assert_eq!(whole["x_unknown_field"]["kept"], true);

    let plain = Events::of(post(&node, &streamed(repeatable("hi")), &[]).await).rest().await;
    assert_eq!((plain.text().as_str(), plain.dones), ("b: t0 t1 t2 t3 t4 t5 t6 t7", 1));
    assert!(plain.events.iter().all(|event| !event["usage"].is_object()), "nobody asked for the usage");
    assert_eq!(backend.counts().started, 1);
}

#[tokio::test]
async fn a_whole_answer_serves_those_who_want_it_streamed() {
    let backend = Backend::start("b", &["m"]);
    let node = node(&backend, "repeatable").await;
    assert_eq!(asked(&node, &repeatable("hi"), &[]).await, "MISS");
    let mut body = streamed(repeatable("hi"));
    body["stream_options"] = json!({"include_usage": true});
    let response = post(&node, &body, &[]).await;
    assert_eq!(
        (x_cache(&response), &response.headers()["content-type"]),
        ("HIT", &"text/event-stream".parse().expect("v"))
    );
    let streamed = Events::of(response).rest().await;
    assert_eq!((streamed.text().as_str(), streamed.dones), ("b: t0 t1 t2 t3 t4 t5 t6 t7", 1));
    assert_eq!(streamed.events.last().expect("events")["usage"]["completion_tokens"], 8);
    assert_eq!(backend.counts().started, 1);
}

#[tokio::test]
async fn errors_and_answers_that_broke_off_are_never_kept() {
    let backend = Backend::start("b", &["m"]);
    let node = node(&backend, "repeatable").await;
    backend.set(Mode::Refuse {
        status: 400,
        body: json!({"error": {"message": "no", "code": null}}),
        retry_after: None,
    });
    for started in 1..=2 {
        assert_eq!(post(&node, &repeatable("hi"), &[]).await.status(), 400);
        assert_eq!(backend.counts().started, started);
    }
    backend.set(Mode::Truncate { after: 3 });
    let broken = Events::of(post(&node, &streamed(repeatable("hi")), &[]).await).rest().await;
    assert!(broken.error().is_some() && broken.dones == 0);
    backend.set(Mode::quick());
    // The capability rests for a moment after its failure.
    eventually("it answers again", PATIENCE, async || {
        let response = post(&node, &streamed(repeatable("hi")), &[]).await;
        assert_ne!(x_cache(&response), "HIT", "what broke off was kept");
        response.status() == 200
    })
    .await;
    assert_eq!(asked(&node, &streamed(repeatable("hi")), &[]).await, "HIT");
}

#[tokio::test]
async fn those_who_come_while_it_is_under_way_share_one_answer_as_it_comes() {
    let backend = Backend::start("b", &["m"]);
    let node = node(&backend, "repeatable").await;
    backend.set(Mode::slow(150));
    let body = streamed(repeatable("hi"));
    let mut first = Events::of(post(&node, &body, &[]).await);
    first.next().await.expect("an event");
    let second = post(&node, &body, &[]).await;
    assert_eq!(x_cache(&second), "HIT");
    let mut second = Events::of(second);
    second.next().await.expect("an event");
    assert_eq!(backend.counts().finished, 0, "it reads along, and does not wait for the end");
    // The one who began it leaves: the other one's answer goes on.
    drop(first);
    let rest = second.rest().await;
    assert_eq!((rest.dones, rest.error()), (1, None));
    assert!(rest.text().ends_with("t148 t149"), "{}", rest.text());
    assert_eq!(backend.counts().started, 1);
    assert_eq!(asked(&node, &body, &[]).await, "HIT");
}

#[tokio::test]
async fn the_work_stops_when_the_last_of_them_leaves() {
    let backend = Backend::start("b", &["m"]);
    let node = node(&backend, "repeatable").await;
    backend.set(Mode::slow(2000));
    let body = streamed(repeatable("hi"));
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut events = Events::of(post(&node, &body, &[]).await);
        events.next().await.expect("an event");
        readers.push(events);
    }
    readers.pop();
    tokio::time::timeout(Duration::from_secs(5), readers[0].next()).await.expect("it goes on").expect("an event");
    assert_eq!(backend.counts().cancelled, 0);
    readers.clear();
    eventually("the backend is told", PATIENCE, async || backend.counts().cancelled == 1).await;
}

#[tokio::test]
async fn a_kept_answer_does_not_outlive_its_time() {
    let backend = Backend::start("b", &["m"]);
    let plan = NodePlan::named("laptop").backend(backend.url()).env("ATMOSPHERE_CACHE_MODE", "repeatable");
    let node = plan.env("ATMOSPHERE_CACHE_TTL", "1s").start().await;
    node.sees_model("m").await;
    assert_eq!(asked(&node, &repeatable("hi"), &[]).await, "MISS");
    eventually("it is forgotten", PATIENCE, async || {
        asked(&node, &repeatable("hi"), &[]).await == "MISS" || backend.counts().started > 1
    })
    .await;
}

#[tokio::test]
async fn a_plain_stream_does_not_serve_those_who_want_more_than_it_has() {
    let backend = Backend::start("b", &["m"]);
    let node = node(&backend, "repeatable").await;
    assert_eq!(asked(&node, &streamed(repeatable("hi")), &[]).await, "MISS");
    assert_eq!(
        asked(&node, &repeatable("hi"), &[]).await,
        "MISS",
        "a whole answer has a usage, and the stream had none"
    );
    let mut with_usage = chat_stream("m", "hi");
    with_usage["temperature"] = 0.into();
    with_usage["stream_options"] = json!({"include_usage": true});
    assert_eq!(asked(&node, &with_usage, &[]).await, "HIT", "made from the whole one");
}
