//! One JSON object as its members, with the place of what is wrong.
//!
//! Numbers stay as they are written, so none is rounded on its way; `NaN`, `Infinity` and `-Infinity`, which Python writes, are
//! numbers too.

use std::borrow::Cow;

/// Deeper nesting is refused rather than recursed into.
const MAX_DEPTH: usize = 128;

/// The value of a member.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Cow<'a, str>),
    /// An object or an array, as JSON without spaces.
    Nested(String),
}

/// What is wrong, and at which byte.
#[derive(Debug, PartialEq)]
pub(super) struct Bad {
    pub(super) at: usize,
    pub(super) what: String,
    pub(super) hint: Option<&'static str>,
}

type Result<T> = std::result::Result<T, Bad>;

/// Hands each member of the object that `text` is to `member`.
pub(super) fn object<'a>(
    text: &'a str,
    replace: bool,
    mut member: impl FnMut(Cow<'a, str>, Value<'a>),
) -> Result<()> {
    let mut parser = Parser { text, at: 0, replace };
    parser.space();
    match parser.peek() {
        Some(b'{') => {}
        Some(b'[') => {
            let error = parser.bad("this is a JSON array, not an object");
            return Err(Bad {
                hint: Some("if the file is one array of objects, say `format: json`"),
                ..error
            });
        }
        _ => return Err(parser.bad("this is not a JSON object")),
    }
    parser.members(|parser, name| {
        let value = parser.value()?;
        member(name, value);
        Ok(())
    })?;
    parser.space();
    if parser.at < text.len() {
        Err(parser.bad("the line goes on after the object"))
    } else {
        Ok(())
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    replace: bool,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn bad(&self, what: impl Into<String>) -> Bad {
        Bad { at: self.at, what: what.into(), hint: None }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// What should stand here, and does not.
    fn missing(&self, wanted: &str) -> Bad {
        match self.text[self.at..].chars().next() {
            Some(found) => {
                self.bad(format!("here should be {wanted}, not `{}`", found.escape_debug()))
            }
            None => Bad {
                hint: Some("if an object takes several lines, say `format: json`"),
                ..self.bad(format!("it ends where {wanted} should be"))
            },
        }
    }

    /// An object from its `{` on.
    fn members(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<()>,
    ) -> Result<()> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.missing("a name in quotes"));
            }
            let name = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.missing("`:`"));
            }
            self.at += 1;
            self.space();
            member(self, name)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.missing("`,` or `}`")),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self) -> Result<Value<'a>> {
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'{' | b'[') => {
                let mut out = String::new();
                self.nested(&mut out, 0)?;
                Ok(Value::Nested(out))
            }
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) -> Result<Value<'a>> {
        let rest = &self.text[self.at..];
        for (word, value) in [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("NaN", Value::Number("NaN")),
            ("Infinity", Value::Number("Infinity")),
            ("-Infinity", Value::Number("-Infinity")),
        ] {
            if let Some(after) = rest.strip_prefix(word)
                && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                self.at += word.len();
                return Ok(value);
            }
        }
        let start = self.at;
        let length = number(rest.as_bytes()).ok_or_else(|| self.missing("a value"))?;
        self.at += length;
        Ok(Value::Number(&self.text[start..self.at]))
    }

    /// A string from its quote on.
    fn string(&mut self) -> Result<Cow<'a, str>> {
        let start = self.at + 1;
        self.at = start;
        let mut decoded: Option<String> = None;
        let mut from = start;
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let Some(found) =
                rest.iter().position(|byte| matches!(byte, b'"' | b'\\') || *byte < 0x20)
            else {
                self.at = start - 1;
                return Err(self.bad("this string is never closed"));
            };
            self.at += found;
            match rest[found] {
                b'"' => {
                    let tail = &self.text[from..self.at];
                    self.at += 1;
                    return Ok(match decoded {
                        None => Cow::Borrowed(tail),
                        Some(text) => Cow::Owned(text + tail),
                    });
                }
                b'\\' => {
                    let text = decoded.get_or_insert_default();
                    text.push_str(&self.text[from..self.at]);
                    let char = self.escape()?;
                    text.push(char);
                    from = self.at;
                }
                _ => return Err(self.bad("a control character stands in a string as it is")),
            }
        }
    }

    /// The character that an escape stands for.
    fn escape(&mut self) -> Result<char> {
        let start = self.at;
        let kind = self.text.as_bytes().get(start + 1).copied();
        self.at = start + 2;
        Ok(match kind {
            Some(quoted @ (b'"' | b'\\' | b'/')) => char::from(quoted),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(start),
            _ => {
                self.at = start;
                return Err(self.bad("there is no such escape in JSON"));
            }
        })
    }

    /// `\u00e9`, and pairs such as `\ud83d\ude00`.
    fn unicode(&mut self, start: usize) -> Result<char> {
        let text = self.text;
        let hex = |at: usize| {
            let digits = text
                .get(at..at + 4)
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
            u32::from_str_radix(digits, 16).ok()
        };
        let Some(first) = hex(start + 2) else {
            self.at = start;
            return Err(self.bad("`\\u` is followed by four hexadecimal digits"));
        };
        self.at = start + 6;
        if let Some(char) = char::from_u32(first) {
            return Ok(char);
        }
        if first < 0xdc00
            && text[self.at..].starts_with("\\u")
            && let Some(second @ 0xdc00..=0xdfff) = hex(self.at + 2)
            && let Some(char) =
                char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
        {
            self.at += 6;
            return Ok(char);
        }
        if self.replace {
            return Ok('\u{fffd}');
        }
        self.at = start;
        let error = self.bad(format!("`{}` is half of a character", &text[start..start + 6]));
        Err(Bad { hint: Some("`malformed: replace` puts U+FFFD in its place"), ..error })
    }

    /// An object or array as JSON without spaces.
    fn nested(&mut self, out: &mut String, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(self.bad("it is nested too deeply"));
        }
        match self.peek() {
            Some(b'{') => {
                out.push('{');
                let start = out.len();
                self.members(|parser, name| {
                    if out.len() > start {
                        out.push(',');
                    }
                    quote(&name, out);
                    out.push(':');
                    parser.nested(out, depth + 1)
                })?;
                out.push('}');
            }
            Some(b'[') => {
                out.push('[');
                self.at += 1;
                self.space();
                while self.peek() != Some(b']') {
                    self.nested(out, depth + 1)?;
                    self.space();
                    match self.peek() {
                        Some(b',') => {
                            out.push(',');
                            self.at += 1;
                            self.space();
                            if self.peek() == Some(b']') {
                                return Err(self.missing("a value"));
                            }
                        }
                        Some(b']') => {}
                        _ => return Err(self.missing("`,` or `]`")),
                    }
                }
                self.at += 1;
                out.push(']');
            }
            Some(b'"') => quote(&self.string()?, out),
            _ => match self.scalar()? {
                Value::Number(number) => out.push_str(number),
                Value::Bool(value) => out.push_str(if value { "true" } else { "false" }),
                _ => out.push_str("null"),
            },
        }
        Ok(())
    }
}

