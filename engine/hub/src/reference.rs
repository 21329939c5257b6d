//! A [`Reference`] names a model or one split of a data set on a hub, as pipelines write it:
//! `hf://owner/name[@revision]`, `hf://datasets/owner/name[/config][@revision]/split`.

use std::fmt;

/// Marks a text as a hub reference.
const SCHEME: &str = "hf://";

/// The branch that is meant where no revision is named.
pub(crate) const MAIN: &str = "main";

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A model.
    Model,
    /// One split of a data set.
    Dataset {
        /// The configuration; the only one of the data set if left out.
        config: Option<String>,
        /// The split.
        split: String,
    },
}

/// A model or a split of a data set, at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// What it names.
    pub kind: Kind,
    /// The repository: `owner/name`.
    pub id: String,
    revision: Option<String>,
}

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReferenceError {
    /// What is wrong with it.
    pub message: String,
    /// How it should look.
    pub hint: &'static str,
}

const MODEL_FORM: &str =
    "a model is hf://OWNER/NAME or hf://OWNER/NAME@REVISION, such as hf://google-t5/t5-base";
const DATASET_FORM: &str = "a data set is hf://datasets/OWNER/NAME[/CONFIG][@REVISION]/SPLIT, such as hf://datasets/google-research-datasets/paws/labeled_final/train";

impl Reference {
    /// Whether `text` is meant to be a reference, well-formed or not.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Reads a reference.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Err(wrong(format!("`{text}` does not start with {SCHEME}"), MODEL_FORM));
        };
        if rest.starts_with("spaces/") {
            return Err(wrong("spaces hold no models or data sets".to_owned(), MODEL_FORM));
        }
        match rest.strip_prefix("datasets/") {
            Some(rest) => Self::dataset(text, rest),
            None => Self::model(text, rest),
        }
    }

    fn model(text: &str, rest: &str) -> Result<Self, ReferenceError> {
        let (id, revision) = split_revision(rest);
        if id.split('/').count() != 2 {
            return Err(wrong(format!("`{text}` does not name a model"), MODEL_FORM));
        }
        id.split('/').try_for_each(|part| check_name(text, part, MODEL_FORM))?;
        let revision = revision.map(|name| check_revision(text, name, MODEL_FORM)).transpose()?;
        Ok(Self { kind: Kind::Model, id: id.to_owned(), revision })
    }

    fn dataset(text: &str, rest: &str) -> Result<Self, ReferenceError> {
        let incomplete =
            || wrong(format!("`{text}` does not name a split of a data set"), DATASET_FORM);
        let (left, right) = split_revision(rest);
        // The split is what comes last, also after a revision with slashes in it.
        let (parts, revision, split) = match right {
            Some(right) => {
                let (revision, split) = right.rsplit_once('/').ok_or_else(incomplete)?;
                (left, Some(check_revision(text, revision, DATASET_FORM)?), split)
            }
            None => {
                let (parts, split) = left.rsplit_once('/').ok_or_else(incomplete)?;
                (parts, None, split)
            }
        };
        let parts: Vec<_> = parts.split('/').collect();
        let (owner, name, config) = match parts[..] {
            [owner, name] => (owner, name, None),
            [owner, name, config] => (owner, name, Some(config)),
            _ => return Err(incomplete()),
        };
        for part in [Some(owner), Some(name), config, Some(split)].into_iter().flatten() {
            check_name(text, part, DATASET_FORM)?;
        }
        let kind = Kind::Dataset { config: config.map(str::to_owned), split: split.to_owned() };
        Ok(Self { kind, id: format!("{owner}/{name}"), revision })
    }

    /// The branch, tag or commit; `main` if none is named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The reference without its revision: what stays the same when a branch moves.
    pub fn unpinned(&self) -> String {
        Self { revision: None, ..self.clone() }.to_string()
    }

    /// The repository as its web address has it: `datasets/owner/name`.
    pub fn repository(&self) -> String {
        match self.kind {
            Kind::Model => self.id.clone(),
            Kind::Dataset { .. } => format!("datasets/{}", self.id),
        }
    }

    /// The name of its folder in the cache: `datasets--owner--name`.
    pub(crate) fn folder(&self) -> String {
        let prefix = match self.kind {
            Kind::Model => "models",
            Kind::Dataset { .. } => "datasets",
        };
        format!("{prefix}--{}", self.id.replace('/', "--"))
    }

    /// The path of the repository in the hub's programming interface.
    pub(crate) fn api_path(&self) -> String {
        match self.kind {
            Kind::Model => format!("api/models/{}", self.id),
            Kind::Dataset { .. } => format!("api/datasets/{}", self.id),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repository())?;
        if let Kind::Dataset { config: Some(config), .. } = &self.kind {
            write!(f, "/{config}")?;
        }
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.kind {
            Kind::Model => Ok(()),
            Kind::Dataset { split, .. } => write!(f, "/{split}"),
        }
    }
}

