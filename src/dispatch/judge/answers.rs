//! What was said about questions before: vectors, for some time and up to a size, by the hash of the question.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::choose::Space;
use crate::capability::PeerId;

/// How long a vector is remembered. It does not age, but nobody asks the same for days.
const STAYS: Duration = Duration::from_secs(3600);
/// Bytes of all of them: some two thousand of the usual length.
const BYTES: u64 = 8 * 1024 * 1024;
/// Bytes that one takes besides its vector.
const OVERHEAD: usize = 256;

/// A question, and by whom it is read. The question itself is not kept.
pub(super) type Key = [u8; 32];

/// The key of a question in a space.
pub(super) fn key_of(space: &Space, text: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    space.mark(&mut hasher);
    hasher.update(text.as_bytes());
    hasher.finalize().into()
}

/// What was said about a question.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) vector: Vec<f32>,
    pub(super) node: PeerId,
    pub(super) node_name: Arc<str>,
    pub(super) model: String,
}

/// What was said about questions before.
pub(super) struct Answers(Cache<Key, Arc<Known>>);

impl Default for Answers {
    fn default() -> Self {
        let size = |_: &Key, known: &Arc<Known>| {
            u32::try_from(known.vector.len() * size_of::<f32>() + OVERHEAD).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder()
            .weigher(size)
            .max_capacity(BYTES)
            .time_to_live(STAYS)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self(cache)
    }
}

impl Answers {
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Known>> {
        self.0.get(key)
    }

    pub(super) fn put(&self, key: Key, known: Known) -> Arc<Known> {
        let known = Arc::new(known);
        self.0.insert(key, Arc::clone(&known));
        known
    }

    pub(super) fn forget(&self) {
        self.0.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let answers = Answers::default();
        let known =
            || Known { vector: vec![0.5; 4096], node: PeerId::random(), node_name: "n".into(), model: "m".into() };
        for number in 0..1000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            answers.put(key, known());
        }
        answers.0.run_pending_tasks();
        assert!(answers.0.weighted_size() <= BYTES && answers.0.entry_count() > 100, "{}", answers.0.entry_count());
        answers.forget();
        assert!(answers.get(&[0; 32]).is_none());
    }
}
