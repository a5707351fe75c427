//! The lock file holds no version that is known to be unsafe and that the RustSec database does not tell of.
//!
//! `cargo deny check advisories` reads RustSec; these advisories were published elsewhere, or must hold also where
//! that database cannot be had.

/// Crate, the first safe version of each line, and what an older one suffers from. A version is safe when it is at
/// least the first safe version of its own line, or newer than all lines named.
const FLOORS: &[(&str, &[&str], &str)] = &[
    ("libp2p-gossipsub", &["0.50.1"], "GHSA-vrx6-jcp8-vm7m: PRUNE for topics that were not joined"),
    ("yamux", &["0.13.10"], "CVE-2026-32314 and CVE-2026-31814: remote panics"),
    ("libp2p-quic", &["0.13.1"], "GHSA-5hq8-qhww-jm7q: panic on a certificate after the handshake"),
    ("libp2p-rendezvous", &["0.17.1"], "CVE-2026-35405: unbounded memory of the server"),
    ("quinn-proto", &["0.11.15"], "RUSTSEC-2026-0037 and RUSTSEC-2026-0185"),
    ("hickory-proto", &["0.26.1"], "RUSTSEC-2026-0118, -0119, -0120"),
    ("hickory-net", &["0.26.1"], "RUSTSEC-2026-0118, -0119, -0120"),
    ("rustls-webpki", &["0.103.13"], "RUSTSEC-2026-0049, -0098, -0099, -0104"),
    ("aws-lc-sys", &["0.39.0"], "RUSTSEC-2026-0044 to -0048"),
    ("rand", &["0.8.6", "0.9.3", "0.10.1"], "RUSTSEC-2026-0097: unsound"),
    ("bytes", &["1.11.1"], "RUSTSEC-2026-0007"),
    ("memmap2", &["0.9.11"], "RUSTSEC-2026-0186"),
    ("lru", &["0.18.2"], "RUSTSEC-2026-0253"),
    ("anyhow", &["1.0.103"], "RUSTSEC-2026-0190"),
];

type Version = (u64, u64, u64);

/// Without what comes after `-` or `+`.
fn version(text: &str) -> Version {
    let plain = text.split(['-', '+']).next().unwrap_or_default();
    let mut parts = plain.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// What Cargo holds compatible: `1.x`, or `0.4.x`.
fn line(version: Version) -> (u64, u64) {
    if version.0 == 0 { (0, version.1) } else { (version.0, 0) }
}

fn is_safe(locked: Version, first_safe: &[&str]) -> bool {
    let floors: Vec<Version> = first_safe.iter().map(|floor| version(floor)).collect();
    match floors.iter().find(|floor| line(**floor) == line(locked)) {
        Some(floor) => locked >= *floor,
        None => floors.iter().all(|floor| locked >= *floor),
    }
}

fn unsafe_packages(lock: &str) -> Vec<String> {
    let lock: toml::Table = lock.parse().expect("Cargo.lock is TOML");
    let packages = lock["package"].as_array().expect("Cargo.lock lists packages");
    let mut found = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name");
        let locked = package["version"].as_str().expect("a package has a version");
        for (_, floors, why) in FLOORS.iter().filter(|(known, _, _)| *known == name) {
            if !is_safe(version(locked), floors) {
                found.push(format!("{name} {locked} is below {}: {why}", floors.join(" / ")));
            }
        }
    }
    found
}

#[test]
fn no_package_is_below_its_first_safe_version() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
    let lock = std::fs::read_to_string(path).expect("Cargo.lock is committed");
    let found = unsafe_packages(&lock);
    assert!(found.is_empty(), "run cargo update for:\n  {}", found.join("\n  "));
}

#[test]
fn an_old_version_is_found() {
    let lock = |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
    for (name, version, safe) in [
        ("yamux", "0.12.1", false),
        ("yamux", "0.13.9", false),
        ("yamux", "0.13.10", true),
        ("yamux", "0.14.1", true),
        ("rand", "0.9.2", false),
        ("rand", "0.9.3", true),
        ("rand", "0.10.0", false),
        ("rand", "0.11.0", true),
        ("anyhow", "1.0.99", false),
        ("anyhow", "2.0.0", true),
        ("libp2p-gossipsub", "0.50.0", false),
        ("unheard-of", "0.0.1", true),
    ] {
        assert_eq!(unsafe_packages(&lock(name, version)).is_empty(), safe, "{name} {version}");
    }
}
