//! `paraloom report`: what is on the page.

use crate::common::{Project, tiny, tiny_with};

/// The text between the first `from` and the `to` after it.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let rest = text.split_once(from).map_or("", |(_, rest)| rest);
    rest.split_once(to).map_or("", |(found, _)| found)
}

fn section<'a>(page: &'a str, id: &str) -> &'a str {
    between(page, &format!("<section id=\"{id}\""), "</section>")
}

/// A text without its tags, and without runs of spaces.
fn plain(html: &str) -> String {
    let parts = html.split('<').map(|part| part.split_once('>').map_or(part, |(_, rest)| rest));
    parts.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// The cells of the rows of the table of work, by column.
fn work(page: &str) -> Vec<Vec<String>> {
    let rows = between(section(page, "work"), "<tbody>", "</tbody>").split("<tr ").skip(1);
    let rows = rows.map(|row| row.split_once('>').map_or("", |(_, rest)| rest));
    rows.map(|row| row.split("<t").skip(1).map(|cell| plain(&format!("<t{cell}"))).collect())
        .collect()
}

fn report(project: &Project, more: &[&str]) -> String {
    project.ok(&[&["report", "p.yaml", "--to", "-"][..], more].concat())
}

/// The page is whole, keeps to itself, and says what each drawing shows.
fn assert_sound(page: &str) {
    assert!(page.len() <= 1 << 20, "{} bytes", page.len());
    assert!(!page.contains("<script"));
    let links = page.replace("http://www.w3.org/2000/svg", "").replace("href=\"#", "");
    for word in ["http:", "https:", "src=", "href=", "url(http"] {
        assert!(!links.contains(word), "{word}");
    }
    for svg in page.split("<svg ").skip(1) {
        let head = svg.split('>').next().unwrap_or_default();
        assert!(head.contains("role=\"img\"") && head.contains("aria-label=\""), "{head}");
    }
    for table in page.split("<table").skip(1) {
        assert!(between(table, "<caption", "</caption>").len() > 5, "a table without a name");
    }
    for link in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(page.contains(&format!(" id=\"{link}\"")), "nothing is called {link}");
    }
    for number in ["NaN", "inf%", "-inf"] {
        assert!(!page.contains(number), "{number}");
    }
}

#[test]
fn the_report_has_everything_in_one_page() {
    let project = tiny();
    let rows = std::fs::read_to_string(project.file("corpus.csv")).expect("it is there");
    project.write("corpus.csv", &rows.replacen("sales rose", "<script>alert(1)</script> rose", 1));
    project.ok(&["run", "p.yaml"]);
    let said = project.transcript(&["report", "p.yaml"]);
    assert_eq!(said, "exit 0\n--- stdout\n--- stderr\nwrote report.html\n");
    let page = std::fs::read_to_string(project.file("report.html")).expect("it was written");
    assert_sound(&page);
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("9 of 9 nodes are done"));
    // Every node has a result, a time, some memory where the system says so, and a key.
    let rows = work(&page);
    for row in &rows {
        assert!(!row[3].is_empty() && row[5].len() == 12, "{row:?}");
        assert!(!row[4].is_empty() || !cfg!(target_os = "linux"), "{row:?}");
    }
    // Without the sizes of models, and how many rows passed: they hang on the processor.
    let rows = rows.iter().map(|row| format!("{} | {}", row[0], row[1]));
    let rows = rows
        .filter_map(|row| Some(row.split(['(', ',']).next()?.split(" kept").next()?.to_owned()));
    let captions = page.split("<figcaption>").skip(1);
    let charts: Vec<_> =
        captions.map(|rest| plain(rest.split("</strong>").next().unwrap_or_default())).collect();
    let rows = rows.collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(format!("{rows}\n\n{}", charts.join(", ")));
    // Every chart has as many values as there are rows or steps.
    let bars = between(section(&page, "data"), "aria-label=\"Histogram of stsb:", "</svg>")
        .split("</title>");
    let counts = bars.filter_map(|bar| bar.rsplit(": ").next()?.parse::<usize>().ok());
    assert_eq!(counts.sum::<usize>(), 12);
}