/// How many bytes a number has at the start, if there is one that is not followed by a letter or digit.
fn number(bytes: &[u8]) -> Option<usize> {
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let start = usize::from(bytes.first() == Some(&b'-'));
    let mut at = digits(start);
    if at == start || (bytes[start] == b'0' && at > start + 1) {
        return None;
    }
    if bytes.get(at) == Some(&b'.') {
        let end = digits(at + 1);
        if end == at + 1 {
            return None;
        }
        at = end;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let end = digits(at + 1 + sign);
        if end == at + 1 + sign {
            return None;
        }
        at = end;
    }
    let ends = bytes.get(at).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'.');
    ends.then_some(at)
}

/// Writes a string as JSON does.
fn quote(text: &str, out: &mut String) {
    // Cannot fail: a string has a form in JSON.
    out.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use super::{Value, object};

    fn told(text: &str, replace: bool) -> String {
        let mut out = Vec::new();
        match object(text, replace, |name, value| out.push(format!("{name}: {value:?}"))) {
            Ok(()) => out.join(", "),
            Err(bad) => format!(
                "{}: {}{}",
                bad.at,
                bad.what,
                bad.hint.map_or(String::new(), |hint| format!(" ({hint})"))
            ),
        }
    }

    #[test]
    fn members() {
        let cases = [
            "{}",
            r#" { "a" : 1 , "b": -2.50e+3, "c": null, "d": true } "#,
            r#"{"a": NaN, "b": -Infinity, "c": Infinity}"#,
            r#"{"a": "x\n\"\u00e9\ud83d\ude00\/", "b": "plain"}"#,
            r#"{"a": [1, {"b": "c\u00e9", "d": [ ]}, NaN], "e": {"f" : {}}}"#,
            r#"{"id": 11898508762506083287}"#,
            r#"{"a": 01}"#,
            r#"{"a": 1.}"#,
            r#"{"a": nul}"#,
            r#"{"a": NaNo}"#,
            r#"{"a": [1,]}"#,
            r#"{"a": 1,}"#,
            r#"{"a" 1}"#,
            r#"{"a": 1"#,
            r#"{"a": "x}"#,
            r#"{"a": "\ud83d"}"#,
            r#"{"a": "\ud83d\u0041"}"#,
            r#"{"a": "\uZZZZ"}"#,
            r#"{"a": "\x"}"#,
            r#"{"a": 1} {"a": 2}"#,
            "{a: 1}",
            "[1]",
            "1",
            "{\"a\": \"tab\there\"}",
        ];
        let all: Vec<_> =
            cases.iter().map(|case| format!("{case}\n    {}", told(case, false))).collect();
        insta::assert_snapshot!(all.join("\n"));
        assert_eq!(told(r#"{"a": "x\ud83d"}"#, true), "a: Text(\"x\u{fffd}\")");
        assert!(told(&format!("{{\"a\": {}", "[".repeat(100_000)), false).contains("too deeply"));
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"\{"[ab\\"u0d8]{0,6}": ?("[ -~\\]{0,12}"|[-0-9.e+]{1,6}|\[[0-9, ]{0,6}\]|null|true)\}"#) {
            let mut members = Vec::new();
            let own = object(&text, false, |name, value| members.push((name.into_owned(), value)));
            let theirs = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
            // Numbers beyond a float's range are numbers here.
            let is_huge = theirs.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
            proptest::prop_assert!(own.is_ok() == theirs.is_ok() || is_huge, "{text}: {own:?} {theirs:?}");
            if let (Ok(()), Ok(theirs)) = (own, theirs) {
                let (name, value) = members.pop().expect("one member");
                let expected = &theirs[&name];
                let same = match value {
                    Value::Text(text) => expected.as_str() == Some(&*text),
                    Value::Nested(text) => serde_json::from_str::<serde_json::Value>(&text).ok().as_ref() == Some(expected),
                    Value::Number(text) => serde_json::from_str::<serde_json::Value>(text).ok().as_ref() == Some(expected),
                    Value::Bool(value) => expected.as_bool() == Some(value),
                    Value::Null => expected.is_null(),
                };
                proptest::prop_assert!(same, "{text}");
            }
        }
    }
}
