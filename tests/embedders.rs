//! Nodes with different embedders, or none, understand the same questions and each other's capabilities.
//!
//! What needs a real model takes it from `ATMOSPHERE_TEST_ONNX_DIR`, and the runtime from `ORT_DYLIB_PATH`;
//! `scripts/test onnx` makes both. Without them these tests are skipped, and say so.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::{Backend, Cluster, LlamaFarm, NodePlan, TestNode, chat, eventually};

const LLAMA: &str = "How do I care for my llama?";
const CODE: &str = "write a quicksort in Rust";
const NOTHING: &str = "hello";

/// A node that cannot start says so at once, or when its model is read.
const SOON: Duration = Duration::from_secs(30);

/// A model's directory, and the library that runs it.
struct Parts {
    model: PathBuf,
    runtime: String,
}

fn parts() -> Option<Parts> {
    let found = std::env::var_os("ATMOSPHERE_TEST_ONNX_DIR").zip(std::env::var("ORT_DYLIB_PATH").ok());
    if found.is_none() {
        eprintln!("SKIPPED: ATMOSPHERE_TEST_ONNX_DIR and ORT_DYLIB_PATH are not set (`scripts/test onnx` sets them)");
    }
    found.map(|(model, runtime)| Parts { model: model.into(), runtime })
}

fn embedder(plan: NodePlan, kind: &str) -> NodePlan {
    plan.env("ATMOSPHERE_EMBEDDER_KIND", kind)
}

fn onnx(plan: NodePlan, model: &Path, runtime: &str) -> NodePlan {
    let model = model.to_str().expect("the path is UTF-8");
    embedder(plan, "onnx").env("ATMOSPHERE_EMBEDDER_DIR", model).env("ORT_DYLIB_PATH", runtime)
}

/// The headline questions, asked at `node`: the project for llamas, the coder for code, nobody in particular for a
/// greeting.
async fn understands(node: &TestNode) {
    for (prompt, expected, abstained) in
        [(LLAMA, "camelids", false), (CODE, "qwen2.5-coder:7b", false), (NOTHING, "llama3.1:8b", true)]
    {
        let (status, answer) = node.ask("/v1/mesh/route", &chat("auto", prompt)).await;
        assert_eq!(status, 200, "{answer}");
        let decision = &answer["decision"];
        let told = format!("{prompt:?} at {}: {decision}", node.name());
        assert!(decision["chosen"].to_string().contains(expected), "{told}");
        assert_eq!(decision["abstained"], abstained, "{told}");

        let output = node.cli(&["route", prompt]).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(expected), "{said}");
    }
    let (status, answer) = node.ask("/v1/chat/completions", &chat("auto", LLAMA)).await;
    assert_eq!(status, 200, "{answer}");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert!(text.starts_with("farm:"), "answered by {text:?}");
}

/// Nodes with these embedders: the first has LlamaFarm's project, the second the models, the others ask.
async fn mesh(plans: Vec<NodePlan>) -> (LlamaFarm, Backend, Cluster) {
    let (farm, models) = (LlamaFarm::start("farm"), Backend::start("gpu", &["qwen2.5-coder:7b", "llama3.1:8b"]));
    let backends = format!("[[backends]]\nkind = \"llamafarm\"\nurl = \"{}\"\nnamespaces = [\"farm\"]\n", farm.url());
    let plans = plans.into_iter().enumerate().map(|(place, plan)| match place {
        0 => plan.config(&backends),
        1 => plan.backend(models.url()),
        _ => plan,
    });
    let cluster = Cluster::start(plans.collect()).await;
    for node in &cluster.nodes {
        node.sees_model("qwen2.5-coder:7b").await;
        eventually("the project is known", support::PATIENCE, async || {
            node.get_json("/v1/capabilities").await.to_string().contains("farm/camelids")
        })
        .await;
    }
    (farm, models, cluster)
}

#[tokio::test]
async fn a_node_without_an_embedder_understands_by_words() {
    let plans = vec![
        NodePlan::named("barn"),
        embedder(NodePlan::named("gpu"), "none"),
        embedder(NodePlan::named("words"), "none"),
        NodePlan::named("laptop"),
    ];
    let (_farm, _models, cluster) = mesh(plans).await;
    for node in &cluster.nodes {
        understands(node).await;
    }
}

