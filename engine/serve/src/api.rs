//! Routes, requests and responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::csrf::CsrfLayer;

use crate::batch::{Queue, Refused};
use crate::guard::{Denied, Guard};
use crate::metrics::Metrics;
use crate::page::{self, Page};
use crate::rows::{BadRows, decode, encode};
use crate::{About, Settings, is_told};

/// Bytes of one request at most: 128 rows of 512 tokens.
const MAX_BYTES: usize = 512 << 10;
/// Timeout for receiving the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// State shared by all requests.
pub(crate) struct Shared {
    pub(crate) about: About,
    pub(crate) queue: Queue,
    pub(crate) guard: Guard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) page: Page,
    pub(crate) timeout: Duration,
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
            draining: AtomicBool::new(false),
            about,
        }
    }
}

/// An error response.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn is_to_be_tried_again(&self) -> bool {
        matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({"error": {"code": self.code, "message": self.message}}).to_string();
        let mut response =
            (self.status, [(CONTENT_TYPE, "application/json")], body).into_response();
        if self.is_to_be_tried_again() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let ask = HeaderValue::from_static("Basic realm=\"paraloom\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, ask);
        }
        response
    }
}

/// All routes.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    let missing = |uri: axum::http::Uri| async move {
        let paths = "there are /, /v1/rows, /v1/info, /livez, /readyz and /metrics";
        let message = format!("there is nothing at {}; {paths}", uri.path());
        Problem::new(StatusCode::NOT_FOUND, "not_found", message)
    };
    let wrong_method = || async {
        let message = "this path takes another method; the header `Allow` names it";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    };
    Router::new()
        .route("/", get(empty_page).post(form))
        .route("/v1/rows", post(rows))
        .route("/v1/info", get(info))
        .route("/metrics", get(metrics))
        .merge(crate::page::assets())
        .method_not_allowed_fallback(wrong_method)
        .fallback(missing)
        .layer(CsrfLayer::new().with_rejection_response(|_| {
            let message = "a page of another site has sent this";
            Problem::new(StatusCode::FORBIDDEN, "cross_site", message).into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(shared), guard))
        // Health checks need no token and no host name.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .layer(CatchPanicLayer::custom(|_| {
            let message = "the server made a mistake; other requests are not affected";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(shared), finish))
        .with_state(Arc::clone(shared))
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

/// Counts the response, and adds security headers.
async fn finish(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    shared.metrics.answered(response.status().as_u16());
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(policy));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.draining.load(Ordering::Acquire) || shared.queue.is_closed() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    // New requests would time out as well.
    if shared.queue.busy_for() > shared.timeout {
        return (StatusCode::SERVICE_UNAVAILABLE, "stuck\n").into_response();
    }
    "ok\n".into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], shared.metrics.text(shared.queue.length())).into_response()
}

async fn info(State(shared): State<Arc<Shared>>) -> Response {
    json_response(shared.about.json().to_string())
}

fn json_response(body: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn rows(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let started = Instant::now();
    check_type(request.headers(), "application/json")?;
    let body = read(request.into_body()).await?;
    let outputs = map(&shared, &body).await?;
    let mut text = String::from("{");
    let outputs = shared.about.outputs.iter().zip(&outputs);
    for ((port, _), rows) in outputs.filter(|((port, _), rows)| is_told(port, rows)) {
        let rows = encode(rows).map_err(|error| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
        })?;
        let separator = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{separator}{}:{rows}", Value::from(port.as_str())));
    }
    text.push('}');
    shared.metrics.mapped(started);
    Ok(json_response(text))
}

async fn empty_page(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    page::answer(shared.page.empty(&host(&headers)))
}

/// Handles the page's form: returns the page with the results.
async fn form(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    check_type(request.headers(), "application/x-www-form-urlencoded")?;
    let host = host(request.headers());
    let body = match read(request.into_body()).await {
        Ok(body) => body,
        // A person gets an answer to look at.
        Err(problem) => {
            let mut response = page::answer(shared.page.refused(&host, &problem.message));
            *response.status_mut() = problem.status;
            return Ok(response);
        }
    };
    let filled = shared.page.fill(&body);
    let outcome = map(&shared, filled.request().to_string().as_bytes()).await;
    let (status, outcome) = match outcome {
        Ok(outputs) => (StatusCode::OK, Ok(outputs)),
        Err(problem) => (problem.status, Err(problem.message)),
    };
    let html = shared.page.filled(&host, &filled, outcome.as_deref().map_err(String::as_str));
    let mut response = page::answer(html);
    *response.status_mut() = status;
    Ok(response)
}

fn check_type(headers: &HeaderMap, kind: &str) -> Result<(), Problem> {
    let sent = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let sent = sent.split(';').next().unwrap_or_default();
    if sent.trim().eq_ignore_ascii_case(kind) {
        return Ok(());
    }
    let message = format!("send the header `Content-Type: {kind}`");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

/// The host name in the request.
fn host(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.unwrap_or("localhost").to_owned()
}

/// Reads the body of a request, within the limits on size and time.
async fn read(body: Body) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_long(&error) => {
            let message = format!("a request has {MAX_BYTES} bytes at most; send fewer rows");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message))
        }
        Ok(Err(error)) => Err(Problem::bad_request(format!("the request broke off: {error}"))),
        Err(_) => {
            let message = format!("the request took more than {} s", BODY_TIMEOUT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>)
}

/// Maps rows, in a batch with those of other requests; one table per output.
async fn map(shared: &Shared, body: &[u8]) -> Result<Vec<RecordBatch>, Problem> {
    let rows = decode(&shared.about.input, body).map_err(|problem| match problem {
        BadRows::Wrong(what) => Problem::bad_request(what),
        BadRows::TooMany(what) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", what),
    })?;
    let closed =
        || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this server is about to end");
    let answer = shared.queue.push(rows).map_err(|refused| match refused {
        Refused::Full => {
            let message = "too many rows are waiting; try again in a second";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
        }
        Refused::Closed => closed(),
    })?;
    match tokio::time::timeout(shared.timeout, answer).await {
        Ok(Ok(Ok(outputs))) => Ok(outputs),
        Ok(Ok(Err(what))) => {
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "stage_failed", what))
        }
        Ok(Err(_)) => Err(closed()),
        Err(_) => {
            let message = format!("it took more than {} s", shared.timeout.as_secs_f32());
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message))
        }
    }
}
