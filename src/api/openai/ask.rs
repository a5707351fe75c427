//! A request becomes an intent.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;

use super::request::{self, BadBody, Judged};
use super::reuse::reuse_of;
use crate::api::error::ApiError;
use crate::capability::{Handling, Intent, Operation, Preference, Target};

const X_ATMOSPHERE_TIMEOUT: &str = "x-atmosphere-timeout";
const X_ATMOSPHERE_PREFER: &str = "x-atmosphere-prefer";
const X_ATMOSPHERE_FAILOVER: &str = "x-atmosphere-failover";
const X_ATMOSPHERE_HEDGE: &str = "x-atmosphere-hedge";
/// Headers that are handed on to whoever answers. Never the client's authorisation: it is for this node.
const HANDED_ON: [&str; 3] = ["traceparent", "tracestate", "anthropic-beta"];
/// Bytes of a header that is handed on: what W3C's trace context asks to carry at least.
const MAX_HANDED_ON: usize = 512;
/// The least time that a request can ask for; less could only be a mistake.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// The intent of a request with this body and these headers.
pub(crate) fn intent(
    operation: Operation,
    headers: &HeaderMap,
    request_id: &HeaderValue,
    body: Bytes,
    longest: Duration,
) -> Result<Intent, ApiError> {
    let read = match operation {
        Operation::Complete => request::completion(&body),
        Operation::Embed => request::embedding(&body),
        _ => request::chat(&body),
    };
    make(operation, headers, request_id, body, longest, read.map_err(refuse)?)
}

fn make(
    operation: Operation,
    headers: &HeaderMap,
    request_id: &HeaderValue,
    body: Bytes,
    longest: Duration,
    read: request::Request,
) -> Result<Intent, ApiError> {
    Ok(Intent {
        request_id: request_id.to_str().unwrap_or_default().to_owned(),
        operation,
        target: Target::from_model(read.model.as_deref()),
        requirements: read.requirements,
        preference: preference_of(headers)?,
        query: read.query,
        payload: body,
        content_type: "application/json".to_owned(),
        deadline: timeout_of(headers, longest)?,
        headers: handed_on(headers),
        reuse: reuse_of(headers)?,
        handling: Handling {
            failover: switch_of(headers, X_ATMOSPHERE_FAILOVER)?,
            hedge: switch_of(headers, X_ATMOSPHERE_HEDGE)?,
        },
        prefix: read.prefix,
        whereabouts: None,
    })
}

/// The intent of a body that is judged and not run: one of chat, completion or embedding, or a bare prompt.
pub(crate) fn judged_intent(
    headers: &HeaderMap,
    request_id: &HeaderValue,
    body: Bytes,
    longest: Duration,
) -> Result<Intent, ApiError> {
    match request::judged(&body).map_err(refuse)? {
        Judged::As(operation) => intent(operation, headers, request_id, body, longest),
        Judged::Prompt => {
            let read = request::prompt_as_chat(&body).map_err(refuse)?;
            make(Operation::Chat, headers, request_id, body, longest, read)
        }
    }
}

fn refuse(bad: BadBody) -> ApiError {
    let error = ApiError::bad_request(bad.message);
    match bad.param {
        Some(param) => error.param(param),
        None => error,
    }
}

/// Seconds, such as `30` or `2.5`, or with units, such as `1m 30s`.
fn timeout_of(headers: &HeaderMap, longest: Duration) -> Result<Duration, ApiError> {
    let Some(value) = headers.get(X_ATMOSPHERE_TIMEOUT) else { return Ok(longest) };
    let text = value.to_str().unwrap_or_default().trim();
    let asked = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    match asked {
        Some(asked) if asked >= MIN_TIMEOUT => Ok(asked.min(longest)),
        _ => Err(ApiError::bad_request("x-atmosphere-timeout is no time: send seconds, such as 30, or 1m30s")
            .param(X_ATMOSPHERE_TIMEOUT)),
    }
}

fn preference_of(headers: &HeaderMap) -> Result<Preference, ApiError> {
    let Some(value) = headers.get(X_ATMOSPHERE_PREFER) else { return Ok(Preference::Balanced) };
    let text = value.to_str().unwrap_or_default().trim();
    match text.to_ascii_lowercase().as_str() {
        "balanced" => Ok(Preference::Balanced),
        "latency" => Ok(Preference::Latency),
        "accuracy" => Ok(Preference::Accuracy),
        "location" => Ok(Preference::Location),
        _ => Err(ApiError::bad_request("x-atmosphere-prefer is one of latency, accuracy, location and balanced")
            .param(X_ATMOSPHERE_PREFER)),
    }
}

/// `on` or `off`; nothing leaves it to the owner's settings.
fn switch_of(headers: &HeaderMap, name: &'static str) -> Result<Option<bool>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "1" => Ok(Some(true)),
        "off" | "false" | "0" => Ok(Some(false)),
        _ => Err(ApiError::bad_request(format!("{name} is on or off")).param(name)),
    }
}

fn handed_on(headers: &HeaderMap) -> BTreeMap<String, String> {
    HANDED_ON
        .iter()
        .filter_map(|name| {
            let value = headers.get(*name)?.to_str().ok()?;
            (value.len() <= MAX_HANDED_ON).then(|| ((*name).to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &'static str, value: &str) -> Result<Intent, ApiError> {
        let headers = HeaderMap::from_iter([(
            axum::http::HeaderName::from_static(name),
            HeaderValue::from_str(value).expect("a value"),
        )]);
        let body = Bytes::from_static(br#"{"messages":[{"role":"user","content":"hi"}]}"#);
        intent(Operation::Chat, &headers, &HeaderValue::from_static("r"), body, Duration::from_secs(600))
    }

    #[test]
    fn a_request_sets_its_time_within_the_owners_bound() {
        for (value, millis) in [("30", 30_000), ("2.5", 2_500), ("1m 30s", 90_000), ("250ms", 250), ("2h", 600_000)] {
            let intent = asked(X_ATMOSPHERE_TIMEOUT, value).expect(value);
            assert_eq!(intent.deadline, Duration::from_millis(millis), "{value}");
        }
        for bad in ["", "soon", "-1", "0", "NaN", "inf"] {
            assert!(asked(X_ATMOSPHERE_TIMEOUT, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_says_what_matters_to_it() {
        assert_eq!(asked(X_ATMOSPHERE_PREFER, "latency").expect("known").preference, Preference::Latency);
        assert!(asked(X_ATMOSPHERE_PREFER, "cheap").is_err());
    }

    #[test]
    fn a_request_switches_failover_and_hedging() {
        for (value, is) in [("on", Some(true)), ("OFF", Some(false)), ("0", Some(false))] {
            assert_eq!(asked(X_ATMOSPHERE_FAILOVER, value).expect("known").handling.failover, is);
            assert_eq!(asked(X_ATMOSPHERE_HEDGE, value).expect("known").handling.hedge, is);
        }
        assert_eq!(asked("accept", "*/*").expect("fine").handling, Handling::default());
        assert!(asked(X_ATMOSPHERE_FAILOVER, "perhaps").is_err());
    }

    #[test]
    fn only_the_trace_and_the_like_are_handed_on() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(asked("traceparent", trace).expect("fine").headers["traceparent"], trace);
        assert!(asked("authorization", "Bearer sk-1").expect("fine").headers.is_empty());
        assert!(asked("traceparent", &"x".repeat(600)).expect("fine").headers.is_empty());
    }
}
