//! A scene is a kind of event with slots; a frame is one event, every slot of which has a value or is left out.

use super::form::Form;
use super::lexicon::{Kind, Lexicon};
use super::rng::{Rng, fingerprint};

pub(super) struct Scene<'a> {
    pub(super) name: String,
    pub(super) slots: Vec<Slot<'a>>,
    pub(super) key: Vec<usize>,
    pub(super) forms: Vec<Form>,
}

pub(super) struct Slot<'a> {
    pub(super) name: String,
    pub(super) kind: &'a Kind,
    /// The share of the similarity that is lost where two sentences differ in this slot.
    pub(super) cost: f64,
    /// The share that is lost where one of them leaves it out; none for a slot that is always said.
    pub(super) omission: Option<f64>,
    /// The slot whose value must carry the same tag.
    pub(super) agrees: Option<usize>,
}

/// What a sentence means.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Frame {
    pub(super) scene: usize,
    pub(super) values: Vec<Option<usize>>,
}

/// The part of the data that a frame belongs to. The key slots decide, so no part shares a combination of them with another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Training,
    Heldout,
    Corpus,
}

impl Scene<'_> {
    pub(super) fn part(&self, frame: &Frame) -> Part {
        let values = self.key.iter().map(|&slot| format!("{:?}", frame.values[slot]));
        match fingerprint(&format!("{} {:?}", self.name, values.collect::<Vec<_>>())) % 12 {
            0 => Part::Heldout,
            1 => Part::Corpus,
            _ => Part::Training,
        }
    }

    /// Gives a slot a value other than the one it has, and then a fitting value to every slot that no longer agrees.
    pub(super) fn change(&self, frame: &mut Frame, slot: usize, rng: &mut Rng) {
        let old = frame.values[slot];
        let fits = self.fitting(frame, slot);
        let others: Vec<usize> = fits.into_iter().filter(|&value| Some(value) != old).collect();
        if others.is_empty() {
            return;
        }
        frame.values[slot] = Some(*rng.pick(&others));
        for dependent in 0..self.slots.len() {
            let Some(value) = frame.values[dependent] else { continue };
            let fits = self.fitting(frame, dependent);
            if self.slots[dependent].agrees == Some(slot) && !fits.contains(&value) {
                frame.values[dependent] = Some(*rng.pick(&fits));
            }
        }
    }

    fn fitting(&self, frame: &Frame, slot: usize) -> Vec<usize> {
        let tag = |slot: usize, value: usize| &self.slots[slot].kind.values[value].tag;
        let wanted =
            self.slots[slot].agrees.and_then(|other| Some(tag(other, frame.values[other]?)));
        let all = 0..self.slots[slot].kind.values.len();
        all.filter(|&value| wanted.is_none_or(|wanted| tag(slot, value) == wanted)).collect()
    }
}

/// An event of this scene in this part of the data.
pub(super) fn sample(scenes: &[Scene], scene: usize, part: Part, rng: &mut Rng) -> Frame {
    loop {
        let mut frame = Frame { scene, values: vec![None; scenes[scene].slots.len()] };
        for (index, slot) in scenes[scene].slots.iter().enumerate() {
            if slot.omission.is_none() || rng.chance(65) {
                frame.values[index] = Some(*rng.pick(&scenes[scene].fitting(&frame, index)));
            }
        }
        if scenes[scene].part(&frame) == part {
            return frame;
        }
    }
}

pub(super) fn parse<'a>(text: &str, lexicon: &'a Lexicon) -> Vec<Scene<'a>> {
    let mut scenes: Vec<Scene> = Vec::new();
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (word, rest) = line.split_once(' ').expect("a word and its argument");
        if word == "scene" {
            scenes.push(Scene {
                name: rest.to_owned(),
                slots: Vec::new(),
                key: Vec::new(),
                forms: Vec::new(),
            });
            continue;
        }
        let scene = scenes.last_mut().expect("a line follows a scene");
        match word {
            "slot" => scene.slots.push(parse_slot(rest, &scene.slots, lexicon)),
            "key" => scene.key = rest.split(' ').map(|name| position(&scene.slots, name)).collect(),
            "form" => scene.forms.push(Form::parse(rest, &scene.slots)),
            _ => panic!("not a line of a scene: {line}"),
        }
    }
    scenes
}

fn parse_slot<'a>(text: &str, before: &[Slot], lexicon: &'a Lexicon) -> Slot<'a> {
    let mut words = text.split(' ');
    let mut word = || words.next();
    let name = word().expect("a slot has a name").to_owned();
    let kind = &lexicon[word().expect("a slot has a kind")];
    let cost = share(word());
    let mut slot = Slot { name, kind, cost, omission: None, agrees: None };
    while let Some(option) = word() {
        match option {
            "optional" => slot.omission = Some(share(word())),
            "agrees" => slot.agrees = word().map(|name| position(before, name)),
            _ => panic!("not an option of a slot: {text}"),
        }
    }
    slot
}

fn share(text: Option<&str>) -> f64 {
    text.and_then(|text| text.parse().ok()).expect("a share between 0 and 1")
}

pub(super) fn position(slots: &[Slot], name: &str) -> usize {
    slots.iter().position(|slot| slot.name == name).unwrap_or_else(|| panic!("no slot `{name}`"))
}
