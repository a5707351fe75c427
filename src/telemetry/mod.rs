//! Logs, metrics and the event bus. The lowest part: everybody may report to it, and it knows nobody.

mod events;

pub use events::{Event, EventBus};
