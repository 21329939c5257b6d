//! The Jobs API of a cluster.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::{Package, RayError, Result};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Most bytes of an answer: the log of a job comes whole.
const MOST_ANSWER: u64 = 256 << 20;
/// Letters of an answer in a message.
const SHOWN: usize = 400;

/// A cluster, by the address of its dashboard.
pub struct Cluster {
    agent: Agent,
    address: String,
    token: Option<String>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cluster").field(&self.address).finish()
    }
}

/// A job to start.
#[derive(Clone, Debug)]
pub struct Submission<'a> {
    /// Its name, which no job before had.
    pub id: &'a str,
    /// The command line that the cluster runs in the unpacked package.
    pub entrypoint: &'a str,
    /// The name of an uploaded package.
    pub package: &'a str,
    /// What the dashboard says it is.
    pub title: &'a str,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// It waits, or works.
    Active,
    /// It has done all.
    Succeeded,
    /// It was asked to stop.
    Stopped,
    /// It failed, with what Ray says of it.
    Failed(String),
}

#[derive(Deserialize)]
struct Job {
    status: String,
    message: Option<String>,
}

impl Cluster {
    /// A cluster at an address such as `http://HEAD:8265`. With a token, if it wants one.
    pub fn new(address: &str, token: Option<String>) -> Self {
        let config =
            Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
        // A connection that is kept may be closed by the other side while the next request is on its way, and what starts a
        // job cannot be sent twice. There are few requests.
        let config = config.max_idle_connections(0).max_idle_connections_per_host(0);
        let address = address.trim_end_matches('/').to_owned();
        Self { agent: config.build().into(), address, token }
    }

    /// The version of Ray there.
    pub fn version(&self) -> Result<String> {
        let answer = self.get("/api/version")?;
        let (status, text) = read(answer)?;
        let other = |reason: String| RayError::Other { address: self.address.clone(), reason };
        if status != 200 {
            return Err(other(format!("it answers {status}")));
        }
        let answer: Value = serde_json::from_str(&text).map_err(|_| other(shown(&text)))?;
        let version = answer.get("ray_version").and_then(Value::as_str);
        version.map(str::to_owned).ok_or_else(|| other(shown(&text)))
    }

    /// Uploads a package unless it is there.
    pub fn upload(&self, package: &Package) -> Result<bool> {
        let path = format!("/api/packages/gcs/{}", package.name());
        let (status, _) = read(self.get(&path)?)?;
        if status == 200 {
            return Ok(false);
        }
        let request = self.agent.put(self.url(&path)).header("Authorization", self.authorization());
        let sent = request.send(package.bytes()).map_err(|error| self.unreachable(&error))?;
        self.checked("take the package", sent).map(|_| true)
    }

    /// Starts a job.
    ///
    /// # Errors
    /// Among others [`RayError::NotYet`] of a cluster that has just been started.
    pub fn submit(&self, job: &Submission) -> Result<()> {
        let body = json!({
            "submission_id": job.id,
            "entrypoint": job.entrypoint,
            "runtime_env": { "working_dir": format!("gcs://{}", job.package) },
            "metadata": { "job_name": job.title },
        });
        let started = self.post("/api/jobs/", &body);
        let started = started.and_then(|answer| self.checked("start the job", answer));
        started.map(drop).map_err(|error| match error {
            // The head answers before there is a process on it that starts jobs.
            RayError::Refused { reason, .. } if reason.contains("No available agent") => {
                RayError::NotYet { reason }
            }
            error => error,
        })
    }

    /// How far a job is.
    pub fn status(&self, id: &str) -> Result<JobStatus> {
        let answer = self.get(&format!("/api/jobs/{id}"))?;
        let text = self.checked("say how far the job is", answer)?;
        let job: Job = serde_json::from_str(&text).map_err(|error| RayError::Refused {
            action: "say how far the job is",
            reason: format!("{error}: {}", shown(&text)),
        })?;
        Ok(match job.status.as_str() {
            "SUCCEEDED" => JobStatus::Succeeded,
            "STOPPED" => JobStatus::Stopped,
            "FAILED" => JobStatus::Failed(job.message.unwrap_or_default()),
            _ => JobStatus::Active,
        })
    }

