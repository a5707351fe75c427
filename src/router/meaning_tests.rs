//! The labelled phrases by which the thresholds were chosen, and the rule by itself.

use std::sync::{Arc, LazyLock};

use super::*;
use crate::capability::{Capability, Kind, Operation, OperationSet, PeerId};
use crate::catalog::Catalog;
use crate::embedding::{Embedder, StaticEmbedder};
use crate::router::testing::{chat_model, fill, intent};
use crate::router::{Router, Signals};

/// A project as a provider describes it: sometimes with examples, sometimes with no more than a sentence.
fn project(name: &str, domain: &str, description: &str, topics: &[&str], examples: &[&str]) -> Capability {
    let mut capability = Capability::new("farm", Kind::LLM_CHAT, name);
    capability.project = Some(name.to_owned());
    capability.domain = Some(domain.to_owned());
    capability.description = description.to_owned();
    capability.topics = topics.iter().map(|&topic| topic.to_owned()).collect();
    capability.examples = examples.iter().map(|&example| example.to_owned()).collect();
    capability.operations = OperationSet::of(&[Operation::Chat]);
    capability.parameter_count = Some(3_000_000_000);
    capability
}

fn of_kind(name: &str, kind: Kind, billions: u64) -> Capability {
    let mut capability = Capability::new("ollama", kind, name);
    capability.operations = OperationSet::of(&[Operation::Chat]);
    capability.parameter_count = Some(billions * 1_000_000_000);
    capability
}

/// The router of a mesh of four projects and four models, on a node with the built-in embedder.
fn router() -> Router {
    router_with(Some(Arc::new(StaticEmbedder::builtin())))
}

fn router_with(embedder: Option<Arc<dyn Embedder>>) -> Router {
    let catalog = Arc::new(Catalog::new(embedder));
    let farm = vec![
        project(
            "farm/camelids",
            "camelids",
            "Answers questions about keeping llamas and alpacas: feeding, shearing, health and housing.",
            &["llama", "alpaca", "camelids", "husbandry"],
            &["What do alpacas eat?", "How often must a llama be shorn?"],
        ),
        project(
            "legal/tenancy",
            "tenancy law",
            "Knows the law of rented homes: leases, deposits, notice periods, repairs and evictions.",
            &["tenancy", "rent", "landlord", "lease"],
            &[],
        ),
        project(
            "clinic/triage",
            "medicine",
            "Helps nurses to judge symptoms and says which patients need a doctor soon.",
            &["symptoms", "triage", "patients", "fever"],
            &["My child has a fever and a rash, is it urgent?", "When does chest pain need an ambulance?"],
        ),
        project(
            "plant/pumps",
            "pump maintenance",
            "Manuals and maintenance records of the centrifugal pumps in plant 4.",
            &["centrifugal pump", "bearing", "vibration", "seal"],
            &[],
        ),
    ];
    let models = vec![
        chat_model("qwen2.5:7b", 7),
        chat_model("llama3.2:1b", 1),
        of_kind("qwen2.5-coder:7b", Kind::LLM_CODE, 7),
        of_kind("deepseek-r1:14b", Kind::LLM_REASONING, 14),
    ];
    let (a, b) = (PeerId::random(), PeerId::random());
    fill(&catalog, vec![(a, "farm", farm), (b, "gpu", models)]);
    Router::new(catalog, Arc::new(Signals::new(a)), Default::default(), a)
}

