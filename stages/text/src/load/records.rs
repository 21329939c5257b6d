//! Records of delimited text (RFC 4180): cells, quotes, line breaks within quotes.
//!
//! A quote that is never closed, or closed in the middle of a cell, is an error: whatever one made of it, rows would be joined or
//! quotes lost without a word.

use std::path::Path;

use memchr::{memchr, memchr2};
use paraloom_sdk::{Error, Result};

use super::text::{Ends, Lines, TextSettings};

/// How records are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    /// `None`: quotes are text.
    pub(super) quote: Option<u8>,
    /// What takes its meaning from a quote within quotes, beside a second quote.
    pub(super) escape: Option<u8>,
    /// Where quotes are text: a cell in quotes whose inner quotes are all doubled was quoted for their sake.
    pub(super) undoubled: bool,
}

/// One record.
#[derive(Debug, Default)]
pub(super) struct Record {
    text: String,
    /// Where each cell ends, and whether it was quoted.
    ends: Vec<(usize, bool)>,
    /// Of its first cell.
    pub(super) line: u64,
}

impl Record {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Cells, and whether each was quoted.
    pub(super) fn cells(&self) -> impl Iterator<Item = (&str, bool)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(end, _)| *end));
        starts.zip(&self.ends).map(|(start, (end, quoted))| (&self.text[start..*end], *quoted))
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    fn end_cell(&mut self, quoted: bool) {
        self.ends.push((self.text.len(), quoted));
    }
}

pub(super) struct Records {
    lines: Lines,
    dialect: Dialect,
    /// What a line begins with that is no part of the table.
    comment: Option<String>,
    line: String,
    /// Whether any quote was met so far.
    has_quotes: bool,
}

impl Records {
    pub(super) fn open(
        path: &Path,
        settings: TextSettings,
        dialect: Dialect,
        comment: Option<&str>,
    ) -> Result<Self> {
        Ok(Self {
            lines: Lines::open(path, settings)?,
            dialect,
            comment: comment.map(str::to_owned),
            line: String::new(),
            has_quotes: false,
        })
    }

    pub(super) fn path(&self) -> &str {
        self.lines.path()
    }

