//! Pairs of sentences: paraphrases, and pairs with a graded similarity.

use std::collections::BTreeSet;

use super::rng::Rng;
use super::scene::{self, Frame, Part, Scene};

/// Two sentences for one frame that share as few words as a handful of tries gives.
pub(super) fn paraphrase(scenes: &[Scene], frame: &Frame, rng: &mut Rng) -> (String, String) {
    loop {
        let (form, source) = say(scenes, frame, None, rng);
        let tries = (0..4).map(|_| say(scenes, frame, Some(form), rng).1);
        let target = tries.min_by_key(|target| overlap(&source, target)).expect("there were tries");
        if source != target {
            return (source, target);
        }
    }
}

/// One sentence for the frame, and the number of its form; another form than `avoid` where there is one.
pub(super) fn say(
    scenes: &[Scene],
    frame: &Frame,
    avoid: Option<usize>,
    rng: &mut Rng,
) -> (usize, String) {
    let scene = &scenes[frame.scene];
    let suits = |form: &usize| scene.forms[*form].suits(frame);
    let mut forms: Vec<usize> = (0..scene.forms.len()).filter(suits).collect();
    if forms.len() > 1 {
        forms.retain(|form| Some(*form) != avoid);
    }
    let form = *rng.pick(&forms);
    (form, scene.forms[form].say(frame, &scene.slots, rng))
}

/// The sentence for the frame that shares most words with another one, of a handful.
fn closest(scenes: &[Scene], frame: &Frame, other: &str, rng: &mut Rng) -> String {
    let tries =
        (0..6).map(|_| say(scenes, frame, None, rng).1).filter(|sentence| sentence != other);
    tries
        .max_by_key(|sentence| overlap(sentence, other))
        .unwrap_or_else(|| say(scenes, frame, None, rng).1)
}

/// How much two sentences have in common, in thousandths: shared words and shared neighbours.
fn overlap(left: &str, right: &str) -> usize {
    let grams = |text: &str| -> BTreeSet<String> {
        let words: Vec<String> =
            text.trim_end_matches('.').split(' ').map(str::to_lowercase).collect();
        words.iter().cloned().chain(words.windows(2).map(|pair| pair.join(" "))).collect()
    };
    let (left, right) = (grams(left), grams(right));
    1000 * left.intersection(&right).count() / left.union(&right).count()
}

/// A pair of sentences, how similar they are (0.0 to 5.0), and what differs.
pub(super) struct Graded {
    pub(super) first: String,
    pub(super) second: String,
    pub(super) score: f64,
    pub(super) differs: String,
}

pub(super) fn graded(scenes: &[Scene], part: Part, rng: &mut Rng) -> Graded {
    let left = scene::sample(scenes, rng.below(scenes.len()), part, rng);
    let right = partner(scenes, &left, part, rng);
    let (score, differs) = compare(scenes, &left, &right);
    let (form, first) = say(scenes, &left, None, rng);
    // Half of the pairs are worded freely; the others share what they can, so that words alone do not give the score away.
    let second = match rng.below(4) {
        0 | 1 => say(scenes, &right, None, rng).1,
        2 => say(scenes, &right, Some(form), rng).1,
        _ => closest(scenes, &right, &first, rng),
    };
    Graded { first, second, score, differs }
}

/// The other event of a graded pair: the same one, one that differs a little, or another one.
fn partner(scenes: &[Scene], left: &Frame, part: Part, rng: &mut Rng) -> Frame {
    let lot = rng.below(100);
    if lot < 28 {
        return left.clone();
    }
    if lot < 76 {
        let changes = [1, 1, 1, 1, 2, 2, 3, 4][rng.below(8)];
        return altered(scenes, left, changes, part, rng);
    }
    loop {
        let right = scene::sample(scenes, rng.below(scenes.len()), part, rng);
        if right.scene == left.scene || rng.chance(50) {
            return right;
        }
        let named = |frame: &Frame| {
            scenes[frame.scene].slots.iter().position(|slot| slot.name == "company")
        };
        let (Some(mine), Some(theirs)) = (named(left), named(&right)) else { continue };
        let mut right = right;
        right.values[theirs] = left.values[mine];
        if scenes[right.scene].part(&right) == part {
            return right;
        }
    }
}

fn altered(scenes: &[Scene], left: &Frame, changes: usize, part: Part, rng: &mut Rng) -> Frame {
    let scene = &scenes[left.scene];
    for _ in 0..50 {
        let mut right = left.clone();
        for _ in 0..changes {
            let slot = rng.below(scene.slots.len());
            if right.values[slot].is_none() {
                continue;
            }
            if scene.slots[slot].omission.is_some() && rng.chance(50) {
                right.values[slot] = None;
            } else {
                scene.change(&mut right, slot, rng);
            }
        }
        if right != *left && scene.part(&right) == part {
            return right;
        }
    }
    left.clone()
}

/// Five points, less the cost of every slot that differs or is left out; 0.8 for another event of the same kind,
/// 0.6 for the same company and 0 for nothing in common.
fn compare(scenes: &[Scene], left: &Frame, right: &Frame) -> (f64, String) {
    if left.scene != right.scene {
        let company = |frame: &Frame| {
            let slot = scenes[frame.scene].slots.iter().position(|slot| slot.name == "company")?;
            frame.values[slot]
        };
        let shared = company(left).is_some() && company(left) == company(right);
        return if shared { (0.6, "all but company".to_owned()) } else { (0.0, "all".to_owned()) };
    }
    let mut score = 5.0;
    let mut differs = Vec::new();
    for (index, slot) in scenes[left.scene].slots.iter().enumerate() {
        let (mine, theirs) = (left.values[index], right.values[index]);
        if mine == theirs {
            continue;
        }
        let omitted = mine.is_none() || theirs.is_none();
        let cost = if omitted { slot.omission.unwrap_or(slot.cost) } else { slot.cost };
        score *= 1.0 - cost;
        differs.push(if omitted { format!("no {}", slot.name) } else { slot.name.clone() });
    }
    let score = (f64::max(score, 0.8) * 5.0).round() / 5.0;
    (score, if differs.is_empty() { "nothing".to_owned() } else { differs.join(", ") })
}

/// Takes rows until there are enough of them, none twice.
pub(super) fn distinct<T>(count: usize, mut next: impl FnMut() -> (String, T)) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    while order.len() < count {
        let (identity, row) = next();
        if seen.insert(identity) {
            order.push(row);
        }
    }
    order
}
