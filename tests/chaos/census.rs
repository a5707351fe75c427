//! What a node holds: descriptors, threads, memory, and tasks by its own count.

use std::fmt;
use std::time::Duration;

use crate::support::TestNode;

/// How long after the load a node may take to let go: idle connections to backends are kept for 90 s at the most.
pub const SETTLE: Duration = Duration::from_secs(100);
/// Descriptors more than before: connections to nodes that were not there at the first census, in both transports.
const DESCRIPTORS: usize = 16;
/// Tasks more than before: those of the same connections, and of streams on them.
const TASKS: usize = 32;
/// Threads more than before: the blocking pool.
const THREADS: usize = 4;
/// Resident memory more than before, in MiB: what an allocator keeps after a peak.
const RESIDENT_MIB: usize = 24;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
pub struct Census {
    descriptors: usize,
    threads: usize,
    tasks: usize,
    resident_mib: usize,
}

impl Census {
    /// Of a running node.
    pub async fn of(node: &TestNode) -> Self {
        let pid = node.pid();
        let metrics = node.get("/metrics").await.text().await.unwrap_or_default();
        let tasks = metrics.lines().filter(|line| line.starts_with("atmosphere_runtime_tasks{"));
        let tasks: usize = tasks.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).expect("it runs").count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is no zombie");
        let kib: usize = resident.trim().trim_end_matches("kB").trim().parse().expect("a number");
        Self { descriptors: count("fd"), threads: count("task"), tasks, resident_mib: kib / 1024 }
    }

    /// What is more than it may be.
    pub fn beyond(&self, before: &Self) -> Option<String> {
        let more = |now: usize, before: usize, room: usize| now > before + room;
        let mut what = Vec::new();
        if more(self.descriptors, before.descriptors, DESCRIPTORS) {
            what.push("descriptors");
        }
        if more(self.threads, before.threads, THREADS) {
            what.push("threads");
        }
        if more(self.tasks, before.tasks, TASKS) {
            what.push("tasks");
        }
        if more(self.resident_mib, before.resident_mib, RESIDENT_MIB) {
            what.push("memory");
        }
        (!what.is_empty()).then(|| format!("{}: before {before}, after {self}", what.join(", ")))
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, threads, tasks, resident_mib } = self;
        write!(f, "{descriptors} descriptors, {threads} threads, {tasks} tasks, {resident_mib} MiB")
    }
}
