//! A node that does what a test tells it to, behind a real API.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{JoinError, Phase, ProviderStatus, Service, Serving, Settings, serve};
use crate::capability::{
    Advert, Capability, ErrorClass, Failure, Intent, Kind, Operation, OperationSet, Origin, PeerId,
};
use crate::catalog::{Catalog, Snapshot};
use crate::dispatch::{DispatchError, Reply, ReplyBody};
use crate::mesh::{
    Closed, Code, Denied, EntryError, Examination, Identity, InviteOptions, Invited, LinkTransport, MemberError,
    MemberView, MeshView, Neighbour, PairView, PathClass, PeerView, Revoked, Role, Seed,
};
use crate::router::{Attempt, Candidate, Decision, Logged, NoRoute, Outcome, Parts, Step};
use crate::telemetry::{EventBus, Metrics};

/// The longest that a test waits for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

type Behaviour = Box<dyn Fn(Intent) -> BoxFuture<'static, Result<Reply, DispatchError>> + Send + Sync>;

/// A node that does what a test tells it to.
pub(super) struct ScriptedNode {
    behaviour: Behaviour,
    pub(super) intents: Mutex<Vec<Intent>>,
    catalog: Catalog,
    view: Arc<MeshView>,
    pub(super) phase: Mutex<Phase>,
    pub(super) revoked: Mutex<Vec<PeerId>>,
    closed: Closed,
    logged: Vec<Logged>,
    pub(super) events: EventBus,
}

/// A capability as a test needs it.
pub(super) fn capability(name: &str, kind: Kind, operations: &[Operation]) -> Capability {
    Capability { operations: OperationSet::of(operations), ..Capability::new("ollama", kind, name) }
}

fn advert(node: PeerId, name: &str, capabilities: Vec<Capability>) -> Arc<Advert> {
    Arc::new(Advert {
        node,
        epoch: 1,
        seq: 1,
        ttl: Duration::from_secs(60),
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        addresses: vec!["/ip4/10.0.0.7/udp/11450/quic-v1".to_owned()],
        capabilities: capabilities.into_iter().map(Arc::new).collect(),
        load: 1,
        relay: false,
    })
}

/// Some node's id.
pub(super) fn peer(number: u8) -> PeerId {
    // An identity multihash: code 0, the length, the bytes.
    let mut bytes = vec![0, 34];
    bytes.extend([number; 34]);
    PeerId::from_bytes(&bytes).expect("an identity multihash is a peer id")
}

/// The decision of every scripted answer.
pub(super) fn decision() -> Decision {
    Decision {
        id: "d-1".to_owned(),
        target: "llama3.2".to_owned(),
        reason: "warm on gpu — nearest".to_owned(),
        taken: None,
        doubtful: false,
        second: None,
        abstained: false,
        step: Step::Model,
        weights: None,
        candidates: vec![candidate()],
        candidates_total: 1,
        rejected: Vec::new(),
        rejected_total: 0,
        no_route: None,
        elapsed: Duration::from_micros(42),
    }
}

pub(super) fn candidate() -> Candidate {
    Candidate {
        node: peer(2),
        node_name: "gpu".into(),
        capability: Arc::new(capability("llama3.2", Kind::LLM_CHAT, &[Operation::Chat])),
        score: 0.9,
        predicted: Duration::from_millis(250),
        parts: Parts::default(),
    }
}

/// An answer with this body.
pub(super) fn reply(content_type: &str, body: ReplyBody) -> Reply {
    Reply {
        decision: Arc::new(decision()),
        served: candidate(),
        attempts: 1,
        content_type: content_type.to_owned(),
        origin: Origin::Made,
        body,
    }
}

/// An answer in these pieces.
#[allow(clippy::result_large_err, reason = "that is what the pieces of a reply are")]
pub(super) fn pieces(content_type: &str, pieces: Vec<Result<&'static str, Failure>>) -> Reply {
    let pieces = pieces.into_iter().map(|piece| piece.map(Bytes::from));
    reply(content_type, futures::stream::iter(pieces.collect::<Vec<_>>()).boxed())
}

/// A failed dispatch.
pub(super) fn failure(attempts: u32, failure: Failure) -> DispatchError {
    DispatchError { decision: Arc::new(decision()), attempts, failure }
}

/// A dispatch for which there was nobody.
pub(super) fn no_route(no_route: NoRoute) -> DispatchError {
    let failure = Failure::new(ErrorClass::Unavailable, no_route.to_string());
    let decision = Decision { candidates: Vec::new(), no_route: Some(no_route), ..decision() };
    DispatchError { decision: Arc::new(decision), attempts: 0, failure }
}

impl Service for ScriptedNode {
    fn node_name(&self) -> Arc<str> {
        "laptop".into()
    }

