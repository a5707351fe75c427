//! How often a question is understood: the router's classifier on queries of many intents, each a capability with its name
//! and example utterances.
//!
//! `cargo bench --bench meaning -- FILE`, with a file in the form of CLINC150's `data_full.json` (Larson et al. 2019, CC-BY-3.0,
//! <https://github.com/clinc/oos-eval>): `train`, `val` and `test`, each a list of [text, intent], and perhaps `oos_train`, `oos_val`
//! and `oos_test` with texts that are about none of the intents. `scripts/bench meaning` runs this and scikit-learn beside it.
//!
//! For 5 and 10 utterances of each intent (the mean of five draws) and for all: accuracy on the queries in scope; how well those
//! out of scope are told apart by the probability (AUROC); how far the probability is from the share that is right (expected
//! calibration error, 15 bins, over both); and what a decision takes, the reading of the query included. Nothing is chosen by
//! these queries: `--split val` judges the validation queries instead, for whoever wants to choose.
//!
//! With `--judge DIRECTORY`, a stronger embedder's ONNX model, the doubtful queries are judged a second time by its vectors, as the
//! router has them judged in a mesh: how many are doubtful, and what that is worth, beside judging all queries so.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::time::{Duration, Instant};

use atmosphere::capability::{Capability, Kind};
use atmosphere::catalog::texts_of;
use atmosphere::embedding::{Embedder, StaticEmbedder};
use atmosphere::router::classifier::{Classifier, Judgement, Text};
use atmosphere::router::doubt::{Contender, is_doubtful};
use atmosphere::router::phrases::phrases;

const BINS: usize = 15;
const SEEDS: u64 = 5;

type Queries = Vec<(String, String)>;

/// What one classifier is worth.
struct Worth {
    accuracy: f64,
    auroc: f64,
    ece: f64,
    times: Vec<Duration>,
    training: Duration,
    second: Option<Second>,
}

/// What it is worth to have doubtful queries judged by somebody else.
struct Second {
    /// Percent of the queries that are doubtful.
    asked: f64,
    accuracy: f64,
    auroc: f64,
    ece: f64,
    /// Accuracy when all queries are judged so.
    alone: f64,
    /// What the held-out texts say of the two: percent right by itself, and by the judge.
    held: (f64, f64),
}

/// A stronger embedder, which reads each text once.
struct Judge {
    embedder: Box<dyn Embedder>,
    known: RefCell<HashMap<String, Text>>,
}

impl Judge {
    #[cfg(feature = "fastembed")]
    fn open(directory: &str) -> Self {
        let embedder = atmosphere::embedding::OnnxEmbedder::open(std::path::Path::new(directory));
        let embedder = Box::new(embedder.unwrap_or_else(|error| panic!("{error}")));
        Self { embedder, known: RefCell::default() }
    }

    #[cfg(not(feature = "fastembed"))]
    fn open(_directory: &str) -> Self {
        panic!("--judge needs the feature fastembed")
    }

    fn read(&self, text: &str) -> Text {
        let read = || Text::read(text, Some(&*self.embedder));
        self.known.borrow_mut().entry(text.to_owned()).or_insert_with(read).clone()
    }
}

/// The judgements of all queries: how many are right, and what their probabilities are worth.
#[derive(Default)]
struct Tally {
    right: usize,
    inside: Vec<f32>,
    outside: Vec<f32>,
    judged: Vec<(f32, bool)>,
}

impl Tally {
    fn take(&mut self, judgement: &Judgement, class: Option<usize>) {
        let is_right = class.is_some() && judgement.best.map(|(class, _)| class) == class;
        self.right += usize::from(is_right);
        self.judged.push((judgement.probability, is_right));
        if class.is_some() { &mut self.inside } else { &mut self.outside }.push(judgement.probability);
    }

    fn accuracy(&self) -> f64 {
        self.right as f64 * 100.0 / self.inside.len().max(1) as f64
    }
}

