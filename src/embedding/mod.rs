//! Text becomes a vector, and a vector of text features becomes a SimHash.

use std::sync::Arc;

/// Turns text into unit vectors of one embedding space.
pub trait Embedder: Send + Sync + 'static {
    /// Names embedder, version and length. Vectors of different spaces are never compared.
    fn space(&self) -> &Arc<str>;

    /// Length of its vectors.
    fn dim(&self) -> usize;

    /// The unit vector of a text. Empty or unknown text gives the zero vector.
    fn embed(&self, text: &str) -> Vec<f32>;
}
