//! A [`Port`] is a named input or output of a stage: a table or an artifact.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use paraloom_abi as abi;
use paraloom_names::nearest;

use crate::{Error, Result};

/// A named input or output of a stage.
#[derive(Clone, Debug)]
pub struct Port {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) kind: u32,
    pub(crate) flags: u32,
}

impl Port {
    /// A port that carries Arrow record batches.
    pub const fn table(name: &'static str, doc: &'static str) -> Self {
        Self { name, doc, kind: abi::PORT_TABLE, flags: 0 }
    }

    /// A port that carries a directory, such as a model.
    pub const fn artifact(name: &'static str, doc: &'static str) -> Self {
        Self { name, doc, kind: abi::PORT_ARTIFACT, flags: 0 }
    }

    /// May be left unconnected.
    #[must_use]
    pub const fn optional(mut self) -> Self {
        self.flags |= abi::PORT_OPTIONAL;
        self
    }

    /// Takes several labelled edges.
    #[must_use]
    pub const fn many(mut self) -> Self {
        self.flags |= abi::PORT_MANY;
        self
    }
}

/// The edges into a node that is being planned.
#[derive(Clone, Debug, Default)]
pub struct PlanInputs {
    pub(crate) edges: Vec<PlanEdge>,
}

/// One edge: the port it enters, its label (of a `many` port) and the table's schema.
#[derive(Clone, Debug)]
pub struct PlanEdge {
    /// Name of the input port.
    pub port: &'static str,
    /// Label of the edge; empty unless the port takes many.
    pub label: String,
    /// Schema of the table; `None` for an artifact.
    pub schema: Option<SchemaRef>,
    /// What is known of the artifact; often nothing.
    pub note: String,
}

impl PlanInputs {
    /// The edges, in the order of the pipeline file.
    pub fn edges(&self) -> &[PlanEdge] {
        &self.edges
    }

    /// Whether anything is connected to `port`.
    pub fn is_connected(&self, port: &str) -> bool {
        self.edges.iter().any(|edge| edge.port == port)
    }

    /// What the stage that makes the artifact at `port` says of it ([`Planned::note`](crate::Planned::note)); empty where
    /// it says nothing.
    pub fn note(&self, port: &str) -> &str {
        self.edges.iter().find(|edge| edge.port == port).map_or("", |edge| &edge.note)
    }

    /// The tables that enter `port`.
    pub fn tables(&self, port: &str) -> impl Iterator<Item = (&str, Table)> {
        self.edges.iter().filter(move |edge| edge.port == port).filter_map(|edge| {
            let schema = edge.schema.clone()?;
            Some((
                edge.label.as_str(),
                Table { port: edge.port, label: edge.label.clone(), schema },
            ))
        })
    }

    /// The one table that enters `port`.
    pub fn table(&self, port: &str) -> Result<Table> {
        let table = self.tables(port).next();
        table
            .map(|(_, table)| table)
            .ok_or_else(|| Error::not_found(format!("input `{port}` is not connected")).input(port))
    }
}

/// The schema of an input table, with the questions that a stage asks of it.
#[derive(Clone, Debug)]
pub struct Table {
    port: &'static str,
    label: String,
    schema: SchemaRef,
}

impl Table {
    /// The schema itself.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The field called `name`; `pointer` is where the configuration names it.
    pub fn field(&self, name: &str, pointer: &str) -> Result<&Field> {
        self.schema.field_with_name(name).map_err(|_| {
            let error = Error::schema(missing_column(&self.describe(), name, &self.schema));
            let error = if pointer.is_empty() { error } else { error.at(pointer) };
            error.input(self.port)
        })
    }

    /// The text column called `name`.
    pub fn text(&self, name: &str, pointer: &str) -> Result<&Field> {
        self.typed(name, pointer, "text", |kind| {
            matches!(kind, DataType::Utf8 | DataType::LargeUtf8)
        })
    }

    /// The numeric column called `name`.
    pub fn number(&self, name: &str, pointer: &str) -> Result<&Field> {
        self.typed(name, pointer, "a number", DataType::is_numeric)
    }

    fn typed(
        &self,
        name: &str,
        pointer: &str,
        wanted: &str,
        fits: impl Fn(&DataType) -> bool,
    ) -> Result<&Field> {
        let field = self.field(name, pointer)?;
        if fits(field.data_type()) {
            return Ok(field);
        }
        let message = format!(
            "column `{name}` of `{}` is {}, not {wanted}",
            self.describe(),
            field.data_type()
        );
        let error = Error::schema(message).input(self.port);
        Err(if pointer.is_empty() { error } else { error.at(pointer) })
    }

    fn describe(&self) -> String {
        if self.label.is_empty() {
            self.port.to_owned()
        } else {
            format!("{}.{}", self.port, self.label)
        }
    }

    /// The schema with `fields` appended, or replaced where the name is taken.
    pub fn with_fields(&self, fields: impl IntoIterator<Item = Field>) -> SchemaRef {
        let mut all: Vec<_> = self.schema.fields().iter().cloned().collect();
        for field in fields {
            match all.iter_mut().find(|old| old.name() == field.name()) {
                Some(old) => *old = Arc::new(field),
                None => all.push(Arc::new(field)),
            }
        }
        Arc::new(Schema::new(all))
    }
}

/// "`rows` has no column `scor`; it has `text`, `score`".
pub fn missing_column(table: &str, name: &str, schema: &Schema) -> String {
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let nearest = nearest(name, names.iter().copied());
    let list = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match nearest {
        Some(near) => {
            format!("`{table}` has no column `{name}`; did you mean `{near}`? It has {list}")
        }
        None => format!("`{table}` has no column `{name}`; it has {list}"),
    }
}
