//! The words of a text that say what it is about.
//!
//! For comparing texts without an embedder: lower case, without the words that every text has, crudely stemmed,
//! and hashed in a way that is the same on every node and in every version. Scripts that do not separate words
//! (Han, kana, hangul, Thai) give pairs of characters.

/// Words that are in every question and say nothing of its subject.
const STOP: &[&str] = &[
    "a", "about", "all", "am", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did",
    "do", "does", "for", "from", "get", "give", "had", "has", "have", "he", "her", "here", "him", "his", "how", "i",
    "if", "in", "into", "is", "it", "its", "just", "let", "like", "make", "may", "me", "more", "much", "my", "need",
    "no", "not", "of", "on", "one", "or", "our", "out", "please", "she", "should", "so", "some", "such", "tell",
    "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "too", "up", "us",
    "use", "very", "want", "was", "we", "were", "what", "when", "where", "which", "who", "whom", "why", "will", "with",
    "would", "you", "your",
];

/// Bytes of a text that are looked at: what the longest description may have.
const BYTES: usize = 4096;

/// Runs of letters and digits, in lower case; characters of scripts without spaces one by one.
pub(super) fn runs(text: &str) -> Vec<String> {
    let text = &text[..text.floor_char_boundary(BYTES)];
    let mut runs = Vec::new();
    let mut run = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        if is_dense(c) {
            if !run.is_empty() {
                runs.push(std::mem::take(&mut run));
            }
            runs.push(c.to_string());
        } else if c.is_alphanumeric() {
            run.push(c);
        } else if !run.is_empty() {
            runs.push(std::mem::take(&mut run));
        }
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

/// Hashes of the words of a text that say what it is about, in order of appearance, with repetitions.
#[must_use]
pub fn keywords(text: &str) -> Vec<u32> {
    let runs = runs(text);
    let mut hashes = Vec::with_capacity(runs.len());
    for (at, run) in runs.iter().enumerate() {
        if run.starts_with(is_dense) {
            match runs.get(at + 1).filter(|next| next.starts_with(is_dense)) {
                Some(next) => hashes.push(hash(&[run.as_bytes(), next.as_bytes()].concat()) as u32),
                None if at == 0 || !runs[at - 1].starts_with(is_dense) => hashes.push(hash(run.as_bytes()) as u32),
                None => {}
            }
        } else if STOP.binary_search(&run.as_str()).is_err() && run.len() > 1 {
            hashes.push(hash(stem(run).as_bytes()) as u32);
        }
    }
    hashes
}

/// Whether every text has this word.
pub(super) fn is_stop(word: &str) -> bool {
    STOP.binary_search(&word).is_ok()
}

/// Letters that must be left of a word: with fewer, unrelated words become one.
const STEM_CHARS: usize = 3;

/// The word without its commonest English endings. Wrong for many words, and the same for both sides.
fn stem(word: &str) -> &str {
    for ending in ["ings", "ing", "ers", "er", "ies", "ed", "es", "s"] {
        if let Some(stem) = word.strip_suffix(ending)
            && stem.chars().count() >= STEM_CHARS
        {
            return stem;
        }
    }
    word.strip_suffix('e').filter(|stem| stem.chars().count() >= STEM_CHARS).unwrap_or(word)
}

/// Scripts that do not put spaces between words.
fn is_dense(c: char) -> bool {
    matches!(u32::from(c), 0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x3400..=0x9FFF
        | 0xAC00..=0xD7AF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

/// FNV-1a, then mixed so that every bit counts. The same on every node: it is part of the wire contract.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    mix(bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)))
}

/// The finaliser of SplitMix64.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_words_are_in_order() {
        assert!(STOP.is_sorted());
    }

    #[test]
    fn what_a_question_is_about_is_what_is_left() {
        assert_eq!(keywords("How do I care for my llamas?"), keywords("the care of a llama"));
        assert!(keywords("How do I?").is_empty());
        assert_eq!(keywords("Running"), keywords("running"));
        assert_eq!(keywords("coded coding codes"), [keywords("coding")[0]; 3]);
    }

    #[test]
    fn scripts_without_spaces_give_pairs() {
        assert_eq!(keywords("羊驼护理").len(), 3);
        assert_eq!(keywords("羊驼")[0], keywords("我的羊驼")[2]);
        assert_eq!(keywords("羊").len(), 1);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let text = "é".repeat(BYTES);
        assert_eq!(runs(&text)[0].len(), BYTES);
    }
}
