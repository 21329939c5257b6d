//! Files of text as one table: CSV, TSV, JSON, lines.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use paraloom_sdk::{Error, Result, nearest};

use super::cells::{Cell, Cells, Columns, Misfit, Sink, Survey, misfit};
use super::delimited::Delimited;
use super::input::{File, Format};
use super::kind::{Found, Kind};
use super::objects::{Objects, Unknown};
use super::text::{Lines, TextSettings, pointer};
use super::{SAMPLE_ROWS, Source};

/// What is said of the files, checked.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) text: TextSettings,
    pub(super) cells: Cells,
    pub(super) header: bool,
    pub(super) delimiter: Option<u8>,
    pub(super) quote: Quoting,
    pub(super) escape: Option<u8>,
    /// What lines begin with that are no part of a CSV or TSV file's table.
    pub(super) comment: Option<String>,
    pub(super) types: BTreeMap<String, Kind>,
    /// Rows at the start of a file without a header that are left out unseen.
    pub(super) skip: usize,
}

/// What quotes cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoting {
    /// What the format has, as far as the file shows it.
    AsUsual,
    /// Nothing: quotes are text.
    None,
    By(u8),
}

impl Quoting {
    pub(super) fn byte(self) -> Option<u8> {
        match self {
            Self::By(quote) => Some(quote),
            Self::AsUsual | Self::None => None,
        }
    }
}

/// The rows of one file.
enum Rows {
    Delimited(Delimited),
    Objects(Objects),
    Lines { lines: Lines, text: String },
}

impl Rows {
    fn open(file: &File, format: Format, settings: &Settings) -> Result<Self> {
        let path = &file.path;
        Ok(match format {
            Format::Tsv => Self::Delimited(Delimited::open(path, settings, true)?),
            Format::Jsonl => Self::Objects(Objects::lines(path, settings.text)?),
            Format::Json => Self::Objects(Objects::stream(path, settings.text)?),
            Format::Text => {
                Self::Lines { lines: Lines::open(path, settings.text)?, text: String::new() }
            }
            Format::Csv | Format::Parquet | Format::Arrow => {
                Self::Delimited(Delimited::open(path, settings, false)?)
            }
        })
    }

