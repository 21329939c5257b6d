//! Models and data sets from a hub, through the real binary, against a local hub.

#[path = "../../engine/hub/tests/common/publish.rs"]
mod publish;
#[path = "../../engine/hub/tests/common/server.rs"]
mod server;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::common::{Project, tiny};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::Value;
use server::{Server, Trick};

const PAWRAPHRASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/pawraphrase.yaml");
const TOKEN: &str = "hf_endtoend";
const MODEL: &str = "models/google-t5/t5-base";
const PAWS: &str = "datasets/google-research-datasets/paws";

/// A random T5 that the product itself has made and exported: path and bytes of its files.
fn model() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let project = tiny();
        project.ok(&["run", "p.yaml", "--until", "blank"]);
        project.ok(&["export", "p.yaml", "blank", "--to", "model"]);
        let entries = std::fs::read_dir(project.file("model")).expect("it is exported");
        let mut files: Vec<_> = entries
            .flatten()
            .map(|entry| {
                let name = entry.file_name().into_string().expect("text");
                (name, std::fs::read(entry.path()).expect("it is there"))
            })
            .collect();
        files.sort();
        files
    })
}

/// Pairs in the form of PAWS, from `first` on; every third has label 0.
fn pairs(first: i32, count: i32) -> Vec<u8> {
    let numbers = || first..first + count;
    let text = |what: &str| -> ArrayRef {
        Arc::new(
            numbers()
                .map(|n| Some(format!("sales {what} {n} percent , it said .")))
                .collect::<StringArray>(),
        )
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int32Array::from_iter_values(numbers()))),
        ("sentence1", text("rose")),
        ("sentence2", text("grew by")),
        ("label", Arc::new(Int64Array::from_iter_values(numbers().map(|n| i64::from(n % 3 != 0))))),
    ];
    let rows = RecordBatch::try_from_iter(columns).expect("the columns have one length");
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).expect("a writer");
    writer.write(&rows).expect("memory takes everything");
    writer.close().expect("memory takes everything");
    bytes
}

/// A hub with the article's model and data set, and a place to run its pipeline.
struct Bench {
    server: Server,
    project: Project,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { server: Server::start(), project: Project::new("") };
        bench.serve_model(&[]);
        bench.serve_pairs(24);
        bench.project.write("corpus.csv", "text\nsales rose 3 percent\nsales fell 4 percent\n");
        bench
    }

    fn serve_model(&self, more: &[(&str, &[u8])]) -> String {
        let files = model().iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        let files: Vec<_> = files.chain(more.iter().copied()).collect();
        self.server.commit(MODEL, "main", &files)
    }

    fn serve_pairs(&self, count: i32) -> String {
        self.server.commit(
            PAWS,
            "main",
            &[
                ("README.md", b"PAWS"),
                ("labeled_final/train-00000-of-00002.parquet", &pairs(0, 12)),
                ("labeled_final/train-00001-of-00002.parquet", &pairs(12, count - 12)),
                ("labeled_final/test-00000-of-00001.parquet", &pairs(0, 3)),
            ],
        )
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.project.command(args);
        command
            .env("HF_ENDPOINT", &self.server.address)
            .env("HF_HOME", self.project.file("hf"))
            .env("HF_TOKEN", TOKEN)
            .env_remove("HF_HUB_OFFLINE");
        command
    }

    /// A command on the article's pipeline.
    fn article(&self, verb: &str, more: &[&str]) -> Command {
        let corpus = format!("corpus={}", self.project.file("corpus.csv").display());
        let mut args = vec![verb, PAWRAPHRASE, "--store", "store", "--set", &corpus];
        // A random model finds nothing acceptable.
        args.extend(["--set", "keep=stsb >= 0.0"]);
        args.extend(more);
        self.command(&args)
    }

    /// The card of a model that was made.
    fn card(&self, node: &str) -> String {
        let told = self.told(self.article("export", &[node, "--to", "out"]));
        assert!(told.starts_with("exit 0"), "{told}");
        std::fs::read_to_string(self.project.file("out/README.md")).expect("it is exported")
    }

    /// Exit code, stdout and stderr, without what differs from run to run.
    fn told(&self, mut command: Command) -> String {
        let output = command.output().expect("the binary runs");
        let text = format!(
            "exit {}\n{}{}",
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!text.contains(TOKEN), "{text}");
        // How long a download took.
        let line = |line: &str| match line.split_once(" in ") {
            Some((fetched, _)) if fetched.contains("fetched") => format!("{fetched}\n"),
            _ => format!("{line}\n"),
        };
        let text: String = text.lines().map(line).collect();
        let text = text.replace(&self.server.address, "http://hub.test");
        text.replace(self.project.path().to_str().expect("text"), "[DIR]")
    }

    /// The events of a run that must succeed.
    fn events(&self, more: &[&str]) -> Vec<Value> {
        let more: Vec<_> = ["--json"].iter().chain(more).copied().collect();
        let told = self.told(self.article("run", &more));
        assert!(told.starts_with("exit 0\n"), "{told}");
        told.lines().skip(1).filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn drop_cache(&self) {
        std::fs::remove_dir_all(self.project.file("hf")).expect("it is there");
    }

    /// The request lines since the last look.
    fn requests(&self) -> Vec<String> {
        self.server.seen().into_iter().map(|seen| seen.line).collect()
    }
}

