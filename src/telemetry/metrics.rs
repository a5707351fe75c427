//! One registry of metrics for the whole program, and its text form.
//!
//! Every part registers what it measures once, when it is built, and keeps the metric; measuring is then an
//! atomic add. Labels must come from small closed sets: a route pattern, a status class, an operation. Never a
//! path as it came, a peer or a request, for each value lives for ever.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Metric, Registry};
use tokio::runtime::Handle;

/// Media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Prefix of every metric of this program.
const PREFIX: &str = "atmosphere";

/// The program's metrics. Clones share one registry.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Registries of parts that come and go.
    parts: Arc<Mutex<Vec<Weak<Mutex<Registry>>>>>,
    runtimes: Runtimes,
}

impl Default for Metrics {
    fn default() -> Self {
        let runtimes = Runtimes::default();
        let registry = registry();
        registry.lock().register_collector(Box::new(runtimes.clone()));
        Self { registry, parts: Arc::default(), runtimes }
    }
}

/// The runtimes whose tasks are counted when somebody asks: a number that only grows is a leak.
#[derive(Debug, Clone, Default)]
struct Runtimes(Arc<Mutex<Vec<(&'static str, Handle)>>>);

impl Collector for Runtimes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let runtimes = self.0.lock();
        if runtimes.is_empty() {
            return Ok(());
        }
        let help = "Tasks that have not ended, by runtime";
        let mut metric = encoder.encode_descriptor("runtime_tasks", help, None, MetricType::Gauge)?;
        for (name, runtime) in runtimes.iter() {
            let tasks = i64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(i64::MAX);
            ConstGauge::new(tasks).encode(metric.encode_family(&[("runtime", *name)])?)?;
        }
        Ok(())
    }
}

fn registry() -> Arc<Mutex<Registry>> {
    Arc::new(Mutex::new(Registry::with_prefix(PREFIX)))
}

impl Metrics {
    /// Registers a metric and hands it back. `name` is without the program's prefix; counters get `_total` appended.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.registry.lock().register(name, help, metric.clone());
        metric
    }

    /// For libraries that register what they measure themselves.
    pub fn with_registry<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock())
    }

    /// Metrics of a part that may be built anew while the program runs: they are among the program's for as long as
    /// what is returned lives.
    #[must_use]
    pub fn part(&self) -> Self {
        let part = registry();
        let mut parts = self.parts.lock();
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&part));
        Self { registry: part, parts: Arc::default(), runtimes: self.runtimes.clone() }
    }

    /// Counts the tasks of a runtime from now on.
    pub fn watch_runtime(&self, name: &'static str, runtime: Handle) {
        let mut runtimes = self.runtimes.0.lock();
        // A part that was built anew has a new one.
        runtimes.retain(|(known, _)| *known != name);
        runtimes.push((name, runtime));
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let parts: Vec<_> = self.parts.lock().iter().filter_map(Weak::upgrade).collect();
        let written = std::iter::once(&self.registry)
            .chain(&parts)
            .try_for_each(|registry| text::encode_registry(&mut out, &registry.lock()))
            .and_then(|()| text::encode_eof(&mut out));
        // Writing to a String fails only when a metric's own encoder does; what was written before it still counts.
        if written.is_err() {
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

    #[test]
    fn a_part_is_told_of_as_long_as_it_lives() {
        let metrics = Metrics::default();
        let part = metrics.part();
        part.register("passing", "Things that pass", Counter::<u64>::default());
        assert_eq!(metrics.encode().matches("atmosphere_passing_total").count(), 1);
        assert_eq!(metrics.encode().matches("# EOF").count(), 1);
        drop(part);
        assert!(!metrics.encode().contains("passing"));
    }

    #[tokio::test]
    async fn tasks_that_live_are_counted() {
        let metrics = Metrics::default();
        assert!(!metrics.encode().contains("runtime_tasks"));
        metrics.watch_runtime("main", Handle::current());
        let task = tokio::spawn(std::future::pending::<()>());
        assert!(metrics.encode().contains("atmosphere_runtime_tasks{runtime=\"main\"} 1"), "{}", metrics.encode());
        task.abort();
        let _ = task.await;
        assert!(metrics.encode().contains("atmosphere_runtime_tasks{runtime=\"main\"} 0"), "{}", metrics.encode());
    }
}
