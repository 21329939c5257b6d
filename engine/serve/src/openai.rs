//! `/v1/completions` and `/v1/models`, as OpenAI's clients send and expect them.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::About;
use crate::ask::read;
use crate::endpoints::json_response;
use crate::middleware::{Done, RequestId};
use crate::problem::Problem;
use crate::shared::{Chosen, Shared};
use crate::texts::{
    Texts, Translation, Written, asks_nothing, nothing_kept, object, texts, unsupported,
};

/// What the API has and T5 cannot do. Null, false and 0 ask for nothing.
const UNSUPPORTED: [&str; 7] =
    ["echo", "frequency_penalty", "functions", "logit_bias", "presence_penalty", "suffix", "tools"];
/// Texts at which an answer ends, at most.
const MAX_STOPS: usize = 4;

/// Seconds since 1970 at which the server started.
fn created(shared: &Shared) -> u64 {
    shared.started.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn card(model: Chosen<'_>) -> Value {
    json!({
        "id": model.about().name,
        "object": "model",
        "created": created(model.shared),
        "owned_by": "paraloom",
    })
}

pub(crate) async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let cards = (0..shared.models.all().len()).map(|number| card(shared.model(number)));
    json_response(json!({"object": "list", "data": cards.collect::<Vec<_>>()}).to_string())
}

pub(crate) async fn model_card(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    // A name that is no UTF-8 is none of ours.
    let name = name.map_or_else(|_| String::from("\u{fffd}"), |Path(name)| name);
    let model = shared.model(shared.models.chosen(&Value::from(name))?);
    Ok(json_response(card(model).to_string()))
}

/// What a request for completions asks for.
struct Asked {
    prompts: Vec<String>,
    stops: Vec<String>,
    is_stream: bool,
    /// Whether a stream is to end with how many tokens there were.
    has_usage: bool,
    /// Whether the logarithms of the tokens' probabilities are asked for.
    has_logprobs: bool,
    parameters: crate::Parameters,
}

