//! A copied data directory: two processes with one identity. Both are told within seconds, and when one of them is gone,
//! the other is as before.

mod support;

use std::path::Path;

use support::{Cluster, NodePlan, PATIENCE, TestNode, eventually};

const WARNING: &str = "used by another process";

/// A plan of a node that has the identity of another one.
fn double(of: &TestNode, name: &str, home: &Path) -> NodePlan {
    let data = home.join(name);
    std::fs::create_dir_all(&data).expect("a directory can be made");
    // What a person copies who copies the directory: all its files, but not the lock that the other one holds.
    for file in std::fs::read_dir(of.data_dir()).expect("it has a data directory").flatten() {
        if file.file_type().is_ok_and(|kind| kind.is_file()) && file.file_name() != "lock" {
            std::fs::copy(file.path(), data.join(file.file_name())).expect("a file can be copied");
        }
    }
    NodePlan::named(name).flag("--data-dir", data.to_str().expect("temporary paths are UTF-8"))
}

async fn warns(node: &TestNode) {
    eventually(&format!("{} warns of its double", node.name()), PATIENCE, async || node.log().contains(WARNING)).await;
}

#[tokio::test]
async fn both_are_told_by_a_third_and_the_survivor_recovers() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let cluster = Cluster::start(vec![NodePlan::named("hub"), NodePlan::named("nas")]).await;
    let (hub, nas) = (&cluster[0], &cluster[1]);
    let mut copy = double(nas, "copy", home.path()).seed(hub.seed()).start().await;
    assert_eq!(copy.id().await, nas.id().await);
    warns(nas).await;
    warns(&copy).await;
    let told = nas.log().lines().filter(|line| line.contains(WARNING)).count();
    assert_eq!(told, 1, "once is enough for a start:\n{}", nas.log());
    assert!(!hub.log().contains(WARNING), "it is not the hub's identity");

    copy.kill();
    hub.sees_nodes(&["hub", "nas"]).await;
    nas.sees_nodes(&["hub", "nas"]).await;
    // Not only for a moment: its beats are heard.
    tokio::time::sleep(support::ADVERT_TTL * 2).await;
    assert_eq!(hub.node_names().await, ["hub", "nas"]);
    assert_eq!(nas.node_names().await, ["hub", "nas"]);
}

#[tokio::test]
async fn a_node_that_is_seeded_with_its_double_is_told_at_once() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let nas = NodePlan::named("nas").start().await;
    let copy = double(&nas, "copy", home.path()).seed(nas.seed()).start().await;
    warns(&copy).await;
    warns(&nas).await;
    let status = copy.cli(&["status", "--json"]).await;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("runs with this node's identity"), "{text}");
    assert!(!text.contains("is this node itself"), "{text}");
}
