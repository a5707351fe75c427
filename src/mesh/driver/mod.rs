//! The one task that owns the swarm.
//!
//! Its handlers are synchronous: they change the state, tell the swarm what to do, and return, so that no wait
//! for a peer can hold up another. It waits in one place only, for the next command, swarm event or point in
//! time. What others see are snapshots that it publishes after each turn.
//!
//! | file | what |
//! |---|---|
//! | `state` | what the driver holds |
//! | `dialling` | seeds, found and known nodes; what a failed dial means |
//! | `links` | connections as they come and go |
//! | `reaching` | this node's addresses, whether the internet reaches it, its relays |
//! | `examining` | this node's situation, and questions that somebody waits for |
//! | `dial_back` | dialling a node because it asks whether it can be reached |
//! | `neighbours` | connections that are of no use: silent, deaf, or one too many |
//! | `measures` | metrics |
//! | `members`, `tended` | the roster of a closed mesh, and what follows from it |
//! | `statements` | the hands of the teller (`telling`): gossip and sync |

mod dial_back;
mod dialling;
mod examining;
mod links;
mod measures;
mod members;
mod neighbours;
mod reaching;
mod state;
mod statements;
mod tended;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use libp2p::swarm::SwarmEvent;

use super::behaviour::Event;
use super::command::{Change, Command};
use super::member::Closed;
use super::view::MeshView;
use crate::catalog::Adverts;

pub use measures::Measures;
use state::{BOOK_INTERVAL, YIELD};
pub use state::{Driver, MAX_SEEDS, Outlets, Remains};

/// How often what has no point in time of its own is looked after: expiry, duplicates, redialling.
const HOUSEKEEPING: Duration = Duration::from_millis(250);

/// Turns after which the other tasks of the runtime get theirs; the swarm alone would never let go while busy.
const TURNS_PER_YIELD: u32 = 64;

impl Driver {
    /// Runs until the node leaves or all handles are gone; or until it changes to another mesh, and then returns to which,
    /// and what the next driver goes on with.
    pub async fn run(mut self: Box<Self>) -> Option<(Change, Remains)> {
        let mut turn: u32 = 0;
        loop {
            self.on_time(Instant::now());
            // What ran out is told by it too, from what was shown before.
            self.publish();
            let wake = tokio::time::Instant::from_std(self.next_wake());
            tokio::select! {
                biased;
                command = self.inlets.commands.recv() => match command {
                    Some(Command::Leave { reply }) => {
                        self.leave().await;
                        // Whoever asked may have stopped waiting.
                        let _ = reply.send(());
                        return None;
                    }
                    Some(Command::Change(change)) => {
                        self.leave().await;
                        return Some((change, self.remains()));
                    }
                    Some(command) => self.on_command(command, Instant::now()),
                    None => return None,
                },
                Some(answer) = self.late.1.recv() => self.heard_multicast(answer),
                Some(report) = self.inlets.reports.recv() => self.on_report(report, Instant::now()),
                event = self.swarm.select_next_some() => self.on_swarm_event(event, Instant::now()),
                () = tokio::time::sleep_until(wake) => {}
            }
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(TURNS_PER_YIELD) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// What the next driver goes on with; it begins a new incarnation.
    fn remains(self: Box<Self>) -> Remains {
        let mut this = *self;
        this.disk.epochs.next(0, SystemTime::now());
        let keep = this.disk.epochs.unsaved();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = keep() {
                tracing::warn!(%error, "cannot keep this node's epoch");
            }
        });
        Remains {
            commands: this.inlets.commands,
            outlets: this.outlets,
            epochs: this.disk.epochs,
            capabilities: this.members.capabilities.take(),
            load: this.teller.load(),
        }
    }

    fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Advertise { capabilities, load } => self.advertise(capabilities, load, now),
            // The asker may have stopped waiting.
            Command::Addresses { reply } => drop(reply.send(self.own_addresses())),
            Command::Renewed => self.membership_renewed(now),
            Command::Join { seed, reply } => self.join(seed, reply, now),
            Command::Ask { node, request, reply } => self.ask_for(node, request, reply, now),
            Command::Describe { reply } => {
                // The asker may have stopped waiting.
                let _ = reply.send(self.situation(now));
            }
            Command::SayGoodbye => self.say_goodbye(now),
            #[cfg(test)]
            Command::Panic => panic!("a fault of the driver, for a test"),
            // Taken out by the loop, because it ends it.
            Command::Leave { .. } | Command::Change(_) => {}
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<Event>, now: Instant) {
        self.outlets.measures.record(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event, now),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint, now);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                tracing::debug!(node = %peer_id, cause = ?cause, "connection closed");
                self.on_closed(peer_id, connection_id, now);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error, now);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(from = %send_back_addr, %error, "inbound connection failed");
            }
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(address, now),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_listening_no_more(&address, now),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => self.on_listener_closed(listener_id, reason, now),
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "listener"),
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_external(&address, now),
            SwarmEvent::ExternalAddrExpired { .. } => self.on_external_no_more(now),
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Gossip(event) => self.on_gossip(*event, now),
            Event::Sync(event) => self.on_sync(*event, now),
            Event::Ping(event) => self.on_ping(&event, now),
            Event::Identify(event) => self.on_identify(*event, now),
            Event::Mdns(event) => self.on_mdns(event, now),
            Event::RelayClient(event) => self.on_relay_client(&event, now),
            Event::RelayServer(event) => self.on_relay_server(&event),
            Event::Dcutr(event) => tracing::debug!(?event, "hole punch"),
            Event::AutonatClient(event) => self.on_autonat(&event, now),
            Event::AutonatServer(event) => tracing::debug!(?event, "reachability test for another"),
            Event::Upnp(event) => self.on_upnp(&event, now),
            Event::Kad(event) => tracing::trace!(?event, "kad"),
        }
    }

    /// What is due by now.
    fn on_time(&mut self, now: Instant) {
        if self.may_dial_seeds(now) {
            for dial in self.seeds.due(now) {
                self.dial_seed(dial, now);
            }
        }
        if self.teller.advert_is_due(now) {
            self.announce(now);
        }
        if self.next_housekeeping <= now || self.teller.next_due().is_some_and(|due| due <= now) {
            self.teller.tick(now);
        }
        if self.next_housekeeping <= now {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.close_duplicates(now);
            self.close_silent(now);
            self.tell_untold(now);
            self.close_returned(now);
            self.close_deaf(now);
            self.tend_members(now);
            self.close_surplus(now);
            self.dial_found(now);
            self.dial_known(now);
            self.dial_anew(now);
            self.check_reachability(now);
            self.reserve(now);
            self.test_addresses(now);
            self.end_dial_backs(now);
        }
        if self.next_book <= now {
            self.next_book = now + BOOK_INTERVAL;
            self.save_book();
        }
        self.perform(now);
    }

    fn next_wake(&self) -> Instant {
        // Until seeds may be dialled, the next housekeeping is soon enough.
        let seeds = self.may_dial_seeds(Instant::now()).then(|| self.seeds.next_due()).flatten();
        [self.teller.next_due(), seeds].into_iter().flatten().fold(self.next_housekeeping, Instant::min)
    }

    /// Shows what changed in this turn.
    fn publish(&mut self) {
        if self.teller.register().revision() != self.shown_revision {
            self.shown_revision = self.teller.register().revision();
            let adverts = self.teller.register().adverts();
            self.outlets.measures.adverts(adverts.len());
            let before = self.outlets.adverts.send_replace(Arc::clone(&adverts));
            self.tell_who_came_and_went(&before, &adverts);
        }
        if std::mem::take(&mut self.view_changed) {
            self.outlets.measures.connections(self.connections.kinds());
            self.outlets.measures.seeds(self.seeds.connected_count());
            self.outlets.view.send_replace(Arc::new(self.view()));
        }
    }

    fn view(&self) -> MeshView {
        MeshView {
            mesh_id: self.mesh.to_hex(),
            mesh_name: self.settings.mesh_name.clone(),
            membership: self.settings.closed.as_ref().map(Closed::own),
            node: self.own,
            listening: self.swarm.listeners().map(ToString::to_string).collect(),
            // A node that is gone is in no list, although its connection may take a while to be known as dead.
            peers: self
                .connections
                .views()
                .into_iter()
                .filter(|(node, _)| !self.teller.register().is_gone(node))
                .collect(),
            seeds: self.seeds.views(),
        }
    }

    fn tell_who_came_and_went(&mut self, before: &Adverts, after: &Adverts) {
        self.view_changed |= before.len() != after.len() || before.keys().ne(after.keys());
        for (node, advert) in after.iter().filter(|(node, _)| **node != self.own && !before.contains_key(*node)) {
            tracing::info!(%node, name = %advert.name, "node joined");
            if let Some(closed) = &self.settings.closed {
                closed.heard(node, &advert.name);
            }
            self.outlets.events.emit(
                "node.joined",
                || serde_json::json!({ "node": node.to_base58(), "name": advert.name, "version": advert.version }),
            );
            if self.own > *node {
                // The smaller id dials, so that the two do not meet half way.
                self.connections.hold(*node, Instant::now() + YIELD);
            }
        }
        for (node, advert) in before.iter().filter(|(node, _)| **node != self.own && !after.contains_key(*node)) {
            tracing::info!(%node, name = %advert.name, "node left");
            self.outlets
                .events
                .emit("node.left", || serde_json::json!({ "node": node.to_base58(), "name": advert.name }));
        }
    }

    fn save_book(&mut self) {
        if let Some(unsaved) = self.disk.book.take_unsaved(self.mesh.as_bytes()) {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = unsaved.write() {
                    tracing::warn!(%error, "cannot write the peer book; a restart will need a seed");
                }
            });
        }
    }
}
