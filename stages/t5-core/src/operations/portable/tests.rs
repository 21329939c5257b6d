//! Every operation against the fused one on the CPU, with its gradients, on random inputs.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use paraloom_t5_kernels::{buckets::Buckets, dropout::Dropout, elementwise::Activation};
use proptest::prelude::*;

use super::super::{AttentionPlan, Keys, LossScale, Rounding, Segment, fused, update};
use crate::{device::cpu_device, random::Stream};

/// Largest difference, relative to the largest number (or to one).
const BAR: f32 = 2e-5;

fn random(seed: u64, rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    let mut stream = Stream::new(seed);
    let values: Vec<f32> = (0..rows * columns).map(|_| stream.normal() as f32).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().expect("it is of f32")
}

/// Random inputs of these shapes.
fn inputs<const N: usize>(seed: u64, shapes: [[usize; 2]; N]) -> [Tensor<2>; N] {
    let mut number = seed;
    shapes.map(|[rows, columns]| {
        number = number.wrapping_add(1);
        random(number, rows, columns, &cpu_device())
    })
}

/// The result of an operation on random inputs of these shapes, and the gradients of a random sum of it.
fn computed<const N: usize, const D: usize>(
    seed: u64,
    shapes: [[usize; 2]; N],
    operation: impl Fn([Tensor<2>; N]) -> Tensor<D>,
) -> Vec<Vec<f32>> {
    let inputs = inputs(seed, shapes).map(|input| Tensor::from_inner(input).require_grad());
    let output = operation(inputs.clone());
    let count = output.shape().num_elements();
    let factors = Tensor::from_inner(random(seed, 1, count, &cpu_device()));
    let mut gradients = (output.clone().reshape([1, count]) * factors).sum().backward();
    let mut computed = vec![values(&output)];
    computed.extend(inputs.iter().map(|input| {
        let gradient = input.grad_remove(&mut gradients);
        values(&gradient.expect("every input has a part in the result"))
    }));
    computed
}

#[track_caller]
fn same(ours: &[Vec<f32>], theirs: &[Vec<f32>]) {
    assert_eq!(ours.len(), theirs.len());
    for (number, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(ours.len(), theirs.len());
        let size = theirs.iter().fold(1.0f32, |size, x| size.max(x.abs()));
        for (index, (our, their)) in ours.iter().zip(theirs).enumerate() {
            // Not the other way round, which numbers that are none would pass.
            let is_near = (our - their).abs() <= BAR * size;
            assert!(is_near, "number {index} of {number} is {our}, not {their}");
        }
    }
}

/// Dropout or none.
fn dropout() -> impl Strategy<Value = Option<Dropout>> {
    prop_oneof![Just(None), any::<u64>().prop_map(|key| Some(Dropout::new(0.3, key)))]
}

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::Relu),
        Just(Activation::Gelu),
        Just(Activation::GeluErf),
        Just(Activation::Silu),
    ]
}

/// Sequences whose queries attend to themselves or to others, as in training.
fn plan() -> impl Strategy<Value = AttentionPlan> {
    let lengths = prop::collection::vec((1usize..7, 1usize..9), 1..5);
    (lengths, 1usize..4, any::<bool>(), any::<bool>()).prop_map(
        |(lengths, heads, is_causal, is_self)| {
            let (mut query, mut key) = (0, 0);
            let segment = |(queries, keys): (usize, usize)| {
                let queries = if is_self { keys } else { queries };
                let segment = Segment {
                    queries: query..query + queries,
                    keys: Keys::Run(key..key + keys),
                    position: 0,
                };
                (query, key) = (query + queries, key + keys);
                segment
            };
            let segments: Vec<_> = lengths.into_iter().map(segment).collect();
            let buckets = is_self.then(|| Arc::new(Buckets::new(9, !is_causal, 8, 16)));
            AttentionPlan::new(heads, segments, is_causal, buckets)
        },
    )
}

