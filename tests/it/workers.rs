//! Several workers on one store give what one run gives, whatever becomes of them.
//!
//! In a bucket too, where `PARALOOM_MOTO` names moto's server of S3, and `PARALOOM_AZURITE` and `PARALOOM_GOOGLE` the addresses of Azurite
//! and of tests/bucket/google_storage.py with a container `bucket`; tests/bucket/run.sh sees to them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common::{Lots, MODELS, Project, TABLES, results, signal, tiny};

/// An object store of our own.
enum Bucket {
    S3 { server: Child, port: u16 },
    Azure { address: String },
    Google { address: String },
}

impl Bucket {
    /// Those that are at hand.
    fn all() -> Vec<Self> {
        let azure = std::env::var("PARALOOM_AZURITE").ok().map(|address| Self::Azure { address });
        let google = std::env::var("PARALOOM_GOOGLE").ok().map(|address| Self::Google { address });
        Self::s3().into_iter().chain(azure).chain(google).collect()
    }

    fn s3() -> Option<Self> {
        let program = PathBuf::from(std::env::var_os("PARALOOM_MOTO")?);
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        let mut server = Command::new(program);
        server.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let server =
            server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("moto's server");
        let bucket = Self::S3 { server, port };
        let made = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            put(port, "/bucket").is_some_and(|answer| answer.contains(" 200 "))
        });
        assert!(made, "the server of moto does not answer");
        Some(bucket)
    }

    /// The address of something in a bucket of this kind.
    fn url(&self, path: &str) -> String {
        match self {
            Self::S3 { .. } => format!("s3://{path}"),
            Self::Azure { .. } => format!("az://{path}"),
            Self::Google { .. } => format!("gs://{path}"),
        }
    }

    /// Lets a command know where it is. `machine` names the directory for copies.
    fn set<'a>(
        &self,
        command: &'a mut Command,
        project: &Project,
        machine: &str,
    ) -> &'a mut Command {
        match self {
            Self::S3 { port, .. } => command
                .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
                .env("AWS_ACCESS_KEY_ID", "key")
                .env("AWS_SECRET_ACCESS_KEY", "a secret that nothing tells")
                .env("AWS_REGION", "us-east-1"),
            // With the account and the key that everybody knows.
            Self::Azure { address } => command
                .env("AZURE_STORAGE_USE_EMULATOR", "true")
                .env("AZURITE_BLOB_STORAGE_URL", address),
            // The key of an account names the server, and that it asks for no token.
            Self::Google { address } => {
                let key = serde_json::json!({
                    "private_key": "a secret that nothing tells", "private_key_id": "id",
                    "client_email": "a@b", "disable_oauth": true, "gcs_base_url": address,
                });
                command
                    .env("GOOGLE_SERVICE_ACCOUNT_KEY", key.to_string())
                    .env("GOOGLE_ALLOW_HTTP", "true")
            }
        }
        .env("PARALOOM_CACHE", project.file(machine))
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Self::S3 { server, .. } = self {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn put(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

const STORE: &str = "bucket/store";

fn worker(project: &Project, bucket: Option<&Bucket>, index: usize) -> Child {
    let store = bucket.map_or_else(|| ".paraloom".to_owned(), |bucket| bucket.url(STORE));
    let shard = format!("{index}/3");
    let mut command = project.command(&[
        "worker",
        "p.yaml",
        "--store",
        &store,
        "--shard",
        &shard,
        "--threads",
        "1",
    ]);
    if let Some(bucket) = bucket {
        bucket.set(&mut command, project, &format!("machine-{index}"));
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

fn end(child: Child) -> Output {
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn workers_on_one_directory_do_what_a_run_does() {
    let straight = tiny();
    straight.ok(&["run", "p.yaml"]);
    let expected = results(&straight, &TABLES, &MODELS);
    let mut lots = Lots::new();
    for _ in 0..crate::common::scale("PARALOOM_PAIRS", 3) {
        let project = tiny();
        let mut workers: Vec<_> = (0..3).map(|index| worker(&project, None, index)).collect();
        std::thread::sleep(Duration::from_millis(lots.draw() % 600));
        let mut killed = workers.remove(0);
        signal(&killed, 9);
        killed.wait().expect("it is ours");
        workers.into_iter().for_each(|child| drop(end(child)));
        assert!(results(&project, &TABLES, &MODELS) == expected);
        let told = project.ok(&["plan", "p.yaml", "--json"]);
        assert!(!told.contains("\"state\":\"partial\""), "{told}");
    }
}

#[test]
fn a_shard_is_one_of_those_that_there_are() {
    let project = tiny();
    let told = project.transcript(&["worker", "p.yaml", "--shard", "3/3"]);
    assert!(told.contains("of 3 workers the last has the number 2"), "{told}");
}

/// A worker is killed, and one freezes; the third makes do, on machines that have nothing in common but the bucket.
#[test]
fn workers_on_a_bucket_do_what_a_run_does() {
    Bucket::all().iter().for_each(workers_on);
}

fn workers_on(bucket: &Bucket) {
    let (url, other) = (&*bucket.url(STORE), &*bucket.url("bucket/other"));
    let straight = tiny();
    straight.ok(&["run", "p.yaml"]);
    let expected = results(&straight, &TABLES, &MODELS);
    let mut lots = Lots::new();
    let project = tiny();
    let mut workers: Vec<_> = (0..3).map(|index| worker(&project, Some(bucket), index)).collect();
    std::thread::sleep(Duration::from_millis(200 + lots.draw() % 1_500));
    let (mut killed, mut frozen) = (workers.remove(0), workers.remove(0));
    signal(&killed, 9);
    killed.wait().expect("it is ours");
    signal(&frozen, 19);
    end(workers.remove(0));
    signal(&frozen, 18);
    let output = {
        frozen.wait().expect("it is ours");
        end(frozen)
    };
    assert!(!String::from_utf8_lossy(&output.stderr).contains("a secret"));

    let on_a_new_machine = |args: &[&str]| -> String {
        let mut command = project.command(args);
        let output = bucket.set(&mut command, &project, "new").output().expect("the binary runs");
        let (out, told) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {told}");
        format!("{out}{told}")
    };
    let told = on_a_new_machine(&["run", "p.yaml", "--store", url]);
    assert!(told.contains("nothing to do: all 9 nodes are done"), "{told}");
    on_a_new_machine(&["verify", "--store", url]);
    let runs = on_a_new_machine(&["runs", "--store", url]);
    assert!(runs.contains("tiny"), "{runs}");
    let rows = on_a_new_machine(&["show", "p.yaml", "qualified", "--json", "--store", url]);
    assert!(rows.as_bytes() == expected["qualified"], "{rows}");
    let id = rows.split('"').nth(3).expect("the first is the id");
    on_a_new_machine(&["trace", "p.yaml", "qualified", id, "--store", url]);
    on_a_new_machine(&["pin", "p.yaml", "--as", "kept", "--store", url]);
    let told = on_a_new_machine(&["gc", "--older-than", "0s", "--delete", "--store", url]);
    assert!(told.contains("removed"), "{told}");
    on_a_new_machine(&["unpin", "kept", "--store", url]);
    let told = on_a_new_machine(&["pull", "p.yaml", "--from", url]);
    assert!(told.contains("copied 9 results"), "{told}");
    assert!(results(&project, &TABLES, &MODELS) == expected);
    let told = on_a_new_machine(&["push", "p.yaml", "--to", other]);
    assert!(told.contains("copied 9 results"), "{told}");
    let told = on_a_new_machine(&["run", "p.yaml", "--store", other]);
    assert!(told.contains("nothing to do: all 9 nodes are done"), "{told}");
    let told = on_a_new_machine(&["gc", "--older-than", "0s", "--delete", "--store", url]);
    assert!(told.contains("removed"), "{told}");
    let told = on_a_new_machine(&["plan", "p.yaml", "--store", url]);
    assert!(!told.contains("done"), "{told}");
}

#[test]
fn what_is_wrong_with_a_bucket_is_said() {
    for bucket in &Bucket::all() {
        let project = tiny();
        let said = |args: &[&str]| {
            let mut command = project.command(args);
            bucket.set(&mut command, &project, "machine");
            let output = command.output().expect("the binary runs");
            assert!(!output.status.success(), "{args:?}");
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        // Commands that only look must not take a bucket that is not there for an empty store.
        let nowhere = &*bucket.url("nowhere/a");
        for command in ["run", "plan", "runs", "verify"] {
            let pipeline = ["run", "plan"].contains(&command).then_some("p.yaml");
            let args: Vec<_> = [Some(command), pipeline, Some("--store"), Some(nowhere)]
                .into_iter()
                .flatten()
                .collect();
            let told = said(&args);
            assert!(
                told.contains(nowhere)
                    && told.contains("there is no bucket or container of this name"),
                "{command}: {told}"
            );
            assert!(told.contains("make it first"), "{command}: {told}");
        }
        let told = said(&["run", "p.yaml", "--store", &bucket.url("key:a-secret@bucket/a")]);
        assert!(told.contains("may not hold credentials") && !told.contains("a-secret"), "{told}");
    }
}

/// Wherever they are: in the address of a server, or with the line break that a file of a secret often ends with.
#[test]
fn credentials_of_a_bucket_are_not_told() {
    let project = tiny();
    let endpoint = "http://user:a-secret@127.0.0.1:9";
    for (name, value, what) in [
        ("AWS_ENDPOINT_URL", endpoint, "http://127.0.0.1:9/bucket"),
        (
            "AWS_SESSION_TOKEN",
            "a-secret\n",
            "the value of AWS_SESSION_TOKEN ends with a line break",
        ),
    ] {
        let mut command = project.command(&["run", "p.yaml", "--store", "s3://bucket/a"]);
        command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "a-secret").env("AWS_SECRET_ACCESS_KEY", "a-secret");
        command.env("PARALOOM_CACHE", project.file("copies"));
        let output = command.env(name, value).output().expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(what), "{told}");
        assert!(!told.contains("a-secret") && !told.contains("panicked"), "{told}");
    }
}

#[test]
fn an_address_of_another_kind_is_refused() {
    let project = tiny();
    let told = project.transcript(&["run", "p.yaml", "--store", "ftp://bucket/a"]);
    assert!(told.contains("write s3://, gs:// or az://"), "{told}");
    for address in ["http://user:a-secret@head:8265", "http://head:8265/?token=a-secret"] {
        let told = project.transcript(&[
            "run",
            "p.yaml",
            "--on",
            "ray",
            "--address",
            address,
            "--store",
            "s3://bucket/a",
        ]);
        assert!(told.contains("may not hold credentials"), "{told}");
    }
    let there_is_none = project.transcript(&["show", "p.yaml", "pairs", "--store", "ftp://a/b"]);
    assert!(there_is_none.contains("ftp://a/b"), "{there_is_none}");
}
