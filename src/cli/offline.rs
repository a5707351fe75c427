//! What hinders the start of a node on this machine, when none runs: its data directory and its ports.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::shapes::Finding;
use crate::config::{self, Config, DataDir, DataDirError, FlagValue, Sources};
use crate::mesh::Interfaces;

/// Looks at what a start with this configuration would find. `why` says how it is known that no node runs.
pub(super) fn examine(data_dir: Option<&Path>, why: &str) -> Result<Vec<Finding>, CliError> {
    let flags = data_dir.map(|dir| ("data_dir", FlagValue::Text(dir.to_string_lossy().into_owned())));
    let config = config::load(&Sources::of_process(None, flags.into_iter().collect()))?.config;
    let mut findings = vec![note("node", why, "start one with `atmosphere start`")];
    findings.push(directory(&config.data_dir));
    findings.push(port("TCP", config.bind, config.port, "the API", "--port"));
    let bind = config.gossip_bind.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
    findings.push(port("TCP", bind, config.gossip_port, "the mesh", "--gossip-port"));
    findings.push(port("UDP", bind, config.gossip_port, "the mesh", "--gossip-port"));
    findings.push(addresses());
    findings.extend(backends(&config));
    Ok(findings)
}

fn ok(check: &str, what: impl Into<String>) -> Finding {
    Finding { check: check.to_owned(), verdict: "ok".to_owned(), what: what.into(), advice: None }
}

fn note(check: &str, what: impl Into<String>, advice: &str) -> Finding {
    Finding {
        check: check.to_owned(),
        verdict: "note".to_owned(),
        what: what.into(),
        advice: Some(advice.to_owned()).filter(|advice| !advice.is_empty()),
    }
}

fn problem(check: &str, what: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { check: check.to_owned(), verdict: "problem".to_owned(), what: what.into(), advice: Some(advice.into()) }
}

/// Whether a node could use this directory. One that is not there yet is not made.
fn directory(path: &Path) -> Finding {
    let shown = path.display();
    if !path.exists() {
        let parent = path.ancestors().skip(1).find(|parent| parent.exists()).unwrap_or(Path::new("/"));
        return match writable(parent) {
            Ok(()) => ok("node", format!("the data directory {shown} is not there yet, and can be made")),
            Err(error) => problem(
                "node",
                format!("the data directory {shown} cannot be made: {error}"),
                "choose another with --data-dir or ATMOSPHERE_HOME",
            ),
        };
    }
    match DataDir::open(path) {
        Ok(_) => ok("node", format!("the data directory {shown} can be written, and nobody has it")),
        Err(error @ DataDirError::InUse { .. }) => problem(
            "node",
            format!("{error}"),
            "it runs and does not answer: look at its log, or end its process and start it again",
        ),
        Err(error) => problem("node", error.to_string(), "correct its owner and mode (chown, chmod u+rwx)"),
    }
}

fn writable(directory: &Path) -> io::Result<()> {
    let probe = directory.join(format!(".atmosphere-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&probe)?;
    fs::remove_file(probe)
}

fn port(protocol: &str, ip: IpAddr, port: u16, what_for: &str, flag: &str) -> Finding {
    let bound = match protocol {
        "UDP" => UdpSocket::bind((ip, port)).map(drop),
        _ => TcpListener::bind((ip, port)).map(drop),
    };
    match bound {
        Ok(()) => ok("ports", format!("{protocol} port {port} is free for {what_for}")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let holder = holder_of(protocol, SocketAddr::new(ip, port));
            let by = holder.map_or_else(String::new, |holder| format!(" by {holder}"));
            problem(
                "ports",
                format!("{protocol} port {port} of {what_for} is taken{by}"),
                format!("stop that program, or choose another port with {flag}"),
            )
        }
        Err(error) => problem(
            "ports",
            format!("{protocol} port {port} of {what_for} cannot be had on {ip}: {error}"),
            format!("choose another port with {flag}, or another address to listen on"),
        ),
    }
}

/// The program that has a port, where the system tells: Linux does, of all programs for root and of their own for others.
fn holder_of(protocol: &str, address: SocketAddr) -> Option<String> {
    let tables: [&str; 2] = if protocol == "UDP" { ["udp", "udp6"] } else { ["tcp", "tcp6"] };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(Path::new("/proc/net").join(table)).ok())
        .flat_map(|table| sockets_at(&table, address.port(), protocol == "TCP"))
        .collect();
    let holds = |process: &Path| {
        let links = fs::read_dir(process.join("fd")).ok()?;
        let targets = links.flatten().filter_map(|link| fs::read_link(link.path()).ok());
        let mut sockets = targets
            .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()));
        sockets.any(|inode| inodes.contains(&inode)).then_some(())
    };
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let is_process = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    };
    let process = processes.filter(is_process).find(|process| holds(process).is_some())?;
    let command = fs::read_to_string(process.join("comm")).ok()?;
    let pid = process.file_name()?.to_str()?.to_owned();
    Some(format!("{} (pid {pid})", command.trim()))
}

