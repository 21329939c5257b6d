//! Whatever a text says: no panic, and every error has a position in it. `PARALOOM_TEXTS` is how many are tried.

use std::path::Path;

use paraloom_pipeline::{Diagnostic, Limits, Settings, Span, check_text};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::cases::read;
use crate::stages::Stages;

/// What a change puts in.
const PIECES: [&str; 44] = [
    "\n",
    "  ",
    "- ",
    ": ",
    ":",
    ",",
    "[",
    "]",
    "{",
    "}",
    "'",
    "\"",
    "|\n",
    ">\n",
    "# ",
    "&a ",
    "*a",
    "!t ",
    "? ",
    "---\n",
    "${",
    "${v}",
    "}",
    "$$",
    "~",
    "null",
    "1e999",
    "-1",
    ".nan",
    "0x10",
    "ä€😀",
    "\u{feff}",
    "\t",
    "\\",
    "<<: ",
    "nodes:",
    "vars:",
    "inputs: { rows: a }",
    "with:",
    "stage: keep",
    "expect:\n- ",
    "show: [",
    "a.rows",
    "99999999999999999999",
];

#[derive(Clone, Debug)]
enum Change {
    Insert(Index, usize),
    Remove(Index, usize),
    Repeat(Index, Index),
    Move(Index, Index),
    Cut(Index),
    /// The rest of another text.
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 0..PIECES.len()).prop_map(|(at, piece)| Change::Insert(at, piece)),
        3 => (at(), 1_usize..12).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (at(), at()).prop_map(|(from, to)| Change::Repeat(from, to)),
        1 => (at(), at()).prop_map(|(from, to)| Change::Move(from, to)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at(), at()).prop_map(|(at, other, from)| Change::Splice(at, other, from)),
    ]
}

/// A position between two characters.
fn position(text: &str, at: Index) -> usize {
    text.floor_char_boundary(at.index(text.len() + 1))
}

fn apply(text: &mut String, change: &Change, texts: &[String]) {
    match change {
        Change::Insert(at, piece) => text.insert_str(position(text, *at), PIECES[*piece]),
        Change::Remove(at, count) => {
            let start = position(text, *at);
            let end = text.floor_char_boundary((start + count).min(text.len()));
            text.replace_range(start..end.max(start), "");
        }
        Change::Repeat(from, to) | Change::Move(from, to) => {
            let mut lines: Vec<_> = text.split_inclusive('\n').map(str::to_owned).collect();
            if lines.is_empty() {
                return;
            }
            let from = from.index(lines.len());
            let line = match change {
                Change::Move(..) => lines.remove(from),
                _ => lines[from].clone(),
            };
            lines.insert(to.index(lines.len() + 1), line);
            *text = lines.concat();
        }
        Change::Cut(at) => text.truncate(position(text, *at)),
        Change::Splice(at, other, from) => {
            let other = other.get(texts);
            text.truncate(position(text, *at));
            text.push_str(&other[position(other, *from)..]);
        }
    }
}

/// The texts of all cases, and the pipelines that are shipped.
fn texts() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = |folder: &str, extension: &str| {
        let entries = std::fs::read_dir(root.join(folder)).expect("it is there").flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|found| found == extension));
        paths.sort();
        paths.into_iter().map(|path| std::fs::read_to_string(path).expect("it can be read"))
    };
    let cases = files("tests/cases", "txt").flat_map(|text| read(&text).1);
    cases.map(|case| case.whole()).chain(files("../../pipelines", "yaml")).collect()
}

fn check(text: &str) -> Vec<Diagnostic> {
    let settings = Settings {
        set: &[],
        backend: None,
        device: None,
        limits: Limits { bytes: 1 << 20, values: 10_000 },
        env: &|_| None,
    };
    check_text(text, &settings, &Stages::default()).1
}

fn is_within(span: Span, text: &str) -> bool {
    span.start <= span.end && text.get(span.start..span.end).is_some()
}

#[test]
fn every_error_has_a_position() {
    let texts = texts();
    assert!(texts.len() > 100, "{}", texts.len());
    let changed = (any::<Index>(), proptest::collection::vec(change(), 0..6));
    let scale = std::env::var("PARALOOM_TEXTS").ok().and_then(|text| text.parse().ok());
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(scale.unwrap_or(4_000))
    };
    proptest!(config, |((at, changes) in changed)| {
        let mut text = at.get(&texts).clone();
        changes.iter().for_each(|change| apply(&mut text, change, &texts));
        for error in check(&text) {
            prop_assert!(is_within(error.span, &text), "{error:?}\n{text}");
            for (span, what) in &error.related {
                prop_assert!(is_within(*span, &text), "{what}: {error:?}\n{text}");
            }
            prop_assert!(!error.message.is_empty());
        }
    });
}
