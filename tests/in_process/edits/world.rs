//! A pipeline with its files, at random, and what people do to both.

use std::fmt::Write as _;

use super::stage::{Reading, Stage, condition, stage};
use super::table::{Dress, Format, Layout, Table, cell, column, format, kind, layout};
use crate::common::Lots;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) stage: Stage,
    /// The node that it reads, and which of its outputs.
    from: Option<(usize, usize)>,
    /// Of `dedup`: what counts as seen.
    against: Option<usize>,
    seed: Option<u64>,
    part_rows: Option<usize>,
    /// Of nodes that work part by part: rows that they fail at are rejected.
    rejects: bool,
    /// Defaults are written out, and keys in another order.
    verbose: bool,
    /// It has another name.
    renamed: bool,
}

impl Node {
    fn new(stage: Stage, from: Option<(usize, usize)>) -> Self {
        Self {
            stage,
            from,
            against: None,
            seed: None,
            part_rows: None,
            rejects: false,
            verbose: false,
            renamed: false,
        }
    }

    /// The table outputs.
    fn outputs(&self) -> &'static [&'static str] {
        match self.stage.outputs() {
            ["rows"] if self.rejects && self.stage.is_map() => &["rows", "rejected"],
            outputs => outputs,
        }
    }
}

/// What is expected of a node's first table.
#[derive(Clone, Debug)]
struct Expectation {
    node: usize,
    condition: String,
    least: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) files: Vec<Table>,
    pub(crate) nodes: Vec<Node>,
    expects: Option<Expectation>,
    part_rows: usize,
    seed: u64,
    prefix: &'static str,
    /// The variables `least` and `word`.
    least: i64,
    word: &'static str,
    /// Whether the variables are given on the command line, and the file says something else.
    set: bool,
    /// What must not matter: comments, blank lines, the order of nodes.
    style: usize,
}

impl World {
    pub(crate) fn new(lots: &mut Lots) -> Self {
        let files: Vec<_> =
            (0..=lots.below(2)).map(|at| Table::new(lots, format!("file{at}"))).collect();
        let load = |file| {
            let reading = if lots.below(3) == 0 { Reading::new(lots) } else { Reading::default() };
            Node::new(Stage::Load { file, reading }, None)
        };
        let mut world = Self {
            nodes: (0..files.len()).map(load).collect(),
            files,
            expects: None,
            part_rows: 2 + lots.below(3),
            seed: 1,
            prefix: "n",
            least: 1,
            word: "a",
            set: false,
            style: 0,
        };
        for _ in 0..=lots.below(5) {
            world.add(lots);
        }
        world
    }

    fn add(&mut self, lots: &mut Lots) {
        let stage = stage(lots);
        // Metrics have columns of their own, which hardly any stage is made for.
        let metrics = lots.below(8) == 0;
        let is_source = |node: &usize| match self.nodes[*node].stage {
            Stage::Evaluate { .. } => metrics,
            _ => !self.nodes[*node].outputs().is_empty(),
        };
        let sources: Vec<_> = (0..self.nodes.len()).filter(is_source).collect();
        let from = sources[lots.below(sources.len())];
        let ports = self.nodes[from].outputs().len();
        let port = if lots.below(3) == 0 { lots.below(ports) } else { 0 };
        let mut node = Node::new(stage, Some((from, port)));
        node.rejects = lots.below(3) == 0;
        if matches!(node.stage, Stage::Dedup { .. }) && lots.below(2) == 0 {
            node.against = Some(sources[lots.below(sources.len())]);
        }
        self.nodes.push(node);
    }

    /// The same after one edit.
    pub(crate) fn edited(&self, lots: &mut Lots) -> Self {
        let mut world = self.clone();
        match lots.below(5) {
            0..=2 => {
                let at = lots.below(world.files.len());
                edit_file(&mut world.files[at], lots);
            }
            3 => world.edit_node(lots),
            _ => world.edit_whole(lots),
        }
        world
    }

