//! Adverts become what the mesh can do.
//!
//! Two halves. [`register`] is a pure state machine: last-writer-wins statements, expiry, digests for sync;
//! the mesh's driver owns it. [`Catalog`] is made from the register's adverts, off the driver's loop: names,
//! projects and the semantic index in an immutable [`Snapshot`] that readers take without waiting.
//!
//! A snapshot is put together from one part per node. A part is worked out when a node's advert changes and shared until
//! it changes again, so that an update costs in proportion to what changed. A part has the node's names,
//! its capabilities' vectors in one block, and their words.
//!
//! # Meaning
//!
//! A node sends vectors of its capabilities' texts along with the texts ([`Catalog::describe`]), tagged with the
//! embedding space. Where the space is this node's, they are used as they came; otherwise the texts are
//! embedded here; without an embedder, SimHash and keywords decide. Which of the ways it was makes no
//! difference to who asks: [`Snapshot::search`].

mod block;
mod describe;
mod entry;
mod graph;
mod index;
mod lexicon;
mod near;
mod part;
pub mod register;
mod snapshot;
mod texts;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::capability::{Capability, PeerId};
use crate::embedding::Embedder;

pub use entry::{Entry, EntryId, Hit};
pub use snapshot::{Adverts, Question, Snapshot};
pub use texts::texts_of;

use graph::Graph;
use index::{GraphNeed, Limits};
use part::Part;

/// The node's view of what the mesh can do. One writer, any number of readers; readers never wait.
pub struct Catalog {
    shared: Arc<Shared>,
}

/// What the thread that builds a graph needs, too.
struct Shared {
    snapshot: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
    embedder: Option<Arc<dyn Embedder>>,
    limits: Limits,
    writer: Mutex<Writer>,
}

/// What only writers touch.
#[derive(Default)]
struct Writer {
    parts: BTreeMap<PeerId, Arc<Part>>,
    graph: Option<Arc<Graph>>,
    /// Whether a thread builds one.
    building: bool,
    /// Whether building one failed in a way that would repeat: everything is scanned from then on.
    given_up: bool,
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
        Self::with_limits(embedder, Limits::default())
    }

    fn with_limits(embedder: Option<Arc<dyn Embedder>>, limits: Limits) -> Self {
        let shared = Shared {
            snapshot: ArcSwap::default(),
            version: watch::Sender::new(0),
            embedder,
            limits,
            writer: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What it matches meaning with.
    #[must_use]
    pub fn embedder(&self) -> Option<&Arc<dyn Embedder>> {
        self.shared.embedder.as_ref()
    }

    /// What the mesh can do now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// A number that grows whenever there is a new snapshot.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Takes in the live adverts. Costs time only for the nodes whose advert changed.
    ///
    /// Embeds on the calling thread what came from another space: with the built-in embedder microseconds a text,
    /// with an ONNX model milliseconds.
    pub fn update(&self, adverts: &Adverts) {
        let mut writer = self.shared.writer.lock();
        let embedder = self.shared.embedder.as_deref();
        let mut changed = writer.parts.len() != adverts.len();
        let parts = adverts.iter().map(|(node, advert)| {
            let part = match writer.parts.get(node) {
                Some(part) if part.is_of(advert) => return (*node, Arc::clone(part)),
                Some(part) => part.renewed(advert, embedder),
                None => Part::new(advert, embedder),
            };
            changed = true;
            (*node, Arc::new(part))
        });
        let parts: BTreeMap<_, _> = parts.collect();
        if !changed {
            return;
        }
        writer.parts = parts;
        let snapshot = Snapshot::new(
            adverts.clone(),
            writer.parts.values(),
            self.shared.embedder.clone(),
            writer.graph.clone(),
            self.shared.limits,
        );
        self.shared.publish(&mut writer, snapshot);
        self.shared.version.send_modify(|version| *version += 1);
    }

    /// Fills in the [`Meaning`](crate::capability::Meaning) of capabilities of this node before they are advertised.
    ///
    /// When there are so many that their vectors would fill an advert, the last ones go with a SimHash only, and who
    /// receives them embeds their texts.
    #[must_use]
    pub fn describe(&self, capabilities: Vec<Capability>) -> Vec<Arc<Capability>> {
        describe::describe(self.shared.embedder.as_deref(), capabilities)
    }
}

impl Shared {
    /// Makes a snapshot the current one, and sees to it that it gets the graph that it needs.
    fn publish(self: &Arc<Self>, writer: &mut Writer, snapshot: Snapshot) {
        let need = snapshot.graph_need();
        let snapshot = if need == GraphNeed::Drop {
            writer.graph = None;
            snapshot.with_graph(None)
        } else {
            snapshot
        };
        self.snapshot.store(Arc::new(snapshot));
        if need != GraphNeed::Build || writer.building || writer.given_up {
            return;
        }
        let catalog = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("catalog-graph".into()).spawn(move || build(&catalog));
        match thread {
            Ok(_) => writer.building = true,
            Err(error) => {
                tracing::warn!(%error, "no thread to build the semantic graph; searches stay exact and slower")
            }
        }
    }
}

/// Builds graphs until the one in use is good enough. Ends when the catalog is gone.
fn build(catalog: &Weak<Shared>) {
    loop {
        let Some(blocks) = catalog.upgrade().map(|shared| shared.snapshot.load().index().blocks()) else { return };
        let started = std::time::Instant::now();
        let graph = catch_unwind(AssertUnwindSafe(|| Graph::build(blocks, || catalog.strong_count() == 0)));
        let Some(shared) = catalog.upgrade() else { return };
        let mut writer = shared.writer.lock();
        match graph {
            Ok(Some(graph)) => {
                tracing::debug!(?graph, elapsed = ?started.elapsed(), "semantic graph built");
                writer.graph = Some(Arc::new(graph));
                let snapshot = shared.snapshot.load().with_graph(writer.graph.clone());
                // Still marked as building, so that this starts no second thread.
                shared.publish(&mut writer, snapshot);
            }
            Ok(None) => {}
            Err(_) => {
                tracing::warn!("building the semantic graph failed; searches stay exact and slower");
                writer.given_up = true;
            }
        }
        if writer.given_up || shared.snapshot.load().graph_need() != GraphNeed::Build {
            writer.building = false;
            return;
        }
    }
}
