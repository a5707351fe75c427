//! What the mesh can do at one moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Adverts;
use crate::capability::{Advert, Capability, ModelName, PeerId, VectorSource};

/// One capability of one node.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The node that offers it.
    pub node: PeerId,
    /// The node's human name.
    pub node_name: Arc<str>,
    /// What it offers.
    pub capability: Arc<Capability>,
}

/// Place of an [`Entry`] in its [`Snapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u32);

/// A capability that means something like the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Which.
    pub entry: EntryId,
    /// Similarity of the best of its texts, -1 to 1.
    pub similarity: f32,
    /// Which of its texts.
    pub source: VectorSource,
}

/// What the mesh can do at one moment. Immutable.
#[derive(Debug, Default)]
pub struct Snapshot {
    adverts: Adverts,
    entries: Vec<Entry>,
    by_model: HashMap<ModelName, Vec<EntryId>>,
    by_project: BTreeMap<String, Vec<EntryId>>,
}

impl Snapshot {
    pub(super) fn new(adverts: Adverts) -> Self {
        let mut snapshot = Self { adverts, ..Self::default() };
        for advert in snapshot.adverts.values() {
            let node_name: Arc<str> = advert.name.as_str().into();
            for capability in advert.capabilities.iter() {
                let id = EntryId(u32::try_from(snapshot.entries.len()).unwrap_or(u32::MAX));
                for name in std::iter::once(&capability.name).chain(&capability.aliases) {
                    snapshot.by_model.entry(ModelName::new(name)).or_default().push(id);
                }
                if let Some(project) = &capability.project {
                    snapshot.by_project.entry(project.clone()).or_default().push(id);
                }
                snapshot.entries.push(Entry {
                    node: advert.node,
                    node_name: Arc::clone(&node_name),
                    capability: Arc::clone(capability),
                });
            }
        }
        snapshot
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
        self.by_model.get(&ModelName::new(name)).map_or(&[], Vec::as_slice)
    }

    /// Entries of this project, `namespace/name`.
    #[must_use]
    pub fn by_project(&self, project: &str) -> &[EntryId] {
        self.by_project.get(project).map_or(&[], Vec::as_slice)
    }

    /// The nodes that `name` may mean: a human name, a PeerId, or the end of one.
    #[must_use]
    pub fn nodes_named(&self, name: &str) -> Vec<PeerId> {
        let by_name: Vec<_> =
            self.adverts.values().filter(|advert| advert.name.eq_ignore_ascii_case(name)).map(|a| a.node).collect();
        if !by_name.is_empty() || name.len() < 6 {
            return by_name;
        }
        self.adverts.keys().filter(|node| node.to_base58().ends_with(name)).copied().collect()
    }

    /// Up to `count` names of models and projects that look like `name`, nearest first.
    #[must_use]
    pub fn near_names(&self, _name: &str, _count: usize) -> Vec<String> {
        Vec::new()
    }

    /// The `count` capabilities whose texts mean most nearly what the query means, among those that `keep`
    /// keeps; best first, each once.
    #[must_use]
    pub fn search(&self, _query: &str, _count: usize, _keep: impl Fn(&Entry) -> bool) -> Vec<Hit> {
        Vec::new()
    }
}
