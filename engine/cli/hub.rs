//! The environment of a hub, in the names that Python's `huggingface_hub` gives it.

use std::env;
use std::path::PathBuf;

use paraloom_hub::{Proxy, Settings, Token};

/// The hub, its cache and the token of this user.
pub(crate) fn settings() -> Settings {
    let home = home();
    let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
    let mut settings = Settings::new(cache.unwrap_or_else(|| home.join("hub")));
    if let Some(endpoint) = text("HF_ENDPOINT") {
        settings.endpoint = endpoint;
    }
    settings.token = token(path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")));
    settings.offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE");
    // Loopback addresses bypass the proxy.
    let is_near = ["http://127.", "http://localhost", "http://[::1]"];
    if !is_near.iter().any(|near| settings.endpoint.starts_with(near)) {
        settings.proxy = Proxy::try_from_env();
    }
    settings
}

/// `~/.cache/huggingface`, unless it was moved.
fn home() -> PathBuf {
    path("HF_HOME").unwrap_or_else(|| {
        let cache = path("XDG_CACHE_HOME").or_else(|| path("HOME").map(|home| home.join(".cache")));
        cache.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface")
    })
}

/// The token that is set, or the one that `hf auth login` has left.
fn token(file: PathBuf) -> Option<Token> {
    let set = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
    if let Some(set) = set {
        return Token::new(&set);
    }
    if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return None;
    }
    Token::new(&std::fs::read_to_string(file).ok()?)
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty())?;
    match value.to_str().and_then(|value| value.strip_prefix("~/")) {
        Some(rest) => Some(PathBuf::from(env::var_os("HOME")?).join(rest)),
        None => Some(PathBuf::from(value)),
    }
}

fn is_on(name: &str) -> bool {
    text(name)
        .is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}
