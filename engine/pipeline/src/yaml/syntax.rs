//! Diagnostics for errors of the YAML library, reworded where its messages are hard to act on.

use crate::diagnostic::{Diagnostic, Span};

/// The error for aliases that expand to more values than are allowed.
pub(super) fn too_many_aliases(alias: Span) -> Diagnostic {
    Diagnostic::error("aliases (`*name`) repeat values more often than is read", alias)
        .hint("write the values out, or use `vars`")
}

/// The error for a text that is not YAML. `alias` is the one that was being expanded, if any.
pub(super) fn diagnostic(text: &str, error: &serde_yaml::Error, alias: Option<Span>) -> Diagnostic {
    let start = error.location().map_or(0, |marker| marker.index).min(text.len());
    let start = text.floor_char_boundary(start);
    let length = text[start..].chars().next().map_or(0, char::len_utf8);
    let message = error.display_no_mark().to_string();
    if let Some(alias) = alias {
        return too_many_aliases(alias);
    }
    let here = Span::new(start, start + length);
    let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let line = text[line..].lines().next().unwrap_or_default();
    if line.trim_start_matches(' ').starts_with('\t') {
        return Diagnostic::error("a tab cannot indent YAML", here).hint("use spaces");
    }
    if message.starts_with("unknown anchor") {
        let end = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '{' | '}');
        let name = text[start..].split(end).next().unwrap_or_default();
        let span = Span::new(start, start + name.len());
        return Diagnostic::error(format!("there is no anchor for `{name}` above it"), span)
            .hint("an anchor is `&name` before a value; text that starts with `*` needs quotes");
    }
    if message.contains("more than one document") {
        return match text.rfind("\n---") {
            Some(end) => {
                let span = Span::new(end + 1, end + 4);
                Diagnostic::error("a file is one pipeline: `---` starts another one", span)
            }
            None => Diagnostic::error("a file is one YAML document, and this is more", here),
        };
    }
    let (message, context) = message.split_once(", while ").unwrap_or((&message, ""));
    let diagnostic = Diagnostic::error(without_mark(message).0, here);
    let (within, mark) = without_mark(context);
    let diagnostic = match mark.and_then(|(line, column)| character(text, line, column)) {
        Some(span) => diagnostic.related(span, format!("while {within}")),
        None => diagnostic,
    };
    match message.contains("end of stream") || text[start..].trim().is_empty() {
        true => diagnostic.hint("a quote or a bracket is not closed"),
        false if line.matches(": ").count() > 1 => diagnostic
            .hint("text with `: ` or ` #` in it needs quotes, as in `prefix: \"restate: \"`"),
        false => diagnostic,
    }
}

/// Splits ` at line N column M` off the end of a message.
fn without_mark(message: &str) -> (&str, Option<(usize, usize)>) {
    let parse = || {
        let (rest, mark) = message.rsplit_once(" at line ")?;
        let (line, column) = mark.split_once(" column ")?;
        Some((rest, (line.parse().ok()?, column.parse().ok()?)))
    };
    parse().map_or((message, None), |(rest, mark)| (rest, Some(mark)))
}

/// The position of a character, by its line and column from one.
fn character(text: &str, line: usize, column: usize) -> Option<Span> {
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines.by_ref().take(line.checked_sub(1)?).map(str::len).sum();
    let (at, c) = lines.next()?.char_indices().nth(column.checked_sub(1)?)?;
    Some(Span::new(before + at, before + at + c.len_utf8()))
}
