//! Diagnostics with the piece of the pipeline that they are about.

use std::path::Path;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use paraloom_pipeline::{Diagnostic, Severity};

use super::{note, printable};

/// Prints them all, in the order of the file.
pub(crate) fn diagnostics(path: &Path, text: &str, diagnostics: &[Diagnostic]) {
    // anstream removes the colours again where they are not wanted.
    let renderer = Renderer::styled().decor_style(DecorStyle::Ascii);
    let path = path.display().to_string();
    for diagnostic in diagnostics {
        note(&format!("{}\n", render(&renderer, &path, text, diagnostic)));
    }
}

fn render(renderer: &Renderer, path: &str, text: &str, diagnostic: &Diagnostic) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let message = printable(&diagnostic.message);
    let hint = diagnostic.hint.as_deref().map(printable);
    let related: Vec<_> =
        diagnostic.related.iter().map(|(span, what)| (clamp(text, *span), what.as_str())).collect();
    let mut snippet = Snippet::source(text)
        .path(path)
        .annotation(AnnotationKind::Primary.span(clamp(text, diagnostic.span)));
    for (span, what) in &related {
        snippet = snippet.annotation(AnnotationKind::Context.span(span.clone()).label(*what));
    }
    let mut report = vec![level.primary_title(message.as_str()).element(snippet)];
    if let Some(hint) = &hint {
        report.push(Group::with_title(Level::HELP.secondary_title(hint.as_str())));
    }
    renderer.render(&report)
}

/// One line at most, and inside the text: a node can be long.
fn clamp(text: &str, span: paraloom_pipeline::Span) -> std::ops::Range<usize> {
    let start = span.start.min(text.len());
    let end = span.end.clamp(start, text.len());
    let line = text[start..end].find('\n').map_or(end, |length| start + length);
    start..line.max(start)
}
