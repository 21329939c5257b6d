//! A hub that misbehaves, a client of it, and what its cache holds.

#![allow(dead_code, reason = "each test binary uses some of it")]

pub(crate) mod publish;
pub(crate) mod server;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use paraloom_hub::{Hub, HubError, Notice, Reference, Retry, Settings, Token, Watch};
use server::Server;

pub(crate) const MODEL: &str = "hf://acme/tiny";
pub(crate) const TOKEN: &str = "hf_verysecret";

/// A cache directory and the servers that fill it.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: Server,
    pub(crate) settings: Settings,
    pub(crate) notices: RefCell<Vec<Notice>>,
    pub(crate) stop: AtomicBool,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let server = Server::start();
        let settings = Settings {
            endpoint: server.address.clone(),
            token: Token::new(TOKEN),
            retry: Retry {
                attempts: 3,
                first: Duration::from_millis(2),
                longest: Duration::from_secs(2),
            },
            silence: Duration::from_millis(300),
            pin_timeout: Duration::from_millis(500),
            ..Settings::new(dir.path().join("hub"))
        };
        Self { dir, server, settings, notices: RefCell::default(), stop: AtomicBool::new(false) }
    }

    /// A bench whose server has the small model.
    pub(crate) fn with_model() -> Self {
        let bench = Self::new();
        bench.server.commit("models/acme/tiny", "main", &model());
        bench
    }

    pub(crate) fn hub(&self) -> Hub {
        Hub::new(self.settings.clone())
    }

    /// Pins and fetches.
    pub(crate) fn fetch(&self, reference: &str) -> Result<Vec<PathBuf>, HubError> {
        let reference = Reference::parse(reference).expect("a reference");
        let notice = |notice: &Notice| self.notices.borrow_mut().push(notice.clone());
        let watch = Watch { stop: &self.stop, notice: &notice };
        let hub = self.hub();
        let pinned = hub.pin(&reference, &watch)?;
        hub.fetch(&reference, &pinned, &watch)
    }

    /// What is in the cache, below its root: paths of files, and where links lead.
    pub(crate) fn listing(&self) -> String {
        let mut lines = Vec::new();
        list(&self.settings.cache, &self.settings.cache, &mut lines);
        lines.sort();
        lines.join("\n")
    }

    /// Names of what lies beside the cache.
    pub(crate) fn outside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).expect("it is there");
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "hub").collect()
    }

    /// A failure as a person reads it.
    pub(crate) fn told(&self, error: &HubError) -> String {
        let hint = error.hint().map_or(String::new(), |hint| format!("\nhint: {hint}"));
        let text = format!("{error}{hint}").replace(&self.server.address, "http://hub.test");
        text.replace(self.dir.path().to_str().expect("text"), "[DIR]")
    }
}

fn list(root: &Path, dir: &Path, lines: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root).expect("below it").display().to_string();
        match std::fs::read_link(&path) {
            Ok(target) => lines.push(format!("{name} -> {}", target.display())),
            Err(_) if path.is_dir() => list(root, &path, lines),
            Err(_) => lines.push(name),
        }
    }
}

/// Bytes that no prefix of repeats.
pub(crate) fn weights() -> Vec<u8> {
    let mut state = 1_u32;
    let step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(step).take(300_000).collect()
}

/// The files of a small model, with some that nobody needs.
pub(crate) fn model() -> Vec<(&'static str, &'static [u8])> {
    static WEIGHTS: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    vec![
        ("README.md", b"not needed"),
        ("added_tokens.json", b"{}\n"),
        ("config.json", b"{\"model_type\": \"t5\"}\n"),
        ("flax_model.msgpack", b"not needed"),
        ("generation_config.json", b"{}\n"),
        ("model.safetensors", WEIGHTS.get_or_init(weights)),
        ("pytorch_model.bin", b"never"),
        ("spiece.model", b"pieces"),
        ("tokenizer.json", b"{\"version\": \"1.0\"}\n"),
        ("tokenizer_config.json", b"{}\n"),
    ]
}
