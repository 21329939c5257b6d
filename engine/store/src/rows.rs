//! Which rows of a part came of which row of its input, so that a row is computed once, whatever part it stands in.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::row::{Row, RowConverter, SortField};
use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
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

/// The digest of every row: of its typed values, in arrow's row format, which no two different rows of a schema share.
/// How a value would be printed says less: `["a, b"]` and `["a", "b"]` look the same.
///
/// # Errors
/// A column of a type that the row format does not know.
pub fn row_digests(rows: &RecordBatch) -> Result<Vec<RowDigest>, ArrowError> {
    let schema = rows.schema();
    let mut salt = blake3::Hasher::new_derive_key("paraloom 2026 row: values");
    for column in schema.fields() {
        field(&mut salt, column.name().as_bytes());
        field(&mut salt, column.data_type().to_string().as_bytes());
    }
    let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let encoded = RowConverter::new(fields.collect())?.convert_columns(rows.columns())?;
    let digest = |row: Row| {
        let mut hasher = salt.clone();
        hasher.update(row.as_ref());
        RowDigest::of(&hasher)
    };
    Ok(encoded.iter().map(digest).collect())
}

/// Length first, so that no two sequences of fields give the same bytes.
pub(crate) fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// What became of every row of an input part: its digest, and how many rows of each output came of it. The rows of an
/// output stand in the order of the rows that they came of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct RowMap {
    digests: Vec<RowDigest>,
    /// By output port, by input row.
    counts: Vec<Vec<u32>>,
}

/// The same as it is in a record.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// The digests one after another, in hexadecimal, as earlier versions wrote them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digests: Option<String>,
    /// The same in base64: two thirds of the length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    counts: Vec<Vec<u32>>,
}

impl From<RowMap> for Written {
    fn from(map: RowMap) -> Self {
        let bytes = map.digests.iter().flat_map(|digest| digest.0).collect::<Vec<_>>();
        Self { digests: None, base64: Some(BASE64.encode(bytes)), counts: map.counts }
    }
}