/// The nodes or references that an event is about.
fn named<'a>(events: &'a [Value], event: &str, of: &str) -> Vec<&'a str> {
    let events = events.iter().filter(|found| found["event"] == event);
    let mut names: Vec<_> = events.filter_map(|event| event[of].as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn the_article_from_start_to_end() {
    let bench = Bench::new();
    let told = bench.told(bench.article("check", &[]));
    assert!(told.contains("which is not on this machine yet; `run` fetches it"), "{told}");
    assert!(bench.told(bench.article("plan", &[])).starts_with("exit 0"));
    assert!(bench.requests().is_empty(), "looking asks nobody");

    let events = bench.events(&[]);
    let card = bench.card("custom");
    assert!(card.contains("base_model: google-t5/t5-base"), "{card}");
    assert_eq!(
        named(&events, "fetch_finished", "reference"),
        [
            "hf://datasets/google-research-datasets/paws/labeled_final@main/train",
            "hf://google-t5/t5-base",
        ]
    );
    assert_eq!(named(&events, "node_finished", "node").len(), 9);
    let paws =
        events.iter().find(|event| event["event"] == "node_finished" && event["node"] == "paws");
    assert_eq!(paws.map(|event| &event["rows"]), Some(&Value::from(16)), "two thirds of two files");
    let seen = bench.server.seen();
    let bearer = format!("Bearer {TOKEN}");
    assert!(seen.iter().all(|seen| seen.headers.get("authorization") == Some(&bearer)));
    let row = bench.told(bench.article("show", &["paws", "--json", "--limit", "1"]));
    assert!(row.contains("sales rose 1 percent, it said."), "{row}");

    // Again: two questions to the hub, and no work.
    let told = bench.told(bench.article("run", &[]));
    assert!(told.contains("nothing to do: all 9 nodes are done"), "{told}");
    let asked = bench.requests();
    assert!(asked.len() == 2 && asked.iter().all(|line| line.contains("/revision/")), "{asked:?}");

    // Without the cache it is still done.
    bench.drop_cache();
    let told = bench.told(bench.article("plan", &[]));
    assert!(told.contains("nothing to do"), "{told}");
    let told = bench.told(bench.article("run", &[]));
    assert!(told.contains("nothing to do: all 9 nodes are done"), "{told}");
    assert!(!bench.project.file("hf").exists(), "nothing was fetched for it");

    // Without the network too, with a warning.
    let mut away = bench.article("run", &[]);
    away.env("HF_ENDPOINT", "http://127.0.0.1:9");
    let told = bench.told(away);
    assert!(told.contains("nothing to do") && told.contains("going on with commit"), "{told}");

    // A branch that moved to other rows: what hangs on it runs again, the model is not fetched.
    bench.serve_pairs(27);
    let events = bench.events(&[]);
    assert_eq!(named(&events, "fetch_finished", "reference").len(), 1);
    assert_eq!(named(&events, "node_cached", "node"), ["base", "corpus"]);
    let done = named(&events, "node_finished", "node");
    assert!(
        ["paws", "t5p", "paraphrases", "custom"].iter().all(|node| done.contains(node)),
        "{done:?}"
    );

    // A branch that moved, but not in what is used: the copy comes out the same, and no more
    // is computed.
    bench.serve_model(&[("README.md", b"a new README")]);
    let events = bench.events(&[]);
    let computed = events.iter().filter(|event| event["computed"].as_u64().is_some_and(|n| n > 0));
    assert_eq!(computed.filter_map(|event| event["node"].as_str()).collect::<Vec<_>>(), ["base"]);
}

const LOAD: &str = "\
paraloom: 1
name: loads
vars: { from: 'hf://datasets/google-research-datasets/paws/labeled_final/train', keep: 'label = 1' }
nodes:
  all: { stage: load, with: { from: '${from}' } }
  some: { stage: threshold, inputs: { rows: all }, with: { keep: '${keep}' } }
";

impl Bench {
    /// A command on a pipeline that loads a data set with all its columns.
    fn loads(&self, verb: &str, more: &[&str]) -> Command {
        self.project.write("p.yaml", LOAD);
        self.command(&[&[verb, "p.yaml"], more].concat())
    }
}

#[test]
fn columns_are_checked_before_any_stage_starts() {
    let bench = Bench::new();
    let guessed = bench.told(bench.loads("check", &[]));
    // The columns are known now, types and all: what was an error of ignorance is none.
    let wrong = bench.told(bench.loads("run", &["--set", "keep=labell = 1"]));
    let typed = bench.told(bench.loads("run", &["--set", "keep=label = 'yes'"]));
    assert!(
        !bench.project.file(".paraloom/results").read_dir().expect("a store").any(|_| true),
        "no stage has started"
    );
    insta::assert_snapshot!(format!("{guessed}\n{wrong}\n{typed}"));
    let told = bench.told(bench.loads("run", &[]));
    assert!(told.contains("16 kept, 8 rejected of 24"), "{told}");
    // The columns of what is done are known without the files.
    bench.drop_cache();
    let told = bench.told(bench.loads("plan", &[]));
    assert!(told.contains("nothing to do"), "{told}");
    let told = bench.told(bench.loads("show", &["all", "--json", "--limit", "1"]));
    assert!(told.contains("\"label\":0"), "{told}");
}

/// Damage is met when a result is read: too late to fetch what it was made of.
#[test]
fn a_damaged_result_whose_files_are_gone_is_made_again_by_the_next_run() {
    let bench = Bench::new();
    assert!(bench.told(bench.loads("run", &["--until", "all"])).starts_with("exit 0"));
    bench.drop_cache();
    let results = bench.project.file(".paraloom/results");
    let mut dirs = vec![results];
    while let Some(dir) = dirs.pop() {
        for path in dir.read_dir().expect("readable").map(|item| item.expect("readable").path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                let length = path.metadata().expect("it is there").len() as usize;
                std::fs::write(&path, vec![0; length]).expect("it is ours");
            }
        }
    }
    let told = bench.told(bench.loads("run", &[]));
    assert!(told.starts_with("exit 1") && told.contains("is not on this machine"), "{told}");
    assert!(told.contains("hint: run again: it is fetched then"), "{told}");
    let told = bench.told(bench.loads("run", &[]));
    assert!(told.contains("16 kept, 8 rejected of 24"), "{told}");
}

