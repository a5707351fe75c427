//! How often questions are doubtful, and what comes of asking.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::router::Decision;
use crate::telemetry::Metrics;

/// Of what sort an opinion is: what came of it, and whether somebody was asked for this request (or for an equal one at the
/// same time) or it was known from before.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Opinion {
    outcome: &'static str,
    source: &'static str,
}

/// How often questions are doubtful, and what comes of asking.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    doubts: Counter,
    opinions: Family<Opinion, Counter>,
}

impl Counts {
    pub(super) fn register(&self, metrics: &Metrics) {
        let help = "Questions of which it was not sure what they mean, where that mattered";
        metrics.register("doubts", help, self.doubts.clone());
        let help = "Second opinions on doubtful questions, by what came of them and whether somebody was asked";
        metrics.register("second_opinions", help, self.opinions.clone());
    }

    pub(super) fn doubt(&self) {
        self.doubts.inc();
    }

    /// What came of asking, if a decision tells of it.
    pub(super) fn opinion(&self, decision: &Decision) {
        let Some(second) = &decision.second else { return };
        let source = if second.remembered { "remembered" } else { "asked" };
        self.opinions.get_or_create(&Opinion { outcome: second.said.word(), source }).inc();
    }
}
