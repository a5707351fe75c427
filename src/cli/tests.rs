//! The verbs against a scripted node: what a person sees, what a script gets, and the exit codes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use clap::{CommandFactory, Parser};
use tokio::sync::oneshot;

use super::*;

/// A node that says what it was told to, and remembers what it was asked.
struct ScriptedNode {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Asked {
    line: String,
    authorization: Option<String>,
    body: String,
}

#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: vec![("content-type", "application/json".into())], body: body.into() }
}

#[derive(Clone)]
struct Script {
    answers: Arc<BTreeMap<String, Answer>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

async fn play(State(script): State<Script>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = String::from_utf8_lossy(&body).into_owned();
    let asked = Asked { line: format!("{method} {uri}"), authorization, body };
    script.asked.lock().expect("no panic").push(asked);
    let key = format!("{method} {}", uri.path());
    let answer = script.answers.get(&key).cloned().unwrap_or_else(|| answer(500, format!("no script for {key}")));
    let mut response = Response::builder().status(StatusCode::from_u16(answer.status).expect("a status"));
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.body)).expect("a response")
}

impl ScriptedNode {
    fn start(answers: impl IntoIterator<Item = (&'static str, Answer)>) -> Self {
        let answers = answers.into_iter().map(|(key, answer)| (key.to_owned(), answer)).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script = Script { answers: Arc::new(answers), asked: Arc::clone(&asked) };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let app = Router::new().fallback(play).with_state(script);
                tokio::select! {
                    served = async { axum::serve(listener, app).await } => served.expect("serves"),
                    _ = stopped => {}
                }
            });
        });
        Self { address, asked, stop: Some(stop), thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }

    /// Runs a command line against it.
    fn run(&self, args: &[&str]) -> Ran {
        let url = self.url();
        let mut all = args.to_vec();
        all.extend(["--url", &url]);
        let mut ran = run(&all, "", Look::default());
        ran.out = ran.out.replace(&url, "URL");
        ran.err = ran.err.replace(&url, "URL");
        ran
    }
}

impl Drop for ScriptedNode {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Ran {
    code: u8,
    out: String,
    err: String,
}

fn run(args: &[&str], stdin: &str, look: Look) -> Ran {
    // As main does.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let cli = Cli::try_parse_from([&["atmosphere"], args].concat()).expect("parses");
    let mut output = Output { out: &mut out, err: &mut err, look };
    let result = execute(cli.command, &mut stdin.as_bytes(), &mut output);
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            err.extend(format!("error: {error}\n").bytes());
            error.exit_code()
        }
    };
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { code, out: text(out), err: text(err) }
}

const NODES: &str = r#"{"mesh":{"id":"aabbccddeeff0011","name":"home"},"nodes":[
  {"id":"12D3KooWfarnodeAAAAA","name":"nas","self":false,"status":"online","path":null,"rtt_ms":1.44,"version":null,"load":null,"capabilities":3,"addresses":[]},
  {"id":"12D3KooWfarnodeBBBBB","name":"gpu","self":false,"status":"online","path":"lan","rtt_ms":0.31,"version":"0.1.0","load":3,"capabilities":12,"addresses":[]},
  {"id":"12D3KooWselfnodeCCCC","name":"laptop","self":true,"status":"online","path":"self","rtt_ms":null,"version":"0.1.0","load":1,"capabilities":1,"addresses":[],"new_field":1}
],"links":[]}"#;

const HEALTH: &str = r#"{"status":"ok","version":"0.1.0","uptime_s":3725.5,"node":{"id":"12D3KooWselfnodeCCCC","name":"laptop"},"mesh":{"id":"aabb","name":"home"},
  "providers":[{"id":"ollama","kind":"ollama","url":"http://127.0.0.1:11434","up":true,"error":null,"capabilities":3},
    {"id":"openai@gpu","kind":"openai","url":"http://gpu:8080","up":false,"error":"connection refused","capabilities":0}],
  "seeds":[{"seed":"10.0.0.7:11450","connected":false,"error":"cannot reach it: timed out"}]}"#;

