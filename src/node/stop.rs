//! The owner's wish to stop: Ctrl-C and SIGTERM.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

use super::error::StartError;

/// The owner's wish that the node stops.
pub(super) struct Stop {
    /// Signals so far.
    signals: watch::Receiver<u32>,
    /// How many of them [`requested`](Self::requested) has returned for. One that came while nobody waited counts.
    answered: AtomicU32,
}

impl Stop {
    pub(super) fn listen() -> Result<Self, StartError> {
        use tokio::signal::unix::{SignalKind, signal};
        let system = |cause| StartError::System { what: "cannot listen for signals", cause };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    () = sender.closed() => return,
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { signals: receiver, answered: AtomicU32::new(0) })
    }

    /// Returns at the next signal that has not been returned for yet.
    pub(super) async fn requested(&self) {
        let mut signals = self.signals.clone();
        let answered = self.answered.load(Ordering::Relaxed);
        // The sender lives as long as the runtime, and the runtime as long as this future is polled.
        if signals.wait_for(|count| *count > answered).await.is_ok() {
            self.answered.store(answered + 1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_signal_that_came_before_anybody_waited_counts_once() {
        let (sender, signals) = watch::channel(0);
        let stop = Stop { signals, answered: AtomicU32::new(0) };
        sender.send_replace(1);
        stop.requested().await;
        let second = tokio::time::timeout(Duration::ZERO, stop.requested()).await;
        assert!(second.is_err(), "one signal must not count twice");
        sender.send_replace(2);
        stop.requested().await;
    }
}
