//! What can go wrong between a hub and its cache.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of everything that needs a hub.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// What went wrong. No message holds a token, nor the query of an address, which can be a
/// secret too.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Somebody asked to stop. What was downloaded is kept.
    #[error("stopped")]
    Stopped,
    /// The network may not be used, and the cache does not have it.
    #[error("{what} is not in the cache at {}, and the hub is offline", cache.display())]
    Offline {
        /// What is needed.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// No answer, or one that was cut short.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// The address.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The server is busy or broken for the moment.
    #[error("{address} answers {status}")]
    Busy {
        /// The address.
        address: String,
        /// The HTTP status.
        status: u16,
        /// How long it asks us to wait.
        wait: Option<Duration>,
    },
    /// The server refuses.
    #[error("{address} answers {status}")]
    Refused {
        /// The address.
        address: String,
        /// The HTTP status.
        status: u16,
    },
    /// Nothing can be published without the network.
    #[error("nothing can be published while the hub is offline")]
    OfflinePublish,
    /// Nothing can be published without a token.
    #[error("publishing in `{repository}` takes a token")]
    NoToken {
        /// `owner/name` or `datasets/owner/name`.
        repository: String,
    },
    /// The token may not write there.
    #[error("the hub lets nobody with this token write in `{repository}`: {reason}")]
    MayNotWrite {
        /// `owner/name` or `datasets/owner/name`.
        repository: String,
        /// What it says.
        reason: String,
    },
    /// The server refuses what was sent to it.
    #[error("{address} answers {status}: {reason}")]
    RefusedTo {
        /// The address.
        address: String,
        /// The HTTP status.
        status: u16,
        /// What it says.
        reason: String,
    },
    /// There is no such repository, or it may not be seen without the right token.
    #[error("the hub has no `{repository}`, or does not show it to you")]
    NoRepository {
        /// `owner/name` or `datasets/owner/name`.
        repository: String,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// The repository must be asked for.
    #[error("`{repository}` is gated: it is shown only to those who accepted its terms")]
    Gated {
        /// `owner/name` or `datasets/owner/name`.
        repository: String,
        /// Its page.
        page: String,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// There is no such branch, tag or commit.
    #[error("`{repository}` has no revision `{revision}`")]
    NoRevision {
        /// `owner/name` or `datasets/owner/name`.
        repository: String,
        /// The revision.
        revision: String,
    },
    /// There is no such configuration or split.
    #[error("`{repository}` has no Parquet files of `{wanted}`")]
    NoSplit {
        /// `datasets/owner/name`.
        repository: String,
        /// `config/split`.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A model lacks a file.
    #[error("`{repository}` has no {file}")]
    NoFile {
        /// `owner/name`.
        repository: String,
        /// The file.
        file: &'static str,
    },
    /// A model has only weights of a framework that nothing here reads.
    #[error("`{repository}` has only the weights {file}, of TensorFlow or JAX, which are not read")]
    ForeignWeights {
        /// `owner/name`.
        repository: String,
        /// The weights.
        file: String,
    },
    /// An answer makes no sense.
    #[error("{address} sent what it should not: {reason}")]
    Malformed {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes of a file are not those that the hub announced.
    #[error("{address} sent wrong bytes: {reason}")]
    WrongBytes {
        /// The address.
        address: String,
        /// What does not fit.
        reason: String,
    },
    /// There is no room for a download.
    #[error("{} has {have} bytes free, and the download needs {need}", path.display())]
    Full {
        /// The directory.
        path: PathBuf,
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are free.
        have: u64,
    },
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "write", "read", ...
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl HubError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the same request may well succeed in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. } | Self::WrongBytes { .. })
    }

    /// Whether the reference names what the hub does not have.
    pub fn is_wrong_name(&self) -> bool {
        matches!(self, Self::NoRepository { .. } | Self::NoRevision { .. } | Self::NoSplit { .. })
    }

    /// Whether there is no room left.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
            }
            _ => false,
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<String> {
        const SET_TOKEN: &str = "set HF_TOKEN to a token of your account (the hub makes one under Settings, Access Tokens)";
        match self {
            Self::Offline { .. } => Some(
                "run once without HF_HUB_OFFLINE, or name a directory or file of your own instead".to_owned(),
            ),
            Self::Unreachable { .. } => Some(
                "what was transferred is kept: run again when the network is back; HF_ENDPOINT names another hub".to_owned(),
            ),
            Self::Busy { wait, .. } => Some(match wait {
                Some(wait) => format!("it asks for {} s of patience: run again then", wait.as_secs()),
                None => "run again later: what was transferred is kept".to_owned(),
            }),
            Self::NoRepository { had_token: false, .. } => {
                Some(format!("check the spelling; if it is private, {SET_TOKEN}"))
            }
            Self::NoRepository { had_token: true, .. } => {
                Some("check the spelling, and that the token in HF_TOKEN may read it".to_owned())
            }
            Self::Gated { page, had_token: false, .. } => {
                Some(format!("accept the terms at {page}, then {SET_TOKEN}"))
            }
            Self::Gated { page, had_token: true, .. } => Some(format!(
                "accept the terms at {page} with the account that the token in HF_TOKEN belongs to"
            )),
            Self::OfflinePublish => Some("run it without HF_HUB_OFFLINE".to_owned()),
            Self::NoToken { .. } => Some(SET_TOKEN.to_owned()),
            Self::MayNotWrite { .. } => Some(
                "the token in HF_TOKEN needs the permission to write, and its account the right to write there".to_owned(),
            ),
            Self::NoRevision { .. } => Some("a revision is a branch, a tag or a commit of 40 digits".to_owned()),
            Self::NoSplit { known, .. } if !known.is_empty() => Some(format!("it has {}", list(known))),
            Self::NoSplit { .. } => Some("only Parquet files are read; download the data by other means and name the file".to_owned()),
            Self::ForeignWeights { repository, file } => {
                let (package, flag) = match file.as_str() {
                    "tf_model.h5" => ("tensorflow tf-keras", "from_tf"),
                    _ => ("flax", "from_flax"),
                };
                Some(format!(
                    "if somebody proposed safetensors there, name that: hf://{repository}@refs/pr/NUMBER; or convert them \
                     with transformers 4 and name the directory: pip install 'transformers[torch]<5' {package}; python -c \
                     \"import transformers as t; t.AutoTokenizer.from_pretrained('{repository}').save_pretrained('DIR'); \
                     t.AutoModelForSeq2SeqLM.from_pretrained('{repository}', {flag}=True).save_pretrained('DIR')\""
                ))
            }
            Self::WrongBytes { .. } | Self::Malformed { .. } => {
                Some("nothing of it was kept; a proxy on the way can be the cause".to_owned())
            }
            Self::Full { .. } => Some("free some space, or name another place with HF_HOME".to_owned()),
            Self::Stopped | Self::Refused { .. } | Self::RefusedTo { .. } | Self::NoFile { .. } | Self::Io { .. } => None,
        }
    }
}

/// "`a`, `b`, `c`", and how many more.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
