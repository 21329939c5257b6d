//! What the columns of a file are called in the table.

use std::collections::HashSet;

use arrow::datatypes::Schema;
use paraloom_sdk::identity::{ID, PARENT};
use paraloom_sdk::{Error, Result};

use super::text::pointer;

/// Old and new names of the columns.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    columns: Vec<(String, String)>,
    is_chosen: bool,
}

impl Naming {
    /// As `columns` says.
    pub(super) fn of(chosen: Option<&serde_json::Map<String, serde_json::Value>>) -> Result<Self> {
        let mut columns: Vec<(String, String)> = Vec::new();
        for (old, new) in chosen.into_iter().flatten() {
            let refuse = |message: String| Err(Error::config(message).at(pointer("columns", old)));
            let Some(new) = new.as_str() else {
                return refuse(format!("the new name of `{old}` must be text"));
            };
            if new.trim().is_empty() {
                return refuse(format!("the new name of `{old}` is blank"));
            }
            if new == ID || new == PARENT {
                let error = Error::config(format!("`{new}` is the engine's: by it rows are known"));
                let way = format!("call it something else, such as `{}`", &new[1..]);
                return Err(error.at(pointer("columns", old)).hint(way));
            }
            if let Some((other, _)) = columns.iter().find(|(_, taken)| taken == new) {
                return refuse(format!("`{other}` and `{old}` are both to be called `{new}`"));
            }
            columns.push((old.clone(), new.to_owned()));
        }
        Ok(Self { columns, is_chosen: chosen.is_some() })
    }

    /// The only columns of the file that are asked for; `None` where all are.
    pub(super) fn wanted(&self) -> Option<impl Iterator<Item = &str>> {
        self.is_chosen.then(|| self.columns.iter().map(|(old, _)| old.as_str()))
    }

    /// Of a file with this schema, in its order: that of a mapping means nothing.
    pub(super) fn applied(mut self, schema: &Schema) -> Self {
        if self.is_chosen {
            let places = super::places(schema);
            self.columns
                .sort_by_key(|(old, _)| places.get(old.as_str()).copied().unwrap_or(usize::MAX));
            return self;
        }
        let mut taken: HashSet<String> =
            schema.fields().iter().map(|field| field.name().clone()).collect();
        let mut name = |old: &String| {
            if old != ID && old != PARENT {
                return old.clone();
            }
            let plain = &old[1..];
            let numbered = (2..).map(|number| format!("{plain}_{number}"));
            let mut free = std::iter::once(plain.to_owned()).chain(numbered);
            let new = free.find(|name| !taken.contains(name)).unwrap_or_default();
            taken.insert(new.clone());
            new
        };
        self.columns = schema
            .fields()
            .iter()
            .map(|field| (field.name().clone(), name(field.name())))
            .collect();
        self
    }

    pub(super) fn columns(&self) -> &[(String, String)] {
        &self.columns
    }

    /// Columns that the engine's names were taken from.
    pub(super) fn reserved(&self) -> impl Iterator<Item = (&str, &str)> {
        let columns = self.columns.iter().filter(|_| !self.is_chosen);
        columns.filter(|(old, new)| old != new).map(|(old, new)| (old.as_str(), new.as_str()))
    }
}
