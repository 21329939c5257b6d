//! Metrics in the text format of Prometheus.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

/// Counters of a server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Code, Counter>,
    request_seconds: Histogram,
    batch_rows: Histogram,
    batch_seconds: Histogram,
    waiting: Gauge,
    connections: Gauge,
}

impl Metrics {
    pub(crate) fn new(version: &str) -> Self {
        let mut registry = Registry::with_prefix("paraloom");
        let requests = Family::<Code, Counter>::default();
        // From 1 ms to 4 minutes.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 19));
        let (request_seconds, batch_seconds) = (seconds(), seconds());
        let batch_rows = Histogram::new(exponential_buckets(1.0, 2.0, 9));
        let (waiting, connections) = (Gauge::default(), Gauge::default());
        let build = Info::new([("version", version.to_owned())]);
        registry.register("build", "What is running", build);
        registry.register("requests", "Requests, by the status of the answer", requests.clone());
        let help = "Time from a request for rows to its answer, in seconds";
        registry.register("request_seconds", help, request_seconds.clone());
        registry.register("batch_rows", "Rows that were mapped together", batch_rows.clone());
        let help = "Time that a batch took, in seconds";
        registry.register("batch_seconds", help, batch_seconds.clone());
        let help = "Rows that wait or are being mapped";
        registry.register("waiting_rows", help, waiting.clone());
        registry.register("connections", "Open connections", connections.clone());
        Self {
            registry,
            requests,
            request_seconds,
            batch_rows,
            batch_seconds,
            waiting,
            connections,
        }
    }

    /// A request was answered with this status.
    pub(crate) fn answered(&self, code: u16) {
        self.requests.get_or_create(&Code { code }).inc();
    }

    /// A request for rows was answered.
    pub(crate) fn mapped(&self, started: Instant) {
        self.request_seconds.observe(started.elapsed().as_secs_f64());
    }

    /// A batch was mapped.
    pub(crate) fn batch(&self, rows: usize, started: Instant) {
        self.batch_rows.observe(rows as f64);
        self.batch_seconds.observe(started.elapsed().as_secs_f64());
    }

    /// A connection was opened (1) or closed (-1).
    pub(crate) fn connection(&self, change: i64) {
        self.connections.inc_by(change);
    }

    /// All of it, with `waiting` rows in the queue now.
    pub(crate) fn text(&self, waiting: usize) -> String {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
