//! What attends to what, in a batch whose sequences lie one after another without padding (the `cu_seqlens` of other kernels).

use std::{ops::Range, sync::Arc};

use super::{buckets::Buckets, dropout::Dropout};

/// The keys that the queries of a segment attend to.
#[derive(Debug, Clone)]
pub enum Keys {
    /// Consecutive rows.
    Run(Range<usize>),
    /// Rows of a KV cache, in the order of their positions.
    Rows(Vec<u32>),
}

impl Keys {
    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "a query attends to something")]
    pub fn len(&self) -> usize {
        match self {
            Self::Run(run) => run.len(),
            Self::Rows(rows) => rows.len(),
        }
    }

    /// The row of the key at `position`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in the CPU kernels, whose loops it is in")]
    pub fn row(&self, position: usize) -> usize {
        match self {
            Self::Run(run) => run.start + position,
            Self::Rows(rows) => rows[position] as usize,
        }
    }
}

/// Consecutive queries that attend to the same keys.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Rows of the queries.
    pub queries: Range<usize>,
    /// The keys, at positions 0, 1, ...
    pub keys: Keys,
    /// Position of the first query among the keys; used with a bias or a causal mask.
    pub position: usize,
}

/// One attention operation over a whole batch.
#[derive(Debug, Clone)]
pub struct AttentionPlan {
    /// Attention heads; the width of the inputs is a multiple.
    pub heads: usize,
    /// The segments; their queries follow each other without gaps from row 0.
    pub segments: Arc<[Segment]>,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// The buckets of the position bias, where there is one.
    pub buckets: Option<Arc<Buckets>>,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
}
