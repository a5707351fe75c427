use std::time::Duration;

use super::*;
use crate::api::doctor::Verdict;
use crate::mesh::{Incident, Multicast, PeerView, TurnedAway};

fn neighbour(path: PathClass) -> Neighbour {
    Neighbour {
        node: PeerId::random(),
        view: PeerView {
            path,
            transport: LinkTransport::Quic,
            rtt: Some(Duration::from_millis(2)),
            address: "/ip4/192.168.1.7/udp/11450/quic-v1".to_owned(),
            connections: 1,
        },
        clock_ahead_ms: Ok(3),
        reach: Some([(LinkTransport::Quic, Reach::Reached), (LinkTransport::Tcp, Reach::Reached)]),
        multicast: Some(Multicast { there: true, here: true, trouble: None }),
    }
}

/// A node with these neighbours, called `n0`, `n1` and so on, of which nothing is wrong but what they say.
struct World {
    examination: Examination,
    others: BTreeMap<PeerId, Other>,
    own: PeerId,
    seeds: Vec<SeedView>,
    denied: Option<String>,
    providers: Vec<ProviderStatus>,
}

fn world(neighbours: Vec<Neighbour>) -> World {
    let others = neighbours
        .iter()
        .enumerate()
        .map(|(index, one)| (one.node, Other { name: format!("n{index}"), version: "1.2.3".to_owned() }))
        .collect();
    let address = OwnAddress {
        address: "/ip4/192.168.1.5/udp/11450/quic-v1".to_owned(),
        interface: Some("eth0".to_owned()),
        network: Network::Lan,
        told: true,
        public_by: None,
    };
    let situation = Situation { addresses: vec![address], mdns: true, ..Situation::default() };
    World {
        examination: Examination { situation, neighbours, ..Examination::default() },
        others,
        own: PeerId::random(),
        seeds: Vec::new(),
        denied: None,
        providers: Vec::new(),
    }
}

impl World {
    fn findings(&self) -> Vec<Finding> {
        judge(&Facts {
            examination: &self.examination,
            others: &self.others,
            own: (self.own, "own"),
            seeds: &self.seeds,
            denied: self.denied.clone(),
            providers: &self.providers,
            version: "1.2.3",
            port: Some(11450),
        })
    }

    /// What is worse than ok.
    fn complaints(&self) -> Vec<(Check, Verdict, String)> {
        let all = self.findings();
        assert!(
            all.iter().all(|one| one.verdict != Verdict::Problem || one.advice.is_some()),
            "no problem without advice: {all:?}"
        );
        let worse = all.into_iter().filter(|one| one.verdict != Verdict::Ok);
        worse.map(|one| (one.check, one.verdict, one.what)).collect()
    }
}

