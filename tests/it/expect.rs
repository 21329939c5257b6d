//! `expect`: what must hold of the tables that a run leaves.

use crate::common::Project;

const NODES: &str = "\
paraloom: 1
vars: { least: 3 }
nodes:
  rows: { stage: load, with: { from: rows.csv } }
  good: { stage: threshold, inputs: { rows: rows }, with: { keep: 'score >= 4' } }
  quality: { stage: evaluate, inputs: { rows: rows }, with: { mean: [score] } }
";

fn project(expect: &str) -> Project {
    let project = Project::new(&format!("{NODES}expect:\n{expect}"));
    project.write("rows.csv", "text,score\na,5\nb,4\nc,1\nd,\n");
    project
}

#[test]
fn what_holds_is_quiet_and_what_does_not_is_told_with_exit_code_4() {
    let holds = "\
- { node: good, least: 2, most: 2 }
- { node: good.rejected, most: '${least}' }
- { node: good, every: 'score > 3' }
- { node: quality, where: \"metric = 'mean score'\", every: 'value > 3.3 and value < 3.4' }
- { node: good, where: \"text = 'z'\", every: 'score > 100', least: 0 }
";
    let quiet = project(holds);
    let output = quiet.run(&["run", "p.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    let fails = "\
- { node: good, least: '${least}' }
- { node: good.rejected, most: 1 }
- { node: rows, every: 'score > 1' }
- { node: quality, where: \"metric = 'mean scores'\", every: 'value > 3' }
- { node: good, most: 2 }
";
    let project = project(fails);
    let told = |args: &[&str]| {
        let output = project.run(args);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(told(&["run", "p.yaml"]).0, Some(4));
    // All is done, so only the expectations are looked at; the results can be read.
    let (code, again) = told(&["run", "p.yaml"]);
    assert_eq!(code, Some(4));
    let (first, rest) = again.split_once('\n').expect("lines");
    assert!(first.starts_with("nothing to do"), "{first}");
    insta::assert_snapshot!(rest);
    project.ok(&["show", "p.yaml", "good", "--csv"]);
    let page = project.ok(&["report", "p.yaml", "--to", "-"]);
    assert!(
        page.contains("4 expectations are not met") && page.contains("at least 3 expected"),
        "{page}"
    );
    assert!(!quiet.ok(&["report", "p.yaml", "--to", "-"]).contains("not met"));
    assert_eq!(told(&["run", "p.yaml", "--json"]).0, Some(4));
    // Of nodes that were not asked for nothing is expected.
    assert_eq!(told(&["run", "p.yaml", "--until", "rows"]).0, Some(4));
    assert_eq!(told(&["run", "p.yaml", "--until", "rows", "--set", "least=2"]).0, Some(4));
    project.write("rows.csv", "text,score\na,5\nb,4\nc,4\n");
    assert_eq!(told(&["run", "p.yaml", "--until", "good", "--set", "least=3"]).0, Some(4));
    let (_, said) = told(&["run", "p.yaml", "--until", "good"]);
    assert!(said.contains("at most 2 expected") && !said.contains("quality"), "{said}");
}

#[test]
fn what_is_wrong_with_an_expectation_is_told_before_any_work() {
    let project = project("- { node: god, least: 2 }\n- { node: good, every: 'scor > 3' }\n");
    insta::assert_snapshot!(project.transcript(&["run", "p.yaml"]));
    assert!(!project.file(".paraloom").exists());
}
