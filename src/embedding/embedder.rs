//! What every embedder is.

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

/// Scales to unit length. What has no direction, or no finite length, becomes the zero vector.
pub(super) fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let factor = if norm > 1e-12 && norm.is_finite() { norm.recip() } else { 0.0 };
    for x in vector {
        // Not a product where the factor is zero: infinity times zero is not zero.
        *x = if factor == 0.0 { 0.0 } else { *x * factor };
    }
}
