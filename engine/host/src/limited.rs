//! Services that are bounded: a stage that logs, counts or measures without end fills neither the disk nor the terminal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::log_limit::{LogLimit, Rate, cut};
use crate::services::{Level, ServiceError, Services};

/// The longest name of a metric or a unit, in bytes.
const NAME: usize = 256;

/// Values of metrics, and counts of progress, that are passed on at once.
const METRICS: u32 = 10_000;
const COUNTS: u32 = 1000;
/// How often one more is.
const MORE: Duration = Duration::from_millis(100);
/// Metrics whose last value is kept to the end.
const NAMES: usize = 1000;

/// The services of a node, with bounds.
pub(crate) struct Limited {
    services: Arc<dyn Services>,
    log: LogLimit,
    numbers: Mutex<Numbers>,
}

/// The numbers that a stage reports. Of those that are not passed on at once the last are, at the end.
struct Numbers {
    metrics: Rate,
    /// The last value of each metric, and its step, unless it was passed on.
    values: BTreeMap<String, (f64, u64)>,
    /// That values are left out has been said.
    is_told: bool,
    counts: Rate,
    count: Option<(u64, u64, String)>,
}

impl Limited {
    pub(crate) fn new(services: Arc<dyn Services>) -> Self {
        let to = Arc::clone(&services);
        let numbers = Numbers {
            metrics: Rate::new(METRICS, MORE),
            values: BTreeMap::new(),
            is_told: false,
            counts: Rate::new(COUNTS, MORE),
            count: None,
        };
        let log = LogLimit::new(move |level, line| to.log(level, line));
        Self { services, log, numbers: Mutex::new(numbers) }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on the last lines and numbers, at the end of the work.
    pub(crate) fn flush(&self) {
        let mut numbers = self.numbers();
        for (name, (value, step)) in std::mem::take(&mut numbers.values) {
            self.services.metric(&name, value, step);
        }
        if let Some((done, total, unit)) = numbers.count.take() {
            self.services.progress(done, total, &unit);
        }
        drop(numbers);
        self.log.flush();
    }
}

impl Services for Limited {
    fn log(&self, level: Level, message: &str) {
        self.log.log(level, message);
    }

    fn progress(&self, done: u64, total: u64, unit: &str) {
        let unit = cut(unit, NAME);
        let mut numbers = self.numbers();
        if numbers.counts.allows() {
            numbers.count = None;
            self.services.progress(done, total, &unit);
        } else {
            numbers.count = Some((done, total, unit.into_owned()));
        }
    }

    fn metric(&self, name: &str, value: f64, step: u64) {
        let name = cut(name, NAME);
        let mut numbers = self.numbers();
        if numbers.metrics.allows() {
            numbers.values.remove(name.as_ref());
            self.services.metric(&name, value, step);
            return;
        }
        if !std::mem::replace(&mut numbers.is_told, true) {
            let message = format!(
                "more metrics than are recorded: beyond the first {METRICS} values ten a second are, and the last of each"
            );
            self.services.log(Level::Info, &message);
        }
        if numbers.values.len() < NAMES || numbers.values.contains_key(name.as_ref()) {
            numbers.values.insert(name.into_owned(), (value, step));
        }
    }

    fn is_cancelled(&self) -> bool {
        self.services.is_cancelled()
    }

    fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>, ServiceError> {
        self.services.checkpoint_latest()
    }

    fn checkpoint_begin(&self, step: u64) -> Result<PathBuf, ServiceError> {
        self.services.checkpoint_begin(step)
    }

    fn checkpoint_commit(&self, step: u64) -> Result<(), ServiceError> {
        self.services.checkpoint_commit(step)
    }

    fn scratch_dir(&self) -> Result<PathBuf, ServiceError> {
        self.services.scratch_dir()
    }

    fn checkpoint_interval(&self) -> Duration {
        self.services.checkpoint_interval()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What reached the run.
    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Kept {
        fn keep(&self, what: String) {
            self.0.lock().expect("nothing panicked").push(what);
        }
    }

    impl Services for Kept {
        fn log(&self, _: Level, message: &str) {
            self.keep(message.to_owned());
        }

        fn progress(&self, done: u64, total: u64, unit: &str) {
            self.keep(format!("{done}/{total} {unit}"));
        }

        fn metric(&self, name: &str, value: f64, step: u64) {
            self.keep(format!("{name} {value} at {step}"));
        }

        fn is_cancelled(&self) -> bool {
            false
        }

        fn checkpoint_latest(&self) -> Result<Option<(PathBuf, u64)>, ServiceError> {
            Ok(None)
        }

        fn checkpoint_begin(&self, _: u64) -> Result<PathBuf, ServiceError> {
            Err(ServiceError::new("none"))
        }

        fn checkpoint_commit(&self, _: u64) -> Result<(), ServiceError> {
            Err(ServiceError::new("none"))
        }

        fn scratch_dir(&self) -> Result<PathBuf, ServiceError> {
            Err(ServiceError::new("none"))
        }

        fn checkpoint_interval(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn a_flood_of_numbers_is_bounded_and_ends_with_the_last() {
        let kept = Arc::<Kept>::default();
        let limited = Limited::new(Arc::clone(&kept) as _);
        for step in 0..1_000_000 {
            limited.metric(["loss", "rate"][step as usize % 2], 0.5, step);
            limited.progress(step, 1_000_000, "steps");
        }
        // Names without end are bounded too, and those that were known before keep their last values.
        for number in 0..100_000 {
            limited.metric(&format!("x{number}"), 1.0, 7);
        }
        limited.metric("rate", 0.25, 1_000_000);
        limited.flush();
        limited.flush();
        let kept = kept.0.lock().expect("nothing panicked");
        let all = |what: &str| kept.iter().filter(|line| line.contains(what)).count();
        // Some more where the machine is slow.
        let (values, counts) = (all(" at "), all("steps"));
        assert!((10_000..15_000).contains(&values), "{values} values");
        assert!((1000..5000).contains(&counts), "{counts} counts");
        assert_eq!(all("more metrics than are recorded"), 1);
        let last = |what: &str| kept.iter().rfind(|line| line.contains(what)).cloned();
        assert_eq!(last("loss").as_deref(), Some("loss 0.5 at 999998"));
        assert_eq!(last("rate ").as_deref(), Some("rate 0.25 at 1000000"));
        assert_eq!(last("steps").as_deref(), Some("999999/1000000 steps"));
    }

    #[test]
    fn few_numbers_are_all_passed_on_as_they_come() {
        let kept = Arc::<Kept>::default();
        let limited = Limited::new(Arc::clone(&kept) as _);
        for step in 0..500 {
            limited.metric("loss", 0.5, step);
            limited.progress(step, 500, "steps");
        }
        assert_eq!(kept.0.lock().expect("nothing panicked").len(), 1000);
        limited.flush();
        assert_eq!(kept.0.lock().expect("nothing panicked").len(), 1000);
    }
}
