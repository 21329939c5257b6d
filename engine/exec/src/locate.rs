//! What a path in a pipeline means on this machine.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use paraloom_pipeline::{Location, PlanFailure, nearest};

use crate::pattern::{self, WILD};

/// The file, the directory or, of a pattern such as `data/*.csv`, the files that `text` names in the directory `dir` of the
/// pipeline. Links are not followed: what a file is called says how it is read.
pub(crate) fn locate(dir: &Path, text: &str) -> Result<Location, PlanFailure> {
    refuse_addresses(text)?;
    if text.trim().is_empty() {
        return Err(PlanFailure::new("the path is empty")
            .hint("name a file or a directory; `.` is that of the pipeline"));
    }
    let written = dir.join(text);
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let path: PathBuf = dir.join(text).components().collect();
    if path.to_str().is_none() {
        // Stages are told of files in UTF-8.
        return Err(PlanFailure::new(format!("the path of {} is not UTF-8", path.display()))
            .hint("rename the directory, or put the file elsewhere"));
    }
    match path.metadata() {
        Ok(found) if found.is_file() || found.is_dir() => Ok(Location::Local(path)),
        Ok(_) => {
            Err(PlanFailure::new(format!("{} is neither a file nor a directory", path.display()))
                .hint("a pipe or a device cannot be read twice: write it to a file first"))
        }
        Err(_) if text.contains(WILD) => pattern::files(&dir, text).map(Location::Files),
        Err(error) => {
            if let Ok(target) = path.read_link() {
                return Err(broken_link(&written, &target, &error));
            }
            let failure = PlanFailure::new(format!("cannot find {}: {error}", written.display()));
            Err(match near_file(&path, text) {
                None if text.contains('{') && text.contains(',') => failure
                    .hint("`{a,b}` is no pattern: name the files in a list, `[a.csv, b.csv]`"),
                Some(near) => failure.hint(format!("did you mean `{near}`?")),
                None if is_repository(text) => {
                    failure.hint(format!("a model on a hub is written `hf://{text}`"))
                }
                None => failure,
            })
        }
    }
}

/// A link that does not lead to a file or a directory.
fn broken_link(path: &Path, target: &Path, error: &std::io::Error) -> PlanFailure {
    let what = match error.kind() {
        ErrorKind::NotFound => "is not there".to_owned(),
        _ => format!("cannot be reached: {error}"),
    };
    let message = format!("{} is a link to {}, which {what}", path.display(), target.display());
    PlanFailure::new(message)
}

/// What looks like a path elsewhere and would be looked for below the pipeline's directory.
fn refuse_addresses(text: &str) -> Result<(), PlanFailure> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(match scheme {
            "file" => PlanFailure::new(format!("`{text}` is a URL, not a path"))
                .hint(format!("write `{}`", rest.strip_prefix("localhost").unwrap_or(rest))),
            _ => {
                let failure = PlanFailure::new(format!(
                    "`{text}` is not on this machine, and `{scheme}://` is not read"
                ));
                failure.hint(match page_of_a_hub(scheme, rest) {
                    Some(reference) => format!(
                        "if this is a page of a hub, write `{reference}`; otherwise download it first, and name the file"
                    ),
                    None => {
                        "download it first, and name the file; only `hf://` is fetched".to_owned()
                    }
                })
            }
        });
    }
    if text == "~" || text.starts_with("~/") {
        return Err(PlanFailure::new(format!(
            "`~` in `{text}` is the shell's word for your home directory"
        ))
        .hint("write the path in full, or `${env:HOME}/…`"));
    }
    Ok(())
}

/// Whether a text could be the name of a model on a hub, and not a file's: `owner/name`.
fn is_repository(text: &str) -> bool {
    let plain = |part: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_plain)
    };
    // An extension has letters only; a version (`t5-v1.1`) does not.
    let extension = text.rsplit_once('.').map(|(_, extension)| extension);
    let is_file = extension.is_some_and(|text| text.starts_with(|c: char| c.is_ascii_alphabetic()));
    matches!(text.split_once('/'), Some((owner, name)) if plain(owner) && plain(name)) && !is_file
}

