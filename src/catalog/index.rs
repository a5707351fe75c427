//! The capabilities whose meaning is nearest to a query's.
//!
//! Those with the nearest centroids come first, then the best of them by all their vectors, all in bytes, and the best
//! of these again without rounding the query: see [`block`](super::block). Centroids are scanned: that needs no building and takes 256 bytes
//! a capability. Above some 50,000 capabilities a [`Graph`] over the centroids is faster. It is built in the background
//! over the blocks of one moment; blocks that came later (the *tail*) are scanned, blocks that went away are *masked*: they
//! have no place in the snapshot, so nothing of theirs can be found. When tail and mask are a large share, a new graph is
//! wanted.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::block::{Block, Query};
use super::entry::{EntryId, Hit};
use super::graph::Graph;

/// Candidates by centroid whose vectors are looked at: of a large mesh, and of a small one. Between the two it is one of
/// eight capabilities.
const NEAR: usize = 256;
const NEAR_OF_FEW: usize = 128;

/// Candidates that are judged exactly: the first of all is among so many by bytes.
const JUDGED: usize = 32;

/// Centroids that the graph is asked for. More would find one more of a hundred, and take as long as a scan.
const GRAPH_WIDTH: usize = 192;

/// Similarities that are compared with the least that counts in one go.
const GROUP: usize = 8;

/// Who wants more hits than this is better served by a scan.
const GRAPH_MOST_HITS: usize = 64;

/// When to use a graph. The distance between the first two keeps a mesh whose size swings about the limit
/// from building again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Capabilities above which a graph is built. A scan takes 4 to 8 ns a centroid while they fit the near caches, and
    /// up to 24 ns when they do not: with 50,000, as long as a graph or longer.
    pub(super) up: usize,
    /// Capabilities below which it is dropped again.
    pub(super) down: usize,
    /// Tail and masked capabilities, in percent of all, above which a new one is built. At a quarter, the tail of
    /// 50,000 costs some 150 us to scan.
    pub(super) stale_percent: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { up: 50_000, down: 35_000, stale_percent: 25 }
    }
}

/// What the graph shall become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GraphNeed {
    /// It, or its absence, is as it should be.
    Fine,
    /// There are too few capabilities for one.
    Drop,
    /// There are many capabilities, and no graph or a stale one.
    Build,
}

/// A block, and the place of its first capability in the snapshot.
#[derive(Debug)]
struct Placed {
    block: Arc<Block>,
    first: u32,
}

/// A graph as it fits into one snapshot.
#[derive(Debug)]
struct View {
    graph: Arc<Graph>,
    /// By block of the graph: the place of its first capability; `None` when it is masked.
    first: Vec<Option<u32>>,
    /// Places in `Index::placed` of the blocks that the graph does not know.
    tail: Vec<usize>,
    /// Capabilities in the tail and masked ones.
    stale: usize,
}

/// The vectors of one snapshot.
#[derive(Debug, Default)]
pub(super) struct Index {
    placed: Vec<Placed>,
    capabilities: usize,
    view: Option<View>,
    limits: Limits,
}

impl Index {
    /// An index over blocks whose capabilities follow each other in the snapshot.
    pub(super) fn new(blocks: impl IntoIterator<Item = Arc<Block>>, graph: Option<Arc<Graph>>, limits: Limits) -> Self {
        let (mut placed, mut first) = (Vec::new(), 0);
        for block in blocks {
            let next = first + block.capabilities() as u32;
            placed.push(Placed { block, first });
            first = next;
        }
        let view = graph.map(|graph| View::new(graph, &placed));
        Self { placed, capabilities: first as usize, view, limits }
    }

    /// The same with another graph.
    pub(super) fn with_graph(&self, graph: Option<Arc<Graph>>) -> Self {
        Self::new(self.blocks(), graph, self.limits)
    }

    /// The blocks, in the order of the snapshot.
    pub(super) fn blocks(&self) -> Vec<Arc<Block>> {
        self.placed.iter().map(|placed| Arc::clone(&placed.block)).collect()
    }

    /// What the graph shall become.
    pub(super) fn need(&self) -> GraphNeed {
        match &self.view {
            Some(_) if self.capabilities < self.limits.down => GraphNeed::Drop,
            Some(view) if view.stale * 100 > self.capabilities * self.limits.stale_percent => GraphNeed::Build,
            None if self.capabilities > self.limits.up => GraphNeed::Build,
            _ => GraphNeed::Fine,
        }
    }

    /// The `count` kept capabilities that are most like the query, best first.
    ///
    /// `kept` is by place in the snapshot; it is asked of those only that might be among the nearest.
    pub(super) fn search(&self, query: &Query, count: usize, kept: impl Fn(usize) -> bool) -> Vec<Hit> {
        if count == 0 {
            return Vec::new();
        }
        let near = self.near_by_graph(query, count, &kept).unwrap_or_else(|| {
            let all = 0..self.placed.len();
            let near = (self.capabilities / 8).clamp(NEAR_OF_FEW, NEAR);
            self.scan(query, count.max(near), &kept, all)
        });
        let best = self.best(query, count.max(JUDGED), near);
        self.judge(query, count, best)
    }

