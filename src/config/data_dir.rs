//! The directory in which a node keeps its identity, its peer book and its snapshots. One running node owns it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The name of the directory in the owner's home.
const NAME: &str = ".atmosphere";
/// Locked while a node runs. Never removed: two nodes could lock two files of one name.
const LOCK: &str = "lock";
/// The process id of the owner, for the message to a second one. Apart from the lock, since some systems do not let
/// anybody read a locked file.
const PID: &str = "pid";
/// Where the running node's API is, for the client verbs.
const API: &str = "api.json";

/// `.atmosphere` in `home`.
pub(super) fn in_home(home: &Path) -> PathBuf {
    home.join(NAME)
}

/// The data directory that is used when nobody names one: `ATMOSPHERE_HOME`, or `.atmosphere` in the home directory.
#[must_use]
pub fn default_data_dir() -> Option<PathBuf> {
    ["ATMOSPHERE_HOME", "ATMOSPHERE_DATA_DIR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .and_then(|text| super::parse::expand(&text, std::env::home_dir().as_deref()).ok())
        .or_else(|| std::env::home_dir().map(|home| in_home(&home)))
}

/// Where a running node's API is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiFile {
    /// Its URL, reachable from this machine, without a slash at the end.
    pub url: String,
    /// The node's process.
    pub pid: u32,
}

impl ApiFile {
    /// What the node that owns `data_dir` wrote, if it did. The node may be dead: then nobody answers there.
    #[must_use]
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(data_dir.join(API)).ok()?).ok()
    }
}

/// The data directory of this process; nobody else has it until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock; the system gives it up when the process ends, however it ends.
    _lock: File,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made.
    #[error("cannot create the data directory {}: {cause}; choose another with --data-dir or ATMOSPHERE_HOME", .path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// Nothing can be written into it.
    #[error("cannot write into the data directory {}: {cause}; check its owner and the free space, or choose another with --data-dir or ATMOSPHERE_HOME", .path.display())]
    Write {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// Another node has it.
    #[error(
        "another atmosphere{} already uses {}: `atmosphere status` shows it, and a second node on this machine needs a \
         --data-dir, a --port and a --gossip-port of its own",
        pid_text(*.pid), .path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other node's process, when it is known.
        pid: Option<u32>,
    },
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl DataDir {
    /// Makes the directory when it is not there, checks that it can be written, and takes it for this process.
    ///
    /// # Errors
    ///
    /// When it cannot be made or written, or another node has it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let cannot_create = |cause| DataDirError::Create { path: path.to_owned(), cause };
        let cannot_write = |cause| DataDirError::Write { path: path.to_owned(), cause };
        if path.exists() && !path.is_dir() {
            return Err(cannot_create(io::Error::new(io::ErrorKind::NotADirectory, "it is a file")));
        }
        create_private(path).map_err(cannot_create)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(cannot_write)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(path.join(PID)).ok().and_then(|text| text.trim().parse().ok());
                return Err(DataDirError::InUse { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(cause)) => return Err(cannot_write(cause)),
        }
        // A node that was killed leaves its API's address behind; from here on it is not true any more.
        let _ = fs::remove_file(path.join(API));
        let this = Self { path: path.to_owned(), _lock: lock };
        this.write(PID, format!("{}\n", std::process::id()).as_bytes()).map_err(cannot_write)?;
        Ok(this)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file so that a reader sees the old content or the new one, never half of it.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = self.path.join(format!("{name}.new"));
        fs::write(&new, content)?;
        fs::rename(&new, self.path.join(name))
    }

    /// Tells the client verbs on this machine where the API listens. Returns its URL.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn api_is_up(&self, listening: SocketAddr) -> io::Result<String> {
        let url = url_from_here(listening);
        let file = ApiFile { url: url.clone(), pid: std::process::id() };
        self.write(API, &serde_json::to_vec(&file)?)?;
        Ok(url)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Best effort: what is left over is cleared by the next node, and told apart by nobody answering.
        let _ = fs::remove_file(self.path.join(API));
        let _ = fs::remove_file(self.path.join(PID));
    }
}

/// How to reach from this machine what listens on `listening`.
#[must_use]
pub fn url_from_here(listening: SocketAddr) -> String {
    let mut reachable = listening;
    if reachable.ip().is_unspecified() {
        reachable.set_ip(match listening {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{reachable}")
}

/// Makes the directory and its parents; what is new is the owner's alone, since the identity lies in it.
fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_told_who_has_the_directory() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("a/b");
        let first = DataDir::open(&path).expect("free");
        let text = DataDir::open(&path).expect_err("taken").to_string();
        let expected = format!(
            "another atmosphere (pid {}) already uses {}: `atmosphere status` shows it, and a second node on this machine needs a \
             --data-dir, a --port and a --gossip-port of its own",
            std::process::id(),
            path.display()
        );
        assert_eq!(text, expected);
        drop(first);
        DataDir::open(&path).expect("free again");
    }

    #[cfg(unix)]
    #[test]
    fn a_new_directory_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(&parent.path().join("new")).expect("made");
        let mode = fs::metadata(dir.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_file_in_its_place_is_told() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = DataDir::open(file.path()).expect_err("a file").to_string();
        assert!(text.contains("it is a file; choose another with --data-dir"), "{text}");
        let below = DataDir::open(&file.path().join("below")).expect_err("below a file").to_string();
        assert!(below.starts_with("cannot create the data directory"), "{below}");
    }

    #[test]
    fn the_address_of_the_api_lives_as_long_as_the_node() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(parent.path()).expect("free");
        assert_eq!(ApiFile::read(parent.path()), None);
        let url = dir.api_is_up(SocketAddr::from(([0, 0, 0, 0], 4000))).expect("written");
        assert_eq!(url, "http://127.0.0.1:4000");
        assert_eq!(ApiFile::read(parent.path()), Some(ApiFile { url, pid: std::process::id() }));
        drop(dir);
        assert_eq!(ApiFile::read(parent.path()), None);
    }
}
