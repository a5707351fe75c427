//! Cuts a stream of server-sent events between events, and never inside one.
//!
//! Works on bytes: a character that arrives in two halves is in one event, so it is never split. All three
//! line ends count (LF, CR LF, CR), also mixed; comments and multi-line data pass as they are. What arrives
//! whole is handed on without a copy. Pure; reading meaning into events is `inspect`'s.

use bytes::{Bytes, BytesMut};

/// Longest event. An image in base64 fits, a backend that never ends an event does not.
pub(crate) const EVENT_BYTES: usize = 8 * 1024 * 1024;

/// An event is longer than [`EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES} bytes")]
pub(crate) struct TooLong;

/// Cuts a stream of server-sent events between events.
#[derive(Debug)]
pub(crate) struct Framer {
    /// The beginning of an event whose end has not come.
    pending: BytesMut,
    /// Whether the line that comes next, or is being read, has no bytes so far.
    line_is_empty: bool,
    /// Whether the last byte seen was a carriage return: a line feed after it belongs to it.
    after_cr: bool,
    /// Ends of the events in what [`Framer::push`] returned.
    ends: Vec<usize>,
    most: usize,
}

impl Default for Framer {
    fn default() -> Self {
        Self::with_limit(EVENT_BYTES)
    }
}

impl Framer {
    fn with_limit(most: usize) -> Self {
        Self { pending: BytesMut::new(), line_is_empty: true, after_cr: false, ends: Vec::new(), most }
    }

    /// Takes in what arrived and returns all events that are complete now, as one piece; [`Framer::ends`]
    /// says where each ends. Empty while no event is complete.
    ///
    /// # Errors
    ///
    /// When an event does not end within the limit. The stream cannot be used any more.
    pub(crate) fn push(&mut self, mut arrived: Bytes) -> Result<Bytes, TooLong> {
        let known = self.pending.len();
        self.scan(known, &arrived);
        let Some(&cut) = self.ends.last() else {
            if known + arrived.len() > self.most {
                return Err(TooLong);
            }
            self.pending.extend_from_slice(&arrived);
            return Ok(Bytes::new());
        };
        // The end of the last event lies in what arrived: what was pending had none.
        let rest = arrived.split_off(cut - known);
        let whole = if known == 0 {
            arrived
        } else {
            self.pending.extend_from_slice(&arrived);
            self.pending.split().freeze()
        };
        if rest.len() > self.most {
            return Err(TooLong);
        }
        self.pending.extend_from_slice(&rest);
        Ok(whole)
    }

    /// Ends of the events in what the last [`Framer::push`] returned, in order.
    pub(crate) fn ends(&self) -> &[usize] {
        &self.ends
    }

    /// What is left when the stream has ended: an event without its final blank line, or a broken one. The
    /// blank line is added. Empty when nothing but line ends is left.
    pub(crate) fn finish(&mut self) -> Bytes {
        let mut left = std::mem::take(&mut self.pending);
        if left.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            return Bytes::new();
        }
        // After a CR the first line feed would only complete the line end.
        left.extend_from_slice(if self.line_is_empty && !self.after_cr { b"\n" } else { b"\n\n" });
        left.freeze()
    }

    /// Finds the ends of events in `arrived`, which follows on `known` bytes that hold none.
    fn scan(&mut self, known: usize, arrived: &[u8]) {
        self.ends.clear();
        let mut at = 0;
        for end in memchr::memchr2_iter(b'\n', b'\r', arrived) {
            if end > at {
                self.line_is_empty = false;
                self.after_cr = false;
            }
            let is_cr = arrived[end] == b'\r';
            at = end + 1;
            if self.after_cr && !is_cr {
                // The second half of CR LF. When the CR ended an event, this byte belongs to that event; when
                // the event has been handed on already, it goes after it on its own.
                self.after_cr = false;
                if self.ends.last() == Some(&(known + end)) {
                    self.ends.pop();
                    self.ends.push(known + at);
                } else if known == 0 && end == 0 {
                    self.ends.push(at);
                }
                continue;
            }
            if self.line_is_empty {
                self.ends.push(known + at);
            }
            self.line_is_empty = true;
            self.after_cr = is_cr;
        }
        if at < arrived.len() {
            self.line_is_empty = false;
            self.after_cr = false;
        }
    }
}

