//! What goes wrong at the start is told in a way that helps; what may come right is tried again.

mod support;

use std::time::Duration;

use support::{NodePlan, PATIENCE, eventually, free_port, program};

/// A node that cannot start says so at once.
const AT_ONCE: Duration = Duration::from_secs(15);

/// Which settings are wrong is told by the exit code too.
const WRONG_SETTING: i32 = 2;

async fn fails_with(plan: NodePlan, words: &[&str]) -> Option<i32> {
    let mut node = plan.spawn();
    let status = node.ended(AT_ONCE).await;
    let said = node.log();
    assert!(!status.success(), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    status.code()
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    fails_with(NodePlan::named("n").flag("--port", &port), &[&port, "in use"]).await;
    fails_with(NodePlan::named("n").flag("--gossip-port", &port), &[&port, "in use"]).await;
}

#[tokio::test]
async fn a_data_dir_that_cannot_be_is_named() {
    // Below a file there can be no directory, not even for root.
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let below = file.path().join("data");
    let below = below.to_str().expect("temporary paths are UTF-8");
    fails_with(NodePlan::named("n").flag("--data-dir", below), &[below]).await;
}

#[tokio::test]
async fn a_second_node_on_the_same_data_dir_is_refused_and_the_first_lives_on() {
    let first = NodePlan::named("first").start().await;
    let dir = first.data_dir();
    let dir = dir.to_str().expect("temporary paths are UTF-8");
    fails_with(NodePlan::named("second").flag("--data-dir", dir), &[dir]).await;
    first.ready().await;
}

#[tokio::test]
async fn bad_flags_and_settings_name_the_field() {
    let code = fails_with(NodePlan::named("n").flag("--port", "99999999"), &["--port"]).await;
    assert_eq!(code, Some(WRONG_SETTING));
    fails_with(NodePlan::named("n").argument("--no-such-flag"), &["--no-such-flag"]).await;
    fails_with(NodePlan::named("n").env("ATMOSPHERE_MESH_ADVERT_TTL", "soon"), &["advert_ttl", "soon"]).await;
    fails_with(NodePlan::named("n").config("[mesh]\nadvret_ttl = \"9s\""), &["advret_ttl", "advert_ttl"]).await;
    fails_with(NodePlan::named("n").config("port = = 3"), &["config.toml"]).await;
    fails_with(NodePlan::named("n").backend("nonsense=http://127.0.0.1:1"), &["nonsense"]).await;
    // All problems at once, not one after the other.
    let several =
        NodePlan::named("n").config("port = \"many\"\n[api]\nmax_body = \"huge\"").argument("--log-format=loud");
    let mut node = several.spawn();
    assert!(!node.ended(AT_ONCE).await.success());
}

#[tokio::test]
async fn a_member_of_a_closed_mesh_is_not_started_in_another_one() {
    let mut member = NodePlan::named("member").argument("--private").flag("--mesh", "home").start().await;
    let dir = member.data_dir();
    member.kill();
    let plan = NodePlan::named("member").flag("--data-dir", dir.to_str().expect("temporary paths are UTF-8"));
    let code = fails_with(plan.flag("--mesh", "work"), &["home", "work", "mesh leave"]).await;
    assert_eq!(code, Some(WRONG_SETTING));
}

#[tokio::test]
async fn an_open_api_on_a_reachable_address_wants_keys() {
    fails_with(NodePlan::named("n").flag("--bind", "0.0.0.0"), &["key"]).await;
}

#[tokio::test]
async fn an_unreachable_seed_is_tried_until_it_is_there() {
    let port = free_port();
    let patient = NodePlan::named("patient").seed(format!("127.0.0.1:{port}")).start().await;
    patient.sees_nodes(&["patient"]).await;
    let late = NodePlan::named("late").gossip_port(port).start().await;
    eventually("they see each other", PATIENCE * 3, async || {
        patient.node_names().await.len() == 2 && late.node_names().await.len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_restart_needs_no_seed() {
    let first = NodePlan::named("first").start().await;
    let mut second = NodePlan::named("second").seed(first.seed()).start().await;
    first.sees_nodes(&["first", "second"]).await;
    let id = first.id().await;
    second.terminate();
    second.ended(PATIENCE).await;
    // Same data directory, but nobody tells it where the others are.
    let again = second.without_seeds();
    let again = again.start().await;
    again.sees_nodes(&["first", "second"]).await;
    assert_eq!(first.id().await, id);
}

#[tokio::test]
async fn without_a_node_the_verbs_say_what_to_do() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let url = format!("http://127.0.0.1:{}", free_port());
    for verb in ["status", "nodes", "capabilities"] {
        let output = program(&[verb, "--url", &url], home.path()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{verb}");
        assert!(said.contains("atmosphere start"), "{verb} says {said:?}");
    }
}
