//! How like the things that people do with a language model a question is, and what the numbers are worth.
//!
//! Similarities of two embedding spaces cannot be compared: two sentences that have nothing in common are 0.1 alike
//! in one and 0.7 in the next, and a share of common words is another thing again. So each way of comparing is
//! measured once, with the prototypes themselves: some are taken away and compared with the rest. How alike they are to
//! their own sort and to the others gives the [`Scale`] on which the router's bars stand.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::capability::{Advert, Capability, Kind, PeerId, limits};
use crate::catalog::{Catalog, Question, Snapshot};
use crate::embedding::Embedder;

use super::prototypes;

/// Each prototype is compared with those of the other parts.
const PARTS: usize = 5;

/// Share of the prototypes that must be nearest to their own sort for vectors to tell anything. Chance is a quarter.
const TELLING: f32 = 0.5;

/// What a way of comparing says of texts of one sort and of different sorts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    /// Usual similarity of a phrase to phrases of other sorts.
    pub(super) apart: f32,
    /// Usual similarity to others of its own sort.
    pub(super) alike: f32,
}

impl Scale {
    /// The similarity at this place between apart (0) and alike (1).
    pub(super) fn at(self, place: f32) -> f32 {
        self.apart + self.step(place)
    }

    /// The difference of two similarities whose places are so far from each other.
    pub(super) fn step(self, places: f32) -> f32 {
        places * (self.alike - self.apart)
    }
}

/// Phrases that stand for what people do with language models, in the space of a catalog.
pub(super) struct Prototypes {
    snapshot: Arc<Snapshot>,
    /// `None`: there is no embedder, or its vectors tell nothing.
    vectors: Option<Scale>,
    words: Scale,
}

impl std::fmt::Debug for Prototypes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Prototypes");
        out.field("vectors", &self.vectors).field("words", &self.words).finish_non_exhaustive()
    }
}

/// How near a question is to each thing that people do with language models.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Likeness {
    pub(super) general: f32,
    pub(super) code: f32,
    pub(super) reasoning: f32,
    pub(super) summarize: f32,
}

impl Likeness {
    fn of_mut(&mut self, kind: &Kind) -> &mut f32 {
        match kind.type_name() {
            "code" => &mut self.code,
            "reasoning" => &mut self.reasoning,
            "summarize" => &mut self.summarize,
            _ => &mut self.general,
        }
    }
}

impl Prototypes {
    /// The prototypes in the embedding space of this catalog. Embeds each once.
    pub(super) fn new(catalog: &Catalog) -> Self {
        let embedder = catalog.embedder().map(|embedder| Arc::new(Remembering::new(embedder)) as Arc<dyn Embedder>);
        let vectors = embedder.as_ref().and_then(|embedder| {
            let (scale, right) = measured(Some(embedder));
            let telling = right >= TELLING && scale.alike > scale.apart;
            if telling {
                tracing::debug!(space = %embedder.space(), ?scale, right, "similarities of the embedding space measured");
            } else {
                tracing::warn!(
                    space = %embedder.space(),
                    ?scale,
                    right,
                    "the embedder does not tell sorts of questions apart, so `auto` compares words; \
                     is it a model for sentences, with its own tokenizer?"
                );
            }
            telling.then_some(scale)
        });
        Self { snapshot: shelf(embedder.as_ref(), |_| true), vectors, words: measured(None).0 }
    }

    /// The question as it will be compared: by its vector where that tells something, else by its words.
    pub(super) fn question<'a>(&self, text: &'a str, snapshot: &Snapshot) -> (Question<'a>, Scale) {
        self.read(text, snapshot.question(text))
    }

    /// The same, for a question that the catalog has embedded already.
    pub(super) fn read<'a>(&self, text: &'a str, question: Question<'a>) -> (Question<'a>, Scale) {
        match self.vectors {
            Some(scale) if !question.by_words() => (question, scale),
            _ => (Question::in_words(text), self.words),
        }
    }

    /// Whether vectors are compared, where a text has one.
    pub(super) const fn tells(&self) -> bool {
        self.vectors.is_some()
    }

    /// How near the question is to each.
    pub(super) fn likeness(&self, question: &Question<'_>) -> Likeness {
        likeness(&self.snapshot, question)
    }
}

