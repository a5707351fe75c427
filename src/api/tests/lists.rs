//! Models, nodes, capabilities, decisions, health, and the contract.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::scripted::{peer, settings, silent_api};
use crate::api::{meta, routes};
use crate::capability::{Operation, Target};

#[test]
fn the_contract_lists_every_route_and_no_other() {
    let contract: Value = serde_json::from_str(meta::OPENAPI).expect("JSON");
    let listed: BTreeSet<(String, String)> = contract["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, operations)| {
            operations.as_object().expect("operations").keys().map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let served: BTreeSet<_> =
        routes::all().map(|(method, pattern)| (method.to_owned(), pattern.replace("{*", "{"))).collect();
    assert_eq!(listed, served);
}

#[test]
fn every_reference_of_the_contract_leads_somewhere() {
    fn walk(value: &Value, root: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').expect("within the document");
                    assert!(root.pointer(pointer).is_some(), "{reference}");
                }
                fields.values().for_each(|value| walk(value, root));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, root)),
            _ => {}
        }
    }
    let contract: Value = serde_json::from_str(meta::OPENAPI).expect("JSON");
    assert_eq!(contract["info"]["version"], env!("CARGO_PKG_VERSION").trim_end_matches("-api"));
    walk(&contract, &contract);
}

#[tokio::test]
async fn every_model_is_listed_once_with_who_has_it() {
    let api = silent_api(settings()).await;
    let (status, list) = api.get("/v1/models").await;
    assert_eq!((status, &list["object"]), (200, &json!("list")));
    let data = list["data"].as_array().expect("models");
    let ids: Vec<_> = data.iter().map(|model| model["id"].as_str().expect("an id")).collect();
    // Not the camera: it is no model.
    assert_eq!(ids, ["auto", "best-chat", "llama3.2:latest", "nomic-embed", "qwen/coder:7b@q4", "zoo/camelids"]);
    let llama = &data[2];
    assert_eq!((&llama["object"], &llama["owned_by"]), (&json!("model"), &json!("ollama")));
    assert!(llama["created"].as_u64().is_some_and(|created| created > 1_700_000_000));
    assert_eq!(llama["atmosphere"]["nodes"], json!(["gpu", "laptop"]));
    assert_eq!(llama["atmosphere"]["kinds"], json!(["llm/chat"]));
    assert_eq!(llama["atmosphere"]["context_length"], 8192);
    assert_eq!(data[0]["owned_by"], "atmosphere");
    assert_eq!(data[5]["atmosphere"]["project"], "zoo/camelids");
}

#[tokio::test]
async fn a_model_is_found_by_every_way_to_write_it() {
    let api = silent_api(settings()).await;
    for path in [
        "llama3.2",
        "Llama3.2:latest",
        "llama3.2%3Alatest",
        "llama3.2@gpu",
        "qwen/coder:7b@q4",
        "qwen%2Fcoder%3A7b%40q4",
        "qwen/coder:7b@q4@gpu",
        "zoo/camelids",
        "auto",
        "best-chat",
    ] {
        let (status, model) = api.get(&format!("/v1/models/{path}")).await;
        assert_eq!((status, &model["object"]), (200, &json!("model")), "{path}: {model}");
    }
    for path in ["llama", "nomic-embed@gpu", "llama3.2@nowhere", "porch"] {
        let (status, error) = api.get(&format!("/v1/models/{path}")).await;
        assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")), "{path}");
    }
}

#[tokio::test]
async fn nodes_and_links_have_their_shapes() {
    let api = silent_api(settings()).await;
    let (_, topology) = api.get("/v1/mesh/topology").await;
    assert_eq!(topology["mesh"], json!({"id": "ab".repeat(32), "name": "home", "closed": false, "membership": null}));
    assert_eq!(
        topology["links"][0],
        json!({"source": peer(1).to_base58(), "target": peer(2).to_base58(), "path": "lan", "transport": "quic", "rtt_ms": 1.5})
    );
    let (_, list) = api.get("/v1/mesh/nodes").await;
    assert_eq!(list["nodes"], topology["nodes"]);
    let nodes = list["nodes"].as_array().expect("nodes");
    let fields: BTreeSet<_> = nodes[0].as_object().expect("a node").keys().map(String::as_str).collect();
    let promised = ["addresses", "capabilities", "id", "load", "name", "path", "rtt_ms", "self", "status", "version"];
    assert_eq!(fields, BTreeSet::from(promised));
    let brief: Vec<_> =
        nodes.iter().map(|n| (&n["name"], &n["self"], &n["status"], &n["path"], &n["capabilities"])).collect();
    assert_eq!(
        brief,
        [
            (&json!("laptop"), &json!(true), &json!("online"), &json!("self"), &json!(2)),
            (&json!("gpu"), &json!(false), &json!("online"), &json!("lan"), &json!(3)),
            (&json!(""), &json!(false), &json!("joining"), &json!("lan"), &json!(0)),
        ]
    );
}

