//! A file system that forgets: what a power cut may leave of the operations that were made on it.
//!
//! Only what was synced is sure to be there. The bytes of a file that were not may be lost, or torn at the borders of
//! sectors; the names of a directory that were not may be lost, each for itself, so in any order. A rename is one step:
//! the old name goes only if the new one is there.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::Path;

use crate::common::Dice;

/// Bytes that a disk writes at once.
const SECTOR: usize = 512;

type Node = usize;
type Names = BTreeMap<OsString, Node>;

/// One change of a name, not synced yet.
#[derive(Clone, Debug)]
struct Change {
    number: usize,
    name: OsString,
    node: Option<Node>,
    /// A change that is there if this one is.
    needs: Option<usize>,
}

#[derive(Clone, Debug)]
enum Content {
    File { synced: Vec<u8>, now: Vec<u8> },
    Dir { synced: Names, now: Names, pending: Vec<Change> },
}

/// The files and directories below a root.
#[derive(Debug)]
pub(crate) struct Model {
    nodes: Vec<Content>,
    changes: usize,
    /// Changes that must be there since others, that need them, were synced.
    forced: HashSet<usize>,
}

fn empty_dir() -> Content {
    Content::Dir { synced: Names::new(), now: Names::new(), pending: Vec::new() }
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![empty_dir()], changes: 0, forced: HashSet::new() }
    }

    fn find(&self, path: &Path) -> Option<Node> {
        path.iter().try_fold(0, |node, name| match &self.nodes[node] {
            Content::Dir { now, .. } => now.get(name).copied(),
            Content::File { .. } => None,
        })
    }

    fn change(&mut self, path: &Path, node: Option<Node>, needs: Option<usize>) -> Option<usize> {
        let name = path.file_name()?.to_owned();
        let dir = self.find(path.parent()?)?;
        let Content::Dir { now, pending, .. } = &mut self.nodes[dir] else { return None };
        match node {
            Some(node) => drop(now.insert(name.clone(), node)),
            None => drop(now.remove(&name)?),
        }
        self.changes += 1;
        pending.push(Change { number: self.changes, name, node, needs });
        Some(self.changes)
    }

    pub(crate) fn create(&mut self, path: &Path, is_dir: bool) {
        if self.find(path).is_none() {
            let file = Content::File { synced: Vec::new(), now: Vec::new() };
            self.nodes.push(if is_dir { empty_dir() } else { file });
            self.change(path, Some(self.nodes.len() - 1), None);
        }
    }

    pub(crate) fn write(&mut self, path: &Path, bytes: &[u8]) {
        let node = self.find(path).expect("it was made");
        let Content::File { now, .. } = &mut self.nodes[node] else { panic!("a file") };
        now.extend_from_slice(bytes);
    }

    pub(crate) fn sync(&mut self, path: &Path) {
        let Some(node) = self.find(path) else { return };
        match &mut self.nodes[node] {
            Content::File { synced, now } => synced.clone_from(now),
            Content::Dir { synced, now, pending } => {
                synced.clone_from(now);
                self.forced.extend(pending.drain(..).filter_map(|change| change.needs));
            }
        }
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) {
        let Some(node) = self.find(from) else { return };
        let there = self.change(to, Some(node), None);
        self.change(from, None, there);
    }

    /// A directory is emptied name by name.
    pub(crate) fn remove(&mut self, path: &Path) {
        let Some(node) = self.find(path) else { return };
        if let Content::Dir { now, .. } = &self.nodes[node] {
            let names: Vec<_> = now.keys().cloned().collect();
            names.iter().for_each(|name| self.remove(&path.join(name)));
        }
        self.change(path, None, None);
    }

    /// Makes real what a power cut may leave.
    pub(crate) fn cut(&self, dice: &mut Dice, root: &Path) {
        let mut happened = self.forced.clone();
        for node in &self.nodes {
            let Content::Dir { pending, .. } = node else { continue };
            let lucky =
                pending.iter().filter(|change| change.needs.is_none() && dice.below(2) == 0);
            happened.extend(lucky.map(|change| change.number));
        }
        self.make(0, dice, &happened, root);
    }

    fn make(&self, node: Node, dice: &mut Dice, happened: &HashSet<usize>, path: &Path) {
        let (synced, pending) = match &self.nodes[node] {
            Content::File { synced, now } => {
                return std::fs::write(path, torn(synced, now, dice)).expect("it is ours");
            }
            Content::Dir { synced, pending, .. } => (synced, pending),
        };
        let mut names = synced.clone();
        for change in pending {
            // The second half of a rename may come later than the first.
            let happens = match change.needs {
                Some(first) => happened.contains(&first) && dice.below(2) == 0,
                None => happened.contains(&change.number),
            };
            match change.node {
                _ if !happens => {}
                Some(node) => drop(names.insert(change.name.clone(), node)),
                None => drop(names.remove(&change.name)),
            }
        }
        std::fs::create_dir_all(path).expect("it is ours");
        for (name, node) in names {
            self.make(node, dice, happened, &path.join(name));
        }
    }
}

/// What may be left of a file.
fn torn(synced: &[u8], now: &[u8], dice: &mut Dice) -> Vec<u8> {
    if synced == now {
        return now.to_vec();
    }
    match dice.below(4) {
        0 => synced.to_vec(),
        1 => now.to_vec(),
        // The length is old, or on the way.
        2 => {
            let sectors = dice.below(now.len() / SECTOR + 1);
            now[..(sectors * SECTOR).clamp(synced.len(), now.len())].to_vec()
        }
        // The length is new, some sectors are not: what was not written reads as zeros.
        _ => {
            let mut bytes = synced.to_vec();
            bytes.resize(now.len(), 0);
            for start in (0..now.len()).step_by(SECTOR) {
                let end = now.len().min(start + SECTOR);
                if dice.below(2) == 0 {
                    bytes[start..end].copy_from_slice(&now[start..end]);
                }
            }
            bytes
        }
    }
}
