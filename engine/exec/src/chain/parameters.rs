//! Settings that requests may change. A stage says in the schema of its configuration which they are, by the keyword
//! `x-paraloom-request`; the seed of stages that draw at random is one too.

use paraloom_pipeline::{Node, check_value, nearest};
use serde_json::{Map, Value, json};

/// Marks a setting that requests may change: `true`, or an object with bounds that hold for requests (`minimum`, `maximum`), with
/// `multiplies`, if its value times as much work is done, and with `replaces`, the settings that it stands in for.
const REQUEST_KEYWORD: &str = "x-paraloom-request";
/// Marks the setting that adds columns which tell what was left out of texts. `cut` is the name of one that is true where a text
/// was cut, `ended` of one that is `length` where a text that was written was ended for its length; `{into}` in a name
/// stands for the value of the setting `into`.
const MARKS_KEYWORD: &str = "x-paraloom-marks";
/// The parameter that is not in a configuration.
const SEED: &str = "seed";

/// A setting that requests may change.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// What a request calls it: `temperature`, or `NODE.temperature` if several nodes have one.
    pub name: String,
    /// The nodes whose setting it is: one, or for the seed all that draw at random.
    pub nodes: Vec<String>,
    /// Where it is in a node's `with`, such as `sample.temperature`.
    pub setting: String,
    /// JSON Schema of its values; `default` is the value in the pipeline, null where that has none.
    pub schema: Value,
}

/// Changed settings, by `NODE.SETTING`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes(pub Map<String, Value>);

impl Changes {
    /// Those of a node, by setting.
    pub(super) fn of(&self, node: &str) -> Map<String, Value> {
        let own = self.0.iter().filter_map(|(name, value)| {
            let setting = name.strip_prefix(node)?.strip_prefix('.')?;
            Some((setting.to_owned(), value.clone()))
        });
        own.collect()
    }
}

/// A setting of a node.
#[derive(Clone, Debug)]
struct Slot {
    node: String,
    /// Where it is in the configuration: a name, or two.
    path: Vec<String>,
    schema: Value,
    /// The value in the pipeline.
    value: Value,
    multiplies: bool,
}

impl Slot {
    fn leaf(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    fn setting(&self) -> String {
        self.path.join(".")
    }

    fn full_name(&self) -> String {
        format!("{}.{}", self.node, self.setting())
    }
}

/// The settings of the nodes of a chain that requests may change.
#[derive(Clone, Debug)]
pub struct Parameters(Vec<Slot>);

impl Parameters {
    pub(super) fn of<'a>(nodes: impl Iterator<Item = &'a Node>) -> Self {
        Self(nodes.flat_map(slots).collect())
    }

    /// What there is, each by the shortest name that is clear.
    pub fn list(&self) -> Vec<Parameter> {
        let seeds: Vec<_> = self.0.iter().filter(|slot| slot.path == [SEED]).collect();
        let seed = seeds.first().map(|slot| Parameter {
            name: SEED.to_owned(),
            nodes: seeds.iter().map(|slot| slot.node.clone()).collect(),
            setting: SEED.to_owned(),
            schema: slot.schema.clone(),
        });
        let others = self.0.iter().filter(|slot| slot.path != [SEED]).map(|slot| {
            let names = [slot.leaf().to_owned(), slot.setting(), slot.full_name()];
            let is_clear = |name: &String| {
                self.find(name).is_ok_and(
                    |found| matches!(found[..], [found] if found.full_name() == slot.full_name()),
                )
            };
            Parameter {
                name: names.into_iter().find(is_clear).unwrap_or_else(|| slot.full_name()),
                nodes: vec![slot.node.clone()],
                setting: slot.setting(),
                schema: slot.schema.clone(),
            }
        });
        others.chain(seed).collect()
    }

    /// The settings that a request means by `name`.
    fn find(&self, name: &str) -> Result<Vec<&Slot>, String> {
        let means = |slot: &&Slot| {
            let own = name.strip_prefix(&slot.node).and_then(|rest| rest.strip_prefix('.'));
            let names = [Some(name), own];
            names.into_iter().flatten().any(|name| name == slot.leaf() || name == slot.setting())
        };
        let found: Vec<_> = self.0.iter().filter(means).collect();
        let shortest = found.iter().map(|slot| slot.path.len()).min().unwrap_or_default();
        let found: Vec<_> = found.into_iter().filter(|slot| slot.path.len() == shortest).collect();
        match found[..] {
            [] => Err(self.unknown(name)),
            [_] => Ok(found),
            _ if name == SEED => Ok(found),
            _ => {
                let names: Vec<_> =
                    found.iter().map(|slot| format!("`{}`", slot.full_name())).collect();
                Err(format!("`{name}` is a setting of several nodes: say {}", names.join(" or ")))
            }
        }
    }