    fn edit_node(&mut self, lots: &mut Lots) {
        let at = lots.below(self.nodes.len());
        let earlier = at.max(1);
        let node = &mut self.nodes[at];
        match (lots.below(9), &mut node.stage) {
            (0..=2, Stage::Load { reading, .. }) => *reading = Reading::new(lots),
            (0 | 1, _) => {
                let stage = stage(lots);
                // What reads it reads its first output then.
                if !matches!(stage, Stage::Export { .. }) {
                    node.stage = stage;
                    let old = |from: &mut (usize, usize)| {
                        if from.0 == at {
                            from.1 = 0;
                        }
                    };
                    self.nodes.iter_mut().filter_map(|node| node.from.as_mut()).for_each(old);
                }
            }
            // It reads another table.
            (2, _) => {
                let from = lots.below(earlier);
                if !self.nodes[from].outputs().is_empty() {
                    self.nodes[at].from = Some((from, 0));
                }
            }
            // The two inputs change places.
            (3, _) => {
                if let (Some((from, _)), Some(against)) = (node.from, node.against) {
                    (node.from, node.against) = (Some((against, 0)), Some(from));
                }
            }
            (4, _) => node.seed = Some(lots.below(3) as u64).filter(|seed| *seed > 0),
            (5, _) => node.part_rows = Some(1 + lots.below(4)).filter(|_| lots.below(2) == 0),
            (6, _) => node.rejects = !node.rejects,
            (7, _) => node.renamed = !node.renamed,
            _ => node.verbose = !node.verbose,
        }
    }

    fn edit_whole(&mut self, lots: &mut Lots) {
        match lots.below(11) {
            0 => self.seed += 1,
            1 => self.part_rows = 2 + lots.below(3),
            2 => self.prefix = ["n", "node", "x_"][lots.below(3)],
            3 => self.least = lots.below(4) as i64,
            4 => self.word = ["a", "b", "null", "1", "it", " a"][lots.below(6)],
            5 => self.set = !self.set,
            6 => self.style = lots.below(4),
            7 => {
                self.expects = Some(Expectation {
                    node: lots.below(self.nodes.len()),
                    condition: condition(lots),
                    least: lots.below(5),
                });
            }
            // What is in two files changes places.
            8 if self.files.len() > 1 => {
                let (first, others) = self.files.split_at_mut(1);
                std::mem::swap(&mut first[0].rows, &mut others[0].rows);
                std::mem::swap(&mut first[0].columns, &mut others[0].columns);
            }
            _ => self.add(lots),
        }
    }

    /// The same without a node that nothing reads; none if something does.
    pub(crate) fn without(&self, node: usize) -> Option<Self> {
        let mut world = self.clone();
        if node >= world.nodes.len() {
            return Some(world);
        }
        let reads = |other: &Node| {
            other.from.is_some_and(|(from, _)| from == node) || other.against == Some(node)
        };
        if world.nodes.iter().any(reads) || matches!(world.nodes[node].stage, Stage::Load { .. }) {
            return None;
        }
        world.nodes.remove(node);
        for other in &mut world.nodes {
            for from in
                other.from.as_mut().map(|from| &mut from.0).into_iter().chain(&mut other.against)
            {
                *from -= usize::from(*from > node);
            }
        }
        world.expects = world.expects.filter(|expects| expects.node != node).map(|expects| {
            let node = expects.node - usize::from(expects.node > node);
            Expectation { node, ..expects }
        });
        Some(world)
    }

    fn name(&self, node: usize) -> String {
        let renamed = if self.nodes[node].renamed { "-new" } else { "" };
        format!("{}{node}{renamed}", self.prefix)
    }

    /// What `--set` says.
    pub(crate) fn set(&self) -> Vec<(String, String)> {
        let all =
            [("least".to_owned(), self.least.to_string()), ("word".to_owned(), self.word.into())];
        if self.set { all.into() } else { Vec::new() }
    }

    pub(crate) fn yaml(&self) -> String {
        let (least, word) = if self.set { (7, "other") } else { (self.least, self.word) };
        let mut text = format!(
            "paraloom: 1\nname: edits\nseed: {}\npart_rows: {}\nvars: {{ least: {least}, word: '{word}' }}\nnodes:\n",
            self.seed, self.part_rows
        );
        let mut order: Vec<_> = (0..self.nodes.len()).collect();
        if self.style & 1 == 1 {
            order.reverse();
        }
        for at in order {
            if self.style & 2 == 2 {
                text.push_str("\n  # A comment.\n");
            }
            let _ = writeln!(text, "  {}: {{ {} }}", self.name(at), self.node(at));
        }
        if let Some(Expectation { node, condition, least }) = &self.expects {
            let condition = condition.replace('\'', "''");
            let _ = writeln!(
                text,
                "expect: [ {{ node: {}, where: '{condition}', least: {least} }} ]",
                self.name(*node)
            );
        }
        text
    }

