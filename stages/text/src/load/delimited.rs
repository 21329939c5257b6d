//! CSV and TSV files.

use std::collections::HashSet;
use std::path::Path;

use paraloom_sdk::{Error, Result};

use super::cells::{Cell, Sink};
use super::records::{Dialect, Record, Records};
use super::table::{Quoting, Settings};
use super::text::Lines;

/// So many lines of titles and notes may stand above and below a table to be told as such.
const MOST_NOTES: usize = 20;

/// A CSV or TSV file behind its header.
pub(super) struct Delimited {
    records: Records,
    columns: Vec<Column>,
    /// The first row of a file without a header, which was read to count the columns.
    first: Option<Record>,
    record: Record,
    /// Lines that are left out at the start, and at the end.
    skipped: (usize, usize),
    /// Whether a row was as long as the header.
    has_rows: bool,
}

struct Column {
    name: String,
    /// That the name is only the column's place.
    is_unnamed: bool,
    goes: Goes,
}

/// Where the cells of a column go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    To(usize),
    /// Nobody asked for it.
    Nowhere,
    /// It has neither a name nor any content.
    MustBeEmpty,
}

impl Delimited {
    /// The columns go to where they stand.
    pub(super) fn open(path: &Path, settings: &Settings, tabs: bool) -> Result<Self> {
        let (mut records, before) = open_records(path, settings, tabs)?;
        for _ in 0..before {
            records.skip_line()?;
        }
        let skipped = (settings.text.skip_lines, settings.text.skip_footer);
        let mut first = Record::default();
        if !records.read(&mut first)? {
            let (what, at) = match skipped {
                (0, 0) if before > 0 || settings.comment.is_some() => ("has no rows", "/from"),
                (0, 0) => ("is empty", "/from"),
                (0, _) => ("has no lines but those that are left out", "/skip_footer"),
                _ => ("has no lines but those that are left out", "/skip_lines"),
            };
            return Err(Error::data(format!("{} {what}", records.path())).at(at));
        }
        let (record, has_rows) = (Record::default(), false);
        if settings.header {
            let columns = header(&records, &first)?;
            return Ok(Self { records, columns, first: None, record, skipped, has_rows });
        }
        let numbered = |at: usize| Column {
            name: format!("column{}", at + 1),
            is_unnamed: false,
            goes: Goes::To(at),
        };
        let columns = (0..first.len()).map(numbered).collect();
        let mut file = Self { records, columns, first: Some(first), record, skipped, has_rows };
        for _ in 0..settings.skip {
            if file.first.take().is_none() && !file.records.read(&mut file.record)? {
                break;
            }
        }
        Ok(file)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Says where the columns go, by name. Those at the end that go nowhere and have no name must be empty.
    pub(super) fn lead(&mut self, to: impl Fn(&str) -> Option<usize>, is_partial: bool) {
        for column in &mut self.columns {
            column.goes = to(&column.name).map_or(Goes::Nowhere, Goes::To);
        }
        if !is_partial {
            let lost = self
                .columns
                .iter_mut()
                .filter(|column| column.goes == Goes::Nowhere && column.is_unnamed);
            lost.for_each(|column| column.goes = Goes::MustBeEmpty);
        }
    }

    /// How many columns there are without those at the end that have neither a name nor, as `is_empty` tells, any content.
    pub(super) fn count(&self, is_empty: impl Fn(usize) -> bool) -> usize {
        let kept = |(at, column): &(usize, &Column)| !(column.is_unnamed && is_empty(*at));
        self.columns.iter().enumerate().rev().find(kept).map_or(0, |(at, _)| at + 1)
    }

    fn ragged(&mut self) -> Error {
        // What stands below a table is not long.
        let left = self.records.lines_left(MOST_NOTES);
        let (record, names) = (&self.record, self.columns.len());
        let cells = if record.len() == 1 { "cell" } else { "cells" };
        let message = format!("the row has {} {cells} instead of {names}", record.len());
        let error = self.records.error_at(record.line, &message);
        let dialect = self.records.dialect();
        let delimiter = match dialect.delimiter {
            b'\t' => "a tab".to_owned(),
            other => format!("`{}`", char::from(other)),
        };
        let others =
            [b';', b'\t', b'|', b','].into_iter().filter(|other| *other != dialect.delimiter);
        let in_row = |other: &u8| record.cells().any(|(cell, _)| cell.as_bytes().contains(other));
        let in_names = |other: &u8| self.names().any(|name| name.as_bytes().contains(other));
        if let Some(other) = others.clone().find(|other| in_names(other) && in_row(other)) {
            return error.hint(format!(
                "if the columns are separated by it, say `delimiter: \"{}\"`",
                shown(other)
            ));
        }
        if dialect.quote.is_none() && self.has_open_quote() {
            return error.hint("if quotes hold cells together here, say `quote: '\"'`");
        }
        if self.names().next().is_some_and(|name| name.starts_with('#')) {
            return error.hint(
                "if lines with `#` are comments, say `comment: '#'`, or `skip_lines: N` for those at the start",
            );
        }
        let (above, below) = (record.line - 1, left.map(|left| left + 1 + self.skipped.1));
        let is_title = record.len() > names && above as usize <= self.skipped.0 + MOST_NOTES;
        if is_title && names == 1 {
            // A comma in a title or a number is no delimiter where something else is.
            if let Some(other) = others.clone().find(in_row) {
                return error.hint(format!(
                    "if the columns are separated by `{0}` and titles stand above, say `delimiter: \"{0}\"` and `skip_lines: N`",
                    shown(other)
                ));
            }
            return error.hint(format!(
                "if the lines above are no part of the table, say `skip_lines: {above}`; if they are, a cell with {delimiter} in it has to be in quotes"
            ));
        }
        let is_note = record.len() == 1 && names > 1;
        if is_note && !self.has_rows {
            return error.hint(
                "if titles stand above the table, say `skip_lines: N`; if not, each row needs a cell for every column, be it an empty one",
            );
        }
        if let Some(below) = below.filter(|_| is_note) {
            return error.hint(format!(
                "if this stands below the table, say `skip_footer: {below}`; if not, each row needs a cell for every column, be it an empty one"
            ));
        }
        if self.records.has_quotes() {
            return error.hint(
                "a quote that is closed too late joins cells: `quote: ''` takes quotes as text",
            );
        }
        let last_is_empty = record.cells().last().is_some_and(|(cell, _)| cell.is_empty());
        if record.len() == names + 1 && last_is_empty {
            return error.hint(format!(
                "the row ends in {delimiter}, and the header does not: remove it, or add one there"
            ));
        }
        if record.len() == names + 1 && !self.has_rows {
            return error.hint(
                "if names of rows stand first, as R writes them, say `header: false, skip: 1`",
            );
        }
        error.hint(if is_title {
            format!(
                "a cell with {delimiter} in it has to be in quotes; if the lines above are no part of the table, say `skip_lines: {above}`"
            )
        } else if record.len() > names {
            format!("a cell with {delimiter} in it has to be in quotes")
        } else {
            "each row needs a cell for every column, be it an empty one".to_owned()
        })
    }

    fn has_open_quote(&self) -> bool {
        self.record.cells().any(|(cell, _)| cell.starts_with('"') || cell.ends_with('"'))
    }
}

fn shown(delimiter: u8) -> String {
    if delimiter == b'\t' { "\\t".to_owned() } else { char::from(delimiter).to_string() }
}

impl Delimited {
    /// Reads one row; false after the last one.
    pub(super) fn next(&mut self, sink: &mut impl Sink) -> Result<bool> {
        match self.first.take() {
            Some(first) => self.record = first,
            None => {
                if !self.records.read(&mut self.record)? {
                    return Ok(false);
                }
            }
        }
        if self.record.len() != self.columns.len() {
            return Err(self.ragged());
        }
        self.has_rows = true;
        for ((text, quoted), column) in self.record.cells().zip(&self.columns) {
            match column.goes {
                // An empty cell is missing, unless quotes say that it is empty text.
                Goes::To(at) => {
                    sink.push(at, (quoted || !text.is_empty()).then_some(Cell::plain(text)));
                }
                Goes::MustBeEmpty if !text.trim().is_empty() => {
                    let message = format!("`{text}` stands in a column without a name");
                    let error = self.records.error_at(self.record.line, &message);
                    return Err(error.hint("give the column a name in the first line"));
                }
                Goes::Nowhere | Goes::MustBeEmpty => {}
            }
        }
        Ok(true)
    }

