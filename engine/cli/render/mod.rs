//! Output for people: messages to stderr, data to stdout.

mod chart;
mod diagnostics;
mod drawing;
mod graph;
mod progress;
pub(crate) mod reference;
mod report;
mod table;

pub(crate) use chart::{Histogram, Series, curves, number, steps_per_column};
pub(crate) use diagnostics::diagnostics;
pub(crate) use drawing::{State, drawing, svg};
pub(crate) use graph::{dot, mermaid, terminal};
pub(crate) use progress::Progress;
pub(crate) use report::{
    Again, Against, Badge, Chart, Check, Column, Compared, ComparedNumber, Example, Examples,
    Figure, Finding, Group, Measured, NodeLine, Reason, Report, Step, Table, report,
};
pub(crate) use table::{Layout, cells, print_rows, width};

use anstyle::{AnsiColor, Style};

const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const GREEN: Style = AnsiColor::Green.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();
const DIM: Style = Style::new().dimmed();

/// Writes a line to stderr, without colours where they are not wanted. Errors are ignored: there is no
/// other place to report them.
pub(crate) fn note(text: &str) {
    use std::io::Write;
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Of which pipeline something is, if that has a name.
pub(crate) fn of_pipeline(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" of `{name}`") }
}

pub(crate) fn error(message: &str, hint: Option<&str>) {
    note(&format!("{RED}error{RED:#}: {}", printable(message)));
    if let Some(hint) = hint {
        note(&format!("{CYAN}hint{CYAN:#}: {}", printable(hint)));
    }
}

/// Escapes control characters, so that text from files cannot control the terminal, and marks that change the direction of what
/// follows, so that it reads as it is.
pub(crate) fn printable(text: &str) -> String {
    let escape = |c: char| (c.is_control() && c != '\n' && c != '\t') || is_direction(c);
    if !text.contains(escape) {
        return text.to_owned();
    }
    let plain = |c: char| match c {
        _ if is_direction(c) => c.escape_unicode().to_string(),
        _ if escape(c) => c.escape_default().to_string(),
        _ => c.to_string(),
    };
    text.chars().map(plain).collect()
}

/// Embeddings, overrides and isolates of Unicode's bidirectional algorithm.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// "1.2 s", "3 min 05 s".
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => format!("{} min {:02} s", ms / 60_000, ms / 1000 % 60),
    }
}

/// "1.2 MiB", "597 MiB".
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "bytes" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
