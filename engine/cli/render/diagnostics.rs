//! Diagnostics with the piece of the pipeline that they are about.

use std::ops::Range;
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
    let source = Source::new(text);
    for diagnostic in diagnostics {
        note(&format!("{}\n", render(&renderer, &path, &source, diagnostic)));
    }
}

/// A text with the offsets of its lines. The renderer scans the whole source that it is given, so it is given only the
/// lines around an error.
struct Source<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end + 1);
        Self { text, starts: std::iter::once(0).chain(ends).collect() }
    }

    /// The lines that hold some spans, the offset of the first one, and its number.
    fn lines(&self, spans: impl Iterator<Item = Range<usize>> + Clone) -> (&'a str, usize, usize) {
        let line = |at: usize| self.starts.partition_point(|start| *start <= at).max(1) - 1;
        let first = line(spans.clone().map(|span| span.start).min().unwrap_or_default());
        let last = line(spans.map(|span| span.end).max().unwrap_or_default());
        let end = self.starts.get(last + 1).copied().unwrap_or(self.text.len());
        let start = self.starts[first];
        (&self.text[start..end], start, first + 1)
    }
}

fn render(renderer: &Renderer, path: &str, source: &Source, diagnostic: &Diagnostic) -> String {
    let text = source.text;
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let message = printable(&diagnostic.message);
    let hint = diagnostic.hint.as_deref().map(printable);
    let related: Vec<_> =
        diagnostic.related.iter().map(|(span, what)| (clamp(text, *span), what.as_str())).collect();
    let primary = clamp(text, diagnostic.span);
    let spans = std::iter::once(&primary).chain(related.iter().map(|(span, _)| span)).cloned();
    let (lines, offset, number) = source.lines(spans);
    let within = |span: &Range<usize>| span.start - offset..span.end - offset;
    let mut snippet = Snippet::source(lines)
        .path(path)
        .line_start(number)
        .annotation(AnnotationKind::Primary.span(within(&primary)));
    for (span, what) in &related {
        snippet = snippet.annotation(AnnotationKind::Context.span(within(span)).label(*what));
    }
    let mut report = vec![level.primary_title(message.as_str()).element(snippet)];
    if let Some(hint) = &hint {
        report.push(Group::with_title(Level::HELP.secondary_title(hint.as_str())));
    }
    renderer.render(&report)
}

/// The span cut to its first line, and to the text.
fn clamp(text: &str, span: paraloom_pipeline::Span) -> Range<usize> {
    let start = span.start.min(text.len());
    let end = span.end.clamp(start, text.len());
    let line = text[start..end].find('\n').map_or(end, |length| start + length);
    start..line.max(start)
}
