//! Requests to the hub and to the hosts that it redirects to.
//!
//! Redirects are followed by hand, because two things depend on them: the token goes to the
//! hub's own origin only, and what the hub says of a file stands in the answer that redirects.

use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Method, Request, Response, Uri};
use ureq::{Agent, Body, SendBody};

use crate::error::{HubError, Result};
use crate::settings::{Notice, Retry, Settings, Token, Watch};

const REDIRECTS: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("paraloom/", env!("CARGO_PKG_VERSION"));

/// Talks to one hub.
#[derive(Debug)]
pub(crate) struct Http {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    retry: Retry,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) address: String,
    /// Only the bytes from here on.
    pub(crate) from: u64,
    /// The strong entity tag that the hub gave for the file; asked for again where the hub
    /// itself sends the rest. Hosts that it redirects to have tags of their own.
    pub(crate) tag: Option<String>,
    /// Whether redirects to other hosts are followed.
    pub(crate) leave_hub: bool,
    /// The longest that the whole request may take.
    pub(crate) within: Option<Duration>,
}

impl Ask {
    pub(crate) fn get(address: String) -> Self {
        Self { method: Method::GET, address, from: 0, tag: None, leave_hub: true, within: None }
    }

    /// What the hub says of a file.
    pub(crate) fn head(address: String) -> Self {
        Self { method: Method::HEAD, leave_hub: false, ..Self::get(address) }
    }
}

/// What is sent along with a request.
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    /// So many bytes of a reader.
    Reader(&'a mut dyn Read, u64),
}

/// An answer that is neither a redirect nor a passing failure.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The address without its query, for messages.
    pub(crate) address: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn malformed(&self, reason: impl Into<String>) -> HubError {
        HubError::Malformed { address: self.address.clone(), reason: reason.into() }
    }
}

impl Http {
    pub(crate) fn new(settings: &Settings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(settings.proxy.clone())
            .user_agent(USER_AGENT)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(settings.silence))
            .timeout_per_read(Some(settings.silence))
            .build();
        Self {
            agent: config.new_agent(),
            endpoint: settings.endpoint.trim_end_matches('/').to_owned(),
            token: settings.token.clone(),
            retry: settings.retry,
        }
    }

    /// An address of the hub.
    pub(crate) fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Runs `body`, whose requests end at once when `watch` is stopped.
    pub(crate) fn stoppable<T>(
        &self,
        watch: &Watch,
        body: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let stop = watch.stop;
        std::thread::scope(|scope| {
            let (running, ended) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                use std::sync::mpsc::RecvTimeoutError::Timeout;
                while ended.recv_timeout(TICK) == Err(Timeout) {
                    if stop.load(std::sync::atomic::Ordering::Acquire) {
                        return self.agent.clone().shutdown();
                    }
                }
            });
            let result = body();
            drop(running);
            if watch.is_stopped() { Err(HubError::Stopped) } else { result }
        })
    }

    /// Asks again while the failure is a passing one.
    pub(crate) fn patiently<T>(
        &self,
        watch: &Watch,
        mut ask: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            match ask() {
                Err(error) if error.is_passing() => {
                    failures += 1;
                    self.pause(failures, error, watch)?;
                }
                result => return result,
            }
        }
    }

    /// Waits before the next try; `failures` in a row have been seen. Gives the error back
    /// when there have been too many, or when the server asks for more patience than we have.
    pub(crate) fn pause(&self, failures: u32, error: HubError, watch: &Watch) -> Result<()> {
        if watch.is_stopped() {
            return Err(HubError::Stopped);
        }
        let asked = match &error {
            HubError::Busy { wait, .. } => *wait,
            _ => None,
        };
        if failures >= self.retry.attempts || asked.is_some_and(|wait| wait > self.retry.longest) {
            return Err(error);
        }
        let doubled = self.retry.first.saturating_mul(1 << (failures - 1).min(16));
        let pause = asked.unwrap_or_else(|| jittered(doubled.min(self.retry.longest)));
        (watch.notice)(&Notice::Retry { reason: error.to_string(), pause });
        let until = Instant::now() + pause;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if watch.is_stopped() {
                return Err(HubError::Stopped);
            }
            std::thread::sleep(left.min(TICK));
        }
        Ok(())
    }

    /// Sends one request, and follows redirects.
    pub(crate) fn ask(&self, ask: &Ask) -> Result<Answer> {
        let hub = parse(&self.endpoint)?;
        let mut uri = parse(&ask.address)?;
        for _ in 0..REDIRECTS {
            let answer = self.send(ask, &uri, origin(&uri) == origin(&hub))?;
            let address = shown(&uri);
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return finished(address, answer);
            }
            let next = answer.headers().get("location").and_then(|value| value.to_str().ok());
            let malformed = |reason: &str| HubError::Malformed {
                address: address.clone(),
                reason: reason.to_owned(),
            };
            let next = next.and_then(|text| resolve(&uri, text));
            let next = next.ok_or_else(|| malformed("it redirects to no address"))?;
            if !ask.leave_hub && origin(&next) != origin(&hub) {
                return finished(address, answer);
            }
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(malformed("it redirects to an address without encryption"));
            }
            uri = next;
        }
        Err(HubError::Malformed {
            address: shown(&uri),
            reason: "it redirects in circles".to_owned(),
        })
    }

    /// Sends content to the hub, or to a place that it has named. Redirects are not followed.
    pub(crate) fn post(
        &self,
        address: &str,
        headers: &[(&str, &str)],
        content: Content<'_>,
    ) -> Result<Answer> {
        self.send_content(Method::POST, address, headers, content)
    }

    /// Sends content to a place where it will then be, whose address has a signature: the token is not for it.
    pub(crate) fn put(
        &self,
        address: &str,
        headers: &[(&str, &str)],
        content: Content<'_>,
    ) -> Result<Answer> {
        self.send_content(Method::PUT, address, headers, content)
    }

    fn send_content(
        &self,
        method: Method,
        address: &str,
        headers: &[(&str, &str)],
        mut content: Content<'_>,
    ) -> Result<Answer> {
        let (hub, uri) = (parse(&self.endpoint)?, parse(address)?);
        let mut request = Request::builder().method(method.clone()).uri(uri.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let is_for_hub = method == Method::POST && origin(&uri) == origin(&hub);
        if let Some(token) = self.token.as_ref().filter(|_| is_for_hub) {
            request = request.header("Authorization", token.header());
        }
        let unreachable = |reason: String| HubError::Unreachable { address: shown(&uri), reason };
        let (body, length) = match content {
            Content::Bytes(ref mut bytes) => {
                let length = bytes.len() as u64;
                (SendBody::from_reader(bytes), length)
            }
            Content::Reader(ref mut reader, length) => (SendBody::from_reader(reader), length),
        };
        let request = request.header("Content-Length", length).body(body);
        let request = request.map_err(|error| unreachable(error.to_string()))?;
        let answer = self.agent.run(request).map_err(|error| unreachable(reason(&error)))?;
        finished(shown(&uri), answer)
    }

    fn send(&self, ask: &Ask, uri: &Uri, to_hub: bool) -> Result<Response<Body>> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(uri.clone())
            .header("Accept-Encoding", "identity");
        if let Some(token) = self.token.as_ref().filter(|_| to_hub) {
            request = request.header("Authorization", token.header());
        }
        if ask.from > 0 {
            request = request.header("Range", format!("bytes={}-", ask.from));
            if let Some(tag) = ask.tag.as_ref().filter(|_| to_hub) {
                request = request.header("If-Range", tag);
            }
        }
        let unreachable = |reason: String| HubError::Unreachable { address: shown(uri), reason };
        let request = request.body(()).map_err(|error| unreachable(error.to_string()))?;
        let request = self.agent.configure_request(request).timeout_global(ask.within).build();
        self.agent.run(request).map_err(|error| unreachable(reason(&error)))
    }
}

