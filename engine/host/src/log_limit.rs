//! A stage that logs without end fills neither the disk nor the terminal.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::services::Level;

/// Lines that are logged at once, and how many of the last ones are kept beyond that until the end.
const FIRST: u32 = 1000;
const LAST: usize = 100;
/// How often one more line is logged beyond the first.
const MORE: Duration = Duration::from_secs(1);
/// The longest line, in bytes.
const LINE: usize = 8192;

/// Where lines go.
type Write = Box<dyn Fn(Level, &str) + Send + Sync>;

/// A log that takes the first lines, then one a second, and at the end, when it is flushed or dropped, the last ones. Warnings
/// and errors are counted apart from the rest, so that they do not go under.
pub(crate) struct LogLimit {
    write: Write,
    budgets: Mutex<[Budget; 2]>,
}

/// So many at once, and one more whenever some time has passed.
pub(crate) struct Rate {
    most: u32,
    every: Duration,
    left: u32,
    renewed: Instant,
}

impl Rate {
    pub(crate) fn new(most: u32, every: Duration) -> Self {
        Self { most, every, left: most, renewed: Instant::now() }
    }

    /// Whether one more is allowed now.
    pub(crate) fn allows(&mut self) -> bool {
        let renewals = self.renewed.elapsed().as_millis() / self.every.as_millis();
        if renewals > 0 {
            self.renewed = Instant::now();
            let left = u128::from(self.left).saturating_add(renewals).min(u128::from(self.most));
            self.left = left as u32;
        }
        let is_allowed = self.left > 0;
        self.left -= u32::from(is_allowed);
        is_allowed
    }
}

struct Budget {
    rate: Rate,
    /// Lines that were left out so far.
    dropped: u64,
    /// The newest lines that were not logged.
    held: VecDeque<(Level, String)>,
}

impl LogLimit {
    pub(crate) fn new(write: impl Fn(Level, &str) + Send + Sync + 'static) -> Self {
        let budget = || Budget { rate: Rate::new(FIRST, MORE), dropped: 0, held: VecDeque::new() };
        Self { write: Box::new(write), budgets: Mutex::new([budget(), budget()]) }
    }

    pub(crate) fn log(&self, level: Level, message: &str) {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = &mut budgets[usize::from(level <= Level::Warn)];
        if !budget.rate.allows() {
            if budget.held.len() == LAST {
                budget.held.pop_front();
                budget.dropped += 1;
            }
            budget.held.push_back((level, short(message)));
            return;
        }
        budget.dropped += budget.held.len() as u64;
        budget.held.clear();
        self.left_out(&mut budget.dropped);
        (self.write)(level, &short(message));
    }

    /// Logs the last lines, at the end of the work.
    pub(crate) fn flush(&self) {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        for budget in &mut *budgets {
            self.left_out(&mut budget.dropped);
            for (level, line) in budget.held.drain(..) {
                (self.write)(level, &line);
            }
        }
    }

    fn left_out(&self, lines: &mut u64) {
        match std::mem::take(lines) {
            0 => {}
            1 => (self.write)(Level::Info, "... 1 line left out"),
            lines => (self.write)(Level::Info, &format!("... {lines} lines left out")),
        }
    }
}

impl Drop for LogLimit {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The beginning of a line that is too long.
pub(crate) fn short(line: &str) -> String {
    cut(line, LINE).into_owned()
}

/// The beginning of a text that has more than `most` bytes.
pub(crate) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(most);
    Cow::Owned(format!("{} ... {} bytes left out", &text[..end], text.len() - end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_flood_is_cut_in_the_middle() {
        let kept = Arc::<Mutex<Vec<(Level, String)>>>::default();
        let to = Arc::clone(&kept);
        let limited = LogLimit::new(move |level, line| {
            to.lock().expect("nothing panicked").push((level, line.to_owned()));
        });
        for line in 0..100_000 {
            limited.log(Level::Info, &line.to_string());
        }
        limited.log(Level::Warn, "look here");
        limited.log(Level::Error, &"é".repeat(10_000));
        drop(limited);
        let kept = kept.lock().expect("nothing panicked");
        // One more a second, on a machine that is slow.
        assert!(kept.len() < 1200, "{}", kept.len());
        assert_eq!(kept[999], (Level::Info, "999".to_owned()));
        assert_eq!(kept.last(), Some(&(Level::Info, "99999".to_owned())));
        assert!(kept.iter().any(|(_, line)| line.ends_with("lines left out")));
        assert!(kept.contains(&(Level::Warn, "look here".to_owned())));
        let long = kept.iter().find(|(level, _)| *level == Level::Error).expect("it was logged");
        assert!(long.1.ends_with("é ... 11808 bytes left out"), "{}", long.1);
        let left_out: u64 = kept
            .iter()
            .filter_map(|(_, line)| {
                line.strip_prefix("... ")?.split(' ').next()?.parse::<u64>().ok()
            })
            .sum();
        let logged = kept.iter().filter(|(_, line)| line.parse::<u32>().is_ok()).count();
        assert_eq!(left_out + logged as u64, 100_000);
    }
}
