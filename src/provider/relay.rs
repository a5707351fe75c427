//! Decides what a streamed answer comes to, piece by piece: which bytes are handed on, and how it ended. Pure.
//!
//! Until content has begun nothing is handed on, so that an error in the first events is a failure like any
//! other, which somebody else may still make good. After that every event goes on as it came. An answer that
//! stops without saying that it is complete has failed, whatever the connection says.

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;

use super::failure;
use super::inspect::{Event, Inspector};
use crate::capability::{ErrorClass, Failure, Usage};
use crate::dialect::sse::Framer;

/// Bytes of events without content that are held back. A backend that sends more has begun.
const HELD_BYTES: usize = 64 * 1024;

/// What makes an answer complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completion {
    /// `[DONE]`, or a finish reason and the end of the stream.
    DoneOrReason,
    /// A finish reason; the backend sends `[DONE]` also when it failed.
    Reason,
    /// The end of the stream: its events are not those of chat.
    End,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Whole events to hand on; may be empty.
    pub(crate) send: Bytes,
    /// How the answer ended, once it has.
    pub(crate) end: Option<Result<(), Failure>>,
}

/// The state of one streamed answer.
#[derive(Debug)]
pub(crate) struct Relay {
    backend: String,
    completion: Completion,
    framer: Framer,
    inspector: Inspector,
    held: BytesMut,
}

impl Relay {
    /// For an answer of the backend with this label.
    pub(crate) fn new(backend: &str, completion: Completion) -> Self {
        Self {
            backend: backend.to_owned(),
            completion,
            framer: Framer::default(),
            inspector: Inspector::default(),
            held: BytesMut::new(),
        }
    }

    /// What the answer took, as far as it has told.
    pub(crate) const fn usage(&self) -> Option<Usage> {
        self.inspector.usage
    }

    /// Takes in what arrived.
    pub(crate) fn arrived(&mut self, piece: Bytes) -> Step {
        let mut whole = match self.framer.push(piece) {
            Ok(whole) => whole,
            Err(cause) => {
                let failure = self.failed(&format!("cannot be read: {cause}"));
                return Step { send: Bytes::new(), end: Some(Err(failure)) };
            }
        };
        let (mut start, mut end) = (0, None);
        for index in 0..self.framer.ends().len() {
            let next = self.framer.ends()[index];
            match self.judge(&whole[start..next]) {
                None => start = next,
                Some(Ok(())) => {
                    start = next;
                    end = Some(Ok(()));
                    break;
                }
                Some(failed) => {
                    end = Some(failed);
                    break;
                }
            }
        }
        whole.truncate(start);
        self.hand_on(whole, end)
    }

    /// The stream has ended, or broken off for this cause.
    pub(crate) fn ended(&mut self, broken: Option<&str>) -> Step {
        let mut left = self.framer.finish();
        // An event that lacks its blank line is as good as any; half an event is none.
        if broken.is_some() || !is_whole(&left) {
            left.clear();
        }
        let judged = if left.is_empty() { None } else { self.judge(&left) };
        if matches!(judged, Some(Err(_))) {
            left.clear();
        }
        let complete = match self.completion {
            Completion::End => broken.is_none(),
            Completion::DoneOrReason | Completion::Reason => broken.is_none() && self.inspector.finished,
        };
        let end = judged.unwrap_or_else(|| {
            if complete {
                return Ok(());
            }
            Err(match broken {
                Some(cause) => self.failed(&format!("broke off: {cause}")),
                None => self.failed("ended before it was complete"),
            })
        });
        self.hand_on(left, Some(end))
    }

    /// Whether this event ends the answer, and how.
    fn judge(&mut self, event: &[u8]) -> Option<Result<(), Failure>> {
        match self.inspector.see(event) {
            Event::Prelude | Event::Content => None,
            Event::Done if self.completion == Completion::Reason && !self.inspector.finished => {
                Some(Err(self.failed("ended without a reason, which means that it failed")))
            }
            Event::Done => Some(Ok(())),
            Event::Error(data) => Some(Err(failure::from_event(&self.backend, &data, self.inspector.begun)
                .unwrap_or_else(|| self.failed("holds an error")))),
            Event::Garbage if self.completion == Completion::End => {
                self.inspector.begun = true;
                None
            }
            Event::Garbage => Some(Err(self.failed("holds what is no JSON"))),
        }
    }

    fn hand_on(&mut self, ready: Bytes, end: Option<Result<(), Failure>>) -> Step {
        let hold = match &end {
            None => !self.inspector.begun && self.held.len() + ready.len() <= HELD_BYTES,
            Some(Ok(())) => false,
            // Nothing has been handed on: the failure stands for the whole answer.
            Some(Err(_)) => !self.inspector.begun,
        };
        if hold {
            self.held.extend_from_slice(&ready);
            return Step { send: Bytes::new(), end };
        }
        if self.held.is_empty() {
            self.inspector.begun |= !ready.is_empty();
            return Step { send: ready, end };
        }
        self.inspector.begun = true;
        self.held.extend_from_slice(&ready);
        Step { send: self.held.split().freeze(), end }
    }

    fn failed(&self, what: &str) -> Failure {
        Failure::new(ErrorClass::Interrupted, format!("the answer of {} {what}", self.backend))
    }
}

