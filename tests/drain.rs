//! A node that is asked to stop leaves the mesh, finishes what it has begun, and ends with success.

mod support;

use std::time::Duration;

use support::{Backend, Cluster, Events, Mode, NodePlan, PATIENCE, chat_stream, eventually};

#[tokio::test]
async fn a_running_stream_is_finished_and_the_others_know_at_once() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    // A long ttl: only its own word can make it leave the list this fast.
    let plan = |name: &str| NodePlan::named(name).env("ATMOSPHERE_MESH_ADVERT_TTL", "60s");
    let mut cluster = Cluster::start(vec![plan("laptop"), plan("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    backend.set(Mode::slow(150));
    let here = cluster[1].post("/v1/chat/completions", &chat_stream("llama3.1:8b", "hello")).await;
    let far = cluster[0].post("/v1/chat/completions", &chat_stream("llama3.1:8b", "hello")).await;
    let (mut here, mut far) = (Events::of(here), Events::of(far));
    assert!(here.next().await.is_some() && far.next().await.is_some());

    cluster[1].terminate();
    eventually("it has left", Duration::from_secs(10), async || cluster[0].node_names().await == ["laptop"]).await;
    let (here, far) = tokio::join!(here.rest(), far.rest());
    assert_eq!((here.dones, here.broken), (1, false), "a client of its own: {:?}", here.events.last());
    assert!(here.text().ends_with("t149"));
    assert_eq!((far.dones, far.broken), (1, false), "a client of another node: {:?}", far.events.last());
    let status = cluster[1].ended(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", cluster[1].log());
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_cut_at_the_limit() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let mut node = NodePlan::named("gpu").backend(backend.url()).env("ATMOSPHERE_API_DRAIN_LIMIT", "2s").start().await;
    node.sees_model("llama3.1:8b").await;
    backend.set(Mode::slow(1_000_000));
    let mut events = Events::of(node.post("/v1/chat/completions", &chat_stream("llama3.1:8b", "hello")).await);
    assert!(events.next().await.is_some());
    node.interrupt();
    let (status, rest) = tokio::join!(node.ended(PATIENCE), events.rest());
    assert_eq!(status.code(), Some(0));
    assert_eq!(rest.dones, 0, "an answer that is not whole must not look whole");
}

#[tokio::test]
async fn an_idle_node_ends_quickly() {
    let mut node = NodePlan::named("idle").start().await;
    node.interrupt();
    assert_eq!(node.ended(Duration::from_secs(10)).await.code(), Some(0));
}
