//! An [`Intent`] becomes a [`Decision`]: who shall do it, who else could, who could not, and why.
//!
//! The order of a decision: what the *target* means (`target`), what a candidate must be able to
//! (`requirements`), what the question *means* (`meaning`, for `auto` only; what a mesh is about is learnt in the
//! background, `training`), and who will answer
//! *soonest and best* (`score`, from what [`Signals`] measured). Each step can be read in the decision.
//!
//! Where it is not sure what a question means and that matters, the decision says so. Whoever runs it may ask a stronger
//! embedder then, and have the same decided again through a [`Lens`] with what that one said.
//!
//! The router does no I/O and awaits nothing. An exact name costs a look-up, whatever the size of the mesh;
//! `auto` costs a search by meaning and one pass over a few bytes per capability.

mod affinity;
mod aliases;
mod bars;
mod choice;
mod choose;
pub mod classifier;
mod cooldown;
mod decision;
pub mod doubt;
mod estimate;
mod facts;
mod lens;
mod lesson;
mod likeness;
mod log;
mod meaning;
pub mod phrases;
mod prototypes;
mod reason;
mod regret;
mod requirements;
mod score;
mod second;
mod signals;
mod speciality;
mod subset;
mod sweep;
mod target;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod training;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::capability::{CapabilityId, Intent, Mark, PeerId, Target};
use crate::catalog::{Catalog, Snapshot};

pub use aliases::{Alias, Aliases, Prefer};
pub use decision::{
    Candidate, Decision, MAX_CANDIDATES, MAX_REJECTED, NoRoute, Parts, Rejected, Said, Second, Step, Taken, Weights,
};
pub use lens::Lens;
pub use lesson::Lesson;
pub use log::{Attempt, DecisionLog, Logged, Outcome, Role};
pub use signals::{InFlight, Observation, Signals};

use affinity::Affinity;
use facts::Facts;
use likeness::Prototypes;
use training::Trainer;

/// What an owner may set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Requests that begin alike are better off on a node that has read that beginning.
    pub affinity: bool,
    /// Aliases besides the built-in ones, or in place of them.
    pub aliases: BTreeMap<String, Alias>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { affinity: true, aliases: BTreeMap::new() }
    }
}

/// Decides who runs an intent. Cheap to share; every method may be called from anywhere at any time.
pub struct Router {
    catalog: Arc<Catalog>,
    signals: Arc<Signals>,
    log: Arc<DecisionLog>,
    aliases: Aliases,
    prototypes: Arc<Prototypes>,
    trainer: Trainer,
    /// `None` when the owner does not want it.
    affinity: Option<Affinity>,
    own: PeerId,
    facts: ArcSwap<Facts>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Router {
    /// A router over this catalog and these measurements, on the node `own`.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, signals: Arc<Signals>, settings: Settings, own: PeerId) -> Self {
        let prototypes = Arc::new(Prototypes::new(&catalog));
        let trainer = Trainer::new(Arc::clone(&prototypes));
        Self {
            catalog,
            signals,
            log: Arc::default(),
            aliases: Aliases::with(settings.aliases),
            prototypes,
            trainer,
            affinity: settings.affinity.then(Affinity::default),
            own,
            facts: ArcSwap::default(),
        }
    }

    /// Who shall run this intent. Only decides: nothing is sent, and nothing is logged.
    #[must_use]
    pub fn decide(&self, intent: &Intent) -> Decision {
        let now = Instant::now();
        let mut decision = self.decide_at(intent, now);
        decision.elapsed = now.elapsed();
        decision
    }

    /// The same, with what was measured as it is at that time.
    #[must_use]
    pub fn decide_at(&self, intent: &Intent, now: Instant) -> Decision {
        self.decide_among(intent, false, None, now)
    }

    /// Decides again with what another embedder says of the question: its vector there, and this mesh through its lens.
    #[must_use]
    pub fn decide_through(&self, intent: &Intent, lens: &Lens, vector: &[f32]) -> Decision {
        let now = Instant::now();
        let mut decision = self.decide_among(intent, false, Some((lens, vector)), now);
        decision.elapsed = now.elapsed();
        decision
    }

