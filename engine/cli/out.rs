//! Where data goes: stdout, or a file that appears once it is whole.
//!
//! The writers of formats make texts of what the system says of a failed write. An [`Out`] remembers it, so that every
//! command tells a closed pipe, which is no error, from a full disk, which has an exit code of its own.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anstream::AutoStream;

use crate::error::{CliError, Result};

/// Bytes that are written in one go.
const BUFFER: usize = 1 << 16;

/// A place for data.
pub(crate) struct Out {
    buffer: BufWriter<Watched>,
    failure: Failure,
    /// Of a file: where it is written, and what it is called once it is whole.
    file: Option<Aside>,
}

/// What the system said of a write that failed.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<CliError>>>);

impl Failure {
    /// What the system said, or else what the writer of a format says.
    pub(crate) fn or(&self, error: impl Into<CliError>) -> CliError {
        self.take().unwrap_or_else(|| error.into())
    }

    fn take(&self) -> Option<CliError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, error: CliError) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// What a write goes to in the end.
enum Sink {
    Stdout(io::Stdout),
    /// Colours are removed where they are not wanted.
    Styled(AutoStream<io::Stdout>),
    /// The file, and what it will be called.
    File(File, PathBuf),
}

/// A sink that counts what it took and remembers why it took no more.
struct Watched {
    sink: Sink,
    written: u64,
    failure: Failure,
}

impl Out {
    /// Stdout, for data as it is.
    pub(crate) fn stdout() -> Self {
        Self::of(Sink::Stdout(io::stdout()), None)
    }

    /// Stdout, for text with colours.
    pub(crate) fn styled() -> Self {
        Self::of(Sink::Styled(anstream::AutoStream::auto(io::stdout())), None)
    }

    /// A file that is there and stays what it is, such as a pipe.
    pub(crate) fn device(path: &Path) -> Result<Self> {
        let file = File::options().write(true).open(path);
        let file = file.map_err(|error| CliError::writing(path, &error))?;
        Ok(Self::of(Sink::File(file, path.to_owned()), None))
    }

    /// A file that has this name once it is whole; `.part` is added to the name until then. Its folder is made.
    pub(crate) fn file(to: &Path) -> Result<Self> {
        let aside = Aside::new(to)?;
        let file = File::create(&aside.path).map_err(|error| CliError::writing(to, &error))?;
        Ok(Self::of(Sink::File(file, to.to_owned()), Some(aside)))
    }

    fn of(sink: Sink, file: Option<Aside>) -> Self {
        let failure = Failure::default();
        let watched = Watched { sink, written: 0, failure: failure.clone() };
        Self { buffer: BufWriter::with_capacity(BUFFER, watched), failure, file }
    }

    /// Where to look for why something could not be written, while a writer of a format has the rest.
    pub(crate) fn failure(&self) -> Failure {
        self.failure.clone()
    }

    /// Text as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        self.write_all(text.as_bytes()).map_err(|error| self.failure.or(error))
    }

    /// A line of text.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        self.text(text)?;
        self.text("\n")
    }

    /// Writes what is left, and gives a file its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.buffer.flush().map_err(|error| self.failure.or(error))?;
        self.file.take().map_or(Ok(()), Aside::finish)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer.flush()
    }
}

impl Watched {
    fn watch<T>(&mut self, needed: u64, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failure.set(self.sink.failed(needed, error));
            }
            kind.into()
        })
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = match &mut self.sink {
            Sink::Stdout(out) => out.write(bytes),
            Sink::Styled(out) => out.write(bytes),
            Sink::File(file, _) => file.write(bytes),
        };
        let written = self.watch(self.written + bytes.len() as u64, result)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = match &mut self.sink {
            Sink::Stdout(out) => out.flush(),
            Sink::Styled(out) => out.flush(),
            Sink::File(file, _) => file.flush(),
        };
        self.watch(self.written, result)
    }
}

impl Sink {
    /// Says why `needed` bytes could not be written. What a file has of them is given back: only then can be seen how much
    /// room there was.
    fn failed(&mut self, needed: u64, error: io::Error) -> CliError {
        match self {
            Self::Stdout(_) | Self::Styled(_) => CliError::stdout(error),
            Self::File(file, to) => {
                let _ = file.set_len(0);
                CliError::no_room(to, needed, error)
            }
        }
    }
}

/// What is written beside its place, and moved there once it is whole. Whatever happens before, nothing is left of it.
pub(crate) struct Aside {
    path: PathBuf,
    to: PathBuf,
}

impl Aside {
    /// A place beside `to`, whose folder is made. What a killed command has left there goes.
    pub(crate) fn new(to: &Path) -> Result<Self> {
        let path = with_extension(to, ".part");
        remove(&path);
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).map_err(|error| CliError::writing(to, &error))?;
        }
        Ok(Self { path, to: to.to_owned() })
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name; what has the name goes.
    pub(crate) fn finish(self) -> Result<()> {
        let rename = |from: &Path, to: &Path| {
            std::fs::rename(from, to).map_err(|error| CliError::writing(&self.to, &error))
        };
        if !self.to.is_dir() {
            return rename(&self.path, &self.to);
        }
        // A directory cannot take the place of another.
        let old = with_extension(&self.to, ".old");
        remove(&old);
        rename(&self.to, &old)?;
        rename(&self.path, &self.to)?;
        remove(&old);
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // After it got its name there is nothing here.
        remove(&self.path);
    }
}

fn with_extension(path: &Path, extension: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(extension);
    path.into()
}

/// Removes what may not be there.
fn remove(path: &Path) {
    let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let _ = if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}
