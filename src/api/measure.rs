//! What the API measures of itself.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::capability::{Operation, Usage};
use crate::telemetry::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteStatus {
    /// The pattern of the route, never the path as it came.
    route: &'static str,
    /// Such as `2xx`.
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tokens {
    operation: &'static str,
    direction: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was sent to its end.
    Complete,
    /// It ended with an error.
    Failed,
    /// The client left before its end.
    ClientLeft,
}

/// The metrics of the API.
#[derive(Debug, Clone)]
pub(super) struct Measures {
    requests: Family<RouteStatus, Counter>,
    durations: Histograms<Route>,
    pub(super) in_flight: Gauge,
    pub(super) connections: Gauge,
    pub(super) sockets: Gauge,
    first_chunk: Histograms<Asked>,
    answers: Family<Answered, Counter>,
    answer_durations: Histograms<Asked>,
    tokens: Family<Tokens, Counter>,
}

/// 1 ms to some 65 s, doubling: from a list out of memory to a long answer of a slow model.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

impl Measures {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.register("http_requests", "Requests by route and status class", Family::default()),
            durations: metrics.register(
                "http_request_duration_seconds",
                "From the head of the request to the head of the response",
                Family::new_with_constructor(seconds as fn() -> Histogram),
            ),
            in_flight: metrics.register("http_requests_in_flight", "Requests to a model that run", Gauge::default()),
            connections: metrics.register("http_connections", "Open connections", Gauge::default()),
            sockets: metrics.register("stream_sockets", "Open WebSockets, connections as well", Gauge::default()),
            first_chunk: metrics.register(
                "time_to_first_chunk_seconds",
                "From the head of the request to the first piece of the answer",
                Family::new_with_constructor(seconds as fn() -> Histogram),
            ),
            answers: metrics.register("answers", "Answers by how they ended", Family::default()),
            answer_durations: metrics.register(
                "answer_duration_seconds",
                "From the head of the request to the last piece of the answer",
                Family::new_with_constructor(seconds as fn() -> Histogram),
            ),
            tokens: metrics.register("tokens", "Tokens that backends reported", Family::default()),
        }
    }

    pub(super) fn request(&self, route: &'static str, status: u16, took: Duration) {
        let status = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&RouteStatus { route, status }).inc();
        self.durations.get_or_create(&Route { route }).observe(took.as_secs_f64());
    }

    pub(super) fn first_chunk(&self, operation: Operation, took: Duration) {
        self.first_chunk.get_or_create(&Asked { operation: operation.as_str() }).observe(took.as_secs_f64());
    }

    pub(super) fn answer(&self, operation: Operation, outcome: Ending, usage: Option<Usage>, took: Duration) {
        let operation = operation.as_str();
        let outcome = match outcome {
            Ending::Complete => "complete",
            Ending::Failed => "failed",
            Ending::ClientLeft => "client_left",
        };
        self.answers.get_or_create(&Answered { operation, outcome }).inc();
        self.answer_durations.get_or_create(&Asked { operation }).observe(took.as_secs_f64());
        if let Some(usage) = usage {
            self.tokens.get_or_create(&Tokens { operation, direction: "input" }).inc_by(usage.prompt_tokens);
            self.tokens.get_or_create(&Tokens { operation, direction: "output" }).inc_by(usage.completion_tokens);
        }
    }
}