/// The data of an event: its `data` lines, joined by line feeds. `None` when it has none, as a comment.
/// A single line, which is the rule, is not copied.
pub(crate) fn data_of(event: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    use std::borrow::Cow;

    let mut data: Option<Cow<'_, [u8]>> = None;
    let mut start = 0;
    for end in memchr::memchr2_iter(b'\n', b'\r', event).chain([event.len()]) {
        let line = &event[start..end];
        start = end + 1;
        let Some(value) = line.strip_prefix(b"data") else { continue };
        let value = match value {
            [] => value,
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            _ => continue,
        };
        data = Some(match data {
            None => Cow::Borrowed(value),
            Some(before) => {
                let mut joined = before.into_owned();
                joined.push(b'\n');
                joined.extend_from_slice(value);
                Cow::Owned(joined)
            }
        });
    }
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of all events, and all bytes, when `input` arrives in pieces that end at `cuts`.
    fn run(input: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut framer, mut events, mut bytes) = (Framer::default(), Vec::new(), Vec::new());
        let mut from = 0;
        for to in cuts.iter().copied().chain([input.len()]) {
            let whole = framer.push(Bytes::copy_from_slice(&input[from..to])).expect("short events");
            let mut start = 0;
            for end in framer.ends() {
                events.extend(data_of(&whole[start..*end]).map(std::borrow::Cow::into_owned));
                start = *end;
            }
            assert_eq!(start, whole.len(), "a piece ends with its last event");
            bytes.extend_from_slice(&whole);
            from = to;
        }
        let left = framer.finish();
        events.extend(data_of(&left).map(std::borrow::Cow::into_owned));
        bytes.extend_from_slice(&left);
        (events, bytes)
    }

    #[test]
    fn events_end_at_blank_lines_of_any_kind() {
        for line_end in ["\n", "\r\n", "\r"] {
            let input =
                ["data: {\"a\":1}", "", ": ping", "", "event: x", "data:b", "data: c", "", "", "data: [DONE]", "", ""];
            let input = input.join(line_end);
            let (events, bytes) = run(input.as_bytes(), &[]);
            assert_eq!(events, [&b"{\"a\":1}"[..], b"b\nc", b"[DONE]"], "{line_end:?}");
            assert_eq!(bytes, input.as_bytes());
        }
    }

    #[test]
    fn a_missing_final_blank_line_is_added() {
        for end in ["", "\n", "\r\n"] {
            let (events, bytes) = run(format!("data: a\n\ndata: b{end}").as_bytes(), &[]);
            assert_eq!(events, [b"a", b"b"], "{end:?}");
            assert!(bytes.ends_with(b"\n\n") || bytes.ends_with(b"\r\n\n"), "{end:?}");
        }
    }

    #[test]
    fn whole_events_are_not_copied_and_parts_wait() {
        let mut framer = Framer::default();
        let arrived = Bytes::from_static(b"data: a\n\ndata: b\n\ndata: \xe2\x82");
        let whole = framer.push(arrived.clone()).expect("short");
        assert_eq!((whole.as_ptr(), &whole[..]), (arrived.as_ptr(), &b"data: a\n\ndata: b\n\n"[..]));
        assert_eq!(framer.ends(), [9, 18]);
        assert_eq!(framer.push(Bytes::from_static(b"\xac\n")).expect("short"), "");
        assert_eq!(framer.push(Bytes::from_static(b"\n")).expect("short"), "data: €\n\n");
    }

    #[test]
    fn an_event_that_does_not_end_is_refused() {
        let mut framer = Framer::with_limit(10);
        assert!(framer.push(Bytes::from_static(b"data: 123")).is_ok());
        assert_eq!(framer.push(Bytes::from_static(b"45")), Err(TooLong));
        let mut framer = Framer::with_limit(10);
        assert_eq!(framer.push(Bytes::from_static(b"data: a\n\ndata: 1234567")), Err(TooLong));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("data: "), Just("data:é€𝄞"), Just("{\"x\":1}"), Just("\n"), Just("\r\n"), Just("\r"),
                    Just("\n\n"), Just("\r\n\r\n"), Just(": c"), Just("id: 7"), Just("data: [DONE]"),
                ],
                0..40,
            ),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let input = parts.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
            cuts.sort_unstable();
            let whole = run(&input, &[]);
            let split = run(&input, &cuts);
            prop_assert_eq!(&whole.0, &split.0);
            // Every byte arrives, and at most the missing blank line more.
            prop_assert!(split.1.starts_with(&input) || input.starts_with(&split.1));
            prop_assert!(split.1.len() <= input.len() + 2);
        }
    }
}
