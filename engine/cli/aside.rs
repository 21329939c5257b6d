//! Files and directories that get their name when they are complete.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{CliError, NODE_FAILED, Result};

/// Appended to the final path until then. No name that anybody has for something of their own: what a killed command left under it is
/// removed.
const UNFINISHED: &str = ".paraloom-part";
/// Appended to a directory that is replaced.
const REPLACED: &str = ".paraloom-old";

/// A temporary path beside the final one. Removed on drop unless it was renamed.
pub(crate) struct Aside {
    path: PathBuf,
    to: PathBuf,
    /// Locked, so that another command does not write to the same path.
    file: File,
    is_done: bool,
}

impl Aside {
    /// An empty file that will be called `to`; creates the folder.
    pub(crate) fn file(to: &Path) -> Result<Self> {
        let open =
            |path: &Path| File::options().write(true).create(true).truncate(false).open(path);
        let aside = Self::locked(to, open)?;
        let emptied = aside.file.set_len(0);
        emptied.map_err(|error| CliError::writing(to, &error))?;
        Ok(aside)
    }

    /// An empty directory that will be called `to`; creates the folder.
    pub(crate) fn dir(to: &Path) -> Result<Self> {
        let open = |path: &Path| {
            std::fs::create_dir(path)
                .or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })?;
            File::open(path)
        };
        let aside = Self::locked(to, open)?;
        let emptied = std::fs::read_dir(&aside.path).and_then(|mut entries| {
            entries.try_for_each(|entry| entry.map(|entry| remove(&entry.path())))
        });
        emptied.map_err(|error| CliError::writing(to, &error))?;
        Ok(aside)
    }

    fn locked(to: &Path, open: impl Fn(&Path) -> io::Result<File>) -> Result<Self> {
        let unwritten = |error: io::Error| CliError::writing(to, &error);
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).map_err(unwritten)?;
        }
        let path = with_suffix(to, UNFINISHED);
        loop {
            let file = open(&path).map_err(unwritten)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let message = format!("another command is writing {}", to.display());
                    return Err(CliError::new(NODE_FAILED, message)
                        .hint("wait until it is done, or name another path with --to"));
                }
                // Some file systems have no locks.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(unwritten(error)),
            }
            // The command that held the lock may have given the file its name.
            let is_it = |there: std::fs::Metadata| {
                file.metadata()
                    .is_ok_and(|locked| (locked.dev(), locked.ino()) == (there.dev(), there.ino()))
            };
            if path.symlink_metadata().is_ok_and(is_it) {
                return Ok(Self { path, to: to.to_owned(), file, is_done: false });
            }
        }
    }

    /// The temporary path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A handle of the file to write to.
    pub(crate) fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| CliError::writing(&self.to, &error))
    }

    /// Renames it to the final path. A file replaces a file, and a directory a directory.
    pub(crate) fn finish(mut self) -> Result<()> {
        let rename = |from: &Path, to: &Path| {
            std::fs::rename(from, to).map_err(|error| CliError::writing(&self.to, &error))
        };
        if self.path.is_dir() && self.to.is_dir() {
            // `rename` does not replace directories that are not empty.
            let old = with_suffix(&self.to, REPLACED);
            remove(&old);
            rename(&self.to, &old)?;
            rename(&self.path, &self.to)?;
            remove(&old);
        } else {
            rename(&self.path, &self.to)?;
        }
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.is_done {
            remove(&self.path);
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Removes a file or directory if it exists.
fn remove(path: &Path) {
    let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let _ = if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a directory.
    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("it is there").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_but_what_it_is_for_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("kept/within")).expect("it is ours");
        // A file takes no directory's place.
        let aside = Aside::file(&at("kept")).expect("nobody else writes it");
        assert!(aside.finish().is_err());
        assert_eq!(names(dir.path()), ["kept"]);
        assert_eq!(names(&at("kept")), ["within"]);
        // Two commands do not write to one path, and one that is killed leaves nothing in the way.
        let first = Aside::file(&at("a.csv")).expect("nobody else writes it");
        assert!(Aside::file(&at("a.csv")).is_err());
        first.finish().expect("the name is free");
        std::fs::write(at("a.csv.paraloom-part"), "cut short").expect("it is ours");
        Aside::file(&at("a.csv")).expect("nobody writes it").finish().expect("it is a file");
        assert_eq!(std::fs::read(at("a.csv")).expect("it is there"), b"");
        // Directories that have such names by chance stay.
        for name in ["model", "model.old", "model.part", "model.paraloom-part"] {
            std::fs::create_dir_all(at(name).join("within")).expect("it is ours");
        }
        let aside = Aside::dir(&at("model")).expect("nobody else writes it");
        assert!(Aside::dir(&at("model")).is_err());
        std::fs::write(aside.path().join("weights"), "w").expect("it is ours");
        aside.finish().expect("it is a directory");
        assert_eq!(names(&at("model")), ["weights"]);
        assert_eq!(names(dir.path()), ["a.csv", "kept", "model", "model.old", "model.part"]);
    }
}
