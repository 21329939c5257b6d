//! `keep` of `generate`: what of its source every text must have.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use paraloom_sdk::{Error, Result, Table, column};
use paraloom_t5_core::decode::{Kept, Span, Words, numbers};
use paraloom_t5_core::tokenizer::Tokenizer;
use schemars::JsonSchema;
use serde::Deserialize;

/// What comes in every text.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keep {
    /// The numbers of the source, and no others: digits, with `.`, `,`, `:` or `/` between them.
    #[serde(default)]
    numbers: bool,
    /// The column with the names and phrases that come as they are: a list of texts, also as JSON (`["Acme", "New York"]`), or
    /// one text.
    #[serde(default)]
    column: Option<String>,
}

/// The type of a column of lists.
fn list() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))
}

impl Keep {
    /// Refuses what names nothing, or a column that is none.
    pub(super) fn check(&self, rows: &Table) -> Result<()> {
        let Some(name) = &self.column else {
            return if self.numbers {
                Ok(())
            } else {
                Err(Error::config("`keep` keeps nothing")
                    .at("/keep")
                    .hint("write `keep: { numbers: true }`, or `column: NAME`"))
            };
        };
        let is_text =
            |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Null);
        match rows.field(name, "/keep/column")?.data_type() {
            kind if is_text(kind) => Ok(()),
            DataType::List(item) | DataType::LargeList(item) if is_text(item.data_type()) => Ok(()),
            kind => {
                let message = format!("column `{name}` is {kind}, not a text or a list of texts");
                Err(Error::schema(message).at("/keep/column"))
            }
        }
    }

    /// What the column names in each row.
    fn named(&self, rows: &RecordBatch) -> Result<Vec<Vec<String>>> {
        let Some(name) = &self.column else { return Ok(vec![Vec::new(); rows.num_rows()]) };
        let texts = |texts: &StringArray| texts.iter().flatten().map(str::to_owned).collect();
        let values = column::get(rows, name)?;
        if !matches!(values.data_type(), DataType::List(_) | DataType::LargeList(_)) {
            let values = column::text(rows, name)?;
            let of_text = |text: &str| {
                let list: Option<Vec<String>> = serde_json::from_str(text).ok();
                list.unwrap_or_else(|| vec![text.to_owned()])
            };
            return Ok(values.iter().map(|text| text.map_or(Vec::new(), of_text)).collect());
        }
        let lists = cast(values, &list())?;
        let lists = lists.as_list::<i32>().iter();
        Ok(lists.map(|list| list.map_or(Vec::new(), |list| texts(list.as_string()))).collect())
    }

    /// What the texts of each row must have, or why they cannot: `room` tokens are all that they may take.
    pub(super) fn of_rows(
        &self,
        rows: &RecordBatch,
        sources: &StringArray,
        tokenizer: &Tokenizer,
        words: &Words,
        room: usize,
    ) -> Result<Vec<std::result::Result<Kept, String>>> {
        let named = self.named(rows)?.into_iter().zip(sources);
        let of_row = |(named, source): (Vec<String>, Option<&str>)| {
            let found: BTreeSet<String> = match source {
                Some(source) if self.numbers => numbers(source).map(str::to_owned).collect(),
                _ => BTreeSet::new(),
            };
            let mut spans: Vec<Span> = Vec::new();
            for text in found.iter().chain(&named).map(|text| text.trim()) {
                if text.is_empty() || spans.iter().any(|span| span.text == text) {
                    continue;
                }
                let span = Span { text: text.to_owned(), pieces: tokenizer.pieces(text)? };
                // Beside a word, as it will stand in a text.
                if !words.text(&span.pieces).contains(text) || span.pieces.is_empty() {
                    return Ok(Err(format!("the model's tokenizer cannot write `{text}`")));
                }
                spans.push(span);
            }
            let kept = Kept::new(spans, self.numbers.then_some(found), words);
            let needed = kept.tokens();
            if needed > room {
                return Ok(Err(format!(
                    "what `keep` asks for takes {needed} tokens, more than `max_new_tokens`, {room}"
                )));
            }
            Ok(Ok(kept))
        };
        named.map(of_row).collect()
    }
}

/// Why a text is not what `keep` asks for, if it is not.
pub(super) fn lacks(kept: &Kept, text: &str) -> Option<String> {
    let missing = kept.missing_in(text).first().map(|span| format!("it lacks `{}`", span.text));
    let foreign =
        || kept.foreign_number(text).map(|number| format!("`{number}` is not in the source"));
    missing.or_else(foreign)
}
