//! What becomes of a doubtful question, whatever the judge does.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::{Value, json};

use super::keeper::{GONE, IDLE, Keeper, Next, RETRY};
use super::*;
use crate::capability::{
    Advert, Call, Capability, Chunk, ErrorClass, Failure, Frame, FrameStream, Kind, Operation, OperationSet, PeerId,
};
use crate::catalog::Catalog;
use crate::dispatch::testing::{Backend, Nodes, One, accepted, end, frames};
use crate::dispatch::{Dispatcher, Local, LocalSettings, Remote};
use crate::embedding::StaticEmbedder;
use crate::router::phrases::phrases;
use crate::router::testing::{advert, chat_model, fill, intent};
use crate::router::{Router, Signals};
use crate::telemetry::EventBus;

const CAMELIDS: &str = "farm/camelids";
const EMBEDDER: &str = "nomic-embed-text:latest";

/// Questions that the built-in embedder does not take for the camelids' although they are.
const HERD: [&str; 20] = [
    "the herd has been spitting at visitors since last week",
    "my woolly pack animals cough in the morning",
    "which fence keeps Peruvian pack animals in",
    "is the fleece ready",
    "they hum at night in the barn, is that normal",
    "how often do the toenails of the herd need trimming",
    "the cria will not drink",
    "what does it mean when the herd walks in a line",
    "our pack animals refuse to cross the bridge",
    "when do crias open their eyes",
    "what to do about worms in the pasture",
    "the shearing is next week, what do I need",
    "how much wool comes from one animal in a year",
    "which grass should I sow on the pasture",
    "one of them limps on the left foreleg",
    "is snow a problem for animals in the field",
    "how do I halter-train a young one",
    "is spitting a sign of stress",
    "the animals in the stable are losing wool",
    "how do I keep the barn warm for the animals",
];

/// What the judge does from the next call on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Does {
    Answer,
    Hang,
    Fail,
    Babble,
}

/// A mesh of projects and models on one node and a strong embedder on another, as this node sees it.
struct Court {
    dispatcher: Dispatcher,
    nas: PeerId,
    farm: PeerId,
    projects: Vec<Capability>,
    does: Arc<AtomicU8>,
    /// Calls to the judge.
    read: Arc<AtomicUsize>,
    changes: AtomicU64,
}

fn project(name: &str, domain: &str, description: &str, topics: &[&str]) -> Capability {
    let mut capability = chat_model(name, 3);
    capability.project = Some(name.to_owned());
    capability.domain = Some(domain.to_owned());
    capability.description = description.to_owned();
    capability.topics = topics.iter().map(|&topic| topic.to_owned()).collect();
    capability
}

fn camelids() -> Capability {
    let description = "Answers questions about keeping llamas and alpacas: feeding, shearing, health and housing.";
    project(CAMELIDS, "camelids", description, &["llama", "alpaca", "husbandry"])
}

fn embedder() -> Capability {
    let mut capability = Capability::new("ollama", Kind::LLM_EMBED, EMBEDDER);
    capability.operations = OperationSet::of(&[Operation::Embed]);
    capability.parameter_count = Some(137_000_000);
    capability.digest = Some("sha256:abc".to_owned());
    capability
}

/// A direction for each kind of phrase, one for camelids, and one for all else.
fn clairvoyant(text: &str) -> Vec<f32> {
    const DIM: usize = 48;
    let phrase = phrases().iter().find(|phrase| phrase.text == text);
    let mut kinds: Vec<_> = phrases().iter().map(|phrase| &phrase.kind).collect();
    kinds.dedup();
    let kind = phrase.and_then(|phrase| kinds.iter().position(|kind| **kind == phrase.kind));
    let of_camelids = HERD.contains(&text) || ["llama", "alpaca", "camelid"].iter().any(|word| text.contains(word));
    let direction = kind.unwrap_or(if of_camelids { DIM - 2 } else { DIM - 1 });
    (0..DIM).map(|at| if at == direction { 1.0 } else { 0.01 }).collect()
}

