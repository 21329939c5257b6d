//! Constraints on texts: names and numbers that they must have, and stop sequences.
//!
//! Whether a text has a span is decided on the text, however it was tokenized. Where one is missing when a sequence
//! would end, or when there is room for no more than what is missing, the span's own tokens are written. Beams are besides
//! offered the next token of every missing span, and are kept by how far they are with them (dynamic beam allocation, Post
//! and Vilar 2018), so that spans come where they fit.

use std::collections::BTreeSet;

/// Separators between the digits of a number.
const SEPARATORS: [char; 4] = ['.', ',', ':', '/'];

/// The texts of all tokens.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The text of each token inside a text.
    texts: Vec<Vec<u8>>,
    /// Tokens with a digit, or with something that may continue a number.
    numeric: Vec<u32>,
}

impl Words {
    /// From the text of each token inside a text.
    pub fn new(texts: Vec<Vec<u8>>) -> Self {
        let goes_on = |first: u8| SEPARATORS.contains(&char::from(first));
        let is_numeric = |text: &[u8]| {
            text.iter().any(u8::is_ascii_digit) || text.first().is_some_and(|first| goes_on(*first))
        };
        let numeric = (0..).zip(&texts).filter(|(_, text)| is_numeric(text));
        let numeric = numeric.map(|(token, _)| token).collect();
        Self { texts, numeric }
    }

    /// The text of tokens; a token that has none adds nothing.
    pub fn text(&self, tokens: &[u32]) -> String {
        let texts = tokens.iter().filter_map(|token| self.texts.get(*token as usize));
        String::from_utf8_lossy(&texts.flatten().copied().collect::<Vec<_>>()).into_owned()
    }

    /// Whether a stop sequence is in the text of `tokens`. Only the last tokens are checked, since earlier ones were checked before.
    pub(super) fn are_stopped(&self, tokens: &[u32], stops: &[String]) -> bool {
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        // A token may have no text, or a part of a character.
        let mut bytes = 0;
        let first = tokens.iter().rposition(|token| {
            bytes += self.texts.get(*token as usize).map_or(0, Vec::len);
            bytes > longest + char::MAX.len_utf8()
        });
        let text = self.text(&tokens[first.map_or(0, |first| first.saturating_sub(1))..]);
        stops.iter().any(|stop| text.contains(stop.as_str()))
    }
}

/// A span that texts must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The text.
    pub text: String,
    /// Its tokens where it begins a word; at least one.
    pub pieces: Vec<u32>,
}

/// The constraints on the texts of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    spans: Vec<Span>,
    /// The numbers that texts may have; any where there is none.
    numbers: Option<Numbers>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Numbers {
    allowed: BTreeSet<String>,
    /// Tokens that may not begin a number.
    forbidden: Vec<u32>,
}

impl Kept {
    /// Texts must have these spans and, where `numbers` are given, no number but them and those in the spans.
    pub fn new(spans: Vec<Span>, allowed: Option<BTreeSet<String>>, words: &Words) -> Self {
        let numbers = allowed.map(|mut allowed| {
            let of_span = |span: &Span| numbers(&span.text).map(str::to_owned).collect::<Vec<_>>();
            allowed.extend(spans.iter().flat_map(of_span));
            let mut numbers = Numbers { allowed, forbidden: Vec::new() };
            let is_forbidden = |token: &&u32| !numbers.allow("", &words.text(&[**token]));
            numbers.forbidden = words.numeric.iter().filter(is_forbidden).copied().collect();
            numbers
        });
        Self { spans, numbers }
    }

    /// Whether there are no constraints.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.numbers.is_none()
    }

    /// The spans that a text lacks.
    pub fn missing_in(&self, text: &str) -> Vec<&Span> {
        self.spans.iter().filter(|span| !holds(text, &span.text)).collect()
    }

    /// The first number in a text that is not allowed.
    pub fn foreign_number<'a>(&self, text: &'a str) -> Option<&'a str> {
        let Numbers { allowed, .. } = self.numbers.as_ref()?;
        numbers(text).find(|number| !allowed.contains(*number))
    }

    /// Tokens that all spans take.
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(|span| span.pieces.len()).sum()
    }

    /// What a sequence without its start token lacks.
    pub(super) fn missing(&self, written: &[u32], words: &Words) -> Missing<'_> {
        let missing = self.missing_in(&words.text(written));
        // Continuing a span must not destroy another, as `New York` that becomes `New Yorkshire` would.
        let goes_on = |span: &Span, count: usize| {
            if !written.ends_with(&span.pieces[..count]) {
                return false;
            }
            let whole = [written, &span.pieces[count..]].concat();
            let lacks = self.missing_in(&words.text(&whole));
            lacks.iter().all(|lack| missing.contains(lack))
        };
        let begun = |span: &Span| {
            let mut counts = (1..span.pieces.len()).rev();
            counts.find(|count| goes_on(span, *count)).unwrap_or(0)
        };
        let spans = missing.iter().map(|span| (*span, begun(span))).collect();
        let mut missing = Missing { spans, progress: 0 };
        missing.progress = self.tokens() - missing.tokens();
        missing
    }

    /// Forbids tokens that would make a number that is not allowed.
    pub(super) fn forbid_numbers(&self, scores: &mut [f32], written: &[u32], words: &Words) {
        let Some(numbers) = &self.numbers else { return };
        let text = words.text(written);
        let begun = last_number(&text);
        if begun.is_empty() {
            for token in &numbers.forbidden {
                scores[*token as usize] = f32::NEG_INFINITY;
            }
            return;
        }
        let (allowed, forbidden): (Vec<u32>, Vec<u32>) =
            words.numeric.iter().partition(|token| numbers.allow(begun, &words.text(&[**token])));
        // An incomplete number has to be continued.
        if !numbers.has(begun) && !allowed.is_empty() {
            let kept: Vec<f32> = allowed.iter().map(|token| scores[*token as usize]).collect();
            scores.fill(f32::NEG_INFINITY);
            for (token, score) in allowed.into_iter().zip(kept) {
                scores[token as usize] = score;
            }
        } else {
            for token in forbidden {
                scores[token as usize] = f32::NEG_INFINITY;
            }
        }
    }
}

