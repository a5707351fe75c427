//! One request from its head to its response: what holds for every route.
//!
//! It names the request, keeps strangers out, catches panics, measures, and puts the headers on that every response
//! has. It is a plain function around the router instead of a stack of layers: a request costs microseconds, and
//! the order of the checks can be read from top to bottom.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::BoxError;
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::header::{ORIGIN, SERVER};
use axum::http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::FutureExt as _;
use tower::Service as _;

use super::app::{App, Context, X_ATMOSPHERE_NODE};
use super::envelope::Envelope;
use super::error::ApiError;
use super::face::Face;
use super::request_id::{X_REQUEST_ID, request_id};
use super::routes;

const OPENAI_PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");

/// Answers a request.
pub(super) async fn answer<B>(app: Arc<App>, face: Face, router: Router, request: Request<B>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let started = Instant::now();
    let request_id = request_id(request.headers());
    let origin = request.headers().get(ORIGIN).cloned();
    let route = routes::pattern_of(face, request.uri().path());
    let envelope = Envelope::of(face, request.uri().path(), request.headers());
    let context = Context { request_id: request_id.clone(), started };
    // A panic is our mistake. It ends this request and nothing else.
    let mut response = match AssertUnwindSafe(admitted(&app, router, request, context)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(?request_id, route, "a request made this program panic; please report it");
            let message = "this node made a mistake; its log says more";
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message).into_response()
        }
    };
    let took = started.elapsed();
    app.measures.request(route, response.status().as_u16(), took);
    tracing::debug!(?request_id, route, status = response.status().as_u16(), ?took, "answered");
    envelope.put_on(&mut response, &request_id);
    let headers = response.headers_mut();
    app.origins.decorate(origin.as_ref(), headers);
    headers.insert(SERVER, HeaderValue::from_static("atmosphere"));
    headers.insert(X_REQUEST_ID, request_id);
    headers.insert(OPENAI_PROCESSING_MS, HeaderValue::from(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
    if !headers.contains_key(X_ATMOSPHERE_NODE) {
        headers.insert(X_ATMOSPHERE_NODE, app.node_header.clone());
    }
    response
}

async fn admitted<B>(app: &App, mut router: Router, mut request: Request<B>, context: Context) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    match gate(app, &request) {
        Ok(None) => {}
        Ok(Some(response)) => return response,
        Err(error) => return error.into_response(),
    }
    request.extensions_mut().insert(context);
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Who may come in. `Some` answers a browser's question on the spot.
fn gate<B>(app: &App, request: &Request<B>) -> Result<Option<Response<Body>>, ApiError> {
    let headers = request.headers();
    app.hosts.check(request.uri(), request.version(), headers)?;
    if let Some(response) = app.origins.preflight(request.method(), headers) {
        return Ok(Some(response));
    }
    app.origins.check(request.method(), headers)?;
    if !routes::is_free(request.uri().path()) {
        app.settings.keys.check(headers)?;
    }
    Ok(None)
}
