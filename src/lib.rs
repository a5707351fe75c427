//! Atmosphere: one local OpenAI-compatible API for everything that your machines can do.
//!
//! ```text
//! client ──HTTP──▶ api ──Intent──▶ router ──Decision──▶ dispatch ──Call──▶ provider on this node
//!                                                           └──────Call──▶ mesh ──▶ provider on another node
//! ```
//!
//! Modules import only from modules further down in this list, and a test holds them to it:
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the verbs; each talks to a running node over its HTTP API, or starts one |
//! | [`node`] | builds the parts, wires them, starts, drains, stops |
//! | [`config`] | file, environment and flags, validated into one `Config` |
//! | [`api`] | the HTTP facade |
//! | [`cache`] | answers that need not be made again |
//! | [`dispatch`] | a decision becomes a stream of replies: attempts, failover, deadlines, cancellation |
//! | [`router`] | an intent becomes a decision |
//! | [`provider`] | what makes capabilities on a node |
//! | [`mesh`] | the libp2p swarm and all that needs it |
//! | [`catalog`] | adverts become what the mesh can do |
//! | [`embedding`] | text becomes a vector |
//! | [`wire`] | the protobuf contract, and the conversions to and from the nouns |
//! | `dialect` | what other APIs say, as chat completions say it, and back |
//! | [`capability`] | the nouns; no I/O |
//! | [`telemetry`] | logs, metrics and the event bus |
//! | `waiting` | timers and signals that cost little to ask again |

pub mod api;
pub mod cache;
pub mod capability;
pub mod catalog;
pub mod cli;
pub mod config;
mod dialect;
pub mod dispatch;
pub mod embedding;
pub mod mesh;
pub mod node;
pub mod provider;
pub mod router;
pub mod telemetry;
mod waiting;
pub mod wire;
