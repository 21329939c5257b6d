//! What befell texts on their way into a model: counted over all parts of a table, and told once.

use std::collections::BTreeMap;

use paraloom_sdk::Services;

/// How a text ends that was prepared for another tokenizer.
const EOS: &str = "</s>";

/// Counts of texts to which something happened that their owner should know. They are logged when the tally is dropped,
/// at the end of a node's work: a line for every part would bury them.
pub(super) struct Tally {
    services: Services,
    /// By what happened: to how many, of how many.
    counts: BTreeMap<String, (usize, usize)>,
}

impl Tally {
    pub(super) fn new(services: Services) -> Self {
        Self { services, counts: BTreeMap::new() }
    }

    /// Counts for how many texts it is true that they `what`, as in "sources were cut".
    pub(super) fn count(&mut self, what: impl Into<String>, texts: impl Iterator<Item = bool>) {
        let (hits, all) = self.counts.entry(what.into()).or_default();
        for hit in texts {
            *hits += usize::from(hit);
            *all += 1;
        }
    }

    /// Counts texts that were cut to `limit` tokens, which `setting` sets.
    pub(super) fn cut(
        &mut self,
        what: &str,
        limit: usize,
        setting: &str,
        texts: impl Iterator<Item = bool>,
    ) {
        self.count(format!("{what} were cut to {limit} tokens (`{setting}`)"), texts);
    }

    /// Counts texts that end with `</s>`.
    pub(super) fn eos<'a>(&mut self, what: &str, texts: impl Iterator<Item = &'a str>) {
        let told = format!(
            "{what} end with `{EOS}`, which is taken as text; `strip_eos: true` removes it"
        );
        self.count(told, texts.map(ends_with_eos));
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let told = self.counts.iter().filter(|(_, (hits, _))| *hits > 0);
        told.map(|(what, (hits, all))| format!("{hits} of {all} {what}"))
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.lines().for_each(|line| self.services.warn(&line));
    }
}

fn ends_with_eos(text: &str) -> bool {
    text.trim_end().ends_with(EOS)
}

/// A text without any `</s>` at its end, and without the space before it.
pub(super) fn without_eos(text: &str) -> &str {
    let mut rest = text;
    while let Some(shorter) = rest.trim_end().strip_suffix(EOS) {
        rest = shorter.trim_end();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_taken_off_and_nothing_else_is() {
        let cases = [
            ("a cat </s>", "a cat"),
            ("a cat</s>", "a cat"),
            ("a </s> </s>\n", "a"),
            ("</s>", ""),
            ("a </s> cat ", "a </s> cat "),
            ("", ""),
        ];
        for (text, stripped) in cases {
            assert_eq!(without_eos(text), stripped, "{text:?}");
            assert_eq!(ends_with_eos(text), text != stripped, "{text:?}");
        }
    }
}