impl TryFrom<Written> for RowMap {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let bytes = match (written.base64, written.digests) {
            (Some(text), None) => BASE64.decode(text).ok(),
            (None, Some(text)) => from_hex(&text),
            _ => None,
        };
        let bytes = bytes.ok_or("the digests of rows are written in one way")?;
        let (digests, rest) = bytes.as_chunks::<BYTES>();
        if !rest.is_empty() {
            return Err("a digest of a row is cut");
        }
        let digests = digests.iter().map(|bytes| RowDigest(*bytes)).collect();
        Ok(Self { digests, counts: written.counts })
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(16 * digit(*high)? + digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

impl RowMap {
    /// The map of rows with these digests; `counts` is by output port, by row.
    pub fn new(digests: &[RowDigest], counts: Vec<Vec<u32>>) -> Self {
        Self { digests: digests.to_vec(), counts }
    }

    /// The digests of the input rows, in order.
    pub fn digests(&self) -> impl Iterator<Item = RowDigest> + '_ {
        self.digests.iter().copied()
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
        let rows = self.digests.len();
        let sum = |counts: &[u32]| counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        self.counts.len() == outputs.len()
            && self.counts.iter().zip(outputs).all(|(counts, output)| match output {
                Some(there) => counts.len() == rows && sum(counts) == *there,
                // An artifact has no counts, a table without rows no file.
                None => counts.is_empty() || (counts.len() == rows && sum(counts) == 0),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BinaryArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray,
        MapBuilder, StringArray, StringBuilder, StructArray, TimestampMicrosecondArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Field};

    use super::*;

    /// Lists of texts.
    fn lists(lists: &[Option<&[Option<&str>]>]) -> ArrayRef {
        let item = Arc::new(Field::new("item", DataType::Utf8, true));
        let lengths = lists.iter().map(|list| list.map_or(0, <[_]>::len));
        let texts: StringArray =
            lists.iter().flatten().flat_map(|list| list.iter().copied()).collect();
        let nulls = lists.iter().map(Option::is_some).collect::<Vec<_>>();
        let offsets = OffsetBuffer::from_lengths(lengths);
        Arc::new(ListArray::new(item, offsets, Arc::new(texts), Some(nulls.into())))
    }

    fn structs(x: &[&str], y: &[&str]) -> ArrayRef {
        let column = |texts: &[&str]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
        let field = |name: &str| Arc::new(Field::new(name, DataType::Utf8, true));
        Arc::new(StructArray::from(vec![(field("x"), column(x)), (field("y"), column(y))]))
    }

    fn maps(keys: &[&[&str]]) -> ArrayRef {
        let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for keys in keys {
            for key in *keys {
                builder.keys().append_value(key);
                builder.values().append_value("v");
            }
            builder.append(true).expect("keys and values");
        }
        Arc::new(builder.finish())
    }

    /// Values that look alike, and some that cannot be printed at all.
    #[test]
    fn rows_with_different_values_have_different_digests() {
        let columns: Vec<ArrayRef> = vec![
            lists(&[
                Some(&[Some("a, b")]),
                Some(&[Some("a"), Some("b")]),
                Some(&[]),
                Some(&[Some("")]),
                Some(&[None]),
                None,
            ]),
            structs(&["1, y: 2", "1"], &["", "2, y: "]),
            maps(&[&["a"], &["a", "b"], &[]]),
            Arc::new(StringArray::from(vec![None, Some(""), Some("null"), Some("a"), Some("a ")])),
            Arc::new(Float64Array::from(vec![
                Some(0.0),
                Some(-0.0),
                Some(f64::NAN),
                None,
                Some(1.0),
            ])),
            Arc::new(Int64Array::from(vec![9_007_199_254_740_992, 9_007_199_254_740_993])),
            Arc::new(Date32Array::from(vec![i32::MAX, i32::MAX - 1, i32::MIN])),
            Arc::new(TimestampMicrosecondArray::from(vec![0, 1]).with_timezone("Europe/Berlin")),
            Arc::new(Decimal128Array::from(vec![10, 100])),
            Arc::new(BinaryArray::from_vec(vec![b"\xff", b"\xff\xff", b""])),
        ];
        for column in columns {
            let kind = column.data_type().to_string();
            let rows = RecordBatch::try_from_iter([("c", column)]).expect("one column");
            let digests = row_digests(&rows).expect("every type has an order");
            let distinct: HashSet<_> = digests.iter().collect();
            assert_eq!(distinct.len(), rows.num_rows(), "{kind}");
        }
    }

    /// A value of another type or name is another value, and the same one is the same wherever it stands.
    #[test]
    fn digests_are_of_names_types_and_values() {
        let int: ArrayRef = Arc::new(Int64Array::from(vec![7, 1, 7]));
        let float: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
        let digests = |name: &str, column: &ArrayRef| {
            let rows = RecordBatch::try_from_iter([(name, Arc::clone(column))]).expect("a column");
            row_digests(&rows).expect("plain values")
        };
        let ints = digests("n", &int);
        assert_eq!(ints[0], ints[2]);
        let all = [ints[1], digests("n", &float)[0], digests("n", &text)[0], digests("m", &int)[1]];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

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
        // Of one row less and of one more.
        for count in [1, 3] {
            let digests = map.digests.iter().copied().cycle().take(count).collect();
            assert!(!RowMap { digests, ..map.clone() }.fits(&outputs), "{count}");
        }
        let counts = |counts| RowMap { counts, ..map.clone() };
        assert!(!counts(vec![vec![2, 1, 0], vec![0, 3], vec![]]).fits(&outputs));
        assert!(!counts(vec![vec![3], vec![0, 3], vec![]]).fits(&outputs));
        // A table without rows has no file.
        assert!(counts(vec![vec![2, 1], vec![0, 3], vec![0, 0]]).fits(&outputs));
        assert!(!counts(vec![vec![2, 1], vec![0, 3], vec![0, 1]]).fits(&outputs));
    }

    #[test]
    fn it_is_written_in_base64_and_read_in_hexadecimal_too() {
        let (_, map) = map();
        let written = serde_json::to_string(&map).expect("plain values");
        let base64 = "MDEyMzQ1Njc4OWFi/v7+/v7+/v7+/v7+";
        let counts = r#""counts":[[2,1],[0,3],[]]"#;
        assert_eq!(written, format!(r#"{{"base64":"{base64}",{counts}}}"#));
        let read =
            |digests: &str| serde_json::from_str::<RowMap>(&format!("{{{digests},{counts}}}")).ok();
        let hex = format!("303132333435363738396162{}", "fe".repeat(BYTES));
        assert_eq!(read(&format!(r#""base64":"{base64}""#)), Some(map.clone()));
        assert_eq!(read(&format!(r#""digests":"{hex}""#)), Some(map));
        for wrong in [
            format!(r#""base64":"{base64}","digests":"{hex}""#),
            format!(r#""base64":"{}""#, &base64[4..]),
            format!(r#""base64":"{}""#, &base64[1..]),
            format!(r#""base64":"{}""#, base64.replace('/', "_")),
            format!(r#""digests":"{}""#, &hex[1..]),
            format!(r#""digests":"{}""#, &hex[2..]),
            format!(r#""digests":"{}""#, hex.replace('f', "g")),
            r#""other":"""#.to_owned(),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
    }
}
