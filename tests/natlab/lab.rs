//! The lab of `scripts/natlab`: made for one test, and gone with it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use std::os::fd::AsFd as _;

/// What the script ends with where the lab cannot be made.
const SKIPPED: i32 = 77;

/// How the routers of the two home networks translate addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// One outer port for one inner address, whoever it speaks to.
    Cone,
    /// Another one for each destination.
    Symmetric,
}

/// What the routers let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Quic,
    /// TCP.
    Tcp,
}

impl Nat {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cone => "cone",
            Self::Symmetric => "symmetric",
        }
    }
}

impl Transport {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// Two home networks and a public host.
pub struct Lab {
    prefix: String,
    script: Child,
    /// The script takes the lab down when this closes, which it does even when this process is killed.
    hold: Option<ChildStdin>,
}

impl Lab {
    /// Makes it; `None`, and a word about why, where that is impossible.
    pub fn new(nat: Nat, transport: Transport) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/natlab");
        let mut script = Command::new(script)
            .args(["hold", nat.word(), transport.word()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script can be started");
        let hold = script.stdin.take();
        let mut line = String::new();
        let output = script.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("the script says something or ends");
        match line.trim().strip_prefix("up ") {
            Some(prefix) => Some(Self { prefix: prefix.to_owned(), script, hold }),
            None => {
                let status = script.wait().expect("our own child can be waited for");
                assert_eq!(status.code(), Some(SKIPPED), "the lab could not be made: {status}");
                None
            }
        }
    }

    /// A command that runs within a host of the lab.
    pub fn command(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-{host}", self.prefix), program]);
        command
    }

    /// Does something within a host of the lab, on a thread of its own: what sockets it makes are there, and stay there
    /// when other threads use them.
    pub fn within<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = format!("/run/netns/{}-{host}", self.prefix);
        let namespace = File::open(&namespace).unwrap_or_else(|e| panic!("{namespace}: {e}"));
        let moved = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may move a thread into a namespace");
            work()
        };
        std::thread::scope(|scope| match scope.spawn(moved).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// The same for what waits, with a runtime of that thread's own.
    pub fn run<T: Send>(&self, host: &str, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.within(host, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime needs nothing").block_on(work())
        })
    }

    /// Bytes that the public host has sent so far, all protocols and headers counted.
    pub fn sent_by_public_host(&self) -> u64 {
        let mut command = self.command("public", "cat");
        let output = command.arg("/sys/class/net/wan/statistics/tx_bytes").output().expect("cat can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().unwrap_or_else(|e| panic!("{text:?} is no count of bytes: {e}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ = self.script.wait();
    }
}
