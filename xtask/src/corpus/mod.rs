//! `cargo xtask corpus`: the text that ships with the project. Everything in `pipelines/corpus` but its README comes from here.

mod form;
mod lexicon;
mod mistake;
mod pairs;
mod rng;
mod scene;
mod tables;

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use rng::Rng;
use scene::{Part, Scene};
use tables::Tables;

const FOLDER: &str = "pipelines/corpus";

/// Rows of the training files, and of their held-out parts.
const PARAPHRASES: (usize, usize) = (16_000, 400);
const SIMILARITY: (usize, usize) = (24_000, 600);
const GRAMMAR: (usize, usize) = (24_000, 800);
const BUSINESS: usize = 330;
/// Of a hundred broken sentences, those that are tried as blends.
const BLENDS: usize = 40;

/// Writes the corpus, or with `check` only compares it; the answer is the list of files that were not as generated.
pub(crate) fn corpus(root: &Path, check: bool) -> io::Result<Vec<String>> {
    let lexicon = lexicon::parse(include_str!("lexicon.txt"));
    let scenes = scene::parse(include_str!("scenes.txt"), &lexicon);
    let mut stale = Vec::new();
    for (name, text) in files(&scenes) {
        let path = root.join(FOLDER).join(name);
        if fs::read_to_string(&path).is_ok_and(|found| found == text) {
            continue;
        }
        stale.push(name.to_owned());
        if !check {
            fs::write(path, text)?;
        }
    }
    Ok(stale)
}

fn files(scenes: &[Scene]) -> Vec<(&'static str, String)> {
    let (training, heldout) = (Part::Training, Part::Heldout);
    vec![
        ("business.csv", business(scenes)),
        ("paraphrases.tsv", paraphrases(scenes, training, PARAPHRASES.0)),
        ("paraphrases-heldout.tsv", paraphrases(scenes, heldout, PARAPHRASES.1)),
        ("similarity.tsv", similarity(scenes, training, SIMILARITY.0)),
        ("similarity-heldout.tsv", similarity(scenes, heldout, SIMILARITY.1)),
        ("grammar.tsv", grammar(scenes, training, GRAMMAR.0)),
        ("grammar-heldout.tsv", grammar(scenes, heldout, GRAMMAR.1)),
    ]
}

fn business(scenes: &[Scene]) -> String {
    let mut rng = Rng::new("business");
    let mut turn = 0;
    let rows = pairs::distinct(BUSINESS, || {
        turn += 1;
        let frame = scene::sample(scenes, turn % scenes.len(), Part::Corpus, &mut rng);
        let sentence = pairs::say(scenes, &frame, None, &mut rng).1;
        (sentence.clone(), sentence)
    });
    let quoted = |row: &String| if row.contains(',') { format!("\"{row}\"") } else { row.clone() };
    table("text", rows.iter().map(quoted))
}

fn paraphrases(scenes: &[Scene], part: Part, count: usize) -> String {
    let mut rng =
        Rng::new(if part == Part::Heldout { "paraphrases, held out" } else { "paraphrases" });
    let rows = pairs::distinct(count, || {
        let scene = rng.below(scenes.len());
        let frame = scene::sample(scenes, scene, part, &mut rng);
        let (source, target) = pairs::paraphrase(scenes, &frame, &mut rng);
        (source.clone(), format!("{source}\t{target}"))
    });
    table("source\ttarget", rows.into_iter())
}

fn similarity(scenes: &[Scene], part: Part, count: usize) -> String {
    let mut rng =
        Rng::new(if part == Part::Heldout { "similarity, held out" } else { "similarity" });
    let rows = pairs::distinct(count, || {
        let pair = pairs::graded(scenes, part, &mut rng);
        let row = format!("{}\t{}\t{:.1}\t{}", pair.first, pair.second, pair.score, pair.differs);
        (format!("{}\t{}", pair.first, pair.second), row)
    });
    table("sentence1\tsentence2\tscore\tdiffers", rows.into_iter())
}

fn grammar(scenes: &[Scene], part: Part, count: usize) -> String {
    let tables = Tables::parse(include_str!("grammar.txt"));
    let mut rng = Rng::new(if part == Part::Heldout { "grammar, held out" } else { "grammar" });
    let mut turn = 0;
    let rows = pairs::distinct(count, || {
        turn += 1;
        let scene = rng.below(scenes.len());
        let frame = scene::sample(scenes, scene, part, &mut rng);
        let sound = pairs::say(scenes, &frame, None, &mut rng).1;
        let acceptable = turn % 2 == 0;
        let (sentence, label, mistake) = if acceptable {
            (sound, "acceptable", "none".to_owned())
        } else {
            let other = pairs::say(scenes, &frame, None, &mut rng).1;
            let blend =
                rng.chance(BLENDS).then(|| mistake::blend(&sound, &other, &tables, &mut rng));
            let (broken, kind) =
                blend.flatten().unwrap_or_else(|| mistake::corrupt(&sound, &tables, &mut rng));
            let place = mistake::place(&sound, &broken);
            (broken, "unacceptable", format!("{kind}: {place}"))
        };
        (sentence.clone(), format!("{sentence}\t{label}\t{mistake}"))
    });
    let mut rows = rows;
    rng.shuffle(&mut rows);
    table("sentence\tlabel\tmistake", rows.into_iter())
}

fn table(header: &str, rows: impl Iterator<Item = String>) -> String {
    let mut text = format!("{header}\n");
    for row in rows {
        writeln!(text, "{row}").expect("a string takes any text");
    }
    text
}
