//! Decisions through the router's front.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::testing::{catalog, chat_model, intent};
use super::*;
use crate::capability::{
    Capability, CapabilityId, Cost, Feature, FeatureSet, Kind, Load, Modality, ModalitySet, Operation, OperationSet,
    Preference, Residency, Target,
};
use crate::mesh::{LinkTransport, MeshView, PathClass, PeerView};

struct Mesh {
    router: Router,
    nodes: BTreeMap<&'static str, PeerId>,
}

impl Mesh {
    fn new(nodes: Vec<(&'static str, Vec<Capability>)>) -> Self {
        Self::with(nodes, Settings::default())
    }

    fn with(nodes: Vec<(&'static str, Vec<Capability>)>, settings: Settings) -> Self {
        let ids: BTreeMap<_, _> = nodes.iter().map(|(name, _)| (*name, PeerId::random())).collect();
        let offered = nodes.into_iter().map(|(name, offers)| (ids[name], name, offers)).collect();
        let own = PeerId::random();
        let router = Router::new(catalog(offered), Arc::new(Signals::new(own)), settings, own);
        Self { router, nodes: ids }
    }

    fn decide(&self, model: &str) -> Decision {
        self.router.decide(&intent(Some(model)))
    }

    /// `model@node` of the candidates in order.
    fn order(&self, model: &str) -> Vec<String> {
        order(&self.decide(model))
    }

    fn paths(&self, paths: &[(&str, PathClass, u64)]) {
        let peers = paths.iter().map(|(name, path, rtt)| {
            let rtt = Some(Duration::from_millis(*rtt));
            let transport = LinkTransport::Quic;
            (self.nodes[name], PeerView { path: *path, transport, rtt, address: String::new(), connections: 1 })
        });
        let view = MeshView {
            mesh_id: String::new(),
            mesh_name: String::new(),
            membership: None,
            node: self.router.own(),
            listening: Vec::new(),
            peers: peers.collect(),
            seeds: Vec::new(),
        };
        self.router.signals().update_paths(&view);
    }
}

fn order(decision: &Decision) -> Vec<String> {
    decision.candidates.iter().map(|c| format!("{}@{}", c.capability.name, c.node_name)).collect()
}

fn of_kind(name: &str, kind: Kind, billions: u64) -> Capability {
    let mut model = chat_model(name, billions);
    model.kind = kind;
    model.id = CapabilityId::new("test", &model.kind, name);
    model
}

fn project(name: &str, domain: &str) -> Capability {
    let mut model = chat_model(name, 3);
    model.project = Some(name.to_owned());
    model.domain = Some(domain.to_owned());
    model
}

fn embedder(name: &str, millions: u64) -> Capability {
    let mut model = of_kind(name, Kind::LLM_EMBED, 1);
    model.operations = OperationSet::of(&[Operation::Embed]);
    model.parameter_count = Some(millions * 1_000_000);
    model
}

#[test]
fn a_decision_tells_all_that_its_scores_are_made_of() {
    let mut paid = chat_model("chat", 400);
    paid.cost = Cost { input: 3.0, output: 12.0 };
    let mesh = Mesh::new(vec![
        ("near", vec![chat_model("chat", 3), chat_model("small", 1)]),
        ("far", vec![chat_model("chat", 70)]),
        ("cloud", vec![paid]),
    ]);
    mesh.paths(&[("near", PathClass::Lan, 2), ("far", PathClass::Wan, 80)]);
    for preference in [Preference::Balanced, Preference::Latency, Preference::Accuracy, Preference::Location] {
        for model in ["chat", "auto"] {
            let mut intent = intent(Some(model));
            intent.preference = preference;
            let decision = mesh.router.decide(&intent);
            let weights = decision.weights.expect("somebody was looked at");
            assert!(decision.candidates.len() >= 3, "{decision:?}");
            for Candidate { score, parts, .. } in &decision.candidates {
                let others = if weights.considerate { parts.others_ms - parts.repaid_ms } else { 0.0 };
                let own = parts.rtt_ms + parts.queue_ms + parts.load_ms + parts.prefill_ms + parts.decode_ms;
                let told = weights.tier * f64::from(parts.tier)
                    - weights.time * (1.0 + (own + others) / 1e3 / weights.scale_s).log2()
                    + weights.quality * parts.quality
                    - weights.path * parts.distance
                    - weights.cost * (1.0 + 1e4 * parts.cost_usd).log2();
                assert!((told - score).abs() < 1e-9, "{preference:?} {model}: {told} is not {score} of {parts:?}");
            }
        }
    }
}

#[test]
fn a_name_means_the_first_of_model_node_project_alias() {
    let mesh = Mesh::new(vec![
        ("gpu", vec![chat_model("llama3.2:latest", 3), chat_model("org/model", 7), chat_model("odd@name", 7)]),
        ("nas", vec![chat_model("llama3.2", 3), project("farm/camelids", "camelids"), chat_model("best-code", 1)]),
    ]);
    for (name, step, on) in [
        ("llama3.2", Step::Model, &["gpu", "nas"][..]),
        ("LLAMA3.2:latest", Step::Model, &["gpu", "nas"]),
        ("org/model", Step::Model, &["gpu"]),
        ("odd@name", Step::Model, &["gpu"]),
        ("odd@name@gpu", Step::Node, &["gpu"]),
        ("llama3.2@nas", Step::Node, &["nas"]),
        ("llama3.2@NAS", Step::Node, &["nas"]),
        ("farm/camelids", Step::Model, &["nas"]),
        ("farm/camelids@nas", Step::Node, &["nas"]),
        ("best-code", Step::Model, &["nas"]),
        ("best-chat", Step::Alias, &["gpu", "nas"]),
        ("best-chat@nas", Step::Node, &["nas"]),
        ("auto@nas", Step::Node, &["nas"]),
        ("auto", Step::Auto, &["gpu", "nas"]),
    ] {
        let decision = mesh.decide(name);
        assert_eq!(decision.step, step, "{name}: {decision:?}");
        let mut nodes: Vec<_> = decision.candidates.iter().map(|c| c.node_name.to_string()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        assert_eq!(nodes, on, "{name}");
    }
    let by_id = format!("llama3.2@{}", mesh.nodes["nas"]);
    assert_eq!(mesh.order(&by_id), ["llama3.2@nas"]);
}

#[test]
fn an_unknown_name_is_said_to_be_unknown_with_what_is_like_it() {
    let mesh = Mesh::new(vec![("gpu", vec![chat_model("llama3.2", 3)]), ("nas", vec![chat_model("qwen3", 8)])]);
    let Some(NoRoute::UnknownModel { name, near }) = mesh.decide("best-coder").no_route else { panic!("unknown") };
    assert_eq!((name.as_str(), near.contains(&"best-code".to_owned())), ("best-coder", true));
    assert!(matches!(mesh.decide("gpt-9").no_route, Some(NoRoute::UnknownModel { .. })));
    let Some(NoRoute::UnknownNode { name, mut near }) = mesh.decide("qwen3@cloud").no_route else { panic!("unknown") };
    near.sort_unstable();
    assert_eq!((name.as_str(), near), ("cloud", vec!["gpu".to_owned(), "nas".to_owned()]));
    let Some(NoRoute::UnknownModel { near, .. }) = mesh.decide("qwen3@gpu").no_route else { panic!("unknown") };
    assert_eq!(near, ["qwen3@nas"], "it is there, but elsewhere");
    let decision = mesh.decide("gpt-9");
    assert_eq!((decision.step, decision.candidates.len()), (Step::Unknown, 0));
}

#[test]
fn what_a_named_model_lacks_is_the_reason() {
    let mut blind = chat_model("blind", 7);
    blind.context_length = Some(2048);
    let mesh = Mesh::new(vec![("gpu", vec![blind.clone()]), ("nas", vec![blind])]);
    let mut intent = intent(Some("blind"));
    intent.requirements.prompt_tokens = 9000;
    let decision = mesh.router.decide(&intent);
    let reason = "its context of 2048 tokens is less than the 9000 that prompt and answer need";
    assert_eq!(
        decision.no_route,
        Some(NoRoute::NothingCan(format!("none of the 2 copies of \"blind\" can do this: {reason}")))
    );
    assert_eq!((decision.rejected.len(), decision.rejected_total), (2, 2));
    assert!(decision.rejected.iter().all(|one| one.reason == reason));
}

#[test]
fn of_two_copies_the_sooner_answers() {
    let mut cold = chat_model("m", 7);
    cold.residency = Residency::Cold;
    let mut warm = chat_model("m", 7);
    warm.residency = Residency::Warm;
    let mesh = Mesh::new(vec![("a", vec![cold]), ("b", vec![warm.clone()]), ("c", vec![warm])]);
    mesh.paths(&[("a", PathClass::Lan, 1), ("b", PathClass::Lan, 1), ("c", PathClass::Wan, 90)]);
    assert_eq!(mesh.order("m"), ["m@b", "m@c", "m@a"], "warm before cold, near before far");
    let (b, id) = (mesh.nodes["b"], chat_model("m", 7).id);
    let _call = mesh.router.signals().begin(&b, &id);
    assert_eq!(mesh.order("m")[0], "m@c", "a call under way counts before anybody reports it");
    drop(_call);
    mesh.router.signals().observe_load(&b, &id, Load { running: 4, queued: 30, limit: 4 }, Instant::now());
    assert_eq!(mesh.order("m"), ["m@c", "m@a", "m@b"], "a long queue is worse than loading");
    let decision = mesh.decide("m");
    assert!(decision.candidates[2].parts.queue_ms > 0.0);
    assert!(decision.reason.starts_with("m can run in 3 places; c is expected first"), "{}", decision.reason);
}

#[test]
fn who_would_hold_others_up_is_passed_over_for_one_that_is_a_little_slower() {
    let mesh = Mesh::new(vec![("fast", vec![chat_model("m", 7)]), ("idle", vec![chat_model("m", 14)])]);
    mesh.paths(&[("fast", PathClass::Lan, 1), ("idle", PathClass::Lan, 1)]);
    assert_eq!(mesh.order("m"), ["m@fast", "m@idle"]);
    let two_run = Load { running: 2, queued: 0, limit: 4 };
    mesh.router.signals().observe_load(&mesh.nodes["fast"], &chat_model("m", 7).id, two_run, Instant::now());
    let decision = mesh.decide("m");
    assert_eq!(order(&decision), ["m@idle", "m@fast"]);
    let [idle, fast] = &decision.candidates[..] else { panic!("two candidates") };
    assert!(idle.predicted > fast.predicted && fast.parts.others_ms > 0.0 && idle.parts.others_ms == 0.0);
    assert!(decision.reason.contains("but there it would hold up the calls that run by"), "{}", decision.reason);
    // Whoever is in a hurry is not asked to mind the others.
    let hurried = Intent { preference: Preference::Latency, ..intent(Some("m")) };
    assert_eq!(order(&mesh.router.decide(&hurried)), ["m@fast", "m@idle"]);
}

#[test]
fn what_was_measured_overrules_what_was_expected() {
    let mesh = Mesh::new(vec![("a", vec![chat_model("m", 7)]), ("b", vec![chat_model("m", 7)])]);
    mesh.paths(&[("a", PathClass::Lan, 1), ("b", PathClass::Lan, 1)]);
    let id = chat_model("m", 7).id;
    for (node, rest) in [("a", 20_000), ("b", 1_000)] {
        let seen = Observation {
            first_chunk: Duration::from_millis(200),
            rest: Duration::from_millis(rest),
            loading: None,
            prompt_tokens: 100,
            completion_tokens: 100,
            streamed: true,
            decodes: true,
            first_ratio: None,
            cached_tokens: None,
            warm_tokens: 0.0,
            company: 0.0,
        };
        for _ in 0..3 {
            mesh.router.signals().succeed(&mesh.nodes[node], &id, Some(seen), Instant::now());
        }
    }
    let decision = mesh.decide("m");
    assert_eq!(order(&decision), ["m@b", "m@a"]);
    assert!(decision.candidates.iter().all(|candidate| candidate.parts.measured));
    assert!(decision.candidates[0].predicted < decision.candidates[1].predicted);
}

#[test]
fn who_rests_is_passed_over_and_if_all_rest_the_caller_hears_for_how_long() {
    let mesh = Mesh::new(vec![("a", vec![chat_model("m", 7)]), ("b", vec![chat_model("m", 7)])]);
    let (id, now) = (chat_model("m", 7).id, Instant::now());
    let signals = mesh.router.signals();
    signals.fail_capability(&mesh.nodes["a"], &id, now, now);
    let decision = mesh.decide("m");
    assert_eq!(order(&decision), ["m@b"]);
    assert!(decision.rejected[0].reason.starts_with("it failed a moment ago; the next try is due in"));
    signals.rest_capability(&mesh.nodes["b"], &id, Duration::from_secs(20), now);
    let Some(NoRoute::AllCooling { retry_after }) = mesh.decide("m").no_route else { panic!("all rest") };
    assert!(retry_after <= Duration::from_secs(1));
}

#[test]
fn aliases_filter_and_order_and_say_what_stands_in() {
    let mut paid = chat_model("gpt", 1);
    paid.parameter_count = None;
    paid.cost = Cost { input: 5.0, output: 15.0 };
    let mut seeing = chat_model("llava", 8);
    seeing.modalities = ModalitySet::of(&[Modality::Text, Modality::Image]);
    let mesh = Mesh::new(vec![
        ("a", vec![chat_model("small", 1), chat_model("big", 70), of_kind("coder", Kind::LLM_CODE, 7)]),
        ("b", vec![paid, seeing, project("farm/camelids", "camelids"), embedder("nomic", 137)]),
    ]);
    assert_eq!(mesh.order("best-code")[0], "coder@a");
    assert_eq!(mesh.order("best-chat")[..2], ["gpt@b", "big@a"]);
    assert_eq!(mesh.order("fast")[0], "small@a");
    assert_eq!(mesh.order("cheap")[0], "small@a");
    assert_eq!(mesh.order("cheap").last().map(String::as_str), Some("gpt@b"));
    assert_eq!(mesh.order("best-vision"), ["llava@b"]);
    let decision = mesh.decide("best-reasoning");
    assert!(
        decision.reason.starts_with("best-reasoning: no llm/reasoning model can do this, so"),
        "{}",
        decision.reason
    );
    assert!(!mesh.order("best-chat").contains(&"farm/camelids@b".to_owned()), "a project is no general model");
    assert!(mesh.decide("fast").rejected.iter().any(|one| one.reason.contains("does not serve chat")));
}

#[test]
fn an_owners_alias_stands_for_their_models_in_their_order() {
    let alias = Alias { models: vec!["gone".into(), "big".into(), "small".into()], ..Alias::default() };
    let settings = Settings { aliases: BTreeMap::from([("house".into(), alias)]), ..Settings::default() };
    let mesh =
        Mesh::with(vec![("a", vec![chat_model("small", 1), chat_model("big", 70), chat_model("other", 7)])], settings);
    assert_eq!(mesh.order("house"), ["big@a", "small@a"]);
}

#[test]
fn preferences_reach_the_order() {
    let mesh = Mesh::new(vec![("a", vec![chat_model("small", 1), chat_model("big", 70)])]);
    let first = |preference| {
        let mut intent = intent(None);
        intent.preference = preference;
        order(&mesh.router.decide(&intent)).remove(0)
    };
    assert_eq!(first(Preference::Latency), "small@a");
    assert_eq!(first(Preference::Accuracy), "big@a");
}

#[test]
fn auto_embeds_with_one_model_however_busy_it_is() {
    let mesh = Mesh::new(vec![
        ("a", vec![embedder("nomic-embed-text", 137), embedder("all-minilm", 22)]),
        ("b", vec![embedder("nomic-embed-text", 137), chat_model("chat", 7)]),
    ]);
    let mut intent = intent(None);
    intent.operation = Operation::Embed;
    let id = embedder("nomic-embed-text", 137).id;
    for node in ["a", "b"] {
        let load = Load { running: 4, queued: 60, limit: 4 };
        mesh.router.signals().observe_load(&mesh.nodes[node], &id, load, Instant::now());
    }
    let decision = mesh.router.decide(&intent);
    let names: Vec<_> = decision.candidates.iter().map(|c| c.capability.name.as_str()).collect();
    assert_eq!(names, ["nomic-embed-text", "nomic-embed-text", "all-minilm"]);
    assert!(!decision.abstained, "nothing was asked by meaning");
}

#[test]
fn requirements_hold_for_auto_too() {
    let mut able = chat_model("able", 1);
    able.features = FeatureSet::of(&[Feature::Tools]);
    let mesh = Mesh::new(vec![("a", vec![chat_model("big", 70), able])]);
    let mut intent = intent(None);
    intent.requirements.features = FeatureSet::of(&[Feature::Tools]);
    let decision = mesh.router.decide(&intent);
    assert_eq!(order(&decision), ["able@a"]);
    assert_eq!(decision.rejected[0].reason, "it lacks tools");
    intent.requirements.features = FeatureSet::of(&[Feature::JsonSchema]);
    let decision = mesh.router.decide(&intent);
    assert!(matches!(decision.no_route, Some(NoRoute::NothingCan(_))), "{decision:?}");
}

#[test]
fn a_mesh_without_anything_that_chats_says_what_to_do_and_an_alias_of_nothing_what_it_stands_for() {
    let mesh = Mesh::new(vec![("a", vec![embedder("nomic", 137)])]);
    let why = mesh.decide("auto").no_route.expect("nobody chats").to_string();
    assert!(why.contains("start a backend"), "{why}");
    let alias = Alias { models: vec!["gone".into(), "away".into()], ..Alias::default() };
    let settings = Settings { aliases: BTreeMap::from([("bad".into(), alias)]), ..Settings::default() };
    let mesh = Mesh::with(vec![("a", vec![chat_model("small", 1)])], settings);
    let no_route = mesh.decide("bad").no_route.expect("nobody has it");
    assert_eq!(no_route, NoRoute::UnknownModel { name: "gone or away".into(), near: Vec::new() });
}

#[test]
fn an_empty_mesh_says_what_to_do() {
    let decision = Mesh::new(vec![]).decide("auto");
    assert!(decision.reason.contains("--backend"), "{}", decision.reason);
}

#[test]
fn lists_are_bounded_and_counted() {
    let models =
        |prefix: &str, count: usize| (0..count).map(|n| chat_model(&format!("{prefix}{n}"), 7)).collect::<Vec<_>>();
    let mut all = models("m", 300);
    all.extend((0..200).map(|n| embedder(&format!("e{n}"), 100)));
    let mesh = Mesh::new(vec![("a", all)]);
    let decision = mesh.decide("auto");
    assert_eq!((decision.candidates.len(), decision.candidates_total), (MAX_CANDIDATES, 300));
    assert_eq!((decision.rejected.len(), decision.rejected_total), (MAX_REJECTED, 200));
}

#[test]
fn a_better_tier_comes_first_and_the_next_fills_the_list() {
    let coders = |count: usize| (0..count).map(|n| of_kind(&format!("c{n}"), Kind::LLM_CODE, 7)).collect::<Vec<_>>();
    let general = |count: usize| (0..count).map(|n| chat_model(&format!("m{n}"), 70)).collect::<Vec<_>>();
    let fields = (0..50).map(|n| project(&format!("p{n}"), "camelids"));
    let mesh = Mesh::new(vec![("a", [coders(20), general(40)].concat()), ("b", fields.collect())]);
    let decision = mesh.decide("best-code");
    assert_eq!((decision.candidates.len(), decision.candidates_total), (MAX_CANDIDATES, 60));
    let is_coder: Vec<_> = decision.candidates.iter().map(|one| one.capability.kind == Kind::LLM_CODE).collect();
    assert_eq!(is_coder, [vec![true; 20], vec![false; 12]].concat());
    assert_eq!(decision.rejected_total, 50, "made for one field");

    // Who rests is no candidate, and makes room for the next tier.
    let now = Instant::now();
    for n in 0..15 {
        let rest = Duration::from_secs(20);
        mesh.router.signals().rest_capability(&mesh.nodes["a"], &coders(20)[n].id, rest, now);
    }
    let decision = mesh.decide("best-code");
    assert_eq!((decision.candidates_total, decision.rejected_total), (45, 65));
    let coders = decision.candidates.iter().filter(|one| one.capability.kind == Kind::LLM_CODE).count();
    assert_eq!((coders, decision.candidates.len()), (5, MAX_CANDIDATES));

    // For `auto` everything is a candidate; without a question the general ones come first.
    let decision = mesh.decide("auto@a");
    assert_eq!((decision.candidates_total, decision.rejected_total), (45, 15));
    let of_a = |one: &Candidate| one.node == mesh.nodes["a"];
    assert!(decision.candidates.iter().all(|one| of_a(one) && one.capability.kind == Kind::LLM_CHAT));
    assert!(decision.rejected.iter().all(|one| one.node == mesh.nodes["a"]), "the other node was not asked for");
}

#[test]
fn a_decision_is_the_same_every_time() {
    let nodes = ["a", "b", "c", "d"].map(|name| (name, vec![chat_model("m", 7), chat_model("n", 7)]));
    let mesh = Mesh::new(nodes.to_vec());
    for target in ["m", "auto", "best-chat"] {
        let first = mesh.order(target);
        for _ in 0..20 {
            assert_eq!(mesh.order(target), first, "{target}");
        }
        let mut ids: Vec<_> = mesh.decide("m").candidates.iter().map(|c| c.node).collect();
        ids.sort_unstable();
        assert_eq!(ids, mesh.decide("m").candidates.iter().map(|c| c.node).collect::<Vec<_>>(), "equals by id");
    }
}

proptest! {
    #[test]
    fn a_name_finds_its_model_or_nobody(name in "[a-z@/:.-]{1,12}", asked in "[a-zA-Z@/:.-]{1,14}") {
        let mesh = Mesh::new(vec![("node", vec![chat_model(&name, 7)])]);
        let found = mesh.decide(&name);
        // `auto` and nothing are no names.
        if !matches!(Target::from_model(Some(&name)), Target::Auto) {
            prop_assert_eq!(found.step, Step::Model);
            prop_assert_eq!(order(&found), [format!("{name}@node")]);
            let on_node = mesh.decide(&format!("{name}@node"));
            prop_assert_eq!(order(&on_node), [format!("{name}@node")]);
        }
        let decision = mesh.decide(&asked);
        prop_assert_eq!(decision.candidates.is_empty(), decision.no_route.is_some());
        if decision.step == Step::Model {
            prop_assert_eq!(crate::capability::normalise_name(&asked), crate::capability::normalise_name(&name));
        }
    }
}
