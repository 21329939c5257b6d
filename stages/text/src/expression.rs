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
    let all = errors.iter().map(|error| expression_error(text, error, pointer));
    let all: Vec<_> = all
        .map(|error| match error.detail("hint") {
            Some(hint) => format!("{error} ({hint})"),
            None => error.to_string(),
        })
        .collect();
    Error::config(all.join("; ")).at(pointer)
}

/// Says what is wrong with an expression, and shows the part that it is about.
pub(crate) fn expression_error(text: &str, error: &ExprError, pointer: &str) -> Error {
    let (start, end) = error.span;
    let part = text.get(start..end).unwrap_or_default();
    let message = if part.is_empty() || error.message.contains(part) {
        error.message.clone()
    } else {
        format!("{}: `{part}`", error.message)
    };
    let failure = Error::config(message).at(pointer);
    match &error.hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
