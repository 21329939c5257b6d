//! Output of data: stdout, or a file that appears when it is complete.
//!
//! The writers of formats turn I/O errors into text. An [`Out`] keeps the error itself, so that every command can tell a closed
//! pipe, which is no error, from a full disk, which has its own exit code.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anstream::AutoStream;

use crate::aside::Aside;
use crate::error::{CliError, Result};

/// Bytes that are written in one go.
const BUFFER: usize = 1 << 16;

/// A destination for data.
pub(crate) struct Out {
    buffer: BufWriter<Watched>,
    failure: Failure,
    /// Of a file: the temporary path and the final one.
    file: Option<Aside>,
}

/// The I/O error of a failed write.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<CliError>>>);

impl Failure {
    /// The I/O error, or else the error of the format's writer.
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

/// The underlying destination.
enum Sink {
    Stdout(io::Stdout),
    /// Stdout, without colours where they are not supported or not wanted.
    Styled(AutoStream<io::Stdout>),
    /// The file and its final path.
    File(File, PathBuf),
}

/// A writer that counts bytes and keeps the first I/O error.
struct Watched {
    sink: Sink,
    written: u64,
    failure: Failure,
}

impl Out {
    /// Stdout, for data.
    pub(crate) fn stdout() -> Self {
        Self::of(Sink::Stdout(io::stdout()), None)
    }

    /// Stdout, for text with colours.
    pub(crate) fn styled() -> Self {
        Self::of(Sink::Styled(anstream::AutoStream::auto(io::stdout())), None)
    }

    /// An existing file that is written in place, such as a pipe.
    fn device(path: &Path) -> Result<Self> {
        let file = File::options().write(true).open(path);
        let file = file.map_err(|error| CliError::writing(path, &error))?;
        Ok(Self::of(Sink::File(file, path.to_owned()), None))
    }

    /// A file that gets its name when it is complete. Creates its folder. What is there and no file, such as a pipe, is written
    /// in place.
    pub(crate) fn file(to: &Path) -> Result<Self> {
        match to.metadata() {
            Ok(there) if there.is_dir() => {
                Err(CliError::usage(format!("{} is a directory", to.display())).hint("name a file"))
            }
            Ok(there) if !there.is_file() => Self::device(to),
            _ => {
                let aside = Aside::file(to)?;
                let sink = Sink::File(aside.handle()?, to.to_owned());
                Ok(Self::of(sink, Some(aside)))
            }
        }
    }

    fn of(sink: Sink, file: Option<Aside>) -> Self {
        let failure = Failure::default();
        let watched = Watched { sink, written: 0, failure: failure.clone() };
        Self { buffer: BufWriter::with_capacity(BUFFER, watched), failure, file }
    }

    /// Access to the I/O error while the format's writer owns the rest.
    pub(crate) fn failure(&self) -> Failure {
        self.failure.clone()
    }

    /// Writes text.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        self.write_all(text.as_bytes()).map_err(|error| self.failure.or(error))
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        self.text(text)?;
        self.text("\n")
    }

    /// Flushes, and renames a file to its final path.
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
    /// The error for `needed` bytes that could not be written. Truncates the file first, so that the free space in the message
    /// is what there was before.
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
