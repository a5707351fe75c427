//! What an owner keeps secret is sent to whom it is for, and seen nowhere else: not by clients, not by peers, not in logs.

mod support;

use serde_json::{Value, json};
use support::{Backend, Cluster, LlamaFarm, Mode, NodePlan, TestNode, chat, eventually};

/// Keys by the ways in which an owner may give one.
const KEY: &str = "sk-inline-4f9a-never-to-be-seen";
const KEY_OF_ENV: &str = "sk-of-env-77c1-never-to-be-seen";
const PASSWORD: &str = "hunter2-never-to-be-seen";
const API_KEY: &str = "the-api-key-never-to-be-seen";
const SECRETS: [&str; 5] = [KEY, KEY_OF_ENV, PASSWORD, API_KEY, LlamaFarm::SECRET];

/// Everything that a client can read of a node.
const PATHS: [&str; 9] = [
    "/v1/capabilities",
    "/v1/models",
    "/v1/mesh/nodes",
    "/v1/mesh/capabilities",
    "/v1/mesh/decisions",
    "/v1/mesh/topology",
    "/v1/health",
    "/metrics",
    "/readyz",
];

fn tells_none(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} tells {secret}:\n{text}");
    }
}

/// Head and body of an answer.
async fn everything_of(answer: reqwest::Response) -> String {
    let head = format!("{:?}", answer.headers());
    head + &answer.text().await.unwrap_or_default()
}

struct Setup {
    farm: LlamaFarm,
    backends: [Backend; 3],
    cluster: Cluster,
}

/// `owner` has a project and three backends with keys, `peer` has nothing. Both say all that they know in their logs.
async fn setup() -> Setup {
    let farm = LlamaFarm::start("farm");
    let backends = [("one", "alpha:7b"), ("two", "beta:7b"), ("three", "gamma:7b")];
    let backends = backends.map(|(name, model)| Backend::start(name, &[model]));
    let [one, two, three] = &backends;
    let config = format!(
        "[[backends]]\nkind = \"llamafarm\"\nurl = \"{}\"\nnamespaces = [\"farm\"]\n\
         [[backends]]\nkind = \"openai\"\nurl = \"{}\"\nkey = \"{KEY}\"\n\
         [[backends]]\nkind = \"openai\"\nurl = \"{}\"\nkey_env = \"OWNERS_KEY\"\n\
         [[backends]]\nkind = \"openai\"\nurl = \"{}\"\n",
        farm.url(),
        one.url(),
        two.url(),
        three.url().replace("http://", &format!("http://me:{PASSWORD}@")),
    );
    let cluster = Cluster::start(vec![
        NodePlan::named("peer").flag("--log", "debug"),
        NodePlan::named("owner").config(&config).env("OWNERS_KEY", KEY_OF_ENV).flag("--log", "debug"),
    ])
    .await;
    for model in ["alpha:7b", "beta:7b", "gamma:7b"] {
        cluster[0].sees_model(model).await;
    }
    eventually("the project is known", support::PATIENCE, async || {
        cluster[0].get_json("/v1/capabilities").await.to_string().contains("farm/camelids")
    })
    .await;
    Setup { farm, backends, cluster }
}

async fn everything_readable(node: &TestNode) {
    for path in PATHS {
        let answer = node.get(path).await;
        let headers = format!("{:?}", answer.headers());
        let body = answer.text().await.unwrap_or_default();
        assert!(!body.is_empty(), "{path} of {} has nothing to say", node.name());
        tells_none(&format!("{path} of {}", node.name()), &format!("{headers}{body}"));
    }
    let log = node.log();
    assert!(log.contains("DEBUG"), "{} logs at debug level", node.name());
    tells_none(&format!("the log of {}", node.name()), &log);
}

