//! Suggestions for misspelt names: of nodes, settings, columns and functions alike.

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