    fn unknown(&self, name: &str) -> String {
        let shown: String = name.chars().take(60).collect();
        if self.0.is_empty() {
            return format!("there is no parameter {shown:?}: these nodes take none");
        }
        let names: Vec<_> = self.list().into_iter().map(|parameter| parameter.name).collect();
        let near = nearest(&shown, names.iter().map(String::as_str));
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", names.join(", ")),
        };
        format!("there is no parameter {shown:?}; {hint}")
    }

    /// Checks the parameters of a request, by their own schemas; values that are those of the pipeline change nothing.
    ///
    /// # Errors
    /// Which parameter is wrong, and how.
    pub fn check(&self, sent: &Map<String, Value>) -> Result<Changes, String> {
        let mut changes = Map::new();
        let mut seen = Vec::new();
        for (name, value) in sent {
            let slots = self.find(name)?;
            let checked = check_value(name, value, &slots[0].schema)?;
            for slot in slots {
                let full_name = slot.full_name();
                if seen.contains(&full_name) {
                    return Err(format!("`{full_name}` is given twice"));
                }
                if checked != slot.value {
                    changes.insert(full_name.clone(), checked.clone());
                }
                seen.push(full_name);
            }
        }
        changes.sort_keys();
        Ok(Changes(changes))
    }

    /// How many times the work is done that a row of the plain kind needs, such as the number of texts per row.
    pub fn factor(&self, changes: &Changes) -> usize {
        let factors =
            self.0.iter().filter(|slot| slot.multiplies).filter_map(|slot| {
                changes.0.get(&slot.full_name()).unwrap_or(&slot.value).as_u64()
            });
        factors.fold(1, |all, factor| all.saturating_mul(factor.max(1) as usize))
    }
}

/// The settings of a node that requests may change.
fn slots(node: &Node) -> Vec<Slot> {
    let mut slots = Vec::new();
    let properties = node.stage.config_schema.get("properties").and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        if request_options(schema).is_none() {
            continue;
        }
        slots.push(slot(node, vec![name.clone()], schema));
        for (member, schema) in members(schema).into_iter().flatten() {
            slots.push(slot(node, vec![name.clone(), member.clone()], schema));
        }
    }
    if node.stage.uses_seed && !slots.iter().any(|slot| slot.path == [SEED]) {
        let doc = "Decides what is drawn at random.";
        let value = Value::from(node.seed);
        let schema = json!({"description": doc, "type": "integer", "minimum": 0, "default": value});
        let (node, path) = (node.name.clone(), vec![SEED.to_owned()]);
        slots.push(Slot { node, path, schema, value, multiplies: false });
    }
    slots
}

fn slot(node: &Node, path: Vec<String>, schema: &Value) -> Slot {
    let value = node.config.pointer(&format!("/{}", path.join("/"))).cloned().unwrap_or_default();
    let multiplies = request_options(schema)
        .is_some_and(|options| options.get("multiplies") == Some(&Value::Bool(true)));
    let mut schema = for_requests(schema);
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("default".to_owned(), value.clone());
    }
    Slot { node: node.name.clone(), path, schema, value, multiplies }
}

/// What a schema says of requests; none if they may not change the setting.
fn request_options(schema: &Value) -> Option<Map<String, Value>> {
    match schema.get(REQUEST_KEYWORD)? {
        Value::Bool(true) => Some(Map::new()),
        Value::Object(options) => Some(options.clone()),
        _ => None,
    }
}

/// The members of a setting that is a mapping, or nothing.
fn members(schema: &Value) -> Option<&Map<String, Value>> {
    let own = schema.get("properties");
    let alternatives = schema.get("anyOf").and_then(Value::as_array);
    let of = || alternatives?.iter().find_map(|schema| schema.get("properties"));
    own.or_else(of)?.as_object()
}