/// Phrases and who should answer; `general` is an abstention.
const LABELLED: &[(&str, &str)] = &[
    ("How do I care for my llama?", "farm/camelids"),
    ("What should I feed an alpaca in winter?", "farm/camelids"),
    ("my llama has stopped eating and lies down all day", "farm/camelids"),
    ("how many alpacas can I keep on one hectare?", "farm/camelids"),
    ("when is the best time to shear alpacas", "farm/camelids"),
    ("do llamas need a shelter", "farm/camelids"),
    ("my landlord will not give back my deposit", "legal/tenancy"),
    ("how much notice must I give to end my lease?", "legal/tenancy"),
    ("who has to pay for repairs in a rented flat", "legal/tenancy"),
    ("can my landlord evict me in winter?", "legal/tenancy"),
    ("patient with chest pain and shortness of breath", "clinic/triage"),
    ("toddler with a high fever since yesterday, should she see a doctor?", "clinic/triage"),
    ("which symptoms of a headache are dangerous", "clinic/triage"),
    ("the pump's bearing is vibrating", "plant/pumps"),
    ("how do I replace the seal of the centrifugal pump?", "plant/pumps"),
    ("maintenance interval for pump bearings", "plant/pumps"),
    ("write a quicksort in Rust", "code"),
    ("Why does this Python function return None?", "code"),
    ("implement a LRU cache in Java", "code"),
    ("error[E0502]: cannot borrow `x` as mutable because it is also borrowed as immutable", "code"),
    ("write a SQL query for the ten best customers", "code"),
    ("how do I reverse a string in JavaScript", "code"),
    ("refactor this function so that it has no side effects", "code"),
    ("write unit tests for this class", "code"),
    ("prove that there are infinitely many primes", "reasoning"),
    ("solve x^2 - 5x + 6 = 0", "reasoning"),
    ("what is the probability of two sixes with two dice?", "reasoning"),
    ("hello", "general"),
    ("hi there!", "general"),
    ("good evening, how is it going?", "general"),
    ("tell me a joke about penguins", "general"),
    ("what is the capital of Peru?", "general"),
    ("write a poem about the sea", "general"),
    ("who was Marie Curie?", "general"),
    ("translate 'good night' into French", "general"),
    ("recommend a book for a long train journey", "general"),
    ("what should I wear to a wedding?", "general"),
    ("give me a recipe for lentil soup", "general"),
    ("write an email to my boss that I am ill today", "general"),
    ("explain photosynthesis to a child", "general"),
    ("what is the difference between jazz and blues?", "general"),
    ("how tall is mount Everest", "general"),
    ("why do cats purr?", "general"),
    ("plan a weekend in Lisbon", "general"),
    ("thanks, that was helpful", "general"),
    ("what is on television tonight", "general"),
];

/// Phrases that no threshold and no prototype was chosen by.
const HELD_OUT: &[(&str, &str)] = &[
    ("what kind of fence do I need for llamas", "farm/camelids"),
    ("is hay enough for an alpaca?", "farm/camelids"),
    ("my flat has mould and the landlord does nothing", "legal/tenancy"),
    ("may the rent be raised twice in one year?", "legal/tenancy"),
    ("patient coughs blood, how urgent is that", "clinic/triage"),
    ("pump 4B leaks at the shaft seal", "plant/pumps"),
    ("write a binary tree in C++", "code"),
    ("my JavaScript promise never resolves, why?", "code"),
    ("add a unit test for the parser module", "code"),
    ("how do I sort a dictionary by value in Python", "code"),
    ("prove that the sum of two odd numbers is even", "reasoning"),
    ("what is the integral of sin(x)?", "reasoning"),
    ("hey", "general"),
    ("how are you doing", "general"),
    ("who painted the Mona Lisa?", "general"),
    ("write a toast for my brother's wedding", "general"),
    ("what time is it in Tokyo", "general"),
    ("suggest a name for my cat", "general"),
    ("how do volcanoes work?", "general"),
    ("what should I cook with carrots and rice", "general"),
    ("is it going to rain tomorrow", "general"),
    ("tell me about the Roman empire", "general"),
];

fn label(router: &Router, phrase: &str) -> (String, String) {
    let mut intent = intent(None);
    intent.query = Some(phrase.to_owned());
    let decision = router.decide(&intent);
    let first = &decision.candidates.first().expect("somebody can chat").capability;
    let label = match (&first.project, decision.abstained) {
        (_, true) => "general".to_owned(),
        (Some(project), false) => project.clone(),
        (None, false) => first.kind.type_name().to_owned(),
    };
    (label, decision.reason)
}

/// The phrases that were not labelled as expected.
fn wrong(router: &Router, labelled: &[(&'static str, &'static str)]) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    for (phrase, expected) in labelled {
        let (label, reason) = label(router, phrase);
        if std::env::var_os("SHOW_SIMILARITIES").is_some() {
            let mark = if label == *expected { " " } else { "!" };
            eprintln!("{mark} {expected:14} {label:14} {phrase}\n        {reason}");
        }
        if label != *expected {
            wrong.push((*expected, format!("{phrase:?}: expected {expected}, got {label}: {reason}")));
        }
    }
    wrong
}