#[test]
fn what_is_said() {
    let bench = Bench::new();
    let from = |text: &str| bench.told(bench.loads("run", &["--set", &format!("from={text}")]));
    let mut all = String::new();
    for text in [
        "hf://datasets/google-research-datasets/paws/labeled_final/trian",
        "hf://datasets/google-research-datasets/paw/labeled_final/train",
        "hf://datasets/google-research-datasets/paws@v2/train",
        "hf://datasets/paws/train",
        "hf://google-t5/t5-base",
    ] {
        all.push_str(&format!("## {text}\n{}\n", from(text)));
    }
    let mut offline = bench.loads("run", &[]);
    offline.env("HF_HUB_OFFLINE", "1");
    all.push_str(&format!("## offline\n{}\n", bench.told(offline)));
    insta::assert_snapshot!(all);
    // What is in the cache can be used offline.
    assert!(bench.told(bench.loads("run", &[])).starts_with("exit 0"));
    std::fs::remove_dir_all(bench.project.file(".paraloom")).expect("it is there");
    bench.requests();
    let mut offline = bench.loads("run", &[]);
    offline.env("HF_HUB_OFFLINE", "1");
    let told = bench.told(offline);
    assert!(told.contains("16 kept, 8 rejected of 24"), "{told}");
    assert!(bench.requests().is_empty(), "offline asks nobody");
}

