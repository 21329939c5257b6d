//! What a library says of itself, and whether that can be used.

use std::collections::HashSet;

use paraloom_pipeline::{PortInfo, Shape, StageInfo, check_config_schema};
use serde::{Deserialize, Serialize};

/// What a library says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) built_with: String,
    pub(crate) stages: Vec<StageInfo>,
}

/// The longest name of a stage or a port.
const LONGEST: usize = 64;

impl Description {
    /// Refuses names that cannot be written in a pipeline, two of one name, texts that would reach a terminal as commands,
    /// and configuration schemas that the engine would not enforce.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (what, text) in
            [("name", &self.name), ("version", &self.version), ("compiler", &self.built_with)]
        {
            check_text(text).map_err(|why| format!("its {what} {why}"))?;
        }
        let mut names = HashSet::new();
        for stage in &self.stages {
            let name = &stage.name;
            check_name(name, "").map_err(|why| format!("the name of a stage, {name:?}, {why}"))?;
            if !names.insert(name) {
                return Err(format!("it offers two stages `{name}`"));
            }
            check_stage(stage).map_err(|why| format!("stage `{name}`: {why}"))?;
        }
        Ok(())
    }
}

fn check_stage(stage: &StageInfo) -> Result<(), String> {
    check_text(&stage.version).map_err(|why| format!("its version {why}"))?;
    check_text(&stage.doc).map_err(|why| format!("its description {why}"))?;
    check_ports("input", &stage.inputs)?;
    check_ports("output", &stage.outputs)?;
    if stage.mapped_input().is_none() && stage.shape == Shape::Map {
        return Err("it maps rows and has no table input".to_owned());
    }
    check_config_schema(&stage.config_schema)
        .map_err(|why| format!("the schema of its configuration: {why}"))
}

fn check_ports(kind: &str, ports: &[PortInfo]) -> Result<(), String> {
    let mut names = HashSet::new();
    for PortInfo { name, doc, .. } in ports {
        check_name(name, "_").map_err(|why| format!("the name of an {kind}, {name:?}, {why}"))?;
        check_text(doc).map_err(|why| format!("the description of {kind} `{name}` {why}"))?;
        if !names.insert(name) {
            return Err(format!("it has two {kind}s `{name}`"));
        }
    }
    Ok(())
}

/// Lower-case letters, digits, `-` and what is in `more`, a letter first.
fn check_name(name: &str, more: &str) -> Result<(), String> {
    let is_inner =
        |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-') || more.contains(letter);
    if name.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} characters"));
    }
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) || !name.chars().all(is_inner) {
        let more = more.chars().map(|letter| format!(", `{letter}`")).collect::<String>();
        return Err(format!("must be a lower-case letter, then letters, digits{more} and `-`"));
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), String> {
    match text.chars().find(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')) {
        Some(letter) => Err(format!("has the control character {letter:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use paraloom_pipeline::{PortKind, RowAccount, Shape};
    use serde_json::json;

    use super::*;

    fn port(name: &str) -> PortInfo {
        let (name, doc, kind) = (name.to_owned(), String::new(), PortKind::Table);
        PortInfo { name, doc, kind, optional: false, many: false }
    }

    fn stage(name: &str) -> StageInfo {
        StageInfo {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            doc: "Does.\n\tMore.".to_owned(),
            library: String::new(),
            backend: String::new(),
            config_schema: json!({ "type": "object" }),
            inputs: vec![port("rows")],
            outputs: vec![port("kept"), port("rejected")],
            shape: Shape::Map,
            uses_seed: false,
            resumable: false,
            batch_invariant: false,
            rows: RowAccount::Any,
            part_rows: None,
        }
    }

    fn check(stages: Vec<StageInfo>) -> String {
        let (name, version, built_with) = ("l".to_owned(), "1".to_owned(), String::new());
        let description = Description { name, version, built_with, stages };
        description.check().err().unwrap_or_default()
    }

    #[test]
    fn names_are_those_that_a_pipeline_can_write() {
        assert_eq!(check(vec![stage("a"), stage("b2-c"), stage(&"n".repeat(64))]), "");
        for (name, expected) in [
            ("", "the name of a stage, \"\", must be a lower-case letter"),
            ("my stage", "the name of a stage, \"my stage\", must be"),
            ("Naughty", "the name of a stage, \"Naughty\", must be"),
            ("../../etc", "the name of a stage"),
            ("straße", "the name of a stage"),
            ("a: {b}", "the name of a stage"),
            ("a\u{1b}[2J\n", "the name of a stage, \"a\\u{1b}[2J\\n\", must be"),
            ("2nd", "the name of a stage"),
            ("a_b", "the name of a stage"),
            ("a\u{fffd}", "the name of a stage"),
        ] {
            assert!(check(vec![stage(name)]).starts_with(expected), "{}", check(vec![stage(name)]));
        }
        assert!(check(vec![stage(&"n".repeat(65))]).contains("is longer than 64"));
        assert_eq!(check(vec![stage("a"), stage("a")]), "it offers two stages `a`");
    }

    #[test]
    fn ports_texts_and_schemas_are_checked() {
        let with = |change: fn(&mut StageInfo)| {
            let mut stage = stage("s");
            change(&mut stage);
            check(vec![stage])
        };
        for (found, expected) in [
            (with(|stage| stage.inputs.push(port("rows"))), "stage `s`: it has two inputs `rows`"),
            (
                with(|stage| stage.outputs.push(port("kept"))),
                "stage `s`: it has two outputs `kept`",
            ),
            (
                with(|stage| stage.outputs[0].name = "a b".to_owned()),
                "stage `s`: the name of an output, \"a b\", must be a lower-case letter, then letters, digits, `_` and `-`",
            ),
            (
                with(|stage| stage.doc = "\u{1b}[31m".to_owned()),
                "stage `s`: its description has the control character '\\u{1b}'",
            ),
            (with(|stage| stage.inputs.clear()), "stage `s`: it maps rows and has no table input"),
            (
                with(|stage| stage.config_schema = json!("x")),
                "stage `s`: the schema of its configuration: the schema of a configuration is an object, not \"x\"",
            ),
        ] {
            assert_eq!(found, expected);
        }
        // Both ways round is one name each.
        assert_eq!(with(|stage| stage.inputs.push(port("kept"))), "");
    }
}
