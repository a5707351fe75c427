//! Answers that are under way, each shared by all who asked the same.
//!
//! Whoever reads drives the source, and what it yields is there for all. So nobody waits for another one's slow reading,
//! as long as the answer can be kept; the source is dropped, which ends the work, when the last reader has left.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, Shared, WeakShared};
use futures::{FutureExt as _, Stream};
use parking_lot::Mutex;

use super::question::{Form, Key, Question};
use super::shelf::{Answer, Head, Shelf};
use crate::capability::{Failure, Intent, Operation, Origin, Tenant};
use crate::dispatch::{DispatchError, Reply, ReplyBody};

/// What comes of running an intent.
pub type Running = BoxFuture<'static, Result<Reply, DispatchError>>;

type Departure = BoxFuture<'static, Result<Arc<Begun>, DispatchError>>;

/// A request that is under way. Everybody who holds one keeps it going.
pub(super) type Flight = Shared<Departure>;

/// The requests that are under way.
#[derive(Debug, Default, Clone)]
pub(super) struct Flights {
    listed: Arc<Mutex<HashMap<Listing, Joinable>>>,
    next: Arc<AtomicU64>,
}

/// A flight on the list, which does not keep it going.
#[derive(Debug)]
struct Joinable {
    id: u64,
    flight: WeakShared<Departure>,
    readers: Arc<Readers>,
}

/// Only who wants the same form of the same answer can share it as it comes.
type Listing = (Key, Form);

/// Takes a flight off the list once nobody can join it any more.
#[derive(Debug)]
struct Listed {
    flights: Flights,
    listing: Listing,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut listed = self.flights.listed.lock();
        if listed.get(&self.listing).is_some_and(|joinable| joinable.id == self.id) {
            listed.remove(&self.listing);
        }
    }
}

/// Where an answer goes when it is finished.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    pub(super) shelf: Arc<Shelf>,
    pub(super) question: Question,
    pub(super) tenant: Tenant,
    pub(super) operation: Operation,
    /// Bytes of an answer that is kept.
    pub(super) longest: usize,
}

/// An answer that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    head: Head,
    course: Arc<Course>,
}

impl Flights {
    /// Joins the flight that answers this already, and hands `run` back; or begins one with it.
    pub(super) fn board<R: FnOnce(Intent) -> Running>(
        &self,
        joins: bool,
        key: Key,
        landing: Landing,
        run: R,
        intent: &Intent,
    ) -> (Flight, Seat, Option<R>) {
        let listing = (key, landing.question.form);
        let mut listed = self.listed.lock();
        if joins
            && let Some(joinable) = listed.get(&listing)
            && let Some(flight) = joinable.flight.upgrade()
        {
            return (flight, Seat::take(&joinable.readers), Some(run));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let listed_as = Listed { flights: self.clone(), listing, id };
        let running = run(intent.clone());
        let readers = Arc::<Readers>::default();
        let seat = Seat::take(&readers);
        let known = Arc::clone(&readers);
        let flight = async move {
            let Reply { decision, served, attempts, content_type, body, .. } = running.await?;
            let head = Head { decision, served, attempts, content_type };
            let course = Course::new(body, landing, head.clone(), listed_as, readers);
            Ok(Arc::new(Begun { head, course: Arc::new(course) }))
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            listed.insert(listing, Joinable { id, flight: weak, readers: known });
        }
        (flight, seat, None)
    }
}

impl Begun {
    /// The answer for one more reader, from its beginning. `None`: it has gone so far that its beginning is not kept, which
    /// cannot be for who has had a seat since it began.
    pub(super) fn reply(&self, flight: Flight, _seat: Seat, origin: Origin) -> Option<Reply> {
        let Head { decision, served, attempts, content_type } = self.head.clone();
        let reader = Reader {
            id: self.course.enter()?,
            course: Arc::clone(&self.course),
            next: 0,
            over: false,
            _flight: flight,
        };
        Some(Reply { decision, served, attempts, content_type, origin, body: Box::pin(reader) })
    }
}

/// The course of one answer: what has come, and who reads it.
struct Course {
    state: Mutex<State>,
    readers: Arc<Readers>,
    waker: Waker,
}

struct State {
    /// `None` once it has ended.
    source: Option<ReplyBody>,
    /// What came, from the piece with the number `first` on.
    pieces: VecDeque<Bytes>,
    first: usize,
    bytes: usize,
    failure: Option<Failure>,
    /// How far each reader is: the number of its next piece.
    places: HashMap<u64, usize>,
    next_reader: u64,
    /// While all pieces are there, and the answer may be kept.
    landing: Option<(Landing, Head, Listed)>,
    longest: usize,
}

impl fmt::Debug for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Course").finish_non_exhaustive()
    }
}

impl Course {
    fn new(source: ReplyBody, landing: Landing, head: Head, listed: Listed, readers: Arc<Readers>) -> Self {
        let longest = landing.longest;
        let state = State {
            source: Some(source),
            pieces: VecDeque::new(),
            first: 0,
            bytes: 0,
            failure: None,
            places: HashMap::new(),
            next_reader: 0,
            landing: Some((landing, head, listed)),
            longest,
        };
        Self { state: Mutex::new(state), waker: Waker::from(Arc::clone(&readers)), readers }
    }

