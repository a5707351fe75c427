//! Two nodes on one link, in network namespaces of their own, find each other by mDNS alone.
//!
//! Ignored unless asked for, as it needs root: `scripts/test netns`.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The promise. It counts from the moment when both are ready.
const FOUND_WITHIN: Duration = Duration::from_secs(5);
/// For what nothing promises a time for.
const PATIENCE: Duration = Duration::from_secs(30);
const PROGRAM: &str = env!("CARGO_BIN_EXE_atmosphere");

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split_whitespace()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Names of links are the test's own, so that both tests can run at once.
static LINKS: AtomicUsize = AtomicUsize::new(0);

/// A switch with two hosts, each in a namespace. Nothing of it touches the machine's own network.
struct Link {
    prefix: String,
}

impl Link {
    fn new() -> Self {
        let number = LINKS.fetch_add(1, Ordering::Relaxed);
        let link = Self { prefix: format!("atmo-{}-{number}", std::process::id()) };
        let run = |arguments: String| assert!(ip(&arguments), "ip {arguments}");
        let p = &link.prefix;
        for name in ["switch", "a", "b"] {
            run(format!("netns add {p}-{name}"));
            run(format!("-n {p}-{name} link set lo up"));
        }
        run(format!("-n {p}-switch link add br0 type bridge"));
        run(format!("-n {p}-switch link set br0 up"));
        for (name, address) in [("a", "10.77.0.1/24"), ("b", "10.77.0.2/24")] {
            run(format!("link add eth0 netns {p}-{name} type veth peer name port-{name} netns {p}-switch"));
            run(format!("-n {p}-{name} addr add {address} dev eth0"));
            run(format!("-n {p}-{name} link set eth0 up"));
            run(format!("-n {p}-switch link set port-{name} master br0"));
            run(format!("-n {p}-switch link set port-{name} up"));
        }
        link
    }

    /// A rule of a host's firewall: what it drops of what comes in.
    fn drops(&self, host: &str, what: &str) {
        let rules = format!(
            "add table inet t; add chain inet t in {{ type filter hook input priority 0; }}; add rule inet t in {what} drop"
        );
        let status =
            Command::new("ip").args(["netns", "exec", &format!("{}-{host}", self.prefix), "nft", &rules]).status();
        assert!(status.is_ok_and(|status| status.success()), "nft {rules}");
    }

    /// A command within one of the hosts.
    fn within(&self, host: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-{host}", self.prefix), PROGRAM]);
        command
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in ["a", "b", "switch"] {
            ip(&format!("netns del {}-{name}", self.prefix));
        }
    }
}

struct Node<'l> {
    link: &'l Link,
    host: &'static str,
    home: tempfile::TempDir,
    child: Child,
}

impl<'l> Node<'l> {
    fn start(link: &'l Link, host: &'static str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let log = std::fs::File::create(home.path().join("log")).expect("a log file can be made");
        let errors = log.try_clone().expect("a file handle can be cloned");
        let child = link
            .within(host)
            .args(["start", "--no-probe", "--name", host, "--data-dir"])
            .arg(home.path().join("data"))
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("the program can be started");
        Self { link, host, home, child }
    }

    /// Names of the nodes that it sees; `None` while it does not answer.
    fn sees(&self) -> Option<Vec<String>> {
        let output = self
            .link
            .within(self.host)
            .args(["nodes", "--json"])
            .env("HOME", self.home.path())
            .env("ATMOSPHERE_URL", "http://127.0.0.1:11451")
            .output()
            .expect("the program can be started");
        let answer: Value = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
        let nodes = answer["nodes"].as_array()?;
        Some(nodes.iter().filter_map(|node| node["name"].as_str().map(str::to_owned)).collect())
    }

    /// What `atmosphere doctor` finds there: exit code, findings, neighbours.
    fn doctor(&self) -> (Option<i32>, Value) {
        let mut command = self.link.within(self.host);
        command
            .args(["doctor", "--json"])
            .env("HOME", self.home.path())
            .env("ATMOSPHERE_URL", "http://127.0.0.1:11451");
        let output = command.output().expect("the program can be started");
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn eventually(what: &str, limit: Duration, nodes: &[&Node<'_>], mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= end {
            let logs: Vec<String> = nodes.iter().map(|node| format!("-- {} --\n{}", node.host, node.log())).collect();
            panic!("waited {limit:?} in vain until {what}\n{}", logs.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs root and network namespaces: scripts/test netns"]
fn two_nodes_on_one_link_find_each_other_without_a_seed() {
    let link = Link::new();
    let (a, b) = (Node::start(&link, "a"), Node::start(&link, "b"));
    let both = [&a, &b];
    eventually("both are ready", PATIENCE, &both, || both.iter().all(|node| node.sees().is_some()));
    let ready = Instant::now();
    eventually("each sees the other", FOUND_WITHIN, &both, || {
        both.iter().all(|node| node.sees().is_some_and(|names| names.len() == 2))
    });
    println!("found within {:.2} s of both being ready", ready.elapsed().as_secs_f64());
}

/// What the doctor finds wrong, as `check: what`.
fn problems(answer: &Value) -> Vec<String> {
    let findings = answer["findings"].as_array().cloned().unwrap_or_default();
    let wrong = findings.iter().filter(|one| one["verdict"] == "problem");
    wrong
        .map(|one| format!("{}: {}", one["check"].as_str().unwrap_or(""), one["what"].as_str().unwrap_or("")))
        .collect()
}

#[test]
#[ignore = "needs root and network namespaces: scripts/test netns"]
fn the_doctor_names_a_closed_port_and_multicast_that_does_not_pass() {
    let link = Link::new();
    let (a, b) = (Node::start(&link, "a"), Node::start(&link, "b"));
    let both = [&a, &b];
    eventually("each sees the other", PATIENCE, &both, || {
        both.iter().all(|node| node.sees().is_some_and(|names| names.len() == 2))
    });
    let mut last = Value::Null;
    eventually("all is found well", PATIENCE, &both, || {
        let (code, answer) = b.doctor();
        let tried =
            answer["neighbours"][0]["multicast"]["there"] == true && answer["neighbours"][0]["udp"] == "reached";
        let well = code == Some(0) && tried;
        println!("{:?} {}", code, answer["neighbours"]);
        well
    });
    link.drops("b", "tcp dport 11450 ct state new");
    link.drops("a", "udp dport 5353");
    eventually("what is wrong is named", PATIENCE, &both, || {
        let (code, answer) = b.doctor();
        last = answer;
        let found = problems(&last);
        code == Some(1)
            && found.iter().any(|one| one.starts_with("ports: a cannot reach TCP port 11450 of this machine"))
            && found.iter().any(|one| one == "multicast: it does not pass from this node to a")
    });
    assert!(problems(&last).iter().all(|one| !one.contains("UDP port")), "UDP is open: {last}");
}
