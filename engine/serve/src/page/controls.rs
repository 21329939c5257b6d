//! Controls for the parameters that a request may set, as `/v1/info` tells of them.

use serde::Serialize;
use serde_json::Value;

/// A control of the form.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Control {
    /// The parameter.
    pub(crate) name: String,
    label: String,
    /// `number`, `text`, `box` or `choice`.
    kind: &'static str,
    is_whole: bool,
    low: Option<f64>,
    high: Option<f64>,
    /// Of a number: `any`, or how far its values are apart.
    step: &'static str,
    /// What it is without being set; empty where that is nothing.
    pub(crate) default: String,
    choices: Vec<String>,
    help: String,
    /// Whether many look for it; the others are folded away.
    is_common: bool,
}

/// How a parameter is called on the page, its ends where the schema has none, and the order of controls.
const KNOWN: [(&str, &str, Option<f64>, Option<f64>); 9] = [
    ("candidates", "Number of sentences", Some(1.0), Some(20.0)),
    ("temperature", "Temperature", Some(0.0), Some(2.0)),
    ("top_p", "Top-p", Some(0.0), Some(1.0)),
    ("top_k", "Top-k", Some(0.0), Some(1000.0)),
    ("max_new_tokens", "Maximum length, tokens", Some(32.0), Some(512.0)),
    ("seed", "Seed", None, None),
    ("beams", "Beams", Some(1.0), Some(20.0)),
    ("early_stopping", "Stop early, with beams", None, None),
    ("keep", "Keep if", None, None),
];

/// The controls for parameters by name, each with its schema, in an order that people expect.
pub(crate) fn controls(parameters: &Value) -> Vec<Control> {
    let listed = parameters
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry.get("name")?.as_str()?.to_owned(), entry)));
    let named = parameters.as_object().into_iter().flatten();
    let named = named.map(|(name, schema)| (name.clone(), schema));
    let mut found: Vec<_> =
        listed.chain(named).filter_map(|(name, schema)| control(name, schema)).collect();
    found.sort_by_key(|control| rank(setting(&control.name)));
    found
}

