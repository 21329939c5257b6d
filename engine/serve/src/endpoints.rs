//! What stands at the paths that are this server's own: rows, the page, health, metrics, descriptions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

use crate::ask::{ask, decoded, read, read_any};
use crate::body::media_type;
use crate::formats::{Format, query};
use crate::middleware::RowCount;
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
    let text = shared.metrics.text(shared.queue.length(), shared.queue.tokens());
    ([(CONTENT_TYPE, kind)], text).into_response()
}

pub(crate) async fn info(State(shared): State<Arc<Shared>>) -> Response {
    json_response(shared.about.json().to_string())
}

pub(crate) fn json_response(body: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

pub(crate) async fn rows(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Problem> {
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

pub(crate) async fn empty_page(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    page::answer(shared.page.empty(&host(&headers)))
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
