//! Errors of the YAML library, in other words where its own lead nowhere.

use crate::diagnostic::{Diagnostic, Span};

/// The error for aliases that stand for more than is read.
pub(super) fn too_many_aliases(alias: Span) -> Diagnostic {
    Diagnostic::error("aliases (`*name`) repeat values more often than is read", alias)
        .hint("write the values out, or use `vars`")
}

/// The error for a text that is not YAML. `alias` is the one that was being written out, if one was.
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
    let diagnostic = Diagnostic::error(message, here);
    if line.matches(": ").count() > 1 {
        return diagnostic
            .hint("text with `: ` or ` #` in it needs quotes, as in `prefix: \"restate: \"`");
    }
    diagnostic
}
