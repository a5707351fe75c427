//! What the driver remembers of looking after members.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capability::{Capability, PeerId};
use crate::mesh::member::MemberView;

/// How often what has long run out is forgotten.
pub(super) const EXPIRE: Duration = Duration::from_secs(3600);

/// What the driver remembers of looking after members.
#[derive(Debug)]
pub struct Tended {
    /// All that this node can do, whether or not its role lets it offer that; none before anybody said.
    pub(super) capabilities: Option<Arc<[Arc<Capability>]>>,
    pub(super) revision: u64,
    pub(super) next_look: Instant,
    pub(super) next_renewal: Instant,
    pub(super) next_expiry: Instant,
    /// This node's own membership as it was last seen.
    pub(super) own: Option<MemberView>,
    /// Neighbours to sync with once more, because they told of newcomers.
    pub(super) resync: Vec<PeerId>,
    /// When a neighbour is asked again who a node is that is not known here.
    pub(super) next_question: Instant,
    pub(super) saving: Option<tokio::task::JoinHandle<()>>,
    pub(super) warned: bool,
}

impl Tended {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            capabilities: None,
            revision: 0,
            next_look: now,
            next_renewal: now,
            next_expiry: now + EXPIRE,
            own: None,
            resync: Vec::new(),
            next_question: now,
            saving: None,
            warned: false,
        }
    }
}
