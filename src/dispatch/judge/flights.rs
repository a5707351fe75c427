//! Questions under way, so that equal ones that come together are asked once. What nobody waits for any more is given up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

use super::answers::{Key, Known};
use super::ask::Trouble;

/// What comes of a question.
pub(super) type Outcome = Result<Arc<Known>, Trouble>;
/// A question under way.
pub(super) type Flight = Shared<BoxFuture<'static, Outcome>>;

/// A question on the list, with its number: being on it does not keep it going.
type UnderWay = (u64, WeakShared<BoxFuture<'static, Outcome>>);

/// Questions under way. Those that nobody waits for are dropped, and with them their places.
#[derive(Clone, Default)]
pub(super) struct Flights(Arc<Listings>);

#[derive(Default)]
struct Listings {
    under_way: Mutex<HashMap<Key, UnderWay>>,
    next: AtomicU64,
}

/// Takes a question off the list at its end.
pub(super) struct Listed {
    listings: Arc<Listings>,
    key: Key,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut under_way = self.listings.under_way.lock();
        if under_way.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            under_way.remove(&self.key);
        }
    }
}

impl Flights {
    /// Joins the question that is under way, or begins `asking` it when there is a `place`; `None` when there is none.
    pub(super) fn board<P: Send + 'static>(
        &self,
        key: Key,
        place: impl FnOnce() -> Option<P>,
        asking: impl Future<Output = Outcome> + Send + 'static,
    ) -> Option<Flight> {
        let mut under_way = self.0.under_way.lock();
        if let Some(flight) = under_way.get(&key).and_then(|(_, flight)| flight.upgrade()) {
            return Some(flight);
        }
        let place = place()?;
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let listed = Listed { listings: Arc::clone(&self.0), key, number };
        let asking = async move {
            let _until_the_end = (listed, place);
            asking.await
        };
        let flight = asking.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            under_way.insert(key, (number, weak));
        }
        Some(flight)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    #[tokio::test]
    async fn equal_questions_are_one_and_what_nobody_waits_for_is_given_up() {
        let (flights, places) = (Flights::default(), Arc::new(Semaphore::new(1)));
        let place = || Arc::clone(&places).try_acquire_owned().ok();
        let (held, given_up) = oneshot::channel::<()>();
        let first = flights
            .board([1; 32], place, async move {
                let _held = held;
                std::future::pending().await
            })
            .expect("there is a place");
        let never = || async { panic!("it is asked already") };
        let second = flights.board([1; 32], place, never()).expect("joins");
        assert!(flights.board([2; 32], place, never()).is_none(), "no place for another");
        drop(first);
        assert_eq!(flights.0.under_way.lock().len(), 1, "one still waits");
        drop(second);
        assert!(given_up.await.is_err() && flights.0.under_way.lock().is_empty());
        let late = || async { Err(Trouble::Late) };
        let last = flights.board([2; 32], place, late()).expect("the place is free again");
        assert_eq!(last.await.expect_err("late"), Trouble::Late);
        assert!(flights.0.under_way.lock().is_empty(), "what has ended is joined by nobody");
    }
}
