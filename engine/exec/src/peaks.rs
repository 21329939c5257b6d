//! The memory that nodes need, as far as the memory of the whole process tells.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use paraloom_store::Event;

/// Measuring reads a file, so events that come thick and fast share a measurement.
const EVERY: Duration = Duration::from_millis(20);

/// Per node at work, the most memory that the process had meanwhile, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Peaks {
    at_work: HashMap<String, u64>,
    measured: Option<(Instant, u64)>,
}

impl Peaks {
    /// Measures, unless that was just done.
    pub(crate) fn measure(&mut self) {
        if self.at_work.is_empty() || self.measured.is_some_and(|(at, _)| at.elapsed() < EVERY) {
            return;
        }
        let Some(bytes) = paraloom_alloc::resident() else { return };
        self.measured = Some((Instant::now(), bytes));
        self.at_work.values_mut().for_each(|peak| *peak = (*peak).max(bytes));
    }

    /// Takes note of which nodes are at work, and adds its peak to the event that ends one.
    pub(crate) fn note(&mut self, event: &mut Event) {
        match event {
            Event::NodeStarted { node, .. } => {
                let now = self.measured.map_or(0, |(_, bytes)| bytes);
                self.at_work.insert(node.clone(), now);
            }
            Event::NodeFinished { node, peak_memory, .. } => {
                *peak_memory = self.at_work.remove(node).filter(|peak| *peak > 0);
            }
            Event::NodeFailed { node, .. } => drop(self.at_work.remove(node)),
            _ => {}
        }
    }
}
