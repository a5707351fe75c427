//! The peer book: nodes that were connected before, so that a restart needs no seed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use super::disk;
use crate::capability::PeerId;

/// The book's file in the data directory.
const FILE: &str = "peers.bin";

/// First bytes of the file, with the version of what follows.
const MAGIC: &[u8; 8] = b"ATMPEER1";

/// Nodes kept: more than any mesh of one owner's machines, and few enough to be dialled in turn.
pub const MAX_PEERS: usize = 256;

/// Addresses kept for each.
pub const MAX_ADDRESSES: usize = 8;

/// Largest file that is read: what the bounds above allow, three times over.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Nodes and where they were last reached.
#[derive(Debug, Default)]
pub struct Book {
    path: Option<PathBuf>,
    peers: HashMap<PeerId, Entry>,
    changed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    addresses: Vec<String>,
    /// Unix seconds of the last connection.
    last_seen: u64,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    mesh: [u8; 32],
    peers: Vec<(Vec<u8>, Entry)>,
}

impl Book {
    /// The book of this directory; empty when there is none, when it is of another mesh, or when it is damaged:
    /// then it is set aside with a warning.
    #[must_use]
    pub fn open(data_dir: Option<&Path>, mesh: &[u8; 32]) -> Self {
        let Some(path) = data_dir.map(|dir| dir.join(FILE)) else { return Self::default() };
        let peers = match read(&path) {
            Ok(Some(envelope)) if envelope.mesh == *mesh => into_peers(envelope),
            Ok(_) => HashMap::new(),
            Err(error) => {
                let aside = path.with_extension("damaged");
                let kept = fs::rename(&path, &aside).is_ok();
                tracing::warn!(
                    path = %path.display(), %error, set_aside = kept,
                    "the peer book is damaged; starting with an empty one"
                );
                HashMap::new()
            }
        };
        Self { path: Some(path), peers, changed: false }
    }

    /// Notes that this node was reached there now.
    pub fn reached(&mut self, node: PeerId, address: &Multiaddr, unix_secs: u64) {
        let text = address.to_string();
        let entry = self.peers.entry(node).or_insert_with(|| Entry { addresses: Vec::new(), last_seen: 0 });
        entry.addresses.retain(|known| *known != text);
        entry.addresses.insert(0, text);
        entry.addresses.truncate(MAX_ADDRESSES);
        entry.last_seen = unix_secs;
        self.changed = true;
        if self.peers.len() > MAX_PEERS
            && let Some(oldest) =
                self.peers.iter().min_by_key(|(id, entry)| (entry.last_seen, id.to_bytes())).map(|(id, _)| *id)
        {
            self.peers.remove(&oldest);
        }
    }

    /// Notes that this node came from there, where it says that it listens: after where it was reached. Returns whether that
    /// is new.
    pub fn came_from(&mut self, node: PeerId, address: &Multiaddr, unix_secs: u64) -> bool {
        let Some(entry) = self.peers.get_mut(&node) else {
            self.reached(node, address, unix_secs);
            return true;
        };
        let text = address.to_string();
        let is_new = entry.addresses.len() < MAX_ADDRESSES && !entry.addresses.contains(&text);
        if is_new {
            entry.addresses.push(text);
            self.changed = true;
        }
        is_new
    }

    /// Notes where a node may be reached that was never reached before.
    pub fn learn(&mut self, node: PeerId, address: &Multiaddr) {
        let text = address.to_string();
        let known = self.peers.len() < MAX_PEERS || self.peers.contains_key(&node);
        if known {
            let entry = self.peers.entry(node).or_insert_with(|| Entry { addresses: Vec::new(), last_seen: 0 });
            if entry.addresses.len() < MAX_ADDRESSES && !entry.addresses.contains(&text) {
                entry.addresses.push(text);
            }
        }
    }

    /// Every node with its addresses, the last reached first.
    #[must_use]
    pub fn peers(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut peers: Vec<_> = self.peers.iter().collect();
        peers.sort_by_key(|(id, entry)| (std::cmp::Reverse(entry.last_seen), id.to_bytes()));
        peers
            .into_iter()
            .map(|(id, entry)| (*id, entry.addresses.iter().filter_map(|text| text.parse().ok()).collect()))
            .collect()
    }

