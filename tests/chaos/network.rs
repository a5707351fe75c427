//! Cuts the mesh in two: a packet filter drops what nodes of one half send to the mesh ports of the other.
//!
//! The nodes are the real program and know nothing of it. Each runs with a group id of its own, by which the filter knows
//! who sends. It wants root, nftables, and a network namespace of the test's own, which `scripts/test chaos` makes and
//! names in `CHAOS_NETWORK`: rules of a test do not belong into the machine's own network.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Group ids of nodes, from here on.
const FIRST_GROUP: u32 = 41_000;

/// The group of the node of this number.
pub const fn group(node: u32) -> u32 {
    FIRST_GROUP + node
}

/// Can cut the mesh.
#[derive(Debug)]
pub struct Network {
    _private: (),
}

impl Network {
    /// When it can be cut; otherwise says why not.
    pub fn of_own() -> Result<Self, String> {
        if std::env::var_os("CHAOS_NETWORK").is_none() {
            return Err("the test has no network of its own (scripts/test chaos makes one, as root)".to_owned());
        }
        let network = Self { _private: () };
        network.filter("add table inet chaos\ndelete table inet chaos\n").map(|()| network)
    }

    /// From now on nothing passes between these nodes and those, each a number and its mesh port.
    pub fn cut(&self, one: &[(u32, u16)], other: &[(u32, u16)]) -> Result<(), String> {
        let mut rules = String::from("add table inet chaos\n");
        rules.push_str("add chain inet chaos output { type filter hook output priority 0; policy accept; }\n");
        for (from, to) in [(one, other), (other, one)] {
            let groups: Vec<String> = from.iter().map(|(node, _)| group(*node).to_string()).collect();
            let ports: Vec<String> = to.iter().map(|(_, port)| port.to_string()).collect();
            let _ = writeln!(
                rules,
                "add rule inet chaos output meta skgid {{ {} }} th dport {{ {} }} counter drop",
                groups.join(", "),
                ports.join(", ")
            );
        }
        self.filter(&rules)
    }

    /// Everything passes again.
    pub fn heal(&self) -> Result<(), String> {
        self.filter("add table inet chaos\ndelete table inet chaos\n")
    }

    fn filter(&self, rules: &str) -> Result<(), String> {
        let child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("nft cannot be run: {error}"))?;
        let written = child.stdin.take().map(|mut input| input.write_all(rules.as_bytes()));
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        match written {
            Some(Ok(())) if output.status.success() => Ok(()),
            _ => Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.heal();
    }
}