#[test]
fn the_first_screen_says_what_came_of_it() {
    let project = tiny_with(
        "show:",
        "expect:\n  - { node: qualified, least: 1 }\n  - { node: corpus, most: 3 }\n  - { node: t5p.metrics, every: 'loss < 1000' }\nshow:",
    );
    project.run(&["run", "p.yaml"]);
    let page = report(&project, &[]);
    assert_sound(&page);
    let result = section(&page, "result");
    assert!(page.contains("badge bad\">1 expectation is not met<"), "{result}");
    let checks: Vec<_> =
        result.split("<li class=\"").skip(1).filter_map(|item| item.split('"').next()).collect();
    assert!(checks.ends_with(&["met", "unmet", "met"]), "{checks:?}");
    assert!(
        plain(result).contains("corpus at most 3 rows 12 rows, and at most 3 expected"),
        "{}",
        plain(result)
    );
    let funnel = plain(between(result, "<ol class=\"funnel\">", "</ol>"));
    let steps = [
        "corpus load 12 ",
        "paraphrases generate 12 all, with paraphrase",
        "similarity score-stsb 12 all, with stsb",
        "grammar score-cola 12",
        "qualified threshold",
        "custom finetune 1 model",
    ];
    let places: Vec<_> = steps.iter().map(|step| funnel.find(step)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{funnel}");
}

#[test]
fn thresholds_reasons_and_changes_are_shown() {
    let project =
        tiny_with("cola_p > 0.0 and length(paraphrase) > 0", "cola_p > 0.0 and stsb_mean >= 99");
    project.write(
        "p.yaml",
        &std::fs::read_to_string(project.file("p.yaml")).expect("it is there").replace("  custom:", "  other:\n    stage: threshold\n    inputs: { rows: grammar }\n    with: { keep: 'cola_p > 0.0' }\n  custom:").replace("examples: qualified", "examples: other"),
    );
    project.ok(&["run", "p.yaml"]);
    let page = report(&project, &[]);
    assert_sound(&page);
    let data = section(&page, "data");
    assert!(
        data.contains("<code>stsb_mean &gt;= 99</code>") && data.contains("&gt;= 99: 0 (0 %)"),
        "{}",
        plain(data)
    );
    assert!(
        data.contains("Rejected by qualified") && data.contains("not stsb_mean &gt;= 99 ("),
        "{}",
        plain(data)
    );
    assert!(data.contains("class=\"limit\"") && data.contains("<del>"), "{}", plain(data));
    assert!(data.contains("Numbers other than in the source"), "{}", plain(data));
}

#[test]
fn a_report_of_half_a_run_says_what_is_left() {
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "corpus"]);
    let page = report(&project, &[]);
    assert_sound(&page);
    assert!(page.contains("1 of 9 nodes are done") && page.contains("not done yet"), "{page}");
    assert!(page.contains("badge quiet\">not complete<"));
    project.ok(&["report", "p.yaml", "--to", "new/folder/page.html"]);
    assert!(project.file("new/folder/page.html").is_file());
    project.ok(&["report", "p.yaml", "--to", "new/folder/page.html"]);
    for (name, text) in
        [("mine.html", "<!doctype html>\n<title>mine</title>\n"), ("notes.txt", "x")]
    {
        project.write(name, text);
        let refused = project.transcript(&["report", "p.yaml", "--to", name]);
        assert!(
            refused.starts_with("exit 2")
                && refused.contains("is no report")
                && refused.contains("--to"),
            "{refused}"
        );
        assert_eq!(std::fs::read_to_string(project.file(name)).expect("it stays"), text);
    }
    let said = project.transcript(&["report", "p.yaml", "--to", "p.yaml/page.html"]);
    assert!(
        said.starts_with("exit 1\n--- stdout\n--- stderr\nerror: cannot write p.yaml/page.html: "),
        "{said}"
    );
}

#[test]
fn two_runs_are_compared() {
    let project = tiny_with("nodes:", "vars: { steps: 8 }\nnodes:");
    project.write(
        "p.yaml",
        &std::fs::read_to_string(project.file("p.yaml"))
            .expect("it is there")
            .replace("steps: 8,", "steps: \"${steps}\","),
    );
    project.ok(&["run", "p.yaml"]);
    let runs = project.ok(&["runs", "--store", ".paraloom"]);
    let run = runs.split_whitespace().next().expect("one run").to_owned();
    let page = report(&project, &["--against", &run]);
    assert!(section(&page, "against").contains("Every result is the same."));
    let rows = std::fs::read_to_string(project.file("corpus.csv")).expect("it is there");
    project.write("corpus.csv", &rows.replacen("sales rose", "sales soared", 1));
    project.ok(&["run", "p.yaml", "--set", "steps=9"]);
    let page = report(&project, &["--set", "steps=9", "--against", &run]);
    assert_sound(&page);
    let against = plain(section(&page, "against"));
    for said in [
        "corpus 12 rows 12 rows 1 gone, 1 new, 11 the same",
        "steps : as in the pipeline then, 9 now",
        "custom: last loss",
    ] {
        assert!(against.replace(" :", ":").contains(&said.replace(" :", ":")), "{said}: {against}");
    }
    // What is reused is told with when it was made.
    let rows = work(&page);
    let reused =
        |node: &str| rows.iter().find(|row| row[0].starts_with(node)).map(|row| row[2].clone());
    assert!(reused("t5p").is_some_and(|said| said.starts_with("reused, of 20")), "{rows:?}");
    assert!(
        rows.iter()
            .any(|row| row[0].starts_with("paraphrases") && row[1].ends_with("11 rows reused")),
        "{rows:?}"
    );
    // The page of then: with its variables and its pipeline, and without what came later.
    let then = report(&project, &["--run", &run]);
    assert_sound(&then);
    assert!(plain(&then).contains(&run) && then.contains("9 of 9 nodes are done"));
    assert!(section(&then, "data").contains("sales rose") && !then.contains("sales soared"));
    assert!(!then.contains("steps=9") && page.contains("steps=9"));
    let times = work(&then);
    assert!(times.iter().all(|row| row[2].is_empty()), "nothing was reused then: {times:?}");
    // The other run is drawn too.
    assert!(section(&page, "training").contains("class=\"before\""), "the loss of then");
    let refused = project.transcript(&["report", "p.yaml", "--against", "19"]);
    assert!(refused.starts_with("exit 2") && refused.contains("there is no run `19`"), "{refused}");
}

