//! Third-party libraries work in isolated processes: whatever they do there is an error of their node at most.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{MODELS, Project, TABLES, c_library, kill_children, signal, tiny};

/// Rows that the stage `unruly` hands on, with `with` as its settings, and once more as it should.
fn pipeline(with: &str) -> String {
    format!(
        "paraloom: 1\nname: unruly\nnodes:\n  rows: {{ stage: load, with: {{ from: rows.csv }} }}\n  \
         n: {{ stage: unruly, inputs: {{ rows: rows }}, with: {{ {with} }} }}\n  \
         after: {{ stage: unruly, inputs: {{ rows: n }} }}\n"
    )
}

fn unruly(with: &str) -> Project {
    let project = Project::new(&pipeline(with));
    project.write("rows.csv", "text\none\ntwo\n");
    c_library(&project, "unruly");
    project
}

const STAGES: [&str; 2] = ["--stages", "libunruly.so"];

fn with_stages<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [args, &STAGES].concat()
}

/// Without times, numbers of threads, and what is up to the machine's settings.
fn same_everywhere(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("done ")) {
        match line.split_once("thread 'stage' (") {
            Some((before, after)) => {
                let after = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
                lines.push_str(&format!("{before}thread 'stage' ([NUMBER]{after}\n"));
            }
            None => lines.push_str(&format!("{line}\n")),
        }
    }
    lines.replace(" (core dumped)", "")
}

