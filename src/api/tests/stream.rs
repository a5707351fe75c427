//! The WebSocket: who may open it, what it tells, what it takes, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::scripted::{Api, Drops, PATIENCE, a_chat, api, eventually, failure, pieces, reply, settings, silent_api};
use crate::api::{Keys, Settings};
use crate::capability::{ErrorClass, Failure, Operation, Phase, Progress, Target};

const SSE: &str = "text/event-stream";

/// A client of the socket.
struct Client(WebSocketStream<TcpStream>);

impl Client {
    /// Opens it and reads the `hello`.
    async fn open(api: &Api, path: &str) -> (Self, Value) {
        let mut request = format!("ws://{}{path}", api.address).into_client_request().expect("an address");
        request.headers_mut().insert("authorization", "Bearer sk-good".parse().expect("a value"));
        let stream = TcpStream::connect(api.address).await.expect("it listens");
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("it opens");
        let mut client = Self(socket);
        let hello = client.next().await;
        assert_eq!(hello["type"], "hello");
        (client, hello)
    }

    async fn say(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).await.expect("it is open");
    }

    async fn ask(&mut self, id: &str, body: &Value) {
        self.say(&json!({"type": "request", "id": id, "path": "/v1/chat/completions", "body": body})).await;
    }

    /// The next message, or the code that it was closed with.
    async fn next_or_end(&mut self) -> Result<Value, Option<u16>> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("in time") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(text.as_str()).expect("JSON")),
                Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => return Err(Some(code.into())),
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Err(None),
                Some(Ok(_)) => {}
            }
        }
    }

    async fn next(&mut self) -> Value {
        self.next_or_end().await.expect("a message")
    }

    /// The messages of a request to its end.
    async fn answer(&mut self, id: &str) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let message = self.next().await;
            assert_eq!(message["id"], id, "{message}");
            let is_last = ["done", "error", "cancelled"].iter().any(|last| message["type"] == *last);
            all.push(message);
            if is_last {
                return all;
            }
        }
    }
}

/// An answer in these pieces, to whatever is asked.
async fn saying(content_type: &'static str, said: Vec<Result<&'static str, Failure>>) -> Api {
    api(settings(), move |_| futures::future::ok(pieces(content_type, said.clone())).boxed()).await
}

