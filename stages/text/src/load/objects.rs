//! JSON: one object a line, or objects in an array or one after the other. Members that are objects or arrays become JSON text.

use std::collections::HashMap;
use std::path::Path;

use paraloom_sdk::{Error, Result};

use super::cells::{Cell, Sink};
use super::json::{self, Value};
use super::text::{Ends, Lines, TextSettings};

/// The objects of a file.
pub(super) struct Objects {
    lines: Lines,
    /// Columns by the names of members.
    columns: HashMap<String, usize>,
    unknown: Unknown,
    /// The objects may take several lines, and stand in an array.
    stream: Option<Stream>,
    text: String,
    /// The line in which the object begins that was read last.
    line: u64,
}

/// What becomes of a member that is no column yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    BecomesColumn,
    IsLeftOut,
    IsAnError,
}

/// Where in a stream of objects the reader is.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    is_array: bool,
    is_started: bool,
    has_ended: bool,
}

impl Objects {
    pub(super) fn lines(path: &Path, settings: TextSettings) -> Result<Self> {
        Self::open(path, settings, None)
    }

    pub(super) fn stream(path: &Path, settings: TextSettings) -> Result<Self> {
        Self::open(path, settings, Some(Stream::default()))
    }

    fn open(path: &Path, settings: TextSettings, stream: Option<Stream>) -> Result<Self> {
        Ok(Self {
            lines: Lines::open(path, settings)?,
            columns: HashMap::new(),
            unknown: Unknown::BecomesColumn,
            stream,
            text: String::new(),
            line: 1,
        })
    }

    /// Says which members go to which columns.
    pub(super) fn lead(&mut self, columns: HashMap<String, usize>, unknown: Unknown) {
        self.columns = columns;
        self.unknown = unknown;
    }

    /// The names that became columns.
    pub(super) fn columns(&self) -> &HashMap<String, usize> {
        &self.columns
    }

    /// Reads one object; false after the last one.
    pub(super) fn next(&mut self, sink: &mut impl Sink) -> Result<bool> {
        let is_there =
            if self.stream.is_some() { self.next_of_stream()? } else { self.next_line()? };
        if !is_there {
            return Ok(false);
        }
        let (columns, unknown) = (&mut self.columns, self.unknown);
        let mut refused: Option<String> = None;
        let read = json::object(&self.text, self.lines.settings().replace, |name, value| {
            let column = match columns.get(&*name) {
                Some(column) => *column,
                None if unknown == Unknown::BecomesColumn => {
                    let next = columns.len();
                    columns.insert(name.into_owned(), next);
                    next
                }
                None => {
                    if unknown == Unknown::IsAnError {
                        refused.get_or_insert_with(|| name.into_owned());
                    }
                    return;
                }
            };
            sink.push(
                column,
                match &value {
                    Value::Null => None,
                    Value::Bool(value) => Some(Cell::plain(if *value { "true" } else { "false" })),
                    Value::Number(text) => Some(Cell::plain(text)),
                    Value::Text(text) => Some(Cell { text, is_text: true }),
                    Value::Nested(text) => Some(Cell { text, is_text: true }),
                },
            );
        });
        if let Err(bad) = read {
            return Err(self.bad(&bad));
        }
        match refused {
            None => Ok(true),
            Some(name) => {
                let message =
                    format!("`{name}` appears here first, after the rows that tell the columns");
                let error = self.lines.error_at(self.line, &message);
                Err(error.hint(format!(
                    "say `types: {{ {name}: text }}`, or name the `columns` to keep"
                )))
            }
        }
    }

    /// Blank lines are left out.
    fn next_line(&mut self) -> Result<bool> {
        loop {
            if !self.lines.next(&mut self.text)? {
                return Ok(false);
            }
            // Files that each begin with a byte order mark may have been put one after the other.
            if self.text.starts_with('\u{feff}') {
                self.text.drain(..'\u{feff}'.len_utf8());
            }
            if !self.text.trim().is_empty() {
                self.line = self.lines.number();
                return Ok(true);
            }
        }
    }

    /// An object, from `{` to the `}` that closes it.
    fn next_of_stream(&mut self) -> Result<bool> {
        let mut state = self.stream.unwrap_or_default();
        self.text.clear();
        let (mut at, mut start, mut depth) = (0, None, 0_usize);
        let (mut in_string, mut is_escaped) = (false, false);
        // Of pieces, the number is that of the line breaks so far.
        let mut line = self.lines.number() + 1;
        let mut has_comma = false;
        loop {
            if self.lines.append(&mut self.text, Ends::Brace)?.is_none() {
                let is_open = start.is_some() || (state.is_array && !state.has_ended);
                let message = if start.is_some() {
                    "the file ends within this object"
                } else {
                    "the file ends within the array"
                };
                return if is_open { Err(self.lines.error_at(line, message)) } else { Ok(false) };
            }
            while let Some(byte) = self.text.as_bytes().get(at).copied() {
                at += 1;
                line += u64::from(byte == b'\n' && start.is_none());
                if in_string {
                    in_string = is_escaped || byte != b'"';
                    is_escaped = !is_escaped && byte == b'\\';
                    continue;
                }
                match byte {
                    b'"' if start.is_some() => in_string = true,
                    b'{' | b'[' if start.is_some() => depth += 1,
                    b'}' | b']' if start.is_some() => {
                        depth -= 1;
                        if depth == 0 {
                            self.text.truncate(at);
                            self.text.drain(..start.unwrap_or(0));
                            self.line = line;
                            state.is_started = true;
                            self.stream = Some(state);
                            return Ok(true);
                        }
                    }
                    b' ' | b'\t' | b'\n' | b'\r' => {}
                    _ if start.is_some() => {}
                    b'[' if !state.is_started && !state.is_array => state.is_array = true,
                    b'{' if !state.has_ended
                        && (!state.is_array || has_comma || !state.is_started) =>
                    {
                        (start, depth) = (Some(at - 1), 1);
                    }
                    b',' if state.is_array
                        && state.is_started
                        && !has_comma
                        && !state.has_ended =>
                    {
                        has_comma = true;
                    }
                    b']' if state.is_array && !has_comma && !state.has_ended => {
                        state.has_ended = true;
                        self.stream = Some(state);
                    }
                    _ => {
                        let rest: String = self.text[at - 1..].chars().take(20).collect();
                        let message =
                            format!("here should be a JSON object, not `{}`", rest.trim_end());
                        return Err(self.lines.error_at(line, &message));
                    }
                }
            }
            if start.is_none() {
                self.text.clear();
                at = 0;
            }
            if self.text.len() > self.lines.settings().max_line {
                return Err(self.lines.too_long(line));
            }
        }
    }

    fn bad(&self, bad: &json::Bad) -> Error {
        let before = self.text.get(..bad.at).unwrap_or(&self.text);
        let line = self.line + before.matches('\n').count() as u64;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        let error = self.lines.error_at(line, &format!("column {column}: {}", bad.what));
        match bad.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.lines.path(), self.line)
    }
}
