//! Tells this process's own handshakes from those of any other, by the nonces.
//!
//! A node that dials its own address meets itself, and a node whose data directory was copied meets another one with
//! its identity. The PeerId is the same in both cases. So the second half of every nonce is a keyed hash of the
//! first, by a secret of this process: whoever sees an own nonce come in speaks with itself.

use std::fmt;

/// Bytes of a nonce that are random; the rest marks the process.
const RANDOM: usize = 16;

/// Makes this process's nonces and knows them again.
#[derive(Clone)]
pub struct Instance {
    secret: [u8; 32],
}

impl Instance {
    /// That of a process with this secret, which must be random.
    #[must_use]
    pub const fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// A nonce of which this half is random.
    #[must_use]
    pub fn nonce(&self, random: [u8; RANDOM]) -> [u8; 32] {
        let mut nonce = [0; 32];
        nonce[..RANDOM].copy_from_slice(&random);
        nonce[RANDOM..].copy_from_slice(&self.mark(&random));
        nonce
    }

    /// Whether this process made that nonce.
    #[must_use]
    pub fn made(&self, nonce: &[u8; 32]) -> bool {
        self.mark(&nonce[..RANDOM]) == nonce[RANDOM..]
    }

    fn mark(&self, random: &[u8]) -> [u8; RANDOM] {
        let hash = blake3::keyed_hash(&self.secret, random);
        let mut mark = [0; RANDOM];
        mark.copy_from_slice(&hash.as_bytes()[..RANDOM]);
        mark
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_own_nonces_and_no_others() {
        let (here, there) = (Instance::new([1; 32]), Instance::new([2; 32]));
        let nonce = here.nonce([7; RANDOM]);
        assert!(here.made(&nonce) && !there.made(&nonce));
        assert!(!here.made(&[0; 32]) && !here.made(&there.nonce([7; RANDOM])));
    }
}
