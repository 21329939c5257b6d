//! What became of the rows of a table, in bounded memory and without jumping to and fro on the disk.
//!
//! Rows are dealt out to groups by the digests of their ids, so that a row and what it was are in one group. What does not
//! fit in memory goes to a file without a name, block by block, and then each group is looked at by itself. What is found is
//! a bit or two for each row, and of rows that have changed the places where they were, in the order of the table.

use std::collections::HashMap;
use std::ops::Range;

use crate::disk::{Disk, Scratch};
use crate::error::Result;
use crate::rows::RowDigest;

/// Rows of a group, about: as many as are in memory at once.
const GROUP_ROWS: u64 = 1 << 16;
/// Each group has a block in memory.
const MOST_GROUPS: u64 = 1 << 10;
/// Bytes of all blocks of a table, while there are few groups.
const MEMORY: usize = 1 << 22;
const SMALLEST_BLOCK: usize = 1 << 14;

/// Takes in the rows of a table as it was and as it is, each in its order.
#[derive(Debug)]
pub struct RowMatch {
    before: Groups<ROW>,
    now: Groups<ROW>,
    rows: (u64, u64),
}

impl RowMatch {
    /// For tables that have this many rows together.
    pub(crate) fn new(disk: &Disk, rows: u64) -> Self {
        Self::grouped(disk, (rows / GROUP_ROWS).clamp(1, MOST_GROUPS) as usize, MEMORY)
    }

    fn grouped(disk: &Disk, groups: usize, memory: usize) -> Self {
        let (before, now) = (Groups::new(disk, groups, memory), Groups::new(disk, groups, memory));
        Self { before, now, rows: (0, 0) }
    }

    /// The next row of the table as it was, by the digests of its id and of all that is compared.
    pub fn before(&mut self, id: RowDigest, content: RowDigest) -> Result<()> {
        self.before.push(group_of(id, self.before.len()), &row(id, content, self.rows.0))?;
        self.rows.0 += 1;
        Ok(())
    }

    /// The next row of the table as it is.
    pub fn now(&mut self, id: RowDigest, content: RowDigest) -> Result<()> {
        self.now.push(group_of(id, self.now.len()), &row(id, content, self.rows.1))?;
        self.rows.1 += 1;
        Ok(())
    }

    /// The next rows of the table as it was are known to be the same.
    pub fn same_before(&mut self, rows: u64) {
        self.rows.0 += rows;
    }

    /// The next rows of the table as it is are known to be the same.
    pub fn same_now(&mut self, rows: u64) {
        self.rows.1 += rows;
    }

    /// Compares them.
    pub fn finish(self) -> Result<RowChanges> {
        let Self { mut before, mut now, rows } = self;
        let count = now.len();
        let mut changes = RowChanges {
            gone: Bits::new(rows.0),
            new: Bits::new(rows.1),
            changed: Bits::new(rows.1),
            places: Groups::new(&now.disk, count, count * now.block),
            rows_of_group: rows.1.div_ceil(count as u64).max(1),
            read: None,
        };
        for group in 0..count {
            changes.compare(&before.take(group)?, &now.take(group)?)?;
        }
        Ok(changes)
    }
}

/// What became of the rows of a table.
#[derive(Debug)]
pub struct RowChanges {
    /// Of the table as it was.
    gone: Bits,
    /// Of the table as it is.
    new: Bits,
    changed: Bits,
    /// The numbers of rows that have changed, and those that they had.
    places: Groups<PLACE>,
    /// A row's group in `places` is its number over this one.
    rows_of_group: u64,
    /// The group that was read last.
    read: Option<(usize, HashMap<u64, u64>)>,
}

impl RowChanges {
    fn compare(&mut self, before: &[u8], now: &[u8]) -> Result<()> {
        let mut known = HashMap::with_capacity(before.len() / ROW);
        // An id is of one row. If it is not, the first is compared.
        for (id, content, number) in rows(before) {
            known.entry(id).or_insert((content, number, false));
        }
        for (id, content, number) in rows(now) {
            let Some((content_before, place, is_found)) = known.get_mut(&id) else {
                self.new.set(number);
                continue;
            };
            *is_found = true;
            if *content_before != content {
                self.changed.set(number);
                let mut pair = [0; PLACE];
                pair[..8].copy_from_slice(&number.to_le_bytes());
                pair[8..].copy_from_slice(&place.to_le_bytes());
                self.places.push((number / self.rows_of_group) as usize, &pair)?;
            }
        }
        for (id, _, number) in rows(before) {
            if known.get(&id).is_some_and(|(_, _, is_found)| !is_found) {
                self.gone.set(number);
            }
        }
        Ok(())
    }