#[tokio::test]
async fn capabilities_are_narrowed_by_type_domain_and_node() {
    let api = silent_api(settings()).await;
    for (query, count) in [
        ("", 5),
        ("?type=llm", 4),
        ("?type=llm/chat", 2),
        ("?type=chat&node=gpu", 1),
        ("?domain=Animals", 1),
        ("?type=tool&domain=animals", 0),
        ("?node=nowhere", 0),
    ] {
        for path in ["/v1/capabilities", "/v1/mesh/capabilities"] {
            let (_, list) = api.get(&format!("{path}{query}")).await;
            assert_eq!(list["capabilities"].as_array().map(Vec::len), Some(count), "{path}{query}: {list}");
        }
    }
    let (_, list) = api.get("/v1/capabilities?domain=animals").await;
    let one = &list["capabilities"][0];
    for (field, value) in [
        ("id", json!("ollama/llm/code/qwen/coder:7b@q4")),
        ("type", json!("llm/code")),
        ("node", json!(peer(2).to_base58())),
        ("node_name", json!("gpu")),
        ("model", json!("qwen/coder:7b@q4")),
        ("models", json!(["qwen/coder:7b@q4"])),
        ("project", json!("zoo/camelids")),
        ("domain", json!("animals")),
        ("state", json!("unknown")),
        ("latency_ms", json!(1.5)),
    ] {
        assert_eq!(one[field], value, "{field}");
    }
}

#[tokio::test]
async fn a_request_is_judged_and_not_run() {
    let api = silent_api(settings()).await;
    for (body, operation, query) in [
        (json!({"prompt": "a llama?"}), Operation::Chat, Some("a llama?")),
        (json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}), Operation::Chat, Some("hi")),
        (json!({"input": "x"}), Operation::Embed, None),
    ] {
        let answer: Value = api.post("/v1/mesh/route", &body).await.json().await.expect("JSON");
        let decision = &answer["decision"];
        assert_eq!(
            decision["chosen"],
            json!({"node": peer(2).to_base58(), "node_name": "gpu", "capability": "ollama/llm/chat/llama3.2", "model": "llama3.2"})
        );
        assert_eq!((&decision["id"], &decision["elapsed_us"]), (&json!("d-1"), &json!(42)));
        assert_eq!(decision["candidates"][0]["predicted_ms"], 250.0);
        assert!(decision["candidates"][0]["parts"].is_object() && decision["rejected"].is_array());
        let intent = api.node.intents.lock().last().cloned().expect("an intent");
        assert_eq!((intent.operation, intent.query.as_deref()), (operation, query));
    }
    assert_eq!(api.node.intents.lock()[0].target, Target::Auto);
}

#[tokio::test]
async fn decisions_are_told_afterwards() {
    let api = silent_api(settings()).await;
    let (_, list) = api.get("/v1/mesh/decisions").await;
    let (_, one) = api.get("/v1/mesh/decisions/d-1").await;
    assert_eq!(list["decisions"], json!([one["decision"]]));
    assert_eq!((&one["decision"]["id"], &one["decision"]["at_ms"]), (&json!("d-1"), &json!(7000)));
    assert_eq!(
        (&one["decision"]["request_id"], &one["decision"]["outcome"]),
        (&json!("r-1"), &json!({"status": "served"}))
    );
    assert_eq!(
        one["decision"]["attempts"],
        json!([{
            "node": peer(2).to_base58(), "node_name": "gpu", "model": "llama3.2", "role": "first", "result": "ok",
            "elapsed_ms": 3.5,
        }])
    );
    assert_eq!(api.get("/v1/mesh/decisions?limit=0").await.1["decisions"], json!([]));
    assert_eq!(api.get("/v1/mesh/decisions?limit=x").await.0, 400);
}

#[tokio::test]
async fn a_mesh_is_joined_or_the_error_says_why_not() {
    let api = silent_api(settings()).await;
    for (peer, status) in
        [("10.0.0.7:11450", 200), (" 10.0.0.7:11450 ", 200), ("10.0.0.8:11450", 502), ("!", 400), ("7-otter-lamp", 400)]
    {
        let response = api.post("/v1/mesh/join", &json!({"peer": peer})).await;
        assert_eq!(response.status(), status, "{peer}");
        let body: Value = response.json().await.expect("JSON");
        if status == 200 {
            assert_eq!(body["mesh"]["name"], "home");
            assert_eq!(body["nodes"].as_array().map(Vec::len), Some(3));
        } else {
            assert_eq!(body["error"]["param"], "peer");
        }
    }
}

#[tokio::test]
async fn health_and_the_landing_page_say_what_this_is() {
    let api = silent_api(settings()).await;
    let (_, health) = api.get("/v1/health").await;
    assert_eq!(health["status"], "ok");
    assert_eq!(health["node"], json!({"id": peer(1).to_base58(), "name": "laptop"}));
    assert_eq!((&health["nodes"], &health["capabilities"]), (&json!(3), &json!(5)));
    assert_eq!(health["providers"][0]["id"], "ollama");
    assert!(health["uptime_s"].is_u64() && health["version"].is_string() && health["mesh"]["name"] == "home");
    for (accept, media_type) in [("text/html", "text/html; charset=utf-8"), ("*/*", "text/plain; charset=utf-8")] {
        let response = api.client.get(api.url("/")).header("accept", accept).send().await.expect("an answer");
        assert_eq!(response.headers()["content-type"], media_type);
        let page = response.text().await.expect("text");
        assert!(page.contains("/v1/chat/completions") && page.contains("laptop"), "{page}");
    }
    let metrics = api.metrics().await;
    assert!(metrics.contains("atmosphere_http_requests_total{route=\"/\",status=\"2xx\"} 2"), "{metrics}");
    assert!(metrics.contains("atmosphere_http_connections"), "{metrics}");
}
