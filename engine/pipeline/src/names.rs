//! Valid names, and suggestions for misspelt ones.

use paraloom_names::nearest;

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
