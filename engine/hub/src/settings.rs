//! What a hub client is told from outside.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::Proxy;

/// The hub that everybody means.
const ENDPOINT: &str = "https://huggingface.co";

/// A secret that lets its holder read private and gated repositories. It cannot be printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token without the white space around it; `None` if nothing is left, or if it has
    /// characters that no header can carry.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        (!text.is_empty() && plain).then(|| Self(text.to_owned()))
    }

    /// The value of the `Authorization` header.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How often and how patiently to try again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Tries without any progress before giving up; at least one.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one.
    pub first: Duration,
    /// The longest pause, also if the server asks for a longer one: then it is an error.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, first: Duration::from_millis(500), longest: Duration::from_mins(1) }
    }
}

/// Where the hub and its cache are, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the hub, without a slash at the end.
    pub endpoint: String,
    /// The directory of the cache, such as `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// Sent to the endpoint, and to no other host.
    pub token: Option<Token>,
    /// Never use the network.
    pub offline: bool,
    /// How to get out of a closed network.
    pub proxy: Option<Proxy>,
    /// When to try again.
    pub retry: Retry,
    /// The longest silence of a server.
    pub silence: Duration,
    /// The longest that [`crate::Hub::pin`] may take for one request: a run whose files are
    /// all here should not wait for a network that is away.
    pub pin_timeout: Duration,
}

impl Settings {
    /// The public hub, no token.
    pub fn new(cache: PathBuf) -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            cache,
            token: None,
            offline: false,
            proxy: None,
            retry: Retry::default(),
            silence: Duration::from_secs(30),
            pin_timeout: Duration::from_secs(10),
        }
    }
}

/// Something that happens during a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// So many bytes of all that are needed are here.
    Progress {
        /// Bytes that are here.
        done: u64,
        /// Bytes of all files; grows once the shards of a model are known.
        total: u64,
    },
    /// Something failed and is tried again.
    Retry {
        /// What went wrong.
        reason: String,
        /// The pause before the next try.
        pause: Duration,
    },
    /// Another process downloads this file.
    Waiting {
        /// Path of the file in its repository.
        file: String,
    },
}

/// Who watches a download, and how it is stopped.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Set to stop at once; what was transferred is kept, and the next download goes on there.
    pub stop: &'a AtomicBool,
    /// Told what happens.
    pub notice: &'a dyn Fn(&Notice),
}

impl Watch<'_> {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("stop", &self.stop).finish_non_exhaustive()
    }
}
