//! `auto` finds who knows: the camelid project for llamas, the coding model for code, and says why.

mod support;

use serde_json::{Value, json};
use support::{Backend, Cluster, LlamaFarm, NodePlan, chat, stream_chat};

const LLAMA: &str = "How do I care for my llama?";
const CODE: &str = "write a quicksort in Rust";

struct Farmyard {
    farm: LlamaFarm,
    coder: Backend,
    cluster: Cluster,
}

/// `laptop` has nothing, `barn` has LlamaFarm with `farm/camelids`, `gpu` has a coding and a general model.
async fn farmyard() -> Farmyard {
    let (farm, coder) = (LlamaFarm::start("farm"), Backend::start("gpu", &["qwen2.5-coder:7b", "llama3.1:8b"]));
    let backends = format!("[[backends]]\nkind = \"llamafarm\"\nurl = \"{}\"\nnamespaces = [\"farm\"]\n", farm.url());
    let cluster = Cluster::start(vec![
        NodePlan::named("laptop"),
        NodePlan::named("barn").config(&backends),
        NodePlan::named("gpu").backend(coder.url()),
    ])
    .await;
    cluster[0].sees_model("qwen2.5-coder:7b").await;
    support::eventually("the project is known", support::PATIENCE, async || {
        cluster[0].get_json("/v1/capabilities").await.to_string().contains("farm/camelids")
    })
    .await;
    Farmyard { farm, coder, cluster }
}

#[tokio::test]
async fn meaning_reaches_the_one_who_knows() {
    let yard = farmyard().await;
    let laptop = &yard.cluster[0];

    for model in [json!("auto"), Value::Null] {
        let mut body = chat("auto", LLAMA);
        if model.is_null() {
            body.as_object_mut().expect("a body is an object").remove("model");
        }
        let (status, answer) = laptop.ask("/v1/chat/completions", &body).await;
        assert_eq!(status, 200, "{answer}");
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        assert!(text.starts_with("farm:"), "{model}: answered by {text:?}");
    }
    let seen = yard.farm.requests().pop().expect("the farm was asked");
    assert_eq!(seen["model"], "herd", "a project's model goes by its name there");

    let streamed = stream_chat(laptop, "auto", CODE).await;
    assert!(streamed.text().starts_with("gpu:"), "answered by {:?}", streamed.text());
    assert_eq!(streamed.dones, 1);
    let seen = yard.coder.requests().pop().expect("the coder was asked");
    assert_eq!(seen["model"], "qwen2.5-coder:7b");
}

#[tokio::test]
async fn a_project_can_be_named() {
    let yard = farmyard().await;
    let (status, answer) = yard.cluster[0].ask("/v1/chat/completions", &chat("farm/camelids", "hello")).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.starts_with("farm:")));
}

#[tokio::test]
async fn route_says_why_without_running_it() {
    let yard = farmyard().await;
    let laptop = &yard.cluster[0];
    for (prompt, expected) in [(LLAMA, "camelids"), (CODE, "qwen2.5-coder:7b")] {
        let (status, answer) = laptop.ask("/v1/mesh/route", &chat("auto", prompt)).await;
        assert_eq!(status, 200, "{answer}");
        let decision = &answer["decision"];
        assert!(decision["chosen"].to_string().contains(expected), "{prompt}: {decision}");
        assert!(decision["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{decision}");
        assert!(decision["candidates"].as_array().is_some_and(|candidates| !candidates.is_empty()), "{decision}");
        assert!(decision["rejected"].is_array() && decision["elapsed_us"].is_number(), "{decision}");

        let output = laptop.cli(&["route", prompt]).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains(expected),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let output = laptop.cli(&["route", prompt, "--json"]).await;
        let said: Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
        assert!(said.to_string().contains(expected), "{said}");
    }
    assert_eq!((yard.farm.counts().started, yard.coder.counts().started), (0, 0), "asking why runs nothing");
}
