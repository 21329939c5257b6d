//! `{"inputs": ..., "parameters": {...}}`, as the clients of the Hugging Face inference API send it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::ask::read;
use crate::endpoints::json_response;
use crate::middleware::Done;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::texts::{
    Texts, Translation, Written, asks_nothing, nothing_kept, object, texts, unsupported,
};
use crate::{About, Parameters};

/// What clients have and T5 cannot do. Null and false ask for nothing.
const UNSUPPORTED: [&str; 10] = [
    "adapter_id",
    "best_of",
    "decoder_input_details",
    "frequency_penalty",
    "grammar",
    "return_full_text",
    "return_tensors",
    "top_n_tokens",
    "watermark",
    "generate_parameters",
];

/// What asks for drawing at random.
const DRAWS: [&str; 5] = ["temperature", "top_k", "top_p", "min_p", "typical_p"];

/// Answers with `[{"generated_text": ...}, ...]`; of several inputs, with a list for each; with `"stream": true` as
/// [`generate_stream`] does.
pub(crate) async fn generate(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Problem> {
    let path = request.uri().path().to_owned();
    let body = received(&shared, request).await?;
    answer(&shared, &path, body, false).await
}

/// Answers with events, as text-generation-inference does.
pub(crate) async fn generate_stream(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Problem> {
    let body = received(&shared, request).await?;
    answer(&shared, "/", body, true).await
}

async fn received(shared: &Shared, request: Request) -> Result<Map<String, Value>, Problem> {
    let received = read(shared, request, "application/json").await?;
    object(&received.bytes)
}

/// The model that a request names, in the address or in its body. Where there is one alone, it answers to any name, since clients
/// put there where and how a hub is to find the model.
fn model_of(shared: &Shared, path: &str, named: &Value) -> Result<usize, Problem> {
    if !shared.models.are_several() {
        return Ok(0);
    }
    match path.strip_prefix("/models/") {
        Some(name) => {
            let name = form_urlencoded::parse(name.as_bytes()).next();
            shared.models.chosen(&name.map_or(Value::Null, |(name, _)| name.into()))
        }
        None => shared.models.chosen(named),
    }
}

async fn answer(
    shared: &Shared,
    path: &str,
    mut body: Map<String, Value>,
    is_stream: bool,
) -> Result<Response, Problem> {
    let named = body.remove("model").unwrap_or_default();
    let model = shared.model(model_of(shared, path, &named)?);
    let places = Texts::of_model(model)?;
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
    // How a hub is to answer.
    body.remove("options");
    if let Some((name, _)) = body.iter().find(|(_, value)| !asks_nothing(value)) {
        return Err(unsupported(name));
    }
    if is_stream && inputs.len() > 1 {
        let message = "a stream is of one text; leave `stream` out for several";
        return Err(Problem::bad_request(message));
    }
    let mut sent = sent;
    let has_details = match sent.remove("details") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(has_details)) => has_details,
        Some(_) => return Err(Problem::bad_request("`details` is true or false")),
    };
    let parameters = translated(model.about(), sent)?;
    let written = places.write(model, &inputs, parameters).await?;
    if let Some(number) = written.iter().position(Vec::is_empty) {
        return Err(nothing_kept(number));
    }
    if has_details && written.iter().flatten().any(|text| text.tokens.is_none()) {
        let message = "`details` needs `token_scores: true` at the node that writes";
        return Err(Problem::bad_request(message));
    }
    let list = |texts: &Vec<Written>| -> Value {
        texts.iter().map(|text| told(text, has_details)).collect()
    };
    let mut response = match written.first().and_then(|texts| texts.first()) {
        Some(first) if is_stream => {
            ([(CONTENT_TYPE, "text/event-stream")], event(first, has_details)).into_response()
        }
        _ => {
            let mut lists: Vec<_> = written.iter().map(list).collect();
            let answer = if are_many { Value::from(lists) } else { lists.swap_remove(0) };
            json_response(answer.to_string())
        }
    };
    Done::note(&mut response, inputs.len(), &[model.number]);
    Ok(response)
}

/// A text by the names that the tasks of text to text give it: clients take theirs and do not tell which.
fn told(text: &Written, has_details: bool) -> Value {
    let Written { text: written, .. } = text;
    let mut told =
        json!({"generated_text": written, "translation_text": written, "summary_text": written});
    if has_details {
        told["details"] = details(text);
    }
    told
}

/// How a text came about, as text-generation-inference tells it. Stages do not tell the numbers of tokens in the vocabulary.
fn details(text: &Written) -> Value {
    let tokens = text.tokens.iter().flatten();
    let tokens = tokens.map(|(token, logprob)| {
        json!({"id": null, "text": token.replace('\u{2581}', " "), "logprob": logprob, "special": false})
    });
    let tokens: Vec<_> = tokens.collect();
    let count = text.mark.tokens_written.unwrap_or(tokens.len() as u64);
    let reason = if text.mark.is_unfinished { "length" } else { "eos_token" };
    json!({"finish_reason": reason, "generated_tokens": count, "seed": null, "prefill": [], "tokens": tokens})
}

/// The event of a text, the first and the last of its stream: what is written comes whole, so its token is all of the text, with
/// neither number nor probability.
fn event(text: &Written, has_details: bool) -> String {
    let token = json!({"id": null, "text": text.text, "logprob": null, "special": false});
    let details = has_details.then(|| details(text));
    let event =
        json!({"index": 1, "token": token, "generated_text": text.text, "details": details});
    format!("data: {event}\n\n")
}

/// Parameters by the names of `transformers` in those of the pipeline; others are taken as they are.
fn translated(about: &About, sent: Parameters) -> Result<Parameters, Problem> {
    let mut translation = Translation::new(about);
    let has = |name: &str| sent.get(name).is_some_and(|value| !value.is_null());
    let draws = DRAWS.into_iter().any(has);
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
                    let drawn = DRAWS.into_iter().find(|name| has(name)).unwrap_or("temperature");
                    return Err(Problem::bad_request(format!(
                        "`do_sample` is false, and `{drawn}` is for texts that are drawn at random: \
                         send true, or leave `{drawn}` out"
                    )));
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
