//! Stages that exist in the tests only: each shows one thing.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use paraloom_expr::{Expr, ExprError};
use paraloom_pipeline::{
    Catalog, FailureSpan, HubLocation, Location, PlanFailure, PlanInput, PlanOutput, PortInfo,
    PortKind, RowAccount, Shape, StageInfo,
};
use serde_json::{Value as Json, json};

pub(crate) struct Stages(Vec<StageInfo>);

fn port(kind: PortKind, name: &str) -> PortInfo {
    let doc = format!("The {name}.");
    PortInfo { name: name.to_owned(), doc, kind, optional: false, many: false }
}

fn table(name: &str) -> PortInfo {
    port(PortKind::Table, name)
}

fn artifact(name: &str) -> PortInfo {
    port(PortKind::Artifact, name)
}

fn stage(name: &str, inputs: Vec<PortInfo>, outputs: Vec<PortInfo>, properties: Json) -> StageInfo {
    let mut config_schema = properties;
    config_schema["type"] = json!("object");
    config_schema["additionalProperties"] = json!(false);
    StageInfo {
        name: name.to_owned(),
        version: "1".to_owned(),
        doc: String::new(),
        library: "tests".to_owned(),
        backend: String::new(),
        config_schema,
        inputs,
        outputs,
        shape: Shape::Whole,
        uses_seed: false,
        resumable: false,
        batch_invariant: false,
        rows: RowAccount::Any,
        part_rows: None,
    }
}

impl Default for Stages {
    fn default() -> Self {
        let columns = json!({"type": "object", "additionalProperties": {"enum": ["text", "number", "bool"]},
                             "default": {"text": "text", "score": "number"}});
        let source = stage(
            "source",
            vec![],
            vec![table("rows")],
            json!({"properties": {"columns": columns}}),
        );
        let condition =
            json!({"type": "string", "x-paraloom-expression": true, "description": "A condition."});
        let mut keep = stage(
            "keep",
            vec![table("rows")],
            vec![table("kept"), table("rejected")],
            json!({"properties": {"where": condition}, "required": ["where"],
                   "x-paraloom-elsewhere": {"filter": "it is called `where`"}}),
        );
        keep.shape = Shape::Map;
        let mut shout = stage("shout", vec![table("rows")], vec![table("rows")], json!({}));
        shout.shape = Shape::Map;
        let model = stage("model", vec![], vec![artifact("model")], json!({}));
        let mut train = stage(
            "train",
            vec![
                artifact("model"),
                table("examples"),
                PortInfo { optional: true, ..table("validation") },
            ],
            vec![artifact("model"), table("losses")],
            json!({}),
        );
        train.uses_seed = true;
        let gpu = StageInfo { backend: "torch".to_owned(), ..train.clone() };
        let join = stage(
            "join",
            vec![
                PortInfo { many: true, ..table("tables") },
                PortInfo { optional: true, many: true, ..artifact("models") },
            ],
            vec![table("rows")],
            json!({}),
        );
        let sink = stage("sink", vec![table("rows")], vec![], json!({}));
        let kinds = [
            "none",
            "duplicate",
            "number",
            "nameless",
            "fail",
            "fail-input",
            "fail-default",
            "fail-other",
        ];
        let lies = stage(
            "lies",
            vec![PortInfo { optional: true, ..table("rows") }],
            vec![table("rows")],
            json!({"properties": {"how": {"enum": kinds, "default": "none"}, "deep": {"type": "object"}}}),
        );
        Self(vec![source, keep, shout, model, train, gpu, join, sink, lies, settings()])
    }
}

/// Every keyword of a schema that is enforced, in a setting of its name.
fn settings() -> StageInfo {
    let nested = json!({"type": "object", "additionalProperties": false, "required": ["a"], "properties":
        {"a": {"type": "integer", "description": "The first letter."}, "b": {"type": "boolean", "default": true}}});
    stage(
        "settings",
        vec![],
        vec![table("rows")],
        json!({"properties": {
            "text": {"type": "string"},
            "whole": {"type": "integer"},
            "number": {"type": "number"},
            "truth": {"type": "boolean"},
            "list": {"type": "array", "items": {"type": "integer"}},
            "mapping": {"type": "object"},
            "nothing": {"type": "null"},
            "optional": {"type": ["string", "null"], "default": null},
            "either": {"type": ["string", "integer"]},
            "least": {"type": "integer", "minimum": 1},
            "most": {"type": "integer", "maximum": 9},
            "above": {"type": "number", "exclusiveMinimum": 0},
            "below": {"type": "number", "exclusiveMaximum": 1},
            "even": {"type": "integer", "multipleOf": 2},
            "tenths": {"type": "number", "multipleOf": 0.1},
            "short": {"type": "string", "maxLength": 3},
            "long": {"type": "string", "minLength": 3},
            "pattern": {"type": "string", "pattern": "^[a-z]+$"},
            "few": {"type": "array", "maxItems": 2},
            "some": {"type": "array", "minItems": 1},
            "unique": {"type": "array", "uniqueItems": true},
            "small": {"type": "object", "maxProperties": 1},
            "filled": {"type": "object", "minProperties": 1},
            "choice": {"enum": ["red", "green", "blue"]},
            "constant": {"const": "x"},
            "numbers": {"enum": [1, 2]},
            "nested": nested,
            "any": {"anyOf": [{"type": "integer", "minimum": 1}, nested, {"type": "null"}]},
            "one": {"oneOf": [{"const": "auto"}, {"type": "integer"}]},
            "named": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
            "ordered": {"type": "object", "x-paraloom-ordered": true, "additionalProperties": {"type": "integer"}},
            "path": {"type": "string", "x-paraloom-path": true},
            "paths": {"type": "string", "x-paraloom-path": "many"},
            "expression": {"type": "string", "x-paraloom-expression": true},
            "untyped": {},
            "default": {"type": "integer", "default": 7}
        }, "x-paraloom-elsewhere": {"amount": "it is called `number`"}}),
    )
}

