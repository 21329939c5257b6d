//! What is known of rows, in bounded memory.

use std::collections::HashMap;

use crate::disk::{Disk, Scratch};
use crate::error::Result;
use crate::rows::RowDigest;

/// A map from digests of rows to numbers. A few are in memory; more are in a file without a name, so that there may be any
/// number of rows.
///
/// The file is a hash table with linear probing: a digest belongs at the place that its first bits say, or in the first
/// free slot after it. What does not fit before the end stands behind it, so nothing wraps around, and digests in ascending
/// order fill the file from its start to its end.
#[derive(Debug)]
pub struct RowTable {
    disk: Disk,
    /// Rows that are in memory at most.
    bound: usize,
    few: HashMap<RowDigest, u64>,
    many: Option<Table>,
}

impl RowTable {
    /// What fits in a map of 2^17 buckets, which takes 3.3 MB: seven eighths of them.
    const IN_MEMORY: usize = 114_688;

    pub(crate) fn new(disk: Disk) -> Self {
        Self::bounded(disk, Self::IN_MEMORY)
    }

    fn bounded(disk: Disk, bound: usize) -> Self {
        Self { disk, bound, few: HashMap::new(), many: None }
    }

    /// What is known of a row.
    pub fn get(&self, row: &RowDigest) -> Result<Option<u64>> {
        match &self.many {
            Some(table) => table.find(row).map(|(_, found)| found),
            None => Ok(self.few.get(row).copied()),
        }
    }

    /// Puts a number in the place of what is known of a row; returns what was. The largest number cannot be told from the
    /// one before it.
    pub fn update(
        &mut self,
        row: RowDigest,
        value: impl FnOnce(Option<u64>) -> u64,
    ) -> Result<Option<u64>> {
        if let Some(table) = &mut self.many {
            if table.is_full() {
                *table = table.grown(&self.disk)?;
            }
            return table.update(row, value);
        }
        let before = self.few.get(&row).copied();
        self.few.insert(row, value(before));
        if self.few.len() >= self.bound {
            let mut slots: Vec<_> = std::mem::take(&mut self.few).into_iter().collect();
            slots.sort_unstable();
            let mut table = Table::new(&self.disk, slots.len() * 2)?;
            let mut writer = Writer::new(&mut table);
            slots.into_iter().try_for_each(|(row, value)| writer.push(row, value))?;
            writer.finish()?;
            self.many = Some(table);
        }
        Ok(before)
    }
}

/// A digest and its number, unless it is free.
type Slot = Option<(RowDigest, u64)>;
/// The digest, and the number plus one: a hole in a file reads as zeros.
const SLOT: usize = RowDigest::BYTES + 8;
/// Slots that are read at once.
const PROBE: usize = 16;
/// Slots that are read and written at once when all are.
const CHUNK: usize = 1 << 13;

/// A hash table in a file.
#[derive(Debug)]
struct Table {
    file: Scratch,
    /// The home of a digest is its first `bits` bits.
    bits: u32,
    taken: u64,
    /// Slots that were written, holes before them included.
    end: u64,
}

impl Table {
    /// An empty one with room for about `slots`.
    fn new(disk: &Disk, slots: usize) -> Result<Self> {
        let bits = slots.max(2).next_power_of_two().ilog2();
        Ok(Self { file: disk.scratch()?, bits, taken: 0, end: 0 })
    }

    fn home(&self, row: &RowDigest) -> u64 {
        row.prefix() >> (64 - self.bits)
    }

    /// Three quarters are taken: more, and a search gets long.
    fn is_full(&self) -> bool {
        self.taken >= (1 << self.bits) / 4 * 3
    }

    fn update(
        &mut self,
        row: RowDigest,
        value: impl FnOnce(Option<u64>) -> u64,
    ) -> Result<Option<u64>> {
        let (at, before) = self.find(&row)?;
        self.write(at, &[Some((row, value(before)))])?;
        self.taken += u64::from(before.is_none());
        Ok(before)
    }

