//! Scoring against a closed set of labels: the exact probability of each, without writing anything.
//!
//! The probability of a label is the product over its tokens, without the end, normalised over the set. The labels
//! form a prefix tree, and every inner node costs one decoder step per row. At the root only the output rows that some
//! label starts with are computed, since what they are divided by is the same for all labels and cancels.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use paraloom_t5_kernels::peaks::Peaks;
use rayon::prelude::*;

use crate::{
    Error, Result,
    batch::in_batches,
    model::{InferenceModel, Lane, Network, Sequences, Session, Weight},
    tokenizer::{Encoded, Tokenizer},
};

/// Rows that are scored side by side, where nothing else is said.
pub const BATCH: usize = 192;

/// A closed set of labels, as the tokens of a tokenizer.
#[derive(Debug, Clone)]
pub struct Labels {
    names: Vec<String>,
    tree: Node,
}

/// A node of the prefix tree.
#[derive(Debug, Clone, Default)]
struct Node {
    /// The label that ends here.
    label: Option<usize>,
    /// What comes next, by token.
    next: BTreeMap<u32, Node>,
}

impl Labels {
    /// The labels in the tokens of `tokenizer`.
    ///
    /// # Errors
    /// When there are fewer than two, or two have the same tokens, or one has none.
    pub fn new<S: AsRef<str>>(tokenizer: &Tokenizer, names: &[S]) -> Result<Self> {
        if names.len() < 2 {
            return Err(Error::Invalid("a label set has at least two labels".into()));
        }
        let mut tree = Node::default();
        for (index, name) in names.iter().enumerate() {
            let tokens = tokenizer.pieces(name.as_ref())?;
            let sequence = tokenizer.start().iter().chain(&tokens);
            let node = sequence.fold(&mut tree, |node, &token| node.next.entry(token).or_default());
            if tokens.is_empty() || node.label.replace(index).is_some() {
                let message = format!("the label `{}` has no tokens of its own", name.as_ref());
                return Err(Error::Tokenizer(message));
            }
        }
        Ok(Self { names: names.iter().map(|name| name.as_ref().to_owned()).collect(), tree })
    }

    /// The labels, in the order of the probabilities.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The labels of STS-B: `0.0`, `0.2`, up to `5.0`.
    ///
    /// # Errors
    /// When the tokenizer cannot tell them apart.
    pub fn stsb(tokenizer: &Tokenizer) -> Result<Self> {
        let names: Vec<String> =
            (0..=25).map(|step| format!("{:.1}", f64::from(step) / 5.0)).collect();
        Self::new(tokenizer, &names)
    }

    /// The labels of CoLA: `unacceptable`, `acceptable`.
    ///
    /// # Errors
    /// When the tokenizer cannot tell them apart.
    pub fn cola(tokenizer: &Tokenizer) -> Result<Self> {
        Self::new(tokenizer, &["unacceptable", "acceptable"])
    }
}

/// What stands before the sentences of [`stsb_prompt`].
const SENTENCE1: &str = "stsb sentence1:";
const SENTENCE2: &str = "sentence2:";

/// The prompt for the similarity of two sentences, as T5 was trained on.
pub fn stsb_prompt(sentence1: &str, sentence2: &str) -> String {
    format!("{SENTENCE1} {sentence1} {SENTENCE2} {sentence2}")
}

/// The prompt for the acceptability of a sentence, as T5 was trained on.
pub fn cola_prompt(sentence: &str) -> String {
    format!("cola sentence: {sentence}")
}

/// The tokens of [`stsb_prompt`], at most `max_tokens` and one of each sentence at least. Where they do not fit, the longer
/// sentence is cut and then both, so that neither is lost: a prompt cut at its end could be without the second.
///
/// # Errors
/// When the tokenizer cannot process a text.
pub fn encode_stsb(
    tokenizer: &Tokenizer,
    sentence1: &str,
    sentence2: &str,
    max_tokens: usize,
) -> Result<Encoded> {
    let whole = tokenizer.pieces(&stsb_prompt(sentence1, sentence2))?;
    if whole.len() < max_tokens {
        return Ok(tokenizer.ended(whole, max_tokens));
    }
    let (name1, name2) = (tokenizer.pieces(SENTENCE1)?, tokenizer.pieces(SENTENCE2)?);
    let (mut one, mut two) = (tokenizer.pieces(sentence1)?, tokenizer.pieces(sentence2)?);
    let room = max_tokens.saturating_sub(name1.len() + name2.len() + 1);
    let [first, second] = shares(room, [one.len(), two.len()]);
    one.truncate(first.max(1));
    two.truncate(second.max(1));
    let Encoded { ids, .. } = tokenizer.ended([name1, one, name2, two].concat(), usize::MAX);
    Ok(Encoded { ids, cut: true })
}

