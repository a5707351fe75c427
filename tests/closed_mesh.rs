//! A closed mesh of real processes, by the command line as an owner uses it: made, joined, changed into while a node
//! runs, left by revocation; and as docker-compose.yml sets it up.

mod support;

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use support::{Backend, NodePlan, PATIENCE, TestNode, chat, error_message, eventually, free_port, program};

fn text(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn failure(output: &std::process::Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

async fn invite(node: &TestNode, flags: &[&str]) -> String {
    let token = text(&node.cli(&[&["invite"], flags].concat()).await).trim().to_owned();
    assert!(token.starts_with("atmo1") && !token.contains(char::is_whitespace), "only the token: {token}");
    token
}

async fn statuses(node: &TestNode) -> Vec<(String, String)> {
    let answer = node.get_json("/v1/mesh/members").await;
    let field = |member: &Value, name: &str| member[name].as_str().unwrap_or("-").to_owned();
    let members = answer["members"].as_array().expect("members");
    members.iter().map(|member| (field(member, "role"), field(member, "status"))).collect()
}

#[tokio::test]
async fn a_mesh_is_made_and_joined_while_no_node_runs_and_a_revoked_node_stays_out() {
    let backend = Backend::start("gpu", &["m"]);
    let first =
        NodePlan::named("first").backend(backend.url()).flag("--mesh", "home").argument("--private").start().await;
    let status = text(&first.cli(&["status"]).await);
    assert!(status.contains("home  closed") && status.contains("admin until"), "{status}");
    // The banner comes a moment after the API.
    eventually("the banner says it too", PATIENCE, async || first.log().contains("closed mesh home as admin")).await;

    // The second machine: join, then start.
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    let data_flag = data.to_str().expect("UTF-8");
    let token = invite(&first, &[]).await;
    let began = Instant::now();
    let joined = text(&program(&["join", &token, "--data-dir", data_flag], home.path()).await);
    assert!(joined.contains("joined the mesh home as member") && joined.contains("--data-dir"), "{joined}");
    let mut second = NodePlan::named("second").flag("--data-dir", data_flag).spawn();
    let answered = || async {
        let asked = second.try_post("/v1/chat/completions", &chat("m", "hello")).await;
        asked.is_ok_and(|answer| answer.status() == 200)
    };
    eventually("a call is answered", PATIENCE, answered).await;
    println!("from `join` (of a node that was not running) to the first answered call: {:?}", began.elapsed());
    second.ready().await;

    // The invite is used up.
    let other = tempfile::tempdir().expect("a directory");
    let refused =
        failure(&program(&["join", &token, "--data-dir", other.path().to_str().expect("UTF-8")], home.path()).await);
    assert!(refused.contains("used already") && refused.contains("atmosphere invite"), "{refused}");
    eventually("the refusal is logged", PATIENCE, async || first.log().contains("used already")).await;
    let wrong = failure(&program(&["join", &token[..token.len() - 4], "--data-dir", data_flag], home.path()).await);
    assert!(wrong.contains("cut short") && !wrong.contains(&token[5..30]), "{wrong}");

    // Only the owner invites: not a web page, and not a member that is no admin.
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let page = client.post(first.url("/v1/mesh/invite")).header("origin", "https://evil.example").json(&json!({}));
    assert_eq!(page.send().await.expect("an answer").status(), 403);
    let (status, answer) = second.ask("/v1/mesh/invite", &json!({})).await;
    assert_eq!(status, 403, "{answer}");
    assert!(error_message(&answer).contains("only admins may"), "{answer}");
    assert_eq!(first.ask("/v1/mesh/invite", &json!({"uses": 0})).await.0, 400);
    assert_eq!(first.ask("/v1/mesh/invite", &json!({"expires": "soon"})).await.0, 400);
    assert_eq!(first.ask("/v1/mesh/invite", &json!({"role": "king"})).await.0, 400);

    // Revoked: cut off at once, and still after both were restarted.
    let members = text(&first.cli(&["members"]).await);
    assert!(members.contains("second") && members.contains("admin"), "{members}");
    let began = Instant::now();
    text(&first.cli(&["revoke", "second", "--reason", "sold"]).await);
    first.sees_nodes(&["first"]).await;
    println!("from `revoke` until the mesh lists the node no more: {:?}", began.elapsed());
    // To the one that was revoked, the other has gone silent: it believes the last advert to its end.
    second.sees_nodes(&["second"]).await;
    println!("from `revoke` until the node lists nobody else: {:?}", began.elapsed());
    let members = text(&first.cli(&["members"]).await);
    assert!(members.contains("revoked") && members.contains("sold"), "{members}");
    let mut first = first;
    first.terminate();
    first.ended(PATIENCE).await;
    second.terminate();
    second.ended(PATIENCE).await;
    first.restart().await;
    second.restart().await;
    eventually("the revoked node is told", PATIENCE, async || {
        let (_, answer) = second.ask("/v1/mesh/join", &json!({"peer": first.seed()})).await;
        answer["error"]["message"].as_str().is_some_and(|message| message.contains("revoked"))
    })
    .await;
    assert_eq!(first.node_names().await, ["first"]);
    assert_eq!(statuses(&first).await.len(), 2);

    // Another mesh needs the word of the owner.
    let elsewhere = NodePlan::named("elsewhere").flag("--mesh", "other").argument("--private").start().await;
    let token = invite(&elsewhere, &["--expires", "1h"]).await;
    let error = failure(&second.cli(&["join", &token]).await);
    assert!(error.contains("atmosphere mesh leave"), "{error}");
    text(&second.cli(&["mesh", "leave"]).await);
    let joined = text(&second.cli(&["join", &token]).await);
    assert!(joined.contains("joined the mesh other"), "{joined}");
    second.sees_nodes(&["elsewhere", "second"]).await;
}

#[tokio::test]
async fn running_nodes_go_into_a_closed_mesh_and_calls_go_on() {
    let backend = Backend::start("gpu", &["m"]);
    let gpu = NodePlan::named("gpu").backend(backend.url()).start().await;
    let laptop = NodePlan::named("laptop").seed(gpu.seed()).start().await;
    laptop.sees_model("m").await;
    let made = text(&gpu.cli(&["mesh", "create", "home"]).await);
    assert!(made.contains("closed mesh home"), "{made}");
    laptop.sees_nodes(&["laptop"]).await;
    let token = invite(&gpu, &["--role", "client", "--uses", "2"]).await;
    let began = Instant::now();
    let joined = text(&laptop.cli(&["join", &token]).await);
    assert!(joined.contains("joined the mesh home"), "{joined}");
    eventually("a call is answered", PATIENCE, async || {
        laptop.ask("/v1/chat/completions", &chat("m", "hello")).await.0 == 200
    })
    .await;
    println!("from `join` (of a running node) to the first answered call: {:?}", began.elapsed());
    gpu.sees_nodes(&["gpu", "laptop"]).await;
    let status = text(&laptop.cli(&["status", "--json"]).await);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(
        (status["mesh"]["closed"].clone(), status["mesh"]["membership"]["role"].clone()),
        (json!(true), json!("client"))
    );
    // As an argument of `start`, also once more.
    let mut third = NodePlan::named("third").seed(token.clone()).start().await;
    gpu.sees_nodes(&["gpu", "laptop", "third"]).await;
    assert!(!third.log().contains(&token[5..40]), "the secret is in no log");
    third.terminate();
    third.ended(PATIENCE).await;
    third.restart().await;
    gpu.sees_nodes(&["gpu", "laptop", "third"]).await;
    // And what another mesh name would mean is said.
    third.terminate();
    third.ended(PATIENCE).await;
    let config = third.command().arg("--mesh").arg("strange").output().expect("it runs");
    let error = String::from_utf8_lossy(&config.stderr).into_owned();
    assert!(error.contains("closed mesh home") && error.contains("atmosphere mesh leave"), "{error}");
}

#[tokio::test]
async fn nobody_but_the_owner_changes_anything_on_an_api_that_is_open_to_others() {
    let plan = NodePlan::named("open").flag("--bind", "0.0.0.0").argument("--allow-no-auth");
    let node = plan.flag("--mesh", "home").argument("--private").start().await;
    let Some(address) = other_address() else {
        println!("SKIPPED: this machine has no address but loopback");
        return;
    };
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for (path, body) in [
        ("invite", json!({})),
        ("revoke", json!({"node": "x"})),
        ("create", json!({"name": "x"})),
        ("leave", json!({})),
        ("join", json!({"peer": "atmosphere://join/atmo1x"})),
    ] {
        let url = format!("http://{address}:{}/v1/mesh/{path}", node.api_port);
        let answer = client.post(&url).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status(), 403, "{path}");
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(answer["error"]["code"], "owner_only", "{path}: {answer}");
    }
    assert_eq!(node.ask("/v1/mesh/invite", &json!({})).await.0, 200, "from the machine itself");
}

/// An address of this machine that is not loopback.
fn other_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: it only asks which address would be used.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// The environment of a service, as docker-compose.yml has it, with the paths and names of this test.
fn environment(service: &str, invite: &Path, gossip_port: u16) -> Vec<(String, String)> {
    let file =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-compose.yml")).expect("there");
    let mut variables = Vec::new();
    let (mut within, mut merged) = ("", Vec::new());
    for line in file.lines() {
        let name = line.trim().trim_end_matches(':');
        if line.starts_with("  ") && !line.starts_with("   ") && line.trim_end().ends_with(':') {
            within = name;
        }
        let Some((key, value)) = line.trim().split_once(": ") else { continue };
        if key.starts_with("ATMOSPHERE_") {
            let value = value.trim_matches('"');
            let value = value.replace("/run/atmosphere/invite", invite.to_str().expect("UTF-8"));
            let value = value.replace("/dns4/node1/", "/dns4/localhost/").replace("11450", &gossip_port.to_string());
            if within == service {
                variables.push((key.to_owned(), value.clone()));
            }
            if within == "node2" {
                merged.push((key.to_owned(), value));
            }
        }
    }
    // node3 takes over what node2 has.
    if service == "node3" {
        merged.extend(variables);
        variables = merged;
    }
    assert!(variables.len() > 4, "{service}: {variables:?}");
    variables
}

#[tokio::test]
async fn three_services_as_in_the_compose_file_make_one_closed_mesh_whatever_their_order() {
    let shared = tempfile::tempdir().expect("a directory");
    let invite = shared.path().join("invite");
    let port = free_port();
    let plan = |service: &str| {
        let mut plan = NodePlan::named(service);
        for (name, value) in environment(service, &invite, port) {
            // There is no Ollama here, and the flags of tests come before the environment.
            if name != "ATMOSPHERE_BACKENDS" && name != "ATMOSPHERE_NAME" {
                plan = plan.env(&name, &value);
            }
        }
        plan
    };
    // The ones that wait are there first.
    let mut third = plan("node3").spawn();
    let mut second = plan("node2").spawn();
    eventually("they wait for the invite", PATIENCE, async || second.log().contains("no invite in")).await;
    let mut first = plan("node1").gossip_port(port).spawn();
    for node in [&first, &second, &third] {
        node.ready().await;
    }
    let names = ["node1", "node2", "node3"];
    for node in [&first, &second, &third] {
        node.sees_nodes(&names).await;
        assert_eq!(node.get_json("/v1/health").await["mesh"]["closed"], true);
    }
    let token = std::fs::read_to_string(&invite).expect("kept");
    let stranger = NodePlan::named("stranger").seed(first.seed()).start().await;
    // Down and up again, in another order: each has its own membership by now.
    for node in [&mut first, &mut second, &mut third] {
        node.terminate();
        node.ended(PATIENCE).await;
    }
    second.run_again();
    third.run_again();
    first.run_again();
    for node in [&first, &second, &third] {
        node.ready().await;
        node.sees_nodes(&names).await;
    }
    assert_eq!(stranger.node_names().await, ["stranger"]);
    assert!(!first.log().contains(token.lines().last().expect("a token")), "no log has the invite");
}
