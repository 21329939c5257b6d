//! What surrounds every request: who may ask, its name, its lines in the log and the metrics, and the headers of its answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::access::Access;
use crate::api::{is_health_check, label, takes_work};
use crate::ask::full;
use crate::body::accepted_coding;
use crate::guard::Denied;
use crate::http::Peer;
use crate::problem::{Code, Problem, quoted};
use crate::shared::Shared;

/// Answers those who may not ask.
pub(crate) async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    match shared.guard.check(request.uri(), request.headers()) {
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

/// What the access log tells of the work that a request asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    /// Rows of the request.
    pub(crate) rows: usize,
    /// The models that mapped them, by their numbers.
    pub(crate) models: Vec<usize>,
}

impl Done {
    /// Notes it with the answer.
    pub(crate) fn note(response: &mut Response, rows: usize, models: &[usize]) {
        response.extensions_mut().insert(Self { rows, models: models.to_vec() });
    }
}

/// The name of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestId(pub(crate) String);

/// Names, counts and logs the request, and adds security headers to its answer.
pub(crate) async fn finish(
    State(shared): State<Arc<Shared>>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let asked = Asked::new(&shared, &request);
    request.extensions_mut().insert(RequestId(asked.id.clone()));
    let response = next.run(request).await;
    asked.answered(&shared, response)
}

/// The answer to a request for work while the queue is full; none if it is to go its way through the routes. They come to the same,
/// but when there is most to refuse, that has to be cheap.
pub(crate) fn refused_at_once<B>(shared: &Shared, request: &Request<B>) -> Option<Response> {
    let headers = request.headers();
    // What the layers of the router would say first.
    let is_plain = !headers.contains_key(ORIGIN) && !headers.contains_key("sec-fetch-site");
    let is_refused = *request.method() == Method::POST
        && takes_work(request.uri().path())
        && is_plain
        && shared.queue.is_full()
        && shared.guard.check(request.uri(), headers).is_ok();
    is_refused.then(|| Asked::new(shared, request).answered(shared, full().into_response()))
}

/// A request, as it is told of afterwards.
struct Asked {
    started: Instant,
    id: String,
    method: Method,
    uri: Uri,
    peer: Option<IpAddr>,
}

impl Asked {
    fn new<B>(shared: &Shared, request: &Request<B>) -> Self {
        Self {
            started: Instant::now(),
            id: shared.ids.of(request.headers()),
            method: request.method().clone(),
            uri: request.uri().clone(),
            peer: request.extensions().get::<Peer>().map(|peer| peer.0),
        }
    }

    /// Counts and logs it, and adds the headers that all answers have.
    fn answered(self, shared: &Shared, mut response: Response) -> Response {
        let Self { started, id, method, uri, peer } = self;
        let status = response.status();
        let problem = response.extensions().get::<Code>().map(|code| code.0);
        if !is_health_check(uri.path()) {
            shared.metrics.answered(label(uri.path()), status.as_u16(), started);
            problem.inspect(|problem| shared.metrics.refused(problem));
            if let Some(log) = &shared.log {
                let Done { rows, models } =
                    response.extensions_mut().remove::<Done>().unwrap_or_default();
                let names = models.iter().map(|model| shared.models.get(*model).name.as_str());
                log(&Access {
                    id: id.clone(),
                    peer,
                    method: method.to_string(),
                    path: quoted(uri.path()),
                    status: status.as_u16(),
                    problem,
                    rows,
                    models: names
                        .filter(|_| shared.models.are_several())
                        .map(str::to_owned)
                        .collect(),
                    took: started.elapsed(),
                });
            }
        }
        let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'";
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
}
