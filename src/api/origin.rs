//! Keeps web pages of strangers from driving the API through their visitor's browser.
//!
//! Two attacks end here. *DNS rebinding*: a page points its own name at 127.0.0.1, so that the browser takes this
//! API for a part of the page; it shows in the `Host` header. *Cross-site requests*: a page posts here and does not
//! care that it cannot read the answer, or opens a WebSocket, whose messages it could read; it shows in the `Origin`
//! header. Programs send no `Origin`, so they notice neither check. Pages that the owner allows get the CORS headers that let them read answers.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, UPGRADE, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version};

use super::error::ApiError;

/// Seconds for which a browser may remember a preflight answer. Ten minutes: Chromium caps it at two hours, and a
/// changed configuration should take hold soon.
const PREFLIGHT_SECONDS: u64 = 600;

/// Which names clients may call this node by.
pub(super) enum HostRule {
    /// It listens on loopback only: loopback's names and these.
    Loopback(Vec<String>),
    /// Others can reach it, without a key: what no stranger can register in the public DNS, and these.
    Private(Vec<String>),
    /// A key is asked for, which a stranger's page does not have, or the owner allows every name.
    Any,
}

impl HostRule {
    pub(super) fn check(&self, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
        let (allowed, names) = match self {
            Self::Any => return Ok(()),
            Self::Loopback(names) => (is_loopback as fn(&str) -> bool, names),
            Self::Private(names) => (is_private as fn(&str) -> bool, names),
        };
        let authority = uri.authority().map(axum::http::uri::Authority::as_str);
        let Some(host) = authority.or_else(|| headers.get(HOST).and_then(|host| host.to_str().ok())) else {
            // Browsers always send it. HTTP/1.0 clients, such as old probes, do not.
            return if version == Version::HTTP_10 {
                Ok(())
            } else {
                Err(ApiError::bad_request("the request has no Host header, which HTTP/1.1 asks for"))
            };
        };
        let name = without_port(host);
        if allowed(name) || names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        let shown: String = name.chars().take(100).collect();
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "host_not_allowed",
            format!(
                "this node is not called {shown:?}: use its IP address or localhost, or add the name to the \
                 API's allowed hosts"
            ),
        ))
    }
}

/// The host part of `host[:port]`, without the brackets of an IPv6 address.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_loopback(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    // The last two are what a container calls its host by.
    ["localhost", "host.docker.internal", "host.containers.internal"].iter().any(|own| name.eq_ignore_ascii_case(own))
        || ends_with_ignore_case(name, ".localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Addresses, single words (a host of the local network, a container) and names that the public DNS cannot have.
fn is_private(name: &str) -> bool {
    const SUFFIXES: [&str; 4] = [".local", ".lan", ".internal", ".home.arpa"];
    let name = name.strip_suffix('.').unwrap_or(name);
    is_loopback(name)
        || name.parse::<IpAddr>().is_ok()
        || (!name.is_empty() && !name.contains('.'))
        || SUFFIXES.iter().any(|suffix| ends_with_ignore_case(name, suffix))
}

fn ends_with_ignore_case(text: &str, suffix: &str) -> bool {
    text.len() > suffix.len() && text.as_bytes()[text.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
}

/// Which web pages may use this API.
pub(super) struct Origins(Vec<String>);

impl Origins {
    pub(super) fn new(allowed: &[String]) -> Self {
        Self(allowed.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect())
    }

    fn allows(&self, origin: &str) -> bool {
        self.0.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }

    /// Refuses what a foreign page makes a browser send. Reading is safe: without CORS headers the page does not
    /// get to see the answer. A WebSocket begins as reading, and CORS does not keep a page from it.
    pub(super) fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let reads = method == Method::GET || method == Method::HEAD || method == Method::OPTIONS;
        if reads && !headers.contains_key(UPGRADE) {
            return Ok(());
        }
        let origin = origin.to_str().unwrap_or("?");
        if self.allows(origin) || is_same(origin, headers) {
            return Ok(());
        }
        let shown: String = origin.chars().take(100).collect();
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "origin_not_allowed",
            format!(
                "web pages of {shown} may not use this API; add the origin to the API's allowed origins if they shall"
            ),
        ))
    }

    /// The answer to a browser that asks before it sends, when the page may.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
        if method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let origin = headers.get(ORIGIN)?;
        if !self.allows(origin.to_str().ok()?) {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let out = response.headers_mut();
        out.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            out.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        out.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_SECONDS));
        Some(response)
    }

    /// Lets an allowed page read the answer.
    pub(super) fn decorate(&self, origin: Option<&HeaderValue>, out: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        out.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin
            && origin.to_str().is_ok_and(|origin| self.allows(origin))
        {
            out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            out.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        }
    }
}

