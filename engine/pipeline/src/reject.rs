//! `on_error: reject`: a row that makes a map stage fail goes to a table of its own, and the others go on.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::catalog::{PortInfo, PortKind, RowAccount, Shape, StageInfo};

/// What is done when a stage fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnError {
    /// The node fails.
    #[default]
    Fail,
    /// The row at fault goes to the output [`REJECTED_PORT`].
    Reject,
    /// What is written is neither.
    Unknown,
}

impl OnError {
    pub(crate) const ALL: [(&'static str, Self); 2] =
        [("fail", Self::Fail), ("reject", Self::Reject)];
}

/// The output that rejected rows go to.
pub const REJECTED_PORT: &str = "rejected";
/// Its column that says why.
pub const REASON_COLUMN: &str = "reason";

/// Where the rows go that make a stage fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejects {
    /// Index of the output port.
    pub port: usize,
    /// Whether the stage itself knows nothing of the port.
    pub is_added: bool,
}

/// The outputs of a map stage that reads `rows` when rows that make it fail are rejected: the stage's own `rejected` where it
/// has one, or else one more.
///
/// # Errors
/// Why rows cannot be rejected, and the way out.
pub(crate) fn with_rejects(
    stage: &Arc<StageInfo>,
    outputs: &mut Vec<Option<SchemaRef>>,
    rows: Option<&SchemaRef>,
) -> Result<(Arc<StageInfo>, Rejects), (String, &'static str)> {
    let Some(rows) = rows.filter(|_| stage.shape == Shape::Map) else {
        let message =
            format!("`{}` reads its input whole, so it cannot reject single rows", stage.name);
        return Err((message, "leave `on_error` out"));
    };
    if let Some(port) = stage.outputs.iter().position(|port| port.name == REJECTED_PORT) {
        let fits = |schema: &SchemaRef| schema.fields().iter().all(|field| fits(field, rows));
        let counts = stage.rows != RowAccount::Kept;
        if counts && outputs.get(port).and_then(Option::as_ref).is_some_and(fits) {
            return Ok((Arc::clone(stage), Rejects { port, is_added: false }));
        }
        let message =
            format!("the table `{REJECTED_PORT}` of `{}` takes no other rows", stage.name);
        return Err((message, "leave `on_error` out"));
    }
    if rows.column_with_name(REASON_COLUMN).is_some() {
        let message = format!(
            "`{REJECTED_PORT}` would have two columns `{REASON_COLUMN}`: the rows have one already"
        );
        return Err((
            message,
            "give that column another name with `derive`, or leave `on_error` out",
        ));
    }
    let reason = Field::new(REASON_COLUMN, DataType::Utf8, false);
    let fields = rows.fields().iter().cloned().chain([Arc::new(reason)]);
    outputs.push(Some(Arc::new(Schema::new(fields.collect::<Vec<_>>()))));
    let stage = with_port(stage);
    let port = stage.outputs.len() - 1;
    Ok((stage, Rejects { port, is_added: true }))
}

/// The stage with the output that rows are rejected to.
pub(crate) fn with_port(stage: &StageInfo) -> Arc<StageInfo> {
    let mut stage = stage.clone();
    if stage.outputs.iter().all(|port| port.name != REJECTED_PORT) {
        stage.outputs.push(PortInfo {
            name: REJECTED_PORT.to_owned(),
            doc: "The rows that made the stage fail.".to_owned(),
            kind: PortKind::Table,
            optional: false,
            many: false,
        });
    }
    Arc::new(stage)
}

/// Whether a row of `rows` has a value for a column of a table of rejected rows.
fn fits(column: &Field, rows: &SchemaRef) -> bool {
    match rows.field_with_name(column.name()) {
        Ok(field) => field.data_type() == column.data_type(),
        Err(_) if column.name() == REASON_COLUMN => *column.data_type() == DataType::Utf8,
        Err(_) => column.is_nullable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[(&str, DataType, bool)]) -> SchemaRef {
        let field = |(name, kind, nullable): &(&str, DataType, bool)| {
            Field::new(*name, kind.clone(), *nullable)
        };
        Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
    }

    fn stage(shape: Shape, outputs: &[&str], rows: RowAccount) -> Arc<StageInfo> {
        let port = |name: &&str| PortInfo {
            name: (*name).to_owned(),
            doc: String::new(),
            kind: PortKind::Table,
            optional: false,
            many: false,
        };
        Arc::new(StageInfo {
            name: "s".to_owned(),
            version: "1.0.0".to_owned(),
            doc: String::new(),
            library: String::new(),
            backend: String::new(),
            config_schema: serde_json::json!({}),
            inputs: vec![port(&"rows")],
            outputs: outputs.iter().map(port).collect(),
            shape,
            uses_seed: false,
            resumable: false,
            batch_invariant: true,
            rows,
            part_rows: None,
        })
    }

    #[test]
    fn rows_are_rejected_where_there_is_room_for_them() {
        type Case = (Shape, RowAccount, Vec<SchemaRef>, Result<(usize, bool), &'static str>);
        use RowAccount::{Any, Divided, Kept};
        let text = || DataType::Utf8;
        let rows = table(&[("_id", text(), false), ("text", text(), true)]);
        let plain = || table(&[("_id", text(), false)]);
        let own =
            table(&[("_id", text(), false), ("reason", text(), false), ("more", text(), true)]);
        let strict = table(&[("_id", text(), false), ("more", text(), false)]);
        let other = table(&[("text", DataType::Int64, true)]);
        let cases: [Case; 6] = [
            (Shape::Map, Any, vec![plain()], Ok((1, true))),
            (Shape::Map, Divided, vec![plain(), own.clone()], Ok((1, false))),
            (Shape::Map, Kept, vec![plain(), own], Err("takes no other rows")),
            (Shape::Map, Divided, vec![plain(), strict], Err("takes no other rows")),
            (Shape::Map, Divided, vec![plain(), other], Err("takes no other rows")),
            (Shape::Whole, Any, vec![plain()], Err("reads its input whole")),
        ];
        for (shape, account, tables, wanted) in cases {
            let names = if tables.len() == 1 { &["kept"][..] } else { &["kept", REJECTED_PORT] };
            let mut outputs: Vec<_> = tables.into_iter().map(Some).collect();
            let found = with_rejects(&stage(shape, names, account), &mut outputs, Some(&rows));
            match (found, wanted) {
                (Ok((stage, rejects)), Ok(wanted)) => {
                    assert_eq!((rejects.port, rejects.is_added), wanted);
                    assert_eq!(stage.outputs.len(), outputs.len());
                }
                (Err((message, _)), Err(part)) => assert!(message.contains(part), "{message}"),
                (found, wanted) => panic!("{found:?} is not {wanted:?}"),
            }
        }
        let taken = table(&[("_id", text(), false), ("reason", text(), true)]);
        let found = with_rejects(&stage(Shape::Map, &["kept"], Any), &mut Vec::new(), Some(&taken));
        assert!(found.is_err_and(|(message, _)| message.contains("two columns `reason`")));
    }
}
