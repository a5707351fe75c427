//! Other protocols over the same mesh: answered one hop away, told honestly when that fails, and never a way to a loop.

mod support;

use std::cell::RefCell;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Backend, Cluster, Mode, NodePlan, PATIENCE, eventually, free_port};

const MODEL: &str = "llama3.1:8b";
/// How soon the far backend knows that its client has left. The promise is one second; two busy cores may add to it.
const NOTICED: Duration = Duration::from_secs(3);

/// A request of each protocol, and what its stream ends with when it ends well, and when not.
fn protocols(ollama: u16, api: u16) -> Vec<(String, Value, &'static str, &'static str)> {
    let user = json!([{"role": "user", "content": "hello"}]);
    vec![
        (
            format!("http://127.0.0.1:{api}/v1/messages"),
            json!({"model": MODEL, "max_tokens": 99, "stream": true, "messages": user}),
            "event: message_stop\n",
            "event: error\n",
        ),
        (
            format!("http://127.0.0.1:{api}/v1/responses"),
            json!({"model": MODEL, "stream": true, "input": "hello"}),
            "event: response.completed\n",
            "event: response.failed\n",
        ),
        (
            format!("http://127.0.0.1:{ollama}/api/chat"),
            json!({"model": MODEL, "messages": user}),
            "\"done\":true",
            "{\"error\":\"",
        ),
        (
            format!("http://127.0.0.1:{ollama}/api/generate"),
            json!({"model": MODEL, "prompt": "hello"}),
            "\"done\":true",
            "{\"error\":\"",
        ),
    ]
}

#[tokio::test]
async fn each_protocol_is_answered_by_another_node_and_told_when_it_breaks() {
    let backend = Backend::start("gpu", &[MODEL]);
    let port = free_port();
    let plan = NodePlan::named("laptop").flag("--ollama-port", &port.to_string());
    let cluster = Cluster::start(vec![plan, NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model(MODEL).await;
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    for (url, body, well, badly) in protocols(port, cluster[0].api_port) {
        // A node that failed cools down for a while, which is a matter of its own.
        let ask = async || {
            let answer = RefCell::new(None);
            eventually("it is asked again", PATIENCE, async || {
                let response = http.post(&url).json(&body).send().await.expect("an answer");
                let asked = response.status() != 503;
                *answer.borrow_mut() = asked.then_some(response);
                asked
            })
            .await;
            answer.into_inner().expect("an answer")
        };

        backend.set(Mode::quick());
        let response = ask().await;
        assert_eq!(response.headers()["x-atmosphere-node"], "gpu", "{url}");
        let told = response.text().await.expect("text");
        assert!(told.contains("t7") && told.contains(well) && !told.contains(badly), "{url}: {told}");

        backend.set(Mode::SplitUtf8);
        let told = ask().await.text().await.expect("text");
        assert!(told.contains(Backend::SPLIT_TEXT), "{url}: {told}");

        for mode in [Mode::Die { after: 3 }, Mode::ErrorInside { after: 3 }, Mode::Truncate { after: 3 }] {
            backend.set(mode.clone());
            let told = ask().await.text().await.expect("text");
            assert!(told.contains(badly) && !told.contains(well), "{url} {mode:?}: {told}");
        }

        backend.set(Mode::too_many(7));
        let busy = ask().await;
        assert_eq!(
            (busy.status().as_u16(), &busy.headers()["retry-after"]),
            (429, &"7".parse().expect("a value")),
            "{url}"
        );
        let busy: Value = busy.json().await.expect("JSON");
        let message = busy["error"]["message"].as_str().or(busy["error"].as_str()).unwrap_or_default();
        assert!(message.contains("slow down"), "{url}: {busy}");

        backend.set(Mode::slow(100_000));
        let mut stream = ask().await;
        assert!(stream.chunk().await.expect("a piece").is_some());
        let before = backend.counts();
        drop(stream);
        eventually("the backend sees the cancel", NOTICED, async || backend.counts().cancelled > before.cancelled)
            .await;
    }
}

#[tokio::test]
async fn a_node_is_no_ollama_to_itself_or_to_others() {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let own =
        NodePlan::named("own").flag("--ollama-port", &port.to_string()).backend(format!("ollama={url}")).start().await;
    let other = NodePlan::named("other").backend(&url).start().await;
    for node in [&own, &other] {
        eventually("it is refused", PATIENCE, async || {
            let health = node.get_json("/v1/health").await;
            let providers = health["providers"].as_array().cloned().unwrap_or_default();
            let told =
                |provider: &Value| provider["error"].as_str().is_some_and(|error| error.contains("an Atmosphere node"));
            providers
                .iter()
                .any(|provider| provider["url"].as_str() == Some(&url) && provider["up"] == false && told(provider))
        })
        .await;
        let capabilities = node.get_json("/v1/capabilities").await;
        let only_builtin =
            |list: &Vec<Value>| list.iter().all(|it| it["id"].as_str().is_some_and(|id| id.starts_with("builtin")));
        assert!(capabilities["capabilities"].as_array().is_some_and(only_builtin), "{capabilities}");
    }
}

#[tokio::test]
async fn a_port_that_an_ollama_has_is_named_in_the_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let mut node = NodePlan::named("late").flag("--ollama-port", &port.to_string()).spawn();
    let status = node.ended(PATIENCE).await;
    assert!(!status.success());
    let log = node.log();
    assert!(log.contains(&format!("127.0.0.1:{port} is in use")) && log.contains("--ollama-port"), "{log}");
}
