//! A navigable graph over many centroids: HNSW (Malkov and Yashunin, arXiv 1603.09320), by `hnsw_rs`.
//!
//! Faster than looking at every centroid above some 50,000 of them, at the price of memory, of minutes to build and of
//! a few percent of misses. It never changes: what came later and what went away is the [index](super::index)'s
//! business. It finds *candidates*; how alike they are is computed from the blocks.
//!
//! Notes on `hnsw_rs` 0.3: it has no deletion; its own dot-product distance panics on unit vectors whose product rounds
//! above one, so the distance here is our own and clamps; its search filter can panic when all
//! near points are filtered, so points are filtered afterwards. The data are bytes with the vector's scale in the
//! last four, a quarter of what floats would take.

use std::collections::HashMap;
use std::sync::Arc;

use hnsw_rs::prelude::{Distance, Hnsw};

use super::block::{Block, Query};
use crate::embedding::quantise::dot;

/// Neighbours of a point. 16 is the paper's advice for data like ours.
const NEIGHBOURS: usize = 16;

/// Candidates while building; more makes a better graph, slower. Measured recall at 25,000 vectors: 0.97.
const BUILD_WIDTH: usize = 200;

/// Layers; each holds a sixteenth of the one below.
const LAYERS: usize = 16;

/// Points that are inserted between two looks at whether the graph is still wanted: some 50 ms.
const INSERTS_PER_LOOK: usize = 64;

/// Bytes of a scale.
const SCALE_BYTES: usize = size_of::<f32>();

/// A capability that has a centroid: block, and place in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) block: u32,
    pub(super) capability: u32,
}

/// A graph over the centroids of some blocks.
pub(super) struct Graph {
    hnsw: Hnsw<'static, i8, Angle>,
    blocks: Vec<Arc<Block>>,
    /// By point. Many nodes run the same models: equal centroids are one point with several owners, because points at the
    /// same place would fill each other's neighbour lists and cut the graph apart.
    owners: Vec<Vec<Owner>>,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("points", &self.owners.len()).finish_non_exhaustive()
    }
}

impl Graph {
    /// Builds it on the calling thread, for minutes when there are many. `None` when `unwanted` says so meanwhile.
    pub(super) fn build(blocks: Vec<Arc<Block>>, unwanted: impl Fn() -> bool) -> Option<Self> {
        let mut owners: Vec<Vec<Owner>> = Vec::new();
        let mut known: HashMap<Vec<i8>, usize> = HashMap::new();
        let total: usize = blocks.iter().map(|block| block.capabilities()).sum();
        let hnsw = Hnsw::new(NEIGHBOURS, total, LAYERS, BUILD_WIDTH, Angle);
        for (at, block) in blocks.iter().enumerate() {
            for capability in 0..block.capabilities() {
                let owner = Owner { block: at as u32, capability: capability as u32 };
                let Some((values, scale)) = block.centroid(capability) else { continue };
                let point = point(values, scale);
                if let Some(&known) = known.get(&point) {
                    owners[known].push(owner);
                    continue;
                }
                if owners.len().is_multiple_of(INSERTS_PER_LOOK) && unwanted() {
                    return None;
                }
                hnsw.insert((&point, owners.len()));
                known.insert(point, owners.len());
                owners.push(vec![owner]);
            }
        }
        Some(Self { hnsw, blocks, owners })
    }

    /// The blocks that it knows.
    pub(super) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    /// Owners of about `width` points near the query, nearest first.
    pub(super) fn near(&self, query: &Query, width: usize) -> impl Iterator<Item = Owner> {
        let found = self.hnsw.search(&point(&query.values, query.scale), width, width);
        found.into_iter().flat_map(|neighbour| self.owners.get(neighbour.d_id).into_iter().flatten().copied())
    }
}

fn point(values: &[i8], scale: f32) -> Vec<i8> {
    values.iter().copied().chain(scale.to_le_bytes().map(u8::cast_signed)).collect()
}

/// One minus the cosine, of unit vectors in bytes with their scale behind them.
#[derive(Debug, Clone, Copy, Default)]
struct Angle;

impl Distance<i8> for Angle {
    fn eval(&self, a: &[i8], b: &[i8]) -> f32 {
        let split =
            |point: &'_ [i8]| point.split_last_chunk::<SCALE_BYTES>().map(|(_, scale)| scale.map(i8::cast_unsigned));
        let (Some(a_scale), Some(b_scale)) = (split(a), split(b)) else { return 2.0 };
        let (a, b) = (&a[..a.len() - SCALE_BYTES], &b[..b.len() - SCALE_BYTES]);
        let product = pulp::Arch::new().dispatch(
            #[inline(always)]
            || dot(a, b),
        );
        let cosine = product as f32 * f32::from_le_bytes(a_scale) * f32::from_le_bytes(b_scale);
        // Rounding may pass one, and the graph asserts that no distance is negative.
        (1.0 - cosine).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_never_negative() {
        let point = point(&[127, 0, 3], 1.0 / 127.0);
        assert_eq!(Angle.eval(&point, &point), 0.0);
        let away = self::point(&[-127, 0, -3], 1.0 / 127.0);
        assert!(Angle.eval(&point, &away) >= 2.0);
        assert_eq!(Angle.eval(&[1], &[2]), 2.0);
    }

    #[test]
    fn a_graph_that_is_not_wanted_is_not_built() {
        let embedder = crate::embedding::StaticEmbedder::builtin();
        let capability = crate::capability::Capability::new("p", crate::capability::Kind::LLM_CHAT, "m");
        let block = Arc::new(Block::new(&[Arc::new(capability)], Some(&embedder)));
        assert!(Graph::build(vec![Arc::clone(&block)], || true).is_none());
        assert!(Graph::build(vec![block], || false).is_some());
    }
}
