//! Which files of a repository a reference needs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::api::RemoteFile;
use crate::cache::is_safe;
use crate::error::{HubError, Result};

pub(crate) const CONFIG: &str = "config.json";
/// Weights in one file, or the index of those in several; the first that a model has is taken.
const WEIGHTS: [(&str, Layout); 4] = [
    ("model.safetensors", Layout::Whole),
    ("model.safetensors.index.json", Layout::Index),
    ("pytorch_model.bin", Layout::Whole),
    ("pytorch_model.bin.index.json", Layout::Index),
];
/// What turns text into pieces: all files of one of these. The last names a tokenizer that needs none, such as one of bytes.
const TOKENIZERS: [&[&str]; 4] = [
    &["tokenizer.json"],
    &["spiece.model"],
    &["vocab.json", "merges.txt"],
    &["tokenizer_config.json"],
];
/// What else a model may have; the last three say what its author added to the tokens of the tokenizer.
const OTHERS: [&str; 4] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];
/// What says how an adapter changes a model, and its matrices; the first that is there is taken.
const ADAPTER: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// Weights that nothing here reads.
const FOREIGN: [&str; 2] = ["tf_model.h5", "flax_model.msgpack"];

/// What a file of weights is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Whole,
    Index,
}

/// The files of a model: small ones first, so that weights which are there mean that all is.
#[derive(Debug)]
pub(crate) struct ModelFiles<'a> {
    /// The shards that an index names are not among them.
    pub(crate) files: Vec<&'a RemoteFile>,
    /// The index, if there is one.
    pub(crate) index: Option<&'static str>,
}

/// Finds the files of a model, or of an adapter that has no model beside it, among those of a repository.
pub(crate) fn model<'a>(tree: &'a [RemoteFile], repository: &str) -> Result<ModelFiles<'a>> {
    let find = |name: &str| tree.iter().find(|file| file.path == name);
    if let Some(names) = adapter(|name| find(name).is_some()) {
        return Ok(ModelFiles { files: names.into_iter().filter_map(find).collect(), index: None });
    }
    let missing = |file| HubError::NoFile { repository: repository.to_owned(), file };
    let mut files = vec![find(CONFIG).ok_or_else(|| missing(CONFIG))?];
    if !has_tokenizer(|name| find(name).is_some()) {
        return Err(missing("tokenizer.json or spiece.model"));
    }
    let tokenizers = TOKENIZERS.iter().copied().flatten().chain(&OTHERS);
    for file in tokenizers.filter_map(|name| find(name)) {
        if !files.contains(&file) {
            files.push(file);
        }
    }
    let weights = WEIGHTS.iter().find_map(|(name, layout)| Some((find(name)?, *name, *layout)));
    let (weights, name, layout) =
        weights.ok_or_else(|| match FOREIGN.iter().find_map(|name| find(name)) {
            Some(foreign) => HubError::ForeignWeights {
                repository: repository.to_owned(),
                file: foreign.path.clone(),
            },
            None => missing(WEIGHTS[0].0),
        })?;
    files.push(weights);
    Ok(ModelFiles { files, index: (layout == Layout::Index).then_some(name) })
}

/// The files of an adapter, if that is what there is.
fn adapter(has: impl Fn(&str) -> bool) -> Option<[&'static str; 2]> {
    let weights = ADAPTER_WEIGHTS.into_iter().find(|name| has(name))?;
    let is_model = WEIGHTS.iter().any(|(name, _)| has(name));
    (has(ADAPTER) && !is_model).then_some([ADAPTER, weights])
}

fn has_tokenizer(has: impl Fn(&str) -> bool) -> bool {
    TOKENIZERS.iter().any(|names| names.iter().all(|name| has(name)))
}

/// Whether all files of a model are there; `read` gives the bytes of one that is.
pub(crate) fn is_whole(has: impl Fn(&str) -> bool, read: impl Fn(&str) -> Option<Vec<u8>>) -> bool {
    let weights = WEIGHTS.iter().find(|(name, _)| has(name));
    let has_weights = weights.is_some_and(|(name, layout)| match layout {
        Layout::Whole => true,
        Layout::Index => read(name)
            .and_then(|index| shards(&index).ok())
            .is_some_and(|shards| shards.iter().all(|shard| has(shard))),
    });
    (has_weights && has(CONFIG) && has_tokenizer(&has)) || adapter(has).is_some()
}

