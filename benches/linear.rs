//! The matrix products on the CPU, GFLOP/s for the shapes of T5-small: the best of many, since what disturbs only slows down.
//!
//!     cargo bench -p paraloom-t5-kernels --bench linear -- [WORDS THAT A LINE HAS...]

#![expect(clippy::print_stdout, reason = "the result")]

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use paraloom_t5_kernels::{
    linear::{Rounding, forward},
    weight::{PackedWeight, matmul_packed},
};

const SHAPES: [[usize; 3]; 6] = [
    [8, 512, 512],
    [64, 512, 512],
    [64, 512, 2048],
    [64, 2048, 512],
    [64, 512, 32128],
    [2048, 512, 2048],
];

/// What multiplies `x`, `[rows, depth]`.
type Product<'a> = Box<dyn Fn(&[f32], &mut [MaybeUninit<f32>]) + 'a>;

/// The forms of a weight, `[columns, depth]`, by name.
fn forms(w: &[f32], depth: usize) -> [(&'static str, Product<'_>); 5] {
    let packed = |weight: PackedWeight| -> Product<'_> {
        Box::new(move |x, out| matmul_packed(x, &mut [(&weight, out)]))
    };
    let plain =
        |rounding| -> Product<'_> { Box::new(move |x, out| forward(x, depth, rounding, w, out)) };
    [
        ("packed f32", packed(PackedWeight::f32(w, depth))),
        ("packed bf16", packed(PackedWeight::bf16(w, depth))),
        ("packed int8", packed(PackedWeight::int8(w, depth))),
        ("training f32", plain(Rounding::None)),
        ("training bf16", plain(Rounding::Bf16)),
    ]
}

fn main() {
    // Cargo says `--bench`.
    let only: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    println!("| rows x in x out | weight | GFLOP/s |\n|---|---|---:|");
    for [rows, depth, columns] in SHAPES {
        let x: Vec<f32> = (0..rows * depth).map(|index| (index as f32).sin()).collect();
        let w: Vec<f32> = (0..columns * depth).map(|index| (index as f32).cos()).collect();
        let mut out = vec![MaybeUninit::uninit(); rows * columns];
        for (form, product) in forms(&w, depth) {
            let name = format!("{rows} x {depth} x {columns} | {form}");
            if !only.iter().all(|word| name.contains(word)) {
                continue;
            }
            let mut time = || {
                let start = Instant::now();
                product(&x, &mut out);
                std::hint::black_box(&out);
                start.elapsed()
            };
            let enough = Instant::now() + Duration::from_secs(1);
            let mut best = Duration::MAX;
            while Instant::now() < enough {
                best = best.min(time());
            }
            let operations = (2 * rows * depth * columns) as f64;
            println!("| {name} | {:.0} |", operations / best.as_secs_f64() / 1e9);
        }
    }
}