fn embeddings(call: &Call, of: fn(&str) -> Vec<f32>) -> FrameStream {
    let body: Value = serde_json::from_slice(&call.payload).expect("JSON");
    let texts = body["input"].as_array().expect("texts").iter().map(|text| text.as_str().expect("a text"));
    let data: Vec<_> = texts.enumerate().map(|(index, text)| json!({"index": index, "embedding": of(text)})).collect();
    let data = Bytes::from(json!({ "data": data }).to_string());
    let whole = frames(vec![accepted(), Frame::Chunk(Chunk { data, content_type: None }), end()]);
    // Not at once, so that others may come to ask the same meanwhile.
    Box::pin(tokio::task::yield_now().map(|()| whole).flatten_stream())
}

impl Court {
    fn new(settings: Settings) -> Self {
        Self::with(settings, clairvoyant)
    }

    /// With an embedder that makes this of texts.
    fn with(settings: Settings, of: fn(&str) -> Vec<f32>) -> Self {
        let (me, farm, nas) = (PeerId::random(), PeerId::random(), PeerId::random());
        let catalog = Arc::new(Catalog::new(Some(Arc::new(StaticEmbedder::builtin()))));
        let mut coder = Capability::new("ollama", Kind::LLM_CODE, "qwen2.5-coder:7b");
        coder.operations = OperationSet::of(&[Operation::Chat]);
        let law = "Knows the law of rented homes: leases, deposits, notice periods, repairs and evictions.";
        let law = project("legal/tenancy", "tenancy law", law, &["tenancy", "rent", "landlord"]);
        // Whatever this node has it keeps to itself.
        let kept = project("home/diary", "diary", "What happened in the family.", &[]);
        let projects = vec![camelids(), law, chat_model("llama3.1:8b", 8), coder];
        let all = vec![(me, "laptop", vec![]), (farm, "farm", projects.clone()), (nas, "nas", vec![embedder()])];
        fill(&catalog, all);
        let router = Arc::new(Router::new(catalog, Arc::new(Signals::new(me)), Default::default(), me));
        router.learn();
        let mut private = Backend::new(|_| frames(vec![]));
        private.shared = false;
        let local = Local::new(Arc::new(One(Arc::new(private), Arc::new(kept))), LocalSettings::default());
        let nodes = Arc::new(Nodes::default());
        let (does, read) = (Arc::new(AtomicU8::new(Does::Answer as u8)), Arc::new(AtomicUsize::new(0)));
        let (doing, reading) = (Arc::clone(&does), Arc::clone(&read));
        nodes.answer(nas, move |call| {
            reading.fetch_add(1, Ordering::SeqCst);
            match doing.load(Ordering::SeqCst) {
                does if does == Does::Hang as u8 => Box::pin(futures::stream::pending()),
                does if does == Does::Fail as u8 => {
                    frames(vec![accepted(), Frame::Error(Failure::new(ErrorClass::Backend, "out of memory"))])
                }
                does if does == Does::Babble as u8 => embeddings(&call, |_| vec![1.0, 2.0]),
                _ => embeddings(&call, of),
            }
        });
        nodes.answer(farm, |call| {
            let who = call.capability.as_str().to_owned();
            let data = Bytes::from(format!("answered by {who}"));
            frames(vec![accepted(), Frame::Chunk(Chunk { data, content_type: None }), end()])
        });
        let remote: Arc<dyn Remote> = Arc::clone(&nodes) as _;
        let dispatcher = Dispatcher::new(router, Arc::new(local), remote, EventBus::default(), settings);
        Self { dispatcher, nas, farm, projects, does, read, changes: AtomicU64::new(2) }
    }

    /// What the nodes have now; learnt at once.
    fn change(&self, me: Vec<Capability>, farm: Vec<Capability>, nas: Vec<Capability>) {
        let router = self.dispatcher.router();
        let all = [(router.own(), "laptop", me), (self.farm, "farm", farm), (self.nas, "nas", nas)];
        let seq = self.changes.fetch_add(1, Ordering::SeqCst);
        let adverts = all.into_iter().map(|(node, name, capabilities)| {
            let advert = advert(node, name, router.catalog().describe(capabilities));
            (node, Arc::new(Advert { seq, ..Arc::unwrap_or_clone(advert) }))
        });
        router.catalog().update(&adverts.collect());
        router.learn();
    }