/// What a sequence lacks.
pub(super) struct Missing<'a> {
    /// Spans, each with how many of its tokens stand at the end.
    spans: Vec<(&'a Span, usize)>,
    /// Tokens of spans that the sequence has.
    pub(super) progress: usize,
}

impl Missing<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Tokens that are missing. Only one span can go on where the sequence ends.
    pub(super) fn tokens(&self) -> usize {
        let all: usize = self.spans.iter().map(|(span, _)| span.pieces.len()).sum();
        all - self.spans.iter().map(|(_, begun)| *begun).max().unwrap_or(0)
    }

    /// The next tokens of the span that is furthest begun, or else of the first.
    pub(super) fn next(&self) -> &[u32] {
        let furthest = self.spans.iter().rev().max_by_key(|(_, begun)| *begun);
        furthest.map_or(&[], |(span, begun)| &span.pieces[*begun..])
    }

    /// The next token of each span.
    pub(super) fn continuations(&self) -> impl Iterator<Item = u32> {
        self.spans.iter().map(|(span, begun)| span.pieces[*begun])
    }
}

impl Numbers {
    /// Whether a number, perhaps followed by separators, is allowed.
    fn has(&self, number: &str) -> bool {
        self.allowed.contains(number.trim_end_matches(SEPARATORS))
    }

    /// Whether a piece may follow a number that has begun.
    fn allow(&self, begun: &str, piece: &str) -> bool {
        let text = format!("{begun}{piece}");
        let open = last_number(&text);
        let is_begun = self.has(open) || self.allowed.iter().any(|number| number.starts_with(open));
        let closed = numbers(&text[..text.len() - open.len()]).all(|number| self.has(number));
        closed && (open.is_empty() || is_begun)
    }
}

/// The numbers of a text: digits, with separators between them. A unit is no part of them: 12% may become 12 percent.
pub fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.find(|char: char| char.is_ascii_digit())?;
        rest = &rest[first..];
        let (number, after) = rest.split_at(number_length(rest));
        rest = after;
        Some(number)
    })
}

/// Bytes of the number that a text begins with.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits =
        |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut length = digits(0);
    while bytes.get(length).is_some_and(|byte| SEPARATORS.contains(&char::from(*byte)))
        && digits(length + 1) > 0
    {
        length += 1 + digits(length + 1);
    }
    length
}

/// The number at the end of a text, with the separator after it, if it could go on; otherwise nothing.
fn last_number(text: &str) -> &str {
    let is_part = |char: char| char.is_ascii_digit() || SEPARATORS.contains(&char);
    let run = text.rfind(|char| !is_part(char)).map_or(text, |last| {
        let last_length = text[last..].chars().next().map_or(0, char::len_utf8);
        &text[last + last_length..]
    });
    let mut rest = run.trim_start_matches(SEPARATORS);
    // Two separators, or a number before them, are in the run too.
    loop {
        let length = number_length(rest);
        if rest.len() <= length + 1 {
            return rest;
        }
        rest = rest[length..].trim_start_matches(SEPARATORS);
    }
}

