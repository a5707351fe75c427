//! A spoken code between real processes: both people say yes, one says no, the code is wrong, nobody is there.

mod support;

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Backend, NodePlan, PATIENCE, TestNode, chat, eventually, program};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

async fn admin() -> TestNode {
    NodePlan::named("admin").flag("--mesh", "home").argument("--private").start().await
}

/// `atmosphere …` at work, with its stdin in the hand of the test.
struct Verb {
    child: Child,
    stdin: ChildStdin,
    /// What it printed first, where it was waited for.
    first: String,
}

impl Verb {
    fn start(arguments: &[&str], node: Option<&TestNode>, home: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atmosphere"));
        command.args(arguments).env("HOME", home).env("NO_COLOR", "1").env_remove("ATMOSPHERE_HOME");
        if let Some(node) = node {
            command.env("ATMOSPHERE_URL", node.url("")).env("ATMOSPHERE_HOME", node.data_dir());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program can be started");
        let stdin = child.stdin.take().expect("piped");
        Self { child, stdin, first: String::new() }
    }

    /// Offers a code.
    async fn offers(node: &TestNode, flags: &[&str]) -> Self {
        let home = node.data_dir();
        let mut verb = Self::start(&[&["invite", "--nearby"], flags].concat(), Some(node), &home);
        let stdout = verb.child.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout);
        let line = tokio::time::timeout(PATIENCE, lines.read_line(&mut verb.first)).await;
        line.expect("a code in time").expect("UTF-8");
        verb.first = verb.first.trim().to_owned();
        assert_eq!(verb.first.split('-').count(), 3, "only the code on stdout: {:?}", verb.first);
        verb
    }

    async fn say(&mut self, answer: &str) {
        self.stdin.write_all(format!("{answer}\n").as_bytes()).await.expect("it reads");
        self.stdin.flush().await.expect("it reads");
    }

    /// Its exit code, and all that it said.
    async fn end(mut self) -> (i32, String) {
        let mut said = String::new();
        let reading = async {
            if let Some(mut out) = self.child.stdout.take() {
                out.read_to_string(&mut said).await.expect("UTF-8");
            }
            let mut err = self.child.stderr.take().expect("piped");
            err.read_to_string(&mut said).await.expect("UTF-8");
            self.child.wait().await.expect("it ends")
        };
        let status = tokio::time::timeout(PATIENCE, reading).await.expect("it ends in time");
        (status.code().unwrap_or(-1), said)
    }
}

/// The number that a screen showed.
fn check(said: &str) -> &str {
    let (_, rest) = said.split_once("this number:").unwrap_or_else(|| panic!("no number in {said:?}"));
    rest.split_whitespace().next().expect("a number")
}

async fn members(node: &TestNode) -> usize {
    node.get_json("/v1/mesh/members").await["members"].as_array().expect("members").len()
}

#[tokio::test]
async fn a_machine_without_a_node_joins_when_both_people_say_yes() {
    let backend = Backend::start("gpu", &["m"]);
    let plan = NodePlan::named("admin").backend(backend.url()).flag("--mesh", "home").argument("--private");
    let admin = plan.start().await;
    let mut offered = Verb::offers(&admin, &["--role", "client"]).await;
    let code = offered.first.clone();
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    let flag = data.to_str().expect("UTF-8");
    let mut joining = Verb::start(&["join", &code, "--peer", &admin.seed(), "--data-dir", flag], None, home.path());
    joining.say("y").await;
    eventually("the newcomer has asked", PATIENCE, async || admin.log().contains("has the spoken code")).await;
    assert_eq!(members(&admin).await, 1, "nobody is in before the admin's yes");
    offered.say("yes").await;
    let (status, joined) = joining.end().await;
    assert_eq!(status, 0, "{joined}");
    assert!(joined.contains("joined the mesh home as client") && joined.contains("Join its mesh home"), "{joined}");
    let (status, let_in) = offered.end().await;
    assert_eq!(status, 0, "{let_in}");
    assert!(let_in.contains("is in the mesh home as client"), "{let_in}");
    assert_eq!(check(&joined), check(&let_in), "both screens show the same number");
    assert!(!admin.log().contains(&code), "the code is in no log");

    let newcomer = NodePlan::named("newcomer").flag("--data-dir", flag).start().await;
    newcomer.sees_nodes(&["admin", "newcomer"]).await;
    eventually("a call is answered", PATIENCE, async || {
        newcomer.ask("/v1/chat/completions", &chat("m", "hello")).await.0 == 200
    })
    .await;
    // It is used up.
    let other = tempfile::tempdir().expect("a directory");
    let data = other.path().join("data");
    let late = ["join", &code, "--yes", "--peer", &admin.seed(), "--data-dir", data.to_str().expect("UTF-8")];
    let late = program(&late, other.path()).await;
    let error = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(!late.status.success() && error.contains("used already"), "{error}");
}

