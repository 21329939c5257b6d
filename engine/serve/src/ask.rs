//! From the body of a request to rows that wait, and to what became of them.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::body::{Received, media_type};
use crate::problem::Problem;
use crate::queue::{Answer, Refused, Work};
use crate::rows::{BadRows, decode, is_identity, sent};
use crate::shared::{Chosen, Shared};
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

pub(crate) fn full() -> Problem {
    Problem::busy("too many rows are waiting; try again in a second")
}

/// The rows of a body, each within the limit on tokens, and the model that is to map them: the one of this number, or else the one
/// that the body names.
pub(crate) fn decoded<'a>(
    shared: &'a Shared,
    named: Option<usize>,
    body: &[u8],
) -> Result<(Chosen<'a>, Work), Problem> {
    let wrong = |problem| match problem {
        BadRows::Wrong(what) => Problem::bad_request(what),
        BadRows::TooMany(what) => Problem::too_large(what),
    };
    let sent = sent(body).map_err(wrong)?;
    let model = match named {
        Some(_) if !sent.model.is_null() => {
            let message = "`model` is given twice, in the address and in the body";
            return Err(Problem::bad_request(message));
        }
        Some(model) => model,
        None => shared.models.chosen(&sent.model)?,
    };
    let chosen = shared.model(model);
    let (rows, sent) = decode(&chosen.about().input, sent).map_err(wrong)?;
    let checked = chosen.about().parameters.check(&sent).map_err(Problem::bad_request)?;
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
    if !limits.together[model] && sum(&tokens) > limits.batch_tokens {
        let message = format!(
            "the texts of these rows can have {} tokens, one per byte; this server maps {} at once \
             (`--max-batch-tokens`); send fewer rows",
            sum(&tokens),
            limits.batch_tokens
        );
        return Err(Problem::too_large(message));
    }
    let (parameters, factor) = (Arc::new(checked.parameters), checked.factor);
    Ok((chosen, Work { model, rows, tokens, parameters, factor }))
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
    put(shared, rows)?.answer(shared).await
}

/// Rows that wait in the queue or are being mapped.
pub(crate) struct Waiting {
    model: usize,
    until: Instant,
    answer: Receiver<Answer>,
}

/// Puts rows into the queue.
pub(crate) fn put(shared: &Shared, rows: Work) -> Result<Waiting, Problem> {
    let (model, until) = (rows.model, Instant::now() + shared.timeout);
    let (count, bytes) = (rows.rows.num_rows(), rows.tokens.iter().sum::<usize>());
    let answer = shared.queue.push(rows).map_err(|refused| match refused {
        Refused::Full => full(),
        Refused::Closed => Problem::stopping(),
    })?;
    shared.metrics.came(model, count, bytes - count);
    Ok(Waiting { model, until, answer })
}

impl Waiting {
    /// What becomes of them.
    pub(crate) async fn answer(self, shared: &Shared) -> Result<Vec<Mapped>, Problem> {
        let outputs = outputs(shared, tokio::time::timeout_at(self.until, self.answer).await)?;
        for output in &outputs {
            let count = output.rows.num_rows();
            let bytes = most_tokens(&output.rows).iter().sum::<usize>() - count;
            let cut = output.marks.iter().flatten().filter(|mark| mark.is_cut).count();
            shared.metrics.went(self.model, count, bytes, cut);
        }
        Ok(outputs)
    }
}

/// What the queue gave, or why it gave nothing.
fn outputs(
    shared: &Shared,
    given: Result<Result<Answer, RecvError>, Elapsed>,
) -> Result<Vec<Mapped>, Problem> {
    match given {
        Ok(Ok(Ok(outputs))) => Ok(outputs),
        Ok(Ok(Err(Failure::Refused(what)))) => Err(Problem::bad_request(what)),
        Ok(Ok(Err(Failure::Failed(what)))) => {
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "stage_failed", what))
        }
        Ok(Err(_)) => Err(Problem::stopping()),
        Err(_) => {
            let message = format!("it took more than {} s", shared.timeout.as_secs_f32());
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message))
        }
    }
}
