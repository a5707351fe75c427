//! Real `atmosphere` processes: started, asked, killed, restarted, and never left behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, eventually};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_atmosphere");

/// How long nodes believe each other's adverts in tests: short, so that a dead node is soon gone.
pub const ADVERT_TTL: Duration = Duration::from_secs(6);

/// What a test wants of a node.
#[derive(Debug, Clone, Default)]
pub struct NodePlan {
    name: String,
    backends: Vec<String>,
    seeds: Vec<String>,
    config: String,
    arguments: Vec<String>,
    flags: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    gossip_port: Option<u16>,
    group: Option<u32>,
}

impl NodePlan {
    /// A node without backends or seeds.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// With a backend, as `--backend` takes it.
    #[must_use]
    pub fn backend(mut self, backend: impl Into<String>) -> Self {
        self.backends.push(backend.into());
        self
    }

    /// With a seed.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seeds.push(seed.into());
        self
    }

    /// With a further argument of `start`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With a flag of `start` and its value, instead of what tests usually give.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With further lines of its config file.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        let _ = writeln!(self.config, "{toml}");
        self
    }

    /// With a known gossip port.
    #[must_use]
    pub fn gossip_port(mut self, port: u16) -> Self {
        self.gossip_port = Some(port);
        self
    }

    /// Run with this group id, by which a packet filter knows what it sends. Needs root.
    #[must_use]
    pub fn group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> TestNode {
        let node = self.spawn();
        node.ready().await;
        node
    }

    /// Starts it and does not wait.
    pub fn spawn(self) -> TestNode {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let (api_port, gossip_port) = (free_port(), self.gossip_port.unwrap_or_else(free_port));
        let mut node = TestNode { plan: self, home, api_port, gossip_port, child: None, http: client() };
        node.run();
        node
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client needs nothing")
}

/// A port that nobody uses, for TCP and UDP.
///
/// Taken from below the range that the system gives to outgoing connections, so that none of these takes it in between.
///
/// # Panics
///
/// When there is none.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at once begin at different places.
    let offset = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).expect("below COUNT");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset.wrapping_add(step) % COUNT);
        if TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// A node's process.
pub struct TestNode {
    plan: NodePlan,
    home: tempfile::TempDir,
    /// Port of its API.
    pub api_port: u16,
    /// Port of its mesh.
    pub gossip_port: u16,
    child: Option<Child>,
    http: reqwest::Client,
}

impl TestNode {
    /// Its human name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// What the next node gives as `--seed-peer` to join it.
    pub fn seed(&self) -> String {
        format!("127.0.0.1:{}", self.gossip_port)
    }

    /// URL of a path of its API.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.api_port)
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// What it has written to its standard output and error, over all its runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The command line of `start` that this node is run with.
    pub fn command(&self) -> Command {
        let config = self.home.path().join("config.toml");
        std::fs::write(&config, &self.plan.config).expect("a config file can be written");
        let path = |path: PathBuf| path.to_str().expect("temporary paths are UTF-8").to_owned();
        let mut flags = BTreeMap::from([
            ("--name".to_owned(), self.plan.name.clone()),
            ("--bind".to_owned(), "127.0.0.1".to_owned()),
            ("--gossip-bind".to_owned(), "127.0.0.1".to_owned()),
            ("--port".to_owned(), self.api_port.to_string()),
            ("--gossip-port".to_owned(), self.gossip_port.to_string()),
            ("--config".to_owned(), path(config)),
            ("--data-dir".to_owned(), path(self.data_dir())),
        ]);
        flags.extend(self.plan.flags.clone());
        let mut command = Command::new(PROGRAM);
        command.args(["start", "--no-mdns", "--no-probe"]);
        for (name, value) in flags {
            command.args([name, value]);
        }
        for seed in &self.plan.seeds {
            command.args(["--seed-peer", seed]);
        }
        for backend in &self.plan.backends {
            command.args(["--backend", backend]);
        }
        command.args(&self.plan.arguments);
        command
            .env("ATMOSPHERE_MESH_ADVERT_TTL", format!("{}s", ADVERT_TTL.as_secs()))
            .env("NO_COLOR", "1")
            .env("HOME", self.home.path())
            .envs(&self.plan.environment);
        command
    }

