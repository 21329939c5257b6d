//! What an edit makes run again, and nothing else: random pipelines, random edits, and a model of what must be computed.
//!
//! `PARALOOM_DAGS` is the number of pipelines (each gets ten edits), `PARALOOM_SEED` repeats a failure where there are as many.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::common::Lots;
use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use paraloom_exec::{Cancel, Job, Lookup, PortResult, RunOptions, Workspace, plan, run};
use paraloom_host::Host;
use paraloom_pipeline::Graph;
use paraloom_store::{Event, Logged, Store};

/// A row of a file: its text, a number, and a tag that is a number too unless the file has a tag with a letter.
type Row = (String, i64, String);

/// A port of a node: its node, and whether it is `rejected` (of thresholds only).
type Source = (usize, bool);

#[derive(Clone, Debug)]
enum Node {
    Load(usize),
    Threshold(usize, i64),
    Evaluate(Source),
}

/// A pipeline with its files.
#[derive(Clone, Debug)]
struct World {
    files: Vec<(String, Vec<Row>)>,
    nodes: Vec<Node>,
    part_rows: usize,
    seed: u64,
    /// Changes all that must not matter: comments, order and names of nodes, order of keys.
    style: u64,
}

/// A table as the model sees it: its parts, and all else that decides its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Table {
    parts: Vec<Vec<Row>>,
    /// Tags are numbers in some files and text in others: rows of different tables even where they look the same.
    text_tags: bool,
    /// The condition in the reasons of rejected rows.
    reason: Option<i64>,
}

/// What has ever been computed.
#[derive(Default)]
struct Memory {
    loads: HashSet<(Vec<Row>, usize)>,
    rows: HashSet<(i64, Row, bool)>,
    evaluations: HashSet<(Table, usize)>,
}

/// What a run computes: whole nodes by stage, and rows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Work {
    loads: usize,
    evaluations: usize,
    rows: usize,
}

impl World {
    fn new(lots: &mut Lots) -> Self {
        let files = (0..=lots.below(2)).map(|at| {
            let rows = (0..2 + lots.below(7)).map(|_| row(lots));
            (format!("file{at}.csv"), unique(rows.collect()))
        });
        let files: Vec<_> = files.collect();
        let mut nodes: Vec<_> = (0..files.len()).map(Node::Load).collect();
        for _ in 0..=lots.below(5) {
            let tables = nodes.iter().filter(|node| !matches!(node, Node::Evaluate(_))).count();
            let from = lots.below(tables);
            let node = match lots.below(3) {
                0 => Node::Evaluate((from, lots.below(2) == 0)),
                _ => Node::Threshold(from, lots.below(10) as i64),
            };
            // Tables first, so that each node reads one before it.
            let at = if matches!(node, Node::Evaluate(_)) { nodes.len() } else { tables };
            nodes.insert(at, node);
            for node in &mut nodes[at + 1..] {
                if let Node::Evaluate((from, _)) | Node::Threshold(from, _) = node
                    && *from >= at
                {
                    *from += 1;
                }
            }
        }
        Self { files, nodes, part_rows: 2 + lots.below(3), seed: 1, style: lots.draw() }
    }

    /// The table that a node reads, and the tables that it puts out.
    fn tables(&self) -> Vec<(Table, Option<Table>)> {
        let mut tables: Vec<(Table, Option<Table>)> = Vec::new();
        for node in &self.nodes {
            tables.push(match node {
                Node::Load(file) => {
                    let rows = &self.files[*file].1;
                    let text_tags = rows.iter().any(|row| row.2.starts_with('x'));
                    let parts = rows.chunks(self.part_rows).map(<[Row]>::to_vec).collect();
                    (Table { parts, text_tags, reason: None }, None)
                }
                Node::Threshold(from, least) => {
                    let input = &tables[*from].0;
                    let split = |keep: bool, reason| Table {
                        // Of a part without rows there is no trace.
                        parts: input
                            .parts
                            .iter()
                            .map(|part| filter(part, *least, keep))
                            .filter(|part| !part.is_empty())
                            .collect(),
                        text_tags: input.text_tags,
                        reason,
                    };
                    let mut rejected = split(false, Some(*least));
                    if rejected.parts.iter().all(Vec::is_empty) {
                        // Without a row there is no text of a reason, only its column.
                        rejected.reason = Some(i64::MIN);
                    }
                    (split(true, None), Some(rejected))
                }
                Node::Evaluate(source) => (Self::source(&tables, *source).clone(), None),
            });
        }
        tables
    }

