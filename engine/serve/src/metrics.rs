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
struct Answered {
    path: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Path {
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

/// From 1 ms to 4 minutes.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 19))
}

/// Counters of a server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    request_seconds: Family<Path, Histogram>,
    refused: Family<Reason, Counter>,
    rows: Family<Direction, Counter>,
    text_bytes: Family<Direction, Counter>,
    truncated: Counter,
    batch_rows: Histogram,
    batch_seconds: Histogram,
    waiting_rows: Gauge,
    waiting_tokens: Gauge,
    connections: Gauge,
}

impl Metrics {
    pub(crate) fn new(version: &str) -> Self {
        let mut registry = Registry::with_prefix("paraloom");
        let build = Info::new([("version", version.to_owned())]);
        registry.register("build", "What is running", build);
        let requests = Family::default();
        let help = "Requests, by path and by the status of the answer; health checks do not count";
        registry.register("requests", help, requests.clone());
        let request_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        let help = "Time from a request to its answer, in seconds, by path";
        registry.register("request_seconds", help, request_seconds.clone());
        let refused = Family::default();
        let help = "Requests that were refused, by the code of the error; \
                    `connections`: connections beyond the limit";
        registry.register("refused", help, refused.clone());
        let rows = Family::default();
        registry.register("rows", "Rows that came in and that went out", rows.clone());
        let text_bytes = Family::default();
        let help = "Bytes of the texts in these rows, UTF-8";
        registry.register("text_bytes", help, text_bytes.clone());
        let truncated = Counter::default();
        let help = "Rows with a text that was longer than a stage reads";
        registry.register("truncated_rows", help, truncated.clone());
        let batch_rows = Histogram::new(exponential_buckets(1.0, 2.0, 9));
        registry.register("batch_rows", "Rows that were mapped together", batch_rows.clone());
        let batch_seconds = seconds();
        let help = "Time that a batch took, in seconds";
        registry.register("batch_seconds", help, batch_seconds.clone());
        let waiting_rows = Gauge::default();
        let help = "Rows that wait or are being mapped";
        registry.register("waiting_rows", help, waiting_rows.clone());
        let waiting_tokens = Gauge::default();
        let help = "Tokens that wait or are being mapped, at most: the bytes of their texts";
        registry.register("waiting_tokens", help, waiting_tokens.clone());
        let connections = Gauge::default();
        registry.register("connections", "Open connections", connections.clone());
        Self {
            registry,
            requests,
            request_seconds,
            refused,
            rows,
            text_bytes,
            truncated,
            batch_rows,
            batch_seconds,
            waiting_rows,
            waiting_tokens,
            connections,
        }
    }

    /// A request was answered with this status.
    pub(crate) fn answered(&self, path: &'static str, code: u16, started: Instant) {
        self.requests.get_or_create(&Answered { path, code }).inc();
        let seconds = started.elapsed().as_secs_f64();
        self.request_seconds.get_or_create(&Path { path }).observe(seconds);
    }

    /// A request or a connection was refused.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// Rows came in, with texts of so many bytes.
    pub(crate) fn came(&self, rows: usize, bytes: usize) {
        self.moved("in", rows, bytes);
    }

    /// Rows went out, with texts of so many bytes.
    pub(crate) fn went(&self, rows: usize, bytes: usize, truncated: usize) {
        self.moved("out", rows, bytes);
        self.truncated.inc_by(truncated as u64);
    }

    fn moved(&self, direction: &'static str, rows: usize, bytes: usize) {
        self.rows.get_or_create(&Direction { direction }).inc_by(rows as u64);
        self.text_bytes.get_or_create(&Direction { direction }).inc_by(bytes as u64);
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

    /// All of it, with so many rows and tokens in the queue now.
    pub(crate) fn text(&self, rows: usize, tokens: usize) -> String {
        self.waiting_rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        self.waiting_tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
