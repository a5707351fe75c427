//! What makes capabilities on a node: adapters for the servers that people run, and the built-in engine.
//!
//! A provider discovers what its backend can do and runs calls on it. Everything else is somebody else's
//! work: admission and queues, deadlines, failover and heartbeats are `dispatch`'s, so a provider is small.

mod builtin;
mod exchange;
mod failure;
mod http;
mod inspect;
mod llamafarm;
mod models;
mod naming;
mod ollama;
mod openai;
mod payload;
mod probe;
mod registry;
mod relay;
mod secret;
mod settings;
mod sse;
mod supervise;
mod table;
mod trim;
mod universal;

use futures::future::BoxFuture;

use crate::capability::{Call, Capability, Failure, FrameStream};

pub use builtin::Builtin;
pub use llamafarm::LlamaFarm;
pub use ollama::Ollama;
pub use openai::OpenAi;
pub use registry::Registry;
pub use secret::Secret;
pub use settings::{BackendKind, BackendSpec, BackendSpecError, NOMINAL_PRICE, Settings, is_own_network};
pub use table::{ProviderStatus, Resolved};
pub use universal::Universal;

/// What makes capabilities on a node.
pub trait Provider: Send + Sync + 'static {
    /// Its name on this node, such as `ollama` or `openai@gpu:8080`: stable over restarts, without secrets.
    fn id(&self) -> &str;

    /// What its backend can do now. Called again and again: what is missing from a later answer leaves the
    /// advert, and so does everything when it fails.
    ///
    /// # Errors
    ///
    /// When the backend cannot be reached or answers what cannot be understood.
    fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>>;

    /// Runs a call. The stream yields any number of `Progress` and `Chunk`, then exactly one `End` or
    /// `Error`; dropping it stops the work on the backend at once.
    fn call(&self, call: Call) -> FrameStream;

    /// How many calls it runs at once; more wait in the node's queue. `None`: as many as come.
    fn concurrency(&self) -> Option<u32> {
        None
    }

    /// Whether other nodes may use it. A cloud account is its owner's own unless they say so.
    fn shared(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
