//! A code that is offered, as a state machine without I/O: who may try, who was right, who said what.
//!
//! ```text
//! Waiting --right proof--> Asking --owner: yes--> Agreed --newcomer redeems--> Joined
//!    |                       |                      |
//!    '-- wrong x3, time -----'---- a no, time ------'----> Ended
//! ```
//!
//! A wrong proof is counted before anybody hears of it, and the third one voids the code. One newcomer at a time has
//! the right code; whoever comes beside it is sent away.

use std::time::Duration;

use super::code::Code;
use super::exchange::{Said, Session};
use super::view::{PairSide, PairStage, PairView, clean_name};
use crate::capability::PeerId;
use crate::mesh::member::Role;

/// Wrong proofs that void a code. With the words' 16 bits, whoever guesses is right once in 21,845 codes.
pub const ATTEMPTS: u32 = 3;

/// How long a code can be used: long enough to walk to the other machine.
pub const CODE_LIFE: Duration = Duration::from_secs(5 * 60);

/// Longest life of a code.
pub const MAX_CODE_LIFE: Duration = Duration::from_secs(30 * 60);

/// How long the two people have for their answers, and the newcomer then for coming in.
pub const ANSWER_LIFE: Duration = Duration::from_secs(2 * 60);

/// Why a newcomer is sent away. The text is for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Away {
    /// No such code is known here.
    #[error("this node shows no code with that number")]
    Unknown,
    /// The code is known, and cannot be used.
    #[error("{0}")]
    Closed(String),
    /// The words are not the right ones.
    #[error("that is not the code that is shown here ({0})")]
    Wrong(String),
    /// A person has to say yes first.
    #[error("the person at the other machine has not said yes yet")]
    NotYet,
}

/// What an owner's yes leads to: an invite for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// For whom.
    pub node: PeerId,
    /// As what.
    pub role: Role,
    /// The invite's id.
    pub id: [u8; 8],
    /// Its secret.
    pub secret: [u8; 16],
    /// Until when it can be used, Unix milliseconds.
    pub expires_ms: u64,
}

#[derive(Debug)]
struct Guest {
    node: PeerId,
    name: String,
    session: Session,
    agreed: bool,
}

