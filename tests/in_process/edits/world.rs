//! A pipeline with its files, at random, and what people do to both.

use std::fmt::Write as _;

use crate::common::Lots;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    Csv,
    Tsv,
    Jsonl,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Text,
    Int,
    Float,
    Bool,
    List,
    Struct,
}

#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    List(Vec<String>),
    Struct(String, String),
}

impl Cell {
    /// What a file of text has for it.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Int(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Bool(value) => value.to_string(),
            Self::List(items) => items.join("; "),
            Self::Struct(x, y) => format!("{x}; {y}"),
        }
    }
}

/// A file.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) format: Format,
    /// What the name ends in; not always what the format asks for.
    extension: &'static str,
    pub(crate) linked: bool,
    pub(crate) columns: Vec<(String, Kind)>,
    pub(crate) rows: Vec<Vec<Option<Cell>>>,
}

impl Table {
    pub(crate) fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.extension)
    }

    fn extension_of(format: Format) -> &'static str {
        match format {
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Jsonl => "jsonl",
            Format::Parquet => "parquet",
        }
    }
}

/// What a node does with the rows of another.
#[derive(Clone, Debug)]
enum Stage {
    Load { file: usize },
    Threshold { keep: String },
    Derive { columns: Vec<(String, String)> },
    Dedup { by: String, exact: bool },
    Split { share: f64, by: Option<String> },
    Sample { rows: usize },
    Rank { by: String, keep: usize },
    Export { format: &'static str },
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    stage: Stage,
    /// The node that it reads, and which of its outputs.
    from: Option<(usize, usize)>,
    /// Of `dedup`: what counts as seen.
    against: Option<usize>,
    /// Defaults are written out, and keys in another order.
    verbose: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) files: Vec<Table>,
    pub(crate) nodes: Vec<Node>,
    part_rows: usize,
    seed: u64,
    prefix: &'static str,
}

const NAMES: [&str; 9] = ["text", "n", "tag", "_id", "_parent", "reason", "rank", "when", "Text"];

fn column(lots: &mut Lots) -> String {
    // Most often names that conditions speak of.
    let among = if lots.below(3) == 0 { NAMES.len() } else { 3 };
    NAMES[lots.below(among)].to_owned()
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

fn cell(lots: &mut Lots, kind: Kind) -> Option<Cell> {
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
        Kind::List => Cell::List((0..lots.below(3)).map(|_| text(lots)).collect()),
        Kind::Struct => Cell::Struct(text(lots), text(lots)),
    })
}

fn kind(lots: &mut Lots, format: Format) -> Kind {
    let among = if matches!(format, Format::Jsonl | Format::Parquet) { 6 } else { 4 };
    [Kind::Text, Kind::Int, Kind::Float, Kind::Bool, Kind::List, Kind::Struct][lots.below(among)]
}

fn table(lots: &mut Lots, name: String) -> Table {
    let format = [Format::Csv, Format::Tsv, Format::Jsonl, Format::Parquet][lots.below(4)];
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
    Table { name, format, extension: Table::extension_of(format), linked: false, columns, rows }
}

fn stage(lots: &mut Lots) -> Stage {
    let name = column(lots);
    match lots.below(12) {
        0..=3 => {
            let conditions = [
                format!("`{name}` is not null"),
                format!("length(text) > {}", lots.below(4)),
                format!("`{name}` is null or length(text) < 5"),
                format!("n >= {}", lots.below(4)),
                format!("text != '{}'", ["a", "A", "1", "text 3"][lots.below(4)]),
            ];
            Stage::Threshold { keep: conditions[lots.below(conditions.len())].clone() }
        }
        4..=6 => {
            let expressions = ["length(text)", "upper(text)", "text", "n", "coalesce(text, 'x')"];
            let mut columns = vec![(
                ["more", "n", "tag"][lots.below(3)].to_owned(),
                expressions[lots.below(expressions.len())].to_owned(),
            )];
            if lots.below(3) == 0 {
                columns.push(("also".to_owned(), "lower(text)".to_owned()));
            }
            Stage::Derive { columns }
        }
        7 => Stage::Dedup { by: name, exact: lots.below(2) == 0 },
        8 => Stage::Split {
            share: [0.0, 0.3, 0.5, 1.0][lots.below(4)],
            by: Some(name).filter(|_| lots.below(3) == 0),
        },
        9 => Stage::Sample { rows: 1 + lots.below(5) },
        10 => Stage::Rank {
            by: ["length(text)", "n", "-n"][lots.below(3)].to_owned(),
            keep: 1 + lots.below(3),
        },
        _ => Stage::Export { format: ["csv", "tsv", "jsonl", "parquet"][lots.below(4)] },
    }
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Self::Load { .. } => "load",
            Self::Threshold { .. } => "threshold",
            Self::Derive { .. } => "derive",
            Self::Dedup { .. } => "dedup",
            Self::Split { .. } => "split",
            Self::Sample { .. } => "sample",
            Self::Rank { .. } => "rank",
            Self::Export { .. } => "export",
        }
    }

    /// The table outputs.
    fn outputs(&self) -> &'static [&'static str] {
        match self {
            Self::Load { .. } | Self::Derive { .. } => &["rows"],
            Self::Threshold { .. } | Self::Dedup { .. } | Self::Rank { .. } => {
                &["kept", "rejected"]
            }
            Self::Split { .. } => &["kept", "held_out"],
            Self::Sample { .. } => &["kept", "rest"],
            Self::Export { .. } => &[],
        }
    }
}

