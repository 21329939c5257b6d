//! A file that a stage writes, and why it could not.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use paraloom_sdk::{Error, free_bytes};

/// Why a file could not be written. The writers of formats pass on little of it, so it is kept here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    /// What the file says, or else what the writer does.
    pub(crate) fn or(&self, error: impl Into<Error>) -> Error {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| error.into())
    }
}

/// A new file.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    path: PathBuf,
    written: u64,
    failure: Failure,
}

impl Output {
    /// Makes the file; with it, where to look for why it could not be written.
    pub(crate) fn create(path: PathBuf) -> Result<(Self, Failure), Error> {
        let failure = Failure::default();
        match File::create_new(&path) {
            Ok(file) => Ok((Self { file, path, written: 0, failure: failure.clone() }, failure)),
            Err(error) => Err(unwritten(&path, 0, error)),
        }
    }

    /// What has found room is given back, so that the error says how much there was.
    fn fail(&mut self, more: u64, error: io::Error) -> io::Error {
        let kind = error.kind();
        let _ = self.file.set_len(0);
        let error = unwritten(&self.path, self.written + more, error);
        *self.failure.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        kind.into()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.file.write(bytes) {
            Ok(written) => {
                self.written += written as u64;
                Ok(written)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.fail(bytes.len() as u64, error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// `needed` is what the file had to hold so far: how long it would have become, nobody knows.
fn unwritten(path: &Path, needed: u64, error: io::Error) -> Error {
    let is_full = needed > 0 && error.kind() == io::ErrorKind::StorageFull;
    let why = match free_bytes(path).filter(|_| is_full) {
        Some(free) => format!("at least {needed} bytes are needed, {free} are free ({error})"),
        None => error.to_string(),
    };
    Error::from(error).renamed(format!("{}: {why}", path.display()))
}
