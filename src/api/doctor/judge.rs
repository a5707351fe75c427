//! What the facts mean, and what to do about them. Pure.

use std::collections::BTreeMap;

use super::findings::{Check, Finding};
use crate::api::service::ProviderStatus;
use crate::capability::PeerId;
use crate::mesh::{
    Examination, LinkTransport, Nat, Neighbour, Network, OwnAddress, PathClass, Reach, SeedView, Situation, Source,
};

/// Clocks that are further apart are wrong: whoever sets them by the network is off by milliseconds.
const CLOCK_TOLERANCE_MS: u64 = 30_000;

/// What happened longer ago is not what is wrong now.
const RECENT_S: u64 = 900;

/// Findings of one check that are worth a line of their own.
const MAX_LINES: usize = 8;

/// What is known of another node from its advert.
#[derive(Debug, Clone)]
pub struct Other {
    /// Its human name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// All that is known.
#[derive(Debug)]
pub struct Facts<'a> {
    pub examination: &'a Examination,
    pub others: &'a BTreeMap<PeerId, Other>,
    /// This node, and its name.
    pub own: (PeerId, &'a str),
    pub seeds: &'a [SeedView],
    /// Why this node is no member of its mesh any more.
    pub denied: Option<String>,
    pub providers: &'a [ProviderStatus],
    /// This node's version.
    pub version: &'a str,
    /// The mesh's port.
    pub port: Option<u16>,
}

impl Facts<'_> {
    fn situation(&self) -> &Situation {
        &self.examination.situation
    }

    fn name(&self, node: &PeerId) -> String {
        let known = self.others.get(node).map(|other| other.name.clone()).filter(|name| !name.is_empty());
        known.unwrap_or_else(|| short(&node.to_base58()))
    }

    fn names<'n>(&self, neighbours: impl IntoIterator<Item = &'n Neighbour>) -> String {
        let names: Vec<_> = neighbours.into_iter().map(|neighbour| self.name(&neighbour.node)).collect();
        listed(&names)
    }
}

/// The end of an id, which tells nodes apart.
fn short(id: &str) -> String {
    let skipped = id.chars().count().saturating_sub(8);
    id.chars().skip(skipped).collect()
}

