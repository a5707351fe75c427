//! One WebSocket carries what happens on a node and requests to the whole mesh, and what is unread, cancelled or left
//! holds nobody up.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Backend, Cluster, Mode, NodePlan, PATIENCE, Socket, TestNode, chat, chat_stream, eventually, text_of, types_of,
};

const MODEL: &str = "llama3.1:8b";
const CHAT: &str = "/v1/chat/completions";
/// How soon the far backend knows of a cancel. The promise is one second; two busy cores may add to it.
const NOTICED: Duration = Duration::from_secs(3);

/// A node that has nothing, and one with a backend that it asks one call at a time.
async fn pair() -> (Cluster, Backend) {
    let backend = Backend::start("gpu", &[MODEL]);
    let gpu = NodePlan::named("gpu").backend(backend.url()).env("ATMOSPHERE_PROVIDER_CONCURRENCY", "1");
    let cluster = Cluster::start(vec![NodePlan::named("laptop"), gpu]).await;
    cluster[0].sees_model(MODEL).await;
    (cluster, backend)
}

#[tokio::test]
async fn an_answer_of_another_node_comes_with_its_progress_and_what_happened() {
    let (cluster, backend) = pair().await;
    let mut socket = Socket::open(&cluster[0], "/v1/stream?events=").await;
    backend.set(Mode::slow(100));
    // The second waits for the first, on the other node.
    let mut first = Socket::open(&cluster[0], "/v1/stream?events=decision,call.*").await;
    first.ask("first", CHAT, &chat_stream(MODEL, "hello")).await;
    first.until(|message| message["type"] == "head").await;
    let mut body = chat_stream(MODEL, "hello");
    body["stream_options"] = json!({"include_usage": true});
    socket.ask("second", CHAT, &body).await;
    let answer = socket.answer("second").await;
    assert_eq!(types_of(&answer), ["accepted", "progress", "head", "progress", "data", "done"], "{answer:?}");
    let progress = |phase: &str| answer.iter().find(|message| message["phase"] == phase);
    assert_eq!(progress("queued").map(|message| &message["position"]), Some(&json!(1)), "{answer:?}");
    assert!(progress("decode").is_some());
    let head = answer.iter().find(|message| message["type"] == "head").expect("a head");
    assert_eq!((&head["node_name"], &head["model"], &head["streamed"]), (&json!("gpu"), &json!(MODEL), &json!(true)));
    assert_eq!(text_of(&answer), format!("gpu:{}", (0..100).map(|index| format!(" t{index}")).collect::<String>()));
    assert!(answer.iter().any(|message| message["data"]["x_unknown_field"]["kept"] == true), "as the backend wrote it");
    let done = answer.last().expect("an end");
    assert_eq!((&done["usage"]["prompt_tokens"], &done["usage"]["completion_tokens"]), (&json!(7), &json!(100)));

    // What happened with both, in the order of its numbers; the decision can be looked up.
    let mut last = 0;
    let mut kinds = Vec::new();
    let end = first
        .until(|message| {
            if message["type"] == "event" {
                let seq = message["seq"].as_u64().expect("a number");
                assert!(seq > last, "{message} after {last}");
                last = seq;
                kinds.push(message["event"].as_str().unwrap_or_default().to_owned());
            }
            message["event"] == "call.end" && message["data"]["request"] == head["request"]
        })
        .await;
    assert_eq!((&end["data"]["status"], &end["data"]["node_name"]), (&json!(200), &json!("gpu")));
    assert!(
        kinds.iter().any(|kind| kind == "decision") && kinds.iter().any(|kind| kind == "call.progress"),
        "{kinds:?}"
    );
    let decision = head["decision"].as_str().expect("an id");
    cluster[0].get_json(&format!("/v1/mesh/decisions/{decision}")).await;

    // Not streamed, the prompt takes a while to read.
    backend.set(Mode::Answer { tokens: 4, gap: Duration::from_millis(300) });
    socket.ask("whole", CHAT, &chat(MODEL, "hello")).await;
    let answer = socket.answer("whole").await;
    assert_eq!(types_of(&answer), ["accepted", "progress", "head", "data", "done"], "{answer:?}");
    let data = answer.iter().find(|message| message["type"] == "data").expect("all of it");
    assert_eq!(data["data"]["choices"][0]["message"]["content"], "gpu: t0 t1 t2 t3");
}

