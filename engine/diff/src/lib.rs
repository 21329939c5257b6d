//! What changed between two texts: word by word, for sentences that were rewritten, or line by line.

use serde::Serialize;
use similar::{Algorithm, DiffTag, capture_diff_slices};

/// A piece of a text: of both, of the first only, or of the second only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// `same`, `gone` or `new`.
    pub kind: &'static str,
    /// Words and what is between them, or a line.
    pub text: String,
}

/// Of the longer of two texts, the share of letters that both must have for their changes to be worth marking.
const LITTLE: usize = 4;

/// The pieces of `after`, and among them what of `before` is gone. Texts with less than a quarter in common are not
/// compared: `after` is then one piece that is the same.
pub fn changes(before: &str, after: &str) -> Vec<Piece> {
    let (old, new) = (words(before), words(after));
    // Stretches that both have, and between them what was there and what is there instead.
    let mut stretches: Vec<Stretch> = Vec::new();
    for change in capture_diff_slices(Algorithm::Patience, &old, &new) {
        let (tag, one, other) = change.as_tag_tuple();
        let (one, other) = (old[one].concat(), new[other].concat());
        if tag == DiffTag::Equal {
            stretches.push(Stretch { is_same: true, gone: one, new: other });
        } else {
            merge(&mut stretches, one, other);
        }
    }
    // A space between two changed words is a part of the change.
    let mut joined: Vec<Stretch> = Vec::new();
    let count = stretches.len();
    for (at, stretch) in stretches.into_iter().enumerate() {
        let is_end = at == 0 || at + 1 == count;
        let is_gap = stretch.is_same && !is_end && !stretch.new.contains(char::is_alphanumeric);
        if stretch.is_same && !is_gap {
            joined.push(stretch);
        } else {
            merge(&mut joined, stretch.gone, stretch.new);
        }
    }
    let same = joined
        .iter()
        .filter(|stretch| stretch.is_same)
        .map(|stretch| stretch.new.len())
        .sum::<usize>();
    if same * LITTLE < before.len().max(after.len()) {
        let all = Piece { kind: "same", text: after.to_owned() };
        return Some(all).filter(|all| !all.text.is_empty()).into_iter().collect();
    }
    let pieces = joined.into_iter().flat_map(|Stretch { is_same, gone, new }| {
        if is_same {
            vec![Piece { kind: "same", text: new }]
        } else {
            vec![Piece { kind: "gone", text: gone }, Piece { kind: "new", text: new }]
        }
    });
    pieces.filter(|piece| !piece.text.is_empty()).collect()
}

/// A stretch of two texts: the same in both, or other.
struct Stretch {
    is_same: bool,
    gone: String,
    new: String,
}

/// Adds a change to the one before it, if that is the last stretch.
fn merge(stretches: &mut Vec<Stretch>, gone: String, new: String) {
    match stretches.last_mut() {
        Some(last) if !last.is_same => {
            last.gone.push_str(&gone);
            last.new.push_str(&new);
        }
        _ => stretches.push(Stretch { is_same: false, gone, new }),
    }
}

/// The lines of two texts, each the same in both, gone or new.
pub fn line_changes(before: &str, after: &str) -> Vec<Piece> {
    let (old, new): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let mut lines = Vec::new();
    for change in capture_diff_slices(Algorithm::Patience, &old, &new) {
        let (tag, one, other) = change.as_tag_tuple();
        let mut push = |kind, found: &[&str]| {
            lines.extend(found.iter().map(|line| Piece { kind, text: (*line).to_owned() }));
        };
        if tag == DiffTag::Equal {
            push("same", &new[other]);
        } else {
            push("gone", &old[one]);
            push("new", &new[other]);
        }
    }
    lines
}

/// Words, spaces and marks, each for itself; together they are the text.
fn words(text: &str) -> Vec<&str> {
    let kind = |letter: char| match letter {
        _ if letter.is_alphanumeric() => 0,
        _ if letter.is_whitespace() => 1,
        _ => 2,
    };
    let (mut words, mut start, mut last) = (Vec::new(), 0, None);
    for (at, letter) in text.char_indices() {
        let kind = kind(letter);
        if last.is_some_and(|last| last != kind || kind == 2) {
            words.push(&text[start..at]);
            start = at;
        }
        last = Some(kind);
    }
    words.push(&text[start..]);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_word() {
        let cases = [
            ("", "", ""),
            ("same", "same", "same"),
            ("", "new", "new"),
            ("nothing in common", "quite another text", "quite another text"),
            ("gone", "", ""),
            (
                "Next year, sales fell here",
                "Last week, sales fell here",
                "-Next year-+Last week+, sales fell here",
            ),
            ("Sales rose 4 percent.", "Sales grew 4 percent.", "Sales -rose-+grew+ 4 percent."),
            ("rose by 4%", "rose by 14%", "rose by -4-+14+%"),
            ("a b c", "a c", "a -b -c"),
            ("a b", "a b, c", "a b+, c+"),
            ("ÄÖ 東京 🙂", "ÄÖ 東京", "ÄÖ 東京- 🙂-"),
        ];
        for (before, after, expected) in cases {
            let mark = |piece: &Piece| match piece.kind {
                "gone" => format!("-{}-", piece.text),
                "new" => format!("+{}+", piece.text),
                _ => piece.text.clone(),
            };
            let said: String = changes(before, after).iter().map(mark).collect();
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn the_pieces_are_the_text() {
        for text in ["", " a  b, c!! ", "ab12-cd", "\u{202e}x\u{0}y", "e\u{301}a"] {
            assert_eq!(words(text).concat(), text);
            let pieces = changes(&text.replace('a', "b"), text);
            let now = pieces.iter().filter(|piece| piece.kind != "gone");
            assert_eq!(now.map(|piece| piece.text.as_str()).collect::<String>(), text);
        }
    }
}