const CAPABILITIES: &str = r#"{"capabilities":[
  {"id":"b","type":"llm/embed","node":"12D3KooWselfnodeCCCC","node_name":"laptop","model":"builtin-embed","models":["builtin-embed"],"state":"unknown"},
  {"id":"a","type":"llm/chat","node":"12D3KooWfarnodeBBBBB","node_name":"gpu","model":"qwen2.5-coder:7b","models":["qwen2.5-coder:7b"],"domain":"code","state":"warm","latency_ms":0.31},
  {"id":"c","type":"llm/chat","node":"12D3KooWfarnodeAAAAA","models":["camelid"],"model":null,"project":"farm/camelid","domain":"animals","state":"cold"}]}"#;

const ROUTE: &str = r#"{"decision":{"id":"0192f0c1","target":"auto",
  "chosen":{"node":"12D3KooWfarnodeBBBBB","node_name":"gpu","capability":"ollama/llm/code/qwen2.5-coder:7b","model":"qwen2.5-coder:7b"},
  "reason":"the prompt is about programming, and qwen2.5-coder:7b on gpu answers first","abstained":false,
  "candidates":[
    {"node":"12D3KooWfarnodeBBBBB","node_name":"gpu","capability":"x","model":"qwen2.5-coder:7b","score":0.9,"predicted_ms":2310.0,
     "parts":{"rtt_ms":0.31,"queue_ms":0.0,"load_ms":0.0,"prefill_ms":120.0,"decode_ms":2190.0,"measured":true,"similarity":0.71,"quality":0.8}},
    {"node":"12D3KooWfarnodeAAAAA","node_name":"nas","capability":"y","model":"llama3.2:3b","score":0.4,"predicted_ms":9800.0,
     "parts":{"rtt_ms":1.4,"queue_ms":0.0,"load_ms":3000.0,"prefill_ms":800.0,"decode_ms":6000.0,"others_ms":1200.0,"measured":false,"similarity":0.31,"quality":0.5}}],
  "rejected":[{"node":"12D3KooWselfnodeCCCC","node_name":"laptop","capability":"builtin/llm/embed/m","model":"builtin-embed","reason":"makes embeddings, and this is a chat"}],
  "elapsed_us":85.4}}"#;

fn stream(events: &[&str]) -> Answer {
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let headers = vec![
        ("content-type", "text/event-stream".to_owned()),
        ("x-atmosphere-node", "gpu".to_owned()),
        ("x-atmosphere-model", "qwen2.5-coder:7b".to_owned()),
        ("x-atmosphere-decision", "0192f0c1".to_owned()),
    ];
    Answer { status: 200, headers, body: body.into_bytes() }
}

const HELLO: &str = r#"{"choices":[{"delta":{"role":"assistant","content":"Hällo"}}]}"#;
const WORLD: &str = r#"{"choices":[{"delta":{"content":" world"}}]}"#;

fn node() -> ScriptedNode {
    ScriptedNode::start([
        ("GET /v1/mesh/nodes", answer(200, NODES)),
        ("GET /v1/mesh/topology", answer(200, NODES)),
        ("GET /v1/health", answer(200, HEALTH)),
        ("GET /v1/capabilities", answer(200, CAPABILITIES)),
        ("POST /v1/mesh/route", answer(200, ROUTE)),
        ("POST /v1/mesh/join", answer(200, NODES)),
        ("POST /v1/chat/completions", stream(&[HELLO, WORLD, "[DONE]"])),
    ])
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_says_in_one_line_what_it_is_for_and_shows_examples() {
    for verb in Cli::command().get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
        let help = verb.render_help().to_string();
        let first = help.lines().next().unwrap_or_default();
        assert!(first.len() > 10 && first.len() < 110, "{first}");
        assert!(help.contains("Examples:\n") && help.contains("Exit codes:\n"), "{help}");
    }
}

