//! Mistakes: each turns a sound sentence into one that no careful writer would accept, or finds nothing to break in it.

use std::collections::BTreeSet;

use super::form::needs_an;
use super::rng::Rng;
use super::tables::{Tables, Words};

const DOUBLED: [&str; 16] = [
    "the", "in", "of", "to", "was", "were", "will", "by", "for", "a", "an", "must", "at", "and",
    "from", "has",
];
const DETERMINERS: [&str; 12] =
    ["the", "a", "an", "in", "of", "by", "for", "at", "from", "to", "its", "their"];

/// Most words of a place.
const LONGEST_PLACE: usize = 6;

/// Words after which another finite verb may follow.
const CONNECTIVES: [&str; 13] = [
    "because", "as", "after", "since", "that", "which", "who", "when", "and", "said", "say",
    "showed", "found",
];

type Rule = fn(&Words, &Tables) -> Vec<Words>;

/// The kinds of mistakes, named as the column `mistake` names them.
const KINDS: [(&str, Rule); 15] = [
    ("agreement", agreement),
    ("verb", after_auxiliary),
    ("verb", passive),
    ("no verb", no_finite_verb),
    ("agreement", third_person),
    ("article", articles),
    ("article", articles),
    ("double", doubled),
    ("repeat", repeated),
    ("order", swapped),
    ("no preposition", no_preposition),
    ("preposition", wrong_preposition),
    ("number", number),
    ("possessive", possessive),
    ("break", cut_short),
];

/// One mistake of a randomly chosen kind: the broken sentence, and the name of the kind.
pub(super) fn corrupt(sentence: &str, tables: &Tables, rng: &mut Rng) -> (String, &'static str) {
    let body = sentence.trim_end_matches('.');
    let words: Words = body.split(' ').map(str::to_owned).collect();
    loop {
        let (name, rule) = *rng.pick(&KINDS);
        let broken = rule(&words, tables);
        if !broken.is_empty() {
            let words = rng.pick(&broken).join(" ");
            let mut letters = words.chars();
            let first = letters.next().expect("a sentence has letters").to_uppercase();
            return (format!("{first}{}.", letters.as_str().trim_end_matches(',')), name);
        }
    }
}

/// Begins as one wording of an event and goes on, from a second finite verb, as another: what a writer who has lost the
/// thread produces, small language models first of all.
pub(super) fn blend(
    sound: &str,
    other: &str,
    tables: &Tables,
    rng: &mut Rng,
) -> Option<(String, &'static str)> {
    let [head, tail] =
        [sound, other].map(|text| text.split(' ').map(str::to_owned).collect::<Words>());
    let finite = |words: &Words| -> Vec<usize> {
        (1..words.len()).filter(|&at| tables.is_finite(words, at)).collect()
    };
    let opens = |word: &str| {
        word.ends_with(',') || DETERMINERS.contains(&word) || CONNECTIVES.contains(&word)
    };
    let first = *finite(&head).first()?;
    let ends: Vec<usize> = (first + 2..head.len()).filter(|&at| !opens(&head[at - 1])).collect();
    let starts = finite(&tail);
    if ends.is_empty()
        || starts.is_empty()
        || head[first..].iter().any(|word| CONNECTIVES.contains(&word.as_str()))
    {
        return None;
    }
    let (end, start) = (*rng.pick(&ends), *rng.pick(&starts));
    let words = [&head[..end], &tail[start..]].concat().join(" ");
    (words != sound && words != other).then_some((words, "blend"))
}

/// Where a broken sentence departs from the sound one: the words that differ, with a neighbour on either side; of many,
/// the first.
pub(super) fn place(sound: &str, broken: &str) -> String {
    let [sound, broken] = [sound, broken].map(|text| text.split(' ').collect::<Vec<_>>());
    let alike = |(one, other): &(&&str, &&str)| one.eq_ignore_ascii_case(other);
    let start = sound.iter().zip(&broken).take_while(alike).count();
    let rest = sound[start..].iter().rev().zip(broken[start..].iter().rev());
    let end = broken.len() - rest.take_while(alike).count();
    let first = start.saturating_sub(1);
    broken[first..(end + 1).min(broken.len()).min(first + LONGEST_PLACE)].join(" ")
}

