//! One registry of metrics for the whole program, and its text form.
//!
//! Every part registers what it measures once, when it is built, and keeps the metric; measuring is then an
//! atomic add. Labels must come from small closed sets: a route pattern, a status class, an operation. Never a
//! path as it came, a peer or a request, for each value lives for ever.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::text;
use prometheus_client::registry::{Metric, Registry};

/// Media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Prefix of every metric of this program.
const PREFIX: &str = "atmosphere";

/// The program's metrics. Clones share one registry.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix(PREFIX))))
    }
}

impl Metrics {
    /// Registers a metric and hands it back. `name` is without the program's prefix; counters get `_total` appended.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().register(name, help, metric.clone());
        metric
    }

    /// For libraries that register what they measure themselves.
    pub fn with_registry<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.lock())
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        // Writing to a String fails only when a metric's own encoder does; what was written before it still counts.
        if text::encode(&mut out, &self.0.lock()).is_err() {
            tracing::warn!("a metric could not be written; the metrics page is cut short");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn what_is_registered_is_encoded_under_the_programs_prefix() {
        let metrics = Metrics::default();
        let counter = metrics.register("things", "Things that happened", Counter::<u64>::default());
        counter.inc_by(3);
        let text = metrics.encode();
        assert!(text.contains("atmosphere_things_total 3"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