    /// All that a job has printed so far.
    pub fn logs(&self, id: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Logs {
            logs: Option<String>,
        }
        let text = self.checked("show the log", self.get(&format!("/api/jobs/{id}/logs"))?)?;
        let logs: Logs = serde_json::from_str(&text).map_err(|error| RayError::Refused {
            action: "show the log",
            reason: error.to_string(),
        })?;
        Ok(logs.logs.unwrap_or_default())
    }

    /// Asks a job to stop.
    pub fn stop(&self, id: &str) -> Result<()> {
        let answer = self.post(&format!("/api/jobs/{id}/stop"), &json!({}))?;
        self.checked("stop the job", answer).map(drop)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Without a token an empty one, which nobody looks at.
    fn authorization(&self) -> String {
        format!("Bearer {}", self.token.as_deref().unwrap_or_default())
    }

    fn get(&self, path: &str) -> Result<Response<Body>> {
        let request = self.agent.get(self.url(path)).header("Authorization", self.authorization());
        self.admitted(request.call().map_err(|error| self.unreachable(&error))?)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Response<Body>> {
        let request = self.agent.post(self.url(path)).header("Authorization", self.authorization());
        let request = request.header("Content-Type", "application/json");
        self.admitted(request.send(body.to_string()).map_err(|error| self.unreachable(&error))?)
    }

    fn unreachable(&self, error: &ureq::Error) -> RayError {
        RayError::Unreachable { address: self.address.clone(), reason: error.to_string() }
    }

    fn admitted(&self, answer: Response<Body>) -> Result<Response<Body>> {
        if matches!(answer.status().as_u16(), 401 | 403) {
            return Err(RayError::Token {
                address: self.address.clone(),
                has_token: self.token.is_some(),
            });
        }
        Ok(answer)
    }

    fn checked(&self, action: &'static str, answer: Response<Body>) -> Result<String> {
        let (status, text) = read(self.admitted(answer)?)?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        Err(RayError::Refused { action, reason: format!("{status}: {}", shown(&text)) })
    }
}

fn read(mut answer: Response<Body>) -> Result<(u16, String)> {
    let status = answer.status().as_u16();
    let text = answer.body_mut().with_config().limit(MOST_ANSWER).lossy_utf8(true).read_to_string();
    let text =
        text.map_err(|error| RayError::Refused { action: "answer", reason: error.to_string() })?;
    Ok((status, text))
}

/// The start of an answer, on one line.
fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// What is said of a submission that is answered so.
    fn submitted(status: u16, body: &str) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let answer = format!(
            "HTTP/1.1 {status} -\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("it asks");
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(answer.as_bytes()).expect("it reads");
        });
        let job = Submission { id: "a", entrypoint: "true", package: "p", title: "t" };
        let said = Cluster::new(&address, None).submit(&job);
        server.join().expect("it answers");
        said
    }

    /// A server that promises to keep its connections, and closes them.
    #[test]
    fn no_request_depends_on_the_connection_of_the_one_before() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().take(3) {
                let mut stream = stream.expect("it asks");
                let _ = stream.read(&mut [0; 4096]);
                let answer = "HTTP/1.1 200 -\r\nContent-Length: 2\r\n\r\n{}";
                stream.write_all(answer.as_bytes()).expect("it reads");
                // Until the next request is there, or the other side has closed it.
                let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(5)));
                let _ = stream.read(&mut [0; 4096]);
            }
        });
        let cluster = Cluster::new(&address, None);
        let job = Submission { id: "a", entrypoint: "true", package: "p", title: "t" };
        for _ in 0..3 {
            cluster.submit(&job).expect("it is taken");
        }
        server.join().expect("it answers");
    }

    #[test]
    fn a_cluster_that_starts_is_asked_again() {
        assert!(submitted(200, "{}").is_ok());
        let early = submitted(500, "No available agent to submit job, please try again later.");
        assert!(matches!(early, Err(RayError::NotYet { .. })), "{early:?}");
        let twice = submitted(500, "Job with submission_id a already exists.");
        assert!(matches!(twice, Err(RayError::Refused { .. })), "{twice:?}");
    }
}
