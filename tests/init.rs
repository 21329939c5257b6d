//! `paraloom init`: what it writes is sound, and what is there stays.

mod common;

use common::Project;

#[test]
fn what_it_writes_is_sound() {
    let project = Project::new("");
    insta::assert_snapshot!(project.transcript(&["init", "new"]));
    // The hub's model and data are not here, and need not be.
    insta::assert_snapshot!(project.transcript(&["check", "new/pipeline.yaml"]));
    let schema = std::fs::read_to_string(project.file("new/pipeline.schema.json"));
    assert_eq!(schema.expect("it was written"), project.ok(&["schema"]));
    let pipeline = std::fs::read_to_string(project.file("new/pipeline.yaml"));
    let pipeline = pipeline.expect("it was written");
    for named in
        ["$schema=pipeline.schema.json", "corpus: corpus.csv", "paraloom run pipeline.yaml"]
    {
        assert!(pipeline.contains(named), "{named}");
    }
    assert!(!pipeline.contains("../"), "{pipeline}");
}

#[test]
fn what_is_there_stays() {
    let project = Project::new("");
    project.write("corpus.csv", "text\nmine\n");
    let said = project.transcript(&["init"]);
    assert!(said.starts_with("exit 2\n") && said.contains("corpus.csv is there already"), "{said}");
    let corpus = std::fs::read_to_string(project.file("corpus.csv"));
    assert_eq!(corpus.expect("it is there"), "text\nmine\n");
    assert!(!project.file("pipeline.yaml").exists());
}

#[test]
fn shells_get_their_completions() {
    let project = Project::new("");
    for shell in ["bash", "zsh", "fish"] {
        let script = project.ok(&["completions", shell]);
        assert!(script.contains("paraloom") && script.contains("serve"), "{shell}: {script}");
    }
}
