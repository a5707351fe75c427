//! What a member keeps in its data directory, readable by its owner only.
//!
//! `mesh.json` has the membership, the roster and the invites; `mesh-root.key`, on the machine that made the mesh, has
//! the root key. Without the first a node is in an open mesh. A file that cannot be understood is an error and is
//! never replaced: what stood in it let this node in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libp2p::identity::{Keypair, ed25519};
use serde::{Deserialize, Serialize};

use super::encoding;
use super::invite::Invite;
use crate::mesh::disk;
use crate::mesh::id::MeshId;

/// The membership's file in the data directory.
const FILE: &str = "mesh.json";

/// The root key's file.
const ROOT_FILE: &str = "mesh-root.key";

/// First line of the root key's file.
const ROOT_HEADER: &str = "atmosphere-mesh-root-v1";

/// The version of `mesh.json`.
const VERSION: u32 = 1;

/// Largest file that is read: a full roster several times.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;

/// Why the files of a closed mesh are of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// They cannot be read or written.
    #[error("cannot {what} {path}: {source} (is the data directory yours to write?)", path = .path.display())]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One is not what it should be.
    #[error(
        "{path} is damaged: {why} (restore it from a backup, or move it away and join the mesh with a new invite)",
        path = .path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What `mesh.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    version: u32,
    /// The mesh's name.
    pub name: String,
    /// The mesh's root public key.
    #[serde(with = "encoding::base64_array")]
    pub root_key: [u8; 32],
    /// This node's own membership, encoded.
    #[serde(with = "encoding::base64_bytes")]
    pub membership: Vec<u8>,
    /// Where members were found when this node joined.
    #[serde(default)]
    pub seeds: Vec<String>,
    /// The roster's records, encoded.
    #[serde(default)]
    pub roster: Vec<Encoded>,
    /// Invites that this node made.
    #[serde(default)]
    pub invites: Vec<Invite>,
    /// What members called themselves when they were last heard of, by id.
    #[serde(default)]
    pub names: BTreeMap<String, String>,
}

/// Bytes of a message, as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Encoded(#[serde(with = "encoding::base64_bytes")] pub Vec<u8>);

impl Kept {
    /// These, in the version that this program writes.
    #[must_use]
    pub fn new(name: String, root_key: [u8; 32], membership: Vec<u8>) -> Self {
        let (seeds, roster, invites, names) = Default::default();
        Self { version: VERSION, name, root_key, membership, seeds, roster, invites, names }
    }

    /// What this directory holds; `None` when this node was never in a closed mesh.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or understood.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, FilesError> {
        let path = data_dir.join(FILE);
        let damaged = |path: PathBuf, why: String| FilesError::Damaged { path, why };
        match fs::metadata(&path) {
            Ok(about) if about.len() > MAX_FILE_BYTES => return Err(damaged(path, "it is too large".into())),
            _ => {}
        }
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Self>(&bytes) {
                Ok(kept) if kept.version == VERSION => Ok(Some(kept)),
                Ok(kept) => {
                    Err(damaged(path, format!("its version is {}, and this program knows {VERSION}", kept.version)))
                }
                Err(error) => Err(damaged(path, error.to_string())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FilesError::Io { what: "read", path, source }),
        }
    }

    /// Keeps it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, data_dir: &Path) -> Result<(), FilesError> {
        let path = data_dir.join(FILE);
        let written = serde_json::to_vec_pretty(self)
            .map_err(io::Error::other)
            .and_then(|bytes| disk::write_private(&path, &bytes));
        written.map_err(|source| FilesError::Io { what: "write", path, source })
    }
}

/// The root key that this directory holds, when this machine made the mesh.
///
/// # Errors
///
/// When it cannot be read or understood.
pub fn read_root(data_dir: &Path) -> Result<Option<Keypair>, FilesError> {
    let path = data_dir.join(ROOT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FilesError::Io { what: "read", path, source }),
    };
    let key = text.strip_prefix(ROOT_HEADER).map(str::trim).ok_or("its first line is not the right one");
    let key = key.and_then(|text| STANDARD.decode(text).map_err(|_| "the key is not base64"));
    let key = key.and_then(|bytes| Keypair::from_protobuf_encoding(&bytes).map_err(|_| "the key cannot be decoded"));
    key.map(Some).map_err(|why| FilesError::Damaged { path, why: why.into() })
}

/// Keeps the root key.
///
/// # Errors
///
/// When it cannot be written.
pub fn write_root(data_dir: &Path, root: &Keypair) -> Result<(), FilesError> {
    let path = data_dir.join(ROOT_FILE);
    let bytes = root.to_protobuf_encoding().map_err(io::Error::other);
    let text = bytes.map(|bytes| format!("{ROOT_HEADER}\n{}\n", STANDARD.encode(bytes)));
    let written = text.and_then(|text| disk::write_private(&path, text.as_bytes()));
    written.map_err(|source| FilesError::Io { what: "write", path, source })
}

/// Sets the files of the mesh that this node leaves aside, so that the root key and the membership are not lost.
/// Returns where they are.
///
/// # Errors
///
/// When they cannot be renamed.
pub fn set_aside(data_dir: &Path, mesh: &MeshId) -> Result<Vec<PathBuf>, FilesError> {
    let mut moved = Vec::new();
    for (file, extension) in [(ROOT_FILE, "root.key"), (FILE, "json")] {
        let path = data_dir.join(file);
        let aside = data_dir.join(format!("left-mesh-{}.{extension}", &mesh.to_hex()[..16]));
        match fs::rename(&path, &aside) {
            Ok(()) => moved.push(aside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(FilesError::Io { what: "move", path, source }),
        }
    }
    Ok(moved)
}

/// The public half of a root key.
#[must_use]
pub fn root_public(root: &Keypair) -> Option<ed25519::PublicKey> {
    root.public().try_into_ed25519().ok()
}
