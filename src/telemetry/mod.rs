//! Logs, metrics and the event bus. The lowest part: everybody may report to it, and it knows nobody.

mod events;
mod logging;
mod metrics;

pub use events::{EVENT_KINDS, Event, EventBus};
pub use logging::{DEFAULT_FILTER, LogError, LogFormat, check_filter, init as init_logging};
pub use metrics::{CONTENT_TYPE as METRICS_CONTENT_TYPE, Metrics};
