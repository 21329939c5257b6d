//! The entries of a zip archive, as torch writes it: stored as they are, so that a tensor can be read from its place.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use super::machine::{Fault, Result};

/// The end record with the longest comment.
const LONGEST_END: u64 = 22 + u16::MAX as u64;
/// More bytes than the names of any checkpoint's entries take.
const MOST_DIRECTORY: u64 = 64 << 20;
const END: &[u8] = b"PK\x05\x06";
const END_64_LOCATOR: &[u8] = b"PK\x06\x07";
const END_64: &[u8] = b"PK\x06\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// Where an entry of the archive is said to be.
#[derive(Debug, Clone, Copy)]
struct Entry {
    header: u64,
    stored: u64,
    length: u64,
    method: u64,
    flags: u64,
}

/// The directory of an archive.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    file: &'a File,
    length: u64,
    entries: BTreeMap<String, Entry>,
}

impl<'a> Archive<'a> {
    /// Reads the directory of a file of some length.
    pub(super) fn open(file: &'a File, length: u64) -> Result<Self> {
        let tail_at = length.saturating_sub(LONGEST_END);
        let tail = read(file, tail_at, length - tail_at)?;
        let end = tail.windows(END.len()).rposition(|window| window == END);
        let end = end.ok_or_else(|| damaged("the archive is cut short"))?;
        let record = &tail[end..];
        let (mut size, mut at) = (number(record, 12, 4)?, number(record, 16, 4)?);
        let locator = end.checked_sub(20).map(|at| &tail[at..end]);
        if let Some(locator) = locator.filter(|locator| locator.starts_with(END_64_LOCATOR)) {
            let record = read(file, number(locator, 8, 8)?, 56)?;
            if !record.starts_with(END_64) {
                return Err(damaged("the archive has no end"));
            }
            (size, at) = (number(&record, 40, 8)?, number(&record, 48, 8)?);
        }
        if size > MOST_DIRECTORY {
            return Err(damaged("the archive has more entries than a checkpoint"));
        }
        let directory = read(file, at, size)?;
        Ok(Self { file, length, entries: entries(&directory)? })
    }

    /// The names of all entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Where the bytes of an entry lie, and how many they are.
    pub(super) fn place(&self, name: &str) -> Result<(u64, u64)> {
        let entry =
            self.entries.get(name).ok_or_else(|| damaged(format!("there is no `{name}`")))?;
        if entry.method != 0 || entry.stored != entry.length || entry.flags & 1 != 0 {
            return Err(Fault::Compressed(name.to_owned()));
        }
        let header = read(self.file, entry.header, 30)?;
        if !header.starts_with(LOCAL) {
            return Err(damaged(format!("`{name}` is not where the archive says")));
        }
        let names = number(&header, 26, 2)? + number(&header, 28, 2)?;
        let start = entry.header.checked_add(30 + names);
        let end = start.and_then(|start| start.checked_add(entry.length));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.length => Ok((start, entry.length)),
            _ => Err(damaged(format!("`{name}` is cut short"))),
        }
    }

    /// The bytes of an entry that has at most `most`.
    pub(super) fn bytes(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let (start, length) = self.place(name)?;
        if length > most {
            return Err(damaged(format!("`{name}` has {length} bytes, more than {most}")));
        }
        read(self.file, start, length)
    }
}

fn entries(mut rest: &[u8]) -> Result<BTreeMap<String, Entry>> {
    let cut = || damaged("the archive's directory is cut short");
    let mut entries = BTreeMap::new();
    while rest.starts_with(CENTRAL) {
        let field = |at, bytes| number(rest, at, bytes);
        let [name, extra, comment] =
            [field(28, 2)?, field(30, 2)?, field(32, 2)?].map(|length| length as usize);
        let mut entry = Entry {
            header: field(42, 4)?,
            stored: field(20, 4)?,
            length: field(24, 4)?,
            method: field(10, 2)?,
            flags: field(8, 2)?,
        };
        let variable = rest.get(46..).ok_or_else(cut)?;
        let (name, variable) = variable.split_at_checked(name).ok_or_else(cut)?;
        let (extra, variable) = variable.split_at_checked(extra).ok_or_else(cut)?;
        rest = variable.get(comment..).ok_or_else(cut)?;
        widen(&mut entry, extra)?;
        let name = String::from_utf8_lossy(name).into_owned();
        if entries.insert(name.clone(), entry).is_some() {
            return Err(damaged(format!("`{name}` is there twice")));
        }
    }
    Ok(entries)
}

/// Takes what does not fit 32 bits from the extra field of an entry.
fn widen(entry: &mut Entry, mut extra: &[u8]) -> Result<()> {
    const WIDE: u64 = u32::MAX as u64;
    while extra.len() >= 4 {
        let (id, length) = (number(extra, 0, 2)?, number(extra, 2, 2)? as usize);
        let Some(data) = extra.get(4..4 + length) else { break };
        extra = &extra[4 + length..];
        if id != 1 {
            continue;
        }
        let fields = [&mut entry.length, &mut entry.stored, &mut entry.header];
        for (wide, at) in fields.into_iter().filter(|field| **field == WIDE).zip((0..).step_by(8)) {
            *wide = number(data, at, 8)?;
        }
    }
    Ok(())
}

/// A little-endian number of some bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64> {
    let mut wide = [0; 8];
    let field = bytes
        .get(at..at + length)
        .ok_or_else(|| damaged("the archive's directory is cut short"))?;
    wide[..length].copy_from_slice(field);
    Ok(u64::from_le_bytes(wide))
}

/// Bytes that are there: a length is checked by reading, so that none is believed.
fn read(mut file: &File, at: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at)).map_err(|error| damaged(error.to_string()))?;
    file.take(length).read_to_end(&mut bytes).map_err(|error| damaged(error.to_string()))?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(damaged("the archive is cut short")) }
}

fn damaged(what: impl Into<String>) -> Fault {
    Fault::Damaged(what.into())
}