#[test]
fn what_ends_a_process_is_an_error_of_the_node() {
    let mut all = String::new();
    for when in ["plan", "open", "map"] {
        for how in ["segfault", "abort", "exit", "overflow", "memory"] {
            let project = unruly(&format!("how: {how}, when: {when}"));
            let said = project.transcript(&with_stages(&["run", "p.yaml"]));
            all.push_str(&format!("=== {how} in {when}: {}\n", same_everywhere(&said)));
            // What was done stays.
            project.write("p.yaml", &pipeline("how: not"));
            let again = project.transcript(&with_stages(&["run", "p.yaml"]));
            assert_eq!(again.contains("cached rows"), when != "plan", "{again}");
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn what_a_stage_prints_is_logged_and_not_taken_for_data() {
    let project = unruly("how: print, when: map");
    let events = project.ok(&with_stages(&["run", "p.yaml", "--json"]));
    for line in ["to stdout", "to stderr"] {
        let logged =
            format!("\"event\":\"log\",\"node\":\"n\",\"level\":\"info\",\"message\":\"{line}\"");
        assert!(events.contains(&logged), "{events}");
    }
    assert!(events.lines().all(|line| line.starts_with('{')), "{events}");
    let rows = project.ok(&with_stages(&["show", "p.yaml", "n", "--csv", "--columns", "text"]));
    assert_eq!(rows, "text\none\ntwo\n");
}

/// A run whose stage is in the middle of something, and the process that it works in.
fn hanging(project: &Project) -> (Child, PathBuf) {
    let mut run = project.command(&with_stages(&["run", "p.yaml", "--json"]));
    let mut run =
        run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let lines = BufReader::new(run.stdout.as_mut().expect("piped")).lines();
    let process = lines.map_while(Result::ok).find_map(|line| {
        let (_, process) = line.split_once("\"message\":\"process ")?;
        Some(Path::new("/proc").join(process.split('"').next()?))
    });
    let process = process.expect("it says its number");
    assert!(process.exists());
    (run, process)
}

fn ends_within(process: &Path, seconds: u64) {
    let started = Instant::now();
    while process.exists() {
        assert!(started.elapsed() < Duration::from_secs(seconds), "it is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_stage_that_hangs_is_ended_after_it_was_asked_to_stop() {
    let project = unruly("how: hang, when: map");
    let (run, process) = hanging(&project);
    signal(&run, libc::SIGINT);
    let output = run.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    assert!(!process.exists());
    let events = String::from_utf8_lossy(&output.stdout);
    assert!(events.contains("it did not stop within 10 s, so its process was ended"), "{events}");
}

/// Before the work begins there is nothing to lose: one signal is enough, whatever hangs.
#[test]
fn one_signal_ends_a_library_or_a_plan_that_hangs() {
    let cases = [
        ("how: hang, when: plan", "", "plan() of `n` (stage `unruly`)"),
        ("how: not", "hang", "libunruly.so to load"),
    ];
    std::thread::scope(|scope| {
        for (with, load, what) in cases {
            for sent in [libc::SIGINT, libc::SIGTERM] {
                scope.spawn(move || ended_while_it_waits(with, load, what, sent));
            }
        }
    });
}

fn ended_while_it_waits(with: &str, load: &str, what: &str, sent: i32) {
    let project = unruly(with);
    let mut run = project.command(&with_stages(&["run", "p.yaml"]));
    run.env("UNRULY_LOAD", load).stderr(Stdio::piped());
    let mut run = run.spawn().expect("the binary runs");
    let mut process = None;
    let lines = BufReader::new(run.stderr.as_mut().expect("piped")).lines();
    for line in lines.map_while(Result::ok) {
        if let Some(number) = line.strip_prefix("libunruly.so: process ") {
            process = Some(Path::new("/proc").join(number));
        }
        if line.contains("still waiting") {
            assert!(line.contains(what), "{line}");
            break;
        }
    }
    signal(&run, sent);
    assert_eq!(run.wait().expect("it ends").signal(), Some(sent), "{with}");
    ends_within(&process.expect("it said its number"), 10);
}

/// The rows are there: that the stage does not end is no reason to keep anybody waiting.
#[test]
fn a_stage_that_does_not_close_is_ended() {
    let project = unruly("how: hang, when: close");
    let started = Instant::now();
    let events = project.ok(&with_stages(&["run", "p.yaml", "--json"]));
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(events.contains("it did not stop within 10 s"), "{events}");
    let rows = project.ok(&with_stages(&["show", "p.yaml", "after", "--csv", "--columns", "text"]));
    assert_eq!(rows, "text\none\ntwo\n");
}

/// The processes that a stage has started end with it, also where it crashed or the engine is gone.
#[test]
fn what_a_stage_leaves_behind_is_ended() {
    for (how, code) in [("fork", 0), ("fork and crash", 1)] {
        let project = unruly(&format!("how: {how}, when: map"));
        let output = project.run(&with_stages(&["run", "p.yaml"]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{how}: {said}");
        assert_eq!(said.contains("(SIGABRT)"), code != 0, "{said}");
        let (_, helper) = said.split_once("helper ").expect("it says its number");
        let helper = Path::new("/proc").join(helper.lines().next().expect("a number"));
        ends_within(&helper, 10);
    }
    let project = unruly("how: fork and hang, when: map");
    let (mut run, process) = hanging(&project);
    run.kill().expect("it is ours");
    run.wait().expect("it ends");
    ends_within(&process, 10);
    let helper = std::fs::read_to_string(project.file("helper")).expect("it was written");
    ends_within(&Path::new("/proc").join(helper), 10);
}

/// A plan that no table can come of is refused before anything runs, and one that is another each time is not blamed on a file.
#[test]
fn a_plan_that_cannot_be_kept_is_refused() {
    for (how, what) in [
        (
            "no width",
            "column `_id` of table `rows` of `unruly` is FixedSizeBinary(0), which holds nothing",
        ),
        ("interval", "is Interval(MonthDayNano), which no table can hold"),
        ("zone", "and there is no time zone `Nowhere/Nope`"),
        ("book", "xxx ... 1040384 bytes left out"),
    ] {
        let project = unruly(&format!("how: {how}"));
        for command in ["check", "run"] {
            let said = project.transcript(&with_stages(&[command, "p.yaml"]));
            assert!(said.starts_with("exit 2") && said.contains(what), "{how}: {said}");
        }
    }
    let said = unruly("how: fickle").transcript(&with_stages(&["run", "p.yaml"]));
    let what = "plan() of stage `unruly` returned other columns, or another fingerprint";
    assert!(said.starts_with("exit 1") && said.contains(what), "{said}");
}

/// Rows of one id could not be told apart from then on.
#[test]
fn an_id_is_of_one_row() {
    for stage in ["unruly", "unruly-whole"] {
        let project = unruly("how: same ids");
        let text =
            pipeline("how: same ids").replacen("stage: unruly", &format!("stage: {stage}"), 1);
        project.write("p.yaml", &text);
        let said = project.transcript(&with_stages(&["run", "p.yaml"]));
        assert!(said.starts_with("exit 1") && said.contains("node `n`: "), "{stage}: {said}");
        let of_one_id = ["the same `_id`", "have the id `one`"];
        assert!(of_one_id.iter().any(|text| said.contains(text)), "{stage}: {said}");
    }
}

/// However much a stage prints, what is kept is bounded, and has the first and the last lines.
#[test]
fn a_flood_is_bounded() {
    for (how, first, last) in [
        ("flood", "\"line 0\"", "\"line 199999\""),
        ("long line", "xxx ... 2995904 bytes left out", "left out"),
    ] {
        let project = unruly(&format!("how: {how}, when: map"));
        let events = project.ok(&with_stages(&["run", "p.yaml", "--json"]));
        assert!(events.len() < 1 << 20, "{how}: {} bytes", events.len());
        assert!(events.contains(first) && events.contains(last), "{how}");
        let left_out = events.contains("lines left out") || how == "long line";
        assert!(left_out, "{how}: {events}");
    }
}

/// However many numbers a stage reports, those that are kept are bounded, and the last are among them.
#[test]
fn a_flood_of_numbers_is_bounded() {
    for isolation in [&[][..], &["--in-process"]] {
        let project = unruly("how: numbers, when: map");
        let mut arguments = with_stages(&["run", "p.yaml", "--json"]);
        arguments.extend(isolation);
        let events = project.ok(&arguments);
        assert!(events.len() < 4 << 20, "{isolation:?}: {} bytes", events.len());
        let last =
            |kind: &str| events.lines().rfind(|line| line.contains(kind)).unwrap_or_default();
        let (metric, progress) = (last("\"event\":\"metric\""), last("\"event\":\"progress\""));
        assert!(metric.contains("\"value\":49999.5,\"step\":99999"), "{isolation:?}: {metric}");
        assert!(progress.contains("\"done\":100000,"), "{isolation:?}: {progress}");
        assert_eq!(events.matches("more metrics than are recorded").count(), 1, "{isolation:?}");
    }
}

/// Also where there is no node yet whose log it could go to.
#[test]
fn a_flood_before_the_work_is_bounded() {
    for (with, load, first, last) in [
        ("how: flood, when: plan", "", "libunruly.so: line 0\n", "line 199999\n"),
        ("how: not", "flood", "libunruly.so: load 0\n", "load 199999\n"),
    ] {
        let project = unruly(with);
        let mut run = project.command(&with_stages(&["plan", "p.yaml"]));
        let output = run.env("UNRULY_LOAD", load).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}", &said[..said.len().min(1000)]);
        assert!(said.len() < 1 << 18, "{with}: {} bytes", said.len());
        assert!(said.contains(first) && said.contains(last), "{with}");
        assert!(said.contains("lines left out"), "{with}");
    }
}

/// What a stage says while it is closed, such as that its destructor panicked, is told, and its rows are done.
#[test]
fn what_is_said_at_the_end_is_told() {
    let project = unruly("how: say, when: close");
    let events = project.ok(&with_stages(&["run", "p.yaml", "--json"]));
    let place = |text: &str| events.find(text).unwrap_or_else(|| panic!("no {text}: {events}"));
    let said =
        place("\"event\":\"log\",\"node\":\"n\",\"level\":\"error\",\"message\":\"it panicked\"");
    assert!(said > place("\"event\":\"part\",\"node\":\"n\",\"rows\":2"), "{events}");
    assert!(said < place("\"event\":\"node_finished\",\"node\":\"n\""), "{events}");
    place("\"event\":\"run_finished\",\"outcome\":\"done\"");
}

/// Nothing can end a thread: the first signal says so, the second ends the run, and what was done stays.
#[test]
fn a_second_signal_ends_what_hangs_in_the_engine() {
    let project = unruly("how: hang, when: map");
    let mut run = project.command(&with_stages(&["run", "p.yaml", "--json", "--in-process"]));
    let mut run = run.stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(run.stdout.take().expect("piped")).lines();
    let mut wait_for = |text: &str| {
        let found = lines.any(|line| line.expect("text").contains(text));
        assert!(found, "{text}");
    };
    // The stage prints it, and no event does.
    wait_for("process ");
    signal(&run, libc::SIGINT);
    wait_for("a second signal ends the run at once");
    signal(&run, libc::SIGINT);
    let asked = Instant::now();
    assert_eq!(run.wait().expect("it ends").code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(2));
    project.write("p.yaml", &pipeline("how: not"));
    let again = project.transcript(&with_stages(&["run", "p.yaml"]));
    assert!(again.starts_with("exit 0") && again.contains("cached rows"), "{again}");
}

#[test]
fn a_stage_is_told_that_it_should_stop() {
    let project = unruly("how: wait, when: map");
    let mut run = project.command(&with_stages(&["run", "p.yaml", "--json"]));
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let mut lines = BufReader::new(run.stdout.as_mut().expect("piped")).lines();
    let started = "\"event\":\"node_started\",\"node\":\"n\"";
    assert!(lines.any(|line| line.expect("text").contains(started)));
    let asked = Instant::now();
    signal(&run, libc::SIGTERM);
    assert_eq!(run.wait().expect("it ends").code(), Some(143));
    assert!(asked.elapsed() < Duration::from_secs(2));
}

#[test]
fn no_process_outlives_the_engine() {
    let project = unruly("how: hang, when: open");
    let (mut run, process) = hanging(&project);
    run.kill().expect("it is ours");
    run.wait().expect("it ends");
    ends_within(&process, 10);
}

#[test]
fn what_a_stage_promises_is_tested() {
    let mut all = String::new();
    for how in ["not", "lonely", "moody", "segfault"] {
        let project = unruly(&format!("how: {how}, when: mark"));
        project.write("rows.csv", "text\none\ntwo!\n");
        let test = with_stages(&["stages", "test", "p.yaml", "n"]);
        project.ok(&with_stages(&["run", "p.yaml", "--until", "rows"]));
        all.push_str(&format!("=== {how}: {}\n", project.transcript(&test)));
    }
    // A whole stage, which must not depend on batches either.
    for (how, more) in [("not", &[][..]), ("batches", &[]), ("moody", &["--in-process"])] {
        let project = unruly("");
        let text =
            pipeline(&format!("how: {how}")).replacen("stage: unruly", "stage: unruly-whole", 1);
        project.write("p.yaml", &text);
        project.ok(&with_stages(&["run", "p.yaml", "--until", "rows"]));
        let test = with_stages(&[&["stages", "test", "p.yaml", "n"][..], more].concat());
        all.push_str(&format!("=== whole, {how}: {}\n", project.transcript(&test)));
    }
    let tiny = tiny();
    tiny.ok(&["run", "p.yaml", "--until", "t5p"]);
    let unready = tiny.transcript(&["stages", "test", "p.yaml", "paraphrases"]);
    all.push_str(&format!("=== too early: {unready}\n"));
    tiny.ok(&["run", "p.yaml", "--until", "corpus"]);
    all.push_str(&format!(
        "=== T5: {}\n",
        tiny.transcript(&["stages", "test", "p.yaml", "paraphrases"])
    ));
    all.push_str(&format!(
        "=== whole: {}\n",
        tiny.transcript(&["stages", "test", "p.yaml", "t5p"])
    ));
    insta::assert_snapshot!(all);
}

/// Where isolation gains nothing, there is none.
#[test]
fn a_library_can_be_loaded_into_the_engine() {
    let project = unruly("how: print, when: map");
    let run = with_stages(&["run", "p.yaml", "--in-process"]);
    assert!(project.ok(&run).starts_with("to stdout\n"));
    // Where it worked decides nothing.
    let plan = project.ok(&with_stages(&["plan", "p.yaml"]));
    assert!(plan.contains("nothing to do"), "{plan}");
    let crash = unruly("how: exit, when: map");
    let run = with_stages(&["run", "p.yaml", "--in-process"]);
    let said = crash.transcript(&run);
    assert!(
        said.starts_with("exit 0") && !said.contains("done n"),
        "it takes the engine along: {said}"
    );
}

#[test]
fn a_library_that_changes_meanwhile_is_not_used() {
    let project = unruly("how: pause, when: map");
    let mut run = project.command(&with_stages(&["run", "p.yaml", "--json"]));
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(run.stdout.as_mut().expect("piped")).lines();
    assert!(lines.any(|line| line.expect("text").contains("paused")));
    let mut other = std::fs::read(project.file("libunruly.so")).expect("it was compiled");
    other.push(0);
    std::fs::write(project.file("new.so"), other).expect("the directory is ours");
    std::fs::rename(project.file("new.so"), project.file("libunruly.so")).expect("it is there");
    project.write("go", "");
    let output = run.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("node `after`: ") && said.contains("it was changed while it was in use"),
        "{said}"
    );
}

/// An engine with the stages of texts, and those of T5 as somebody else's.
struct Apart(Project);

impl Apart {
    fn new() -> Self {
        let project = tiny();
        let built = Path::new(env!("CARGO_BIN_EXE_paraloom"));
        let beside = |name: &str| built.with_file_name(name);
        // Cargo puts the libraries there for this.
        project.ok(&["check", "p.yaml"]);
        for (from, to) in [
            (built.to_owned(), "engine/bin/paraloom"),
            (
                beside("libparaloom_stages_text.so"),
                "engine/lib/paraloom/stages/libparaloom_stages_text.so",
            ),
            (beside("libparaloom_stages_t5.so"), "t5.so"),
        ] {
            let to = project.file(to);
            std::fs::create_dir_all(to.parent().expect("a directory")).expect("it is ours");
            std::fs::copy(from, to).expect("they were built");
        }
        Self(project)
    }

    fn run(&self) -> Command {
        let mut command = Command::new(self.0.file("engine/bin/paraloom"));
        command.args(["run", "p.yaml", "--stages", "t5.so", "--checkpoint-every", "0", "--json"]);
        command.current_dir(self.0.path()).env("HF_HUB_OFFLINE", "1").stdout(Stdio::piped());
        command
    }

    /// A run in which `event` has come `times` times.
    fn run_until(&self, event: &str, times: usize) -> Child {
        let mut run = self.run().stderr(Stdio::piped()).spawn().expect("it runs");
        let lines = BufReader::new(run.stdout.as_mut().expect("piped")).lines();
        let came = lines.filter(|line| line.as_ref().expect("text").contains(event));
        assert_eq!(came.take(times).count(), times, "{event}");
        run
    }

    fn export(&self, result: &str) -> Vec<u8> {
        let mut export = Command::new(self.0.file("engine/bin/paraloom"));
        export.args(["export", "p.yaml", result, "--stages", "t5.so"]);
        exported(&self.0, export, result)
    }
}

/// A table or the weights of a model, by way of a file.
fn exported(project: &Project, mut export: Command, result: &str) -> Vec<u8> {
    let is_model = MODELS.contains(&result);
    let to = project.file(&format!("out/{result}{}", if is_model { "" } else { ".csv" }));
    let output = export.arg("--to").arg(&to).current_dir(project.path()).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(if is_model { to.join("model.safetensors") } else { to }).expect("it was written")
}

/// Training, checkpoints, models in and out, many inputs, scores: all of it goes through the socket, and comes out as it
/// does in the engine's own process, killed or not.
#[test]
fn t5_makes_the_same_bytes_in_processes_of_its_own() {
    let apart = Apart::new();
    let run = apart.run_until("\"event\":\"metric\",\"node\":\"t5p\"", 3);
    kill_children(&run);
    let output = run.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    let crash =
        "node `t5p`: the stage crashed in run(): its process ended before the work was done";
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(crash) && said.contains("signal: 9 (SIGKILL)"), "{said}");
    for (event, times) in [
        ("\"event\":\"metric\",\"node\":\"t5p\"", 5),
        ("\"event\":\"part\",\"node\":\"paraphrases\"", 1),
    ] {
        let mut run = apart.run_until(event, times);
        run.kill().expect("it is ours");
        run.wait().expect("it ends");
    }
    let output = apart.run().output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let here = tiny();
    here.ok(&["run", "p.yaml"]);
    for result in TABLES.into_iter().chain(MODELS) {
        let expected = exported(&here, here.command(&["export", "p.yaml", result]), result);
        assert!(apart.export(result) == expected, "{result}");
    }
}
