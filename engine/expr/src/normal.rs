//! Normalization of texts for comparison.

use std::borrow::Cow;

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizer;
use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;

/// Normal form for comparisons that ignore case and encoding variants: NFKC of the case folding, without default-ignorable
/// characters such as soft hyphens and zero-width spaces. `Straße` is `STRASSE`, `é` is `e` with an
/// accent, `ﬁ` is `fi`, `Ａ` is `a`. White space stays as it is.
pub fn normalise(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        return if is_lower { Cow::Borrowed(text) } else { Cow::Owned(text.to_ascii_lowercase()) };
    }
    let composed = ComposingNormalizer::new_nfkc();
    let unseen = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let folded = CaseMapper::new().fold_string(&composed.normalize(text)).into_owned();
    let seen: String = folded.chars().filter(|char| !unseen.contains(*char)).collect();
    // Folding can decompose characters, and removing ignorable ones can make others adjacent, so NFKC is applied again.
    Cow::Owned(composed.normalize(&seen).into_owned())
}

/// The numbers in a text, sorted: `$1,250.50 in 2024` has `1250.5` and `2024`. A comma, or a point, between digits is part of the
/// number; commas group digits, so they are left out. Zeros that change nothing do not count, and a minus does.
pub(crate) fn numbers(text: &str) -> Vec<String> {
    let text = normalise(text);
    let mut numbers = Vec::new();
    let mut number = String::new();
    let mut is_negative = false;
    // A `-` before the number is a minus sign unless it follows a letter or digit, as in `A-5`; a currency sign may be between.
    let (mut before, mut minus) = (' ', false);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let goes_on = chars.peek().is_some_and(char::is_ascii_digit);
        match char {
            '0'..='9' => {
                if number.is_empty() {
                    is_negative = minus;
                }
                number.push(char);
            }
            '.' if goes_on => number.push(char),
            ',' if !number.is_empty() && goes_on => {}
            _ => {
                if !number.is_empty() {
                    numbers.push(plain(&std::mem::take(&mut number), is_negative));
                }
                let is_sign = matches!(char, '-' | '−') && !before.is_alphanumeric();
                let is_currency = matches!(char, '$' | '€' | '£' | '¥');
                minus = is_sign || (is_currency && minus);
            }
        }
        before = char;
    }
    if !number.is_empty() {
        numbers.push(plain(&number, is_negative));
    }
    numbers.sort();
    numbers
}

/// Strips leading zeros, and trailing ones after the point.
fn plain(number: &str, is_negative: bool) -> String {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.trim_start_matches('0');
    // With several points, as in `1.2.30`, only the zeros at the very end.
    let fraction = fraction.trim_end_matches('0');
    let sign = if is_negative && !(whole.is_empty() && fraction.is_empty()) { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::{normalise, numbers};

    #[test]
    fn what_looks_the_same_is() {
        for (a, b) in [
            ("Café au lait", "cafe\u{301} AU lait"),
            ("zero\u{200b}width", "zerowidth"),
            ("soft\u{ad}hyphen", "softhyphen"),
            ("\u{feff}mark", "mark"),
            ("ＦＵＬＬ", "full"),
            ("ﬁne", "fine"),
            ("Straße", "STRASSE"),
            ("ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς"),
            ("a\u{200b}\u{301}", "á"),
            ("ABC", "abc"),
        ] {
            assert_eq!(normalise(a), normalise(b), "{a} {b}");
        }
        assert_ne!(normalise("a"), normalise("ä"));
        assert_ne!(normalise("I"), normalise("ı"));
    }

    #[test]
    fn numbers_of_a_text() {
        for (text, found) in [
            ("$1,250.50 in 2024", "1250.5 2024"),
            ("3.50", "3.5"),
            ("007 and 7.0", "7 7"),
            ("-5 or 5", "-5 5"),
            ("−$5 (€-3)", "-3 -5"),
            ("2020-2021, A-4, - 6", "2020 2021 4 6"),
            ("-0.00", "0"),
            (".5 and 0.5", "0.5 0.5"),
            ("1.2.30", "1.2.3"),
            ("ends with 3.", "3"),
            ("", ""),
        ] {
            assert_eq!(numbers(text).join(" "), found, "{text}");
        }
    }
}
