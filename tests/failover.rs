//! A node that dies is noticed, gone from every list in time, and replaced where another has the model.

mod support;

use std::time::{Duration, Instant};

use support::{
    ADVERT_TTL, Backend, Cluster, Events, Mode, NodePlan, PATIENCE, chat, chat_stream, error_message, eventually,
};

/// The promise after a holder's death.
const NEXT_ANSWER: Duration = Duration::from_secs(2);
/// What a machine with two busy cores may add to a promise.
const SLACK: Duration = Duration::from_secs(2);

#[tokio::test]
async fn the_second_holder_answers_when_the_first_is_killed() {
    let (one, two) = (Backend::start("one", &["llama3.1:8b"]), Backend::start("two", &["llama3.1:8b"]));
    let mut cluster = Cluster::start(vec![
        NodePlan::named("laptop"),
        NodePlan::named("first").backend(one.url()),
        NodePlan::named("second").backend(two.url()),
    ])
    .await;
    cluster[0].sees_holders("llama3.1:8b", 2).await;
    let (status, answer) = cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
    assert_eq!(status, 200, "{answer}");
    let first = answer["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.starts_with("one:"));
    let (dead, other) = if first { (1, "two:") } else { (2, "one:") };
    let name = cluster[dead].name().to_owned();

    cluster[dead].kill();
    let killed = Instant::now();
    let (status, answer) = cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
    let took = killed.elapsed();
    assert!(took < NEXT_ANSWER + SLACK, "the next answer took {took:?}");
    match status {
        200 => {
            let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
            assert!(text.starts_with(other), "answered by {text:?}");
        }
        503 => assert!(!error_message(&answer).is_empty()),
        _ => panic!("{status} {answer}"),
    }

    eventually("the dead node is gone", ADVERT_TTL + SLACK, async || !cluster[0].node_names().await.contains(&name))
        .await;
    assert!(killed.elapsed() < ADVERT_TTL + SLACK);
    let (status, _) = cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
    assert_eq!(status, 200, "the other holder serves on");

    cluster[dead].restart().await;
    cluster[0].sees_nodes(&["laptop", "first", "second"]).await;
    cluster[0].sees_holders("llama3.1:8b", 2).await;
}

#[tokio::test]
async fn a_holder_that_is_started_anew_is_listed_with_its_model_all_the_time() {
    let backend = Backend::start("only", &["llama3.1:8b"]);
    let mut cluster =
        Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("holder").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;

    cluster[1].kill();
    // Finding out what there is takes longer than the first advert would.
    backend.lists_after(Duration::from_millis(500));
    backend.pull("qwen3:4b");
    cluster[1].run_again();
    eventually("the new run is known", PATIENCE, async || {
        let models = cluster[0].models().await;
        assert!(models.iter().any(|model| model == "llama3.1:8b"), "it is gone for a while: {models:?}");
        models.iter().any(|model| model == "qwen3:4b")
    })
    .await;
}

#[tokio::test]
async fn a_call_of_a_node_that_was_started_anew_runs_to_its_end() {
    let backend = Backend::start("near", &["llama3.1:8b"]);
    let mut cluster =
        Cluster::start(vec![NodePlan::named("laptop").backend(backend.url()), NodePlan::named("other")]).await;
    cluster[1].sees_model("llama3.1:8b").await;
    backend.set(Mode::slow(200));
    cluster[1].kill();
    cluster[1].restart().await;
    cluster[1].sees_model("llama3.1:8b").await;
    // Meanwhile the laptop finds out that its old connection is dead, and what follows from it.
    let off = [("x-atmosphere-failover", "off")];
    let response = cluster[1].post_with("/v1/chat/completions", &chat_stream("llama3.1:8b", "hello"), &off).await;
    let answer = Events::of(response).rest().await;
    assert_eq!((answer.error(), answer.dones), (None, 1));
}

#[tokio::test]
async fn without_a_second_holder_it_is_a_clear_503_and_then_a_404() {
    let backend = Backend::start("only", &["llama3.1:8b"]);
    let mut cluster =
        Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    let id = cluster[1].id().await;
    cluster[1].kill();
    let killed = Instant::now();
    let (status, answer) = cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
    assert!(killed.elapsed() < NEXT_ANSWER + SLACK, "it took {:?}", killed.elapsed());
    // When the connection's end came first, the model is already known to be gone.
    assert!(matches!(status, 503 | 404), "{status} {answer}");
    assert!(!error_message(&answer).is_empty());
    eventually("it is a 404", ADVERT_TTL + SLACK, async || {
        cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await.0 == 404
    })
    .await;

    cluster[1].restart().await;
    assert_eq!(cluster[1].id().await, id, "a restart keeps the identity");
    eventually("it answers again", PATIENCE, async || {
        cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await.0 == 200
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_node_is_killed_ends_with_an_error_and_no_done() {
    let backend = Backend::start("only", &["llama3.1:8b"]);
    let mut cluster =
        Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    backend.set(Mode::slow(10_000));
    let response = cluster[0].post("/v1/chat/completions", &chat_stream("llama3.1:8b", "hello")).await;
    assert_eq!(response.status(), 200);
    let mut events = Events::of(response);
    for _ in 0..5 {
        assert!(events.next().await.is_some());
    }
    cluster[1].kill();
    let killed = Instant::now();
    let rest = events.rest().await;
    assert!(rest.error().is_some(), "no error event among {:?}", rest.events.last());
    assert_eq!(rest.dones, 0);
    // Silence means dead, and is noticed in seconds.
    assert!(killed.elapsed() < Duration::from_secs(20), "noticed after {:?}", killed.elapsed());
}

#[tokio::test]
async fn a_backend_that_stops_leaves_the_list_and_comes_back() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    backend.stop();
    eventually("the model is gone", PATIENCE, async || {
        !cluster[0].models().await.iter().any(|model| model == "llama3.1:8b")
    })
    .await;
    let (status, _) = cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
    assert_eq!(status, 404);
    backend.start_again();
    cluster[0].sees_model("llama3.1:8b").await;
    let (status, _) = cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
    assert_eq!(status, 200);
}