    /// The text whose meaning is matched; `None` when there is none.
    #[must_use]
    pub fn question_of(intent: &Intent) -> Option<Cow<'_, str>> {
        choose::question_of(intent)
    }

    /// What another embedder must read to judge what this router judges. `None` while this router itself has not learnt
    /// what the mesh is about now.
    #[must_use]
    pub fn lesson(&self) -> Option<Lesson> {
        let taught = self.trainer.taught()?;
        let lesson = Lesson::of(&self.catalog.snapshot(), &self.prototypes)?;
        (taught.subjects == lesson.subjects).then_some(lesson)
    }

    /// Whether a lens shows the mesh as this router itself knows it.
    #[must_use]
    pub fn fits(&self, lens: &Lens) -> bool {
        self.trainer.taught().is_some_and(|taught| taught.subjects == lens.taught().subjects)
    }

    /// The share of its lesson's texts that this router takes for what they are when they are held back from it; to be
    /// compared with a lens that fits. `None` before it has learnt anything.
    #[must_use]
    pub fn right(&self) -> Option<f32> {
        self.trainer.taught().map(|taught| taught.classifier.right_of_held())
    }

    /// Who has this model now, best first, those that rest after a failure last: for an answer that is lost unless somebody
    /// goes on with it.
    #[must_use]
    pub fn holders(&self, intent: &Intent, model: &str) -> Vec<Candidate> {
        let intent = Intent { target: Target::Named(model.to_owned()), ..intent.clone() };
        self.decide_among(&intent, true, None, Instant::now()).candidates
    }

    fn decide_among(&self, intent: &Intent, wakes: bool, through: Option<(&Lens, &[f32])>, now: Instant) -> Decision {
        let snapshot = self.catalog.snapshot();
        let facts = || match through {
            Some((lens, _)) => lens.facts_of(&snapshot),
            None => self.facts_of(&snapshot),
        };
        let warm = self.affinity.as_ref().map(|affinity| affinity.warm(&intent.prefix, now)).unwrap_or_default();
        let signals = self.signals.read();
        let world = choice::World {
            snapshot: &snapshot,
            facts: &facts,
            signals: &signals,
            aliases: &self.aliases,
            prototypes: &self.prototypes,
            trainer: &self.trainer,
            warm: &warm,
            wakes,
            seen: through.map(|(_, vector)| vector),
            now,
        };
        let mut decision = choose::decide(&world, intent);
        drop(signals);
        decision.id = uuid::Uuid::now_v7().simple().to_string();
        decision
    }

    /// Reads what it needs off the catalog's present snapshot, so that the next decision need not, and has what the mesh
    /// is about learnt in the background, when that changed. Worth calling after each update of the catalog.
    pub fn refresh(&self) {
        let snapshot = self.catalog.snapshot();
        self.trainer.look(&snapshot);
        self.facts_of(&snapshot);
    }

    /// Like [`refresh`](Self::refresh), but learns before it returns, which takes up to a second in a usual mesh: for
    /// whoever wants the decisions of a node that has been running for a while.
    pub fn learn(&self) {
        let snapshot = self.catalog.snapshot();
        self.trainer.learn(&snapshot);
        self.facts_of(&snapshot);
    }

    /// A decision is carried out, for the request of that name: it is kept, and what it tells of is learnt.
    pub fn carry_out(&self, decision: &Arc<Decision>, request_id: &str, now: Instant) {
        self.log.record(Arc::clone(decision), request_id);
        self.signals.choose(&decision.candidates, now);
    }

    /// A prompt with these marks is being read there: what begins alike is better off there too.
    pub fn is_read(&self, prefix: &[Mark], node: PeerId, capability: &CapabilityId, now: Instant) {
        if let Some(affinity) = &self.affinity
            && !prefix.is_empty()
        {
            affinity.remember(prefix, node, capability, now);
        }
    }

    /// What it decides over.
    #[must_use]
    pub const fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The measurements that it decides by.
    #[must_use]
    pub const fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    /// The last decisions that were run.
    #[must_use]
    pub const fn log(&self) -> &Arc<DecisionLog> {
        &self.log
    }

    /// The names that it understands besides those of models and projects.
    #[must_use]
    pub const fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// This node.
    #[must_use]
    pub const fn own(&self) -> PeerId {
        self.own
    }

    fn facts_of(&self, snapshot: &Arc<Snapshot>) -> Arc<Facts> {
        Facts::current(&self.facts, snapshot, self.trainer.taught())
    }
}