/// A schema with the bounds that hold for requests, and without keywords of the engine.
fn for_requests(schema: &Value) -> Value {
    let Value::Object(members) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (keyword, value) in members {
        let value = match (keyword.as_str(), value) {
            (keyword, _) if keyword.starts_with("x-paraloom-") => continue,
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, schema)| (name.clone(), for_requests(schema)))
                .collect::<Map<_, _>>()
                .into(),
            ("anyOf" | "oneOf", Value::Array(schemas)) => {
                schemas.iter().map(for_requests).collect()
            }
            (_, value) => value.clone(),
        };
        out.insert(keyword.clone(), value);
    }
    for bound in ["minimum", "maximum"] {
        let options = request_options(schema);
        if let Some(value) = options.as_ref().and_then(|options| options.get(bound)) {
            out.insert(bound.to_owned(), value.clone());
        }
    }
    Value::Object(out)
}

/// Columns in which a stage tells what it has left out of texts, and how many tokens it has read and written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MarkColumns {
    pub(super) cut: Option<String>,
    pub(super) ended: Option<String>,
    pub(super) read: Option<String>,
    pub(super) written: Option<String>,
}

impl MarkColumns {
    /// Those that a setting of a node adds.
    fn of(names: &Map<String, Value>, config: &Value) -> Self {
        let into = config["into"].as_str().unwrap_or_default();
        let column = |name: &str| Some(names.get(name)?.as_str()?.replace("{into}", into));
        Self {
            cut: column("cut"),
            ended: column("ended"),
            read: column("read"),
            written: column("written"),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            cut: self.cut.or(other.cut),
            ended: self.ended.or(other.ended),
            read: self.read.or(other.read),
            written: self.written.or(other.written),
        }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        [&self.cut, &self.ended, &self.read, &self.written].into_iter().flatten()
    }
}

/// The settings that add [`MarkColumns`], and what the schema says of them.
fn mark_settings(schema: &Value) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties.filter_map(|(name, schema)| Some((name, schema.get(MARKS_KEYWORD)?.as_object()?)))
}

/// The settings of a node that may be turned on so that it marks its rows: columns of these names that another stage made would be
/// lost.
pub(super) fn free_marks(node: &Node) -> Vec<String> {
    let is_taken = |column: &String| {
        let mut schemas = node.outputs.iter().flatten();
        schemas.any(|schema| schema.index_of(column).is_ok())
    };
    let is_free = |(setting, names): &(&String, &Map<String, Value>)| {
        node.config[setting.as_str()] == true
            || !MarkColumns::of(names, &node.config).names().any(is_taken)
    };
    let free = mark_settings(&node.stage.config_schema).filter(is_free);
    free.map(|(setting, _)| setting.clone()).collect()
}

