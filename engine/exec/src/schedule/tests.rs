use std::collections::HashMap;

use paraloom_store::Digest;
use proptest::prelude::*;

use super::*;

fn node(name: &str) -> NodeIndex {
    NodeIndex::new(usize::from(name.as_bytes()[0] - b'a'))
}

fn name(node: NodeIndex) -> char {
    char::from(b'a' + u8::try_from(node.index()).expect("few nodes"))
}

fn key(text: &str) -> Key {
    Key::parse(&Digest::of(text.as_bytes()).to_string()).expect("it is a digest")
}

/// `a b:a c:b*1,a` are three nodes: `b` reads `a` whole, and `c` maps the table 1 of `b` and reads `a` whole.
fn schedule(graph: &str) -> Schedule {
    let nodes: Vec<_> = graph
        .split(' ')
        .map(|text| {
            let (name, inputs) = text.split_once(':').unwrap_or((text, ""));
            let inputs = inputs.split(',').filter(|input| !input.is_empty()).map(|input| {
                let (from, port) = input.split_once('*').unwrap_or((input, ""));
                let number = port.parse().unwrap_or(0);
                let from = Endpoint { node: node(from), port: number };
                Input { from, is_mapped: input.contains('*') }
            });
            (node(name), inputs.collect::<Vec<_>>())
        })
        .collect();
    let order: Vec<_> = nodes.iter().map(|(node, _)| *node).collect();
    let nodes: HashMap<_, _> = nodes.into_iter().collect();
    Schedule::new(&order, |node| nodes[&node].clone())
}

fn show(Task { node, work }: Task) -> String {
    match work {
        Work::Whole => format!("{}", name(node)),
        Work::Part(part) => format!("{}{part}", name(node)),
        Work::Finish => format!("{}.", name(node)),
    }
}

/// `a done 2`: with two parts in its first table. `a made 1`: a part of table 1. `a key x`: it claims a key.
fn step(schedule: &mut Schedule, text: &str) -> String {
    let words: Vec<_> = text.split(' ').collect();
    let at = node(words[0]);
    let number = words.get(2).and_then(|word| word.parse().ok()).unwrap_or(0);
    match words.get(1).copied().unwrap_or("next") {
        "next" => return schedule.next().map(show).unwrap_or_default(),
        "more" => return schedule.more(at).map(show).unwrap_or_default(),
        "key" => return schedule.claim(at, &key(words[2])).to_string(),
        "over" => return schedule.is_over().to_string(),
        "retry" => schedule.retry_locked(),
        "made" => schedule.apply(Event::PartMade(Endpoint { node: at, port: number })),
        "mapped" => schedule.apply(Event::PartMapped(at)),
        "parked" => schedule.apply(Event::Parked(at)),
        "locked" => schedule.apply(Event::Locked(at)),
        "failed" => schedule.apply(Event::Failed(at)),
        "done" => {
            let parts = words[2..].iter().map(|word| word.parse().expect("a number")).collect();
            schedule.apply(Event::Done(at, parts));
        }
        other => panic!("no such step as {other}"),
    }
    let mut tasks = Vec::new();
    while let Some(task) = schedule.next() {
        tasks.push(show(task));
    }
    tasks.join(" ")
}