    /// Candidates by centroid from graph and tail. `None` when a scan is as fast, or when the graph did not find enough.
    fn near_by_graph(&self, query: &Query, count: usize, kept: impl Fn(usize) -> bool) -> Option<Vec<EntryId>> {
        /// One in so many capabilities is asked for, to know about how many are kept.
        const SAMPLE: usize = 16;
        let view = self.view.as_ref()?;
        let about_kept = || (0..self.capabilities).step_by(SAMPLE).filter(|place| kept(*place)).count() * SAMPLE;
        if count > GRAPH_MOST_HITS || about_kept() < self.limits.down {
            return None;
        }
        let mut found = Vec::with_capacity(NEAR);
        for owner in view.graph.near(query, GRAPH_WIDTH) {
            let Some(Some(first)) = view.first.get(owner.block as usize) else { continue };
            let entry = EntryId(first + owner.capability);
            if kept(entry.0 as usize) {
                found.push(entry);
                if found.len() == NEAR {
                    break;
                }
            }
        }
        if found.len() < count.max(JUDGED) {
            return None;
        }
        found.extend(self.scan(query, NEAR, &kept, view.tail.iter().copied()));
        Some(found)
    }

    /// The `count` nearest centroids in some of the blocks, in no order.
    fn scan(
        &self,
        query: &Query,
        count: usize,
        kept: impl Fn(usize) -> bool,
        places: impl Iterator<Item = usize>,
    ) -> Vec<EntryId> {
        let mut nearest = Nearest::new(count);
        for placed in places.filter_map(|place| self.placed.get(place)) {
            placed.block.scan(query, |start, similarities| {
                let first = placed.first + start as u32;
                // Most are too far off, and a group of them is passed over at once.
                for (entries, similarities) in (first..).step_by(GROUP).zip(similarities.chunks(GROUP)) {
                    if similarities.iter().fold(false, |any, similarity| any | (*similarity >= nearest.floor)) {
                        for (entry, similarity) in (entries..).zip(similarities) {
                            if *similarity >= nearest.floor && kept(entry as usize) {
                                nearest.take(*similarity, EntryId(entry));
                            }
                        }
                    }
                }
            });
        }
        nearest.into_entries()
    }

    /// The best `count` of the candidates by likeness in bytes, in no order.
    fn best(&self, query: &Query, count: usize, candidates: Vec<EntryId>) -> Vec<EntryId> {
        if candidates.len() <= count {
            return candidates;
        }
        let (mut nearest, mut products) = (Nearest::new(count), Vec::new());
        for entry in candidates {
            let Some((block, capability)) = self.place(entry) else { continue };
            if let Some(likeness) = block.likeness(query, capability, &mut products) {
                nearest.offer(likeness, entry);
            }
        }
        nearest.into_entries()
    }

    /// The block of an entry, and its place in there.
    fn place(&self, entry: EntryId) -> Option<(&Block, usize)> {
        let place = self.placed.partition_point(|placed| placed.first <= entry.0).checked_sub(1)?;
        let placed = self.placed.get(place)?;
        Some((&placed.block, (entry.0 - placed.first) as usize))
    }

    fn judge(&self, query: &Query, count: usize, candidates: Vec<EntryId>) -> Vec<Hit> {
        let mut products = Vec::new();
        let judged = candidates.into_iter().filter_map(|entry| {
            let (block, capability) = self.place(entry)?;
            let (similarity, source) = block.judge(query, capability, &mut products)?;
            Some(Hit { entry, similarity, source })
        });
        let mut hits: Vec<Hit> = judged.collect();
        hits.sort_unstable_by(|a, b| better(&(a.similarity, a.entry), &(b.similarity, b.entry)));
        hits.truncate(count);
        hits
    }
}

/// The best of what is offered, at most `count`.
struct Nearest {
    count: usize,
    /// Twice as many at most: then the worse half goes.
    kept: Vec<(f32, EntryId)>,
    /// What is not better than this is not among the best.
    floor: f32,
}

impl Nearest {
    fn new(count: usize) -> Self {
        Self { count, kept: Vec::with_capacity(2 * count), floor: f32::NEG_INFINITY }
    }

    #[inline(always)]
    fn offer(&mut self, similarity: f32, entry: EntryId) {
        // Equal ones are let in: the order of the snapshot decides between them.
        if similarity >= self.floor {
            self.take(similarity, entry);
        }
    }

    fn take(&mut self, similarity: f32, entry: EntryId) {
        self.kept.push((similarity, entry));
        if self.kept.len() >= 2 * self.count {
            self.shrink();
        }
    }

    #[cold]
    fn shrink(&mut self) {
        if let Some(last) = self.count.checked_sub(1).filter(|last| *last < self.kept.len()) {
            let (_, worst, _) = self.kept.select_nth_unstable_by(last, better);
            self.floor = worst.0;
        }
        self.kept.truncate(self.count);
    }

    fn into_entries(mut self) -> Vec<EntryId> {
        self.shrink();
        self.kept.into_iter().map(|(_, entry)| entry).collect()
    }
}

impl View {
    fn new(graph: Arc<Graph>, placed: &[Placed]) -> Self {
        let mut places: HashMap<*const Block, (usize, u32)> =
            placed.iter().enumerate().map(|(at, placed)| (Arc::as_ptr(&placed.block), (at, placed.first))).collect();
        let mut stale = 0;
        let first = graph.blocks().iter().map(|block| {
            let place = places.remove(&Arc::as_ptr(block));
            if place.is_none() {
                stale += block.capabilities();
            }
            place.map(|(_, first)| first)
        });
        let first = first.collect();
        let mut tail: Vec<usize> = places.into_values().map(|(at, _)| at).collect();
        tail.sort_unstable();
        stale += tail.iter().map(|&at| placed[at].block.capabilities()).sum::<usize>();
        Self { graph, first, tail, stale }
    }
}

/// Best first; equal ones in the order of the snapshot, so that the same question gives the same answer.
pub(super) fn better(a: &(f32, EntryId), b: &(f32, EntryId)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}
