//! A map node takes a part in slices, where that suits its stage: what a text stage reads in a blink keeps T5 busy for
//! minutes, and what is computed together is committed together.

use paraloom_pipeline::Node;
use paraloom_store::{Digest, PartFile};

/// Some rows of a part, which a stage is given at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Names it in the records of what came of it.
    pub(crate) digest: Digest,
    pub(crate) start: u64,
    pub(crate) rows: u64,
}

/// The slices of a part; of one that is not too long only itself.
pub(crate) fn slices(node: &Node, part: &PartFile) -> impl Iterator<Item = Slice> + use<> {
    slices_of(node.rows_at_once(), *part)
}

fn slices_of(at_once: Option<usize>, part: PartFile) -> impl Iterator<Item = Slice> {
    let at_once = at_once.map_or(part.rows, |rows| rows as u64).clamp(1, part.rows.max(1));
    (0..part.rows.max(1)).step_by(usize::try_from(at_once).unwrap_or(usize::MAX)).map(
        move |start| {
            let rows = at_once.min(part.rows.saturating_sub(start));
            let digest = if rows == part.rows {
                part.digest
            } else {
                Digest::of(
                    format!("rows {start} to {} of {}", start + rows, part.digest).as_bytes(),
                )
            };
            Slice { digest, start, rows }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_only_where_it_is_too_long() {
        let cut = |rows: u64, at_once: Option<usize>| -> Vec<(u64, u64, bool)> {
            let part = PartFile { digest: Digest::of(b"part"), bytes: 1, rows };
            let slices: Vec<_> = slices_of(at_once, part).collect();
            let mut digests: Vec<_> = slices.iter().map(|slice| slice.digest).collect();
            digests.dedup();
            assert_eq!(digests.len(), slices.len());
            let shown = |slice: &Slice| (slice.start, slice.rows, slice.digest == part.digest);
            slices.iter().map(shown).collect()
        };
        assert_eq!(cut(5, None), [(0, 5, true)]);
        assert_eq!(cut(5, Some(5)), [(0, 5, true)]);
        assert_eq!(cut(5, Some(9)), [(0, 5, true)]);
        assert_eq!(cut(5, Some(2)), [(0, 2, false), (2, 2, false), (4, 1, false)]);
        assert_eq!(cut(0, Some(2)), [(0, 0, true)]);
    }
}
