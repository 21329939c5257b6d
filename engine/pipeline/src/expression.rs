//! Errors of expressions, mapped to positions in the pipeline's text.

use paraloom_expr::{Expr, ExprError};

use crate::diagnostic::{Diagnostic, Span};

/// Diagnostics for errors of the expression `text` at `span`.
pub(crate) fn diagnostics(text: &str, span: Span, errors: Vec<ExprError>) -> Vec<Diagnostic> {
    let place = |error: ExprError| {
        let at = within(span, text, error.span);
        Diagnostic::error(error.message, at).maybe_hint(error.hint)
    };
    errors.into_iter().map(place).collect()
}

/// The result of checking an expression without a schema.
#[derive(Debug, PartialEq)]
pub(crate) enum Form {
    /// Syntax error.
    Broken(Diagnostic),
    /// It parses; an error for each unknown function.
    Sound(Vec<Diagnostic>),
}

/// Checks an expression without a schema.
pub(crate) fn check_form(text: &str, span: Span) -> Form {
    match Expr::parse(text) {
        Ok(expr) => Form::Sound(diagnostics(text, span, expr.check_functions())),
        Err(ExprError { message, span: at, hint }) => {
            Form::Broken(Diagnostic::error(message, within(span, text, at)).maybe_hint(hint))
        }
    }
}

/// The position of a part of a scalar; of the whole scalar if the file has escapes in it or spreads it over several lines.
pub(crate) fn within(span: Span, text: &str, (start, end): (usize, usize)) -> Span {
    let quotes = match (span.end - span.start).checked_sub(text.len()) {
        Some(0) => 0,
        Some(2) => 1,
        _ => return span,
    };
    // A stage of others may say anything.
    let [start, end] = [start.min(end), end].map(|at| text.floor_char_boundary(at));
    Span::new(span.start + quotes + start, span.start + quotes + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_at_its_place_in_the_expression() {
        let text = "a > lenght(b)";
        let spans = |span: Span| -> Vec<_> {
            let Form::Sound(unknown) = check_form(text, span) else { panic!("it can be parsed") };
            unknown.iter().map(|error| (error.span.start, error.span.end)).collect()
        };
        // Plain, in quotes, and with an escape in it.
        assert_eq!(spans(Span::new(100, 113)), [(104, 110)]);
        assert_eq!(spans(Span::new(100, 115)), [(105, 111)]);
        assert_eq!(spans(Span::new(100, 117)), [(100, 117)]);
        assert_eq!(check_form("a > length(b)", Span::new(0, 13)), Form::Sound(Vec::new()));
        let Form::Broken(error) = check_form("a >", Span::new(7, 10)) else { panic!("no form") };
        assert_eq!((error.span.start, error.span.end), (10, 10));
    }
}
