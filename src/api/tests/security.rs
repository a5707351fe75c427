//! Who may come in.

use axum::http::Method;
use futures::FutureExt as _;

use super::scripted::{a_chat, api, pieces, settings, silent_api};
use crate::api::{Keys, Settings, routes};

#[tokio::test]
async fn with_keys_every_route_but_the_probes_wants_one() {
    let api = silent_api(Settings { keys: Keys::new(["sk-good"]), ..settings() }).await;
    for (method, pattern) in routes::all() {
        let path = pattern.replace("{*id}", "a").replace("{id}", "a");
        let send = |key: Option<&'static str>| {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let mut request = api.client.request(method, api.url(&path));
            if let Some(key) = key {
                request = request.bearer_auth(key);
            }
            request.send()
        };
        let free = ["/healthz", "/readyz"].contains(&pattern);
        for key in [None, Some("sk-bad")] {
            let response = send(key).await.expect("an answer");
            assert_eq!(response.status() == 401, !free, "{method} {path} with {key:?}: {}", response.status());
            if !free {
                assert_eq!(response.headers()["www-authenticate"], "Bearer");
            }
        }
        assert_ne!(send(Some("sk-good")).await.expect("an answer").status(), 401, "{method} {path}");
    }
    // What is not there is not told to strangers either.
    assert_eq!(api.get("/nope").await.0, 401);
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_refused() {
    let api = silent_api(Settings { allowed_hosts: vec!["gpu.example".to_owned()], ..settings() }).await;
    for (host, status) in [("localhost:1", 200), ("gpu.example", 200), ("evil.example:11451", 403)] {
        let response = api.client.get(api.url("/v1/models")).header("host", host).send().await.expect("an answer");
        assert_eq!(response.status(), status, "{host}");
    }
}

#[tokio::test]
async fn a_page_of_a_stranger_cannot_use_the_api() {
    let api = api(settings(), |_| futures::future::ok(pieces("application/json", vec![Ok("{}")])).boxed()).await;
    let own = format!("http://{}", api.address);
    for (origin, status) in [(own.as_str(), 200), ("https://evil.example", 403), ("null", 403)] {
        let request = api.client.post(api.url("/v1/chat/completions")).json(&a_chat(false));
        let response = request.header("origin", origin).send().await.expect("an answer");
        assert_eq!(response.status(), status, "{origin}");
        assert!(!response.headers().contains_key("access-control-allow-origin"));
    }
    let request = api.client.request(Method::OPTIONS, api.url("/v1/chat/completions"));
    let request = request.header("origin", "https://evil.example").header("access-control-request-method", "POST");
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 405);
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_page_that_the_owner_allows_can() {
    let page = "http://localhost:3000";
    let allowed = vec![page.to_owned()];
    let settings = Settings { allowed_origins: allowed, keys: Keys::new(["sk-good"]), ..settings() };
    let api = api(settings, |_| futures::future::ok(pieces("application/json", vec![Ok("{}")])).boxed()).await;
    // The browser asks first, without the key.
    let request = api.client.request(Method::OPTIONS, api.url("/v1/chat/completions")).header("origin", page);
    let request = request.header("access-control-request-method", "POST");
    let response =
        request.header("access-control-request-headers", "authorization,content-type").send().await.expect("an answer");
    assert_eq!(response.status(), 204);
    let headers = response.headers();
    assert_eq!(headers["access-control-allow-origin"], page);
    assert_eq!(headers["access-control-allow-headers"], "authorization,content-type");
    assert_eq!(headers["access-control-allow-methods"], "GET, POST");
    // Errors can be read by the page as well.
    for (key, status) in [("sk-good", 200), ("sk-bad", 401)] {
        let request = api.client.post(api.url("/v1/chat/completions")).json(&a_chat(false)).bearer_auth(key);
        let response = request.header("origin", page).send().await.expect("an answer");
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["access-control-allow-origin"], page);
    }
    let request = api.client.post(api.url("/v1/chat/completions")).json(&a_chat(false)).bearer_auth("sk-good");
    let response = request.header("origin", "https://evil.example").send().await.expect("an answer");
    assert_eq!(response.status(), 403);
}
