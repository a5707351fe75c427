//! Text becomes the token ids of BERT's uncased WordPiece.
//!
//! The same ids as Hugging Face's `BertNormalizer`, `BertPreTokenizer` and `WordPiece` give, except that the
//! literal texts `[PAD]` and `[UNK]` in a prompt are text here, not control tokens. Words that cannot be built
//! from the vocabulary give no id at all, as static embeddings drop the unknown token.

use std::fmt;

use icu_normalizer::{DecomposingNormalizer, DecomposingNormalizerBorrowed};
use icu_properties::props::{EnumeratedProperty, GeneralCategory, GeneralCategoryGroup};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// Longest word that is looked up, in characters; BERT's `max_input_chars_per_word`.
const WORD_CHARS: usize = 100;

/// What a continuing piece begins with in the vocabulary.
const CONTINUATION: &str = "##";

/// Ids of `[PAD]` and `[UNK]`, which no text may produce.
const CONTROL_IDS: u32 = 2;

/// The vocabulary as a table with open addressing: 130 KB of slots beside the text of the pieces, where a
/// `HashMap<String, u32>` takes 3 MB.
pub(super) struct WordPiece {
    /// Id of the piece whose hash leads here; 0 when free.
    slots: Box<[u16]>,
    /// Where the text of each piece ends in `text`; it begins where the one before ends.
    ends: Box<[u32]>,
    /// Whether the piece continues a word.
    continues: Box<[bool]>,
    /// The pieces, without `##`, one after the other.
    text: String,
    /// Bytes of the longest piece.
    longest: usize,
    /// Median length of a piece in bytes, `##` counted.
    median: usize,
}

impl fmt::Debug for WordPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WordPiece").field("pieces", &self.ends.len()).finish_non_exhaustive()
    }
}

/// The one part of `tokenizer.json` that differs between uncased BERT tokenizers.
#[derive(Deserialize)]
struct TokenizerFile {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocabulary,
}

/// The pieces in order of id.
struct Vocabulary(Vec<String>);

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pieces;
        impl<'de> Visitor<'de> for Pieces {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of pieces to ids that count up from 0")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut pieces = Vec::with_capacity(usize::from(u16::MAX) / 2);
                while let Some((piece, id)) = map.next_entry::<String, usize>()? {
                    if id != pieces.len() || id >= usize::from(u16::MAX) {
                        return Err(serde::de::Error::custom(format!("id {id} where {} was expected", pieces.len())));
                    }
                    pieces.push(piece);
                }
                Ok(Vocabulary(pieces))
            }
        }
        deserializer.deserialize_map(Pieces)
    }
}

impl WordPiece {
    /// Reads the vocabulary of a `tokenizer.json` whose ids are in order and below 65,535.
    pub(super) fn read(tokenizer: &[u8]) -> Result<Self, serde_json::Error> {
        let file: TokenizerFile = serde_json::from_slice(tokenizer)?;
        let pieces = file.model.vocab.0;
        let mut lengths: Vec<usize> = pieces.iter().map(String::len).collect();
        lengths.sort_unstable();
        let mut this = Self {
            // At most half full, so that a search ends after a step or two.
            slots: vec![0; (pieces.len() * 2).next_power_of_two()].into(),
            ends: Box::default(),
            continues: Box::default(),
            text: String::new(),
            longest: 0,
            median: lengths.get(lengths.len() / 2).copied().unwrap_or(1),
        };
        let (mut ends, mut continues) = (Vec::with_capacity(pieces.len()), Vec::with_capacity(pieces.len()));
        for (id, piece) in pieces.iter().enumerate() {
            let (rest, continuing) =
                piece.strip_prefix(CONTINUATION).map_or((piece.as_str(), false), |rest| (rest, true));
            this.text.push_str(rest);
            ends.push(this.text.len() as u32);
            continues.push(continuing);
            if id < CONTROL_IDS as usize || rest.is_empty() {
                continue;
            }
            this.longest = this.longest.max(rest.len());
            let mut hash = Hash::start(continuing);
            rest.bytes().for_each(|byte| hash.add(byte));
            let mut slot = this.slot(hash);
            while this.slots[slot] != 0 {
                slot = (slot + 1) & (this.slots.len() - 1);
            }
            this.slots[slot] = id as u16;
        }
        this.text.shrink_to_fit();
        this.ends = ends.into();
        this.continues = continues.into();
        Ok(this)
    }

    /// Number of pieces.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Median length of a piece in bytes, by which model2vec estimates where a long text can be cut.
    pub(super) fn median(&self) -> usize {
        self.median
    }

    /// Gives the ids of the known pieces of a text in order, until `take` returns `false`.
    pub(super) fn pieces(&self, text: &str, mut take: impl FnMut(Option<u32>) -> bool) {
        let mut normal = String::with_capacity(text.len() + 16);
        normalise(text, &mut normal);
        let mut ids = Vec::with_capacity(8);
        split(&normal, |word| {
            ids.clear();
            self.word(word, &mut ids);
            // One unknown token stands for the whole word, and counts against the bound on tokens.
            if ids.is_empty() { take(None) } else { ids.iter().all(|&id| take(Some(u32::from(id)))) }
        });
    }

    /// Longest match first. Nothing when a part of the word is in no piece.
    fn word(&self, word: &str, ids: &mut Vec<u16>) {
        if word.len() > WORD_CHARS && word.chars().count() > WORD_CHARS {
            return;
        }
        let mut rest = word.as_bytes();
        while !rest.is_empty() {
            let Some((id, length)) = self.longest_piece(rest, rest.len() < word.len()) else {
                ids.clear();
                return;
            };
            ids.push(id);
            rest = &rest[length..];
        }
    }