    fn dispatch(&self, intent: Intent) -> BoxFuture<'static, Result<Reply, DispatchError>> {
        self.intents.lock().push(intent.clone());
        (self.behaviour)(intent)
    }

    fn route(&self, intent: &Intent) -> Decision {
        self.intents.lock().push(intent.clone());
        decision()
    }

    fn consider(&self, intent: Intent) -> BoxFuture<'static, Decision> {
        futures::future::ready(self.route(&intent)).boxed()
    }

    fn decisions(&self, count: usize) -> Vec<Logged> {
        self.logged.iter().take(count).cloned().collect()
    }

    fn decision(&self, id: &str) -> Option<Logged> {
        self.logged.iter().find(|logged| logged.decision.id == id).cloned()
    }

    fn events(&self) -> EventBus {
        self.events.clone()
    }

    fn catalog(&self) -> Arc<Snapshot> {
        self.catalog.snapshot()
    }

    fn mesh(&self) -> Arc<MeshView> {
        Arc::clone(&self.view)
    }

    fn join(&self, address: &str) -> BoxFuture<'static, Result<PeerId, JoinError>> {
        let joined = match address {
            "10.0.0.7:11450" => Ok(peer(2)),
            "10.0.0.8:11450" => Err(JoinError::Unreachable("nobody there".to_owned())),
            _ => Err(JoinError::BadAddress("no address".to_owned())),
        };
        futures::future::ready(joined).boxed()
    }

    fn examine(&self, only: Option<PeerId>) -> BoxFuture<'static, Examination> {
        let near = self.view.peers.iter().filter(move |(node, _)| only.is_none_or(|only| only == **node));
        let neighbour = |(node, view): (&PeerId, &PeerView)| Neighbour {
            node: *node,
            view: view.clone(),
            clock_ahead_ms: Ok(2),
            reach: None,
            multicast: None,
        };
        let neighbours = near.map(neighbour).collect();
        futures::future::ready(Examination { neighbours, ..Examination::default() }).boxed()
    }

    fn gossip_port(&self) -> Option<u16> {
        Some(11450)
    }

    fn members(&self) -> Option<Vec<MemberView>> {
        let member = |number, role, denied| MemberView {
            node: peer(number),
            name: None,
            role,
            denied,
            issued_ms: 1_700_000_000_000,
            expires_ms: 1_800_000_000_000,
            issuer: None,
            revoked_ms: None,
            reason: None,
        };
        Some(vec![member(1, Role::Admin, None), member(2, Role::Member, Some(Denied::Revoked))])
    }

    fn invite(&self, options: InviteOptions) -> BoxFuture<'static, Result<Invited, MemberError>> {
        let made = Closed::create(None, &Identity::generate(), "home")
            .and_then(|closed| closed.invite(options, vec!["/ip4/10.0.0.7/tcp/11450".parse().expect("an address")]));
        futures::future::ready(made).boxed()
    }

    fn revoke(&self, node: PeerId, _: String, _: bool) -> BoxFuture<'static, Result<Revoked, MemberError>> {
        self.revoked.lock().push(node);
        futures::future::ready(Ok(Revoked::default())).boxed()
    }

    fn create_mesh(&self, _: String) -> BoxFuture<'static, Result<(), EntryError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn offer_pairing(&self, role: Role, life: Duration) -> Result<PairView, MemberError> {
        Ok(self.closed.desk().offer(role, life, "laptop".to_owned()))
    }

    fn join_nearby(&self, _: Code, _: Vec<Seed>) -> Result<PairView, EntryError> {
        Err(EntryError::Elsewhere("home".to_owned()))
    }

    fn pairing(&self, id: &str, _: u64, _: Duration) -> BoxFuture<'static, Option<PairView>> {
        futures::future::ready(self.closed.desk().view(id)).boxed()
    }

    fn answer_pairing(&self, id: &str, yes: bool) -> BoxFuture<'static, Result<Option<PairView>, MemberError>> {
        let known = self.closed.desk().answer(id, yes).is_some();
        futures::future::ready(Ok(known.then(|| self.closed.desk().view(id)).flatten())).boxed()
    }

    fn leave_mesh(&self) -> BoxFuture<'static, Result<Vec<PathBuf>, EntryError>> {
        futures::future::ready(Err(EntryError::Member(MemberError::Open))).boxed()
    }

    fn providers(&self) -> Vec<ProviderStatus> {
        vec![ProviderStatus {
            id: "ollama".to_owned(),
            kind: "ollama".to_owned(),
            url: Some("http://127.0.0.1:11434".to_owned()),
            up: true,
            error: None,
            capabilities: 2,
        }]
    }

    fn aliases(&self) -> Vec<String> {
        vec!["best-chat".to_owned()]
    }

    fn phase(&self) -> Phase {
        *self.phase.lock()
    }
}