/// A code that is offered.
#[derive(Debug)]
pub struct Offer {
    code: Code,
    role: Role,
    attempts_left: u32,
    stage: PairStage,
    expires_ms: u64,
    guest: Option<Guest>,
    /// For the owner; and, in other words, for a newcomer that comes late.
    problem: Option<(String, &'static str)>,
    revision: u64,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The way out of most failures.
const AGAIN: &str = "for a new code, run atmosphere invite --nearby again";

impl Offer {
    /// Offers a code.
    #[must_use]
    pub fn new(code: Code, role: Role, life: Duration, now_ms: u64) -> Self {
        Self {
            code,
            role,
            attempts_left: ATTEMPTS,
            stage: PairStage::Waiting,
            expires_ms: now_ms.saturating_add(ms(life)),
            guest: None,
            problem: None,
            revision: 1,
        }
    }

    /// What the newcomer becomes.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Until when the present stage lasts, Unix milliseconds.
    #[must_use]
    pub const fn expires_ms(&self) -> u64 {
        self.expires_ms
    }

    /// As its owner sees it.
    #[must_use]
    pub fn view(&self, id: &str, mesh: &str) -> PairView {
        PairView {
            id: id.to_owned(),
            revision: self.revision,
            side: PairSide::Offers,
            stage: self.stage,
            code: Some(self.code.to_string()),
            mesh: Some(mesh.to_owned()),
            role: Some(self.role),
            node: self.guest.as_ref().map(|guest| guest.node),
            node_name: self.guest.as_ref().map(|guest| guest.name.clone()),
            check: self.guest.as_ref().map(|guest| guest.session.check()),
            far_agreed: self.guest.as_ref().is_some_and(|guest| guest.agreed),
            attempts_left: Some(self.attempts_left),
            expires_ms: self.expires_ms,
            problem: self.problem.as_ref().map(|(problem, _)| problem.clone()),
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now_ms: u64) {
        if now_ms < self.expires_ms {
            return;
        }
        match self.stage {
            PairStage::Waiting => self.end(format!("nobody used the code in time; {AGAIN}"), "that code ran out"),
            PairStage::Asking => {
                self.end(
                    format!("nobody here said yes in time; {AGAIN}"),
                    "nobody at the other machine said yes in time",
                );
            }
            PairStage::Agreed => self.end(
                format!("the other machine did not come in in time; {AGAIN}"),
                "the time for coming in with that code is over",
            ),
            PairStage::Joined | PairStage::Ended => {}
        }
    }

    /// A newcomer wants to begin an exchange. The code to do it with.
    ///
    /// # Errors
    ///
    /// When there is no such code, or it cannot be used.
    pub fn begins(&mut self, number: u32, now_ms: u64) -> Result<&Code, Away> {
        self.tick(now_ms);
        if number != self.code.number() {
            return Err(Away::Unknown);
        }
        match self.stage {
            PairStage::Waiting => Ok(&self.code),
            _ => Err(self.away()),
        }
    }

    /// A newcomer proves that it had the right code, or fails to.
    ///
    /// # Errors
    ///
    /// When it does, or somebody else was faster.
    pub fn proves(&mut self, node: PeerId, name: &str, mac: &[u8], session: &Session, now_ms: u64) -> Result<(), Away> {
        self.tick(now_ms);
        if self.stage != PairStage::Waiting {
            return Err(self.away());
        }
        if !session.is_proof(mac, Said::Joiner(name)) {
            self.attempts_left = self.attempts_left.saturating_sub(1);
            self.revision += 1;
            if self.attempts_left == 0 {
                self.end(
                    format!("the code is void: {ATTEMPTS} wrong ones were tried; {AGAIN}"),
                    "that code is void after too many wrong ones",
                );
                return Err(Away::Wrong("it is void now, after too many wrong ones; ask for a new one".into()));
            }
            let left = self.attempts_left;
            return Err(Away::Wrong(format!(
                "{left} more {} possible",
                if left == 1 { "try is" } else { "tries are" }
            )));
        }
        self.guest = Some(Guest { node, name: clean_name(name), session: session.clone(), agreed: false });
        self.advance(PairStage::Asking, now_ms);
        Ok(())
    }

    /// The owner says yes or no. What a yes leads to; it may be said again, and leads to the same.
    pub fn answers(&mut self, yes: bool, now_ms: u64) -> Option<Pass> {
        self.tick(now_ms);
        match (self.stage, yes) {
            (PairStage::Asking | PairStage::Agreed, true) => {
                if self.stage == PairStage::Asking {
                    self.advance(PairStage::Agreed, now_ms);
                }
                let guest = self.guest.as_ref()?;
                let (id, secret) = guest.session.invite();
                Some(Pass { node: guest.node, role: self.role, id, secret, expires_ms: self.expires_ms })
            }
            (PairStage::Asking | PairStage::Agreed, false) => {
                self.end("this side said no".into(), "the person at the other machine said no");
                None
            }
            (PairStage::Waiting, false) => {
                self.end("the code was taken back".into(), "that code was taken back");
                None
            }
            _ => None,
        }
    }

    /// Another code takes its place, or the yes could not be carried out.
    pub fn fails(&mut self, problem: String) {
        self.end(problem, "that code cannot be used any more");
    }

    /// The newcomer's person said no. Whether it was the one that this offer is for.
    pub fn declined(&mut self, node: &PeerId, mac: &[u8]) -> bool {
        let by_guest =
            self.guest.as_ref().is_some_and(|guest| guest.node == *node && guest.session.is_proof(mac, Said::Decline));
        if by_guest && !self.stage.is_over() {
            self.end("the person at the other machine said no".into(), "this side said no");
        }
        by_guest
    }

    /// A newcomer presents the invite that would come of this pairing, and proved that it has it when `is_proof` says so.
    /// `Ok`: it is none of this pairing's, or its time has come.
    ///
    /// # Errors
    ///
    /// When the owner has not said yes, or has said no.
    pub fn presents(
        &mut self,
        node: &PeerId,
        id: &[u8],
        is_proof: impl FnOnce(&[u8; 8], &[u8; 16]) -> bool,
        now_ms: u64,
    ) -> Result<(), Away> {
        self.tick(now_ms);
        let Some(guest) = &mut self.guest else { return Ok(()) };
        let (own_id, secret) = guest.session.invite();
        // What is wrong about a proof is for the invites to say: they know none with this id, or find it forged.
        if own_id != id || guest.node != *node || !is_proof(&own_id, &secret) {
            return Ok(());
        }
        if !guest.agreed {
            guest.agreed = true;
            self.revision += 1;
        }
        match self.stage {
            PairStage::Agreed | PairStage::Joined => Ok(()),
            PairStage::Asking => Err(Away::NotYet),
            PairStage::Waiting | PairStage::Ended => Err(self.away()),
        }
    }

    /// The newcomer is in.
    pub fn redeemed(&mut self, id: &[u8]) {
        let by_guest = self.guest.as_ref().is_some_and(|guest| guest.session.invite().0 == id);
        if by_guest && self.stage == PairStage::Agreed {
            self.stage = PairStage::Joined;
            self.revision += 1;
        }
    }

    fn advance(&mut self, stage: PairStage, now_ms: u64) {
        self.stage = stage;
        self.expires_ms = now_ms.saturating_add(ms(ANSWER_LIFE));
        self.revision += 1;
    }

    fn end(&mut self, problem: String, far: &'static str) {
        if self.stage.is_over() {
            return;
        }
        self.stage = PairStage::Ended;
        self.problem = Some((problem, far));
        self.revision += 1;
    }

    /// Why the code cannot be used now, for a newcomer.
    fn away(&self) -> Away {
        let why = match (self.stage, &self.problem) {
            (PairStage::Joined, _) => "that code was used already".to_owned(),
            (_, Some((_, far))) => (*far).to_owned(),
            _ => "another machine is being let in with that code".to_owned(),
        };
        Away::Closed(format!("{why} (ask for a new one: atmosphere invite --nearby)"))
    }
}
