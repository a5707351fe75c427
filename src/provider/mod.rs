//! What makes capabilities on a node: adapters for the servers that people run, and the built-in engine.
//!
//! A provider discovers what its backend can do and runs calls on it. Everything else is somebody else's
//! work: admission and queues, deadlines over all, failover and heartbeats are `dispatch`'s, and asking again
//! and again, withdrawing what is gone and keeping to the advert's limits are the [`Registry`]'s. So a provider is
//! small, and keeps only what it must know between a discovery and a call.
//!
//! | adapter | backends |
//! |---|---|
//! | [`OpenAi`] | llama.cpp, vLLM, LM Studio, SGLang, LocalAI, Lemonade, OpenAI, and whatever else has OpenAI's API |
//! | [`Anthropic`] | Anthropic: calls are translated to its messages |
//! | [`Ollama`] | Ollama |
//! | [`LlamaFarm`] | LlamaFarm's server: one capability per project |
//! | [`Universal`] | LlamaFarm's Universal Runtime: the models that the owner names |
//! | [`Builtin`] | the node itself: text embeddings |
//!
//! # Adding a provider
//!
//! 1. Write one file with a type that implements [`Provider`]. For an HTTP backend, hold a `models::Offer`: it has
//!    the client, remembers which capability stands for which of the backend's models, and runs calls at OpenAI's
//!    paths. A backend with paths of its own fills in an `exchange::Exchange`, as `llamafarm.rs` does; one with
//!    another protocol for the same thing translates (`protocol.rs`), as `anthropic.rs` does, and one without HTTP makes
//!    the frames itself, as `builtin.rs` does.
//! 2. Give it a [`BackendKind`] (with its line in `ALL` and `as_str`: the configuration takes its kinds from there), and
//!    a line in `supervise::build`. For one that is found by itself: its default port and what it can be recognised by,
//!    in `probe.rs`.
//! 3. Write a double of it in its tests, with the scripted backend of `testing.rs`.
//!
//! What an implementation must hold to:
//!
//! * **Capabilities tell the truth.** What the backend says goes before what a name suggests (`naming.rs`). No
//!   keys, no addresses, no paths of this machine: the mesh reads them.
//! * **Ids are stable.** [`Capability::new`](crate::capability::Capability::new) makes them from the provider's id,
//!   the kind and the name.
//! * **Payloads go through.** The provider puts its own model name in and changes no other byte, both ways.
//! * **Replies end.** Exactly one `End` or `Error`, last. A stream that stops without either has failed. Chunks of
//!   an event stream are cut only between events.
//! * **Failures say whose they are.** [`ErrorClass::Request`](crate::capability::ErrorClass::Request) is the caller's
//!   and final; with any other class somebody else is tried. A key that the backend refuses is the owner's fault.
//! * **Dropping stops.** Whoever drops the stream wants no more: close the connection, end the work.
//! * **Nothing waits for ever.** A discovery answers in seconds; a call keeps to its `deadline`.
//!
//! A whole provider, which says back what it is told, and what the node does with it: discovers, resolves, calls, and
//! reads the frames.
//!
//! ```
//! use std::sync::Arc;
//!
//! use atmosphere::capability::{
//!     Call, Capability, Chunk, ErrorClass, Failure, Frame, FrameStream, Kind, Operation, OperationSet,
//! };
//! use atmosphere::provider::{Provider, Registry};
//! use futures::future::BoxFuture;
//! use futures::{StreamExt, stream};
//! use serde_json::{Value, json};
//!
//! struct Parrot;
//!
//! /// What it was told last.
//! fn heard(payload: &[u8]) -> Result<String, Failure> {
//!     let wrong = |why: &str| Failure::new(ErrorClass::Request, why);
//!     let request: Value = serde_json::from_slice(payload).map_err(|error| wrong(&error.to_string()))?;
//!     let last = request["messages"].as_array().and_then(|messages| messages.last());
//!     last.and_then(|message| Some(message["content"].as_str()?.to_owned())).ok_or_else(|| wrong("nothing was said"))
//! }
//!
//! impl Provider for Parrot {
//!     fn id(&self) -> &str {
//!         "parrot"
//!     }
//!
//!     fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>> {
//!         Box::pin(async {
//!             let mut polly = Capability::new(self.id(), Kind::LLM_CHAT, "polly");
//!             polly.operations = OperationSet::of(&[Operation::Chat]);
//!             polly.description = "Talks like a parrot about crackers.".into();
//!             Ok(vec![polly])
//!         })
//!     }
//!
//!     fn call(&self, call: Call) -> FrameStream {
//!         if call.operation != Operation::Chat {
//!             let failure = Failure::new(ErrorClass::Request, "a parrot can only chat");
//!             return Box::pin(stream::iter([Frame::Error(failure)]));
//!         }
//!         let said = match heard(&call.payload) {
//!             Ok(said) => said,
//!             Err(failure) => return Box::pin(stream::iter([Frame::Error(failure)])),
//!         };
//!         // What the client reads: OpenAI's shapes, whole or as events. Each piece of an event stream ends an event.
//!         let (pieces, content_type): (Vec<String>, &str) = if call.stream {
//!             let words = said.split_inclusive(' ');
//!             let event = |word| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": word}}]}));
//!             (words.map(event).chain(["data: [DONE]\n\n".to_owned()]).collect(), "text/event-stream")
//!         } else {
//!             let message = json!({"role": "assistant", "content": said});
//!             let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
//!             (vec![json!({"object": "chat.completion", "choices": [choice]}).to_string()], "application/json")
//!         };
//!         let chunk = move |(index, data): (usize, String)| {
//!             Frame::Chunk(Chunk { data: data.into(), content_type: (index == 0).then(|| content_type.into()) })
//!         };
//!         let end = Frame::End { usage: None, load: None };
//!         Box::pin(stream::iter(pieces).enumerate().map(chunk).chain(stream::iter([end])))
//!     }
//!
//!     fn concurrency(&self) -> Option<u32> {
//!         Some(1) // One beak.
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let registry = Registry::from_providers(vec![Arc::new(Parrot)]).await;
//! let polly = registry.capabilities().borrow()[0].clone();
//! let who = registry.resolve(&polly.id).expect("discovered");
//!
//! let call = Call {
//!     id: "1".into(),
//!     capability: polly.id,
//!     operation: Operation::Chat,
//!     payload: r#"{"messages":[{"role":"user","content":"Hello, Polly!"}],"stream":true}"#.into(),
//!     content_type: "application/json".into(),
//!     stream: true,
//!     deadline: std::time::Duration::from_secs(10),
//!     headers: Default::default(),
//! };
//! let frames: Vec<Frame> = who.provider.call(call).collect().await;
//! assert!(matches!(&frames[..], [Frame::Chunk(_), Frame::Chunk(_), Frame::Chunk(_), Frame::End { .. }]));
//! # });
//! ```

mod answer;
mod anthropic;
mod builtin;
mod connection;
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
mod protocol;
mod registry;
mod relay;
mod secret;
mod settings;
mod supervise;
mod table;
mod trim;
mod universal;

use futures::future::BoxFuture;

use crate::capability::{Call, Capability, Failure, FrameStream};

pub use anthropic::Anthropic;
pub use builtin::Builtin;
pub use http::UNANSWERED_CODE;
pub use llamafarm::LlamaFarm;
pub use ollama::Ollama;
pub use openai::OpenAi;
pub use registry::Registry;
pub use secret::Secret;
pub use settings::{BackendKind, BackendSpec, BackendSpecError, NOMINAL_PRICE, Settings, is_own_network};
pub use table::{ProviderStatus, Resolved};
pub use universal::Universal;

/// What makes capabilities on a node. The [module's documentation](self) says what an implementation must hold to,
/// with an example.
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
mod anthropic_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
