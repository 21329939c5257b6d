//! `kernels::linear` on the CPU, GFLOP/s for the shapes of T5-small: the best of many, since what disturbs only slows down.
//!
//!     cargo bench -p paraloom-stages-t5 --bench linear -- [WORDS THAT A LINE HAS...]

#![expect(clippy::print_stdout, reason = "the result")]

use std::time::{Duration, Instant};

use burn::tensor::{Distribution, Tensor};
use paraloom_stages_t5::{
    device::cpu_device,
    kernels::{Order, linear, reordered},
};

const SHAPES: [[usize; 3]; 6] = [
    [8, 512, 512],
    [64, 512, 512],
    [64, 512, 2048],
    [64, 2048, 512],
    [64, 512, 32128],
    [2048, 512, 2048],
];
const ORDERS: [Order; 5] =
    [Order::Panels, Order::HalfPanels, Order::BytePanels, Order::Plain, Order::Halves];

fn main() {
    // Cargo says `--bench`.
    let only: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    println!("| rows x in x out | order | GFLOP/s |\n|---|---|---:|");
    for ([rows, depth, columns], order) in
        SHAPES.iter().flat_map(|shape| ORDERS.map(|order| (shape, order)))
    {
        let name = format!("{rows} x {depth} x {columns} | {order:?}");
        if !only.iter().all(|word| name.contains(word)) {
            continue;
        }
        let device = cpu_device();
        let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let x = random([*rows, *depth]);
        let w = reordered(&random([*columns, *depth]), order);
        let time = || {
            let start = Instant::now();
            std::hint::black_box(linear(x.clone(), &w, order));
            start.elapsed()
        };
        let enough = Instant::now() + Duration::from_secs(1);
        let best = std::iter::repeat_with(time).take_while(|_| Instant::now() < enough).min();
        let operations = (2 * rows * depth * columns) as f64;
        let speed = operations / best.unwrap_or(Duration::MAX).as_secs_f64() / 1e9;
        println!("| {name} | {speed:.0} |");
    }
}