    /// What is to be written, when something changed and there is a place for it.
    pub fn take_unsaved(&mut self, mesh: &[u8; 32]) -> Option<Unsaved> {
        let path = self.path.clone()?;
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let peers = self.peers.iter().map(|(id, entry)| (id.to_bytes(), entry.clone())).collect();
        Some(Unsaved { path, envelope: Envelope { mesh: *mesh, peers } })
    }
}

/// A book to be written, away from the driver's loop.
pub struct Unsaved {
    path: PathBuf,
    envelope: Envelope,
}

impl Unsaved {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(self) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        let body =
            bincode::serde::encode_to_vec(&self.envelope, bincode::config::standard()).map_err(io::Error::other)?;
        bytes.extend_from_slice(blake3::hash(&body).as_bytes());
        bytes.extend_from_slice(&body);
        disk::write_private(&self.path, &bytes)
    }
}

fn read(path: &Path) -> io::Result<Option<Envelope>> {
    match fs::metadata(path) {
        Ok(about) if about.len() > MAX_FILE_BYTES => return Err(io::Error::other("it is too large")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let bytes = fs::read(path)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is not a peer book, or was cut short");
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (hash, body) = rest.split_at_checked(blake3::OUT_LEN).ok_or_else(damaged)?;
    if blake3::hash(body).as_bytes() != hash {
        return Err(damaged());
    }
    let config = bincode::config::standard().with_limit::<{ 1024 * 1024 }>();
    bincode::serde::decode_from_slice(body, config).map(|(envelope, _)| Some(envelope)).map_err(io::Error::other)
}

fn into_peers(envelope: Envelope) -> HashMap<PeerId, Entry> {
    envelope
        .peers
        .into_iter()
        .filter_map(|(id, mut entry)| {
            entry.addresses.truncate(MAX_ADDRESSES);
            Some((PeerId::from_bytes(&id).ok()?, entry))
        })
        .take(MAX_PEERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: [u8; 32] = [7; 32];

    fn address(port: usize) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().expect("an address")
    }

    #[test]
    fn a_book_reads_back_as_it_was_written_and_only_in_its_mesh() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = PeerId::random();
        let mut book = Book::open(Some(dir.path()), &MESH);
        book.reached(node, &address(1), 10);
        book.reached(node, &address(2), 11);
        book.take_unsaved(&MESH).expect("changed").write().expect("written");
        assert!(book.take_unsaved(&MESH).is_none(), "nothing changed since");
        let again = Book::open(Some(dir.path()), &MESH);
        assert_eq!(again.peers(), [(node, vec![address(2), address(1)])]);
        assert!(Book::open(Some(dir.path()), &[8; 32]).peers().is_empty());
    }

    #[test]
    fn a_book_keeps_within_its_bounds() {
        let mut book = Book::default();
        for peer in 0..MAX_PEERS + 20 {
            book.reached(PeerId::random(), &address(peer + 1), peer as u64);
        }
        let peers = book.peers();
        assert_eq!(peers.len(), MAX_PEERS);
        assert_eq!(peers[0].1, [address(MAX_PEERS + 20)], "the oldest went");
        for port in 1..=20 {
            book.reached(peers[0].0, &address(port), 999);
        }
        assert_eq!(book.peers()[0].1.len(), MAX_ADDRESSES);
    }

    #[test]
    fn where_a_node_came_from_is_kept_after_where_it_was_reached_and_once() {
        let mut book = Book::default();
        let node = PeerId::random();
        assert!(book.came_from(node, &address(2), 10) && !book.came_from(node, &address(2), 11));
        book.reached(node, &address(1), 12);
        assert!(book.came_from(node, &address(3), 13));
        assert_eq!(book.peers(), [(node, vec![address(1), address(2), address(3)])]);
        let new = (0..100).filter(|port| book.came_from(node, &address(100 + port), 14)).count();
        assert_eq!(new, MAX_ADDRESSES - 3);
    }

    #[test]
    fn a_damaged_book_is_set_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut book = Book::open(Some(dir.path()), &MESH);
        book.reached(PeerId::random(), &address(1), 10);
        book.take_unsaved(&MESH).expect("changed").write().expect("written");
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).expect("read");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).expect("written");
        assert!(Book::open(Some(dir.path()), &MESH).peers().is_empty());
        assert!(!path.exists() && dir.path().join("peers.damaged").exists());
    }
}