/// The inodes of the sockets that are bound to a port, of a table as `/proc/net/tcp` is one. Of TCP only those that listen.
fn sockets_at(table: &str, port: u16, listening: bool) -> Vec<String> {
    const LISTEN: &str = "0A";
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let fits = u16::from_str_radix(hex, 16).ok()? == port && (!listening || *fields.get(3)? == LISTEN);
        fits.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

fn addresses() -> Finding {
    let interfaces = Interfaces::now();
    let virtual_ones = interfaces.virtual_addresses();
    let mut shown: Vec<String> = interfaces
        .addresses()
        .into_iter()
        .filter(|ip| !ip.is_loopback() && !virtual_ones.contains(ip))
        .map(|ip| format!("{ip} ({})", interfaces.name(ip).unwrap_or("?")))
        .collect();
    shown.sort();
    if shown.is_empty() {
        return note("address", "this machine has no address that another one could reach", "connect it to a network");
    }
    ok("address", format!("other machines may reach this one at {}", shown.join(", ")))
}

/// Whether somebody listens where the backends are said to be.
fn backends(config: &Config) -> Vec<Finding> {
    /// A backend near enough to be of use answers in milliseconds.
    const LIMIT: std::time::Duration = std::time::Duration::from_secs(2);
    use std::net::{TcpStream, ToSocketAddrs};
    let check = |backend: &config::Backend| {
        let url = &backend.url;
        let shown = config::without_userinfo(url.as_str());
        let place = (url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?);
        let reached = place.to_socket_addrs().and_then(|addresses| {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "its name leads nowhere");
            for address in addresses {
                match TcpStream::connect_timeout(&address, LIMIT) {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error,
                }
            }
            Err(last)
        });
        Some(match reached {
            Ok(()) => ok("backends", format!("somebody listens at {shown}")),
            Err(error) => {
                problem("backends", format!("{shown}: {error}"), "start it, or correct or leave out its --backend")
            }
        })
    };
    config.backends.iter().filter_map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_of_a_port_are_found_in_the_systems_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:2CBB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0\n   \
                     1: 0100007F:2CBB 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0\n   \
                     2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0\n";
        assert_eq!(sockets_at(table, 0x2CBB, true), ["111"]);
        assert_eq!(sockets_at(table, 0x2CBB, false), ["111", "222"]);
        assert!(sockets_at(table, 80, true).is_empty() && sockets_at("", 80, true).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_has_a_port_is_named() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let found = port("TCP", address.ip(), address.port(), "the API", "--port");
        assert_eq!(found.verdict, "problem");
        assert!(found.what.contains(&format!("(pid {})", std::process::id())), "{}", found.what);
        drop(listener);
        assert_eq!(port("TCP", address.ip(), address.port(), "the API", "--port").verdict, "ok");
    }

    #[test]
    fn a_directory_is_looked_at_and_not_made() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("a/b");
        assert_eq!(directory(&path).verdict, "ok");
        assert!(!path.exists());
        let held = DataDir::open(&path).expect("free");
        let found = directory(&path);
        assert!(found.verdict == "problem" && found.what.contains("already uses"), "{found:?}");
        drop(held);
        assert_eq!(directory(&path).verdict, "ok");
    }
}
