//! A backend's HTTP error becomes a [`Failure`]: whose fault it is, when to come again, and the backend's own
//! words in OpenAI's shape. Pure.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::{Value, json};

use crate::capability::{ErrorClass, Failure};

/// Longest wait that a backend may ask for; beyond it the caller had better hear of the failure itself.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Most of a backend's own words that go into a message.
const EXCERPT_CHARS: usize = 300;

/// Media type of the bodies that are made here.
const JSON: &str = "application/json";

/// What an answer with an error status comes to. `backend` names it for a person, without secrets.
#[must_use]
pub(crate) fn from_answer(
    backend: &str,
    has_key: bool,
    status: u16,
    headers: &HeaderMap,
    content_type: &str,
    body: &Bytes,
) -> Failure {
    if matches!(status, 300..400) {
        return refused(format!(
            "{backend} answers with a redirect ({status}): configure the address that it redirects to"
        ));
    }
    if matches!(status, 401 | 403 | 407) {
        // The caller's own key never reaches a backend, so this is between the node and its backend. The
        // backend's words are left out, for they may quote the key.
        let advice = if has_key { "its key is refused: set a valid one" } else { "it wants a key: set one" };
        return refused(format!("{backend} answers {status}: {advice} for this backend in the node's configuration"));
    }
    let said = Said::read(status, content_type, body);
    let class = class_of(status, &said);
    let mut failure = Failure::new(class, said.sentence(backend, status));
    failure.status = status;
    failure.code = said.code;
    failure.retry_after = retry_after(headers, SystemTime::now());
    failure.body = said.body;
    failure
}

/// What an error event inside a stream comes to. `None` when the event's data hold no error.
#[must_use]
pub(crate) fn from_event(backend: &str, data: &[u8], after_content: bool) -> Option<Failure> {
    let value: Value = serde_json::from_slice(data).ok()?;
    let error = value.get("error").filter(|error| !error.is_null())?;
    let status = stated_status(&value, error);
    let said = Said::read(status.unwrap_or(502), JSON, &Bytes::copy_from_slice(data));
    let class = match status {
        _ if after_content => ErrorClass::Interrupted,
        Some(status) => class_of(status, &said),
        None => ErrorClass::Backend,
    };
    let mut failure = Failure::new(class, said.sentence(backend, status.unwrap_or(502)));
    failure.status = status.unwrap_or(502);
    failure.code = said.code;
    failure.body = said.body;
    // As above: the node's key is no business of the caller's.
    if matches!(failure.status, 401 | 403) {
        failure = Failure::new(failure.class, format!("{backend} refuses its key or wants one ({})", failure.status));
        failure.class = if after_content { ErrorClass::Interrupted } else { ErrorClass::Backend };
        failure.status = 502;
    }
    Some(failure)
}

/// The status that an error event states, or that its type stands for.
fn stated_status(value: &Value, error: &Value) -> Option<u16> {
    let number = |value: Option<&Value>| {
        let value = value?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
        u16::try_from(number).ok().filter(|status| (400..600).contains(status))
    };
    let fields = [error.get("status"), error.get("status_code"), error.get("code"), value.get("status")];
    fields.into_iter().find_map(number).or_else(|| {
        let kind = error.get("type").and_then(Value::as_str)?;
        match kind {
            _ if kind.contains("invalid_request") || kind.contains("exceed_context") => Some(400),
            _ if kind.contains("rate_limit") || kind.contains("insufficient_quota") => Some(429),
            _ if kind.contains("overloaded") || kind.contains("unavailable") => Some(503),
            _ => None,
        }
    })
}

fn refused(message: String) -> Failure {
    Failure::new(ErrorClass::Backend, message)
}

fn class_of(status: u16, said: &Said) -> ErrorClass {
    match status {
        408 | 504 => ErrorClass::Timeout,
        409 => ErrorClass::Backend,
        425 | 429 | 503 | 529 => ErrorClass::Overloaded,
        // The name was this node's own, taken from the backend's list: the model has gone since.
        404 if said.names_a_model() => ErrorClass::Unavailable,
        400..500 => ErrorClass::Request,
        _ => ErrorClass::Backend,
    }
}

/// What a backend says went wrong.
struct Said {
    text: Option<String>,
    code: Option<String>,
    /// In OpenAI's shape: the backend's own bytes when they have it, else translated.
    body: Option<(Bytes, String)>,
}