#[test]
fn the_page_is_small_whatever_the_data() {
    let project = Project::new(
        "paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
         long: { stage: threshold, inputs: { rows: rows }, with: { keep: 'length(text) > 3' } }\n\
         show: [ { node: long, limit: 20000 }, { node: rows, limit: 20000 } ]\n",
    );
    let word = "W".repeat(900);
    let rows: Vec<_> = (0..3000).map(|row| format!("{row} {word} {word}")).collect();
    project.write("rows.csv", &format!("text\n{}\n", rows.join("\n")));
    project.ok(&["run", "p.yaml"]);
    let page = report(&project, &[]);
    assert_sound(&page);
    assert!(page.contains("more characters)") && page.contains("of 3,000 rows"));
}

/// A run that failed is told as one, at the node that failed; once it is mended, nothing is left of that.
#[test]
fn what_failed_is_told_where_it_failed() {
    let pipeline = "paraloom: 1\nname: odd\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n  \
        sized: { stage: derive, inputs: { rows: rows }, with: { columns: { size: 'length(text) * 9000000000000000000' } } }\n  \
        kept: { stage: threshold, inputs: { rows: sized }, with: { keep: 'size > 0' } }\n\
        expect: [ { node: kept, least: 1 } ]\n";
    let project = Project::new(pipeline);
    project.write("rows.csv", "text\nabc\n<b>\u{202e}\n");
    assert_eq!(project.run(&["run", "p.yaml"]).status.code(), Some(1));
    let page = report(&project, &[]);
    assert_sound(&page);
    assert!(page.contains("badge bad\">failed<"), "{page}");
    let rows = work(&page);
    let outcomes: Vec<_> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(outcomes[0], "2 rows");
    assert!(outcomes[1].starts_with("failed: ") && outcomes[1].contains("64 bits"), "{outcomes:?}");
    assert_eq!(outcomes[2], "not done yet");
    assert!(page.contains("class=\"node failed\""), "the drawing shows it");
    project.write("p.yaml", &pipeline.replace(" * 9000000000000000000", ""));
    project.ok(&["run", "p.yaml"]);
    let page = report(&project, &[]);
    assert!(page.contains("badge good\">complete<") && !page.contains("failed: "), "{page}");
    // Of a table without rows there is nothing to show but that.
    let data = section(&page, "data");
    assert!(plain(data).contains("kept.rejected no rows"), "{}", plain(data));
    assert!(!data.contains("Rows of kept.rejected"), "{data}");
}

/// Of many tables that nobody reads the first are shown, and how many there are beside them.
#[test]
fn many_tables_are_not_all_shown() {
    let mut pipeline =
        "paraloom: 1\nname: many\nnodes:\n  rows: { stage: load, with: { from: rows.csv } }\n"
            .to_owned();
    for number in 0..40 {
        pipeline += &format!(
            "  n{number}: {{ stage: derive, inputs: {{ rows: rows }}, with: {{ columns: {{ \"<i>{number}\": length(text) }} }} }}\n"
        );
    }
    let project = Project::new(&pipeline);
    project.write("rows.csv", "text\nabc\n");
    project.ok(&["run", "p.yaml"]);
    let page = report(&project, &[]);
    assert_sound(&page);
    assert_eq!(page.matches("<table class=\"rows\"").count(), 12);
    assert!(
        plain(&page).contains("28 more tables are left out"),
        "{}",
        plain(section(&page, "data"))
    );
    assert_eq!(work(&page).len(), 41);
}
