//! `derive` adds columns that follow from others.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, TimeUnit};
use paraloom_expr::{Expr, Type};
use paraloom_sdk::identity::{ID, PARENT};
use paraloom_sdk::{About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run, column};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::expression::{expression_error, expression_errors};

/// Settings of `derive`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names of columns, and what they hold: an expression over the columns of the row, such as
    /// `changed: edit_distance(lower(source), lower(paraphrase))`. Whole numbers stay whole. A name that is taken is replaced; every
    /// expression sees the columns as they came.
    #[schemars(with = "std::collections::BTreeMap<String, String>", extend("x-paraloom-ordered" = true))]
    columns: serde_json::Map<String, serde_json::Value>,
}

/// The stage.
pub struct Derive(Vec<(Field, Expr)>);

impl MapStage for Derive {
    type Config = Config;
    type Worker = Vec<(Field, Expr)>;

    fn about() -> About {
        About::new("derive", "1.2.0", "Adds columns that are computed from others.")
            .input(Port::table("rows", "Any table."))
            .output(Port::table("rows", "The same rows with the columns."))
            .batch_invariant()
            .keeps_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        let mut columns = Vec::new();
        for (name, text) in config.columns {
            // RFC 6901.
            let pointer = format!("/columns/{}", name.replace('~', "~0").replace('/', "~1"));
            if name.trim().is_empty() || name.contains('\0') {
                return Err(Error::config("this cannot be the name of a column").at(pointer));
            }
            if [ID, PARENT].contains(&name.as_str()) {
                let message = format!("`{name}` says where a row comes from, and stays as it is");
                return Err(Error::config(message).at(pointer));
            }
            let Some(text) = text.as_str() else {
                return Err(Error::config(format!("what `{name}` holds must be text")).at(pointer));
            };
            let expression =
                Expr::parse(text).map_err(|error| expression_error(text, &error, &pointer))?;
            // Another column stays what it is, be it a list.
            let copied =
                expression.as_column().and_then(|name| rows.schema().field_with_name(name).ok());
            if let Some(copied) = copied {
                columns.push((copied.clone().with_name(name), expression));
                continue;
            }
            let kind = expression
                .check_all(rows.schema())
                .map_err(|errors| expression_errors(text, &errors, &pointer))?;
            let kind = match kind {
                Type::Null => return Err(Error::config("this is always null").at(pointer)),
                Type::Bool => DataType::Boolean,
                Type::Whole => DataType::Int64,
                Type::Number => DataType::Float64,
                Type::Text => DataType::Utf8,
                Type::Date => DataType::Date32,
                Type::Time => DataType::Timestamp(TimeUnit::Nanosecond, None),
                Type::Other => {
                    return Err(Error::internal("only a column is of such a type").at(pointer));
                }
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
            let values = match expression.as_column() {
                Some(name) => Arc::clone(column::get(&rows, name)?),
                None => expression
                    .values(&rows)
                    .map_err(|error| expression_error(expression.text(), &error, "/columns"))?,
            };
            derived = column::with_field(&derived, field.clone(), Arc::clone(&values))?;
        }
        emit.push("rows", &derived)
    }
}
