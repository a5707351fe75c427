//! What a stream waits for beside its next piece: a timer, a signal to stop.
//!
//! A task that is woken for every token asks all that it waits for every time. These remember that the same task has
//! asked already and that nothing has happened since, which costs a comparison instead of a registration.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Who is woken when something happens.
#[derive(Debug, Default)]
pub(crate) struct Asker(Option<Waker>);

impl Asker {
    /// Whether it is this task.
    pub(crate) fn is(&self, cx: &Context<'_>) -> bool {
        self.0.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
    }

    /// This task waits from now on.
    pub(crate) fn waits(&mut self, cx: &Context<'_>) {
        if !self.is(cx) {
            self.0 = Some(cx.waker().clone());
        }
    }
}

/// A timer that can be set again.
#[derive(Debug)]
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    asker: Asker,
}

impl Timer {
    /// Rings then.
    pub(crate) fn at(at: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(at)), asker: Asker::default() }
    }

    /// Rings after this time, which may be for ever.
    pub(crate) fn after(time: Duration) -> Self {
        Self { sleep: Box::pin(sleep(time)), asker: Asker::default() }
    }

    /// When it rings, or has rung.
    pub(crate) fn deadline(&self) -> Instant {
        self.sleep.deadline()
    }

    /// Whether it has rung since it was set.
    pub(crate) fn has_rung(&self) -> bool {
        self.sleep.is_elapsed()
    }

    /// Rings then instead.
    pub(crate) fn set(&mut self, at: Instant) {
        self.asker = Asker::default();
        self.sleep.as_mut().reset(at);
    }

    /// As [`rung`](Self::rung).
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.asker.is(cx) && !self.has_rung() {
            return Poll::Pending;
        }
        self.asker.waits(cx);
        self.sleep.as_mut().poll(cx)
    }

    /// Waits until it rings.
    pub(crate) async fn rung(&mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

/// A signal to stop.
#[derive(Debug)]
pub(crate) struct Stop {
    token: CancellationToken,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    asker: Asker,
}

impl Stop {
    /// Of this token.
    pub(crate) fn of(token: CancellationToken) -> Self {
        Self { cancelled: Box::pin(token.clone().cancelled_owned()), token, asker: Asker::default() }
    }

    /// Whether it has come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.asker.is(cx) && !self.token.is_cancelled() {
            return Poll::Pending;
        }
        self.asker.waits(cx);
        self.cancelled.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Counter {
        fn waker() -> (Arc<Self>, Waker) {
            let counter = Arc::<Self>::default();
            (Arc::clone(&counter), counter.into())
        }

        fn woken(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_wakes_whoever_asked_last_however_often_and_rings_anew_when_it_is_set() {
        let start = Instant::now();
        let mut timer = Timer::at(start + SECOND);
        let ((first, one), (second, two)) = (Counter::waker(), Counter::waker());
        for waker in [&one, &one, &two, &two, &two] {
            assert!(timer.poll(&mut Context::from_waker(waker)).is_pending());
        }
        tokio::time::advance(2 * SECOND).await;
        assert_eq!((first.woken(), second.woken()), (0, 1));
        assert!(timer.poll(&mut Context::from_waker(&two)).is_ready());
        timer.set(start + 4 * SECOND);
        for _ in 0..3 {
            assert!(timer.poll(&mut Context::from_waker(&two)).is_pending());
        }
        timer.set(start + 6 * SECOND);
        assert!(timer.poll(&mut Context::from_waker(&two)).is_pending());
        tokio::time::advance(3 * SECOND).await;
        assert!(timer.poll(&mut Context::from_waker(&two)).is_pending(), "it was put off");
        tokio::time::advance(3 * SECOND).await;
        assert_eq!((first.woken(), second.woken()), (0, 2));
        timer.rung().await;
        assert_eq!(timer.deadline(), start + 6 * SECOND);
    }

    #[tokio::test]
    async fn a_stop_wakes_whoever_asked_last_and_is_there_for_those_who_come_late() {
        let token = CancellationToken::new();
        let mut stop = Stop::of(token.clone());
        let ((first, one), (second, two)) = (Counter::waker(), Counter::waker());
        for waker in [&one, &one, &two, &two] {
            assert!(stop.poll(&mut Context::from_waker(waker)).is_pending());
        }
        token.cancel();
        assert_eq!((first.woken(), second.woken()), (0, 1));
        assert!(stop.poll(&mut Context::from_waker(&two)).is_ready());
        let mut late = Stop::of(token);
        poll_fn(|cx| late.poll(cx)).await;
    }
}
