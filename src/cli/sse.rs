//! Server-sent events: bytes in, the data of whole events out. Pure.
//!
//! Works on bytes, since a chunk may end in the middle of a character or of a line end.

use bytes::BytesMut;

/// Longest event: a picture in a message fits.
const MAX_EVENT_BYTES: usize = 32 << 20;

/// Takes bytes as they come and gives events as they are whole.
#[derive(Debug, Default)]
pub(super) struct Events {
    buffer: BytesMut,
    data: Vec<u8>,
    has_data: bool,
    /// The last comment that has not been asked for.
    comment: Option<String>,
}

/// An event is longer than anything that a model says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {} MiB", MAX_EVENT_BYTES >> 20)]
pub(super) struct TooLong;

impl Events {
    /// Adds bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.buffer.len() + self.data.len() + bytes.len() > MAX_EVENT_BYTES {
            return Err(TooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The data of the next whole event.
    pub(super) fn next_event(&mut self) -> Option<Vec<u8>> {
        while let Some(end) = memchr::memchr(b'\n', &self.buffer) {
            let line = self.buffer.split_to(end + 1);
            let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
            if let Some(comment) = line.strip_prefix(b":") {
                self.comment = Some(String::from_utf8_lossy(comment).trim().to_owned());
                continue;
            }
            if let Some(event) = take_line(line, &mut self.data, &mut self.has_data) {
                return Some(event);
            }
        }
        None
    }

    /// The last comment that came since this was asked.
    pub(super) fn comment(&mut self) -> Option<String> {
        self.comment.take()
    }

    /// The data of the last event when the stream ended without the blank line after it.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        let line = self.buffer.split();
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        take_line(line, &mut self.data, &mut self.has_data)
            .or_else(|| std::mem::take(&mut self.has_data).then(|| std::mem::take(&mut self.data)))
    }
}

/// One line: more data, the end of an event, or what is of no interest here (comments, other fields).
fn take_line(line: &[u8], data: &mut Vec<u8>, has_data: &mut bool) -> Option<Vec<u8>> {
    if line.is_empty() {
        return std::mem::take(has_data).then(|| std::mem::take(data));
    }
    if let Some(value) = line.strip_prefix(b"data:") {
        if *has_data {
            data.push(b'\n');
        }
        data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        *has_data = true;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(parts: &[&[u8]]) -> Vec<String> {
        let mut events = Events::default();
        let mut found = Vec::new();
        for part in parts {
            events.push(part).expect("short");
            found.extend(std::iter::from_fn(|| events.next_event()));
        }
        found.extend(events.finish());
        found.into_iter().map(|event| String::from_utf8(event).expect("text")).collect()
    }

    const STREAM: &str = ": hello\n\ndata: {\"a\":\"ä\"}\r\n\r\nevent: x\ndata:one\ndata: two\n\n\ndata: [DONE]";

    #[test]
    fn events_are_whole_and_comments_are_none() {
        assert_eq!(all(&[STREAM.as_bytes()]), ["{\"a\":\"ä\"}", "one\ntwo", "[DONE]"]);
        assert_eq!(all(&[b""]), Vec::<String>::new());
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::default();
        let part = vec![b'x'; 1 << 20];
        assert!((0..64).any(|_| events.push(&part) == Err(TooLong)));
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_split_does_not_matter(cuts in proptest::collection::vec(0..STREAM.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([STREAM.len()]) {
                parts.push(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            prop_assert_eq!(all(&parts), all(&[STREAM.as_bytes()]));
        }
    }
}
