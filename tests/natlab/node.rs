//! A real node process within a host of the lab.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::lab::Lab;

const PROGRAM: &str = env!("CARGO_BIN_EXE_atmosphere");

/// Every node has its API there, on the loopback of its own host.
const API: &str = "http://127.0.0.1:11451";

/// Where the public host is.
pub const SEED: &str = "198.18.0.100:11450";

/// A node's process. It has the host's name.
pub struct Node<'l> {
    lab: &'l Lab,
    host: &'static str,
    home: tempfile::TempDir,
    child: Child,
}

impl<'l> Node<'l> {
    pub fn start(lab: &'l Lab, host: &'static str, arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let log = std::fs::File::create(home.path().join("log")).expect("a log file can be made");
        let errors = log.try_clone().expect("a file handle can be cloned");
        let child = lab
            .command(host, PROGRAM)
            .args(["start", "--no-mdns", "--no-probe", "--admit-everybody", "--name", host, "--log"])
            .arg("info,atmosphere::mesh=debug")
            .arg("--data-dir")
            .arg(home.path().join("data"))
            .args(arguments)
            .env("HOME", home.path())
            .env("NO_COLOR", "1")
            .env("ATMOSPHERE_EMBEDDER_KIND", "none")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("the program can be started");
        Self { lab, host, home, child }
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// SIGKILL: it has no chance to say goodbye.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `GET` of a path, as JSON; `None` while it does not answer.
    pub fn get(&self, path: &str) -> Option<Value> {
        let url = format!("{API}{path}");
        self.lab.run(self.host, async || {
            let answer = client().get(url).timeout(Duration::from_secs(5)).send().await.ok()?;
            answer.json().await.ok()
        })
    }

    /// How it reaches another node by now: path and transport.
    pub fn path_to(&self, other: &str) -> Option<(String, String)> {
        let topology = self.get("/v1/mesh/topology")?;
        let nodes = topology["nodes"].as_array()?;
        let id = nodes.iter().find(|node| node["name"] == other)?["id"].as_str()?;
        let link = topology["links"].as_array()?.iter().find(|link| link["target"] == id)?;
        Some((link["path"].as_str()?.to_owned(), link["transport"].as_str()?.to_owned()))
    }

    /// Whether it lists a model.
    pub fn lists(&self, model: &str) -> bool {
        let models = self.get("/v1/models").and_then(|answer| answer["data"].as_array().cloned()).unwrap_or_default();
        models.iter().any(|listed| listed["id"].as_str().is_some_and(|id| id.starts_with(model)))
    }

    /// Streams a chat, and calls `seen` with the number of bytes so far after each piece.
    pub fn chat(&self, model: &str, mut seen: impl FnMut(usize) + Send) -> Answer {
        let body = serde_json::json!({
            "model": model, "stream": true, "messages": [{"role": "user", "content": "Hello"}],
        });
        self.lab.run(self.host, async || {
            let asked = Instant::now();
            let sent = client().post(format!("{API}/v1/chat/completions")).json(&body).send().await;
            let mut response = sent.unwrap_or_else(|e| panic!("{}: {e}", self.host));
            let status = response.status();
            let mut answer = Answer { first_byte: Duration::ZERO, text: String::new() };
            while let Some(piece) =
                response.chunk().await.unwrap_or_else(|e| panic!("the stream broke after {}: {e}", answer.text.len()))
            {
                if answer.text.is_empty() {
                    answer.first_byte = asked.elapsed();
                }
                answer.text.push_str(&String::from_utf8_lossy(&piece));
                seen(answer.text.len());
            }
            assert_eq!(status, 200, "{}", answer.text);
            answer
        })
    }
}

/// A streamed answer.
pub struct Answer {
    /// From the request to the first byte of the answer.
    pub first_byte: Duration,
    /// All events.
    pub text: String,
}

impl Answer {
    /// Whether it came to its proper end.
    pub fn is_whole(&self) -> bool {
        self.text.trim_end().ends_with("data: [DONE]") && !self.text.contains("\"error\"")
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(120)).build().expect("a client needs nothing")
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("---- {} ----\n{}\n----", self.host, lines[lines.len().saturating_sub(80)..].join("\n"));
        }
    }
}
