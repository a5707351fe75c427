//! Closed meshes over the API: who may ask for what, and the shapes of the answers.

use serde_json::{Value, json};

use super::scripted::{peer, settings, silent_api};
use crate::api::Settings;

#[tokio::test]
async fn members_and_invites_have_their_shapes() {
    let api = silent_api(settings()).await;
    let (status, answer) = api.get("/v1/mesh/members").await;
    assert_eq!(status, 200);
    let members = answer["members"].as_array().expect("members");
    assert_eq!(
        members[0],
        json!({
            "node": peer(1).to_base58(), "name": "laptop", "self": true, "role": "admin", "status": "member", "problem": null,
            "issued_at": "2023-11-14T22:13:20Z", "expires_at": "2027-01-15T08:00:00Z", "issuer": null, "revoked_at": null,
            "reason": null,
        })
    );
    assert_eq!((members[1]["name"].as_str(), members[1]["status"].as_str()), (Some("gpu"), Some("revoked")));

    let response = api.post("/v1/mesh/invite", &json!({"expires": 3600, "uses": 2, "role": "client"})).await;
    assert_eq!(response.status(), 200);
    let invite: Value = response.json().await.expect("JSON");
    assert_eq!((invite["role"].clone(), invite["uses"].clone()), (json!("client"), json!(2)));
    let token = invite["token"].as_str().expect("a token");
    assert!(token.starts_with("atmo1") && invite["link"] == format!("atmosphere://join/{token}"), "{invite}");
    for bad in [json!({"expires": "soon"}), json!({"role": "king"}), json!({"uses": 0}), json!({"uses": "x"})] {
        assert_eq!(api.post("/v1/mesh/invite", &bad).await.status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn a_spoken_code_is_offered_looked_at_and_taken_back() {
    let api = silent_api(settings()).await;
    let response = api.post("/v1/mesh/pair", &json!({"expires": "2m", "role": "client"})).await;
    assert_eq!(response.status(), 200);
    let pairing = response.json::<Value>().await.expect("JSON")["pairing"].clone();
    let text = |field: &str| pairing[field].as_str().unwrap_or("-").to_owned();
    assert_eq!((text("side"), text("stage"), text("mesh")), ("offers".into(), "waiting".into(), "home".into()));
    assert_eq!((text("role"), pairing["attempts_left"].clone()), ("client".into(), json!(3)));
    assert_eq!(text("code").split('-').count(), 3, "{pairing}");
    let path = format!("/v1/mesh/pair/{}", text("id"));
    let (status, answer) = api.get(&format!("{path}?after=0")).await;
    assert_eq!((status, &answer["pairing"]), (200, &pairing));
    let response = api.post(&format!("{path}/answer"), &json!({"yes": false})).await;
    let ended = response.json::<Value>().await.expect("JSON");
    assert_eq!(ended["pairing"]["stage"], "ended");
    assert!(ended["pairing"]["problem"].as_str().is_some_and(|why| why.contains("taken back")), "{ended}");
    assert_eq!(api.get("/v1/mesh/pair/0?after=0").await.0, 404);
    assert_eq!(api.post("/v1/mesh/pair/0/answer", &json!({"yes": true})).await.status(), 404);
    for (bad, status) in [
        (json!({"code": "7-oter-lamp"}), 400),
        (json!({"code": "7-otter-lamp", "peers": ["x y"]}), 400),
        (json!({"code": "7-otter-lamp"}), 409),
        (json!({"expires": "soon"}), 400),
        (json!({"role": "king"}), 400),
    ] {
        assert_eq!(api.post("/v1/mesh/pair", &bad).await.status(), status, "{bad}");
    }
}

#[tokio::test]
async fn a_node_is_revoked_by_its_name_its_id_or_the_end_of_it() {
    let api = silent_api(settings()).await;
    let id = peer(2).to_base58();
    for named in ["gpu", &id, &id[id.len() - 8..]] {
        let response = api.post("/v1/mesh/revoke", &json!({"node": named, "reason": "lost"})).await;
        assert_eq!(response.status(), 200, "{named}");
        assert_eq!(api.node.revoked.lock().pop(), Some(peer(2)), "{named}");
    }
    assert_eq!(api.post("/v1/mesh/revoke", &json!({"node": "nobody"})).await.status(), 404);
    assert_eq!(api.post("/v1/mesh/leave", &json!({})).await.status(), 409, "an open mesh");
}

#[tokio::test]
async fn no_web_page_of_another_site_changes_anything_even_where_it_may_use_the_api() {
    let api = silent_api(Settings { allowed_origins: vec!["*".to_owned()], ..settings() }).await;
    for (path, body) in [
        ("invite", json!({})),
        ("pair", json!({})),
        ("pair/0/answer", json!({"yes": true})),
        ("revoke", json!({"node": "gpu"})),
        ("create", json!({"name": "x"})),
        ("leave", json!({})),
        ("join", json!({"peer": "atmo1x"})),
    ] {
        let send = |origin: String| {
            api.client.post(api.url(&format!("/v1/mesh/{path}"))).header("origin", origin).json(&body).send()
        };
        let response = send("https://evil.example".to_owned()).await.expect("an answer");
        assert_eq!(response.status(), 403, "{path}");
        let answer: Value = response.json().await.expect("JSON");
        assert_eq!(answer["error"]["code"], "owner_only", "{path}");
        let own = send(format!("http://{}", api.address)).await.expect("an answer");
        assert_ne!(own.status(), 403, "{path} from the node's own page");
    }
    assert!(api.node.revoked.lock().len() == 1, "by the node's own page only");
}
