//! What the mesh can do at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use foldhash::HashMap;

use super::block::Query;
use super::entry::{Entry, EntryId, Hit};
use super::graph::Graph;
use super::index::{GraphNeed, Index, Limits};
use super::lexicon::{self, Lexicon};
use super::near::nearest;
use super::part::{Name, Part};
use crate::capability::{Advert, ModelName, PeerId};
use crate::embedding::Embedder;

/// All live adverts by node, this node's own among them.
pub type Adverts = BTreeMap<PeerId, Arc<Advert>>;

/// Last letters of a PeerId that may stand for it.
const PEER_SUFFIX: usize = 6;

/// What the mesh can do at one moment. Immutable.
#[derive(Default)]
pub struct Snapshot {
    adverts: Adverts,
    entries: Arc<[Entry]>,
    names: Arc<Names>,
    lexicons: Arc<[Arc<Lexicon>]>,
    index: Index,
    embedder: Option<Arc<dyn Embedder>>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// A question, ready to be compared with the texts of capabilities: by its vector, or by its words where it has none.
#[derive(Debug)]
pub struct Question<'a> {
    text: &'a str,
    vector: Option<Query>,
}

impl<'a> Question<'a> {
    /// A question that is compared by its words whatever the embedder says.
    #[must_use]
    pub const fn in_words(text: &'a str) -> Self {
        Self { text, vector: None }
    }

    /// The unit vector that is compared; empty where words are.
    #[must_use]
    pub fn vector(&self) -> &[f32] {
        self.vector.as_ref().map_or(&[], Query::exact)
    }

    /// Whether words are compared, whose similarities are no cosines.
    #[must_use]
    pub const fn by_words(&self) -> bool {
        self.vector.is_none()
    }
}

/// Who is called what.
#[derive(Debug, Default)]
struct Names {
    by_model: HashMap<Arc<str>, Vec<EntryId>>,
    by_project: BTreeMap<Arc<str>, Vec<EntryId>>,
    /// Each name of a model once.
    models: Vec<Arc<str>>,
}

impl Names {
    fn add(&mut self, entry: EntryId, names: &[Name], project: Option<&Arc<str>>) {
        for (name, spelled) in names {
            let entries = self.by_model.entry(Arc::clone(name)).or_default();
            if entries.is_empty() {
                self.models.push(Arc::clone(spelled));
            }
            entries.push(entry);
        }
        if let Some(project) = project {
            self.by_project.entry(Arc::clone(project)).or_default().push(entry);
        }
    }
}

