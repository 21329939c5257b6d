//! Access control: tokens, and host names against DNS rebinding.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::uri::Authority;
use base64::prelude::{BASE64_STANDARD, Engine};

/// Which requests are accepted.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// Hash of the token, so that the comparison takes constant time.
    token: Option<blake3::Hash>,
    hosts: Vec<String>,
}

/// Why a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    Token,
    Host,
}

impl Guard {
    pub(crate) fn new(bind: SocketAddr, token: Option<&str>, more_hosts: &[String]) -> Self {
        let ip = match bind.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let known = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        let hosts = known.into_iter().chain([ip]).chain(more_hosts.iter().cloned());
        let hosts = hosts.map(|host| host.to_ascii_lowercase()).collect();
        Self { token: token.map(|token| blake3::hash(token.as_bytes())), hosts }
    }

    /// With a token, whoever has it may ask. Without one, a page of another site could have its own name point here and
    /// read what it likes through its visitors' browsers; so the name must be one of ours.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Denied> {
        match &self.token {
            Some(token) => {
                let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
                let sent = sent.and_then(sent_token).ok_or(Denied::Token)?;
                if blake3::hash(&sent) == *token { Ok(()) } else { Err(Denied::Token) }
            }
            None => {
                let host = headers.get(HOST).and_then(|value| value.to_str().ok());
                let host = host.and_then(|host| host.parse::<Authority>().ok());
                let host = host.map(|host| host.host().to_ascii_lowercase());
                host.filter(|host| self.hosts.contains(host)).map(drop).ok_or(Denied::Host)
            }
        }
    }
}

/// The token of an `Authorization` header: a bearer token, or the password that a browser has asked for.
fn sent_token(header: &str) -> Option<Vec<u8>> {
    let (scheme, sent) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(sent.trim().as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = BASE64_STANDARD.decode(sent.trim()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}
