//! From the body of a request to rows that wait, and to what became of them.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};

use crate::body::{Received, media_type};
use crate::problem::Problem;
use crate::queue::{Refused, Work};
use crate::rows::{BadRows, decode, is_identity};
use crate::shared::Shared;
use crate::{Failure, Mapped};

/// Reads the body of a request of a media type. While the queue is full, nothing is read.
pub(crate) async fn read(
    shared: &Shared,
    request: Request<Body>,
    kind: &str,
) -> Result<Received, Problem> {
    if media_type(request.headers())? != kind {
        return Err(Problem::unsupported(format!("send the header `Content-Type: {kind}`")));
    }
    if request.uri().query().is_some_and(|query| !query.is_empty()) {
        return Err(Problem::bad_request("parameters are in the body here, not in the address"));
    }
    read_any(shared, request).await
}

/// Reads the body of a request of any media type.
pub(crate) async fn read_any(shared: &Shared, request: Request<Body>) -> Result<Received, Problem> {
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
    for (_, column) in columns.filter(|(field, _)| !is_identity(field.name())) {
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
