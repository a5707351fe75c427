//! Other protocols over the same core: what holds for OpenAI's routes holds for theirs, in their shapes.

use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};

use super::scripted::{Api, Drops, api, eventually, failure, no_route, pieces, reply, settings, silent_api};
use crate::api::{Keys, Settings};
use crate::capability::{ErrorClass, Failure, Operation, Target};
use crate::router::NoRoute;

const SSE: &str = "text/event-stream";
const ROLE: &str = "data: {\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const TEXT: &str =
    "data: {\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Grüße\"}}]}\n\n";
const STOP: &str = "data: {\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const WHOLE: &str = r#"{"id":"chatcmpl-1","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Grüße"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;

/// A client's request on one of the routes.
struct Facade {
    path: &'static str,
    /// Whether it is on the port of Ollama's clients, where nobody looks at the type of a body.
    ollama: bool,
    body: fn(stream: bool) -> Value,
    /// An error's message, when the body has the protocol's shape of it.
    error: fn(&Value) -> Option<&str>,
    /// Whether a streamed answer ended well, and the message of its error.
    end: fn(&str) -> (bool, Option<String>),
}

/// The error of the event that is called so.
fn error_event(text: &str) -> Option<String> {
    let data = text.split("event: error\ndata: ").nth(1)?;
    let data: Value = serde_json::from_str(data.trim_end()).expect("the error is the last event");
    Some(data["error"]["message"].as_str().unwrap_or_default().to_owned())
}

const MESSAGES: Facade = Facade {
    path: "/v1/messages",
    ollama: false,
    body: |stream| json!({"model": "llama3.2", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}),
    error: |body| {
        let shaped = body["type"] == "error" && body["error"]["type"].is_string() && body["request_id"].is_string();
        body["error"]["message"].as_str().filter(|_| shaped)
    },
    end: |text| {
        let well = text.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
        (well, error_event(text))
    },
};

const RESPONSES: Facade = Facade {
    path: "/v1/responses",
    ollama: false,
    body: |stream| json!({"model": "llama3.2", "stream": stream, "input": "hi"}),
    error: |body| {
        let error = body["error"].as_object()?;
        let shaped = error.contains_key("param") && error.contains_key("code") && error.contains_key("type");
        // A backend's own words pass through as they are.
        error["message"].as_str().filter(|message| shaped || *message == "too hot")
    },
    end: |text| (text.contains("event: response.completed\n"), error_event(text)),
};

const OLLAMA: Facade = Facade {
    path: "/api/chat",
    ollama: true,
    body: |stream| json!({"model": "llama3.2", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}),
    error: |body| body["error"].as_str(),
    end: |text| {
        let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default().trim()).unwrap_or_default();
        (last["done"] == true, last["error"].as_str().map(str::to_owned))
    },
};

const FACADES: &[Facade] = &[MESSAGES, RESPONSES, OLLAMA];

fn url(api: &Api, facade: &Facade, path: &str) -> String {
    format!("http://{}{path}", if facade.ollama { api.ollama } else { api.address })
}

async fn error_message(facade: &Facade, response: reqwest::Response, what: &str) -> String {
    assert_eq!(response.headers()["content-type"], "application/json", "{what}");
    assert!(response.headers().contains_key("x-request-id"), "{what}");
    let body: Value = response.json().await.expect(what);
    (facade.error)(&body).unwrap_or_else(|| panic!("{what}: {body}")).to_owned()
}

async fn ask(api: &Api, facade: &Facade, stream: bool) -> reqwest::Response {
    let request = api.client.post(url(api, facade, facade.path)).json(&(facade.body)(stream));
    request.send().await.expect("an answer")
}

