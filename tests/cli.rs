//! The verbs: what a person types, what they see, and what a script can rely on.

mod support;

use serde_json::Value;
use support::{Backend, Cluster, NodePlan, free_port, program};

async fn pair(backend: &Backend) -> Cluster {
    let cluster = Cluster::start(vec![NodePlan::named("laptop"), NodePlan::named("gpu").backend(backend.url())]).await;
    cluster[0].sees_model("llama3.1:8b").await;
    cluster
}

#[tokio::test]
async fn the_verbs_show_the_mesh() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = pair(&backend).await;
    for (arguments, words) in [
        (&["status"][..], &["laptop"][..]),
        (&["nodes"], &["laptop", "gpu"]),
        (&["capabilities"], &["llama3.1:8b", "gpu"]),
        (&["route", "hello there"], &["llama3.1:8b"]),
    ] {
        let output = cluster[0].cli(arguments).await;
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {errors}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word:?} is missing in:\n{said}");
        }
        assert!(!said.contains('\u{1b}'), "{arguments:?}: no colours where nobody sees them");

        let output = cluster[0].cli(&[arguments, &["--json"]].concat()).await;
        assert!(output.status.success(), "{arguments:?} --json");
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?} --json: {e}"));
    }
}

#[tokio::test]
async fn chat_streams_an_answer() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = pair(&backend).await;
    let output = cluster[0].cli(&["chat", "--model", "llama3.1:8b", "hello"]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("gpu: t0 t1 t2"), "{said}");
    assert_eq!(backend.requests().pop().map(|request| request["stream"] == true), Some(true));
}

#[tokio::test]
async fn exit_codes_tell_what_went_wrong() {
    let backend = Backend::start("gpu", &["llama3.1:8b"]);
    let cluster = pair(&backend).await;
    let unknown = cluster[0].cli(&["chat", "--model", "llama3.1:80b", "hello"]).await;
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("llama3.1:8b"), "near names are shown");

    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let url = format!("http://127.0.0.1:{}", free_port());
    let nobody = program(&["status", "--url", &url], home.path()).await;
    let usage = program(&["status", "--no-such-flag"], home.path()).await;
    assert_eq!(usage.status.code(), Some(2));
    assert!(!nobody.status.success());
    assert_ne!(nobody.status.code(), usage.status.code(), "a script can tell them apart");
}

#[tokio::test]
async fn help_shows_examples_and_completions_are_there() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    for verb in ["start", "status", "nodes", "capabilities", "route", "chat", "watch"] {
        let output = program(&[verb, "--help"], home.path()).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{verb}");
        assert!(said.contains(&format!("atmosphere {verb}")), "{verb} has no example:\n{said}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = program(&["completions", shell], home.path()).await;
        assert!(output.status.success() && output.stdout.len() > 500, "{shell}");
    }
    // Who types the name alone wants to know what there is.
    let bare = program(&[], home.path()).await;
    assert!(bare.status.success() && String::from_utf8_lossy(&bare.stdout).contains("Usage: atmosphere"));
    let version = program(&["--version"], home.path()).await;
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
}