    /// Where a row is, or where it should be put.
    fn find(&self, row: &RowDigest) -> Result<(u64, Option<u64>)> {
        let mut at = self.home(row);
        loop {
            let slots = self.read(at, PROBE)?;
            let ours = |slot: &Slot| slot.is_none_or(|(found, _)| found == *row);
            if let Some(place) = slots.iter().position(ours) {
                return Ok((at + place as u64, slots[place].map(|(_, value)| value)));
            }
            at += slots.len() as u64;
            // Behind the end all is free.
            if slots.len() < PROBE {
                return Ok((at, None));
            }
        }
    }

    /// At most `count` slots from `at` on.
    fn read(&self, at: u64, count: usize) -> Result<Vec<Slot>> {
        let there = self.end.saturating_sub(at).min(count as u64) as usize;
        let mut bytes = vec![0; there * SLOT];
        self.file.read_at(at * SLOT as u64, &mut bytes)?;
        let slots = bytes.chunks_exact(SLOT).map(|slot| {
            let (row, value) = slot.split_first_chunk()?;
            let value = u64::from_le_bytes(*value.first_chunk()?);
            Some((RowDigest::from_bytes(*row), value.checked_sub(1)?))
        });
        Ok(slots.collect())
    }

    fn write(&mut self, at: u64, slots: &[Slot]) -> Result<()> {
        let mut bytes = Vec::with_capacity(slots.len() * SLOT);
        for slot in slots {
            let (row, value) = slot.map_or(([0; RowDigest::BYTES], 0), |(row, value)| {
                (row.bytes(), value.saturating_add(1))
            });
            bytes.extend(row);
            bytes.extend(value.to_le_bytes());
        }
        self.file.write_at(at * SLOT as u64, &bytes)?;
        self.end = self.end.max(at + slots.len() as u64);
        Ok(())
    }

    /// The same in a table of twice the size.
    fn grown(&self, disk: &Disk) -> Result<Self> {
        let mut table = Self::new(disk, 2 << self.bits)?;
        let mut writer = Writer::new(&mut table);
        // Between two free slots the rows stand as they came; put in order, the whole table is.
        let (mut run, mut at) = (Vec::new(), 0);
        while at < self.end {
            let slots = self.read(at, CHUNK)?;
            at += slots.len() as u64;
            for slot in slots {
                match slot {
                    Some(slot) => run.push(slot),
                    None => writer.push_all(&mut run)?,
                }
            }
        }
        writer.push_all(&mut run)?;
        writer.finish()?;
        Ok(table)
    }
}

/// Fills an empty table with rows in ascending order.
struct Writer<'a> {
    table: &'a mut Table,
    /// Where `waiting` starts.
    at: u64,
    waiting: Vec<Slot>,
}

impl<'a> Writer<'a> {
    fn new(table: &'a mut Table) -> Self {
        Self { table, at: 0, waiting: Vec::with_capacity(CHUNK) }
    }

    fn push(&mut self, row: RowDigest, value: u64) -> Result<()> {
        let next = self.at + self.waiting.len() as u64;
        let place = self.table.home(&row).max(next);
        if place - self.at >= CHUNK as u64 {
            self.flush()?;
            self.at = place;
        } else {
            self.waiting.resize((place - self.at) as usize, None);
        }
        self.waiting.push(Some((row, value)));
        self.table.taken += 1;
        Ok(())
    }

    fn push_all(&mut self, run: &mut Vec<(RowDigest, u64)>) -> Result<()> {
        run.sort_unstable();
        run.drain(..).try_for_each(|(row, value)| self.push(row, value))
    }

    fn flush(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.table.write(self.at, &waiting)
    }

    fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Disk::new(dir.path().join("tmp"), None);
        (dir, disk)
    }

    fn row(prefix: u64) -> RowDigest {
        let mut bytes = [7; RowDigest::BYTES];
        bytes[..8].copy_from_slice(&prefix.to_be_bytes());
        RowDigest::from_bytes(bytes)
    }

    /// It finds rows fast and wastes no space: between a quarter and three quarters of the slots are taken.
    fn check_filling(table: &RowTable, rows: usize) {
        if let Some(table) = &table.many {
            let slots = 1_u64 << table.bits;
            assert_eq!(table.taken, rows as u64);
            assert!(slots <= 4 * table.taken && 4 * table.taken <= 3 * slots, "{table:?}");
        }
    }

    fn count(table: &mut RowTable, row: RowDigest) -> Option<u64> {
        table.update(row, |before| before.map_or(0, |before| before + 1)).expect("no trouble")
    }

    /// Few different rows, crowded at both ends and in the middle, so that runs are long and reach behind the end.
    fn rows() -> impl Strategy<Value = Vec<u64>> {
        let near = |at: u64| (0..40_u64).prop_map(move |off| at.wrapping_add(off));
        let anywhere = any::<u64>();
        let row = prop_oneof![near(0), near(u64::MAX - 20), near(1 << 63), anywhere];
        prop::collection::vec(row, 0..400)
    }

    proptest! {
        #[test]
        fn it_knows_what_a_map_knows(rows in rows(), bound in 1..50_usize) {
            let (_dir, disk) = disk();
            let mut table = RowTable::bounded(disk, bound);
            let mut expected = HashMap::new();
            for prefix in &rows {
                let row = row(*prefix);
                prop_assert_eq!(table.get(&row).expect("no trouble"), expected.get(&row).copied());
                prop_assert_eq!(count(&mut table, row), expected.get(&row).copied());
                expected.entry(row).and_modify(|count| *count += 1).or_insert(0);
                check_filling(&table, expected.len());
            }
            for (row, count) in expected {
                prop_assert_eq!(table.get(&row).expect("no trouble"), Some(count));
            }
        }
    }

    #[test]
    fn rows_are_at_home_all_over_the_file() {
        let (_dir, disk) = disk();
        let table = Table::new(&disk, 1 << 10).expect("no trouble");
        let homes = [0, 1 << 54, u64::MAX / 2, u64::MAX].map(|prefix| table.home(&row(prefix)));
        assert_eq!(homes, [0, 1, 511, 1023]);
    }

    /// Lengths of what is written to files without a name.
    #[derive(Debug, Default)]
    struct Lengths(std::sync::Mutex<Vec<usize>>);

    impl crate::Watch for Lengths {
        fn before(&self, operation: crate::Operation<'_>, _: &Path) -> std::io::Result<()> {
            if let crate::Operation::WriteScratch(bytes) = operation {
                self.0.lock().expect("no panic").push(bytes.len());
            }
            Ok(())
        }
    }

    /// Many rows at once, not one by one and not all of them.
    #[test]
    fn memory_spills_in_chunks() {
        let dir = tempfile::tempdir().expect("a directory");
        let lengths = Arc::new(Lengths::default());
        let disk = Disk::new(dir.path().join("tmp"), Some(Arc::clone(&lengths) as _));
        let rows = 3 * CHUNK;
        let mut table = RowTable::bounded(disk, rows);
        for number in 0..rows as u64 {
            let row = row(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert_eq!(count(&mut table, row), None);
        }
        check_filling(&table, rows);
        let lengths = lengths.0.lock().expect("no panic");
        let slots = 1 << table.many.expect("they are many").bits;
        assert!((slots / CHUNK..=slots / CHUNK + 1).contains(&lengths.len()), "{lengths:?}");
        assert!(lengths.iter().all(|length| *length <= CHUNK * SLOT), "{lengths:?}");
    }

    #[test]
    fn a_table_grows_many_times_and_leaves_no_file() {
        let (dir, disk) = disk();
        let mut table = RowTable::bounded(disk, 8);
        let mut rows = 0;
        for before in [None, Some(0), Some(1)] {
            for number in 0..20_000_u64 {
                let row = row(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                assert_eq!(count(&mut table, row), before);
                rows += usize::from(before.is_none());
                check_filling(&table, rows);
            }
        }
        assert!(table.many.is_some_and(|table| table.bits >= 15));
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).expect("no trouble").count(), 0);
    }
}