/// Replaces word `at` by `with`, which may be none or several words.
fn splice(words: &Words, at: usize, with: &[&str]) -> Words {
    let after = words[at + 1..].iter().cloned();
    words[..at]
        .iter()
        .cloned()
        .chain(with.iter().map(|&word| word.to_owned()))
        .chain(after)
        .collect()
}

/// Applies a rule to every word; it says what to put in the word's place.
fn at_each<'a>(
    words: &'a Words,
    rule: impl Fn(usize, &'a str, &'a str) -> Option<Vec<&'a str>>,
) -> Vec<Words> {
    let next = |at: usize| words.get(at + 1).map_or("", String::as_str);
    (0..words.len())
        .filter_map(|at| Some(splice(words, at, &rule(at, &words[at], next(at))?)))
        .collect()
}

fn before(words: &[String], at: usize) -> &str {
    at.checked_sub(1).map_or("", |at| words[at].as_str())
}

/// "Prices was lowered", "the team have" is not among them: only auxiliaries whose other number is wrong.
fn agreement(words: &Words, _: &Tables) -> Vec<Words> {
    let pairs = [
        ("was", "were"),
        ("were", "was"),
        ("has", "have"),
        ("have", "has"),
        ("is", "are"),
        ("are", "is"),
    ];
    at_each(words, |_, word, _| {
        pairs.iter().find(|(right, _)| *right == word).map(|(_, wrong)| vec![*wrong])
    })
}

/// "Will opens", "to expanding".
fn after_auxiliary(words: &Words, tables: &Tables) -> Vec<Words> {
    let auxiliary = |at: usize| ["will", "must", "to", "would"].contains(&before(words, at));
    let verbs = (0..words.len())
        .filter(|&at| auxiliary(at))
        .filter_map(|at| Some((at, tables.base.get(&words[at])?)));
    verbs.flat_map(|(at, verb)| [1, 2, 4].map(|form| splice(words, at, &[&verb[form]]))).collect()
}

/// "Was acquire by", "was acquires by".
fn passive(words: &Words, tables: &Tables) -> Vec<Words> {
    let auxiliary = |at: usize| ["was", "were", "been", "be"].contains(&before(words, at));
    let verbs = (0..words.len())
        .filter(|&at| auxiliary(at))
        .filter_map(|at| Some((at, tables.participle.get(&words[at])?)));
    verbs
        .filter(|(_, verb)| verb[0] != verb[3])
        .flat_map(|(at, verb)| [0, 1].map(|form| splice(words, at, &[&verb[form]])))
        .collect()
}

/// A sentence whose only finite verb has become a gerund, an infinitive or nothing.
fn no_finite_verb(words: &Words, tables: &Tables) -> Vec<Words> {
    let finite: Vec<usize> = (0..words.len()).filter(|&at| tables.is_finite(words, at)).collect();
    let [only] = finite[..] else { return Vec::new() };
    let Some(verb) = tables.past.get(&words[only]) else { return Vec::new() };
    vec![
        splice(words, only, &[&verb[4]]),
        splice(words, only, &["to", &verb[0]]),
        splice(words, only, &[]),
    ]
}

/// "Velora plan to", "economists expects".
fn third_person(words: &Words, tables: &Tables) -> Vec<Words> {
    at_each(words, |at, word, next| {
        let subject = before(words, at).to_lowercase();
        let singular =
            tables.third.get(word).filter(|_| next == "to" && !tables.plural.contains_key(word));
        let plural = tables.base.get(word).filter(|_| tables.plural.contains_key(&subject));
        singular
            .map(|verb| vec![verb[0].as_str()])
            .or_else(|| plural.map(|verb| vec![verb[1].as_str()]))
    })
}

/// "Opened factory", "a old plant", "in third quarter".
fn articles(words: &Words, _: &Tables) -> Vec<Words> {
    at_each(words, |_, word, next| {
        let uncertain = ["lack", "shortage", "number", "growing"].contains(&next);
        (["a", "an"].contains(&word) && !uncertain).then(Vec::new)
    })
    .into_iter()
    .chain(at_each(words, |_, word, next| match word {
        "a" | "an" => Some(vec![if needs_an(next) { "a" } else { "an" }]),
        "the"
            if ["first", "second", "third", "fourth", "end", "last", "city", "state", "port"]
                .contains(&next) =>
        {
            Some(vec![])
        }
        _ => None,
    }))
    .collect()
}

