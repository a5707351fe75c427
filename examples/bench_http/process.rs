//! The processes that are measured: started here, asked what they cost, and ended here.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::load::KEY;

/// A child process that ends with its handle.
pub struct Process {
    child: Child,
}

impl Process {
    /// The bench backend: this very program, with another argument. With a pace, its events are so far apart.
    pub fn backend(pin: &Pin, pace: Option<Duration>) -> anyhow::Result<(Self, SocketAddr)> {
        let mut command = pin.command(&std::env::current_exe()?);
        command.arg("backend").args(pace.map(|pace| pace.as_micros().to_string()));
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("the backend has no output")?;
        let process = Self { child };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        Ok((process, line.trim().parse().with_context(|| format!("the backend says {line:?}"))?))
    }

    /// A node, with a directory of its own.
    pub fn node(program: &Path, home: &Path, node: &Node<'_>) -> anyhow::Result<Self> {
        let directory = home.join(node.name);
        std::fs::create_dir_all(&directory)?;
        let log = std::fs::File::create(directory.join("log"))?;
        let mut command = node.pin.command(program);
        command
            .args(["start", "--no-mdns", "--no-probe", "--bind", "127.0.0.1", "--gossip-bind", "127.0.0.1"])
            .args([
                "--name",
                node.name,
                "--port",
                &node.port.to_string(),
                "--gossip-port",
                &node.gossip_port.to_string(),
            ])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .env("HOME", &directory)
            .envs(node.key.map(|key| ("ATMOSPHERE_API_KEYS", key)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(backend) = node.backend {
            command.args(["--backend", &format!("http://{backend}")]);
        }
        if let Some(seed) = node.seed {
            command.args(["--seed-peer", &format!("127.0.0.1:{seed}")]);
        }
        Ok(Self { child: command.spawn().with_context(|| format!("cannot start {}", program.display()))? })
    }

    /// Any other program, whose words go into the file.
    pub fn other(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child })
    }

    /// Processor time that it has used, in user and system mode.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in parentheses, may hold spaces; utime and stime are the 14th and 15th fields.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    }

    /// Resident memory, in MB.
    pub fn resident_mb(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processors that a process may run on.
#[derive(Debug, Clone, Default)]
pub struct Pin(pub Option<usize>);

impl Pin {
    /// A command that runs there.
    pub fn command(&self, program: &Path) -> Command {
        let Some(processor) = self.0 else { return Command::new(program) };
        let mut command = Command::new("taskset");
        command.arg("-c").arg(processor.to_string()).arg(program);
        command
    }
}

/// What a node is started with.
pub struct Node<'a> {
    /// Its name, and that of its directory.
    pub name: &'a str,
    /// Of its API.
    pub port: u16,
    /// Of its mesh.
    pub gossip_port: u16,
    /// Its backend.
    pub backend: Option<SocketAddr>,
    /// Gossip port of the node to join by.
    pub seed: Option<u16>,
    /// The key that its API wants.
    pub key: Option<&'a str>,
    /// Where it runs.
    pub pin: Pin,
}

/// A free port.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until a node's API answers a GET with 200 and a body that contains `text`.
pub async fn answers(port: u16, path: &str, text: &str, home: &Path) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        let request = client.get(format!("http://127.0.0.1:{port}{path}")).bearer_auth(KEY);
        if let Ok(answer) = request.send().await {
            let status = answer.status();
            let body = answer.text().await.unwrap_or_default();
            if status.is_success() && body.contains(text) {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(home.exists(), "the directory is gone");
    bail!("GET {path} at port {port} has not answered with {text:?} within 30 s; logs are in {}", home.display())
}