/// A running API; it stops when it is dropped.
pub(super) struct Api {
    pub(super) node: Arc<ScriptedNode>,
    pub(super) address: SocketAddr,
    /// The port of Ollama's clients.
    pub(super) ollama: SocketAddr,
    pub(super) shutdown: CancellationToken,
    pub(super) client: reqwest::Client,
    pub(super) running: JoinHandle<()>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Api {
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) async fn get(&self, path: &str) -> (u16, serde_json::Value) {
        let response = self.client.get(self.url(path)).send().await.expect("an answer");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }

    pub(super) async fn post(&self, path: &str, body: &serde_json::Value) -> reqwest::Response {
        self.client.post(self.url(path)).json(body).send().await.expect("an answer")
    }

    pub(super) async fn metrics(&self) -> String {
        self.client.get(self.url("/metrics")).send().await.expect("an answer").text().await.expect("text")
    }
}

/// Settings for tests: loopback, a free port.
pub(super) fn settings() -> Settings {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Settings { bind: vec![free], ollama: Some(free), ..Settings::default() }
}

/// An API whose node answers every request this way.
pub(super) async fn api<F>(settings: Settings, behaviour: F) -> Api
where
    F: Fn(Intent) -> BoxFuture<'static, Result<Reply, DispatchError>> + Send + Sync + 'static,
{
    let node = Arc::new(scripted_node(Box::new(behaviour)));
    let shutdown = CancellationToken::new();
    let service: Arc<dyn Service> = Arc::clone(&node) as _;
    let Serving { addresses, ollama, done } =
        serve(settings, service, Metrics::default(), shutdown.clone()).await.expect("a free port");
    let ollama = ollama.unwrap_or(addresses[0]);
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    Api { node, address: addresses[0], ollama, shutdown, client, running: tokio::spawn(done) }
}

/// An API whose node answers nothing but lists.
pub(super) async fn silent_api(settings: Settings) -> Api {
    api(settings, |_| futures::future::pending().boxed()).await
}

fn scripted_node(behaviour: Behaviour) -> ScriptedNode {
    let catalog = Catalog::new(None);
    let embedder = capability("nomic-embed", Kind::LLM_EMBED, &[Operation::Embed]);
    let camera = capability("porch", "tool/camera".parse().expect("a kind"), &[Operation::Tool]);
    let mut chat = capability("llama3.2:latest", Kind::LLM_CHAT, &[Operation::Chat, Operation::Complete]);
    chat.context_length = Some(8192);
    let mut project = capability("qwen/coder:7b@q4", Kind::LLM_CODE, &[Operation::Chat]);
    project.project = Some("zoo/camelids".to_owned());
    project.domain = Some("animals".to_owned());
    catalog.update(&BTreeMap::from([
        (peer(1), advert(peer(1), "laptop", vec![chat.clone(), embedder])),
        (peer(2), advert(peer(2), "gpu", vec![Capability { context_length: Some(4096), ..chat }, project, camera])),
    ]));
    let gpu = PeerView {
        path: PathClass::Lan,
        transport: LinkTransport::Quic,
        rtt: Some(Duration::from_micros(1500)),
        address: "/ip4/10.0.0.7/udp/11450/quic-v1".to_owned(),
        connections: 1,
    };
    let view = MeshView {
        mesh_id: "ab".repeat(32),
        mesh_name: "home".to_owned(),
        membership: None,
        node: peer(1),
        listening: vec!["/ip4/10.0.0.1/udp/11450/quic-v1".to_owned()],
        // The third is connected, and has told nothing yet.
        peers: BTreeMap::from([(peer(2), gpu.clone()), (peer(3), gpu)]),
        seeds: Vec::new(),
    };
    ScriptedNode {
        behaviour,
        intents: Mutex::new(Vec::new()),
        catalog,
        view: Arc::new(view),
        phase: Mutex::new(Phase::Ready),
        revoked: Mutex::default(),
        events: EventBus::default(),
        closed: Closed::create(None, &Identity::generate(), "home").expect("a mesh"),
        logged: vec![Logged {
            decision: Arc::new(decision()),
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
            request_id: "r-1".to_owned(),
            attempts: vec![Attempt {
                role: crate::router::Role::First,
                node: peer(2),
                node_name: "gpu".into(),
                model: "llama3.2".to_owned(),
                result: "ok".to_owned(),
                elapsed: Duration::from_micros(3500),
            }],
            outcome: Outcome::Served,
        }],
    }
}

/// Counts what is dropped.
#[derive(Clone, Default)]
pub(super) struct Drops(Arc<AtomicUsize>);

/// Counts when it is dropped.
pub(super) struct Dropped(Drops);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drops {
    pub(super) fn guard(&self) -> Dropped {
        Dropped(self.clone())
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Waits until this holds.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < limit, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A chat, streamed or not.
pub(super) fn a_chat(stream: bool) -> serde_json::Value {
    serde_json::json!({"model": "llama3.2", "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
}