impl World {
    pub(crate) fn new(lots: &mut Lots) -> Self {
        let files: Vec<_> =
            (0..=lots.below(2)).map(|at| table(lots, format!("file{at}"))).collect();
        let load =
            |file| Node { stage: Stage::Load { file }, from: None, against: None, verbose: false };
        let mut world = Self {
            nodes: (0..files.len()).map(load).collect(),
            files,
            part_rows: 2 + lots.below(3),
            seed: 1,
            prefix: "n",
        };
        for _ in 0..=lots.below(5) {
            world.add(lots);
        }
        world
    }

    fn add(&mut self, lots: &mut Lots) {
        let stage = stage(lots);
        let sources: Vec<_> = (0..self.nodes.len())
            .filter(|node| !self.nodes[*node].stage.outputs().is_empty())
            .collect();
        let from = sources[lots.below(sources.len())];
        let ports = self.nodes[from].stage.outputs().len();
        let port = if lots.below(3) == 0 { lots.below(ports) } else { 0 };
        let against = Some(sources[lots.below(sources.len())])
            .filter(|_| matches!(stage, Stage::Dedup { .. }) && lots.below(2) == 0);
        self.nodes.push(Node { stage, from: Some((from, port)), against, verbose: false });
    }

    /// The same after one edit.
    pub(crate) fn edited(&self, lots: &mut Lots) -> Self {
        let mut world = self.clone();
        let at = lots.below(world.files.len());
        let node = lots.below(world.nodes.len());
        let format = world.files[at].format;
        let file = &mut world.files[at];
        let row = lots.below(file.rows.len().max(1));
        // Most often not a column that the conditions need.
        let others = if lots.below(4) == 0 { 0 } else { 2.min(file.columns.len() - 1) };
        let place = others + lots.below(file.columns.len() - others);
        match lots.below(22) {
            0..=3 => {
                // One cell, most often to another of its kind.
                let place = lots.below(file.columns.len());
                let kind =
                    if lots.below(6) == 0 { kind(lots, format) } else { file.columns[place].1 };
                if let Some(row) = file.rows.get_mut(row) {
                    row[place] = cell(lots, kind);
                }
            }
            4 | 5 => {
                file.rows.push(file.columns.iter().map(|(_, kind)| cell(lots, *kind)).collect());
            }
            6 => {
                let new = file.columns.iter().map(|(_, kind)| cell(lots, *kind)).collect();
                file.rows.insert(row.min(file.rows.len()), new);
            }
            7 if !file.rows.is_empty() => drop(file.rows.remove(row)),
            8 => file.rows.reverse(),
            9 => file.rows.clear(),
            10 => {
                // A column more: sometimes empty.
                let (name, kind, empty) = (column(lots), kind(lots, format), lots.below(2) == 0);
                if file.columns.iter().all(|(known, _)| *known != name) {
                    file.columns.push((name, kind));
                    let new =
                        |row: &mut Vec<_>| row.push(if empty { None } else { cell(lots, kind) });
                    file.rows.iter_mut().for_each(new);
                }
            }
            11 if file.columns.len() > 1 => {
                file.columns.remove(place);
                file.rows.iter_mut().for_each(|row| drop(row.remove(place)));
            }
            12 => {
                file.columns.reverse();
                file.rows.iter_mut().for_each(|row| row.reverse());
            }
            13 => {
                // The type of a column, where the file says it.
                file.columns[place].1 = kind(lots, format);
            }
            14 => {
                // The same rows in another format, named so or not.
                file.format =
                    [Format::Csv, Format::Tsv, Format::Jsonl, Format::Parquet][lots.below(4)];
                if lots.below(3) > 0 {
                    file.extension = Table::extension_of(file.format);
                }
            }
            15 => {
                // The same bytes under another name.
                file.extension = ["csv", "tsv", "jsonl", "txt"][lots.below(4)];
            }
            16 => file.name = format!("{}x", file.name),
            17 => file.linked = !file.linked,
            18 => {
                let is_load = matches!(world.nodes[node].stage, Stage::Load { .. });
                let stage = stage(lots);
                // What reads it reads its first output then.
                if !is_load && !matches!(stage, Stage::Export { .. }) {
                    world.nodes[node].stage = stage;
                    let old = |from: &mut (usize, usize)| {
                        if from.0 == node {
                            from.1 = 0;
                        }
                    };
                    world.nodes.iter_mut().filter_map(|node| node.from.as_mut()).for_each(old);
                }
            }
            19 => match lots.below(3) {
                0 => world.seed += 1,
                1 => world.part_rows = 2 + lots.below(3),
                _ => world.prefix = ["n", "node", "x_"][lots.below(3)],
            },
            20 => world.nodes[node].verbose = !world.nodes[node].verbose,
            _ => world.add(lots),
        }
        world
    }

