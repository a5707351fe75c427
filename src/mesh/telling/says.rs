//! What this node says: adverts, beats, and goodbye.

use std::sync::Arc;
use std::time::Instant;

use libp2p::Multiaddr;
use rand::RngExt as _;

use super::effect::{Asked, Effect};
use super::state::Teller;
use crate::capability::{Advert, Capability};
use crate::catalog::register::Position;
use crate::mesh::statement::Signed;
use crate::wire::v1;

/// What an advert says besides capabilities.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The node's human name.
    pub name: String,
    /// Version of its program.
    pub version: String,
    /// Where it is reached, best first.
    pub addresses: Vec<Multiaddr>,
    /// Whether it relays for members.
    pub relay: bool,
}

impl Teller {
    /// What this node can do, and how busy it is, is now this.
    pub fn set(&mut self, capabilities: Vec<Arc<Capability>>, load: u8, now: Instant) {
        self.announcer.set(capabilities, load, now);
    }

    /// Says nothing before that, or until it is [let go](Self::let_go): what this node can do is still being found out.
    pub const fn hold(&mut self, until: Instant) {
        self.announcer.hold(until);
    }

    /// What this node can do is known.
    pub const fn let_go(&mut self) {
        self.announcer.let_go();
    }

    /// How busy it is.
    #[must_use]
    pub const fn load(&self) -> u8 {
        self.announcer.load
    }

    /// Its profile changed.
    pub fn touch(&mut self, now: Instant) {
        self.announcer.touch(now);
    }

    /// Whether it is time for [`announce`](Self::announce).
    #[must_use]
    pub fn advert_is_due(&self, now: Instant) -> bool {
        !self.departed && self.announcer.advert_due().is_some_and(|due| due <= now)
    }

    /// Tells the mesh what this node is and can do.
    pub fn announce(&mut self, profile: Profile, now: Instant) {
        self.announcer.among(self.register.node_count());
        let Position { epoch, seq } = self.announcer.advance();
        let advert = Advert {
            node: self.own,
            epoch,
            seq,
            ttl: self.announcer.ttl(),
            name: profile.name,
            version: profile.version,
            addresses: profile.addresses.iter().map(ToString::to_string).collect(),
            capabilities: self.announcer.capabilities.clone(),
            load: self.announcer.load,
            relay: profile.relay,
        };
        let jitter = self.rng.random_range(0.0..1.0);
        self.announcer.advertised(now, jitter);
        match self.signer.advert(&advert) {
            Ok(signed) => self.say(signed, now),
            Err(error) => tracing::warn!(%error, "this node's capabilities cannot be told to the mesh"),
        }
    }

    /// Tells the mesh that this node lives, when it is time.
    pub(super) fn beat_if_due(&mut self, now: Instant) {
        if self.departed || self.announcer.beat_due().is_none_or(|due| due > now) {
            return;
        }
        self.announcer.among(self.register.node_count());
        let jitter = self.rng.random_range(0.0..1.0);
        self.announcer.beaten(now, jitter);
        // The advert that others have: when the last one could not be signed, that is an older one.
        let position = self.register.own_position();
        match self.signer.alive(position, self.announcer.ttl(), self.announcer.load) {
            Ok(signed) => self.say(signed, now),
            Err(error) => tracing::warn!(%error, "this node cannot tell the mesh that it lives"),
        }
    }

    fn say(&mut self, signed: Signed, now: Instant) {
        self.register.apply_own(signed.statement, now);
        self.alone = false;
        self.effects.push(Effect::Gossip(signed.wire));
    }

    /// Nobody listened to what was said last.
    pub fn nobody_heard(&mut self) {
        self.alone = true;
    }

    /// Begins a new run, with an epoch past every one that this node was ever known by.
    pub fn begin_run(&mut self, epoch: u64, now: Instant) {
        self.announcer.jump(epoch, now);
    }

    /// Says goodbye: by gossip, and to each neighbour in person, because gossip does not tell when it is out.
    /// The connections stay, so that what runs can finish; nothing is said from here on.
    pub fn say_goodbye(&mut self, now: Instant) {
        if std::mem::replace(&mut self.departed, true) {
            return;
        }
        // Who has said nothing yet may have in the run before this.
        if self.register.own_position() != Position::default() || !self.neighbours.is_empty() {
            let position = self.announcer.advance();
            match self.signer.leave(position, self.announcer.ttl()) {
                Ok(signed) => self.say(signed, now),
                Err(error) => {
                    tracing::warn!(%error, "cannot say goodbye; this node stays listed until its advert runs out");
                }
            }
        }
        let neighbours: Vec<_> = self.neighbours.keys().copied().collect();
        for node in neighbours {
            let push = self.register.statements_of([self.own], now);
            let digest = v1::SyncDigest { positions: self.register.digest(), push, ..Default::default() };
            let request = v1::SyncRequest { body: Some(v1::sync_request::Body::Digest(digest)) };
            self.ask(node, request, Asked::Farewell);
            self.farewells += 1;
        }
    }

    /// Neighbours that have not heard the goodbye yet.
    #[must_use]
    pub const fn farewells(&self) -> usize {
        self.farewells
    }
}
