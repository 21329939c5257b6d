//! What became of every row: which output rows came of which input row, and whether that is what the stage declares.

use std::collections::HashMap;

use arrow::array::{Array, RecordBatch, StringArray};
use paraloom_pipeline::{ID_COLUMN, PARENT_COLUMN, RowAccount, StageInfo};

/// Of each row of an output: the input row that it came of. It has the id of that row, or else has it as its parent.
///
/// None where that cannot be told for every row, or where two input rows share an id. Ids are made by the engine and by
/// stages, never by the data that a pipeline loads, so this is a record and not a guess.
pub(crate) fn origins(rows: &RecordBatch, inputs: &RecordBatch) -> Option<Vec<usize>> {
    let inputs = text(inputs, ID_COLUMN)?;
    let numbers: HashMap<&str, usize> = inputs.iter().flatten().zip(0..).collect();
    if numbers.len() < inputs.len() {
        return None;
    }
    let (ids, parents) = (text(rows, ID_COLUMN)?, text(rows, PARENT_COLUMN));
    let origin = |row: usize| {
        let parent = || parents.filter(|parents| parents.is_valid(row)).map(|all| all.value(row));
        numbers.get(ids.value(row)).or_else(|| numbers.get(parent()?)).copied()
    };
    (0..rows.num_rows()).map(origin).collect()
}

/// Checks the outputs of one call of a map stage against what the stage declares, and that no two rows of an output share
/// an id.
pub(crate) fn check_map(
    stage: &StageInfo,
    rows: &RecordBatch,
    outputs: &[Option<RecordBatch>],
) -> Result<(), String> {
    let tables = || {
        stage.outputs.iter().zip(outputs).filter_map(|(port, rows)| Some((port, rows.as_ref()?)))
    };
    for (port, output) in tables() {
        let ids = text(output, ID_COLUMN).into_iter().flatten().flatten();
        let mut seen = HashMap::with_capacity(output.num_rows());
        for (id, row) in ids.zip(1_usize..) {
            if let Some(before) = seen.insert(id, row) {
                let name = &port.name;
                return Err(format!(
                    "rows {before} and {row} of `{name}` have the same `{ID_COLUMN}` ({id})"
                ));
            }
        }
    }
    if stage.rows == RowAccount::Any {
        return Ok(());
    }
    let mut came = vec![0_usize; rows.num_rows()];
    for (port, output) in tables() {
        let origins = origins(output, rows).ok_or_else(|| {
            format!(
                "a row of `{}` has neither the id of a row that was read nor one as its parent",
                port.name
            )
        })?;
        if stage.rows == RowAccount::Kept {
            came.fill(0);
        }
        origins.iter().for_each(|origin| came[*origin] += 1);
        if stage.rows == RowAccount::Kept {
            found(stage.rows, &came).map_err(|(row, count)| {
                format!("row {row} of {} is {count} times in `{}`", came.len(), port.name)
            })?;
        }
    }
    found(stage.rows, &came)
        .map_err(|(row, count)| format!("of row {row} of {} came {count} rows", came.len()))
}

/// The first row, from 1, of which another number of rows came than is declared.
fn found(account: RowAccount, came: &[usize]) -> Result<(), (usize, usize)> {
    let fits = |count: usize| match account {
        RowAccount::Any => true,
        RowAccount::Kept | RowAccount::Divided => count == 1,
        RowAccount::Covered => count >= 1,
    };
    match came.iter().position(|count| !fits(*count)) {
        Some(row) => Err((row + 1, came[row])),
        None => Ok(()),
    }
}

/// The same for a stage that reads its inputs whole, by the numbers of rows: `read` of its first table input, and of each
/// table output.
pub(crate) fn check_whole(
    stage: &StageInfo,
    read: u64,
    outputs: &[(&str, u64)],
) -> Result<(), String> {
    let sum: u64 = outputs.iter().map(|(_, rows)| rows).sum();
    let sound = match stage.rows {
        RowAccount::Any => true,
        RowAccount::Kept => outputs.iter().all(|(_, rows)| *rows == read),
        RowAccount::Divided => sum == read,
        RowAccount::Covered => sum >= read,
    };
    if sound {
        return Ok(());
    }
    let outputs: Vec<_> =
        outputs.iter().map(|(name, rows)| format!("{rows} in `{name}`")).collect();
    Err(format!("it read {read} rows and made {}", outputs.join(", ")))
}

