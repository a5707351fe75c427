//! A chat completion as it arrives, told in another dialect as it goes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::chat::{self, Piece};
use super::sse::{Framer, data_of};
use super::told::Told;

/// Tells an answer in one dialect.
///
/// The order of calls is any number of `piece` and `alive`, then one `end` or `fail`. What it writes is sent at once.
pub(crate) trait Writer: Send {
    /// The answer says this.
    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>);

    /// Nothing is said, and somebody still works on it. `comment` is the line that came for it.
    fn alive(&mut self, comment: &[u8], out: &mut Vec<u8>);

    /// The answer is complete.
    fn end(&mut self, out: &mut Vec<u8>);

    /// There is no more, and why.
    fn fail(&mut self, told: &Told, out: &mut Vec<u8>);

    /// Whether it has failed by itself: the answer said what the dialect has no words for. It has told so.
    fn has_failed(&self) -> bool;

    /// The whole answer in one piece, after `end`.
    ///
    /// # Errors
    ///
    /// When the answer says what the dialect has no words for.
    fn whole(&mut self) -> Result<Vec<u8>, Told>;
}

/// A streamed answer on its way from chat to another dialect. Works on bytes that are cut anywhere.
pub(crate) struct Transcript<W> {
    framer: Framer,
    writer: W,
    calls: CallNumbers,
    /// A reason to end was given.
    finished: bool,
    over: bool,
    failed: bool,
}

impl<W: Writer> Transcript<W> {
    /// Told by this writer.
    pub(crate) fn new(writer: W) -> Self {
        Self {
            framer: Framer::default(),
            writer,
            calls: CallNumbers::default(),
            finished: false,
            over: false,
            failed: false,
        }
    }

    /// Whether it has ended badly.
    pub(crate) const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Takes in what arrived, and gives what there is to send.
    pub(crate) fn push(&mut self, arrived: Bytes) -> Vec<u8> {
        let mut out = Vec::new();
        if self.over {
            return out;
        }
        match self.framer.push(arrived) {
            Ok(whole) => {
                let mut start = 0;
                for end in self.framer.ends().to_vec() {
                    self.event(&whole[start..end], &mut out);
                    start = end;
                }
            }
            Err(cause) => self.fail(&Told::backend(format!("the answer cannot be read: {cause}")), &mut out),
        }
        out
    }

    /// The answer's stream has ended.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let left = self.framer.finish();
        if !left.is_empty() {
            self.event(&left, &mut out);
        }
        if self.over {
            return out;
        }
        if self.finished {
            self.over = true;
            self.writer.end(&mut out);
        } else {
            self.fail(&Told::backend("the answer ended before it was complete"), &mut out);
        }
        out
    }

    fn event(&mut self, event: &[u8], out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        let Some(data) = data_of(event) else {
            return self.writer.alive(event, out);
        };
        if data.trim_ascii() == b"[DONE]" {
            self.over = true;
            return self.writer.end(out);
        }
        match chat::chunk(&data) {
            Ok(pieces) => {
                for piece in pieces {
                    self.finished |= matches!(piece, Piece::Finish { .. });
                    self.writer.piece(self.calls.number(piece), out);
                }
                self.failed = self.writer.has_failed();
                self.over = self.failed;
            }
            Err(told) => self.fail(&told, out),
        }
    }

    fn fail(&mut self, told: &Told, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.over, true) {
            self.failed = true;
            self.writer.fail(told, out);
        }
    }
}

/// Numbers the calls of a streamed answer. Some servers send each call as a whole and all of them with the same index, or
/// with none: what has another id and a name is another call.
#[derive(Debug, Default)]
struct CallNumbers {
    /// The last call of each index: its number, and its id.
    last: BTreeMap<u64, (u64, Option<String>)>,
    next: u64,
}

impl CallNumbers {
    fn number(&mut self, piece: Piece) -> Piece {
        let Piece::Call { index, id, name, arguments } = piece else { return piece };
        let known = self.last.get(&index).filter(|(_, known)| {
            // There are servers that make up an id for every piece of one call; only its first has a name.
            name.is_none() || id.is_none() || known.is_none() || *known == id
        });
        let number = match known {
            Some((number, _)) => *number,
            None => {
                self.next += 1;
                self.last.insert(index, (self.next - 1, id.clone()));
                self.next - 1
            }
        };
        Piece::Call { index: number, id, name, arguments }
    }
}

