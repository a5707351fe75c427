//! What a client says over the socket: JSON text in, a wish out. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::filter::Filter;
use crate::api::auth;
use crate::api::error::ApiError;
use crate::capability::Operation;

/// Bytes of an id: a UUID fits several times.
const MAX_ID: usize = 128;
/// Headers of a request; those that there are could be counted on two hands.
const MAX_HEADERS: usize = 32;

/// What can be asked over the socket, by the route that it has otherwise.
pub(super) const PATHS: [(&str, Operation); 3] = [
    ("/v1/chat/completions", Operation::Chat),
    ("/v1/completions", Operation::Complete),
    ("/v1/embeddings", Operation::Embed),
];

/// What a client wants.
#[derive(Debug)]
pub(super) enum Asked {
    /// Events of these kinds from now on, and no others.
    Subscribe(Filter),
    /// An answer.
    Request(Request),
    /// No answer any more to the request of this id.
    Cancel(String),
}

/// A request to a model.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) operation: Operation,
    /// What would be headers of the HTTP request, without those that say who asks.
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A message that cannot be understood.
#[derive(Debug)]
pub(super) struct Bad {
    /// The id that it has all the same.
    pub(super) id: Option<String>,
    pub(super) error: ApiError,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    id: Option<String>,
    events: Option<Vec<String>>,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    headers: Option<BTreeMap<String, String>>,
}

/// Reads a message.
pub(super) fn read(message: &Bytes) -> Result<Asked, Bad> {
    let wire: Wire<'_> = match serde_json::from_slice(message) {
        Ok(wire) => wire,
        Err(error) => return Err(Bad { id: id_of(message), error: unreadable(&error) }),
    };
    let id = wire.id.clone();
    let asked = match wire.kind.as_deref() {
        Some("subscribe") => subscribe(wire),
        Some("request") => request(wire, message),
        Some("cancel") => id_from(wire.id).map(Asked::Cancel),
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            Err(bad(format!("{shown:?} is no type of message; there are subscribe, request and cancel"), "type"))
        }
        None => Err(bad("the message has no type: subscribe, request or cancel".to_owned(), "type")),
    };
    asked.map_err(|error| Bad { id: id.filter(|id| id.len() <= MAX_ID), error })
}

fn subscribe(wire: Wire<'_>) -> Result<Asked, ApiError> {
    let Some(patterns) = wire.events else {
        return Err(bad(
            "name the events: {\"type\":\"subscribe\",\"events\":[\"node.*\",\"decision\"]}".to_owned(),
            "events",
        ));
    };
    Filter::of(patterns).map(Asked::Subscribe).map_err(|unknown| bad(unknown.to_string(), "events"))
}

fn request(wire: Wire<'_>, message: &Bytes) -> Result<Asked, ApiError> {
    let id = id_from(wire.id)?;
    let known = || PATHS.map(|(path, _)| path).join(", ");
    let Some(path) = wire.path else {
        return Err(bad(format!("name the path of the request, one of {}", known()), "path"));
    };
    let Some((_, operation)) = PATHS.into_iter().find(|(known, _)| *known == path) else {
        let shown: String = path.chars().take(100).collect();
        return Err(bad(format!("{shown:?} cannot be asked over this socket; there are {}", known()), "path"));
    };
    let Some(body) = wire.body else {
        return Err(bad(format!("the request has no body: send what POST {path} takes"), "body"));
    };
    let headers = headers(wire.headers.unwrap_or_default())?;
    Ok(Asked::Request(Request { id, operation, headers, body: message.slice_ref(body.get().as_bytes()) }))
}

fn headers(given: BTreeMap<String, String>) -> Result<HeaderMap, ApiError> {
    if given.len() > MAX_HEADERS {
        return Err(bad(format!("a request has {MAX_HEADERS} headers at the most"), "headers"));
    }
    let mut headers = HeaderMap::with_capacity(given.len());
    for (name, value) in given {
        let shown: String = name.chars().take(100).collect();
        let wrong = |why: &str| bad(format!("the header {shown:?} {why}"), "headers");
        let name = HeaderName::try_from(&*name).map_err(|_| wrong("has no name of a header"))?;
        if auth::names_a_key(&name) {
            return Err(wrong("is not taken here: what counts is the key that the socket was opened with"));
        }
        headers.insert(name, HeaderValue::try_from(value).map_err(|_| wrong("has a value that no header can have"))?);
    }
    Ok(headers)
}

fn id_from(id: Option<String>) -> Result<String, ApiError> {
    match id {
        None => Err(bad("the message has no id: any text that you know the answer by".to_owned(), "id")),
        Some(id) if id.is_empty() || id.len() > MAX_ID => Err(bad(format!("an id has 1 to {MAX_ID} bytes"), "id")),
        Some(id) => Ok(id),
    }
}

fn bad(message: String, param: &str) -> ApiError {
    ApiError::bad_request(message).param(param)
}

