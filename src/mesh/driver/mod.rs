//! The one task that owns the swarm.
//!
//! Its handlers are synchronous: they change the state, tell the swarm what to do, and return, so that no wait
//! for a peer can hold up another. It waits in one place only, for the next command, swarm event or point in
//! time. What others see are snapshots that it publishes after each turn.
//!
//! | file | what |
//! |---|---|
//! | `announcer` | when to tell the mesh what of this node (pure) |
//! | `rate` | token buckets by node (pure) |
//! | `dialling` | seeds, found and known nodes; what a failed dial means |
//! | `links` | connections, addresses, reachability |
//! | `statements` | gossip and sync with the register; this node's own statements |

mod announcer;
mod dialling;
mod links;
mod rate;
mod statements;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use libp2p::Swarm;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::IdentTopic;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot, watch};

use super::address::Interfaces;
use super::behaviour::{Behaviour, Event, topic};
use super::book::Book;
use super::command::{Command, JoinError};
use super::connections::Connections;
use super::epoch::Epochs;
use super::gate::Report;
use super::id::MeshId;
use super::reachability::Reachability;
use super::seeds::{SeedIndex, Seeds};
use super::settings::Settings;
use super::statement::Signer;
use super::view::MeshView;
use crate::capability::PeerId;
use crate::catalog::Adverts;
use crate::catalog::register::{BodyHash, Register};
use crate::telemetry::EventBus;

use announcer::Announcer;
use dialling::Found;
use rate::Rates;
use statements::{Asked, Fetch};

/// How often what has no point in time of its own is looked after: expiry, duplicates, redialling.
const HOUSEKEEPING: Duration = Duration::from_millis(250);

/// Turns after which the other tasks of the runtime get theirs; the swarm alone would never let go while busy.
const TURNS_PER_YIELD: u32 = 64;

/// How often the peer book is written, when it changed.
const BOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Seeds that are kept.
pub const MAX_SEEDS: usize = 64;

/// What the driver tells the rest of the program.
#[derive(Debug)]
pub struct Outlets {
    /// The mesh as this node sees it.
    pub view: watch::Sender<Arc<MeshView>>,
    /// All live adverts.
    pub adverts: watch::Sender<Arc<Adverts>>,
    /// What happens.
    pub events: EventBus,
}

/// What asks something of the driver.
#[derive(Debug)]
pub struct Inlets {
    /// From the handles. When all are gone, so is the driver.
    pub commands: mpsc::Receiver<Command>,
    /// From the gate.
    pub reports: mpsc::Receiver<Report>,
}

/// What the driver keeps on disk.
#[derive(Debug)]
pub struct Disk {
    /// Nodes that were connected before.
    pub book: Book,
    /// This node's incarnations; the current one is the last.
    pub epochs: Epochs,
}

/// The task that owns the swarm.
pub struct Driver {
    swarm: Swarm<Behaviour>,
    inlets: Inlets,
    outlets: Outlets,
    settings: Settings,
    mesh: MeshId,
    own: PeerId,
    topic: IdentTopic,
    rng: StdRng,
    disk: Disk,
    interfaces: Interfaces,
    own_ips: HashSet<IpAddr>,

    seeds: Seeds,
    seed_dials: HashMap<ConnectionId, SeedIndex>,
    joins: HashMap<SeedIndex, Vec<oneshot::Sender<Result<PeerId, JoinError>>>>,
    connections: Connections,
    found: HashMap<PeerId, Found>,
    refused: HashMap<PeerId, Instant>,
    reachability: Reachability,
    relaying: bool,
    reservations: HashMap<ListenerId, PeerId>,

    register: Register,
    signer: Signer,
    announcer: Announcer,
    alone: bool,
    gossip_rates: Rates,
    sync_rates: Rates,
    asked: HashMap<OutboundRequestId, Asked>,
    syncing: HashMap<PeerId, Instant>,
    fetches: HashMap<BodyHash, Fetch>,
    farewells: usize,
    /// The goodbye has been said: nothing is advertised any more.
    departed: bool,
    clash_warned: Option<Instant>,

    shown_revision: u64,
    view_changed: bool,
    next_housekeeping: Instant,
    next_sync: Instant,
    next_book: Instant,
}

impl Driver {
    /// A driver of this swarm, which listens already.
    pub fn new(
        swarm: Swarm<Behaviour>,
        inlets: Inlets,
        outlets: Outlets,
        disk: Disk,
        signer: Signer,
        mesh: MeshId,
        settings: Settings,
    ) -> Box<Self> {
        let now = Instant::now();
        let own = *swarm.local_peer_id();
        let interfaces = Interfaces::now();
        let mut seeds = Seeds::default();
        for seed in settings.seeds.iter().take(MAX_SEEDS) {
            seeds.add(seed.clone(), now);
        }
        let mut driver = Box::new(Self {
            swarm,
            inlets,
            outlets,
            mesh,
            own,
            topic: topic(mesh),
            rng: rand::make_rng(),
            own_ips: interfaces.addresses(),
            interfaces,
            seeds,
            seed_dials: HashMap::new(),
            joins: HashMap::new(),
            connections: Connections::new(own),
            found: HashMap::new(),
            refused: HashMap::new(),
            reachability: Reachability::new(settings.relay_server, &settings.external_addresses),
            relaying: false,
            reservations: HashMap::new(),
            register: Register::new(own),
            signer,
            announcer: Announcer::new(disk.epochs.last(), settings.advert_ttl, now),
            alone: true,
            gossip_rates: statements::gossip_rates(),
            sync_rates: statements::sync_rates(),
            asked: HashMap::new(),
            syncing: HashMap::new(),
            fetches: HashMap::new(),
            farewells: 0,
            departed: false,
            clash_warned: None,
            shown_revision: 0,
            view_changed: true,
            next_housekeeping: now,
            next_sync: now + statements::SYNC_INTERVAL,
            next_book: now + BOOK_INTERVAL,
            disk,
            settings,
        });
        driver.check_relaying(now);
        driver
    }