impl Said {
    /// Reads the shapes that backends use: OpenAI's `{"error":{"message"}}`, Ollama's `{"error":"text"}`,
    /// FastAPI's `{"detail":"text"|[...]}`, LlamaFarm's `{"error":"Code","message":"text"}` and vLLM's older
    /// `{"object":"error","message"}`. Anything else (plain text, a web page) is quoted, not passed on.
    fn read(status: u16, content_type: &str, body: &Bytes) -> Self {
        let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(body) else {
            let page = content_type.to_ascii_lowercase().starts_with("text/html");
            let text = String::from_utf8_lossy(body);
            let text = (!page && !text.trim().is_empty()).then(|| excerpt(&text));
            return Self { text, code: None, body: None };
        };
        let text_of = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        if let Some(Value::Object(error)) = object.get("error") {
            let code = match error.get("code") {
                Some(Value::String(code)) => Some(code.clone()),
                _ => None,
            };
            let text = error.get("message").and_then(Value::as_str).map(excerpt);
            let content_type = if content_type.is_empty() { JSON } else { content_type };
            return Self { text, code, body: Some((body.clone(), content_type.to_owned())) };
        }
        let (text, code) = match (object.get("error"), object.get("detail")) {
            (Some(Value::String(error)), _) => match text_of("message") {
                Some(message) => (message, Some(error.clone())),
                None => (error.clone(), None),
            },
            (_, Some(Value::String(detail))) => (detail.clone(), None),
            (_, Some(Value::Array(problems))) => (problems_text(problems), None),
            _ => match text_of("message") {
                Some(message) => (message, None),
                None => return Self { text: Some(excerpt(&String::from_utf8_lossy(body))), code: None, body: None },
            },
        };
        let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
        let mut error = json!({"message": text, "type": kind, "param": null, "code": code});
        if let Some(details) = object.get("details") {
            error["details"] = details.clone();
        }
        let translated = json!({ "error": error }).to_string();
        Self { text: Some(excerpt(&text)), code, body: Some((translated.into(), JSON.to_owned())) }
    }

    fn names_a_model(&self) -> bool {
        let has = |text: &Option<String>| text.as_ref().is_some_and(|text| text.to_lowercase().contains("model"));
        has(&self.text) || has(&self.code)
    }

    fn sentence(&self, backend: &str, status: u16) -> String {
        match &self.text {
            Some(text) => format!("{backend} answers {status}: {text}"),
            None => format!("{backend} answers {status} without saying why"),
        }
    }
}

/// Pydantic's list of problems as one line.
fn problems_text(problems: &[Value]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| {
            let place: Vec<String> = problem["loc"]
                .as_array()
                .map(|parts| parts.iter().map(|part| part.to_string().trim_matches('"').to_owned()).collect())
                .unwrap_or_default();
            let text = problem["msg"].as_str().unwrap_or("not accepted");
            if place.is_empty() { text.to_owned() } else { format!("{}: {text}", place.join(".")) }
        })
        .collect();
    lines.join("; ")
}

