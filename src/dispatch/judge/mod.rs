//! A second opinion on what a doubtful question means, from a stronger embedder of the mesh: this node's own or another's.
//!
//! The router decides at once, and says when it is not sure what a question means and that matters. Then the judge
//! is asked for the question's vector, and the router decides again, through the [lens](crate::router::Lens) of the judge's
//! space. What this promises:
//!
//! * **Never in the way.** The judge is asked only when it is predicted to answer within the owner's limit, and only until that is
//!   over. Whatever is late or fails leaves the first decision in place, and that judge rests for a while.
//! * **Only who knows better.** The texts of the mesh are read by the judge in the background, once there were doubts; until
//!   it has read all, nobody is asked, and one that tells the mesh's own texts apart no better than this node does is
//!   never asked (`keeper`).
//! * **Once.** One question for a request, one for equal questions that come together, none for a question whose answer is
//!   remembered; a few under way at most.
//! * **Within the mesh.** Nobody is asked who costs money: that would be somebody outside. An owner may keep questions on this
//!   node, and so does a request that prefers what is near.

mod answers;
mod ask;
mod bench;
mod choose;
mod counts;
mod flights;
mod keeper;
mod rests;
mod shelf;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ways::{Settings, Ways};
use crate::capability::{Intent, Preference};
use crate::router::{Candidate, Decision, Router, Said, Second};
use crate::telemetry::Metrics;
use answers::{Key, Known, key_of};
use ask::Trouble;
use bench::{Bench, Seat};
use counts::Counts;
use flights::{Flights, Outcome};

/// Questions under way at once: an embedder works them off one after the other, so that more would only be late.
const AT_ONCE: usize = 8;
/// The part of a request's time that may go by with asking.
const PART: u32 = 4;

/// Asks for second opinions.
pub(super) struct Judge {
    bench: Arc<Bench>,
    flights: Flights,
    places: Arc<Semaphore>,
    counts: Counts,
}

/// A doubtful question before somebody who could say more.
struct Case {
    seat: Arc<Seat>,
    text: String,
    key: Key,
}

impl Judge {
    pub(super) fn new(ways: Arc<Ways>, settings: &Settings) -> Self {
        Self {
            bench: Arc::new(Bench::new(ways, settings)),
            flights: Flights::default(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            counts: Counts::default(),
        }
    }

    /// Counts what happens among these metrics.
    pub(super) fn register(&self, metrics: &Metrics) {
        self.counts.register(metrics);
    }

    /// The decision with what is remembered about the question. Asks nobody.
    pub(super) fn recall(&self, intent: &Intent, first: Decision) -> Decision {
        if !first.doubtful || self.bench.within().is_zero() {
            return first;
        }
        let Some(case) = self.case(intent) else { return first };
        match self.bench.answers.get(&case.key) {
            Some(known) => self.decide(intent, first, &case, &known, None),
            None => first,
        }
    }

    /// The decision with a second opinion, where that is worth it.
    pub(super) async fn hear(&self, intent: &Intent, first: Decision) -> Decision {
        if !first.doubtful || self.bench.within().is_zero() {
            return first;
        }
        // Most requests do not come here, and need not carry what this takes.
        let decision = self.consult(intent, first).boxed().await;
        self.counts.opinion(&decision);
        decision
    }

    async fn consult(&self, intent: &Intent, first: Decision) -> Decision {
        self.counts.doubt();
        keeper::doubted(&self.bench);
        let Some(case) = self.case(intent) else { return first };
        if let Some(known) = self.bench.answers.get(&case.key) {
            return self.decide(intent, first, &case, &known, None);
        }
        let within = self.bench.within().min(intent.deadline / PART);
        let near = intent.preference == Preference::Location;
        let Some(candidate) = self.bench.holder(&case.seat.space, near, &[case.text.as_str()], within) else {
            return first;
        };
        let asking = asked(Arc::clone(&self.bench), candidate.clone(), &case, within);
        let place = || Arc::clone(&self.places).try_acquire_owned().ok();
        let Some(flight) = self.flights.board(case.key, place, asking) else { return first };
        let began = Instant::now();
        let outcome = flight.await;
        let waited = began.elapsed();
        let said = match outcome {
            Ok(known) => return self.decide(intent, first, &case, &known, Some(waited)),
            Err(Trouble::Late) => Said::Late(within),
            Err(Trouble::Failed(why)) => Said::Failed(why),
        };
        let second = Second {
            node: candidate.node,
            node_name: candidate.node_name,
            model: candidate.capability.name.clone(),
            said,
            remembered: false,
            elapsed: waited,
            first: first.taken.clone(),
        };
        Decision { elapsed: first.elapsed + waited, ..first.with_second(second) }
    }

    /// The question, when there is somebody who has read all that this mesh is about.
    fn case(&self, intent: &Intent) -> Option<Case> {
        let seat = self.bench.seat()?;
        if !self.bench.router().fits(&seat.lens) {
            return None;
        }
        let text = ask::shortened(&Router::question_of(intent)?).to_owned();
        let key = key_of(&seat.space, &text);
        Some(Case { seat, text, key })
    }

    /// The decision through the judge's lens. `waited`: for how long, or `None` when it was known from before.
    fn decide(
        &self,
        intent: &Intent,
        first: Decision,
        case: &Case,
        known: &Known,
        waited: Option<Duration>,
    ) -> Decision {
        let Known { vector, node, node_name, model } = known;
        let again = self.bench.router().decide_through(intent, &case.seat.lens, vector);
        if again.no_route.is_some() {
            // The mesh has just changed; the first candidates are still worth trying.
            return first;
        }
        let said = if again.comes_to(&first) { Said::Agreed } else { Said::Changed };
        let second = Second {
            node: *node,
            node_name: Arc::clone(node_name),
            model: model.clone(),
            said,
            remembered: waited.is_none(),
            elapsed: waited.unwrap_or_default(),
            first: first.taken.clone(),
        };
        let elapsed = first.elapsed + again.elapsed + waited.unwrap_or_default();
        Decision { elapsed, doubtful: true, ..again }.with_second(second)
    }
}

/// Asks for the vector of a question, remembers it, and lets who fails at it rest.
fn asked(
    bench: Arc<Bench>,
    candidate: Candidate,
    case: &Case,
    within: Duration,
) -> impl Future<Output = Outcome> + Send + use<> {
    let (text, key, dim) = (case.text.clone(), case.key, case.seat.dim);
    async move {
        let who = (candidate.node, candidate.capability.id.clone());
        let vector = bench.read(&candidate, &[text.as_str()], within).await.map(|mut vectors| vectors.pop());
        match vector {
            Ok(Some(vector)) if vector.len() == dim => {
                bench.rested().succeed(&who);
                let Candidate { node, node_name, capability, .. } = candidate;
                let known = Known { vector, node, node_name, model: capability.name.clone() };
                Ok(bench.answers.put(key, known))
            }
            Ok(_) => {
                bench.rested().fail(who, Instant::now());
                Err(Trouble::Failed("its vectors are of another length than before".to_owned()))
            }
            Err(trouble) => {
                bench.rested().fail(who, Instant::now());
                Err(trouble)
            }
        }
    }
}