    /// The longest piece that `bytes` begin with, and its length.
    fn longest_piece(&self, bytes: &[u8], continuing: bool) -> Option<(u16, usize)> {
        /// More than the longest piece of any BERT vocabulary.
        const MOST: usize = 32;
        let most = bytes.len().min(self.longest).min(MOST);
        let mut hashes = [Hash(0); MOST];
        let mut hash = Hash::start(continuing);
        for (at, &byte) in bytes[..most].iter().enumerate() {
            hash.add(byte);
            hashes[at] = hash;
        }
        (1..=most).rev().find_map(|length| Some((self.find(hashes[length - 1], &bytes[..length], continuing)?, length)))
    }

    fn find(&self, hash: Hash, piece: &[u8], continuing: bool) -> Option<u16> {
        let mut slot = self.slot(hash);
        loop {
            let id = self.slots[slot];
            if id == 0 {
                return None;
            }
            let at = usize::from(id);
            let (from, to) = (self.ends[at - 1] as usize, self.ends[at] as usize);
            if self.continues[at] == continuing && &self.text.as_bytes()[from..to] == piece {
                return Some(id);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    fn slot(&self, hash: Hash) -> usize {
        // The high half is mixed better than the low one.
        (hash.0 >> 32) as usize & (self.slots.len() - 1)
    }
}

/// FNV-1a, which gives the hashes of all beginnings of a word in one pass over it.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    fn start(continuing: bool) -> Self {
        Self(0xcbf2_9ce4_8422_2325 ^ u64::from(continuing))
    }

    fn add(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

/// BERT's cleaning: control characters fall away, white space becomes a space, Han characters stand alone,
/// accents and case are dropped.
fn normalise(text: &str, into: &mut String) {
    if text.is_ascii() {
        into.extend(text.bytes().filter_map(|byte| match byte {
            b'\t' | b'\n' | b'\r' => Some(' '),
            0..=0x1f | 0x7f => None,
            _ => Some(char::from(byte.to_ascii_lowercase())),
        }));
        return;
    }
    const NFD: DecomposingNormalizerBorrowed<'static> = DecomposingNormalizer::new_nfd();
    let cleaned = text.chars().flat_map(|c| {
        let kept = match c {
            '\t' | '\n' | '\r' => Some(' '),
            '\0' | '\u{fffd}' => None,
            c if is_control(c) => None,
            c if c.is_whitespace() => Some(' '),
            c => Some(c),
        };
        let apart = kept.filter(|&c| is_han(c)).map(|_| ' ');
        [apart, kept, apart].into_iter().flatten()
    });
    for c in NFD.normalize_iter(cleaned) {
        if c.is_ascii() {
            into.push(c.to_ascii_lowercase());
        } else if GeneralCategory::for_char(c) != GeneralCategory::NonspacingMark {
            into.extend(c.to_lowercase());
        }
    }
}

/// BERT's pre-tokenisation: white space separates, punctuation stands alone. Ends when `word` returns `false`.
fn split(text: &str, mut word: impl FnMut(&str) -> bool) {
    let mut start = None;
    for (at, c) in text.char_indices() {
        let (space, alone) = (c.is_whitespace(), is_punctuation(c));
        if !space && !alone {
            start.get_or_insert(at);
            continue;
        }
        if start.take().is_some_and(|start| !word(&text[start..at])) {
            return;
        }
        if alone && !word(&text[at..at + c.len_utf8()]) {
            return;
        }
    }
    if let Some(start) = start {
        word(&text[start..]);
    }
}

fn is_punctuation(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_punctuation();
    }
    GeneralCategoryGroup::Punctuation.contains(GeneralCategory::for_char(c))
}

fn is_control(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(
        GeneralCategory::for_char(c),
        GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::PrivateUse
    )
}

/// BERT's idea of a Chinese character: the CJK ideograph blocks, not kana or hangul.
fn is_han(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let (mut normal, mut words) = (String::new(), Vec::new());
        normalise(text, &mut normal);
        split(&normal, |word| {
            words.push(word.to_owned());
            true
        });
        words
    }

    #[test]
    fn text_is_cleaned_and_split_as_bert_does() {
        for (text, expected) in [
            ("Hello, world!", &["hello", ",", "world", "!"][..]),
            ("Ünïcödé Straße", &["unicode", "straße"]),
            ("a\u{7}b\u{200b}c\td", &["abc", "d"]),
            ("你好 test", &["你", "好", "test"]),
            ("don\u{2019}t", &["don", "\u{2019}", "t"]),
            ("", &[]),
            (" \n ", &[]),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pieces_are_the_longest_that_fit() {
        let json = br###"{"model":{"vocab":{"[PAD]":0,"[UNK]":1,"un":2,"##aff":3,"##able":4,"##a":5,"una":6}}}"###;
        let vocabulary = WordPiece::read(json).expect("a vocabulary");
        let ids = |text: &str| {
            let mut ids = Vec::new();
            vocabulary.pieces(text, |id| {
                ids.push(id);
                true
            });
            ids
        };
        assert_eq!(ids("un unaffable una"), [Some(2), None, Some(6)]);
        assert_eq!(ids("unable"), [None]);
        assert_eq!(ids("unaffaffable"), [None]);
        assert_eq!(ids("unaaff"), [Some(6), Some(3)]);
        assert_eq!(ids("[PAD] [UNK]").iter().flatten().count(), 0);
    }

    #[test]
    fn a_vocabulary_with_holes_is_refused() {
        assert!(WordPiece::read(br#"{"model":{"vocab":{"a":0,"b":2}}}"#).is_err());
        assert!(WordPiece::read(b"{}").is_err());
    }
}
