//! What the mistakes need to know about words: the forms of verbs and nouns, and prepositions.

use std::collections::BTreeMap;

pub(super) type Words = Vec<String>;

const FINITE: [&str; 10] =
    ["was", "were", "is", "are", "has", "have", "had", "will", "must", "did"];
pub(super) struct Tables {
    pub(super) base: BTreeMap<String, [String; 5]>,
    pub(super) third: BTreeMap<String, [String; 5]>,
    pub(super) past: BTreeMap<String, [String; 5]>,
    pub(super) participle: BTreeMap<String, [String; 5]>,
    pub(super) singular: BTreeMap<String, String>,
    pub(super) plural: BTreeMap<String, String>,
    pub(super) prepositions: Vec<(String, String, Vec<String>)>,
}

impl Tables {
    pub(super) fn parse(text: &str) -> Self {
        let mut tables = Self {
            base: BTreeMap::new(),
            third: BTreeMap::new(),
            past: BTreeMap::new(),
            participle: BTreeMap::new(),
            singular: BTreeMap::new(),
            plural: BTreeMap::new(),
            prepositions: Vec::new(),
        };
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let words: Words = line.split(' ').skip(1).map(str::to_owned).collect();
            match line.split(' ').next() {
                Some("verb") => tables.add_verb(&words.try_into().expect("a verb has five forms")),
                Some("noun") => {
                    tables.plural.insert(words[1].clone(), words[0].clone());
                    tables.singular.insert(words[0].clone(), words[1].clone());
                }
                _ => tables.prepositions.push((
                    words[0].clone(),
                    words[1].clone(),
                    words[2..].to_vec(),
                )),
            }
        }
        tables
    }

    fn add_verb(&mut self, verb: &[String; 5]) {
        for (table, form) in [&mut self.base, &mut self.third, &mut self.past, &mut self.participle]
            .into_iter()
            .zip(verb)
        {
            table.insert(form.clone(), verb.clone());
        }
    }

    pub(super) fn is_finite(&self, words: &[String], at: usize) -> bool {
        let after = at.checked_sub(1).map_or("", |before| words[before].as_str());
        let blocked =
            ["was", "were", "been", "be", "has", "have", "is", "are", "products", "parcels", "had"];
        FINITE.contains(&words[at].as_str())
            || (self.past.contains_key(&words[at]) && !blocked.contains(&after))
    }
}
