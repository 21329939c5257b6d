//! Rows as a table that fits the terminal.

use std::io::Write;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::{BOLD, printable};
use crate::error::Result;

/// Columns narrower than this are not worth cutting.
const NARROW: usize = 12;

/// Prints the rows to stdout.
pub(crate) fn print_rows(rows: &[RecordBatch]) -> Result<()> {
    let mut out = anstream::stdout();
    for line in render_rows(rows, width())? {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The terminal's width, or plenty if there is no terminal.
fn width() -> usize {
    use std::io::IsTerminal;
    if !std::io::stdout().is_terminal() {
        return 160;
    }
    let size = console::Term::stdout().size_checked();
    size.map_or(100, |(_, columns)| usize::from(columns)).max(20)
}

/// The lines of a table: names, a rule, rows. Long cells are wrapped.
pub(crate) fn render_rows(rows: &[RecordBatch], width: usize) -> Result<Vec<String>> {
    let Some(first) = rows.first() else { return Ok(vec!["no rows".to_owned()]) };
    let schema = first.schema();
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let numeric: Vec<_> =
        schema.fields().iter().map(|field| field.data_type().is_numeric()).collect();
    let cells = cells(rows)?;
    let widths = widths(&names, &cells, width);
    let mut lines = vec![line(&names, &widths, &numeric, true)];
    lines.push(widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>().join("  "));
    for row in &cells {
        let wrapped: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| wrap(cell, *width)).collect();
        let height = wrapped.iter().map(Vec::len).max().unwrap_or(1);
        for at in 0..height {
            let part: Vec<_> =
                wrapped.iter().map(|cell| cell.get(at).cloned().unwrap_or_default()).collect();
            lines.push(line(&part, &widths, &numeric, false));
        }
    }
    Ok(lines)
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

/// Gives each column what it needs, and cuts the widest until all fit.
fn widths(names: &[String], cells: &[Vec<String>], total: usize) -> Vec<usize> {
    let length = |text: &String| text.chars().count();
    let need = |column: usize| cells.iter().map(|row| length(&row[column])).max().unwrap_or(0);
    let mut widths: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(column, name)| need(column).max(length(name)).max(1))
        .collect();
    let room = total.saturating_sub(2 * names.len().saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROW => *widest -= 1,
            _ => break,
        }
    }
    widths
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word;
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > width {
            lines.push(String::new());
        } else if last > 0 {
            lines.last_mut().into_iter().for_each(|line| line.push(' '));
        }
        while word.chars().count() > width {
            let cut = word.char_indices().nth(width).map_or(word.len(), |(at, _)| at);
            lines.last_mut().into_iter().for_each(|line| line.push_str(&word[..cut]));
            lines.push(String::new());
            word = &word[cut..];
        }
        lines.last_mut().into_iter().for_each(|line| line.push_str(word));
    }
    lines
}

fn line(cells: &[String], widths: &[usize], numeric: &[bool], bold: bool) -> String {
    let padded: Vec<_> = cells
        .iter()
        .zip(widths)
        .zip(numeric)
        .map(
            |((cell, width), numeric)| {
                if *numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            },
        )
        .collect();
    let line = padded.join("  ");
    let line = line.trim_end();
    if bold { format!("{BOLD}{line}{BOLD:#}") } else { line.to_owned() }
}