/// How many tokens two sentences of these lengths keep of `room`: the longer one gives first.
fn shares(room: usize, [one, two]: [usize; 2]) -> [usize; 2] {
    let half = room / 2;
    if one <= half {
        [one, room - one]
    } else if two <= half {
        [room - two, two]
    } else {
        [room - half, half]
    }
}

/// The probability of every label for every source (tokens ended by `</s>`), in the order of both.
///
/// # Errors
/// When a source does not fit the model, the model computes NaN for it, or `cancelled` says so between two batches.
pub fn probabilities<S: AsRef<[u32]> + Sync>(
    model: &InferenceModel,
    sources: &[S],
    labels: &Labels,
    batch_size: usize,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Vec<f64>>> {
    sources.iter().try_for_each(|source| model.config().check_ids(source.as_ref()))?;
    labels.tree.check(model)?;
    let lengths: Vec<usize> = sources.iter().map(|source| source.as_ref().len()).collect();
    in_batches(&model.device(), &lengths, batch_size, |batch| {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let packed = Sequences::new(batch.iter().map(|&index| sources[index].as_ref()));
        let logs = log_probabilities(model, packed, batch.len(), labels)?;
        let shares = |(logs, &row): (&Vec<f64>, _)| {
            normalise(logs).ok_or(Error::NotNumbers { row, what: "probabilities" })
        };
        logs.iter().zip(batch).map(shares).collect()
    })
}

/// A place in the tree for one row.
struct Visit<'a> {
    node: &'a Node,
    row: usize,
    lane: Lane,
    /// Log probability of the path so far.
    log: f64,
}

/// Positions that the nodes of a tree of labels take, more or less.
const POSITIONS: usize = 8;

/// Log probabilities of every label, up to a constant per row.
fn log_probabilities(
    model: &InferenceModel,
    sources: Sequences,
    rows: usize,
    labels: &Labels,
) -> Result<Vec<Vec<f64>>> {
    let start = model.config().decoder_start_token_id;
    let mut session = Session::new(model, sources, POSITIONS * rows);
    let mut logs = vec![vec![f64::NEG_INFINITY; labels.names.len()]; rows];
    let root = |row| Visit { node: &labels.tree, row, lane: Lane::new(row, start), log: 0.0 };
    let mut level: Vec<Visit<'_>> = (0..rows).map(root).collect();
    // At the root every label shares the normaliser, so it cancels; below, nodes have normalisers of their own.
    let mut whole = false;
    while !level.is_empty() {
        let mut lanes: Vec<Lane> = level.iter().map(|visit| visit.lane.clone()).collect();
        let decoded = session.step(&mut lanes);
        let edges = Edges::of(level.iter().map(|visit| visit.node), whole);
        let logits = edges.logits(session.network(), decoded)?;
        let mut next = Vec::new();
        for (index, (visit, lane)) in level.iter().zip(lanes).enumerate() {
            for (&token, node) in &visit.node.next {
                let log = visit.log + logits.log_probability(index, &edges, token);
                if let Some(label) = node.label {
                    logs[visit.row][label] = log;
                }
                if !node.next.is_empty() {
                    next.push(Visit { node, row: visit.row, lane: lane.follow(token), log });
                }
            }
        }
        level = next;
        whole = true;
    }
    Ok(logs)
}

/// The output rows that a level of the tree needs.
struct Edges {
    /// None for the whole vocabulary.
    tokens: Option<Vec<u32>>,
}

/// Logits of a level, one row per visit, and the normaliser of each row.
struct Logits {
    values: Vec<f32>,
    width: usize,
    normalisers: Vec<f64>,
}

