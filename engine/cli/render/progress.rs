//! The progress of a run: a line per node that moves on a terminal, and plain lines
//! elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use paraloom_store::Event;

use super::{CYAN, DIM, GREEN, RED, bytes, duration, note, printable};

/// Interval of progress lines without a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Refresh interval on a terminal.
const TICK: Duration = Duration::from_millis(120);

/// Shows events as they come.
pub(crate) struct Progress {
    state: Arc<Mutex<State>>,
}

struct State {
    bars: MultiProgress,
    live: bool,
    nodes: HashMap<String, Node>,
}

struct Node {
    bar: ProgressBar,
    started: Instant,
    told: Instant,
    /// Rows of the parts that are done; a stage's own count is within a part.
    rows: u64,
    loss: Option<f64>,
    /// Bytes that were already downloaded when it began, which do not count for the rate.
    first: Option<u64>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let live = std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let state =
            State { bars: MultiProgress::with_draw_target(target), live, nodes: HashMap::new() };
        let state = Arc::new(Mutex::new(state));
        if live {
            let shown = Arc::downgrade(&state);
            // Without a thread, bars are updated by events only.
            let _ = std::thread::Builder::new().name("progress".to_owned()).spawn(move || {
                while let Some(state) = shown.upgrade() {
                    state.lock().unwrap_or_else(PoisonError::into_inner).tick();
                    drop(state);
                    std::thread::sleep(TICK);
                }
            });
        }
        Self { state }
    }

    /// Shows one event.
    pub(crate) fn show(&self, event: &Event) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).show(event);
    }
}

impl State {
    fn line(&self, text: &str) {
        self.bars.suspend(|| note(text));
    }

    fn tick(&self) {
        self.nodes.values().for_each(|node| node.bar.tick());
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::FetchStarted { reference, .. } => self.start(reference, "hub"),
            Event::Fetch { reference, done, total } => self.fetch(reference, *done, *total),
            Event::FetchFinished { reference, ms } => {
                self.remove(reference);
                let took = duration(*ms);
                self.line(&format!("{GREEN}    fetched{GREEN:#} {reference} in {took}"));
            }
            Event::HubNotice { reference, message } => {
                self.line(&format!(
                    "{CYAN}        hub{CYAN:#} {reference}: {}",
                    printable(message)
                ));
            }
            Event::NodeStarted { node, stage, .. } => self.start(node, stage),
            Event::NodeCached { node, .. } => {
                self.line(&format!("{DIM}     cached {node}{DIM:#}"));
            }
            Event::NodeWaiting { node, holder } => {
                self.line(&format!("{CYAN}    waiting{CYAN:#} {node}: {holder} computes it"));
            }
            Event::Part { node, rows, .. } | Event::PartFound { node, rows } => {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.rows += rows;
                    let rows = node.rows;
                    node.bar.set_message(format!("{rows} rows"));
                }
                self.plain(node, |node| format!("{} rows", node.rows));
            }
            Event::Progress { node, done, total, unit } => self.progress(node, *done, *total, unit),
            Event::Metric { node, name, value, .. } if name == "loss" => {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.loss = *value;
                }
            }
            Event::Log { node, level, message } => {
                self.line(&format!("{CYAN}{level:>11}{CYAN:#} {node}: {}", printable(message)));
            }
            Event::Retry { node, attempt, wait_ms, message } => {
                let wait = duration(*wait_ms);
                self.line(&format!(
                    "{CYAN}      retry{CYAN:#} {node}: {}; attempt {attempt} follows in {wait}",
                    printable(message)
                ));
            }
            Event::RowRejected { node, id, message } => {
                self.line(&format!(
                    "{CYAN}   rejected{CYAN:#} {node}: row {id}: {}",
                    printable(message)
                ));
            }
            Event::NodeFinished { node, rows, rows_found, ms, .. } => {
                self.finish(node, *rows, rows_found.unwrap_or(0), *ms);
            }
            Event::NodeFailed { node, .. } => {
                self.remove(node);
                self.line(&format!("{RED}     failed{RED:#} {node}"));
            }
            Event::Damaged { message } => {
                self.line(&format!(
                    "{RED}    damaged{RED:#} {}; making it again",
                    printable(message)
                ));
            }
            Event::RunFinished { .. } => {
                self.nodes.clear();
                drop(self.bars.clear());
            }
            // Unmet expectations are reported with their position at the end of the run.
            Event::RunStarted { .. }
            | Event::RunEnvironment(_)
            | Event::Metric { .. }
            | Event::Expectation { .. } => {}
        }
    }

    fn start(&mut self, node: &str, stage: &str) {
        let bar = self.bars.add(ProgressBar::no_length());
        let style = ProgressStyle::with_template("    {spinner} {prefix} {msg} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_prefix(format!("{node} ({stage})"));
        let now = Instant::now();
        let state = Node { bar, started: now, told: now, rows: 0, loss: None, first: None };
        self.nodes.insert(node.to_owned(), state);
    }

    fn progress(&mut self, name: &str, done: u64, total: u64, unit: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let rate = done as f64 / node.started.elapsed().as_secs_f64().max(0.001);
        let mut text = match total {
            0 => format!("{done} {unit}"),
            total => {
                let left = (total.saturating_sub(done) as f64 / rate.max(0.001)).ceil() as u64;
                format!("{done}/{total} {unit}, {rate:.1}/s, {} left", duration(left * 1000))
            }
        };
        if let Some(loss) = node.loss {
            text.push_str(&format!(", loss {loss:.3}"));
        }
        node.bar.set_message(text.clone());
        self.plain(name, |_| text);
    }

    fn fetch(&mut self, reference: &str, done: u64, total: u64) {
        let Some(node) = self.nodes.get_mut(reference) else { return };
        // Bytes that were there before do not count for the rate.
        let from = *node.first.get_or_insert(done);
        let rate = (done - from.min(done)) as f64 / node.started.elapsed().as_secs_f64().max(0.001);
        let mut text = format!("{} of {}", bytes(done), bytes(total));
        if rate > 0.0 {
            let left = duration((total.saturating_sub(done) as f64 / rate * 1000.0) as u64);
            text.push_str(&format!(", {}/s, {left} left", bytes(rate as u64)));
        }
        node.bar.set_message(text.clone());
        self.plain(reference, |_| text);
    }

    /// A plain line now and then, where there is no terminal.
    fn plain(&mut self, name: &str, text: impl FnOnce(&Node) -> String) {
        let Some(node) = self.nodes.get_mut(name).filter(|_| !self.live) else { return };
        if node.told.elapsed() >= PLAIN_INTERVAL {
            node.told = Instant::now();
            note(&format!("    working {name}: {}", text(node)));
        }
    }

    fn remove(&mut self, node: &str) {
        if let Some(node) = self.nodes.remove(node) {
            node.bar.finish_and_clear();
        }
    }

    fn finish(&mut self, node: &str, rows: Option<u64>, found: u64, ms: u64) {
        self.remove(node);
        let rows = rows.map_or(String::new(), |rows| format!(" {rows} rows"));
        let resumed = match found {
            0 => String::new(),
            found => format!(", {found} rows were there"),
        };
        let took = duration(ms);
        self.line(&format!("{GREEN}       done{GREEN:#} {node}{rows} in {took}{resumed}"));
    }
}
