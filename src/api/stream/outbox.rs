//! What goes out by one socket: a bounded queue that requests and the session put messages into, and the task that sends
//! them, with the events between.
//!
//! Whoever puts something in waits while the queue is full, so that a client that reads slowly slows down its own
//! requests, and their backends, and holds no memory. Events never wait: those that were not sent in time are lost, and
//! the client is told how many.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures::SinkExt as _;
use futures::stream::SplitSink;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::filter::Filter;
use super::told::Told;
use crate::telemetry::{Event, EventBus};

/// Messages that wait to be sent. A few for each request that may run, so that a write carries several when they come fast.
const WAITING: usize = 64;

/// Where messages are put in.
#[derive(Clone)]
pub(super) struct Outbox(mpsc::Sender<Out>);

/// What goes out.
enum Out {
    Text(String),
    Subscribe(Filter),
    Close(u16, &'static str),
}

impl Outbox {
    pub(super) fn new() -> (Self, Queue) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), Queue(receiver))
    }

    /// Says something. What cannot be said any more is not missed: the session is over then.
    pub(super) async fn say(&self, told: &Told<'_>) {
        let _ = self.0.send(Out::Text(told.to_text())).await;
    }

    /// Changes the subscription, and says so.
    pub(super) async fn subscribe(&self, filter: Filter) {
        let _ = self.0.send(Out::Subscribe(filter)).await;
    }

    /// Says goodbye: nothing goes out after that.
    pub(super) async fn close(&self, code: u16, reason: &'static str) {
        let _ = self.0.send(Out::Close(code, reason)).await;
    }
}

/// Where they come out.
pub(super) struct Queue(mpsc::Receiver<Out>);

/// What the client watches.
pub(super) struct Watch {
    bus: EventBus,
    filter: Filter,
    events: Option<broadcast::Receiver<Event>>,
}

impl Watch {
    /// From now on; and the number of the last event before that.
    pub(super) fn new(bus: EventBus, filter: Filter) -> (Self, u64) {
        let mut watch = Self { bus, filter: Filter::default(), events: None };
        let last = watch.change(filter);
        (watch, last)
    }

    /// Watches other events, without losing any of those that were watched before.
    fn change(&mut self, filter: Filter) -> u64 {
        self.filter = filter;
        if self.filter.is_empty() {
            self.events = None;
        } else if self.events.is_none() {
            let (last, events) = self.bus.watch();
            self.events = Some(events);
            return last;
        }
        self.bus.last()
    }

    /// The next event or loss that the client wants to know of, as a message.
    async fn next(&mut self) -> String {
        loop {
            let Some(events) = &mut self.events else { return std::future::pending().await };
            match events.recv().await {
                Ok(event) if self.filter.takes(event.kind) => return Told::event(&event).to_text(),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => return Told::Lagged { missed }.to_text(),
                // The node is gone, and so will be this socket.
                Err(broadcast::error::RecvError::Closed) => self.events = None,
            }
        }
    }
}

type Sink = SplitSink<WebSocket, Message>;

/// Sends until goodbye has been said, nobody is left who could say something, or the client cannot be written to. A ping
/// goes out `every` so often.
pub(super) async fn send(mut sink: Sink, mut queue: Queue, mut watch: Watch, every: Duration) {
    let mut beat = interval_at(Instant::now() + every, every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            out = queue.0.recv() => match out {
                Some(out) => burst(&mut sink, &mut queue, &mut watch, out).await,
                None => return,
            },
            event = watch.next() => text(&mut sink, event).await.map(|()| false),
            _ = beat.tick() => sink.feed(Message::Ping(Bytes::new())).await.map(|()| false),
        };
        let flushed = sink.flush().await;
        if !matches!((sent, flushed), (Ok(false), Ok(()))) {
            return;
        }
    }
}

/// Feeds this and what waits behind it, so that it goes out in few writes. Whether that was the end.
async fn burst(sink: &mut Sink, queue: &mut Queue, watch: &mut Watch, first: Out) -> Result<bool, axum::Error> {
    let mut next = first;
    // As many as fit the queue, and then events have their turn.
    for left in (0..WAITING).rev() {
        match next {
            Out::Text(message) => text(sink, message).await?,
            Out::Subscribe(filter) => {
                let seq = watch.change(filter);
                text(sink, Told::Subscribed { events: watch.filter.patterns(), seq }.to_text()).await?;
            }
            Out::Close(code, reason) => {
                let reason = Utf8Bytes::from_static(reason);
                sink.feed(Message::Close(Some(CloseFrame { code, reason }))).await?;
                return Ok(true);
            }
        }
        // What is taken out must be sent, so nothing is when its turn is over.
        if left == 0 {
            break;
        }
        match queue.0.try_recv() {
            Ok(out) => next = out,
            Err(_) => break,
        }
    }
    Ok(false)
}

async fn text(sink: &mut Sink, message: String) -> Result<(), axum::Error> {
    sink.feed(Message::Text(message.into())).await
}
