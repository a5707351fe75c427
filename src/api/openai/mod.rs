//! OpenAI's routes: chat, completions, embeddings and models.
//!
//! `request` reads what routing needs out of a body, through the types of `view`; `ask` makes the intent;
//! `running` is a request under way, `infer` answers it over HTTP; `reuse` reads and says
//! what there is to kept answers; `events` and `whole` are the two forms of an answer; `models` lists who can be asked.

mod ask;
mod events;
mod infer;
mod models;
mod request;
mod reuse;
mod running;
mod tally;
mod view;

pub(super) use ask::{intent, judged_intent};
pub(super) use events::is_event_stream;
pub(super) use infer::{chat, complete, embed, run};
pub(super) use models::{model, models};
pub(super) use running::{Running, begin, failed, gather, out_of_time};
pub(super) use tally::Tally;
