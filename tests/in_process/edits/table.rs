//! A file of rows, at random: what is in it, and how it lies on the disk.

use crate::common::Lots;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    Csv,
    Tsv,
    Jsonl,
    /// An array of objects.
    Json,
    /// The column `text` alone.
    Lines,
    Parquet,
}

const FORMATS: [Format; 6] =
    [Format::Csv, Format::Tsv, Format::Jsonl, Format::Parquet, Format::Json, Format::Lines];

/// How the bytes lie on the disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layout {
    File,
    /// The name is a link's, as tools for data sets lay files down, and what it names has no extension.
    Link,
    /// Compressed with gzip.
    Packed,
    /// A directory with so many files.
    Directory(usize),
    /// The same with folders `part=0`, `part=1`, which make a column.
    Folders(usize),
    /// So many files, which the pipeline lists.
    Listed(usize),
    /// So many files, for which a pattern stands.
    Pattern(usize),
    /// The same with folders `part=0`, `part=1`, which make a column.
    FolderPattern(usize),
}

/// How a file of text is written where its rows are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub(crate) struct Dress {
    /// Lines above the table, and below it.
    pub(crate) titles: usize,
    pub(crate) notes: usize,
    /// Comments within it.
    pub(crate) comments: bool,
    /// A byte order mark and `\r\n`.
    pub(crate) windows: bool,
    /// Semicolons between the columns of a CSV file.
    pub(crate) semicolons: bool,
    /// The pipeline does not say so.
    pub(crate) untold: bool,
}

impl Dress {
    pub(crate) fn new(lots: &mut Lots) -> Self {
        let mut one_in = |count| lots.below(count) == 0;
        let (comments, windows, semicolons) = (one_in(3), one_in(3), one_in(4));
        let untold = one_in(6);
        let (titles, notes) = (lots.below(3), lots.below(3));
        Self { titles, notes, comments, windows, semicolons, untold }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Text,
    Int,
    Float,
    Bool,
    Date,
    /// With a time zone.
    Moment,
    /// With two places.
    Decimal,
    List,
    Struct,
    Map,
    /// A list of structs that have a list.
    Deep,
}

#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// A day of February 1970, from 0.
    Date(i32),
    /// An hour of that month.
    Moment(i64),
    /// Hundredths.
    Decimal(i64),
    List(Vec<String>),
    Struct(String, String),
    Map(Vec<(String, String)>),
    Deep(Vec<(Option<i64>, Vec<String>)>),
}

impl Cell {
    /// What a file of text has for it.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Int(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Bool(value) => value.to_string(),
            Self::Date(day) => format!("1970-02-{:02}", day + 1),
            Self::Moment(hour) => {
                format!("1970-02-{:02}T{:02}:00:00Z", hour / 24 + 1, hour % 24)
            }
            Self::Decimal(cents) => format!("{}.{:02}", cents / 100, cents % 100),
            Self::List(items) => items.join("; "),
            Self::Struct(x, y) => format!("{x}; {y}"),
            Self::Map(_) | Self::Deep(_) => format!("{self:?}"),
        }
    }
}

/// A file.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) format: Format,
    /// What the name ends in; not always what the format asks for.
    pub(crate) extension: &'static str,
    pub(crate) layout: Layout,
    pub(crate) dress: Dress,
    pub(crate) columns: Vec<(String, Kind)>,
    pub(crate) rows: Vec<Vec<Option<Cell>>>,
}

const NAMES: [&str; 9] = ["text", "n", "tag", "_id", "_parent", "reason", "rank", "when", "Text"];

/// The name of a column that a file has beside the first two.
pub(crate) fn column(lots: &mut Lots) -> String {
    let among = if lots.below(3) == 0 { NAMES.len() } else { 3 };
    NAMES[lots.below(among)].to_owned()
}

/// The name of a column that is most often there.
pub(crate) fn known_column(lots: &mut Lots) -> String {
    match lots.below(6) {
        0 => column(lots),
        _ => NAMES[lots.below(2)].to_owned(),
    }
}

fn text(lots: &mut Lots) -> String {
    const TEXTS: [&str; 18] = [
        "a",
        "b",
        "a, b",
        "1, y: 2",
        "",
        "1",
        "2.0",
        "null",
        "true",
        "Café",
        "Cafe\u{301}",
        " a",
        "A",
        "it's",
        "007",
        "4.50",
        "r1",
        "ß",
    ];
    match lots.below(3) {
        0 => format!("text {}", lots.below(40)),
        _ => TEXTS[lots.below(TEXTS.len())].to_owned(),
    }
}

fn texts(lots: &mut Lots) -> Vec<String> {
    (0..lots.below(3)).map(|_| text(lots)).collect()
}

pub(crate) fn cell(lots: &mut Lots, kind: Kind) -> Option<Cell> {
    if lots.below(8) == 0 {
        return None;
    }
    Some(match kind {
        Kind::Text => Cell::Text(text(lots)),
        Kind::Int => Cell::Int(match lots.below(12) {
            0 => 9_007_199_254_740_992 + lots.below(3) as i64,
            _ => lots.below(9) as i64 - 3,
        }),
        Kind::Float => Cell::Float(lots.below(20) as f64 / 4.0 - 1.0),
        Kind::Bool => Cell::Bool(lots.below(2) == 0),
        Kind::Date => Cell::Date(lots.below(28) as i32),
        Kind::Moment => Cell::Moment(lots.below(600) as i64),
        Kind::Decimal => Cell::Decimal(lots.below(500) as i64),
        Kind::List => Cell::List(texts(lots)),
        Kind::Struct => Cell::Struct(text(lots), text(lots)),
        // Keys are there once each.
        Kind::Map => {
            Cell::Map((0..lots.below(3)).map(|at| (format!("k{at}"), text(lots))).collect())
        }
        Kind::Deep => Cell::Deep(
            (0..lots.below(3))
                .map(|_| (Some(lots.below(3) as i64).filter(|n| *n > 0), texts(lots)))
                .collect(),
        ),
    })
}

