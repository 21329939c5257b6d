//! Rows as a table that fits the terminal.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::{BOLD, printable};
use crate::error::Result;
use crate::out::Out;

/// Columns narrower than this are not worth cutting.
const NARROW: usize = 12;

/// Prints the rows to stdout.
pub(crate) fn print_rows(rows: &[RecordBatch]) -> Result<()> {
    let mut out = Out::styled();
    for line in render_rows(rows, width())? {
        out.line(&line)?;
    }
    out.finish()
}

/// The terminal's width, or plenty if there is no terminal.
pub(crate) fn width() -> usize {
    use std::io::IsTerminal;
    if !std::io::stdout().is_terminal() {
        return 160;
    }
    let size = console::Term::stdout().size_checked();
    size.map_or(100, |(_, columns)| usize::from(columns)).max(20)
}

/// The lines of a table: names, a rule, rows. Long cells are wrapped.
fn render_rows(rows: &[RecordBatch], width: usize) -> Result<Vec<String>> {
    let Some(first) = rows.first() else { return Ok(vec!["no rows".to_owned()]) };
    let mut layout = Layout::new(&first.schema());
    rows.iter().try_for_each(|rows| layout.measure(rows))?;
    let layout = layout.fit(width);
    let mut lines = layout.head();
    for rows in rows {
        lines.extend(layout.lines(rows)?);
    }
    Ok(lines)
}

/// Column widths of a table. All rows are measured first and formatted in a second pass, so they need not be in memory at the
/// same time.
pub(crate) struct Layout {
    names: Vec<String>,
    /// Numbers stand at the right of their columns.
    numeric: Vec<bool>,
    widths: Vec<usize>,
}

impl Layout {
    pub(crate) fn new(schema: &Schema) -> Self {
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let numeric = schema.fields().iter().map(|field| field.data_type().is_numeric()).collect();
        let widths = names.iter().map(|name| text_width(name).max(1)).collect();
        Self { names, numeric, widths }
    }

    /// Takes in how wide these rows are.
    pub(crate) fn measure(&mut self, rows: &RecordBatch) -> Result<()> {
        for row in cells(std::slice::from_ref(rows))? {
            for (width, cell) in self.widths.iter_mut().zip(&row) {
                *width = text_width(cell).max(*width);
            }
        }
        Ok(())
    }

    /// Cuts the widest columns until all fit `total`.
    pub(crate) fn fit(mut self, total: usize) -> Self {
        let room = total.saturating_sub(2 * self.names.len().saturating_sub(1));
        while self.widths.iter().sum::<usize>() > room {
            match self.widths.iter_mut().max() {
                Some(widest) if *widest > NARROW => *widest -= 1,
                _ => break,
            }
        }
        self
    }

    /// The names and a rule.
    pub(crate) fn head(&self) -> Vec<String> {
        let rules = self.widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>();
        let names = self.line(&self.names);
        vec![format!("{BOLD}{names}{BOLD:#}"), rules.join("  ")]
    }

    /// The lines of some rows.
    pub(crate) fn lines(&self, rows: &RecordBatch) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for row in cells(std::slice::from_ref(rows))? {
            let wrapped: Vec<_> =
                row.iter().zip(&self.widths).map(|(cell, width)| wrap(cell, *width)).collect();
            let height = wrapped.iter().map(Vec::len).max().unwrap_or(1);
            for at in 0..height {
                let part: Vec<_> =
                    wrapped.iter().map(|cell| cell.get(at).cloned().unwrap_or_default()).collect();
                lines.push(self.line(&part));
            }
        }
        Ok(lines)
    }

    fn line(&self, cells: &[String]) -> String {
        let columns = cells.iter().zip(&self.widths).zip(&self.numeric);
        let padded = columns.map(|((cell, width), numeric)| {
            let space = " ".repeat(width.saturating_sub(text_width(cell)));
            if *numeric { space + cell } else { cell.clone() + &space }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

/// The columns of a terminal that a text takes: two for most characters of East Asia, none for marks on others.
fn text_width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// The texts of rows, as a person wants them.
pub(crate) fn cells(rows: &[RecordBatch]) -> Result<Vec<Vec<String>>> {
    let mut cells = Vec::new();
    for batch in rows {
        append(batch, &mut cells)?;
    }
    Ok(cells)
}

fn append(batch: &RecordBatch, cells: &mut Vec<Vec<String>>) -> Result<()> {
    let options = FormatOptions::default().with_null("null");
    let formatters: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options))
        .collect::<std::result::Result<_, _>>()?;
    for row in 0..batch.num_rows() {
        let cell = |(formatter, column): (&ArrayFormatter, &arrow::array::ArrayRef)| {
            let text = formatter.value(row).to_string();
            if column.data_type() == &DataType::Float64 && column.is_valid(row) {
                shorten(&text)
            } else {
                printable(&text).replace(['\n', '\t'], " ")
            }
        };
        cells.push(formatters.iter().zip(batch.columns()).map(cell).collect());
    }
    Ok(())
}

/// Four digits after the point are enough for a person.
fn shorten(number: &str) -> String {
    match number.parse::<f64>() {
        Ok(value)
            if value.is_finite()
                && number.split('.').nth(1).is_some_and(|digits| digits.len() > 4) =>
        {
            format!("{value:.4}")
        }
        _ => number.to_owned(),
    }
}

/// A text in lines of this width; words that are longer are cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in text.split(' ') {
        let needs = text_width(word);
        if used > 0 && used + 1 + needs > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if used > 0 {
            line.push(' ');
            used += 1;
        }
        for char in word.chars() {
            let needs = text_width(char.encode_utf8(&mut [0; 4]));
            if used > 0 && used + needs > width {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(char);
            used += needs;
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn columns_stay_columns_whatever_is_in_them() -> Result<()> {
        let texts = ["plain", "日本語の文", "e\u{301}te\u{301}", "🙂 ok", "tab\there"];
        let columns = [
            ("text", Arc::new(StringArray::from(texts.to_vec())) as ArrayRef),
            ("n", Arc::new(Int64Array::from(vec![1, 20, 300, 4, 5]))),
        ];
        let rows = RecordBatch::try_from_iter(columns)?;
        for width in [160, 20, 8] {
            let lines = render_rows(std::slice::from_ref(&rows), width)?;
            let ends: Vec<_> = lines.iter().skip(2).map(|line| text_width(line)).collect();
            assert_eq!(ends, [ends[0]; 5], "{width}: {lines:#?}");
        }
        Ok(())
    }

    #[test]
    fn long_words_are_cut_where_the_column_ends() {
        let cases: [(&str, usize, &[&str]); 7] = [
            ("one two three", 7, &["one two", "three"]),
            ("abcdefgh", 3, &["abc", "def", "gh"]),
            ("ab cdefgh", 3, &["ab", "cde", "fgh"]),
            ("日本語", 4, &["日本", "語"]),
            ("日本語", 1, &["日", "本", "語"]),
            ("a  b", 9, &["a  b"]),
            ("", 5, &[""]),
        ];
        for (text, width, lines) in cases {
            assert_eq!(wrap(text, width), lines, "{text} in {width}");
        }
    }
}
