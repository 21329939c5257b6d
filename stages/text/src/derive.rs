//! `derive` adds columns that follow from others.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};
use paraloom_expr::{Expr, ExprError, Type};
use paraloom_sdk::identity::{ID, PARENT};
use paraloom_sdk::{About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run, column};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::expression::expression_error;

/// Settings of `derive`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names of columns, and what they hold: an expression over the columns of the row, such as
    /// `changed: edit_distance(lower(source), lower(paraphrase))`. A name that is taken is replaced; every expression sees the
    /// columns as they came.
    columns: BTreeMap<String, String>,
}

/// The stage.
pub struct Derive(Vec<(Field, Expr)>);

impl MapStage for Derive {
    type Config = Config;
    type Worker = Vec<(Field, Expr)>;

    fn about() -> About {
        About::new("derive", "1.0.0", "Adds columns that are computed from others.")
            .input(Port::table("rows", "Any table."))
            .output(Port::table("rows", "The same rows with the columns."))
            .batch_invariant()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        let mut columns = Vec::new();
        for (name, text) in config.columns {
            // RFC 6901.
            let pointer = format!("/columns/{}", name.replace('~', "~0").replace('/', "~1"));
            if [ID, PARENT].contains(&name.as_str()) {
                let message = format!("`{name}` says where a row comes from, and stays as it is");
                return Err(Error::config(message).at(pointer));
            }
            let refuse = |error: ExprError| expression_error(&text, &error, &pointer);
            let expression = Expr::parse(&text).map_err(refuse)?;
            let kind = match expression.check(rows.schema()).map_err(refuse)? {
                Type::Null => return Err(Error::config("this is always null").at(pointer)),
                Type::Bool => DataType::Boolean,
                Type::Number => DataType::Float64,
                Type::Text => DataType::Utf8,
            };
            columns.push((Field::new(name, kind, true), expression));
        }
        let schema = rows.with_fields(columns.iter().map(|(field, _)| field.clone()));
        Ok(Planned::new(Self(columns), [Some(schema)]))
    }

    fn open(&self, _: &Run) -> Result<Self::Worker> {
        Ok(self.0.clone())
    }

    fn map(columns: &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let mut derived = rows.clone();
        for (field, expression) in columns {
            let values = expression.values(&rows);
            let values = values.map_err(|error| Error::data(error.to_string()))?;
            derived = column::with_field(&derived, field.clone(), Arc::clone(&values))?;
        }
        emit.push("rows", &derived)
    }
}
