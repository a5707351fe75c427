//! Admission to one provider: so many calls run, so many wait in order, the rest is turned away.
//!
//! A waiter knows its place. Leaving the queue, by being dropped, is safe at any moment: a permit that was
//! already on its way to somebody who has left goes to the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::capability::Load;

/// Weight of the newest call in the mean service time: about the last five calls matter.
const NEWEST: f64 = 0.2;
/// Service time of a provider that has not answered yet.
const USUAL_SERVICE: Duration = Duration::from_secs(5);
/// Bounds of what a client is told to wait.
const RETRY_AFTER: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// Admission to one provider.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: u32,
    limit: u32,
    queue: VecDeque<Waiter>,
    next: u64,
    service_s: f64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    admit: oneshot::Sender<Permit>,
}

/// The right to run one call, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    since: Instant,
}

/// A place in the queue, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    ticket: u64,
    pub(super) admitted: oneshot::Receiver<Permit>,
}

/// What became of a call at the gate.
#[derive(Debug)]
pub(super) enum Entry {
    /// It may run.
    Now(Permit),
    /// It must wait.
    Wait(Place),
    /// The queue is full; come again after this time.
    Full(Duration),
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        let state =
            State { running: 0, limit: 1, queue: VecDeque::new(), next: 0, service_s: USUAL_SERVICE.as_secs_f64() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// A call wants in, where `limit` may run and `places` may wait. The limit is the provider's present one.
    pub(super) fn enter(self: &Arc<Self>, limit: u32, places: usize) -> Entry {
        let mut state = self.state.lock();
        state.limit = limit.max(1);
        // Nobody overtakes those who wait, even if a place has become free for more than one.
        if state.running < state.limit && state.queue.is_empty() {
            state.running += 1;
            return Entry::Now(self.permit());
        }
        if state.queue.len() >= places {
            return Entry::Full(state.retry_after());
        }
        let (admit, admitted) = oneshot::channel();
        let ticket = state.next;
        state.next += 1;
        state.queue.push_back(Waiter { ticket, admit });
        drop(state);
        // The limit may just have been raised.
        self.admit_waiters();
        Entry::Wait(Place { gate: Arc::clone(self), ticket, admitted })
    }

    /// How busy it is.
    pub(super) fn load(&self) -> Load {
        let state = self.state.lock();
        Load {
            running: state.running,
            queued: u32::try_from(state.queue.len()).unwrap_or(u32::MAX),
            limit: state.limit,
        }
    }

    fn permit(self: &Arc<Self>) -> Permit {
        Permit { gate: Arc::clone(self), since: Instant::now() }
    }

    /// Gives free places to those who wait longest.
    fn admit_waiters(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            if state.running >= state.limit {
                return;
            }
            let Some(waiter) = state.queue.pop_front() else { return };
            state.running += 1;
            drop(state);
            // If the waiter has left, the permit comes back, is dropped here, and frees its place again: the
            // lock must not be held, and the loop goes on with the next.
            drop(waiter.admit.send(self.permit()));
        }
    }

    fn leave(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.running = state.running.saturating_sub(1);
    }
}

impl State {
    /// When those before a newcomer will have been served.
    fn retry_after(&self) -> Duration {
        let turns = (self.queue.len() as f64 + 1.0) / f64::from(self.limit);
        Duration::from_secs_f64((self.service_s * turns).min(3600.0)).clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end())
    }
}

impl Permit {
    /// The call was served: its time counts for what others are told to wait.
    pub(super) fn served(self) {
        let served = self.since.elapsed();
        let mut state = self.gate.state.lock();
        state.service_s += (served.as_secs_f64() - state.service_s) * NEWEST;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave();
        self.gate.admit_waiters();
    }
}

impl Place {
    /// 1 is next; 0 once admitted.
    pub(super) fn position(&self) -> u32 {
        let state = self.gate.state.lock();
        let place = state.queue.iter().position(|waiter| waiter.ticket == self.ticket);
        place.map_or(0, |place| u32::try_from(place + 1).unwrap_or(u32::MAX))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.gate.state.lock().queue.retain(|waiter| waiter.ticket != ticket);
        // A permit that has arrived is dropped with the receiver, and goes to the next.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(entry: Entry) -> Place {
        match entry {
            Entry::Wait(place) => place,
            other => panic!("expected a place in the queue, got {other:?}"),
        }
    }

    fn now(entry: Entry) -> Permit {
        match entry {
            Entry::Now(permit) => permit,
            other => panic!("expected a permit, got {other:?}"),
        }
    }

    #[test]
    fn calls_are_admitted_in_order_and_the_rest_is_told_when_to_come_again() {
        let gate = Gate::new();
        let first = now(gate.enter(1, 2));
        let mut second = wait(gate.enter(1, 2));
        let mut third = wait(gate.enter(1, 2));
        assert_eq!((second.position(), third.position()), (1, 2));
        assert!(matches!(gate.enter(1, 2), Entry::Full(wait) if RETRY_AFTER.contains(&wait)));
        assert_eq!(gate.load(), Load { running: 1, queued: 2, limit: 1 });
        drop(first);
        let permit = second.admitted.try_recv().expect("admitted");
        assert_eq!((second.position(), third.position()), (0, 1));
        assert!(third.admitted.try_recv().is_err());
        permit.served();
        assert!(third.admitted.try_recv().is_ok());
        drop((second, third));
        assert_eq!(gate.load(), Load { running: 0, queued: 0, limit: 1 });
    }

    #[test]
    fn who_leaves_the_queue_passes_the_place_on() {
        let gate = Gate::new();
        let first = now(gate.enter(1, 8));
        let second = wait(gate.enter(1, 8));
        let mut third = wait(gate.enter(1, 8));
        let mut fourth = wait(gate.enter(1, 8));
        drop(second);
        assert_eq!(third.position(), 1);
        drop(first);
        // Admitted, but gone before it took the permit.
        assert_eq!(third.position(), 0);
        third.admitted.close();
        drop(third);
        drop(fourth.admitted.try_recv().expect("the permit went on"));
        assert_eq!(gate.load().running, 0);
    }

    #[test]
    fn a_raised_limit_admits_at_once() {
        let gate = Gate::new();
        let _first = now(gate.enter(1, 8));
        let mut second = wait(gate.enter(1, 8));
        let mut third = wait(gate.enter(3, 8));
        assert!(second.admitted.try_recv().is_ok());
        assert!(third.admitted.try_recv().is_ok());
    }
}