#[test]
fn ctrl_c_keeps_what_was_downloaded() {
    let bench = Bench::new();
    bench
        .server
        .play_always("GET /google-t5/t5-base/resolve", Trick::Slow(Duration::from_millis(100)));
    let mut child = bench.article("run", &[]).spawn().expect("the binary runs");
    let partial = || {
        let blobs = bench.project.file("hf/hub/models--google-t5--t5-base/blobs");
        let files = blobs.read_dir().into_iter().flatten().flatten();
        files
            .filter(|file| file.file_name().to_string_lossy().ends_with(".incomplete"))
            .any(|file| file.metadata().is_ok_and(|data| data.len() > 2000))
    };
    for _ in 0..600 {
        if partial() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = i32::try_from(child.id()).expect("a process id");
    #[expect(unsafe_code, reason = "there is no safe way to send a signal")]
    // SAFETY: the process is ours and not waited for yet.
    let sent = unsafe { libc::kill(pid, libc::SIGINT) };
    assert_eq!(sent, 0);
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert!(partial(), "what was transferred is kept");
    bench.server.stop_tricks();
    bench.server.seen();
    let told = bench.told(bench.article("run", &["--until", "base"]));
    assert!(told.starts_with("exit 0"), "{told}");
    let seen = bench.server.seen();
    assert!(seen.iter().any(|seen| seen.headers.contains_key("range")), "{seen:?}");
    assert!(!seen.iter().any(|seen| seen.line.contains("/paws/resolve")), "`base` needs no pairs");
}

/// What was downloaded is in a cache that the hub's own libraries read. PARALOOM_HUB_PYTHON names a Python that has them.
#[expect(clippy::print_stdout, reason = "a test that is left out says so")]
fn is_read_by_others(home: &Path, rows: &str) {
    let Some(python) = std::env::var_os("PARALOOM_HUB_PYTHON") else {
        println!(
            "skipped: datasets and huggingface_hub, because PARALOOM_HUB_PYTHON names no Python with them"
        );
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fidelity/published.py");
    let mut child = Command::new(python)
        .arg(script)
        .args(["acme/custom", "acme/rows", "train"])
        .env("HF_HOME", home)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(rows.as_bytes()).expect("Python reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A model and a table, published, and read again by a pipeline that has never seen them.
#[test]
fn what_is_published_is_what_others_read() {
    let server = Server::start();
    let project = tiny();
    project.ok(&["run", "p.yaml"]);
    let push = |args: &[&str]| {
        let mut command = project.command(&[&["push", "p.yaml"], args].concat());
        command
            .env_remove("HF_HUB_OFFLINE")
            .env("HF_ENDPOINT", &server.address)
            .env("HF_TOKEN", TOKEN)
            .env("HF_HOME", project.file("hf"));
        let output = command.output().expect("the binary runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, told) = push(&["custom", "--to", "hf://acme/custom", "--dry-run"]);
    assert!(
        done && told.contains("model.safetensors (") && told.contains("nothing was sent"),
        "{told}"
    );
    assert_eq!(server.was_made("models/acme/custom"), None);
    let (done, told) = push(&["custom", "--to", "hf://acme/custom", "--license", "mit"]);
    assert!(done && told.contains("sent: http") && !told.contains(TOKEN), "{told}");
    assert_eq!(server.was_made("models/acme/custom"), Some(true), "private, unless it is said");
    let card = server.files("models/acme/custom", "main").remove("README.md").expect("a card");
    assert!(card.starts_with(b"---\nlicense: mit\n"), "{}", String::from_utf8_lossy(&card));
    let (done, told) = push(&["custom", "--to", "hf://acme/custom"]);
    assert!(done && told.contains("nothing has changed"), "{told}");
    let (done, told) = push(&["qualified", "--to", "hf://datasets/acme/rows/train", "--public"]);
    assert!(done, "{told}");
    assert_eq!(server.was_made("datasets/acme/rows"), Some(false));

    project.write(
        "q.yaml",
        "paraloom: 1\nname: q\nnodes:\n  model: { stage: model, with: { from: \"hf://acme/custom\" } }\n  \
         rows: { stage: load, with: { from: \"hf://datasets/acme/rows/train\" } }\n",
    );
    let mut command = project.command(&["run", "q.yaml"]);
    command
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", &server.address)
        .env("HF_TOKEN", TOKEN)
        .env("HF_HOME", project.file("hf"));
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let texts = |pipeline: &str, node: &str| {
        project.ok(&["show", pipeline, node, "--columns", "paraphrase", "--json"])
    };
    let rows = texts("p.yaml", "qualified");
    assert_eq!(texts("q.yaml", "rows"), rows);
    is_read_by_others(&project.file("hf"), &rows);

    for (args, message) in [
        (vec!["qualified", "--to", "hf://acme/x"], "`qualified` is a table, not a model"),
        (vec!["custom", "--to", "hf://datasets/acme/x/train"], "`custom` is a model, not a table"),
        (vec!["--to", "hf://acme/x"], "which node's model or table"),
        (vec!["custom", "--to", "elsewhere"], "a store takes the results of all nodes"),
        (vec!["custom", "--to", "hf://acme"], "does not name a model"),
        (vec!["nobody", "--to", "hf://acme/x"], "nobody"),
    ] {
        let (done, told) = push(&args);
        assert!(!done && told.contains(message), "{told}");
    }
}
