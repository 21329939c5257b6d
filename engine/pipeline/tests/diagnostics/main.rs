//! Pipelines as text, each with what is said of it below the lines that it is about: `tests/cases`.
//!
//! `cargo test --release --test diagnostics` runs them in a moment; with `PARALOOM_BLESS=1` it writes what it finds into the files.

mod cases;
mod mutations;
mod stages;

use std::path::Path;

use cases::{Case, read, write};

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let entries = std::fs::read_dir(&folder).expect("the cases are there");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let mut wrong = Vec::new();
    for file in files {
        let expected = std::fs::read_to_string(&file).expect("it can be read");
        let (head, cases) = read(&expected);
        assert!(!cases.is_empty(), "{} has no case", file.display());
        let found: Vec<_> = cases.iter().map(Case::run).collect();
        if file.ends_with("one-mistake.txt") {
            for case in &cases {
                assert_eq!(case.errors().len(), 1, "{}: {:#?}", case.title, case.errors());
            }
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (case, found) in
            cases.iter().zip(&found).filter(|(case, found)| case.expected != **found)
        {
            let (title, expected) = (&case.title, &case.expected);
            wrong.push(format!("{name}: {title}\n--- expected\n{expected}\n--- found\n{found}\n"));
        }
        if std::env::var_os("PARALOOM_BLESS").is_some() {
            std::fs::write(&file, write(&head, &cases, &found)).expect("it can be written");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