fn doubled(words: &Words, tables: &Tables) -> Vec<Words> {
    let sort = |word: &str| DOUBLED.contains(&word) || tables.past.contains_key(word);
    at_each(words, |_, word, _| sort(word).then(|| vec![word, word]))
}

/// "In March in March".
fn repeated(words: &Words, _: &Tables) -> Vec<Words> {
    let phrase = |at: usize| DETERMINERS.contains(&words[at].as_str()) && at > 2;
    let lengths = |at: usize| {
        [2, 3].into_iter().map(move |length| at + length).filter(|&end| end <= words.len())
    };
    let twice = |at: usize, end: usize| [&words[..end], &words[at..]].concat();
    (0..words.len())
        .filter(|&at| phrase(at))
        .flat_map(|at| lengths(at).map(move |end| twice(at, end)))
        .collect()
}

/// "March in", "factory a".
fn swapped(words: &Words, _: &Tables) -> Vec<Words> {
    let movable = |at: usize| {
        DETERMINERS.contains(&words[at].as_str())
            || ["was", "will", "must"].contains(&words[at].as_str())
    };
    let plain = |at: usize| !words[at + 1].ends_with(',') && words[at] != words[at + 1];
    let exchange = |at: usize| {
        let mut words = words.clone();
        words.swap(at, at + 1);
        words
    };
    (1..words.len() - 1).filter(|&at| movable(at) && plain(at)).map(exchange).collect()
}

fn no_preposition(words: &Words, _: &Tables) -> Vec<Words> {
    at_each(words, |at, word, next| {
        let number = next.starts_with(|first: char| first.is_ascii_digit());
        let day = ["Monday", "Wednesday", "Friday", "noon", "the"].contains(&next);
        let particle = ["hand", "send", "put", "brought", "bring"].contains(&before(words, at));
        let needed = match word {
            "of" | "from" => true,
            "at" | "for" | "to" => at > 0,
            "by" => !number && !day,
            "in" => at > 0 && !particle,
            _ => false,
        };
        needed.then(Vec::new)
    })
}

fn wrong_preposition(words: &Words, tables: &Tables) -> Vec<Words> {
    let mut broken = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        let idiom = format!("{} {}", pair[0], pair[1]).to_lowercase();
        match idiom.as_str() {
            "because of" => broken.push(splice(words, at + 1, &["from"])),
            "due to" => broken.push(splice(words, at + 1, &["of"])),
            "according to" => broken.push(splice(words, at + 1, &["by"])),
            _ => {}
        }
        for (right, next, wrong) in &tables.prepositions {
            let follows = next == "*"
                || pair[1].trim_end_matches(',') == next
                || (next == "$" && pair[1].starts_with('$'));
            if *right == pair[0] && follows {
                broken.extend(wrong.iter().map(|wrong| splice(words, at, &[wrong])));
            }
        }
    }
    broken
}

/// "300 worker", "a factories".
fn number(words: &Words, tables: &Tables) -> Vec<Words> {
    at_each(words, |at, word, _| {
        let count = before(words, at).to_lowercase();
        let many = count.parse::<u32>().is_ok()
            || ["all", "two", "several", "of"].contains(&count.as_str());
        let one = ["a", "an"].contains(&count.as_str());
        match (tables.plural.get(word), tables.singular.get(word)) {
            (Some(singular), _) if many => Some(vec![singular.as_str()]),
            (_, Some(plural)) if one => Some(vec![plural.as_str()]),
            _ => None,
        }
    })
}

/// "To expand it fleet", "they passwords".
fn possessive(words: &Words, _: &Tables) -> Vec<Words> {
    let pairs: BTreeSet<(&str, &str)> =
        [("its", "it"), ("its", "it's"), ("their", "they"), ("their", "them")].into();
    let wrong = |right: &str, wrong: &'static str| {
        at_each(words, move |_, word, _| (word == right).then(|| vec![wrong]))
            .into_iter()
            .collect::<Vec<_>>()
    };
    pairs.into_iter().flat_map(|(good, bad)| wrong(good, bad)).collect()
}

/// The sentence breaks off after a word that cannot be the last.
fn cut_short(words: &Words, _: &Tables) -> Vec<Words> {
    let open = |at: &usize| {
        DETERMINERS.contains(&words[*at].as_str())
            || words[*at] == "because"
            || words[*at] == "with"
    };
    (5..words.len()).filter(open).map(|at| words[..=at].to_vec()).collect()
}
