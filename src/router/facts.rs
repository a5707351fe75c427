//! What the router needs to know of each entry of a snapshot, in a few bytes each and side by side in memory.
//!
//! A capability is half a kilobyte somewhere on the heap. Checking ten thousand of them costs a cache miss or
//! three each; checking ten thousand [`Fact`]s costs next to nothing. Facts are made once per snapshot.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use crate::capability::{Capability, Cost, FeatureSet, Kind, ModalitySet, Operation, OperationSet, PeerId, Residency};
use crate::catalog::Snapshot;

use super::lesson::Taught;
use super::speciality::{Speciality, speciality};

/// What the router needs to know of a capability.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fact {
    pub(super) operations: OperationSet,
    pub(super) modalities: ModalitySet,
    pub(super) features: FeatureSet,
    /// Tokens; 0 when unknown.
    pub(super) context: u32,
    pub(super) speciality: Speciality,
    pub(super) residency: Residency,
    /// Calls that run at once; 0 when unknown.
    pub(super) concurrency: u32,
    /// Prior quality, 0 to 1.
    pub(super) quality: f32,
    /// Prior rates and times, for what has not been measured.
    pub(super) prior: Prior,
    /// US dollars per million tokens, (prompt, answer).
    pub(super) cost: (f32, f32),
    /// Place of its node in [`Facts::nodes`].
    pub(super) node: u32,
    /// Equal for entries whose names mean the same model.
    pub(super) model: u32,
    /// Place of its kind in [`Facts::kinds`].
    pub(super) kind: u32,
    /// Whether it has a domain or is a project, of whatever kind.
    pub(super) own_field: bool,
    /// Place of its group in [`Facts::groups`].
    pub(super) group: u32,
    /// The classifier's number of what it is about; [`NO_CLASS`] when the classifier does not know.
    pub(super) class: u32,
}

/// No class of the classifier.
pub(super) const NO_CLASS: u32 = u32::MAX;

/// What is expected of a capability that nobody has measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Prior {
    /// Prompt tokens per second.
    pub(super) prefill: f32,
    /// Answer tokens per second.
    pub(super) decode: f32,
    /// Seconds to load the weights.
    pub(super) load: f32,
}

/// Weights of a model that does not say: the size that most people run.
const USUAL_PARAMETERS: f64 = 7e9;
/// Bytes per second that reading the weights takes while decoding: two channels of DDR5, the usual machine
/// without a big GPU. Decoding is bound by this, so size and quantisation say most of what can be said.
const MEMORY_BANDWIDTH: f64 = 50e9;
/// Bytes per second from an ordinary SSD.
const DISK_BANDWIDTH: f64 = 1e9;
/// How much faster a prompt is read than an answer is written: prefill is batched, decode is not.
const PREFILL_FACTOR: f64 = 10.0;
/// Tokens per second of something that costs money: a data centre's.
const HOSTED: Prior = Prior { prefill: 5000.0, decode: 60.0, load: 0.0 };
/// Quality of a hosted model of unknown size.
const HOSTED_QUALITY: f32 = 0.85;
/// Quality of a model of which nothing is known: a little under the usual local one.
const UNKNOWN_QUALITY: f32 = 0.45;

impl Fact {
    /// What is to be known of this capability; `node`, `model`, `kind` and `group` are left 0.
    pub(super) fn of(capability: &Capability) -> Self {
        let hosted = capability.cost.input > 0.0 || capability.cost.output > 0.0;
        let parameters = capability
            .parameter_count
            .filter(|count| *count > 0)
            .map(|count| count as f64)
            .or_else(|| parameters_in_name(&capability.name));
        Self {
            operations: capability.operations,
            modalities: capability.modalities,
            features: capability.features,
            context: capability.context_length.unwrap_or(0),
            speciality: speciality(capability),
            residency: capability.residency,
            concurrency: capability.concurrency.unwrap_or(0),
            quality: quality(parameters, capability.quantization.as_deref(), hosted),
            prior: if hosted { HOSTED } else { prior(parameters, capability.quantization.as_deref()) },
            cost: cost(capability.cost),
            node: 0,
            model: 0,
            kind: 0,
            own_field: capability.project.is_some() || capability.domain.is_some(),
            group: 0,
            class: NO_CLASS,
        }
    }

    /// Equal for those of one group.
    const fn group_key(&self) -> GroupKey {
        let sets = (self.operations, self.modalities, self.features);
        (sets, self.context, self.speciality, self.kind, (self.own_field, self.class == NO_CLASS))
    }
}

type GroupKey = ((OperationSet, ModalitySet, FeatureSet), u32, Speciality, u32, (bool, bool));

