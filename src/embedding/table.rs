//! The embedder that every node has: a static table, compiled in.
//!
//! The format and the algorithm are [model2vec](https://github.com/MinishLab/model2vec)'s: the mean of the
//! weighted vectors of the known tokens, at unit length. A reader of our own, because it leaves the 7.6 MB table
//! where it is, in the program's file, and touches only the rows that a text needs. Measured against the
//! library of the format (`model2vec-rs` 0.4, which the tests compare it with), on one busy x86-64 core:
//!
//! | | start | memory at start, after 4,000 texts | 10 words p50, p99 | 60 words p50, p99 |
//! |---|---|---|---|---|
//! | this | 4 ms | 2.2 MB, 6.5 MB | 1.1 us, 8 us | 5.0 us, 9 us |
//! | the library | 33 ms | 18.6 MB, 18.8 MB | 1.5 us, 3 us | 6.8 us, 11 us |
//!
//! The tail of the short texts is the first touch of a row, which the library pays at start.
//!
//! English first: tokens of other languages are mostly unknown, and a text of unknown tokens only has the zero
//! vector. The catalog then compares by words.

use std::sync::Arc;

use serde::Deserialize;

use super::embedder::{Embedder, normalise};
use super::wordpiece::WordPiece;

static TOKENIZER: &[u8] = include_bytes!("../../assets/embedder/tokenizer.json");
static MODEL: &[u8] = include_bytes!("../../assets/embedder/model.safetensors");

/// First eight hex digits of the BLAKE3 hash of model and tokenizer. Written down, because to hash them at each
/// start would read all 8 MB into memory; a test compares it with the files.
const FINGERPRINT: &str = "b2204a1e";

/// Tokens of a text that are looked at; model2vec's default.
const TOKENS: usize = 512;

/// Embeds with the table that is compiled in.
pub struct StaticEmbedder {
    space: Arc<str>,
    vocabulary: WordPiece,
    /// Row-major, `dim` bytes a token.
    rows: &'static [u8],
    /// Little-endian f32, one a token.
    weights: &'static [u8],
    dim: usize,
}

impl std::fmt::Debug for StaticEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticEmbedder").field("space", &self.space).finish_non_exhaustive()
    }
}

/// The header of a safetensors file, as far as it matters here.
#[derive(Deserialize)]
struct Header {
    weights: Tensor,
    embeddings: Tensor,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The files do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("the embedder's {0}")]
struct TableError(String);

impl StaticEmbedder {
    /// The embedder that is compiled in.
    #[must_use]
    pub fn builtin() -> Self {
        Self::read(TOKENIZER, MODEL).expect("the compiled-in files are checked by a test")
    }

    fn read(tokenizer: &[u8], model: &'static [u8]) -> Result<Self, TableError> {
        let vocabulary = WordPiece::read(tokenizer).map_err(|error| TableError(format!("tokenizer: {error}")))?;
        let bad = |what: &str| TableError(format!("table: {what}"));
        let (length, rest) = model.split_first_chunk::<8>().ok_or_else(|| bad("no header"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| bad("header too long"))?;
        let (header, tensors) = rest.split_at_checked(length).ok_or_else(|| bad("header too long"))?;
        let header: Header = serde_json::from_slice(header).map_err(|error| bad(&error.to_string()))?;
        let part = |tensor: &Tensor| {
            tensors.get(tensor.data_offsets.0..tensor.data_offsets.1).ok_or_else(|| bad("shorter than its header says"))
        };
        let (rows, weights) = (part(&header.embeddings)?, part(&header.weights)?);
        let &[tokens, dim] = header.embeddings.shape.as_slice() else { return Err(bad("embeddings are not a matrix")) };
        let sound = header.embeddings.dtype == "I8"
            && header.weights.dtype == "F32"
            && tokens == vocabulary.len()
            && dim > 0
            && Some(rows.len()) == tokens.checked_mul(dim)
            && Some(weights.len()) == tokens.checked_mul(4);
        if !sound {
            return Err(bad("types or sizes are not what this program reads"));
        }
        let space = format!("minilm-static/{FINGERPRINT}/{dim}").into();
        Ok(Self { space, vocabulary, rows, weights, dim })
    }

    /// Adds the weighted row of a token.
    #[inline(always)]
    fn add(&self, token: u32, sum: &mut [f32]) {
        let at = token as usize;
        let weight = self.weights.as_chunks::<4>().0.get(at).map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
        let row = self.rows.get(at * self.dim..(at + 1) * self.dim).unwrap_or_default();
        for (sum, &value) in sum.iter_mut().zip(row) {
            *sum += f32::from(value.cast_signed()) * weight;
        }
    }
}

/// The sum of the weighted rows of tokens. A closure would be compiled for the least that all processors have.
struct Sum<'a> {
    table: &'a StaticEmbedder,
    ids: &'a [u32],
    sum: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for &id in self.ids {
            self.table.add(id, self.sum);
        }
    }
}

