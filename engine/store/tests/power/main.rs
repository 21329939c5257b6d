//! The power may fail after any operation: what was promised is there, what was not is there whole or not at all, and
//! the work goes on to the same bytes.
//!
//! `PARALOOM_POWER` says how many states are tried after each operation, `PARALOOM_SEED` which.

#[path = "../common/mod.rs"]
mod common;
mod model;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::{
    Dice, Hand, Promise, Results, STEPS, expected, is_of, map_entry, map_preimage, records,
    results, scratch, setting, weights, whole_entry, whole_preimage, work,
};
use model::Model;
use paraloom_store::{Operation, Store, Watch};

/// An operation, with all that is needed to make it again.
#[derive(Clone, Debug)]
enum Step {
    Create { is_dir: bool },
    Write(Vec<u8>),
    Sync,
    RenameFrom(PathBuf),
    Remove,
}

/// Writes down what happens to a store; from operation `dies_at` on, nothing happens any more.
#[derive(Debug)]
struct Recorder {
    root: PathBuf,
    dies_at: AtomicU64,
    steps: Mutex<Vec<(Step, PathBuf)>>,
    /// What was promised, and after how many steps.
    promises: Mutex<Vec<(usize, Promise)>>,
}

impl Recorder {
    fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self {
            root: root.to_owned(),
            dies_at: AtomicU64::new(u64::MAX),
            steps: Mutex::default(),
            promises: Mutex::default(),
        })
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).expect("nothing outside is touched").to_owned()
    }

    fn note(&self, step: Step, path: &Path) -> io::Result<()> {
        let mut steps = self.steps.lock().expect("no panics");
        if steps.len() as u64 >= self.dies_at.load(Ordering::Relaxed) {
            return Err(io::Error::other("killed"));
        }
        steps.push((step, self.relative(path)));
        Ok(())
    }

    fn len(&self) -> usize {
        self.steps.lock().expect("no panics").len()
    }
}

impl Watch for Recorder {
    fn before(&self, operation: Operation<'_>, path: &Path) -> io::Result<()> {
        let step = match operation {
            Operation::Read | Operation::WriteScratch(_) | Operation::LockToRead => return Ok(()),
            Operation::Create | Operation::Lock => Step::Create { is_dir: false },
            Operation::CreateDir => Step::Create { is_dir: true },
            Operation::Write(bytes) => Step::Write(bytes.to_vec()),
            Operation::Sync => Step::Sync,
            Operation::Rename { from } => Step::RenameFrom(self.relative(from)),
            Operation::Remove => Step::Remove,
        };
        self.note(step, path)
    }
}

impl Hand for Recorder {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = path.parent().expect("it is in a directory");
        self.note(Step::Create { is_dir: true }, dir)?;
        self.note(Step::Create { is_dir: false }, path)?;
        self.note(Step::Write(bytes.to_vec()), path)?;
        std::fs::create_dir_all(dir)?;
        std::fs::write(path, bytes)
    }

    fn promised(&self, promise: Promise) {
        self.promises.lock().expect("no panics").push((self.len(), promise));
    }
}

fn replay(model: &mut Model, step: &Step, path: &Path) {
    match step {
        Step::Create { is_dir } => model.create(path, *is_dir),
        Step::Write(bytes) => model.write(path, bytes),
        Step::Sync => model.sync(path),
        Step::RenameFrom(from) => model.rename(from, path),
        Step::Remove => model.remove(path),
    }
}

/// Work that was recorded, perhaps over a kill.
fn recorded(dies_at: Option<u64>) -> Arc<Recorder> {
    let dir = scratch();
    let root = dir.path().canonicalize().expect("it is there");
    let recorder = Recorder::new(&root);
    let go = || {
        let store = Store::create_watched(&root.join("store"), Some(Arc::clone(&recorder) as _))?;
        work(&store, recorder.as_ref())
    };
    if let Some(step) = dies_at {
        recorder.dies_at.store(step, Ordering::Relaxed);
        go().expect_err("it was killed");
        recorder.dies_at.store(u64::MAX, Ordering::Relaxed);
    }
    go().expect("no trouble");
    recorder
}