/// Each step and the tasks that are ready after it. `a next` takes one task only, whatever the letter.
#[test]
fn what_is_made_decides_what_is_ready() {
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let cases: &[Case] = &[
        (
            "a node waits for all that it reads whole",
            "a b c:a,b",
            &[
                ("a next", "a"),
                ("a next", "b"),
                ("a next", ""),
                ("a done 0", ""),
                ("b over", "false"),
                ("b done 0", "c"),
                ("c done", ""),
                ("c over", "true"),
            ],
        ),
        (
            "a map node begins with the first part, and goes on as they come",
            "a b:a*",
            &[
                ("a next", "a"),
                ("a made 0", "b0"),
                ("a made 0", ""),
                ("b mapped", ""),
                ("b more", "b1"),
                ("b mapped", ""),
                ("b more", ""),
                ("b parked", ""),
                ("a made 0", "b2"),
                ("b mapped", ""),
                ("b parked", ""),
                ("a done 3", "b."),
                ("b done 3", ""),
                ("a over", "true"),
            ],
        ),
        (
            "a part that comes while a node is being put aside is not missed",
            "a b:a*",
            &[
                ("a next", "a"),
                ("a made 0", "b0"),
                ("b mapped", ""),
                ("b more", ""),
                ("a made 0", ""),
                ("b parked", "b1"),
            ],
        ),
        (
            "only the table that is mapped counts",
            "a b:a*1",
            &[("a next", "a"), ("a made 0", ""), ("a made 1", "b0")],
        ),
        (
            "a map node waits for what it reads beside its rows",
            "a b c:a*,b",
            &[("a next", "a"), ("a next", "b"), ("a made 0", ""), ("b done 0", "c0")],
        ),
        (
            "without rows there is a result too",
            "a b:a* c:b*",
            &[("a next", "a"), ("a done 0", "b."), ("b done 0", "c.")],
        ),
        (
            "parts flow through map nodes",
            "a b:a* c:b*",
            &[
                ("a next", "a"),
                ("a made 0", "b0"),
                ("b made 0", "c0"),
                ("b mapped", ""),
                ("a done 1", ""),
                ("b more", "b."),
                ("b done 1", ""),
                ("c mapped", ""),
                ("c more", "c."),
            ],
        ),
        (
            "what has begun comes before what has not",
            "a b c:a* d:b*",
            &[
                ("a next", "a"),
                ("a next", "b"),
                ("b made 0", "d0"),
                ("d key y", "true"),
                ("d mapped", ""),
                ("d parked", ""),
                ("a done 1", "c0"),
                ("b done 2", "d1"),
            ],
        ),
        (
            "of two nodes of one key one waits",
            "a b c",
            &[
                ("a next", "a"),
                ("a next", "b"),
                ("a next", "c"),
                ("a key x", "true"),
                ("b key x", "false"),
                ("c key x", "false"),
                ("a done", "b"),
                ("b done", "c"),
                ("c done", ""),
                ("a over", "true"),
            ],
        ),
        (
            "a node that is put aside gives its key away, and gets it back",
            "a b:a* c",
            &[
                ("a next", "a"),
                ("a next", "c"),
                ("a made 0", "b0"),
                ("b key x", "true"),
                ("c key x", "false"),
                ("b mapped", ""),
                ("b parked", "c"),
                ("a made 0", ""),
                ("c done", "b1"),
            ],
        ),
        (
            "what another process computes is looked after again",
            "a b",
            &[
                ("a next", "a"),
                ("a key x", "true"),
                ("a locked", "b"),
                ("b done", ""),
                ("a over", "false"),
                ("a retry", "a"),
                ("a done", ""),
                ("a over", "true"),
            ],
        ),
        (
            "what reads a node that failed is never ready, and the rest is",
            "a b:a c d:c",
            &[
                ("a next", "a"),
                ("a failed", "c"),
                ("c done 0", "d"),
                ("d done 0", ""),
                ("a over", "true"),
            ],
        ),
    ];
    for (what, graph, steps) in cases {
        let mut schedule = schedule(graph);
        for (number, (event, wanted)) in steps.iter().enumerate() {
            let found = step(&mut schedule, event);
            assert_eq!(found, *wanted, "{what}: step {number}, `{event}`");
        }
    }
}

/// A node of a random graph: what it reads whole, the table that it maps, how many parts its own table has (of a node
/// that reads everything whole), its key, and whether it fails.
#[derive(Clone, Debug)]
struct Any {
    reads: Vec<prop::sample::Index>,
    maps: Option<prop::sample::Index>,
    parts: usize,
    key: u8,
    fails: bool,
}

fn any_node() -> impl Strategy<Value = Any> {
    let index = any::<prop::sample::Index>;
    let reads = prop::collection::vec(index(), 0..3);
    (reads, prop::option::of(index()), 0..4_usize, 0..20_u8, prop::bool::weighted(0.05))
        .prop_map(|(reads, maps, parts, key, fails)| Any { reads, maps, parts, key, fails })
}

/// A run in which a few workers take tasks and are done with them in any order.
struct Simulation {
    nodes: Vec<Any>,
    schedule: Schedule,
    /// Parts that were made of each node's table.
    made: Vec<usize>,
    /// Parts that each node has mapped.
    mapped: Vec<usize>,
    outcome: Vec<Option<bool>>,
    at_work: Vec<Task>,
}

impl Simulation {
    fn source(&self, node: usize) -> Option<usize> {
        (node > 0).then(|| self.nodes[node].maps.map(|from| from.index(node)))?
    }

    fn reads(&self, node: usize) -> Vec<usize> {
        if node == 0 {
            Vec::new()
        } else {
            self.nodes[node].reads.iter().map(|from| from.index(node)).collect()
        }
    }