/// The setting of a name that may be that of a node and a setting, or of a setting in another.
fn setting(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn rank(setting: &str) -> usize {
    KNOWN.iter().position(|(name, ..)| *name == setting).unwrap_or(KNOWN.len())
}

/// The types that a schema allows, one of its alternatives among them.
fn types(schema: &Value) -> Vec<&str> {
    let of_alternatives =
        ["anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array());
    let of_alternatives = of_alternatives.flatten().flat_map(types);
    let own = match schema.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    own.into_iter().chain(of_alternatives).collect()
}

/// The texts that a schema names, if it allows no others.
fn choices(schema: &Value) -> Vec<String> {
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    let alternatives = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let named = alternatives.filter_map(|one| one.get("const"));
    listed.chain(named).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn control(name: String, schema: &Value) -> Option<Control> {
    let inner = schema.get("schema").unwrap_or(schema);
    let types = types(inner);
    let known = KNOWN.iter().find(|(known, ..)| *known == setting(&name));
    let choices = choices(inner);
    let (kind, is_whole) = match () {
        () if !choices.is_empty() => ("choice", false),
        () if types.contains(&"boolean") => ("box", false),
        () if types.contains(&"number") => ("number", false),
        () if types.contains(&"integer") => ("number", true),
        () if types.contains(&"string") => ("text", false),
        // A mapping, or whatever else a form has no control for.
        () => return None,
    };
    let end =
        |schema: &str, known: Option<f64>| inner.get(schema).and_then(Value::as_f64).or(known);
    let value = ["value", "default", "current"]
        .iter()
        .find_map(|at| schema.get(*at).or_else(|| inner.get(*at)));
    let default = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    // The ends of the page are for comfort, and never beyond those of the schema.
    let (low, high) = (end("minimum", None), end("maximum", None));
    let low = low.into_iter().chain(known.and_then(|known| known.2)).reduce(f64::max);
    let high = high.into_iter().chain(known.and_then(|known| known.3)).reduce(f64::min);
    let now = default.parse::<f64>().ok();
    Some(Control {
        label: known.map_or_else(|| setting(&name).replace('_', " "), |known| known.1.to_owned()),
        kind,
        is_whole,
        // What it is now can always be chosen.
        low: low.map(|low| now.map_or(low, |now| low.min(now))),
        high: high.map(|high| now.map_or(high, |now| high.max(now))),
        step: if is_whole { "1" } else { "any" },
        default,
        choices,
        help: inner.get("description").and_then(Value::as_str).unwrap_or_default().to_owned(),
        // A condition is moved by its sliders.
        is_common: known.is_some_and(|known| known.0 != "keep"),
        name,
    })
}

impl Control {
    /// Whether another value draws other texts.
    pub(crate) fn is_seed(&self) -> bool {
        setting(&self.name) == "seed"
    }

    /// Whether many look for it.
    pub(crate) fn is_common(&self) -> bool {
        self.is_common
    }

    /// Whether it is a box to tick.
    pub(crate) fn is_box(&self) -> bool {
        self.kind == "box"
    }

    /// What was written, as a value of the parameter; none if it is what it is anyway. What is no such value goes as it is, for
    /// the server to refuse.
    pub(crate) fn value_of(&self, text: &str) -> Option<Value> {
        let text = text.trim();
        if text.is_empty() || text == self.default {
            return None;
        }
        let value = match self.kind {
            "number" if self.is_whole => text.parse::<i64>().ok().map(Value::from),
            "number" => {
                text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from)
            }
            "box" => text.parse::<bool>().ok().map(Value::from),
            _ => None,
        };
        let number = value.as_ref().and_then(Value::as_f64);
        if number.is_some() && number == self.default.parse().ok() {
            return None;
        }
        Some(value.unwrap_or_else(|| text.into()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_set_has_a_control() {
        let told = json!({
            "paraphrases.seed": {"type": "integer", "default": 42},
            "temperature": {"type": ["number", "null"], "minimum": 0, "value": 0.7, "description": "How bold."},
            "candidates": {"type": "integer", "maximum": 8, "default": 1},
            "max_new_tokens": {"type": "integer", "default": 1000},
            "early_stopping": {"oneOf": [{"const": "yes", "type": "string"}, {"const": "no"}], "default": null},
            "mark": {"type": "boolean", "default": false},
            "way": {"enum": ["a", "b"]},
            "sample": {"type": "object"},
            "length_penalty": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": null},
        });
        let found = controls(&told);
        let said = |control: &Control| {
            let end = |end: Option<f64>| end.map_or("-".to_owned(), |end| end.to_string());
            let ends = format!("{}..{}", end(control.low), end(control.high));
            let folded = if control.is_common { "" } else { " folded" };
            format!(
                "{} {:?} {} {ends} {}{folded}",
                control.label, control.name, control.kind, control.default
            )
        };
        let said: Vec<_> = found.iter().map(said).collect();
        let expected = [
            "Number of sentences \"candidates\" number 1..8 1",
            "Temperature \"temperature\" number 0..2 0.7",
            "Maximum length, tokens \"max_new_tokens\" number 32..1000 1000",
            "Seed \"paraphrases.seed\" number -..- 42",
            "Stop early, with beams \"early_stopping\" choice -..- ",
            "mark \"mark\" box -..- false folded",
            "way \"way\" choice -..-  folded",
            "length penalty \"length_penalty\" number -..-  folded",
        ];
        assert_eq!(said, expected);
        assert_eq!(found[4].choices, ["yes", "no"]);
        let list = json!([{"name": "top_p", "schema": {"type": "number"}}]);
        assert_eq!(controls(&list)[0].label, "Top-p");
        assert!(controls(&Value::Null).is_empty());
    }

    #[test]
    fn only_what_is_other_than_it_is_anyway_is_sent() {
        let schemas = json!({
            "candidates": {"type": "integer", "default": 1},
            "temperature": {"type": "number", "default": 0.7},
            "early_stopping": {"type": "boolean", "default": false},
        });
        let found = controls(&schemas);
        let cases = [
            (0, "1", None),
            (0, " 4 ", Some(json!(4))),
            (0, "four", Some(json!("four"))),
            (0, "", None),
            (1, "0.70", None),
            (1, "1", Some(json!(1.0))),
            (1, "inf", Some(json!("inf"))),
            (2, "true", Some(json!(true))),
            (2, "false", None),
        ];
        for (control, text, value) in cases {
            assert_eq!(found[control].value_of(text), value, "{text}");
        }
    }
}
