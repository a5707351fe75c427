//! When it is not clear what a question means, a stronger embedder of the mesh is asked, and the decision says so; when that
//! one is late, the first decision stands.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Backend, Cluster, LlamaFarm, Mode, NodePlan, TestNode, chat, eventually};

/// Until a judge has read and this mesh is learnt anew from that, in a build that is not optimised.
const PREPARED: Duration = Duration::from_secs(180);

const EMBEDDER: &str = "nomic-embed-text";

/// Questions about camelids that the built-in embedder is not sure of.
const HERD: [&str; 8] = [
    "The herd has been spitting at visitors since we sheared it",
    "my woolly pack animals cough in the morning",
    "which fence keeps Peruvian pack animals in",
    "is the fleece ready",
    "they hum at night in the barn, is that normal",
    "how often do the toenails of the herd need trimming",
    "the cria will not drink",
    "what does it mean when the herd gaits in a line",
];

const PHRASES: [&str; 7] = [
    include_str!("../assets/phrases/llm.txt"),
    include_str!("../assets/phrases/vision.txt"),
    include_str!("../assets/phrases/audio.txt"),
    include_str!("../assets/phrases/agent.txt"),
    include_str!("../assets/phrases/tool.txt"),
    include_str!("../assets/phrases/ml.txt"),
    include_str!("../assets/phrases/none.txt"),
];

/// An embedder that knows: a direction for each kind of phrase, one for camelids, and one for all else.
fn clairvoyant(text: &str) -> Vec<f64> {
    const DIM: usize = 48;
    const CAMELIDS: usize = DIM - 2;
    const ELSE: usize = DIM - 1;
    let (mut heading, mut direction) = (0, None);
    for line in PHRASES.iter().flat_map(|file| file.lines()) {
        if line.starts_with('[') {
            heading += 1;
        } else if line.split_once(": ").is_some_and(|(_, phrase)| phrase.trim() == text) {
            direction = Some(heading);
        }
    }
    let of_camelids = || HERD.contains(&text) || ["llama", "alpaca", "camelid"].iter().any(|it| text.contains(it));
    let direction = direction.unwrap_or_else(|| if of_camelids() { CAMELIDS } else { ELSE });
    (0..DIM).map(|at| if at == direction { 1.0 } else { 0.01 }).collect()
}

struct Farmyard {
    farm: LlamaFarm,
    nas: Backend,
    _gpu: Backend,
    cluster: Cluster,
}

/// `laptop` has nothing, `barn` has the project for camelids, `gpu` a general model and a coder, `nas` a strong embedder.
async fn farmyard() -> Farmyard {
    let farm = LlamaFarm::start("farm");
    let gpu = Backend::start("gpu", &["llama3.1:8b", "qwen2.5-coder:7b"]);
    let nas = Backend::start("nas", &[EMBEDDER]);
    nas.embeds(clairvoyant);
    let backends = format!("[[backends]]\nkind = \"llamafarm\"\nurl = \"{}\"\nnamespaces = [\"farm\"]\n", farm.url());
    let cluster = Cluster::start(vec![
        // A busy test machine is no reason to be late.
        NodePlan::named("laptop").env("ATMOSPHERE_ROUTER_SECOND_OPINION", "2s"),
        NodePlan::named("barn").config(&backends),
        NodePlan::named("gpu").backend(gpu.url()),
        NodePlan::named("nas").backend(nas.url()),
        // As the laptop is by itself.
        NodePlan::named("desk").env("ATMOSPHERE_ROUTER_SECOND_OPINION", "off"),
    ])
    .await;
    for node in [&cluster[0], &cluster[4]] {
        node.sees_model("llama3.1:8b").await;
        node.sees_model(EMBEDDER).await;
        eventually("the project is known", support::PATIENCE, async || {
            node.get_json("/v1/capabilities").await.to_string().contains("farm/camelids")
        })
        .await;
    }
    Farmyard { farm, nas, _gpu: gpu, cluster }
}

async fn route(node: &TestNode, question: &str) -> Value {
    let (status, answer) = node.ask("/v1/mesh/route", &chat("auto", question)).await;
    assert_eq!(status, 200, "{answer}");
    answer["decision"].clone()
}

/// Three questions or more that a node by itself is unsure of, and takes for something else.
async fn unsure_of(node: &TestNode) -> Vec<&'static str> {
    let end = Instant::now() + PREPARED;
    loop {
        let mut unsure = Vec::new();
        for question in HERD {
            let decision = route(node, question).await;
            assert!(decision["second"].is_null(), "it asks nobody: {decision}");
            if decision["doubtful"] == true && !decision["chosen"].to_string().contains("camelids") {
                unsure.push(question);
            }
        }
        if unsure.len() >= 3 {
            return unsure;
        }
        assert!(Instant::now() < end, "it is unsure of {unsure:?} only");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn in_doubt_a_stronger_embedder_is_asked_and_the_decision_says_so() {
    let yard = farmyard().await;
    let (laptop, desk) = (&yard.cluster[0], &yard.cluster[4]);

    let unsure = unsure_of(desk).await;
    let first = unsure[0];
    eventually("somebody may be asked", PREPARED, async || route(laptop, first).await["second"].is_object()).await;

    // Asked for real: the project for camelids answers, whom the laptop by itself had not chosen.
    let (status, answer) = laptop.ask("/v1/chat/completions", &chat("auto", unsure[1])).await;
    assert_eq!(status, 200, "{answer}");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert!(text.starts_with("farm:"), "answered by {text:?}");
    assert_eq!(yard.farm.counts().finished, 1);
    let logged = laptop.get_json("/v1/mesh/decisions?limit=1").await["decisions"][0].clone();
    let second = &logged["second"];
    assert_eq!((&second["outcome"], &second["remembered"]), (&"changed".into(), &false.into()), "{logged}");
    assert_eq!((&second["node_name"], &second["model"]), (&"nas".into(), &EMBEDDER.into()), "{logged}");
    assert!(second["elapsed_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{logged}");
    assert!(second["first"]["probability"].is_number() && logged["taken"]["what"] == "farm/camelids", "{logged}");
    assert!(logged["reason"].as_str().is_some_and(|why| why.contains("nomic-embed-text on nas was asked")), "{logged}");

    // Once more, nobody is asked, and the same comes of it.
    let asked = yard.nas.counts().started;
    let again = route(laptop, unsure[1]).await;
    assert_eq!(
        (&again["second"]["outcome"], &again["second"]["remembered"]),
        (&"changed".into(), &true.into()),
        "{again}"
    );
    assert_eq!(yard.nas.counts().started, asked);
    let output = laptop.cli(&["route", unsure[1]]).await;
    let said = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(output.status.success() && said.contains("farm/camelids") && said.contains("was asked"), "{said}");
    let metrics = laptop.get("/metrics").await.text().await.expect("the metrics are text");
    for line in [r#"second_opinions_total{outcome="changed",source="asked"}"#, "atmosphere_doubts_total"] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }

    // One that says nothing holds nobody up for longer than the limit, and is left alone after that.
    yard.nas.set(Mode::Hang);
    let late = route(laptop, unsure[2]).await;
    assert_eq!(late["second"]["outcome"], "late", "{late}");
    assert!(!late["chosen"].to_string().contains("camelids"), "the first decision stands: {late}");
    let resting = route(laptop, unsure[2]).await;
    assert!(resting["second"].is_null() && resting["doubtful"] == true, "{resting}");
}
