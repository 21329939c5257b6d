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

use crate::About;
use crate::models::Models;
use crate::queue::Load;

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

/// Labels of what a model does; its name is one of them where there are several.
type Labels = Vec<(&'static str, String)>;

/// From 1 ms to 4 minutes.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 19))
}

/// From 1 to 256 rows.
fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 9))
}

/// Rows in one direction, and bytes of their texts.
struct Moved {
    rows: Counter,
    text_bytes: Counter,
}

impl Moved {
    fn add(&self, rows: usize, bytes: usize) {
        self.rows.inc_by(rows as u64);
        self.text_bytes.inc_by(bytes as u64);
    }
}

/// What one model does.
struct OfModel {
    truncated: Counter,
    batch_rows: Histogram,
    batch_seconds: Histogram,
    waiting_rows: Gauge,
    waiting_tokens: Gauge,
}

/// Counters of a server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    request_seconds: Family<Path, Histogram>,
    refused: Family<Reason, Counter>,
    /// By model, `in` and `out`.
    moved: Vec<[Moved; 2]>,
    models: Vec<OfModel>,
    connections: Gauge,
}

impl Metrics {
    pub(crate) fn new(models: &Models) -> Self {
        let mut registry = Registry::with_prefix("paraloom");
        let build = Info::new([("version", models.first().version.clone())]);
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
        let rows = Family::<Labels, Counter>::default();
        registry.register("rows", "Rows that came in and that went out", rows.clone());
        let text_bytes = Family::<Labels, Counter>::default();
        let help = "Bytes of the texts in these rows, UTF-8";
        registry.register("text_bytes", help, text_bytes.clone());
        let truncated = Family::<Labels, Counter>::default();
        let help = "Rows with a text that was longer than a stage reads";
        registry.register("truncated_rows", help, truncated.clone());
        let batch_rows = Family::<Labels, _, _>::new_with_constructor(counts as fn() -> Histogram);
        registry.register("batch_rows", "Rows that were mapped together", batch_rows.clone());
        let batch_seconds =
            Family::<Labels, _, _>::new_with_constructor(seconds as fn() -> Histogram);
        let help = "Time that a batch took, in seconds";
        registry.register("batch_seconds", help, batch_seconds.clone());
        let waiting_rows = Family::<Labels, Gauge>::default();
        let help = "Rows that wait or are being mapped";
        registry.register("waiting_rows", help, waiting_rows.clone());
        let waiting_tokens = Family::<Labels, Gauge>::default();
        let help = "Tokens that wait or are being mapped, at most: the bytes of their texts";
        registry.register("waiting_tokens", help, waiting_tokens.clone());
        let connections = Gauge::default();
        registry.register("connections", "Open connections", connections.clone());
        let labels = |about: &About, direction: Option<&str>| -> Labels {
            let model = models.are_several().then(|| ("model", about.name.clone()));
            let direction = direction.map(|direction| ("direction", direction.to_owned()));
            direction.into_iter().chain(model).collect()
        };
        let moved = |about: &About| {
            ["in", "out"].map(|direction| {
                let labels = labels(about, Some(direction));
                Moved {
                    rows: rows.get_or_create_owned(&labels),
                    text_bytes: text_bytes.get_or_create_owned(&labels),
                }
            })
        };
        let of_model = |about: &About| {
            let labels = labels(about, None);
            OfModel {
                truncated: truncated.get_or_create_owned(&labels),
                batch_rows: batch_rows.get_or_create_owned(&labels),
                batch_seconds: batch_seconds.get_or_create_owned(&labels),
                waiting_rows: waiting_rows.get_or_create_owned(&labels),
                waiting_tokens: waiting_tokens.get_or_create_owned(&labels),
            }
        };
        let moved = models.all().iter().map(moved).collect();
        let models = models.all().iter().map(of_model).collect();
        Self { registry, requests, request_seconds, refused, moved, models, connections }
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

    /// Rows came in for a model, with texts of so many bytes.
    pub(crate) fn came(&self, model: usize, rows: usize, bytes: usize) {
        self.moved[model][0].add(rows, bytes);
    }

    /// Rows of a model went out, with texts of so many bytes.
    pub(crate) fn went(&self, model: usize, rows: usize, bytes: usize, truncated: usize) {
        self.moved[model][1].add(rows, bytes);
        self.models[model].truncated.inc_by(truncated as u64);
    }

    /// A batch was mapped.
    pub(crate) fn batch(&self, model: usize, rows: usize, started: Instant) {
        self.models[model].batch_rows.observe(rows as f64);
        self.models[model].batch_seconds.observe(started.elapsed().as_secs_f64());
    }

    /// A connection was opened (1) or closed (-1).
    pub(crate) fn connection(&self, change: i64) {
        self.connections.inc_by(change);
    }

    /// All of it, with what waits for each model now.
    pub(crate) fn text(&self, loads: &[Load]) -> String {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (model, load) in self.models.iter().zip(loads) {
            model.waiting_rows.set(gauge(load.rows));
            model.waiting_tokens.set(gauge(load.tokens));
        }
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
