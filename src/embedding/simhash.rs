//! A text in 256 bits that are alike when the texts share words.
//!
//! Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002: each feature of the text votes
//! on each bit, by a hash of the feature, with the feature's weight. Two texts differ in a bit with a probability
//! that is their angle divided by pi, so the share of differing bits estimates the cosine.
//!
//! The features are words, pairs of neighbouring words and the four-letter pieces of words (so that `llama` and
//! `llamas` are alike). No table and no training: every node computes the same bits, in every version.

use super::words::{hash, is_stop, mix, runs};

/// Bits that say which words a text has.
pub type SimHash = [u8; 32];

const BITS: usize = 256;

/// A word tells most.
const WORD: f32 = 1.0;

/// Two words in a row tell less: few texts share them.
const PAIR: f32 = 0.5;

/// A word has several pieces; together they weigh about as much as the word.
const PIECE: f32 = 0.25;

/// A word that every text has.
const STOP: f32 = 0.1;

/// Letters in a piece of a word: shorter ones are common to unrelated words.
const PIECE_CHARS: usize = 4;

/// The bits of several texts taken together. Texts without words give zero bits.
#[must_use]
pub fn simhash<'a>(texts: impl IntoIterator<Item = &'a str>) -> SimHash {
    let mut votes = [0.0_f32; BITS];
    for text in texts {
        features(text, |feature, weight| vote(&mut votes, feature, weight));
    }
    let mut bits = SimHash::default();
    for (at, vote) in votes.iter().enumerate() {
        if *vote > 0.0 {
            bits[at / 8] |= 1 << (at % 8);
        }
    }
    bits
}

/// Estimate of the cosine of the texts' features, -1 to 1. Zero when one of them has no words.
#[must_use]
pub fn similarity(a: &SimHash, b: &SimHash) -> f32 {
    if *a == SimHash::default() || *b == SimHash::default() {
        return 0.0;
    }
    let apart: u32 = a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum();
    (std::f32::consts::PI * apart as f32 / BITS as f32).cos()
}

fn features(text: &str, mut take: impl FnMut(u64, f32)) {
    let runs = runs(text);
    for run in &runs {
        take(hash(run.as_bytes()), if is_stop(run) { STOP } else { WORD });
        let chars: Vec<char> = run.chars().collect();
        for piece in chars.windows(PIECE_CHARS) {
            let piece: String = piece.iter().collect();
            // Marked, so that the piece `rust` is not the word.
            take(hash(format!("#{piece}").as_bytes()), PIECE);
        }
    }
    for pair in runs.windows(2) {
        let weight = if is_stop(&pair[0]) || is_stop(&pair[1]) { STOP } else { PAIR };
        take(hash(format!("{} {}", pair[0], pair[1]).as_bytes()), weight);
    }
}

fn vote(votes: &mut [f32; BITS], feature: u64, weight: f32) {
    for (word, votes) in votes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        // Four independent words of bits from one hash: steps of SplitMix64.
        let bits = mix(feature.wrapping_add((word as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        for (bit, vote) in votes.iter_mut().enumerate() {
            *vote += if bits >> bit & 1 == 1 { weight } else { -weight };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn alike(a: &str, b: &str) -> f32 {
        similarity(&simhash([a]), &simhash([b]))
    }

    #[test]
    fn the_more_words_are_shared_the_more_bits_are() {
        let text = "how to care for a llama in winter";
        assert_eq!(alike(text, text), 1.0);
        let (close, far) = (alike(text, "caring for llamas in the winter"), alike(text, "quicksort written in Rust"));
        assert!(close > 0.3 && close > far + 0.2, "{close} {far}");
        assert_eq!(alike(text, ""), 0.0);
        assert_eq!(simhash(["?!"]), SimHash::default());
    }

    #[test]
    fn the_bits_are_part_of_the_contract() {
        let hex: String = simhash(["How do I care for my llama?"]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "bd7bb15b74f599ba7dea655d619a9ffb5a1421db19f5bb3dda0143f3988ee837");
    }

    proptest! {
        #[test]
        fn similarity_falls_as_words_are_replaced(seed in 0_u32..1000) {
            let words: Vec<String> = (0..40).map(|n| format!("word{}x{}", seed, n * 7919 % 97)).collect();
            let other: Vec<String> = (0..40).map(|n| format!("other{}y{}", seed, n * 6131 % 89)).collect();
            let mixed = |kept: usize| [&words[..kept], &other[kept..]].concat().join(" ");
            let whole = words.join(" ");
            let (much, some, none) = (alike(&whole, &mixed(36)), alike(&whole, &mixed(20)), alike(&whole, &mixed(0)));
            prop_assert!(much > some && some > none, "{} {} {}", much, some, none);
        }
    }
}
