//! What is wrong with an expression, as an error of a stage.

use paraloom_expr::ExprError;
use paraloom_sdk::Error;

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
