//! The number of this node's incarnation: greater at every start, whatever the clock does.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt as _;

use super::disk;

/// The number's file in the data directory.
const FILE: &str = "epoch";

/// Others believe no epoch from here on; a file that says so is damaged.
const MAX: u64 = (1 << 53) - 1;

/// Past a foreign epoch a node jumps by up to so much: an hour of milliseconds, and a chance in millions to meet.
const JUMP: u64 = 3_600_000;

/// Hands out epochs and remembers the last one.
#[derive(Debug)]
pub struct Epochs {
    path: Option<PathBuf>,
    last: u64,
}

impl Epochs {
    /// Those of the node that lives in this directory; without one they are remembered only while it runs.
    #[must_use]
    pub fn open(data_dir: Option<&Path>) -> Self {
        let path = data_dir.map(|dir| dir.join(FILE));
        // An unreadable number is as good as none: the clock is the other half of the rule, and a mesh that
        // remembers a higher one makes us jump past it.
        let last = path
            .as_ref()
            .and_then(|path| std::fs::read_to_string(path).ok())
            .and_then(|text| text.trim().parse().ok())
            .filter(|epoch| *epoch < MAX)
            .unwrap_or(0);
        Self { path, last }
    }

    /// An epoch greater than every one before, than `beyond`, and than the clock when that is sound. It is to
    /// be kept by [`Epochs::unsaved`] before anybody hears of it.
    pub fn next(&mut self, beyond: u64, now: SystemTime) -> u64 {
        // Two processes with one identity may learn of the same epoch at once; they must not go to the same next one.
        let step = if beyond > 0 { rand::rng().random_range(1..=JUMP) } else { 1 };
        let clock = now.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        self.last = clock.max(self.last.saturating_add(1)).max(beyond.saturating_add(step));
        self.last
    }

    /// What keeps the last one on disk, to be run where waiting does no harm.
    pub fn unsaved(&self) -> impl FnOnce() -> io::Result<()> + Send + use<> {
        let (path, last) = (self.path.clone(), self.last);
        move || match path {
            Some(path) => disk::write_private(&path, format!("{last}\n").as_bytes()),
            None => Ok(()),
        }
    }

    /// The last one that was handed out.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn epochs_grow_over_restarts_even_when_the_clock_goes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |secs| UNIX_EPOCH + Duration::from_secs(secs);
        let mut epochs = Epochs::open(Some(dir.path()));
        let first = epochs.next(0, at(1000));
        assert_eq!(first, 1_000_000);
        epochs.unsaved()().expect("kept");
        let mut again = Epochs::open(Some(dir.path()));
        assert_eq!(again.next(0, at(10)), first + 1);
        let past = again.next(first + 50, at(10));
        assert!((first + 51..=first + 50 + JUMP).contains(&past), "{past}");
    }
}
