//! Matching by words, where there are no vectors to compare.
//!
//! For a node without an embedder, and for a query in words that the embedder does not know. The score of a
//! capability is the share of the query's keywords that its texts have, each weighed by how rare it is among the
//! capabilities that are looked at, plus a little of the SimHash similarity, which also sees pairs and pieces of
//! words. A capability that shares no keyword and hardly a bit is no hit.

use std::sync::Arc;

use super::describe::words_of;
use super::entry::{EntryId, Hit};
use super::index::better;
use super::texts::{subject, texts};
use crate::capability::{Capability, VectorSource};
use crate::embedding::simhash::{SimHash, simhash, similarity};
use crate::embedding::words::keywords;

/// Share of the keywords in the score; the rest is the SimHash's.
const KEYWORD_SHARE: f32 = 0.75;

/// Keywords of a query that are looked at: bits of a mask.
const QUERY_KEYWORDS: usize = u64::BITS as usize;

/// Different keywords of a capability that are kept: 1 KB at most.
const KEYWORDS: usize = 256;

/// SimHashes of unrelated texts differ in about half of their 256 bits, give or take 8 (one standard deviation), a
/// similarity of 0.1. Three of those are no accident.
const CHANCE: f32 = 0.3;

/// The words of one node's capabilities. Immutable.
#[derive(Debug, Default)]
pub(super) struct Lexicon(Box<[Words]>);

#[derive(Debug)]
struct Words {
    /// Sorted.
    keywords: Box<[u32]>,
    simhash: SimHash,
    subject: u64,
}

impl Lexicon {
    /// The words of each capability's texts and name, with the SimHash that came with it if one did.
    pub(super) fn new(capabilities: &[Arc<Capability>]) -> Self {
        let words = capabilities.iter().map(|capability| {
            let texts = texts(capability);
            let texts = texts.iter().map(|(_, text)| text.as_str()).chain([capability.name.as_str()]);
            let mut keywords: Vec<u32> = texts.flat_map(keywords).take(KEYWORDS).collect();
            keywords.sort_unstable();
            keywords.dedup();
            let sent = capability.meaning.as_ref().map(|meaning| meaning.simhash);
            let simhash = sent.unwrap_or_else(|| words_of(capability));
            Words { keywords: keywords.into(), simhash, subject: subject(capability) }
        });
        Self(words.collect())
    }

    /// Equal for capabilities with the same texts.
    pub(super) fn subject(&self, capability: usize) -> u64 {
        self.0.get(capability).map_or(0, |words| words.subject)
    }
}

/// The `count` kept capabilities that share most with the query, best first. `kept` is by place in the snapshot, whose
/// order the lexicons follow.
pub(super) fn search<'a>(
    lexicons: impl Iterator<Item = &'a Lexicon>,
    query: &str,
    count: usize,
    kept: impl Fn(usize) -> bool,
) -> Vec<Hit> {
    let mut wanted = keywords(query);
    wanted.sort_unstable();
    wanted.dedup();
    wanted.truncate(QUERY_KEYWORDS);
    let bits = simhash([query]);

    let words = lexicons.flat_map(|lexicon| &lexicon.0).enumerate().filter(|(at, _)| kept(*at));
    let mut frequency = vec![0_u32; wanted.len()];
    let mut rows: Vec<(EntryId, u64, f32)> = Vec::new();
    for (at, words) in words {
        let mut mask = 0_u64;
        for (bit, keyword) in wanted.iter().enumerate() {
            if words.keywords.binary_search(keyword).is_ok() {
                mask |= 1 << bit;
                frequency[bit] += 1;
            }
        }
        rows.push((EntryId(at as u32), mask, similarity(&bits, &words.simhash)));
    }
    let rarity: Vec<f32> = frequency.iter().map(|&n| (1.0 + rows.len() as f32 / (1 + n) as f32).ln()).collect();
    let all: f32 = rarity.iter().sum();
    let score = |(entry, mask, alike): (EntryId, u64, f32)| {
        let shared: f32 =
            rarity.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, rarity)| rarity).sum();
        let share = if all > 0.0 { shared / all } else { 0.0 };
        let hit = mask != 0 || alike > CHANCE;
        hit.then(|| (KEYWORD_SHARE * share + (1.0 - KEYWORD_SHARE) * alike.max(0.0), entry))
    };
    let mut scored: Vec<(f32, EntryId)> = rows.into_iter().filter_map(score).collect();
    scored.sort_unstable_by(better);
    scored.truncate(count);
    let hit = |(similarity, entry)| Hit { entry, similarity, source: VectorSource::Description };
    scored.into_iter().map(hit).collect()
}
