//! What the runs of a store took from hubs, kept beside the results (`hub.json`).
//!
//! With it a finished pipeline stays finished when the cache of a hub is emptied: the commit
//! of every reference is known, so keys are, and so are the columns of what was loaded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use paraloom_hub::{Pinned, Reference};
use paraloom_pipeline::{Node, PlanOutput, StageInfo};
use paraloom_store::{Digest, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FILE: &str = "hub.json";

/// By reference: its commit. By stage and configuration: its outputs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    #[serde(default)]
    references: BTreeMap<String, Commit>,
    #[serde(default)]
    plans: BTreeMap<String, Outputs>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Commit {
    commit: String,
    revision: String,
}

/// Per port the schema of a table, as the hexadecimal digits of an Arrow stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Outputs {
    schemas: Vec<Option<String>>,
    fingerprint: String,
    #[serde(default)]
    notes: Vec<String>,
    #[serde(default)]
    memory: Option<u64>,
}

impl Memory {
    /// Reads the memory of a store; a damaged one is as good as none.
    pub(crate) fn load(store: &Store) -> Self {
        store.read_note(FILE).ok().flatten().unwrap_or_default()
    }

    pub(crate) fn save(&self, store: &Store) -> paraloom_store::Result<()> {
        store.write_note(FILE, self)
    }

    pub(crate) fn pinned(&self, reference: &Reference) -> Option<Pinned> {
        let Commit { commit, revision } = self.references.get(&reference.to_string())?.clone();
        Some(Pinned { commit, revision })
    }

    /// Says what a reference is now. Plans of other commits stay: a branch can move back.
    pub(crate) fn pin(&mut self, reference: &Reference, pinned: &Pinned) {
        let Pinned { commit, revision } = pinned.clone();
        self.references.insert(reference.to_string(), Commit { commit, revision });
    }

    pub(crate) fn plan(&self, key: &str) -> Option<PlanOutput> {
        let found = self.plans.get(key)?;
        let schema = |text: &Option<String>| match text {
            Some(text) => decode(text).map(Some),
            None => Some(None),
        };
        let outputs = found.schemas.iter().map(schema).collect::<Option<_>>()?;
        Some(PlanOutput {
            outputs,
            fingerprint: found.fingerprint.clone(),
            notes: found.notes.clone(),
            memory: found.memory,
        })
    }

    pub(crate) fn keep_plan(&mut self, key: String, node: &Node) {
        let schema = |schema: &Option<SchemaRef>| match schema {
            Some(schema) => encode(schema).map(Some),
            None => Some(None),
        };
        if let Some(schemas) = node.outputs.iter().map(schema).collect() {
            let (fingerprint, notes) = (node.fingerprint.clone(), node.notes.clone());
            let outputs = Outputs { schemas, fingerprint, notes, memory: node.memory };
            self.plans.insert(key, outputs);
        }
    }
}

/// Names the plan of a stage without inputs: its version, its configuration with references
/// in place of paths, and the commits of those.
pub(crate) fn plan_key(stage: &StageInfo, config: &Value, commits: &[String]) -> String {
    let mut key = json!([stage.name, stage.version, config, commits]);
    key.sort_all_objects();
    Digest::of(key.to_string().as_bytes()).to_string()
}

fn encode(schema: &SchemaRef) -> Option<String> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, schema).ok()?;
    writer.finish().ok()?;
    drop(writer);
    Some(bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn decode(text: &str) -> Option<SchemaRef> {
    let pairs = text.as_bytes().chunks(2).map(|pair| {
        std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
    });
    let bytes: Vec<u8> = pairs.collect::<Option<_>>()?;
    let reader = StreamReader::try_new(bytes.as_slice(), None).ok()?;
    Some(Arc::clone(&reader.schema()))
}