impl Edges {
    fn of<'a>(nodes: impl Iterator<Item = &'a Node>, whole: bool) -> Self {
        if whole {
            return Self { tokens: None };
        }
        let mut tokens: Vec<u32> = nodes.flat_map(|node| node.next.keys().copied()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        Self { tokens: Some(tokens) }
    }

    fn logits(&self, network: &Network<'_, Weight>, decoded: Tensor<2>) -> Result<Logits> {
        let tensor = match &self.tokens {
            Some(tokens) => network.logits_of(decoded, tokens),
            None => network.logits(decoded),
        };
        let [_, width] = tensor.dims();
        let values = tensor
            .into_data()
            .try_to_vec::<f32>()
            .map_err(|error| Error::Weights(format!("{error:?}")))?;
        let normalisers = match &self.tokens {
            Some(_) => vec![0.0; values.len() / width],
            None => values.par_chunks_exact(width).map(normaliser).collect(),
        };
        Ok(Logits { values, width, normalisers })
    }
}

/// The logarithm of the sum of the exponentials of a row.
fn normaliser(logits: &[f32]) -> f64 {
    Peaks::of(logits).log_sum_exp(logits)
}

impl Logits {
    fn log_probability(&self, row: usize, edges: &Edges, token: u32) -> f64 {
        let column = match &edges.tokens {
            Some(tokens) => tokens.partition_point(|&other| other < token),
            None => token as usize,
        };
        f64::from(self.values[row * self.width + column]) - self.normalisers[row]
    }
}

impl Node {
    /// Refuses labels that the model's vocabulary does not have.
    fn check(&self, model: &InferenceModel) -> Result<()> {
        self.next.iter().try_for_each(|(&token, node)| {
            model.config().check_ids(&[token])?;
            node.check(model)
        })
    }
}

/// Probabilities that add up to 1; none if one of the logarithms is NaN, or all are infinite.
fn normalise(logs: &[f64]) -> Option<Vec<f64>> {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| (log - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    total.is_finite().then(|| weights.into_iter().map(|weight| weight / total).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_has_no_probabilities() {
        let (infinite, nan) = (f64::INFINITY, f64::NAN);
        assert_eq!(normalise(&[-1.0, -infinite]), Some(vec![1.0, 0.0]));
        assert_eq!(normalise(&[-1000.0, -1000.0]), Some(vec![0.5, 0.5]));
        for logs in [[nan, -1.0], [-1.0, nan], [nan, nan], [infinite, -1.0], [-infinite; 2]] {
            assert_eq!(normalise(&logs), None, "{logs:?}");
        }
    }

    #[test]
    fn the_longer_sentence_gives_first() {
        let cases = [
            ([2, 30], [2, 8]),
            ([30, 2], [8, 2]),
            ([30, 30], [5, 5]),
            ([6, 30], [5, 5]),
            ([5, 30], [5, 5]),
            ([0, 30], [0, 10]),
        ];
        for (lengths, kept) in cases {
            assert_eq!(shares(10, lengths), kept, "{lengths:?}");
        }
        assert_eq!(shares(11, [30, 30]), [6, 5]);
        assert_eq!(shares(0, [30, 30]), [0, 0]);
    }

    #[test]
    fn a_prompt_that_does_not_fit_keeps_both_sentences() -> Result<()> {
        let texts = ["stsb sentence1: sentence2: a dog, a cat 0123456789", "rain or sun."];
        let tokenizer = Tokenizer::train(texts, &["stsb", "sentence1:", "sentence2:"], 60)?;
        let (long, other) = ("a dog, a cat ".repeat(40), "rain or sun. ".repeat(40));
        let encode = |one: &str, two: &str, limit| encode_stsb(&tokenizer, one, two, limit);
        for (one, two) in [("a dog", &*long), (&*long, "a dog"), (&long, &other)] {
            let whole = tokenizer.encode(&stsb_prompt(one, two), None)?;
            for limit in [whole.len(), whole.len() + 1, 512] {
                let fits = limit >= whole.len();
                let encoded = encode(one, two, limit)?;
                assert_eq!(encoded.cut, !fits);
                assert!(!fits || encoded.ids == whole, "what fits is as it was");
            }
            let cut = encode(one, two, 40)?;
            assert!(cut.cut && cut.ids.len() == 40, "{cut:?}");
            let text = tokenizer.decode(&cut.ids)?;
            let (first, second) = text.split_once(" sentence2: ").expect("the second is there");
            assert!(first.starts_with("stsb sentence1: "), "{text}");
            assert!(one.starts_with(&first["stsb sentence1: ".len()..]), "{text}");
            assert!(!second.is_empty() && two.starts_with(second), "{text}");
        }
        // Two different second sentences are told apart, however long the first is.
        assert_ne!(encode(&long, "a dog", 40)?, encode(&long, "a cat", 40)?);
        Ok(())
    }
}