#[test]
fn questions_reach_whom_they_mean_and_the_rest_a_general_model() {
    let wrong = wrong(&router(), LABELLED);
    assert!(wrong.is_empty(), "{} of {} wrong: {wrong:#?}", wrong.len(), LABELLED.len());
}

#[test]
fn phrases_that_nothing_was_tuned_on_fare_nearly_as_well() {
    let wrong = wrong(&router(), HELD_OUT);
    assert!(wrong.len() * 5 <= HELD_OUT.len(), "{} of {} wrong: {wrong:#?}", wrong.len(), HELD_OUT.len());
    let misled: Vec<_> = wrong.iter().filter(|(expected, _)| *expected == "general").collect();
    assert!(misled.is_empty(), "general questions that went to a specialist: {misled:#?}");
}

/// The built-in vectors with a component that all share, as many published models have it: unrelated texts are 0.85
/// alike, and the thresholds of another space would mean everything.
struct Shifted(StaticEmbedder, Arc<str>);

impl Embedder for Shifted {
    fn space(&self) -> &Arc<str> {
        &self.1
    }

    fn dim(&self) -> usize {
        self.0.dim() + 1
    }

    fn embed(&self, text: &str) -> Vec<f32> {
        /// Against the unit vectors that it is added to: 0.85 = 2.4² / (1 + 2.4²).
        const SHARED: f32 = 2.4;
        let mut vector = self.0.embed(text);
        let known = vector.iter().any(|x| *x != 0.0);
        vector.push(if known { SHARED } else { 0.0 });
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        vector.iter_mut().for_each(|x| *x /= length);
        vector
    }
}

/// One vector for everything: a model with a tokenizer that is not its own.
struct Dull(Arc<str>);

impl Embedder for Dull {
    fn space(&self) -> &Arc<str> {
        &self.0
    }

    fn dim(&self) -> usize {
        4
    }

    fn embed(&self, _: &str) -> Vec<f32> {
        vec![0.5; 4]
    }
}

/// What must come out right whatever meaning is matched with.
fn headlines(router: &Router) {
    for (phrase, expected) in
        [("How do I care for my llama?", "farm/camelids"), ("write a quicksort in Rust", "code"), ("hello", "general")]
    {
        let (label, reason) = label(router, phrase);
        assert_eq!(label, expected, "{phrase}: {reason}");
    }
}

/// A router with the built-in embedder that has learnt what the mesh is about: once for all tests, as it takes a while.
fn taught() -> &'static Router {
    static TAUGHT: LazyLock<Router> = LazyLock::new(|| {
        let router = router();
        router.learn();
        router
    });
    &TAUGHT
}

#[test]
fn what_was_learnt_makes_it_better() {
    let router = taught();
    no_worse_than(router, 3, 0);
    let mut intent = intent(None);
    for (phrase, start) in [
        ("How do I care for my llama?", "the question means farm/camelids ("),
        ("write a quicksort in Rust", "the question is about programming ("),
        ("hello", "the question is general conversation ("),
        ("draw a lighthouse at sunset", "the question looks like vision/generate, which nobody here is made for"),
    ] {
        intent.query = Some(phrase.to_owned());
        let decision = router.decide(&intent);
        assert!(decision.reason.starts_with(start), "{phrase}: {}", decision.reason);
        let taken = decision.taken.expect("the classifier was asked");
        assert!((0.0..=1.0).contains(&taken.probability) && taken.next.is_some(), "{phrase}: {taken:?}");
        assert!(taken.probability + taken.next_probability <= 1.0 + 1e-3, "{phrase}: {taken:?}");
        assert_eq!(decision.abstained, taken.probability < SURE || phrase == "hello", "{phrase}: {taken:?}");
    }
}

#[test]
fn the_wrong_answers_are_doubtful_and_most_right_ones_are_not() {
    let (mut doubtful, mut wrong, mut sure) = (0, 0, Vec::new());
    for (phrase, expected) in LABELLED.iter().chain(HELD_OUT) {
        let mut intent = intent(None);
        intent.query = Some((*phrase).to_owned());
        let decision = taught().decide(&intent);
        let is_wrong = label(taught(), phrase).0 != *expected;
        doubtful += usize::from(decision.doubtful);
        wrong += usize::from(is_wrong);
        if std::env::var_os("SHOW_DOUBTS").is_some() {
            let marks = (if is_wrong { "!" } else { " " }, if decision.doubtful { "?" } else { " " });
            eprintln!("{}{} {phrase:60} {:?}", marks.0, marks.1, decision.taken);
        }
        if is_wrong && !decision.doubtful {
            sure.push(*phrase);
        }
    }
    let all = LABELLED.len() + HELD_OUT.len();
    if std::env::var_os("SHOW_DOUBTS").is_some() {
        eprintln!("{doubtful} of {all} doubtful; {wrong} wrong");
    }
    assert!(sure.is_empty(), "wrong, and not doubtful: {sure:?}");
    assert!(doubtful * 2 <= all, "{doubtful} of {all} are doubtful");
}

