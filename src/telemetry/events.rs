//! What happens on this node, for whoever watches: the dashboard, `/v1/stream`, `atmosphere watch`.

use std::time::SystemTime;

use tokio::sync::broadcast;

/// Events that a slow watcher may be behind by; beyond it the oldest are lost to that watcher alone.
const CAPACITY: usize = 256;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// What, such as `decision` or `node.joined`.
    pub kind: &'static str,
    /// When.
    pub at: SystemTime,
    /// The particulars.
    pub data: serde_json::Value,
}

/// Hands events to whoever watches. Costs nothing while nobody does.
#[derive(Debug, Clone)]
pub struct EventBus(broadcast::Sender<Event>);

impl Default for EventBus {
    fn default() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }
}

impl EventBus {
    /// Tells the watchers; `data` is not made when there are none.
    pub fn emit(&self, kind: &'static str, data: impl FnOnce() -> serde_json::Value) {
        if self.0.receiver_count() > 0 {
            // No receiver left in between is no error: nobody wanted it any more.
            let _ = self.0.send(Event { kind, at: SystemTime::now(), data: data() });
        }
    }

    /// Watches from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
