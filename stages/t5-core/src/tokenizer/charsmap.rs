//! A charsmap: SentencePiece's table of character sequences and what they become, as a trie in one array and a text.
//!
//! The library that applies it follows the numbers in it without looking, so they are checked before it sees them.

/// Lowest bit of a unit that says that a key ends there.
const LEAF: usize = 1 << 8;
/// Marks a unit that holds a value; never equal to the label of a byte.
const VALUE: usize = 1 << 31;

/// Refuses a table that points outside of itself.
pub(super) fn check(table: &[u8]) -> Result<(), &'static str> {
    let cut_short = "its normalisation table is cut short";
    let (size, rest) = table.split_first_chunk::<4>().ok_or(cut_short)?;
    let (trie, text) =
        rest.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or(cut_short)?;
    let (units, []) = trie.as_chunks::<4>() else { return Err(cut_short) };
    let text = std::str::from_utf8(text).map_err(|_| "its normalisation table is not UTF-8")?;
    Trie { units: units.iter().map(|unit| u32::from_le_bytes(*unit) as usize).collect() }
        .check(text)
}

/// A double array: the child of a state for a byte stands at the state's place, exclusive-or the byte.
struct Trie {
    units: Vec<usize>,
}

impl Trie {
    /// Visits every state that can be reached.
    fn check(&self, text: &str) -> Result<(), &'static str> {
        let astray = "its normalisation table points outside of itself";
        let root = *self.units.first().ok_or("its normalisation table is empty")?;
        let children = Children::of(&self.units);
        let mut seen = vec![false; self.units.len()];
        let mut open = vec![offset(root)];
        while let Some(state) = open.pop() {
            // A lookup reads the child of any byte before it sees whether there is one.
            if state | 0xff >= self.units.len() {
                return Err(astray);
            }
            if std::mem::replace(&mut seen[state], true) {
                continue;
            }
            for child in children.of_state(state) {
                let unit = self.units[child];
                let next = child ^ offset(unit);
                if unit & LEAF != 0 {
                    let value = *self.units.get(next).ok_or(astray)? & (VALUE - 1);
                    if !text.is_char_boundary(value) {
                        return Err(astray);
                    }
                }
                open.push(next);
            }
        }
        Ok(())
    }
}

/// The children of every state. Each unit names the byte that leads to it, and so its state: to look at every unit once is much
/// faster than to look for every byte at every state.
struct Children {
    /// The last child of each state, and for each child the one before it; the units' number where there is none.
    last: Vec<usize>,
    previous: Vec<usize>,
}

impl Children {
    fn of(units: &[usize]) -> Self {
        let none = units.len();
        let mut children = Self { last: vec![none; none], previous: vec![none; none] };
        for (child, unit) in units.iter().enumerate() {
            let (state, is_value) = (child ^ (unit & 0xff), unit & VALUE != 0);
            // Zero is no byte of a key.
            if !is_value && state != child && state < none {
                children.previous[child] = std::mem::replace(&mut children.last[state], child);
            }
        }
        children
    }

    fn of_state(&self, state: usize) -> impl Iterator<Item = usize> {
        let there = |place: usize| (place < self.last.len()).then_some(place);
        std::iter::successors(there(self.last[state]), move |child| there(self.previous[*child]))
    }
}

/// How far a state's children lie from its own unit.
fn offset(unit: usize) -> usize {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}

/// The bytes of base64 text, as tokenizer.json holds a table.
pub(super) fn from_base64(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err("its normalisation table is not base64"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A table that only knows `byte`, which becomes the text that begins at `value`.
    pub(in crate::tokenizer) fn table(byte: u8, value: u32, text: &str) -> Vec<u8> {
        let (label, shift) = (usize::from(byte), 256 ^ 0x80);
        let mut units = vec![0u32; 512];
        // The root's children lie around 256, and the value of the one child in the block before it.
        units[0] = 256 << 10;
        units[256 ^ label] = shift << 10 | LEAF as u32 | u32::from(byte);
        let leaf = 256 ^ label ^ shift as usize;
        units[leaf] = value | VALUE as u32;
        let mut table = 2048u32.to_le_bytes().to_vec();
        table.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        table.extend(text.as_bytes());
        table
    }

    #[test]
    fn a_sound_table_passes_and_is_applied() {
        let table = table(b'a', 0, "bc\0");
        assert_eq!(check(&table), Ok(()));
        let applied = tokenizers::normalizers::Precompiled::from(&table).expect("it is sound");
        assert_eq!(applied.normalize_string("xay"), "xbcy");
    }

    #[test]
    fn what_points_astray_is_refused() {
        let astray = Err("its normalisation table points outside of itself");
        assert_eq!(check(&table(b'a', 9, "bc\0")), astray);
        assert_eq!(check(&table(b'a', 1, "ä\0")), astray);
        let mut outside = table(b'a', 0, "bc\0");
        outside[4..8].copy_from_slice(&(512u32 << 10).to_le_bytes());
        assert_eq!(check(&outside), astray);
        assert_eq!(check(&u32::MAX.to_le_bytes()), Err("its normalisation table is cut short"));
        assert_eq!(check(&[0; 4]), Err("its normalisation table is empty"));
        assert_eq!(check(b""), Err("its normalisation table is cut short"));
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        assert_eq!(from_base64("aGVsbG8="), Ok(b"hello".to_vec()));
        assert_eq!(from_base64("aGVsbG8"), Ok(b"hello".to_vec()));
        assert_eq!(from_base64(""), Ok(Vec::new()));
        assert!(from_base64("a b").is_err());
    }
}