    pub(super) fn has_quotes(&self) -> bool {
        self.has_quotes
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Leaves out the next line, whatever it is.
    pub(super) fn skip_line(&mut self) -> Result<()> {
        self.next_line().map(drop)
    }

    /// The length of the next line without its end; `None` after the last one.
    fn next_line(&mut self) -> Result<Option<usize>> {
        self.line.clear();
        let end = self.lines.append(&mut self.line, Ends::AnyReturn)?;
        Ok(end.map(|end| self.line.len() - end))
    }

    /// How many lines are left, if it is not more than `most`.
    pub(super) fn lines_left(&mut self, most: usize) -> Option<usize> {
        (0..=most).find(|_| !matches!(self.next_line(), Ok(Some(_))))
    }

    fn is_comment(&self, length: usize) -> bool {
        self.comment.as_ref().is_some_and(|comment| self.line[..length].starts_with(comment))
    }

    /// The next record that is neither a blank line nor a comment; false after the last one.
    pub(super) fn read(&mut self, record: &mut Record) -> Result<bool> {
        record.clear();
        let length = loop {
            match self.next_line()? {
                None => return Ok(false),
                Some(0) => {}
                Some(length) if self.is_comment(length) => {}
                Some(length) => break length,
            }
        };
        record.line = self.lines.number();
        let line = &self.line[..length];
        match self.dialect.quote {
            Some(quote) if memchr(quote, line.as_bytes()).is_some() => {
                self.has_quotes = true;
                self.quoted(quote, length, record)?;
            }
            _ => plain(line, self.dialect, record),
        }
        Ok(true)
    }

    /// A record whose first line has quotes.
    fn quoted(&mut self, quote: u8, mut length: usize, record: &mut Record) -> Result<()> {
        let delimiter = self.dialect.delimiter;
        let mut at = 0;
        loop {
            let is_quoted =
                self.line.as_bytes().get(at).is_some_and(|byte| at < length && *byte == quote);
            if is_quoted {
                (at, length) = self.quoted_cell(quote, at, length, record)?;
                let rest = &self.line[at..length];
                let end = memchr(delimiter, rest.as_bytes()).unwrap_or(rest.len());
                // White space behind the quote is kept, as it always was; anything else is a quote that closes too early.
                if !rest[..end].trim().is_empty() {
                    return Err(self.closed_early(record, rest));
                }
                record.text.push_str(&rest[..end]);
                at += end;
            } else {
                let rest = &self.line[at..length];
                let end = memchr(delimiter, rest.as_bytes()).unwrap_or(rest.len());
                record.text.push_str(&rest[..end]);
                at += end;
            }
            record.end_cell(is_quoted);
            if at >= length {
                return Ok(());
            }
            at += 1;
        }
    }

    /// What stands between the quote at `at` and the one that closes it; the place behind that one, and the length of its line.
    fn quoted_cell(
        &mut self,
        quote: u8,
        at: usize,
        length: usize,
        record: &mut Record,
    ) -> Result<(usize, usize)> {
        let began = self.lines.number();
        let escape = self.dialect.escape.filter(|escape| *escape != quote);
        let (mut at, mut length) = (at + 1, length);
        let mut has_backslash = false;
        loop {
            let rest = &self.line.as_bytes()[at..];
            let found = match escape {
                Some(escape) => memchr2(quote, escape, rest),
                None => memchr(quote, rest),
            };
            // The end of the line belongs to the cell.
            let Some(found) = found.filter(|found| at + found < length) else {
                record.text.push_str(&self.line[at..]);
                if record.text.len() > self.lines.settings().max_line {
                    return Err(self.lines.too_long(began));
                }
                let Some(next) = self.next_line()? else {
                    return Err(self.unclosed(began, has_backslash));
                };
                (at, length) = (0, next);
                continue;
            };
            record.text.push_str(&self.line[at..at + found]);
            at += found;
            let bytes = &self.line.as_bytes()[..length];
            let next = bytes.get(at + 1).copied();
            has_backslash |= bytes[at] == quote && at > 0 && bytes[at - 1] == b'\\';
            if Some(bytes[at]) == escape {
                let escaped = next.filter(|next| *next == quote || Some(*next) == escape);
                record.text.push(char::from(escaped.unwrap_or(bytes[at])));
                at += 1 + usize::from(escaped.is_some());
            } else if next == Some(quote) {
                record.text.push(char::from(quote));
                at += 2;
            } else {
                return Ok((at + 1, length));
            }
        }
    }

    fn unclosed(&self, line: u64, has_backslash: bool) -> Error {
        let error = self.lines.error_at(line, "the quote of this cell is never closed");
        error.hint(match (has_backslash, self.dialect.escape) {
            (true, None) => "if `\\\"` stands for a quote, say `escape: '\\'`",
            _ => "close it; or say `quote: ''`, if quotes are part of the text",
        })
    }

    fn closed_early(&self, record: &Record, rest: &str) -> Error {
        let shown: String = rest.chars().take(20).collect();
        let line = self.lines.number();
        let began = if line == record.line {
            String::new()
        } else {
            format!(" (the row begins in line {})", record.line)
        };
        let message = format!("after the quote that closes a cell comes `{shown}`{began}");
        let is_escaped = record.text.ends_with('\\') && self.dialect.escape.is_none();
        self.lines.error_at(line, &message).hint(if is_escaped {
            "if `\\\"` stands for a quote, say `escape: '\\'`"
        } else {
            "a quote within quotes is doubled; or say `quote: ''`, if quotes are part of the text"
        })
    }

    pub(super) fn error_at(&self, line: u64, message: &str) -> Error {
        self.lines.error_at(line, message)
    }
}

/// A line in which quotes mean nothing.
fn plain(line: &str, dialect: Dialect, record: &mut Record) {
    let mut rest = line;
    loop {
        let end = memchr(dialect.delimiter, rest.as_bytes());
        let cell = &rest[..end.unwrap_or(rest.len())];
        match cell.starts_with('"').then(|| undoubled(cell)).flatten().filter(|_| dialect.undoubled)
        {
            Some(text) => record.text.push_str(&text),
            None => record.text.push_str(cell),
        }
        record.end_cell(false);
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return,
        }
    }
}

/// `"he said ""hi"""` as it was before somebody quoted it; `None` for `"hi"` and `"hi" he said`.
fn undoubled(cell: &str) -> Option<String> {
    let inner = cell.strip_prefix('"')?.strip_suffix('"')?;
    let without = inner.replace("\"\"", "");
    (without.len() < inner.len() && !without.contains('"')).then(|| inner.replace("\"\"", "\""))
}