/// Whether a text has a span: a number as one of its numbers, anything else between word boundaries.
fn holds(text: &str, span: &str) -> bool {
    if number_length(span) == span.len() && !span.is_empty() {
        return numbers(text).any(|number| number == span);
    }
    let is_word = |char: Option<char>| char.is_some_and(char::is_alphanumeric);
    // Matches may overlap: an earlier one may be part of a word.
    let mut starts = text.char_indices().filter(|(at, _)| text[*at..].starts_with(span));
    starts.any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + span.len()..]);
        let joins_before = is_word(before.chars().next_back()) && is_word(span.chars().next());
        let joins_after = is_word(after.chars().next()) && is_word(span.chars().next_back());
        !joins_before && !joins_after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_whole() {
        let cases: [(&str, &[&str]); 8] = [
            ("no number", &[]),
            ("5 of 12,5 and 1.000.000", &["5", "12,5", "1.000.000"]),
            ("by 25%, or 3.5 %.", &["25", "3.5"]),
            ("Q3 at 10:30 on 1/2/2024.", &["3", "10:30", "1/2/2024"]),
            ("7..8", &["7", "8"]),
            ("10,", &["10"]),
            (",.5", &["5"]),
            ("½ ٣", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(numbers(text).collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn a_number_that_may_go_on_is_at_the_end() {
        let cases = [
            ("", ""),
            (" a", ""),
            (" 2", "2"),
            (" 25.", "25."),
            ("x25,5", "25,5"),
            ("7..", ""),
            ("7..8", "8"),
            ("25%", ""),
            ("é3", "3"),
            ("1/2/", "1/2/"),
        ];
        for (text, expected) in cases {
            assert_eq!(last_number(text), expected, "{text}");
        }
    }

    #[test]
    fn spans_are_held_between_borders() {
        let cases = [
            ("We sold 25 units", "25", true),
            ("We sold 250 units", "25", false),
            ("We sold 1,25 units", "25", false),
            ("up 25%.", "25", true),
            ("up 25%.", "25%", true),
            ("up 25 percent", "25%", false),
            ("at “Acme”", "Acme", true),
            ("at Acmes", "Acme", false),
            ("Acme Corp. grew", "Acme Corp.", true),
            ("McAcme", "Acme", false),
            ("C++ code", "C++", true),
            ("tag g g", "g g", true),
        ];
        for (text, span, expected) in cases {
            assert_eq!(holds(text, span), expected, "{span} in {text}");
        }
    }

    #[test]
    fn numbers_that_texts_may_not_have_do_not_begin() {
        let words = Words::new(
            ["", " 2", "5", " 25", " 30", "0", ".", " a", "%", "1"].map(Into::into).into(),
        );
        let kept = |allowed: &[&str]| {
            let allowed = allowed.iter().map(|number| (*number).to_owned()).collect();
            Kept::new(Vec::new(), Some(allowed), &words)
        };
        let allowed = |kept: &Kept, written: &[u32]| -> Vec<usize> {
            let mut scores = [0.0; 10];
            kept.forbid_numbers(&mut scores, written, &words);
            (0..10).filter(|token| scores[*token] == 0.0).collect()
        };
        let cases: [(&[&str], &[u32], &[usize]); 7] = [
            (&[], &[7], &[0, 6, 7, 8]),
            (&["25"], &[7], &[0, 1, 3, 6, 7, 8]),
            // It has to become 25.
            (&["25"], &[1], &[2]),
            (&["25"], &[3], &[0, 1, 3, 6, 7, 8]),
            (&["25", "25.55"], &[3, 6], &[0, 1, 2, 3, 6, 7, 8]),
            (&["25.55"], &[3, 6, 2], &[2]),
            (&["2", "25"], &[1], &[0, 1, 2, 3, 6, 7, 8]),
        ];
        for (numbers, written, expected) in cases {
            assert_eq!(allowed(&kept(numbers), written), expected, "{numbers:?} {written:?}");
        }
    }

    #[test]
    fn what_is_missing_goes_on_where_it_has_begun() {
        let words = Words::new([" New", " York", " 25", " x"].map(Into::into).into());
        let span = |text: &str, pieces: &[u32]| Span { text: text.into(), pieces: pieces.into() };
        let kept = Kept::new(vec![span("25", &[2]), span("New York", &[0, 1])], None, &words);
        let missing = |written: &[u32]| {
            let missing = kept.missing(written, &words);
            (missing.tokens(), missing.next().to_vec(), missing.continuations().collect::<Vec<_>>())
        };
        assert_eq!(missing(&[3]), (3, vec![2], vec![2, 0]));
        assert_eq!(missing(&[3, 0]), (2, vec![1], vec![2, 1]));
        assert_eq!(missing(&[0, 1]), (1, vec![2], vec![2]));
        assert_eq!(missing(&[0, 1, 2]), (0, vec![], vec![]));
        assert_eq!(missing(&[2, 0, 3]), (2, vec![0, 1], vec![0]));
    }

    #[test]
    fn stops_are_found_over_several_tokens() {
        let words = Words::new(["a", ". ", "B", "\n", ".", " B"].map(Into::into).into());
        let stops = [". B".to_owned(), "\n".to_owned()];
        let cases: [(&[u32], bool); 5] = [
            (&[0, 1], false),
            (&[0, 1, 2], true),
            (&[0, 0, 0, 0, 0, 0, 4, 5], true),
            (&[3], true),
            (&[], false),
        ];
        for (tokens, expected) in cases {
            assert_eq!(words.are_stopped(tokens, &stops), expected, "{tokens:?}");
        }
    }
}
