//! Which node works next: a state machine without threads, clocks or files.
//!
//! A task is a node that reads its inputs whole, or one part of a map node. Events say what has been made; from them
//! follows which tasks are ready. Every event costs as much as it has readers, and so a run costs its nodes, edges and
//! parts. The threads are in [`crate::crew`].

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use paraloom_pipeline::{Edge, Endpoint, Graph};
use paraloom_store::Key;
use petgraph::graph::NodeIndex;

/// Something to do for one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) node: NodeIndex,
    pub(crate) work: Work,
}

/// What is to be done of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// All of a node that reads its inputs whole.
    Whole,
    /// Of a map node: the part of its input with this number.
    Part(usize),
    /// Of a map node all of whose parts are mapped: to put its result together.
    Finish,
}

/// Something that a node reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub(crate) from: Endpoint,
    /// Whether its rows are mapped part by part; the node reads anything else whole.
    pub(crate) is_mapped: bool,
}

/// Something that happened to a node at work.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A table of it has one more part.
    PartMade(Endpoint),
    /// A map node has mapped the part that it was given.
    PartMapped(NodeIndex),
    /// A map node was parked: nothing more of its input is there now.
    Parked(NodeIndex),
    /// Another process computes its result.
    Locked(NodeIndex),
    /// It is done. Its tables have so many parts each; artifacts have none.
    Done(NodeIndex, Vec<usize>),
    /// It failed: what reads it is never ready.
    Failed(NodeIndex),
}

/// The nodes of a job and how far they are.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    nodes: Vec<Node>,
    /// Nodes with something to do, best first.
    ready: BTreeSet<Rank>,
    /// The keys of the nodes at work: two nodes of one key would compute the same.
    held: HashSet<Key>,
    /// The nodes that wait for a key that is held, in order.
    queues: HashMap<Key, VecDeque<NodeIndex>>,
    /// Nodes whose result another process computes.
    locked: Vec<NodeIndex>,
    running: usize,
}

/// What has begun comes first, so that few models are in memory at once; then the order of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_new: bool,
    place: usize,
    node: NodeIndex,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Its number in the order of the job; none of a node that is no part of it.
    place: Option<usize>,
    /// How many of the inputs that decide its key are not done.
    missing: usize,
    /// The table that it maps.
    rows: Option<Rows>,
    /// Known once it has begun.
    key: Option<Key>,
    state: State,
    readers: Vec<Reader>,
}

/// How far the mapped table of a map node is.
#[derive(Clone, Copy, Debug, Default)]
struct Rows {
    made: usize,
    mapped: usize,
    is_whole: bool,
    /// Whether it is mapped only once it is whole.
    is_awaited: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Something that it reads is not there.
    #[default]
    Waiting,
    Ready,
    Running,
    /// Another node or another process computes the same result.
    Held,
    Over,
}

/// A node that reads an output of another, and how.
#[derive(Clone, Copy, Debug)]
struct Reader {
    node: NodeIndex,
    /// The number of the table that it maps, part by part; none where it reads the output whole.
    mapped: Option<usize>,
}

impl Schedule {
    /// The nodes of a job, none of which is done, by what each reads. What is read from outside of the job counts as there.
    pub(crate) fn new(nodes: &[NodeIndex], inputs: impl Fn(NodeIndex) -> Vec<Input>) -> Self {
        let mut schedule = Self::default();
        for (place, node) in nodes.iter().enumerate() {
            schedule.at(*node).place = Some(place);
        }
        for node in nodes {
            for Input { from, is_mapped } in inputs(*node) {
                if is_mapped {
                    schedule.at(*node).rows = Some(Rows::default());
                } else if schedule.at(from.node).place.is_some() {
                    schedule.at(*node).missing += 1;
                }
                let mapped = is_mapped.then_some(from.port);
                schedule.at(from.node).readers.push(Reader { node: *node, mapped });
            }
        }
        nodes.iter().for_each(|node| schedule.consider(*node));
        schedule
    }

    /// The nodes of a graph.
    pub(crate) fn of(graph: &Graph, nodes: &[NodeIndex]) -> Self {
        Self::new(nodes, |node| {
            let mapped = graph.node(node).stage.mapped_input();
            let input = |(from, edge): (Endpoint, &Edge)| Input {
                from,
                is_mapped: Some(edge.input) == mapped,
            };
            graph.inputs(node).into_iter().map(input).collect()
        })
    }

    /// Map nodes begin once all that they map is there. To be asked for before anything has happened.
    pub(crate) fn awaiting_tables(mut self) -> Self {
        let rows = self.nodes.iter_mut().filter_map(|node| node.rows.as_mut());
        rows.for_each(|rows| rows.is_awaited = true);
        self
    }

    fn at(&mut self, node: NodeIndex) -> &mut Node {
        let needed = node.index() + 1;
        if self.nodes.len() < needed {
            self.nodes.resize_with(needed, Node::default);
        }
        &mut self.nodes[node.index()]
    }