/// A node with settings changed and those of `marking` turned on, and the columns in which it marks its rows then.
pub(super) fn changed(
    node: &Node,
    changes: &Map<String, Value>,
    marking: &[String],
) -> Result<(Node, MarkColumns), String> {
    let mut node = node.clone();
    let schema = node.stage.config_schema.clone();
    let property = |name: &str| &schema["properties"][name];
    let config = node.config.as_object_mut().ok_or("it has no settings")?;
    let mut touched: Vec<&str> = Vec::new();
    for (setting, value) in changes {
        let (name, member) = match setting.split_once('.') {
            Some((name, member)) => (name, Some(member)),
            None => (setting.as_str(), None),
        };
        if name == SEED && member.is_none() && property(SEED).is_null() {
            node.seed = value.as_u64().unwrap_or(node.seed);
            continue;
        }
        match member {
            None => {
                config.insert(name.to_owned(), value.clone());
            }
            Some(member) => {
                let whole = config.entry(name).or_insert(Value::Null);
                if whole.is_null() {
                    *whole = json!({});
                }
                whole[member] = value.clone();
            }
        }
        touched.push(name);
    }
    touched.sort_unstable();
    touched.dedup();
    for name in &touched {
        let value = config.get(*name).cloned().unwrap_or_default();
        // Adds the defaults of its members.
        let value = check_value(name, &value, property(name))?;
        let is_set = !value.is_null();
        config.insert((*name).to_owned(), value);
        let options = request_options(property(name)).unwrap_or_default();
        let replaced = options.get("replaces").and_then(Value::as_array).cloned();
        for other in replaced.iter().flatten().filter_map(Value::as_str) {
            if is_set && !touched.contains(&other) {
                config.insert(other.to_owned(), property(other)["default"].clone());
            }
        }
    }
    let settings: Vec<_> =
        mark_settings(&schema).filter(|(name, _)| marking.contains(name)).collect();
    config.extend(settings.iter().map(|(name, _)| ((*name).clone(), Value::Bool(true))));
    config.sort_keys();
    let marks = settings.into_iter().map(|(_, names)| MarkColumns::of(names, &node.config));
    let marks = marks.fold(MarkColumns::default(), MarkColumns::and);
    Ok((node, marks))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use paraloom_pipeline::{RowAccount, Shape, Span, StageInfo};

    use super::*;

    fn schema() -> Value {
        let whole = json!({"type": "integer", "minimum": 1, "maximum": 1000});
        json!({"type": "object", "properties": {
            "count": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1,
                "x-paraloom-request": {"maximum": 8, "multiplies": true}},
            "draw": {"anyOf": [
                {"type": "object", "properties": {
                    "heat": {"type": "number", "minimum": 0.1, "default": 1.0},
                    "top": {"type": "integer", "default": 0}},
                 "additionalProperties": false},
                {"type": "null"}], "default": null, "x-paraloom-request": {"replaces": ["search"]}},
            "search": {"anyOf": [
                {"type": "object", "properties": {"beams": whole}, "required": ["beams"]},
                {"type": "null"}], "default": null, "x-paraloom-request": {"replaces": ["draw"]}},
            "keep": {"type": "string", "x-paraloom-request": true},
            "mark": {"type": "boolean", "default": false,
                "x-paraloom-marks": {"cut": "{into}_cut", "ended": "ended"}},
            "tokens": {"type": "boolean", "default": false,
                "x-paraloom-marks": {"read": "source_tokens", "written": "{into}_tokens"}},
            "into": {"type": "string", "default": "text"},
        }})
    }

    fn node(name: &str, uses_seed: bool, config: Value) -> Node {
        let stage = StageInfo {
            name: "fake".to_owned(),
            version: "1.0.0".to_owned(),
            doc: String::new(),
            library: "a test".to_owned(),
            backend: String::new(),
            config_schema: schema(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            shape: Shape::Map,
            uses_seed,
            resumable: false,
            batch_invariant: true,
            rows: RowAccount::Any,
            part_rows: None,
        };
        Node {
            name: name.to_owned(),
            span: Span::default(),
            stage: Arc::new(stage),
            config,
            paths: Vec::new(),
            seed: 42,
            repeats: 0,
            part_rows: None,
            rejects: None,
            retries: 0,
            device: "cpu".to_owned(),
            outputs: Vec::new(),
            fingerprint: String::new(),
            notes: Vec::new(),
            memory: None,
        }
    }

    fn config(search: Value) -> Value {
        json!({"count": 2, "draw": null, "into": "text", "keep": "a > 1", "mark": false, "search": search})
    }

    fn nodes() -> [Node; 2] {
        [
            node("first", true, config(json!({"beams": 4}))),
            node("second.b", true, config(Value::Null)),
        ]
    }

    fn check(nodes: &[Node], sent: Value) -> Result<Value, String> {
        let sent = sent.as_object().cloned().unwrap_or_default();
        Parameters::of(nodes.iter()).check(&sent).map(|changes| changes.0.into())
    }

    #[test]
    fn a_parameter_is_called_by_the_shortest_clear_name() {
        let names = |nodes: &[Node]| -> Vec<String> {
            let list = Parameters::of(nodes.iter()).list();
            list.into_iter().map(|parameter| parameter.name).collect()
        };
        let both = nodes();
        assert_eq!(
            names(&both[..1]),
            ["count", "draw", "heat", "top", "search", "beams", "keep", "seed"]
        );
        assert_eq!(names(&both)[..3], ["first.count", "first.draw", "first.draw.heat"]);
        assert_eq!(names(&both).last().map(String::as_str), Some("seed"));
        let list = Parameters::of(both[..1].iter()).list();
        assert_eq!(list[0].schema["maximum"], 8);
        assert_eq!(list[0].schema["default"], 2);
        assert!(list.iter().all(|parameter| !parameter.schema.to_string().contains("x-paraloom")));
    }

    #[test]
    fn parameters_are_checked_and_named_in_full() {
        let both = nodes();
        let cases = [
            (json!({}), Ok(json!({}))),
            (
                json!({"heat": 0.5, "count": 3}),
                Ok(json!({"first.count": 3, "first.draw.heat": 0.5})),
            ),
            (json!({"draw.heat": 0.5}), Ok(json!({"first.draw.heat": 0.5}))),
            (json!({"first.heat": 0.5}), Ok(json!({"first.draw.heat": 0.5}))),
            // What is so already changes nothing.
            (json!({"count": 2, "seed": 42, "beams": 4}), Ok(json!({}))),
            (json!({"draw": {"heat": 2.0}}), Ok(json!({"first.draw": {"heat": 2.0, "top": 0}}))),
            (json!({"count": 9}), Err("`count`: 9 is too large: the most is 8")),
            (json!({"heat": "hot"}), Err("`heat` must be a number, not text")),
            (json!({"haet": 1}), Err("there is no parameter \"haet\"; did you mean `heat`?")),
            (json!({"mark": true}), Err("there is no parameter \"mark\"; there are")),
            (json!({"count": 1, "first.count": 1}), Err("`first.count` is given twice")),
        ];
        for (sent, expected) in cases {
            let found = check(&both[..1], sent.clone());
            match expected {
                Ok(changes) => assert_eq!(found, Ok(changes), "{sent}"),
                Err(said) => {
                    let message = found.expect_err("it is wrong");
                    assert!(message.starts_with(said), "{sent}: {message}");
                }
            }
        }
        let message = check(&both, json!({"count": 1})).expect_err("two have it");
        assert_eq!(
            message,
            "`count` is a setting of several nodes: say `first.count` or `second.b.count`"
        );
        let seeds = json!({"first.seed": 1, "second.b.seed": 1});
        assert_eq!(check(&both, json!({"seed": 1})), Ok(seeds));
        assert_eq!(check(&both, json!({"second.b.seed": 1})), Ok(json!({"second.b.seed": 1})));
        let message = check(&[], json!({"a": 1})).expect_err("there is none");
        assert_eq!(message, "there is no parameter \"a\": these nodes take none");
    }

    #[test]
    fn settings_are_changed_with_what_goes_with_them() {
        let [first, second] = nodes();
        let with = |node: &Node, changes: Value| {
            let changes = changes.as_object().cloned().unwrap_or_default();
            changed(node, &changes, &[]).map(|(node, _)| (node.config, node.seed))
        };
        let mut drawn = config(Value::Null);
        drawn["draw"] = json!({"heat": 2.0, "top": 0});
        assert_eq!(with(&first, json!({"draw.heat": 2.0})), Ok((drawn, 42)));
        assert_eq!(with(&second, json!({"seed": 7})), Ok((config(Value::Null), 7)));
        // Both at once are for the stage to refuse.
        let both = with(&second, json!({"draw.heat": 2.0, "search.beams": 2})).expect("settings");
        assert!(both.0["draw"].is_object() && both.0["search"].is_object(), "{both:?}");
        let all = free_marks(&first);
        assert_eq!(all, ["mark", "tokens"]);
        let (marked, columns) = changed(&first, &Map::new(), &all).expect("settings");
        assert_eq!(
            (&marked.config["mark"], &marked.config["tokens"]),
            (&json!(true), &json!(true))
        );
        let names: Vec<_> = columns.names().collect();
        assert_eq!(names, ["text_cut", "ended", "source_tokens", "text_tokens"]);
        // What another stage calls so stays.
        let mut taken = first.clone();
        let column = arrow::datatypes::Field::new("ended", arrow::datatypes::DataType::Utf8, true);
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![column]));
        taken.outputs = vec![Some(schema)];
        assert_eq!(free_marks(&taken), ["tokens"]);
        let parameters = Parameters::of([first, second].iter());
        assert_eq!(parameters.factor(&Changes::default()), 4);
        let changes = Changes(Map::from_iter([("first.count".to_owned(), json!(5))]));
        assert_eq!(parameters.factor(&changes), 10);
        assert_eq!(changes.of("first"), Map::from_iter([("count".to_owned(), json!(5))]));
    }
}
