//! CSV as clients send it (RFC 4180), by the rules of `load`: nothing between two commas is a missing value and `""` an empty text;
//! blank lines are no rows; a quote that is never closed, or closed in the middle of a cell, is an error, since whatever one made of
//! it, rows would be joined or quotes lost without a word.

use crate::problem::quoted;

/// A cell, and whether it was quoted.
pub(crate) type Cell = (String, bool);

/// A line of cells.
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    /// The line of the body that it begins in, from 1.
    pub(crate) line: usize,
    pub(crate) cells: Vec<Cell>,
}

/// The records of a body; an error names the line.
pub(crate) fn records(body: &str) -> Result<Vec<Record>, String> {
    let mut reader = Reader { rest: body, line: 1 };
    let mut records = Vec::new();
    while !reader.rest.is_empty() {
        // A blank line.
        if reader.end_of_line() {
            continue;
        }
        records.push(reader.record()?);
    }
    Ok(records)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    /// Takes the end of a line, if it is there.
    fn end_of_line(&mut self) -> bool {
        let rest = ["\r\n", "\n", "\r"].iter().find_map(|end| self.rest.strip_prefix(end));
        self.line += usize::from(rest.is_some());
        rest.inspect(|rest| self.rest = rest).is_some()
    }

    /// What comes before the next comma or the end of the line.
    fn plain(&mut self) -> &'a str {
        let end = self.rest.find([',', '\r', '\n']).unwrap_or(self.rest.len());
        let (cell, rest) = self.rest.split_at(end);
        self.rest = rest;
        cell
    }

    fn record(&mut self) -> Result<Record, String> {
        let mut record = Record { line: self.line, cells: Vec::new() };
        loop {
            record.cells.push(match self.rest.strip_prefix('"') {
                Some(rest) => {
                    self.rest = rest;
                    (self.in_quotes()?, true)
                }
                None => (self.plain().to_owned(), false),
            });
            match self.rest.strip_prefix(',') {
                Some(rest) => self.rest = rest,
                None => {
                    self.end_of_line();
                    return Ok(record);
                }
            }
        }
    }

    /// A cell whose first quote was taken.
    fn in_quotes(&mut self) -> Result<String, String> {
        let (began, mut cell) = (self.line, String::new());
        loop {
            let Some(end) = self.rest.find('"') else {
                return Err(format!("line {began}: the quote of this cell is never closed"));
            };
            let text = &self.rest[..end];
            cell.push_str(text);
            self.line += ends_of_lines(text);
            self.rest = &self.rest[end + 1..];
            match self.rest.strip_prefix('"') {
                Some(rest) => {
                    cell.push('"');
                    self.rest = rest;
                }
                None => break,
            }
        }
        let after = self.plain();
        if !after.trim().is_empty() {
            let message = "after the quote that closes a cell comes";
            return Err(format!("line {}: {message} {:?}", self.line, quoted(after)));
        }
        Ok(cell + after)
    }
}

fn ends_of_lines(text: &str) -> usize {
    text.matches(['\n', '\r']).count() - text.matches("\r\n").count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(body: &str) -> String {
        let cell =
            |(text, is_quoted): &Cell| format!("{text:?}{}", if *is_quoted { "q" } else { "" });
        let record = |record: &Record| {
            let cells: Vec<_> = record.cells.iter().map(cell).collect();
            format!("{}: {}", record.line, cells.join(" "))
        };
        match records(body) {
            Ok(records) => records.iter().map(record).collect::<Vec<_>>().join("; "),
            Err(error) => error,
        }
    }

    #[test]
    fn cells_are_those_that_load_reads() {
        let cases = [
            ("", ""),
            ("\r\n\n", ""),
            ("a,b\n1,\n", r#"1: "a" "b"; 2: "1" """#),
            ("a\r\n\r\n\"b, c\"\rd", r#"1: "a"; 3: "b, c"q; 4: "d""#),
            ("a\n\"\"\n", r#"1: "a"; 2: ""q"#),
            ("\"a\r\nb\"\"c\" ,d\ne", r#"1: "a\r\nb\"c "q "d"; 3: "e""#),
            ("a\"b\"c\n", r#"1: "a\"b\"c""#),
            (",\n", r#"1: "" """#),
            ("a\n\"b\nc\n", "line 2: the quote of this cell is never closed"),
            ("a\n\"b\nc\"d,e\n", "line 3: after the quote that closes a cell comes \"d\""),
        ];
        for (body, expected) in cases {
            assert_eq!(said(body), expected, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(rows in prop::collection::vec(prop::collection::vec(".{0,6}|[,\"\r\n a]{0,6}", 1..4), 0..4)) {
            let cell = |text: &String| format!("\"{}\"", text.replace('"', "\"\""));
            let lines = rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join(",") + "\r\n");
            let read = records(&lines.collect::<String>()).expect("CSV");
            let read: Vec<Vec<_>> = read.into_iter().map(|record| record.cells.into_iter().map(|cell| cell.0).collect()).collect();
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn anything_is_read_or_refused(body in "[a,\"\r\n]{0,24}") {
            let _ = records(&body);
        }
    }
}
