//! The lexicon: classes of slot values, each value with its grammatical forms and the synonyms of every form.

use std::collections::BTreeMap;

/// A class of values, such as companies or reasons.
pub(super) struct Kind {
    pub(super) forms: Vec<String>,
    pub(super) values: Vec<Value>,
}

/// One meaning, and the ways to say it.
pub(super) struct Value {
    /// Values that must agree (a rise and its reason) carry the same tag.
    pub(super) tag: String,
    /// For each form of the kind, its synonyms.
    pub(super) forms: Vec<Vec<String>>,
}

pub(super) type Lexicon = BTreeMap<String, Kind>;

pub(super) fn parse(text: &str) -> Lexicon {
    let mut lexicon = Lexicon::new();
    let mut current = String::new();
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(header) = line.strip_prefix("kind ") {
            let (name, forms) = header.split_once(':').expect("kind NAME: FORMS");
            name.clone_into(&mut current);
            lexicon.insert(current.clone(), Kind { forms: split(forms, ';'), values: Vec::new() });
            continue;
        }
        let kind = lexicon.get_mut(&current).expect("a value follows a kind");
        let added = parse_values(line);
        assert!(
            added.iter().all(|value| value.forms.len() == kind.forms.len()),
            "forms do not match: {line}"
        );
        kind.values.extend(added);
    }
    lexicon
}

fn parse_values(line: &str) -> Vec<Value> {
    if let Some(rest) = line.strip_prefix("numbers ") {
        return parse_numbers(rest);
    }
    let (tag, body) = match line.split_at(1) {
        ("+" | "-", body) => (&line[..1], body),
        ("@", body) => body.split_once(' ').expect("@TAG VALUE"),
        _ => ("", line),
    };
    let forms = body.split(';').map(|form| split(form, '|')).collect();
    vec![Value { tag: tag.to_owned(), forms }]
}

/// `numbers FROM TO STEP TEMPLATE`: one value for each number.
fn parse_numbers(rest: &str) -> Vec<Value> {
    let parts: Vec<&str> = rest.splitn(4, ' ').collect();
    let [from, to, step, template] = parts[..] else {
        panic!("numbers FROM TO STEP TEMPLATE: {rest}")
    };
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let one = |n: usize| Value {
        tag: String::new(),
        forms: vec![split(&template.replace("{n}", &n.to_string()), '|')],
    };
    (number(from)..=number(to)).step_by(number(step)).map(one).collect()
}

fn split(text: &str, separator: char) -> Vec<String> {
    text.split(separator).map(|part| part.trim().to_owned()).collect()
}