    /// `rejected` only means something where there are rejected rows.
    fn source(tables: &[(Table, Option<Table>)], (from, rejected): Source) -> &Table {
        let (kept, other) = &tables[from];
        if rejected { other.as_ref().unwrap_or(kept) } else { kept }
    }

    /// What a run has to compute, given what was computed before.
    fn work(&self, memory: &mut Memory) -> Work {
        let tables = self.tables();
        let mut work = Work::default();
        for (node, (table, _)) in self.nodes.iter().zip(&tables) {
            match node {
                Node::Load(file) => {
                    let key = (self.files[*file].1.clone(), self.part_rows);
                    work.loads += usize::from(memory.loads.insert(key));
                }
                Node::Threshold(from, least) => {
                    let input = &tables[*from].0;
                    for row in input.parts.iter().flatten() {
                        let key = (*least, row.clone(), input.text_tags);
                        work.rows += usize::from(memory.rows.insert(key));
                    }
                }
                Node::Evaluate(_) => {
                    let key = (table.clone(), self.part_rows);
                    work.evaluations += usize::from(memory.evaluations.insert(key));
                }
            }
        }
        work
    }

    fn name(&self, node: usize) -> String {
        format!("n{}{node}", ["", "ode", "_"][(self.style % 3) as usize])
    }

    fn yaml(&self) -> String {
        let bit = |number: usize| self.style >> (number % 60) & 1 == 1;
        let mut nodes: Vec<_> =
            (0..self.nodes.len()).map(|at| self.node_yaml(at, bit(at))).collect();
        if bit(40) {
            nodes.reverse();
        }
        let mut text = String::from(if bit(41) { "# a comment\n" } else { "" });
        let head = [
            "paraloom: 1\n".to_owned(),
            format!("name: {}\n", if bit(42) { "rerun" } else { "'rerun'" }),
            format!("seed: {}\n", self.seed),
            format!("part_rows: {}\n", self.part_rows),
        ];
        let (first, last) =
            if bit(43) { (&head[..2], &head[2..]) } else { (&head[..], &head[..0]) };
        let _ = write!(text, "{}nodes:\n{}{}", first.concat(), nodes.concat(), last.concat());
        text
    }

    fn node_yaml(&self, at: usize, flip: bool) -> String {
        let port = |(from, rejected): Source| {
            let rejected = rejected && matches!(self.nodes[from], Node::Threshold(..));
            format!("{}{}", self.name(from), if rejected { ".rejected" } else { "" })
        };
        let (stage, inputs, with) = match &self.nodes[at] {
            Node::Load(file) => ("load", None, format!("from: {}", self.files[*file].0)),
            Node::Threshold(from, least) => {
                let input = port((*from, false));
                ("threshold", Some(input), format!("keep: 'n >= {least}'"))
            }
            Node::Evaluate(source) => ("evaluate", Some(port(*source)), "mean: [n]".to_owned()),
        };
        let mut members = vec![format!("stage: {stage}"), format!("with: {{ {with} }}")];
        members.extend(inputs.map(|input| format!("inputs: {{ rows: {input} }}")));
        if flip {
            members.reverse();
            let lines = members.iter().map(|member| format!("    {member} # why\n"));
            return format!("  {}:\n{}", self.name(at), lines.collect::<String>());
        }
        format!("  {}: {{ {} }}\n", self.name(at), members.join(", "))
    }

