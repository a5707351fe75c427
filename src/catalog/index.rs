//! The capabilities whose meaning is nearest to a query's.
//!
//! Small and middling meshes are scanned: every vector of every kept capability in bytes, then the best again in
//! floats. That is exact, needs no building and takes 256 bytes a vector. Above some 100,000 vectors a [`Graph`] is
//! faster. It is built in the background over the blocks of one moment; blocks that came later (the *tail*) are
//! scanned, blocks that went away are *masked*: they have no place in the snapshot, so nothing of theirs can be
//! found. When tail and mask are a large share, a new graph is wanted.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::block::{Block, Query};
use super::entry::{EntryId, Hit};
use super::graph::Graph;

/// Candidates that are judged again in floats: the first by floats is among so many by bytes.
const JUDGED: usize = 32;

/// Points that the graph is asked for at least: recall 0.97 at 100,000 vectors.
const GRAPH_WIDTH: usize = 128;

/// Points for each wanted capability. A capability has several points, and they are near each other.
const GRAPH_WIDTH_PER_HIT: usize = 8;

/// Who wants more hits than this is better served by a scan.
const GRAPH_MOST_HITS: usize = 64;

/// When to use a graph. The distance between the first two keeps a mesh whose size swings about the limit
/// from building again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Vectors above which a graph is built. Measured: a scan takes 4 to 8 ns a vector while they fit the caches, and
    /// 24 ns for 80,000 (1.9 ms in all) while the machine had other work; a graph took 1.7 to 2.1 ms then.
    pub(super) up: usize,
    /// Vectors below which it is dropped again.
    pub(super) down: usize,
    /// Tail and masked vectors, in percent of all, above which a new one is built. At a quarter, the tail of
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
    /// There are too few vectors for one.
    Drop,
    /// There are many vectors, and no graph or a stale one.
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
    /// Vectors in the tail and masked vectors.
    stale: usize,
}

/// The vectors of one snapshot.
#[derive(Debug, Default)]
pub(super) struct Index {
    placed: Vec<Placed>,
    vectors: usize,
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
        let vectors = placed.iter().map(|placed| placed.block.vectors()).sum();
        let view = graph.map(|graph| View::new(graph, &placed));
        Self { placed, vectors, view, limits }
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
            Some(_) if self.vectors < self.limits.down => GraphNeed::Drop,
            Some(view) if view.stale * 100 > self.vectors * self.limits.stale_percent => GraphNeed::Build,
            None if self.vectors > self.limits.up => GraphNeed::Build,
            _ => GraphNeed::Fine,
        }
    }

    /// The `count` kept capabilities that are most like the query, best first.
    ///
    /// `kept` is by place in the snapshot.
    pub(super) fn search(&self, query: &Query, count: usize, kept: &[bool]) -> Vec<Hit> {
        if count == 0 {
            return Vec::new();
        }
        let candidates = self.by_graph(query, count, kept).unwrap_or_else(|| {
            let all = 0..self.placed.len();
            self.scan(query, count.max(JUDGED), kept, all)
        });
        self.judge(query, count, candidates)
    }

    /// Candidates from graph and tail. `None` when a scan is as fast, or when the graph did not find enough.
    fn by_graph(&self, query: &Query, count: usize, kept: &[bool]) -> Option<Vec<EntryId>> {
        let view = self.view.as_ref()?;
        if count > GRAPH_MOST_HITS || self.kept_vectors(kept) < self.limits.down {
            return None;
        }
        let wanted = count.max(JUDGED);
        let (mut found, mut seen) = (Vec::with_capacity(wanted), HashSet::with_capacity(wanted));
        for owner in view.graph.near(query, GRAPH_WIDTH.max(GRAPH_WIDTH_PER_HIT * count)) {
            let Some(Some(first)) = view.first.get(owner.block as usize) else { continue };
            let entry = EntryId(first + owner.capability);
            if kept.get(entry.0 as usize).copied().unwrap_or(false) && seen.insert(entry) {
                found.push(entry);
                if found.len() == wanted {
                    break;
                }
            }
        }
        if found.len() < count {
            return None;
        }
        found.extend(self.scan(query, wanted, kept, view.tail.iter().copied()));
        Some(found)
    }

    fn kept_vectors(&self, kept: &[bool]) -> usize {
        let of = |placed: &Placed| -> usize {
            let kept = kept.iter().skip(placed.first as usize).take(placed.block.capabilities());
            kept.enumerate().filter(|(_, kept)| **kept).map(|(at, _)| placed.block.vectors_of(at)).sum()
        };
        self.placed.iter().map(of).sum()
    }

    /// The best `count` by bytes in some of the blocks, in no order.
    fn scan(&self, query: &Query, count: usize, kept: &[bool], places: impl Iterator<Item = usize>) -> Vec<EntryId> {
        let mut scored: Vec<(f32, EntryId)> = Vec::with_capacity(kept.len());
        for placed in places.filter_map(|place| self.placed.get(place)) {
            let first = placed.first as usize;
            let kept = kept.get(first..(first + placed.block.capabilities()).min(kept.len())).unwrap_or_default();
            placed.block.scan(query, kept, |capability, likeness| {
                scored.push((likeness, EntryId(placed.first + capability as u32)));
            });
        }
        if scored.len() > count {
            scored.select_nth_unstable_by(count - 1, better);
            scored.truncate(count);
        }
        scored.into_iter().map(|(_, entry)| entry).collect()
    }

    fn judge(&self, query: &Query, count: usize, candidates: Vec<EntryId>) -> Vec<Hit> {
        let judged = candidates.into_iter().filter_map(|entry| {
            let place = self.placed.partition_point(|placed| placed.first <= entry.0).checked_sub(1)?;
            let placed = self.placed.get(place)?;
            let (similarity, source) = placed.block.judge(query, (entry.0 - placed.first) as usize)?;
            Some(Hit { entry, similarity, source })
        });
        let mut hits: Vec<Hit> = judged.collect();
        hits.sort_unstable_by(|a, b| better(&(a.similarity, a.entry), &(b.similarity, b.entry)));
        hits.truncate(count);
        hits
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
                stale += block.vectors();
            }
            place.map(|(_, first)| first)
        });
        let first = first.collect();
        let mut tail: Vec<usize> = places.into_values().map(|(at, _)| at).collect();
        tail.sort_unstable();
        stale += tail.iter().map(|&at| placed[at].block.vectors()).sum::<usize>();
        Self { graph, first, tail, stale }
    }
}

/// Best first; equal ones in the order of the snapshot, so that the same question gives the same answer.
pub(super) fn better(a: &(f32, EntryId), b: &(f32, EntryId)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}