#[test]
fn every_flag_of_start_names_its_variable() {
    let mut command = Cli::command();
    let start = command.find_subcommand_mut("start").expect("start");
    for arg in
        start.get_arguments().filter(|arg| !["print_config", "example_config", "help"].contains(&arg.get_id().as_str()))
    {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("[env: ATMOSPHERE_"), "{}: {help}", arg.get_id());
    }
}

#[test]
fn completions_are_generated_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = run(&["completions", shell], "", Look::default());
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("seed-peer"), "{shell}");
    }
}

#[test]
fn status_tells_how_the_node_is_and_what_needs_attention() {
    insta::assert_snapshot!(node().run(&["status"]).out);
}

#[test]
fn nodes_are_a_table_with_this_node_first_and_then_the_nearest() {
    insta::assert_snapshot!(node().run(&["nodes"]).out);
}

#[test]
fn capabilities_are_a_table() {
    let node = node();
    insta::assert_snapshot!(node.run(&["capabilities"]).out);
    node.run(&["capabilities", "--type", "llm/chat", "--domain", "a b"]);
    assert_eq!(node.asked()[1].line, "GET /v1/capabilities?type=llm%2Fchat&domain=a+b");
}

#[test]
fn a_route_is_explained() {
    let node = node();
    insta::assert_snapshot!(node.run(&["route", "write a quicksort in Rust"]).out);
    let asked = &node.asked()[0];
    assert_eq!(asked.body, r#"{"messages":[{"content":"write a quicksort in Rust","role":"user"}],"model":"auto"}"#);
}

#[test]
fn a_terminal_gets_colours_and_tables_that_fit() {
    let node = node();
    let look = Look { terminal: true, colour: true, width: Some(70), ..Look::default() };
    let ran = run(&["route", "hi", "--url", &node.url()], "", look);
    insta::assert_snapshot!(ran.out.replace('\u{1b}', "ESC"));
}

#[test]
fn a_route_to_nobody_is_a_failure_that_says_why() {
    let nobody = r#"{"decision":{"id":"1","target":"lama","chosen":null,"candidates":[],"rejected":[],
        "reason":"no node in the mesh has the model \"lama\"; did you mean llama3.2?"}}"#;
    let node = ScriptedNode::start([("POST /v1/mesh/route", answer(200, nobody))]);
    let ran = node.run(&["route", "hi", "--model", "lama"]);
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains("did you mean llama3.2?"), "{}", ran.err);

    let rejected =
        nobody.replace("\"rejected\":[]", r#""rejected":[{"node":"n","model":"m","reason":"has failed lately"}]"#);
    let node = ScriptedNode::start([("POST /v1/mesh/route", answer(200, rejected))]);
    let ran = node.run(&["route", "hi"]);
    assert_eq!(ran.code, 5);
    assert!(ran.out.contains("has failed lately"), "{}", ran.out);
}