/// Cuts the power after each step from `from` on, `states` times, and looks at what is left.
fn cut_everywhere(recorder: &Recorder, from: usize, states: u64, expected: &Results) {
    let steps = recorder.steps.lock().expect("no panics");
    let promises = recorder.promises.lock().expect("no panics");
    let mut model = Model::new();
    let seed = setting("PARALOOM_SEED", 0x5eed);
    for number in 0..=steps.len() {
        if number >= from {
            let promised: Vec<_> =
                promises.iter().filter(|(at, _)| *at <= number).map(|(_, what)| *what).collect();
            for state in 0..states {
                let after = number.checked_sub(1).map(|last| &steps[last]);
                let case = format!("seed {seed}, state {state} after step {number}, {after:?}");
                let mut dice = Dice((seed << 32) + ((number as u64) << 16) + state + 1);
                // The first throws of seeds that are close are close, too.
                (0..8).for_each(|_| _ = dice.below(2));
                let dir = scratch();
                model.cut(&mut dice, dir.path());
                look(&dir.path().join("store"), &promised, expected, &case);
            }
        }
        if let Some((step, path)) = steps.get(number) {
            replay(&mut model, step, path);
        }
    }
}

/// Whether a store holds what was promised and nothing false, and finishes to the expected results.
fn look(root: &Path, promised: &[Promise], expected: &Results, case: &str) {
    let store = Store::create(root).unwrap_or_else(|error| panic!("{error}: {case}"));
    let found = results(&store).unwrap_or_else(|error| panic!("{error}: {case}"));
    assert!(found.records.iter().all(|record| expected.records.contains(record)), "{case}");
    assert!(found.manifest.is_none() || found.manifest == expected.manifest, "{case}");
    let checkpoint = whole_entry(&store).latest_checkpoint().expect("it can be read");
    if let Some((dir, step)) = &checkpoint {
        assert!(STEPS.contains(step), "{case}");
        for name in ["weights", "optimizer/state"] {
            let bytes = std::fs::read(dir.join(name)).expect("it is there");
            assert!(bytes == weights(name, *step), "{name} of step {step}: {case}");
        }
    }
    for promise in promised {
        let is_kept = match promise {
            Promise::Record(number) => found.records.iter().any(|record| is_of(*number, record)),
            Promise::Manifest => found.manifest.is_some(),
            Promise::Checkpoint(step) => {
                found.manifest.is_some()
                    || checkpoint.as_ref().is_some_and(|(_, found)| found >= step)
            }
        };
        assert!(is_kept, "{promise:?} was lost: {case}");
    }
    for (entry, preimage) in
        [(map_entry(&store), map_preimage()), (whole_entry(&store), whole_preimage())]
    {
        let found = entry.preimage().unwrap_or_else(|error| panic!("{error}: {case}"));
        assert!(found.is_none_or(|found| found == preimage), "{case}");
        assert!(records(&entry).is_ok(), "{case}");
    }
    work(&store, &common::Plain).unwrap_or_else(|error| panic!("{error}: {case}"));
    assert_eq!(&results(&store).expect("no trouble any more"), expected, "{case}");
    let (_, damage) = store.verify(|_| {}).expect("no trouble any more");
    assert!(damage.is_empty(), "{damage:?}: {case}");
}

#[test]
fn nothing_is_lost_or_false_after_a_power_cut() {
    let recorder = recorded(None);
    assert!(recorder.len() > 100, "{} steps", recorder.len());
    cut_everywhere(&recorder, 0, setting("PARALOOM_POWER", 3), &expected());
}

/// What the killed process had not synced yet is left to the one that goes on.
#[test]
fn nor_after_a_kill_and_a_power_cut() {
    let states = setting("PARALOOM_POWER", 1);
    let expected = expected();
    let steps = recorded(None).len() as u64;
    let kills = setting("PARALOOM_KILLS", 8).min(steps - 1);
    for kill in 0..kills {
        let at = 1 + kill * (steps - 1) / kills;
        cut_everywhere(&recorded(Some(at)), at as usize, states, &expected);
    }
}
