//! `paraloom diff`: what became of the rows of a table.

use crate::common::Project;

fn pipeline(shout: &str) -> String {
    format!(
        "paraloom: 1\nname: d\nvars: {{ least: 2 }}\nnodes:\n  rows: {{ stage: load, with: {{ from: rows.csv }} }}\n  \
         loud: {{ stage: derive, inputs: {{ rows: rows }}, with: {{ columns: {{ {shout} }} }} }}\n  \
         good: {{ stage: threshold, inputs: {{ rows: loud }}, with: {{ keep: 'n >= ${{least}}' }} }}\n"
    )
}

fn project() -> Project {
    let project = Project::new(&pipeline("shout: upper(text), size: length(text)"));
    project.write("rows.csv", "n,text\n1,one\n2,two\n3,three\n4,FOUR\n");
    project
}

/// Runs are named by the time and the process.
fn without_run(text: &str) -> String {
    let words = text.split_inclusive(' ').map(|word| match word.split_once(',') {
        Some((id, rest)) if id.contains('Z') && id.starts_with("20") => format!("[RUN],{rest}"),
        _ => word.to_owned(),
    });
    words.collect()
}

#[test]
fn rows_are_compared_by_their_ids() {
    let project = project();
    let mut all = String::new();
    let mut diff = |project: &Project, title: &str, args: &[&str]| {
        let said = project.transcript(&[&["diff", "p.yaml"], args].concat());
        all.push_str(&format!("=== {title}: {}\n", without_run(&said)));
    };
    diff(&project, "nothing has run", &["good"]);
    project.ok(&["run", "p.yaml"]);
    diff(&project, "misspelt", &["goood"]);
    diff(&project, "no other run", &["good"]);
    diff(&project, "not run so", &["good", "--before", "least=3"]);
    diff(&project, "no such variable", &["good", "--before", "most=3"]);
    diff(&project, "no such run", &["good", "--run", "yesterday"]);
    project.ok(&["run", "p.yaml", "--set", "least=3"]);
    diff(&project, "another value", &["good", "--before", "least=3"]);
    diff(&project, "the other way", &["good", "--before", "least=2", "--set", "least=3"]);
    // Another text, with other columns and values, and rows that are edited.
    project.write("p.yaml", &pipeline("shout: lower(text), many: n > 2"));
    project.ok(&["run", "p.yaml"]);
    diff(&project, "another text", &["loud"]);
    diff(&project, "as JSON", &["loud", "--json"]);
    diff(&project, "few rows", &["loud", "--limit", "1"]);
    project.write("rows.csv", "n,text\n1,one\n2,zwei\n3,three\n4,FOUR\n");
    project.ok(&["run", "p.yaml"]);
    diff(&project, "what it read is gone", &["loud"]);
    insta::assert_snapshot!(all);
}

/// Also in columns whose names begin like those of the engine.
#[test]
fn a_change_in_any_column_is_told() {
    let derived = |value: &str| pipeline(&format!("_note: {value}"));
    let project = Project::new(&derived("\"'null'\""));
    project.write("rows.csv", "n,text\n2,one\n3,two\n");
    project.ok(&["run", "p.yaml"]);
    project.write("p.yaml", &derived("\"trim(text)\""));
    project.ok(&["run", "p.yaml"]);
    let lines = project.ok(&["diff", "p.yaml", "good", "--json"]);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(
        lines.contains(r#""change":"changed","_note":{"before":"null","now":"one"}"#),
        "{lines}"
    );
}