fn unreadable(error: &serde_json::Error) -> ApiError {
    let shown: String = error.to_string().chars().take(200).collect();
    let what = if error.is_data() { "is not as it should be" } else { "is not JSON" };
    ApiError::bad_request(format!("the message {what}: {shown}"))
}

/// The id of a message that is wrong elsewhere.
fn id_of(message: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: Option<String>,
    }
    let Named { id } = serde_json::from_slice(message).ok()?;
    id.filter(|id| id.len() <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read_text(text: impl Into<Bytes>) -> Result<Asked, Bad> {
        read(&text.into())
    }

    #[test]
    fn a_request_keeps_its_body_byte_for_byte() {
        let body = "{ \"model\":\"m\" , \"made_up\": 1.50,\"messages\":[]}";
        let text = format!(
            r#"{{"headers":{{"x-atmosphere-timeout":"30"}},"type":"request","id":"a","path":"/v1/completions","body":{body}}}"#
        );
        let Ok(Asked::Request(request)) = read_text(text) else { panic!("a request") };
        assert_eq!((request.id.as_str(), request.operation), ("a", Operation::Complete));
        assert_eq!(request.body, body.as_bytes());
        assert_eq!(request.headers["x-atmosphere-timeout"], "30");
    }

    #[test]
    fn wishes_are_told_apart() {
        assert!(matches!(read_text(r#"{"type":"cancel","id":"a"}"#), Ok(Asked::Cancel(id)) if id == "a"));
        let Ok(Asked::Subscribe(filter)) = read_text(r#"{"type":"subscribe","events":["node.*"],"more":1}"#) else {
            panic!("a subscription")
        };
        assert!(filter.takes("node.left") && !filter.takes("decision"));
        assert!(
            matches!(read_text(r#"{"type":"subscribe","events":[]}"#), Ok(Asked::Subscribe(none)) if none.is_empty())
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_the_id_if_there_is_one() {
        let long = "x".repeat(129);
        for (message, id, param, said) in [
            ("{".to_owned(), None, None, "not JSON"),
            ("[]".to_owned(), None, None, "not as it should be"),
            ("\"x\"".to_owned(), None, None, "not as it should be"),
            (json!({"id": "a"}).to_string(), Some("a"), Some("type"), "no type"),
            (json!({"id": "a", "type": "ask"}).to_string(), Some("a"), Some("type"), "no type of message"),
            (json!({"id": "a", "type": 7}).to_string(), Some("a"), None, "not as it should be"),
            (json!({"id": 7, "type": "cancel"}).to_string(), None, None, "not as it should be"),
            (json!({"type": "cancel"}).to_string(), None, Some("id"), "no id"),
            (json!({"type": "cancel", "id": long}).to_string(), None, Some("id"), "1 to 128"),
            (json!({"type": "cancel", "id": ""}).to_string(), Some(""), Some("id"), "1 to 128"),
            (json!({"type": "subscribe"}).to_string(), None, Some("events"), "name the events"),
            (json!({"type": "subscribe", "events": ["nodes"]}).to_string(), None, Some("events"), "node.joined"),
            (json!({"type": "request", "id": "a"}).to_string(), Some("a"), Some("path"), "/v1/embeddings"),
            (json!({"type": "request", "id": "a", "path": "/v1/x"}).to_string(), Some("a"), Some("path"), "\"/v1/x\""),
            (json!({"type": "request", "id": "a", "path": "/v1/embeddings"}).to_string(), Some("a"), Some("body"), "no body"),
            (
                json!({"type": "request", "id": "a", "path": "/v1/embeddings", "body": {}, "headers": {"Authorization": "x"}})
                    .to_string(),
                Some("a"),
                Some("headers"),
                "the socket was opened with",
            ),
            (
                json!({"type": "request", "id": "a", "path": "/v1/embeddings", "body": {}, "headers": {"a b": "x"}})
                    .to_string(),
                Some("a"),
                Some("headers"),
                "no name of a header",
            ),
        ] {
            let Err(bad) = read_text(message.clone()) else { panic!("{message}") };
            assert_eq!(bad.id.as_deref(), id, "{message}");
            let told = bad.error.into_message();
            let error: serde_json::Value = serde_json::from_str(told.error.get()).expect("JSON");
            assert_eq!((told.status, error["param"].as_str()), (400, param), "{message}");
            assert!(error["message"].as_str().is_some_and(|message| message.contains(said)), "{message}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes.into());
        }

        #[test]
        fn whatever_json_comes_is_read_without_a_panic(
            kind in prop_oneof![Just("request"), Just("cancel"), Just("subscribe"), Just("x")],
            id in ".{0,200}",
            path in prop_oneof![Just("/v1/chat/completions".to_owned()), ".{0,20}"],
            header in (".{0,10}", ".{0,10}"),
            events in proptest::collection::vec(".{0,12}", 0..40),
        ) {
            let headers = BTreeMap::from([header]);
            let message = json!({"type": kind, "id": id, "path": path, "body": {"a": id}, "headers": headers, "events": events});
            let _ = read(&message.to_string().into());
        }
    }
}
