//! Map stages behind HTTP.
//!
//! [`Server`] puts a [`Mapper`] on a port: rows come in as JSON or from a page, go through it in batches with those of other
//! requests, and come back. It knows neither pipelines nor stages; the command line brings them together.
//!
//! One thread talks to clients, one maps. What is too much is refused at once: too many rows waiting (429), too long a
//! request (413), too slow a client (408 or the end of its connection).

mod api;
mod batch;
mod guard;
mod listen;
mod metrics;
mod page;
mod rows;
mod types;

pub use page::{ColumnHint, Condition, Hints, Judge, Limit};

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde_json::{Value, json};

/// What is served: a function from rows to tables.
pub trait Mapper {
    /// Maps rows of the schema [`About::input`], each with another `_id`: a table for each of [`About::outputs`]. The error
    /// is told to the client.
    fn map(&mut self, rows: &RecordBatch) -> Result<Vec<Mapped>, String>;
}

/// One output of a [`Mapper`].
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The rows.
    pub rows: RecordBatch,
    /// Of each row: the number of the row that it came of. Without it, requests are mapped one by one.
    pub origins: Option<Vec<usize>>,
}

/// Description of what is served.
#[derive(Clone, Debug)]
pub struct About {
    /// What is served, for the page and `/v1/info`.
    pub title: String,
    /// The version of the program.
    pub version: String,
    /// The nodes of the chain, in order.
    pub nodes: Vec<String>,
    /// Schema of the input rows.
    pub input: SchemaRef,
    /// Names and schemas of the output tables.
    pub outputs: Vec<(String, SchemaRef)>,
    /// What the page says of the columns.
    pub hints: Hints,
    /// A row's result does not depend on other rows, so requests may share a batch.
    pub batch_invariant: bool,
}

/// Whether an answer has an output: those at which rows leave on the way, `NODE.PORT`, only if some did.
pub(crate) fn is_told(port: &str, rows: &RecordBatch) -> bool {
    !port.contains('.') || rows.num_rows() > 0
}

impl About {
    fn json(&self) -> Value {
        let columns = |schema: &SchemaRef| -> Value {
            let fields = schema.fields().iter();
            let column = |field: &arrow::datatypes::FieldRef| {
                json!({
                    "name": field.name(),
                    "type": field.data_type().to_string(),
                    "nullable": field.is_nullable(),
                })
            };
            fields.map(column).collect()
        };
        let outputs = self.outputs.iter().map(|(port, schema)| (port.clone(), columns(schema)));
        json!({
            "title": self.title,
            "version": self.version,
            "nodes": self.nodes,
            "input": columns(&self.input),
            "outputs": outputs.collect::<serde_json::Map<_, _>>(),
            "max_rows": rows::MAX_ROWS,
        })
    }
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address and port; port 0 takes any that is free.
    pub bind: SocketAddr,
    /// Access control.
    pub token: Option<String>,
    /// Accept clients from other machines without a token.
    pub open: bool,
    /// Names of this server, beside its address.
    pub hosts: Vec<String>,
    /// Capacity of the queue, in rows.
    pub queue: usize,
    /// Request timeout.
    pub timeout: Duration,
    /// How long pending requests are processed after a stop was requested.
    pub drain: Duration,
}

/// Why a server does not start, or how it ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It would be reachable from other machines without a token.
    #[error("whoever reaches {0} could use this server")]
    Open(SocketAddr),
    /// The address cannot be bound.
    #[error("cannot listen at {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The I/O error.
        source: std::io::Error,
    },
    /// Threads or sockets could not be created.
    #[error("cannot start to serve: {0}")]
    Start(std::io::Error),
    /// Requests were still pending when the drain timeout ended.
    #[error("stopped before all requests were answered")]
    Unanswered,
}

/// A server that is bound to its port and does not accept requests yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    settings: Settings,
}

impl Server {
    /// Binds the port.
    pub fn bind(settings: Settings) -> Result<Self, ServeError> {
        let address = settings.bind;
        if settings.token.is_none() && !settings.open && !address.ip().is_loopback() {
            return Err(ServeError::Open(address));
        }
        let listener =
            TcpListener::bind(address).map_err(|source| ServeError::Bind { address, source })?;
        listener.set_nonblocking(true).map_err(ServeError::Start)?;
        Ok(Self { listener, settings })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.settings.bind)
    }

    /// Serves until `stop` is set, then finishes pending requests. At the end it sets `cancel`, which makes `mapper` abandon
    /// its current batch.
    pub fn run(
        self,
        about: About,
        mapper: Box<dyn Mapper + Send>,
        stop: &AtomicBool,
        cancel: &AtomicBool,
    ) -> Result<(), ServeError> {
        let Self { listener, settings } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ServeError::Start)?;
        let together = about.batch_invariant;
        let (queue, waiting) = batch::Queue::new(settings.queue);
        let shared = Arc::new(api::Shared::new(about, queue, &settings));
        let metrics = Arc::clone(&shared.metrics);
        let mut mapper = mapper;
        let worker = std::thread::Builder::new()
            .name("map".to_owned())
            .spawn(move || waiting.work(mapper.as_mut(), together, rows::MAX_ROWS, &metrics))
            .map_err(ServeError::Start)?;
        let all_answered = runtime.block_on(async {
            let listener =
                tokio::net::TcpListener::from_std(listener).map_err(ServeError::Start)?;
            let router = api::router(&shared);
            Ok(listen::listen(listener, router, shared, stop, settings.drain).await)
        })?;
        cancel.store(true, Ordering::Release);
        // The worker ends when the last connection, and with it the last sender, is dropped.
        drop(runtime);
        let _ = worker.join();
        if all_answered { Ok(()) } else { Err(ServeError::Unanswered) }
    }
}
