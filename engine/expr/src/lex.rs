//! Text to tokens.

use crate::{ExprError, Result};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Whole(i128),
    Number(f64),
    Text(String),
    /// A bare word: a column, a function or a keyword.
    Word(String),
    /// A name in backquotes: always a column.
    Quoted(String),
    Symbol(&'static str),
    End,
}

/// A token with its byte range.
#[derive(Clone, Debug)]
pub(crate) struct Spanned {
    pub(crate) token: Token,
    pub(crate) span: (usize, usize),
}

/// Longest first, so that `<=` is not read as `<`.
const SYMBOLS: [&str; 17] =
    ["==", "!=", "<>", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")", ",", "."];

/// Operators of other languages, and their equivalents here, for hints.
const MISTAKEN: [(&str, &str); 8] = [
    ("===", "="),
    ("!==", "!="),
    ("=>", ">="),
    ("=<", "<="),
    ("&&", "and"),
    ("||", "or"),
    ("=~", "contains(a, 'b')"),
    ("!~", "not contains(a, 'b')"),
];

pub(crate) fn lex(text: &str) -> Result<Vec<Spanned>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let start = at;
        let token = match first {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '\'' => Token::Text(quoted(text, &mut at, '\'')?),
            '`' => Token::Quoted(quoted(text, &mut at, '`')?),
            '"' => {
                return Err(ExprError::new("text is written in single quotes", (start, start + 1))
                    .hint("write 'text' for text and `name` for a column with an odd name"));
            }
            '“' | '”' | '‘' | '’' | '„' | '«' | '»' => {
                let span = (at, at + first.len_utf8());
                return Err(ExprError::new(format!("`{first}` is not a quote here"), span)
                    .hint("write text in plain single quotes: 'text'"));
            }
            c if c.is_ascii_digit() => number(text, &mut at)?,
            c if c.is_alphabetic() || c == '_' => Token::Word(word(text, &mut at)),
            c => {
                let symbol = SYMBOLS.into_iter().find(|symbol| text[at..].starts_with(symbol));
                if let Some((wrong, right)) =
                    MISTAKEN.into_iter().find(|(wrong, _)| text[at..].starts_with(wrong))
                {
                    let span = (at, at + wrong.len());
                    return Err(ExprError::new(format!("`{wrong}` means nothing here"), span)
                        .hint(format!("write `{right}`")));
                }
                let Some(symbol) = symbol else {
                    let span = (at, at + c.len_utf8());
                    let what = format!("`{}` means nothing here", c.escape_debug());
                    let error = ExprError::new(what, span);
                    return Err(if c == '!' { error.hint("write `not`") } else { error });
                };
                at += symbol.len();
                Token::Symbol(symbol)
            }
        };
        tokens.push(Spanned { token, span: (start, at) });
    }
    tokens.push(Spanned { token: Token::End, span: (text.len(), text.len()) });
    Ok(tokens)
}

/// Reads a quoted token; a doubled quote is an escaped quote.
fn quoted(text: &str, at: &mut usize, quote: char) -> Result<String> {
    let start = *at;
    let mut out = String::new();
    *at += 1;
    loop {
        let Some(length) = text[*at..].find(quote) else {
            return Err(ExprError::new(
                format!("this {quote} is never closed"),
                (start, start + 1),
            ));
        };
        out.push_str(&text[*at..*at + length]);
        *at += length + 1;
        if !text[*at..].starts_with(quote) {
            return Ok(out);
        }
        out.push(quote);
        *at += 1;
    }
}

/// A whole number, or one with a fraction or an exponent.
fn number(text: &str, at: &mut usize) -> Result<Token> {
    let start = *at;
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    *at = digits(*at);
    if bytes.get(*at) == Some(&b'.') && bytes.get(*at + 1).is_some_and(u8::is_ascii_digit) {
        *at = digits(*at + 1);
    }
    if matches!(bytes.get(*at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(*at + 1), Some(b'+' | b'-')));
        if bytes.get(*at + 1 + sign).is_some_and(u8::is_ascii_digit) {
            *at = digits(*at + 1 + sign);
        }
    }
    let text = &text[start..*at];
    if let Ok(whole) = text.parse() {
        return Ok(Token::Whole(whole));
    }
    text.parse()
        .map(Token::Number)
        .map_err(|_| ExprError::new(format!("`{text}` is not a number"), (start, *at)))
}

fn word(text: &str, at: &mut usize) -> String {
    let rest = &text[*at..];
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    *at += end;
    rest[..end].to_owned()
}
