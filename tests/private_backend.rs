//! What an owner keeps to themselves, as a cloud account is, answers on their own node and nobody else's.

mod support;

use serde_json::json;
use support::{Backend, Cluster, NodePlan, chat, chat_stream, eventually};

const OWN: &str = "cloud-model";
const SHARED: &str = "shared-model";

#[tokio::test]
async fn a_backend_that_is_not_shared_is_used_by_its_owner_only() {
    let (own, shared) = (Backend::start("cloud", &[OWN]), Backend::start("gpu", &[SHARED]));
    let backends = format!(
        "backends = [\n  {{ url = {:?}, kind = \"openai\", key = \"sk-owners-secret\", shared = false }},\n  {:?},\n]",
        own.url(),
        shared.url()
    );
    let cluster = Cluster::start(vec![NodePlan::named("guest"), NodePlan::named("owner").config(&backends)]).await;
    let (guest, owner) = (&cluster[0], &cluster[1]);
    owner.sees_model(OWN).await;
    guest.sees_model(SHARED).await;

    for body in [chat(OWN, "hello"), chat(&format!("{OWN}@owner"), "hello")] {
        let (status, answer) = owner.ask("/v1/chat/completions", &body).await;
        assert_eq!(status, 200, "{answer}");
    }
    let used = own.counts().started;
    assert_eq!(used, 2);
    let key = own.headers()[0].get("authorization").cloned().expect("a key");
    assert_eq!(key, "Bearer sk-owners-secret");

    // By name, by name and node, by the capability's own id, and by leaving the choice to the mesh.
    let listed = owner.get_json("/v1/capabilities").await;
    let id = listed["capabilities"].as_array().expect("a list").iter().find(|one| one["model"] == OWN).expect("it");
    let id = id["id"].as_str().expect("an id").to_owned();
    for target in [OWN.to_owned(), format!("{OWN}@owner"), id] {
        let (status, answer) = guest.ask("/v1/chat/completions", &chat(&target, "hello")).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")), "{target}: {answer}");
    }
    for target in ["auto", "best-chat", "auto@owner"] {
        for body in [chat(target, "hello"), chat_stream(target, "hello")] {
            assert_eq!(guest.post("/v1/chat/completions", &body).await.status(), 200, "{target}");
        }
    }
    assert_eq!(own.counts().started, used, "nobody but its owner has used it");
    assert!(shared.counts().started >= 6);

    // Nor do others hear of it, while its owner does.
    for path in ["/v1/models", "/v1/capabilities", "/v1/mesh/capabilities", "/v1/mesh/decisions"] {
        let said = guest.get_json(path).await.to_string();
        assert!(!said.contains("sk-owners-secret"), "{path}");
        assert!(path.ends_with("decisions") || !said.contains(OWN), "{path} tells of it: {said}");
    }
    eventually("the owner still sees it", support::PATIENCE, async || {
        owner.models().await.iter().any(|model| model == OWN)
    })
    .await;
}
