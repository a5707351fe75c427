//! What a process holds: descriptors, threads, memory.

use std::fmt;
use std::time::Duration;

/// How long after the load a node may take to let go: idle connections to backends are kept for 90 s at the most.
pub const SETTLE: Duration = Duration::from_secs(100);
/// Descriptors more than before: connections to nodes that were not there at the first census, in both transports.
const DESCRIPTORS: usize = 16;
/// Threads more than before: the blocking pool.
const THREADS: usize = 4;
/// Resident memory more than before, in MiB: what an allocator keeps after a peak.
const RESIDENT_MIB: usize = 24;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
pub struct Census {
    descriptors: usize,
    threads: usize,
    resident_mib: usize,
}

impl Census {
    /// Of a running process.
    pub fn of(pid: u32) -> Self {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).expect("it runs").count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is no zombie");
        let kib: usize = resident.trim().trim_end_matches("kB").trim().parse().expect("a number");
        Self { descriptors: count("fd"), threads: count("task"), resident_mib: kib / 1024 }
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
        if more(self.resident_mib, before.resident_mib, RESIDENT_MIB) {
            what.push("memory");
        }
        (!what.is_empty()).then(|| format!("{}: before {before}, after {self}", what.join(", ")))
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} descriptors, {} threads, {} MiB", self.descriptors, self.threads, self.resident_mib)
    }
}