pub(crate) fn kind(lots: &mut Lots, format: Format) -> Kind {
    const KINDS: [Kind; 11] = [
        Kind::Text,
        Kind::Int,
        Kind::Float,
        Kind::Bool,
        Kind::Date,
        Kind::Moment,
        Kind::Decimal,
        Kind::List,
        Kind::Struct,
        Kind::Map,
        Kind::Deep,
    ];
    let nested = matches!(format, Format::Jsonl | Format::Json | Format::Parquet);
    KINDS[lots.below(if nested { KINDS.len() } else { 7 })]
}

pub(crate) fn format(lots: &mut Lots) -> Format {
    // Most often the common ones.
    let among = if lots.below(4) == 0 { FORMATS.len() } else { 4 };
    FORMATS[lots.below(among)]
}

pub(crate) fn layout(lots: &mut Lots) -> Layout {
    let files = 1 + lots.below(3);
    match lots.below(11) {
        0 => Layout::Link,
        1 => Layout::Packed,
        2 => Layout::Directory(files),
        3 => Layout::Folders(files),
        4 => Layout::Listed(files),
        5 => Layout::Pattern(files),
        6 => Layout::FolderPattern(files),
        _ => Layout::File,
    }
}

impl Table {
    pub(crate) fn new(lots: &mut Lots, name: String) -> Self {
        let format = format(lots);
        let mut columns: Vec<(String, Kind)> =
            vec![("text".to_owned(), Kind::Text), ("n".to_owned(), Kind::Int)];
        for _ in 0..=lots.below(3) {
            let (name, kind) = (column(lots), kind(lots, format));
            if columns.iter().all(|(known, _)| *known != name) {
                columns.push((name, kind));
            }
        }
        let rows =
            (0..lots.below(9)).map(|_| columns.iter().map(|(_, kind)| cell(lots, *kind)).collect());
        let rows = rows.collect();
        let layout = if lots.below(3) == 0 { layout(lots) } else { Layout::File };
        let extension = Self::extension_of(format);
        let dress = if lots.below(4) == 0 { Dress::new(lots) } else { Dress::default() };
        Self { name, format, extension, layout, dress, columns, rows }
    }

    /// Its files, by their paths, each with the rows that it has.
    pub(crate) fn files(&self) -> Vec<(String, std::ops::Range<usize>)> {
        let (name, extension, rows) = (&self.name, self.extension, self.rows.len());
        let shared = |files: usize, path: &dyn Fn(usize) -> String| {
            let share = |at: usize| at * rows / files..(at + 1) * rows / files;
            (0..files).map(|at| (path(at), share(at))).collect()
        };
        match self.layout {
            Layout::File | Layout::Link => vec![(format!("{name}.{extension}"), 0..rows)],
            Layout::Packed => vec![(format!("{name}.{extension}.gz"), 0..rows)],
            Layout::Directory(files) => shared(files, &|at| format!("{name}/{at}.{extension}")),
            Layout::Folders(files) | Layout::FolderPattern(files) => {
                shared(files, &|at| format!("{name}/part={at}/a.{extension}"))
            }
            Layout::Listed(files) | Layout::Pattern(files) => {
                shared(files, &|at| format!("{name}-{at}.{extension}"))
            }
        }
    }

    /// What `from` says, as YAML.
    pub(crate) fn from(&self) -> String {
        let files = self.files();
        match self.layout {
            Layout::Directory(_) | Layout::Folders(_) => self.name.clone(),
            Layout::Pattern(_) => format!("{}-*.{}", self.name, self.extension),
            Layout::FolderPattern(_) => format!("{}/*/a.{}", self.name, self.extension),
            Layout::Listed(_) => {
                let paths: Vec<_> = files.into_iter().map(|(path, _)| path).collect();
                format!("[{}]", paths.join(", "))
            }
            Layout::File | Layout::Link | Layout::Packed => files[0].0.clone(),
        }
    }

    /// What `load` has to be told of how the file is written.
    pub(crate) fn settings(&self) -> Vec<String> {
        let Dress { titles, notes, comments, semicolons, untold, .. } = self.dress;
        let is_delimited = matches!(self.format, Format::Csv | Format::Tsv);
        let has_lines = is_delimited || matches!(self.format, Format::Jsonl | Format::Lines);
        if untold || !has_lines {
            return Vec::new();
        }
        let said = [
            (titles > 0, format!("skip_lines: {titles}")),
            (notes > 0, format!("skip_footer: {notes}")),
            (comments && is_delimited, "comment: '#'".to_owned()),
            (semicolons && self.format == Format::Csv, "delimiter: ';'".to_owned()),
        ];
        said.into_iter().filter(|(is_said, _)| *is_said).map(|(_, setting)| setting).collect()
    }

    pub(crate) fn extension_of(format: Format) -> &'static str {
        match format {
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Jsonl => "jsonl",
            Format::Json => "json",
            Format::Lines => "txt",
            Format::Parquet => "parquet",
        }
    }
}
