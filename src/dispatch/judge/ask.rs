//! One call for the vectors of some texts: OpenAI's embeddings, read with care.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::super::attempt::{self, Begun, Blame, Course, Limits};
use super::super::ways::Ways;
use crate::capability::{Call, Chunk, ErrorClass, Failure, Frame, Operation};
use crate::router::{Candidate, Observation};

/// Bytes of a text that are sent: more than embedders read (usually 512 tokens).
const TEXT_BYTES: usize = 2048;
/// Numbers of a vector: the largest embedders have as many.
pub(super) const LONGEST_VECTOR: usize = 4096;
/// Bytes of an answer: the longest vectors of a batch, twice.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of text in a token, by the usual rule.
const TOKEN_BYTES: usize = 4;

/// Why there are no vectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// They did not come in time.
    #[error("it said nothing in time")]
    Late,
    /// They did not come, or make no sense.
    #[error("{0}")]
    Failed(String),
}

/// A text as it is sent: its beginning, when it is long.
pub(super) fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES)]
}

/// What these texts are estimated to take, in tokens.
pub(super) fn tokens(texts: &[&str]) -> u32 {
    let tokens = texts.iter().map(|text| text.len().div_ceil(TOKEN_BYTES)).sum::<usize>();
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// The unit vector of each text, in order; all of one length, at most [`LONGEST_VECTOR`]. What the call tells of its node's speed
/// and health is noted as of any other call.
pub(super) async fn embed(
    ways: &Ways,
    candidate: &Candidate,
    texts: &[&str],
    within: Duration,
) -> Result<Vec<Vec<f32>>, Trouble> {
    let began = std::time::Instant::now();
    let deadline = Instant::now() + within;
    let (node, id) = (&candidate.node, &candidate.capability.id);
    let signals = ways.router.signals();
    let in_flight = signals.begin(node, id);
    let body = serde_json::json!({ "model": candidate.capability.name, "input": texts });
    let call = Call {
        id: uuid::Uuid::now_v7().simple().to_string(),
        capability: id.clone(),
        operation: Operation::Embed,
        payload: body.to_string().into(),
        content_type: "application/json".to_owned(),
        stream: false,
        deadline: within,
        headers: BTreeMap::new(),
    };
    let answer = whole(ways, candidate, call, deadline, within).await;
    drop(in_flight);
    let now = std::time::Instant::now();
    match answer {
        Ok((body, course)) => {
            let vectors = read(&body, texts.len()).map_err(|why| {
                signals.doubt_capability(node, id, began, now);
                Trouble::Failed(format!("its answer makes no sense: {why}"))
            })?;
            signals.succeed(node, id, observed(&course, texts), now);
            if let Some(load) = course.load {
                signals.observe_load(node, id, load, now);
            }
            Ok(vectors)
        }
        Err((_, Blame::Deadline)) => Err(Trouble::Late),
        Err((failure, blame)) => {
            match blame {
                Blame::Caller | Blame::Deadline => {}
                Blame::Busy(wait) => signals.rest_capability(node, id, wait, now),
                Blame::Either => signals.doubt_capability(node, id, began, now),
                Blame::Capability => signals.fail_capability(node, id, began, now),
                Blame::Node => signals.fail_node(node, began, now),
            }
            Err(Trouble::Failed(failure.message))
        }
    }
}

/// All of an answer, with how it went.
async fn whole(
    ways: &Ways,
    candidate: &Candidate,
    call: Call,
    deadline: Instant,
    within: Duration,
) -> Result<(Vec<u8>, Course), (Failure, Blame)> {
    let limits = Limits { deadline, open: within, silence: within, patience: None, stream: false };
    let opened = ways.open(candidate.node, call);
    let begun =
        attempt::begin(opened, limits, &|| (), &|_| ()).await.map_err(|failed| (failed.failure, failed.blame))?;
    let Begun { data, mut course, rest, .. } = begun;
    let mut body = data.concat();
    let Some(mut rest) = rest else { return Ok((body, course)) };
    let failed = |class, message: &str| Failure::new(class, message);
    loop {
        if body.len() > ANSWER_BYTES {
            return Err((failed(ErrorClass::Backend, "its answer is too long"), Blame::Either));
        }
        match timeout_at(deadline, rest.next()).await {
            Ok(Some(Frame::Chunk(Chunk { data, .. }))) => body.extend_from_slice(&data),
            Ok(Some(Frame::End { usage, load })) => {
                course.end(usage, load);
                return Ok((body, course));
            }
            Ok(Some(Frame::Error(failure))) => {
                let blame = attempt::blame(&failure, deadline);
                return Err((failure, blame));
            }
            Ok(Some(Frame::Accepted(_) | Frame::Progress(_) | Frame::Rejected(_))) => {}
            Ok(None) => return Err((failed(ErrorClass::Interrupted, "its answer broke off"), Blame::Node)),
            Err(_) => return Err((failed(ErrorClass::Timeout, "its time is over"), Blame::Deadline)),
        }
    }
}

fn observed(course: &Course, texts: &[&str]) -> Option<Observation> {
    Some(Observation {
        first_chunk: course.until_first_chunk()?,
        rest: Duration::ZERO,
        loading: course.loading,
        prompt_tokens: u64::from(tokens(texts)),
        completion_tokens: 0,
        streamed: false,
        decodes: false,
        first_ratio: None,
        company: course.company(),
        cached_tokens: None,
        warm_tokens: 0.0,
    })
}

/// The vectors of an answer with as many, in the order of its indices.
fn read(body: &[u8], count: usize) -> Result<Vec<Vec<f32>>, String> {
    #[derive(Deserialize)]
    struct Answer {
        data: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        index: Option<usize>,
        embedding: Vec<f32>,
    }
    let Answer { data } = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if data.len() != count {
        return Err(format!("it has {} vectors for {count} texts", data.len()));
    }
    let mut vectors = vec![Vec::new(); count];
    for (place, Item { index, mut embedding }) in data.into_iter().enumerate() {
        let index = index.unwrap_or(place);
        match vectors.get_mut(index) {
            Some(vector) if vector.is_empty() => {
                normalise(&mut embedding)?;
                *vector = embedding;
            }
            _ => return Err(format!("it has no place for a vector number {index}")),
        }
    }
    let length = vectors.first().map_or(0, Vec::len);
    if vectors.iter().any(|vector| vector.len() != length) {
        return Err("its vectors are of different lengths".to_owned());
    }
    Ok(vectors)
}

/// Scales to unit length. One without a direction stays as it is.
fn normalise(vector: &mut [f32]) -> Result<(), String> {
    if vector.is_empty() || vector.len() > LONGEST_VECTOR {
        return Err(format!("a vector of {} numbers; 1 to {LONGEST_VECTOR} are expected", vector.len()));
    }
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if !norm.is_finite() {
        return Err("a vector of no finite length".to_owned());
    }
    if norm > 1e-12 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vectors_are_read_in_the_order_of_their_indices() {
        let body =
            br#"{"object":"list","data":[{"index":1,"embedding":[0,2]},{"index":0,"embedding":[3,4]}],"model":"m"}"#;
        assert_eq!(read(body, 2), Ok(vec![vec![0.6, 0.8], vec![0.0, 1.0]]));
        let body = br#"{"data":[{"embedding":[0]},{"embedding":[5]}]}"#;
        assert_eq!(read(body, 2), Ok(vec![vec![0.0], vec![1.0]]), "in their own order without indices");
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_told_and_not_used() {
        let long = format!(r#"{{"data":[{{"embedding":[{}1]}}]}}"#, "1,".repeat(LONGEST_VECTOR));
        for (body, count, why) in [
            (r#"{"data":[]}"#, 1, "0 vectors for 1 texts"),
            (r#"{"data":[{"embedding":[1]}]}"#, 2, "1 vectors for 2 texts"),
            (r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#, 2, "number 0"),
            (r#"{"data":[{"index":7,"embedding":[1]}]}"#, 1, "number 7"),
            (r#"{"data":[{"embedding":[1]},{"embedding":[1,2]}]}"#, 2, "different lengths"),
            (r#"{"data":[{"embedding":[]}]}"#, 1, "of 0 numbers"),
            (r#"{"data":[{"embedding":[1e39]}]}"#, 1, "no finite length"),
            (r#"{"data":[{"embedding":"AAAA"}]}"#, 1, "invalid type"),
            (&long, 1, "of 4097 numbers"),
            ("<html>", 1, "expected value"),
        ] {
            let told = read(body.as_bytes(), count).expect_err(why);
            assert!(told.contains(why), "{why:?} is missing in {told:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200), count in 0usize..4) {
            let _ = read(&body, count);
        }

        #[test]
        fn a_long_text_is_cut_between_letters(text in "\\PC{0,3000}") {
            prop_assert!(shortened(&text).len() <= TEXT_BYTES && text.starts_with(shortened(&text)));
        }
    }
}
