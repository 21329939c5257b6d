//! What is wrong with an expression, as an error of a stage.

use paraloom_expr::ExprError;
use paraloom_sdk::Error;

/// Says all that is wrong with an expression.
pub(crate) fn expression_errors(text: &str, errors: &[ExprError], pointer: &str) -> Error {
    let Some((first, others)) = errors.split_first() else {
        return Error::internal("an expression without errors was refused").at(pointer);
    };
    let first = expression_error(text, first, pointer);
    if others.is_empty() {
        return first;
    }
    let told = |error: &ExprError| {
        let told = message(text, error);
        error.hint.as_ref().map_or(told.clone(), |hint| format!("{told} ({hint})"))
    };
    let all: Vec<_> = errors.iter().map(told).collect();
    errors.iter().fold(Error::config(all.join("; ")).at(pointer), with_span)
}

/// Says what is wrong with an expression.
pub(crate) fn expression_error(text: &str, error: &ExprError, pointer: &str) -> Error {
    let failure = with_span(Error::config(message(text, error)).at(pointer), error);
    match &error.hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn with_span(failure: Error, error: &ExprError) -> Error {
    failure.span(error.span.0..error.span.1, &error.message, error.hint.as_deref())
}

/// The message, with the part of the expression that it is about.
fn message(text: &str, error: &ExprError) -> String {
    let part = text.get(error.span.0..error.span.1).unwrap_or_default();
    if part.is_empty() || error.message.contains(part) {
        return error.message.clone();
    }
    format!("{}: `{part}`", error.message)
}