fn likeness(shelf: &Snapshot, question: &Question<'_>) -> Likeness {
    let mut likeness = Likeness::default();
    // All of them: a search leaves none out.
    for hit in shelf.search_kept(question, shelf.entries().len(), |_| true) {
        if let Some(entry) = shelf.entry(hit.entry) {
            let of = likeness.of_mut(&entry.capability.kind);
            *of = of.max(hit.similarity);
        }
    }
    likeness
}

/// The prototypes whose place among those of their sort `kept` keeps, as capabilities of a catalog.
fn shelf(embedder: Option<&Arc<dyn Embedder>>, kept: impl Fn(usize) -> bool) -> Arc<Snapshot> {
    let own = Catalog::new(embedder.cloned());
    let mut capabilities = Vec::new();
    for (kind, phrases) in prototypes::ALL {
        let phrases: Vec<_> = phrases.iter().enumerate().filter(|(place, _)| kept(*place)).collect();
        // As many to a capability as an advert may carry vectors for.
        for (part, phrases) in phrases.chunks(limits::VECTORS - 2).enumerate() {
            let mut capability = Capability::new("prototype", kind.clone(), &part.to_string());
            capability.examples = phrases.iter().map(|(_, phrase)| (**phrase).to_owned()).collect();
            capabilities.push(capability);
        }
    }
    let node = PeerId::random();
    let advert = Advert {
        node,
        epoch: 0,
        seq: 0,
        ttl: Duration::MAX,
        name: "prototypes".to_owned(),
        version: String::new(),
        addresses: Vec::new(),
        capabilities: own.describe(capabilities).into(),
        load: 0,
        relay: false,
    };
    own.update(&[(node, Arc::new(advert))].into());
    own.snapshot()
}

/// What [`measure`] finds, measured once in a process for each space: it depends on nothing else.
fn measured(embedder: Option<&Arc<dyn Embedder>>) -> (Scale, f32) {
    /// By space; `None` is for words.
    type Known = BTreeMap<Option<Arc<str>>, (Scale, f32)>;
    static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
    let space = embedder.map(|embedder| Arc::clone(embedder.space()));
    *KNOWN.lock().entry(space).or_insert_with(|| measure(embedder))
}

/// Compares each prototype with those of the other parts. Also gives the share of them that are nearest to their own
/// sort.
fn measure(embedder: Option<&Arc<dyn Embedder>>) -> (Scale, f32) {
    let (mut alike, mut apart, mut right) = (Vec::new(), Vec::new(), 0_u16);
    for part in 0..PARTS {
        let shelf = shelf(embedder, |place| place % PARTS != part);
        for (kind, phrases) in prototypes::ALL {
            for phrase in phrases.iter().skip(part).step_by(PARTS) {
                let mut found = likeness(&shelf, &shelf.question(phrase));
                let own = std::mem::take(found.of_mut(&kind));
                let others = [found.general, found.code, found.reasoning, found.summarize];
                let nearest = others.into_iter().fold(0.0, f32::max);
                right += u16::from(own > nearest);
                alike.push(own);
                apart.push(nearest);
            }
        }
    }
    let right = f32::from(right) / alike.len().max(1) as f32;
    (Scale { apart: middle(apart), alike: middle(alike) }, right)
}

fn middle(mut values: Vec<f32>) -> f32 {
    values.sort_unstable_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Embeds each text once: to measure, every prototype is needed several times, and a model takes its time.
struct Remembering {
    inner: Arc<dyn Embedder>,
    known: Mutex<HashMap<String, Vec<f32>>>,
}

impl Remembering {
    fn new(inner: &Arc<dyn Embedder>) -> Self {
        Self { inner: Arc::clone(inner), known: Mutex::default() }
    }
}

impl Embedder for Remembering {
    fn space(&self) -> &Arc<str> {
        self.inner.space()
    }

    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn embed(&self, text: &str) -> Vec<f32> {
        if let Some(known) = self.known.lock().get(text) {
            return known.clone();
        }
        let vector = self.inner.embed(text);
        self.known.lock().insert(text.to_owned(), vector.clone());
        vector
    }
}
