//! Room for the calls of other nodes, and who may have how much of it.
//!
//! A node takes a place only while it holds less than [`GENEROSITY`] times what is still free (Choudhury and Hahne,
//! "Dynamic Queue Length Thresholds"). So a node that calls alone gets three quarters of the room, several share
//! it, and however many one of them wants, there is a place left for a newcomer.

use std::collections::HashMap;
use std::sync::Arc;

use libp2p::PeerId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much more than what is free a node may hold.
const GENEROSITY: usize = 3;

/// Unit in which request bytes are counted, since a semaphore counts to 2^29 at the least.
const UNIT_BYTES: usize = 1024;

/// All the room there is.
pub(super) struct Room {
    calls: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    held: Arc<Mutex<HashMap<PeerId, Held>>>,
}

/// What one node holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Held {
    calls: usize,
    units: usize,
}

impl Room {
    /// Room for so many calls, refusals, and bytes of all requests.
    pub(super) fn new(calls: usize, refusals: usize, request_bytes: usize) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(calls)),
            refusals: Arc::new(Semaphore::new(refusals)),
            bytes: Arc::new(Semaphore::new(request_bytes.div_ceil(UNIT_BYTES))),
            held: Arc::default(),
        }
    }

    /// A place for a call of this node.
    pub(super) fn call(&self, from: PeerId) -> Option<Place> {
        let mut held = self.held.lock();
        if held.get(&from).is_some_and(|held| held.calls >= GENEROSITY * self.calls.available_permits()) {
            return None;
        }
        let permit = Arc::clone(&self.calls).try_acquire_owned().ok()?;
        held.entry(from).or_default().calls += 1;
        let share = Share { held: Arc::clone(&self.held), from, units: 0 };
        Some(Place { share: Some(share), all_bytes: Arc::clone(&self.bytes), _call: permit, _bytes: None })
    }

    /// A place to refuse a call.
    pub(super) fn refusal(&self) -> Option<Place> {
        let permit = Arc::clone(&self.refusals).try_acquire_owned().ok()?;
        Some(Place { share: None, all_bytes: Arc::clone(&self.bytes), _call: permit, _bytes: None })
    }
}

/// Room that a call holds until it is dropped.
pub(super) struct Place {
    // Before the permits, so that what a node holds is never more than what is taken.
    share: Option<Share>,
    all_bytes: Arc<Semaphore>,
    _call: OwnedSemaphorePermit,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Takes room for this many bytes of request. False when there is none for this node.
    pub(super) fn take_bytes(&mut self, bytes: usize) -> bool {
        let Some(share) = &mut self.share else { return false };
        let units = bytes.div_ceil(UNIT_BYTES);
        let mut all = share.held.lock();
        let held = all.entry(share.from).or_default();
        let left = self.all_bytes.available_permits().saturating_sub(units);
        if held.units > 0 && held.units + units > GENEROSITY * left {
            return false;
        }
        let Ok(permits) = u32::try_from(units) else { return false };
        let Ok(permit) = Arc::clone(&self.all_bytes).try_acquire_many_owned(permits) else { return false };
        held.units += units;
        share.units += units;
        self._bytes = Some(permit);
        true
    }
}

/// One call's part of what its node holds.
struct Share {
    held: Arc<Mutex<HashMap<PeerId, Held>>>,
    from: PeerId,
    units: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.held.lock();
        let Some(held) = all.get_mut(&self.from) else { return };
        held.calls = held.calls.saturating_sub(1);
        held.units = held.units.saturating_sub(self.units);
        if *held == Held::default() {
            all.remove(&self.from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_node_leaves_room_for_the_others() {
        let room = Room::new(256, 1, 1 << 20);
        let nodes: Vec<_> = (0..4).map(|_| PeerId::random()).collect();
        let mut places: Vec<Vec<Place>> = Vec::new();
        for node in &nodes {
            places.push(std::iter::from_fn(|| room.call(*node)).collect());
        }
        let counts: Vec<_> = places.iter().map(Vec::len).collect();
        assert_eq!(counts[0], 192, "three quarters for who is alone");
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        drop(places);
        assert!(room.held.lock().is_empty(), "nobody is remembered without need");
        assert_eq!(room.calls.available_permits(), 256);
    }

    #[test]
    fn request_bytes_are_shared_alike() {
        let room = Room::new(16, 1, 1 << 20);
        let (greedy, other) = (PeerId::random(), PeerId::random());
        let mut places: Vec<_> = (0..8).map(|_| room.call(greedy).expect("a place")).collect();
        let taken = places.iter_mut().map(|place| usize::from(place.take_bytes(256 * 1024))).sum::<usize>();
        assert_eq!(taken, 3);
        let mut place = room.call(other).expect("a place");
        assert!(place.take_bytes(200 * 1024) && !place.take_bytes(200 * 1024));
        drop((places, place));
        assert_eq!(room.bytes.available_permits(), 1024);
    }
}
