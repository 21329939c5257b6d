//! How deep a YAML text nests, by a look at its tokens.
//!
//! The parser's time grows with the square of the depth of `[` and `{`, so a text that nests too deep must not reach it.
//! Counting brackets would not do: those within texts have no counterpart, and a large pipeline has many of them.

use super::MAX_DEPTH;
use crate::diagnostic::{Diagnostic, Span};

/// What is let through to the parser, which refuses more than [`MAX_DEPTH`] with a better position.
const MAX_BRACKETS: usize = MAX_DEPTH * 4;
/// Columns before the first character of a line other than space, `-` and `?`: every block takes at least one.
const MAX_INDENT: usize = MAX_DEPTH * 16;

/// Refuses a text whose nesting would keep the parser busy.
pub(super) fn check(text: &str) -> Result<(), Diagnostic> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches([' ', '-', '?']).len();
        if indent > MAX_INDENT {
            return Err(too_deep(Span::new(at, at + indent)));
        }
        at += line.len();
    }
    let mut scanner = Scanner::new(text);
    while scanner.step() {
        if scanner.depth > MAX_BRACKETS {
            return Err(too_deep(Span::new(scanner.at - 1, scanner.at)));
        }
    }
    Ok(())
}

pub(super) fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::error(format!("the nesting is deeper than {MAX_DEPTH} levels"), span)
}

/// Walks over the text and tells brackets that nest from those in scalars and comments. In doubt a bracket counts.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Open brackets.
    depth: usize,
    /// A token may start here: in a plain scalar, brackets and quotes are text.
    starts: bool,
    /// Start of the line.
    line: usize,
    /// Column of the token that was read last.
    token: usize,
    /// Column of the last key or `-` outside of brackets: what belongs to it is further to the right.
    entry: Option<usize>,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text: text.as_bytes(),
            at: 0,
            depth: 0,
            starts: true,
            line: 0,
            token: 0,
            entry: None,
        }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(b'\n')
    }

    fn column(&self) -> usize {
        self.at - self.line
    }

    /// Goes over one token or character; false at the end.
    fn step(&mut self) -> bool {
        let Some(&c) = self.text.get(self.at) else { return false };
        let blank_before = self.at == 0 || self.text[self.at - 1].is_ascii_whitespace();
        let blank_after = self.peek(1).is_ascii_whitespace();
        let in_flow = self.depth > 0;
        match c {
            b'\n' => self.newline(),
            b' ' | b'\t' | b'\r' => self.at += 1,
            b'#' if blank_before => self.skip_line(),
            b'[' | b'{' if in_flow || self.starts => {
                (self.depth, self.starts) = (self.depth + 1, true);
                self.at += 1;
            }
            b']' | b'}' if in_flow => {
                (self.depth, self.starts) = (self.depth - 1, false);
                self.at += 1;
            }
            b',' if in_flow => {
                self.starts = true;
                self.at += 1;
            }
            b':' if blank_after || in_flow => {
                if !in_flow {
                    self.entry = Some(self.token);
                }
                self.starts = true;
                self.at += 1;
            }
            b'-' | b'?' if self.starts && blank_after => {
                if !in_flow {
                    self.entry = Some(self.column());
                }
                self.at += 1;
            }
            b'&' | b'!' | b'*' if self.starts => {
                let end = |c: &u8| c.is_ascii_whitespace() || b",[]{}".contains(c);
                let length = self.text[self.at..].iter().position(end);
                self.at += length.unwrap_or(self.text.len() - self.at).max(1);
            }
            b'|' | b'>' if self.starts && !in_flow => self.block_scalar(),
            b'"' | b'\'' if self.starts => self.quoted(c),
            _ => {
                if self.starts {
                    (self.token, self.starts) = (self.column(), false);
                }
                self.at += 1;
            }
        }
        true
    }

    /// Outside of brackets a token starts on the next line, unless that goes on with a plain scalar of this one.
    fn newline(&mut self) {
        self.at += 1;
        self.line = self.at;
        if self.depth == 0 && !self.starts {
            let rest = &self.text[self.at..];
            let indent = rest.iter().take_while(|c| **c == b' ').count();
            let goes_on = self.entry.is_none_or(|entry| indent > entry);
            self.starts = !goes_on || rest.get(indent) == Some(&b'\n');
        }
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len());
    }

    fn quoted(&mut self, quote: u8) {
        (self.token, self.starts) = (self.column(), false);
        self.at += 1;
        while let Some(&c) = self.text.get(self.at) {
            self.at += 1;
            match c {
                b'\n' => self.line = self.at,
                b'\\' if quote == b'"' => self.at += 1,
                b'\'' if c == quote && self.text.get(self.at) == Some(&quote) => self.at += 1,
                _ if c == quote => return,
                _ => {}
            }
        }
    }

    /// Its lines are those that are further to the right than what it belongs to.
    fn block_scalar(&mut self) {
        let own = self.column();
        let parent = self.entry.filter(|entry| *entry < own);
        self.skip_line();
        while self.at < self.text.len() {
            let rest = &self.text[self.at + 1..];
            let indent = rest.iter().take_while(|c| **c == b' ').count();
            let is_empty = matches!(rest.get(indent), None | Some(b'\n' | b'\r'));
            if !is_empty && indent <= parent.unwrap_or(own) {
                return;
            }
            self.at += 1;
            self.line = self.at;
            self.skip_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::yaml::{Limits, Tree, Value, read};

    fn deepest(text: &str) -> usize {
        let mut scanner = Scanner::new(text);
        let mut deepest = 0;
        while scanner.step() {
            deepest = deepest.max(scanner.depth);
        }
        deepest
    }

    /// Brackets within brackets, as the parser has understood them.
    fn parsed(tree: &Tree, text: &str) -> usize {
        let own = usize::from(text[tree.span.start..].starts_with(['[', '{']));
        let within = match &tree.value {
            Value::List(items) => items.iter().map(|item| parsed(item, text)).max(),
            Value::Map(members) => members.iter().map(|(.., tree)| parsed(tree, text)).max(),
            _ => None,
        };
        own + within.unwrap_or(0)
    }

    #[test]
    fn only_brackets_that_nest_are_counted() {
        let cases = [
            ("a: [1, { b: [2] }, [3]]", 3),
            ("a: '['\nb: \"[{\"\nc: x [y {z", 0),
            ("a: text [\nb: more {\nc: [1]", 1),
            ("- [a]\n- [b]\n- - [c]", 1),
            ("a: # [[[\n  b # {{\nc: [d] # ]]", 1),
            ("a: |\n  [[[\n  {\nb: [c]", 1),
            ("- a: |\n    [[[\n  b: [[c]]", 2),
            ("- |\n [[[\n- >-\n [[[\n- [a]", 1),
            ("a: 'it''s ['\nb: \"\\\"[\"\nc: [d]", 1),
            ("a: plain\n  '[ on\nb: [[c]]", 2),
            ("&x [ *y , !z [a]]", 2),
            ("{a: don't, b: [c, ', [d]']}", 2),
            ("? [a]\n: [b]", 1),
        ];
        for (text, depth) in cases {
            assert_eq!(deepest(text), depth, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn no_bracket_of_the_parser_is_missed(
            text in r"([\[\]{}'\x22#|>&*!?:,a -]|: |- |\n|\n  |, |\[|\]|a: |: \|\n){0,24}",
        ) {
            let mut errors = Vec::new();
            if let Some(tree) = read(&text, Limits::default(), &mut errors) {
                prop_assert!(parsed(&tree, &text) <= deepest(&text), "{text:?}");
            }
        }
    }
}
