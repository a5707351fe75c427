//! What is for the node's owner only, whoever else may use the API.

use axum::http::StatusCode;
use axum::http::request::Parts;

use super::app::{App, Caller};
use super::error::ApiError;
use super::origin::is_own_page;

/// Whether the caller is the node's owner.
pub(super) fn check_owner(app: &App, parts: &Parts) -> Result<(), ApiError> {
    // With keys, every request has named one already.
    if !app.settings.keys.is_empty() {
        return Ok(());
    }
    let caller = parts.extensions.get::<Caller>();
    let local = caller.is_some_and(|Caller(address)| address.ip().to_canonical().is_loopback());
    if local && is_own_page(&parts.headers) {
        return Ok(());
    }
    let message = "only the owner of this node may do that: run it on the node's own machine, or give the API keys (api.keys) \
                   and use one of them";
    Err(ApiError::new(StatusCode::FORBIDDEN, "owner_only", message))
}