fn failure(message: &str, pointer: Option<&str>, input: Option<&str>) -> PlanFailure {
    PlanFailure {
        message: message.to_owned(),
        pointer: pointer.map(str::to_owned),
        input: input.map(str::to_owned),
        hint: Some("do otherwise".to_owned()),
        spans: Vec::new(),
    }
}

/// All that is wrong with the expression `/where`, each at its place.
fn expression_failure(errors: Vec<ExprError>) -> PlanFailure {
    let told: Vec<_> = errors.iter().map(|error| error.message.as_str()).collect();
    let whole = failure(&told.join("; "), Some("/where"), None);
    let span =
        |ExprError { message, span: (start, end), hint }| FailureSpan { start, end, message, hint };
    PlanFailure { spans: errors.into_iter().map(span).collect(), ..whole }
}

fn fields(fields: &[(&str, DataType)]) -> SchemaRef {
    let fields = fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl Stages {
    /// The schemas of a stage's tables.
    fn outputs(
        stage: &StageInfo,
        config: &Json,
        inputs: &[PlanInput],
    ) -> Result<Vec<Option<SchemaRef>>, PlanFailure> {
        let rows = || inputs.iter().find_map(|input| input.schema.clone());
        Ok(match stage.name.as_str() {
            "source" => {
                let columns = config["columns"].as_object().into_iter().flatten();
                let field = |(name, kind): (&String, &Json)| {
                    let kind = match kind.as_str() {
                        Some("number") => DataType::Float64,
                        Some("bool") => DataType::Boolean,
                        _ => DataType::Utf8,
                    };
                    Field::new(name, kind, true)
                };
                vec![Some(Arc::new(Schema::new(columns.map(field).collect::<Vec<_>>())))]
            }
            "keep" => {
                let rows = rows().ok_or_else(|| failure("no rows", None, Some("rows")))?;
                let text = config["where"].as_str().unwrap_or_default();
                let parsed = Expr::parse(text).map_err(|error| vec![error]);
                let checked = parsed.and_then(|expr| expr.check_condition_all(&rows));
                checked.map_err(expression_failure)?;
                vec![Some(rows.clone()), Some(rows)]
            }
            "model" => vec![None],
            "train" => {
                vec![None, Some(fields(&[("step", DataType::Int64), ("loss", DataType::Float64)]))]
            }
            "sink" => vec![],
            "lies" => match config["how"].as_str() {
                Some("duplicate") => {
                    vec![Some(fields(&[("a", DataType::Utf8), ("a", DataType::Utf8)]))]
                }
                Some("number") => vec![Some(fields(&[("_id", DataType::Int64)]))],
                Some("nameless") => vec![Some(fields(&[("", DataType::Utf8)]))],
                Some("fail") => return Err(failure("it is so", Some("/how"), None)),
                Some("fail-input") => return Err(failure("it is so", None, Some("rows"))),
                Some("fail-default") => return Err(failure("it is so", Some("/other"), None)),
                Some("fail-other") => return Err(failure("it is so", None, None)),
                _ => vec![rows().or_else(|| Some(fields(&[])))],
            },
            _ => vec![Some(rows().unwrap_or_else(|| fields(&[("text", DataType::Utf8)])))],
        })
    }
}

impl Catalog for Stages {
    fn stage(&self, name: &str, backend: &str) -> Result<Option<&StageInfo>, PlanFailure> {
        if !["cpu", "torch", "cuda", "wgpu"].contains(&backend) {
            return Err(failure(&format!("there is no backend `{backend}`"), None, None));
        }
        let named = || self.0.iter().filter(|stage| stage.name == name);
        let own = named().find(|stage| stage.backend == backend);
        Ok(own.or_else(|| named().next()))
    }

    fn names(&self) -> Vec<&str> {
        let own = self.0.iter().filter(|stage| stage.backend.is_empty());
        own.map(|stage| stage.name.as_str()).collect()
    }

    fn plan(
        &self,
        stage: &StageInfo,
        _node: &str,
        config: &Json,
        inputs: &[PlanInput],
    ) -> Result<PlanOutput, PlanFailure> {
        let outputs = Self::outputs(stage, config, inputs)?;
        let notes = vec![String::new(); outputs.len()];
        Ok(PlanOutput { outputs, fingerprint: String::new(), notes, memory: None })
    }

    fn resolve_path(&self, text: &str) -> Result<Location, PlanFailure> {
        let file = |name: &str| PathBuf::from("/data").join(name);
        match text {
            "" | "missing.csv" => Err(failure(&format!("there is no file `{text}`"), None, None)),
            "*.csv" => Ok(Location::Files(vec![file("a.csv"), file("b.csv")])),
            hub if hub.starts_with("hf://") => {
                let paths = hub.contains("cached").then(|| vec![file("model")]);
                Ok(Location::Hub(HubLocation { reference: hub.to_owned(), commit: None, paths }))
            }
            name => Ok(Location::Local(file(name))),
        }
    }
}
