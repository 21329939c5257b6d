//! Routes: which path is answered by what.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::csrf::CsrfLayer;

use crate::endpoints::{docs, empty_page, info, metrics, openapi, ready, root, rows};
use crate::middleware::{finish, guard};
use crate::problem::{Problem, quoted};
use crate::shared::Shared;
use crate::{hugging_face, openai};

/// The paths that are served.
const PATHS: [&str; 13] = [
    "/",
    "/generate_stream",
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

/// Whether what is posted there waits in the queue. The form of the page does too, but gets a page in any case.
pub(crate) fn takes_work(path: &str) -> bool {
    ["/v1/rows", "/v1/completions", "/generate_stream"].contains(&path)
        || path.starts_with("/models/")
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
        .route("/generate_stream", post(hugging_face::generate_stream))
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

/// A path as a label of metrics: what clients make up is all one.
pub(crate) fn label(path: &str) -> &'static str {
    let fits = |known: &&str| match known.strip_suffix("{name}") {
        Some(prefix) => path.starts_with(prefix),
        None => *known == path,
    };
    PATHS.into_iter().find(fits).unwrap_or("other")
}