    fn node(&self, at: usize) -> String {
        let node = &self.nodes[at];
        let mut inputs = Vec::new();
        if let Some((from, port)) = node.from {
            let ports = self.nodes[from].outputs();
            let port = ports[port.min(ports.len() - 1)];
            inputs.push(format!("rows: {}.{port}", self.name(from)));
        }
        inputs.extend(node.against.map(|from| format!("against: {}", self.name(from))));
        let mut with = match &node.stage {
            Stage::Load { file, .. } => {
                let file = &self.files[*file];
                let mut with = node.stage.with(&file.from(), node.verbose);
                with.extend(file.settings());
                with
            }
            stage => stage.with("", node.verbose),
        };
        if node.verbose {
            inputs.reverse();
            with.reverse();
        }
        let mut members = vec![format!("stage: {}", node.stage.name())];
        members.extend(node.seed.map(|seed| format!("seed: {seed}")));
        members.extend(node.part_rows.map(|rows| format!("part_rows: {rows}")));
        if node.rejects && node.stage.is_map() {
            members.push("on_error: reject".to_owned());
        }
        members.push(format!("inputs: {{ {} }}", inputs.join(", ")));
        members.push(format!("with: {{ {} }}", with.join(", ")));
        members.join(", ")
    }

    /// The files, for a person.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            let _ = writeln!(
                text,
                "{} ({:?}, {:?}, {:?}): {:?}",
                file.from(),
                file.format,
                file.layout,
                file.dress,
                file.columns
            );
            for row in &file.rows {
                let _ = writeln!(text, "  {row:?}");
            }
        }
        text
    }
}

fn edit_file(file: &mut Table, lots: &mut Lots) {
    let of = file.format;
    let row = lots.below(file.rows.len().max(1));
    // Most often not a column that the conditions need.
    let others = if lots.below(4) == 0 { 0 } else { 2.min(file.columns.len() - 1) };
    let place = others + lots.below(file.columns.len() - others);
    match lots.below(21) {
        0..=3 => {
            // One cell, most often to another of its kind.
            let place = lots.below(file.columns.len());
            let kind = if lots.below(6) == 0 { kind(lots, of) } else { file.columns[place].1 };
            if let Some(row) = file.rows.get_mut(row) {
                row[place] = cell(lots, kind);
            }
        }
        4 | 5 => {
            file.rows.push(file.columns.iter().map(|(_, kind)| cell(lots, *kind)).collect());
        }
        6 => {
            let new = file.columns.iter().map(|(_, kind)| cell(lots, *kind)).collect();
            file.rows.insert(row.min(file.rows.len()), new);
        }
        7 if !file.rows.is_empty() => drop(file.rows.remove(row)),
        8 => file.rows.reverse(),
        9 => file.rows.clear(),
        10 => {
            // A column more: sometimes empty.
            let (name, kind, empty) = (column(lots), kind(lots, of), lots.below(2) == 0);
            if file.columns.iter().all(|(known, _)| *known != name) {
                file.columns.push((name, kind));
                let new = |row: &mut Vec<_>| row.push(if empty { None } else { cell(lots, kind) });
                file.rows.iter_mut().for_each(new);
            }
        }
        11 if file.columns.len() > 1 => {
            file.columns.remove(place);
            file.rows.iter_mut().for_each(|row| drop(row.remove(place)));
        }
        12 => {
            file.columns.reverse();
            file.rows.iter_mut().for_each(|row| row.reverse());
        }
        13 => {
            // The type of a column, where the file says it.
            file.columns[place].1 = kind(lots, of);
        }
        14 => {
            // The same rows in another format, named so or not.
            file.format = format(lots);
            if lots.below(3) > 0 {
                file.extension = Table::extension_of(file.format);
            }
        }
        15 if of != Format::Parquet || lots.below(4) == 0 => {
            // The same bytes under another name.
            file.extension = ["csv", "tsv", "jsonl", "txt", "json"][lots.below(5)];
        }
        16 => file.name = format!("{}x", file.name),
        17 => file.dress = Dress::new(lots),
        18 => file.dress.untold = !file.dress.untold,
        // A row that is there already; rows that change places.
        19 if !file.rows.is_empty() => {
            let again = file.rows[row].clone();
            file.rows.insert(lots.below(file.rows.len() + 1), again);
        }
        20 if !file.rows.is_empty() => file.rows.rotate_left(row),
        _ => file.layout = layout(lots),
    }
    // Most often what can be read.
    if file.format == Format::Parquet && file.layout == Layout::Packed {
        file.layout = Layout::File;
    }
    if file.format != Format::Parquet && file.extension == "parquet" {
        file.extension = Table::extension_of(file.format);
    }
}