    fn run(&mut self) {
        let log = File::options().append(true).create(true).open(self.log_path()).expect("a log file can be made");
        let errors = log.try_clone().expect("a file handle can be cloned");
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        if let Some(group) = self.plan.group {
            std::os::unix::process::CommandExt::gid(&mut command, group);
        }
        self.child = Some(command.spawn().expect("the program can be started"));
    }

    /// Waits until it answers `GET /readyz` with 200.
    ///
    /// # Panics
    ///
    /// When it ends before that, or takes too long.
    pub async fn ready(&self) {
        eventually(&format!("{} is ready", self.name()), PATIENCE, async || {
            let answer = self.http.get(self.url("/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id fits")).expect("no process has id 0");
        kill_process(pid, signal).expect("our own child can be signalled");
    }

    /// SIGKILL: it has no chance to say goodbye. Returns when it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and does not wait.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGINT, as Ctrl-C sends it, and does not wait.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// SIGSTOP: it stands still, and its connections stay open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on where it stood.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until its process has ended by itself.
    ///
    /// # Panics
    ///
    /// When it has not within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            let child = self.child.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().expect("our own child can be waited for") {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < end, "{} has not ended within {limit:?}:\n{}", self.name(), self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it again after it was killed or has ended: same identity, same ports. Waits until it is ready.
    pub async fn restart(&mut self) {
        self.run_again();
        self.ready().await;
    }

    /// The same, and does not wait.
    pub fn run_again(&mut self) {
        assert!(self.child.is_none(), "{} still runs", self.name());
        self.run();
    }

    /// How its process ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("our own child can be waited for")?;
        self.child = None;
        Some(status)
    }

    /// The same node, ended, as a plan without seeds: it keeps its directory and ports.
    pub fn without_seeds(mut self) -> Ended {
        assert!(self.child.is_none(), "{} still runs", self.name());
        self.plan.seeds.clear();
        Ended(self)
    }

    /// GET a path.
    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).send().await.unwrap_or_else(|e| panic!("GET {path} of {}: {e}", self.name()))
    }

    /// GET a path whose answer is JSON with status 200.
    pub async fn get_json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "GET {path} of {}", self.name());
        response.json().await.unwrap_or_else(|e| panic!("GET {path} of {}: {e}", self.name()))
    }

    /// POST JSON.
    pub async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        let sent = self.try_post(path, body).await;
        sent.unwrap_or_else(|e| panic!("POST {path} of {}: {e}", self.name()))
    }

    /// POST JSON with headers.
    pub async fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = self.http.post(self.url(path)).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap_or_else(|e| panic!("POST {path} of {}: {e}", self.name()))
    }

    /// POST JSON, or the transport's error.
    pub async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
        self.http.post(self.url(path)).json(body).send().await
    }

    /// POST JSON; status and JSON of the answer.
    pub async fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path, body).await;
        let status = response.status().as_u16();
        let text = response.text().await.expect("the answer has a body");
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("POST {path} answered {status} {text:?}: {e}")))
    }

    /// Sends a chat over a connection of its own and closes that once the backend has it: the client who leaves.
    pub async fn leave_during(&self, body: &Value, until: impl AsyncFnOnce()) {
        let alone = client();
        let request = alone.post(self.url("/v1/chat/completions")).json(body).send();
        let task = tokio::spawn(async move {
            if let Ok(response) = request.await {
                // Reads on, as a client that shows tokens does, until it is aborted.
                let _ = response.bytes().await;
            }
        });
        until().await;
        task.abort();
        let _ = task.await;
        drop(alone);
    }

    /// The nodes that it sees, itself included.
    pub async fn nodes(&self) -> Vec<Value> {
        let mut answer = self.get_json("/v1/mesh/nodes").await;
        serde_json::from_value(answer["nodes"].take()).expect("nodes is an array")
    }

    /// Names of the nodes that it sees, sorted.
    pub async fn node_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.nodes().await.iter().map(|node| node["name"].as_str().unwrap_or("?").to_owned()).collect();
        names.sort();
        names
    }

    /// Its own id.
    pub async fn id(&self) -> String {
        let nodes = self.nodes().await;
        let own = nodes.iter().find(|node| node["self"] == true).expect("a node lists itself");
        own["id"].as_str().expect("an id is text").to_owned()
    }

    /// Ids of `GET /v1/models`, sorted.
    pub async fn models(&self) -> Vec<String> {
        let answer = self.get_json("/v1/models").await;
        let models = answer["data"].as_array().expect("data is an array");
        let mut ids: Vec<String> = models.iter().map(|model| model["id"].as_str().unwrap_or("?").to_owned()).collect();
        ids.sort();
        ids
    }

    /// Waits until it sees exactly these nodes.
    pub async fn sees_nodes(&self, names: &[&str]) {
        let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        eventually(&format!("{} sees {names:?}", self.name()), PATIENCE, async || self.node_names().await == names)
            .await;
    }

    /// Waits until it lists a model, by its name with or without `:latest`.
    pub async fn sees_model(&self, model: &str) {
        eventually(&format!("{} lists {model}", self.name()), PATIENCE, async || {
            self.models().await.iter().any(|id| id == model || id.strip_suffix(":latest") == Some(model))
        })
        .await;
    }

    /// Waits until `count` capabilities of the mesh have this model.
    pub async fn sees_holders(&self, model: &str, count: usize) {
        eventually(&format!("{} knows {count} holders of {model}", self.name()), PATIENCE, async || {
            let answer = self.get_json("/v1/capabilities").await;
            let capabilities = answer["capabilities"].as_array().cloned().unwrap_or_default();
            let nodes: std::collections::BTreeSet<&str> = capabilities
                .iter()
                .filter(|capability| capability["model"] == model)
                .filter_map(|capability| capability["node"].as_str())
                .collect();
            nodes.len() == count
        })
        .await;
    }

    /// Starts a verb of the command line against this node that does not end by itself; its standard output and error are
    /// piped.
    pub fn spawn_cli(&self, arguments: &[&str]) -> tokio::process::Child {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(arguments).env("ATMOSPHERE_URL", self.url("")).env("ATMOSPHERE_HOME", self.data_dir());
        command.env("HOME", self.home.path()).env("NO_COLOR", "1").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program can be started")
    }

    /// Runs a verb of the command line against this node.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.env("ATMOSPHERE_URL", self.url("")).env("ATMOSPHERE_HOME", self.data_dir());
        to_the_end(command, arguments, self.home.path()).await
    }
}