    /// How many rows are gone, are new, and have changed.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.gone.count(), self.new.count(), self.changed.count())
    }

    /// Which of these rows of the table as it was are gone, from 0; none if there are none.
    pub fn gone(&self, rows: Range<u64>) -> Vec<u32> {
        self.gone.within(rows)
    }

    /// Which of these rows of the table as it is are new, from 0.
    pub fn added(&self, rows: Range<u64>) -> Vec<u32> {
        self.new.within(rows)
    }

    /// Which of these rows of the table as it is have changed, from 0, and the numbers that they had in the table as it was: of
    /// the first ones, `limit` at most.
    pub fn changed(&mut self, rows: Range<u64>, limit: usize) -> Result<(Vec<u32>, Vec<u64>)> {
        let mut changed = self.changed.within(rows.clone());
        changed.truncate(limit);
        let places = changed.iter().map(|row| self.place(rows.start + u64::from(*row)));
        let places = places.collect::<Result<_>>()?;
        Ok((changed, places))
    }

    fn place(&mut self, number: u64) -> Result<u64> {
        let group = (number / self.rows_of_group) as usize;
        let (_, places) = match self.read.take() {
            Some(read) if read.0 == group => self.read.insert(read),
            _ => {
                let bytes = self.places.read(group)?;
                let pairs = bytes.as_chunks::<PLACE>().0.iter();
                let pairs = pairs.map(|pair| (number_of(&pair[..8]), number_of(&pair[8..])));
                self.read.insert((group, pairs.collect()))
            }
        };
        // Each row that has changed has one.
        Ok(places.get(&number).copied().unwrap_or_default())
    }
}

/// Bytes of a row: its id, its content and its number.
const ROW: usize = 2 * RowDigest::BYTES + 8;
/// Bytes of a row's number and of that which it had.
const PLACE: usize = 16;

fn row(id: RowDigest, content: RowDigest, number: u64) -> [u8; ROW] {
    let mut row = [0; ROW];
    row[..RowDigest::BYTES].copy_from_slice(&id.bytes());
    row[RowDigest::BYTES..ROW - 8].copy_from_slice(&content.bytes());
    row[ROW - 8..].copy_from_slice(&number.to_le_bytes());
    row
}

fn rows(bytes: &[u8]) -> impl Iterator<Item = (RowDigest, RowDigest, u64)> {
    bytes.as_chunks::<ROW>().0.iter().map(|row| {
        let (digests, _) = row.as_chunks::<{ RowDigest::BYTES }>();
        let number = number_of(&row[ROW - 8..]);
        (RowDigest::from_bytes(digests[0]), RowDigest::from_bytes(digests[1]), number)
    })
}

fn number_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn group_of(id: RowDigest, groups: usize) -> usize {
    ((u128::from(id.prefix()) * groups as u128) >> 64) as usize
}

/// A bit for each row.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(rows: u64) -> Self {
        Self(vec![0; rows.div_ceil(64) as usize])
    }

    fn set(&mut self, row: u64) {
        self.0[(row / 64) as usize] |= 1 << (row % 64);
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The rows that are set, counted from the start of `rows`.
    fn within(&self, rows: Range<u64>) -> Vec<u32> {
        let is_set = |row: &u64| self.0[(row / 64) as usize] >> (row % 64) & 1 == 1;
        let start = rows.start;
        rows.filter(is_set).map(|row| (row - start) as u32).collect()
    }
}

/// Records of a length, in groups. Those that memory has no room for are in a file.
#[derive(Debug)]
struct Groups<const LENGTH: usize> {
    disk: Disk,
    file: Option<Scratch>,
    /// Bytes in the file.
    end: u64,
    /// Bytes of a block: a whole number of records.
    block: usize,
    all: Vec<Group>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    /// Less than a block.
    waiting: Vec<u8>,
    /// Where its blocks are in the file.
    blocks: Vec<u64>,
}

