//! Access control: tokens, and host names against DNS rebinding.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Uri};
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
        let hosts = ["localhost".to_owned(), ip].into_iter().chain(more_hosts.iter().cloned());
        let hosts = hosts.map(|host| host.to_ascii_lowercase()).collect();
        Self { token: token.map(|token| blake3::hash(token.as_bytes())), hosts }
    }

    /// With a token, whoever has it may ask. Without one, a page of another site could have its own name point here and
    /// read what it likes through its visitors' browsers; so the name must be one of ours, or an address, which is no name
    /// that could point elsewhere.
    ///
    /// `address` is that of the request, which names a host too where a client takes this server for a proxy.
    pub(crate) fn check(&self, address: &Uri, headers: &HeaderMap) -> Result<(), Denied> {
        match &self.token {
            Some(token) => {
                let sent = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
                let sent = sent.and_then(sent_token).ok_or(Denied::Token)?;
                if blake3::hash(&sent) == *token { Ok(()) } else { Err(Denied::Token) }
            }
            None => {
                let mut names = headers.get_all(HOST).iter();
                let (Some(name), None) = (names.next(), names.next()) else {
                    return Err(Denied::Host);
                };
                let name = name.to_str().ok().and_then(|name| name.parse::<Authority>().ok());
                let is_ours = |name: &Authority| {
                    let host = name.host().to_ascii_lowercase();
                    !name.as_str().contains('@')
                        && (self.hosts.contains(&host) || is_address(&host))
                };
                let are_ours =
                    name.as_ref().is_some_and(is_ours) && address.authority().is_none_or(is_ours);
                if are_ours { Ok(()) } else { Err(Denied::Host) }
            }
        }
    }
}

fn is_address(host: &str) -> bool {
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match v6 {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

/// The token of an `Authorization` header: a bearer token, or the password that a browser has asked for.
fn sent_token(header: &[u8]) -> Option<Vec<u8>> {
    let space = header.iter().position(|byte| *byte == b' ')?;
    let (scheme, sent) = (&header[..space], header[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(sent.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = BASE64_STANDARD.decode(sent).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).expect("a header"));
        }
        headers
    }

    fn path() -> Uri {
        Uri::from_static("/v1/info")
    }

    #[test]
    fn the_address_of_a_request_names_a_host_too() {
        let guard = Guard::new(SocketAddr::from(([127, 0, 0, 1], 8080)), None, &[]);
        let ours = headers(&[("host", b"localhost")]);
        for (address, expected) in [
            ("http://localhost/v1/info", Ok(())),
            ("http://127.0.0.1:8080/v1/info", Ok(())),
            ("http://evil.example/v1/info", Err(Denied::Host)),
            ("http://user@localhost/v1/info", Err(Denied::Host)),
        ] {
            assert_eq!(guard.check(&Uri::from_static(address), &ours), expected, "{address}");
        }
    }

    #[test]
    fn a_name_is_ours_or_an_address() {
        let bind = SocketAddr::from(([0, 0, 0, 0], 8080));
        let guard = Guard::new(bind, None, &["Here.Example".to_owned()]);
        let ours = ["localhost", "LOCALHOST:1", "10.1.2.3:8080", "[::1]:8080", "here.example"];
        let others = ["evil.example", "1.2.3.4.evil.example", "user@localhost", "[::g]", "", "a b"];
        for name in ours {
            assert_eq!(
                guard.check(&path(), &headers(&[("host", name.as_bytes())])),
                Ok(()),
                "{name}"
            );
        }
        for name in others {
            let checked = guard.check(&path(), &headers(&[("host", name.as_bytes())]));
            assert_eq!(checked, Err(Denied::Host), "{name}");
        }
        let both: [(_, &[u8]); 2] = [("host", b"localhost"), ("host", b"evil.example")];
        assert_eq!(guard.check(&path(), &headers(&both)), Err(Denied::Host));
        assert_eq!(guard.check(&path(), &HeaderMap::new()), Err(Denied::Host));
    }

    #[test]
    fn a_token_can_be_any_text() {
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let guard = Guard::new(bind, Some("p\u{e4}ss"), &[]);
        let sent = "Bearer p\u{e4}ss".as_bytes();
        assert_eq!(guard.check(&path(), &headers(&[("authorization", sent)])), Ok(()));
        assert_eq!(
            guard.check(&path(), &headers(&[("authorization", b"Bearer pass")])),
            Err(Denied::Token)
        );
    }
}
