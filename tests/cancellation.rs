//! When the client leaves, the work stops on the backend, wherever that is.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Backend, Cluster, Events, Mode, NodePlan, TestNode, chat, chat_stream, eventually};

/// How soon the far backend knows. The promise is one second; a machine with two busy cores may add to it.
const NOTICED: Duration = Duration::from_secs(3);

async fn leaves(node: &TestNode, backend: &Backend, mode: Mode, body: Value) {
    backend.set(mode);
    let before = backend.counts();
    node.leave_during(&body, async || {
        eventually("the backend has it", support::PATIENCE, async || backend.counts().started > before.started).await;
        // It is on its way on all legs; what matters is that nothing but the client ends it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(backend.counts().cancelled, before.cancelled);
    })
    .await;
    eventually("the backend sees the cancel", NOTICED, async || backend.counts().cancelled > before.cancelled).await;
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_work_here_and_one_hop_away() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    for node in &cluster.nodes {
        // Streaming, before the first token, and not streamed.
        leaves(node, &backend, Mode::slow(100_000), chat_stream("llama3.1:8b", "hello")).await;
        leaves(node, &backend, Mode::Hang, chat_stream("llama3.1:8b", "hello")).await;
        leaves(node, &backend, Mode::Hang, chat("llama3.1:8b", "hello")).await;
    }
    backend.set(Mode::quick());
    for node in &cluster.nodes {
        let (status, answer) = node.ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
        assert_eq!(status, 200, "a client that leaves is no failure of the backend: {answer}");
    }
}

#[tokio::test]
async fn one_client_that_leaves_does_not_disturb_another() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    backend.set(Mode::slow(150));
    let stays = cluster[0].post("/v1/chat/completions", &chat_stream("llama3.1:8b", "hello")).await;
    leaves(&cluster[0], &backend, Mode::slow(100_000), chat_stream("llama3.1:8b", "hello")).await;
    let whole = Events::of(stays).rest().await;
    assert_eq!((whole.dones, whole.broken), (1, false));
    assert!(whole.text().ends_with("t149"), "{}", whole.text());
}
