//! The doubles themselves: a test that leans on one is worth what the double is worth.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Backend, Counts, Events, LlamaFarm, Mode, Ollama, PATIENCE, chat, chat_stream, eventually};

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client needs nothing")
}

async fn stream(backend: &Backend) -> support::Streamed {
    let url = format!("{}/v1/chat/completions", backend.url());
    let response = client().post(url).json(&chat_stream("m", "hi")).send().await.expect("the double answers");
    Events::of(response).rest().await
}

#[tokio::test]
async fn a_backend_streams_and_counts() {
    let backend = Backend::start("one", &["m"]);
    let answer = stream(&backend).await;
    assert_eq!(answer.text(), "one: t0 t1 t2 t3 t4 t5 t6 t7");
    assert_eq!((answer.dones, answer.broken), (1, false));
    assert_eq!(backend.counts(), Counts { started: 1, finished: 1, cancelled: 0 });
}

#[tokio::test]
async fn every_fault_looks_as_named() {
    let backend = Backend::start("one", &["m"]);
    backend.set(Mode::Die { after: 2 });
    let answer = stream(&backend).await;
    assert_eq!((answer.text().as_str(), answer.dones, answer.broken), ("one: t0 t1", 0, true));
    backend.set(Mode::ErrorInside { after: 1 });
    let answer = stream(&backend).await;
    assert_eq!(answer.error().map(|error| &error["message"]), Some(&json!("context is full")));
    backend.set(Mode::Truncate { after: 1 });
    let answer = stream(&backend).await;
    assert_eq!((answer.dones, answer.broken), (0, false));
    backend.set(Mode::SplitUtf8);
    assert_eq!(stream(&backend).await.text(), format!("one:{}", Backend::SPLIT_TEXT));
    backend.set(Mode::too_many(3));
    let url = format!("{}/v1/chat/completions", backend.url());
    let response = client().post(url).json(&chat("m", "hi")).send().await.expect("the double answers");
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "3");
}

#[tokio::test]
async fn a_client_that_leaves_is_counted() {
    let backend = Backend::start("one", &["m"]);
    for (mode, body) in [(Mode::Hang, chat("m", "hi")), (Mode::slow(10_000), chat_stream("m", "hi"))] {
        backend.set(mode);
        let before = backend.counts();
        let url = format!("{}/v1/chat/completions", backend.url());
        let request = tokio::spawn(async move {
            let response = client().post(url).json(&body).send().await.expect("the double answers");
            let _ = response.bytes().await;
        });
        eventually("it came", PATIENCE, async || backend.counts().started > before.started).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        request.abort();
        eventually("it is cancelled", PATIENCE, async || backend.counts().cancelled > before.cancelled).await;
    }
}

#[tokio::test]
async fn a_stopped_backend_refuses() {
    let backend = Backend::start("one", &["m"]);
    let url = format!("{}/v1/models", backend.url());
    assert!(client().get(&url).send().await.is_ok());
    backend.stop();
    eventually("it refuses", PATIENCE, async || client().get(&url).send().await.is_err()).await;
    backend.start_again();
    assert!(client().get(&url).send().await.is_ok());
}

#[tokio::test]
async fn the_farm_and_ollama_tell_what_they_have() {
    let farm = LlamaFarm::start("farm");
    let get = async |url: String| -> Value {
        client().get(url).send().await.expect("the double answers").json().await.expect("it is JSON")
    };
    let projects = get(format!("{}/v1/projects/farm", farm.url())).await;
    assert_eq!(projects["projects"][0]["name"], "camelids");
    assert_eq!(get(format!("{}/v1/projects/nobody", farm.url())).await["total"], 0);
    let ollama = Ollama::start("ollama");
    let tags = get(format!("{}/api/tags", ollama.url())).await;
    assert_eq!(tags["models"].as_array().map(Vec::len), Some(Ollama::MODELS.len()));
}