#[tokio::test]
async fn spaces_may_be_mixed() {
    let Some(Parts { model, runtime }) = parts() else { return };
    let plans = vec![
        NodePlan::named("barn"),
        onnx(NodePlan::named("gpu"), &model, &runtime),
        onnx(NodePlan::named("asks"), &model, &runtime),
        embedder(NodePlan::named("words"), "none"),
    ];
    let (_farm, _models, cluster) = mesh(plans).await;
    for node in &cluster.nodes {
        understands(node).await;
    }
    for node in &cluster.nodes {
        let log = node.log();
        let has = log.contains("ONNX embedder loaded") && log.contains("onnx/");
        assert_eq!(has, matches!(node.name(), "gpu" | "asks"), "{log}");
        assert!(!log.contains("panicked") && !log.contains("does not tell sorts of questions apart"), "{log}");
    }
}

async fn fails_with(plan: NodePlan, words: &[&str]) {
    let mut node = plan.spawn();
    let status = node.ended(SOON).await;
    let said = node.log();
    assert!(matches!(status.code(), Some(1 | 2)), "{status}: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

const FILES: [&str; 5] =
    ["model.onnx", "tokenizer.json", "config.json", "special_tokens_map.json", "tokenizer_config.json"];

#[tokio::test]
async fn a_missing_part_is_named() {
    let empty = tempfile::tempdir().expect("a temporary directory can be made");
    let path = empty.path();
    fails_with(embedder(NodePlan::named("n"), "onnx"), &["embedder.dir"]).await;
    fails_with(onnx(NodePlan::named("n"), &path.join("none"), ""), &["embedder.dir", "not a directory"]).await;
    fails_with(onnx(NodePlan::named("n"), path, ""), &["has no model.onnx"]).await;
    for file in FILES {
        std::fs::write(path.join(file), "{}").expect("a file can be written");
    }
    let nowhere = path.join("libnowhere.so");
    let nowhere = nowhere.to_str().expect("temporary paths are UTF-8");
    fails_with(onnx(NodePlan::named("n"), path, nowhere), &["no ONNX runtime", nowhere, "ORT_DYLIB_PATH"]).await;
    std::fs::write(nowhere, "no library").expect("a file can be written");
    fails_with(onnx(NodePlan::named("n"), path, nowhere), &["cannot be used", nowhere]).await;
}

#[tokio::test]
async fn parts_that_do_not_fit_are_told() {
    let Some(Parts { model, runtime }) = parts() else { return };
    /// The model with one file replaced.
    fn with(model: &Path, file: &str, content: &[u8]) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a temporary directory can be made");
        for name in FILES {
            std::fs::copy(model.join(name), copy.path().join(name)).expect("a file can be copied");
        }
        std::fs::write(copy.path().join(file), content).expect("a file can be written");
        copy
    }
    let tokenizer = std::fs::read(model.join("tokenizer.json")).expect("the model has a tokenizer");
    let tokenizer: serde_json::Value = serde_json::from_slice(&tokenizer).expect("it is JSON");
    let mut larger = tokenizer.clone();
    larger["model"]["vocab"]["atmospheric"] = 9_999_999.into();
    let mut unknown = tokenizer;
    unknown["model"]["vocab"] = serde_json::json!({"[PAD]": 0, "[UNK]": 1});
    for (file, content, words) in [
        ("model.onnx", b"no model".to_vec(), ["cannot be used", "embedding model"]),
        ("tokenizer.json", b"{}".to_vec(), ["cannot be used", "tokenizer.json"]),
        ("tokenizer_config.json", b"{}".to_vec(), ["cannot be used", "model_max_length"]),
        ("tokenizer.json", larger.to_string().into(), ["another model", "atmospheric"]),
        ("tokenizer.json", unknown.to_string().into(), ["tokenizer.json", "same vector"]),
    ] {
        let copy = with(&model, file, &content);
        fails_with(onnx(NodePlan::named("n"), copy.path(), &runtime), &words).await;
    }
}
