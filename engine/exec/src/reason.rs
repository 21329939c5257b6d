//! Why a node has to run: which member of its key changed since the last run.

use std::collections::{HashMap, HashSet};

use paraloom_pipeline::Node;
use paraloom_store::{Event, Key, Logged, Preimage, Store, StoreError};
use serde_json::Value;

use crate::error::Result;

/// The key that each node of a pipeline had in the newest run that reached it.
#[derive(Debug, Default)]
pub(crate) struct History {
    keys: HashMap<String, Key>,
    /// The keys whose nodes were done at some time.
    done: HashSet<Key>,
}

impl History {
    pub(crate) fn read(store: &Store, pipeline: &str) -> Result<Self> {
        let mut history = Self::default();
        let current = store.moved_keys()?;
        for run in store.runs()? {
            let is_same = |line: &Logged| matches!(&line.event, Event::RunStarted { pipeline: of, .. } if of == pipeline);
            if !run.events.iter().any(is_same) {
                continue;
            }
            for line in run.events {
                let Some((node, key)) = line.event.result() else { continue };
                let key = current(key.clone());
                if !matches!(line.event, Event::NodeStarted { .. }) {
                    history.done.insert(key.clone());
                }
                history.keys.insert(node.to_owned(), key);
            }
        }
        Ok(history)
    }
}

pub(crate) fn explain(
    node: &Node,
    key: &Key,
    preimage: &Preimage,
    rows: Option<(u64, u64)>,
    history: &History,
    store: Option<&Store>,
) -> Result<String> {
    let (Some(store), Some(old)) = (store, history.keys.get(&node.name)) else {
        return Ok("not run yet".to_owned());
    };
    if old == key {
        return Ok(match rows {
            None => match store.entry(key).latest_checkpoint()? {
                Some((_, step)) => format!("not finished; goes on from step {step}"),
                None => "not finished".to_owned(),
            },
            Some((0, _)) => "rows were moved or removed".to_owned(),
            Some((left, _)) if history.done.contains(key) => {
                format!("{left} new row{}", if left == 1 { "" } else { "s" })
            }
            Some((left, all)) => format!("{left} of {all} rows are left"),
        });
    }
    let old = match store.entry(old).preimage() {
        Ok(Some(old)) => old,
        Ok(None) => return Ok("its result was removed".to_owned()),
        Err(StoreError::Damaged { .. }) => return Ok("its key was damaged".to_owned()),
        Err(error) => return Err(error.into()),
    };
    let changes = changes(&old, preimage);
    Ok(if changes.is_empty() { "its key changed".to_owned() } else { changes.join(", ") })
}

fn changes(old: &Preimage, new: &Preimage) -> Vec<String> {
    let mut changes = Vec::new();
    let mut names: Vec<_> = old.members().keys().chain(new.members().keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (before, after) = (old.get(name), new.get(name));
        if before == after {
            continue;
        }
        match (name.as_str(), before, after) {
            ("version", Some(before), Some(after)) => {
                let plain = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let stage = new.get("stage").map(plain).unwrap_or_default();
                changes.push(format!("stage {stage} {} -> {}", plain(before), plain(after)));
            }
            ("config", Some(before), Some(after)) => differ("", before, after, &mut changes),
            ("inputs", Some(before), Some(after)) => changes.extend(inputs(before, after)),
            ("library", ..) => changes.push("its library was rebuilt".to_owned()),
            (name, before, after) => {
                changes.push(format!("{name} {} -> {}", text(before), text(after)));
            }
        }
    }
    changes
}

/// "temperature 0.7 -> 0.9", for every leaf that differs.
fn differ(path: &str, before: &Value, after: &Value, changes: &mut Vec<String>) {
    let content = |value: &Value| value.get("content").is_some();
    if content(before) && content(after) {
        changes.push(format!("the content of `{path}` changed"));
        return;
    }
    if let (Some(before), Some(after)) = (commit(before), commit(after))
        && before.0 == after.0
    {
        let (old, new) = (short(before.1), short(after.1));
        changes.push(format!("`{}` moved: commit {old} -> {new}", before.0));
        return;
    }
    if let (Some(old), Some(new)) = (place(before), place(after)) {
        changes.push(format!("{path} {old} -> {new}"));
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        changes.push(format!("{path} {} -> {}", text(Some(before)), text(Some(after))));
        return;
    };
    let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (before, after) = (&old.get(name), &new.get(name));
        if before != after {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let null = Value::Null;
            differ(&path, before.unwrap_or(&null), after.unwrap_or(&null), changes);
        }
    }
}

/// The reference and the commit of something on a hub.
fn commit(value: &Value) -> Option<(&str, &str)> {
    Some((value.get("reference")?.as_str()?, value.get("commit")?.as_str()?))
}

/// What stands for a path in a key.
fn place(value: &Value) -> Option<String> {
    match value.get("reference") {
        Some(reference) => Some(text(Some(reference))),
        None => value.get("content").map(|_| "a file".to_owned()),
    }
}

/// Enough of a commit to tell it from others.
fn short(commit: &str) -> String {
    commit.get(..8).map_or_else(|| commit.to_owned(), |start| format!("{start}…"))
}

fn inputs(before: &Value, after: &Value) -> Vec<String> {
    let edges = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (before, after) = (edges(before), edges(after));
    let name = |edge: &Value| {
        let (port, label) = (edge["port"].as_str().unwrap_or_default(), edge["label"].as_str());
        match label {
            Some(label) if !label.is_empty() => format!("{port}.{label}"),
            _ => port.to_owned(),
        }
    };
    let changed = after.iter().filter(|edge| !before.contains(edge));
    let mut changes: Vec<_> =
        changed.map(|edge| format!("input `{}` changed", name(edge))).collect();
    let gone = before.iter().filter(|edge| !after.iter().any(|other| name(other) == name(edge)));
    changes.extend(gone.map(|edge| format!("input `{}` is gone", name(edge))));
    changes
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::String(text)) => format!("`{text}`"),
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use paraloom_store::Preimage;
    use serde_json::{Value, json};

    use super::changes;

    #[test]
    fn what_changed_is_named() {
        let hub = |commit: &str| json!({"from": {"reference": "hf://o/n", "commit": commit}});
        let (old, new) = ("a".repeat(40), "b".repeat(40));
        let cases: [(Value, Value); 5] = [
            (hub(&old), hub(&new)),
            (hub(&old), json!({"from": {"reference": "hf://o/m", "commit": new}})),
            (hub(&old), json!({"from": {"content": "c"}})),
            (json!({"from": {"content": "c"}}), json!({"from": {"content": "d"}})),
            (json!({"sample": {"top_p": 0.9}}), json!({"sample": {"top_p": 0.8, "top_k": 3}})),
        ];
        let version =
            |version: &str| Preimage::default().with("stage", "finetune").with("version", version);
        assert_eq!(
            changes(&version("1.2.0"), &version("1.3.0")),
            ["stage finetune 1.2.0 -> 1.3.0"]
        );
        let config = |config: &Value| Preimage::default().with("config", config.clone());
        let all: Vec<_> =
            cases.iter().map(|(old, new)| changes(&config(old), &config(new)).join(", ")).collect();
        insta::assert_snapshot!(all.join("\n"));
    }
}
