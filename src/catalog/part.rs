//! What one node's advert adds to the catalog. Immutable, and shared by snapshots until the node says something new.

use std::sync::Arc;

use super::block::Block;
use super::entry::Entry;
use super::lexicon::Lexicon;
use super::texts::same_meaning;
use crate::capability::{Advert, ModelName};
use crate::embedding::Embedder;

/// A name as it is compared, and as its provider spells it.
pub(super) type Name = (Arc<str>, Arc<str>);

/// One node's share.
#[derive(Debug)]
pub(super) struct Part {
    advert: Arc<Advert>,
    /// Its capabilities, in the advert's order.
    pub(super) entries: Box<[Entry]>,
    /// By capability: its different names.
    pub(super) names: Box<[Box<[Name]>]>,
    /// By capability.
    pub(super) projects: Box<[Option<Arc<str>>]>,
    pub(super) block: Arc<Block>,
    pub(super) lexicon: Arc<Lexicon>,
}

impl Part {
    /// Works out everything.
    pub(super) fn new(advert: &Arc<Advert>, embedder: Option<&dyn Embedder>) -> Self {
        let block = Arc::new(Block::new(&advert.capabilities, embedder));
        Self::with_meaning(advert, block, Arc::new(Lexicon::new(&advert.capabilities)))
    }

    /// The same node after it said something new. Keeps what it can: load and residency change often, and mean nothing.
    pub(super) fn renewed(&self, advert: &Arc<Advert>, embedder: Option<&dyn Embedder>) -> Self {
        let same = self.advert.capabilities.len() == advert.capabilities.len()
            && self.advert.capabilities.iter().zip(advert.capabilities.iter()).all(|(a, b)| same_meaning(a, b));
        if !same {
            return Self::new(advert, embedder);
        }
        Self::with_meaning(advert, Arc::clone(&self.block), Arc::clone(&self.lexicon))
    }

    /// Whether this is what the advert says.
    pub(super) fn is_of(&self, advert: &Advert) -> bool {
        (self.advert.epoch, self.advert.seq) == (advert.epoch, advert.seq)
    }

    fn with_meaning(advert: &Arc<Advert>, block: Arc<Block>, lexicon: Arc<Lexicon>) -> Self {
        let node_name: Arc<str> = advert.name.as_str().into();
        let entries = advert.capabilities.iter().enumerate().map(|(at, capability)| Entry {
            node: advert.node,
            node_name: Arc::clone(&node_name),
            capability: Arc::clone(capability),
            subject: lexicon.subject(at),
        });
        let names = advert.capabilities.iter().map(|capability| {
            let mut names: Vec<Name> = Vec::with_capacity(1 + capability.aliases.len());
            for spelled in std::iter::once(&capability.name).chain(&capability.aliases) {
                let name = ModelName::new(spelled);
                if names.iter().all(|(known, _)| **known != *name.as_str()) {
                    names.push((name.as_str().into(), spelled.as_str().into()));
                }
            }
            names.into()
        });
        let projects = advert.capabilities.iter().map(|capability| capability.project.as_deref().map(Arc::from));
        Self {
            entries: entries.collect(),
            names: names.collect(),
            projects: projects.collect(),
            advert: Arc::clone(advert),
            block,
            lexicon,
        }
    }
}
