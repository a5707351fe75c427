//! Where others may reach this node, and what speaks for it: the ladder of sources. Pure.
//!
//! An address is proved by members that dialled it from a fresh port and got through. One member is not enough: a NAT
//! that lets in whatever comes from an IP address that was spoken to looks open to that member, and to nobody else. So two
//! must have got through, from different IP addresses. What they found is asked again, and counts for a while only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use serde::Serialize;

use crate::capability::PeerId;
use crate::mesh::address::{ip_of, is_of_internet, link_transport, port_of};
use crate::mesh::view::LinkTransport;

/// Members, by IP address, that must have got through.
const PROOF: usize = 2;

/// Addresses that are weighed. A node has a few; what others claim to see must not grow without bound.
const MAX_ADDRESSES: usize = 32;

/// Members whose word on one address is remembered.
const MAX_WITNESSES: usize = 8;

/// Between two tests of one address while there are members that have not tested it yet.
const FIRST_TESTS: Duration = Duration::from_secs(10);

/// Between two tests of one address that all members near enough have tested.
const RETEST: Duration = Duration::from_secs(300);

/// The same for one that nobody reaches; routers and networks change, but not often.
const RETEST_FAILED: Duration = Duration::from_secs(1800);

/// How long a member's success counts: several tests may fail to be made in between.
const PROVED_FOR: Duration = Duration::from_secs(1200);

/// How long a member's report of where it sees this node counts. It is repeated every five minutes.
const OBSERVED_FOR: Duration = Duration::from_secs(1200);

/// Failures in a row by which a member that got through before takes it back. One may be a lost packet.
const TAKEN_BACK: u32 = 2;

/// What makes this node believe that the internet reaches it, the surest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Members see it there. That makes an address worth a test, and a hole worth punching, and no more.
    Observed,
    /// An interface of this machine has an IPv4 address of the internet, and no member found it closed.
    Interface,
    /// The router opened a port, and no member found it closed.
    Upnp,
    /// Members dialled it and got through.
    Autonat,
    /// The owner says so.
    Operator,
}

/// How the NAT before this node translates, as far as members' reports tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Nat {
    /// Members see this node at one address: holes can be punched.
    Cone,
    /// Members see it at another port each: only a relay helps, or a forwarded port.
    Symmetric,
}

/// A member that can be asked to dial this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tester {
    /// Which.
    pub node: PeerId,
    /// Its address, an address of the internet.
    pub ip: IpAddr,
}

/// A test to make now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// Whom to ask.
    pub node: PeerId,
    /// What it shall dial.
    pub address: Multiaddr,
}

/// What one member found when it dialled.
#[derive(Debug, Clone, Copy)]
struct Finding {
    passed: Option<Instant>,
    failures: u32,
    at: Instant,
}

impl Finding {
    fn passes(&self, now: Instant) -> bool {
        self.failures < TAKEN_BACK && self.passed.is_some_and(|at| now.saturating_duration_since(at) < PROVED_FOR)
    }

    fn fails(&self, now: Instant) -> bool {
        self.failures > 0 && !self.passes(now)
    }
}

#[derive(Debug, Default)]
struct Candidate {
    operator: bool,
    interface: bool,
    mapped: bool,
    seen_by: BTreeMap<IpAddr, Instant>,
    findings: BTreeMap<IpAddr, Finding>,
    asked: Option<Instant>,
}

impl Candidate {
    fn has_a_reason(&self) -> bool {
        self.operator || self.interface || self.mapped || !self.seen_by.is_empty()
    }

    fn count(&self, now: Instant, what: fn(&Finding, Instant) -> bool) -> usize {
        self.findings.values().filter(|finding| what(finding, now)).count()
    }

    fn is_proved(&self, now: Instant) -> bool {
        let passes = self.count(now, Finding::passes);
        passes >= PROOF && passes >= self.count(now, Finding::fails)
    }

    fn is_refuted(&self, now: Instant) -> bool {
        let fails = self.count(now, Finding::fails);
        fails >= PROOF && fails > self.count(now, Finding::passes)
    }

    /// The surest source that makes it an address at which the internet reaches this node.
    fn public_by(&self, address: &Multiaddr, now: Instant) -> Option<Source> {
        let presumed = || !self.is_refuted(now);
        // Home routers let no IPv6 in, although every machine behind them has an address of the internet.
        let is_v4 = ip_of(address).is_some_and(|ip| ip.to_canonical().is_ipv4());
        match self {
            Self { operator: true, .. } => Some(Source::Operator),
            _ if self.is_proved(now) => Some(Source::Autonat),
            Self { mapped: true, .. } if presumed() => Some(Source::Upnp),
            Self { interface: true, .. } if is_v4 && presumed() => Some(Source::Interface),
            _ => None,
        }
    }

    fn due(&self, is_new: bool, now: Instant) -> bool {
        let rest = match () {
            () if is_new || self.findings.values().any(|finding| (1..TAKEN_BACK).contains(&finding.failures)) => {
                FIRST_TESTS
            }
            () if self.count(now, Finding::passes) > 0 => RETEST,
            () => RETEST_FAILED,
        };
        !self.operator && self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= rest)
    }
}

/// All that speaks for this node's addresses. Only those of the internet are weighed; the others prove nothing.
#[derive(Debug, Default)]
pub struct Evidence(BTreeMap<Multiaddr, Candidate>);