impl<const LENGTH: usize> Groups<LENGTH> {
    fn new(disk: &Disk, groups: usize, memory: usize) -> Self {
        let block = (memory / groups).max(SMALLEST_BLOCK.min(memory)).max(LENGTH) / LENGTH * LENGTH;
        let all = vec![Group::default(); groups];
        Self { disk: disk.clone(), file: None, end: 0, block, all }
    }

    fn len(&self) -> usize {
        self.all.len()
    }

    fn push(&mut self, group: usize, record: &[u8; LENGTH]) -> Result<()> {
        let group = &mut self.all[group];
        group.waiting.extend_from_slice(record);
        if group.waiting.len() >= self.block {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(self.disk.scratch()?),
            };
            file.write_at(self.end, &group.waiting)?;
            group.blocks.push(self.end);
            self.end += group.waiting.len() as u64;
            group.waiting.clear();
        }
        Ok(())
    }

    /// The records of a group, in the order in which they came.
    fn read(&self, group: usize) -> Result<Vec<u8>> {
        let Group { waiting, blocks } = &self.all[group];
        let mut bytes = vec![0; blocks.len() * self.block];
        if let Some(file) = &self.file {
            for (offset, block) in blocks.iter().zip(bytes.chunks_exact_mut(self.block)) {
                file.read_at(*offset, block)?;
            }
        }
        bytes.extend_from_slice(waiting);
        Ok(bytes)
    }

    /// The same of a group that is not needed any more.
    fn take(&mut self, group: usize) -> Result<Vec<u8>> {
        let bytes = self.read(group)?;
        self.all[group] = Group::default();
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(number: u64) -> RowDigest {
        RowDigest::of(blake3::Hasher::new().update(&number.to_le_bytes()))
    }

    /// Ids and contents of a table: few different ones, each id once.
    fn table() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0..60_u64, 0..3_u64), 0..80).prop_map(|mut rows| {
            let mut seen = std::collections::HashSet::new();
            rows.retain(|(id, _)| seen.insert(*id));
            rows
        })
    }

    proptest! {
        /// Whatever is in memory and whatever is in the file.
        #[test]
        fn it_finds_what_a_map_finds(
            before in table(),
            now in table(),
            same in 0..5_u64,
            groups in 1..6_usize,
            memory in 1..400_usize,
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let disk = Disk::new(dir.path().join("tmp"), None);
            let mut rows = RowMatch::grouped(&disk, groups, memory);
            rows.same_before(same);
            for (id, content) in &before {
                rows.before(digest(*id), digest(*content)).expect("no trouble");
            }
            for (id, content) in &now {
                rows.now(digest(*id), digest(*content)).expect("no trouble");
            }
            rows.same_now(same);
            let mut changes = rows.finish().expect("no trouble");

            let place = |rows: &[(u64, u64)], id: u64| rows.iter().position(|row| row.0 == id);
            let numbers = |rows: &[(u64, u64)], is: &dyn Fn(&(u64, u64)) -> bool| -> Vec<u32> {
                (0..).zip(rows).filter(|(_, row)| is(row)).map(|(at, _)| at).collect()
            };
            let gone = numbers(&before, &|row| place(&now, row.0).is_none());
            let new = numbers(&now, &|row| place(&before, row.0).is_none());
            let was = |row: &(u64, u64)| Some(before[place(&before, row.0)?]);
            let changed = numbers(&now, &|row| was(row).is_some_and(|was| was != *row));
            let places: Vec<_> = changed
                .iter()
                .filter_map(|at| Some(same + place(&before, now[*at as usize].0)? as u64))
                .collect();
            let counts = (gone.len() as u64, new.len() as u64, changed.len() as u64);
            prop_assert_eq!(changes.counts(), counts);
            prop_assert_eq!(changes.gone(same..same + before.len() as u64), gone);
            prop_assert_eq!(changes.gone(0..same), Vec::<u32>::new());
            let all = 0..now.len() as u64;
            prop_assert_eq!(changes.added(all.clone()), new);
            prop_assert_eq!(changes.changed(all.clone(), usize::MAX).expect("no trouble"), (changed, places));
            // Piece by piece it is the same.
            let middle = all.end / 2;
            let pieces = [0..middle, middle..all.end].map(|rows| changes.changed(rows, usize::MAX).expect("no trouble"));
            let pieces: usize = pieces.iter().map(|piece| piece.0.len()).sum();
            prop_assert_eq!(pieces as u64, counts.2);
        }
    }
}
