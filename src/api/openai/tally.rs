//! Keeps count of one answer, and reports when it is over, however it is over.

use std::sync::LazyLock;
use std::time::Instant;

use memchr::memmem;
use serde::Deserialize;

use crate::api::limits::Place;
use crate::api::measure::{Ending, Measures};
use crate::capability::{Operation, Usage};

/// One answer from the moment that its request had its place. An answer that is dropped without a word about its
/// end was dropped because the client left.
pub(crate) struct Tally {
    measures: Measures,
    operation: Operation,
    started: Instant,
    usage: Option<Usage>,
    outcome: Ending,
    first: bool,
    _place: Place,
}

impl Tally {
    pub(super) fn new(measures: Measures, operation: Operation, started: Instant, place: Place) -> Self {
        Self { measures, operation, started, usage: None, outcome: Ending::ClientLeft, first: true, _place: place }
    }

    /// A piece of the answer has come.
    pub(crate) fn piece(&mut self, piece: &[u8]) {
        if std::mem::take(&mut self.first) {
            self.measures.first_chunk(self.operation, self.started.elapsed());
        }
        if let Some(usage) = find_usage(piece) {
            self.usage = Some(usage);
        }
    }

    pub(crate) fn ended(&mut self, outcome: Ending) {
        self.outcome = outcome;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.measures.answer(self.operation, self.outcome, self.usage, self.started.elapsed());
    }
}

#[derive(Deserialize)]
struct Reported {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

const FIELD: &[u8] = b"\"usage\":";
static USAGE: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(FIELD));

/// The last `"usage":{…}` of a piece. A quote within a JSON string is escaped, so that text of the answer never looks
/// like the field.
fn find_usage(piece: &[u8]) -> Option<Usage> {
    // Nearly no piece has one, and the way forward is the fast one.
    USAGE.find(piece)?;
    let at = memmem::rfind(piece, FIELD)?;
    let rest = piece[at + FIELD.len()..].trim_ascii_start();
    if rest.first() != Some(&b'{') {
        return None;
    }
    // The stream of values ends with the object; what follows it is not looked at.
    let reported = serde_json::Deserializer::from_slice(rest).into_iter::<Reported>().next()?.ok()?;
    Some(Usage {
        prompt_tokens: reported.prompt_tokens,
        completion_tokens: reported.completion_tokens,
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_found_where_a_backend_reports_it_and_nowhere_else() {
        let usage = Usage { prompt_tokens: 3, completion_tokens: 9, ..Usage::default() };
        for (piece, found) in [
            (r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9,"x":{"y":1}}}"#, Some(usage)),
            (r#"{"usage": {"completion_tokens":9,"prompt_tokens":3},"timings":{}}"#, Some(usage)),
            (r#"data: {"choices":[{}],"usage":null}"#, None),
            (r#"data: {"content":"\"usage\":{\"prompt_tokens\":7}"}"#, None),
            (r#"{"usage":{"prompt_tokens":-1}}"#, None),
            (r#"{"usage":{"prompt_"#, None),
            ("", None),
        ] {
            assert_eq!(find_usage(piece.as_bytes()), found, "{piece}");
        }
    }
}
