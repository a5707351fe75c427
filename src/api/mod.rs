//! The HTTP facade: what OpenAI's clients, people and supervisors see of a node.
//!
//! It turns requests into [`Intent`](crate::capability::Intent)s, hands them to the node behind [`Service`], and
//! streams what comes back. It promises that every request ends with an answer or with an error in OpenAI's shape;
//! that bodies pass through byte for byte in both directions; and that when a client leaves, everything that was
//! done for it is dropped at once. It decides nothing about who answers: that is the router's and dispatch's work.
//!
//! Who may come in is decided before any route is looked at: by the `Host` and `Origin` headers (a web page of a
//! stranger must not drive a local API through its visitor's browser) and by API keys, which are compulsory on
//! addresses that others can reach. An owner who has web pages of their own names their origins.
//!
//! | file | what it is |
//! |---|---|
//! | `server` | listens, accepts, drains |
//! | `answer` | what holds for every request, whatever its route |
//! | `routes` | the table of routes |
//! | `openai` | chat, completions, embeddings, models |
//! | `facades` | the same by other protocols: Anthropic's messages, OpenAI's responses, and Ollama's API on a port of its own |
//! | `envelope` | the shape of errors, which is each protocol's own |
//! | `mesh`, `judgement` | nodes, topology, capabilities, decisions, joining |
//! | `doctor` | what hinders this node, why, and what to do |
//! | `members` | closed meshes: members, invites, revocations; for the node's owner only |
//! | `pairing` | spoken codes for nearby machines; for the node's owner only |
//! | `stream` | a WebSocket: live events one way, requests the other |
//! | `meta` | probes, metrics, health, the contract, the landing page |

mod answer;
mod app;
mod auth;
mod doctor;
mod envelope;
mod error;
mod facades;
mod face;
mod judgement;
mod limits;
mod measure;
mod members;
mod mesh;
mod meta;
mod moment;
mod openai;
mod origin;
mod owner;
mod pairing;
mod request_id;
mod routes;
mod server;
mod service;
mod settings;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

pub use auth::Keys;
pub use doctor::{Check, Finding, Verdict};
pub use server::{ServeError, Serving, serve};
pub use service::{JoinError, Phase, ProviderStatus, Service};
pub use settings::Settings;