    /// File and line of the row that was read last.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.records.path(), self.record.line)
    }
}

/// The first line, and how many stand before it: comments, and blank lines where something is left out.
fn first_line(path: &Path, settings: &Settings) -> Result<(String, usize)> {
    let mut lines = Lines::open(path, settings.text)?;
    let leaves_out = settings.text.skip_lines > 0 || settings.comment.is_some();
    let is_comment =
        |line: &str| settings.comment.as_ref().is_some_and(|mark| line.starts_with(mark));
    let mut before = 0;
    loop {
        let mut line = String::new();
        let read = lines.append(&mut line, super::text::Ends::AnyReturn)?;
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        if read.is_none() || !(leaves_out && line.is_empty() || is_comment(&line)) {
            return Ok((line, before));
        }
        before += 1;
    }
}

/// The reader at the start of the file; and how many lines to leave out, the last of which only names the separator, as Excel's do.
fn open_records(path: &Path, settings: &Settings, tabs: bool) -> Result<(Records, usize)> {
    let (first, before) = first_line(path, settings)?;
    let first = first.as_str();
    let separator = first.trim_matches('"').strip_prefix("sep=").filter(|rest| rest.len() == 1);
    let separator = separator.map(|rest| rest.as_bytes()[0]);
    let delimiter = settings.delimiter.or(separator).unwrap_or(if tabs { b'\t' } else { b',' });
    let mut dialect = Dialect {
        delimiter,
        quote: match settings.quote {
            Quoting::AsUsual if tabs => None,
            Quoting::AsUsual => Some(b'"'),
            other => other.byte(),
        },
        escape: settings.escape,
        undoubled: tabs && settings.quote == Quoting::AsUsual,
    };
    if tabs
        && settings.quote == Quoting::AsUsual
        && settings.header
        && first.starts_with('"')
        && names_are_quoted(path, settings, dialect)
    {
        dialect.quote = Some(b'"');
    }
    if settings.header
        && settings.delimiter.is_none()
        && separator.is_none()
        && !first.starts_with('"')
        && memchr::memchr(delimiter, first.as_bytes()).is_none()
    {
        let other = [b';', b'\t', b'|', b',']
            .into_iter()
            .find(|other| memchr::memchr(*other, first.as_bytes()).is_some());
        if let Some(other) = other {
            let header: String = first.chars().take(60).collect();
            let line = settings.text.skip_lines + before + 1;
            let message =
                format!("{}:{line}: the header is one column, `{header}`", path.display());
            let own = shown(delimiter);
            let what = format!(
                "say `delimiter: \"{}\"`; or `delimiter: \"{own}\"`, if the column is called that",
                shown(other)
            );
            return Err(Error::data(message).at("/from").hint(what));
        }
    }
    let records = Records::open(path, settings.text, dialect, settings.comment.as_deref())?;
    Ok((records, separator.map_or(0, |_| before + 1)))
}

