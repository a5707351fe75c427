//! What asking and preparing share: who sits as judge, who rests, what was said before, and the way to the nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::ways::{Settings, Ways};
use super::answers::Answers;
use super::ask::{self, Trouble};
use super::choose::{self, Space};
use super::rests::Rests;
use crate::capability::PeerId;
use crate::router::{Candidate, Lens, Router};

/// Who is asked: the holders of a space, and this mesh as it is seen there.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) space: Space,
    pub(super) lens: Lens,
    /// Length of its vectors.
    pub(super) dim: usize,
}

/// What asking and preparing share.
pub(super) struct Bench {
    ways: Arc<Ways>,
    /// The owner's limit for an answer; zero: nobody is ever asked.
    within: Duration,
    /// Whether other nodes may be asked.
    elsewhere: bool,
    seat: ArcSwapOption<Seat>,
    rests: Mutex<Rests>,
    pub(super) answers: Answers,
    /// When there was a doubt last.
    doubted: Mutex<Option<Instant>>,
    pub(super) doubts: Arc<Notify>,
    keeping: AtomicBool,
}

impl Bench {
    pub(super) fn new(ways: Arc<Ways>, settings: &Settings) -> Self {
        Self {
            ways,
            within: settings.second_opinion,
            elsewhere: settings.second_opinion_elsewhere,
            seat: ArcSwapOption::empty(),
            rests: Mutex::default(),
            answers: Answers::default(),
            doubted: Mutex::default(),
            doubts: Arc::default(),
            keeping: AtomicBool::new(false),
        }
    }

    pub(super) const fn within(&self) -> Duration {
        self.within
    }

    pub(super) fn router(&self) -> &Router {
        &self.ways.router
    }

    /// Who sits as judge now.
    pub(super) fn seat(&self) -> Option<Arc<Seat>> {
        self.seat.load_full()
    }

    /// Whoever sits makes room for this one, or for nobody.
    pub(super) fn seats(&self, seat: Option<Seat>) {
        self.seat.store(seat.map(Arc::new));
    }

    /// This node, where no other may be asked: its owner says so, or it has something of its own that others do not hear of.
    /// What that is about would have to be read there.
    pub(super) fn only(&self) -> Option<PeerId> {
        let own = self.ways.router.own();
        (!self.elsewhere || self.keeps_something(own)).then_some(own)
    }

    fn keeps_something(&self, own: PeerId) -> bool {
        let snapshot = self.ways.router.catalog().snapshot();
        let mut fields = snapshot.entries().iter().filter(|entry| {
            entry.node == own && (entry.capability.project.is_some() || entry.capability.domain.is_some())
        });
        fields.any(|entry| !self.ways.local.shares(&entry.capability.id))
    }

    pub(super) fn rested(&self) -> MutexGuard<'_, Rests> {
        self.rests.lock()
    }

    /// Whoever of this space is predicted to have read the texts soonest, within that time; `near`: on this node.
    pub(super) fn holder(&self, space: &Space, near: bool, texts: &[&str], within: Duration) -> Option<Candidate> {
        let only = if near { Some(self.ways.router.own()) } else { self.only() };
        let now = Instant::now();
        let rests =
            |candidate: &Candidate| self.rests.lock().has(&(candidate.node, candidate.capability.id.clone()), now);
        choose::holder(&self.ways.router, space, only, ask::tokens(texts), within, rests)
    }

    /// The vectors of these texts, as this candidate reads them.
    pub(super) async fn read(
        &self,
        candidate: &Candidate,
        texts: &[&str],
        within: Duration,
    ) -> Result<Vec<Vec<f32>>, Trouble> {
        ask::embed(&self.ways, candidate, texts, within).await
    }

    /// There is a doubt. Whether somebody must begin to prepare for such.
    pub(super) fn doubt(&self, now: Instant) -> bool {
        *self.doubted.lock() = Some(now);
        self.doubts.notify_one();
        !self.keeping.swap(true, Ordering::AcqRel)
    }

    /// Nobody prepares any more.
    pub(super) fn left(&self) {
        self.keeping.store(false, Ordering::Release);
    }

    /// How long there was no doubt.
    pub(super) fn quiet(&self, now: Instant) -> Duration {
        self.doubted.lock().map_or(Duration::MAX, |at| now.saturating_duration_since(at))
    }
}
