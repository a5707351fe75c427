//! `atmosphere watch` prints what happens as it happens, and goes on when the node was restarted.

mod support;

use serde_json::{Value, json};
use support::{Backend, NodePlan, PATIENCE, chat, free_port, program};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::time::timeout;

const MODEL: &str = "llama3.1:8b";

async fn until<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>, holds: impl Fn(&str) -> bool) -> String {
    let reading = async {
        loop {
            let line = lines.next_line().await.expect("text").expect("it goes on");
            if holds(&line) {
                return line;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("the line comes")
}

#[tokio::test]
async fn what_happens_is_printed_line_by_line_and_a_restart_is_survived() {
    let backend = Backend::start("own", &[MODEL]);
    let mut node = NodePlan::named("own").backend(backend.url()).start().await;
    node.sees_model(MODEL).await;
    let mut raw = node.spawn_cli(&["watch", "--json", "--events", "decision,call.*"]);
    let mut human = node.spawn_cli(&["watch", "--events", "decision", "--events", "call.end"]);
    let mut raw_out = BufReader::new(raw.stdout.take().expect("piped")).lines();
    let mut human_out = BufReader::new(human.stdout.take().expect("piped")).lines();
    let mut human_err = BufReader::new(human.stderr.take().expect("piped")).lines();
    let json_of = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let hello = json_of(&until(&mut raw_out, |_| true).await);
    assert_eq!((&hello["type"], &hello["events"]), (&json!("hello"), &json!(["decision", "call.*"])));
    assert!(until(&mut human_err, |_| true).await.starts_with("watching own at http"));

    for round in 0..2 {
        let (status, _) = node.ask("/v1/chat/completions", &chat(MODEL, "hello")).await;
        assert_eq!(status, 200);
        let end = json_of(&until(&mut raw_out, |line| line.contains("\"call.end\"")).await);
        assert_eq!((&end["type"], &end["data"]["status"]), (&json!("event"), &json!(200)));
        let decision = until(&mut human_out, |line| line.contains("decision")).await;
        assert!(decision.contains(&format!("{MODEL} on own")) && !decision.contains('\u{1b}'), "{decision}");
        let end = until(&mut human_out, |line| line.contains("call.end")).await;
        assert!(end.contains("7 + 8 tokens"), "{end}");
        if round == 0 {
            node.kill();
            until(&mut human_err, |line| line.contains("is lost") && line.contains("waiting")).await;
            node.restart().await;
            node.sees_model(MODEL).await;
            until(&mut human_err, |line| line == "own was started anew; watching it again").await;
            until(&mut raw_out, |line| line.contains("\"hello\"")).await;
        }
    }
}

#[tokio::test]
async fn a_watch_of_nobody_or_of_no_such_events_ends_with_the_reason() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let url = format!("http://127.0.0.1:{}", free_port());
    assert_eq!(program(&["watch", "--url", &url], home.path()).await.status.code(), Some(3));
    let node = NodePlan::named("own").start().await;
    let output = node.cli(&["watch", "--events", "nodes"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("node.joined"), "{said}");
    let locked = NodePlan::named("locked").env("ATMOSPHERE_API_KEYS", "sk-good-key").spawn();
    locked.ready().await;
    let output = locked.cli(&["watch"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--api-key"), "{said}");
}
