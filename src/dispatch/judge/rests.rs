//! Judges that were late or failed are left alone for a while: 5 s, then twice that, up to 5 min, until one answers in time.
//!
//! Besides the rest that everybody who fails is given: one that is too late for a second opinion serves other requests well.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::capability::{CapabilityId, PeerId};

/// The first rest: a question that comes then is decided without, and nobody waits in vain again.
const FIRST: Duration = Duration::from_secs(5);
/// The longest.
const LONGEST: Duration = Duration::from_secs(300);
/// Judges that are remembered; with more than that, those whose rest is over are forgotten.
const MOST: usize = 64;

/// A capability of a node.
pub(super) type Who = (PeerId, CapabilityId);

/// Who rests, until when, and after how many failures.
#[derive(Debug, Default)]
pub(super) struct Rests(HashMap<Who, (Instant, u32)>);

impl Rests {
    /// It was late, or failed.
    pub(super) fn fail(&mut self, who: Who, now: Instant) {
        if self.0.len() >= MOST && !self.0.contains_key(&who) {
            self.0.retain(|_, (until, _)| *until > now);
            if self.0.len() >= MOST {
                return;
            }
        }
        let (until, failures) = self.0.entry(who).or_insert((now, 0));
        let rest = FIRST * 2_u32.pow((*failures).min(8));
        *until = now + rest.min(LONGEST);
        *failures = failures.saturating_add(1);
    }

    /// It answered in time.
    pub(super) fn succeed(&mut self, who: &Who) {
        self.0.remove(who);
    }

    /// Whether it rests now.
    pub(super) fn has(&self, who: &Who, now: Instant) -> bool {
        self.0.get(who).is_some_and(|(until, _)| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_rests_longer_each_time_until_it_answers() {
        let (mut rests, start) = (Rests::default(), Instant::now());
        let who = (PeerId::random(), CapabilityId::from("embed"));
        for (failure, seconds) in [5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300].into_iter().enumerate() {
            rests.fail(who.clone(), start);
            let rest = Duration::from_secs(seconds);
            let almost = rest - Duration::from_millis(1);
            assert!(rests.has(&who, start + almost) && !rests.has(&who, start + rest), "failure {failure}");
        }
        rests.succeed(&who);
        assert!(!rests.has(&who, start));
        rests.fail(who.clone(), start);
        assert!(!rests.has(&who, start + FIRST), "and all is forgotten");
    }

    #[test]
    fn the_list_is_bounded() {
        let (mut rests, now) = (Rests::default(), Instant::now());
        for _ in 0..MOST * 3 {
            rests.fail((PeerId::random(), CapabilityId::from("embed")), now);
        }
        assert!(rests.0.len() <= MOST);
        rests.fail((PeerId::random(), CapabilityId::from("embed")), now + LONGEST);
        assert_eq!(rests.0.len(), 1, "those whose rest is over made room");
    }
}
