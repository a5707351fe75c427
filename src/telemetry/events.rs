//! What happens on this node, for whoever watches: the dashboard, `/v1/stream`, `atmosphere watch`.
//!
//! Events are numbered as they happen, from 1, whether or not somebody watches: a watcher that sees a gap knows that
//! it missed something. A slow watcher holds nothing up; it loses the oldest, and is told how many.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Events that a slow watcher may be behind by; beyond it the oldest are lost to that watcher alone.
const CAPACITY: usize = 256;

/// What can happen, and what it means.
pub const EVENT_KINDS: &[(&str, &str)] = &[
    ("decision", "it was decided who shall answer a request"),
    ("call.progress", "a call waits, loads its model or reads its prompt"),
    ("call.failover", "another node goes on with an answer whose node was lost"),
    ("call.end", "a request is over: answered, failed (status) or given up by its caller (status 499)"),
    ("node.joined", "a node came"),
    ("node.left", "a node left, or was not heard of for too long"),
    ("node.path", "calls to a node take another way than before"),
    ("provider.up", "a backend of this node answers, or offers other models than before"),
    ("provider.down", "a backend of this node does not answer"),
    ("seed.connected", "a seed answers"),
    ("seed.failed", "a seed does not answer; it is tried further"),
    ("gate.refused", "a connection was not admitted"),
    ("member.parted", "a connected node is no member of the closed mesh any more"),
    ("mesh.identity_clash", "another process seems to use this node's identity"),
];

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number on this node since it started.
    pub seq: u64,
    /// What, one of [`EVENT_KINDS`].
    pub kind: &'static str,
    /// When.
    pub at: SystemTime,
    /// The particulars.
    pub data: serde_json::Value,
}

/// Hands events to whoever watches. Costs next to nothing while nobody does.
#[derive(Debug, Clone)]
pub struct EventBus(Arc<Bus>);

#[derive(Debug)]
struct Bus {
    watchers: broadcast::Sender<Event>,
    /// The number of the last event.
    last: Mutex<u64>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self(Arc::new(Bus { watchers: broadcast::Sender::new(CAPACITY), last: Mutex::new(0) }))
    }
}

impl EventBus {
    /// Tells the watchers; `data` is not made when there are none.
    pub fn emit(&self, kind: &'static str, data: impl FnOnce() -> serde_json::Value) {
        debug_assert!(EVENT_KINDS.iter().any(|(known, _)| *known == kind), "{kind} is not listed");
        let data = (self.0.watchers.receiver_count() > 0).then(data);
        // Numbered and sent in one step, so that watchers see the numbers in their order.
        let mut last = self.0.last.lock();
        *last += 1;
        if let Some(data) = data {
            // No receiver left in between is no error: nobody wanted it any more.
            let _ = self.0.watchers.send(Event { seq: *last, kind, at: SystemTime::now(), data });
        }
    }

    /// Watches from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.watch().1
    }

    /// Watches from now on, and tells the number of the last event before that.
    #[must_use]
    pub fn watch(&self) -> (u64, broadcast::Receiver<Event>) {
        let last = self.0.last.lock();
        (*last, self.0.watchers.subscribe())
    }

    /// The number of the last event.
    #[must_use]
    pub fn last(&self) -> u64 {
        *self.0.last.lock()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn events_are_numbered_whether_or_not_somebody_watches() {
        let bus = EventBus::default();
        bus.emit("node.left", || unreachable!("nobody watches"));
        let (last, mut watch) = bus.watch();
        assert_eq!(last, 1);
        bus.clone().emit("node.joined", || json!({"name": "gpu"}));
        let event = watch.try_recv().expect("it happened");
        assert_eq!((event.seq, event.kind, &event.data["name"]), (2, "node.joined", &json!("gpu")));
        assert_eq!(bus.last(), 2);
    }

    #[test]
    fn a_slow_watcher_is_told_what_it_lost_and_holds_nobody_up() {
        let bus = EventBus::default();
        let mut watch = bus.subscribe();
        for _ in 0..CAPACITY + 7 {
            bus.emit("decision", || Value::Null);
        }
        assert!(matches!(watch.try_recv(), Err(broadcast::error::TryRecvError::Lagged(7))));
        assert_eq!(watch.try_recv().expect("the rest is there").seq, 8);
    }
}
