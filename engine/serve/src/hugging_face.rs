//! `{"inputs": ..., "parameters": {...}}`, as the clients of the Hugging Face inference API send it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::Parameters;
use crate::api::{RowCount, Shared, json_response, read};
use crate::problem::Problem;
use crate::texts::{Texts, Translation, asks_nothing, nothing_kept, object, texts, unsupported};

/// What clients have and T5 cannot do. Null and false ask for nothing.
const UNSUPPORTED: [&str; 14] = [
    "adapter_id",
    "best_of",
    "decoder_input_details",
    "details",
    "frequency_penalty",
    "grammar",
    "return_full_text",
    "return_tensors",
    "stop",
    "stop_sequences",
    "top_n_tokens",
    "typical_p",
    "watermark",
    "generate_parameters",
];

/// Answers with `[{"generated_text": ...}, ...]`; of several inputs, with a list for each.
pub(crate) async fn generate(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Problem> {
    let places = Texts::of_shared(&shared)?;
    let received = read(&shared, request, "application/json").await?;
    let mut body = object(&received.bytes)?;
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
    let parameters = translated(&shared, sent)?;
    let written = places.write(&shared, &inputs, parameters).await?;
    if let Some(number) = written.iter().position(Vec::is_empty) {
        return Err(nothing_kept(number));
    }
    let list = |texts: &Vec<crate::texts::Text>| -> Value {
        texts.iter().map(|text| json!({"generated_text": text.text})).collect()
    };
    let mut lists: Vec<_> = written.iter().map(list).collect();
    let answer = if are_many { Value::from(lists) } else { lists.swap_remove(0) };
    let mut response = json_response(answer.to_string());
    response.extensions_mut().insert(RowCount(inputs.len()));
    Ok(response)
}

/// Parameters by the names of `transformers` in those of the pipeline; others are taken as they are.
fn translated(shared: &Shared, sent: Parameters) -> Result<Parameters, Problem> {
    let mut translation = Translation::new(shared);
    let has = |name: &str| sent.get(name).is_some_and(|value| !value.is_null());
    let draws = ["temperature", "top_k", "top_p"].into_iter().any(has);
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
                    let message = "`do_sample` is false, so `temperature`, `top_k` and `top_p` do not count; \
                                   leave them out";
                    return Err(Problem::bad_request(message));
                }
                translation.sample(*is_on)?;
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
