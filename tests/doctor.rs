//! `atmosphere doctor` names what is wrong, and what to do about it; a healthy node passes.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Backend, Cluster, NodePlan, PATIENCE, TestNode, eventually, free_port};

/// The findings of one kind that are problems, and whether all is well; from the API, which the verb prints.
async fn problems(node: &TestNode, check: &str) -> (bool, Vec<Value>) {
    let answer = node.get_json("/v1/mesh/doctor").await;
    let findings = answer["findings"].as_array().cloned().unwrap_or_default();
    let problems: Vec<_> =
        findings.into_iter().filter(|one| one["check"] == check && one["verdict"] == "problem").collect();
    assert!(problems.iter().all(|one| one["advice"].is_string()), "a problem without advice: {problems:?}");
    (answer["healthy"] == true, problems)
}

/// Between two examinations, so that the neighbour is not asked more often than it dials.
const DIAL_BACK_PAUSE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_healthy_pair_passes_and_each_reaches_the_others_port() {
    let backend = Backend::start("gpu", &["m"]);
    let plans = vec![NodePlan::named("gpu").backend(backend.url()), NodePlan::named("laptop")];
    let cluster = Cluster::start(plans).await;
    for node in &cluster.nodes {
        let last = parking_lot::Mutex::new(Value::Null);
        // Where a neighbour sees this node is told once, soon after they meet.
        eventually(&format!("{} is found well", node.name()), PATIENCE, async || {
            let answer = node.get_json("/v1/mesh/doctor").await;
            let neighbour = &answer["neighbours"][0];
            let well = answer["healthy"] == true && neighbour["udp"] == "reached" && neighbour["tcp"] == "reached";
            *last.lock() = answer;
            if !well {
                // A neighbour dials back once a second, and each examination takes two dials.
                tokio::time::sleep(DIAL_BACK_PAUSE).await;
            }
            well
        })
        .await;
        let last = last.into_inner();
        let neighbour = &last["neighbours"][0];
        assert_eq!(neighbour["path"], "local", "{neighbour}");
        let ahead = neighbour["clock_ahead_ms"].as_i64().expect("the other told its clock");
        assert!(ahead.abs() < 10_000, "both have one clock: {ahead}");
        // The same from the command line, when the neighbour may dial back again.
        let said = parking_lot::Mutex::new(String::new());
        eventually("doctor says so", PATIENCE, async || {
            tokio::time::sleep(DIAL_BACK_PAUSE).await;
            let output = node.cli(&["doctor"]).await;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(0), "{text}");
            let reached = text.contains("ports") && text.contains("reached UDP port");
            *said.lock() = text;
            reached
        })
        .await;
        let text = said.into_inner();
        assert!(text.starts_with(&format!("{} is healthy", node.name())), "{text}");
    }
    let named = cluster[1].cli(&["doctor", "gpu", "--json"]).await;
    let answer: Value = serde_json::from_slice(&named.stdout).expect("JSON");
    assert_eq!(answer["neighbours"][0]["name"], "gpu");
    assert_eq!(cluster[1].cli(&["doctor", "nobody"]).await.status.code(), Some(4));
}

#[tokio::test]
async fn a_backend_that_is_down_is_named_with_its_cause() {
    let backend = Backend::start("gpu", &["m"]);
    let node = NodePlan::named("gpu").backend(backend.url()).start().await;
    node.sees_model("m").await;
    backend.stop();
    eventually("the backend is found down", PATIENCE, async || {
        let (healthy, problems) = problems(&node, "backends").await;
        let url = backend.url();
        !healthy && problems.iter().any(|one| one["what"].as_str().is_some_and(|what| what.contains(&url)))
    })
    .await;
    let output = node.cli(&["doctor"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("gpu is not well: 1 problem") && text.contains("to do: start it"), "{text}");
}

#[tokio::test]
async fn a_seed_that_does_not_answer_is_named_with_its_cause() {
    let seed = format!("127.0.0.1:{}", free_port());
    let node = NodePlan::named("laptop").seed(&seed).start().await;
    eventually("the seed is found dead", PATIENCE, async || {
        let (_, problems) = problems(&node, "seeds").await;
        problems.iter().any(|one| one["what"].as_str().is_some_and(|what| what.contains(&seed)))
    })
    .await;
    assert_eq!(node.cli(&["doctor"]).await.status.code(), Some(1));
}

#[tokio::test]
async fn a_copied_identity_is_named() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let cluster = Cluster::start(vec![NodePlan::named("hub"), NodePlan::named("nas")]).await;
    let nas = &cluster[1];
    let data = home.path().join("copy");
    std::fs::create_dir_all(&data).expect("a directory can be made");
    for file in std::fs::read_dir(nas.data_dir()).expect("it has a data directory").flatten() {
        if file.file_type().is_ok_and(|kind| kind.is_file()) && file.file_name() != "lock" {
            std::fs::copy(file.path(), data.join(file.file_name())).expect("a file can be copied");
        }
    }
    let path = data.to_str().expect("temporary paths are UTF-8");
    let copy = NodePlan::named("copy").flag("--data-dir", path).seed(cluster[0].seed()).start().await;
    for node in [nas, &copy] {
        eventually(&format!("{} is told of its double", node.name()), PATIENCE, async || {
            !problems(node, "identity").await.1.is_empty()
        })
        .await;
    }
    assert!(problems(&cluster[0], "identity").await.1.is_empty(), "it is not the hub's identity");
}

#[tokio::test]
async fn without_a_node_it_says_what_hinders_one() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let data = home.path().join("data");
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let run = async |api: u16| {
        let config = home.path().join("config.toml");
        let gossip = free_port();
        let text = format!("port = {api}\ngossip_port = {gossip}\ngossip_bind = [\"127.0.0.1\"]\n");
        std::fs::write(&config, text).expect("a file can be written");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_atmosphere"));
        command.args(["doctor", "--data-dir"]).arg(&data).env("ATMOSPHERE_CONFIG", config).env("HOME", home.path());
        let output = command.env("NO_COLOR", "1").output().await.expect("the program can be started");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = run(port).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("TCP port {port} of the API is taken")) && text.contains("--port"), "{text}");
    drop(taken);
    let (code, text) = run(port).await;
    assert_eq!(code, Some(3), "nothing hinders a start, and none runs: {text}");
    assert!(text.contains("can be made") && !data.exists(), "{text}");
}