/// The shards that an index of weights names, each once.
pub(crate) fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    let shards: BTreeSet<_> = index.weight_map.into_values().collect();
    match shards.iter().find(|name| !is_safe(name) || name.contains('/')) {
        Some(odd) => Err(format!("{odd:?} is not the name of a file beside the index")),
        None => Ok(shards),
    }
}

/// The Parquet files of one split, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) files: Vec<String>,
    /// For files that only count up and do not say how many there are: the one that would come
    /// next. That it does not exist has to be known.
    pub(crate) next: Option<String>,
}

/// A Parquet file of a data set, by what its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DataFile {
    config: Option<String>,
    split: String,
    /// Number of the shard, and of how many, where the name says so.
    shard: Option<u64>,
    of: Option<u64>,
    path: String,
}

/// Finds the files of a split among the paths of a repository. The error lists the splits
/// that there are.
pub(crate) fn split<'a>(
    paths: impl Iterator<Item = &'a str>,
    config: Option<&str>,
    split: &str,
) -> Result<Split, Vec<String>> {
    let files: Vec<_> = paths.filter_map(data_file).collect();
    let configs: BTreeSet<_> = files.iter().map(|file| file.config.as_deref()).collect();
    let wanted = match config {
        // The configuration that data sets with one have.
        Some("default") if !configs.contains(&Some("default")) => None,
        None if configs.contains(&Some("default")) && !configs.contains(&None) => Some("default"),
        None if configs.len() == 1 => configs.first().copied().flatten(),
        named => named,
    };
    let known = || {
        let name = |file: &DataFile| match &file.config {
            Some(config) => format!("{config}/{}", file.split),
            None => file.split.clone(),
        };
        files.iter().map(name).collect::<BTreeSet<_>>().into_iter().collect()
    };
    // A repository may hold a split twice, in two layouts: one of them is taken.
    let mut layouts: BTreeMap<_, Vec<&DataFile>> = BTreeMap::new();
    for file in &files {
        if file.config.as_deref() == wanted && file.split == split {
            let dir = file.path.rsplit_once('/').map_or("", |(dir, _)| dir);
            layouts.entry((file.of.is_none(), dir, file.of)).or_default().push(file);
        }
    }
    let complete = layouts.into_values().find_map(complete);
    complete.ok_or_else(known)
}

/// The files in order, if none is missing.
fn complete(mut files: Vec<&DataFile>) -> Option<Split> {
    files.sort_by(|a, b| (a.shard, &a.path).cmp(&(b.shard, &b.path)));
    let counts_up = files.iter().enumerate().all(|(at, file)| file.shard == Some(at as u64));
    let last = *files.last()?;
    let next = match (last.shard, last.of) {
        (_, Some(of)) if !counts_up || of != files.len() as u64 => return None,
        (Some(_), None) if counts_up => Some(successor(&last.path)),
        (Some(_), None) => return None,
        (None, None) if files.len() > 1 => return None,
        // All numbers are there, or there is one file without any.
        (_, Some(_)) | (None, None) => None,
    };
    Some(Split { files: files.into_iter().map(|file| file.path.clone()).collect(), next })
}