    /// The same without a node that nothing reads; none if something does.
    pub(crate) fn without(&self, node: usize) -> Option<Self> {
        let mut world = self.clone();
        if node >= world.nodes.len() {
            return Some(world);
        }
        let reads = |other: &Node| {
            other.from.is_some_and(|(from, _)| from == node) || other.against == Some(node)
        };
        if world.nodes.iter().any(reads) || matches!(world.nodes[node].stage, Stage::Load { .. }) {
            return None;
        }
        world.nodes.remove(node);
        for other in &mut world.nodes {
            for from in
                other.from.as_mut().map(|from| &mut from.0).into_iter().chain(&mut other.against)
            {
                *from -= usize::from(*from > node);
            }
        }
        Some(world)
    }

    fn name(&self, node: usize) -> String {
        format!("{}{node}", self.prefix)
    }

    pub(crate) fn yaml(&self) -> String {
        let mut text = format!(
            "paraloom: 1\nname: edits\nseed: {}\npart_rows: {}\nnodes:\n",
            self.seed, self.part_rows
        );
        for (at, node) in self.nodes.iter().enumerate() {
            let mut inputs = Vec::new();
            if let Some((from, port)) = node.from {
                let ports = self.nodes[from].stage.outputs();
                inputs.push(format!(
                    "rows: {}.{}",
                    self.name(from),
                    ports[port.min(ports.len() - 1)]
                ));
            }
            inputs.extend(node.against.map(|from| format!("against: {}", self.name(from))));
            let mut with = self.with(node);
            if node.verbose {
                inputs.reverse();
                with.reverse();
            }
            let quoted = with.iter().map(|(key, value)| format!("{key}: {value}"));
            let with = quoted.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "  {}: {{ stage: {}, inputs: {{ {} }}, with: {{ {with} }} }}",
                self.name(at),
                node.stage.name(),
                inputs.join(", ")
            );
        }
        text
    }

    fn with(&self, node: &Node) -> Vec<(&'static str, String)> {
        let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let mut with = match &node.stage {
            Stage::Load { file } => vec![("from", self.files[*file].file_name())],
            Stage::Threshold { keep } => vec![("keep", quote(keep))],
            Stage::Derive { columns } => {
                let columns =
                    columns.iter().map(|(name, value)| format!("{name}: {}", quote(value)));
                vec![("columns", format!("{{ {} }}", columns.collect::<Vec<_>>().join(", ")))]
            }
            Stage::Dedup { by, exact } => {
                vec![("by", format!("[{by}]")), ("exact", exact.to_string())]
            }
            Stage::Split { share, by } => {
                let by = by.as_ref().map(|by| ("by", by.clone()));
                [("share", share.to_string())].into_iter().chain(by).collect()
            }
            Stage::Sample { rows } => vec![("rows", rows.to_string())],
            Stage::Rank { by, keep } => vec![("by", quote(by)), ("keep", keep.to_string())],
            Stage::Export { format } => vec![("format", (*format).to_owned())],
        };
        if node.verbose {
            // What the settings are anyway.
            with.extend(match &node.stage {
                Stage::Load { .. } => vec![("skip", "0".to_owned()), ("limit", "null".to_owned())],
                Stage::Dedup { .. } => vec![("ngram", "5".to_owned())],
                Stage::Export { .. } => {
                    vec![("name", "rows".to_owned()), ("ids", "false".to_owned())]
                }
                _ => Vec::new(),
            });
        }
        with
    }

    /// The files, for a person.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            let _ = writeln!(text, "{} ({:?}): {:?}", file.file_name(), file.format, file.columns);
            for row in &file.rows {
                let _ = writeln!(text, "  {row:?}");
            }
        }
        text
    }
}
