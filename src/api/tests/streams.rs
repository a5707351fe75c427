//! Answers, streamed and whole: what passes through, what is added, and how they end.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};

use super::scripted::{Drops, a_chat, api, eventually, failure, pieces, reply, settings, silent_api};
use crate::api::Settings;
use crate::capability::{ErrorClass, Failure, Operation, Phase, Preference, Progress, Target};

const SSE: &str = "text/event-stream";

#[tokio::test]
async fn a_stream_passes_through_byte_for_byte() {
    let sent = [
        ": a comment\n\n",
        "data: {\"x\":\"ü",
        "🦙\"}\r\n\r\n",
        "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9}}\n\n",
        "data: [DONE]\n\n",
    ];
    let api = api(settings(), move |_| futures::future::ok(pieces(SSE, sent.map(Ok).to_vec())).boxed()).await;
    let response = api.post("/v1/chat/completions", &a_chat(true)).await;
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
        ("server", "atmosphere"),
        ("x-atmosphere-node", "gpu"),
        ("x-atmosphere-model", "llama3.2"),
        ("x-atmosphere-decision", "d-1"),
        ("x-atmosphere-attempts", "1"),
        ("x-atmosphere-route-reason", "warm on gpu ? nearest"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(headers.contains_key("openai-processing-ms"));
    assert_eq!(response.text().await.expect("text"), sent.concat());
    let metrics = api.metrics().await;
    for line in [
        "atmosphere_tokens_total{operation=\"chat\",direction=\"input\"} 3",
        "atmosphere_tokens_total{operation=\"chat\",direction=\"output\"} 9",
        "atmosphere_answers_total{operation=\"chat\",outcome=\"complete\"} 1",
        "atmosphere_http_requests_total{route=\"/v1/chat/completions\",status=\"2xx\"} 1",
        "atmosphere_http_requests_in_flight 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_whole_answer_passes_through_byte_for_byte() {
    let sent = "{ \"choices\" : [ ], \"reasoning_content\": \"ü\" ,\"made_up\":1}\n";
    let api = api(settings(), move |_| {
        futures::future::ok(pieces("application/json; charset=utf-8", vec![Ok(&sent[..20]), Ok(&sent[20..])])).boxed()
    })
    .await;
    let response = api.post("/v1/chat/completions", &a_chat(false)).await;
    assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
    assert_eq!(response.headers()["content-length"], sent.len().to_string().as_str());
    assert_eq!(response.text().await.expect("text"), sent);
}

#[tokio::test]
async fn the_node_gets_the_body_untouched_and_what_the_headers_say() {
    let api = api(settings(), |_| futures::future::ok(pieces("application/json", vec![Ok("{}")])).boxed()).await;
    let body =
        "{ \"model\":\"gpu/x:7b@q4\",\"made_up\" : 1.50, \"messages\":[{\"role\":\"user\",\"content\":\"hi\"}] }\n";
    let request = api.client.post(api.url("/v1/chat/completions")).body(body);
    let request = request.header("content-type", "application/json").header("x-atmosphere-timeout", "90");
    let request = request.header("x-atmosphere-prefer", "latency").header("authorization", "Bearer sk-1");
    let request = request.header("traceparent", "00-1-2-01").header("x-request-id", "mine-1");
    let response = request.send().await.expect("an answer");
    assert_eq!(response.headers()["x-request-id"], "mine-1");
    let intent = api.node.intents.lock()[0].clone();
    assert_eq!(intent.payload, body.as_bytes());
    assert_eq!((intent.request_id.as_str(), intent.operation), ("mine-1", Operation::Chat));
    assert_eq!(intent.target, Target::Named("gpu/x:7b@q4".to_owned()));
    assert_eq!((intent.deadline, intent.preference), (Duration::from_secs(90), Preference::Latency));
    assert_eq!(intent.headers.into_iter().collect::<Vec<_>>(), [("traceparent".to_owned(), "00-1-2-01".to_owned())]);

    for (path, body, operation) in [
        ("/v1/completions", json!({"prompt": "x"}), Operation::Complete),
        ("/v1/embeddings", json!({"input": ["x"]}), Operation::Embed),
    ] {
        assert_eq!(api.post(path, &body).await.status(), 200, "{path}");
        let intent = api.node.intents.lock().last().cloned().expect("an intent");
        assert_eq!((intent.operation, intent.target), (operation, Target::Auto), "{path}");
        assert_eq!(intent.deadline, Duration::from_secs(600));
    }
}

#[tokio::test]
async fn a_request_id_is_taken_over_or_made() {
    let api = silent_api(settings()).await;
    let long = "x".repeat(129);
    for (sent, kept) in [(Some("a-1.b:c/d"), true), (Some("with space"), false), (Some(&*long), false), (None, false)] {
        let mut request = api.client.get(api.url("/nope"));
        if let Some(sent) = sent {
            request = request.header("x-request-id", sent);
        }
        let response = request.send().await.expect("an answer");
        let id = response.headers()["x-request-id"].to_str().expect("text");
        if kept {
            assert_eq!(Some(id), sent);
        } else {
            assert_eq!(uuid::Uuid::parse_str(id).expect("a uuid").get_version_num(), 7, "{sent:?}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_one_error_and_without_done() {
    let api = api(settings(), |_| {
        let broken = Failure::new(ErrorClass::Interrupted, "gpu has left \"us\"");
        futures::future::ok(pieces(SSE, vec![Ok("data: {\"a\":1}\n\n"), Err(broken), Ok("data: [DONE]\n\n")])).boxed()
    })
    .await;
    let response = api.post("/v1/chat/completions", &a_chat(true)).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.expect("a body that ends");
    let events: Vec<_> = text.split("\n\n").collect();
    assert_eq!((events.len(), events[0], events[2]), (3, "data: {\"a\":1}", ""), "{text}");
    let error: Value = serde_json::from_str(events[1].strip_prefix("data: ").expect("an event")).expect("JSON");
    assert_eq!(
        error,
        json!({"error": {"message": "gpu has left \"us\"", "type": "server_error", "param": null, "code": "interrupted"}})
    );
    assert!(api.metrics().await.contains("outcome=\"failed\"} 1"));
}

#[tokio::test]
async fn a_stream_that_is_silent_says_that_it_lives() {
    let settings = Settings { keepalive: Duration::from_millis(50), ..settings() };
    let api = api(settings, |intent| {
        let slow_start = intent.query.as_deref() == Some("slow start");
        async move {
            if slow_start {
                tokio::time::sleep(Duration::from_millis(180)).await;
            }
            let events = async_stream::stream! {
                yield Ok(Bytes::from("data: 1\n\n"));
                tokio::time::sleep(Duration::from_millis(180)).await;
                yield Ok(Bytes::from("data: [DONE]\n\n"));
            };
            Ok(reply(SSE, events.boxed()))
        }
        .boxed()
    })
    .await;
    for (query, head) in [("slow start", ": keepalive\n\n"), ("hi", "data: 1\n\n")] {
        let body = json!({"stream": true, "messages": [{"role": "user", "content": query}]});
        let text = api.post("/v1/chat/completions", &body).await.text().await.expect("text");
        assert!(text.starts_with(head), "{query}: {text}");
        let between = text.split("data: 1\n\n").nth(1).expect("a first event");
        assert!(between.starts_with(": keepalive\n\n") && between.ends_with("data: [DONE]\n\n"), "{query}: {text}");
        let told = ": atmosphere node=gpu model=llama3.2 decision=d-1 attempts=1\n\n";
        assert_eq!(text.contains(told), query == "slow start", "{text}");
        let events = text.replace(": keepalive\n\n", "").replace(told, "");
        assert_eq!(events, "data: 1\n\ndata: [DONE]\n\n");
    }
}

#[tokio::test]
async fn a_stream_that_waits_says_what_for_and_each_thing_once() {
    let settings = Settings { keepalive: Duration::from_millis(200), ..settings() };
    let api = api(settings, |intent| {
        async move {
            let whereabouts = intent.whereabouts.expect("a stream is told where it is");
            for (phase, queue_position) in [(Phase::Queued, 2), (Phase::Loading, 0), (Phase::Prefill, 0)] {
                // Said again and again, as a node's heartbeat does.
                for _ in 0..4 {
                    whereabouts.tell(Progress { phase, queue_position });
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
            Ok(pieces(SSE, vec![Ok("data: 1\n\n"), Ok("data: [DONE]\n\n")]))
        }
        .boxed()
    })
    .await;
    let body = json!({"stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let text = api.post("/v1/chat/completions", &body).await.text().await.expect("text");
    let comments: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(": atmosphere ")).collect();
    assert_eq!(comments[..3], ["queued position=2", "loading", "prefill"], "{text}");
    assert!(comments[3].starts_with("node=gpu") && comments.len() == 4, "{text}");
    assert!(text.ends_with("data: 1\n\ndata: [DONE]\n\n"));
}

#[tokio::test]
async fn a_stream_may_begin_at_any_moment_of_its_time() {
    let api = api(settings(), |intent| {
        async move {
            let whereabouts = intent.whereabouts.expect("a stream is told where it is");
            whereabouts.tell(Progress { phase: Phase::Prefill, queue_position: 0 });
            // Longer than the head of a response is held back.
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(pieces(SSE, vec![Ok("data: 1\n\n"), Ok("data: [DONE]\n\n")]))
        }
        .boxed()
    })
    .await;
    let body = json!({"stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let request = api.client.post(api.url("/v1/chat/completions")).json(&body);
    let response = request.header("x-atmosphere-timeout", "9").send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let text = response.text().await.expect("text");
    assert!(text.starts_with(": atmosphere prefill\n\n") && text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test]
async fn what_goes_wrong_after_a_slow_start_is_told_in_the_stream() {
    let settings = Settings { keepalive: Duration::from_millis(30), ..settings() };
    let api = api(settings, |intent| {
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if intent.query.as_deref() == Some("json") {
                return Ok(pieces("application/json", vec![Ok("{}")]));
            }
            let own = Bytes::from_static(br#"{"error":{"message":"too long a context"}}"#);
            let own = Some((own, "application/json".to_owned()));
            Err(failure(1, Failure { status: 400, body: own, ..Failure::new(ErrorClass::Request, "refused") }))
        }
        .boxed()
    })
    .await;
    for (query, said) in [("json", "is not a stream"), ("bad", "too long a context")] {
        let body = json!({"stream": true, "messages": [{"role": "user", "content": query}]});
        let response = api.post("/v1/chat/completions", &body).await;
        assert_eq!(response.status(), 200);
        let text = response.text().await.expect("text");
        let last = text.trim_end().rsplit("\n\n").next().expect("an event");
        assert!(last.starts_with("data: {\"error\":") && last.contains(said), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_drops_the_work_streamed_or_not() {
    let drops = Drops::default();
    let for_node = drops.clone();
    let api = api(settings(), move |intent| {
        let guard = for_node.guard();
        async move {
            if intent.requirements.stream {
                let events = async_stream::stream! {
                    let _guard = guard;
                    yield Ok(Bytes::from("data: 1\n\n"));
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
    for (round, stream) in [false, true].into_iter().enumerate() {
        let (client, url) = (api.client.clone(), api.url("/v1/chat/completions"));
        let mut request = Box::pin(async move { client.post(url).json(&a_chat(stream)).send().await });
        if stream {
            let mut response = request.await.expect("an answer");
            assert_eq!(response.chunk().await.expect("a chunk").as_deref(), Some(&b"data: 1\n\n"[..]));
            drop(response);
        } else {
            let wait = eventually("the node works on it", || api.node.intents.lock().len() > round);
            tokio::select! {
                _ = &mut request => panic!("there is no answer"),
                () = wait => {}
            }
            drop(request);
        }
        eventually("the work is dropped", || drops.count() == round + 1).await;
    }
    let metrics = api.metrics().await;
    assert!(metrics.contains("outcome=\"client_left\"} 2"), "{metrics}");
    assert!(metrics.contains("in_flight 0"), "{metrics}");
}