/// The path with the last number in it counted up: `train/0000.parquet`, `train/0001.parquet`.
fn successor(path: &str) -> String {
    let end = path.rfind(|c: char| c.is_ascii_digit()).map_or(0, |at| at + 1);
    let start = path[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    let digits = &path[start..end];
    let number: u64 = digits.parse().unwrap_or(0);
    format!("{}{:0width$}{}", &path[..start], number + 1, &path[end..], width = digits.len())
}

/// Reads the patterns that data sets use: `CONFIG/SPLIT-00000-of-00001-HASH.parquet`,
/// `CONFIG/SPLIT/0000.parquet`, the same below `data/` or at the root, and plain
/// `SPLIT.parquet`.
fn data_file(path: &str) -> Option<DataFile> {
    let stem = path.strip_suffix(".parquet")?;
    let (dir, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let (split, shard, of) = numbered(name);
    let (dir, split) = if split.is_empty() {
        // Only a number: the directory is the split.
        dir.rsplit_once('/').or_else(|| (!dir.is_empty()).then_some(("", dir)))?
    } else {
        (dir, split)
    };
    let config = match dir.strip_prefix("data").unwrap_or(dir).trim_matches('/') {
        "" => None,
        _ => Some(dir.strip_prefix("data/").unwrap_or(dir).to_owned()),
    };
    Some(DataFile { config, split: split.to_owned(), shard, of, path: path.to_owned() })
}

/// `train-00001-of-00003-abc`: the name, the number, and how many. `train-0001` and `0001` do
/// not say how many.
fn numbered(name: &str) -> (&str, Option<u64>, Option<u64>) {
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    if let Some((front, back)) = name.split_once("-of-") {
        let (split, shard) = front.rsplit_once('-').unwrap_or(("", front));
        let of = back.split('-').next().unwrap_or_default();
        if let (Some(shard), Some(of)) = (digits(shard), digits(of)) {
            return (split, Some(shard), Some(of));
        }
    }
    let (split, shard) = name.rsplit_once('-').unwrap_or(("", name));
    match digits(shard) {
        Some(shard) => (split, Some(shard), None),
        None => (name, None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_whole, shards, split, successor};

    const PAWS: &str = "README.md labeled_final/test-00000-of-00001.parquet \
        labeled_final/train-00000-of-00001.parquet labeled_final/validation-00000-of-00001.parquet \
        labeled_swap/train-00000-of-00001.parquet unlabeled_final/train-00000-of-00001.parquet";

    #[test]
    fn what_is_a_whole_model_or_adapter() {
        let model = "config.json tokenizer.json model.safetensors";
        for (files, expected) in [
            (model.to_owned(), true),
            ("config.json model.safetensors".to_owned(), false),
            ("adapter_config.json adapter_model.safetensors".to_owned(), true),
            ("adapter_config.json adapter_model.bin tokenizer.json".to_owned(), true),
            ("adapter_config.json".to_owned(), false),
            ("adapter_model.safetensors".to_owned(), false),
            (format!("{model} adapter_config.json"), true),
        ] {
            let has = |name: &str| files.split(' ').any(|file| file == name);
            assert_eq!(is_whole(has, |_| None), expected, "{files}");
        }
    }

    #[test]
    fn which_files_a_split_has() {
        let cases = [
            ("paws", PAWS, Some("labeled_final"), "train"),
            ("no such split", PAWS, Some("labeled_swap"), "test"),
            ("no such config", PAWS, Some("labelled_final"), "train"),
            ("config left out", PAWS, None, "train"),
            (
                "data with a hash",
                "data/train-00000-of-00002-ab12.parquet data/train-00001-of-00002-cd34.parquet data/test-00000-of-00001-ef.parquet",
                None,
                "train",
            ),
            ("a shard is missing", "data/train-00000-of-00002.parquet", None, "train"),
            (
                "converted",
                "default/train/0001.parquet default/train/0000.parquet default/test/0000.parquet",
                None,
                "train",
            ),
            ("converted in part", "default/partial-train/0000.parquet", None, "train"),
            ("a hole", "default/train/0000.parquet default/train/0002.parquet", None, "train"),
            ("plain", "train.parquet test.parquet", None, "test"),
            ("plain, of the default config", "train.parquet", Some("default"), "train"),
            ("only one config", "en/train.parquet en/test.parquet", None, "train"),
            ("twice", "data/train-00000-of-00001.parquet train.parquet", None, "train"),
            (
                "a longer name",
                "data/train-clean-00000-of-00001.parquet data/train-00000-of-00001.parquet",
                None,
                "train",
            ),
            ("below data", "data/en/train-0.parquet", Some("en"), "train"),
            ("directories", "train/a.parquet", Some("train"), "a"),
            ("nothing", "train.csv", None, "train"),
        ];
        let mut all = String::new();
        for (name, paths, config, wanted) in cases {
            let found = match split(paths.split_whitespace(), config, wanted) {
                Ok(found) => match found.next {
                    Some(next) => format!("{} and no {next}", found.files.join(" ")),
                    None => found.files.join(" "),
                },
                Err(known) => format!("none; there is {}", known.join(" ")),
            };
            all.push_str(&format!("{name}: {found}\n"));
        }
        insta::assert_snapshot!(all);
    }

    #[test]
    fn shards_lie_beside_their_index() {
        let index =
            |name: &str| format!("{{\"weight_map\": {{\"a\": {name:?}, \"b\": {name:?}}}}}");
        assert_eq!(shards(index("model-1.safetensors").as_bytes()).map(|found| found.len()), Ok(1));
        for odd in ["../x", "/etc/passwd", "a/b", ""] {
            assert!(shards(index(odd).as_bytes()).is_err(), "{odd}");
        }
        assert!(shards(b"{}").is_err());
    }

    #[test]
    fn what_comes_next() {
        assert_eq!(successor("a/train/0009.parquet"), "a/train/0010.parquet");
        assert_eq!(successor("train-9.parquet"), "train-10.parquet");
    }
}
