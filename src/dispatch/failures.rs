//! What a caller is told when nobody answered. Pure.

use crate::capability::{ErrorClass, Failure, Rejection};
use crate::router::{Decision, NoRoute, Step};

/// The refusal as a failure: with a time to come again it is overload, without one nothing is to be had there.
pub(super) fn of_rejection(rejection: Rejection) -> Failure {
    let class = if rejection.retry_after.is_some() { ErrorClass::Overloaded } else { ErrorClass::Unavailable };
    Failure { retry_after: rejection.retry_after, ..Failure::new(class, rejection.reason) }
}

/// The failure of a decision without a candidate.
pub(super) fn of_no_route(no_route: &NoRoute, decision: &Decision) -> Failure {
    let message = no_route.to_string();
    let with = |class, status, code: &str| Failure {
        status,
        code: Some(code.to_owned()),
        ..Failure::new(class, message.clone())
    };
    match no_route {
        NoRoute::UnknownModel { .. } => with(ErrorClass::Request, 404, "model_not_found"),
        NoRoute::UnknownNode { .. } => with(ErrorClass::Request, 404, "node_not_found"),
        // What the mesh lacks today it may have tomorrow; what a named model lacks, it lacks.
        NoRoute::NothingCan(_) if matches!(decision.step, Step::Auto | Step::Alias) => {
            with(ErrorClass::Unavailable, 503, "no_capability")
        }
        NoRoute::NothingCan(_) => {
            let too_long = |reason: &str| reason.starts_with("its context of");
            let code = if !decision.rejected.is_empty() && decision.rejected.iter().all(|one| too_long(&one.reason)) {
                "context_length_exceeded"
            } else {
                "unsupported_by_model"
            };
            with(ErrorClass::Request, 400, code)
        }
        NoRoute::AllCooling { retry_after } => {
            Failure { retry_after: Some(*retry_after), ..with(ErrorClass::Unavailable, 503, "all_candidates_failed") }
        }
    }
}

/// One failure for several attempts, each with whom it was tried on: overload with a time to come again tells the
/// most, else the last; the message names each. A single one is passed on with its backend's own words.
pub(super) fn most_useful(mut attempts: Vec<(String, Failure)>) -> Failure {
    let told = |failure: &Failure| failure.class == ErrorClass::Overloaded && failure.retry_after.is_some();
    match attempts.len() {
        0 => Failure::new(ErrorClass::Internal, "there was a decision, and nobody was tried"),
        1 => {
            let (who, mut failure) = attempts.remove(0);
            if failure.body.is_none() {
                failure.message = format!("{who}: {}", failure.message);
            }
            failure
        }
        count => {
            let each: Vec<_> = attempts.iter().map(|(who, failure)| format!("{who}: {}", failure.message)).collect();
            let message = format!("{count} were tried and failed: {}", each.join("; "));
            let best = attempts
                .iter()
                .filter(|(_, failure)| told(failure))
                // The soonest of those who said when.
                .min_by_key(|(_, failure)| failure.retry_after)
                .or(attempts.last());
            let (class, status, code, retry_after) = best.map_or((ErrorClass::Internal, 500, None, None), |(_, f)| {
                (f.class, f.status, f.code.clone(), f.retry_after)
            });
            Failure { class, status, message, code, retry_after, body: None }
        }
    }
}

/// Whether a first piece of a stream is an error event and no content.
pub(super) fn is_error_event(data: &[u8]) -> bool {
    let data = data.trim_ascii_start();
    let data = match data.strip_prefix(b"event: error") {
        Some(rest) => rest.trim_ascii_start(),
        None => data,
    };
    let Some(json) = data.strip_prefix(b"data:") else { return false };
    json.trim_ascii_start().strip_prefix(b"{").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"\"error\""))
}

/// Whether a piece of a stream is nothing but comments, which keep a connection alive and answer nothing.
pub(super) fn is_comment(data: &[u8]) -> bool {
    data.split(|byte| *byte == b'\n').all(|line| matches!(line, [] | [b'\r'] | [b':', ..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn busy(seconds: u64) -> Failure {
        Failure { retry_after: Some(Duration::from_secs(seconds)), ..Failure::new(ErrorClass::Overloaded, "busy") }
    }

    #[test]
    fn overload_with_a_time_beats_the_rest_and_the_soonest_wins() {
        let gone = || Failure::new(ErrorClass::Unavailable, "gone");
        let told = most_useful(vec![("a".into(), busy(9)), ("b".into(), busy(3)), ("c".into(), gone())]);
        assert_eq!(
            (told.class, told.status, told.retry_after),
            (ErrorClass::Overloaded, 503, Some(Duration::from_secs(3)))
        );
        assert_eq!(told.message, "3 were tried and failed: a: busy; b: busy; c: gone");
        let told = most_useful(vec![("a".into(), gone()), ("b".into(), Failure::new(ErrorClass::Backend, "broken"))]);
        assert_eq!((told.class, told.status), (ErrorClass::Backend, 502));
    }

    #[test]
    fn a_single_failure_keeps_the_backends_own_words() {
        let body = Some((bytes::Bytes::from_static(b"{}"), "application/json".to_owned()));
        let failure = Failure { status: 500, body, ..Failure::new(ErrorClass::Backend, "broken") };
        assert_eq!(most_useful(vec![("a".into(), failure.clone())]), failure);
        assert_eq!(most_useful(vec![("a".into(), busy(1))]).message, "a: busy");
    }

    #[test]
    fn an_error_event_or_a_comment_is_no_content() {
        for (data, error, comment) in [
            ("data: {\"error\":{\"message\":\"x\"}}\n\n", true, false),
            ("event: error\ndata: { \"error\": 1}\n\n", true, false),
            ("data: {\"choices\":[],\"error\":null}\n\n", false, false),
            (": keepalive\n\n", false, true),
            (": a\r\n\r\n", false, true),
            (": a\ndata: {}\n\n", false, false),
            ("{\"error\":1}", false, false),
        ] {
            assert_eq!(is_error_event(data.as_bytes()), error, "{data:?}");
            assert_eq!(is_comment(data.as_bytes()), comment, "{data:?}");
        }
    }
}
