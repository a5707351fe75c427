//! What a request says about kept answers, and what its answer says: `Cache-Control`, `x-atmosphere-cache`, `x-cache`, `Age`.

use std::time::Duration;

use axum::http::header::{AGE, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::api::auth;
use crate::api::error::ApiError;
use crate::capability::{Origin, Reuse};

const X_ATMOSPHERE_CACHE: &str = "x-atmosphere-cache";
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// What these headers ask for. Directives of `Cache-Control` that are not understood are ignored, as RFC 9111 (5.2) says.
pub(super) fn reuse_of(headers: &HeaderMap) -> Result<Reuse, ApiError> {
    let wanted = match headers.get(X_ATMOSPHERE_CACHE).map(|value| value.as_bytes().trim_ascii()) {
        None => None,
        Some(value) if value.eq_ignore_ascii_case(b"on") => Some(true),
        Some(value) if value.eq_ignore_ascii_case(b"off") => Some(false),
        Some(_) => {
            return Err(ApiError::bad_request("x-atmosphere-cache is \"on\" or \"off\"").param(X_ATMOSPHERE_CACHE));
        }
    };
    let mut reuse = Reuse { tenant: auth::tenant_of(headers), wanted, ..Reuse::default() };
    for value in headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()) {
        for directive in value.split(',') {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => reuse.no_store = true,
                "no-cache" => reuse.max_age = Some(Duration::ZERO),
                "only-if-cached" => reuse.only_kept = true,
                "max-age" => {
                    // What is no number asks for something, and the most careful reading of it is a new answer.
                    let seconds = argument.trim().trim_matches('"').parse().unwrap_or(0);
                    let asked = Duration::from_secs(seconds);
                    reuse.max_age = Some(reuse.max_age.map_or(asked, |known| known.min(asked)));
                }
                _ => {}
            }
        }
    }
    Ok(reuse)
}

/// Says where an answer came from, to those who could have had a kept one.
pub(super) fn origin_headers(headers: &mut HeaderMap, origin: Origin) {
    match origin {
        Origin::Made => {}
        Origin::Missed => drop(headers.insert(X_CACHE, HeaderValue::from_static("MISS"))),
        Origin::Kept(age) => {
            headers.insert(X_CACHE, HeaderValue::from_static("HIT"));
            headers.insert(AGE, HeaderValue::from(age.as_secs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&'static str, &'static str)]) -> Result<Reuse, ApiError> {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        reuse_of(&headers.iter().map(header).collect())
    }

    #[test]
    fn cache_control_is_read_as_the_rfc_says() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (value, no_store, max_age, only_kept) in [
            ("no-store", true, None, false),
            ("No-Cache", false, seconds(0), false),
            ("max-age=60", false, seconds(60), false),
            ("max-age=60, no-cache", false, seconds(0), false),
            ("max-age=soon", false, seconds(0), false),
            ("only-if-cached, max-stale=5", false, None, true),
            ("", false, None, false),
        ] {
            let reuse = asked(&[("cache-control", value)]).expect("understood");
            assert_eq!((reuse.no_store, reuse.max_age, reuse.only_kept), (no_store, max_age, only_kept), "{value}");
        }
    }

    #[test]
    fn a_request_may_want_a_kept_answer_or_refuse_it() {
        assert_eq!(asked(&[]).expect("nothing").wanted, None);
        assert_eq!(asked(&[("x-atmosphere-cache", "On")]).expect("understood").wanted, Some(true));
        assert_eq!(asked(&[("x-atmosphere-cache", "off")]).expect("understood").wanted, Some(false));
        assert!(asked(&[("x-atmosphere-cache", "60")]).is_err());
    }

    #[test]
    fn callers_with_different_keys_are_different_tenants() {
        let of = |name, value| asked(&[(name, value)]).expect("nothing wrong").tenant;
        assert_eq!(of("authorization", "Bearer a"), of("x-api-key", "a"));
        assert_ne!(of("authorization", "Bearer a"), of("authorization", "Bearer b"));
        assert_ne!(of("authorization", "Bearer a"), asked(&[]).expect("nothing").tenant);
    }
}
