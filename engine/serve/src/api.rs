//! Routes, and what is common to all requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::csrf::CsrfLayer;

use crate::access::{Access, AccessLog, Ids};
use crate::body::{Budget, Received, accepted_coding, media_type};
use crate::formats::{Format, query};
use crate::guard::{Denied, Guard};
use crate::listen::Peer;
use crate::metrics::Metrics;
use crate::page::{self, Page};
use crate::problem::{Code, Problem, quoted};
use crate::queue::{Queue, Refused, Work};
use crate::rows::{BadRows, decode, encode};
use crate::{About, Failure, Mapped, Settings, hugging_face, is_told, openai, openapi};

/// State shared by all requests.
pub(crate) struct Shared {
    pub(crate) about: About,
    pub(crate) queue: Queue,
    pub(crate) guard: Guard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) page: Page,
    pub(crate) timeout: Duration,
    pub(crate) budget: Budget,
    pub(crate) ids: Ids,
    pub(crate) log: Option<AccessLog>,
    pub(crate) openapi: Value,
    pub(crate) started: SystemTime,
    /// Set when the server shuts down.
    pub(crate) draining: AtomicBool,
}

impl Shared {
    pub(crate) fn new(about: About, queue: Queue, settings: &Settings) -> Self {
        Self {
            queue,
            guard: Guard::new(settings.bind, settings.token.as_deref(), &settings.hosts),
            metrics: Arc::new(Metrics::new(&about.version)),
            page: Page::new(&about, settings.token.is_some()),
            timeout: settings.timeout,
            budget: Budget::new(),
            ids: Ids::new(),
            log: settings.log.clone(),
            openapi: openapi::document(&about, settings.token.is_some()),
            started: SystemTime::now(),
            draining: AtomicBool::new(false),
            about,
        }
    }
}

/// The paths that are served.
const PATHS: [&str; 12] = [
    "/",
    "/v1/rows",
    "/v1/completions",
    "/v1/models",
    "/v1/info",
    "/models/{name}",
    "/openapi.json",
    "/docs",
    "/metrics",
    LIVEZ,
    READYZ,
    "/v1/models/{name}",
];
const LIVEZ: &str = "/livez";
const READYZ: &str = "/readyz";

pub(crate) fn is_health_check(path: &str) -> bool {
    [LIVEZ, READYZ].contains(&path)
}

/// All routes.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(empty_page).post(root))
        .route("/v1/rows", post(rows))
        .route("/v1/info", get(info))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{*name}", get(openai::model_card))
        .route("/v1/completions", post(openai::completions))
        .route("/models/{*name}", post(hugging_face::generate))
        .route("/openapi.json", get(openapi))
        .route("/docs", get(docs))
        .route("/metrics", get(metrics))
        .merge(crate::page::assets())
        .method_not_allowed_fallback(wrong_method)
        .fallback(missing)
        .layer(CsrfLayer::new().with_rejection_response(|_| {
            let message = "a page of another site has sent this";
            Problem::new(StatusCode::FORBIDDEN, "cross_site", message).into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(shared), guard))
        .merge(health())
        .layer(CatchPanicLayer::custom(|_| {
            let message = "the server made a mistake; other requests are not affected";
            Problem::internal(message).into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(shared), finish))
        .with_state(Arc::clone(shared))
}

/// The routes of connections beyond the limit: health checks are answered, everything else is to be tried again.
pub(crate) fn overload(shared: &Arc<Shared>) -> Router {
    let full = || async {
        let message = "too many connections are open; try again in a second";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    };
    let close = async |request: Request, next: Next| {
        let mut response = next.run(request).await;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    };
    health().fallback(full).layer(from_fn(close)).with_state(Arc::clone(shared))
}

/// Health checks need no token and no host name.
fn health() -> Router<Arc<Shared>> {
    Router::new()
        .route(LIVEZ, get(|| async { "ok\n" }))
        .route(READYZ, get(ready))
        .method_not_allowed_fallback(wrong_method)
}

async fn wrong_method() -> Problem {
    let message = "this path takes another method; the header `Allow` names it";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

async fn missing(uri: Uri) -> Problem {
    let paths = PATHS.join(", ");
    let message = format!("there is nothing at {}; there are {paths}", quoted(uri.path()));
    Problem::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match shared.guard.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(Denied::Token) => {
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "this server asks for a token")
                .into_response()
        }
        Err(Denied::Host) => {
            let message = "the header `Host` does not name this server; `--host` adds a name";
            Problem::new(StatusCode::FORBIDDEN, "wrong_host", message).into_response()
        }
    }
}

/// Rows of a request, for the access log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowCount(pub(crate) usize);

/// The name of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestId(pub(crate) String);

