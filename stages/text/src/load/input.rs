//! Which files are read, and as what.

use std::path::{Path, PathBuf};

use paraloom_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;

use super::packed::Packing;

/// Where the rows are: a file, a directory, or several of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Origin {
    One(String),
    /// The engine puts a list where a reference or a pattern means several files.
    Many(Vec<Origin>),
}

/// What a pipeline may say in its place.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum OriginSchema {
    One(#[schemars(extend("x-paraloom-path" = "many"))] String),
    Many(Vec<PathSchema>),
}

#[derive(JsonSchema)]
#[schemars(inline, transparent)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct PathSchema(#[schemars(extend("x-paraloom-path" = "many"))] String);

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// Comma-separated values.
    Csv,
    /// Tab-separated values.
    Tsv,
    /// JSON lines: one object a line.
    Jsonl,
    /// An array of JSON objects, or objects one after the other.
    Json,
    /// Lines of text, each a row with the column `text`.
    Text,
    /// Parquet.
    Parquet,
    /// Arrow IPC, also called Feather.
    Arrow,
}

impl Format {
    const EXTENSIONS: [(&'static str, Self); 14] = [
        ("csv", Self::Csv),
        ("tsv", Self::Tsv),
        ("tab", Self::Tsv),
        ("jsonl", Self::Jsonl),
        ("ndjson", Self::Jsonl),
        ("json", Self::Json),
        ("txt", Self::Text),
        ("text", Self::Text),
        ("parquet", Self::Parquet),
        ("parq", Self::Parquet),
        ("pq", Self::Parquet),
        ("arrow", Self::Arrow),
        ("feather", Self::Arrow),
        ("ipc", Self::Arrow),
    ];

    pub(super) fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }

    pub(super) fn is_typed(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow)
    }

    /// As it is written in a pipeline.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Text => "text",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }

    /// By the extension: of `a.csv.gz` it is `csv`.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_lowercase();
        let mut parts = name.rsplit('.');
        let mut extension = parts.next()?;
        if Packing::EXTENSIONS.contains(&extension) {
            extension = parts.next()?;
        }
        parts.next()?;
        Self::EXTENSIONS.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
    }
}

/// The columns that the names of folders tell, such as `label=1`, each with its value.
type Partitions = Vec<(String, Option<String>)>;

/// A file, and the columns that the names of its folders tell.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) partitions: Partitions,
}

impl File {
    /// A file that is named by itself, or by a pattern: then a `/./` stands where the pattern begins, and folders below it
    /// make columns.
    fn named(path: &Path) -> Self {
        let below = path.to_str().and_then(|text| text.split_once("/./"));
        let folders = below.and_then(|(_, below)| Path::new(below).parent());
        let folders = folders.into_iter().flat_map(Path::components);
        let names = folders.filter_map(|folder| folder.as_os_str().to_str());
        Self {
            path: path.components().collect(),
            partitions: names.filter_map(partition).collect(),
        }
    }
}

/// Files of one format.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) format: Format,
    pub(super) list: Vec<File>,
    /// What decides the rows beside the bytes of the files. The names within a directory are part of its content; those of
    /// other files are not.
    pub(super) fingerprint: String,
    /// Directories in those that are read that have such files too, which are not.
    pub(super) passed_over: Vec<PathBuf>,
}

impl Files {
    /// What `from` and `format` mean: the only place that decides how a file is read.
    pub(super) fn resolve(from: &Origin, format: Option<Format>) -> Result<Self> {
        let mut paths = Vec::new();
        flatten(from, &mut paths);
        let (mut files, mut told, mut passed_over) = (Vec::new(), Vec::new(), Vec::new());
        let mut known = format;
        for path in paths {
            if path.is_dir() {
                let (own, found) = directory(path, known, &mut passed_over)?;
                known = Some(agreed(known, own, path)?);
                files.extend(found);
            } else {
                let own = format.map_or_else(|| of_file(path), Ok)?;
                known = Some(agreed(known, own, path)?);
                let file = File::named(path);
                told.push(file.partitions.clone());
                files.push(file);
            }
        }
        let Some(format) = known.filter(|_| !files.is_empty()) else {
            return Err(Error::not_found("there are no files").at("/from"));
        };
        let mut fingerprint = format.name().to_owned();
        if told.iter().any(|partitions| !partitions.is_empty()) {
            fingerprint += &format!(" {}", serde_json::json!(told));
        }
        passed_over.retain(|dir| has_files(dir, format));
        Ok(Self { format, list: files, fingerprint, passed_over })
    }
}

fn flatten<'a>(from: &'a Origin, paths: &mut Vec<&'a Path>) {
    match from {
        Origin::One(path) => paths.push(Path::new(path)),
        Origin::Many(all) => all.iter().for_each(|from| flatten(from, paths)),
    }
}

/// Extensions of what is not read, and what to do with it.
const OTHERS: [(&[&str], &str); 3] = [
    (
        &["zip", "7z", "rar", "tar", "tgz", "lz4", "lzma", "lzo", "br", "z", "sz", "snappy"],
        "unpack it first: gzip, zstd, bzip2 and xz are read as they are",
    ),
    (&["xlsx", "xls", "xlsm", "xlsb", "ods", "numbers"], "save the sheet as CSV"),
    (
        &["db", "sqlite", "sqlite3", "duckdb", "avro", "orc", "pkl", "pickle", "h5", "rds", "sav"],
        "write it as Parquet, CSV or JSON lines",
    ),
];

