//! What the driver holds. The files beside this one are what it does with it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::IdentTopic;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{OutboundRequestId, ResponseChannel};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, Swarm};
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot, watch};

use super::measures::Measures;
use super::tended::Tended;
use crate::capability::{Capability, PeerId};
use crate::catalog::Adverts;
use crate::catalog::register::Guard;
use crate::mesh::address::{Interfaces, Places, without_peer};
use crate::mesh::behaviour::{Behaviour, topic};
use crate::mesh::book::Book;
use crate::mesh::command::{Answerer, Command, JoinError};
use crate::mesh::connections::Connections;
use crate::mesh::epoch::Epochs;
use crate::mesh::gate::Report;
use crate::mesh::id::MeshId;
use crate::mesh::member::{Closed, Role};
use crate::mesh::reachability::Reachability;
use crate::mesh::seeds::{SeedIndex, Seeds};
use crate::mesh::settings::{RelayServer, Settings};
use crate::mesh::statement::{self, Signer};
use crate::mesh::telling::{self, Rate, Rates, Teller};
use crate::mesh::view::MeshView;
use crate::telemetry::EventBus;
use crate::wire::v1;

/// How long the greater id waits for the smaller one to dial.
pub const YIELD: Duration = Duration::from_secs(2);

/// How often the peer book is written, when it changed.
pub(super) const BOOK_INTERVAL: Duration = Duration::from_secs(30);

/// How soon when there is somebody new in it: several come together.
pub(super) const BOOK_SOON: Duration = Duration::from_secs(2);

/// Answers to others that take a while, at once.
const MAX_LATE: usize = 4;

/// Seeds that are kept.
pub const MAX_SEEDS: usize = 64;

/// Dials that one node asks for: as many as a test of all its addresses needs.
const DIAL_BACKS: Rate = Rate { burst: 16, per_second: 1 };

/// A node that mDNS found and that is not connected yet.
#[derive(Debug)]
pub struct Found {
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) dial_at: Instant,
}

/// What a request to another node was for.
#[derive(Debug)]
pub enum Asked {
    /// The teller wants to know.
    Told(telling::Asked),
    /// Whether this node can be reached there.
    Test(Multiaddr),
    /// Something that somebody else waits for.
    Question(Answerer),
    /// What it knows of the roster.
    Roster,
    /// This node's membership anew.
    Renewal,
}

/// A dial that a node asked for, to see whether it can be reached.
#[derive(Debug)]
pub struct DialBack {
    pub(super) node: PeerId,
    /// Where the answer goes.
    pub(super) channel: ResponseChannel<v1::SyncResponse>,
    pub(super) since: Instant,
}

/// An answer that took a while, and where it goes.
pub type Late = (ResponseChannel<v1::SyncResponse>, v1::SyncResponse);

/// What the driver tells the rest of the program.
pub struct Outlets {
    /// The mesh as this node sees it.
    pub view: watch::Sender<Arc<MeshView>>,
    /// All live adverts.
    pub adverts: watch::Sender<Arc<Adverts>>,
    /// What happens.
    pub events: EventBus,
    /// What is measured.
    pub measures: Measures,
}

/// What asks something of the driver.
#[derive(Debug)]
pub(super) struct Inlets {
    /// From the handles. When all are gone, so is the driver.
    pub(super) commands: mpsc::Receiver<Command>,
    /// From the gate.
    pub(super) reports: mpsc::Receiver<Report>,
    /// From the transport: where nodes are that were dialled by a name.
    pub(super) places: Places,
}

/// What a driver is given, and leaves behind for the next one when the node changes to another mesh.
pub struct Remains {
    /// From the handles. When all are gone, so is the driver.
    pub commands: mpsc::Receiver<Command>,
    /// What the driver tells the rest of the program.
    pub outlets: Outlets,
    /// This node's incarnations; the current one is the last.
    pub epochs: Epochs,
    /// What this node can do, once that was said.
    pub capabilities: Option<Arc<[Arc<Capability>]>>,
    /// How busy it is.
    pub load: u8,
}

/// What the driver keeps on disk.
#[derive(Debug)]
pub(super) struct Disk {
    /// Nodes that were connected before.
    pub(super) book: Book,
    /// This node's incarnations; the current one is the last.
    pub(super) epochs: Epochs,
}

