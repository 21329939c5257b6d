//! A model card: the `README.md` that says what a model was made from, how, and how well it went.
//!
//! It holds no times and no paths, so that the same training writes the same bytes.

use std::path::Path;

use paraloom_t5_core::Result;
use paraloom_t5_core::config::Config;
use paraloom_t5_core::folder::write_file;
use paraloom_t5_core::model::Model;
use serde::Serialize;
use serde_json::Value;

use super::examples::TableCount;

const FILE: &str = "README.md";

/// What a card tells.
pub(super) struct Card<'a> {
    /// What was done to the model, as the end of "A T5 model ..".
    pub(super) what: &'a str,
    /// The model that this one was made from, where its name is known.
    pub(super) base: Option<&'a str>,
    /// The tables that were learnt from.
    pub(super) tables: &'a [TableCount],
    /// Settings and results, each with its heading; written as JSON.
    pub(super) sections: Vec<(&'static str, Value)>,
}

impl Card<'_> {
    /// Writes the card into a model directory.
    pub(super) fn write(&self, model: &Model, directory: &Path) -> Result<()> {
        let path = directory.join(FILE);
        write_file(&path, self.text(model).as_bytes())
    }

    fn text(&self, model: &Model) -> String {
        let mut text = self.front_matter();
        let config = model.config();
        text.push_str(&format!(
            "\n# A T5 model {}\n\n{} weights; {} encoder and {} decoder layers, {} wide.\n",
            self.what,
            model.parameters(),
            config.num_layers,
            config.num_decoder_layers,
            config.d_model
        ));
        if !self.tables.is_empty() {
            text.push_str("\n## Data\n\n| table | rows | examples |\n|---|---:|---:|\n");
            for table in self.tables {
                text.push_str(&format!(
                    "| `{}` | {} | {} |\n",
                    table.label, table.rows, table.examples
                ));
            }
        }
        for (heading, values) in &self.sections {
            // JSON escapes line breaks, so no value can end the fence.
            text.push_str(&format!("\n## {heading}\n\n```json\n{values:#}\n```\n"));
        }
        text.push_str(USE);
        text
    }

    fn front_matter(&self) -> String {
        let base = self.base.map_or_else(String::new, |base| format!("base_model: {base}\n"));
        format!(
            "---\nlibrary_name: transformers\npipeline_tag: text2text-generation\n{base}tags:\n- t5\n- paraloom\n---\n"
        )
    }
}

const USE: &str = "
## Use

```python
from transformers import AutoTokenizer, T5ForConditionalGeneration

tokenizer = AutoTokenizer.from_pretrained(\".\")
model = T5ForConditionalGeneration.from_pretrained(\".\")
```
";

/// The hub's name of the model that `config` was read from, where it says so.
///
/// `_name_or_path` may also be a directory of somebody's machine, which is nobody's business.
pub(super) fn hub_name(config: &Config) -> Option<&str> {
    let name = config.extra.get("_name_or_path")?.as_str()?;
    let (owner, model) = name.split_once('/').unwrap_or(("google-t5", name));
    let plain = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.chars().all(|symbol| symbol.is_ascii_alphanumeric() || "-_.".contains(symbol))
    };
    (plain(owner) && plain(model)).then_some(name)
}

/// Settings as a section.
pub(super) fn section(settings: &impl Serialize) -> Value {
    // Settings are plain structures; one that could not be written would be missing, not wrong.
    serde_json::to_value(settings).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use paraloom_t5_core::device::cpu_device;

    #[test]
    fn a_name_of_the_hub_is_told_from_a_path() {
        let config = |name: &str| {
            let mut config = Config::small(8, 8, 8, 1, 1);
            config.extra.insert("_name_or_path".into(), name.into());
            config
        };
        for name in ["google-t5/t5-base", "t5-small"] {
            assert_eq!(hub_name(&config(name)), Some(name));
        }
        for name in ["/home/me/t5", "./t5", "a/b/c", "", "a/b\nlicense: x"] {
            assert_eq!(hub_name(&config(name)), None, "{name}");
        }
    }

    #[test]
    fn a_card_has_what_the_hub_and_a_reader_look_for() -> Result<()> {
        let tables = [TableCount { label: "paws".into(), rows: 3, examples: 2 }];
        let card = Card {
            what: "that was fine-tuned",
            base: Some("google-t5/t5-small"),
            tables: &tables,
            sections: vec![("Configuration", json!({ "prefix": "a\n```\nb" }))],
        };
        let model = Model::initial(Config::small(8, 8, 8, 1, 1), &cpu_device(), 1)?;
        let text = card.text(&model);
        let front = "---\nlibrary_name: transformers\npipeline_tag: text2text-generation\nbase_model: google-t5/t5-small\n";
        assert!(text.starts_with(front), "{text}");
        assert!(text.contains("| `paws` | 3 | 2 |"), "{text}");
        assert!(text.contains("  \"prefix\": \"a\\n```\\nb\"\n"), "{text}");
        Ok(())
    }
}
