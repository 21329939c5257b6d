//! What is served under which name, and which of them a request means.

use axum::http::StatusCode;
use serde_json::Value;

use crate::problem::{Problem, quoted};
use crate::{About, ServeError};

/// Models by their numbers: one at least, each with a name of its own. The first is that of requests that name none.
pub(crate) struct Models(Vec<About>);

impl Models {
    pub(crate) fn new(models: Vec<About>) -> Result<Self, ServeError> {
        if models.is_empty() {
            return Err(ServeError::Models("there is nothing to serve".to_owned()));
        }
        let mut names: Vec<_> = models.iter().map(|about| about.name.as_str()).collect();
        names.sort_unstable();
        if let Some([twice, ..]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ServeError::Models(format!("two models are called `{twice}`")));
        }
        Ok(Self(models))
    }

    /// All of them, by their numbers.
    pub(crate) fn all(&self) -> &[About] {
        &self.0
    }

    /// The one of this number.
    pub(crate) fn get(&self, number: usize) -> &About {
        &self.0[number]
    }

    /// The one that requests mean which name none.
    pub(crate) fn first(&self) -> &About {
        self.get(0)
    }

    pub(crate) fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// The number of the one with this name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|about| about.name == name)
    }

    /// The number of the one that a request names; without a name, the first.
    pub(crate) fn chosen(&self, name: &Value) -> Result<usize, Problem> {
        match name {
            Value::Null => Ok(0),
            Value::String(name) => self.find(name).ok_or_else(|| self.unknown(name)),
            _ => Err(Problem::bad_request("`model` is the name of a model, a text")),
        }
    }

    /// As OpenAI's API says it, with what there is.
    pub(crate) fn unknown(&self, name: &str) -> Problem {
        let names: Vec<_> = self.0.iter().map(|about| format!("`{}`", about.name)).collect();
        let (name, names) = (quoted(name), names.join(", "));
        let message = format!("there is no model {name:?}; this server has {names}");
        let problem = Problem::new(StatusCode::NOT_FOUND, "model_not_found", message);
        Problem { param: Some("model"), ..problem }
    }
}
