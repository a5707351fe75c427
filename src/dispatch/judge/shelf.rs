//! The texts of this mesh as one embedder reads them. Bounded in number and in bytes.

use std::collections::{HashMap, HashSet};

use super::ask::LONGEST_VECTOR;
use crate::router::classifier::Text;

/// Texts that it holds: ten times the phrases and what a household's projects say of themselves.
const TEXTS: usize = 8192;
/// Bytes of vectors and texts that it holds.
const BYTES: usize = 64 * 1024 * 1024;
/// Texts of one batch.
pub(super) const BATCH: usize = 32;
/// Bytes of a batch: some 2,000 tokens, which a processor reads in a second or so.
const BATCH_BYTES: usize = 8 * 1024;

/// Why a text cannot be put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It is full.
    #[error("the mesh says more of itself than is kept of another embedder's vectors")]
    Full,
    /// The vector is of another length than those before it.
    #[error("its vectors change their length")]
    Odd,
}

/// The texts of this mesh as one embedder reads them.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    texts: HashMap<String, Text>,
    /// Length of its vectors; 0 before there is one.
    dim: usize,
    bytes: usize,
}

impl Shelf {
    /// Puts a text there.
    pub(super) fn put(&mut self, text: &str, vector: Vec<f32>) -> Result<(), Refused> {
        if vector.is_empty() || vector.len() > LONGEST_VECTOR || (self.dim != 0 && vector.len() != self.dim) {
            return Err(Refused::Odd);
        }
        let bytes = size(text, vector.len());
        let new = !self.texts.contains_key(text);
        if new && (self.texts.len() >= TEXTS || self.bytes + bytes > BYTES) {
            return Err(Refused::Full);
        }
        self.dim = vector.len();
        if new {
            self.bytes += bytes;
            self.texts.insert(text.to_owned(), Text::new(text, vector));
        }
        Ok(())
    }

    /// A text as it is read.
    pub(super) fn get(&self, text: &str) -> Option<Text> {
        self.texts.get(text).cloned()
    }

    /// Takes away all but these.
    pub(super) fn keep(&mut self, wanted: &HashSet<&str>) {
        self.texts.retain(|text, _| wanted.contains(text.as_str()));
        self.bytes = self.texts.keys().map(|text| size(text, self.dim)).sum();
        if self.texts.is_empty() {
            self.dim = 0;
        }
    }

    /// The next of these that it lacks, as many as make a batch; the first of all comes alone, to see what whoever reads them
    /// is worth. Each comes once.
    pub(super) fn lacking<'a>(&self, wanted: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let most = if self.texts.is_empty() { 1 } else { BATCH };
        let (mut batch, mut bytes) = (Vec::<&str>::new(), 0);
        for text in wanted.filter(|text| !self.texts.contains_key(*text)) {
            if batch.len() >= most || (bytes + text.len() > BATCH_BYTES && !batch.is_empty()) {
                break;
            }
            if !batch.contains(&text) {
                bytes += text.len();
                batch.push(text);
            }
        }
        batch
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Length of its vectors; 0 before there is one.
    pub(super) const fn dim(&self) -> usize {
        self.dim
    }
}

/// What a text takes: its vector, itself, and the pieces of its words.
fn size(text: &str, dim: usize) -> usize {
    /// A letter begins some four pieces of words, at eight bytes each.
    const LETTER: usize = 33;
    dim * size_of::<f32>() + text.len() * LETTER + 128
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_bounded_in_number_and_in_bytes() {
        let mut shelf = Shelf::default();
        let refused = (0..TEXTS + 10).map(|n| shelf.put(&n.to_string(), vec![1.0; 4])).filter(Result::is_err).count();
        assert_eq!((refused, shelf.len()), (10, TEXTS));
        assert_eq!(shelf.put("0", vec![1.0; 4]), Ok(()), "what it has it takes again");
        let mut shelf = Shelf::default();
        let count = (0..TEXTS).take_while(|n| shelf.put(&n.to_string(), vec![1.0; LONGEST_VECTOR]).is_ok()).count();
        assert!(count < BYTES / LONGEST_VECTOR / 4 && shelf.bytes <= BYTES, "{count} texts");
        assert_eq!(shelf.put("one more", vec![1.0; LONGEST_VECTOR]), Err(Refused::Full));
        shelf.keep(&HashSet::from(["0"]));
        assert_eq!((shelf.len(), shelf.put("one more", vec![1.0; LONGEST_VECTOR])), (1, Ok(())));
    }

    #[test]
    fn vectors_of_another_length_are_of_another_space() {
        let mut shelf = Shelf::default();
        assert_eq!(shelf.put("a", vec![]), Err(Refused::Odd));
        assert_eq!(shelf.put("a", vec![0.0; LONGEST_VECTOR + 1]), Err(Refused::Odd));
        assert_eq!((shelf.put("a", vec![0.0; 3]), shelf.dim()), (Ok(()), 3));
        assert_eq!(shelf.put("b", vec![0.0; 4]), Err(Refused::Odd));
        shelf.keep(&HashSet::new());
        assert_eq!(shelf.put("b", vec![0.0; 4]), Ok(()));
    }

    #[test]
    fn the_first_text_comes_alone() {
        let mut shelf = Shelf::default();
        assert_eq!(shelf.lacking(["a", "b"].into_iter()), ["a"]);
        assert_eq!(shelf.put("a", vec![1.0]), Ok(()));
        assert_eq!(shelf.lacking(["a", "b", "b", "c"].into_iter()), ["b", "c"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn batches_are_bounded_and_come_to_an_end(texts in proptest::collection::vec("[a-z]{0,9}|[a-z]{2500}", 0..80)) {
            let mut shelf = Shelf::default();
            let wanted = || texts.iter().map(String::as_str);
            let distinct: HashSet<&str> = wanted().collect();
            for turn in 0.. {
                let batch: Vec<String> = shelf.lacking(wanted()).into_iter().map(str::to_owned).collect();
                if batch.is_empty() {
                    break;
                }
                prop_assert!(turn <= texts.len(), "it ends");
                prop_assert!(batch.len() <= BATCH);
                prop_assert!(batch.len() == 1 || batch.iter().map(String::len).sum::<usize>() <= BATCH_BYTES);
                for text in batch {
                    prop_assert_eq!(shelf.put(&text, vec![1.0, 2.0]), Ok(()));
                }
            }
            prop_assert_eq!(shelf.len(), distinct.len());
        }
    }
}
