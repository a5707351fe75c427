//! A node of another mesh is refused, is told why, and disturbs nothing.

mod support;

use support::{Backend, Cluster, NodePlan, PATIENCE, chat, eventually};

#[tokio::test]
async fn a_node_of_another_mesh_is_refused_and_told_and_nothing_is_disturbed() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;

    let seed = cluster[0].seed();
    let stranger = NodePlan::named("stranger").flag("--mesh", "other").seed(&seed).start().await;
    let status = async || {
        let output = stranger.cli(&["status", "--json"]).await;
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default()
    };
    eventually("the stranger is told", PATIENCE, async || status().await["seeds"][0]["error"].is_string()).await;
    let status = status().await;
    let seen = &status["seeds"][0];
    let error = seen["error"].as_str().unwrap_or_default();
    assert_eq!(seen["connected"], false, "{status}");
    assert!(error.starts_with(&format!("cannot join by seed {seed}: ")), "{error}");
    assert!(error.contains("another mesh") && error.contains("--mesh"), "{error}");
    let told = stranger.log().lines().filter(|line| line.contains("another mesh")).count();
    assert_eq!(told, 1, "it is told once:\n{}", stranger.log());

    // Asked to, it refuses in the same words.
    let (status, answer) = stranger.ask("/v1/mesh/join", &serde_json::json!({"peer": cluster[1].seed()})).await;
    assert!(status >= 400, "{answer}");
    assert!(support::error_message(&answer).contains("another mesh"), "{answer}");

    assert_eq!(stranger.node_names().await, ["stranger"]);
    for node in &cluster.nodes {
        assert_eq!(node.node_names().await, ["gpu", "laptop"]);
        let log = node.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
        let metrics = node.get("/metrics").await.text().await.expect("text");
        assert!(metrics.contains("outcome=\"OtherMesh\""), "{metrics}");
    }
    let (status, answer) = cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
    assert_eq!(status, 200, "{answer}");
}