/// A node that has ended and may be started again.
pub struct Ended(TestNode);

impl Ended {
    /// Starts it and waits until it is ready.
    pub async fn start(self) -> TestNode {
        let mut node = self.0;
        node.restart().await;
        node
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("---- last lines of {} ----\n{tail}\n----", self.name());
        }
        self.kill();
    }
}

/// Some nodes of one mesh, each seeded with the first.
pub struct Cluster {
    /// In the order of the plans.
    pub nodes: Vec<TestNode>,
}

impl Cluster {
    /// Starts them and waits until each sees all.
    pub async fn start(plans: Vec<NodePlan>) -> Self {
        let mut nodes: Vec<TestNode> = Vec::with_capacity(plans.len());
        for plan in plans {
            let plan = match nodes.first() {
                Some(first) => plan.seed(first.seed()),
                None => plan,
            };
            nodes.push(plan.spawn());
        }
        let names: Vec<&str> = nodes.iter().map(TestNode::name).collect();
        for node in &nodes {
            node.ready().await;
        }
        for node in &nodes {
            node.sees_nodes(&names).await;
        }
        Self { nodes }
    }
}

impl std::ops::Index<usize> for Cluster {
    type Output = TestNode;

    fn index(&self, index: usize) -> &TestNode {
        &self.nodes[index]
    }
}

impl std::ops::IndexMut<usize> for Cluster {
    fn index_mut(&mut self, index: usize) -> &mut TestNode {
        &mut self.nodes[index]
    }
}

/// Runs the program without a node, to its end.
pub async fn program(arguments: &[&str], home: &Path) -> Output {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.env_remove("ATMOSPHERE_HOME");
    to_the_end(command, arguments, home).await
}

async fn to_the_end(mut command: tokio::process::Command, arguments: &[&str], home: &Path) -> Output {
    command.args(arguments).env("HOME", home).env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(PATIENCE, command.output())
        .await
        .unwrap_or_else(|_| panic!("{arguments:?} does not end"))
        .expect("the program can be started")
}
