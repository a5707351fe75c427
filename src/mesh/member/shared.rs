//! What members tell each other of the roster: a digest, what the other lacks, and news.

use super::closed::Closed;
use super::state::now_ms;
use super::view::Merged;
use crate::wire::v1;

impl Closed {
    /// Takes in records of another roster.
    pub fn merge(&self, records: Vec<v1::RosterRecord>) -> Merged {
        let now = now_ms();
        let mut merged = Merged::default();
        let mut state = self.0.state.lock();
        let before = state.roster.entries(now).len();
        for record in records {
            match state.roster.add(record.clone(), now) {
                Ok(true) => {
                    merged.news += 1;
                    state.tell(record);
                }
                Ok(false) => {}
                Err(error) => {
                    merged.fault = Some(error);
                    break;
                }
            }
        }
        merged.newcomers = state.roster.entries(now).len() > before;
        state.take_own(&self.0.keys.identity.peer_id());
        merged
    }

    /// The roster's digest, for a sync.
    #[must_use]
    pub fn digest(&self) -> Vec<u8> {
        self.0.state.lock().roster.digest()
    }

    /// What whoever sent this digest lacks, and the ids of what this node lacks.
    #[must_use]
    pub fn delta(&self, digest: &[u8]) -> (Vec<v1::RosterRecord>, Vec<u8>) {
        self.0.state.lock().roster.delta(digest)
    }

    /// The records with these ids.
    #[must_use]
    pub fn find(&self, ids: &[u8]) -> Vec<v1::RosterRecord> {
        self.0.state.lock().roster.find(ids)
    }

    /// Records that are to be told to the neighbours.
    #[must_use]
    pub fn take_news(&self) -> Vec<v1::RosterRecord> {
        std::mem::take(&mut self.0.state.lock().news)
    }
}
