//! A form is one way to say a frame: a template with slots, free choices and passages for optional slots.

use super::rng::Rng;
use super::scene::{Frame, Slot, position};

pub(super) struct Form {
    parts: Vec<Part>,
}

enum Part {
    Text(String),
    Slot { slot: usize, form: usize },
    Choice(Vec<Vec<Part>>),
    Where { slot: usize, parts: Vec<Part> },
}

impl Form {
    pub(super) fn parse(text: &str, slots: &[Slot]) -> Self {
        let mut rest = text;
        let parts = parse_parts(&mut rest, slots);
        assert!(rest.is_empty(), "unbalanced form: {text}");
        Self { parts }
    }

    /// Whether the form says every slot that the frame fills, and needs none that it leaves out.
    pub(super) fn suits(&self, frame: &Frame) -> bool {
        let (mut needed, mut said) = (Vec::new(), Vec::new());
        collect(&self.parts, &mut needed, &mut said);
        let filled = |slot: usize| frame.values[slot].is_some();
        needed.iter().all(|&slot| filled(slot))
            && (0..frame.values.len())
                .all(|slot| !filled(slot) || needed.contains(&slot) || said.contains(&slot))
    }

    pub(super) fn say(&self, frame: &Frame, slots: &[Slot], rng: &mut Rng) -> String {
        let mut text = String::new();
        say_parts(&self.parts, frame, slots, rng, &mut text);
        finish(&text)
    }
}

fn collect(parts: &[Part], needed: &mut Vec<usize>, said: &mut Vec<usize>) {
    for part in parts {
        match part {
            Part::Text(_) => {}
            Part::Slot { slot, .. } => needed.push(*slot),
            Part::Choice(choices) => {
                choices.iter().for_each(|choice| collect(choice, needed, said));
            }
            Part::Where { slot, parts } => {
                said.push(*slot);
                let mut inner = Vec::new();
                collect(parts, &mut inner, said);
                needed.extend(inner.into_iter().filter(|other| other != slot));
            }
        }
    }
}

fn say_parts(parts: &[Part], frame: &Frame, slots: &[Slot], rng: &mut Rng, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(words) => text.push_str(words),
            Part::Slot { slot, form } => {
                let value = frame.values[*slot].expect("the form suits the frame");
                text.push_str(rng.pick::<String>(&slots[*slot].kind.values[value].forms[*form]));
            }
            Part::Choice(choices) => {
                say_parts(rng.pick::<Vec<Part>>(choices), frame, slots, rng, text);
            }
            Part::Where { slot, parts } if frame.values[*slot].is_some() => {
                say_parts(parts, frame, slots, rng, text);
            }
            Part::Where { .. } => {}
        }
    }
}

fn parse_parts(rest: &mut &str, slots: &[Slot]) -> Vec<Part> {
    let mut parts = Vec::new();
    while let Some(first) = rest.chars().next() {
        match first {
            ']' | '>' | '|' => break,
            '{' => parts.push(parse_slot(rest, slots)),
            '[' => {
                let mut choices = Vec::new();
                while !rest.starts_with(']') {
                    *rest = &rest[1..];
                    choices.push(parse_parts(rest, slots));
                }
                *rest = &rest[1..];
                parts.push(Part::Choice(choices));
            }
            '<' => {
                let (name, after) = rest[1..].split_once(':').expect("<SLOT: TEXT>");
                *rest = after;
                // "< time: at noon>" begins with a space, "<time: at noon, >" does not.
                let space =
                    if name.starts_with(' ') && !after.starts_with(" ,") { " " } else { "" };
                *rest = rest.strip_prefix(' ').unwrap_or(rest);
                let mut inner = vec![Part::Text(space.to_owned())];
                inner.extend(parse_parts(rest, slots));
                *rest = rest.strip_prefix('>').expect("a closed passage");
                parts.push(Part::Where { slot: position(slots, name.trim()), parts: inner });
            }
            _ => {
                let end = rest.find(['[', ']', '<', '>', '|', '{']).unwrap_or(rest.len());
                parts.push(Part::Text(rest[..end].to_owned()));
                *rest = &rest[end..];
            }
        }
    }
    parts
}

fn parse_slot(rest: &mut &str, slots: &[Slot]) -> Part {
    let (inside, after) = rest[1..].split_once('}').expect("a closed slot");
    *rest = after;
    let (name, form) = inside.split_once('.').unwrap_or((inside, ""));
    let slot = position(slots, name);
    let forms = &slots[slot].kind.forms;
    let form = if form.is_empty() { Some(0) } else { forms.iter().position(|known| known == form) };
    Part::Slot { slot, form: form.unwrap_or_else(|| panic!("no form `{inside}`")) }
}

/// From words to a sentence: articles, possessives, a capital letter and a full stop.
fn finish(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut sentence = String::new();
    for (index, word) in words.iter().enumerate() {
        let vowel = words.get(index + 1).is_some_and(|next| needs_an(next));
        let word = if *word == "a" && vowel { "an" } else { word };
        if index > 0 {
            sentence.push(' ');
        }
        sentence.push_str(word);
    }
    let sentence = sentence.replace("s's ", "s' ");
    let mut letters = sentence.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

pub(super) fn needs_an(next: &str) -> bool {
    let sounds_like_a_consonant =
        ["European", "unit", "one", "use"].iter().any(|start| next.starts_with(start));
    let number = next.trim_end_matches('%');
    let spoken_with_a_vowel = next.starts_with('8') || number == "11" || number == "18";
    spoken_with_a_vowel
        || (next.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U'])
            && !sounds_like_a_consonant)
}