#[tokio::test]
async fn a_running_node_joins_by_the_api_and_scripts_say_yes_by_a_flag() {
    let admin = admin().await;
    let laptop = NodePlan::named("laptop").start().await;
    let offered = Verb::offers(&admin, &["--yes"]).await;
    let home = tempfile::tempdir().expect("a directory");
    let joining = Verb::start(&["join", &offered.first, "--yes", "--peer", &admin.seed()], Some(&laptop), home.path());
    let (status, joined) = joining.end().await;
    assert_eq!(status, 0, "{joined}");
    assert!(joined.contains("joined the mesh home as member") && joined.contains("admin ("), "{joined}");
    let (status, let_in) = offered.end().await;
    assert_eq!(status, 0, "{let_in}");
    assert!(let_in.contains("laptop (") && let_in.contains("the other side said yes"), "{let_in}");
    admin.sees_nodes(&["admin", "laptop"]).await;
    // A member needs no code.
    let (status, answer) = laptop.ask("/v1/mesh/pair", &json!({"code": "7-otter-lamp"})).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (409, Some("closed_mesh")), "{answer}");
    // And one that is no admin offers none.
    assert_eq!(laptop.ask("/v1/mesh/pair", &json!({})).await.0, 403);
}

#[tokio::test]
async fn a_no_on_either_side_lets_nobody_in_and_the_other_side_hears_it() {
    let admin = admin().await;
    for (at_admin, at_newcomer) in [(false, true), (true, false)] {
        let mut offered = Verb::offers(&admin, &[]).await;
        let home = tempfile::tempdir().expect("a directory");
        let data = home.path().join("data");
        let code = offered.first.clone();
        let flag = data.to_str().expect("UTF-8");
        let mut joining = Verb::start(&["join", &code, "--peer", &admin.seed(), "--data-dir", flag], None, home.path());
        // A no of the newcomer comes before the admin's yes: that is up to the people.
        if at_newcomer {
            joining.say("y").await;
            offered.say(if at_admin { "y" } else { "n" }).await;
        } else {
            joining.say("n").await;
        }
        let (status, joined) = joining.end().await;
        assert_eq!(status, 1, "{joined}");
        assert!(joined.contains("said no"), "{joined}");
        let (status, let_in) = offered.end().await;
        assert_eq!(status, 1, "{let_in}");
        assert!(let_in.contains("said no"), "{let_in}");
        assert_eq!(members(&admin).await, 1);
        assert!(!data.join("mesh.json").exists());
    }
}

#[tokio::test]
async fn without_anybody_to_ask_the_answer_is_no() {
    let admin = admin().await;
    let offered = Verb::offers(&admin, &["--yes"]).await;
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    let flag = data.to_str().expect("UTF-8");
    // Its stdin is empty.
    let joined = program(&["join", &offered.first, "--peer", &admin.seed(), "--data-dir", flag], home.path()).await;
    let error = String::from_utf8_lossy(&joined.stderr).into_owned();
    assert!(!joined.status.success() && error.contains("--yes"), "{error}");
    assert_eq!(offered.end().await.0, 1);
    assert_eq!(members(&admin).await, 1);
}

#[tokio::test]
async fn wrong_codes_void_the_code_and_both_sides_are_told() {
    let admin = admin().await;
    let offered = Verb::offers(&admin, &[]).await;
    let number = offered.first.split('-').next().expect("a number").to_owned();
    let wrong = if offered.first.ends_with("otter-lamp") { "lamp-otter" } else { "otter-lamp" };
    let wrong = format!("{number}-{wrong}");
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    let flag = data.to_str().expect("UTF-8");
    let seed = admin.seed();
    let tries = async |code: &str| {
        let tried = program(&["join", code, "--yes", "--peer", &seed, "--data-dir", flag], home.path()).await;
        (tried.status.code().unwrap_or(-1), String::from_utf8_lossy(&tried.stderr).into_owned())
    };
    // What is no code at all is no attempt.
    let (status, error) = tries(&format!("{number}-oter-lamp")).await;
    assert!(status == 2 && error.contains("otter"), "{error}");
    for left in ["2 more tries", "1 more try", "void"] {
        let (status, error) = tries(&wrong).await;
        assert!(status == 1 && error.contains("not the code") && error.contains(left), "{left}: {error}");
    }
    let (status, let_in) = offered.end().await;
    assert!(status == 1 && let_in.contains("void") && let_in.contains("atmosphere invite --nearby"), "{let_in}");
    assert!(admin.log().contains("was sent away"), "{}", admin.log());
    assert_eq!(members(&admin).await, 1);

    // Another number is nobody's.
    let other = if number == "1" { 2 } else { 1 };
    let (status, error) = tries(&format!("{other}-otter-lamp")).await;
    assert!(status == 3 && error.contains("no machine nearby") && error.contains("--peer"), "{error}");
}

#[tokio::test]
async fn a_code_that_is_taken_back_or_replaced_is_of_no_use() {
    let admin = admin().await;
    let (status, first) = admin.ask("/v1/mesh/pair", &json!({})).await;
    assert_eq!(status, 200, "{first}");
    let id = |pairing: &Value| pairing["pairing"]["id"].as_str().expect("an id").to_owned();
    let (_, second) = admin.ask("/v1/mesh/pair", &json!({})).await;
    assert_eq!(admin.ask(&format!("/v1/mesh/pair/{}/answer", id(&first)), &json!({"yes": true})).await.0, 404);
    let (status, ended) = admin.ask(&format!("/v1/mesh/pair/{}/answer", id(&second)), &json!({"yes": false})).await;
    assert_eq!((status, ended["pairing"]["stage"].as_str()), (200, Some("ended")));
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    let code = second["pairing"]["code"].as_str().expect("a code");
    let tried = ["join", code, "--yes", "--peer", &admin.seed(), "--data-dir", data.to_str().expect("UTF-8")];
    let tried = program(&tried, home.path()).await;
    let error = String::from_utf8_lossy(&tried.stderr).into_owned();
    assert!(!tried.status.success() && error.contains("taken back"), "{error}");
}
