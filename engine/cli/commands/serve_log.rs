//! The access log of `serve`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use jiff::Timestamp;
use paraloom_serve::{Access, AccessLog};
use serde_json::json;

use crate::args::AccessFormat;
use crate::error::Result;
use crate::render;

/// Lines that wait to be printed. What comes when there are more is counted and left out: a terminal that stands still does not
/// hold up the server.
const WAITING: usize = 4096;
/// How long the last lines are waited for.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Prints what is told of requests, on a thread of its own.
pub(crate) struct AccessPrinter {
    log: Option<AccessLog>,
    printed: Receiver<()>,
}

impl AccessPrinter {
    pub(crate) fn start(format: AccessFormat) -> Result<Self> {
        let (done, printed) = sync_channel(1);
        if format == AccessFormat::Off {
            return Ok(Self { log: None, printed });
        }
        let (lines, waiting) = sync_channel::<(Timestamp, Access)>(WAITING);
        let left_out = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&left_out);
        std::thread::Builder::new().name("access log".to_owned()).spawn(move || {
            for (at, access) in waiting {
                let left_out = counted.swap(0, Ordering::Relaxed);
                if left_out > 0 {
                    render::note(&format!("{left_out} requests are not in this log"));
                }
                render::note(&line(format, at, &access));
            }
            let _ = done.send(());
        })?;
        Ok(Self { log: Some(logger(lines, left_out)), printed })
    }

    /// Takes what is to be printed.
    pub(crate) fn log(&self) -> Option<AccessLog> {
        self.log.clone()
    }

    /// Waits for the last lines.
    pub(crate) fn finish(self) {
        if self.log.is_some() {
            drop(self.log);
            let _ = self.printed.recv_timeout(LAST_LINES);
        }
    }
}

fn logger(lines: SyncSender<(Timestamp, Access)>, left_out: Arc<AtomicU64>) -> AccessLog {
    Arc::new(move |access| {
        if lines.try_send((Timestamp::now(), access.clone())).is_err() {
            left_out.fetch_add(1, Ordering::Relaxed);
        }
    })
}

fn line(format: AccessFormat, at: Timestamp, access: &Access) -> String {
    let Access { id, peer, method, path, status, problem, rows, models, took } = access;
    let peer = peer.map(|peer| peer.to_string());
    let ms = took.as_secs_f64() * 1e3;
    if format == AccessFormat::Json {
        let mut line = json!({
            "time": format!("{at:.3}"),
            "request_id": id,
            "client": peer,
            "method": method,
            "path": path,
            "status": status,
            "error": problem,
            "rows": rows,
            "ms": (ms * 1e3).round() / 1e3,
        });
        if !models.is_empty() {
            line["models"] = json!(models);
        }
        return line.to_string();
    }
    let peer = peer.as_deref().unwrap_or("-");
    let problem = problem.map(|problem| format!(" {problem}")).unwrap_or_default();
    let rows = if *rows > 0 { format!(" {rows} rows") } else { String::new() };
    let by = if models.is_empty() { String::new() } else { format!(" by {}", models.join(",")) };
    // A path has what a client wrote.
    let path = render::printable(path).replace(['\n', '\t'], " ");
    format!("{at:.3} {peer} {method} {path} {status}{problem}{rows}{by} {ms:.1} ms {id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_line() {
        let at: Timestamp = "2026-11-29T12:00:00.1234Z".parse().expect("a time");
        let good = Access {
            id: "abc".to_owned(),
            peer: Some([127, 0, 0, 1].into()),
            method: "POST".to_owned(),
            path: "/v1/rows".to_owned(),
            status: 200,
            problem: None,
            rows: 3,
            models: Vec::new(),
            took: Duration::from_micros(12_345),
        };
        let bad = Access {
            peer: None,
            path: "/\u{1b}[2Jx".to_owned(),
            status: 404,
            problem: Some("not_found"),
            rows: 0,
            ..good.clone()
        };
        let said = [&good, &bad].map(|access| line(AccessFormat::Line, at, access));
        assert_eq!(
            said,
            [
                "2026-11-29T12:00:00.123Z 127.0.0.1 POST /v1/rows 200 3 rows 12.3 ms abc",
                "2026-11-29T12:00:00.123Z - POST /\\u{1b}[2Jx 404 not_found 12.3 ms abc",
            ]
        );
        let said: serde_json::Value =
            serde_json::from_str(&line(AccessFormat::Json, at, &bad)).expect("JSON");
        assert_eq!(said["error"], "not_found");
        assert!(said.get("models").is_none());
        let of_two = Access { models: vec!["base".to_owned(), "custom".to_owned()], ..good };
        let said = line(AccessFormat::Line, at, &of_two);
        assert!(said.contains(" 200 3 rows by base,custom 12.3 ms "), "{said}");
        let said: serde_json::Value =
            serde_json::from_str(&line(AccessFormat::Json, at, &of_two)).expect("JSON");
        assert_eq!(said["models"], json!(["base", "custom"]));
        let said: serde_json::Value =
            serde_json::from_str(&line(AccessFormat::Json, at, &bad)).expect("JSON");
        assert_eq!((&said["client"], &said["ms"]), (&json!(null), &json!(12.345)));
    }
}
