//! Where an admin's node keeps the one code that it offers, for the gate and for its owner.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::code::Code;
use super::exchange::{Parties, Session, Side, Started};
use super::offer::{Away, Offer, Pass};
use super::view::PairView;
use crate::capability::PeerId;
use crate::mesh::member::Role;

/// What an admin's node tells of itself, once the newcomer had the right code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What the newcomer becomes.
    pub role: Role,
    /// Until when it must have come in, Unix seconds.
    pub expires: u64,
    /// What this node calls itself.
    pub name: String,
}

/// The one code that a node offers at a time.
#[derive(Debug)]
pub struct Desk {
    mesh: String,
    open: Mutex<Option<Open>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Open {
    id: String,
    own_name: String,
    offer: Offer,
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Desk {
    /// A desk without a code, of the mesh with this name.
    #[must_use]
    pub fn new(mesh: String) -> Self {
        Self { mesh, open: Mutex::default(), changes: watch::Sender::default() }
    }

    /// Offers a new code; one that was offered before can be used no more.
    #[must_use]
    pub fn offer(&self, role: Role, life: Duration, own_name: String) -> PairView {
        let code = Code::random();
        let id = format!("{:016x}", rand::random::<u64>());
        tracing::info!(number = code.number(), %role, "offering a spoken code to a nearby machine");
        let open = Open { id, own_name, offer: Offer::new(code, role, life, now_ms()) };
        let view = open.offer.view(&open.id, &self.mesh);
        *self.open.lock() = Some(open);
        self.changed();
        view
    }

    /// The pairing as it is now; `None` when there is none with this id, or no longer.
    #[must_use]
    pub fn view(&self, id: &str) -> Option<PairView> {
        let mut open = self.open.lock();
        let open = open.as_mut().filter(|open| open.id == id)?;
        open.offer.tick(now_ms());
        Some(open.offer.view(&open.id, &self.mesh))
    }

    /// A notice of each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The owner's answer, with what a yes leads to; `None` when there is no such pairing.
    #[must_use]
    pub fn answer(&self, id: &str, yes: bool) -> Option<Option<Pass>> {
        let pass = {
            let mut open = self.open.lock();
            let open = open.as_mut().filter(|open| open.id == id)?;
            open.offer.answers(yes, now_ms())
        };
        tracing::info!(yes, "the owner of this node answered about a pairing");
        self.changed();
        Some(pass)
    }

    /// What the yes led to could not be done.
    pub fn fail(&self, id: &str, problem: String) {
        if let Some(open) = self.open.lock().as_mut().filter(|open| open.id == id) {
            open.offer.fails(problem);
        }
        self.changed();
    }

    /// A newcomer begins: its half of the exchange is answered with this node's.
    ///
    /// # Errors
    ///
    /// When no such code is offered.
    pub fn begins(&self, number: u32, parties: Parties) -> Result<Started, Away> {
        let mut open = self.open.lock();
        let open = open.as_mut().ok_or(Away::Unknown)?;
        let code = open.offer.begins(number, now_ms())?;
        Ok(Started::new(Side::Issuer, code, parties))
    }

    /// A newcomer proves that it had the right code. What it is told then.
    ///
    /// # Errors
    ///
    /// When it had not, or the code cannot be used any more.
    pub fn proves(&self, node: PeerId, name: &str, mac: &[u8], session: &Session) -> Result<Terms, Away> {
        let proved = {
            let mut open = self.open.lock();
            let open = open.as_mut().ok_or(Away::Unknown)?;
            let proved = open.offer.proves(node, name, mac, session, now_ms());
            proved.map(|()| Terms {
                role: open.offer.role(),
                expires: open.offer.expires_ms() / 1000,
                name: open.own_name.clone(),
            })
        };
        match &proved {
            Ok(_) => tracing::info!(%node, "a nearby machine has the spoken code; both sides are asked"),
            Err(away) => tracing::warn!(%node, reason = %away, "a nearby machine was sent away"),
        }
        self.changed();
        proved
    }

    /// The newcomer's person said no. Whether it was the one of this pairing.
    pub fn declined(&self, node: &PeerId, mac: &[u8]) -> bool {
        let known = self.open.lock().as_mut().is_some_and(|open| open.offer.declined(node, mac));
        if known {
            tracing::info!(%node, "the person at the nearby machine said no");
            self.changed();
        }
        known
    }

    /// A newcomer presents an invite; see [`Offer::presents`].
    ///
    /// # Errors
    ///
    /// When the invite would come of this node's pairing, and its time has not come.
    pub fn presents(
        &self,
        node: &PeerId,
        id: &[u8],
        is_proof: impl FnOnce(&[u8; 8], &[u8; 16]) -> bool,
    ) -> Result<(), Away> {
        let presented = match self.open.lock().as_mut() {
            Some(open) => open.offer.presents(node, id, is_proof, now_ms()),
            None => Ok(()),
        };
        self.changed();
        presented
    }

    /// An invite was redeemed.
    pub fn redeemed(&self, id: &[u8]) {
        if let Some(open) = self.open.lock().as_mut() {
            open.offer.redeemed(id);
        }
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}
