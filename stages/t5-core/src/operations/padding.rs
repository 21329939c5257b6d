//! An attention plan for backends that need sequences of one length.
//!
//! Sequences are padded to the longest of the batch: padding queries attend to what others of their sequence do and are left out of the
//! result, padding keys are masked.

use super::{AttentionPlan, Keys, Segment};

/// Indices and masks; a backend moves them to its device, once for all layers.
#[derive(Debug)]
pub(super) struct Padding {
    pub(super) segments: usize,
    /// Lengths of the longest sequence.
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// The row of every query of the padded sequences, unless they are as they are.
    pub(super) padded_queries: Option<Vec<i64>>,
    /// Where the queries are among the padded ones.
    pub(super) real_queries: Option<Vec<i64>>,
    pub(super) padded_keys: KeyRows<Vec<i64>>,
    /// The bucket of every distance, `[segments or 1, queries, keys]`.
    pub(super) buckets: Option<Vec<i64>>,
    pub(super) hidden: Option<Hidden>,
}

/// The rows of the keys.
#[derive(Debug)]
pub(super) enum KeyRows<R> {
    /// So many, in order.
    Run { first: usize, count: usize },
    /// These rows.
    Each(R),
}

impl<R> KeyRows<R> {
    pub(super) fn map<S>(self, f: impl FnOnce(R) -> S) -> KeyRows<S> {
        match self {
            Self::Run { first, count } => KeyRows::Run { first, count },
            Self::Each(rows) => KeyRows::Each(f(rows)),
        }
    }
}

/// The mask, `[segments, 1, queries or 1, keys]`.
#[derive(Debug)]
pub(super) struct Hidden {
    pub(super) shape: [usize; 4],
    pub(super) is_hidden: Vec<bool>,
}

impl Hidden {
    /// What is added to scores: `value` where masked.
    pub(super) fn mask(&self, value: f32) -> Vec<f32> {
        self.is_hidden.iter().map(|&is_hidden| if is_hidden { value } else { 0.0 }).collect()
    }
}

impl Padding {
    pub(super) fn new(plan: &AttentionPlan) -> Self {
        let longest =
            |length: fn(&Segment) -> usize| plan.segments.iter().map(length).max().unwrap_or(0);
        let queries = longest(|segment| segment.queries.len());
        let keys = longest(|segment| segment.keys.len());
        let is_even = plan.segments.iter().all(|segment| segment.queries.len() == queries);
        let segments = plan.segments.len();
        Self {
            segments,
            queries,
            keys,
            padded_queries: (!is_even).then(|| padded_queries(plan, queries)),
            real_queries: (!is_even).then(|| real_queries(plan, queries)),
            padded_keys: match run_of_keys(plan, keys) {
                Some(first) => KeyRows::Run { first, count: segments * keys },
                None => KeyRows::Each(padded_keys(plan, keys)),
            },
            buckets: buckets(plan, queries, keys),
            hidden: hidden(plan, queries, keys),
        }
    }
}

fn padded_queries(plan: &AttentionPlan, longest: usize) -> Vec<i64> {
    let row = |segment: &Segment, query: usize| {
        (segment.queries.start + query.min(segment.queries.len() - 1)) as i64
    };
    let segments = plan.segments.iter();
    segments.flat_map(|segment| (0..longest).map(move |query| row(segment, query))).collect()
}

fn real_queries(plan: &AttentionPlan, longest: usize) -> Vec<i64> {
    let lengths = plan.segments.iter().map(|segment| segment.queries.len());
    let rows = |(number, length): (usize, usize)| number * longest..number * longest + length;
    lengths.enumerate().flat_map(rows).map(|row| row as i64).collect()
}

/// The first row of the keys, if they are all there is from it on, sequence by sequence of one length.
fn run_of_keys(plan: &AttentionPlan, longest: usize) -> Option<usize> {
    let start = |segment: &Segment| match &segment.keys {
        Keys::Run(run) if run.len() == longest => Some(run.start),
        _ => None,
    };
    let first = plan.segments.first().and_then(start)?;
    let mut places = (first..).step_by(longest.max(1)).zip(plan.segments.iter());
    places.all(|(place, segment)| start(segment) == Some(place)).then_some(first)
}

fn padded_keys(plan: &AttentionPlan, longest: usize) -> Vec<i64> {
    let row =
        |segment: &Segment, key: usize| segment.keys.row(key.min(segment.keys.len() - 1)) as i64;
    let segments = plan.segments.iter();
    segments.flat_map(|segment| (0..longest).map(move |key| row(segment, key))).collect()
}

fn buckets(plan: &AttentionPlan, queries: usize, keys: usize) -> Option<Vec<i64>> {
    let buckets = plan.buckets.as_ref()?;
    let all = buckets.all();
    let last = all.len() as i64 - 1;
    let bucket = |query: usize, key: usize| {
        let at = buckets.zero() as i64 + key as i64 - query as i64;
        i64::from(all[at.clamp(0, last) as usize])
    };
    let of_position = |position: usize| {
        (position..position + queries)
            .flat_map(move |query| (0..keys).map(move |key| bucket(query, key)))
    };
    Some(distinct_positions(plan).into_iter().flat_map(of_position).collect())
}

/// The position of each segment's first query, or the one that all have.
fn distinct_positions(plan: &AttentionPlan) -> Vec<usize> {
    let mut positions: Vec<_> = plan.segments.iter().map(|segment| segment.position).collect();
    if positions.iter().all(|position| *position == positions[0]) {
        positions.truncate(1);
    }
    positions
}

fn hidden(plan: &AttentionPlan, queries: usize, keys: usize) -> Option<Hidden> {
    if plan.segments.iter().all(|segment| segment.keys.len() == keys) && !plan.causal {
        return None;
    }
    let queries = if plan.causal { queries } else { 1 };
    let hides = |segment: &Segment, query: usize, key: usize| {
        key >= segment.keys.len() || plan.causal && key > segment.position + query
    };
    let is_hidden = plan.segments.iter().flat_map(|segment| {
        (0..queries).flat_map(move |query| (0..keys).map(move |key| hides(segment, query, key)))
    });
    let is_hidden = is_hidden.collect();
    Some(Hidden { shape: [plan.segments.len(), 1, queries, keys], is_hidden })
}
