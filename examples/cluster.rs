//! Starts real nodes with scripted models on loopback, says how to use them, and cleans up. `scripts/cluster` runs it.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

/// How long a node may take to be ready, and to see the others.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two words of an answer, so that a stream looks like one.
const GAP: Duration = Duration::from_millis(60);
/// How long a node may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(8);

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, nodes, models, ttl] = arguments.as_slice() else {
        bail!("usage: cluster PROGRAM NODES MODELS TTL (scripts/cluster does it)");
    };
    let (count, models): (usize, usize) = (nodes.parse().context("NODES")?, models.parse().context("MODELS")?);
    // Before anything runs, so that an early Ctrl-C cleans up too.
    let mut asked_to_end = Box::pin(end());
    let home = tempfile::tempdir()?;
    let mut nodes: Vec<Node> = Vec::with_capacity(count);
    let outcome = tokio::select! {
        outcome = start(Path::new(program), home.path(), &mut nodes, count, models, ttl) => outcome,
        () = &mut asked_to_end => Ok(()),
    };
    if outcome.is_ok() && nodes.len() == count {
        print_table(Path::new(program), &nodes);
        asked_to_end.await;
    }
    println!("\nending {} nodes", nodes.len());
    end_all(nodes).await;
    outcome
}

/// A node's process; it ends with its handle at the latest.
struct Node {
    name: String,
    api: u16,
    gossip: u16,
    models: Vec<String>,
    child: Child,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ctrl-C or SIGTERM.
async fn end() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

async fn start(
    program: &Path,
    home: &Path,
    nodes: &mut Vec<Node>,
    count: usize,
    models: usize,
    ttl: &str,
) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
    for index in 0..count {
        let name = format!("node{}", index + 1);
        let mut offered = Vec::new();
        if index > 0 {
            offered.push("shared-chat:8b".to_owned());
            offered.extend((1..=models).map(|model| format!("{name}-model{model}:7b")));
        }
        let backend = if offered.is_empty() { None } else { Some(serve(&name, &offered).await?) };
        let seed = nodes.first().map(|node| node.gossip);
        nodes.push(spawn(program, home, name, offered, backend, seed, ttl)?);
    }
    for (index, node) in nodes.iter_mut().enumerate() {
        let end = Instant::now() + PATIENCE;
        while !sees(&client, node.api, count).await {
            let log = home.join(&node.name).join("log");
            let told = || std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = node.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", node.name, told());
            }
            ensure!(Instant::now() < end, "{} does not see all {count} nodes:\n{}", node.name, told());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        eprint!("\r{} of {count} nodes see the whole mesh", index + 1);
    }
    eprintln!();
    Ok(())
}

/// Whether the node lists so many nodes.
async fn sees(client: &reqwest::Client, api: u16, count: usize) -> bool {
    let Ok(answer) = client.get(format!("http://127.0.0.1:{api}/v1/mesh/nodes")).send().await else { return false };
    answer.json::<Value>().await.is_ok_and(|list| list["nodes"].as_array().map_or(0, Vec::len) == count)
}

fn spawn(
    program: &Path,
    home: &Path,
    name: String,
    models: Vec<String>,
    backend: Option<SocketAddr>,
    seed: Option<u16>,
    ttl: &str,
) -> anyhow::Result<Node> {
    let (api, gossip) = (free_port()?, free_port()?);
    let directory = home.join(&name);
    std::fs::create_dir_all(&directory)?;
    let log = std::fs::File::create(directory.join("log"))?;
    let mut command = Command::new(program);
    command
        .args(["start", "--no-mdns", "--no-probe", "--bind", "127.0.0.1", "--gossip-bind", "127.0.0.1"])
        .args(["--name", &name, "--port", &api.to_string(), "--gossip-port", &gossip.to_string()])
        .arg("--data-dir")
        .arg(directory.join("data"))
        .env("HOME", &directory)
        .env("ATMOSPHERE_MESH_ADVERT_TTL", ttl)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    if let Some(backend) = backend {
        command.args(["--backend", &format!("http://{backend}")]);
    }
    if let Some(seed) = seed {
        command.args(["--seed-peer", &format!("127.0.0.1:{seed}")]);
    }
    // A group of its own: Ctrl-C in the terminal must reach this program only, which then ends the nodes in order.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    Ok(Node { name, api, gossip, models, child })
}