/// Sequences of one query, whose keys are rows from anywhere in 20, as in decoding.
fn decoding() -> impl Strategy<Value = AttentionPlan> {
    let rows = prop::collection::vec(prop::collection::vec(0u32..20, 1..9), 1..5);
    (rows, 1usize..4).prop_map(|(rows, heads)| {
        let segment = |(query, rows): (usize, Vec<u32>)| Segment {
            queries: query..query + 1,
            position: rows.len() - 1,
            keys: Keys::Rows(rows),
        };
        let segments: Vec<_> = rows.into_iter().enumerate().map(segment).collect();
        AttentionPlan::new(heads, segments, false, Some(Arc::new(Buckets::new(9, false, 8, 16))))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rows_of_a_table(seed: u64, columns in 1usize..20, ids in prop::collection::vec(0u32..7, 1..20)) {
        let shapes = [[7, columns]];
        same(
            &computed(seed, shapes, |[table]| super::embed(&table, &ids)),
            &computed(seed, shapes, |[table]| fused::embed(&table, &ids)),
        );
    }

    #[test]
    fn the_norm(seed: u64, rows in 1usize..9, columns in 1usize..40) {
        // Large enough to matter: 1e-6 could be left out unseen, and magnifies rounding where all of a row is near zero.
        let (shapes, eps) = ([[rows, columns], [1, columns]], 1e-2);
        same(
            &computed(seed, shapes, |[x, w]| super::norm(x, &w, eps)),
            &computed(seed, shapes, |[x, w]| fused::norm(x, &w, eps)),
        );
    }

    #[test]
    fn linear_layers(seed: u64, rows in 1usize..9, depth in 1usize..40, width in 1usize..40) {
        let shapes = [[rows, depth], [width, depth]];
        same(
            &computed(seed, shapes, |[x, w]| super::linear(x, &w, Rounding::None)),
            &computed(seed, shapes, |[x, w]| fused::linear(x, &w, Rounding::None)),
        );
    }

    #[test]
    fn activations(
        seed: u64, rows in 1usize..9, columns in 1usize..40, activation in activation(), dropout in dropout(),
    ) {
        let shape = [rows, columns];
        same(
            &computed(seed, [shape], |[x]| super::activate(x, None, activation, dropout)),
            &computed(seed, [shape], |[x]| fused::activate(x, None, activation, dropout)),
        );
        same(
            &computed(seed, [shape; 2], |[x, gate]| super::activate(x, Some(gate), activation, dropout)),
            &computed(seed, [shape; 2], |[x, gate]| fused::activate(x, Some(gate), activation, dropout)),
        );
    }

    #[test]
    fn dropout_drops_the_same(seed: u64, rows in 1usize..9, columns in 1usize..40, key: u64) {
        let dropout = Dropout::new(0.3, key);
        let shape = [rows, columns];
        same(
            &computed(seed, [shape], |[x]| super::drop(x, Some(dropout))),
            &computed(seed, [shape], |[x]| fused::drop(x, dropout)),
        );
        same(
            &computed(seed, [shape; 2], |[residual, x]| residual + super::drop(x, Some(dropout))),
            &computed(seed, [shape; 2], |[residual, x]| fused::add_dropped(residual, x, dropout)),
        );
    }

    #[test]
    fn attention(seed: u64, d_kv in 1usize..5, plan in plan()) {
        let plan = Arc::new(plan);
        let width = plan.heads * d_kv;
        let rows = |length: fn(&Segment) -> usize| plan.segments.iter().map(length).sum();
        let q = [rows(|segment| segment.queries.len()), width];
        let kv = [rows(|segment| segment.keys.len()), width];
        if plan.buckets.is_some() {
            let shapes = [q, kv, kv, [8, plan.heads]];
            same(
                &computed(seed, shapes, |[q, k, v, bias]| super::attend([q, k, v], Some(&bias), &plan)),
                &computed(seed, shapes, |[q, k, v, bias]| fused::attend([q, k, v], Some(&bias), &plan)),
            );
        } else {
            let shapes = [q, kv, kv];
            same(
                &computed(seed, shapes, |[q, k, v]| super::attend([q, k, v], None, &plan)),
                &computed(seed, shapes, |[q, k, v]| fused::attend([q, k, v], None, &plan)),
            );
        }
    }

    #[test]
    fn attention_in_decoding(seed: u64, d_kv in 1usize..5, plan in decoding()) {
        let plan = Arc::new(plan);
        let (width, kv) = (plan.heads * d_kv, [20, plan.heads * d_kv]);
        let [q, k, v, bias] = inputs(seed, [[plan.segments.len(), width], kv, kv, [8, plan.heads]]);
        let ours = super::attend([q.clone(), k.clone(), v.clone()], Some(&bias), &plan);
        let theirs = fused::attend([q, k, v], Some(&bias), &plan);
        same(&[values(&ours)], &[values(&theirs)]);
    }

    /// What is attended to with values of ones on the diagonal are the probabilities themselves.
    #[test]
    fn attention_with_dropout(seed: u64, length in 1usize..6, count in 1usize..4, key: u64) {
        let segment = |number: usize| {
            let run = number * length..(number + 1) * length;
            Segment { queries: run.clone(), keys: Keys::Run(run), position: 0 }
        };
        let segments: Vec<_> = (0..count).map(segment).collect();
        let plan = Arc::new(AttentionPlan::new(1, segments, false, None));
        let rows = count * length;
        let [q, k] = [seed, seed ^ 1].map(|seed| random(seed, rows, length, &cpu_device()));
        let diagonal = (0..rows * length).map(|at| f32::from(u8::from(at / length % length == at % length)));
        let v = TensorData::new(diagonal.collect::<Vec<_>>(), [rows, length]);
        let inputs = [q, k, Tensor::from_data(v, &cpu_device())];
        let dropout = Dropout::new(0.3, key);
        let whole = values(&super::attend(inputs.clone(), None, &plan));
        let dropped = values(&super::attend(inputs, None, &plan.with_dropout(Some(dropout))));
        let expected = whole.iter().zip(0..).map(|(p, index)| p * dropout.factor(index)).collect();
        same(&[dropped], &[expected]);
    }

    #[test]
    fn the_loss(seed: u64, targets in prop::collection::vec(0u32..30, 1..9), smoothing in prop_oneof![Just(0.0), Just(0.1f32)]) {
        let shapes = [[targets.len(), 30]];
        let scale = LossScale { factor: 0.25, smoothing };
        same(
            &computed(seed, shapes, |[logits]| super::cross_entropy(logits, &targets, scale)),
            &computed(seed, shapes, |[logits]| fused::cross_entropy(logits, &targets, scale)),
        );
    }

    #[test]
    fn optimizer_steps(
        seed: u64, rows in 1usize..9, columns in 1usize..40, step in 1u64..100, scale_parameter: bool,
        weight_decay in prop_oneof![Just(0.0), Just(0.1)], gradient_scale in 0.1f64..1.0,
    ) {
        let tensor = |number: u64, rows, columns| random(seed ^ number, rows, columns, &cpu_device());
        let mean = |number, rows, columns| tensor(number, rows, columns).square();
        let (weight, gradient) = (tensor(1, rows, columns), tensor(2, rows, columns));
        let learning_rate = 1e-2;
        let adam = update::AdamStep {
            learning_rate, betas: [0.9, 0.999], eps: 1e-8, weight_decay, step, gradient_scale,
        };
        let adafactor =
            update::AdafactorStep { learning_rate, scale_parameter, weight_decay, step, gradient_scale };

        let means = [tensor(3, rows, columns), mean(4, rows, columns)];
        let (mut ours, mut theirs) = (means.clone(), means);
        let our = super::update::adam(weight.clone(), gradient.clone(), &mut ours, adam);
        let their = update::adam(weight.clone(), gradient.clone(), &mut theirs, adam);
        same(&[values(&our), values(&ours[0]), values(&ours[1])],
             &[values(&their), values(&theirs[0]), values(&theirs[1])]);

        let means = [mean(3, 1, rows), mean(4, 1, columns)];
        let (mut ours, mut theirs) = (means.clone(), means);
        let our = super::update::adafactor(weight.clone(), gradient.clone(), &mut ours, adafactor);
        let their = update::adafactor(weight, gradient.clone(), &mut theirs, adafactor);
        same(&[values(&our), values(&ours[0]), values(&ours[1])],
             &[values(&their), values(&theirs[0]), values(&theirs[1])]);

        let (weight, gradient, mean) = (tensor(5, 1, columns), tensor(6, 1, columns), mean(7, 1, columns));
        let (mut ours, mut theirs) = (mean.clone(), mean);
        let our = super::update::adafactor_vector(weight.clone(), gradient.clone(), &mut ours, adafactor);
        let their = update::adafactor_vector(weight, gradient.clone(), &mut theirs, adafactor);
        same(&[values(&our), values(&ours)], &[values(&their), values(&theirs)]);

        let (our, their) = (super::update::square_sum(&gradient), update::square_sum(&gradient));
        prop_assert!((our - their).abs() <= 1e-5 * their);
    }
}