/// Entries that can do the same, as far as that is decided before they are scored. A mesh of thousands of capabilities has
/// a few dozen groups.
#[derive(Debug)]
pub(super) struct Group {
    /// Of one of them. They have in common what they can do ([`Needs::meets`](super::requirements::Needs::meets)), their kind
    /// and speciality, whether they have a field of their own, and whether the classifier knows them.
    pub(super) fact: Fact,
    /// The places of all of them, ascending.
    pub(super) places: Vec<u32>,
}

fn cost(cost: Cost) -> (f32, f32) {
    // A peer's advert may say anything; a negative or absurd price must not win.
    let sane = |price: f64| if price.is_finite() { price.clamp(0.0, 1e6) as f32 } else { 0.0 };
    (sane(cost.input), sane(cost.output))
}

/// Prior quality, 0 to 1: a tenfold size is worth a quarter, from 0.1 at 100 million weights; heavy
/// quantisation costs a little.
fn quality(parameters: Option<f64>, quantization: Option<&str>, hosted: bool) -> f32 {
    let Some(parameters) = parameters else { return if hosted { HOSTED_QUALITY } else { UNKNOWN_QUALITY } };
    let size = 0.1 + 0.25 * (parameters.log10() - 8.0);
    let loss = match bits(quantization) {
        bits if bits < 3.0 => 0.08,
        bits if bits < 4.0 => 0.04,
        bits if bits < 5.0 => 0.02,
        _ => 0.0,
    };
    (size - loss).clamp(0.02, 1.0) as f32
}

fn prior(parameters: Option<f64>, quantization: Option<&str>) -> Prior {
    let bytes = parameters.unwrap_or(USUAL_PARAMETERS) * bits(quantization) / 8.0;
    let decode = (MEMORY_BANDWIDTH / bytes).clamp(0.1, 500.0);
    Prior {
        prefill: (decode * PREFILL_FACTOR) as f32,
        decode: decode as f32,
        load: (1.0 + bytes / DISK_BANDWIDTH).min(600.0) as f32,
    }
}

/// Bits per weight of a quantisation such as `Q4_K_M`, `IQ2_XS`, `F16`, `fp8`, `int4`; 5 when unknown, between the
/// usual 4-bit of local models and the 8 or 16 of the rest.
fn bits(quantization: Option<&str>) -> f64 {
    let digits = |text: &str| -> Option<f64> {
        let start = text.find(|c: char| c.is_ascii_digit())?;
        let rest = &text[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<f64>().ok().filter(|bits| (1.0..=32.0).contains(bits))
    };
    match quantization.and_then(digits) {
        // The block scales of llama.cpp's formats take about half a bit more.
        Some(bits) if bits < 8.0 => bits + 0.5,
        Some(bits) => bits,
        None => 5.0,
    }
}

/// The size that a name tells, such as `7b` in `qwen2.5-coder:7b`, `0.5B`, `270m` or `8x7b`.
fn parameters_in_name(name: &str) -> Option<f64> {
    name.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).find_map(|word| {
        let word = word.to_ascii_lowercase();
        let (digits, unit) = match word.strip_suffix('b') {
            Some(digits) => (digits, 1e9),
            None => (word.strip_suffix('m')?, 1e6),
        };
        let (times, each) = digits.split_once('x').unwrap_or(("1", digits));
        let size = times.parse::<f64>().ok()? * each.parse::<f64>().ok()? * unit;
        // Between the smallest and the largest that anybody has: `3m` in a name is hardly a size.
        (1e7..=1e13).contains(&size).then_some(size)
    })
}

/// The facts of all entries of one snapshot.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Of which snapshot. Weak: an old one must not be kept in memory by its facts.
    of: Weak<Snapshot>,
    /// By which classifier.
    taught: Option<Arc<Taught>>,
    /// As the snapshot's entries.
    pub(super) entries: Vec<Fact>,
    /// [`Fact::group`] of each entry, side by side: a search asks for hundreds of them.
    pub(super) group_of: Vec<u32>,
    /// The nodes that have entries, and their load class.
    pub(super) nodes: Vec<(PeerId, u8)>,
    /// Each kind once.
    pub(super) kinds: Vec<Kind>,
    /// In the order of their first entries.
    pub(super) groups: Vec<Group>,
}

