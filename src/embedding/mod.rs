//! Text becomes a vector, and a vector of text features becomes a SimHash.
//!
//! An [`Embedder`] turns text into unit vectors of one *space*; vectors of different spaces are never compared.
//! Every node has [`StaticEmbedder`]: a table that is compiled in, needs no other software and takes about a
//! microsecond. An owner who has an ONNX model on disk may use `OnnxEmbedder` instead (cargo feature
//! `fastembed`): better at telling near things apart, a thousand times slower. For nodes without a common space
//! there is [`simhash`], which compares words and needs no table at all.
//!
//! What is to be embedded, and what is done with it, is the [catalog](crate::catalog)'s business.

mod embedder;
#[cfg(feature = "fastembed")]
mod onnx;
pub mod quantise;
pub mod simhash;
mod table;
mod wordpiece;
pub mod words;

pub use embedder::Embedder;
#[cfg(feature = "fastembed")]
pub use onnx::{OnnxEmbedder, OnnxError};
pub use table::StaticEmbedder;
