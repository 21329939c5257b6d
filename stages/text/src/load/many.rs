//! Several Parquet files as one table: those of a directory, or of a data set on a hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use paraloom_sdk::{Error, Result};

use super::Source;
use super::columnar::Columnar;

pub(super) struct Many {
    /// The files that are left, the next one last.
    left: Vec<PathBuf>,
    current: Option<Columnar>,
    schema: SchemaRef,
}

impl Many {
    /// The Parquet files of a directory, by name.
    pub(super) fn directory(dir: &Path) -> Result<Self> {
        let unreadable = |error: std::io::Error| {
            Error::from(error).prefixed(&format!("cannot read {}", dir.display())).at("/from")
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let is_parquet = path.extension().is_some_and(|extension| extension == "parquet");
            if is_parquet && path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        if files.is_empty() {
            let error = Error::not_found(format!("{} holds no Parquet files", dir.display()));
            return Err(error.at("/from").hint("name a file, or a directory of .parquet files"));
        }
        Self::open(files)
    }

    /// Files in the order of their rows; all must have the columns of the first.
    pub(super) fn open(mut files: Vec<PathBuf>) -> Result<Self> {
        let mut schema: Option<(&Path, SchemaRef)> = None;
        for file in &files {
            let found = Columnar::parquet(file)?.schema();
            schema = Some(match schema {
                None => (file, found),
                Some((first, schema)) => (first, joined(first, &schema, file, &found)?),
            });
        }
        let (_, schema) =
            schema.ok_or_else(|| Error::not_found("there are no files").at("/from"))?;
        files.reverse();
        Ok(Self { left: files, current: None, schema })
    }
}

/// The schema of two files that have the same columns. A column may hold nulls if it may in
/// one of them.
fn joined(first: &Path, a: &Schema, file: &Path, b: &Schema) -> Result<SchemaRef> {
    let differs = |what: String| {
        let message = format!("{} {what}, unlike {}", file.display(), first.display());
        Err(Error::data(message).at("/from"))
    };
    if let Some(odd) = b.fields().iter().find(|field| a.field_with_name(field.name()).is_err()) {
        return differs(format!("has a column `{}`", odd.name()));
    }
    let mut fields = Vec::with_capacity(a.fields().len());
    for field in a.fields() {
        let Ok(other) = b.field_with_name(field.name()) else {
            return differs(format!("has no column `{}`", field.name()));
        };
        let (kind, other_kind) = (field.data_type(), other.data_type());
        if kind != other_kind {
            return differs(format!("has {other_kind} in `{}` and not {kind}", field.name()));
        }
        let nullable = field.is_nullable() || other.is_nullable();
        fields.push(Field::new(field.name(), kind.clone(), nullable));
    }
    Ok(Arc::new(Schema::new(fields)))
}

impl Source for Many {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(rows) = self.current.as_mut().map(Columnar::next).transpose()?.flatten() {
                // Columns may stand in another order.
                let column = |field: &Arc<Field>| rows.column_by_name(field.name()).cloned();
                let columns: Option<Vec<_>> = self.schema.fields().iter().map(column).collect();
                let columns = columns.ok_or_else(|| Error::internal("the files were checked"))?;
                return Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?));
            }
            let Some(file) = self.left.pop() else { return Ok(None) };
            self.current = Some(Columnar::parquet(&file)?);
        }
    }
}