impl Snapshot {
    pub(super) fn new<'a>(
        adverts: Adverts,
        parts: impl Iterator<Item = &'a Arc<Part>> + Clone,
        embedder: Option<Arc<dyn Embedder>>,
        graph: Option<Arc<Graph>>,
        limits: Limits,
    ) -> Self {
        let mut names = Names::default();
        let mut entries = Vec::new();
        for part in parts.clone() {
            for ((entry, entry_names), project) in part.entries.iter().zip(&part.names).zip(&part.projects) {
                names.add(EntryId(entries.len() as u32), entry_names, project.as_ref());
                entries.push(entry.clone());
            }
        }
        Self {
            adverts,
            entries: entries.into(),
            names: Arc::new(names),
            lexicons: parts.clone().map(|part| Arc::clone(&part.lexicon)).collect(),
            index: Index::new(parts.map(|part| Arc::clone(&part.block)), graph, limits),
            embedder,
        }
    }

    /// The same, searched with another graph.
    pub(super) fn with_graph(&self, graph: Option<Arc<Graph>>) -> Self {
        Self {
            adverts: self.adverts.clone(),
            entries: Arc::clone(&self.entries),
            names: Arc::clone(&self.names),
            lexicons: Arc::clone(&self.lexicons),
            index: self.index.with_graph(graph),
            embedder: self.embedder.clone(),
        }
    }

    pub(super) fn graph_need(&self) -> GraphNeed {
        self.index.need()
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// Whether searches are as fast as they will be: `false` while a graph over many vectors is being built, and
    /// every vector is looked at instead.
    #[must_use]
    pub fn index_settled(&self) -> bool {
        self.index.need() == GraphNeed::Fine
    }

    /// The live adverts.
    #[must_use]
    pub fn adverts(&self) -> &Adverts {
        &self.adverts
    }

    /// The advert of a node.
    #[must_use]
    pub fn advert(&self, node: &PeerId) -> Option<&Arc<Advert>> {
        self.adverts.get(node)
    }

    /// Every capability of every node, by node.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry at this place.
    #[must_use]
    pub fn entry(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(id.0 as usize)
    }

    /// Entries with this model name or alias; `llama3.2` finds `llama3.2:latest`.
    #[must_use]
    pub fn by_model(&self, name: &str) -> &[EntryId] {
        self.names.by_model.get(ModelName::new(name).as_str()).map_or(&[], Vec::as_slice)
    }

    /// Entries of this project, `namespace/name`.
    #[must_use]
    pub fn by_project(&self, project: &str) -> &[EntryId] {
        self.names.by_project.get(project).map_or(&[], Vec::as_slice)
    }

    /// The nodes that `name` may mean: a human name, a PeerId, or the end of one.
    #[must_use]
    pub fn nodes_named(&self, name: &str) -> Vec<PeerId> {
        let by_name: Vec<_> =
            self.adverts.values().filter(|advert| advert.name.eq_ignore_ascii_case(name)).map(|a| a.node).collect();
        if !by_name.is_empty() || name.len() < PEER_SUFFIX {
            return by_name;
        }
        self.adverts.keys().filter(|node| node.to_base58().ends_with(name)).copied().collect()
    }

    /// Up to `count` names of models and projects that look like `name`, nearest first.
    #[must_use]
    pub fn near_names(&self, name: &str, count: usize) -> Vec<String> {
        let projects = self.names.by_project.keys();
        nearest(name, self.names.models.iter().chain(projects).map(|name| &**name), count)
    }

    /// Reads a question, for any number of searches in snapshots of catalogs with this one's embedder.
    #[must_use]
    pub fn question<'a>(&self, text: &'a str) -> Question<'a> {
        let vector = self.embedder.as_ref().and_then(|embedder| Query::new(embedder.embed(text)));
        Question { text, vector }
    }

    /// The vector of a text in the space of the catalog's embedder; empty without one.
    #[must_use]
    pub fn vector(&self, text: &str) -> Vec<f32> {
        self.embedder.as_ref().map(|embedder| embedder.embed(text)).unwrap_or_default()
    }

    /// The `count` capabilities whose texts mean most nearly what the query means, among those that `keep`
    /// keeps; best first, each once. Equal ones come in the order of [`entries`](Self::entries).
    ///
    /// `keep` is asked of most entries, some of them twice, so it should be cheap.
    #[must_use]
    pub fn search(&self, query: &str, count: usize, keep: impl Fn(&Entry) -> bool) -> Vec<Hit> {
        if count == 0 || self.entries.is_empty() {
            return Vec::new();
        }
        self.search_kept(&self.question(query), count, |place| self.entries.get(place).is_some_and(&keep))
    }

    /// Like [`search`](Self::search), for a question that was read already, among the entries whose place is `kept`.
    #[must_use]
    pub fn search_kept(&self, question: &Question<'_>, count: usize, kept: impl Fn(usize) -> bool) -> Vec<Hit> {
        match &question.vector {
            Some(vector) => self.index.search(vector, count, kept),
            None => lexicon::search(self.lexicons.iter().map(|lexicon| &**lexicon), question.text, count, kept),
        }
    }

    /// Like [`search`](Self::search), for a query that was embedded already, in the space of the catalog's
    /// embedder. Nothing when the vector has another length or no direction.
    #[must_use]
    pub fn search_vector(&self, query: &[f32], count: usize, keep: impl Fn(&Entry) -> bool) -> Vec<Hit> {
        let Some(query) = Query::new(query.to_vec()) else { return Vec::new() };
        self.index.search(&query, count, |place| self.entries.get(place).is_some_and(&keep))
    }
}