    /// Takes note of something that happened.
    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::PartMade(from) => self.tell(from.node, |reader, rows| {
                if reader.mapped == Some(from.port) {
                    rows.made += 1;
                }
            }),
            Event::PartMapped(node) => {
                if let Some(rows) = &mut self.at(node).rows {
                    rows.mapped += 1;
                }
            }
            Event::Parked(node) => {
                self.rest(node, State::Waiting);
                self.consider(node);
            }
            Event::Locked(node) => {
                self.rest(node, State::Held);
                self.locked.push(node);
            }
            Event::Done(node, parts) => self.done(node, &parts),
            Event::Failed(node) => self.rest(node, State::Over),
        }
    }

    fn done(&mut self, node: NodeIndex, parts: &[usize]) {
        self.rest(node, State::Over);
        for at in 0..self.at(node).readers.len() {
            let Reader { node: reader, mapped } = self.at(node).readers[at];
            let state = self.at(reader);
            match (&mut state.rows, mapped) {
                (Some(rows), Some(port)) => {
                    rows.made = parts.get(port).copied().unwrap_or(0);
                    rows.is_whole = true;
                }
                _ => state.missing = state.missing.saturating_sub(1),
            }
            self.consider(reader);
        }
    }

    /// Tells those that map a table of `node` of a change in it.
    fn tell(&mut self, node: NodeIndex, change: impl Fn(&Reader, &mut Rows)) {
        for at in 0..self.at(node).readers.len() {
            let reader = self.at(node).readers[at];
            if let Some(rows) = &mut self.at(reader.node).rows {
                change(&reader, rows);
            }
            self.consider(reader.node);
        }
    }

    /// A node that was at work is not any more.
    fn rest(&mut self, node: NodeIndex, state: State) {
        if self.at(node).state == State::Running {
            self.running -= 1;
            if let Some(key) = self.at(node).key.clone() {
                self.release(&key);
            }
        }
        self.at(node).state = state;
    }

    /// Wakes the first node that waits for a key; when it rests, it wakes the next.
    fn release(&mut self, key: &Key) {
        self.held.remove(key);
        let Some(queue) = self.queues.get_mut(key) else { return };
        let next = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(key);
        }
        if let Some(next) = next {
            self.wake(next);
        }
    }

    fn wake(&mut self, node: NodeIndex) {
        self.at(node).state = State::Waiting;
        self.consider(node);
    }

    /// Puts a node among those that are ready if it waits and has something to do.
    fn consider(&mut self, node: NodeIndex) {
        let state = &self.nodes[node.index()];
        let Some(place) = state.place else { return };
        if state.state == State::Waiting && state.work().is_some() {
            let is_new = state.key.is_none();
            self.at(node).state = State::Ready;
            self.ready.insert(Rank { is_new, place, node });
        }
    }

    /// The next task; none if nothing is ready.
    pub(crate) fn next(&mut self) -> Option<Task> {
        while let Some(Rank { node, .. }) = self.ready.pop_first() {
            let state = self.at(node);
            let Some(work) = state.work().filter(|_| state.state == State::Ready) else { continue };
            state.state = State::Running;
            let key = state.key.clone();
            self.running += 1;
            if key.is_none_or(|key| self.hold(node, key)) {
                return Some(Task { node, work });
            }
        }
        None
    }

    /// What a node that is at work, and has done what it was given, has to do now.
    pub(crate) fn more(&self, node: NodeIndex) -> Option<Task> {
        self.nodes[node.index()].work().map(|work| Task { node, work })
    }

    /// A node that has begun says under which key its result will be. False if another node of the same key is at work:
    /// then it is not at work any more, and has its turn later.
    pub(crate) fn claim(&mut self, node: NodeIndex, key: &Key) -> bool {
        if self.at(node).key.is_some() {
            return true;
        }
        self.at(node).key = Some(key.clone());
        self.hold(node, key.clone())
    }

    fn hold(&mut self, node: NodeIndex, key: Key) -> bool {
        if self.held.insert(key.clone()) {
            return true;
        }
        self.queues.entry(key).or_default().push_back(node);
        self.at(node).state = State::Held;
        self.running -= 1;
        false
    }

    /// Whether other processes compute results that are needed.
    pub(crate) fn has_locked(&self) -> bool {
        !self.locked.is_empty()
    }

    /// Has the nodes try again whose results other processes compute.
    pub(crate) fn retry_locked(&mut self) {
        std::mem::take(&mut self.locked).into_iter().for_each(|node| self.wake(node));
    }

    /// How many nodes have something to do.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether nothing is at work and nothing will be.
    pub(crate) fn is_over(&self) -> bool {
        self.running == 0 && self.ready.is_empty() && self.locked.is_empty()
    }
}

impl Node {
    fn work(&self) -> Option<Work> {
        if self.missing > 0 {
            return None;
        }
        match self.rows {
            None => Some(Work::Whole),
            Some(rows) if rows.is_awaited && !rows.is_whole => None,
            Some(rows) if rows.mapped < rows.made => Some(Work::Part(rows.mapped)),
            Some(rows) if rows.is_whole => Some(Work::Finish),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