/// Whether no page of another site asks; whether it may use the API otherwise makes no difference.
pub(super) fn is_own_page(headers: &HeaderMap) -> bool {
    headers.get(ORIGIN).is_none_or(|origin| origin.to_str().is_ok_and(|origin| is_same(origin, headers)))
}

/// Whether the page came from this very node.
fn is_same(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match (origin.split_once("://"), host) {
        (Some((_, authority)), Some(host)) => authority.eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(rule: &HostRule, name: &str) -> bool {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(name).expect("a value"))]);
        rule.check(&Uri::from_static("/v1/models"), Version::HTTP_11, &headers).is_ok()
    }

    #[test]
    fn on_loopback_only_loopbacks_names_are_ours() {
        let rule = HostRule::Loopback(vec!["gpu.example".into()]);
        for good in [
            "localhost",
            "LocalHost:11451",
            "127.0.0.1:1",
            "127.8.8.8",
            "[::1]:11451",
            "a.localhost:80",
            "host.docker.internal:11451",
            "gpu.example:1",
        ] {
            assert!(host(&rule, good), "{good}");
        }
        for bad in
            ["evil.example:11451", "localhost.evil.example", "10.0.0.7", "[fe80::1]", "127.0.0.1.evil.example", ""]
        {
            assert!(!host(&rule, bad), "{bad}");
        }
    }

    #[test]
    fn on_a_network_a_name_of_the_public_dns_is_not_ours() {
        let rule = HostRule::Private(vec![]);
        for good in ["10.0.0.7:11451", "gpu", "node1:11451", "gpu.local", "[fe80::1]:1", "box.home.arpa"] {
            assert!(host(&rule, good), "{good}");
        }
        for bad in ["evil.example", "rebind.network:11451", "", ".local"] {
            assert!(!host(&rule, bad), "{bad}");
        }
        assert!(host(&HostRule::Any, "evil.example"));
    }

    #[test]
    fn a_missing_host_is_for_old_clients_only() {
        let rule = HostRule::Loopback(vec![]);
        let check = |version| rule.check(&Uri::from_static("/"), version, &HeaderMap::new()).is_ok();
        assert!(check(Version::HTTP_10));
        assert!(!check(Version::HTTP_11));
        let absolute = Uri::from_static("http://evil.example/v1/models");
        assert!(rule.check(&absolute, Version::HTTP_11, &HeaderMap::new()).is_err());
    }

    #[test]
    fn a_foreign_page_may_not_post() {
        let none = Origins::new(&[]);
        let some = Origins::new(&["http://localhost:3000/".into()]);
        let from = |origin: &str| {
            HeaderMap::from_iter([
                (ORIGIN, HeaderValue::from_str(origin).expect("a value")),
                (HOST, HeaderValue::from_static("localhost:11451")),
            ])
        };
        assert!(none.check(&Method::POST, &HeaderMap::new()).is_ok());
        assert!(none.check(&Method::POST, &from("http://localhost:11451")).is_ok());
        assert!(none.check(&Method::GET, &from("https://evil.example")).is_ok());
        let upgrade = |origin| {
            let mut headers = from(origin);
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers
        };
        assert!(none.check(&Method::GET, &upgrade("https://evil.example")).is_err());
        assert!(none.check(&Method::GET, &upgrade("http://localhost:11451")).is_ok());
        assert!(some.check(&Method::GET, &upgrade("http://localhost:3000")).is_ok());
        for foreign in ["https://evil.example", "null", "http://localhost:3000"] {
            assert!(none.check(&Method::POST, &from(foreign)).is_err(), "{foreign}");
        }
        assert!(some.check(&Method::POST, &from("http://localhost:3000")).is_ok());
        assert!(some.check(&Method::POST, &from("https://evil.example")).is_err());
    }
}