/// The reference of what an address shows, if it is the page of a model on a hub.
fn page_of_a_hub(scheme: &str, rest: &str) -> Option<String> {
    if !["http", "https"].contains(&scheme) {
        return None;
    }
    let path = rest.split_once('/')?.1.split(['?', '#']).next()?.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let (owner, name, revision) = match parts.as_slice() {
        [owner, name] => (owner, name, None),
        [owner, name, "tree" | "blob" | "resolve", revision, ..] => (owner, name, Some(revision)),
        _ => return None,
    };
    let repository = format!("{owner}/{name}");
    let revision = revision.map(|revision| format!("@{revision}")).unwrap_or_default();
    is_repository(&repository).then(|| format!("hf://{repository}{revision}"))
}

/// A file beside `path` whose name is nearly the same, as the pipeline would write it.
fn near_file(path: &Path, text: &str) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let near = nearest(name, names.iter().map(String::as_str))?;
    let near = PathBuf::from(text).parent()?.join(near);
    near.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_or_the_way_out_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it is there");
        std::fs::create_dir(root.join("data")).expect("writable");
        for name in ["data/a.csv", "data/b.csv", "data/.hidden.csv", "data/[x].csv", "blob"] {
            std::fs::write(root.join(name), "text\n").expect("writable");
        }
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, root.join(name)).expect("writable");
        };
        link("blob", "link.tsv");
        link("gone.csv", "broken.csv");
        link("loop.csv", "loop.csv");
        let told = |text: &str| match locate(&root, text) {
            Ok(Location::Local(path)) => {
                path.strip_prefix(&root).expect("below").display().to_string()
            }
            Ok(Location::Files(paths)) => {
                let name = |path: &PathBuf| path.file_name().expect("a name").display().to_string();
                paths.iter().map(name).collect::<Vec<_>>().join(" ")
            }
            Ok(Location::Hub(_)) => unreachable!("hubs are asked elsewhere"),
            Err(failure) => format!(
                "{} / {}",
                failure.message.replace(&root.display().to_string(), "DIR"),
                failure.hint.unwrap_or_default()
            ),
        };
        let texts = [
            "data/a.csv",
            "data",
            "link.tsv",
            "data/*.csv",
            "data/[x].csv",
            "data/[ab].csv",
            "data/*.tsv",
            &format!("{}/data/?.csv", root.display()),
            "data/c.csv",
            "data/{a,b}.csv",
            "broken.csv",
            "loop.csv",
            "",
            "***",
            "nothing",
            "acme/t5-small",
            "acme/t5-v1.1",
            "data/other/c.csv",
            "~/a.csv",
            "file:///data/a.csv",
            "https://example.org/a.csv",
            "https://example.org/acme/t5-small",
            "https://example.org/acme/t5-small/tree/main",
            "https://example.org/files/a.csv",
            "s3://bucket/a.csv",
            "/dev/null",
        ];
        let all: Vec<_> = texts.iter().map(|text| format!("{text}: {}", told(text))).collect();
        let all = all.join("\n").replace(&root.display().to_string(), "DIR");
        insta::assert_snapshot!(all);
    }

    #[test]
    fn folders_that_a_pattern_stands_for_are_marked() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it is there").join("in=side");
        for year in ["2023", "2024"] {
            std::fs::create_dir_all(root.join(format!("data/year={year}/de"))).expect("writable");
            std::fs::write(root.join(format!("data/year={year}/de/a.csv")), "").expect("writable");
        }
        let told = |text: &str| {
            let paths = match locate(&root, text).expect("it is there") {
                Location::Files(paths) => paths,
                Location::Local(path) => vec![path],
                Location::Hub(_) => unreachable!("hubs are asked elsewhere"),
            };
            let below = root.display().to_string() + "/";
            let name = |path: &PathBuf| path.display().to_string().replace(&below, "");
            paths.iter().map(name).collect::<Vec<_>>().join(" ")
        };
        let (before, after) = ("data/./year=2023/de/a.csv", "data/./year=2024/de/a.csv");
        for (text, expected) in [
            ("data/*/de/a.csv", format!("{before} {after}")),
            ("data/**/*.csv", format!("{before} {after}")),
            ("data/year=202[4]/de/a.csv", after.to_owned()),
            // What is written out is no pattern's.
            ("data/year=2024/de/*.csv", after.replace("./", "")),
            ("./data/year=2024/de/a.csv", after.replace("./", "")),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }
}