/// Names, counts and logs the request, and adds security headers to its answer.
async fn finish(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = shared.ids.of(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let mut response = next.run(request).await;
    let status = response.status();
    let problem = response.extensions().get::<Code>().map(|code| code.0);
    if !is_health_check(uri.path()) {
        shared.metrics.answered(label(uri.path()), status.as_u16(), started);
        problem.inspect(|problem| shared.metrics.refused(problem));
        if let Some(log) = &shared.log {
            log(&Access {
                id: id.clone(),
                peer,
                method: method.to_string(),
                path: quoted(uri.path()),
                status: status.as_u16(),
                problem,
                rows: response.extensions().get::<RowCount>().map_or(0, |rows| rows.0),
                took: started.elapsed(),
            });
        }
    }
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(policy));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        headers.extend([accepted_coding()]);
    }
    response
}

/// A path as a label of metrics: what clients make up is all one.
fn label(path: &str) -> &'static str {
    let fits = |known: &&str| match known.strip_suffix("{name}") {
        Some(prefix) => path.starts_with(prefix),
        None => *known == path,
    };
    PATHS.into_iter().find(fits).unwrap_or("other")
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let unready = |why: &'static str| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if shared.draining.load(Ordering::Acquire) || shared.queue.is_closed() {
        return unready("stopping\n");
    }
    // New requests would time out as well.
    if shared.queue.busy_for() > shared.timeout {
        return unready("stuck\n");
    }
    "ok\n".into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = shared.metrics.text(shared.queue.length(), shared.queue.tokens());
    ([(CONTENT_TYPE, kind)], text).into_response()
}

async fn info(State(shared): State<Arc<Shared>>) -> Response {
    json_response(shared.about.json().to_string())
}

