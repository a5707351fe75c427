//! Who has read what before: prefixes of requests, and the nodes that have them in their caches.
//!
//! Backends keep what they have read of the last prompts (llama.cpp by slot, vLLM and SGLang by block), so that a
//! conversation's next turn, or another question under the same system prompt, costs only what is new. A request is a
//! chain of [`Mark`]s, one at the end of each message; what was served is remembered by its first mark and its last two,
//! which is where later requests meet it: the system prompt, what was asked before, and this very request. The
//! score counts the tokens that a candidate need not read again as time saved, so affinity weighs what it is worth, and
//! yields to a queue.
//!
//! The table is bounded: two generations, of which the older goes when the younger is full.

use std::time::{Duration, Instant};

use foldhash::HashMap;
use parking_lot::Mutex;

use crate::capability::{CapabilityId, Mark, PeerId};

/// Marks of a generation: a thousand conversations and more, at some 150 bytes each.
const GENERATION: usize = 4096;
/// Nodes that are remembered for a mark: a system prompt is warm in many places, and the last ones matter.
const HOLDERS: usize = 4;
/// A cache forgets: by then others have used the slot, or the model was dropped.
const STAYS: Duration = Duration::from_secs(600);
/// Marks of a request that are looked up, from its end: a conversation's last turns, and its beginning anyway.
const LOOKED_UP: usize = 16;
/// Fewer tokens are not worth a thought.
const LEAST_TOKENS: u32 = 16;

/// Who has read what before.
#[derive(Debug, Default)]
pub(super) struct Affinity(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Holders>,
    old: HashMap<u64, Holders>,
}

#[derive(Debug, Clone, Default)]
struct Holders(Vec<(PeerId, CapabilityId, Instant)>);

/// What of one request is warm, and where.
#[derive(Debug, Default)]
pub(super) struct Warm(Vec<(PeerId, CapabilityId, u32)>);

impl Warm {
    /// Tokens of the request that this capability of this node has read before.
    pub(super) fn tokens(&self, node: &PeerId, capability: &CapabilityId) -> u32 {
        let found = self.0.iter().find(|(holder, id, _)| holder == node && id == capability);
        found.map_or(0, |(_, _, tokens)| *tokens)
    }
}

impl Affinity {
    /// This request is served there.
    pub(super) fn remember(&self, prefix: &[Mark], node: PeerId, capability: &CapabilityId, now: Instant) {
        let ends = prefix.len();
        let mut state = self.0.lock();
        for place in [Some(0), ends.checked_sub(2), ends.checked_sub(1)].into_iter().flatten() {
            let Some(mark) = prefix.get(place).filter(|mark| mark.tokens >= LEAST_TOKENS) else { continue };
            if state.young.len() >= GENERATION {
                state.old = std::mem::take(&mut state.young);
            }
            let known = state.old.get(&mark.hash).cloned();
            let holders = state.young.entry(mark.hash).or_insert_with(|| known.unwrap_or_default());
            holders.0.retain(|(holder, id, _)| *holder != node || id != capability);
            if holders.0.len() >= HOLDERS {
                holders.0.remove(0);
            }
            holders.0.push((node, capability.clone(), now));
        }
    }

    /// What of a request is warm, and where.
    pub(super) fn warm(&self, prefix: &[Mark], now: Instant) -> Warm {
        let mut warm = Warm::default();
        if prefix.is_empty() {
            return warm;
        }
        let state = self.0.lock();
        if state.young.is_empty() && state.old.is_empty() {
            return warm;
        }
        let tail = &prefix[prefix.len().saturating_sub(LOOKED_UP)..];
        let head = if tail.len() < prefix.len() { &prefix[..1] } else { &[] };
        // The longest first: what a node has of it, it has all of.
        for mark in tail.iter().rev().chain(head) {
            let generations = [&state.young, &state.old];
            for (node, capability, at) in
                generations.iter().filter_map(|known| known.get(&mark.hash)).flat_map(|it| &it.0)
            {
                if now.saturating_duration_since(*at) < STAYS && warm.tokens(node, capability) == 0 {
                    warm.0.push((*node, capability.clone(), mark.tokens));
                }
            }
        }
        warm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(words: &[u64]) -> Vec<Mark> {
        let mut hash = 0u64;
        let mark = |(place, word): (usize, &u64)| {
            hash = hash.wrapping_mul(31).wrapping_add(*word + 1);
            Mark { hash, tokens: (place as u32 + 1) * 100 }
        };
        words.iter().enumerate().map(mark).collect()
    }

    #[test]
    fn a_conversation_and_a_system_prompt_are_found_where_they_were_read() {
        let (affinity, now) = (Affinity::default(), Instant::now());
        let (a, b, id) = (PeerId::random(), PeerId::random(), CapabilityId::from("m"));
        affinity.remember(&chain(&[1, 2]), a, &id, now);
        affinity.remember(&chain(&[1, 7]), b, &id, now);
        let tokens = |words: &[u64], node: &PeerId| affinity.warm(&chain(words), now).tokens(node, &id);
        // The next turn: all of the turn before.
        assert_eq!((tokens(&[1, 2, 3, 4], &a), tokens(&[1, 2, 3, 4], &b)), (200, 100));
        // Another question under the same system prompt; the very same again; something else.
        assert_eq!((tokens(&[1, 9], &a), tokens(&[1, 2], &a), tokens(&[5, 2], &a)), (100, 200, 0));
        assert_eq!(affinity.warm(&chain(&[1, 2]), now).tokens(&a, &CapabilityId::from("other")), 0);
        let later = affinity.warm(&chain(&[1, 2]), now + STAYS);
        assert_eq!(later.tokens(&a, &id), 0, "a cache forgets");
    }

    #[test]
    fn the_table_is_bounded_and_what_is_used_stays() {
        let (affinity, now) = (Affinity::default(), Instant::now());
        let (node, id) = (PeerId::random(), CapabilityId::from("m"));
        for turn in 0..GENERATION as u64 * 4 {
            affinity.remember(&chain(&[turn + 10, 1]), node, &id, now);
            if turn % 1000 == 0 {
                affinity.remember(&chain(&[1, 2]), node, &id, now);
            }
        }
        let state = affinity.0.lock();
        assert!(state.young.len() <= GENERATION && state.old.len() <= GENERATION);
        drop(state);
        assert_eq!(affinity.warm(&chain(&[1, 2, 3]), now).tokens(&node, &id), 200);
        for _ in 0..HOLDERS * 3 {
            affinity.remember(&chain(&[1, 2]), PeerId::random(), &id, now);
        }
        assert!(affinity.0.lock().young.values().all(|holders| holders.0.len() <= HOLDERS));
    }
}
