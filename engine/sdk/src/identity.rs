//! Row identity: every row has a stable `_id`, and knows the `_parent` it came from.
//!
//! An id is the first 96 bits of a BLAKE3 hash, written as 24 hexadecimal digits. It
//! depends on content, never on position, so that rows keep their ids (and with them
//! their random draws) when a corpus grows or is reordered.

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};

use crate::{Error, Result};

/// Name of the column that holds a row's id.
pub const ID: &str = "_id";
/// Name of the column that holds the id of the row it was made from.
pub const PARENT: &str = "_parent";

/// The field of the `_id` column.
pub fn id_field() -> Field {
    Field::new(ID, DataType::Utf8, false)
}

/// The field of the `_parent` column.
pub fn parent_field() -> Field {
    Field::new(PARENT, DataType::Utf8, false)
}

/// The `_id` column of `rows`; every table that the engine hands over has one.
pub fn ids(rows: &RecordBatch) -> Result<&StringArray> {
    rows.column_by_name(ID)
        .and_then(|column| column.as_any().downcast_ref::<StringArray>())
        .ok_or_else(|| Error::schema("the rows have no `_id` column"))
}

/// Id of candidate number `candidate` made from the row `parent`.
pub fn child_id(parent: &str, salt: &str, candidate: u32) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("paraloom 2026 row id: child");
    for part in [parent.as_bytes(), salt.as_bytes(), &candidate.to_le_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    short_hex(&hasher.finalize())
}

/// The seed of one row: depends on the node's seed and the row's id, on nothing else,
/// so rows can be computed anywhere, in any order, any number of times.
pub fn row_seed(node_seed: u64, id: &str) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("paraloom 2026 row seed");
    hasher.update(&node_seed.to_le_bytes());
    hasher.update(id.as_bytes());
    let mut seed = [0; 8];
    hasher.finalize_xof().fill(&mut seed);
    u64::from_le_bytes(seed)
}

fn short_hex(hash: &blake3::Hash) -> String {
    hash.to_hex()[..24].to_owned()
}
