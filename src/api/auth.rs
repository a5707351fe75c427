//! API keys: who may use the API at all.
//!
//! Only hashes are kept, and they are compared in constant time, each with every key, so that neither a copy of
//! the memory nor a clock tells a key.

use std::fmt;

use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::error::ApiError;
use crate::capability::Tenant;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The keys that open this API, as hashes.
#[derive(Clone, Default)]
pub struct Keys(Vec<blake3::Hash>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// These keys; the texts are not kept. Without any, the API is open to whoever reaches it.
    pub fn new<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self(keys.into_iter().map(|key| blake3::hash(key.as_ref().as_bytes())).collect())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these headers name one of the keys, or none is asked for.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.is_empty() {
            return Ok(());
        }
        let Some(given) = given(headers) else {
            return Err(refusal("no API key: send \"Authorization: Bearer KEY\" or \"x-api-key: KEY\""));
        };
        let given = blake3::hash(given);
        // `blake3::Hash` compares in constant time, and the loop has no early end.
        let known = self.0.iter().fold(false, |known, key| known | (*key == given));
        if known { Ok(()) } else { Err(refusal("this API key is not known here")) }
    }
}

/// Whose answers a request may share: those of the same key, asked for or not.
pub(super) fn tenant_of(headers: &HeaderMap) -> Tenant {
    given(headers).map_or_else(Tenant::default, |key| *blake3::hash(key).as_bytes())
}

fn given(headers: &HeaderMap) -> Option<&[u8]> {
    bearer(headers).or_else(|| headers.get(X_API_KEY).map(HeaderValue::as_bytes))
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

fn refusal(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
        .header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> HeaderMap {
        let name = HeaderName::try_from(name).expect("a name");
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a value"))])
    }

    #[test]
    fn one_of_the_keys_is_wanted_once_there_is_one() {
        let open = Keys::default();
        assert!(open.check(&HeaderMap::new()).is_ok());
        let keys = Keys::new(["sk-one", "sk-two"]);
        for good in [("authorization", "Bearer sk-one"), ("authorization", "bearer  sk-two"), ("x-api-key", "sk-two")] {
            assert!(keys.check(&with(good.0, good.1)).is_ok(), "{good:?}");
        }
        for bad in [
            ("authorization", "Bearer sk-three"),
            ("authorization", "Basic sk-one"),
            ("authorization", "Bearer"),
            ("x-api-key", ""),
        ] {
            assert!(keys.check(&with(bad.0, bad.1)).is_err(), "{bad:?}");
        }
        assert!(keys.check(&HeaderMap::new()).is_err());
    }
}