/// Whether the names of a TSV file are all in quotes: its cells are quoted then as in CSV, as R and `export` write them.
fn names_are_quoted(path: &Path, settings: &Settings, dialect: Dialect) -> bool {
    let dialect = Dialect { quote: Some(b'"'), ..dialect };
    let mut header = Record::default();
    let records = Records::open(path, settings.text, dialect, settings.comment.as_deref());
    let read = records.and_then(|mut records| records.read(&mut header));
    matches!(read, Ok(true)) && header.cells().all(|(_, quoted)| quoted)
}

/// Columns; those without a name are called by their place.
fn header(records: &Records, first: &Record) -> Result<Vec<Column>> {
    let mut columns = Vec::with_capacity(first.len());
    let mut seen = HashSet::new();
    for (at, (cell, quoted)) in first.cells().enumerate() {
        let name = if quoted { cell } else { cell.trim() };
        let is_unnamed = name.trim().is_empty();
        let name = if is_unnamed { format!("column{}", at + 1) } else { name.to_owned() };
        if !seen.insert(name.clone()) {
            let error = records.error_at(first.line, &format!("two columns are called `{name}`"));
            let hint = "rename one; `header: false, skip: 1` calls them `column1`, `column2`, ..., and `header: false` is for a file without a header";
            return Err(error.hint(hint));
        }
        columns.push(Column { name, is_unnamed, goes: Goes::To(at) });
    }
    Ok(columns)
}
