//! The answers that are kept, each in the form in which it came.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache as Kept;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use super::forms;
use super::question::{Form, Key};
use super::settings::Settings;
use crate::capability::{Operation, Origin};
use crate::dispatch::Reply;
use crate::router::{Candidate, Decision};

/// What an answer takes besides its own bytes: its key, its decision, and its place.
const OVERHEAD: u64 = 1024;

/// What is known of an answer when it begins.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) decision: Arc<Decision>,
    pub(super) served: Candidate,
    pub(super) attempts: u32,
    pub(super) content_type: String,
}

/// A finished answer.
#[derive(Debug)]
pub(super) struct Answer {
    made: Instant,
    operation: Operation,
    form: Form,
    body: Bytes,
    content_type: String,
    decision: Arc<Decision>,
    served: Candidate,
}

impl Answer {
    /// An answer that has just been finished. `None` when it is none that can be kept in this form.
    pub(super) fn new(operation: Operation, form: Form, body: Bytes, head: &Head) -> Option<Self> {
        let is = |media_type: &str| head.content_type.split(';').next().is_some_and(|it| it.trim() == media_type);
        let body = match form {
            Form::Whole if is("application/json") => body,
            Form::Stream { .. } if is("text/event-stream") => forms::without_comments(body),
            _ => return None,
        };
        // Who else could have answered is of no interest any more, and large.
        let decision = Decision {
            id: head.decision.id.clone(),
            target: head.decision.target.clone(),
            reason: head.decision.reason.clone(),
            step: head.decision.step,
            candidates: vec![head.served.clone()],
            candidates_total: 1,
            ..Decision::default()
        };
        Some(Self {
            made: Instant::now(),
            operation,
            form,
            body,
            content_type: head.content_type.clone(),
            decision: Arc::new(decision),
            served: head.served.clone(),
        })
    }

    /// Its bytes in this form; `None` when something would be missing.
    fn in_form(&self, form: Form) -> Option<Bytes> {
        match (self.form, form) {
            (mine, wanted) if mine == wanted => Some(self.body.clone()),
            (Form::Stream { usage: true }, Form::Stream { usage: false }) => Some(forms::without_usage(&self.body)),
            (Form::Stream { .. }, Form::Stream { .. }) => None,
            (Form::Stream { .. }, Form::Whole) => forms::whole_of(&self.body, self.operation),
            (Form::Whole, Form::Stream { usage }) => forms::stream_of(&self.body, self.operation, usage),
            (Form::Whole, Form::Whole) => Some(self.body.clone()),
        }
    }
}

/// The answers that are kept.
#[derive(Debug)]
pub(super) struct Shelf {
    kept: Kept<(Key, bool), Arc<Answer>>,
    bytes: Gauge,
}

impl Shelf {
    pub(super) fn new(settings: &Settings) -> Self {
        // Each answer takes its share of the room at least, so that the number is bounded by the bytes.
        let least = (settings.bytes / settings.answers.max(1)).max(1);
        let size = move |answer: &Arc<Answer>| answer.body.len() as u64 + OVERHEAD;
        let bytes = Gauge::default();
        let leaving = bytes.clone();
        let kept = Kept::builder()
            .name("answers")
            .max_capacity(settings.bytes)
            .weigher(move |_, answer| u32::try_from(size(answer).max(least)).unwrap_or(u32::MAX))
            .time_to_live(settings.ttl)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |_, answer: Arc<Answer>, _| {
                leaving.dec_by(signed(answer.body.len()));
            })
            .build();
        Self { kept, bytes }
    }

    /// Lets what was put off be done: evictions, and their account.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        self.kept.run_pending_tasks();
    }

    /// Size of what is kept.
    pub(super) fn bytes(&self) -> Gauge {
        self.bytes.clone()
    }

    /// A kept answer in this form, no older than that.
    pub(super) fn find(&self, key: &Key, form: Form, max_age: Option<Duration>) -> Option<Reply> {
        let streamed = form != Form::Whole;
        // What came in the form that is wanted is the same byte for byte.
        [streamed, !streamed].into_iter().find_map(|streamed| {
            let answer = self.kept.get(&(*key, streamed))?;
            let age = answer.made.elapsed();
            if max_age.is_some_and(|max_age| age > max_age || max_age.is_zero()) {
                return None;
            }
            let body = answer.in_form(form)?;
            let content_type = if answer.form == form || (answer.form != Form::Whole && form != Form::Whole) {
                answer.content_type.clone()
            } else if form == Form::Whole {
                "application/json".to_owned()
            } else {
                "text/event-stream".to_owned()
            };
            Some(Reply {
                decision: Arc::clone(&answer.decision),
                served: answer.served.clone(),
                attempts: 0,
                content_type,
                origin: Origin::Kept(age),
                body: Box::pin(futures::stream::iter([Ok(body)])),
            })
        })
    }

    /// Keeps an answer.
    pub(super) fn put(&self, key: Key, answer: Answer) {
        self.bytes.inc_by(signed(answer.body.len()));
        self.kept.insert((key, answer.form != Form::Whole), Arc::new(answer));
    }
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