#[tokio::test]
async fn a_socket_begins_with_hello_and_tells_events_with_their_numbers() {
    let api = silent_api(settings()).await;
    api.node.events.emit("node.left", || json!({}));
    let (mut client, hello) = Client::open(&api, "/v1/stream").await;
    assert_eq!((&hello["node_name"], &hello["seq"], &hello["events"]), (&json!("laptop"), &json!(1), &json!(["*"])));
    assert_eq!(hello["limits"], json!({"requests": 16, "message_bytes": 8 * 1024 * 1024}));
    assert!(hello["started_at_ms"].as_u64().is_some() && hello["version"].is_string());

    api.node.events.emit("node.joined", || json!({"name": "gpu"}));
    let event = client.next().await;
    assert_eq!(
        (&event["type"], &event["seq"], &event["event"], &event["data"]),
        (&json!("event"), &json!(2), &json!("node.joined"), &json!({"name": "gpu"}))
    );
    client.say(&json!({"type": "subscribe", "events": ["call.*"]})).await;
    assert_eq!(client.next().await, json!({"type": "subscribed", "events": ["call.*"], "seq": 2}));
    for kind in ["decision", "node.left", "call.end"] {
        api.node.events.emit(kind, || json!({}));
    }
    let event = client.next().await;
    assert_eq!((&event["event"], &event["seq"]), (&json!("call.end"), &json!(5)));

    // None at all: nothing is made for this client any more.
    client.say(&json!({"type": "subscribe", "events": []})).await;
    assert_eq!(client.next().await["seq"], 5);
    api.node.events.emit("call.end", || unreachable!("nobody watches"));
    let (_, hello) = Client::open(&api, "/v1/stream?events=decision,%20node.*").await;
    assert_eq!((&hello["events"], &hello["seq"]), (&json!(["decision", "node.*"]), &json!(6)));
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_what_is_lost() {
    let api = silent_api(settings()).await;
    let (mut client, _) = Client::open(&api, "/v1/stream").await;
    // Without a pause in between nobody can read them in time.
    for _ in 0..300 {
        api.node.events.emit("decision", || json!({}));
    }
    assert_eq!(client.next().await, json!({"type": "lagged", "missed": 44}));
    assert_eq!(client.next().await["seq"], 45);
}

#[tokio::test]
async fn a_request_is_told_from_its_acceptance_to_its_end() {
    let api = saying(
        SSE,
        vec![
            Ok("data: {\"x\": 1.50}\n\n: atmosphere failover m on gpu was lost in the middle of it\n\ndata: {\"y\":"),
            Ok("\"\u{fc}\"}\r\n\r\n"),
            Ok("data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9}}\n\ndata: [DONE]\n\n"),
        ],
    )
    .await;
    let (mut client, _) = Client::open(&api, "/v1/stream?events=").await;
    let headers = json!({"x-atmosphere-timeout": "90", "x-request-id": "mine-1", "cache-control": "no-store"});
    client
        .say(&json!({"type": "request", "id": "a", "path": "/v1/chat/completions", "body": a_chat(true), "headers": headers}))
        .await;
    let mut answer = client.answer("a").await;
    let done = answer.pop().expect("an end");
    assert_eq!((&done["type"], &done["usage"]), (&json!("done"), &json!({"prompt_tokens": 3, "completion_tokens": 9})));
    let node = super::scripted::peer(2).to_base58();
    assert_eq!(
        answer,
        [
            json!({"type": "accepted", "id": "a", "request": "mine-1"}),
            json!({
                "type": "head", "id": "a", "request": "mine-1", "node": node, "node_name": "gpu", "model": "llama3.2",
                "decision": "d-1", "reason": "warm on gpu — nearest", "attempts": 1, "streamed": true,
            }),
            json!({"type": "progress", "id": "a", "phase": "decode"}),
            json!({"type": "data", "id": "a", "data": {"x": 1.50}}),
            json!({"type": "progress", "id": "a", "phase": "failover", "text": "m on gpu was lost in the middle of it"}),
            json!({"type": "data", "id": "a", "data": {"y": "ü"}}),
            json!({"type": "data", "id": "a", "data": {"usage": {"prompt_tokens": 3, "completion_tokens": 9}}}),
        ]
    );
    let intent = api.node.intents.lock()[0].clone();
    assert_eq!((intent.request_id.as_str(), intent.operation), ("mine-1", Operation::Chat));
    assert_eq!((intent.deadline, intent.reuse.no_store), (Duration::from_secs(90), true));
    assert_eq!(intent.reuse.tenant, *blake3::hash(b"sk-good").as_bytes(), "the socket's key counts");
    let metrics = api.metrics().await;
    for line in [
        "atmosphere_tokens_total{operation=\"chat\",direction=\"output\"} 9",
        "atmosphere_answers_total{operation=\"chat\",outcome=\"complete\"} 1",
        "atmosphere_http_requests_total{route=\"/v1/stream\",status=\"1xx\"} 1",
        "atmosphere_http_requests_in_flight 0",
        "atmosphere_stream_sockets 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_is_one_piece() {
    let api =
        saying("application/json", vec![Ok("{ \"data\": [1.50],"), Ok("\"usage\":{\"prompt_tokens\":3}}\n")]).await;
    let (mut client, _) = Client::open(&api, "/v1/stream?events=").await;
    client
        .say(&json!({"type": "request", "id": "e", "path": "/v1/embeddings", "body": {"model": "m", "input": "x"}}))
        .await;
    let answer = client.answer("e").await;
    assert_eq!((answer.len(), &answer[1]["streamed"]), (4, &json!(false)), "{answer:?}");
    assert_eq!(answer[2]["data"], json!({"data": [1.50], "usage": {"prompt_tokens": 3}}));
    assert_eq!((&answer[3]["type"], &answer[3]["usage"]["prompt_tokens"]), (&json!("done"), &json!(3)));
    let intent = api.node.intents.lock()[0].clone();
    assert_eq!((intent.operation, intent.target), (Operation::Embed, Target::Named("m".to_owned())));
}

#[tokio::test]
async fn where_a_request_is_is_told_each_thing_once_streamed_or_not() {
    let api = api(settings(), |intent| {
        async move {
            let whereabouts = intent.whereabouts.expect("it is told where it is");
            for (phase, queue_position) in [(Phase::Queued, 2), (Phase::Loading, 0), (Phase::Prefill, 0)] {
                for _ in 0..3 {
                    whereabouts.tell(Progress { phase, queue_position });
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            Ok(pieces(if intent.requirements.stream { SSE } else { "application/json" }, vec![Ok("{}")]))
        }
        .boxed()
    })
    .await;
    let (mut client, _) = Client::open(&api, "/v1/stream?events=").await;
    for stream in [false, true] {
        client.ask("a", &a_chat(stream)).await;
        let answer = client.answer("a").await;
        assert_eq!(
            answer[1..4],
            [
                json!({"type": "progress", "id": "a", "phase": "queued", "position": 2}),
                json!({"type": "progress", "id": "a", "phase": "loading"}),
                json!({"type": "progress", "id": "a", "phase": "prefill"}),
            ],
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_failure_has_its_status_whenever_it_comes() {
    let api = api(settings(), |intent| {
        let busy = || Failure {
            status: 429,
            retry_after: Some(Duration::from_secs(7)),
            body: Some((
                Bytes::from_static(br#"{"error":{"message":"slow down","extra":1}}"#),
                "application/json".into(),
            )),
            ..Failure::new(ErrorClass::Overloaded, "busy")
        };
        match intent.query.as_deref() {
            Some("late") => async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(failure(1, busy()))
            }
            .boxed(),
            Some("panic") => futures::future::lazy(|_| panic!("a mistake of ours")).boxed(),
            Some("inside") => {
                let inside = vec![Ok("data: {}\n\n"), Ok("data: {\"error\":{\"message\":\"full\",\"code\":507}}\n\n")];
                futures::future::ok(pieces(SSE, inside)).boxed()
            }
            _ => {
                let broken = Failure::new(ErrorClass::Interrupted, "gpu has left");
                futures::future::ok(pieces(SSE, vec![Ok("data: {}\n\n"), Err(broken)])).boxed()
            }
        }
    })
    .await;
    let (mut client, _) = Client::open(&api, "/v1/stream?events=").await;
    for (query, pieces, status, message) in [
        ("late", 0, 429, "slow down"),
        ("inside", 1, 507, "full"),
        ("broken", 1, 502, "gpu has left"),
        ("panic", 0, 500, "mistake"),
    ] {
        let body = json!({"stream": true, "messages": [{"role": "user", "content": query}]});
        client.ask(query, &body).await;
        let mut answer = client.answer(query).await;
        let end = answer.pop().expect("an end");
        assert_eq!((&end["type"], &end["status"]), (&json!("error"), &json!(status)), "{end}");
        assert!(end["error"]["message"].as_str().is_some_and(|said| said.contains(message)), "{end}");
        assert_eq!(answer.iter().filter(|message| message["type"] == "data").count(), pieces, "{query}");
        if query == "late" {
            assert_eq!((&end["retry_after"], &end["error"]["extra"]), (&json!(7), &json!(1)), "a backend's own words");
        }
    }
    let metrics = api.metrics().await;
    assert!(metrics.contains("outcome=\"failed\"} 3") && metrics.contains("in_flight 0"), "{metrics}");
}

#[tokio::test]
async fn a_request_that_is_cancelled_or_left_is_dropped() {
    let drops = Drops::default();
    let for_node = drops.clone();
    let api = api(settings(), move |intent| {
        let guard = for_node.guard();
        async move {
            if !intent.requirements.stream {
                let _guard = guard;
                return futures::future::pending().await;
            }
            let events = async_stream::stream! {
                let _guard = guard;
                yield Ok(Bytes::from("data: 1\n\n"));
                futures::future::pending::<()>().await;
            };
            Ok(reply(SSE, events.boxed()))
        }
        .boxed()
    })
    .await;
    let (mut client, _) = Client::open(&api, "/v1/stream?events=").await;
    for (round, stream) in [false, true].into_iter().enumerate() {
        client.ask("a", &a_chat(stream)).await;
        while client.next().await["type"] != if stream { "data" } else { "accepted" } {}
        client.say(&json!({"type": "cancel", "id": "a"})).await;
        assert_eq!(client.next().await, json!({"type": "cancelled", "id": "a", "was_running": true}));
        eventually("the work is dropped", || drops.count() == round + 1).await;
    }
    client.say(&json!({"type": "cancel", "id": "a"})).await;
    assert_eq!(client.next().await, json!({"type": "cancelled", "id": "a", "was_running": false}));
    // The id is free again, and what runs ends with the socket.
    for (id, stream) in [("a", false), ("b", true)] {
        client.ask(id, &a_chat(stream)).await;
    }
    eventually("both are at work", || api.node.intents.lock().len() == 4).await;
    drop(client);
    eventually("the work is dropped", || drops.count() == 4).await;
    let metrics = api.metrics().await;
    assert!(metrics.contains("outcome=\"client_left\"} 4"), "{metrics}");
    assert!(metrics.contains("in_flight 0") && metrics.contains("stream_sockets 0"), "{metrics}");
}

#[tokio::test]
async fn requests_run_beside_each_other_up_to_a_number() {
    let api = silent_api(settings()).await;
    let (mut client, _) = Client::open(&api, "/v1/stream?events=").await;
    for index in 0..16 {
        client.ask(&index.to_string(), &a_chat(true)).await;
        assert_eq!(client.next().await["type"], "accepted");
    }
    for (id, status, code) in [("16", 429, "too_many_requests"), ("3", 409, "id_in_use")] {
        client.ask(id, &a_chat(true)).await;
        let error = client.next().await;
        assert_eq!(
            (&error["id"], &error["status"], &error["error"]["code"]),
            (&json!(id), &json!(status), &json!(code))
        );
    }
    client.say(&json!({"type": "cancel", "id": "3"})).await;
    assert_eq!(client.next().await["type"], "cancelled");
    client.ask("3", &a_chat(true)).await;
    assert_eq!(client.next().await["type"], "accepted");

    // The node's own limits hold as well.
    let full = silent_api(Settings { max_concurrency: 1, ..settings() }).await;
    let (mut client, _) = Client::open(&full, "/v1/stream?events=").await;
    client.ask("a", &a_chat(true)).await;
    assert_eq!(client.next().await["type"], "accepted");
    client.ask("b", &a_chat(true)).await;
    let error = client.next().await;
    assert_eq!((&error["status"], &error["retry_after"]), (&json!(503), &json!(1)), "{error}");
}

#[tokio::test]
async fn what_cannot_be_understood_is_answered_and_what_is_too_large_ends_it() {
    let api = silent_api(Settings { max_body: 1000, ..settings() }).await;
    let (mut client, hello) = Client::open(&api, "/v1/stream?events=").await;
    client.0.send(Message::text("{")).await.expect("open");
    let error = client.next().await;
    assert_eq!((&error["type"], &error["status"], error.get("id")), (&json!("error"), &json!(400), None));
    client.0.send(Message::binary(vec![1, 2, 3])).await.expect("open");
    assert!(client.next().await["error"]["message"].as_str().is_some_and(|message| message.contains("binary")));
    client.ask("a", &json!({"messages": "none"})).await;
    let error = client.next().await;
    assert_eq!(
        (&error["id"], &error["status"], &error["error"]["param"]),
        (&json!("a"), &json!(400), &json!("messages"))
    );
    client.0.send(Message::Ping(Bytes::from_static(b"?"))).await.expect("open");

    let most = usize::try_from(hello["limits"]["message_bytes"].as_u64().expect("a number")).expect("small");
    let _ = client.0.send(Message::text("x".repeat(most + 1))).await;
    let error = client.next().await;
    assert_eq!((&error["status"], &error["error"]["code"]), (&json!(413), &json!("message_too_large")));
    assert_eq!(client.next_or_end().await.expect_err("it ends"), Some(1009));
}

#[tokio::test]
async fn a_client_that_answers_nothing_is_let_go_and_one_that_does_stays() {
    let drops = Drops::default();
    let for_node = drops.clone();
    let settings = Settings { keepalive: Duration::from_millis(150), ..settings() };
    let api = api(settings, move |_| {
        let guard = for_node.guard();
        async move {
            let _guard = guard;
            futures::future::pending().await
        }
        .boxed()
    })
    .await;
    let (mut lively, _) = Client::open(&api, "/v1/stream?events=node.left").await;
    let (mut dead, _) = Client::open(&api, "/v1/stream?events=").await;
    dead.ask("a", &a_chat(true)).await;
    eventually("it runs", || api.node.intents.lock().len() == 1).await;
    // Nobody polls the dead one, so that its pings are not answered.
    let living = async {
        loop {
            if lively.next().await["event"] == "node.left" {
                return;
            }
        }
    };
    let dying = async {
        eventually("the dead one's work is dropped", || drops.count() == 1).await;
        api.node.events.emit("node.left", || json!({}));
    };
    tokio::join!(living, dying);
    assert_eq!(dead.next().await["type"], "accepted");
    assert_eq!(dead.next_or_end().await.expect_err("it ended"), Some(1008));
}

#[tokio::test]
async fn no_piece_is_lost_however_fast_they_come() {
    const PIECES: usize = 1000;
    let api = api(settings(), |_| {
        // More at once than the queue holds, and then more.
        let pieces = (0..PIECES / 100).map(|hundred| {
            let events = (0..100).map(|index| format!("data: {}\n\n", hundred * 100 + index));
            Ok(Bytes::from(events.collect::<String>()))
        });
        futures::future::ok(reply(SSE, futures::stream::iter(pieces).boxed())).boxed()
    })
    .await;
    let (mut client, _) = Client::open(&api, "/v1/stream?events=").await;
    client.ask("a", &a_chat(true)).await;
    let answer = client.answer("a").await;
    let said: Vec<_> = answer.iter().filter_map(|message| message["data"].as_u64()).collect();
    assert_eq!(said, (0..PIECES as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_not_read_is_not_taken_from_the_backend() {
    let taken = Arc::new(AtomicUsize::new(0));
    let for_node = Arc::clone(&taken);
    let drops = Drops::default();
    let guards = drops.clone();
    let settings = Settings { write_timeout: Duration::from_millis(300), ..settings() };
    let api = api(settings, move |_| {
        let (taken, guard) = (Arc::clone(&for_node), guards.guard());
        let events = async_stream::stream! {
            let _guard = guard;
            let piece = Bytes::from(format!("data: \"{}\"\n\n", "x".repeat(64 * 1024)));
            loop {
                taken.fetch_add(1, Ordering::SeqCst);
                yield Ok(piece.clone());
                tokio::task::yield_now().await;
            }
        };
        futures::future::ok(reply(SSE, events.boxed())).boxed()
    })
    .await;
    let (mut client, _) = Client::open(&api, "/v1/stream?events=").await;
    client.ask("a", &a_chat(true)).await;
    // It reads nothing, and in the end it is let go.
    eventually("the work is dropped", || drops.count() == 1).await;
    let taken = taken.load(Ordering::SeqCst);
    // The queue, and what the system's own buffers take: some megabytes.
    assert!((64..1000).contains(&taken), "{taken} pieces of 64 KiB were taken");
}

#[tokio::test]
async fn strangers_and_plain_requests_get_no_socket() {
    let api = silent_api(Settings { keys: Keys::new(["sk-good"]), ..settings() }).await;
    let upgrade = |origin: Option<&str>, key: Option<&str>| {
        let mut request = api.client.get(api.url("/v1/stream")).header("connection", "Upgrade");
        request = request.header("upgrade", "websocket").header("sec-websocket-version", "13");
        request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        if let Some(key) = key {
            request = request.header("sec-websocket-protocol", format!("atmosphere.v1, atmosphere-key.{key}"));
        }
        request.send()
    };
    let good = "c2stZ29vZA";
    let own = format!("http://{}", api.address);
    for (origin, key, status) in [
        (None, None, 401),
        (None, Some("c2stYmFk"), 401),
        (None, Some(good), 101),
        (Some("https://evil.example"), Some(good), 403),
        (Some(own.as_str()), Some(good), 101),
    ] {
        let response = upgrade(origin, key).await.expect("an answer");
        assert_eq!(response.status(), status, "{origin:?} {key:?}");
        if status == 101 {
            let headers = response.headers();
            assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            assert_eq!(headers["sec-websocket-protocol"], "atmosphere.v1", "and never the key");
        }
    }
    let get = |path: &str| api.client.get(api.url(path)).bearer_auth("sk-good");
    let response = get("/v1/stream").send().await.expect("an answer");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["upgrade"]),
        (426, &"websocket".parse().expect("a value"))
    );
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(
        (&body["error"]["code"], &body["error"]["type"]),
        (&json!("upgrade_required"), &json!("invalid_request_error"))
    );
    let response = get("/v1/stream?events=nope").send().await.expect("an answer");
    assert_eq!(response.status(), 400);
    let old = get("/v1/stream").header("connection", "upgrade").header("upgrade", "websocket");
    let response =
        old.header("sec-websocket-version", "8").header("sec-websocket-key", "eA==").send().await.expect("an answer");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["sec-websocket-version"]),
        (426, &"13".parse().expect("a value"))
    );
}

#[tokio::test]
async fn a_stop_is_told_and_what_runs_may_finish() {
    let gate = tokio_util::sync::CancellationToken::new();
    let for_node = gate.clone();
    let mut api = api(settings(), move |_| {
        let gate = for_node.clone();
        let events = async_stream::stream! {
            yield Ok(Bytes::from("data: 1\n\n"));
            gate.cancelled().await;
            yield Ok(Bytes::from("data: [DONE]\n\n"));
        };
        futures::future::ok(reply(SSE, events.boxed())).boxed()
    })
    .await;
    let (mut busy, _) = Client::open(&api, "/v1/stream?events=").await;
    let (mut idle, _) = Client::open(&api, "/v1/stream").await;
    busy.ask("a", &a_chat(true)).await;
    while busy.next().await["type"] != "data" {}
    api.shutdown.cancel();
    let closing = busy.next().await;
    assert_eq!((&closing["type"], &closing["running"]), (&json!("closing"), &json!(1)));
    assert_eq!(idle.next().await["running"], 0);
    assert_eq!(idle.next_or_end().await.expect_err("it ends"), Some(1001));
    busy.ask("b", &a_chat(true)).await;
    let refused = busy.next().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("b"), &json!("draining")));
    assert!(!api.running.is_finished());
    gate.cancel();
    assert_eq!(busy.next().await["type"], "done");
    assert_eq!(busy.next_or_end().await.expect_err("it ends"), Some(1001));
    timeout(PATIENCE, &mut api.running).await.expect("it drains").expect("without a panic");
}

#[tokio::test]
async fn what_outlasts_the_drain_limit_is_told_too() {
    let mut api = silent_api(Settings { drain_limit: Duration::from_millis(50), ..settings() }).await;
    let (mut client, _) = Client::open(&api, "/v1/stream?events=").await;
    client.ask("a", &a_chat(true)).await;
    assert_eq!(client.next().await["type"], "accepted");
    api.shutdown.cancel();
    assert_eq!(client.next().await["type"], "closing");
    let error = client.next().await;
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!("a"), &json!("interrupted")), "{error}");
    assert_eq!(client.next_or_end().await.expect_err("it ends"), Some(1001));
    timeout(PATIENCE, &mut api.running).await.expect("it stops").expect("without a panic");
}
