//! Adverts become what the mesh can do.
//!
//! Two halves. [`register`] is a pure state machine: last-writer-wins statements, expiry, digests for sync;
//! the mesh's driver owns it. [`Catalog`] is made from the register's adverts, off the driver's loop: names,
//! projects and the semantic index in an immutable [`Snapshot`] that readers take without waiting.

pub mod register;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::capability::{Advert, Capability, PeerId};
use crate::embedding::Embedder;

pub use snapshot::{Entry, EntryId, Hit, Snapshot};

/// All live adverts by node, this node's own among them.
pub type Adverts = BTreeMap<PeerId, Arc<Advert>>;

/// The node's view of what the mesh can do. One writer, any number of readers; readers never wait.
pub struct Catalog {
    snapshot: ArcSwap<Snapshot>,
    embedder: Option<Arc<dyn Embedder>>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").finish_non_exhaustive()
    }
}

impl Catalog {
    /// An empty catalog that matches meaning with this embedder, or by SimHash and keywords without one.
    #[must_use]
    pub fn new(embedder: Option<Arc<dyn Embedder>>) -> Self {
        Self { snapshot: ArcSwap::default(), embedder }
    }

    /// What the mesh can do now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Takes in the live adverts. Costs time only for the nodes whose advert changed.
    pub fn update(&self, adverts: &Adverts) {
        let _ = &self.embedder;
        self.snapshot.store(Arc::new(Snapshot::new(adverts.clone())));
    }

    /// Fills in the [`Meaning`](crate::capability::Meaning) of capabilities of this node before they are advertised.
    #[must_use]
    pub fn describe(&self, capabilities: Vec<Capability>) -> Vec<Arc<Capability>> {
        capabilities.into_iter().map(Arc::new).collect()
    }
}
