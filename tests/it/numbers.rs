//! Numbers at the edge, through the real binary: training that diverges, data that is empty or huge, and rows that must
//! not depend on how they were computed.

use crate::common::{Project, TINY, tiny};

/// The tiny pipeline with something in place of something else.
fn changed(from: &str, to: &str) -> Project {
    assert!(TINY.contains(from), "{from}");
    let project = tiny();
    project.write("p.yaml", &TINY.replace(from, to));
    project
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn training_that_diverges_stops_at_the_step_and_says_the_way_out() {
    // Decay and rate multiply every weight by -99 in each step, until they overflow.
    let diverging = "learning_rate: 10.0, weight_decay: 10.0, schedule: constant, clip: 0.0";
    let project = changed("learning_rate: 0.01", diverging);
    let output = project.run(&["run", "p.yaml"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("step ") && message.contains("lower the learning rate"), "{message}");
    // Nothing passes for a result, and nothing stands in the way of the next run.
    assert_eq!(project.run(&["show", "p.yaml", "t5p.metrics"]).status.code(), Some(1));
    let plan = project.ok(&["plan", "p.yaml"]);
    assert!(!plan.lines().any(|line| line.contains("t5p") && line.contains("cached")), "{plan}");
    assert!(project.run(&["verify"]).status.success());
    project.write("p.yaml", TINY);
    project.ok(&["run", "p.yaml"]);
}

#[test]
fn nothing_to_learn_from_is_an_error_and_one_row_is_enough() {
    let project = tiny();
    let finetune = "steps: 3, batch_size: 4";
    for (rows, learns) in
        [("", false), ("sales rose\tsales grew\n", true), ("sales rose\t\n", false)]
    {
        project.write("few.tsv", &format!("source\ttarget\n{rows}"));
        let text = TINY
            .replace(
                "inputs: { model: blank, examples: pairs }",
                "inputs: { model: blank, examples: few }",
            )
            .replace("epochs: 6, batch_size: 4", finetune)
            .replace("  blank:\n", "  few: { stage: load, with: { from: few.tsv } }\n  blank:\n");
        project.write("p.yaml", &text);
        let output = project.run(&["run", "p.yaml", "--until", "t5p"]);
        let message = stderr(&output);
        assert_eq!(output.status.success(), learns, "{rows}: {message}");
        assert!(learns || message.contains("nothing to learn from"), "{message}");
    }
}

#[test]
fn a_huge_sentence_is_cut_or_refused_by_its_line() {
    let project = tiny();
    project.write("p.yaml", &TINY.replace("corpus.csv", "corpus.jsonl"));
    let write = |text: &str| {
        let rows =
            [serde_json::json!({ "text": text }), serde_json::json!({ "text": "sales rose" })];
        project.write("corpus.jsonl", &rows.map(|row| row.to_string()).join("\n"));
    };
    write(&"sales rose 3 percent ".repeat(500_000));
    let output = project.run(&["run", "p.yaml", "--until", "paraphrases"]);
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("1 of 2 sources were cut to 512 tokens"), "{message}");
    let shorter = "corpus.jsonl, max_line: 1048576";
    project.write("p.yaml", &TINY.replace("corpus.csv", shorter));
    let output = project.run(&["run", "p.yaml", "--until", "paraphrases"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("corpus.jsonl:1: the line is longer than 1 MiB"), "{message}");
    for text in ["sales rose 3 percent ".repeat(49_000), "x".repeat(1_000_000)] {
        write(&text);
        project.ok(&["run", "p.yaml", "--until", "paraphrases"]);
        assert_eq!(project.ok(&["show", "p.yaml", "paraphrases", "--json"]).lines().count(), 2);
    }
}

#[test]
fn parts_and_threads_do_not_change_what_is_drawn() {
    let rows = |part_rows: &str, threads: &str| {
        let project = changed("part_rows: 4", part_rows);
        // The same model for all: how a model is trained may depend on the number of threads.
        project.ok(&["run", "p.yaml", "--until", "t5p", "--threads", "1"]);
        project.ok(&["run", "p.yaml", "--until", "paraphrases", "--threads", threads]);
        project.ok(&["show", "p.yaml", "paraphrases", "--json"])
    };
    let expected = rows("part_rows: 4", "1");
    assert_eq!(expected.lines().count(), 12);
    for (part_rows, threads) in
        [("part_rows: 4", "2"), ("part_rows: 5", "1"), ("part_rows: 1000", "2")]
    {
        assert_eq!(rows(part_rows, threads), expected, "{part_rows}, {threads} threads");
    }
}
