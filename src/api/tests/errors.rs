//! Every error has OpenAI's shape and the right status, on every route.

use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use futures::FutureExt as _;
use serde_json::{Value, json};

use super::scripted::{a_chat, api, failure, no_route, pieces, settings, silent_api};
use crate::api::{Settings, routes};
use crate::capability::{ErrorClass, Failure};
use crate::router::NoRoute;

/// The error of a response, after a look at what every error has.
async fn error_of(response: reqwest::Response, what: &str) -> Value {
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "application/json", "{what}");
    assert_eq!(headers["server"], "atmosphere", "{what}");
    assert!(headers.contains_key("x-request-id") && headers.contains_key("x-atmosphere-node"), "{what}");
    let body: Value = response.json().await.expect(what);
    let error = body["error"].as_object().expect(what);
    let fields: Vec<_> = error.keys().map(String::as_str).collect();
    assert_eq!(fields, ["code", "message", "param", "type"], "{what}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
    body["error"].clone()
}

/// The routes whose errors have OpenAI's shape; those of the others are in `facades`.
fn own_routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    routes::all().filter(|(_, pattern)| !pattern.starts_with("/v1/messages"))
}

#[tokio::test]
async fn a_wrong_method_is_told_which_is_right_on_every_route() {
    let api = silent_api(settings()).await;
    for (method, pattern) in own_routes() {
        let path = pattern.replace("{*id}", "a/b").replace("{id}", "a");
        let response = api.client.request(Method::PUT, api.url(&path)).send().await.expect("an answer");
        assert_eq!(response.status(), 405, "{path}");
        let allow = response.headers()["allow"].to_str().expect("text").to_owned();
        assert!(allow.contains(method), "{path}: {allow}");
        let error = error_of(response, &path).await;
        assert_eq!(error["code"], "method_not_allowed", "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_404() {
    let api = silent_api(settings()).await;
    for (path, code) in [
        ("/nope", "not_found"),
        ("/v1", "not_found"),
        ("/v1/models/", "not_found"),
        ("/v1/models/none", "model_not_found"),
        ("/v1/mesh/decisions/none", "decision_not_found"),
    ] {
        let response = api.client.get(api.url(path)).send().await.expect("an answer");
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(error_of(response, path).await["code"], code, "{path}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_in_a_path_or_query_is_a_400() {
    let api = silent_api(settings()).await;
    for path in
        ["/v1/models/%ff", "/v1/mesh/decisions/%ff", "/v1/mesh/decisions?limit=-1", "/v1/capabilities?type=a&type=b"]
    {
        let response = api.client.get(api.url(path)).send().await.expect("an answer");
        assert_eq!(response.status(), 400, "{path}");
        error_of(response, path).await;
    }
}

#[tokio::test]
async fn when_all_are_cooling_the_client_learns_when_to_come_again() {
    let api = api(settings(), |_| {
        futures::future::err(no_route(NoRoute::AllCooling { retry_after: Duration::from_secs(7) })).boxed()
    })
    .await;
    let response = api.post("/v1/chat/completions", &a_chat(false)).await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"7".parse().expect("a value")));
}

#[tokio::test]
async fn every_route_that_takes_a_body_refuses_a_bad_one() {
    let api = silent_api(Settings { max_body: 20_000, ..settings() }).await;
    for (_, path) in own_routes().filter(|(method, _)| *method == "POST") {
        let send = |content_type: &'static str, body: Vec<u8>| {
            api.client.post(api.url(path)).header("content-type", content_type).body(body).send()
        };
        // What is wanted of these may all be left out.
        let modest = ["/v1/mesh/invite", "/v1/mesh/leave", "/v1/mesh/pair"].contains(&path);
        for bad in ["", "{", "[]", "null", "{}", r#"{"messages":3,"prompt":true,"input":{},"peer":7}"#] {
            if modest && (bad.is_empty() || bad.ends_with('}')) {
                continue;
            }
            let response = send("application/json", bad.into()).await.expect("an answer");
            assert_eq!(response.status(), 400, "{path} {bad}");
            assert_eq!(error_of(response, path).await["type"], "invalid_request_error", "{path} {bad}");
        }
        let response = send("text/plain", b"{}".to_vec()).await.expect("an answer");
        assert_eq!(response.status(), 415, "{path}");
        assert_eq!(error_of(response, path).await["code"], "unsupported_media_type", "{path}");

        let response = send("application/json", vec![b' '; 50_000]).await.expect("an answer");
        assert_eq!(response.status(), 413, "{path}");
        assert_eq!(error_of(response, path).await["code"], "body_too_large", "{path}");

        // Without an announced length.
        let many = futures::stream::iter((0..50).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1000]))));
        let response = api.client.post(api.url(path)).body(reqwest::Body::wrap_stream(many)).send();
        let response = response.await.expect("an answer");
        assert_eq!(response.status(), 413, "{path}");
    }
    assert!(api.node.intents.lock().is_empty(), "a bad body reached the node");
}