#[tokio::test]
async fn every_error_has_the_protocols_shape() {
    let settings = Settings { keys: Keys::new(["sk-one"]), max_body: 20_000, ..settings() };
    let api = api(settings, |intent| {
        let name = "lama".to_owned();
        let own = Some((Bytes::from_static(br#"{"error":{"message":"too hot"}}"#), "application/json".to_owned()));
        let failed = match &intent.target {
            Target::Auto => no_route(NoRoute::UnknownModel { name, near: vec!["llama3.2".to_owned()] }),
            _ => failure(1, Failure { status: 422, body: own, ..Failure::new(ErrorClass::Request, "no") }),
        };
        futures::future::err(failed).boxed()
    })
    .await;
    for facade in FACADES {
        let send = |method: Method, path: &str, key: &str, content_type: &str, body: Vec<u8>| {
            let request = api.client.request(method, url(&api, facade, path)).header("x-api-key", key.to_owned());
            let request = request.header("content-type", content_type.to_owned()).body(body).send();
            async { request.await.expect("an answer") }
        };
        let unknown = {
            let mut body = (facade.body)(false);
            body["model"] = "auto".into();
            body.to_string().into_bytes()
        };
        let fine = (facade.body)(true).to_string().into_bytes();
        let below = format!("{}/nope", facade.path);
        let json = "application/json";
        for (what, response, status, said) in [
            ("key", send(Method::POST, facade.path, "sk-two", json, fine.clone()).await, 401, "not known here"),
            ("method", send(Method::PUT, facade.path, "sk-one", json, vec![]).await, 405, "PUT"),
            ("path", send(Method::POST, &below, "sk-one", json, vec![]).await, 404, "there is no"),
            ("empty", send(Method::POST, facade.path, "sk-one", json, vec![]).await, 400, "empty"),
            ("garbage", send(Method::POST, facade.path, "sk-one", json, b"{".to_vec()).await, 400, "not valid JSON"),
            ("no object", send(Method::POST, facade.path, "sk-one", json, b"[]".to_vec()).await, 400, "object"),
            ("type", send(Method::POST, facade.path, "sk-one", "text/plain", fine.clone()).await, 415, "text/plain"),
            ("size", send(Method::POST, facade.path, "sk-one", json, vec![b' '; 50_000]).await, 413, "limit"),
            ("model", send(Method::POST, facade.path, "sk-one", json, unknown).await, 404, "did you mean llama3.2?"),
            ("backend", send(Method::POST, facade.path, "sk-one", json, fine.clone()).await, 422, "too hot"),
        ] {
            if what == "type" && facade.ollama {
                continue;
            }
            let what = format!("{} {what}", facade.path);
            assert_eq!(response.status(), status, "{what}");
            let message = error_message(facade, response, &what).await;
            assert!(message.contains(said), "{what}: {message}");
        }
    }
}

#[tokio::test]
async fn an_answer_runs_as_a_chat_and_says_who_answered() {
    let api = api(settings(), |intent| {
        futures::future::ok(if intent.requirements.stream {
            pieces(SSE, [ROLE, &TEXT[..40], &TEXT[40..], STOP, USAGE, DONE].map(Ok).to_vec())
        } else {
            pieces("application/json", vec![Ok(WHOLE)])
        })
        .boxed()
    })
    .await;
    for (round, facade) in FACADES.iter().enumerate() {
        for stream in [false, true] {
            let response = ask(&api, facade, stream).await;
            assert_eq!(response.status(), 200, "{}", facade.path);
            for (name, value) in [("x-atmosphere-node", "gpu"), ("x-atmosphere-decision", "d-1")] {
                assert_eq!(response.headers()[name], value, "{}", facade.path);
            }
            let text = response.text().await.expect("text");
            assert!(text.contains("Grüße"), "{text}");
            if stream {
                assert_eq!((facade.end)(&text), (true, None), "{text}");
            }
        }
        let intent = api.node.intents.lock()[2 * round + 1].clone();
        assert_eq!((intent.operation, intent.target), (Operation::Chat, Target::Named("llama3.2".to_owned())));
        assert!(intent.requirements.stream);
        let chat: Value = serde_json::from_slice(&intent.payload).expect("JSON");
        assert_eq!(chat["messages"], json!([{"role": "user", "content": "hi"}]));
        assert_eq!(chat["stream_options"], json!({"include_usage": true}));
    }
    let metrics = api.metrics().await;
    let complete = format!("atmosphere_answers_total{{operation=\"chat\",outcome=\"complete\"}} {}", 2 * FACADES.len());
    assert!(metrics.contains(&complete), "{metrics}");
    assert!(metrics.contains("atmosphere_http_requests_in_flight 0"), "{metrics}");
}

#[tokio::test]
async fn what_goes_wrong_in_the_middle_is_an_error_and_no_end() {
    let api = api(settings(), |_| {
        let broken = Failure::new(ErrorClass::Interrupted, "gpu has left \"us\"");
        futures::future::ok(pieces(SSE, vec![Ok(ROLE), Ok(TEXT), Err(broken)])).boxed()
    })
    .await;
    for facade in FACADES {
        let text = ask(&api, facade, true).await.text().await.expect("a body that ends");
        assert_eq!((facade.end)(&text), (false, Some("gpu has left \"us\"".to_owned())), "{text}");
        assert!(text.contains("Grüße"), "{text}");
    }
    assert!(api.metrics().await.contains(&format!("outcome=\"failed\"}} {}", FACADES.len())));
}

#[tokio::test]
async fn an_answer_that_is_no_chat_is_an_error() {
    let api = api(settings(), |intent| {
        let stream = intent.requirements.stream;
        futures::future::ok(if stream {
            pieces(SSE, vec![Ok("data: {oops\n\n")])
        } else {
            pieces("application/json", vec![Ok("{\"a\"")])
        })
        .boxed()
    })
    .await;
    for facade in FACADES {
        let response = ask(&api, facade, false).await;
        assert_eq!(response.status(), 502);
        error_message(facade, response, facade.path).await;
        let text = ask(&api, facade, true).await.text().await.expect("a body that ends");
        let (well, failed) = (facade.end)(&text);
        assert!(!well && failed.is_some(), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_drops_the_work() {
    let drops = Drops::default();
    let for_node = drops.clone();
    let api = api(settings(), move |intent| {
        let guard = for_node.guard();
        async move {
            if intent.requirements.stream {
                let events = async_stream::stream! {
                    let _guard = guard;
                    yield Ok(Bytes::from(TEXT));
                    futures::future::pending::<()>().await;
                };
                return Ok(reply(SSE, events.boxed()));
            }
            let _guard = guard;
            futures::future::pending().await
        }
        .boxed()
    })
    .await;
    for (round, facade) in FACADES.iter().enumerate() {
        let mut response = ask(&api, facade, true).await;
        assert!(response.chunk().await.expect("a chunk").is_some());
        drop(response);
        eventually("the stream's work is dropped", || drops.count() == 2 * round + 1).await;
        let asked = api.node.intents.lock().len();
        let mut request = Box::pin(ask(&api, facade, false));
        tokio::select! {
            _ = &mut request => panic!("there is no answer"),
            () = eventually("the node works on it", || api.node.intents.lock().len() > asked) => {}
        }
        drop(request);
        eventually("the work is dropped", || drops.count() == 2 * round + 2).await;
    }
}

#[tokio::test]
async fn a_slow_start_and_a_late_failure_are_told_in_the_stream() {
    let settings = Settings { keepalive: Duration::from_millis(30), ..settings() };
    let api = api(settings, |_| {
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err(failure(1, Failure::new(ErrorClass::Overloaded, "the queue is full")))
        }
        .boxed()
    })
    .await;
    for facade in FACADES {
        let response = ask(&api, facade, true).await;
        assert_eq!(response.status(), 200);
        let text = response.text().await.expect("text");
        assert_eq!((facade.end)(&text), (false, Some("the queue is full".to_owned())), "{text}");
    }
}

#[tokio::test]
async fn deadlines_and_preferences_hold_there_too() {
    let api = silent_api(settings()).await;
    for facade in FACADES {
        let request = api.client.post(url(&api, facade, facade.path)).json(&(facade.body)(false));
        let response = request.header("x-atmosphere-timeout", "0.01").send().await.expect("an answer");
        assert_eq!(response.status(), 504);
        error_message(facade, response, facade.path).await;
    }
}

#[tokio::test]
async fn tokens_are_counted_by_whoever_has_the_model_or_estimated() {
    let api = api(settings(), |intent| {
        assert_eq!(intent.operation, Operation::CountTokens);
        if intent.query.as_deref() == Some("slow") {
            return futures::future::pending().boxed();
        }
        futures::future::ok(pieces("application/json", vec![Ok("{\"input_tokens\":42}")])).boxed()
    })
    .await;
    let long = "x".repeat(400);
    for (model, said, count, estimated) in
        [("llama3.2", &*long, 42, false), ("auto", &long, 104, true), ("llama3.2", "slow", 5, true)]
    {
        let body = json!({"model": model, "messages": [{"role": "user", "content": said}]});
        let request = api.client.post(api.url("/v1/messages/count_tokens")).json(&body);
        let response = request.header("x-atmosphere-timeout", "2").send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{model}");
        assert_eq!(response.headers().contains_key("x-atmosphere-estimate"), estimated, "{model} {said}");
        let counted: Value = response.json().await.expect("JSON");
        assert_eq!(counted, json!({ "input_tokens": count }), "{model} {said}");
    }
}

#[tokio::test]
async fn ollamas_port_lists_the_mesh_and_has_openais_routes_too() {
    let api = silent_api(settings()).await;
    let get = |path: &str| {
        let request = api.client.get(format!("http://{}{path}", api.ollama)).send();
        async { request.await.expect("an answer") }
    };
    let post = |path: &str, body: Value| {
        // As curl sends it.
        let request = api.client.post(format!("http://{}{path}", api.ollama)).body(body.to_string());
        let request = request.header("content-type", "application/x-www-form-urlencoded").send();
        async { request.await.expect("an answer") }
    };
    assert_eq!(get("/").await.text().await.expect("text"), "Ollama is running");
    assert!(get("/api/version").await.json::<Value>().await.expect("JSON")["version"].is_string());
    let tags: Value = get("/api/tags").await.json().await.expect("JSON");
    let names: Vec<_> = tags["models"].as_array().expect("models").iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["llama3.2:latest", "nomic-embed", "qwen/coder:7b@q4", "auto", "best-chat"]);
    assert_eq!(tags["models"][0]["nodes"], json!(["gpu", "laptop"]));
    assert_eq!(tags["models"][1]["capabilities"], json!(["embedding"]));
    let shown: Value = post("/api/show", json!({"model": "llama3.2"})).await.json().await.expect("JSON");
    assert_eq!(shown["model_info"]["atmosphere.context_length"], 8192);
    assert_eq!(post("/api/show", json!({"model": "none"})).await.status(), 404);
    assert_eq!(post("/api/show", json!([])).await.status(), 400);
    let loaded: Value = post("/api/generate", json!({"model": "llama3.2"})).await.json().await.expect("JSON");
    assert_eq!((&loaded["done"], &loaded["done_reason"]), (&json!(true), &json!("load")));
    assert_eq!(post("/api/chat", json!({"model": "none", "messages": []})).await.status(), 404);
    assert_eq!(post("/api/pull", json!({"model": "x"})).await.status(), 501);
    assert_eq!(get("/v1/models").await.json::<Value>().await.expect("JSON")["object"], "list");
    let gone: Value = get("/v1/nope").await.json().await.expect("JSON");
    assert_eq!(gone["error"]["code"], "not_found");
    // The API's own port has none of it.
    let (status, gone) = api.get("/api/tags").await;
    assert_eq!((status, &gone["error"]["code"]), (404, &json!("not_found")));
    let metrics = api.metrics().await;
    assert!(metrics.contains("route=\"/api/show\",status=\"4xx\"} 2"), "{metrics}");
}

#[tokio::test]
async fn vectors_are_told_as_ollama_tells_them() {
    let api = api(settings(), |_| {
        let list = r#"{"data":[{"index":0,"embedding":[0.5,1]}],"usage":{"prompt_tokens":2}}"#;
        futures::future::ok(pieces("application/json", vec![Ok(list)])).boxed()
    })
    .await;
    for (path, body, field, vector) in [
        ("/api/embed", json!({"model": "nomic-embed", "input": "x"}), "embeddings", json!([[0.5, 1]])),
        ("/api/embeddings", json!({"model": "nomic-embed", "prompt": "x"}), "embedding", json!([0.5, 1])),
    ] {
        let response = api.client.post(format!("http://{}{path}", api.ollama)).json(&body).send().await;
        let told: Value = response.expect("an answer").json().await.expect("JSON");
        assert_eq!(told[field], vector, "{path}");
    }
    assert!(api.node.intents.lock().iter().all(|intent| intent.operation == Operation::Embed));
}

#[tokio::test]
async fn anthropics_clients_get_their_own_list_of_models() {
    let api = silent_api(settings()).await;
    let get = |path: &str| {
        let request = api.client.get(api.url(path)).header("anthropic-version", "2023-06-01").send();
        async { request.await.expect("an answer") }
    };
    let list: Value = get("/v1/models").await.json().await.expect("JSON");
    assert_eq!((&list["has_more"], &list["first_id"]), (&json!(false), &json!("auto")));
    assert!(list["data"].as_array().is_some_and(|models| models.iter().all(|model| model["type"] == "model")));
    let one: Value = get("/v1/models/llama3.2").await.json().await.expect("JSON");
    assert_eq!((&one["id"], &one["max_input_tokens"]), (&json!("llama3.2"), &json!(8192)));
    let gone = get("/v1/models/none").await;
    assert_eq!(gone.status(), 404);
    let gone: Value = gone.json().await.expect("JSON");
    assert_eq!(gone["error"]["type"], "not_found_error");
}