/// A whole chat completion in another dialect.
///
/// # Errors
///
/// When it is none, or says what the dialect has no words for.
pub(crate) fn retold(body: &[u8], mut writer: impl Writer) -> Result<Vec<u8>, Told> {
    let mut unsent = Vec::new();
    let mut calls = CallNumbers::default();
    for piece in chat::whole(body)? {
        writer.piece(calls.number(piece), &mut unsent);
        unsent.clear();
    }
    writer.end(&mut unsent);
    writer.whole()
}

/// Writes a server-sent event with a name.
pub(super) fn event(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// What a stream comes to, when it arrives in these two pieces.
    pub(in crate::dialect) fn run<W: Writer>(writer: W, pieces: &[&[u8]]) -> String {
        let mut transcript = Transcript::new(writer);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(transcript.push(Bytes::copy_from_slice(piece)));
        }
        out.extend(transcript.finish());
        String::from_utf8(out).expect("whole characters")
    }

    /// What a stream comes to, which must not depend on where it is cut.
    pub(in crate::dialect) fn run_at_all_cuts<W: Writer>(writer: impl Fn() -> W, stream: &str) -> String {
        let whole = run(writer(), &[stream.as_bytes()]);
        for cut in 0..stream.len() {
            let (head, tail) = stream.as_bytes().split_at(cut);
            assert_eq!(run(writer(), &[head, tail]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(run(writer(), &bytes), whole, "byte by byte");
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::testing::run;
    use super::*;

    #[test]
    fn calls_that_servers_do_not_number_are_told_apart() {
        let numbered = |calls: &[(u64, Option<&str>, Option<&str>)]| {
            let mut numbers = CallNumbers::default();
            let mut number = |&(index, id, name): &(u64, Option<&str>, Option<&str>)| {
                let (id, name) = (id.map(str::to_owned), name.map(str::to_owned));
                match numbers.number(Piece::Call { index, id, name, arguments: String::new() }) {
                    Piece::Call { index, .. } => index,
                    other => panic!("{other:?} is no call"),
                }
            };
            calls.iter().map(&mut number).collect::<Vec<_>>()
        };
        let (a, b, f, g) = (Some("a"), Some("b"), Some("f"), Some("g"));
        // As OpenAI has it; each call whole and with the same number; an id for every piece; none at all.
        assert_eq!(numbered(&[(0, a, f), (0, None, None), (1, b, g), (1, None, None)]), [0, 0, 1, 1]);
        assert_eq!(numbered(&[(0, a, f), (0, b, g), (0, None, None)]), [0, 1, 1]);
        assert_eq!(numbered(&[(0, a, f), (0, b, None), (0, Some("c"), None)]), [0, 0, 0]);
        assert_eq!(numbered(&[(0, None, f), (0, None, None), (1, None, g)]), [0, 0, 1]);
        assert_eq!(numbered(&[(0, a, f), (0, a, f)]), [0, 0]);
    }

    /// Tells what it is told.
    struct Echo;

    impl Writer for Echo {
        fn piece(&mut self, piece: Piece, out: &mut Vec<u8>) {
            if let Piece::Text(text) = piece {
                out.extend_from_slice(text.as_bytes());
            }
        }
        fn alive(&mut self, _: &[u8], out: &mut Vec<u8>) {
            out.push(b'.');
        }
        fn end(&mut self, out: &mut Vec<u8>) {
            out.extend_from_slice(b"|end");
        }
        fn fail(&mut self, told: &Told, out: &mut Vec<u8>) {
            out.extend_from_slice(format!("|{} {}", told.status, told.message).as_bytes());
        }
        fn has_failed(&self) -> bool {
            false
        }
        fn whole(&mut self) -> Result<Vec<u8>, Told> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn only_a_complete_answer_ends_well() {
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"é\"}}]}\n\n";
        let stop = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        let error = "data: {\"error\":{\"message\":\"boom\",\"type\":\"server_error\",\"code\":\"x\"}}\n\n";
        for (stream, said) in [
            (format!("{text}{stop}data: [DONE]\n\n{text}"), "é|end"),
            (format!(": keepalive\n\n{text}{stop}"), ".é|end"),
            (format!("{text}data: [DONE]"), "é|end"),
            (text.to_owned(), "é|502 the answer ended before it was complete"),
            (format!("{text}{error}{text}"), "é|502 boom"),
            (format!("{text}{stop}{error}"), "é|502 boom"),
            (format!("{text}data: {{oops\n\n"), "é|502 the backend answers with what is no chat completion"),
            (String::new(), "|502 the answer ended before it was complete"),
        ] {
            assert_eq!(run(Echo, &[stream.as_bytes()]), said, "{stream}");
        }
    }
}
