//! The vectors of one node's capabilities, in one piece of memory.
//!
//! A block never changes. A new advert of the node makes a new block, or keeps the old one when nothing changed that
//! means something; snapshots share it.
//!
//! # How alike a capability and a query are
//!
//! A capability has several vectors: its description, its topics, each example. Two numbers say how near it is: the
//! similarity of the *best* vector, which finds one skill among many, and that of the *centroid* (the direction of the
//! sum), which is more robust when the vectors say the same in different words. Neither is good at both, and their
//! mean, the [`likeness`], nearly is. Right answers in percent on CLINC150 with the built-in embedder:
//!
//! | capabilities | centroid | best | mean |
//! |---|---|---|---|
//! | 150 of one intent each: its name and 5 examples | 80.0 | 72.8 | 78.7 |
//! | 30 of five unrelated intents each, 2 examples of each | 42.8 | 61.8 | 60.9 |
//! | 15 of ten unrelated intents each, 2 examples of each | 38.8 | 63.2 | 61.5 |
//!
//! With one vector both are the same number.
//!
//! # Finding the best of many
//!
//! Ten thousand capabilities of eight vectors are 20 MB, and to read them takes longer than a decision may take. So the
//! centroids lie side by side, an eighth of that: those with the nearest centroids are found first, and only they are
//! compared vector by vector. How often the best of all by likeness is among the first by centroid, in percent, of 1,800
//! capabilities of eight sentences of CLINC150 each:
//!
//! | the eight sentences of a capability | first 32 | 64 | 128 | 256 |
//! |---|---|---|---|---|
//! | of one intent | 99.6 | 99.8 | 99.9 | 99.9 |
//! | of four intents that have nothing to do with each other | 96.5 | 98.8 | 99.3 | 99.9 |
//! | of eight such intents | 92.6 | 97.2 | 98.7 | 99.7 |

use std::sync::Arc;

use super::texts::texts;
use crate::capability::{Capability, QuantizedVector, VectorSource};
use crate::embedding::Embedder;
use crate::embedding::quantise::{dequantise, dots, quantise, unit_scale};

/// Share of the best vector in the [`likeness`]; the rest is the centroid's. The table above is flat around a half.
const BEST_SHARE: f32 = 0.5;

/// How alike a capability and a query are, given the similarities of its best vector and of its centroid.
#[inline(always)]
pub(super) fn likeness(best: f32, centroid: f32) -> f32 {
    BEST_SHARE * best + (1.0 - BEST_SHARE) * centroid
}

/// A query's unit vector, exact and in bytes.
#[derive(Debug)]
pub(super) struct Query {
    exact: Vec<f32>,
    pub(super) values: Arc<[i8]>,
    /// Makes the bytes a vector of unit length.
    pub(super) scale: f32,
    /// At which the bytes stand for the exact vector.
    step: f32,
    /// What rounding to bytes left of it, in bytes too: with both, a product is off by a hundred-thousandth.
    left: QuantizedVector,
}

impl Query {
    pub(super) fn exact(&self) -> &[f32] {
        &self.exact
    }

    /// `None` when the vector has no direction: the text was empty, or in words that the embedder does not know.
    pub(super) fn new(exact: Vec<f32>) -> Option<Self> {
        let bytes = quantise(&exact, VectorSource::Example);
        if bytes.scale == 0.0 {
            return None;
        }
        let rounded = dequantise(&bytes);
        let left: Vec<f32> = exact.iter().zip(rounded).map(|(exact, rounded)| exact - rounded).collect();
        let left = quantise(&left, VectorSource::Example);
        Some(Self { exact, scale: unit_scale(&bytes.values), step: bytes.scale, values: bytes.values, left })
    }
}

/// The vectors of one capability: rows `start..end`.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
    /// One divided by the length of the sum of the vectors.
    per_length: f32,
}

/// The vectors of one node's capabilities. Immutable.
#[derive(Debug, Default)]
pub(super) struct Block {
    dim: usize,
    /// `dim` bytes a row.
    values: Box<[i8]>,
    /// By row; the components times this have unit length.
    scales: Box<[f32]>,
    /// By row.
    sources: Box<[VectorSource]>,
    /// `dim` bytes a capability: the direction of the sum of its vectors; zeros when they have none.
    centroids: Box<[i8]>,
    /// By capability; 0 for one whose vectors cancel out, not a number for one without vectors.
    centroid_scales: Box<[f32]>,
    /// By capability, in the advert's order.
    spans: Box<[Span]>,
}

