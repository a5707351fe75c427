//! This node's identity: one Ed25519 key, made at the first start and kept for ever.
//!
//! Whoever holds the key *is* the node, so the file is readable by its owner only, and a file that cannot be
//! read is an error and never replaced.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libp2p::identity::{Keypair, PublicKey};

use super::disk;
use crate::capability::PeerId;

/// The key's file in the data directory.
const FILE: &str = "identity.key";

/// First line of the file: names what it is to whoever finds it, and its version.
const HEADER: &str = "atmosphere-identity-v1";

/// This node's key pair. Its `Debug` shows the public half only.
#[derive(Clone)]
pub struct Identity(Keypair);

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot {what} the node's identity {path}: {source} (is the data directory yours to write?)")]
    Io {
        /// `read` or `create`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not an identity.
    #[error(
        "the node's identity {path} is damaged: {why} (restore it from a backup, or move it away to start as a new node)"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Identity {
    /// A new identity that is kept nowhere.
    #[must_use]
    pub fn generate() -> Self {
        Self(Keypair::generate_ed25519())
    }

    /// The identity kept in this directory, made and kept there if there is none.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, created, or understood.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = data_dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|why| IdentityError::Damaged { path, why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Self::generate();
                disk::write_private(&path, identity.to_text().as_bytes()).map_err(|source| IdentityError::Io {
                    what: "create",
                    path,
                    source,
                })?;
                Ok(identity)
            }
            Err(source) => Err(IdentityError::Io { what: "read", path, source }),
        }
    }

    /// The node's id.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.0.public().to_peer_id()
    }

    /// The key pair, for libp2p and for signatures.
    #[must_use]
    pub(super) const fn keypair(&self) -> &Keypair {
        &self.0
    }

    fn to_text(&self) -> String {
        use base64::Engine as _;
        let bytes = self.0.to_protobuf_encoding().expect("an Ed25519 key can always be encoded");
        format!("{HEADER}\n{}\n", base64::engine::general_purpose::STANDARD.encode(bytes))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.peer_id()).finish()
    }
}

/// The public key that a node's id is made of, when it is the id of an Ed25519 key.
#[must_use]
pub(super) fn public_key(node: &PeerId) -> Option<PublicKey> {
    /// Multihash code of "identity": the key itself instead of a hash of it.
    const IDENTITY: u64 = 0;
    let hash: &libp2p::multihash::Multihash<64> = node.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    key.clone().try_into_ed25519().is_ok().then_some(key)
}

fn parse(bytes: &[u8]) -> Result<Identity, &'static str> {
    use base64::Engine as _;
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err("its first line is not \"atmosphere-identity-v1\"");
    }
    let key = lines.next().ok_or("the key is missing")?;
    let key = base64::engine::general_purpose::STANDARD.decode(key).map_err(|_| "the key is not base64")?;
    let pair = Keypair::from_protobuf_encoding(&key).map_err(|_| "the key cannot be decoded")?;
    pair.clone().try_into_ed25519().map_err(|_| "the key is not an Ed25519 key")?;
    Ok(Identity(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Identity::load_or_create(dir.path()).expect("made");
        let second = Identity::load_or_create(dir.path()).expect("loaded");
        assert_eq!(first.peer_id(), second.peer_id());
        assert!(public_key(&first.peer_id()).is_some());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(dir.path().join(FILE)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_identity_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        for damaged in ["", "something else", "atmosphere-identity-v1\n", "atmosphere-identity-v1\n!!\n"] {
            fs::write(&path, damaged).expect("written");
            let error = Identity::load_or_create(dir.path()).expect_err("damaged");
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("read"), damaged);
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let identity = Identity::generate();
        assert_eq!(format!("{identity:?}"), format!("Identity(PeerId({:?}))", identity.peer_id().to_base58()));
    }
}