#[test]
fn other_languages_are_understood_without_an_embedder_of_theirs() {
    for (phrase, expected) in [
        ("Schreibe eine Funktion in Python, die Primzahlen berechnet", "code"),
        ("Écris un programme en Java qui trie une liste", "code"),
        ("Escribe una función que invierta una lista en JavaScript", "code"),
        ("Beweise, dass es unendlich viele Primzahlen gibt", "reasoning"),
        ("Guten Morgen, wie geht's?", "general"),
        ("¿Cuál es la capital de Francia?", "general"),
    ] {
        let (label, reason) = label(taught(), phrase);
        assert_eq!(label, expected, "{phrase}: {reason}");
    }
}

#[test]
fn whoever_came_after_the_lesson_counts_by_likeness() {
    let catalog = Arc::new(Catalog::new(Some(Arc::new(StaticEmbedder::builtin()))));
    let (a, b) = (PeerId::random(), PeerId::random());
    let models = || vec![chat_model("qwen2.5:7b", 7), of_kind("qwen2.5-coder:7b", Kind::LLM_CODE, 7)];
    fill(&catalog, vec![(a, "gpu", models())]);
    let router = Router::new(Arc::clone(&catalog), Arc::new(Signals::new(a)), Default::default(), a);
    router.learn();
    let late = project(
        "farm/camelids",
        "camelids",
        "Answers questions about keeping llamas and alpacas: feeding, shearing, health and housing.",
        &["llama", "alpaca", "camelids", "husbandry"],
        &["What do alpacas eat?", "How often must a llama be shorn?"],
    );
    fill(&catalog, vec![(a, "gpu", models()), (b, "farm", vec![late])]);
    let ask = || headlines(&router);
    ask();
    router.learn();
    ask();
}

#[test]
fn copies_of_a_project_are_one_subject_and_all_candidates() {
    let catalog = Arc::new(Catalog::new(Some(Arc::new(StaticEmbedder::builtin()))));
    let nodes = [PeerId::random(), PeerId::random(), PeerId::random()];
    let bread =
        || project("home/bread", "baking", "Knows sourdough bread: starters, proofing, ovens.", &["bread"], &[]);
    let offered = nodes.map(|node| (node, "baker", vec![bread(), chat_model("qwen2.5:7b", 7)]));
    fill(&catalog, offered.into());
    let router = Router::new(catalog, Arc::new(Signals::new(nodes[0])), Default::default(), nodes[0]);
    router.learn();
    let mut intent = intent(None);
    intent.query = Some("why does my sourdough bread not rise in the oven?".to_owned());
    let decision = router.decide(&intent);
    let first: Vec<_> = decision.candidates.iter().take(3).map(|c| c.capability.project.as_deref()).collect();
    assert_eq!(first, [Some("home/bread"); 3], "{}", decision.reason);
    assert!(!decision.abstained, "{}", decision.reason);
}

/// At most so many wrong of all phrases, and so many of these general questions that went to a specialist.
fn no_worse_than(router: &Router, most: usize, most_misled: usize) {
    headlines(router);
    let mut wrong = wrong(router, LABELLED);
    wrong.extend(self::wrong(router, HELD_OUT));
    let misled = wrong.iter().filter(|(expected, _)| *expected == "general").count();
    assert!(wrong.len() <= most && misled <= most_misled, "{} wrong, {misled} misled: {wrong:#?}", wrong.len());
}

#[test]
fn without_an_embedder_words_do() {
    no_worse_than(&router_with(None), 6, 2);
    let router = router_with(None);
    router.learn();
    headlines(&router);
}