    /// Reads one row; false after the last one.
    fn next(&mut self, sink: &mut impl Sink) -> Result<bool> {
        match self {
            Self::Delimited(rows) => rows.next(sink),
            Self::Objects(rows) => rows.next(sink),
            Self::Lines { lines, text } => {
                while lines.next(text)? {
                    // Blank lines are left out.
                    if !text.trim().is_empty() {
                        sink.push(0, Some(Cell { text, is_text: true }));
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// File and line of the row that was read last.
    fn place(&self) -> String {
        match self {
            Self::Delimited(rows) => rows.place(),
            Self::Objects(rows) => rows.place(),
            Self::Lines { lines, .. } => format!("{}:{}", lines.path(), lines.number()),
        }
    }

    /// The names of the columns that are known so far, in their order.
    fn names(&self) -> Vec<String> {
        match self {
            Self::Delimited(rows) => rows.names().map(str::to_owned).collect(),
            Self::Objects(rows) => {
                let mut names: Vec<_> = rows.columns().iter().collect();
                names.sort_by_key(|(_, at)| **at);
                names.into_iter().map(|(name, _)| name.clone()).collect()
            }
            Self::Lines { .. } => vec!["text".to_owned()],
        }
    }

    fn lead(&mut self, columns: &HashMap<String, usize>, unknown: Unknown) {
        match self {
            Self::Delimited(rows) => {
                rows.lead(|name| columns.get(name).copied(), unknown == Unknown::IsLeftOut);
            }
            Self::Objects(rows) => rows.lead(columns.clone(), unknown),
            Self::Lines { .. } => {}
        }
    }
}

/// A table of cells.
pub(super) struct Table {
    left: VecDeque<File>,
    current: Option<(Rows, File)>,
    format: Format,
    settings: Settings,
    unknown: Unknown,
    columns: HashMap<String, usize>,
    kinds: Vec<Kind>,
    cells: Columns,
    schema: SchemaRef,
}

/// The columns of a file, and what its rows show of them.
type Look = Vec<(String, Seen)>;

/// What is seen of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// What the first rows have in common; nothing if they have no value.
    found: Option<Found>,
    /// Whether a value may be missing.
    lacks: bool,
}

impl Seen {
    /// Of a column that may have no value in any row.
    const UNKNOWN: Self = Self { found: None, lacks: true };

    fn join(self, other: Self) -> Self {
        let found = match (self.found, other.found) {
            (Some(a), Some(b)) => Some(a.join(b)),
            (a, b) => a.or(b),
        };
        // Of a column that is text in one file only, the others were not looked at to their ends.
        Self { found, lacks: self.lacks || other.lacks || self.found != other.found }
    }
}

/// Up to so many rows are looked at for values that are missing: columns of text that have all of theirs are marked so, and keep the
/// schema that they always had.
const MOST_ROWS: usize = 1_000_000;

/// Columns of files by these names may always lack values: by that they are told from those that stages write.
pub(super) const OF_STAGES: [&str; 2] = ["reason", "rank"];

impl Table {
    /// Looks at the start of every file. `wanted` are the only columns that matter, if not all do.
    pub(super) fn open(
        files: Vec<File>,
        format: Format,
        settings: Settings,
        wanted: Option<&HashSet<String>>,
    ) -> Result<Self> {
        let mut found: Look = Vec::new();
        let rows = (SAMPLE_ROWS / files.len().max(1)).max(200);
        let mut first: Option<&File> = None;
        for file in &files {
            let look = look(file, format, &settings, rows, wanted)?;
            join(&mut found, look, first, file, format, wanted)?;
            first.get_or_insert(file);
        }
        for name in settings
            .types
            .keys()
            .filter(|name| !found.iter().any(|(known, _)| known == *name))
            .cloned()
            .collect::<Vec<_>>()
        {
            if !format.is_json() {
                let error = Error::config(format!("the file has no column `{name}`"))
                    .at(pointer("types", &name));
                let near = nearest(&name, found.iter().map(|(name, _)| name.as_str()));
                return Err(match near {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                });
            }
            // It may come late.
            found.push((name, Seen::UNKNOWN));
        }
        let kind = |name: &String, seen: Seen| {
            settings.types.get(name).copied().unwrap_or(seen.found.map_or(Kind::Text, Found::kind))
        };
        let kinds: Vec<_> = found.iter().map(|(name, seen)| kind(name, *seen)).collect();
        let field = |((name, seen), kind): (&(String, Seen), &Kind)| {
            let nullable = seen.lacks
                || *kind != Kind::Text
                || format.is_json()
                || OF_STAGES.contains(&name.as_str());
            Field::new(name, kind.data_type(), nullable)
        };
        let fields: Vec<_> = found.iter().zip(&kinds).map(field).collect();
        Ok(Self {
            left: files.into(),
            current: None,
            format,
            unknown: if wanted.is_some() { Unknown::IsLeftOut } else { Unknown::IsAnError },
            columns: found.into_iter().enumerate().map(|(at, (name, _))| (name, at)).collect(),
            cells: Columns::new(&kinds, settings.cells.clone()),
            kinds,
            settings,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    fn name(&self, column: usize) -> &str {
        self.schema.field(column).name()
    }

    fn misfit(&self, place: &str, misfit: Misfit) -> Error {
        match misfit {
            Misfit::Kind { column, text } => self::misfit(
                place,
                self.name(column),
                self.kinds[column],
                &text,
                &self.settings.cells,
            ),
            Misfit::Second { column } => second(place, self.name(column)),
        }
    }
}

fn second(place: &str, name: &str) -> Error {
    let error =
        Error::data(format!("{place}: the object has two members called `{name}`")).at("/from");
    error.hint("JSON has each name once; rename or remove one")
}

impl Source for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        while !self.cells.is_full() {
            let Some((rows, file)) = &mut self.current else {
                let Some(file) = self.left.pop_front() else { break };
                let mut rows = Rows::open(&file, self.format, &self.settings)?;
                rows.lead(&self.columns, self.unknown);
                self.current = Some((rows, file));
                continue;
            };
            if !rows.next(&mut self.cells)? {
                self.current = None;
                continue;
            }
            for (name, value) in &file.partitions {
                if let Some(column) = self.columns.get(name) {
                    self.cells.push(*column, value.as_deref().map(Cell::plain));
                }
            }
            if let Some(misfit) = self.cells.end_row() {
                let place = self.current.as_ref().map_or(String::new(), |(rows, _)| rows.place());
                return Err(self.misfit(&place, misfit));
            }
        }
        if self.cells.is_empty() {
            return Ok(None);
        }
        self.cells.finish(&self.schema).map(Some)
    }
}

/// The narrowest types that hold the rows at the start of the file.
fn look(
    file: &File,
    format: Format,
    settings: &Settings,
    most: usize,
    wanted: Option<&HashSet<String>>,
) -> Result<Look> {
    let mut rows = Rows::open(file, format, settings)?;
    let mut survey = Survey::new(rows.names().len(), &settings.cells);
    let mut count = 0;
    loop {
        // A member that is asked for may come late: it is looked for until it is there.
        let is_late = |rows: &Rows| match (wanted, rows) {
            (Some(wanted), Rows::Objects(objects)) => {
                let is_known = |name: &String| {
                    objects.columns().contains_key(name)
                        || settings.types.contains_key(name)
                        || file.partitions.iter().any(|(known, _)| known == name)
                };
                !wanted.iter().all(is_known)
            }
            _ => false,
        };
        if (count >= most && !is_late(&rows)) || !rows.next(&mut survey)? {
            break;
        }
        count += 1;
        if let Some(Misfit::Second { column }) = survey.end_row() {
            return Err(second(&rows.place(), &rows.names()[column]));
        }
    }
    survey.is_typed = true;
    // Only of text there is a question: columns of other types may always lack values.
    let is_text = |name: &String| settings.types.get(name) == Some(&Kind::Text);
    let declared: Vec<bool> = rows.names().iter().map(is_text).collect();
    let is_open = |survey: &Survey| {
        let mut columns = survey.found.iter().zip(&survey.lacks).zip(&declared);
        columns.any(|((found, lacks), declared)| {
            !lacks && (*declared || found.is_none_or(|found| found == Found::Text))
        })
    };
    while count < MOST_ROWS
        && matches!(rows, Rows::Delimited(_))
        && is_open(&survey)
        && rows.next(&mut survey)?
    {
        count += 1;
        survey.end_row();
    }
    let is_whole = count < MOST_ROWS;
    let mut names = rows.names();
    if let Rows::Delimited(delimited) = &rows {
        names.truncate(delimited.count(|at| survey.found[at].is_none()));
    }
    let seen = |at: usize| match survey.found.get(at) {
        Some(found) => Seen { found: *found, lacks: survey.lacks[at] || !is_whole },
        None => Seen::UNKNOWN,
    };
    let mut look: Look = names.into_iter().enumerate().map(|(at, name)| (name, seen(at))).collect();
    if format == Format::Text {
        let lacks = !settings.cells.missing.is_empty();
        look.iter_mut().for_each(|(_, seen)| seen.lacks = lacks);
    }
    for (name, value) in &file.partitions {
        if look.iter().any(|(known, _)| known == name) {
            let message = format!(
                "{} has a column `{name}`, and so has the name of its folder",
                file.path.display()
            );
            return Err(Error::data(message).at("/from").hint("leave one of them out"));
        }
        let found = value.as_deref().map(|value| Found::of(value, '.'));
        look.push((name.clone(), Seen { found, lacks: true }));
    }
    Ok(look)
}

/// The columns of several files: of JSON all that there are, of others those that each has.
fn join(
    all: &mut Look,
    look: Look,
    first: Option<&File>,
    file: &File,
    format: Format,
    wanted: Option<&HashSet<String>>,
) -> Result<()> {
    let Some(first) = first else {
        *all = look;
        return Ok(());
    };
    let differs = |what: String| {
        let message = format!("{} {what}, unlike {}", file.path.display(), first.path.display());
        let error = Error::data(message).at("/from");
        Err(error.hint("name the `columns` that all of them have"))
    };
    let matters = |name: &str| wanted.is_none_or(|wanted| wanted.contains(name));
    if !format.is_json() {
        let lost = all
            .iter()
            .find(|(name, _)| matters(name) && !look.iter().any(|(known, _)| known == name));
        if let Some((name, _)) = lost {
            return differs(format!("has no column `{name}`"));
        }
    }
    for (name, seen) in all.iter_mut() {
        seen.lacks |= !look.iter().any(|(known, _)| known == name);
    }
    for (name, seen) in look {
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = known.join(seen),
            None if format.is_json() => all.push((name, seen)),
            None if matters(&name) => return differs(format!("has a column `{name}`")),
            None => {}
        }
    }
    Ok(())
}
