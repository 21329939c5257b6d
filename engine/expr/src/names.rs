//! Suggestions for misspelt names.

/// The known name nearest to `name`, if one is near enough to be a misspelling; other case is the nearest.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(1);
    let lower = name.to_lowercase();
    known
        .map(|known| {
            let is_same = known.to_lowercase() == lower;
            let distance = if is_same { 0 } else { strsim::damerau_levenshtein(name, known) };
            (distance, known)
        })
        .filter(|(distance, known)| {
            *distance <= limit && *distance < length.max(known.chars().count())
        })
        .min()
        .map(|(_, near)| near)
}