#[test]
fn the_bars_move_with_the_space() {
    let shifted: Arc<dyn Embedder> = Arc::new(Shifted(StaticEmbedder::builtin(), "shifted/257".into()));
    no_worse_than(&router_with(Some(Arc::clone(&shifted))), 3, 0);
    let router = router_with(Some(shifted));
    router.learn();
    no_worse_than(&router, 3, 0);
}

#[test]
fn an_embedder_that_tells_nothing_is_not_listened_to() {
    no_worse_than(&router_with(Some(Arc::new(Dull("dull/4".into())))), 6, 2);
}

#[cfg(feature = "fastembed")]
#[test]
fn a_real_onnx_model_does_as_well() {
    let (Some(directory), Some(_)) = (std::env::var_os("ATMOSPHERE_TEST_ONNX_DIR"), std::env::var_os("ORT_DYLIB_PATH"))
    else {
        eprintln!("SKIPPED: ATMOSPHERE_TEST_ONNX_DIR and ORT_DYLIB_PATH are not set (`scripts/test onnx` sets them)");
        return;
    };
    let embedder = crate::embedding::OnnxEmbedder::open(std::path::Path::new(&directory)).expect("a model");
    let vector = embedder.embed("How do I care for my llama?");
    assert_eq!(vector.len(), embedder.dim());
    assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-3, "of unit length");
    assert!(embedder.space().starts_with("onnx/"));
    no_worse_than(&router_with(Some(Arc::new(embedder))), 3, 0);
}

#[test]
fn abstaining_takes_the_best_general_model_and_says_so() {
    let mut intent = intent(None);
    intent.query = Some("hello".to_owned());
    let decision = router().decide(&intent);
    assert!(decision.abstained);
    assert_eq!(decision.candidates[0].capability.name, "qwen2.5:7b");
    assert!(decision.reason.contains("no speciality is near enough"), "{}", decision.reason);
}

#[test]
fn a_speciality_must_be_near_and_clearly_nearer_than_conversation() {
    let code = |similarity| Some((Speciality::Code, similarity));
    let hit =
        |similarity| vec![(EntryId(0), similarity), (EntryId(1), similarity - 0.01), (EntryId(2), similarity - 0.2)];
    let bars = Bars { entry: 0.36, special: 0.38, margin: 0.03, tie: 0.02 };
    let (low, high) = (bars.entry - 0.01, bars.special + 0.2);
    let entries =
        |similarity: f32| Some(Meant::Entries(vec![(EntryId(0), similarity), (EntryId(1), similarity - 0.01)]));
    for (row, hits, special, general, meant) in [
        (0, vec![], None, 0.9, None),
        (1, hit(low), None, 0.0, None),
        (2, hit(high), None, 0.1, entries(high)),
        (3, hit(high), None, high - bars.margin / 2.0, None),
        (4, vec![], code(high), 0.1, Some(Meant::Speciality(Speciality::Code, high))),
        (5, hit(high), code(high + 0.1), 0.1, Some(Meant::Speciality(Speciality::Code, high + 0.1))),
        (6, hit(high), code(high), 0.1, entries(high)),
        (7, hit(low), code(bars.special - 0.01), 0.0, None),
    ] {
        assert_eq!(decide(&hits, special, general, bars).meant, meant, "row {row}");
    }
}

#[test]
fn a_kind_that_the_mesh_does_not_have_is_not_meant() {
    let catalog = Arc::new(Catalog::new(Some(Arc::new(StaticEmbedder::builtin()))));
    let node = PeerId::random();
    fill(&catalog, vec![(node, "only", vec![chat_model("qwen2.5:7b", 7)])]);
    let router = Router::new(catalog, Arc::new(Signals::new(node)), Default::default(), node);
    let mut intent = intent(None);
    intent.query = Some("write a quicksort in Rust".to_owned());
    let decision = router.decide(&intent);
    assert!(decision.abstained);
    assert!(decision.reason.starts_with("nothing in the mesh is made for a special field"), "{}", decision.reason);
}

#[test]
fn a_typed_intent_with_a_domain_reaches_whoever_bears_it() {
    let mut intent = intent(None);
    intent.requirements.domain = Some("Medicine".into());
    intent.query = Some("hello".into());
    let decision = router().decide(&intent);
    assert_eq!(decision.candidates[0].capability.project.as_deref(), Some("clinic/triage"));
    assert!(decision.rejected.iter().any(|one| one.reason == "its field is camelids, not Medicine"));
}
