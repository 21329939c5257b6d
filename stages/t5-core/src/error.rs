//! What can go wrong, in the words of the person who has to mend it.

use std::path::{Path, PathBuf};

use paraloom_sdk::{Error as StageError, Status};

/// The result of everything fallible in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the T5 library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// There is no room for a file.
    #[error("{}: {needed} bytes are needed, {free} are free ({source})", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Its length.
        needed: u64,
        /// The room that there is.
        free: u64,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file was read, but what it holds is not what it should be.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the way out where there is one.
        message: String,
    },
    /// The configuration describes a model that is not T5, or not one that can be run.
    #[error("model configuration: {0}")]
    Config(String),
    /// The weights do not fit the configuration.
    #[error("model weights: {0}")]
    Weights(String),
    /// A checkpoint holds values that nothing can be computed with.
    #[error(
        "{}: `{tensor}` has {count} of {total} values that are NaN or infinite: the checkpoint is damaged",
        path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The first weight that has some, in the order of the model.
        tensor: String,
        /// How many of its values they are.
        count: usize,
        /// How many values it has.
        total: usize,
    },
    /// The model computed NaN for a source, from which nothing follows.
    #[error("the model's {what} for source {row} are not numbers")]
    NotNumbers {
        /// The number of the source, from 0.
        row: usize,
        /// What was computed, in the plural: `probabilities`.
        what: &'static str,
    },
    /// The tokenizer could not be read, trained or applied.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// An option or an input that cannot be honoured.
    #[error("{0}")]
    Invalid(String),
    /// The loss or a gradient stopped being a number.
    #[error(
        "step {step}: the {what} is {value}; lower the learning rate or look at the examples of this step"
    )]
    Diverged {
        /// The optimizer step, counted from 1.
        step: u64,
        /// What stopped being a number, such as `loss`.
        what: &'static str,
        /// The offending value.
        value: f64,
    },
    /// There is no memory for a batch.
    #[error("out of memory: {0}")]
    Memory(String),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Wraps an I/O error with the path it happened on.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Says why a file of `needed` bytes could not be written. What there is of it is removed: only then can be seen how
    /// much room there was.
    pub(crate) fn unwritten(path: &Path, needed: u64, source: std::io::Error) -> Self {
        let _ = std::fs::remove_file(path);
        let path = path.to_path_buf();
        match paraloom_sdk::free_bytes(&path) {
            Some(free) if source.kind() == std::io::ErrorKind::StorageFull => {
                Self::Full { path, needed, free, source }
            }
            _ => Self::Io { path, source },
        }
    }

    /// Says why tensors could not be written: the disk's fault, or theirs.
    pub(crate) fn unwritten_tensors(
        path: &Path,
        needed: usize,
        error: safetensors::SafeTensorError,
    ) -> Self {
        match error {
            safetensors::SafeTensorError::IoError(source) => {
                Self::unwritten(path, needed as u64, source)
            }
            error => Self::malformed(path, error),
        }
    }

    /// Says what is wrong with the contents of a file.
    pub fn malformed(path: &Path, message: impl ToString) -> Self {
        Self::Malformed { path: path.to_path_buf(), message: message.to_string() }
    }
}

/// What a stage says of it.
impl From<Error> for StageError {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Io { source, .. } | Error::Full { source, .. } => {
                return StageError::from(clone_kind(source)).renamed(error.to_string());
            }
            Error::NotFinite { .. } => {
                return Self::data(error.to_string()).hint(
                    "T5 overflows in fp16; take a copy of the model that was saved in f32 or bf16",
                );
            }
            Error::Malformed { .. }
            | Error::NotNumbers { .. }
            | Error::Weights(_)
            | Error::Tokenizer(_)
            | Error::Diverged { .. } => Status::Data,
            Error::Config(_) | Error::Invalid(_) => Status::Config,
            Error::Memory(_) => {
                return Self::resource(error.to_string()).hint(
                    "take smaller batches, shorter texts or a smaller model, or another `device`",
                );
            }
            Error::Cancelled => return Self::cancelled(),
        };
        Self::new(status, error.to_string())
    }
}

/// The kind decides the status: a full disk is not a missing file.
fn clone_kind(error: &std::io::Error) -> std::io::Error {
    std::io::Error::from(error.kind())
}
