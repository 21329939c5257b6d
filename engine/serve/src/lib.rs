//! Map stages behind HTTP.
//!
//! [`Server`] puts one or several [`Mapper`]s on a port, each under a name that a request chooses it by, its `model`: rows come in
//! as JSON or from a page, go through it in batches with those of other requests, and come back. It knows neither pipelines nor
//! stages; the command line brings them together.
//!
//! One thread talks to clients, one maps. All models share the limits. What is too much is refused at once: too many rows waiting (429), too long a
//! request (413), too slow a client (408 or the end of its connection), too many connections (503).

mod access;
mod api;
mod ask;
mod batch;
mod body;
mod cells;
mod connection;
mod endpoints;
mod formats;
mod guard;
mod http;
mod hugging_face;
mod json;
mod listen;
mod metrics;
mod middleware;
mod models;
mod openai;
mod openapi;
mod page;
mod parameters;
mod problem;
mod queue;
mod rows;
mod shared;
mod texts;
mod types;

pub use page::{ColumnHint, Condition, Hints, Judge, Limit};

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde_json::{Value, json};

use models::Models;
use queue::{Limits, Queue};

pub use access::{Access, AccessLog};
pub use listen::RESERVE;

pub use parameters::{Checked, Parameter, ParameterSet, Parameters};

/// What is served: a function from rows to tables.
pub trait Mapper {
    /// Maps rows of the schema [`About::input`], each with another `_id`: a table for each of [`About::outputs`].
    ///
    /// # Errors
    /// What is told to the client.
    fn map(&mut self, rows: &RecordBatch, parameters: &Parameters) -> Result<Vec<Mapped>, Failure>;
}

/// Why rows were not mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The client asked for what cannot be.
    Refused(String),
    /// It did not work.
    Failed(String),
}

/// One output of a [`Mapper`].
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The rows.
    pub rows: RecordBatch,
    /// Of each row: the number of the row that it came of. Without it, requests are mapped one by one.
    pub origins: Option<Vec<usize>>,
    /// Of each row: what was left out of its texts. None where that is not known.
    pub marks: Option<Vec<Mark>>,
}

/// What is told of a row beside its columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// A text was longer than a stage reads, and was cut.
    pub is_cut: bool,
    /// A text that was written was ended for its length.
    pub is_unfinished: bool,
    /// Tokens of the text that was read, if that is known.
    pub tokens_read: Option<u64>,
    /// Tokens of the text that was written, if that is known.
    pub tokens_written: Option<u64>,
}

/// A model: what is served, and what maps its rows.
pub type Model<'a> = (About, Box<dyn Mapper + Send + 'a>);

/// Description of what is served.
#[derive(Clone, Debug)]
pub struct About {
    /// What a request calls it: its `model`.
    pub name: String,
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
    /// What a request may set.
    pub parameters: ParameterSet,
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
            "parameters": self.parameters.json(),
            "max_rows": rows::MAX_ROWS,
        })
    }
}

/// How to serve.
#[derive(Clone)]
pub struct Settings {
    /// Address and port; port 0 takes any that is free.
    pub bind: SocketAddr,
    /// Access control.
    pub token: Option<String>,
    /// Accept clients from other machines without a token.
    pub open: bool,
    /// Names of this server, beside `localhost` and IP addresses.
    pub hosts: Vec<String>,
    /// Connections at most; [`RESERVE`] more are told that there are too many.
    pub max_connections: usize,
    /// How long a connection may wait for its next request.
    pub keep_alive: Duration,
    /// Capacity of the queue, in rows.
    pub queue: usize,
    /// Rows that are mapped at once.
    pub max_batch_rows: usize,
    /// Tokens that are mapped at once. A text counts as many as it has bytes.
    pub max_batch_tokens: usize,
    /// Request timeout.
    pub timeout: Duration,
    /// How long connections are accepted after a stop was requested, while `/readyz` is 503.
    pub lame_duck: Duration,
    /// How long pending requests are processed after that.
    pub drain: Duration,
    /// Takes what is told of each request.
    pub log: Option<AccessLog>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            token: None,
            open: false,
            hosts: Vec::new(),
            max_connections: 1024,
            keep_alive: Duration::from_secs(75),
            queue: 512,
            max_batch_rows: 32,
            max_batch_tokens: 16_384,
            timeout: Duration::from_mins(1),
            lame_duck: Duration::ZERO,
            drain: Duration::from_secs(30),
            log: None,
        }
    }
}