/// The task that owns the swarm.
pub struct Driver {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) inlets: Inlets,
    pub(super) outlets: Outlets,
    pub(super) settings: Settings,
    pub(super) mesh: MeshId,
    pub(super) own: PeerId,
    pub(super) topic: IdentTopic,
    pub(super) rng: StdRng,
    pub(super) disk: Disk,
    pub(super) interfaces: Interfaces,
    pub(super) own_ips: HashSet<IpAddr>,

    pub(super) seeds: Seeds,
    pub(super) seed_dials: HashMap<ConnectionId, SeedIndex>,
    pub(super) joins: HashMap<SeedIndex, Vec<oneshot::Sender<Result<PeerId, JoinError>>>>,
    pub(super) connections: Connections,
    /// Neighbours that were hung up on because they did not listen, and when.
    pub(super) deaf: HashMap<PeerId, Instant>,
    /// Neighbours that do not take gossip, and have not been told what was said last.
    pub(super) untold: HashSet<PeerId>,
    /// Neighbours that began a new run while a connection of the run before was there, and when that was seen.
    pub(super) returned: HashMap<PeerId, Instant>,
    pub(super) found: HashMap<PeerId, Found>,
    pub(super) refused: HashMap<PeerId, Instant>,
    pub(super) reachability: Reachability,
    pub(super) relaying: bool,
    pub(super) reservations: HashMap<ListenerId, PeerId>,
    /// Nodes that this one relays for: how many reservations and circuits each has.
    pub(super) relayed_for: HashMap<PeerId, usize>,
    /// Nodes that were asked to dial this one, and when.
    pub(super) asked_to_dial: HashMap<PeerId, Instant>,
    /// Nodes that are being dialled by their circuits, too.
    pub(super) tried_circuits: HashSet<PeerId>,
    /// Connected nodes that have told where they see this one.
    pub(super) identified: HashSet<PeerId>,
    /// Addresses in the last advert.
    pub(super) told_addresses: Vec<Multiaddr>,
    pub(super) dial_backs: HashMap<ConnectionId, DialBack>,
    pub(super) dial_back_rates: Rates,
    /// Answers that take a while, on their way to those who asked.
    pub(super) late: (mpsc::Sender<Late>, mpsc::Receiver<Late>),
    /// Connections that were not admitted, the last ones.
    pub(super) turned_away: VecDeque<(Report, Instant)>,
    pub(super) started: Instant,
    pub(super) next_test: Instant,

    pub(super) teller: Teller,
    /// Requests to other nodes that are under way.
    pub(super) asked: HashMap<OutboundRequestId, Asked>,
    pub(super) clash_warned: Option<Instant>,
    /// The last sign that this node's identity is used twice.
    pub(super) clash: Option<(String, Instant)>,

    pub(super) shown_revision: u64,
    pub(super) view_changed: bool,
    pub(super) next_housekeeping: Instant,
    pub(super) next_book: Instant,
    pub(super) members: Tended,
}

/// Whose statements count in a closed mesh: members', and the capabilities of those that may offer them.
fn guard(closed: Option<&Closed>) -> Guard {
    match closed.cloned() {
        None => Guard::default(),
        Some(closed) => Guard::new(move |node, offers| closed.role_of(node).is_ok_and(|role| !offers || role.offers())),
    }
}

/// Whether to relay, as far as this node's role has a say in it.
fn relay_server(settings: &Settings) -> RelayServer {
    match settings.closed.as_ref().map(Closed::role) {
        Some(role) if !role.relays() => RelayServer::Off,
        // That is what it is there for.
        Some(Role::Relay) => RelayServer::On,
        _ => settings.relay_server,
    }
}

impl Driver {
    /// A driver of this swarm, which listens already.
    pub fn new(
        swarm: Swarm<Behaviour>,
        (reports, places): (mpsc::Receiver<Report>, Places),
        remains: Remains,
        mut book: Book,
        signer: Signer,
        mesh: MeshId,
        settings: Settings,
    ) -> Box<Self> {
        let now = Instant::now();
        let Remains { commands, outlets, epochs, capabilities, load } = remains;
        for address in settings.closed.iter().flat_map(Closed::seeds) {
            if let Some(Protocol::P2p(node)) = address.iter().last() {
                book.learn(node, &without_peer(address));
            }
        }
        let disk = Disk { book, epochs };
        let inlets = Inlets { commands, reports, places };
        let own = *swarm.local_peer_id();
        let interfaces = Interfaces::now();
        let mut seeds = Seeds::default();
        for seed in settings.seeds.iter().take(MAX_SEEDS) {
            seeds.add(seed.clone(), now);
        }
        let verify = Box::new(|mesh: &[u8; 32], wire| statement::verify(mesh, wire));
        let teller = Teller::new(signer, verify, disk.epochs.last(), settings.advert_ttl, rand::make_rng(), now)
            .guarded(guard(settings.closed.as_ref()));
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
            deaf: HashMap::new(),
            untold: HashSet::new(),
            returned: HashMap::new(),
            found: HashMap::new(),
            refused: HashMap::new(),
            reachability: Reachability::new(relay_server(&settings), &settings.external_addresses),
            relaying: false,
            reservations: HashMap::new(),
            relayed_for: HashMap::new(),
            asked_to_dial: HashMap::new(),
            tried_circuits: HashSet::new(),
            identified: HashSet::new(),
            told_addresses: Vec::new(),
            dial_backs: HashMap::new(),
            dial_back_rates: Rates::new(DIAL_BACKS),
            late: mpsc::channel(MAX_LATE),
            turned_away: VecDeque::new(),
            started: now,
            next_test: now,
            teller,
            asked: HashMap::new(),
            clash_warned: None,
            clash: None,
            shown_revision: 0,
            view_changed: true,
            next_housekeeping: now,
            next_book: now + BOOK_INTERVAL,
            members: Tended::new(now),
            disk,
            settings,
        });
        match capabilities {
            Some(capabilities) => driver.advertise(capabilities.to_vec(), load, now),
            None => driver.teller.hold(now + driver.settings.first_advert_within),
        }
        driver.check_reachability(now);
        driver
    }
}

/// The wall clock, Unix milliseconds.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