#[tokio::test]
async fn keys_reach_their_backend_and_nobody_else() {
    let setup = setup().await;
    let [peer, owner] = [&setup.cluster[0], &setup.cluster[1]];
    for (backend, model, key) in [
        (&setup.backends[0], "alpha:7b", KEY),
        (&setup.backends[1], "beta:7b", KEY_OF_ENV),
        (&setup.backends[2], "gamma:7b", PASSWORD),
    ] {
        let (status, answer) = peer.ask("/v1/chat/completions", &chat(model, "hello")).await;
        assert_eq!(status, 200, "{answer}");
        tells_none("an answer", &answer.to_string());
        let headers = backend.headers().pop().expect("the backend was asked");
        let shown = headers.get("authorization").and_then(|value| value.to_str().ok());
        assert_eq!(shown, Some(format!("Bearer {key}").as_str()), "{model} is paid for with its own key");
        assert_eq!(headers.values().filter(|value| value.as_bytes().ends_with(b"never-to-be-seen")).count(), 1);
    }
    let (status, answer) = peer.ask("/v1/chat/completions", &chat("farm/camelids", "hello")).await;
    assert_eq!(status, 200, "{answer}");
    assert!(setup.farm.counts().started > 0);
    for node in [peer, owner] {
        everything_readable(node).await;
    }
}

#[tokio::test]
async fn a_backend_that_quotes_its_key_is_not_believed_to_be_discreet() {
    let setup = setup().await;
    let [peer, owner] = [&setup.cluster[0], &setup.cluster[1]];
    for status in [400, 401, 403, 404, 422, 429, 500] {
        let message = format!("Incorrect API key provided: {KEY}. You can find your key in your account.");
        let shapes = [
            json!({"error": {"message": message, "type": "e", "param": KEY, "code": "invalid_api_key"}}),
            json!({"detail": message}),
            json!(message),
        ];
        for body in shapes {
            setup.backends[0].set(Mode::Refuse { status, body, retry_after: None });
            for (node, stream) in [(owner, false), (peer, false), (peer, true)] {
                let mut body = chat("alpha:7b", "hello");
                body["stream"] = stream.into();
                let answer = node.post("/v1/chat/completions", &body).await;
                assert!(!answer.status().is_success(), "the backend refuses with {status}");
                let told = everything_of(answer).await;
                tells_none(&format!("the error {status} of {}", node.name()), &told);
            }
        }
    }
    for node in [peer, owner] {
        everything_readable(node).await;
    }
}

#[tokio::test]
async fn the_configuration_in_force_is_shown_without_them() {
    let config = format!(
        "[[backends]]\nkind = \"openai\"\nurl = \"http://127.0.0.1:1\"\nkey = \"{KEY}\"\n\
         [[backends]]\nurl = \"http://127.0.0.1:2\"\nkey_env = \"OWNERS_KEY\"\n\
         [[backends]]\nurl = \"http://me:{PASSWORD}@127.0.0.1:3\"\n"
    );
    let plan = NodePlan::named("n").config(&config).env("OWNERS_KEY", KEY_OF_ENV).env("ATMOSPHERE_API_KEYS", API_KEY);
    let mut node = plan.argument("--print-config").spawn();
    assert!(node.ended(support::PATIENCE).await.success(), "{}", node.log());
    let said = node.log();
    assert!(said.contains("[api]") && said.matches("<redacted>").count() >= 4, "{said}");
    tells_none("--print-config", &said);
}

#[tokio::test]
async fn an_api_key_is_not_repeated() {
    let node = NodePlan::named("n").env("ATMOSPHERE_API_KEYS", API_KEY).flag("--log", "debug").start().await;
    let wrong = "a-wrong-key-of-somebody-else";
    let client = reqwest::Client::builder().no_proxy().build().expect("a client needs nothing");
    for (key, expected) in [(API_KEY, 200), (wrong, 401)] {
        let answer = client.get(node.url("/v1/models")).bearer_auth(key).send().await.expect("an answer");
        assert_eq!(answer.status(), expected);
        let told = everything_of(answer).await;
        tells_none("an answer", &told);
        assert!(!told.contains(wrong), "{told}");
    }
    let model = client.post(node.url("/v1/chat/completions")).bearer_auth(API_KEY).json(&chat("nobody-has-this", "hi"));
    let told: Value = model.send().await.expect("an answer").json().await.expect("JSON");
    tells_none("an error", &told.to_string());
    tells_none("the log", &node.log());
    assert!(!node.log().contains(wrong), "{}", node.log());
}