    /// Changes something; says what.
    fn edit(&mut self, lots: &mut Lots, dir: &Path) -> &'static str {
        let file = lots.below(self.files.len());
        let node = lots.below(self.nodes.len());
        let rows = &mut self.files[file].1;
        let at = lots.below(rows.len());
        match lots.below(14) {
            0 | 1 => {
                if let Node::Threshold(_, least) = &mut self.nodes[node] {
                    *least = lots.below(10) as i64;
                }
                "threshold"
            }
            2 => {
                rows.push(row(lots));
                "append"
            }
            3 => {
                rows.insert(at, row(lots));
                "put in"
            }
            4 => {
                rows[at] = row(lots);
                "edit"
            }
            5 => {
                if rows.len() > 1 {
                    rows.remove(at);
                }
                "remove"
            }
            6 => {
                rows.reverse();
                "reorder"
            }
            7 => {
                rows[at].2 = format!("x{}", lots.below(9));
                "tag"
            }
            8 => {
                let from = lots.below(node.max(1));
                let is_table = !matches!(self.nodes[from], Node::Evaluate(_));
                match &mut self.nodes[node] {
                    Node::Threshold(old, _) if is_table => *old = from,
                    Node::Evaluate(old) if is_table => *old = (from, lots.below(2) == 0),
                    _ => {}
                }
                "rewire"
            }
            9 => {
                let old = dir.join(&self.files[file].0);
                // Names of its own: onto another file of the pipeline it would take that one away.
                self.files[file].0 = format!("moved{file}-{}.csv", lots.below(1000));
                std::fs::rename(old, dir.join(&self.files[file].0)).expect("it is ours");
                "move"
            }
            10 => {
                self.part_rows = 2 + lots.below(3);
                "part_rows"
            }
            11 => {
                self.seed += 1;
                "seed"
            }
            _ => {
                self.style = lots.draw();
                "style"
            }
        }
    }
}

fn row(lots: &mut Lots) -> Row {
    (format!("text {}", lots.below(1 << 20)), lots.below(10) as i64, lots.below(9).to_string())
}

/// Equal rows of one table have ids by their order, which the model leaves out.
fn unique(rows: Vec<Row>) -> Vec<Row> {
    let mut seen = HashSet::new();
    rows.into_iter().filter(|row| seen.insert(row.0.clone())).collect()
}

fn filter(part: &[Row], least: i64, keep: bool) -> Vec<Row> {
    part.iter().filter(|row| (row.1 >= least) == keep).cloned().collect()
}

/// Writes a file with any time of change: what decides is what it holds.
fn write(path: &Path, rows: &[Row], lots: &mut Lots) {
    let mut text = "text,n,tag\n".to_owned();
    for (name, number, tag) in rows {
        let _ = writeln!(text, "{name},{number},{tag}");
    }
    std::fs::write(path, text).expect("it is ours");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(lots.draw() % 4_000_000_000);
    let file = std::fs::File::options().append(true).open(path).expect("it is ours");
    file.set_modified(time).expect("it is ours");
}

/// A project at some place, and the stages.
struct Engine {
    host: Host,
    dir: PathBuf,
}

impl Engine {
    /// Runs a pipeline; what it computed.
    fn run(&mut self, world: &World, options: &RunOptions) -> Work {
        let text = world.yaml();
        let workspace =
            Workspace::new(std::mem::take(&mut self.host), &self.dir, &text, &self.dir.join("hub"));
        let (graph, problems) = workspace.check(&[], &|_| None);
        let graph = graph.unwrap_or_else(|| panic!("{problems:?}\n{text}"));
        self.host = workspace.host;
        let (host, store) = (&self.host, Store::create(&self.dir.join("store")).expect("a store"));
        let planned = Lookup::new(&graph, host, Some(&store))
            .and_then(|lookup| plan(&graph, graph.order(), &lookup))
            .expect("a plan");
        let job =
            Job { graph: &graph, nodes: graph.order(), host, store: &store, text: &text, set: &[] };
        let work = Mutex::new(Work::default());
        let observer = |logged: &Logged| {
            let mut work = work.lock().expect("no panic");
            match &logged.event {
                Event::NodeStarted { stage, .. } if stage == "load" => work.loads += 1,
                Event::NodeStarted { stage, .. } if stage == "evaluate" => work.evaluations += 1,
                Event::Part { rows, reused, .. } => work.rows += (rows - reused) as usize,
                _ => {}
            }
        };
        run(&job, options, &Cancel::default(), &observer)
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        let work = work.into_inner().expect("no panic");
        // Where rows only moved there is something to put together, and nothing to compute.
        assert!(!planned.is_done() || work == Work::default(), "{planned:?}\n{text}");
        check(world, &graph, host, &store);
        work
    }
}

