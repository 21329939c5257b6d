//! What the nodes of a pipeline do, at random.

use super::table::known_column;
use crate::common::Lots;

/// What a node does with the rows of another.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Load { file: usize, reading: Reading },
    Threshold { keep: String },
    Derive { columns: Vec<(String, String)> },
    Dedup { by: String, how: &'static str },
    Split { shares: &'static str, by: Option<String> },
    Sample { what: &'static str, per: Option<String> },
    Rank { by: String, per: Option<String>, keep: usize },
    Evaluate { of: &'static str, by: Option<String> },
    Export { format: &'static str },
}

/// How `load` reads its file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    skip: usize,
    limit: Option<usize>,
    keep: Option<String>,
    /// The settings that are left.
    others: &'static str,
}

impl Reading {
    pub(crate) fn new(lots: &mut Lots) -> Self {
        const OTHERS: [&str; 6] = [
            "missing: ['null', 'a']",
            "types: { n: number }",
            "types: { n: text }",
            "nested: json",
            "columns: { text: text, n: n }",
            "columns: { n: text, text: n }",
        ];
        Self {
            skip: lots.below(4) / 2,
            limit: Some(1 + lots.below(9)).filter(|_| lots.below(3) == 0),
            keep: Some(condition(lots)).filter(|_| lots.below(3) == 0),
            others: if lots.below(4) == 0 { OTHERS[lots.below(OTHERS.len())] } else { "" },
        }
    }
}

/// A condition that most tables have the columns of.
pub(crate) fn condition(lots: &mut Lots) -> String {
    let name = known_column(lots);
    match lots.below(8) {
        0 => format!("`{name}` is not null"),
        1 => format!("length(text) > {}", lots.below(4)),
        2 => format!("`{name}` is null or length(text) < 5"),
        3 => format!("n >= {}", lots.below(4)),
        4 => "n >= ${least}".to_owned(),
        5 => "text != '${word}'".to_owned(),
        6 => format!("not (n = {} or text = 'a')", lots.below(4)),
        _ => format!("text != '{}'", ["a", "A", "1", "text 3"][lots.below(4)]),
    }
}

pub(crate) fn stage(lots: &mut Lots) -> Stage {
    let name = known_column(lots);
    let some_name = |lots: &mut Lots| Some(known_column(lots)).filter(|_| lots.below(3) == 0);
    match lots.below(14) {
        0..=3 => Stage::Threshold { keep: condition(lots) },
        4..=6 => {
            const EXPRESSIONS: [&str; 10] = [
                "length(text)",
                "upper(text)",
                "text",
                "n",
                "coalesce(text, '${word}')",
                "number(text)",
                "text(n)",
                "n + ${least}",
                "coalesce(n, ${least}) % 3",
                // Too large for some rows, each of which ends the node, or is rejected.
                "n + 9223372036854775800",
            ];
            let mut columns = vec![(
                ["more", "n", "tag"][lots.below(3)].to_owned(),
                EXPRESSIONS[lots.below(EXPRESSIONS.len())].to_owned(),
            )];
            if lots.below(3) == 0 {
                columns.push(("also".to_owned(), "lower(text)".to_owned()));
            }
            Stage::Derive { columns }
        }
        7 | 8 => Stage::Dedup {
            by: name,
            how: ["exact: true", "exact: false", "near: 0.7"][lots.below(3)],
        },
        9 => {
            const SHARES: [&str; 6] = [
                "share: 0.0",
                "share: 0.3",
                "share: 0.5",
                "share: 1.0",
                "shares: { train: 0.5, valid: 0.25, test: 0.25 }",
                "shares: { train: 0.8, test: 0.2 }",
            ];
            Stage::Split { shares: SHARES[lots.below(SHARES.len())], by: some_name(lots) }
        }
        10 => Stage::Sample {
            what: ["rows: 1", "rows: 3", "rows: 5", "share: 0.5"][lots.below(4)],
            per: some_name(lots),
        },
        11 => Stage::Rank {
            by: ["length(text)", "n", "-n"][lots.below(3)].to_owned(),
            per: some_name(lots),
            keep: 1 + lots.below(3),
        },
        12 => Stage::Evaluate {
            of: ["predicted: n, gold: n", "predicted: text, gold: text", "mean: [n]"]
                [lots.below(3)],
            by: some_name(lots),
        },
        _ => Stage::Export { format: ["csv", "tsv", "jsonl", "parquet"][lots.below(4)] },
    }
}

impl Stage {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Load { .. } => "load",
            Self::Threshold { .. } => "threshold",
            Self::Derive { .. } => "derive",
            Self::Dedup { .. } => "dedup",
            Self::Split { .. } => "split",
            Self::Sample { .. } => "sample",
            Self::Rank { .. } => "rank",
            Self::Evaluate { .. } => "evaluate",
            Self::Export { .. } => "export",
        }
    }

    /// Whether it works part by part, and can reject rows that it fails at.
    pub(crate) fn is_map(&self) -> bool {
        matches!(self, Self::Threshold { .. } | Self::Derive { .. })
    }

    /// The table outputs.
    pub(crate) fn outputs(&self) -> &'static [&'static str] {
        match self {
            Self::Load { .. } | Self::Derive { .. } => &["rows"],
            Self::Threshold { .. } | Self::Dedup { .. } | Self::Rank { .. } => {
                &["kept", "rejected"]
            }
            Self::Split { .. } => &["kept", "held_out"],
            Self::Sample { .. } => &["kept", "rest"],
            Self::Evaluate { .. } => &["metrics"],
            Self::Export { .. } => &[],
        }
    }

    /// The settings, as YAML. `from` is the file that is read, `verbose` also says what the settings are anyway.
    pub(crate) fn with(&self, from: &str, verbose: bool) -> Vec<String> {
        let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let of = |key: &str, name: &Option<String>| {
            name.as_ref().map(|name| format!("{key}: {}", quote(name)))
        };
        let mut with = match self {
            Self::Load { reading, .. } => {
                let mut with = vec![format!("from: {from}")];
                with.extend(Some(format!("skip: {}", reading.skip)).filter(|_| reading.skip > 0));
                with.extend(reading.limit.map(|limit| format!("limit: {limit}")));
                with.extend(of("keep", &reading.keep));
                with.push(reading.others.to_owned());
                with
            }
            Self::Threshold { keep } => vec![format!("keep: {}", quote(keep))],
            Self::Derive { columns } => {
                let columns =
                    columns.iter().map(|(name, value)| format!("{name}: {}", quote(value)));
                vec![format!("columns: {{ {} }}", columns.collect::<Vec<_>>().join(", "))]
            }
            Self::Dedup { by, how } => vec![format!("by: [{by}]"), (*how).to_owned()],
            Self::Split { shares, by } => {
                [(*shares).to_owned()].into_iter().chain(of("by", by)).collect()
            }
            Self::Sample { what, per } => {
                [(*what).to_owned()].into_iter().chain(of("per", per)).collect()
            }
            Self::Rank { by, per, keep } => {
                let with = [format!("by: {}", quote(by)), format!("keep: {keep}")];
                with.into_iter().chain(of("per", per)).collect()
            }
            Self::Evaluate { of: what, by } => {
                [(*what).to_owned()].into_iter().chain(of("by", by)).collect()
            }
            Self::Export { format } => vec![format!("format: {format}")],
        };
        if verbose {
            let defaults: &[&str] = match self {
                Self::Load { reading, .. } if reading.skip == 0 && reading.limit.is_none() => {
                    &["skip: 0", "limit: null"]
                }
                Self::Dedup { .. } => &["ngram: 5"],
                Self::Export { .. } => &["name: rows", "ids: false"],
                _ => &[],
            };
            with.extend(defaults.iter().map(|text| (*text).to_owned()));
        }
        with.retain(|text| !text.is_empty());
        with
    }
}
