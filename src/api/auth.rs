//! API keys: who may use the API at all.
//!
//! Only hashes are kept, and they are compared in constant time, each with every key, so that neither a copy of
//! the memory nor a clock tells a key.
//!
//! A browser cannot set headers when it opens a WebSocket, but it can name subprotocols: there a key may stand as
//! `atmosphere-key.` and the key in base64url. It is not taken from the address, which ends up in logs and histories.

use std::borrow::Cow;
use std::fmt;

use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::ApiError;
use crate::capability::Tenant;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Stands before a key among the subprotocols of a WebSocket.
const KEY_PROTOCOL: &[u8] = b"atmosphere-key.";

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
        let given = blake3::hash(&given);
        // `blake3::Hash` compares in constant time, and the loop has no early end.
        let known = self.0.iter().fold(false, |known, key| known | (*key == given));
        if known { Ok(()) } else { Err(refusal("this API key is not known here")) }
    }
}

/// Whose answers a request may share: those of the same key, asked for or not.
pub(super) fn tenant_of(headers: &HeaderMap) -> Tenant {
    given(headers).map_or_else(Tenant::default, |key| *blake3::hash(&key).as_bytes())
}

/// The key that these headers name, as the value of an `Authorization` header.
pub(super) fn authorization_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = [&b"Bearer "[..], &*given(headers)?].concat();
    let mut value = HeaderValue::from_bytes(&value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a header says who asks.
pub(super) fn names_a_key(header: &HeaderName) -> bool {
    *header == AUTHORIZATION || *header == X_API_KEY || *header == SEC_WEBSOCKET_PROTOCOL
}

fn given(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    let in_header = bearer(headers).or_else(|| headers.get(X_API_KEY).map(HeaderValue::as_bytes));
    in_header.map(Cow::Borrowed).or_else(|| by_protocol(headers).map(Cow::Owned))
}

fn by_protocol(headers: &HeaderMap) -> Option<Vec<u8>> {
    let named =
        headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let key = named.filter_map(|protocol| protocol.trim_ascii().strip_prefix(KEY_PROTOCOL)).next()?;
    URL_SAFE_NO_PAD.decode(key).ok()
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

    #[test]
    fn a_browser_names_its_key_among_the_protocols() {
        let key = "sk-one/+?ü";
        let keys = Keys::new([key]);
        let encoded = URL_SAFE_NO_PAD.encode(key);
        let headers = with("sec-websocket-protocol", &format!("atmosphere.v1, atmosphere-key.{encoded}"));
        assert!(keys.check(&headers).is_ok());
        assert_eq!(tenant_of(&headers), *blake3::hash(key.as_bytes()).as_bytes());
        let again = HeaderMap::from_iter([(AUTHORIZATION, authorization_of(&headers).expect("a value"))]);
        assert!(keys.check(&again).is_ok(), "it can be handed on");
        for bad in ["atmosphere.v1", "atmosphere-key.", "atmosphere-key.c2stdHdv", "atmosphere-key.not base64"] {
            assert!(keys.check(&with("sec-websocket-protocol", bad)).is_err(), "{bad}");
        }
    }
}