pub(crate) async fn completions(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Problem> {
    let id = request.extensions().get::<RequestId>().cloned().unwrap_or_default();
    let id = format!("cmpl-{}", id.0);
    let received = read(&shared, request, "application/json").await?;
    let mut body = object(&received.bytes)?;
    let named = body.remove("model").unwrap_or_default();
    let model = shared.model(shared.models.chosen(&named)?);
    let places = Texts::of_model(model)?;
    let Asked { prompts, stops, is_stream, has_usage, has_logprobs, parameters } =
        asked(model.about(), body)?;
    let written = places.write(model, &prompts, parameters).await?;
    if let Some(number) = written.iter().position(Vec::is_empty) {
        return Err(nothing_kept(number));
    }
    if has_logprobs && written.iter().flatten().any(|text| text.tokens.is_none()) {
        let message = "`logprobs` needs `token_scores: true` at the node that writes";
        return Err(Problem::bad_request(message));
    }
    let choice = |(index, text): (usize, &Written)| {
        let tokens = text.tokens.as_ref().filter(|_| has_logprobs);
        let logprobs = tokens.map(|tokens| {
            let (tokens, logprobs): (Vec<_>, Vec<_>) = tokens.iter().cloned().unzip();
            json!({"tokens": tokens, "token_logprobs": logprobs})
        });
        let (text, is_stopped) = ended(&text.text, &stops, text.mark.is_unfinished);
        let reason = if is_stopped { "stop" } else { "length" };
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
    };
    let choices: Vec<_> = written.iter().flatten().enumerate().map(choice).collect();
    let usage = usage(&written);
    let answer = |choices: Value, usage: Option<&Value>| {
        let mut answer = json!({
            "id": id,
            "object": "text_completion",
            "created": created(&shared),
            "model": model.about().name,
            "choices": choices,
        });
        if let Some(usage) = usage {
            answer["usage"] = usage.clone();
        }
        answer
    };
    let mut response = if is_stream {
        let event = |choices, usage| format!("data: {}\n\n", answer(choices, usage));
        let mut events: String =
            choices.into_iter().map(|choice| event(json!([choice]), None)).collect();
        if let Some(usage) = usage.as_ref().filter(|_| has_usage) {
            events.push_str(&event(json!([]), Some(usage)));
        }
        ([(CONTENT_TYPE, "text/event-stream")], format!("{events}data: [DONE]\n\n")).into_response()
    } else {
        json_response(answer(choices.into(), usage.as_ref()).to_string())
    };
    Done::note(&mut response, prompts.len(), &[model.number]);
    Ok(response)
}

/// How many tokens were read and written, if the stages tell. A prompt counts once, however many texts were written for it.
fn usage(written: &[Vec<Written>]) -> Option<Value> {
    let read = written.iter().map(|texts| texts.first()?.mark.tokens_read);
    let wrote = written.iter().flatten().map(|text| text.mark.tokens_written);
    let (read, wrote) = (read.sum::<Option<u64>>()?, wrote.sum::<Option<u64>>()?);
    Some(json!({"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}))
}

/// A text up to the first of some others, and whether it ended there or by itself.
fn ended<'a>(text: &'a str, stops: &[String], is_unfinished: bool) -> (&'a str, bool) {
    match stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
        Some(end) => (&text[..end], true),
        None => (text, !is_unfinished),
    }
}

fn asked(about: &About, mut body: Map<String, Value>) -> Result<Asked, Problem> {
    let (prompts, _) = texts("prompt", body.remove("prompt"))?;
    let stops = match body.remove("stop") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(stops)) if stops.is_empty() => Vec::new(),
        stop => texts("stop", stop)?.0,
    };
    if stops.len() > MAX_STOPS || stops.iter().any(String::is_empty) {
        return Err(Problem::bad_request("`stop` has four texts at most, and none is empty"));
    }
    let is_stream = match body.remove("stream") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is_stream)) => is_stream,
        Some(_) => return Err(Problem::bad_request("`stream` is true or false")),
    };
    // Whom it is for.
    body.remove("user");
    let options = body.remove("stream_options").unwrap_or_default();
    let has_usage = options["include_usage"] == true;
    let has_logprobs = match body.remove("logprobs") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        // Those of the tokens that were written, and of no others.
        Some(Value::Number(others)) if others.as_u64() == Some(0) => true,
        Some(_) => return Err(unsupported("logprobs")),
    };
    let mut translation = Translation::new(about);
    // Nothing is written that would only be cut off.
    if !stops.is_empty() && translation.knows("stop") {
        translation.set("stop", stops.clone().into())?;
    }
    let best_of = body.remove("best_of").unwrap_or_default();
    let count = body.get("n").cloned().unwrap_or_default();
    let one = Value::from(1);
    if !best_of.is_null() && best_of != *if count.is_null() { &one } else { &count } {
        return Err(unsupported("best_of"));
    }
    for (name, value) in body {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            (name, value) if UNSUPPORTED.contains(&name) => {
                if !asks_nothing(&value) {
                    return Err(unsupported(name));
                }
            }
            ("n", value) => translation.set("candidates", value)?,
            ("max_tokens", value) => translation.set("max_new_tokens", value)?,
            ("temperature", value) if value.as_f64() == Some(0.0) => translation.sample(false)?,
            (name, value) => translation.set(name, value)?,
        }
    }
    let is_greedy = translation.parameters.get("sample").is_some_and(Value::is_null);
    if is_greedy {
        // Without chance, there is nothing left to choose from.
        translation.parameters.remove("top_p");
    }
    let parameters = translation.parameters;
    Ok(Asked { prompts, stops, is_stream, has_usage, has_logprobs, parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_at_the_first_stop() {
        let stops = [".".to_owned(), "two".to_owned()];
        assert_eq!(ended("one two. three", &stops, true), ("one ", true));
        assert_eq!(ended("one", &stops, true), ("one", false));
        assert_eq!(ended("one", &[], false), ("one", true));
    }
}