    fn new(nodes: Vec<Any>) -> Self {
        let count = nodes.len();
        let mut simulation = Self {
            nodes,
            schedule: Schedule::default(),
            made: vec![0; count],
            mapped: vec![0; count],
            outcome: vec![None; count],
            at_work: Vec::new(),
        };
        let order: Vec<_> = (0..count).map(NodeIndex::new).collect();
        simulation.schedule = Schedule::new(&order, |node| {
            let input = |from, is_mapped| Input {
                from: Endpoint { node: NodeIndex::new(from), port: 0 },
                is_mapped,
            };
            let reads = simulation.reads(node.index()).into_iter().map(|from| input(from, false));
            let maps = simulation.source(node.index()).map(|from| input(from, true));
            reads.chain(maps).collect()
        });
        simulation
    }

    /// Takes a task if there is one that may be worked on.
    fn take(&mut self) {
        let Some(task) = self.schedule.next() else { return };
        let node = task.node.index();
        assert!(self.at_work.iter().all(|other| other.node != task.node), "twice at work");
        assert_eq!(self.outcome[node], None, "it is over");
        let is_done = |from: &usize| self.outcome[*from] == Some(true);
        assert!(self.reads(node).iter().all(is_done), "it reads what is not there");
        match task.work {
            Work::Whole => assert_eq!(self.source(node), None),
            Work::Part(part) => {
                assert_eq!(part, self.mapped[node], "parts come in order");
                let from = self.source(node).expect("it maps something");
                assert!(part < self.made[from], "the part is not there");
            }
            Work::Finish => {
                let from = self.source(node).expect("it maps something");
                assert_eq!((self.outcome[from], self.mapped[node]), (Some(true), self.made[from]));
            }
        }
        let own = self.nodes[node].key.to_string();
        if self.schedule.claim(task.node, &key(&own)) {
            let same = |task: &Task| self.nodes[task.node.index()].key == self.nodes[node].key;
            assert!(!self.at_work.iter().any(same), "two of one key at once");
            self.at_work.push(task);
        }
    }

    /// One of the workers moves on.
    fn work(&mut self, choice: usize) {
        if self.at_work.is_empty() {
            return;
        }
        let at = choice % self.at_work.len();
        let Task { node: index, work } = self.at_work[at];
        let node = index.index();
        let endpoint = Endpoint { node: index, port: 0 };
        if self.nodes[node].fails {
            self.at_work.swap_remove(at);
            self.outcome[node] = Some(false);
            return self.schedule.apply(Event::Failed(index));
        }
        match work {
            Work::Whole if self.made[node] < self.nodes[node].parts => {
                self.made[node] += 1;
                self.schedule.apply(Event::PartMade(endpoint));
            }
            Work::Part(_) => {
                self.made[node] += 1;
                self.schedule.apply(Event::PartMade(endpoint));
                self.mapped[node] += 1;
                self.schedule.apply(Event::PartMapped(index));
                match self.schedule.more(index) {
                    Some(task) => self.at_work[at] = task,
                    None => {
                        self.at_work.swap_remove(at);
                        self.schedule.apply(Event::Parked(index));
                    }
                }
            }
            Work::Whole | Work::Finish => {
                self.at_work.swap_remove(at);
                self.outcome[node] = Some(true);
                self.schedule.apply(Event::Done(index, vec![self.made[node]]));
            }
        }
    }

    /// Whether nothing that a node needs has failed.
    fn can_be_done(&self, node: usize) -> bool {
        let needed = self.reads(node).into_iter().chain(self.source(node));
        !self.nodes[node].fails && needed.into_iter().all(|from| self.can_be_done(from))
    }
}

proptest! {
    #[test]
    fn whatever_the_graph_and_the_order_everything_is_done_once(
        nodes in prop::collection::vec(any_node(), 1..14),
        choices in prop::collection::vec((any::<bool>(), any::<usize>()), 400),
    ) {
        let mut simulation = Simulation::new(nodes);
        let steps = choices.into_iter().chain((0..4000).map(|step| (step % 2 == 0, step)));
        for (takes, choice) in steps {
            if simulation.schedule.is_over() {
                break;
            }
            if takes && simulation.at_work.len() < 3 {
                simulation.take();
            } else {
                simulation.work(choice);
            }
        }
        prop_assert!(simulation.schedule.is_over());
        prop_assert!(simulation.at_work.is_empty());
        for node in 0..simulation.nodes.len() {
            let is_done = simulation.outcome[node] == Some(true);
            prop_assert_eq!(is_done, simulation.can_be_done(node), "node {}", node);
        }
    }
}
