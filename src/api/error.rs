//! Errors as OpenAI's clients understand them: `{"error":{"message","type","param","code"}}` and the right status.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::capability::{ErrorClass, Failure};
use crate::catalog::Snapshot;
use crate::dialect::{Refusal, Told};
use crate::dispatch::DispatchError;
use crate::router::NoRoute;

/// Tells OpenAI's SDKs whether to try again by themselves.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Near names in an error.
const NEAR: usize = 5;

/// An answer that is an error. Boxed, so that whoever returns one when things go wrong is not slowed when they do not.
#[derive(Debug)]
pub(super) struct ApiError(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<String>,
    headers: HeaderMap,
    /// A backend's own words, which go out as they are.
    body: Option<(Bytes, String)>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

/// An error for those who get no response with it, but a message.
#[derive(Debug, Serialize)]
pub(super) struct Message {
    pub(super) status: u16,
    /// OpenAI's error object, or a backend's own.
    pub(super) error: Box<RawValue>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_after: Option<u64>,
    /// `false` when all that could be tried was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) should_retry: Option<bool>,
}

#[derive(Deserialize)]
struct OwnEnvelope<'a> {
    #[serde(borrow)]
    error: &'a RawValue,
}

impl ApiError {
    /// The same as a message.
    pub(super) fn into_message(self) -> Message {
        let Parts { status, message, param, code, headers, body } = *self.0;
        let status = status.as_u16();
        let own = body.as_ref().and_then(|(body, _)| {
            let own: OwnEnvelope<'_> = serde_json::from_slice(body).ok()?;
            own.error.get().starts_with('{').then(|| own.error.to_owned())
        });
        let error = own.unwrap_or_else(|| {
            let told = match &body {
                Some((body, _)) => Told::of_openai(body, status),
                None => Told { status, message, code, param },
            };
            let (param, code) = (told.param.as_deref(), told.code.as_deref());
            to_raw_value(&Inner { message: &told.message, kind: kind_of(status), param, code })
                .expect("plain strings are always JSON")
        });
        let header = |name: HeaderName| headers.get(name)?.to_str().ok();
        Message {
            status,
            error,
            retry_after: header(RETRY_AFTER).and_then(|seconds| seconds.parse().ok()),
            should_retry: header(X_SHOULD_RETRY).map(|should| should == "true"),
        }
    }

    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            message: message.into(),
            param: None,
            code: Some(code.to_owned()),
            headers: HeaderMap::new(),
            body: None,
        }))
    }

    /// The request is wrong.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "", message);
        error.0.code = None;
        error
    }

    /// Names the field or header that is wrong.
    pub(super) fn param(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Headers that go out with it.
    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.0.headers
    }

    pub(super) fn retry_after(self, after: Duration) -> Self {
        // Rounded up: coming back too early only costs everybody another refusal.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// Nobody has a model of this name.
    pub(super) fn unknown_model(catalog: &Snapshot, model: &str) -> Self {
        let shown: String = model.chars().take(200).collect();
        let name = model.rsplit_once('@').map_or(model, |(name, _)| name);
        let near = catalog.near_names(name, NEAR);
        let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
        let message = format!("no node in the mesh has the model {shown:?}{hint}");
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message).param("model")
    }

    /// The request cannot be put to the mesh.
    pub(super) fn refused(refusal: Refusal) -> Self {
        let mut error = Self::bad_request(refusal.message);
        error.0.param = refusal.param;
        error
    }

    /// The answer cannot be told in the client's dialect.
    pub(super) fn untellable(told: Told) -> Self {
        let status = StatusCode::from_u16(told.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut error = Self::new(status, "backend_error", told.message);
        error.0.code = told.code;
        error.0.param = told.param;
        error.spent()
    }

    /// All that could be tried was: a client that tries again by itself multiplies the load.
    pub(super) fn spent(self) -> Self {
        if sdk_retries(self.0.status) { self.header(X_SHOULD_RETRY, HeaderValue::from_static("false")) } else { self }
    }

    /// A name that nobody has is a 404; any other reason is dispatch's to tell.
    pub(super) fn of_no_route(no_route: &NoRoute) -> Option<Self> {
        let code = match no_route {
            NoRoute::UnknownModel { .. } => "model_not_found",
            NoRoute::UnknownNode { .. } => "node_not_found",
            _ => return None,
        };
        Some(Self::new(StatusCode::NOT_FOUND, code, no_route.to_string()).param("model"))
    }

    /// What a caller is told when dispatch has failed.
    pub(super) fn of_dispatch(error: DispatchError) -> Self {
        let DispatchError { decision, attempts, failure } = error;
        // One that is only busy is worth another try by and by.
        let spent = attempts > u32::from(failure.class == ErrorClass::Overloaded);
        let retry_after = match &decision.no_route {
            Some(NoRoute::AllCooling { retry_after }) => failure.retry_after.or(Some(*retry_after)),
            _ => failure.retry_after,
        };
        let error = match decision.no_route.as_ref().and_then(Self::of_no_route) {
            Some(unknown) => unknown,
            None => {
                // What is not an error status is our own mistake, and must not look like a success.
                let status = StatusCode::from_u16(failure.status)
                    .ok()
                    .filter(|status| status.is_client_error() || status.is_server_error())
                    .unwrap_or(StatusCode::BAD_GATEWAY);
                let mut error = Self::new(status, &code_of(&failure), failure.message);
                error.0.body = failure.body;
                error
            }
        };
        match retry_after {
            Some(after) => error.retry_after(after),
            None if spent => error.spent(),
            None => error,
        }
    }
}

/// Whether OpenAI's SDKs try again by themselves on this status.
fn sdk_retries(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 429)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let Parts { status, message, param, code, headers, body } = *self.0;
        let (body, content_type, told) = match body {
            Some((body, content_type)) => {
                let told = Told { status: status.as_u16(), ..Told::of_openai(&body, status.as_u16()) };
                (body, HeaderValue::from_str(&content_type).ok(), told)
            }
            None => {
                let body = envelope(status.as_u16(), &message, param.as_deref(), code.as_deref()).into();
                (body, None, Told { status: status.as_u16(), message, code, param })
            }
        };
        let mut response = Response::new(Body::from(body));
        // For routes on which errors have another shape.
        response.extensions_mut().insert(told);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let content_type = content_type.unwrap_or(HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }
}

/// A failure in the middle of a stream, as the one event that SDKs raise on.
pub(super) fn error_event(failure: &Failure) -> Bytes {
    let mut event = b"data: ".to_vec();
    event.extend(envelope(failure.status, &failure.message, None, Some(&code_of(failure))));
    event.extend_from_slice(b"\n\n");
    event.into()
}

fn envelope(status: u16, message: &str, param: Option<&str>, code: Option<&str>) -> Vec<u8> {
    let envelope = Envelope { error: Inner { message, kind: kind_of(status), param, code } };
    serde_json::to_vec(&envelope).expect("plain strings are always JSON")
}

/// OpenAI's `type`.
fn kind_of(status: u16) -> &'static str {
    match status {
        403 => "permission_error",
        408 | 504 => "timeout_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// The failure's own code, or the name of its class.
fn code_of(failure: &Failure) -> String {
    failure.code.clone().unwrap_or_else(|| {
        match failure.class {
            ErrorClass::Internal => "internal_error",
            ErrorClass::Request => "invalid_request",
            ErrorClass::Overloaded => "overloaded",
            ErrorClass::Unavailable => "unavailable",
            ErrorClass::Backend => "backend_error",
            ErrorClass::Timeout => "timeout",
            ErrorClass::Interrupted => "interrupted",
        }
        .to_owned()
    })
}