#[tokio::test]
async fn nodes_that_come_and_go_are_told() {
    let first = NodePlan::named("first").start().await;
    let mut socket = Socket::open(&first, "/v1/stream?events=node.*").await;
    let mut second = NodePlan::named("second").seed(first.seed()).start().await;
    let joined = socket.until(|message| message["event"] == "node.joined").await;
    assert_eq!(joined["data"]["name"], "second");
    assert!(joined["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{joined}");
    second.terminate();
    second.ended(PATIENCE).await;
    let left = socket.until(|message| message["event"] == "node.left").await;
    assert_eq!((&left["data"]["name"], left["seq"].as_u64() > joined["seq"].as_u64()), (&json!("second"), true));
}

#[tokio::test]
async fn a_cancel_and_a_socket_that_closes_stop_the_work_one_hop_away() {
    let (cluster, backend) = pair().await;
    for (mode, body) in [
        (Mode::slow(100_000), chat_stream(MODEL, "hello")),
        (Mode::Hang, chat_stream(MODEL, "hello")),
        (Mode::Hang, chat(MODEL, "hello")),
    ] {
        backend.set(mode);
        for vanishes in [false, true] {
            let mut socket = Socket::open(&cluster[0], "/v1/stream?events=").await;
            let before = backend.counts();
            socket.ask("a", CHAT, &body).await;
            eventually("the backend has it", PATIENCE, async || backend.counts().started > before.started).await;
            assert_eq!(backend.counts().cancelled, before.cancelled);
            let cancelled = async || backend.counts().cancelled > before.cancelled;
            if vanishes {
                socket.vanish();
                eventually("the backend sees that the socket is gone", NOTICED, cancelled).await;
                continue;
            }
            socket.say(&json!({"type": "cancel", "id": "a"})).await;
            let end = socket.answer("a").await.pop().expect("an end");
            assert_eq!(end, json!({"type": "cancelled", "id": "a", "was_running": true}));
            eventually("the backend sees the cancel", NOTICED, cancelled).await;
            // The socket itself is as good as before.
            socket.ask("a", "/v1/embeddings", &json!({"model": "builtin/static", "input": 7})).await;
            assert_eq!(socket.answer("a").await.pop().expect("an end")["type"], "error");
        }
    }
    backend.set(Mode::quick());
    let mut socket = Socket::open(&cluster[0], "/v1/stream").await;
    socket.ask("a", CHAT, &chat_stream(MODEL, "hello")).await;
    let end = socket.answer("a").await.pop().expect("an end");
    assert_eq!(end["type"], "done", "a caller that leaves is no failure of the backend: {end}");
}

#[tokio::test]
async fn mistakes_are_told_and_the_socket_goes_on() {
    let (cluster, backend) = pair().await;
    let mut socket = Socket::open(&cluster[0], "/v1/stream?events=").await;
    let error = |message: &Value| {
        assert_eq!(message["type"], "error", "{message}");
        assert!(message["error"]["message"].is_string() && message["error"]["type"].is_string(), "{message}");
        (message["status"].as_u64(), message["error"]["code"].as_str().map(str::to_owned))
    };
    socket.say_text("{\"type\": ").await;
    assert_eq!(error(&socket.next().await), (Some(400), None));
    socket.ask("a", "/v1/nope", &json!({})).await;
    assert_eq!(error(&socket.answer("a").await[0]), (Some(400), None));
    socket.ask("a", CHAT, &chat("llama3.1:80b", "hello")).await;
    let unknown = socket.answer("a").await.pop().expect("an end");
    assert_eq!(error(&unknown), (Some(404), Some("model_not_found".to_owned())));
    assert!(unknown["error"]["message"].as_str().is_some_and(|message| message.contains(MODEL)), "{unknown}");
    backend.set(Mode::too_many(7));
    socket.ask("a", CHAT, &chat_stream(MODEL, "hello")).await;
    let busy = socket.answer("a").await.pop().expect("an end");
    assert_eq!((error(&busy).0, &busy["retry_after"]), (Some(429), &json!(7)), "{busy}");

    // As many as may run, and one more.
    backend.set(Mode::Hang);
    let mut socket = Socket::open(&cluster[0], "/v1/stream?events=").await;
    let rested = async || {
        let mut probe = Socket::open(&cluster[0], "/v1/stream?events=").await;
        probe.ask("p", CHAT, &chat(MODEL, "hello")).await;
        probe.until(|message| message["type"] != "accepted").await["type"] == "progress"
    };
    eventually("the backend has rested", PATIENCE, rested).await;
    for index in 0..16 {
        socket.ask(&format!("r{index}"), CHAT, &chat(MODEL, "hello")).await;
        let id = format!("r{index}");
        socket.until(|message| message["id"] == *id && message["type"] == "accepted").await;
    }
    socket.ask("more", CHAT, &chat(MODEL, "hello")).await;
    assert_eq!(error(&socket.answer("more").await[0]), (Some(429), Some("too_many_requests".to_owned())));
    socket.ask("r3", CHAT, &chat(MODEL, "hello")).await;
    let twice = socket.until(|message| message["id"] == "r3" && message["type"] == "error").await;
    assert_eq!(error(&twice), (Some(409), Some("id_in_use".to_owned())));
    socket.say(&json!({"type": "cancel", "id": "r3"})).await;
    socket.answer("r3").await;
    socket.ask("more", CHAT, &chat(MODEL, "hello")).await;
    assert_eq!(socket.until(|message| message["id"] == "more").await["type"], "accepted");
}

#[tokio::test]
async fn only_who_may_opens_a_socket() {
    let node = NodePlan::named("locked").env("ATMOSPHERE_API_KEYS", "sk-good-key").spawn();
    node.ready().await;
    let open = async |headers: &[(&str, &str)]| Socket::try_open(&node, "/v1/stream", headers).await.map(drop);
    assert_eq!(open(&[]).await, Err(401));
    assert_eq!(open(&[("authorization", "Bearer sk-bad")]).await, Err(401));
    assert_eq!(open(&[("authorization", "Bearer sk-good-key")]).await, Ok(()));
    // As a browser does; "sk-good-key" and "sk-bad" in base64url.
    assert_eq!(open(&[("sec-websocket-protocol", "atmosphere.v1, atmosphere-key.c2stZ29vZC1rZXk")]).await, Ok(()));
    assert_eq!(open(&[("sec-websocket-protocol", "atmosphere.v1, atmosphere-key.c2stYmFk")]).await, Err(401));
    let foreign = [("authorization", "Bearer sk-good-key"), ("origin", "https://evil.example")];
    assert_eq!(open(&foreign).await, Err(403));

    let free = NodePlan::named("open").start().await;
    let own = format!("http://127.0.0.1:{}", free.api_port);
    for (origin, opens) in [("https://evil.example", Err(403)), ("null", Err(403)), (own.as_str(), Ok(()))] {
        assert_eq!(Socket::try_open(&free, "/v1/stream", &[("origin", origin)]).await.map(drop), opens, "{origin}");
    }
    assert_eq!(Socket::try_open(&free, "/v1/stream?events=nodes", &[]).await.map(drop), Err(400));
    let plain = free.get("/v1/stream").await;
    assert_eq!((plain.status().as_u16(), &plain.headers()["upgrade"]), (426, &"websocket".parse().expect("a value")));
    let said: Value = plain.json().await.expect("JSON");
    assert!(support::error_message(&said).contains("ws://"), "{said}");
}

/// Resident memory of a node's process.
fn resident_kib(node: &TestNode) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_client_that_stops_reading_holds_up_its_own_request_and_no_memory() {
    const TOKENS: usize = 2048;
    const BYTES: usize = 32 * 1024;
    let (cluster, backend) = pair().await;
    backend.set(Mode::Bulk { tokens: TOKENS, bytes: BYTES });
    let mut socket = Socket::open(&cluster[1], "/v1/stream").await;
    let before = resident_kib(&cluster[1]);
    socket.ask("a", CHAT, &chat_stream(MODEL, "hello")).await;
    socket.until(|message| message["type"] == "data").await;
    // Others are served meanwhile, and what happens with them is not kept for the one who does not read.
    let mut other = Socket::open(&cluster[1], "/v1/stream?events=").await;
    for _ in 0..200 {
        other.ask("b", CHAT, &chat("nobody-has-this", "hello")).await;
        assert_eq!(other.answer("b").await.pop().expect("an end")["status"], 404);
    }
    assert_eq!(backend.counts().finished, 0, "64 MiB are not taken from the backend ahead of the client");
    let grown = resident_kib(&cluster[1]).saturating_sub(before);
    assert!(grown < 32 * 1024, "it holds {grown} KiB more for a client that does not read");

    let answer = socket.answer("a").await;
    let bytes: usize = text_of(&answer).len();
    assert_eq!(answer.last().expect("an end")["type"], "done");
    // One piece was read before.
    assert!(bytes >= (TOKENS - 1) * BYTES, "{bytes}");
}

#[tokio::test]
async fn a_node_that_stops_says_so_and_lets_what_runs_finish() {
    let (mut cluster, backend) = pair().await;
    backend.set(Mode::slow(100));
    let mut busy = Socket::open(&cluster[0], "/v1/stream?events=").await;
    let mut idle = Socket::open(&cluster[0], "/v1/stream?events=").await;
    busy.ask("a", CHAT, &chat_stream(MODEL, "hello")).await;
    busy.until(|message| message["type"] == "data").await;
    cluster[0].terminate();
    let closing = busy.until(|message| message["type"] == "closing").await;
    assert_eq!(closing["running"], 1);
    assert_eq!(idle.until(|message| message["type"] == "closing").await["running"], 0);
    assert_eq!(idle.next_or_end().await.expect_err("it closes").map(|(code, _)| code), Some(1001));
    busy.ask("b", CHAT, &chat_stream(MODEL, "hello")).await;
    let refused = busy.until(|message| message["id"] == "b").await;
    assert_eq!((&refused["status"], &refused["error"]["code"]), (&json!(503), &json!("draining")), "{refused}");
    let answer = busy.answer("a").await;
    assert_eq!(answer.last().expect("an end")["type"], "done");
    assert!(text_of(&answer).ends_with("t99"));
    assert_eq!(busy.next_or_end().await.expect_err("it closes").map(|(code, _)| code), Some(1001));
    assert_eq!(cluster[0].ended(PATIENCE).await.code(), Some(0));
}
