//! What a request may set beside its rows.

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use serde_json::{Map, Value, json};

/// Values of parameters by their names.
pub type Parameters = Map<String, Value>;

/// Something that a request may set.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// What a request calls it: `temperature`, or `NODE.temperature` if several nodes have one.
    pub name: String,
    /// The nodes whose setting it is.
    pub nodes: Vec<String>,
    /// What the pipeline calls the setting, such as `sample.temperature`.
    pub setting: String,
    /// JSON Schema of its values; `default` is the value in the pipeline.
    pub schema: Value,
}

/// Parameters that were found to be right.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// As the [`Mapper`](crate::Mapper) takes them. Requests that ask for the same are equal here.
    pub parameters: Parameters,
    /// How many times the work of a plain row is done for each, such as the number of texts per row.
    pub factor: usize,
}

type Check = Arc<dyn Fn(&Parameters) -> Result<Checked, String> + Send + Sync>;

/// What requests may set, and how that is checked.
#[derive(Clone)]
pub struct ParameterSet {
    list: Vec<Parameter>,
    check: Check,
}

impl ParameterSet {
    /// Parameters, and a function that says what is wrong with those of a request.
    pub fn new(
        list: Vec<Parameter>,
        check: impl Fn(&Parameters) -> Result<Checked, String> + Send + Sync + 'static,
    ) -> Self {
        Self { list, check: Arc::new(check) }
    }

    /// All of them.
    pub fn list(&self) -> &[Parameter] {
        &self.list
    }

    /// Checks those of a request.
    pub(crate) fn check(&self, sent: &Parameters) -> Result<Checked, String> {
        (self.check)(sent)
    }

    pub(crate) fn json(&self) -> Value {
        let parameter = |parameter: &Parameter| {
            let Parameter { name, nodes, setting, schema } = parameter;
            json!({"name": name, "nodes": nodes, "setting": setting, "schema": schema})
        };
        self.list.iter().map(parameter).collect()
    }
}

impl Default for ParameterSet {
    /// None at all.
    fn default() -> Self {
        Self::new(Vec::new(), |sent| match sent.keys().next() {
            None => Ok(Checked { parameters: Parameters::new(), factor: 1 }),
            Some(name) => Err(format!("there is no parameter {name:?}: these nodes take none")),
        })
    }
}

impl Debug for ParameterSet {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}
