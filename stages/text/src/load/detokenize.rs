//! From the spacing of tokenised corpora (`a word , " quoted "`) to that of ordinary text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray};

/// Detokenises a text column; other columns stay as they are.
pub(super) fn column(column: &ArrayRef) -> ArrayRef {
    match column.as_any().downcast_ref::<StringArray>() {
        Some(texts) => {
            let plain: StringArray = texts.iter().map(|text| text.map(detokenize)).collect();
            Arc::new(plain)
        }
        None => Arc::clone(column),
    }
}

fn detokenize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quoted = false;
    // Whether the next word follows without a space.
    let mut join = true;
    for word in text.split_whitespace() {
        let is_quote = matches!(word, "\"" | "``" | "''");
        let closes =
            matches!(word, "," | "." | ";" | ":" | "!" | "?" | ")" | "]" | "}" | "%" | "...")
                || (is_quote && quoted)
                || (word.starts_with('\'') && word.len() > 1)
                || word == "n't";
        if !join && !closes {
            out.push(' ');
        }
        join = matches!(word, "(" | "[" | "{" | "$") || (is_quote && !quoted);
        if is_quote {
            quoted = !quoted;
            out.push('"');
        } else {
            out.push_str(word);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::detokenize;

    #[test]
    fn ordinary_spacing() {
        for (tokens, text) in [
            ("a word , and another .", "a word, and another."),
            ("I lov 'd her soon , I lov 'd her late .", "I lov'd her soon, I lov'd her late."),
            ("he said `` no '' to it", "he said \"no\" to it"),
            ("White House ( Jefferson County ) .", "White House (Jefferson County)."),
            ("it does n't cost $ 5 ; 3 % less", "it doesn't cost $5; 3% less"),
            ("", ""),
        ] {
            assert_eq!(detokenize(tokens), text);
        }
    }
}
