//! Who computes a result whose store is in a bucket: an object that its holder renews.
//!
//! A lease saves work; nothing depends on it. A holder that froze and comes back finds that the result was committed, or commits
//! what is the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Result;
use crate::remote::{Blob, Blobs, Remote};

/// A lease that was not renewed for so long is over. It is measured by who waits, so clocks need not agree.
const EXPIRY: Duration = Duration::from_secs(9);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(2);
/// How often somebody who waits looks again.
const PATIENCE: Duration = Duration::from_millis(500);

/// A lease that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    end: Option<Sender<()>>,
    renewal: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Body {
    /// Who has it, for messages.
    holder: String,
    /// What no other holder has.
    nonce: String,
    /// Grows with every renewal, so that each has other bytes: the version of an object can be a digest of them.
    renewed: u64,
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What was seen of a lease that somebody else has.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    version: String,
    holder: String,
    /// Since when it has not changed.
    since: Instant,
    looked: Instant,
}

impl Lease {
    /// Takes a lease, or says who has it. `seen` is what was seen of it before.
    pub(crate) fn take(
        remote: &Arc<Remote>,
        name: &str,
        holder: &str,
        nonce: String,
        seen: &mut Option<Seen>,
    ) -> Result<std::result::Result<Self, String>> {
        if let Some(seen) = seen
            && seen.looked.elapsed() < PATIENCE
        {
            return Ok(Err(seen.holder.clone()));
        }
        let body = Body { holder: holder.to_owned(), nonce, renewed: 0 };
        let created = remote.attempt("create", name, |blobs| blobs.create(name, &body.bytes()))?;
        if created {
            return Ok(Ok(Self::hold(remote, name, body)));
        }
        let found = remote.attempt("read", name, |blobs| blobs.get(name))?;
        // It was given back since.
        let Some(Blob { bytes, version }) = found else {
            return Ok(Err("a process that is just done".to_owned()));
        };
        let theirs: Option<Body> = serde_json::from_slice(&bytes).ok();
        if theirs.as_ref().is_some_and(|theirs| theirs.nonce == body.nonce) {
            return Ok(Ok(Self::hold(remote, name, body)));
        }
        let now = Instant::now();
        let since =
            seen.as_ref().filter(|seen| seen.version == version).map_or(now, |seen| seen.since);
        if since.elapsed() >= EXPIRY {
            let replace = |blobs: &dyn Blobs| blobs.replace(name, &version, &body.bytes());
            if remote.attempt("replace", name, replace)? {
                *seen = None;
                return Ok(Ok(Self::hold(remote, name, body)));
            }
        }
        let holder = theirs.map_or_else(|| "another process".to_owned(), |theirs| theirs.holder);
        *seen = Some(Seen { version, holder: holder.clone(), since, looked: now });
        Ok(Err(holder))
    }

    fn hold(remote: &Arc<Remote>, name: &str, body: Body) -> Self {
        let (end, ended) = channel();
        let (remote, name) = (Arc::clone(remote), name.to_owned());
        let renew = move || {
            let mut body = body;
            while ended.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                body.renewed += 1;
                // What fails now is tried again in time; a lease that is lost is somebody else's.
                let Ok(Some(found)) = remote.blobs().get(&name) else { continue };
                if !is_ours(&found, &body) {
                    return;
                }
                let _ = remote.blobs().replace(&name, &found.version, &body.bytes());
            }
            if remote
                .blobs()
                .get(&name)
                .is_ok_and(|found| found.is_some_and(|found| is_ours(&found, &body)))
            {
                let _ = remote.blobs().remove(&name);
            }
        };
        // Without a thread it is not renewed, and somebody else may do the same work.
        let renewal = std::thread::Builder::new().name("lease".to_owned()).spawn(renew).ok();
        Self { end: Some(end), renewal }
    }
}

/// Where those who use a store say that they do.
const PRESENCE: &str = "leases/";

/// How a process uses a store that is in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Beside others.
    Use,
    /// While nobody else may: to remove what is not needed.
    Alone,
}

impl Presence {
    fn prefix(self) -> &'static str {
        match self {
            Self::Use => "use-",
            Self::Alone => "alone-",
        }
    }

    /// Enters, or says who is there already: somebody who is alone, or for who wants to be alone anybody. Each enters first
    /// and looks then, so of two one sees the other. Whether somebody is there shows in a lease that is renewed: one that was
    /// killed is waited for until its lease is over, at most [`EXPIRY`].
    pub(crate) fn enter(
        self,
        remote: &Arc<Remote>,
        nonce: String,
    ) -> Result<std::result::Result<Lease, String>> {
        let host = crate::lock::holder();
        let own = format!(
            "{PRESENCE}{}{}",
            self.prefix(),
            Digest::of(format!("{host} {nonce}").as_bytes()).short()
        );
        let lease = match Lease::take(remote, &own, &host, nonce, &mut None)? {
            Ok(lease) => lease,
            Err(holder) => return Ok(Err(holder)),
        };
        // When each of the others was last renewed, as first seen.
        let mut seen = BTreeMap::new();
        loop {
            let listed = remote.list(PRESENCE)?;
            // By the clock of the bucket, which has just written ours.
            let now = listed.iter().find(|listed| listed.name == own).map(|listed| listed.modified);
            let mut is_waiting = false;
            for other in listed.iter().filter(|listed| self.excludes(&listed.name, &own)) {
                let (renewed, since) =
                    *seen.entry(other.name.clone()).or_insert((other.modified, Instant::now()));
                if renewed != other.modified {
                    // One that cannot be read was given back since.
                    let body = remote.get(&other.name)?;
                    let body: Option<Body> =
                        body.and_then(|body| serde_json::from_slice(&body).ok());
                    let Some(body) = body else { continue };
                    return Ok(Err(body.holder));
                }
                let was_over = now.is_some_and(|now| {
                    now.duration_since(renewed) > EXPIRY.try_into().unwrap_or_default()
                });
                if was_over || since.elapsed() > EXPIRY {
                    remote.remove(&other.name)?;
                } else {
                    is_waiting = true;
                }
            }
            if !is_waiting {
                return Ok(Ok(lease));
            }
            std::thread::sleep(PATIENCE);
        }
    }

    /// Whether one who is there so keeps this one out.
    fn excludes(self, other: &str, own: &str) -> bool {
        let alone = format!("{PRESENCE}{}", Self::Alone.prefix());
        other != own && (self == Self::Alone || other.starts_with(&alone))
    }
}

fn is_ours(found: &Blob, body: &Body) -> bool {
    serde_json::from_slice(&found.bytes).is_ok_and(|found: Body| found.nonce == body.nonce)
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(renewal) = self.renewal.take() {
            let _ = renewal.join();
        }
    }
}