impl Settings {
    /// Tokens that may wait: many batches, and any single request.
    fn waiting_tokens(&self) -> usize {
        self.max_batch_tokens.saturating_mul(64).max(body::MAX_BYTES)
    }

    /// Bytes that requests take at most, while they are read, wait and are mapped; answers and the work of the stages are not in
    /// it.
    pub fn memory(&self) -> usize {
        let connections = (self.max_connections + RESERVE) * http::MAX_BUFFER;
        // As JSON, and as rows.
        connections + body::BUDGET + 2 * self.waiting_tokens()
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the token.
        f.debug_struct("Settings").field("bind", &self.bind).finish_non_exhaustive()
    }
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
    /// There is nothing to serve, or two models have one name.
    #[error("{0}")]
    Models(String),
    /// Requests were still pending when the drain timeout ended.
    #[error("stopped before all requests were answered")]
    Unanswered,
}

/// Connections that the system keeps until they are accepted, if it allows as many.
const BACKLOG: i32 = 4096;

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
        // The standard library asks for 128, which a wave of clients overflows; those wait for a second or more then.
        rustix::net::listen(&listener, BACKLOG).map_err(|error| ServeError::Start(error.into()))?;
        listener.set_nonblocking(true).map_err(ServeError::Start)?;
        Ok(Self { listener, settings })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.settings.bind)
    }

    /// Serves until `stop` is set, then finishes pending requests. At the end it sets `cancel`, which makes mappers abandon
    /// their current batch. The first model is that of requests that name none.
    pub fn run(
        self,
        models: Vec<Model<'_>>,
        stop: &AtomicBool,
        cancel: &AtomicBool,
    ) -> Result<(), ServeError> {
        let Self { listener, settings } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ServeError::Start)?;
        let queue = Queue::new(Limits {
            rows: settings.queue,
            tokens: settings.waiting_tokens(),
            batch_rows: settings.max_batch_rows.max(1),
            batch_tokens: settings.max_batch_tokens,
            together: models.iter().map(|(about, _)| about.batch_invariant).collect(),
        });
        let (abouts, mut mappers): (Vec<_>, Vec<_>) = models.into_iter().unzip();
        let shared = shared::Shared::new(Models::new(abouts)?, queue.clone(), &settings);
        let shared = Arc::new(shared);
        let metrics = Arc::clone(&shared.metrics);
        std::thread::scope(|scope| {
            let jobs = queue.clone();
            let worker = std::thread::Builder::new()
                .name("map".to_owned())
                .spawn_scoped(scope, move || batch::work(&jobs, &mut mappers, &metrics))
                .map_err(ServeError::Start)?;
            let all_answered = runtime.block_on(async {
                let listener =
                    tokio::net::TcpListener::from_std(listener).map_err(ServeError::Start)?;
                let ending =
                    listen::Ending { stop, lame_duck: settings.lame_duck, drain: settings.drain };
                let (limit, keep_alive) = (settings.max_connections.max(1), settings.keep_alive);
                Ok(listen::listen(listener, shared, limit, keep_alive, ending).await)
            });
            cancel.store(true, Ordering::Release);
            drop(runtime);
            // The worker ends then. A panic of it was told by the answers.
            queue.close();
            let _ = worker.join();
            if all_answered? { Ok(()) } else { Err(ServeError::Unanswered) }
        })
    }
}
