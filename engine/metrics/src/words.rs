//! How texts are divided into words, and words into runs.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// White space as Python's `str.split` has it: that of Unicode, and four separators of ASCII.
pub fn is_space(char: char) -> bool {
    char.is_whitespace() || matches!(char, '\u{1c}'..='\u{1f}')
}

/// The words of sacreBLEU's tokenizer `13a`, which is that of WMT's mteval-v13a.
pub fn mteval(text: &str) -> Vec<String> {
    /// What is put between blanks, and where the blanks go.
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let rule = |pattern: &str, by| (Regex::new(pattern).expect("it is a pattern"), by);
        [
            rule(r"[{-~\[-` -&(-+:-@/]", "b0b"),
            // Stops and commas, but within numbers.
            rule(r"([^0-9])([.,])", "1b2b"),
            rule(r"([.,])([^0-9])", "b1b2"),
            rule(r"([0-9])(-)", "1b2b"),
        ]
    });
    let text = text.trim_end_matches(is_space).replace("<skipped>", "");
    let mut text = text.replace("-\n", "").replace('\n', " ");
    for (entity, char) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, char);
    }
    let mut text = format!(" {text} ");
    for (pattern, form) in &*RULES {
        let put = |found: &Captures| {
            let part = |sign: char| sign.to_digit(10).map_or(" ", |group| &found[group as usize]);
            form.chars().map(part).collect::<String>()
        };
        text = pattern.replace_all(&text, put).into_owned();
    }
    text.split(is_space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The words of Google's rouge-score without stemming: letters and digits of ASCII, in lower case.
pub fn rouge(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|char: char| !char.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// How often runs of items occur.
pub type Runs<'a, T> = HashMap<&'a [T], u64>;

/// How often each run of `length` items occurs.
pub fn runs<T: Eq + Hash>(items: &[T], length: usize) -> Runs<'_, T> {
    let mut counts = HashMap::new();
    for run in items.windows(length) {
        *counts.entry(run).or_default() += 1;
    }
    counts
}

/// How many runs two texts have in common.
pub fn common<T: Eq + Hash>(one: &Runs<'_, T>, other: &Runs<'_, T>) -> u64 {
    one.iter().map(|(run, count)| *count.min(other.get(run).unwrap_or(&0))).sum()
}
