//! Parquet and Arrow IPC files as one table.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::reader::{FileReader, StreamReader};
use paraloom_sdk::{Error, Result};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::input::{File, Format};
use super::kind::{Found, Kind};
use super::text::pointer;
use super::{Nested, Source, nested};

/// Rows that are read at once.
const BATCH_ROWS: usize = 1024;

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>>>;

/// The files of a table, and the columns that they have in common.
pub(super) struct Columnar {
    left: VecDeque<File>,
    current: Option<(Batches, File)>,
    format: Format,
    nested: Nested,
    schema: SchemaRef,
}

impl Columnar {
    /// Looks at the schema of every file. `wanted` are the only columns that matter, if not all do.
    pub(super) fn open(
        files: Vec<File>,
        format: Format,
        types: &BTreeMap<String, Kind>,
        nested: Nested,
        wanted: Option<&HashSet<String>>,
    ) -> Result<Self> {
        let mut joined: Option<(Vec<Field>, &File)> = None;
        for file in &files {
            let fields = fields(file, format, wanted)?;
            joined = Some(match joined {
                None => (fields, file),
                Some((all, first)) => (join(all, first, fields, file, wanted)?, first),
            });
        }
        let mut fields = joined.map(|(fields, _)| fields).unwrap_or_default();
        for field in &mut fields {
            if nested == Nested::Json && field.data_type().is_nested() {
                *field = field.clone().with_data_type(DataType::Utf8);
            }
        }
        for (name, kind) in types {
            let field = fields.iter_mut().find(|field| field.name() == name).ok_or_else(|| {
                Error::config(format!("the file has no column `{name}`")).at(pointer("types", name))
            })?;
            if field.data_type().is_nested() {
                let message = format!(
                    "`{name}` is {}, of which no {} can be made",
                    field.data_type(),
                    kind.described()
                );
                return Err(Error::config(message)
                    .at(pointer("types", name))
                    .hint("say `nested: json`, which makes JSON text of it"));
            }
            *field = Field::new(name, kind.data_type(), field.is_nullable());
        }
        Ok(Self {
            left: files.into(),
            current: None,
            format,
            nested,
            schema: Arc::new(Schema::new(fields)),
        })
    }
}

/// The fields of one file, with those of its folders.
fn fields(file: &File, format: Format, wanted: Option<&HashSet<String>>) -> Result<Vec<Field>> {
    let (schema, _) = open(&file.path, format)?;
    let mut fields: Vec<Field> = Vec::with_capacity(schema.fields().len());
    let mut names = HashSet::with_capacity(schema.fields().len());
    for (at, field) in schema.fields().iter().enumerate() {
        let name = name_of(at, field).into_owned();
        if !names.insert(name.clone()) {
            if wanted.is_some_and(|wanted| !wanted.contains(&name)) {
                continue;
            }
            let error =
                Error::data(format!("{}: two columns are called `{name}`", file.path.display()))
                    .at("/from");
            return Err(
                error.hint("write the file with a name for each, or name the other `columns`")
            );
        }
        let nullable = field.is_nullable() || super::table::OF_STAGES.contains(&name.as_str());
        fields.push(Field::new(name, plain(field.data_type()), nullable));
    }
    for (name, value) in &file.partitions {
        if fields.iter().any(|known| known.name() == name) {
            let message = format!(
                "{} has a column `{name}`, and so has the name of its folder",
                file.path.display()
            );
            return Err(Error::data(message).at("/from").hint("leave one of them out"));
        }
        let found = value.as_deref().map(|value| Found::of(value, '.'));
        fields.push(Field::new(
            name,
            found.map_or(DataType::Null, |found| found.kind().data_type()),
            true,
        ));
    }
    Ok(fields)
}

/// The name of a column, or its place if it has none.
fn name_of(at: usize, field: &Field) -> Cow<'_, str> {
    if field.name().trim().is_empty() {
        Cow::Owned(format!("column{}", at + 1))
    } else {
        Cow::Borrowed(field.name())
    }
}

/// The plain type of a column, however it is laid out.
fn plain(kind: &DataType) -> DataType {
    match kind {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, value) => plain(value),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        other => other.clone(),
    }
}