#[test]
fn a_healthy_node_has_nothing_to_complain_of() {
    let world = world(vec![neighbour(PathClass::Lan)]);
    assert_eq!(world.complaints(), []);
    let text: Vec<_> = world.findings().into_iter().map(|one| format!("{:?}: {}", one.check, one.what)).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn a_clock_that_is_off_is_named_with_its_node() {
    let skewed = Neighbour { clock_ahead_ms: Ok(-300_000), ..neighbour(PathClass::Lan) };
    let complaints = world(vec![neighbour(PathClass::Lan), skewed]).complaints();
    assert_eq!(
        complaints,
        [(Check::Clock, Verdict::Problem, "the clock of n1 is 5 min behind this machine's".to_owned())]
    );
}

#[test]
fn when_all_others_agree_it_is_this_machines_clock() {
    let skewed = |ahead| Neighbour { clock_ahead_ms: Ok(ahead), ..neighbour(PathClass::Lan) };
    let complaints = world(vec![skewed(60_010), skewed(60_000)]).complaints();
    let expected = "this machine's clock is 60 s behind that of all others".to_owned();
    assert_eq!(complaints, [(Check::Clock, Verdict::Problem, expected)]);
}

#[test]
fn a_closed_port_is_the_firewall_and_a_far_node_that_cannot_reach_it_is_not() {
    let shut = |path| Neighbour {
        reach: Some([
            (LinkTransport::Quic, Reach::Unreachable("no answer within 7 s".to_owned())),
            (LinkTransport::Tcp, Reach::Reached),
        ]),
        ..neighbour(path)
    };
    let complaints = world(vec![shut(PathClass::Lan)]).complaints();
    let expected = "n0 cannot reach UDP port 11450 of this machine: no answer within 7 s".to_owned();
    assert_eq!(complaints, [(Check::Ports, Verdict::Problem, expected)]);
    let far = world(vec![shut(PathClass::Wan)]).complaints();
    assert!(far.iter().all(|(check, verdict, _)| (*check, *verdict) == (Check::Internet, Verdict::Note)), "{far:?}");
}

#[test]
fn multicast_is_told_by_its_direction() {
    for (there, here, what) in [
        (false, false, "it does not pass between this node and n0"),
        (false, true, "it does not pass from this node to n0"),
        (true, false, "it does not pass from n0 to this node"),
    ] {
        let one = Neighbour { multicast: Some(Multicast { there, here, trouble: None }), ..neighbour(PathClass::Lan) };
        assert_eq!(world(vec![one]).complaints(), [(Check::Multicast, Verdict::Problem, what.to_owned())]);
    }
}

#[test]
fn a_clone_a_dead_seed_and_a_dead_backend_are_problems() {
    let mut world = world(vec![neighbour(PathClass::Lan)]);
    let what = "a process at /ip4/192.168.1.9/tcp/11450 answers with it".to_owned();
    world.examination.situation.identity_clash = Some(Incident { what, ago_s: 12 });
    let error = Some("cannot reach seed nas:11450: connection refused".to_owned());
    world.seeds = vec![SeedView { seed: "nas:11450".to_owned(), node: None, connected: false, error }];
    world.providers = vec![ProviderStatus {
        id: "ollama".to_owned(),
        kind: "ollama".to_owned(),
        url: Some("http://127.0.0.1:11434".to_owned()),
        up: false,
        error: Some("connection refused".to_owned()),
        capabilities: 0,
    }];
    let complaints = world.complaints();
    let checks: Vec<_> = complaints.iter().map(|(check, verdict, _)| (*check, *verdict)).collect();
    let expected = [Check::Identity, Check::Seeds, Check::Backends].map(|check| (check, Verdict::Problem));
    assert_eq!(checks, expected, "{complaints:?}");
    world.examination.situation.identity_clash = Some(Incident { what: String::new(), ago_s: RECENT_S });
    assert_eq!(world.complaints().len(), 2, "an old clash is over");
}

#[test]
fn nodes_of_one_name_are_good_to_know() {
    let mut world = world(vec![neighbour(PathClass::Lan), neighbour(PathClass::Lan)]);
    let own = world.own;
    world.others.insert(own, Other { name: "own".to_owned(), version: "1.2.3".to_owned() });
    assert_eq!(world.complaints(), [], "this node's own advert is no other node");
    let twin = *world.others.keys().find(|node| **node != own).expect("there are two");
    world.others.insert(twin, Other { name: "Own".to_owned(), version: "1.2.3".to_owned() });
    let (check, verdict, what) = world.complaints().remove(0);
    assert_eq!((check, verdict), (Check::Identity, Verdict::Note));
    assert!(what.starts_with("2 nodes are called own: "), "{what}");
    for node in [own, twin] {
        assert!(what.contains(&short(&node.to_base58())), "{what}");
    }
}

#[test]
fn a_node_behind_a_symmetric_nat_is_told_to_forward_a_port() {
    let relayed = Neighbour { reach: None, multicast: None, ..neighbour(PathClass::Relayed) };
    let mut world = world(vec![relayed]);
    world.examination.situation.nat = Some(Nat::Symmetric);
    let internet = world.findings().into_iter().find(|one| one.check == Check::Internet).expect("told");
    assert_eq!(internet.verdict, Verdict::Note);
    assert!(internet.advice.is_some_and(|advice| advice.contains("forward the gossip port")));
    world.examination.situation.public_by = Some(Source::Autonat);
    let internet = world.findings().into_iter().find(|one| one.check == Check::Internet).expect("told");
    assert_eq!(internet.what, "reached from the internet: members dialled it and got through");
}

#[test]
fn versions_and_strangers_are_good_to_know() {
    let mut world = world(vec![neighbour(PathClass::Lan)]);
    world.others.values_mut().for_each(|other| other.version = "1.1.0".to_owned());
    world.examination.situation.turned_away = vec![TurnedAway {
        node: "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN".to_owned(),
        address: "/ip4/192.168.1.9/tcp/11450".to_owned(),
        reason: "it is of another mesh".to_owned(),
        ago_s: 3,
    }];
    let complaints = world.complaints();
    assert_eq!(complaints[0].2, "node 4kx6nXTN at /ip4/192.168.1.9/tcp/11450 was turned away: it is of another mesh");
    assert_eq!(complaints[1].2, "this node is 1.2.3, but n0 (1.1.0) is not");
    assert!(complaints.iter().all(|(_, verdict, _)| *verdict == Verdict::Note));
    world.examination.situation.turned_away[0].reason = "the other node refused: it is of another mesh".to_owned();
    assert!(world.complaints()[0].2.ends_with("turned this node away: it is of another mesh"));
    world.denied = Some("its membership was revoked".to_owned());
    let complaints = world.complaints();
    assert_eq!(complaints[0].1, Verdict::Problem);
    assert_eq!(complaints[0].2, "this node is no member of its mesh any more: its membership was revoked");
}
