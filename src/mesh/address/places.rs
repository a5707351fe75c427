//! Where the nodes are that were dialled by a name: the address that the name stood for.

use std::collections::HashMap;
use std::sync::Arc;

use libp2p::Multiaddr;
use parking_lot::Mutex;

use crate::capability::PeerId;

/// Nodes that are remembered; more than are ever connected. It is asked right after the dial.
const MAX_NODES: usize = 512;

/// Filled below DNS, where connections have addresses, and read above it, where they have names.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<HashMap<PeerId, Multiaddr>>>);

impl Places {
    /// A node was reached there.
    pub fn note(&self, node: PeerId, address: &Multiaddr) {
        let mut places = self.0.lock();
        if places.len() >= MAX_NODES && !places.contains_key(&node) {
            places.clear();
        }
        places.insert(node, address.clone());
    }

    /// Where it was reached last.
    #[must_use]
    pub fn of(&self, node: &PeerId) -> Option<Multiaddr> {
        self.0.lock().get(node).cloned()
    }
}