/// The fields that two files have in common; of a column whose types differ, the type that holds both.
fn join(
    all: Vec<Field>,
    first: &File,
    other: Vec<Field>,
    file: &File,
    wanted: Option<&HashSet<String>>,
) -> Result<Vec<Field>> {
    let matters = |name: &str| wanted.is_none_or(|wanted| wanted.contains(name));
    let differs = |what: String, way: &str| {
        let message = format!("{} {what}, unlike {}", file.path.display(), first.path.display());
        Err(Error::data(message).at("/from").hint(way.to_owned()))
    };
    let have = "name the `columns` that all of them have";
    let odd = other.iter().find(|field| {
        matters(field.name()) && !all.iter().any(|known| known.name() == field.name())
    });
    if let Some(odd) = odd {
        return differs(format!("has a column `{}`", odd.name()), have);
    }
    let mut fields = Vec::with_capacity(all.len());
    for field in all {
        let Some(same) = other.iter().find(|other| other.name() == field.name()) else {
            if matters(field.name()) {
                return differs(format!("has no column `{}`", field.name()), have);
            }
            continue;
        };
        let nullable = field.is_nullable() || same.is_nullable();
        match wider(field.data_type(), same.data_type()) {
            Some(kind) => fields.push(Field::new(field.name(), kind, nullable)),
            None if matters(field.name()) => {
                let what = format!(
                    "has {} in `{}` and not {}",
                    same.data_type(),
                    field.name(),
                    field.data_type()
                );
                return differs(what, "write them with one type, or name the other `columns`");
            }
            None => {}
        }
    }
    Ok(fields)
}

/// The type that holds the values of both.
fn wider(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{
        Float32, Float64, Int8, Int16, Int32, Int64, Null, UInt8, UInt16, UInt32, UInt64,
    };
    const SIGNED: [DataType; 4] = [Int8, Int16, Int32, Int64];
    const UNSIGNED: [DataType; 4] = [UInt8, UInt16, UInt32, UInt64];
    let place = |list: &[DataType; 4], kind: &DataType| list.iter().position(|known| known == kind);
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (Null, other) | (other, Null) => Some(other.clone()),
        _ => match (place(&SIGNED, a), place(&SIGNED, b), place(&UNSIGNED, a), place(&UNSIGNED, b))
        {
            (Some(a), Some(b), ..) => Some(SIGNED[a.max(b)].clone()),
            (.., Some(a), Some(b)) => Some(UNSIGNED[a.max(b)].clone()),
            // The next wider signed type holds an unsigned one.
            (Some(signed), None, None, Some(unsigned))
            | (None, Some(signed), Some(unsigned), None) => {
                SIGNED.get(signed.max(unsigned + 1)).cloned()
            }
            // A whole number that a float does not hold exactly is refused when it is met.
            _ if a.is_floating() && b.is_numeric() || b.is_floating() && a.is_numeric() => {
                let is_small =
                    |kind: &DataType| matches!(kind, Float32 | Int8 | Int16 | UInt8 | UInt16);
                let fits = [a, b]
                    .iter()
                    .all(|kind| is_small(kind) || **kind == Float64 || kind.is_integer());
                let is_float32 = is_small(a) && is_small(b);
                fits.then_some(if is_float32 { Float32 } else { Float64 })
            }
            _ => None,
        },
    }
}

fn open(path: &Path, format: Format) -> Result<(SchemaRef, Batches)> {
    let unreadable = |error: std::io::Error| {
        Error::from(error).prefixed(&format!("cannot read {}", path.display())).at("/from")
    };
    let mut file = fs::File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(Error::data(format!("{} is not a file", path.display())).at("/from"));
    }
    let mut start = [0; 64];
    let length = file.read(&mut start).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    let is_own =
        start.starts_with(if format == Format::Parquet { b"PAR1".as_slice() } else { b"ARROW1" });
    if length == 0 {
        return Err(Error::data(format!("{} is empty", path.display())).at("/from"));
    }
    if !is_own {
        if let Some(error) = super::packed::foreign(&start[..length], &path.display().to_string()) {
            return Err(error.at("/from"));
        }
        if let Some(packing) = super::packed::Packing::of(&start[..length]) {
            let error =
                Error::data(format!("{} is compressed with {}", path.display(), packing.name()))
                    .at("/from");
            return Err(error.hint(
                "unpack it first: of Parquet and Arrow files, only what is inside is compressed",
            ));
        }
        if format == Format::Parquet {
            return Err(no_parquet(path, &start[..length]));
        }
    }
    if format == Format::Parquet {
        check_end(path, &mut file).map_err(unreadable)??;
    }
    guarded(path, || {
        if format == Format::Parquet {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file);
            let reader = reader.and_then(|builder| builder.with_batch_size(BATCH_ROWS).build());
            let reader = reader.map_err(|error| error.to_string())?;
            let schema = arrow::array::RecordBatchReader::schema(&reader);
            return Ok((schema, Box::new(reader) as Batches));
        }
        let file = std::io::BufReader::new(file);
        if is_own {
            let reader = FileReader::try_new(file, None).map_err(|error| error.to_string())?;
            return Ok((reader.schema(), Box::new(reader) as Batches));
        }
        let reader = StreamReader::try_new(file, None).map_err(|error| error.to_string())?;
        Ok((reader.schema(), Box::new(reader) as Batches))
    })
}

