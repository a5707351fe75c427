//! Logs, metrics and the event bus. The lowest part: everybody may report to it, and it knows nobody.

mod events;
mod logging;

pub use events::{Event, EventBus};
pub use logging::{DEFAULT_FILTER, LogError, LogFormat, check_filter, init as init_logging};
