//! What all providers of this node offer at the moment: written by those who discover, read without waiting.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use super::Provider;
use super::trim::trim;
use crate::capability::{Capability, CapabilityId};
use crate::telemetry::EventBus;

/// How one provider is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProviderStatus {
    /// Its name on this node; its URL until it is known what it is.
    pub id: String,
    /// What it is, such as `ollama`; `unknown` until it has answered.
    pub kind: String,
    /// Where it is, without secrets; empty for the built-in engine.
    pub url: String,
    /// Whether it answers.
    pub up: bool,
    /// Why not.
    pub error: Option<String>,
    /// How many capabilities it offers.
    pub capabilities: usize,
    /// Whether other nodes may use it.
    pub shared: bool,
    /// Whether it has been asked at all yet.
    pub checked: bool,
}

/// Who serves a capability.
#[derive(Clone)]
pub struct Resolved {
    /// The provider to call.
    pub provider: Arc<dyn Provider>,
    /// What it offers.
    pub capability: Arc<Capability>,
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolved")
            .field("provider", &self.provider.id())
            .field("capability", &self.capability.id)
            .finish()
    }
}

/// Names a provider's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotId(usize);

struct Slot {
    status: ProviderStatus,
    provider: Option<Arc<dyn Provider>>,
    capabilities: Vec<Arc<Capability>>,
    notes: Vec<String>,
}

/// What all providers offer.
pub(crate) struct Table {
    slots: Mutex<Vec<Slot>>,
    by_id: ArcSwap<HashMap<CapabilityId, Resolved>>,
    capabilities: watch::Sender<Arc<Vec<Capability>>>,
    changes: watch::Sender<u64>,
    events: EventBus,
}

impl Table {
    pub(crate) fn new(events: EventBus) -> Self {
        Self {
            slots: Mutex::default(),
            by_id: ArcSwap::default(),
            capabilities: watch::Sender::default(),
            changes: watch::Sender::default(),
            events,
        }
    }

    /// A place for one more provider, of which nothing but `id` and `url` is known.
    pub(crate) fn add(&self, id: &str, kind: &str, url: &str, shared: bool) -> SlotId {
        let mut slots = self.slots.lock();
        let status = ProviderStatus {
            id: id.to_owned(),
            kind: kind.to_owned(),
            url: url.to_owned(),
            up: false,
            error: None,
            capabilities: 0,
            shared,
            checked: false,
        };
        slots.push(Slot { status, provider: None, capabilities: Vec::new(), notes: Vec::new() });
        SlotId(slots.len() - 1)
    }

    /// Gives the provider in a place its name: the one wanted, with a number when another one has it.
    pub(crate) fn rename(&self, slot: SlotId, wanted: &str, kind: &str) -> String {
        let mut slots = self.slots.lock();
        // Those before it have the first claim, so that the names are the same after every start; those behind
        // it only to what they use already.
        let taken = |id: &str| {
            let mut others = slots.iter().enumerate().filter(|(index, _)| *index != slot.0);
            others.any(|(index, it)| it.status.id == id && (index < slot.0 || it.provider.is_some()))
        };
        let id = std::iter::once(wanted.to_owned())
            .chain((2_u32..).map(|number| format!("{wanted}-{number}")))
            .find(|id| !taken(id))
            .expect("some number is free");
        if id != wanted {
            tracing::warn!(wanted, id, "two providers want one name: give one of them another in the configuration");
        }
        slots[slot.0].status.id.clone_from(&id);
        kind.clone_into(&mut slots[slot.0].status.kind);
        id
    }

    /// A provider has answered with what it offers.
    pub(crate) fn up(&self, slot: SlotId, provider: &Arc<dyn Provider>, found: Vec<Capability>) {
        let (found, notes) = trim(found);
        {
            let mut slots = self.slots.lock();
            let slot = &mut slots[slot.0];
            for note in notes.iter().filter(|note| !slot.notes.contains(note)) {
                tracing::warn!(provider = provider.id(), "{note}");
            }
            slot.notes = notes;
            let before = (slot.status.up, slot.status.capabilities);
            slot.status.up = true;
            slot.status.checked = true;
            slot.status.error = None;
            slot.status.capabilities = found.len();
            slot.status.shared = provider.shared();
            slot.provider = Some(Arc::clone(provider));
            slot.capabilities = found.into_iter().map(Arc::new).collect();
            if before != (true, slot.status.capabilities) {
                tracing::info!(
                    provider = provider.id(),
                    url = slot.status.url,
                    capabilities = slot.status.capabilities,
                    "provider up"
                );
                self.events.emit("provider.up", || json!(slot.status));
            }
        }
        self.publish();
    }

    /// A provider has not answered. `withdraw`: what it offered is offered no more.
    pub(crate) fn down(&self, slot: SlotId, error: &str, withdraw: bool) {
        {
            let mut slots = self.slots.lock();
            let slot = &mut slots[slot.0];
            let status = &mut slot.status;
            let first = !status.checked || (status.up && (withdraw || slot.capabilities.is_empty()));
            status.checked = true;
            if status.error.as_deref() != Some(error) {
                tracing::debug!(provider = status.id, error, "provider does not answer");
            }
            status.error = Some(error.to_owned());
            if withdraw || slot.capabilities.is_empty() {
                status.up = false;
                status.capabilities = 0;
                slot.capabilities.clear();
            }
            if first {
                tracing::warn!(provider = status.id, error, "provider down; it is asked again until it answers");
                self.events.emit("provider.down", || json!(status));
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let slots = self.slots.lock();
        let mut by_id = HashMap::new();
        let mut list = Vec::new();
        for slot in slots.iter() {
            let Some(provider) = &slot.provider else { continue };
            for capability in &slot.capabilities {
                // Ids begin with the provider's, which are unique, so only the sum can be too much.
                if list.len() < crate::capability::limits::CAPABILITIES && !by_id.contains_key(&capability.id) {
                    list.push(Capability::clone(capability));
                    let resolved = Resolved { provider: Arc::clone(provider), capability: Arc::clone(capability) };
                    by_id.insert(capability.id.clone(), resolved);
                }
            }
        }
        self.by_id.store(Arc::new(by_id));
        self.capabilities.send_if_modified(|before| {
            let changed = **before != list;
            if changed {
                *before = Arc::new(list);
            }
            changed
        });
        self.changes.send_modify(|version| *version += 1);
    }

    pub(crate) fn capabilities(&self) -> watch::Receiver<Arc<Vec<Capability>>> {
        self.capabilities.subscribe()
    }

    /// Ticks with every change of anything.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn resolve(&self, id: &CapabilityId) -> Option<Resolved> {
        self.by_id.load().get(id).cloned()
    }

    pub(crate) fn statuses(&self) -> Vec<ProviderStatus> {
        self.slots.lock().iter().map(|slot| slot.status.clone()).collect()
    }
}