    /// Runs until the node leaves or all handles are gone.
    pub async fn run(mut self: Box<Self>) {
        let mut turn: u32 = 0;
        loop {
            self.on_time(Instant::now());
            self.publish();
            let wake = tokio::time::Instant::from_std(self.next_wake());
            tokio::select! {
                biased;
                command = self.inlets.commands.recv() => match command {
                    Some(Command::Leave { reply }) => {
                        self.leave().await;
                        // Whoever asked may have stopped waiting.
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.on_command(command, Instant::now()),
                    None => return,
                },
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

    fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Advertise { capabilities, load } => self.announcer.set(capabilities, load, now),
            Command::Join { seed, reply } => self.join(seed, reply, now),
            Command::SayGoodbye => self.say_goodbye(now),
            // Taken out by the loop, because it ends it.
            Command::Leave { .. } => {}
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<Event>, now: Instant) {
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
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_external(address, now),
            SwarmEvent::ExternalAddrExpired { address } => self.on_external_no_more(&address, now),
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Gossip(event) => self.on_gossip(*event, now),
            Event::Sync(event) => self.on_sync(*event, now),
            Event::Ping(event) => self.on_ping(&event),
            Event::Identify(event) => self.on_identify(*event),
            Event::Mdns(event) => self.on_mdns(event, now),
            Event::RelayClient(event) => tracing::debug!(?event, "relay client"),
            Event::RelayServer(event) => tracing::debug!(?event, "relay server"),
            Event::Dcutr(event) => tracing::debug!(?event, "hole punch"),
            Event::AutonatClient(event) => tracing::debug!(?event, "reachability test"),
            Event::AutonatServer(event) => tracing::debug!(?event, "reachability test for another"),
            Event::Upnp(event) => tracing::debug!(?event, "router"),
            Event::Kad(event) => tracing::trace!(?event, "kad"),
        }
    }

    /// What is due by now.
    fn on_time(&mut self, now: Instant) {
        for dial in self.seeds.due(now) {
            self.dial_seed(dial, now);
        }
        if !self.departed && self.announcer.advert_due().is_some_and(|due| due <= now) {
            self.announce(now);
        }
        if !self.departed && self.announcer.beat_due().is_some_and(|due| due <= now) {
            self.beat(now);
        }
        if self.next_sync <= now {
            self.sync_with_somebody(now);
        }
        if self.next_housekeeping <= now {
            self.next_housekeeping = now + HOUSEKEEPING;
            // What ran out is told by `publish`, from what was shown before.
            self.register.expire(now);
            self.close_duplicates(now);
            self.dial_found(now);
            self.dial_known(now);
            self.reserve(now);
            self.fetch_missing(now);
        }
        if self.next_book <= now {
            self.next_book = now + BOOK_INTERVAL;
            self.save_book();
        }
    }

    fn next_wake(&self) -> Instant {
        let own = if self.departed { [None; 2] } else { [self.announcer.advert_due(), self.announcer.beat_due()] };
        own.into_iter()
            .chain([self.seeds.next_due()])
            .flatten()
            .fold(self.next_housekeeping.min(self.next_sync), Instant::min)
    }

    /// Shows what changed in this turn.
    fn publish(&mut self) {
        if self.register.revision() != self.shown_revision {
            self.shown_revision = self.register.revision();
            let adverts = self.register.adverts();
            let before = self.outlets.adverts.send_replace(Arc::clone(&adverts));
            self.tell_who_came_and_went(&before, &adverts);
        }
        if std::mem::take(&mut self.view_changed) {
            self.outlets.view.send_replace(Arc::new(self.view()));
        }
    }

    fn view(&self) -> MeshView {
        MeshView {
            mesh_id: self.mesh.to_hex(),
            mesh_name: self.settings.mesh_name.clone(),
            node: self.own,
            listening: self.swarm.listeners().map(ToString::to_string).collect(),
            peers: self.connections.views(),
            seeds: self.seeds.views(),
        }
    }

    fn tell_who_came_and_went(&mut self, before: &Adverts, after: &Adverts) {
        for (node, advert) in after.iter().filter(|(node, _)| **node != self.own && !before.contains_key(*node)) {
            tracing::info!(%node, name = %advert.name, "node joined");
            self.outlets.events.emit(
                "node.joined",
                || serde_json::json!({ "node": node.to_base58(), "name": advert.name, "version": advert.version }),
            );
            if self.own > *node {
                // The smaller id dials, so that the two do not meet half way.
                self.connections.hold(*node, Instant::now() + dialling::YIELD);
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

/// The wall clock, Unix milliseconds.
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