impl Embedder for StaticEmbedder {
    fn space(&self) -> &Arc<str> {
        &self.space
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn embed(&self, text: &str) -> Vec<f32> {
        // Cut by characters first, as model2vec does, so that a long text costs no more than its beginning.
        let text = text.char_indices().nth(TOKENS * self.vocabulary.median()).map_or(text, |(end, _)| &text[..end]);
        let mut ids = Vec::with_capacity(32);
        let mut left = TOKENS;
        self.vocabulary.pieces(text, |id| {
            ids.extend(id);
            left -= 1;
            left > 0
        });
        let mut sum = vec![0.0; self.dim];
        pulp::Arch::new().dispatch(Sum { table: self, ids: &ids, sum: &mut sum });
        normalise(&mut sum);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn the_fingerprint_is_that_of_the_files() {
        let mut hasher = blake3::Hasher::new();
        hasher.update(MODEL).update(TOKENIZER);
        assert_eq!(&hasher.finalize().to_hex()[..8], FINGERPRINT, "set FINGERPRINT to the left side");
    }

    #[test]
    fn it_agrees_with_the_library_of_the_format() {
        let config = include_bytes!("../../assets/embedder/config.json");
        let theirs = model2vec_rs::model::StaticModel::from_bytes(TOKENIZER, MODEL, config, None).expect("a model");
        let ours = StaticEmbedder::builtin();
        let long = "How do I care for my llama in winter? ".repeat(200);
        for text in [
            "How do I care for my llama?",
            "write a quicksort in Rust",
            "Café résumé naïve — Straße, 12.5 % \u{2019}quoted\u{2019}",
            "supercalifragilisticexpialidocious qqqqzzzz \u{1F999} 你好世界",
            "fn main() { println!(\"{:?}\", x.iter().map(|y| y + 1).collect::<Vec<_>>()); }",
            "ΑΒΓ кириллица हिन्दी العربية ไทย 日本語 한국어",
            "",
            " \t\u{200b}\n",
            &"x".repeat(150),
            &long,
        ] {
            let (ours, theirs) = (ours.embed(text), theirs.encode_single(text));
            let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-5, "{apart} apart: {text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_the_library_on_any_text(text in "[ -~\u{a0}-\u{24f}\u{370}-\u{3ff}\u{400}-\u{45f}\u{2010}-\u{2030}\u{4e00}-\u{4e40}\u{3041}-\u{3096}\n\t]{0,80}") {
            static THEIRS: std::sync::LazyLock<(StaticEmbedder, model2vec_rs::model::StaticModel)> = std::sync::LazyLock::new(|| {
                let config = include_bytes!("../../assets/embedder/config.json");
                let theirs = model2vec_rs::model::StaticModel::from_bytes(TOKENIZER, MODEL, config, None).expect("a model");
                (StaticEmbedder::builtin(), theirs)
            });
            let (ours, theirs) = (THEIRS.0.embed(&text), THEIRS.1.encode_single(&text));
            let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            proptest::prop_assert!(apart < 1e-5, "{} apart", apart);
        }
    }

    #[test]
    fn vectors_have_unit_length_or_none() {
        let embedder = StaticEmbedder::builtin();
        assert_eq!(embedder.dim(), 256);
        assert!(embedder.space().ends_with(&format!("/{FINGERPRINT}/256")));
        let vector = embedder.embed("a llama in the meadow");
        assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-5);
        assert!(embedder.embed("").iter().all(|x| *x == 0.0));
        assert!(embedder.embed("\u{1F999}").iter().all(|x| *x == 0.0));
    }

    #[test]
    fn what_means_the_same_is_nearer() {
        let embedder = StaticEmbedder::builtin();
        let question = embedder.embed("How do I care for my llama?");
        let near = embedder.embed("feeding and health of alpacas and other camelids");
        let far = embedder.embed("writes, reviews and debugs programs in Rust and Python");
        assert!(cosine(&question, &near) > cosine(&question, &far) + 0.1);
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        for model in [&b""[..], b"\xff\xff\xff\xff\xff\xff\xff\xff{}", b"\x02\0\0\0\0\0\0\0{}"] {
            assert!(StaticEmbedder::read(TOKENIZER, model).is_err());
        }
        assert!(StaticEmbedder::read(br#"{"model":{"vocab":{"a":0}}}"#, MODEL).is_err());
    }
}
