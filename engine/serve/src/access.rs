//! What is told of each request: who asked for what, and how it went. Texts are not part of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::HeaderMap;

/// A request that was answered.
#[derive(Clone, Debug)]
pub struct Access {
    /// `X-Request-Id` of the request and its answer.
    pub id: String,
    /// Address of the client, or of the proxy before it.
    pub peer: Option<IpAddr>,
    /// HTTP method.
    pub method: String,
    /// Path without its query, 80 characters at most.
    pub path: String,
    /// HTTP status.
    pub status: u16,
    /// Code of the problem, if it was one.
    pub problem: Option<&'static str>,
    /// Rows of the request.
    pub rows: usize,
    /// The models that mapped them, where there are several to choose from.
    pub models: Vec<String>,
    /// Time from its head to its answer.
    pub took: Duration,
}

/// Takes what is told of requests. Called on the thread that talks to clients, so it must not wait.
pub type AccessLog = Arc<dyn Fn(&Access) + Send + Sync>;

/// Characters of an id that a client gives.
const MAX_ID: usize = 64;

/// Names requests.
pub(crate) struct Ids {
    seed: u64,
    next: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = since.map_or(0, |since| since.as_nanos() as u64);
        Self { seed, next: AtomicU64::new(0) }
    }

    /// The id that a client gives, or else a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> String {
        let sent = headers.get("x-request-id").and_then(|id| id.to_str().ok());
        let is_plain = |id: &&str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
            (1..=MAX_ID).contains(&id.len()) && id.bytes().all(fits)
        };
        sent.filter(is_plain).map_or_else(|| self.new_id(), str::to_owned)
    }

    fn new_id(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new_derive_key("paraloom 2026 request id");
        hasher.update(&self.seed.to_le_bytes()).update(&number.to_le_bytes());
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_that_of_the_client_or_a_new_one() {
        let ids = Ids::new();
        let of = |id: &str| {
            let value = axum::http::HeaderValue::from_bytes(id.as_bytes()).expect("a header");
            ids.of(&HeaderMap::from_iter([("x-request-id".parse().expect("a name"), value)]))
        };
        assert_eq!(of("a-1_2.3"), "a-1_2.3");
        let long = "x".repeat(65);
        let made: Vec<_> = ["", "two words", "\u{e9}", &long].map(of).to_vec();
        assert!(made.iter().all(|id| id.len() == 16 && !id.contains(' ')), "{made:?}");
        assert!(made.windows(2).all(|pair| pair[0] != pair[1]), "{made:?}");
    }
}
