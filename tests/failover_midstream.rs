//! An answer whose node dies in the middle goes on elsewhere where that is honest, and ends with an error where it is not.

mod support;

use serde_json::{Value, json};
use support::{Backend, Cluster, Events, Mode, NodePlan, Streamed, chat_stream};

const MODEL: &str = "llama3.1:8b";
/// Some two seconds of answer.
const TOKENS: usize = 100;

/// Two holders of one model that answer in the same words, and a node that has nothing.
async fn twins() -> (Cluster, [Backend; 2]) {
    let backends = [Backend::start("twin", &[MODEL]), Backend::start("twin", &[MODEL])];
    for backend in &backends {
        backend.set(Mode::slow(TOKENS));
    }
    let cluster = Cluster::start(vec![
        NodePlan::named("laptop"),
        NodePlan::named("first").backend(backends[0].url()),
        NodePlan::named("second").backend(backends[1].url()),
    ])
    .await;
    cluster[0].sees_holders(MODEL, 2).await;
    (cluster, backends)
}

/// What the twins decode without chance.
fn deterministic() -> Value {
    let mut body = chat_stream(MODEL, "hello");
    body["temperature"] = json!(0);
    body
}

/// A stream of which some events have been read, who serves it, and the id of its decision.
async fn begun(cluster: &Cluster, body: &Value, headers: &[(&str, &str)]) -> (Events, String, String) {
    let response = cluster[0].post_with("/v1/chat/completions", body, headers).await;
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
    let (node, decision) = (header("x-atmosphere-node"), header("x-atmosphere-decision"));
    (Events::of(response), node, decision)
}

fn index_of(node: &str) -> usize {
    if node == "first" { 1 } else { 2 }
}

/// Reads ten events, kills who serves, and reads the rest: all of the events, and how it ended.
async fn killed_in_the_middle(cluster: &mut Cluster, body: &Value, headers: &[(&str, &str)]) -> (Streamed, String) {
    let (mut events, node, decision) = begun(cluster, body, headers).await;
    let mut first = Vec::new();
    for _ in 0..10 {
        let event = events.next().await.expect("an event");
        first.push(serde_json::from_str::<Value>(&event).expect("JSON"));
    }
    cluster[index_of(&node)].kill();
    let mut whole = events.rest().await;
    whole.events.splice(0..0, first);
    (whole, decision)
}

#[tokio::test]
async fn a_deterministic_answer_is_whole_although_its_node_was_killed() {
    let (mut cluster, _backends) = twins().await;
    let (events, ..) = begun(&cluster, &deterministic(), &[]).await;
    let undisturbed = events.rest().await;
    let (whole, decision) = killed_in_the_middle(&mut cluster, &deterministic(), &[]).await;
    assert_eq!(whole.error(), None);
    assert_eq!((whole.text(), whole.dones), (undisturbed.text(), 1));
    let ids: std::collections::BTreeSet<_> = whole.events.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "one answer has one id: {ids:?}");
    let logged = cluster[0].get_json(&format!("/v1/mesh/decisions/{decision}")).await;
    let logged = logged.get("decision").unwrap_or(&logged);
    let roles: Vec<_> =
        logged["attempts"].as_array().expect("attempts").iter().map(|attempt| &attempt["role"]).collect();
    assert_eq!(roles, ["first", "replay"], "{logged}");
    assert_eq!(logged["outcome"]["status"], "served");
}

#[tokio::test]
async fn an_answer_by_chance_and_one_with_failover_off_end_with_an_error() {
    let (mut cluster, _backends) = twins().await;
    let (whole, _) = killed_in_the_middle(&mut cluster, &deterministic(), &[("x-atmosphere-failover", "off")]).await;
    assert!(whole.error().is_some() && whole.dones == 0);
    for dead in 1..3 {
        cluster[dead].kill();
        cluster[dead].restart().await;
    }
    cluster[0].sees_holders(MODEL, 2).await;
    let (whole, decision) = killed_in_the_middle(&mut cluster, &chat_stream(MODEL, "hello"), &[]).await;
    let error = whole.error().expect("an error event");
    let message = error["message"].as_str().unwrap_or_default();
    let logged = cluster[0].get_json(&format!("/v1/mesh/decisions/{decision}")).await;
    assert!(message.contains("continues a partial answer"), "{error}: {logged}");
    assert_eq!(whole.dones, 0);
}

#[tokio::test]
async fn a_backend_that_breaks_in_the_middle_is_replaced_too() {
    let (cluster, backends) = twins().await;
    let (events, ..) = begun(&cluster, &deterministic(), &[]).await;
    let undisturbed = events.rest().await;
    // Whichever is asked first breaks; the other, asked again, says it all.
    let (mut events, node, _) = begun(&cluster, &deterministic(), &[]).await;
    assert!(events.next().await.is_some());
    let broken = &backends[index_of(&node) - 1];
    broken.stop();
    let rest = events.rest().await;
    assert_eq!((rest.error(), rest.dones), (None, 1));
    assert!(undisturbed.text().ends_with(&rest.text()) && !rest.text().is_empty());
}
