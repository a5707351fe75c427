//! A pairing as its owner sees it, on either side.

use serde::Serialize;

use crate::capability::PeerId;
use crate::mesh::member::Role;

/// Which side this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PairSide {
    /// It shows the code and lets the other in.
    Offers,
    /// It was given the code and wants to come in.
    Joins,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PairStage {
    /// For somebody with the code; or, on the other side, looking for who shows it.
    Waiting,
    /// Both machines have the same code. Now the person here is asked.
    Asking,
    /// The person here said yes.
    Agreed,
    /// Both said yes, and the newcomer is in.
    Joined,
    /// It came to nothing; `problem` says why.
    Ended,
}

impl PairStage {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Joined | Self::Ended)
    }
}

/// A pairing as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairView {
    /// Names it.
    pub id: String,
    /// Grows with every change.
    pub revision: u64,
    /// Which side this node is.
    pub side: PairSide,
    /// How far it is.
    pub stage: PairStage,
    /// The code, on the side that shows it. For the two people, and for no log.
    pub code: Option<String>,
    /// The mesh's name, once it is known.
    pub mesh: Option<String>,
    /// What the newcomer becomes, once it is known.
    pub role: Option<Role>,
    /// The other node.
    pub node: Option<PeerId>,
    /// What it calls itself.
    pub node_name: Option<String>,
    /// What both screens show.
    pub check: Option<String>,
    /// Whether the other side's person said yes. The newcomer learns it by being let in.
    pub far_agreed: bool,
    /// Wrong codes that may still be tried, on the side that shows it.
    pub attempts_left: Option<u32>,
    /// Until when the present stage lasts, Unix milliseconds.
    pub expires_ms: u64,
    /// Why it came to nothing, and what to do.
    pub problem: Option<String>,
}

/// A name as another node gives it, without what could steer a terminal.
#[must_use]
pub fn clean_name(name: &str) -> String {
    const MAX_CHARS: usize = 63;
    let clean: String = name.chars().filter(|char| !char.is_control()).take(MAX_CHARS).collect();
    clean.trim().to_owned()
}