impl Facts {
    /// Reads the facts off a snapshot.
    fn new(snapshot: &Arc<Snapshot>, taught: Option<Arc<Taught>>) -> Self {
        let mut nodes: Vec<(PeerId, u8)> = Vec::new();
        let mut models: HashMap<String, u32> = HashMap::new();
        let mut kinds: Vec<Kind> = Vec::new();
        let mut kind_places: HashMap<&Kind, u32> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        let mut group_places: HashMap<GroupKey, usize> = HashMap::new();
        let entries: Vec<Fact> = snapshot
            .entries()
            .iter()
            .zip(0_u32..)
            .map(|(entry, place)| {
                if nodes.last().is_none_or(|(node, _)| *node != entry.node) {
                    nodes.push((entry.node, snapshot.advert(&entry.node).map_or(0, |advert| advert.load)));
                }
                let next = u32::try_from(models.len()).unwrap_or(u32::MAX);
                let model = *models.entry(crate::capability::normalise_name(&entry.capability.name)).or_insert(next);
                let node = u32::try_from(nodes.len() - 1).unwrap_or(u32::MAX);
                let kind = *kind_places.entry(&entry.capability.kind).or_insert_with_key(|kind| {
                    kinds.push(Kind::clone(kind));
                    u32::try_from(kinds.len() - 1).unwrap_or(u32::MAX)
                });
                let mut fact = Fact { node, model, kind, ..Fact::of(&entry.capability) };
                if fact.speciality == Speciality::Domain {
                    let class = taught.as_ref().and_then(|taught| taught.class_of(entry.subject));
                    fact.class = class.unwrap_or(NO_CLASS);
                }
                let group = *group_places.entry(fact.group_key()).or_insert(groups.len());
                fact.group = u32::try_from(group).unwrap_or(u32::MAX);
                match groups.get_mut(group) {
                    Some(group) => group.places.push(place),
                    None => groups.push(Group { fact, places: vec![place] }),
                }
                fact
            })
            .collect();
        let group_of = entries.iter().map(|fact| fact.group).collect();
        Self { of: Arc::downgrade(snapshot), taught, entries, group_of, nodes, kinds, groups }
    }

    /// The classifier to which [`Fact::class`] belongs.
    pub(super) fn taught(&self) -> Option<&Taught> {
        self.taught.as_deref()
    }

    /// The kind of this fact, which is one of these facts.
    pub(super) fn kind(&self, fact: &Fact) -> Option<&Kind> {
        self.kinds.get(fact.kind as usize)
    }

    /// The facts of the entry at this place.
    pub(super) fn at(&self, place: u32) -> Option<&Fact> {
        self.entries.get(place as usize)
    }

    /// The facts of this snapshot by this classifier: those in `kept`, if they are of it, or new ones, which are kept there.
    pub(super) fn current(kept: &ArcSwap<Self>, snapshot: &Arc<Snapshot>, taught: Option<Arc<Taught>>) -> Arc<Self> {
        let facts = kept.load();
        if facts.are_of(snapshot, taught.as_ref()) {
            return Arc::clone(&facts);
        }
        let facts = Arc::new(Self::new(snapshot, taught));
        kept.store(Arc::clone(&facts));
        facts
    }

    /// Whether they are of this snapshot, by this classifier.
    fn are_of(&self, snapshot: &Arc<Snapshot>, taught: Option<&Arc<Taught>>) -> bool {
        let same_taught = match (&self.taught, taught) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        // The weak reference keeps the allocation, so no other snapshot can have its address.
        same_taught && std::ptr::eq(self.of.as_ptr(), Arc::as_ptr(snapshot))
    }
}

/// Whether an answer of this operation is written token by token.
pub(super) const fn decodes(operation: Operation) -> bool {
    matches!(operation, Operation::Chat | Operation::Complete | Operation::Agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_size() {
        for (name, size) in [
            ("qwen2.5-coder:7b", Some(7e9)),
            ("Qwen2.5-0.5B-Instruct", Some(5e8)),
            ("mixtral-8x7b", Some(56e9)),
            ("gemma3:270m", Some(270e6)),
            ("gpt-4o", None),
            ("whisper-3m", None),
            ("b", None),
            ("1e400b", None),
        ] {
            assert_eq!(parameters_in_name(name), size, "{name}");
        }
    }

    #[test]
    fn bigger_is_better_and_slower_and_heavy_quantisation_is_worse_and_faster() {
        let (small, big) = (quality(Some(1e9), Some("Q4_K_M"), false), quality(Some(70e9), Some("Q4_K_M"), false));
        assert!(small < big);
        assert!(quality(Some(7e9), Some("Q2_K"), false) < quality(Some(7e9), Some("F16"), false));
        assert!(prior(Some(7e9), Some("Q2_K")).decode > prior(Some(7e9), Some("F16")).decode);
        assert!(prior(Some(1e9), None).decode > prior(Some(70e9), None).decode);
        assert!(prior(Some(1e9), None).load < prior(Some(70e9), None).load);
    }

    #[test]
    fn an_absurd_price_is_no_advantage() {
        assert_eq!(cost(Cost { input: -1.0, output: f64::NAN }), (0.0, 0.0));
        assert_eq!(cost(Cost { input: f64::INFINITY, output: 2.0 }), (0.0, 2.0));
    }
}