/// A port that is free for TCP and UDP.
fn free_port() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port on loopback")
}

fn print_table(program: &Path, nodes: &[Node]) {
    println!("\n{:<8} {:<26} {:<8} {:<18} models", "node", "API", "process", "gossip");
    for node in nodes {
        let models = if node.models.is_empty() { "-".to_owned() } else { node.models.join(", ") };
        let (api, gossip) = (format!("http://127.0.0.1:{}", node.api), format!("127.0.0.1:{}", node.gossip));
        println!("{:<8} {api:<26} {:<8} {gossip:<18} {models}", node.name, node.child.id());
    }
    let Some(first) = nodes.first() else { return };
    let (url, program) = (format!("http://127.0.0.1:{}", first.api), program.display());
    println!("\nAny node answers for all. Ask the first, which has no model:");
    println!("  curl {url}/v1/models");
    println!(
        "  curl {url}/v1/chat/completions -d '{{\"model\":\"shared-chat:8b\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}' -H 'content-type: application/json'"
    );
    println!("  {program} chat \"hello\" --url {url}");
    println!("  {program} nodes --url {url}");
    if let Some(last) = nodes.last() {
        println!("Kill one, and see the others notice:  kill -9 {}", last.child.id());
    }
    println!("Ctrl-C ends all of it.");
}

/// Lets the nodes say goodbye, and ends those that do not.
async fn end_all(mut nodes: Vec<Node>) {
    for node in &nodes {
        let pid = i32::try_from(node.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
    let end = Instant::now() + GOODBYE;
    while Instant::now() < end && nodes.iter_mut().any(|node| matches!(node.child.try_wait(), Ok(None))) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The scripted models of one node: an OpenAI-compatible server in this process.
async fn serve(name: &str, models: &[String]) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let data: Vec<Value> =
        models.iter().map(|id| json!({"id": id, "object": "model", "created": 1, "owned_by": "cluster"})).collect();
    let list = json!({"object": "list", "data": data});
    let app = Router::new()
        .route("/v1/models", get(move || async move { Json(list) }))
        .route("/v1/chat/completions", post(chat))
        .with_state(name.to_owned());
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

async fn chat(State(name): State<String>, Json(request): Json<Value>) -> Response {
    let model = request["model"].as_str().unwrap_or("none").to_owned();
    let answer = format!("This is {model} on {name}, and it says the same to everybody.");
    let base = json!({"id": "chatcmpl-cluster", "created": 1, "model": model});
    let choice = |object: &str, key: &str, content: Value, finish: Option<&str>| {
        let mut whole = base.clone();
        whole["object"] = object.into();
        whole["choices"] = json!([{"index": 0, key: content, "finish_reason": finish}]);
        whole
    };
    if request["stream"] != true {
        let message = json!({"role": "assistant", "content": answer});
        return Json(choice("chat.completion", "message", message, Some("stop"))).into_response();
    }
    let mut events: Vec<Value> = answer
        .split_inclusive(' ')
        .map(|word| choice("chat.completion.chunk", "delta", json!({"content": word}), None))
        .collect();
    events.push(choice("chat.completion.chunk", "delta", json!({}), Some("stop")));
    let body = async_stream::stream! {
        for event in events {
            tokio::time::sleep(GAP).await;
            yield Ok::<_, std::io::Error>(format!("data: {event}\n\n"));
        }
        yield Ok("data: [DONE]\n\n".to_owned());
    };
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response()
}
