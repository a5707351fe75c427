//! A time limit for each of many pieces that costs a timer for all of them together.
//!
//! A timer that is set for every token and taken back when it comes costs more than the token. This one is moved only
//! when it would be late; when it rings early, it looks at the clock and is set again.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::time::Instant;

use crate::waiting::Timer;

/// A timer that is set when something has to be waited for.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Timer>);

/// What was waited for did not come in time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Late;

impl Alarm {
    /// Waits for `coming`, until `at` at the most. What is there already is never late.
    pub(super) async fn until<T>(&mut self, at: Instant, coming: impl Future<Output = T>) -> Result<T, Late> {
        let mut coming = pin!(coming);
        poll_fn(|cx| {
            if let Poll::Ready(came) = coming.as_mut().poll(cx) {
                return Poll::Ready(Ok(came));
            }
            let timer = self.0.get_or_insert_with(|| Timer::at(at));
            if timer.deadline() > at {
                timer.set(at);
            }
            while timer.poll(cx).is_ready() {
                if Instant::now() >= at {
                    return Poll::Ready(Err(Late));
                }
                timer.set(at);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_rings_when_it_should_whether_it_was_set_earlier_or_later_before() {
        let mut alarm = Alarm::default();
        let start = Instant::now();
        // Set for later, and what comes comes at once.
        assert_eq!(alarm.until(start + 9 * SECOND, ready(7)).await, Ok(7));
        assert!(alarm.0.is_none(), "nothing had to be waited for");
        for seconds in [5, 6, 8, 20] {
            let at = start + seconds * SECOND;
            assert_eq!(alarm.until(at, pending::<()>()).await, Err(Late));
            assert_eq!(Instant::now(), at);
        }
        let coming = tokio::time::sleep_until(start + 22 * SECOND);
        assert_eq!(alarm.until(start + 40 * SECOND, coming).await, Ok(()));
        assert_eq!(alarm.until(start + 23 * SECOND, pending::<()>()).await, Err(Late), "earlier than it was set");
        assert_eq!(Instant::now(), start + 23 * SECOND);
        assert_eq!(alarm.until(start, pending::<()>()).await, Err(Late), "in the past");
    }
}