/// What is wrong with a file that does not begin as Parquet does.
fn no_parquet(path: &Path, start: &[u8]) -> Error {
    if start.starts_with(b"PARE") {
        let error = Error::data(format!("{} is encrypted", path.display())).at("/from");
        return error.hint("write it without encryption");
    }
    let error = Error::data(format!("{} is no Parquet file", path.display())).at("/from");
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match std::str::from_utf8(line.trim_ascii_end()) {
        Ok(line) if !line.contains(char::is_control) => {
            let what = if line.starts_with('{') { "jsonl" } else { "csv" };
            error.hint(format!("it begins with `{line}`: if it is text, say `format: {what}`"))
        }
        _ => error,
    }
}

/// Parquet ends as it begins; what was cut off says nothing of its columns.
fn check_end(path: &Path, file: &mut fs::File) -> std::io::Result<Result<()>> {
    let mut end = [0; 4];
    let length = file.seek(SeekFrom::End(0))?;
    if length >= 12 {
        file.seek(SeekFrom::End(-4))?;
        file.read_exact(&mut end)?;
    }
    file.rewind()?;
    if end == *b"PAR1" {
        return Ok(Ok(()));
    }
    let error = Error::data(format!("{} ends early: its footer is missing", path.display()));
    Ok(Err(error.at("/from").hint("fetch or write the file again")))
}

/// The readers panic on some malformed files.
fn guarded<T>(path: &Path, body: impl FnOnce() -> std::result::Result<T, String>) -> Result<T> {
    let read = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err("the file is malformed".to_owned()));
    read.map_err(|reason| {
        Error::data(format!("cannot read {}: {reason}", path.display())).at("/from")
    })
}

impl Columnar {
    /// The columns of a batch in the order and the types of the table.
    fn fit(&self, rows: &RecordBatch, file: &File) -> Result<RecordBatch> {
        let schema = rows.schema();
        let mut places = HashMap::with_capacity(schema.fields().len());
        for (at, field) in schema.fields().iter().enumerate() {
            places.entry(name_of(at, field)).or_insert(at);
        }
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            let value = file
                .partitions
                .iter()
                .find(|(name, _)| name == field.name())
                .map(|(_, value)| value);
            let column = match value {
                Some(Some(value)) => {
                    Arc::new(StringArray::from(vec![value.as_str(); rows.num_rows()])) as ArrayRef
                }
                Some(None) => new_null_array(field.data_type(), rows.num_rows()),
                None => places
                    .get(field.name().as_str())
                    .map(|at| Arc::clone(rows.column(*at)))
                    .ok_or_else(|| Error::internal("the files were looked at"))?,
            };
            let column = if self.nested == Nested::Json && column.data_type().is_nested() {
                nested::json(&column)?
            } else {
                column
            };
            columns.push(converted(&column, field, &file.path)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

/// The column in another type, if all of its values have a form in it.
fn converted(column: &ArrayRef, field: &Field, path: &Path) -> Result<ArrayRef> {
    let (from, to) = (column.data_type(), field.data_type());
    if from == to {
        return Ok(Arc::clone(column));
    }
    let refuse = |reason: String| {
        Error::data(format!(
            "{}: `{}` is {from} and not all of it fits {to}: {reason}",
            path.display(),
            field.name()
        ))
        .at("/from")
    };
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(column, to, &strict).map_err(|error| refuse(error.to_string()))?;
    if from.is_integer() && to.is_floating() {
        let back = cast_with_options(&cast, &DataType::Int64, &CastOptions::default())?;
        let whole = cast_with_options(column, &DataType::Int64, &CastOptions::default())?;
        if back.as_primitive::<Int64Type>() != whole.as_primitive::<Int64Type>() {
            return Err(refuse("a whole number has too many digits for a float".to_owned()));
        }
    }
    if from.is_floating() && to.is_integer() {
        let back = cast_with_options(&cast, &DataType::Float64, &CastOptions::default())?;
        let exact = cast_with_options(column, &DataType::Float64, &CastOptions::default())?;
        if back.as_primitive::<Float64Type>() != exact.as_primitive::<Float64Type>() {
            return Err(refuse("not all of its numbers are whole".to_owned()));
        }
    }
    Ok(cast)
}

impl Source for Columnar {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let Some((batches, file)) = &mut self.current else {
                let Some(file) = self.left.pop_front() else { return Ok(None) };
                let (_, batches) = open(&file.path, self.format)?;
                self.current = Some((batches, file));
                continue;
            };
            let next = guarded(&file.path, || {
                batches.next().transpose().map_err(|error| error.to_string())
            })?;
            match (next, &self.current) {
                (Some(rows), Some((_, file))) => return self.fit(&rows, file).map(Some),
                _ => self.current = None,
            }
        }
    }
}
