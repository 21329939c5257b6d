//! What the commands print, and what they say when something is wrong.

use std::path::Path;

use crate::common::{Project, tiny};

/// How it looks, and what the stages say themselves; all else is in `engine/pipeline/tests/cases`.
#[test]
fn broken_pipelines() {
    let data = "sentence1,sentence2,label\na,b,1\nc,d,0\n";
    let cases = [
        ("empty", ""),
        ("missing file", "paraloom: 1\nnodes: { a: { stage: load, with: { from: data.csv } } }"),
        (
            "missing column",
            "paraloom: 1\nnodes: { a: { stage: load, with: { from: d.csv, columns: { sentence: s } } } }",
        ),
        (
            "wrong kind",
            "paraloom: 1\nnodes:\n  pairs: { stage: load, with: { from: d.csv } }\n  t: { stage: finetune, inputs: { model: pairs, examples: pairs } }",
        ),
        (
            "bad condition",
            "paraloom: 1\nnodes:\n  pairs: { stage: load, with: { from: d.csv } }\n  t: { stage: threshold, inputs: { rows: pairs }, with: { keep: lable = 1 } }",
        ),
        (
            "condition of text",
            "paraloom: 1\nnodes:\n  pairs: { stage: load, with: { from: d.csv } }\n  t: { stage: threshold, inputs: { rows: pairs }, with: { keep: sentence1 >= 4 } }",
        ),
        (
            "several",
            "paraloom: 1\nnodes:\n  a: { stage: laod }\n  b: { stage: load, with: { from: d.csv, limit: x } }\n  c: { stage: threshold, inputs: { rows: nowhere }, with: {} }",
        ),
        (
            "alias bomb",
            "paraloom: 1\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\nnodes: *f",
        ),
    ];
    let mut all = String::new();
    for (name, text) in cases {
        let project = Project::new(text);
        project.write("d.csv", data);
        let transcript = project.transcript(&["check", "p.yaml"]);
        let lines: Vec<_> = transcript
            .lines()
            .map(|line| line.chars().take(160).collect::<String>().trim_end().to_owned())
            .collect();
        all.push_str(&format!("######## {name}\n{}\n\n", lines.join("\n")));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn odd_but_sound_pipelines() {
    let data = "sentence1,label\na,1\n";
    for text in [
        "\u{feff}paraloom: 1\r\nnodes:\r\n  a: { stage: load, with: { from: d.csv } }\r\n",
        "paraloom: 1\nvars: { n: 3 }\nnodes: { a: { stage: load, with: { from: d.csv, limit: '${n}' } } }",
        "# a comment\nparaloom: 1 # another\n---\n".trim_end_matches("---\n"),
    ] {
        let project = Project::new(&format!(
            "{text}{}",
            if text.contains("nodes") {
                ""
            } else {
                "nodes: { a: { stage: load, with: { from: d.csv } } }"
            }
        ));
        project.write("d.csv", data);
        project.ok(&["check", "p.yaml"]);
    }
}

#[test]
fn the_commands_of_a_finished_run() {
    let project = tiny();
    let planned = project.ok(&["plan", "p.yaml"]);
    insta::assert_snapshot!("plan_before", planned);
    project.ok(&["run", "p.yaml"]);
    insta::assert_snapshot!("graph", project.ok(&["graph", "p.yaml"]));
    insta::assert_snapshot!("mermaid", project.ok(&["graph", "p.yaml", "--format", "mermaid"]));
    let dot = project.ok(&["graph", "p.yaml", "--format", "dot"]);
    let svg = project.ok(&["graph", "p.yaml", "--format", "svg"]);
    assert!(dot.starts_with("digraph") && svg.starts_with("<svg") && svg.contains("qualified"));
    insta::assert_snapshot!("show", project.ok(&["show", "p.yaml", "corpus", "--limit", "3"]));
    insta::assert_snapshot!(
        "show_csv",
        project.ok(&["show", "p.yaml", "pairs", "--csv", "--limit", "2"])
    );
    let where_ =
        project.ok(&["show", "p.yaml", "corpus", "--json", "--where", "contains(source, 'fell')"]);
    assert_eq!(where_.lines().count(), 6);
    let kept = project.ok(&["show", "p.yaml", "qualified", "--json"]).lines().count();
    let rejected = project.ok(&["show", "p.yaml", "qualified.rejected", "--json"]).lines().count();
    assert_eq!(kept + rejected, 12);
    let status = project.ok(&["status", "p.yaml"]);
    assert!(status.contains("9 of 9 nodes are done") && status.contains("done in"), "{status}");
    let tried = project.ok(&["try", "p.yaml", "paraphrases", "costs rose 9 percent", "--json"]);
    let tried: serde_json::Value = serde_json::from_str(&tried).expect("one object");
    assert_eq!(tried["source"], "costs rose 9 percent");
    assert!(tried["paraphrase"].is_string());
    let row: serde_json::Value = project
        .ok(&["show", "p.yaml", "paraphrases", "--json", "--limit", "1"])
        .parse()
        .expect("one object");
    let id = row["_id"].as_str().expect("text");
    let trace: serde_json::Value =
        project.ok(&["trace", "p.yaml", "grammar", id, "--json"]).parse().expect("an array");
    let nodes: Vec<_> =
        trace.as_array().expect("an array").iter().map(|step| step["node"].clone()).collect();
    assert_eq!(nodes, ["grammar", "similarity", "paraphrases", "corpus"]);
    assert_eq!(trace[3]["row"]["source"], row["source"]);
    assert!(project.ok(&["runs"]).contains("tiny"));
    let gc = project.transcript(&["gc", "p.yaml"]);
    assert!(gc.contains("0 bytes could go"), "{gc}");
}

#[test]
fn pinned_results_stay_whatever_gc_is_told() {
    let project = Project::new(
        "paraloom: 1\nname: notes\nnodes:\n  corpus: { stage: load, with: { from: corpus.csv } }\n",
    );
    project.write("corpus.csv", "text\nsales rose\n");
    project.ok(&["run", "p.yaml"]);
    project.ok(&["pin", "p.yaml"]);
    project.ok(&["pin", "p.yaml", "--as", "v1"]);
    project.write("corpus.csv", "text\ncosts fell\n");
    project.ok(&["run", "p.yaml"]);
    let runs = project.ok(&["runs"]);
    assert!(
        runs.ends_with("pinned as notes: 1 results of notes\npinned as v1: 1 results of notes\n")
    );
    project.ok(&["unpin", "notes"]);
    let gc = project.transcript(&["gc", "p.yaml", "--delete"]);
    assert!(gc.contains("removed 0 bytes"), "{gc}");
    project.ok(&["unpin", "v1"]);
    let gc = project.transcript(&["gc", "p.yaml"]);
    assert!(!gc.contains("0 bytes could go") && gc.contains("could go"), "{gc}");
    let again = project.transcript(&["unpin", "v1"]);
    assert!(again.contains("nothing is pinned as `v1`"), "{again}");
    let name = project.transcript(&["pin", "p.yaml", "--as", "../v1"]);
    assert!(name.contains("`../v1` cannot be the name of a pin"), "{name}");
}

#[test]
fn wrong_commands() {
    let project = tiny();
    let mut all = String::new();
    for args in [
        &["show", "p.yaml", "corpus"][..],
        &["run"],
        &["run", "nowhere.yaml"],
        &["run", "p.yaml", "--until", "qualifed"],
        &["run", "p.yaml", "--set", "base=3"],
        &["try", "p.yaml", "custom", "x"],
        &["stages", "generat"],
        &["verify"],
    ] {
        all.push_str(&format!("######## {}\n{}\n", args.join(" "), project.transcript(args)));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_stage_that_fails_says_where() {
    let project = Project::new(
        "paraloom: 1\nname: bad\nnodes:\n  a: { stage: load, with: { from: d.csv } }\n  b: { stage: export, inputs: { rows: a } }\n",
    );
    let mut text = "n\n".to_owned();
    (0..10_001).for_each(|n| text.push_str(&format!("{n}\n")));
    project.write("d.csv", &(text + "many\n"));
    let transcript = project.transcript(&["run", "p.yaml"]);
    assert!(transcript.starts_with("exit 1"), "{transcript}");
    assert!(transcript.contains("d.csv:10003: `n` is `many`, not a whole number"), "{transcript}");
    assert!(transcript.contains("types: { n: text }"), "{transcript}");
}

/// A score that is missing or not a number never passes, and its row is kept with the reason.
#[test]
fn scores_that_are_no_numbers() {
    let pipeline = |keep: &str| {
        format!(
            "paraloom: 1\nname: scores\nnodes:\n  a: {{ stage: load, with: {{ from: d.csv }} }}\n  b: {{ stage: threshold, inputs: {{ rows: a }}, with: {{ keep: '{keep}' }} }}\n"
        )
    };
    let project = Project::new(&pipeline("stsb >= 4.0"));
    project.write("d.csv", "text,stsb\na,4.5\nb,NaN\nc,\nd,inf\ne,4.0 \nf,-inf\n");
    project.ok(&["run", "p.yaml"]);
    let kept = project.ok(&["show", "p.yaml", "b", "--csv"]);
    let rejected = project.ok(&["show", "p.yaml", "b.rejected", "--csv"]);
    project.write("p.yaml", &pipeline("not stsb < 4.0"));
    project.ok(&["run", "p.yaml"]);
    let negated = project.ok(&["show", "p.yaml", "b", "--csv"]);
    project.write("d.csv", "text,stsb\na,4.5\nb,\"4,0\"\n");
    let comma = project.transcript(&["run", "p.yaml"]);
    insta::assert_snapshot!([kept, rejected, negated, comma].join("\n"));
}

#[test]
fn what_is_made_of_the_stages_is_fresh() {
    let project = Project::new("");
    let made: [(&str, &[&str]); 2] = [
        ("schemas/pipeline.schema.json", &["schema"]),
        ("docs/stages.md", &["stages", "--markdown"]),
    ];
    for (file, command) in made {
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == project.ok(command), "`cargo xtask schemas` writes {file} anew");
    }
    insta::assert_snapshot!("stages_generate", project.ok(&["stages", "generate"]));
}

/// candidates.yaml takes seconds after the quickstart, since the model that both train is one.
#[test]
fn the_quickstart_trains_the_model_of_the_candidates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let node = |pipeline: &str, name: &str| {
        let path = root.join(format!("pipelines/{pipeline}.yaml"));
        let text = std::fs::read_to_string(path).expect("it is there");
        let (_, rest) = text.split_once(&format!("\n  {name}:")).expect("the node");
        let lines = rest.lines();
        let own = lines.enumerate().take_while(|(at, line)| *at == 0 || line.starts_with("   "));
        own.map(|(_, line)| line.to_owned()).collect::<Vec<_>>()
    };
    for name in ["base", "paws", "corpus", "t5p"] {
        assert_eq!(node("quickstart", name), node("candidates", name), "{name}");
    }
}

/// Every pipeline of the documents and of the project is sound, wherever its model and its data are.
#[test]
fn pipelines_that_are_shown_are_sound() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = Project::new("");
    project.write("corpus.csv", "text\nSales rose.\n");
    std::fs::create_dir(project.file("corpus")).expect("the directory is ours");
    project.write("corpus/business.csv", "text\nSales rose.\n");
    let mut count = 0;
    for page in ["README.md", "docs/pipelines.md", "docs/serving.md", "docs/hub.md"] {
        let text = std::fs::read_to_string(root.join(page)).expect("it is there");
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for pipeline in blocks.filter(|block| block.contains("paraloom: 1")) {
            project.write("p.yaml", pipeline);
            let said = project.transcript(&["check", "p.yaml"]);
            assert!(said.starts_with("exit 0"), "{page}: {said}");
            count += 1;
        }
    }
    assert!(count >= 2, "{count}");
    for pipeline in ["quickstart", "candidates", "pawraphrase"] {
        let path = root.join(format!("pipelines/{pipeline}.yaml"));
        let said = project.transcript(&["check", path.to_str().expect("text")]);
        assert!(said.starts_with("exit 0"), "{said}");
    }
}