fn of_file(path: &Path) -> Result<Format> {
    Format::of(path).ok_or_else(|| {
        let error =
            Error::config(format!("the extension of {} does not tell its format", path.display()))
                .at("/from");
        let extension = path.extension().and_then(|extension| extension.to_str());
        let extension = extension.unwrap_or_default().to_lowercase();
        match OTHERS.iter().find(|(known, _)| known.contains(&extension.as_str())) {
            Some((_, way)) => error.hint(*way),
            None => error.hint(
                "say it with `format: csv`, `tsv`, `jsonl`, `json`, `text`, `parquet` or `arrow`",
            ),
        }
    })
}

/// All files of a table are read the same way.
fn agreed(known: Option<Format>, own: Format, path: &Path) -> Result<Format> {
    match known {
        Some(known) if known != own => {
            let message = format!(
                "{} is {}, and the files before it are {}",
                path.display(),
                own.name(),
                known.name()
            );
            Err(Error::config(message)
                .at("/from")
                .hint("load them with two nodes, or say what all are with `format`"))
        }
        _ => Ok(own),
    }
}

/// The files of a directory, by name: those of the format, or of the one format that there is. Folders called `NAME=VALUE` are
/// part of it, and make a column.
fn directory(
    dir: &Path,
    format: Option<Format>,
    passed_over: &mut Vec<PathBuf>,
) -> Result<(Format, Vec<File>)> {
    let mut found = Vec::new();
    walk(dir, &[], &mut found, passed_over)?;
    let formats: Vec<_> = found.iter().filter_map(|file| Format::of(&file.path)).collect();
    let has = |format: Format| formats.contains(&format);
    let format = match format {
        Some(format) => format,
        // Beside Parquet lie lists and read-me files, which were never read.
        None if has(Format::Parquet) => Format::Parquet,
        None => {
            let mut tables = formats.iter().filter(|format| **format != Format::Text);
            let first = tables.next().copied().or_else(|| formats.first().copied());
            let Some(first) = first else {
                let error = Error::not_found(format!(
                    "{} holds no files that can be read as a table",
                    dir.display()
                ));
                return Err(error.at("/from").hint(
                    "name a file, or a directory of .parquet, .csv, .tsv, .jsonl or .txt files",
                ));
            };
            if let Some(other) = tables.find(|other| **other != first) {
                let message =
                    format!("{} holds {} and {} files", dir.display(), first.name(), other.name());
                return Err(Error::config(message)
                    .at("/from")
                    .hint(format!("say which with `format: {}`", first.name())));
            }
            first
        }
    };
    found.retain(|file| Format::of(&file.path) == Some(format));
    if found.is_empty() {
        let message = format!("{} holds no {} files", dir.display(), format.name());
        return Err(Error::not_found(message)
            .at("/from")
            .hint("name a file, or a directory of such files"));
    }
    Ok((format, found))
}

/// Whether a file of the format is right in a directory.
fn has_files(dir: &Path, format: Format) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| Format::of(&path) == Some(format) && path.is_file())
}

fn walk(
    dir: &Path,
    partitions: &[(String, Option<String>)],
    found: &mut Vec<File>,
    passed_over: &mut Vec<PathBuf>,
) -> Result<()> {
    let unreadable = |error: std::io::Error| {
        Error::from(error).prefixed(&format!("cannot read {}", dir.display())).at("/from")
    };
    let entries = std::fs::read_dir(dir).map_err(unreadable)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(unreadable)?;
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // What Spark and others keep for themselves.
        if name.starts_with(['.', '_']) {
            continue;
        }
        if path.is_file() {
            found.push(File { path, partitions: partitions.to_vec() });
        } else if path.is_dir() {
            match partition(name) {
                Some(own) => {
                    let partitions = [partitions, &[own]].concat();
                    walk(&path, &partitions, found, passed_over)?;
                }
                None => passed_over.push(path),
            }
        }
    }
    Ok(())
}

/// The column that a folder called `NAME=VALUE` makes, as Hive writes it.
fn partition(folder: &str) -> Option<(String, Option<String>)> {
    let (name, value) = folder.split_once('=')?;
    let value = (value != "__HIVE_DEFAULT_PARTITION__").then(|| unescaped(value));
    Some((unescaped(name), value))
}

/// `a%20b` as it was before it became the name of a folder.
fn unescaped(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::OriginSchema;

    /// By this the engine finds the files, whose bytes are in the key.
    #[test]
    fn every_path_is_marked_as_one() {
        let schema = serde_json::to_value(schemars::schema_for!(OriginSchema)).expect("it is JSON");
        let path = serde_json::json!({"type": "string", "x-paraloom-path": "many"});
        assert_eq!(schema["anyOf"][0], path);
        assert_eq!(schema["anyOf"][1], serde_json::json!({"type": "array", "items": path}));
    }
}