/// Whether a revision is a commit, which never moves.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn wrong(message: String, hint: &'static str) -> ReferenceError {
    ReferenceError { message, hint }
}

fn split_revision(text: &str) -> (&str, Option<&str>) {
    match text.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (text, None),
    }
}

/// Owners, names, configurations and splits become names of folders and parts of addresses.
fn check_name(text: &str, part: &str, form: &'static str) -> Result<(), ReferenceError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let what = if part.is_empty() {
        format!("`{text}` has an empty part")
    } else if !part.chars().all(plain) {
        format!("`{part}` in `{text}` has characters that no name on a hub has")
    } else if part.starts_with(['.', '-'])
        || part.contains("..")
        || part.contains("--")
        || part.len() > 96
    {
        format!("`{part}` in `{text}` is not a name on a hub")
    } else {
        return Ok(());
    };
    Err(wrong(what, form))
}

/// Revisions become paths below `refs/`, so git's own rules are kept.
fn check_revision(
    text: &str,
    revision: &str,
    form: &'static str,
) -> Result<String, ReferenceError> {
    let plain = |c: char| c.is_ascii_graphic() && !"~^:?*[\\@%#".contains(c);
    let sound = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.strip_suffix(".lock").is_none()
    };
    if revision.chars().all(plain)
        && revision.split('/').all(sound)
        && !revision.contains("..")
        && revision.len() <= 255
    {
        return Ok(revision.to_owned());
    }
    Err(wrong(format!("`{revision}` in `{text}` is not a branch, tag or commit"), form))
}

#[cfg(test)]
mod tests {
    use super::Reference;

    #[test]
    fn what_references_mean() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let cases = [
            "hf://google-t5/t5-base",
            "hf://google-t5/t5-base@refs/pr/3",
            &format!("hf://google-t5/t5-base@{commit}"),
            "hf://datasets/google-research-datasets/paws/labeled_final@main/train",
            "hf://datasets/o/n/train",
            "hf://datasets/o/n/c/train",
            "hf://datasets/o/n@refs/convert/parquet/train",
            "hf://t5-base",
            "hf://",
            "hf://a/b/c",
            "hf://a//b",
            "hf://../b",
            "hf://a/b@",
            "hf://a/b@../x",
            "hf://a/b@x y",
            "hf://a/b\0",
            "hf://a--b/c",
            "hf://datasets/o/n",
            "hf://datasets/o/n@main",
            "hf://datasets/o/n/c/d/train",
            "hf://datasets/o/n/c@main/..",
            "hf://spaces/o/n",
        ];
        let mut all = String::new();
        for text in cases {
            let line = match Reference::parse(text) {
                Ok(found) => {
                    assert_eq!(found.to_string(), text);
                    format!("{} at {} in {}", found.unpinned(), found.revision(), found.folder())
                }
                Err(error) => format!("{error}\n    hint: {}", error.hint),
            };
            all.push_str(&format!("{text:?}\n    {line}\n"));
        }
        insta::assert_snapshot!(all);
    }
}
