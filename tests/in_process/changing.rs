//! Files that change while a pipeline is checked, runs, or is looked at.

use std::path::Path;
use std::sync::Mutex;

use crate::common::Project;
use paraloom_exec::{Cancel, Job, RunError, RunOptions, Summary, Workspace, run};
use paraloom_store::{Event, Logged, Outcome, Store};

const PIPELINE: &str = "\
paraloom: 1
name: changing
nodes:
  rows: { stage: load, with: { from: rows.csv } }
  good: { stage: threshold, inputs: { rows: rows }, with: { keep: 'n > 1' } }
expect: [ { node: good, least: 3 } ]
";

/// Checks the pipeline, does `before`, and runs it; `during` sees every event.
fn run_with(
    project: &Project,
    before: &dyn Fn(),
    during: &(dyn Fn(&Logged) + Sync),
) -> Result<Summary, RunError> {
    let host = crate::common::shipped_host(Path::new(crate::common::paraloom().get_program()));
    let workspace = Workspace::new(host, project.path(), PIPELINE, &project.file("hub"));
    let (graph, problems) = workspace.check(&[], &|_| None);
    let graph = graph.unwrap_or_else(|| panic!("{problems:?}"));
    before();
    let store = Store::create(&project.file(".paraloom")).expect("a store");
    let job = Job {
        graph: &graph,
        nodes: graph.order(),
        host: &workspace.host,
        store: &store,
        text: PIPELINE,
        set: &[],
    };
    let options = RunOptions::default();
    run(&job, &options, &Cancel::default(), during)
}

fn project() -> Project {
    let project = Project::new(PIPELINE);
    project.write("rows.csv", "n,text\n1,a\n2,b\n3,c\n");
    project
}

/// What a run says of its tables is said of those that it made, whatever has become of the files meanwhile.
#[test]
fn a_run_judges_what_it_made() {
    for change in ["appended", "removed"] {
        let project = project();
        let verdicts = Mutex::new(Vec::new());
        let during = |logged: &Logged| match &logged.event {
            Event::NodeFinished { node, .. } if node == "good" => match change {
                "appended" => project.write("rows.csv", "n,text\n1,a\n2,b\n3,c\n4,d\n5,e\n"),
                _ => std::fs::remove_file(project.file("rows.csv")).expect("it is there"),
            },
            Event::Expectation { met, message, .. } => {
                verdicts.lock().expect("no panic").push((*met, message.clone()));
            }
            Event::RunFinished { outcome, .. } => assert_eq!(*outcome, Outcome::Unmet),
            _ => {}
        };
        let summary = run_with(&project, &|| {}, &during).expect("it is done");
        let unmet = summary.verdicts.iter().filter_map(|verdict| verdict.unmet.as_ref());
        let unmet: Vec<_> = unmet.map(|unmet| unmet.message.as_str()).collect();
        assert_eq!(unmet, ["2 rows of `good`, and at least 3 expected"], "{change}");
        let told = Some("2 rows of `good`, and at least 3 expected".to_owned());
        assert_eq!(verdicts.into_inner().expect("no panic"), [(false, told)]);
    }
}

/// Between the check and the work: rows count as they are read, and other columns need another check.
#[test]
fn a_file_that_changes_after_the_check_is_read_as_it_is_or_refused() {
    let project = project();
    let more = || project.write("rows.csv", "n,text\n1,a\n2,b\n3,c\n4,d\n");
    let summary = run_with(&project, &more, &|_| {}).expect("it is done");
    assert!(summary.verdicts.iter().all(|verdict| verdict.unmet.is_none()));
    project.ok(&["run", "p.yaml"]);
    assert_eq!(project.ok(&["show", "p.yaml", "good", "--json"]).lines().count(), 3);
    let other = || project.write("rows.csv", "n,text,tag\n1,a,x\n2,b,y\n");
    let error = run_with(&project, &other, &|_| {}).expect_err("another check is needed");
    assert_eq!(error.to_string(), "node `rows`: what it reads changed while it was read");
    // Nothing of it was kept under a wrong key.
    project.write("rows.csv", "n,text,tag\n1,a,x\n5,b,y\n6,c,z\n7,d,z\n");
    project.ok(&["run", "p.yaml"]);
    assert!(project.ok(&["show", "p.yaml", "good", "--json"]).contains("\"tag\":\"y\""));
}

/// What the file has become was read by an earlier run, with other columns: its table is there, and does not fit what was checked.
#[test]
fn a_file_that_becomes_what_it_was_is_read_with_its_own_columns() {
    let project = project();
    let (numbers, texts) = ("n,text\n1,a\n2,b\n3,c\n", "n,text\nx,a\ny,b\n");
    project.write(
        "p.yaml",
        "paraloom: 1\nname: changing\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n",
    );
    project.write("rows.csv", texts);
    project.ok(&["run", "p.yaml"]);
    project.write("rows.csv", numbers);
    let back = || project.write("rows.csv", texts);
    let error = run_with(&project, &back, &|_| {}).expect_err("another check is needed");
    assert_eq!(error.to_string(), "node `rows`: what it reads changed while it was read");
    project.write("rows.csv", numbers);
    let summary = run_with(&project, &|| {}, &|_| {}).expect("it is done");
    assert_eq!(summary.verdicts.len(), 1);
}

/// Operators who read the log next morning see what was not as expected.
#[test]
fn what_is_not_as_expected_is_told_by_every_command() {
    let project = project();
    let output = project.run(&["run", "p.yaml", "--json"]);
    assert_eq!(output.status.code(), Some(4));
    let events = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(events.contains(r#""event":"expectation","table":"good","met":false"#), "{events}");
    assert!(events.contains(r#""event":"run_finished","outcome":"unmet""#), "{events}");
    // With nothing to do it is told again.
    let again = project.run(&["run", "p.yaml", "--json"]);
    assert_eq!(again.status.code(), Some(4));
    let told = "2 rows of `good`, and at least 3 expected";
    for command in [&["runs"][..], &["status", "p.yaml"], &["plan", "p.yaml"]] {
        let said = project.ok(command);
        assert!(said.contains("not as expected") && said.contains(told), "{command:?}: {said}");
    }
    assert!(project.ok(&["report", "p.yaml", "--to", "-"]).contains("and at least 3 expected"));
}
