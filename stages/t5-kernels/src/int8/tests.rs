use super::super::matmul::tests::{matrix, written};
use super::*;

fn product(x: &[f32], w: &[f32], depth: usize) -> Vec<f32> {
    let panels = pack_int8_panels(w, depth);
    let count = x.len() / depth * (w.len() / depth);
    written(count, |out| matmul_int8(x, depth, &mut [(Rhs::Panels(&panels), out)]))
}

#[test]
fn errors_are_those_of_rounding() {
    for [rows, depth, columns] in
        [[1, 1, 1], [3, 5, 7], [13, 33, 50], [70, 64, 130], [300, 21, 95], [65, 2048, 33]]
    {
        let (x, w) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
        let products = product(&x, &w, depth);
        for (index, product) in products.iter().enumerate() {
            let (x, w) = (&x[index / columns * depth..], &w[index % columns * depth..]);
            let (mut exact, mut bound) = (0.0_f64, 1e-5_f64);
            for (x, w) in x[..depth].iter().zip(&w[..depth]) {
                exact += f64::from(x * w);
                // Half a step of each, which is 1 / 127 at most.
                let half = 0.5 / 127.0;
                bound += f64::from(x.abs() + w.abs()) * half + half * half;
            }
            let off = (f64::from(*product) - exact).abs();
            assert!(off <= bound, "{product} is off {exact} by {off}, more than {bound}");
        }
    }
}

#[test]
fn integers_are_multiplied_exactly_by_every_instruction() {
    let (rows, depth, columns) = (29, 38, 70);
    let whole = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|i| (i * seed % 255) as f32 - 127.0).collect()
    };
    let (mut x, mut w) = (whole(rows * depth, 89), whole(columns * depth, 53));
    // With a scale of 1 nothing is rounded.
    for row in x.chunks_mut(depth).chain(w.chunks_mut(depth)) {
        row[0] = 127.0;
    }
    let exact = |index: usize| -> f32 {
        let (x, w) = (&x[index / columns * depth..], &w[index % columns * depth..]);
        x[..depth].iter().zip(w).map(|(x, w)| *x as i64 * *w as i64).sum::<i64>() as f32
    };
    let panels = pack_int8_panels(&w, depth);
    let slow = written(rows * columns, |out| {
        let work = |run: Run<'_>| Arch::new().dispatch(dot::Portable(run));
        by_vectors(&x, depth, &mut [(Rhs::Panels(&panels), out)], SHORT_MR, work);
    });
    assert_eq!(slow, (0..rows * columns).map(exact).collect::<Vec<_>>());
    assert_eq!(slow, product(&x, &w, depth));
    // Also where there is a faster instruction.
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        let check = |strip: usize, work: &(dyn Fn(Run<'_>) + Sync)| {
            let fast = written(rows * columns, |out| {
                by_vectors(&x, depth, &mut [(Rhs::Panels(&panels), out)], strip, work);
            });
            assert_eq!(slow, fast);
        };
        if let Some(v4) = V4::try_new() {
            check(MR, &|run| v4.vectorize(|| run.vectors::<_, dot::x86::Dot4>(v4)));
        }
        if let Some(v3) = V3::try_new() {
            check(SHORT_MR, &|run| v3.vectorize(|| run.vectors::<_, dot::x86::Dot4>(v3)));
        }
        if let Some(work) = dot::vnni::avx2() {
            check(SHORT_MR, &work);
        }
    }
}

#[test]
fn tiles_and_vectors_give_the_same() {
    for [rows, depth, columns] in [[1, 64, 1], [29, 128, 70], [33, 64, 64], [70, 512, 33]] {
        let (x, w) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
        let panels = pack_int8_panels(&w, depth);
        let by = |multiply: &dyn Fn(Products<'_, '_>)| {
            written(rows * columns, |out| multiply(&mut [(Rhs::Panels(&panels), out)]))
        };
        let vectors = by(&|products| {
            let work = |run: Run<'_>| Arch::new().dispatch(dot::Portable(run));
            by_vectors(&x, depth, products, SHORT_MR, work);
        });
        let emulated = tiles::emulated::Int8;
        assert_eq!(vectors, by(&|products| by_tiles(&x, depth, products, emulated)));
        if let Some(tiles) = tiles::int8_tiles() {
            assert_eq!(vectors, by(&|products| by_tiles(&x, depth, products, tiles)));
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_row_and_are_not_hidden() {
    let (mut x, w) = (matrix(4, 8, 0.17), matrix(3, 8, 0.31));
    let before = product(&x, &w, 8);
    x[8..16].fill(0.0);
    (x[3], x[17]) = (f32::NAN, f32::INFINITY);
    let after = product(&x, &w, 8);
    assert!(after[..3].iter().chain(&after[6..9]).all(|x| !x.is_finite()), "{after:?}");
    assert_eq!(after[3..6], [0.0; 3]);
    assert_eq!(after[9..], before[9..]);
    assert!(product(&[], &w, 8).is_empty());
}
