//! The nodes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use atmosphere::capability::{Capability, Kind, PeerId};
use atmosphere::mesh::{self, Handle, Identity, InboundCall, Seed, Settings};
use atmosphere::telemetry::{EventBus, Metrics};
use rand::RngExt as _;
use tokio::sync::{broadcast, mpsc};

/// Between two starts.
const STAGGER: Duration = Duration::from_millis(10);
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a change may take to be everywhere at the very most.
const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    handle: Handle,
    metrics: Metrics,
    left: broadcast::Receiver<atmosphere::telemetry::Event>,
    _calls: mpsc::Receiver<InboundCall>,
}

/// All nodes, each seeded with the first.
pub struct Mesh(Vec<Node>);

fn model(name: &str) -> Vec<Arc<Capability>> {
    let mut capability = Capability::new("hundred", Kind::LLM_CHAT, name);
    capability.description = "A general model for conversation, summaries and simple questions.".to_owned();
    vec![Arc::new(capability)]
}

impl Mesh {
    /// Starts them one after the other; the time is that of the last.
    pub async fn start(count: usize, network: bool) -> anyhow::Result<(Self, Instant)> {
        let mut nodes: Vec<Node> = Vec::with_capacity(count);
        let mut seed: Option<Seed> = None;
        let mut last = Instant::now();
        for number in 0..count {
            let address = format!("/memory/{}", 1_000_000 + number);
            let settings = Settings {
                node_name: format!("node-{number}"),
                gossip_port: network.then_some(0),
                bind: vec![Ipv4Addr::LOCALHOST.into()],
                listen: if network { Vec::new() } else { vec![address.parse()?] },
                seeds: seed.clone().into_iter().collect(),
                mdns: false,
                upnp: false,
                runtime: Some(tokio::runtime::Handle::current()),
                ..Settings::default()
            };
            let (events, metrics) = (EventBus::default(), Metrics::default());
            let left = events.subscribe();
            last = Instant::now();
            let (handle, calls) = mesh::start(settings, Identity::generate(), events, &metrics)?;
            if seed.is_none() {
                let own = if network { format!("127.0.0.1:{}", handle.port().context("a port")?) } else { address };
                seed = Some(own.parse()?);
            }
            handle.advertise(model(&format!("model-of-{number}")), 0).await;
            nodes.push(Node { handle, metrics, left, _calls: calls });
            tokio::time::sleep(STAGGER).await;
        }
        Ok((Self(nodes), last))
    }

    /// Waits until every node sees every advert with its model; returns when that was.
    pub async fn all_know_all(&self, limit: Duration) -> anyhow::Result<Instant> {
        let count = self.0.len();
        for node in &self.0 {
            let mut adverts = node.handle.adverts();
            let whole = adverts.wait_for(|adverts| {
                adverts.len() == count && adverts.values().all(|advert| !advert.capabilities.is_empty())
            });
            tokio::time::timeout(limit, whole).await.with_context(|| {
                let view = node.handle.view();
                format!(
                    "{} sees {} of {count}, {} connected",
                    view.node,
                    node.handle.adverts().borrow().len(),
                    view.peers.len()
                )
            })??;
        }
        Ok(Instant::now())
    }

    /// Changes adverts of random nodes; returns how long each took to be everywhere.
    pub async fn changes(&self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let mut rng: rand::rngs::StdRng = rand::make_rng();
        let mut under_way = Vec::new();
        for number in 0..count {
            let name = format!("change-{number}");
            let node = &self.0[rng.random_range(0..self.0.len())].handle;
            let (id, began) = (node.node(), Instant::now());
            let watchers: Vec<_> =
                self.0.iter().map(|node| tokio::spawn(sees(node.handle.clone(), id, number))).collect();
            node.advertise(model(&name), 0).await;
            under_way.push(tokio::spawn(async move {
                for watcher in watchers {
                    watcher.await??;
                }
                anyhow::Ok(began.elapsed())
            }));
            tokio::time::sleep(PAUSE).await;
        }
        let mut times = Vec::new();
        for change in under_way {
            times.push(tokio::time::timeout(PATIENCE, change).await.context("a change is not everywhere")???);
        }
        Ok(times)
    }

    /// What all nodes have sent within their connections.
    pub fn payload_bytes(&self) -> u64 {
        let sent = |node: &Node| -> u64 {
            let text = node.metrics.encode();
            let lines = text.lines().filter(|line| {
                line.starts_with("atmosphere_libp2p_bandwidth_bytes_total{") && line.contains("Outbound")
            });
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        self.0.iter().map(sent).sum()
    }

    /// The sums of what all nodes have counted, but for buckets.
    pub fn counted(&self) -> String {
        let mut sums = std::collections::BTreeMap::<String, f64>::new();
        for node in &self.0 {
            for line in node.metrics.encode().lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket"))
            {
                if let Some((name, Ok(value))) = line.rsplit_once(' ').map(|(name, value)| (name, value.parse::<f64>()))
                {
                    *sums.entry(name.to_owned()).or_default() += value;
                }
            }
        }
        let lines = sums.into_iter().filter(|(_, sum)| *sum != 0.0).map(|(name, sum)| format!("  {name} {sum}\n"));
        lines.collect()
    }

    /// Fewest, average and most neighbours of a node.
    pub fn connections(&self) -> (usize, f64, usize) {
        let counts: Vec<usize> = self.0.iter().map(|node| node.handle.view().peers.len()).collect();
        let sum = u32::try_from(counts.iter().sum::<usize>()).unwrap_or(u32::MAX);
        let average = f64::from(sum) / f64::from(u32::try_from(counts.len()).unwrap_or(1));
        (counts.iter().copied().min().unwrap_or(0), average, counts.iter().copied().max().unwrap_or(0))
    }

    /// How often a node told that another one had gone, which never happened.
    pub fn lost(mut self) -> usize {
        let mut count = 0;
        for node in &mut self.0 {
            loop {
                match node.left.try_recv() {
                    Ok(event) => count += usize::from(event.kind == "node.left"),
                    // The oldest are forgotten when there are many.
                    Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                    Err(_) => break,
                }
            }
        }
        count
    }
}

/// Waits until a node sees this change, or a later one of the same node.
async fn sees(node: Handle, of: PeerId, change: usize) -> anyhow::Result<()> {
    let number = |name: &str| name.strip_prefix("change-").and_then(|number| number.parse::<usize>().ok());
    let mut adverts = node.adverts();
    let seen = adverts.wait_for(|adverts| {
        adverts
            .get(&of)
            .is_some_and(|advert| advert.capabilities.iter().any(|c| number(&c.name).is_some_and(|n| n >= change)))
    });
    tokio::time::timeout(PATIENCE, seen).await.context("it is not seen")??;
    Ok(())
}