    fn judge(&self, does: Does) {
        self.does.store(does as u8, Ordering::SeqCst);
    }

    /// Calls to the judge so far.
    fn calls(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }

    /// Those of the questions that this node by itself is unsure of, and takes for something else.
    fn doubtful(&self) -> Vec<&'static str> {
        let doubtful = |question: &&&str| {
            let decision = self.dispatcher.router().decide(&asking(question));
            decision.doubtful && chosen(&decision) != CAMELIDS
        };
        HERD.iter().filter(doubtful).copied().collect()
    }

    /// Asks this until somebody sits as judge.
    async fn prepared(&self, question: &str) -> Decision {
        for _ in 0..3000 {
            let decision = self.dispatcher.consider(&asking(question)).await;
            if decision.second.is_some() {
                return decision;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("nobody sits as judge");
    }
}

fn asking(question: &str) -> Intent {
    let mut intent = intent(None);
    intent.query = Some(question.to_owned());
    intent
}

fn chosen(decision: &Decision) -> &str {
    decision.candidates.first().map_or("nobody", |candidate| &candidate.capability.name)
}

fn said(decision: &Decision) -> Option<(&'static str, bool)> {
    decision.second.as_ref().map(|second| (second.said.word(), second.remembered))
}

/// A limit that no busy machine is too slow for.
fn patient() -> Settings {
    Settings { second_opinion: Duration::from_secs(5), ..Settings::default() }
}

#[tokio::test]
async fn a_doubtful_question_goes_where_the_second_opinion_says() {
    let court = Court::new(patient());
    let questions = court.doubtful();
    assert!(questions.len() >= 4, "the built-in embedder is sure of {questions:?}");
    let first = court.dispatcher.router().decide(&asking(questions[0]));
    assert_eq!((said(&first), court.calls()), (None, 0), "nobody is asked before there was a doubt");

    let heard = court.prepared(questions[0]).await;
    assert_eq!((chosen(&heard), said(&heard), heard.doubtful), (CAMELIDS, Some(("changed", false)), true), "{heard:?}");
    let second = heard.second.as_ref().expect("said above");
    assert_eq!((second.node, &*second.node_name, second.model.as_str()), (court.nas, "nas", EMBEDDER));
    assert_eq!(second.first, first.taken, "what it was taken for at first is told");
    assert!(heard.reason.contains("the question means farm/camelids"), "{}", heard.reason);
    assert!(heard.reason.contains(&format!("{EMBEDDER} on nas was asked, and changed it")), "{}", heard.reason);

    // It is run there, and asked once for all who want to know at the same time.
    let calls = court.calls();
    let [a, b] = [asking(questions[1]), asking(questions[1])];
    let (a, b) = tokio::join!(court.dispatcher.dispatch(a), court.dispatcher.consider(&b));
    let reply = a.expect("the farm answers");
    assert_eq!((reply.served.capability.name.as_str(), chosen(&b)), (CAMELIDS, CAMELIDS));
    assert_eq!((said(&reply.decision), court.calls()), (Some(("changed", false)), calls + 1));
    let logged = court.dispatcher.router().log().get(&reply.decision.id).expect("it is logged");
    assert_eq!(said(&logged.decision), Some(("changed", false)));

    // What was said is remembered, also for who may not ask.
    for decision in
        [court.dispatcher.decide(&asking(questions[1])), court.dispatcher.consider(&asking(questions[1])).await]
    {
        assert_eq!((chosen(&decision), said(&decision)), (CAMELIDS, Some(("changed", true))));
    }
    assert_eq!(court.dispatcher.decide(&asking(questions[2])).second, None, "deciding at once asks nobody");

    // A request that wants to stay near asks nobody elsewhere, and neither does one whose meaning is clear or does not matter.
    let near = Intent { preference: Preference::Location, ..asking(questions[2]) };
    assert_eq!(court.dispatcher.consider(&near).await.second, None);
    for clear in ["What do llamas and alpacas eat?", "write a quicksort in Rust"] {
        assert_eq!(court.dispatcher.consider(&asking(clear)).await.second, None, "{clear}");
    }
    let named = Intent { target: crate::capability::Target::Named("llama3.1:8b".into()), ..asking(questions[2]) };
    assert_eq!(court.dispatcher.consider(&named).await.second, None);
    assert_eq!(court.calls(), calls + 1);

    // One that fails leaves the first decision in place, and is left alone for a while.
    court.judge(Does::Fail);
    let failed = court.dispatcher.dispatch(asking(questions[2])).await.expect("whoever was chosen first answers");
    assert_eq!(said(&failed.decision), Some(("failed", false)));
    let by_itself = court.dispatcher.router().decide(&asking(questions[2]));
    assert!(failed.decision.comes_to(&by_itself) && chosen(&failed.decision) != CAMELIDS);
    assert!(failed.decision.reason.contains("was asked in vain"), "{}", failed.decision.reason);
    let calls = court.calls();
    assert_eq!(court.dispatcher.consider(&asking(questions[3])).await.second, None);
    assert_eq!(court.calls(), calls, "it rests");

    let metrics = Metrics::default();
    court.dispatcher.register(&metrics);
    let text = metrics.encode();
    for line in [
        r#"atmosphere_second_opinions_total{outcome="changed",source="asked"} 3"#,
        r#"atmosphere_second_opinions_total{outcome="failed",source="asked"} 1"#,
        r#"atmosphere_second_opinions_total{outcome="changed",source="remembered"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

#[tokio::test]
async fn a_late_or_senseless_opinion_leaves_the_first_decision_in_place() {
    let court = Court::new(Settings { second_opinion: Duration::from_secs(1), ..Settings::default() });
    let questions = court.doubtful();
    court.prepared(questions[0]).await;
    for (does, outcome, question) in [(Does::Babble, "failed", questions[1]), (Does::Hang, "late", questions[2])] {
        court.judge(does);
        // The second time it rests at first.
        let decision = court.prepared(question).await;
        assert_eq!(said(&decision), Some((outcome, false)));
        assert!(decision.comes_to(&court.dispatcher.router().decide(&asking(question))), "{decision:?}");
        let calls = court.calls();
        court.judge(Does::Answer);
        assert_eq!(court.dispatcher.consider(&asking(question)).await.second, None, "{does:?}: it rests");
        assert_eq!(court.calls(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_who_may_not_be() {
    let paid = {
        let mut capability = embedder();
        capability.cost.input = 0.02;
        capability
    };
    let table = Capability { digest: Some("space:table/1".to_owned()), ..embedder() };
    let private = project("home/diary", "diary", "What happened in the family.", &[]);
    let here = Settings { second_opinion_elsewhere: false, ..patient() };
    let court = Court::new(patient());
    for (why, nas, own, settings) in [
        ("it costs money", paid, None, patient()),
        ("every node has it", table, None, patient()),
        ("only this node's own may be asked", embedder(), None, here),
        ("this node keeps something to itself", embedder(), Some(private), patient()),
    ] {
        court.change(own.into_iter().collect(), court.projects.clone(), vec![nas]);
        let dispatcher = court.dispatcher.with_settings(settings);
        let bench = Arc::clone(&dispatcher.judge().bench);
        assert!(bench.doubt(Instant::now()));
        let next = Keeper::default().step(&bench).await;
        assert_eq!((next, bench.seat().is_none(), court.calls()), (Next::Doubt, true, 0), "{why}");
    }
    let never = Settings { second_opinion: Duration::ZERO, ..Settings::default() };
    let dispatcher = court.dispatcher.with_settings(never);
    let question = court.doubtful()[0];
    assert_eq!(dispatcher.consider(&asking(question)).await.second, None);
    assert!(dispatcher.judge().bench.doubt(Instant::now()), "nobody prepares for it either");
}

/// Somebody prepares step by step, and nobody else does.
fn keeper(court: &Court) -> (Keeper, Arc<Bench>) {
    let bench = Arc::clone(&court.dispatcher.judge().bench);
    assert!(bench.doubt(Instant::now()), "nobody prepares yet");
    (Keeper::default(), bench)
}

#[tokio::test(start_paused = true)]
async fn who_knows_no_better_is_not_asked() {
    // It reads all, and all looks the same to it.
    let court = Court::with(patient(), |_| vec![1.0; 8]);
    let (mut keeper, bench) = keeper(&court);
    assert_eq!(keeper.step(&bench).await, Next::After(RETRY));
    assert!(bench.seat().is_none());
    let calls = court.calls();
    assert!(calls > 10, "it has read the texts: {calls} calls");
    assert_eq!((keeper.step(&bench).await, court.calls()), (Next::Doubt, calls), "and is not tried again");
}

#[tokio::test(start_paused = true)]
async fn what_the_judge_has_read_is_kept_up_with_the_mesh_and_dropped_in_the_end() {
    let court = Court::new(patient());
    let (mut keeper, bench) = keeper(&court);
    assert_eq!(keeper.step(&bench).await, Next::Doubt);
    let fits = || bench.seat().is_some_and(|seat| bench.router().fits(&seat.lens));
    assert!(fits(), "somebody sits");
    let calls = court.calls();
    assert!(calls > 10, "the texts were read in batches: {calls} calls");
    assert_eq!((keeper.step(&bench).await, court.calls()), (Next::Doubt, calls), "all is done");

    // A project more: only its texts are read.
    let bees = project("farm/bees", "beekeeping", "Advises beekeepers on hives, swarms and honey.", &["bees"]);
    let change = |farm, nas| court.change(Vec::new(), farm, nas);
    let mut more = court.projects.clone();
    more.push(bees);
    change(more.clone(), vec![embedder()]);
    assert!(!fits(), "until then nobody is asked");
    assert_eq!(keeper.step(&bench).await, Next::Doubt);
    assert!(fits());
    assert_eq!(court.calls(), calls + 1);

    // Gone for a while, and back: nothing is read anew.
    change(more.clone(), Vec::new());
    assert_eq!((keeper.step(&bench).await, bench.seat().is_some()), (Next::Doubt, true));
    tokio::time::advance(GONE / 2).await;
    change(more.clone(), vec![embedder()]);
    assert_eq!((keeper.step(&bench).await, fits(), court.calls()), (Next::Doubt, true, calls + 1));

    // Gone for long.
    change(more.clone(), Vec::new());
    keeper.step(&bench).await;
    tokio::time::advance(GONE).await;
    assert_eq!((keeper.step(&bench).await, bench.seat().is_none()), (Next::Doubt, true));

    // Nobody has doubts any more.
    change(more, vec![embedder()]);
    assert_eq!((keeper.step(&bench).await, fits()), (Next::Doubt, true));
    tokio::time::advance(IDLE).await;
    assert_eq!((keeper.step(&bench).await, bench.seat().is_none()), (Next::Over, true));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_read_or_is_too_slow_is_dismissed_after_some_tries() {
    let court = Court::new(patient());
    court.judge(Does::Fail);
    let (mut keeper, bench) = keeper(&court);
    assert_eq!(keeper.step(&bench).await, Next::After(RETRY));
    assert_eq!(keeper.step(&bench).await, Next::After(RETRY * 2));
    let calls = court.calls();
    assert!((1..=3).contains(&calls), "{calls}");
    assert_eq!(keeper.step(&bench).await, Next::After(RETRY), "dismissed");
    let calls = court.calls();
    assert_eq!((keeper.step(&bench).await, court.calls()), (Next::Doubt, calls));

    let hasty = Settings { second_opinion: Duration::from_millis(1), ..Settings::default() };
    let court = Court::new(hasty);
    let (mut keeper, bench) = self::keeper(&court);
    assert_eq!((keeper.step(&bench).await, bench.seat().is_none()), (Next::After(RETRY), true));
    assert_eq!(keeper.step(&bench).await, Next::Doubt, "nobody is that quick");
}
