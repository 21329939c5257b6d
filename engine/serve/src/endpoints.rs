//! What stands at the paths that are this server's own: rows, the page, health, metrics, descriptions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

use crate::ask::{Waiting, ask, decoded, put, read, read_any};
use crate::body::media_type;
use crate::formats::{Format, Query};
use crate::middleware::Done;
use crate::page;
use crate::problem::Problem;
use crate::rows::encode;
use crate::shared::Shared;
use crate::{Mapped, hugging_face, is_told, openapi};

pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
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

pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = shared.metrics.text(&shared.queue.loads());
    ([(CONTENT_TYPE, kind)], text).into_response()
}

/// What the model that the address names takes and gives; without a name, the first, and which others there are.
pub(crate) async fn info(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let named = Query::of(&uri)?.model.map_or(Value::Null, Value::from);
    let model = shared.models.get(shared.models.chosen(&named)?);
    let mut told = model.json();
    if shared.models.are_several() {
        told["model"] = model.name.as_str().into();
        told["models"] = shared.models.all().iter().map(|about| about.name.as_str()).collect();
    }
    Ok(json_response(told.to_string()))
}

pub(crate) fn json_response(body: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

pub(crate) async fn rows(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Problem> {
    let (sent, wanted) = (Format::sent(request.headers())?, Format::wanted(request.headers())?);
    let mut query = Query::of(request.uri())?;
    let named = query.model.take().map(|name| shared.models.chosen(&name.into())).transpose()?;
    let received = read_any(&shared, request).await?;
    let schema = &shared.models.get(named.unwrap_or(0)).input;
    let parameters = std::mem::take(&mut query.parameters);
    let body = sent.to_json(&received.bytes, schema, parameters)?;
    let (model, rows) = decoded(&shared, named, &body)?;
    let output = query.output(model.about())?;
    let count = rows.rows.num_rows();
    let outputs = ask(&shared, rows).await?;
    if wanted != Format::Json {
        let output =
            outputs.get(output).ok_or_else(|| Problem::internal("an output is missing"))?;
        let mut response = wanted.write(output)?;
        Done::note(&mut response, count, &[model.number]);
        return Ok(response);
    }
    let mut text = String::from("{");
    let told = model.about().outputs.iter().zip(&outputs);
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
    Done::note(&mut response, count, &[model.number]);
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

pub(crate) async fn empty_page(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    page::answer(shared.page.empty(&origin(&headers)))
}

/// Texts from programs, or the page's form.
pub(crate) async fn root(state: State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    match media_type(request.headers())?.as_str() {
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

pub(crate) async fn openapi(State(shared): State<Arc<Shared>>) -> Response {
    json_response(shared.openapi.to_string())
}

pub(crate) async fn docs(State(shared): State<Arc<Shared>>) -> Result<Html<String>, Problem> {
    let page = openapi::docs(&shared.models, &shared.openapi);
    page.map(Html).map_err(|_| Problem::internal("the page cannot be shown"))
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Handles the page's form: returns the page with the results.
async fn form(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let origin = origin(request.headers());
    let received = match read(&shared, request, FORM).await {
        Ok(received) => received,
        // A person gets an answer to look at.
        Err(problem) => {
            let mut response = page::answer(shared.page.refused(&origin, &problem.message));
            *response.status_mut() = problem.status;
            return Ok(response);
        }
    };
    let filled = shared.page.fill(&received.bytes);
    let models = shared.page.models(&filled);
    // All are asked before the first is waited for.
    let waiting: Vec<_> = models.iter().map(|model| begun(&shared, &filled, *model)).collect();
    let mut outcomes = Vec::new();
    for waiting in waiting {
        let outcome = match waiting {
            Ok(waiting) => waiting.answer(&shared).await,
            Err(problem) => Err(problem),
        };
        let rows = |outputs: Vec<Mapped>| outputs.into_iter().map(|output| output.rows).collect();
        outcomes.push(outcome.map(rows));
    }
    // What one of several cannot do stands in its place.
    let status = match outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
        Some(problem) if outcomes.iter().all(Result::is_err) => problem.status,
        _ => StatusCode::OK,
    };
    let outcomes: Vec<_> = models.iter().copied().zip(outcomes).collect();
    let mut response = page::answer(shared.page.filled(&origin, &filled, &outcomes));
    *response.status_mut() = status;
    Done::note(&mut response, filled.rows().len(), &models);
    Ok(response)
}

/// Has a model begin with what the form asks of it.
fn begun(shared: &Shared, filled: &page::Filled, model: usize) -> Result<Waiting, Problem> {
    let body = shared.page.request(filled, model).to_string();
    let (_, rows) = decoded(shared, Some(model), body.as_bytes())?;
    put(shared, rows)
}

/// Where the client reaches this server: with TLS if a proxy says so.
fn origin(headers: &HeaderMap) -> String {
    let has_tls = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    format!("{}://{}", if has_tls { "https" } else { "http" }, host.unwrap_or("localhost"))
}