#[test]
fn chat_prints_the_answer_as_it_comes() {
    let node = node();
    let ran = node.run(&["chat", "hi", "--system", "be kind", "-v"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "Hällo world\n"));
    assert_eq!(ran.err, "answered by qwen2.5-coder:7b on gpu, decision 0192f0c1\n");
    let body = &node.asked()[0].body;
    assert!(body.contains(r#"{"content":"be kind","role":"system"}"#) && body.contains("\"stream\":true"), "{body}");
}

#[test]
fn chat_says_on_a_terminal_what_it_waits_for_and_nowhere_else() {
    let mut answer = stream(&[r#"{"choices":[{"delta":{"content":"Hi"}}]}"#, "[DONE]"]);
    answer.body.splice(0..0, *b": atmosphere queued position=2\n\n");
    let node = ScriptedNode::start([("POST /v1/chat/completions", answer)]);
    let asked = ["chat", "hi", "--url", &node.url()];
    let nowhere = run(&asked, "", Look { terminal: true, ..Look::default() });
    assert_eq!((nowhere.out.as_str(), nowhere.err.as_str()), ("Hi\n", ""));
    let shown = run(&asked, "", Look { waits: true, width: Some(60), ..Look::default() });
    let wiped = " ".repeat(59);
    assert_eq!(shown.out, "Hi\n", "never where the answer goes");
    assert_eq!(shown.err, format!("\r{wiped}\rwaiting, place 2 in the queue\r{wiped}\r"));
}

#[test]
fn a_watch_of_something_else_says_so() {
    let node = ScriptedNode::start([("GET /v1/stream", answer(200, "{}"))]);
    let ran = node.run(&["watch", "--events", "decision", "--events", "node.*,call.end"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("URL has no live events"), "{}", ran.err);
    assert_eq!(node.asked()[0].line, "GET /v1/stream?events=decision%2Cnode.*%2Ccall.end");
}

#[test]
fn a_dash_reads_the_prompt_from_stdin() {
    let node = node();
    let ran = run(&["chat", "-", "--url", &node.url()], "from stdin\n", Look::default());
    assert_eq!(ran.code, 0);
    assert!(node.asked()[0].body.contains("from stdin\\n"));
    let ran = run(&["chat", "-", "--url", &node.url()], " \n", Look::default());
    assert_eq!(ran.code, 2, "an empty prompt is a mistake: {}", ran.err);
}

#[test]
fn chat_can_wait_for_the_whole_answer() {
    let whole = r#"{"choices":[{"message":{"content":"All of it.\n"}}]}"#;
    let node = ScriptedNode::start([("POST /v1/chat/completions", answer(200, whole))]);
    assert_eq!(node.run(&["chat", "hi", "--no-stream"]).out, "All of it.\n");
    assert_eq!(node.run(&["chat", "hi", "--json"]).out, format!("{whole}\n"));
    assert!(node.asked().iter().all(|asked| asked.body.contains("\"stream\":false")));
}

#[test]
fn an_answer_that_breaks_off_is_a_failure_and_what_came_is_shown() {
    for (events, said) in [
        (vec![HELLO, r#"{"error":{"message":"the node gpu left"}}"#], "the answer broke off: the node gpu left"),
        (vec![HELLO], "the answer ended without its end mark"),
    ] {
        let node = ScriptedNode::start([("POST /v1/chat/completions", stream(&events))]);
        let ran = node.run(&["chat", "hi"]);
        assert_eq!((ran.code, ran.out.as_str()), (1, "Hällo\n"));
        assert!(ran.err.contains(said), "{}", ran.err);
    }
}

#[test]
fn join_shows_the_mesh_that_was_joined() {
    let node = node();
    let ran = node.run(&["join", "10.0.0.7:11450"]);
    insta::assert_snapshot!(ran.out);
    assert_eq!(node.asked()[0].body, r#"{"peer":"10.0.0.7:11450"}"#);
    let ran = node.run(&["join", "10.0.0.7"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("10.0.0.7:11450"), "{}", ran.err);
}

#[test]
fn json_is_what_the_api_sent() {
    let node = node();
    for (args, body) in [
        (&["status", "--json"][..], HEALTH),
        (&["nodes", "--json"], NODES),
        (&["capabilities", "--json"], CAPABILITIES),
        (&["route", "hi", "--json"], ROUTE),
        (&["join", "a:1", "--json"], NODES),
    ] {
        let ran = node.run(args);
        assert_eq!((ran.code, ran.out), (0, format!("{body}\n")), "{args:?}");
    }
}

#[test]
fn the_exit_code_tells_scripts_what_happened() {
    let error = |message: &str| format!(r#"{{"error":{{"message":"{message}","type":"t","param":null,"code":"c"}}}}"#);
    for (status, code, expected) in [
        (400, 1, "error: it was bad"),
        (401, 1, "--api-key or ATMOSPHERE_API_KEY"),
        (404, 4, "error: it was bad"),
        (429, 5, "try again in 7 s"),
        (500, 1, "error: it was bad"),
        (503, 5, "try again in 7 s"),
    ] {
        let mut answer = answer(status, error("it was bad"));
        answer.headers.push(("retry-after", "7".into()));
        answer.headers.push(("x-request-id", "1".into()));
        let node = ScriptedNode::start([("POST /v1/chat/completions", answer)]);
        let ran = node.run(&["chat", "hi"]);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{status}");
        assert!(ran.err.contains(expected), "{status}: {}", ran.err);
    }
}

#[test]
fn nobody_there_says_how_to_start_one() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let ran = run(&["nodes", "--url", &format!("http://{free}")], "", Look::default());
    assert_eq!(ran.code, 3);
    assert!(ran.err.starts_with(&format!("error: no atmosphere node answers at http://{free}: ")), "{}", ran.err);
    assert!(ran.err.contains("start one with `atmosphere start`"), "{}", ran.err);
}

#[test]
fn who_names_a_node_that_does_not_run_does_not_get_another() {
    let directory = tempfile::tempdir().expect("a directory");
    let ran = run(&["nodes", "--data-dir", &directory.path().display().to_string()], "", Look::default());
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("no atmosphere node runs with the data directory"), "{}", ran.err);
}

#[test]
fn something_else_that_answers_is_told_apart() {
    let node = ScriptedNode::start([("GET /v1/mesh/nodes", answer(200, "<html>hello</html>"))]);
    let ran = node.run(&["nodes"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("is something else listening there?"), "{}", ran.err);
    let node = ScriptedNode::start([("GET /v1/mesh/nodes", answer(404, "<html>nothing</html>"))]);
    let ran = node.run(&["nodes"]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("is something else listening there?"), "{}", ran.err);
}

#[test]
fn the_node_of_a_data_directory_is_found_without_a_url() {
    let node = node();
    let dir = tempfile::tempdir().expect("a directory");
    let owner = crate::config::DataDir::open(dir.path()).expect("free");
    owner.api_is_up(node.address).expect("written");
    let path = dir.path().display().to_string();
    assert_eq!(run(&["nodes", "--json", "--data-dir", &path], "", Look::default()).code, 0);
    assert_eq!(node.asked().len(), 1);
}

#[test]
fn the_key_is_sent_and_never_shown() {
    let node = node();
    let ran = node.run(&["nodes", "--api-key", "secret-key"]);
    assert_eq!(node.asked()[0].authorization.as_deref(), Some("Bearer secret-key"));
    assert!(!format!("{ran:?}").contains("secret-key"));
}

#[test]
fn names_from_elsewhere_cannot_steer_the_terminal() {
    let nodes = r#"{"nodes":[{"id":"x","name":"\u001b[2Jevil\nnode","self":false,"status":"online"}]}"#;
    let node = ScriptedNode::start([("GET /v1/mesh/nodes", answer(200, nodes))]);
    let ran = node.run(&["nodes"]);
    assert!(!ran.out.contains('\u{1b}') && ran.out.contains("\u{fffd}[2Jevil\u{fffd}node"), "{:?}", ran.out);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let node = node();
    let cli = Cli::try_parse_from(["atmosphere", "nodes", "--url", &node.url()]).expect("parses");
    let mut output = Output { out: &mut Closed, err: &mut Vec::new(), look: Look::default() };
    let error = execute(cli.command, &mut io::empty(), &mut output).expect_err("closed");
    assert!(error.is_silent() && error.exit_code() == 0);
}

#[test]
fn start_prints_the_configuration_without_secrets() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "name = \"x\"\n[api]\nkeys = [\"a-secret-key\"]\n").expect("written");
    let path = file.display().to_string();
    let ran = run(&["start", "--print-config", "--config", &path, "--port", "7"], "", Look::default());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("port = 7 # flag --port") && ran.out.contains("keys = [\"<redacted>\"]"), "{}", ran.out);
    assert!(!ran.out.contains("a-secret-key"));

    let ran = run(&["start", "--print-config", "--config", &path, "--port", "x", "--bind", "y"], "", Look::default());
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("the configuration has 2 problems"), "{}", ran.err);

    let ran = run(&["start", "--example-config"], "", Look::default());
    assert_eq!((ran.code, ran.out.as_str()), (0, crate::config::Config::example_toml()));
}
