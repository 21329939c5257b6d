//! `paraloom init`: what it writes is sound, and what is there stays.

use crate::common::Project;

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
fn the_quickstart_needs_nothing_else() {
    let project = Project::new("");
    let told = project.transcript(&["init", "q", "--template", "quickstart"]);
    assert!(told.contains("wrote q/quickstart-base/model.safetensors"), "{told}");
    // Its base model and texts are found, and are all that it needs.
    project.ok(&["run", "q/pipeline.yaml", "--until", "similar"]);
    project.ok(&["run", "q/pipeline.yaml", "--until", "base"]);
    let pipeline =
        std::fs::read_to_string(project.file("q/pipeline.yaml")).expect("it was written");
    assert!(!pipeline.contains("../") && !pipeline.contains("hf://"), "{pipeline}");
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

/// That what it writes compiles and works, `tests/stage.sh` sees.
#[test]
fn a_stage_to_start_from() {
    let project = Project::new("");
    let said = project.transcript(&["stages", "new", "mine/my-stage"]);
    insta::assert_snapshot!(said);
    let manifest = std::fs::read_to_string(project.file("mine/my-stage/Cargo.toml"));
    let manifest = manifest.expect("it was written");
    let sdk = format!("{:?}", concat!(env!("CARGO_MANIFEST_DIR"), "/engine/sdk"));
    insta::assert_snapshot!("a_stage_to_start_from_manifest", manifest.replace(&sdk, "[SDK]"));
    // The versions are those of the SDK.
    let ours = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let ours = ours.expect("it is there");
    for line in ["schemars = \"1.2\"", "serde = { version = \"1\""] {
        assert!(ours.contains(line) && manifest.contains(line), "{line}");
    }
    // Arrow is that of the SDK, so that there is one version of it.
    assert!(!manifest.contains("\narrow"), "{manifest}");
    let code = std::fs::read_to_string(project.file("mine/my-stage/src/lib.rs"));
    let code = code.expect("it was written");
    assert!(code.contains("About::new(\"my-stage\"") && code.contains("struct MyStage("), "{code}");
    assert!(!code.to_lowercase().contains("shout"), "{code}");

    let wrong: [&[&str]; 4] = [
        &["stages", "new", "mine/my-stage"],
        &["stages", "new", "Mine"],
        &["stages", "new", "load"],
        &["stages", "new", "other", "--sdk", "mine"],
    ];
    insta::assert_snapshot!(wrong.map(|args| project.transcript(args)).join("\n"));
    assert!(!project.file("load").exists() && !project.file("other").exists());
}

#[test]
fn shells_get_their_completions() {
    let project = Project::new("");
    for shell in ["bash", "zsh", "fish"] {
        let script = project.ok(&["completions", shell]);
        assert!(script.contains("paraloom") && script.contains("serve"), "{shell}: {script}");
    }
}
