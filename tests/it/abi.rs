//! Stage libraries that are not ours: one in C, and files that are no libraries at all.

use crate::common::{Project, c_library};

#[test]
fn a_stage_in_c() {
    let project = Project::new(
        "paraloom: 1\nname: c\npart_rows: 10\nnodes:\n  n: { stage: count, with: { rows: 25 } }\n  \
         odd: { stage: threshold, inputs: { rows: n }, with: { keep: 'n % 2 = 1 and n > 20' } }\n",
    );
    let library = c_library(&project, "count");
    let stages = library.to_str().expect("text");
    project.ok(&["run", "p.yaml", "--stages", stages]);
    let rows =
        project.ok(&["show", "p.yaml", "odd", "--csv", "--columns", "n", "--stages", stages]);
    assert_eq!(rows, "n\n21\n23\n");
    // Equal rows would differ too: each has an id of its own.
    let ids = project.ok(&["show", "p.yaml", "n", "--csv", "--columns", "_id", "--stages", stages]);
    let mut ids: Vec<_> = ids.lines().skip(1).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 25);
    // The library is part of the key: another build of it runs again.
    let plan = project.ok(&["plan", "p.yaml", "--stages", stages]);
    assert!(plan.contains("nothing to do"), "{plan}");
    project.write(
        "p.yaml",
        "paraloom: 1\nname: c\nnodes:\n  n: { stage: count, with: { rows: 13 } }\n",
    );
    insta::assert_snapshot!(project.transcript(&["check", "p.yaml", "--stages", stages]));
}

#[test]
fn what_is_not_a_library_is_refused() {
    let project = Project::new("paraloom: 1\nnodes: { n: { stage: count, with: { rows: 3 } } }\n");
    let library = c_library(&project, "count");
    let whole = std::fs::read(&library).expect("it was just compiled");
    std::fs::write(project.file("cut.so"), &whole[..3000]).expect("the directory is ours");
    project.write("text.so", "not a library\n");
    let mut all = String::new();
    for name in ["cut.so", "text.so", "missing.so"] {
        let output = project.run(&["check", "p.yaml", "--stages", name]);
        assert_eq!(output.status.code(), Some(8), "{name}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let root = project.path().canonicalize().expect("it is there");
        all.push_str(&text.replace(root.to_str().expect("text"), "[DIR]"));
    }
    insta::assert_snapshot!(all);
}