/// Names with commas, the first few of many.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Says what the facts mean.
#[must_use]
pub fn judge(facts: &Facts<'_>) -> Vec<Finding> {
    let checks: [fn(&Facts<'_>) -> Vec<Finding>; 12] =
        [address, identity, names, seeds, paths, ports, multicast, internet, admission, clock, version, backends];
    checks.iter().flat_map(|check| check(facts)).collect()
}

fn address(facts: &Facts<'_>) -> Vec<Finding> {
    let told: Vec<_> = facts.situation().addresses.iter().filter(|address| address.told).collect();
    let Some(first) = told.first() else {
        return vec![Finding::problem(
            Check::Address,
            "this node has no address that others could be told",
            "connect this machine to a network, or let the mesh listen on one with --gossip-bind",
        )];
    };
    let place = |one: &OwnAddress| {
        let ip = one.address.split('/').nth(2).unwrap_or(&one.address).to_owned();
        match &one.interface {
            Some(interface) => format!("{ip} ({interface})"),
            None => ip,
        }
    };
    if first.network == Network::Loopback {
        let advice = "let the mesh listen on a network with --gossip-bind, if other machines shall join";
        return vec![Finding::note(
            Check::Address,
            format!("only this machine can reach this node: it listens on {} and nothing else", place(first)),
            Some(advice.to_owned()),
        )];
    }
    let why = match first.network {
        Network::Lan => "a network of this place comes first",
        Network::Internet => "it is an address of the internet, and there is none of a network of this place",
        Network::Overlay => "an overlay network is the best there is here",
        Network::Link => "no router gave this machine an address; it gave itself one",
        Network::Relay => "others reach it through a relay only",
        Network::Virtual => "there are only bridges to containers and virtual machines",
        Network::Loopback => "",
    };
    let mut rest: Vec<String> = Vec::new();
    for one in &told[1..] {
        let next = if one.network == Network::Relay { "a relay".to_owned() } else { place(one) };
        if next != place(first) && !rest.contains(&next) {
            rest.push(next);
        }
    }
    let rest = if rest.is_empty() { String::new() } else { format!("; then {}", listed(&rest)) };
    let what = format!("others are told {} first: {why}{rest}", place(first));
    match first.network {
        Network::Link | Network::Virtual => vec![Finding::note(
            Check::Address,
            what,
            Some("check that this machine has an address of its network (ip address)".to_owned()),
        )],
        _ => vec![Finding::ok(Check::Address, what)],
    }
}

fn identity(facts: &Facts<'_>) -> Vec<Finding> {
    match &facts.situation().identity_clash {
        Some(clash) if clash.ago_s < RECENT_S => vec![Finding::problem(
            Check::Identity,
            format!("another process uses this node's identity: {} ({} s ago)", clash.what, clash.ago_s),
            "two nodes must never share a data directory or a copy of it: stop one of them, remove its data directory (or \
             give it another with --data-dir), and start it again",
        )],
        _ => vec![Finding::ok(Check::Identity, "no other process uses this node's identity")],
    }
}

/// Nodes that people cannot tell apart.
fn names(facts: &Facts<'_>) -> Vec<Finding> {
    let (own, own_name) = facts.own;
    let others = facts.others.iter().filter(|(node, _)| **node != own).map(|(node, other)| (node, other.name.as_str()));
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (node, name) in others.chain([(&own, own_name)]).filter(|(_, name)| !name.is_empty()) {
        named.entry(name.to_lowercase()).or_default().push(short(&node.to_base58()));
    }
    let shared = named.into_iter().filter(|(_, nodes)| nodes.len() > 1).take(MAX_LINES);
    shared
        .map(|(name, nodes)| {
            let what = format!("{} nodes are called {name}: those that end in {}", nodes.len(), listed(&nodes));
            let advice = "give each a name of its own with --name, so that they can be told apart".to_owned();
            Finding::note(Check::Identity, what, Some(advice))
        })
        .collect()
}

fn seeds(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let connected: Vec<_> = facts.seeds.iter().filter(|seed| seed.connected).map(|seed| seed.seed.clone()).collect();
    if !connected.is_empty() {
        findings.push(Finding::ok(Check::Seeds, format!("connected: {}", listed(&connected))));
    }
    for seed in facts.seeds.iter().filter(|seed| !seed.connected).take(MAX_LINES) {
        findings.push(match &seed.error {
            Some(error) => Finding::problem(
                Check::Seeds,
                error.clone(),
                format!("start atmosphere there; or start this node without {}, which it tries until then", seed.seed),
            ),
            None => Finding::note(Check::Seeds, format!("{} is being tried", seed.seed), None),
        });
    }
    findings
}

fn paths(facts: &Facts<'_>) -> Vec<Finding> {
    let all = &facts.examination.neighbours;
    if all.is_empty() {
        let advice =
            "start atmosphere on another machine of this network, or name a node with `atmosphere join HOST:PORT`";
        return vec![Finding::note(Check::Paths, "no other node is connected", Some(advice.to_owned()))];
    }
    let direct: Vec<_> = all.iter().filter(|neighbour| neighbour.view.path != PathClass::Relayed).collect();
    let relayed: Vec<_> = all.iter().filter(|neighbour| neighbour.view.path == PathClass::Relayed).collect();
    let mut findings = Vec::new();
    if !direct.is_empty() {
        let mut lines: Vec<_> = direct.iter().map(|neighbour| path_text(facts, neighbour)).collect();
        let more = lines.len().saturating_sub(MAX_LINES) + facts.examination.not_asked;
        lines.truncate(MAX_LINES);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        findings.push(Finding::ok(Check::Paths, format!("{}{more}", lines.join("; "))));
    }
    if !relayed.is_empty() {
        let lines: Vec<_> = relayed.iter().take(MAX_LINES).map(|neighbour| path_text(facts, neighbour)).collect();
        let advice = "it works, but each token takes the way through the relay; a direct connection is tried again and again. \
                      Forward the gossip port on one of the two routers to have one for sure";
        findings.push(Finding::note(Check::Paths, lines.join("; "), Some(advice.to_owned())));
    }
    findings
}

fn path_text(facts: &Facts<'_>, neighbour: &Neighbour) -> String {
    let view = &neighbour.view;
    let carrier = match view.transport {
        LinkTransport::Quic => " over QUIC",
        LinkTransport::Tcp => " over TCP",
        LinkTransport::Relay | LinkTransport::Memory => "",
    };
    let rtt = view.rtt.map(|rtt| format!(", {:.1} ms", rtt.as_secs_f64() * 1000.0)).unwrap_or_default();
    format!("{} {}{carrier}{rtt}", facts.name(&neighbour.node), view.path)
}

fn ports(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(port) = facts.port else { return Vec::new() };
    // From the internet a home router lets nobody in, and that is no fault of this machine.
    let near = |neighbour: &&Neighbour| neighbour.view.path <= PathClass::Lan;
    let near: Vec<_> = facts.examination.neighbours.iter().filter(near).collect();
    let mut findings = Vec::new();
    for (transport, protocol) in [(LinkTransport::Quic, "UDP"), (LinkTransport::Tcp, "TCP")] {
        let found = |neighbour: &&&Neighbour| {
            let all = neighbour.reach.as_ref()?;
            all.iter().find(|(one, _)| *one == transport).map(|(_, reach)| reach.clone())
        };
        let with = |wanted: fn(&Reach) -> bool| {
            near.iter().filter(|one| found(one).is_some_and(|reach| wanted(&reach))).copied().collect::<Vec<_>>()
        };
        let reached = with(|reach| *reach == Reach::Reached);
        let closed = with(|reach| matches!(reach, Reach::Unreachable(_)));
        let unknown = with(|reach| matches!(reach, Reach::Unknown(_)));
        let cause = closed.first().and_then(|one| match found(&one) {
            Some(Reach::Unreachable(why)) => Some(why),
            _ => None,
        });
        if let Some(cause) = &cause {
            let what = format!("{} cannot reach {protocol} port {port} of this machine: {cause}", facts.names(closed));
            let lower = protocol.to_lowercase();
            let advice = format!(
                "let {protocol} {port} through this machine's firewall (such as: sudo ufw allow {port}/{lower}), and look \
                 whether the network keeps its devices apart"
            );
            findings.push(Finding::problem(Check::Ports, what, advice));
        }
        if !reached.is_empty() {
            let what = format!("{} reached {protocol} port {port} of this machine", facts.names(reached));
            findings.push(Finding::ok(Check::Ports, what));
        } else if cause.is_none() && !unknown.is_empty() {
            let what = format!("whether {protocol} port {port} is open was not found out by {}", facts.names(unknown));
            findings.push(Finding::note(Check::Ports, what, None));
        }
    }
    findings
}

fn multicast(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.situation().mdns {
        let advice = "leave out --no-mdns to have nodes of one network find each other; with seeds it is not needed";
        findings.push(Finding::note(
            Check::Multicast,
            "this node does not look for others on its network",
            Some(advice.to_owned()),
        ));
    }
    if let Some(trouble) = &facts.examination.multicast_trouble {
        findings.push(Finding::note(
            Check::Multicast,
            format!("this machine takes no multicast: {trouble}"),
            Some("name nodes with --seed-peer instead".to_owned()),
        ));
        return findings;
    }
    let tried: Vec<_> =
        facts.examination.neighbours.iter().filter_map(|one| Some((one, one.multicast.as_ref()?))).collect();
    let passes = tried.iter().filter(|(_, found)| found.there && found.here).map(|(one, _)| *one).collect::<Vec<_>>();
    if !passes.is_empty() {
        findings.push(Finding::ok(Check::Multicast, format!("it passes to and from {}", facts.names(passes))));
    }
    for (neighbour, found) in tried.iter().filter(|(_, found)| !(found.there && found.here)).take(MAX_LINES) {
        let name = facts.name(&neighbour.node);
        if let Some(trouble) = &found.trouble {
            findings.push(Finding::note(Check::Multicast, format!("{name} could not say: {trouble}"), None));
            continue;
        }
        let way = match (found.there, found.here) {
            (false, false) => format!("it does not pass between this node and {name}"),
            (false, true) => format!("it does not pass from this node to {name}"),
            _ => format!("it does not pass from {name} to this node"),
        };
        let advice = "nodes do not find each other by themselves there: name one with --seed-peer; or let UDP 5353 through the \
                      firewalls, and switch off \"client isolation\" and IGMP snooping at the access point or switch";
        findings.push(if facts.situation().mdns {
            Finding::problem(Check::Multicast, way, advice)
        } else {
            Finding::note(Check::Multicast, way, None)
        });
    }
    findings
}

fn internet(facts: &Facts<'_>) -> Vec<Finding> {
    let situation = facts.situation();
    let relays = if situation.relaying { "; it relays for members" } else { "" };
    let by = match situation.public_by {
        Some(Source::Operator) => "the owner says so (mesh.external_addresses)",
        Some(Source::Autonat) => "members dialled it and got through",
        Some(Source::Upnp) => "the router forwards its port (UPnP)",
        Some(Source::Interface) => "this machine has an address of the internet",
        Some(Source::Observed) | None => {
            // Who is alone or among neighbours does not care.
            let far = |one: &Neighbour| one.view.path >= PathClass::Wan;
            if !facts.examination.neighbours.iter().any(far) && situation.nat.is_none() {
                return Vec::new();
            }
            let relays = match situation.relays.len() {
                0 => "no relay holds a place for it".to_owned(),
                _ => {
                    let names: Vec<_> = situation.relays.iter().map(|id| relay_name(facts, id)).collect();
                    format!("{} relays for it", listed(&names))
                }
            };
            let (nat, advice) = match situation.nat {
                Some(Nat::Symmetric) => (
                    "the router gives it another outer port for each node, so holes cannot be punched",
                    Some(
                        "forward the gossip port on the router, UDP and TCP, and name the outer address in mesh.external_addresses",
                    ),
                ),
                Some(Nat::Cone) => ("the router keeps its outer port, so holes can be punched", None),
                None => ("it is behind a router", None),
            };
            let advice = advice.map(str::to_owned);
            return vec![Finding::note(
                Check::Internet,
                format!("not reached from the internet: {nat}; {relays}"),
                advice,
            )];
        }
    };
    vec![Finding::ok(Check::Internet, format!("reached from the internet: {by}{relays}"))]
}

fn relay_name(facts: &Facts<'_>, id: &str) -> String {
    let known = facts.others.iter().find(|(node, _)| node.to_base58() == id);
    known.map_or_else(|| short(id), |(_, other)| other.name.clone())
}

fn admission(facts: &Facts<'_>) -> Vec<Finding> {
    if let Some(denied) = &facts.denied {
        return vec![Finding::problem(
            Check::Admission,
            format!("this node is no member of its mesh any more: {denied}"),
            "ask an admin of the mesh for a new invite, and give it here to `atmosphere join`",
        )];
    }
    let recent = facts.situation().turned_away.iter().filter(|one| one.ago_s < RECENT_S).take(MAX_LINES);
    recent
        .map(|one| {
            let (node, address) = (short(&one.node), &one.address);
            let what = match one.reason.strip_prefix("the other node refused: ") {
                Some(reason) => format!("node {node} at {address} turned this node away: {reason}"),
                None => format!("node {node} at {address} was turned away: {}", one.reason),
            };
            let advice =
                "if it is one of yours: it needs the same mesh (--mesh NAME) and a program of a version that fits";
            Finding::note(Check::Admission, what, Some(advice.to_owned()))
        })
        .collect()
}

fn clock(facts: &Facts<'_>) -> Vec<Finding> {
    let told: Vec<_> = facts
        .examination
        .neighbours
        .iter()
        .filter_map(|neighbour| Some((neighbour, *neighbour.clock_ahead_ms.as_ref().ok()?)))
        .collect();
    let is_off = |ahead: i64| ahead.unsigned_abs() > CLOCK_TOLERANCE_MS;
    let (off, right): (Vec<_>, Vec<_>) = told.iter().partition(|(_, ahead)| is_off(*ahead));
    let set = "set the clock by the network there (such as: sudo timedatectl set-ntp true)";
    let mut findings = Vec::new();
    if off.len() > 1 && right.is_empty() {
        // Several that agree with each other are hardly all wrong.
        let mut ahead: Vec<_> = off.iter().map(|(_, ahead)| *ahead).collect();
        ahead.sort_unstable();
        let median = ahead[ahead.len() / 2];
        let way = if median > 0 { "behind" } else { "ahead of" };
        let what = format!("this machine's clock is {} {way} that of all others", span(median));
        return vec![Finding::problem(
            Check::Clock,
            what,
            "set the clock by the network here (such as: sudo timedatectl set-ntp true)",
        )];
    }
    for (neighbour, ahead) in off.iter().take(MAX_LINES) {
        let way = if *ahead > 0 { "ahead of" } else { "behind" };
        let what = format!("the clock of {} is {} {way} this machine's", facts.name(&neighbour.node), span(*ahead));
        findings.push(Finding::problem(Check::Clock, what, format!("{set}, or here")));
    }
    if !right.is_empty() {
        let worst = right.iter().map(|(_, ahead)| ahead.unsigned_abs()).max().unwrap_or_default();
        let names = facts.names(right.iter().map(|(neighbour, _)| *neighbour));
        findings.push(Finding::ok(Check::Clock, format!("agrees with {names} within {worst} ms")));
    }
    for neighbour in facts.examination.neighbours.iter().take(MAX_LINES) {
        if let Err(why) = &neighbour.clock_ahead_ms {
            let what = format!("{} did not answer in time or in words: {why}", facts.name(&neighbour.node));
            let advice = "look at its log; a machine that is asleep or overloaded answers late";
            findings.push(Finding::note(Check::Clock, what, Some(advice.to_owned())));
        }
    }
    findings
}

/// Milliseconds as a person reads them.
fn span(ms: i64) -> String {
    let seconds = ms.unsigned_abs() / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn version(facts: &Facts<'_>) -> Vec<Finding> {
    let asked = |node: &PeerId| facts.examination.neighbours.iter().any(|neighbour| neighbour.node == *node);
    let others = facts.others.iter().filter(|(node, other)| asked(node) && other.version != facts.version);
    let differing: Vec<_> = others.map(|(_, other)| format!("{} ({})", other.name, other.version)).collect();
    if differing.is_empty() {
        return vec![Finding::ok(Check::Version, format!("{}, as its neighbours", facts.version))];
    }
    let what = format!("this node is {}, but {} is not", facts.version, listed(&differing));
    vec![Finding::note(Check::Version, what, Some("bring all nodes to one version".to_owned()))]
}

fn backends(facts: &Facts<'_>) -> Vec<Finding> {
    let (up, down): (Vec<_>, Vec<_>) = facts.providers.iter().partition(|provider| provider.up);
    let mut findings = Vec::new();
    if !up.is_empty() {
        let count = |count: usize| if count == 1 { "1 capability".to_owned() } else { format!("{count} capabilities") };
        let names: Vec<_> = up.iter().map(|one| format!("{} ({})", one.id, count(one.capabilities))).collect();
        findings.push(Finding::ok(Check::Backends, format!("{} up", listed(&names))));
    }
    for provider in down.into_iter().take(MAX_LINES) {
        let cause = provider.error.as_deref().unwrap_or("it does not answer");
        let at = provider.url.as_deref().map(|url| format!(" at {url}")).unwrap_or_default();
        let what = format!("{}{at}: {cause}", provider.id);
        findings.push(Finding::problem(
            Check::Backends,
            what,
            "start it, or correct or leave out its --backend; it is tried further",
        ));
    }
    findings
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
