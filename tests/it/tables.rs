//! The stages that sort rows out, one after the other, through the binary.

use crate::common::Project;
use serde_json::Value;

const PIPELINE: &str = "\
paraloom: 1
name: tables
seed: 3
part_rows: 4
nodes:
  seen: { stage: load, with: { from: seen.csv } }
  all: { stage: load, with: { from: all.csv } }
  measured:
    stage: derive
    inputs: { rows: all }
    with:
      columns:
        changed: 'edit_distance(lower(source), lower(text))'
        exact: 'same_numbers(source, text)'
  sound: { stage: threshold, inputs: { rows: measured }, with: { keep: 'exact and changed > 0' } }
  fresh:
    stage: dedup
    inputs: { rows: sound, against: { test: seen } }
    with: { by: [text], near: 0.8 }
  best: { stage: rank, inputs: { rows: fresh }, with: { by: changed, per: source } }
  halves: { stage: split, inputs: { rows: best }, with: { share: 0.5, by: source } }
  few: { stage: sample, inputs: { rows: best }, with: { rows: 2 } }
";

fn project() -> Project {
    let project = Project::new(PIPELINE);
    project.write("seen.csv", "text\nCosts went up by 4 percent.\n");
    let mut all = "source,text\n".to_owned();
    for (noun, percent) in [("Sales", 3), ("Costs", 4), ("Profits", 5)] {
        for text in [
            format!("{noun} went up by {percent} percent."),
            format!("{noun} went  up by {percent} Percent!"),
            format!("There was a rise of {percent} percent in {noun}."),
            format!("{noun} rose 9 percent."),
            format!("{noun} ROSE {percent} percent."),
        ] {
            all.push_str(&format!("{noun} rose {percent} percent.,{text}\n"));
        }
    }
    project.write("all.csv", &all);
    project
}

#[test]
fn rows_are_sorted_out_and_none_is_lost() {
    let project = project();
    project.ok(&["run", "p.yaml"]);
    let shown = |node: &str, columns: &str| {
        format!("{node}:\n{}", project.ok(&["show", "p.yaml", node, "--csv", "--columns", columns]))
    };
    insta::assert_snapshot!(
        [
            shown("sound.rejected", "text,reason"),
            shown("fresh", "text,changed"),
            shown("fresh.rejected", "text,reason"),
            shown("best", "text,changed,rank"),
            shown("best.rejected", "text,rank,reason"),
            shown("halves", "source"),
            shown("halves.held_out", "source"),
            shown("few", "source"),
            shown("few.rest", "source"),
        ]
        .join("\n")
    );
    // A row keeps its name from stage to stage, and the name in a reason is one that can be followed.
    let rows = |node: &str| -> Vec<Value> {
        let text = project.ok(&["show", "p.yaml", node, "--json"]);
        text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
    };
    let rejected = rows("fresh.rejected");
    let reason = rejected.iter().filter_map(|row| row["reason"].as_str());
    let mut other = reason.filter_map(|reason| reason.split(" similar to ").nth(1));
    let other = other.find(|name| !name.contains(' ')).expect("one is like another");
    let traced = project.ok(&["trace", "p.yaml", "fresh", other]);
    assert!(traced.contains("Profits went up by 5 percent."), "{traced}");
    for node in ["best", "halves", "few"] {
        let known: Vec<_> = rows("all").iter().map(|row| row["_id"].clone()).collect();
        assert!(rows(node).iter().all(|row| known.contains(&row["_id"])), "{node}");
    }
}

#[test]
fn what_is_wrong_is_told_where_it_stands() {
    let project = project();
    let wrong = PIPELINE
        .replace("lower(source), lower(text)", "lower(sorce), lower(txet)")
        .replace("by: [text], near: 0.8", "by: [txt], near: 80")
        .replace("per: source", "pro: source")
        .replace("share: 0.5", "share: half");
    project.write("p.yaml", &wrong);
    insta::assert_snapshot!(project.transcript(&["check", "p.yaml"]));
}

/// However the rows are cut into parts and batches, and whether or not a run was cut short: what comes out is the same.
#[test]
fn parts_decide_nothing() {
    let project = project();
    let shown = || -> Vec<String> {
        project.ok(&["run", "p.yaml"]);
        let nodes = ["fresh.rejected", "best", "halves.held_out", "few"];
        nodes.map(|node| project.ok(&["show", "p.yaml", node, "--json"])).into()
    };
    let first = shown();
    for part_rows in [1, 7, 100] {
        let pipeline = PIPELINE.replace("part_rows: 4", &format!("part_rows: {part_rows}"));
        project.write("p.yaml", &pipeline);
        assert_eq!(shown(), first, "{part_rows}");
    }
}
