//! What a node knows of its own situation without asking anybody.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::address::Network;
use super::reachability::{Nat, Source};
use crate::capability::PeerId;

/// What a node knows of its own situation.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Situation {
    /// Its addresses, the best first; see `told`.
    pub addresses: Vec<OwnAddress>,
    /// By what the internet is known to reach it.
    pub public_by: Option<Source>,
    /// How the NAT before it translates, if that is known.
    pub nat: Option<Nat>,
    /// Whether it relays for members.
    pub relaying: bool,
    /// Relays that hold a reservation for it, by id.
    pub relays: Vec<String>,
    /// Whether it looks for nodes on its network by mDNS.
    pub mdns: bool,
    /// Why its identity seems to be used twice, if it does.
    pub identity_clash: Option<Incident>,
    /// Connections that one of the two sides did not admit, the last ones.
    pub turned_away: Vec<TurnedAway>,
    /// Where neighbours see this node.
    #[serde(skip)]
    pub seen_as: BTreeMap<PeerId, IpAddr>,
}

/// One of a node's own addresses.
#[derive(Debug, Clone, Serialize)]
pub struct OwnAddress {
    /// As multiaddress.
    pub address: String,
    /// The interface that has it.
    pub interface: Option<String>,
    /// What kind of network it is of.
    pub network: Network,
    /// Whether others are told of it.
    pub told: bool,
    /// By what it is known that the internet reaches it.
    pub public_by: Option<Source>,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Incident {
    /// In words.
    pub what: String,
    /// How long ago.
    pub ago_s: u64,
}

/// A connection that was not admitted.
#[derive(Debug, Clone, Serialize)]
pub struct TurnedAway {
    /// The other node, by id.
    pub node: String,
    /// Where it is.
    pub address: String,
    /// Why, in words.
    pub reason: String,
    /// How long ago.
    pub ago_s: u64,
}
