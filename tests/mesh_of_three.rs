//! Three nodes, seeded with the first: each offers what all of them have.

mod support;

use serde_json::{Value, json};
use support::{Backend, Cluster, Events, NodePlan, Ollama, TestNode, chat, chat_stream, error_message, stream_chat};

/// `laptop` has nothing, `gpu` has an OpenAI-compatible server, `nas` has Ollama.
async fn three(gpu: &Backend, nas: &Ollama) -> Cluster {
    let cluster = Cluster::start(vec![
        NodePlan::named("laptop"),
        NodePlan::named("gpu").backend(gpu.url()),
        NodePlan::named("nas").backend(nas.url()),
    ])
    .await;
    for node in &cluster.nodes {
        node.sees_model("llama3.1:8b").await;
        node.sees_model("llama3.2").await;
    }
    cluster
}

async fn is(node: &TestNode, header: &reqwest::header::HeaderValue) -> bool {
    let header = header.to_str().expect("a header is text");
    header == node.name() || header == node.id().await
}

#[tokio::test]
async fn any_node_answers_with_what_another_has() {
    let (gpu, nas) = (Backend::start("gpu", &["llama3.1:8b", "qwen2.5-coder:7b"]), Ollama::start("nas"));
    let cluster = three(&gpu, &nas).await;
    let laptop = &cluster[0];

    for node in &cluster.nodes {
        let models = node.models().await;
        for model in ["llama3.1:8b", "qwen2.5-coder:7b", "nomic-embed-text"] {
            assert!(models.iter().any(|id| id.trim_end_matches(":latest") == model), "{}: {models:?}", node.name());
        }
    }

    let response = laptop.post("/v1/chat/completions", &chat("llama3.1:8b", "hello")).await;
    assert_eq!(response.status(), 200);
    assert!(is(&cluster[1], &response.headers()["x-atmosphere-node"]).await);
    assert!(response.headers().contains_key("x-atmosphere-decision"));
    assert!(response.headers().contains_key("x-request-id"));
    let answer: Value = response.json().await.expect("a chat answer is JSON");
    assert_eq!(answer["choices"][0]["message"]["content"], "gpu: t0 t1 t2 t3 t4 t5 t6 t7");

    // Ollama's rule: no tag means `latest`.
    let (status, answer) = laptop.ask("/v1/chat/completions", &chat("llama3.2", "hello")).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.starts_with("nas:")));

    let streamed = stream_chat(laptop, "qwen2.5-coder:7b", "hello").await;
    assert_eq!(streamed.text(), "gpu: t0 t1 t2 t3 t4 t5 t6 t7");
    assert_eq!((streamed.dones, streamed.broken), (1, false));
}

#[tokio::test]
async fn a_target_can_name_its_node() {
    let (one, two) = (Backend::start("one", &["llama3.1:8b"]), Backend::start("two", &["llama3.1:8b"]));
    let cluster = Cluster::start(vec![
        NodePlan::named("laptop"),
        NodePlan::named("first").backend(one.url()),
        NodePlan::named("second").backend(two.url()),
    ])
    .await;
    cluster[0].sees_holders("llama3.1:8b", 2).await;
    for (target, who) in [("llama3.1:8b@first", "one:"), ("llama3.1:8b@second", "two:")] {
        let (status, answer) = cluster[0].ask("/v1/chat/completions", &chat(target, "hello")).await;
        assert_eq!(status, 200, "{answer}");
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        assert!(text.starts_with(who), "{target} was answered by {text:?}");
    }
    let (status, answer) = cluster[0].ask("/v1/chat/completions", &chat("llama3.1:8b@nowhere", "hello")).await;
    assert_eq!(status, 404, "{answer}");
}