#[tokio::test]
async fn an_unknown_model_is_a_404_with_the_near_names() {
    let api = api(settings(), |_| {
        let name = "lama3.2".to_owned();
        futures::future::err(no_route(NoRoute::UnknownModel { name, near: vec!["llama3.2".to_owned()] })).boxed()
    })
    .await;
    for stream in [false, true] {
        let response = api.post("/v1/chat/completions", &a_chat(stream)).await;
        assert_eq!(response.status(), 404);
        let error = error_of(response, "unknown model").await;
        assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some("model_not_found"), Some("model")));
        assert!(error["message"].as_str().is_some_and(|m| m.contains("did you mean llama3.2?")), "{error}");
    }
}

#[tokio::test]
async fn a_backends_own_error_passes_through_as_it_is() {
    let body = r#"{"object":"error","message":"temperature: must be <= 2","extra":1}"#;
    let api = api(settings(), move |_| {
        let own = Some((Bytes::from_static(body.as_bytes()), "application/problem+json".to_owned()));
        let bad = Failure { status: 422, body: own, ..Failure::new(ErrorClass::Request, "no") };
        futures::future::err(failure(1, bad)).boxed()
    })
    .await;
    let response = api.post("/v1/chat/completions", &a_chat(true)).await;
    assert_eq!(response.status(), 422);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["x-atmosphere-decision"], "d-1");
    assert_eq!(response.text().await.expect("text"), body);
}

#[tokio::test]
async fn a_failure_says_when_to_come_again_or_not_to() {
    let api = api(settings(), |intent| {
        let busy = Failure::new(ErrorClass::Overloaded, "queue full");
        let failed = match intent.query.as_deref() {
            Some("later") => failure(2, Failure { retry_after: Some(Duration::from_millis(1500)), ..busy }),
            Some("spent") => failure(3, Failure::new(ErrorClass::Backend, "all three failed")),
            _ => failure(1, busy),
        };
        futures::future::err(failed).boxed()
    })
    .await;
    for (query, status, retry_after, should_retry) in
        [("later", 503, Some("2"), None), ("spent", 502, None, Some("false")), ("once", 503, None, None)]
    {
        let body = json!({"messages": [{"role": "user", "content": query}]});
        let response = api.post("/v1/chat/completions", &body).await;
        let header = |name: &str| response.headers().get(name).map(|v| v.to_str().expect("text").to_owned());
        assert_eq!(response.status(), status, "{query}");
        assert_eq!(header("retry-after").as_deref(), retry_after, "{query}");
        assert_eq!(header("x-should-retry").as_deref(), should_retry, "{query}");
        error_of(response, query).await;
    }
}

#[tokio::test]
async fn a_name_that_no_model_can_have_goes_no_further() {
    let api = silent_api(settings()).await;
    let body = json!({"model": "m".repeat(1 << 20), "messages": [{"role": "user", "content": "x"}]});
    let response = api.post("/v1/chat/completions", &body).await;
    assert_eq!(response.status(), 400);
    assert_eq!(error_of(response, "long").await["param"], "model");
    assert!(api.node.intents.lock().is_empty());
}

#[tokio::test]
async fn a_panic_ends_its_own_request_only() {
    let api = api(settings(), |intent| match intent.query.as_deref() {
        Some("bang") => panic!("scripted"),
        _ => futures::future::ok(pieces("application/json", vec![Ok("{}")])).boxed(),
    })
    .await;
    let body = json!({"messages": [{"role": "user", "content": "bang"}]});
    let response = api.post("/v1/chat/completions", &body).await;
    assert_eq!(response.status(), 500);
    assert_eq!(error_of(response, "panic").await["code"], "internal_error");
    assert_eq!(api.post("/v1/chat/completions", &a_chat(false)).await.status(), 200);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_when_it_is_not_streamed() {
    let api = api(settings(), |_| {
        let broken = Failure::new(ErrorClass::Interrupted, "gpu has left");
        futures::future::ok(pieces("application/json", vec![Ok("{\"half\":"), Err(broken)])).boxed()
    })
    .await;
    let response = api.post("/v1/chat/completions", &a_chat(false)).await;
    assert_eq!(response.status(), 502);
    assert_eq!(error_of(response, "broken").await["code"], "interrupted");
}

#[tokio::test]
async fn beyond_the_limit_requests_are_sent_away_and_not_kept_waiting() {
    let api = silent_api(Settings { max_concurrency: 1, ..settings() }).await;
    let (first, client) = (api.url("/v1/chat/completions"), api.client.clone());
    let hanging = tokio::spawn(async move { client.post(first).json(&a_chat(false)).send().await });
    super::scripted::eventually("the first has its place", || !api.node.intents.lock().is_empty()).await;
    let response = api.post("/v1/embeddings", &json!({"input": "x"})).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(error_of(response, "busy").await["code"], "overloaded");
    // What is not a request to a model has room.
    assert_eq!(api.get("/v1/models").await.0, 200);
    hanging.abort();
}

#[tokio::test]
async fn a_request_that_dispatch_forgets_ends_all_the_same() {
    let api = silent_api(settings()).await;
    let chat = |stream| {
        let request = api.client.post(api.url("/v1/chat/completions")).json(&a_chat(stream));
        request.header("x-atmosphere-timeout", "0.01").send()
    };
    let (whole, streamed) = tokio::join!(chat(false), chat(true));
    for response in [whole, streamed] {
        let response = response.expect("an answer");
        assert_eq!(response.status(), 504);
        assert_eq!(error_of(response, "timeout").await["type"], "timeout_error");
    }
}