pub(crate) fn json_response(body: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn rows(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let (sent, wanted) = (Format::sent(request.headers())?, Format::wanted(request.headers())?);
    let (parameters, output) = query(request.uri(), &shared.about)?;
    let received = read_any(&shared, request).await?;
    let body = sent.to_json(&received.bytes, &shared.about.input, parameters)?;
    let rows = decoded(&shared, &body)?;
    let count = rows.rows.num_rows();
    let outputs = ask(&shared, rows).await?;
    if wanted != Format::Json {
        let output =
            outputs.get(output).ok_or_else(|| Problem::internal("an output is missing"))?;
        let mut response = wanted.write(output)?;
        response.extensions_mut().insert(RowCount(count));
        return Ok(response);
    }
    let mut text = String::from("{");
    let told = shared.about.outputs.iter().zip(&outputs);
    let told = told.filter(|((port, _), output)| is_told(port, &output.rows));
    let mut cut = Vec::new();
    for ((port, _), output) in told {
        let rows = encode(&output.rows).map_err(|error| Problem::internal(error.to_string()))?;
        let separator = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{separator}{}:{rows}", Value::from(port.as_str())));
        cut.extend(truncated(port, output));
    }
    if !cut.is_empty() {
        text.push_str(&format!(",\"_warnings\":{}", Value::from(cut)));
    }
    text.push('}');
    let mut response = json_response(text);
    response.extensions_mut().insert(RowCount(count));
    Ok(response)
}

/// A warning for each row that came of a text that was cut.
fn truncated(port: &str, output: &Mapped) -> Vec<Value> {
    let marks = output.marks.iter().flatten().enumerate().filter(|(_, mark)| mark.is_cut);
    let warning = |row: usize| {
        let message = "a text was longer than a stage reads, and was cut";
        json!({"code": "truncated", "output": port, "row": row, "message": message})
    };
    marks.map(|(row, _)| warning(row)).collect()
}

async fn empty_page(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    page::answer(shared.page.empty(&host(&headers)))
}

/// Texts from programs, or the page's form.
async fn root(state: State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    match media_type(request.headers()).as_str() {
        "application/json" => hugging_face::generate(state, request).await,
        FORM => form(state, request).await,
        _ => {
            let message = format!(
                "send the header `Content-Type: application/json` with {{\"inputs\": ...}}; rows go to \
                 /v1/rows, and the form of the page is {FORM}"
            );
            Err(Problem::unsupported(message))
        }
    }
}

async fn openapi(State(shared): State<Arc<Shared>>) -> Response {
    json_response(shared.openapi.to_string())
}

async fn docs(State(shared): State<Arc<Shared>>) -> Result<Html<String>, Problem> {
    let page = openapi::docs(&shared.about, &shared.openapi);
    page.map(Html).map_err(|_| Problem::internal("the page cannot be shown"))
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Handles the page's form: returns the page with the results.
async fn form(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let host = host(request.headers());
    let received = match read(&shared, request, FORM).await {
        Ok(received) => received,
        // A person gets an answer to look at.
        Err(problem) => {
            let mut response = page::answer(shared.page.refused(&host, &problem.message));
            *response.status_mut() = problem.status;
            return Ok(response);
        }
    };
    let filled = shared.page.fill(&received.bytes);
    let outcome = match decoded(&shared, filled.request().to_string().as_bytes()) {
        Ok(rows) => ask(&shared, rows).await,
        Err(problem) => Err(problem),
    };
    let (status, outcome) = match outcome {
        Ok(outputs) => {
            (StatusCode::OK, Ok(outputs.into_iter().map(|output| output.rows).collect::<Vec<_>>()))
        }
        Err(problem) => (problem.status, Err(problem.message)),
    };
    let html = shared.page.filled(&host, &filled, outcome.as_deref().map_err(String::as_str));
    let mut response = page::answer(html);
    *response.status_mut() = status;
    Ok(response)
}

/// The host name in the request.
fn host(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.unwrap_or("localhost").to_owned()
}

/// Reads the body of a request of a media type. While the queue is full, nothing is read.
pub(crate) async fn read(
    shared: &Shared,
    request: Request<Body>,
    kind: &str,
) -> Result<Received, Problem> {
    if media_type(request.headers()) != kind {
        return Err(Problem::unsupported(format!("send the header `Content-Type: {kind}`")));
    }
    read_any(shared, request).await
}

async fn read_any(shared: &Shared, request: Request<Body>) -> Result<Received, Problem> {
    let (head, body) = request.into_parts();
    if head.method == Method::POST && shared.queue.is_full() {
        return Err(full());
    }
    shared.budget.read(&head, body).await
}

fn full() -> Problem {
    Problem::busy("too many rows are waiting; try again in a second")
}

/// The rows of a body, each within the limit on tokens.
pub(crate) fn decoded(shared: &Shared, body: &[u8]) -> Result<Work, Problem> {
    let (rows, sent) = decode(&shared.about.input, body).map_err(|problem| match problem {
        BadRows::Wrong(what) => Problem::bad_request(what),
        BadRows::TooMany(what) => Problem::too_large(what),
    })?;
    let checked = shared.about.parameters.check(&sent).map_err(Problem::bad_request)?;
    let tokens = most_tokens(&rows);
    let limits = shared.queue.limits();
    let sum = |tokens: &[usize]| tokens.iter().sum::<usize>();
    let row = tokens.iter().position(|tokens| *tokens > limits.batch_tokens);
    if let Some(row) = row {
        let message = format!(
            "row {}: its texts can have {} tokens, one per byte; this server maps {} at once \
             (`--max-batch-tokens`)",
            row + 1,
            tokens[row],
            limits.batch_tokens
        );
        return Err(Problem::too_large(message));
    }
    if !limits.together && sum(&tokens) > limits.batch_tokens {
        let message = format!(
            "the texts of these rows can have {} tokens, one per byte; this server maps {} at once \
             (`--max-batch-tokens`); send fewer rows",
            sum(&tokens),
            limits.batch_tokens
        );
        return Err(Problem::too_large(message));
    }
    let (parameters, factor) = (Arc::new(checked.parameters), checked.factor);
    Ok(Work { rows, tokens, parameters, factor })
}

/// How many tokens the texts of each row have at most: no tokenizer makes more of a text than it has bytes, but for the
/// mark at its end.
fn most_tokens(rows: &RecordBatch) -> Vec<usize> {
    let mut tokens = vec![1; rows.num_rows()];
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    for (_, column) in columns.filter(|(field, _)| !field.name().starts_with('_')) {
        for (row, tokens) in tokens.iter_mut().enumerate() {
            *tokens += match column.data_type() {
                DataType::Utf8 => column.as_string::<i32>().value(row).len(),
                DataType::LargeUtf8 => column.as_string::<i64>().value(row).len(),
                DataType::Utf8View => column.as_string_view().value(row).len(),
                // Lists and structs of texts.
                kind if kind.is_nested() => {
                    column.slice(row, 1).to_data().get_slice_memory_size().unwrap_or(0)
                }
                _ => 0,
            };
        }
    }
    tokens
}

/// Maps rows, in batches with those of other requests; one table per output.
pub(crate) async fn ask(shared: &Shared, rows: Work) -> Result<Vec<Mapped>, Problem> {
    let (count, bytes) = (rows.rows.num_rows(), rows.tokens.iter().sum::<usize>());
    let answer = shared.queue.push(rows).map_err(|refused| match refused {
        Refused::Full => full(),
        Refused::Closed => Problem::stopping(),
    })?;
    shared.metrics.came(count, bytes - count);
    let outputs = match tokio::time::timeout(shared.timeout, answer).await {
        Ok(Ok(Ok(outputs))) => outputs,
        Ok(Ok(Err(Failure::Refused(what)))) => return Err(Problem::bad_request(what)),
        Ok(Ok(Err(Failure::Failed(what)))) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Err(Problem::new(status, "stage_failed", what));
        }
        Ok(Err(_)) => return Err(Problem::stopping()),
        Err(_) => {
            let message = format!("it took more than {} s", shared.timeout.as_secs_f32());
            return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message));
        }
    };
    for output in &outputs {
        let count = output.rows.num_rows();
        let bytes = most_tokens(&output.rows).iter().sum::<usize>() - count;
        let cut = output.marks.iter().flatten().filter(|mark| mark.is_cut).count();
        shared.metrics.went(count, bytes, cut);
    }
    Ok(outputs)
}