#[tokio::test]
async fn an_unknown_model_is_404_with_near_names() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    for body in [chat("llama3.1:80b", "hello"), chat_stream("llama3.1:80b", "hello")] {
        let (status, answer) = cluster[0].ask("/v1/chat/completions", &body).await;
        assert_eq!(status, 404);
        assert_eq!(answer["error"]["code"], "model_not_found");
        assert!(error_message(&answer).contains("llama3.1:8b"), "{answer}");
    }
    assert_eq!(backend.counts().started, 0, "another model must never answer");
}

#[tokio::test]
async fn fields_that_nobody_here_knows_pass_through_both_ways() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    let mut body = chat("llama3.1:8b", "hello");
    body["x_future_option"] = json!({"deep": [1, 2, {"er": null}]});
    body["temperature"] = json!(0.25);
    let (status, answer) = cluster[0].ask("/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["x_unknown_field"]["kept"], true);
    let seen = backend.requests().pop().expect("the backend was asked");
    assert_eq!(seen["x_future_option"], body["x_future_option"]);
    assert_eq!(seen["temperature"], 0.25);

    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let response = cluster[0].post("/v1/chat/completions", &body).await;
    let streamed = Events::of(response).rest().await;
    assert!(streamed.events[0]["x_unknown_field"]["kept"] == true, "{:?}", streamed.events);
    let last = streamed.events.last().expect("there are events");
    assert_eq!(last["usage"]["total_tokens"], 15, "{last}");
    assert_eq!(last["choices"], json!([]));
}

#[tokio::test]
async fn characters_are_never_cut() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    backend.set(support::Mode::SplitUtf8);
    for node in &cluster.nodes {
        let streamed = stream_chat(node, "llama3.1:8b", "hello").await;
        assert_eq!(streamed.text(), format!("gpu:{}", Backend::SPLIT_TEXT));
        assert_eq!(streamed.dones, 1);
    }
}

#[tokio::test]
async fn the_topology_has_every_node_and_a_link_to_each() {
    let cluster = Cluster::start(vec![NodePlan::named("one"), NodePlan::named("two"), NodePlan::named("three")]).await;
    let topology = cluster[0].get_json("/v1/mesh/topology").await;
    assert_eq!(topology["nodes"].as_array().map(Vec::len), Some(3), "{topology}");
    assert!(topology["mesh"]["id"].is_string(), "{topology}");
    assert!(topology["links"].as_array().is_some_and(|links| !links.is_empty()), "{topology}");
}

#[tokio::test]
async fn a_node_can_be_joined_later_and_errors_have_one_shape() {
    let (one, two) = (NodePlan::named("one").start().await, NodePlan::named("two").start().await);
    let (status, answer) = one.ask("/v1/mesh/join", &json!({"peer": two.seed()})).await;
    assert_eq!(status, 200, "{answer}");
    one.sees_nodes(&["one", "two"]).await;
    two.sees_nodes(&["one", "two"]).await;

    for (path, body) in [
        ("/v1/chat/completions", "{\"model\": \"x\", "),
        ("/v1/chat/completions", "[]"),
        ("/v1/chat/completions", "{\"model\": 7, \"messages\": []}"),
        ("/v1/embeddings", "not json"),
        ("/v1/mesh/join", "{}"),
        ("/v1/mesh/join", "{\"peer\": \"::::\"}"),
    ] {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client needs nothing");
        let request = client.post(one.url(path)).header("content-type", "application/json").body(body);
        let response = request.send().await.expect("the node answers");
        let status = response.status();
        let answer: Value = response.json().await.unwrap_or_else(|e| panic!("{path} {body}: {status} {e}"));
        assert!(status.is_client_error(), "{path} {body}: {status} {answer}");
        error_message(&answer);
    }
    for (path, expected) in [("/v1/nothing", 404), ("/v1/chat/completions", 405), ("/v1/models/none", 404)] {
        let response = one.get(path).await;
        assert_eq!(response.status(), expected, "{path}");
        error_message(&response.json().await.unwrap_or_else(|e| panic!("{path}: {e}")));
    }
}
