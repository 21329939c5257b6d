//! A row is computed once: a table that grew, or was edited, costs the rows that are new.

use crate::common::{Project, tiny};

/// Rows that a run computed, and rows that it took over, by node.
fn computed(project: &Project, node: &str) -> (u64, u64) {
    let log = project.ok(&["run", "p.yaml", "--json"]);
    let mut rows = (0, 0);
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON lines");
        let number = |name: &str| event[name].as_u64().unwrap_or_default();
        if event["node"] != node {
            continue;
        }
        match event["event"].as_str() {
            Some("part") => {
                rows.0 += number("rows") - number("reused");
                rows.1 += number("reused");
            }
            Some("part_found") => rows.1 += number("rows"),
            _ => {}
        }
    }
    rows
}

fn lines(project: &Project) -> Vec<String> {
    let text = std::fs::read_to_string(project.file("corpus.csv")).expect("it is there");
    text.lines().map(str::to_owned).collect()
}

fn edit(project: &Project, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines = lines(project);
    change(&mut lines);
    project.write("corpus.csv", &(lines.join("\n") + "\n"));
}

/// What a project without a past makes of the same files.
fn from_nothing(project: &Project, table: &str) -> String {
    let fresh = tiny();
    fresh.write("corpus.csv", &(lines(project).join("\n") + "\n"));
    fresh.ok(&["run", "p.yaml", "--until", "qualified"]);
    fresh.ok(&["show", "p.yaml", table, "--json"])
}

#[test]
fn rows_that_were_appended_put_in_or_moved_cost_themselves() {
    let project = tiny();
    assert_eq!(computed(&project, "paraphrases"), (12, 0));

    // Three rows at the end: the last part is full, so there is a new one.
    edit(&project, |rows| {
        rows.extend(
            ["prices rose 1 percent", "prices fell 2 percent", "wages rose"].map(String::from),
        );
    });
    insta::assert_snapshot!("appended", project.ok(&["plan", "p.yaml", "--read"]));
    assert_eq!(computed(&project, "paraphrases"), (3, 12));
    assert_eq!(
        project.ok(&["show", "p.yaml", "grammar", "--json"]),
        from_nothing(&project, "grammar")
    );

    // One row at the top moves all the others into other parts.
    edit(&project, |rows| rows.insert(1, "rents fell 9 percent".to_owned()));
    insta::assert_snapshot!("put_in", project.ok(&["plan", "p.yaml", "--read"]));
    assert_eq!(computed(&project, "similarity"), (1, 15));
    for table in ["paraphrases", "qualified", "qualified.rejected"] {
        assert_eq!(project.ok(&["show", "p.yaml", table, "--json"]), from_nothing(&project, table));
    }

    // The same rows in another order.
    edit(&project, |rows| rows[1..].reverse());
    insta::assert_snapshot!("moved", project.ok(&["plan", "p.yaml", "--read"]));
    assert_eq!(computed(&project, "grammar"), (0, 16));
    assert_eq!(
        project.ok(&["show", "p.yaml", "grammar", "--json"]),
        from_nothing(&project, "grammar")
    );
}

#[test]
fn a_file_that_was_saved_again_costs_nothing() {
    let project = tiny();
    project.ok(&["run", "p.yaml"]);
    let text = lines(&project).join("\r\n") + "\r\n";
    project.write("corpus.csv", &format!("\u{feff}{text}"));
    let again = project.ok(&["run", "p.yaml", "--json"]);
    assert!(!again.contains("\"event\":\"part\""), "only `load` works again: {again}");
    assert!(again.contains("\"event\":\"node_cached\",\"node\":\"custom\""), "{again}");
}