impl Block {
    /// Takes vectors of the embedder's space as they came, and embeds the texts of the others.
    pub(super) fn new(capabilities: &[Arc<Capability>], embedder: Option<&dyn Embedder>) -> Self {
        let Some(embedder) = embedder else {
            let none = Span { start: 0, end: 0, per_length: 0.0 };
            let centroid_scales = vec![f32::NAN; capabilities.len()].into();
            return Self { spans: vec![none; capabilities.len()].into(), centroid_scales, ..Self::default() };
        };
        let dim = embedder.dim();
        let (mut values, mut scales, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        let mut spans = Vec::with_capacity(capabilities.len());
        let mut centroids = Vec::with_capacity(capabilities.len() * dim);
        let mut centroid_scales = Vec::with_capacity(capabilities.len());
        for capability in capabilities {
            let start = scales.len() as u32;
            let mut sum = vec![0.0; dim];
            let mut take = |bytes: &[i8], source: VectorSource| {
                // A peer may send any scale, and bytes that `dots` cannot take; what counts is the direction.
                let bytes = bytes.iter().map(|byte| byte.max(&-i8::MAX));
                let start = values.len();
                values.extend(bytes);
                let scale = unit_scale(&values[start..]);
                if scale > 0.0 {
                    sum.iter_mut().zip(&values[start..]).for_each(|(sum, &byte)| *sum += f32::from(byte) * scale);
                    scales.push(scale);
                    sources.push(source);
                } else {
                    values.truncate(start);
                }
            };
            let sent = capability.meaning.as_ref().filter(|meaning| {
                let fits = meaning.vectors.iter().all(|vector| vector.values.len() == dim);
                meaning.space == *embedder.space() && !meaning.vectors.is_empty() && fits
            });
            match sent {
                Some(meaning) => meaning.vectors.iter().for_each(|vector| take(&vector.values, vector.source)),
                None => {
                    for (source, text) in texts(capability) {
                        take(&quantise(&embedder.embed(&text), source).values, source);
                    }
                }
            }
            let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
            // Vectors that cancel out have no common direction.
            let per_length = if length > 1e-3 { length.recip() } else { 0.0 };
            spans.push(Span { start, end: scales.len() as u32, per_length });
            let centroid = quantise(&sum, VectorSource::Description);
            centroid_scales.push(match scales.len() as u32 - start {
                0 => f32::NAN,
                _ if per_length > 0.0 => unit_scale(&centroid.values),
                _ => 0.0,
            });
            centroids.extend_from_slice(&centroid.values);
        }
        Self {
            dim,
            values: values.into(),
            scales: scales.into(),
            sources: sources.into(),
            centroids: centroids.into(),
            centroid_scales: centroid_scales.into(),
            spans: spans.into(),
        }
    }

    /// Number of capabilities.
    pub(super) fn capabilities(&self) -> usize {
        self.spans.len()
    }

    /// The centroid of a capability and its scale; nothing when it has none.
    pub(super) fn centroid(&self, capability: usize) -> Option<(&[i8], f32)> {
        let scale = self.centroid_scales.get(capability).copied().filter(|scale| *scale > 0.0)?;
        let values = self.centroids.get(capability * self.dim..(capability + 1) * self.dim)?;
        Some((values, scale))
    }

    /// Gives the similarities in bytes of the query and the centroids, some capabilities at a time, with the first one's
    /// place. Vectors that cancel out are as near to anything as their centroid, which is 0; a capability without vectors has
    /// what is not a number, and compares as less than anything.
    #[inline]
    pub(super) fn scan(&self, query: &Query, mut take: impl FnMut(usize, &[f32])) {
        /// Capabilities whose products are made in one go.
        const AT_ONCE: usize = 64;
        if query.values.len() != self.dim || self.dim == 0 {
            return;
        }
        let (mut products, mut similarities) = ([0; AT_ONCE], [0.0; AT_ONCE]);
        let rows = self.centroids.chunks(AT_ONCE * self.dim).zip(self.centroid_scales.chunks(AT_ONCE));
        for (at, (centroids, scales)) in rows.enumerate() {
            let (products, similarities) = (&mut products[..scales.len()], &mut similarities[..scales.len()]);
            dots(&query.values, centroids, products);
            for ((similarity, product), scale) in similarities.iter_mut().zip(&*products).zip(scales) {
                *similarity = *product as f32 * scale * query.scale;
            }
            take(at * AT_ONCE, similarities);
        }
    }

    /// The likeness of a capability in bytes. `products` is room to work in.
    pub(super) fn likeness(&self, query: &Query, capability: usize, products: &mut Vec<i32>) -> Option<f32> {
        let span = self.spans.get(capability).filter(|span| span.start < span.end)?;
        if query.values.len() != self.dim {
            return None;
        }
        let rows = span.start as usize..span.end as usize;
        products.resize(rows.len(), 0);
        dots(&query.values, &self.values[rows.start * self.dim..rows.end * self.dim], products);
        let (mut best, mut sum) = (-1.0_f32, 0.0_f32);
        for (&product, scale) in products.iter().zip(&self.scales[rows]) {
            let similarity = product as f32 * scale;
            best = best.max(similarity * query.scale);
            sum += similarity;
        }
        Some(likeness(best, sum * query.scale * span.per_length))
    }

    /// The exact likeness of a capability, and its nearest text. `products` is room to work in.
    pub(super) fn judge(
        &self,
        query: &Query,
        capability: usize,
        products: &mut Vec<i32>,
    ) -> Option<(f32, VectorSource)> {
        let span = self.spans.get(capability).filter(|span| span.start < span.end && query.exact.len() == self.dim)?;
        let rows = span.start as usize..span.end as usize;
        products.resize(2 * rows.len(), 0);
        let (rounded, left) = products.split_at_mut(rows.len());
        let values = &self.values[rows.start * self.dim..rows.end * self.dim];
        dots(&query.values, values, rounded);
        dots(&query.left.values, values, left);
        let (mut best, mut sum) = ((f32::MIN, VectorSource::Description), 0.0_f32);
        for ((row, &rounded), &left) in rows.zip(&*rounded).zip(&*left) {
            let product = rounded as f32 * query.step + left as f32 * query.left.scale;
            let similarity = product * self.scales[row];
            if similarity > best.0 {
                best = (similarity, self.sources[row]);
            }
            sum += similarity;
        }
        Some((likeness(best.0, sum * span.per_length).clamp(-1.0, 1.0), best.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{Kind, Meaning, QuantizedVector};
    use crate::embedding::StaticEmbedder;

    fn capability(vectors: &[(&[i8], VectorSource)], space: &str) -> Arc<Capability> {
        let mut capability = Capability::new("p", Kind::LLM_CHAT, "m");
        let vectors = vectors.iter();
        let vectors = vectors.map(|&(values, source)| QuantizedVector { source, values: values.into(), scale: 7.0 });
        capability.meaning = Some(Meaning { space: space.into(), vectors: vectors.collect(), simhash: [0; 32] });
        Arc::new(capability)
    }

    /// Two dimensions: towards x and towards y.
    struct Flat(Arc<str>);

    impl Embedder for Flat {
        fn space(&self) -> &Arc<str> {
            &self.0
        }
        fn dim(&self) -> usize {
            2
        }
        fn embed(&self, _: &str) -> Vec<f32> {
            vec![0.0, 1.0]
        }
    }

    fn scanned_by(block: &Block, query: &Query) -> Vec<f32> {
        let mut near = Vec::new();
        block.scan(query, |first, similarities| {
            assert_eq!(first, near.len(), "in order");
            near.extend_from_slice(similarities);
        });
        near
    }

    #[test]
    fn likeness_is_the_mean_of_best_and_centroid_whatever_scale_was_sent() {
        use VectorSource::{Description, Example};
        let embedder = Flat("flat".into());
        let block =
            Block::new(&[capability(&[(&[100, 0], Description), (&[0, 50], Example)], "flat")], Some(&embedder));
        let query = Query::new(vec![0.0, 1.0]).expect("a direction");
        let expected = 0.5 * 1.0 + 0.5 * std::f32::consts::FRAC_1_SQRT_2;
        let (exact, source) = block.judge(&query, 0, &mut Vec::new()).expect("a capability");
        assert!((exact - expected).abs() < 1e-4 && source == Example, "{exact}");
        let scanned = block.likeness(&query, 0, &mut Vec::new()).expect("a capability");
        assert!((scanned - expected).abs() < 0.01, "{scanned}");
        let near = scanned_by(&block, &query);
        assert!(near.len() == 1 && (near[0] - std::f32::consts::FRAC_1_SQRT_2).abs() < 0.01, "{near:?}");
    }

    #[test]
    fn vectors_that_do_not_fit_are_made_again_from_the_texts() {
        let embedder = Flat("flat".into());
        let other = (&[1_i8, 2, 3][..], VectorSource::Description);
        let away = (&[100_i8, 0][..], VectorSource::Description);
        for (vectors, space) in [(vec![away], "other"), (vec![other], "flat"), (vec![], "flat")] {
            let block = Block::new(&[capability(&vectors, space)], Some(&embedder));
            let query = Query::new(vec![0.0, 1.0]).expect("a direction");
            let (likeness, _) = block.judge(&query, 0, &mut Vec::new()).expect("a capability");
            assert!((likeness - 1.0).abs() < 1e-4, "{space}: {likeness}");
        }
    }

    #[test]
    fn zero_vectors_and_zero_queries_match_nothing() {
        let embedder = Flat("flat".into());
        let block = Block::new(&[capability(&[(&[0, 0], VectorSource::Topics)], "flat")], Some(&embedder));
        let query = Query::new(vec![0.0, 1.0]).expect("a direction");
        assert_eq!(block.judge(&query, 0, &mut Vec::new()), None);
        assert!(Query::new(vec![0.0; 2]).is_none());
        assert_eq!(Block::new(&[capability(&[], "x")], None).judge(&query, 0, &mut Vec::new()), None);
    }

    #[test]
    fn every_capability_is_scanned_and_one_without_vectors_is_like_nothing() {
        use VectorSource::{Example, Topics};
        let embedder = Flat("flat".into());
        let some = [
            capability(&[(&[100, 0], Example), (&[100, 100], Example)], "flat"),
            capability(&[(&[0, 0], Topics)], "flat"),
            capability(&[(&[-128, -128], Example)], "flat"),
            capability(&[(&[0, 9], Example), (&[7, 9], Topics), (&[-3, 9], Example)], "flat"),
        ];
        let all: Vec<_> = some.iter().cycle().take(150).cloned().collect();
        let block = Block::new(&all, Some(&embedder));
        let query = Query::new(vec![0.6, 0.8]).expect("a direction");
        let scanned = scanned_by(&block, &query);
        assert_eq!(scanned.len(), all.len());
        for (capability, similarity) in scanned.into_iter().enumerate() {
            assert_eq!(similarity.is_nan(), capability % some.len() == 1, "{capability}: {similarity}");
            let Some((values, scale)) = block.centroid(capability) else { continue };
            let product = f32::from(values[0]) * query.exact[0] + f32::from(values[1]) * query.exact[1];
            assert!((similarity - product * scale).abs() < 0.01, "{capability}: {similarity}");
            let (exact, _) = block.judge(&query, capability, &mut Vec::new()).expect("vectors");
            let bytes = block.likeness(&query, capability, &mut Vec::new()).expect("vectors");
            assert!((bytes - exact).abs() < 0.01, "{capability}: {bytes} {exact}");
        }
    }

    #[test]
    fn bytes_and_floats_agree() {
        let embedder = StaticEmbedder::builtin();
        let mut capability = Capability::new("p", Kind::LLM_CHAT, "m");
        capability.description = "Answers questions on the care of llamas and alpacas.".into();
        capability.examples = vec!["What do llamas eat?".into(), "How often are alpacas shorn?".into()];
        let block = Block::new(&[Arc::new(capability)], Some(&embedder));
        let query = Query::new(embedder.embed("How do I care for my llama?")).expect("a direction");
        let (exact, _) = block.judge(&query, 0, &mut Vec::new()).expect("a capability");
        let bytes = block.likeness(&query, 0, &mut Vec::new()).expect("a capability");
        assert!((bytes - exact).abs() < 0.01, "{bytes} {exact}");
        assert!(block.capabilities() == 1 && block.centroid(0).is_some() && block.centroid(1).is_none());
    }
}
