//! A [`Key`] is the BLAKE3 hash of everything that decides a result.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;

/// Names a result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl TryFrom<String> for Key {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a key has 64 hexadecimal digits")
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl Key {
    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        Digest::parse(text).map(|_| Self(text.to_owned()))
    }

    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key is the hash of: a JSON object with sorted members. It is stored beside the
/// result, so that a plan can name the member that changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Preimage(Map<String, Value>);

impl Preimage {
    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// The member called `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The members.
    pub fn members(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The key.
    pub fn key(&self) -> Key {
        Key(Digest::of(self.canonical().as_bytes()).to_string())
    }

    /// One text for one value: members sorted at every level.
    pub(crate) fn canonical(&self) -> String {
        let mut value = Value::Object(self.0.clone());
        value.sort_all_objects();
        format!("paraloom key 1\n{value}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The key of every result that was ever stored: another one would make all of them unknown.
    #[test]
    fn a_key_is_of_the_members_whatever_their_order() {
        let one =
            Preimage::default().with("stage", "load").with("config", json!({"b": 1, "a": [2]}));
        let other =
            Preimage::default().with("config", json!({"a": [2], "b": 1})).with("stage", "load");
        assert_eq!(
            one.canonical(),
            "paraloom key 1\n{\"config\":{\"a\":[2],\"b\":1},\"stage\":\"load\"}"
        );
        assert_eq!(one.key(), other.key());
        assert_eq!(one.key().to_string(), Digest::of(one.canonical().as_bytes()).to_string());
        assert_eq!(one.get("stage"), Some(&json!("load")));
        assert_eq!(one.get("seed"), None);
        assert_eq!(one.members().keys().collect::<Vec<_>>(), ["stage", "config"]);
        assert_ne!(one.clone().with("seed", 1).key(), one.key());
    }
}