/// How often it is looked whether somebody wants to stop.
const TICK: Duration = Duration::from_millis(50);

/// Between half and all of a pause, so that many clients do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + (random % 1000) as f64 / 2000.0)
}

/// What a person can make of a failure of the network.
pub(crate) fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "there is no such host".to_owned(),
        ureq::Error::Timeout(_) => "it took too long".to_owned(),
        ureq::Error::Io(error) => io_reason(error),
        other => other.to_string(),
    }
}

/// The same for a failure in the middle of an answer.
pub(crate) fn io_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "the connection was cut".to_owned(),
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => {
            "it took too long".to_owned()
        }
        _ => error.to_string(),
    }
}

fn finished(address: String, response: Response<Body>) -> Result<Answer> {
    let status = response.status().as_u16();
    if matches!(status, 408 | 425 | 429 | 500..) {
        let wait = response.headers().get("retry-after");
        let wait = wait.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        return Err(HubError::Busy { address, status, wait: wait.map(Duration::from_secs) });
    }
    let (parts, body) = response.into_parts();
    Ok(Answer { address, status, headers: parts.headers, body })
}

fn parse(address: &str) -> Result<Uri> {
    let malformed = || HubError::Unreachable {
        address: address.split('?').next().unwrap_or_default().to_owned(),
        reason: "this is not an http or https address".to_owned(),
    };
    let uri: Uri = address.parse().map_err(|_| malformed())?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    if web && uri.host().is_some() { Ok(uri) } else { Err(malformed()) }
}

/// Scheme, host and port: what a token is for.
fn origin(uri: &Uri) -> (Option<&str>, Option<String>, u16) {
    let port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    (uri.scheme_str(), uri.host().map(str::to_lowercase), uri.port_u16().unwrap_or(port))
}

/// An address without its query, which can hold a signature, and without a password.
fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().map_or(String::new(), |port| format!(":{port}"));
    format!("{scheme}://{host}{port}{}", uri.path())
}

/// Where a redirect leads.
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let authority = from.authority()?;
    let text = if location.starts_with("//") {
        format!("{}:{location}", from.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}://{authority}{location}", from.scheme_str()?)
    } else {
        location.to_owned()
    };
    parse(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::{origin, parse, resolve, shown};

    #[test]
    fn where_redirects_lead() {
        let from = parse("https://hub.test/a/b?token=1").expect("an address");
        let to = |text: &str| resolve(&from, text).map(|uri| shown(&uri));
        assert_eq!(to("/c").as_deref(), Some("https://hub.test/c"));
        assert_eq!(to("//cdn.test/c?sig=2").as_deref(), Some("https://cdn.test/c"));
        assert_eq!(to("http://hub.test:8080/c").as_deref(), Some("http://hub.test:8080/c"));
        assert_eq!(to("file:///etc/passwd"), None);
        assert_eq!(to(""), None);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| {
            origin(&parse(a).expect("an address")) == origin(&parse(b).expect("an address"))
        };
        assert!(same("https://hub.test/a", "https://HUB.test:443/b"));
        assert!(!same("https://hub.test", "http://hub.test"));
        assert!(!same("https://hub.test", "https://hub.test:444"));
        assert!(!same("https://hub.test", "https://hub.test.evil.test"));
    }
}