/// Whether the router would ask somebody else; every intent is a capability that somebody has.
fn is_in_doubt(judgement: &Judgement) -> bool {
    let one = |probability| Contender { probability, special: true };
    is_doubtful(one(judgement.probability), judgement.rival.map(|_| one(judgement.rival_probability)))
}

/// FNV-1a over the seed and a text: by it the baseline draws the same utterances.
fn draw(seed: u64, text: &str) -> u64 {
    let bytes = seed.to_string().into_bytes().into_iter().chain([b' ']).chain(text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The share of pairs of which the first is above the second.
fn auroc(above: &[f32], below: &[f32]) -> f64 {
    let mut all: Vec<(f32, bool)> = above.iter().map(|x| (*x, true)).chain(below.iter().map(|x| (*x, false))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut ranks, mut before) = (0.0, 0);
    for same in all.chunk_by(|a, b| a.0 == b.0) {
        let rank = before as f64 + (same.len() + 1) as f64 / 2.0;
        ranks += rank * same.iter().filter(|(_, above)| *above).count() as f64;
        before += same.len();
    }
    let (n, m) = (above.len() as f64, below.len() as f64);
    (ranks - n * (n + 1.0) / 2.0) / (n * m)
}

fn calibration_error(judged: &[(f32, bool)]) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for (probability, right) in judged {
        let bin = &mut bins[((probability * BINS as f32) as usize).min(BINS - 1)];
        bin.0 += f64::from(*probability);
        bin.1 += f64::from(u8::from(*right));
    }
    bins.iter().map(|(said, was)| (said - was).abs()).sum::<f64>() / judged.len().max(1) as f64
}

/// A capability with the utterances of an intent.
fn capability(intent: &str, utterances: Vec<String>) -> Capability {
    let mut capability = Capability::new("bench", Kind::LLM_CHAT, intent);
    capability.project = Some(format!("bench/{intent}"));
    capability.description = intent.replace('_', " ");
    capability.examples = utterances;
    capability
}

fn measure(
    data: &BTreeMap<String, Queries>,
    split: &str,
    shots: Option<usize>,
    seed: u64,
    judge: Option<&Judge>,
) -> Worth {
    let embedder = StaticEmbedder::builtin();
    let read = |text: &str| Text::read(text, Some(&embedder));
    let none = Queries::new();
    let queries = |name: &str| data.get(name).unwrap_or(&none);
    let mut intents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    queries("train").iter().for_each(|(text, intent)| intents.entry(intent).or_default().push(text));
    let started = Instant::now();
    let mut texts = Vec::new();
    for (class, (intent, utterances)) in intents.iter_mut().enumerate() {
        utterances.sort_by_key(|text| draw(seed, text));
        let utterances = utterances.iter().take(shots.unwrap_or(usize::MAX)).map(|&text| text.to_owned());
        let capability = capability(intent, utterances.collect());
        texts.extend(texts_of(&capability).into_iter().map(|text| (text, Some(class))));
    }
    // What is about none of the intents: the project's own phrases for that, and those of the data if there are some.
    let own = phrases().iter().filter(|phrase| phrase.kind.is_none()).map(|phrase| phrase.text);
    let given = queries("oos_train").iter().map(|(text, _)| text.as_str());
    texts.extend(own.chain(given).map(|text| (text.to_owned(), None)));
    let train = |read: &dyn Fn(&str) -> Text| {
        let texts: Vec<_> = texts.iter().map(|(text, class)| (read(text), *class)).collect();
        Classifier::train(&texts, intents.len(), || false).expect("nobody stops it")
    };
    let classifier = train(&read);
    let training = started.elapsed();
    let lens = judge.map(|judge| (judge, train(&|text| judge.read(text))));

    let classes: BTreeMap<&str, usize> = intents.keys().enumerate().map(|(class, intent)| (*intent, class)).collect();
    let (mut tally, mut with_second, mut alone) = (Tally::default(), Tally::default(), Tally::default());
    let (mut times, mut asked) = (Vec::new(), 0_usize);
    let out_of_scope = format!("oos_{split}");
    for (text, intent) in queries(split).iter().chain(queries(&out_of_scope)) {
        let started = Instant::now();
        let judgement = black_box(classifier.judge(&read(text), |_| true));
        times.push(started.elapsed());
        let class = classes.get(intent.as_str()).copied();
        tally.take(&judgement, class);
        if let Some((judge, lens)) = &lens {
            let second = lens.judge(&judge.read(text), |_| true);
            let in_doubt = is_in_doubt(&judgement);
            asked += usize::from(in_doubt);
            with_second.take(if in_doubt { &second } else { &judgement }, class);
            alone.take(&second, class);
        }
    }
    times.sort_unstable();
    let second = lens.map(|(_, lens)| Second {
        asked: asked as f64 * 100.0 / tally.judged.len().max(1) as f64,
        accuracy: with_second.accuracy(),
        auroc: auroc(&with_second.inside, &with_second.outside),
        ece: calibration_error(&with_second.judged),
        alone: alone.accuracy(),
        held: (f64::from(classifier.right_of_held()) * 100.0, f64::from(lens.right_of_held()) * 100.0),
    });
    Worth {
        accuracy: tally.accuracy(),
        auroc: auroc(&tally.inside, &tally.outside),
        ece: calibration_error(&tally.judged),
        times,
        training,
        second,
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut file, mut split, mut judge) = (None, "test".to_owned(), None);
    while let Some(argument) = arguments.next() {
        if argument == "--split" {
            split = arguments.next().unwrap_or_default();
        } else if argument == "--judge" {
            judge = arguments.next().map(|directory| Judge::open(&directory));
        } else {
            file = Some(argument);
        }
    }
    let Some(file) = file else {
        println!(
            "no file of queries was given, so nothing is measured; scripts/bench meaning says where one can be had"
        );
        return;
    };
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("cannot read {file}: {error}"));
    let data: BTreeMap<String, Queries> = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{file} is not in the form of data_full.json: {error}"));
    println!(
        "{:<34} {:>9} {:>7} {:>7} {:>9} {:>9} {:>10}",
        "atmosphere", "accuracy", "AUROC", "ECE", "p50 us", "p99 us", "training"
    );
    for (name, shots, seeds) in [("5 utterances", Some(5), SEEDS), ("10 utterances", Some(10), SEEDS), ("all", None, 1)]
    {
        let all: Vec<Worth> = (0..seeds).map(|seed| measure(&data, &split, shots, seed, judge.as_ref())).collect();
        let mean = |of: fn(&Worth) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        let at = |share: f64| {
            let of = |worth: &Worth| {
                let place = (worth.times.len().saturating_sub(1) as f64 * share) as usize;
                worth.times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e6)
            };
            all.iter().map(of).sum::<f64>() / all.len() as f64
        };
        println!(
            "{:<34} {:>7.1} % {:>7.4} {:>7.4} {:>9.1} {:>9.1} {:>8.1} s",
            format!("{name}, {seeds} draw{}", if seeds == 1 { "" } else { "s" }),
            mean(|worth| worth.accuracy),
            mean(|worth| worth.auroc),
            mean(|worth| worth.ece),
            at(0.5),
            at(0.99),
            mean(|worth| worth.training.as_secs_f64())
        );
        let seconds: Vec<&Second> = all.iter().filter_map(|worth| worth.second.as_ref()).collect();
        if seconds.is_empty() {
            continue;
        }
        let mean = |of: fn(&Second) -> f64| seconds.iter().map(|second| of(second)).sum::<f64>() / seconds.len() as f64;
        println!(
            "{:<34} {:>7.1} % {:>7.4} {:>7.4}   {:.1} % asked; judge alone {:.1} %; held-out texts {:.1} % by itself, {:.1} % by the judge",
            "  doubtful ones by the judge",
            mean(|second| second.accuracy),
            mean(|second| second.auroc),
            mean(|second| second.ece),
            mean(|second| second.asked),
            mean(|second| second.alone),
            mean(|second| second.held.0),
            mean(|second| second.held.1),
        );
    }
}