impl Evidence {
    fn weigh(&mut self, address: Multiaddr, what: impl FnOnce(&mut Candidate)) {
        if !is_of_internet(&address) || (self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&address)) {
            return;
        }
        what(self.0.entry(address).or_default());
    }

    fn no_more(&mut self, address: &Multiaddr, what: impl FnOnce(&mut Candidate)) {
        let Some(candidate) = self.0.get_mut(address) else { return };
        what(candidate);
        if !candidate.has_a_reason() {
            self.0.remove(address);
        }
    }

    /// The owner says that this node is reached there. A name is taken for one of the internet.
    pub fn by_operator(&mut self, address: Multiaddr) {
        if ip_of(&address).is_none() {
            self.0.entry(address).or_default().operator = true;
        } else {
            self.weigh(address, |candidate| candidate.operator = true);
        }
    }

    /// An interface has this address, or not any more.
    pub fn on_interface(&mut self, address: &Multiaddr, there: bool) {
        if there {
            self.weigh(address.clone(), |candidate| candidate.interface = true);
        } else {
            self.no_more(address, |candidate| candidate.interface = false);
        }
        // The machine may be on another network now: what was found on the former one is looked at again.
        self.0.values_mut().for_each(|candidate| candidate.asked = None);
    }

    /// The router forwards this address, or not any more.
    pub fn by_router(&mut self, address: &Multiaddr, there: bool) {
        if there {
            self.weigh(address.clone(), |candidate| candidate.mapped = true);
        } else {
            self.no_more(address, |candidate| candidate.mapped = false);
        }
    }

    /// A member with this IP address sees this node there.
    pub fn seen(&mut self, address: Multiaddr, by: IpAddr, now: Instant) {
        self.weigh(address, |candidate| {
            if candidate.seen_by.len() < MAX_WITNESSES || candidate.seen_by.contains_key(&by) {
                candidate.seen_by.insert(by, now);
            }
        });
    }

    /// A member with this IP address dialled it, and got through or not.
    pub fn tested(&mut self, address: &Multiaddr, by: IpAddr, reached: bool, now: Instant) {
        let Some(candidate) = self.0.get_mut(address) else { return };
        if candidate.findings.len() >= MAX_WITNESSES && !candidate.findings.contains_key(&by) {
            let oldest = candidate.findings.iter().min_by_key(|(_, finding)| finding.at).map(|(ip, _)| *ip);
            oldest.and_then(|ip| candidate.findings.remove(&ip));
        }
        let finding = candidate.findings.entry(by).or_insert(Finding { passed: None, failures: 0, at: now });
        finding.at = now;
        if reached {
            finding.passed = Some(now);
            finding.failures = 0;
        } else {
            finding.failures = finding.failures.saturating_add(1);
        }
    }

    /// Forgets what nobody has said for too long.
    pub fn expire(&mut self, now: Instant) {
        self.0.retain(|_, candidate| {
            candidate.seen_by.retain(|_, at| now.saturating_duration_since(*at) < OBSERVED_FOR);
            candidate.has_a_reason()
        });
    }

    /// The test to make next, which counts as made. A member behind the same NAT proves nothing and is not asked.
    pub fn next_test(&mut self, testers: &[Tester], now: Instant) -> Option<Test> {
        for (address, candidate) in &mut self.0 {
            let ip = ip_of(address);
            let mut able: Vec<_> = testers.iter().filter(|tester| Some(tester.ip) != ip).collect();
            able.sort_by_key(|tester| candidate.findings.get(&tester.ip).map(|finding| finding.at));
            let Some(tester) = able.first() else { continue };
            if candidate.due(!candidate.findings.contains_key(&tester.ip), now) {
                candidate.asked = Some(now);
                return Some(Test { node: tester.node, address: address.clone() });
            }
        }
        None
    }

    /// The surest source by which the internet reaches this node.
    pub fn public_by(&self, now: Instant) -> Option<Source> {
        self.0.iter().filter_map(|(address, candidate)| candidate.public_by(address, now)).max()
    }

    /// The addresses at which it does, and by what each is known; and those that one member got through to.
    pub fn addresses(&self, now: Instant) -> BTreeMap<Multiaddr, Source> {
        let source = |address: &Multiaddr, candidate: &Candidate| {
            let once = || (candidate.count(now, Finding::passes) > 0).then_some(Source::Observed);
            candidate.public_by(address, now).or_else(once)
        };
        self.0.iter().filter_map(|(address, one)| Some((address.clone(), source(address, one)?))).collect()
    }

    /// How the NAT translates, by what members with different IP addresses see.
    pub fn nat(&self) -> Option<Nat> {
        let quic = |(address, one): &(&Multiaddr, &Candidate)| {
            link_transport(address) == LinkTransport::Quic && !one.seen_by.is_empty()
        };
        let seen: Vec<_> = self.0.iter().filter(quic).collect();
        if seen.iter().any(|(_, one)| one.seen_by.len() >= PROOF) {
            return Some(Nat::Cone);
        }
        let witnesses: BTreeSet<_> = seen.iter().flat_map(|(_, one)| one.seen_by.keys()).collect();
        let ports: BTreeSet<_> = seen.iter().filter_map(|(address, _)| port_of(address)).collect();
        (witnesses.len() >= PROOF && ports.len() >= PROOF).then_some(Nat::Symmetric)
    }

    /// How many addresses are weighed.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