    /// One more reads from the beginning.
    fn enter(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if state.first > 0 {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.places.insert(id, 0);
        Some(id)
    }

    fn leave(&self, id: u64) {
        let mut state = self.state.lock();
        state.places.remove(&id);
        state.trim(&self.readers);
        drop(state);
        self.readers.forget(id);
        // One of the others may have waited for it.
        self.readers.wake_all();
    }

    fn poll_piece(&self, id: u64, next: &mut usize, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let mut state = self.state.lock();
        loop {
            if let Some(piece) = next.checked_sub(state.first).and_then(|place| state.pieces.get(place)) {
                let piece = piece.clone();
                *next += 1;
                state.places.insert(id, *next);
                if state.trim(&self.readers) {
                    self.readers.wake_all();
                }
                return Poll::Ready(Some(Ok(piece)));
            }
            // Before the source is asked, so that no news is lost.
            self.readers.remember(id, cx.waker());
            state.trim(&self.readers);
            let behind = state.landing.is_none() && state.bytes >= state.longest;
            let Some(source) = &mut state.source else {
                return Poll::Ready(state.failure.clone().map(Err));
            };
            if behind {
                // The answer is too long to be kept, and somebody is far behind: what holds them up holds up all.
                return Poll::Pending;
            }
            let piece = std::task::ready!(source.as_mut().poll_next(&mut Context::from_waker(&self.waker)));
            match piece {
                Some(Ok(piece)) if piece.is_empty() => continue,
                Some(Ok(piece)) => state.came(piece),
                Some(Err(failure)) => state.ended(Some(failure)),
                None => state.ended(None),
            }
            self.readers.wake_all();
        }
    }
}

impl State {
    fn came(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
        if self.bytes > self.longest {
            // Nobody else can join it, and it will not be kept.
            self.landing = None;
        }
    }

    fn ended(&mut self, failure: Option<Failure>) {
        self.source = None;
        if failure.is_none()
            && let Some((Landing { shelf, question, tenant, operation, .. }, head, _listed)) = self.landing.take()
        {
            let body = match self.pieces.make_contiguous() {
                [only] => only.clone(),
                pieces => pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<BytesMut>().freeze(),
            };
            // As whose it is known now: an alias or `auto` may have come to another model than was thought.
            let key = question.key(&tenant, operation, &head.served.capability.name);
            if let Some(answer) = Answer::new(operation, question.form, body, &head) {
                shelf.put(key, answer);
            }
        }
        self.landing = None;
        self.failure = failure;
    }

    /// Forgets what all have read, once the answer will not be kept and nobody can join. Whether there was any.
    fn trim(&mut self, readers: &Readers) -> bool {
        if self.landing.is_some() || readers.seats.load(Ordering::SeqCst) > 0 {
            return false;
        }
        let read_by_all = self.places.values().copied().min().unwrap_or(usize::MAX);
        let before = self.first;
        while self.first < read_by_all
            && let Some(piece) = self.pieces.pop_front()
        {
            self.bytes -= piece.len();
            self.first += 1;
        }
        self.first > before
    }
}

/// One of those who read an answer.
struct Reader {
    course: Arc<Course>,
    id: u64,
    next: usize,
    over: bool,
    /// So that others can join for as long as it is read.
    _flight: Flight,
}

impl Stream for Reader {
    type Item = Result<Bytes, Failure>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let polled = this.course.poll_piece(this.id, &mut this.next, cx);
        this.over = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.course.leave(self.id);
    }
}

/// The place of one who waits for an answer to begin. Until it is given up for a reader's, nothing of the answer is forgotten:
/// whoever is woken first may read all of it before the others look.
#[derive(Debug)]
pub(super) struct Seat(Arc<Readers>);

impl Seat {
    fn take(readers: &Arc<Readers>) -> Self {
        readers.seats.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(readers))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seats.fetch_sub(1, Ordering::SeqCst);
        // Somebody may have waited for what could not be forgotten.
        self.0.wake_all();
    }
}

/// Whom to wake when there is more to read.
#[derive(Debug, Default)]
struct Readers {
    wakers: Mutex<HashMap<u64, Waker>>,
    /// Those who wait for the answer to begin.
    seats: AtomicUsize,
}

impl Readers {
    fn remember(&self, id: u64, waker: &Waker) {
        let mut readers = self.wakers.lock();
        match readers.get_mut(&id) {
            Some(known) => known.clone_from(waker),
            None => drop(readers.insert(id, waker.clone())),
        }
    }

    fn forget(&self, id: u64) {
        self.wakers.lock().remove(&id);
    }

    fn wake_all(&self) {
        let readers = std::mem::take(&mut *self.wakers.lock());
        readers.into_values().for_each(Waker::wake);
    }
}

impl Wake for Readers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}
