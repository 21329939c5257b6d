//! `paraloom report`: what is on the page.

use crate::common::tiny;

#[test]
fn the_report_has_everything_in_one_page() {
    let project = tiny();
    let rows = std::fs::read_to_string(project.file("corpus.csv")).expect("it is there");
    project.write("corpus.csv", &rows.replacen("sales rose", "<script>alert(1)</script> rose", 1));
    project.ok(&["run", "p.yaml"]);
    let said = project.transcript(&["report", "p.yaml"]);
    assert_eq!(said, "exit 0\n--- stdout\n--- stderr\nwrote report.html\n");
    let page = std::fs::read_to_string(project.file("report.html")).expect("it was written");
    assert_eq!(project.ok(&["report", "p.yaml", "--to", "-"]).trim_end(), page.trim_end());
    // Nothing of the data is a part of the page, and the page asks nobody for anything.
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script"));
    let links = page.replace("http://www.w3.org/2000/svg", "");
    for word in ["http:", "https:", "src=", "href="] {
        assert!(!links.contains(word), "{word}");
    }
    let rows: Vec<_> = page
        .split("<tr>")
        .filter(|row| row.contains("<code>"))
        .map(|row| row.split("<td>").skip(1).take(3).map(|cell| cell.split("</td>").next()))
        .map(|cells| cells.flatten().collect::<Vec<_>>().join(" | "))
        .collect();
    // Without the sizes of models, and how many rows passed: they hang on the processor.
    let rows = rows.into_iter().map(|row| row.split(['(', ',']).next().map(str::to_owned));
    let rows = rows.flatten().map(|row| row.split(" kept").next().map(str::to_owned));
    let charts = page.split("<h3>").skip(1).filter_map(|rest| rest.split(" <").next());
    let charts = charts.collect::<Vec<_>>().join(", ");
    let rows = rows.flatten().collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(format!("{rows}\n\n{charts}"));
    // Every chart has as many values as there are rows or steps.
    let bars = page.split("<h3>stsb <").nth(1).and_then(|rest| rest.split("</svg>").next());
    let bars = bars.expect("a chart").split("</title>");
    let counts = bars.filter_map(|bar| bar.rsplit(": ").next()?.parse::<usize>().ok());
    assert_eq!(counts.sum::<usize>(), 12);
}

#[test]
fn a_report_of_half_a_run_says_what_is_left() {
    let project = tiny();
    project.ok(&["run", "p.yaml", "--until", "corpus"]);
    let page = project.ok(&["report", "p.yaml", "--to", "-"]);
    assert!(page.contains("1 of 9 nodes are done") && page.contains("not done yet"), "{page}");
    project.ok(&["report", "p.yaml", "--to", "new/folder/page.html"]);
    assert!(project.file("new/folder/page.html").is_file());
    project.ok(&["report", "p.yaml", "--to", "new/folder/page.html"]);
    project.write("mine.html", "<!doctype html>\n<title>mine</title>\n");
    let refused = project.transcript(&["report", "p.yaml", "--to", "mine.html"]);
    assert!(refused.starts_with("exit 2") && refused.contains("is no report"), "{refused}");
    let said = project.transcript(&["report", "p.yaml", "--to", "p.yaml/page.html"]);
    assert!(
        said.starts_with("exit 1\n--- stdout\n--- stderr\nerror: cannot write p.yaml/page.html: "),
        "{said}"
    );
}
