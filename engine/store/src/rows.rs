//! Which rows of a part came of which row of its input, so that a row is computed once, whatever part it stands in.

use std::ops::Range;

use arrow::array::{Array, RecordBatch};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::{Deserialize, Serialize};

const BYTES: usize = RowDigest::BYTES;

/// The digest of one row: of the names, types and values of all its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowDigest([u8; BYTES]);

impl RowDigest {
    /// Enough that no two different rows of a store will ever share a digest.
    pub(crate) const BYTES: usize = 12;

    /// What a hasher says that has seen the row.
    pub(crate) fn of(hasher: &blake3::Hasher) -> Self {
        let mut bytes = [0; BYTES];
        hasher.finalize_xof().fill(&mut bytes);
        Self(bytes)
    }

    pub(crate) fn from_bytes(bytes: [u8; BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(self) -> [u8; BYTES] {
        self.0
    }

    /// The first 64 bits. Rows in ascending order have them in ascending order.
    pub(crate) fn prefix(&self) -> u64 {
        self.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

/// The digest of every row.
pub fn row_digests(rows: &RecordBatch) -> Result<Vec<RowDigest>, ArrowError> {
    // A number and its digits as text look the same and are not: what came of one cannot stand for the other.
    let schema = rows.schema();
    let types: Vec<_> = schema.fields().iter().map(|f| f.data_type().to_string()).collect();
    let hashers = row_hashers(rows, "paraloom 2026 row: content", &types.join(" "))?;
    Ok(hashers.iter().map(RowDigest::of).collect())
}

/// A hasher for every row, which has seen `salt` and the row's content.
pub(crate) fn row_hashers(
    rows: &RecordBatch,
    context: &str,
    salt: &str,
) -> Result<Vec<blake3::Hasher>, ArrowError> {
    let options = FormatOptions::default().with_display_error(false);
    let formatters: Result<Vec<_>, _> =
        rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
    let formatters = formatters?;
    let schema = rows.schema();
    let hash = |row: usize| {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        field(&mut hasher, salt);
        for ((column, values), formatter) in
            schema.fields().iter().zip(rows.columns()).zip(&formatters)
        {
            field(&mut hasher, column.name());
            if values.is_null(row) {
                hasher.update(&[0]);
            } else {
                hasher.update(&[1]);
                field(&mut hasher, &formatter.value(row).try_to_string()?);
            }
        }
        Ok(hasher)
    };
    (0..rows.num_rows()).map(hash).collect()
}

/// Length first, so that no two rows give the same bytes.
fn field(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// What became of every row of an input part: its digest, and how many rows of each output came of it. The rows of an
/// output stand in the order of the rows that they came of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowMap {
    /// The digests, in hexadecimal, one after another.
    digests: String,
    /// By output port, by input row.
    counts: Vec<Vec<u32>>,
}

impl RowMap {
    /// The map of rows with these digests; `counts` is by output port, by row.
    pub fn new(digests: &[RowDigest], counts: Vec<Vec<u32>>) -> Self {
        let hex = |byte: &u8| format!("{byte:02x}");
        let digests = digests.iter().flat_map(|digest| digest.0.iter().map(hex)).collect();
        Self { digests, counts }
    }

    /// The digests of the input rows, in order.
    pub fn digests(&self) -> impl Iterator<Item = RowDigest> + '_ {
        self.digests.as_bytes().chunks_exact(2 * BYTES).map(|hex| {
            let mut bytes = [0; BYTES];
            for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
                *byte = 16 * digit(pair[0]) + digit(pair[1]);
            }
            RowDigest(bytes)
        })
    }

    /// Which rows of the output `port` came of each input row.
    pub fn ranges(&self, port: usize) -> Vec<Range<usize>> {
        let counts = self.counts.get(port).map(Vec::as_slice).unwrap_or_default();
        let ranges = counts.iter().scan(0, |end, count| {
            let start = *end;
            *end += *count as usize;
            Some(start..*end)
        });
        ranges.collect()
    }

    /// Whether it fits outputs of these numbers of rows; records come from disk.
    pub(crate) fn fits(&self, outputs: &[Option<u64>]) -> bool {
        let rows = self.digests.len() / (2 * BYTES);
        let whole = self.digests.len() == rows * 2 * BYTES
            && self.digests.bytes().all(|byte| byte.is_ascii_hexdigit());
        let sum = |counts: &[u32]| counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        whole
            && self.counts.len() == outputs.len()
            && self.counts.iter().zip(outputs).all(|(counts, output)| match output {
                Some(there) => counts.len() == rows && sum(counts) == *there,
                None => counts.is_empty(),
            })
    }
}

/// The value of a hexadecimal digit; anything else was refused by [`RowMap::fits`].
fn digit(byte: u8) -> u8 {
    char::from(byte).to_digit(16).unwrap_or_default() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows: of the first came two rows and none, of the second one and three.
    fn map() -> (Vec<RowDigest>, RowMap) {
        let digests = vec![RowDigest(*b"0123456789ab"), RowDigest([0xfe; BYTES])];
        let map = RowMap::new(&digests, vec![vec![2, 1], vec![0, 3], vec![]]);
        (digests, map)
    }

    #[test]
    fn it_says_what_came_of_which_row() {
        let (digests, map) = map();
        assert_eq!(map.digests().collect::<Vec<_>>(), digests);
        let ranges = [0, 1, 2, 3].map(|port| map.ranges(port));
        assert_eq!(ranges, [vec![0..2, 2..3], vec![0..0, 0..3], vec![], vec![]]);
    }

    #[test]
    fn it_fits_the_outputs_that_it_is_of_and_no_others() {
        let (_, map) = map();
        let outputs = [Some(3), Some(3), None];
        assert!(map.fits(&outputs));
        for wrong in [
            &[Some(3), Some(3)][..],
            &[Some(3), Some(2), None],
            &[Some(2), Some(3), None],
            &[Some(3), None, None],
            &[Some(3), Some(3), Some(0)],
            &[Some(3), Some(3), None, None],
        ] {
            assert!(!map.fits(wrong), "{wrong:?}");
        }
        let digests = |digests: String| RowMap { digests, ..map.clone() };
        for wrong in [
            map.digests.replace('f', "g"),
            format!("{}0", map.digests),
            map.digests[1..].to_owned(),
            // Of one row more and of one less.
            map.digests.repeat(2),
            map.digests[..2 * BYTES].to_owned(),
        ] {
            assert!(!digests(wrong.clone()).fits(&outputs), "{wrong}");
        }
        let counts = |counts| RowMap { counts, ..map.clone() };
        assert!(!counts(vec![vec![2, 1, 0], vec![0, 3], vec![]]).fits(&outputs));
        assert!(!counts(vec![vec![3], vec![0, 3], vec![]]).fits(&outputs));
        assert!(!counts(vec![vec![2, 1], vec![0, 3], vec![0, 0]]).fits(&outputs));
    }
}