/// Whether an event at the end of a stream is all there: its data are `[DONE]` or JSON.
fn is_whole(event: &[u8]) -> bool {
    crate::dialect::sse::data_of(event)
        .is_some_and(|data| data.trim_ascii() == b"[DONE]" || serde_json::from_slice::<IgnoredAny>(&data).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n";
    const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"é𝄞\"},\"finish_reason\":null}]}\n\n";
    const STOP: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";
    const ERROR: &str = "data: {\"error\":{\"message\":\"boom\",\"code\":500}}\n\n";

    /// Events that arrive, what makes them complete, what is handed on, and how it ends.
    type Row<'a> = (&'a [&'a str], Completion, &'a [&'a str], Option<ErrorClass>);

    /// What is handed on, and how it ends: `None` when complete, else the class.
    fn run(pieces: &[&[u8]], completion: Completion, broken: Option<&str>) -> (String, Option<ErrorClass>) {
        let mut relay = Relay::new("b", completion);
        let mut sent = Vec::new();
        for piece in pieces {
            let step = relay.arrived(Bytes::copy_from_slice(piece));
            sent.extend_from_slice(&step.send);
            if let Some(end) = step.end {
                return (String::from_utf8(sent).expect("UTF-8"), end.err().map(|failure| failure.class));
            }
        }
        let step = relay.ended(broken);
        sent.extend_from_slice(&step.send);
        let end = step.end.expect("an end");
        (String::from_utf8(sent).expect("UTF-8"), end.err().map(|failure| failure.class))
    }

    #[test]
    fn what_a_stream_comes_to() {
        use Completion::{DoneOrReason, End, Reason};
        let interrupted = Some(ErrorClass::Interrupted);
        let table: &[Row<'_>] = &[
            (&[ROLE, TEXT, STOP, DONE], DoneOrReason, &[ROLE, TEXT, STOP, DONE], None),
            (&[ROLE, TEXT, STOP], DoneOrReason, &[ROLE, TEXT, STOP], None),
            (&[ROLE, TEXT, DONE], DoneOrReason, &[ROLE, TEXT, DONE], None),
            (&[ROLE, TEXT, DONE], Reason, &[ROLE, TEXT], interrupted),
            (&[ROLE, DONE], Reason, &[], interrupted),
            (&[ROLE, TEXT, STOP, DONE], Reason, &[ROLE, TEXT, STOP, DONE], None),
            (&[ROLE, TEXT], DoneOrReason, &[ROLE, TEXT], interrupted),
            (&[ROLE], DoneOrReason, &[], interrupted),
            (&[], DoneOrReason, &[], interrupted),
            (&[ROLE, ERROR, DONE], DoneOrReason, &[], Some(ErrorClass::Backend)),
            (&[ROLE, TEXT, ERROR, DONE], DoneOrReason, &[ROLE, TEXT], interrupted),
            (&["data: <oops>\n\n"], DoneOrReason, &[], interrupted),
            (&[TEXT, "data: {oops\n\n", TEXT], DoneOrReason, &[TEXT], interrupted),
            (&["data: {\"text\":\"a\"}\n\n"], End, &["data: {\"text\":\"a\"}\n\n"], None),
            (&[TEXT, DONE, TEXT], DoneOrReason, &[TEXT, DONE], None),
        ];
        for (input, completion, wanted, class) in table {
            let pieces: Vec<&[u8]> = input.iter().map(|piece| piece.as_bytes()).collect();
            let wanted = (wanted.concat(), *class);
            assert_eq!(run(&pieces, *completion, None), wanted, "{input:?} piece by piece");
            assert_eq!(run(&[&pieces.concat()], *completion, None), wanted, "{input:?} at once");
        }
    }

    #[test]
    fn a_connection_that_breaks_is_an_interruption_unless_all_was_said() {
        let pieces = [TEXT.as_bytes(), STOP.as_bytes()];
        let end = run(&pieces, Completion::DoneOrReason, Some("reset")).1;
        assert_eq!(end, Some(ErrorClass::Interrupted));
        assert_eq!(run(&[DONE.as_bytes()], Completion::DoneOrReason, Some("reset")).1, None);
    }

    #[test]
    fn half_an_event_is_dropped_and_a_whole_one_without_blank_line_is_not() {
        let half = &TEXT.as_bytes()[..30];
        assert_eq!(
            run(&[TEXT.as_bytes(), half], Completion::DoneOrReason, None),
            (TEXT.into(), Some(ErrorClass::Interrupted))
        );
        let (sent, end) = run(&[TEXT.as_bytes(), b"data: [DONE]"], Completion::DoneOrReason, None);
        assert_eq!((sent, end), (format!("{TEXT}{DONE}"), None));
    }

    #[test]
    fn usage_is_kept() {
        let mut relay = Relay::new("b", Completion::DoneOrReason);
        relay.arrived(STOP.into());
        assert_eq!(relay.usage(), Some(Usage { prompt_tokens: 1, completion_tokens: 2, ..Usage::default() }));
    }

    proptest! {
        #[test]
        fn any_split_comes_to_the_same(
            parts in proptest::collection::vec(
                prop_oneof![Just(ROLE), Just(TEXT), Just(STOP), Just(DONE), Just(ERROR), Just(": c\n\n")], 0..12),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..9),
        ) {
            let input = parts.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).chain([0, input.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
            for completion in [Completion::DoneOrReason, Completion::Reason, Completion::End] {
                prop_assert_eq!(run(&pieces, completion, None), run(&[&input], completion, None));
            }
        }
    }
}