fn text<'a>(rows: &'a RecordBatch, column: &str) -> Option<&'a StringArray> {
    rows.column_by_name(column)?.as_any().downcast_ref()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::ArrayRef;
    use paraloom_pipeline::{PortInfo, PortKind, Shape};

    use super::*;

    /// Rows as `id` or `id<parent`.
    fn rows(texts: &[&str]) -> RecordBatch {
        let (ids, parents): (Vec<_>, Vec<_>) = texts
            .iter()
            .map(|text| match text.split_once('<') {
                Some((id, parent)) => (id, Some(parent)),
                None => (*text, None),
            })
            .unzip();
        let columns = [
            (ID_COLUMN, Arc::new(StringArray::from(ids)) as ArrayRef, false),
            (PARENT_COLUMN, Arc::new(StringArray::from(parents)) as ArrayRef, true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
    }

    #[test]
    fn an_output_row_came_of_the_row_whose_id_it_has_or_else_of_its_parent() {
        type Case<'a> = (&'a [&'a str], &'a [&'a str], Option<&'a [usize]>);
        let none: Option<&[usize]> = None;
        let cases: [Case; 8] = [
            (&["a", "b"], &["a", "b"], Some(&[0, 1])),
            (&["a", "b"], &["b"], Some(&[1])),
            (&["a", "b"], &["x<a", "y<a", "z<b"], Some(&[0, 0, 1])),
            (&["a", "b"], &[], Some(&[])),
            // A reply stands in the same table as what it replies to: its own id counts.
            (&["a", "b<a", "c<b"], &["a", "b<a", "c<b"], Some(&[0, 1, 2])),
            (&["a", "b<a"], &["x<b", "y<a"], Some(&[1, 0])),
            (&["a", "b"], &["a", "c"], none),
            (&["a", "a"], &["a"], none),
        ];
        for (inputs, outputs, wanted) in cases {
            let found = origins(&rows(outputs), &rows(inputs));
            assert_eq!(found.as_deref(), wanted, "{inputs:?} -> {outputs:?}");
        }
    }

    fn stage(account: RowAccount) -> StageInfo {
        let port = |name: &str| PortInfo {
            name: name.to_owned(),
            doc: String::new(),
            kind: PortKind::Table,
            optional: false,
            many: false,
        };
        StageInfo {
            name: "s".to_owned(),
            version: "1.0.0".to_owned(),
            doc: String::new(),
            library: String::new(),
            backend: String::new(),
            config_schema: serde_json::json!({}),
            inputs: vec![port("rows")],
            outputs: vec![port("kept"), port("rejected")],
            shape: Shape::Map,
            uses_seed: false,
            resumable: false,
            batch_invariant: true,
            rows: account,
            part_rows: None,
        }
    }

    #[test]
    fn a_row_that_is_lost_or_doubled_is_told() {
        use RowAccount::{Any, Covered, Divided, Kept};
        let input = ["a", "b", "c"];
        let cases: [(RowAccount, &[&str], &[&str], &str); 12] = [
            (Any, &["a"], &["x"], ""),
            (Any, &["x", "x"], &[], "rows 1 and 2 of `kept` have the same `_id` (x)"),
            (Divided, &["a", "c"], &["b"], ""),
            (Divided, &["a"], &["b"], "of row 3 of 3 came 0 rows"),
            (Divided, &["a", "b"], &["b", "c"], "of row 2 of 3 came 2 rows"),
            // The sum is right and the rows are not.
            (Divided, &["a", "b"], &["a"], "of row 1 of 3 came 2 rows"),
            (
                Divided,
                &["a", "x"],
                &["b"],
                "a row of `kept` has neither the id of a row that was read nor one as its parent",
            ),
            (Kept, &["a", "b", "c"], &["a", "b", "c"], ""),
            (Kept, &["a", "b", "c"], &["a", "b"], "row 3 of 3 is 0 times in `rejected`"),
            (Covered, &["x<a", "y<a", "z<b"], &["c"], ""),
            (Covered, &["x<a", "y<a", "z<b"], &[], "of row 3 of 3 came 0 rows"),
            (Covered, &["a", "b", "c"], &[], ""),
        ];
        for (account, kept, rejected, wanted) in cases {
            let outputs = [Some(rows(kept)), Some(rows(rejected))];
            let found = check_map(&stage(account), &rows(&input), &outputs);
            assert_eq!(
                found.err().unwrap_or_default(),
                wanted,
                "{account:?} {kept:?} {rejected:?}"
            );
        }
    }

    #[test]
    fn whole_stages_are_counted() {
        use RowAccount::{Any, Covered, Divided, Kept};
        for (account, kept, rejected, sound) in [
            (Any, 1, 1, true),
            (Kept, 3, 3, true),
            (Kept, 3, 2, false),
            (Divided, 2, 1, true),
            (Divided, 2, 2, false),
            (Covered, 9, 0, true),
            (Covered, 1, 1, false),
        ] {
            let found = check_whole(&stage(account), 3, &[("kept", kept), ("rejected", rejected)]);
            assert_eq!(found.is_ok(), sound, "{account:?} {kept} {rejected}");
        }
    }
}