/// Compares every table with what the model says that it holds.
fn check(world: &World, graph: &Graph, host: &Host, store: &Store) {
    let lookup = Lookup::new(graph, host, Some(store)).expect("the store is sound");
    for (at, (table, rejected)) in world.tables().iter().enumerate() {
        let index = graph.find(&world.name(at)).expect("it is in the pipeline");
        let done = lookup.complete(index).expect("it was run");
        let expected = [Some(table), rejected.as_ref()];
        for (port, expected) in done.ports.iter().zip(expected) {
            let (PortResult::Table(found), Some(expected)) = (port, expected) else {
                panic!("{} has other ports", world.name(at))
            };
            let rows: Vec<_> = expected.parts.iter().flatten().cloned().collect();
            if matches!(world.nodes[at], Node::Evaluate(_)) {
                let batch = found.batches().next().expect("a part").expect("sound");
                let mean = batch.column_by_name("value").expect("it has one");
                let sum: f64 = rows.iter().map(|row| row.1 as f64).sum();
                let mean = mean.as_primitive::<Float64Type>().iter().next().flatten();
                assert_eq!(mean, (!rows.is_empty()).then(|| sum / rows.len() as f64));
                continue;
            }
            let mut all = Vec::new();
            for batch in found.batches() {
                let batch = batch.expect("sound");
                let column = |name: &str| batch.column_by_name(name).expect("it has one");
                let tags = arrow::compute::cast(column("tag"), &arrow::datatypes::DataType::Utf8);
                let tags = tags.expect("numbers and text are text");
                let (text, n) = (column("text").as_string::<i32>(), column("n"));
                let n = n.as_primitive::<Int64Type>();
                let tags = tags.as_string::<i32>();
                all.extend((0..batch.num_rows()).map(|row| {
                    (text.value(row).to_owned(), n.value(row), tags.value(row).to_owned())
                }));
            }
            assert_eq!(all, rows, "{}", world.name(at));
        }
    }
}

#[test]
fn an_edit_makes_run_what_it_must_and_nothing_else() {
    let mut lots = Lots::new();
    let mut host = crate::common::shipped_host(Path::new(crate::common::paraloom().get_program()));
    // In memory where there is such a place: what is tested is not the disk.
    let place = Some(Path::new("/dev/shm")).filter(|place| place.is_dir());
    let place = place.map_or_else(std::env::temp_dir, Path::to_owned);
    for dag in 0..crate::common::scale("PARALOOM_DAGS", 25) {
        let root = tempfile::tempdir_in(&place).expect("a directory");
        let mut engine = Engine { host: std::mem::take(&mut host), dir: root.path().join("0") };
        std::fs::create_dir(&engine.dir).expect("it is ours");
        let (mut world, mut memory) = (World::new(&mut lots), Memory::default());
        let mut past: Vec<World> = Vec::new();
        for step in 0..=10 {
            let what = match (step, lots.below(8)) {
                (0, _) => "start",
                (_, 0) => {
                    // Back to how everything was at some time: all of it is still there.
                    world = past[lots.below(past.len())].clone();
                    "undo"
                }
                (_, 1) => {
                    let moved = root.path().join(step.to_string());
                    std::fs::rename(&engine.dir, &moved).expect("it is ours");
                    engine.dir = moved;
                    "move all"
                }
                _ => world.edit(&mut lots, &engine.dir),
            };
            for (name, rows) in &world.files {
                write(&engine.dir.join(name), rows, &mut lots);
            }
            let options = RunOptions {
                threads: 1 + lots.below(2) as u32,
                jobs: 1 + lots.below(3),
                checkpoint_every: Duration::from_secs(lots.draw() % 100),
                ..RunOptions::default()
            };
            let expected = world.work(&mut memory);
            let found = engine.run(&world, &options);
            assert_eq!(found, expected, "pipeline {dag}, step {step}: {what}\n{}", world.yaml());
            past.push(world.clone());
        }
        host = engine.host;
    }
}
