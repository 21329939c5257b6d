//! The files that a pattern such as `data/*/part-*.csv` stands for.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};
use paraloom_pipeline::PlanFailure;

/// What makes a path a pattern.
pub(crate) const WILD: [char; 3] = ['*', '?', '['];

type Result<T> = std::result::Result<T, PlanFailure>;

/// The files, in the order of their names. Of a file in a folder such as `year=2024` that the pattern stands for, a `/./` in the
/// path says where the pattern begins, as for rsync.
pub(crate) fn files(dir: &Path, text: &str) -> Result<Vec<PathBuf>> {
    // The directory's own name is no pattern; that of a path from the root is.
    let base = if Path::new(text).is_absolute() { Path::new("/") } else { dir };
    let mut fixed = base.to_owned();
    let mut parts = Vec::new();
    for part in Path::new(text).components() {
        let name = part.as_os_str().to_string_lossy();
        match part {
            Component::RootDir | Component::CurDir => {}
            _ if parts.is_empty() && !name.contains(WILD) => fixed.push(part),
            _ if name == "**" => {
                if parts.last().is_none_or(|part| !matches!(part, Part::Deep)) {
                    parts.push(Part::Deep);
                }
            }
            _ if name.contains(WILD) => {
                let pattern = Pattern::new(&name).map_err(|error| {
                    PlanFailure::new(format!("`{text}` is no pattern: {}", error.msg))
                })?;
                parts.push(Part::Name(pattern));
            }
            _ => parts.push(Part::Plain(part)),
        }
    }
    if let Some(Part::Deep) = parts.last() {
        parts.push(Part::Name(Pattern::new("*").unwrap_or_default()));
    }
    let mut found = Vec::new();
    find(&fixed, &parts, &mut found)?;
    if found.is_empty() {
        return Err(PlanFailure::new(format!("no file matches `{text}`"))
            .hint("`*` stands for any name, `**` for any directories"));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found.into_iter().map(|path| marked(&fixed, path)).collect())
}

/// An element of a pattern.
enum Part<'a> {
    Plain(Component<'a>),
    Name(Pattern),
    /// Any directories, or none.
    Deep,
}

fn find(dir: &Path, parts: &[Part], found: &mut Vec<PathBuf>) -> Result<()> {
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    let go_on = |path: PathBuf, found: &mut Vec<PathBuf>| match rest {
        [] => {
            if path.is_file() {
                found.push(path);
            }
            Ok(())
        }
        _ if path.is_dir() => find(&path, rest, found),
        _ => Ok(()),
    };
    match part {
        Part::Plain(name) => go_on(dir.join(name), found),
        Part::Name(pattern) => {
            let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
            for path in entries(dir)? {
                let name = path.file_name().and_then(|name| name.to_str());
                if name.is_some_and(|name| pattern.matches_with(name, options)) {
                    go_on(path, found)?;
                }
            }
            Ok(())
        }
        Part::Deep => {
            find(dir, rest, found)?;
            for path in entries(dir)? {
                let name = path.file_name().unwrap_or_default().as_encoded_bytes();
                // Links to directories are not followed: they may lead back. Neither are hidden directories looked into.
                let is_dir = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
                if is_dir && !name.starts_with(b".") {
                    find(&path, parts, found)?;
                }
            }
            Ok(())
        }
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()
    });
    match entries {
        // There is nothing there that could match.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(PlanFailure::new(format!("cannot read {}: {error}", dir.display()))),
        Ok(entries) => Ok(entries),
    }
}

/// `path` with a mark after `fixed`, if there is a folder such as `year=2024` between.
fn marked(fixed: &Path, path: PathBuf) -> PathBuf {
    let below = path.strip_prefix(fixed).ok();
    let mut folders = below.and_then(Path::parent).into_iter().flat_map(Path::components);
    match below {
        Some(below) if folders.any(|name| name.as_os_str().to_string_lossy().contains('=')) => {
            fixed.join(".").join(below)
        }
        _ => path.components().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also where links go round in circles, and from the root.
    #[test]
    fn patterns_find_what_is_below_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it is there");
        for name in ["a.csv", "b/a.csv", "b/c/a.csv", "b/c/d.tsv", ".store/a.csv", "b/.c/a.csv"] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("below")).expect("writable");
            std::fs::write(path, "").expect("writable");
        }
        for (target, name) in [(".", "b/self"), ("../..", "b/c/up"), ("a.csv", "link.csv")] {
            std::os::unix::fs::symlink(target, root.join(name)).expect("writable");
        }
        let prefix = root.display().to_string() + "/";
        let told = |text: &str| match files(&root, text) {
            Ok(paths) => {
                let name = |path: &PathBuf| path.display().to_string().replace(&prefix, "");
                paths.iter().map(name).collect::<Vec<_>>().join(" ")
            }
            Err(failure) => failure.message,
        };
        for (text, expected) in [
            ("*.csv", "a.csv link.csv"),
            ("**/*.csv", "a.csv b/a.csv b/c/a.csv link.csv"),
            ("**/**/a.csv", "a.csv b/a.csv b/c/a.csv"),
            ("b/**", "b/a.csv b/c/a.csv b/c/d.tsv"),
            ("*/a.csv", "b/a.csv"),
            ("b/*/a.csv", "b/c/a.csv b/self/a.csv"),
            ("b/*/up/?.csv", "b/c/up/a.csv"),
            (".s*/*.csv", ".store/a.csv"),
            (".store/*", ".store/a.csv"),
            ("./b/../*.csv", "b/../a.csv b/../link.csv"),
            ("nothing/*.csv", "no file matches `nothing/*.csv`"),
            ("a.csv/*", "no file matches `a.csv/*`"),
            (
                "b/x**",
                "`b/x**` is no pattern: recursive wildcards must form a single path component",
            ),
        ] {
            let said = told(text);
            assert_eq!(said, expected, "{text}");
            if !text.starts_with('.') && !expected.contains(' ') {
                assert_eq!(told(&(prefix.clone() + text)), expected, "from the root: {text}");
            }
        }
    }
}
