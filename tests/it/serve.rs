//! `paraloom serve`, with the real stages and a model that a run has made.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Project, signal, tiny, tiny_with};
use serde_json::Value;

/// `paraloom serve` that is ready; killed if a test fails.
struct Serving {
    child: Child,
    stderr: BufReader<ChildStderr>,
    address: String,
}

impl Serving {
    fn start(project: &Project, args: &[&str]) -> Self {
        let all = [&["serve", "p.yaml", "--bind", "127.0.0.1:0"][..], args].concat();
        let mut child =
            project.command(&all).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).expect("text") > 0, "it ended: {said}");
            if let Some((_, address)) = line.trim().split_once(" at http://") {
                break address.to_owned();
            }
            said.push_str(&line);
        };
        Self { child, stderr, address }
    }

    /// Status and JSON of an answer to rows.
    fn rows(&self, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let length = body.len();
        let request = format!(
            "POST /v1/rows HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status.unwrap_or(0), serde_json::from_str(body).unwrap_or_default())
    }

    /// Sends a signal; exit code, and what it said until its end.
    fn end(mut self, by: i32) -> (Option<i32>, String) {
        signal(&self.child, by);
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).expect("text");
        (self.child.wait().expect("it ends").code(), said)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn table(project: &Project, table: &str) -> Vec<Value> {
    let rows = project.ok(&["show", "p.yaml", table, "--json"]);
    rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Rows with the ids of a run come out as they did in the run: sampled texts, scores and all, whoever asks beside them.
#[test]
fn it_gives_what_a_run_gives() {
    let project = tiny();
    project.ok(&["run", "p.yaml"]);
    let (corpus, kept) = (table(&project, "corpus"), table(&project, "qualified"));
    let rejected = table(&project, "qualified.rejected");
    assert!(!kept.is_empty() && kept.len() + rejected.len() == corpus.len());
    let serving = Serving::start(&project, &["qualified", "--threads", "1"]);
    let all = serde_json::json!({ "rows": corpus }).to_string();
    let (status, answer) = serving.rows(&all);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer, serde_json::json!({ "kept": kept, "rejected": rejected }));
    // One by one, at the same time.
    std::thread::scope(|scope| {
        let clients: Vec<_> = corpus
            .iter()
            .map(|row| {
                let body = serde_json::json!({ "rows": [row] }).to_string();
                let serving = &serving;
                scope.spawn(move || serving.rows(&body).1)
            })
            .collect();
        let mut alone = (Vec::new(), Vec::new());
        for client in clients {
            let answer = client.join().expect("an answer");
            alone.0.extend(answer["kept"].as_array().cloned().expect("rows"));
            alone.1.extend(answer["rejected"].as_array().cloned().expect("rows"));
        }
        assert_eq!(alone, (kept, rejected));
    });
    let (code, said) = serving.end(libc::SIGTERM);
    // Texts of this model end where they may.
    assert_eq!(code, Some(0));
    assert!(said.ends_with("\nstopped\n") && said.contains("(`max_new_tokens`)"), "{said}");
}

/// A node with another model gives what a node of the pipeline with that model gives, and its own with its own.
#[test]
fn models_are_served_side_by_side() {
    let again = "  again:\n    stage: generate\n    inputs: { model: custom, rows: corpus }\n    \
                 with: { prefix: 'paraphrase: ', sample: { top_k: 20, top_p: 0.95 }, max_new_tokens: 8 }\nshow:";
    let project = tiny_with("show:", again);
    project.ok(&["run", "p.yaml"]);
    let corpus = table(&project, "corpus");
    let start = |args: &[&str]| Serving::start(&project, &[args, &["--threads", "1"]].concat());
    let ask = |serving: &Serving, model: Value| {
        let body = serde_json::json!({ "rows": corpus, "model": model }).to_string();
        let (status, answer) = serving.rows(&body);
        assert_eq!(status, 200, "{answer}");
        answer["rows"].clone()
    };
    let (own, with_custom) = (table(&project, "paraphrases"), table(&project, "again"));
    assert_ne!(own, with_custom);
    let serving = start(&["paraphrases", "--model", "t5p,custom"]);
    assert_eq!(ask(&serving, Value::Null), Value::from(own.clone()));
    assert_eq!(ask(&serving, "custom".into()), Value::from(with_custom.clone()));
    let (code, said) = serving.end(libc::SIGTERM);
    assert_eq!(code, Some(0));
    assert!(said.contains(" by custom "), "the access log names the model: {said}");
    // As nodes, each with what it reads.
    let serving = start(&["again", "paraphrases"]);
    assert_eq!(ask(&serving, Value::Null), Value::from(with_custom));
    assert_eq!(ask(&serving, "paraphrases".into()), Value::from(own));
    let (status, answer) = serving.rows(r#"{"rows": [{"source": "a"}], "model": "t5p"}"#);
    assert_eq!((status, &answer["error"]["param"]), (404, &"model".into()), "{answer}");
    // The judge of a chain that writes nothing reads a model too.
    let serving = start(&["grammar", "--from", "similarity", "--model", "custom,blank"]);
    let row = r#"{"source": "sales rose", "paraphrase": "sales grew", "candidate": 1}"#;
    let scores = ["custom", "blank"].map(|model| {
        let (_, answer) = serving.rows(&format!(r#"{{"rows": [{row}], "model": "{model}"}}"#));
        answer["rows"][0]["stsb_mean"].as_f64().expect("a score")
    });
    assert!((scores[0] - scores[1]).abs() > 1e-6, "{scores:?}");
}

/// A request may set what the stages let it, and a request that does not gets what a run gives.
#[test]
fn a_request_may_change_settings() {
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "t5p"]);
    let serving = Serving::start(&project, &["grammar", "--threads", "1"]);
    let source = "sales rose 3 percent in the second quarter";
    let ask = |parameters: &str| {
        let row = format!(r#"{{"source": "{source}"}}"#);
        serving.rows(&format!(r#"{{"rows": [{row}], "parameters": {parameters}}}"#))
    };
    let texts = |parameters: &str| -> Vec<String> {
        let (status, answer) = ask(parameters);
        assert_eq!(status, 200, "{answer}");
        let rows = answer["rows"].as_array().expect("rows");
        rows.iter().map(|row| row["paraphrase"].as_str().expect("text").to_owned()).collect()
    };
    let as_in_the_run = texts("{}");
    let many = texts(r#"{"candidates": 5, "temperature": 1.5, "top_k": 0, "top_p": 1.0}"#);
    assert_eq!(many.len(), 5);
    assert!(many.iter().any(|text| *text != many[0]), "{many:?}");
    // Another seed draws others, the same seed the same.
    let drawn =
        |seed: u64| texts(&format!(r#"{{"temperature": 2.0, "top_k": 0, "seed": {seed}}}"#));
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
    let short = texts(r#"{"paraphrases.max_new_tokens": 2}"#);
    assert!(short[0].len() < 20, "{short:?}");
    assert_eq!(texts(r#"{"beams": 2, "candidates": 2}"#).len(), 2);
    // None of this changes what others get.
    assert_eq!(texts("{}"), as_in_the_run);
    for (parameters, said) in [
        (r#"{"temprature": 1}"#, "did you mean `temperature`?"),
        (r#"{"temperature": 0}"#, "`temperature`: 0 is too small: the least is 0.01"),
        (r#"{"temperature": "hot"}"#, "`temperature` must be a number, not text"),
        (r#"{"candidates": 65}"#, "`candidates`: 65 is too large: the most is 64"),
        (r#"{"candidates": 1.5}"#, "`candidates` must be a whole number"),
        (r#"{"beams": 2, "candidates": 3}"#, "3 candidates need as many beams"),
        (r#"{"temperature": 1, "beams": 2}"#, "say either `sample` or `beam`"),
        (r#"{"seed": -1}"#, "`seed`: -1 is too small"),
        (r#"{"precision": "bf16"}"#, "there is no parameter \"precision\""),
        (r#"{"seed": 1, "paraphrases.seed": 2}"#, "is given twice"),
    ] {
        let (status, answer) = ask(parameters);
        assert_eq!(status, 400, "{parameters}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(said), "{parameters}: {message}");
    }
    assert_eq!(serving.end(libc::SIGTERM).0, Some(0));
    // `try` goes the same way.
    let tried = |parameters: &[&str]| {
        let base = ["try", "p.yaml", "paraphrases", source, "--json"];
        let said = project.ok(&[&base[..], parameters].concat());
        said.lines().count()
    };
    assert_eq!(tried(&[]), 1);
    assert_eq!(tried(&["-P", "candidates=3", "-P", "temperature=1.1"]), 3);
}

/// A text that is longer than the model reads is told, and the threshold can be moved.
#[test]
fn what_was_cut_is_told() {
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "t5p"]);
    let serving = Serving::start(&project, &["qualified", "--threads", "1"]);
    let long = "sales rose ".repeat(400);
    let ask = |keep: &str| {
        let rows = format!(r#"[{{"source": "sales rose"}}, {{"source": "{long}"}}]"#);
        let parameters = format!(r#"{{"keep": {}, "max_new_tokens": 4}}"#, Value::from(keep));
        serving.rows(&format!(r#"{{"rows": {rows}, "parameters": {parameters}}}"#))
    };
    let (status, answer) = ask("stsb >= 0.0 or stsb < 0.0");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["kept"].as_array().map(Vec::len), Some(2), "{answer}");
    let warning = serde_json::json!({
        "code": "truncated",
        "output": "kept",
        "row": 1,
        "message": "a text was longer than a stage reads, and was cut"
    });
    assert_eq!(answer["_warnings"], serde_json::json!([warning]), "{answer}");
    assert!(answer["kept"][1].get("source_cut").is_none(), "{answer}");
    let (_, answer) = ask("stsb > 5.5");
    assert_eq!(answer["rejected"].as_array().map(Vec::len), Some(2), "{answer}");
    assert!(answer["rejected"][0]["reason"].as_str().is_some_and(|why| why.contains("5.5")));
    let (status, answer) = ask("stbs > 1");
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|what| what.contains("stsb")));
}

/// The best of several candidates, each of them once: among the rows of a request.
#[test]
fn the_best_of_a_request_can_be_served() {
    let project = Project::new(
        "paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
         long: { stage: derive, inputs: { rows: rows }, with: { columns: { size: length(text) } } }\n  \
         once: { stage: dedup, inputs: { rows: long }, with: { by: [text] } }\n  \
         best: { stage: rank, inputs: { rows: once }, with: { by: size, per: group } }\n",
    );
    project.write("rows.csv", "text,group\nlong enough,a\n");
    project.ok(&["run", "p.yaml", "--until", "rows"]);
    let serving = Serving::start(&project, &["best"]);
    let texts = |table: &Value| -> Vec<String> {
        let rows = table.as_array().expect("rows").iter();
        rows.map(|row| row["text"].as_str().expect("text").to_owned()).collect()
    };
    let rows = [("one", "a"), ("three", "a"), ("THREE", "a"), ("two", "b")];
    let rows = rows.map(|(text, group)| serde_json::json!({"text": text, "group": group}));
    for _ in 0..2 {
        let (status, answer) = serving.rows(&serde_json::json!({ "rows": rows }).to_string());
        assert_eq!(status, 200, "{answer}");
        assert_eq!(texts(&answer["kept"]), ["three", "two"], "{answer}");
        assert_eq!(texts(&answer["rejected"]), ["one"], "{answer}");
        assert_eq!(texts(&answer["once.rejected"]), ["THREE"], "{answer}");
    }
    let body = serde_json::json!({"rows": rows, "parameters": {"best.keep": 2}});
    let (status, answer) = serving.rows(&body.to_string());
    assert_eq!(status, 200, "{answer}");
    assert_eq!(texts(&answer["kept"]), ["one", "three", "two"], "{answer}");
    let (status, answer) =
        serving.rows(r#"{"rows":[{"text":"x","group":"a"}],"parameters":{"by":"sise"}}"#);
    assert_eq!(status, 400, "{answer}");
    assert_eq!(serving.end(libc::SIGTERM).0, Some(0));
}

/// A row that leaves before the last node is not gone.
#[test]
fn rows_that_leave_on_the_way_are_told() {
    let project = Project::new(
        "paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
         long: { stage: threshold, inputs: { rows: rows }, with: { keep: 'length(text) > 3' } }\n  \
         loud: { stage: derive, inputs: { rows: long }, with: { columns: { loud: upper(text) } } }\n",
    );
    project.write("rows.csv", "text\nlong enough\n");
    project.ok(&["run", "p.yaml", "--until", "rows"]);
    let serving = Serving::start(&project, &["loud"]);
    let (status, answer) = serving.rows(r#"{"rows":[{"text":"abc"},{"text":"abcd"}]}"#);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["rows"][0]["loud"], "ABCD", "{answer}");
    assert_eq!(answer["long.rejected"][0]["text"], "abc", "{answer}");
    assert!(
        answer["long.rejected"][0]["reason"].as_str().is_some_and(|why| why.contains("length"))
    );
    let (_, answer) = serving.rows(r#"{"rows":[{"text":"abcd"}]}"#);
    assert!(answer.get("long.rejected").is_none(), "{answer}");
    assert_eq!(serving.end(libc::SIGTERM).0, Some(0));
}

/// Only what the chain reads beside its rows has to be there.
#[test]
fn it_needs_the_models_and_nothing_else() {
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "t5p"]);
    let serving = Serving::start(&project, &["paraphrases"]);
    let (status, answer) = serving.rows(r#"{"rows": [{"source": "sales rose 3 percent"}]}"#);
    assert_eq!(status, 200, "{answer}");
    assert!(answer["rows"][0]["paraphrase"].is_string(), "{answer}");
    assert_eq!(serving.end(libc::SIGINT).0, Some(0));
    // The end of a chain, for texts of one's own.
    let serving = Serving::start(&project, &["grammar", "--from", "similarity"]);
    let row = r#"{"source": "sales rose", "paraphrase": "sales grew", "candidate": 1}"#;
    let (status, answer) = serving.rows(&format!(r#"{{"rows": [{row}]}}"#));
    assert_eq!(status, 200, "{answer}");
    assert!(answer["rows"][0]["stsb"].is_number() && answer["rows"][0]["cola"].is_string());
}

#[test]
fn what_cannot_be_served_is_said() {
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "pairs"]);
    let said = [
        &["nothing"][..],
        &["custom"],
        &["t5p"],
        &["paraphrases"],
        &["grammar", "--from", "corpus"],
        &["grammar", "--bind", "0.0.0.0:0"],
        &["grammar", "--bind", "localhost"],
        &["grammar", "--token-file", "no-such-file"],
        &["grammar", "--queue", "0"],
        &["grammar", "grammar"],
        &["grammar", "qualified", "--model", "t5p"],
        &["grammar", "qualified", "--from", "grammar"],
        &["qualified", "--from", "qualified", "--model", "t5p"],
        &["grammar", "--model", "custm"],
        &["grammar", "--model", "corpus"],
        &["grammar", "--model", "t5p.metrics"],
        &["grammar", "--model", "blank,custom"],
    ]
    .map(|args| {
        let all = [&["serve", "p.yaml", "--bind", "127.0.0.1:0"][..], args].concat();
        // The last of an option counts twice with clap: an address is given once only.
        let all =
            if args.contains(&"--bind") { [&["serve", "p.yaml"][..], args].concat() } else { all };
        format!("$ paraloom {}\n{}\n", args.join(" "), project.transcript(&all))
    });
    insta::assert_snapshot!(said.concat());
}

/// A signal ends it though a model is still loading or a client holds its connection open.
#[test]
fn an_open_connection_does_not_keep_it() {
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "t5p"]);
    let serving = Serving::start(&project, &["paraphrases"]);
    let held = TcpStream::connect(&serving.address).expect("it listens");
    let started = Instant::now();
    assert_eq!(serving.end(libc::SIGTERM).0, Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    drop(held);
}

/// A stage that crashes takes neither the server nor the next request along.
#[test]
#[cfg(target_os = "linux")]
fn a_crash_is_an_error_of_one_request() {
    for (how, said_of_it) in
        [("segfault", "signal: 11 (SIGSEGV)"), ("memory", "out of memory: 7 bytes")]
    {
        crash(how, said_of_it);
    }
}

#[cfg(target_os = "linux")]
fn crash(how: &str, said_of_it: &str) {
    let project = Project::new(&format!(
        "paraloom: 1\nname: s\nnodes:\n  rows: {{ stage: load, with: {{ from: rows.csv }} }}\n  \
         n: {{ stage: unruly, inputs: {{ rows: rows }}, with: {{ how: {how}, when: mark }} }}\n"
    ));
    project.write("rows.csv", "text\none\n");
    let library = crate::common::c_library(&project, "unruly");
    let stages = ["--stages", library.to_str().expect("text")];
    project.ok(&[&["run", "p.yaml"], &stages[..]].concat());
    let serving = Serving::start(&project, &[&["n"], &stages[..]].concat());
    for _ in 0..2 {
        let (status, answer) = serving.rows(r#"{"rows": [{"text": "stop!"}]}"#);
        assert_eq!(status, 500, "{answer}");
        let (status, answer) = serving.rows(r#"{"rows": [{"text": "go on"}]}"#);
        assert_eq!((status, &answer["rows"][0]["text"]), (200, &Value::from("go on")), "{answer}");
    }
    let (code, said) = serving.end(libc::SIGTERM);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(said_of_it), "{said}");
}

/// A row at which the stage panics costs its own request: a stage that has panicked is opened anew.
#[test]
fn a_row_that_makes_a_stage_panic_does_not_end_the_service() {
    let project = Project::new(
        "paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
         n: { stage: unruly, inputs: { rows: rows }, with: { how: panic }, on_error: reject }\n",
    );
    project.write("rows.csv", "text\none\ntwo!\nthree\nfour!\nfive\n");
    crate::common::c_library(&project, "unruly");
    for isolation in [&[][..], &["--in-process"]] {
        let with =
            |args: &[&'static str]| [args, &["--stages", "libunruly.so"], isolation].concat();
        let store = ["--store", if isolation.is_empty() { "apart" } else { "within" }];
        project.ok(&[with(&["run", "p.yaml"]), store.to_vec()].concat());
        let show = |table| {
            let show = [with(&["show", "p.yaml", table, "--csv", "--columns", "text"])];
            let shown = project.ok(&[show.concat(), store.to_vec()].concat());
            shown.lines().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(show("n"), "one three five", "{isolation:?}");
        assert_eq!(show("n.rejected"), "two! four!", "{isolation:?}");
        let serving = Serving::start(&project, &[with(&["n"]), store.to_vec()].concat());
        for _ in 0..3 {
            let (status, answer) = serving.rows(r#"{"rows":[{"text":"panic!"}]}"#);
            assert_eq!(status, 200, "{answer}");
            assert!(answer.to_string().contains("it panicked now"), "{answer}");
            let (status, answer) = serving.rows(r#"{"rows":[{"text":"fine"}]}"#);
            assert_eq!((status, &answer["rows"][0]["text"]), (200, &"fine".into()), "{answer}");
        }
        assert_eq!(serving.end(libc::SIGTERM).0, Some(0));
    }
}

/// A row that hangs costs its own request, and the process of the stage: the next request has another.
#[cfg(target_os = "linux")]
#[test]
fn a_row_that_hangs_ends_a_process_and_not_the_service() {
    let project = Project::new(
        "paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
         n: { stage: unruly, inputs: { rows: rows }, with: { how: hang, when: mark } }\n",
    );
    project.write("rows.csv", "text\none\n");
    crate::common::c_library(&project, "unruly");
    project.ok(&["run", "p.yaml", "--until", "rows", "--stages", "libunruly.so"]);
    let serving = Serving::start(&project, &["n", "--stages", "libunruly.so", "--timeout", "1"]);
    for _ in 0..2 {
        assert_eq!(serving.rows(r#"{"rows":[{"text":"hang!"}]}"#).0, 504);
        // While its process is ended, others may have to wait.
        let answered = (0..20).any(|_| serving.rows(r#"{"rows":[{"text":"fine"}]}"#).0 == 200);
        assert!(answered);
    }
    let (code, said) = serving.end(libc::SIGTERM);
    assert_eq!(code, Some(0), "{said}");
    let expected = "node `n`: the stage did not end in map(), over 1 row (`_id` ";
    assert!(
        said.contains(expected) && said.contains(") within 1 s, so its process was ended"),
        "{said}"
    );
}
