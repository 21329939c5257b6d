//! `{"inputs": ..., "parameters": {...}}`, as the clients of the Hugging Face inference API send it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::Parameters;
use crate::ask::read;
use crate::endpoints::json_response;
use crate::middleware::RowCount;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::texts::{
    Texts, Translation, Written, asks_nothing, nothing_kept, object, texts, unsupported,
};

/// What clients have and T5 cannot do. Null and false ask for nothing.
const UNSUPPORTED: [&str; 11] = [
    "adapter_id",
    "best_of",
    "decoder_input_details",
    "details",
    "frequency_penalty",
    "grammar",
    "return_full_text",
    "return_tensors",
    "top_n_tokens",
    "watermark",
    "generate_parameters",
];

/// Answers with `[{"generated_text": ...}, ...]`; of several inputs, with a list for each; with `"stream": true` as
/// [`generate_stream`] does.
pub(crate) async fn generate(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Problem> {
    let body = received(&shared, request).await?;
    answer(&shared, body, false).await
}

/// Answers with events, as text-generation-inference does.
pub(crate) async fn generate_stream(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Problem> {
    let body = received(&shared, request).await?;
    answer(&shared, body, true).await
}

async fn received(shared: &Shared, request: Request) -> Result<Map<String, Value>, Problem> {
    let received = read(shared, request, "application/json").await?;
    object(&received.bytes)
}

async fn answer(
    shared: &Shared,
    mut body: Map<String, Value>,
    is_stream: bool,
) -> Result<Response, Problem> {
    let places = Texts::of_shared(shared)?;
    let is_stream = match body.remove("stream") {
        None | Some(Value::Null) => is_stream,
        Some(Value::Bool(asked)) => asked || is_stream,
        Some(_) => return Err(Problem::bad_request("`stream` is true or false")),
    };
    let (inputs, are_many) = texts("inputs", body.remove("inputs"))?;
    let sent = match body.remove("parameters") {
        None | Some(Value::Null) => Parameters::new(),
        Some(Value::Object(parameters)) => parameters,
        Some(_) => return Err(Problem::bad_request("`parameters` is an object")),
    };
    // Where and how a hub is to find the model.
    body.remove("options");
    body.remove("model");
    if let Some((name, _)) = body.iter().find(|(_, value)| !asks_nothing(value)) {
        return Err(unsupported(name));
    }
    if is_stream && inputs.len() > 1 {
        let message = "a stream is of one text; leave `stream` out for several";
        return Err(Problem::bad_request(message));
    }
    let parameters = translated(shared, sent)?;
    let written = places.write(shared, &inputs, parameters).await?;
    if let Some(number) = written.iter().position(Vec::is_empty) {
        return Err(nothing_kept(number));
    }
    let list = |texts: &Vec<Written>| -> Value {
        texts.iter().map(|text| json!({"generated_text": text.text})).collect()
    };
    let mut response = match written.first().and_then(|texts| texts.first()) {
        Some(first) if is_stream => {
            ([(CONTENT_TYPE, "text/event-stream")], event(first)).into_response()
        }
        _ => {
            let mut lists: Vec<_> = written.iter().map(list).collect();
            let answer = if are_many { Value::from(lists) } else { lists.swap_remove(0) };
            json_response(answer.to_string())
        }
    };
    response.extensions_mut().insert(RowCount(inputs.len()));
    Ok(response)
}

/// The event of a text, the first and the last of its stream: what is written comes whole, so its token is all of the text, with
/// neither number nor probability.
fn event(text: &Written) -> String {
    let token = json!({"id": null, "text": text.text, "logprob": null, "special": false});
    let event = json!({"index": 1, "token": token, "generated_text": text.text, "details": null});
    format!("data: {event}\n\n")
}

/// Parameters by the names of `transformers` in those of the pipeline; others are taken as they are.
fn translated(shared: &Shared, sent: Parameters) -> Result<Parameters, Problem> {
    let mut translation = Translation::new(shared);
    let has = |name: &str| sent.get(name).is_some_and(|value| !value.is_null());
    let draws = ["temperature", "top_k", "top_p", "min_p", "typical_p"].into_iter().any(has);
    for (name, value) in &sent {
        if value.is_null() {
            continue;
        }
        match (name.as_str(), value) {
            (name, value) if UNSUPPORTED.contains(&name) => {
                if !asks_nothing(value) {
                    return Err(unsupported(name));
                }
            }
            ("do_sample", Value::Bool(true)) if draws => {}
            ("do_sample", Value::Bool(is_on)) => {
                if draws {
                    let message = "`do_sample` is false, so what is drawn from, such as `temperature`, does not count; \
                                   leave it out";
                    return Err(Problem::bad_request(message));
                }
                translation.sample(*is_on)?;
            }
            ("stop" | "stop_sequences", value) if asks_nothing(value) => {}
            ("stop" | "stop_sequences", value) if translation.knows("stop") => {
                translation.set("stop", value.clone())?;
            }
            ("num_return_sequences", value) => translation.set("candidates", value.clone())?,
            ("num_beams", value) => translation.set("beams", value.clone())?,
            ("num_beam_groups", value) => translation.set("groups", value.clone())?,
            ("max_length", value) => translation.set("max_new_tokens", value.clone())?,
            ("truncate", value) => translation.set("max_source_tokens", value.clone())?,
            ("early_stopping", Value::Bool(stops)) => {
                translation.set("early_stopping", if *stops { "yes" } else { "no" }.into())?;
            }
            (name, value) => translation.set(name, value.clone())?,
        }
    }
    Ok(translation.parameters)
}