/// A bounded, one-line form of what a backend said.
#[must_use]
pub(crate) fn excerpt(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.chars().count() + word.chars().count() >= EXCERPT_CHARS {
            line.push('…');
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

/// When to come again: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date.
#[must_use]
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let wait = if let Some(millis) = text("retry-after-ms").and_then(number) {
        Duration::try_from_secs_f64(millis / 1000.0).ok()?
    } else {
        let value = text(RETRY_AFTER.as_str())?;
        match number(value) {
            Some(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
            None => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, content_type: &str, body: &str) -> Failure {
        from_answer("ollama", true, status, &HeaderMap::new(), content_type, &Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn a_status_says_whose_fault_it_is() {
        let table = [
            (400, ErrorClass::Request, 400),
            (404, ErrorClass::Request, 404),
            (408, ErrorClass::Timeout, 408),
            (409, ErrorClass::Backend, 409),
            (413, ErrorClass::Request, 413),
            (422, ErrorClass::Request, 422),
            (425, ErrorClass::Overloaded, 425),
            (429, ErrorClass::Overloaded, 429),
            (500, ErrorClass::Backend, 500),
            (501, ErrorClass::Backend, 501),
            (503, ErrorClass::Overloaded, 503),
            (504, ErrorClass::Timeout, 504),
            (301, ErrorClass::Backend, 502),
            (401, ErrorClass::Backend, 502),
            (403, ErrorClass::Backend, 502),
        ];
        for (status, class, told) in table {
            let failure = answer(status, JSON, r#"{"error":{"message":"no"}}"#);
            assert_eq!((failure.class, failure.status), (class, told), "{status}");
        }
        let gone = answer(404, JSON, r#"{"error":{"message":"model 'x' not found"}}"#);
        assert_eq!((gone.class, gone.status), (ErrorClass::Unavailable, 404));
    }

    #[test]
    fn an_error_in_openais_shape_is_passed_on_untouched() {
        let body = "{ \"error\" : {\"message\":\"bad\", \"code\":\"x\", \"odd\":1} }";
        let failure = answer(400, "application/json; charset=utf-8", body);
        assert_eq!(failure.body, Some((body.into(), "application/json; charset=utf-8".into())));
        assert_eq!(failure.code.as_deref(), Some("x"));
        assert_eq!(failure.message, "ollama answers 400: bad");
    }

    #[test]
    fn other_shapes_are_translated() {
        let table = [
            (r#"{"detail":"Chat service failed"}"#, "Chat service failed", None),
            (
                r#"{"detail":[{"type":"missing","loc":["body","x",0],"msg":"Field required"}]}"#,
                "body.x.0: Field required",
                None,
            ),
            (r#"{"error":"ProjectNotFound","message":"no such project"}"#, "no such project", Some("ProjectNotFound")),
            (r#"{"error":"model is busy"}"#, "model is busy", None),
            (r#"{"object":"error","message":"too long","code":400}"#, "too long", None),
        ];
        for (body, text, code) in table {
            let failure = answer(422, JSON, body);
            let (sent, _) = failure.body.expect("a body");
            let sent: Value = serde_json::from_slice(&sent).expect("JSON");
            assert_eq!(sent["error"]["message"], text, "{body}");
            assert_eq!(sent["error"]["type"], "invalid_request_error");
            assert_eq!(failure.code.as_deref(), code);
        }
    }

    #[test]
    fn a_web_page_is_not_passed_on_and_plain_text_is_quoted() {
        let page = answer(500, "text/html", "<html>oh</html>");
        assert_eq!((page.body, page.message.as_str()), (None, "ollama answers 500 without saying why"));
        let plain = answer(500, "text/plain", "out of\n memory");
        assert_eq!((plain.body, plain.message.as_str()), (None, "ollama answers 500: out of memory"));
        assert!(answer(500, "text/plain", &"long ".repeat(9999)).message.len() < 400);
    }

    #[test]
    fn a_refused_key_is_not_quoted() {
        let failure = answer(401, JSON, r#"{"error":{"message":"Incorrect API key sk-abc"}}"#);
        assert!(failure.body.is_none() && !failure.message.contains("sk-abc"), "{failure:?}");
        assert!(failure.message.contains("set a valid one"));
        let event = from_event("b", br#"{"error":{"message":"key sk-abc","code":401}}"#, false).expect("a failure");
        assert!(event.body.is_none() && !event.message.contains("sk-abc"), "{event:?}");
    }

    #[test]
    fn an_error_event_keeps_its_status_until_content_was_sent() {
        let data = br#"{"error":{"message":"slow down","code":429}}"#;
        let failure = from_event("b", data, false).expect("a failure");
        assert_eq!((failure.class, failure.status), (ErrorClass::Overloaded, 429));
        let failure = from_event("b", data, true).expect("a failure");
        assert_eq!((failure.class, failure.status), (ErrorClass::Interrupted, 429));
        assert_eq!(failure.body.expect("a body").0, Bytes::from_static(data));
        let unstated = from_event("b", br#"{"error":"boom"}"#, false).expect("a failure");
        assert_eq!((unstated.class, unstated.status), (ErrorClass::Backend, 502));
        let typed = from_event("b", br#"{"error":{"message":"m","type":"invalid_request_error"}}"#, false);
        assert_eq!(typed.expect("a failure").class, ErrorClass::Request);
        assert_eq!(from_event("b", br#"{"error":null,"choices":[]}"#, false), None);
        assert_eq!(from_event("b", b"garbage", false), None);
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        let read = |name: &'static str, value: &str| {
            retry_after(&HeaderMap::from_iter([(name.parse().expect("name"), value.parse().expect("value"))]), now)
        };
        assert_eq!(read("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(read("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(read("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(read("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(read("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("retry-after", "99999999999"), Some(LONGEST_WAIT));
        for bad in ["-1", "soon", "NaN", "inf", ""] {
            assert_eq!(read("retry-after", bad), None, "{bad}");
        }
    }
}
