//! Valid names, and suggestions for misspelt ones.

/// The candidate nearest to `name` by edit distance, if one is near enough to be a misspelling; other case is the nearest. Of names
/// that have nothing in common none is near.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(1);
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let is_same = candidate.to_lowercase() == lower;
            let distance = if is_same { 0 } else { strsim::damerau_levenshtein(name, candidate) };
            (distance, candidate)
        })
        .filter(|(distance, candidate)| {
            *distance <= limit && *distance < length.max(candidate.chars().count())
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or the list of what there is.
pub(crate) fn suggestion<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    if let Some(near) = nearest(name, candidates.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let all: Vec<_> = candidates.into_iter().map(|name| format!("`{name}`")).collect();
    match all.len() {
        0 => None,
        1..=12 => Some(format!("there is {}", all.join(", "))),
        more => Some(format!("there are {more}, such as {}", all[..8].join(", "))),
    }
}

/// Node, variable and pipeline names: `[a-z0-9][a-z0-9_-]{0,63}`. They appear in paths,
/// commands and messages, so nothing else is let in.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 64
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || c == '_' || c == '-')
}

pub(crate) const NAME_RULE: &str = "a name has lower-case letters, digits, `_` and `-`, starts with a letter or digit, and has at most 64 characters";

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn what_is_near_has_something_in_common() {
        for (name, candidates, expected) in [
            ("Q", &["d", "q"][..], Some("q")),
            ("é", &["d", "q"], None),
            ("", &["d", "q"], None),
            ("", &["", "q"], None),
            ("ab", &["a", "xyz"], Some("a")),
            ("lenght", &["length", "weight"], Some("length")),
            ("TEXT", &["next", "text"], Some("text")),
        ] {
            assert_eq!(nearest(name, candidates.iter().copied()), expected, "{name}");
        }
    }
}
