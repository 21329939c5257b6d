use super::super::int8::{matmul_int8, pack_int8_panels};
use super::super::packing::{pack_bf16_panels, pack_panels};
use super::*;

/// Values of up to 1.
pub(crate) fn matrix(rows: usize, columns: usize, seed: f32) -> Vec<f32> {
    (0..rows * columns).map(|i| (i as f32 * seed).sin()).collect()
}

fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| matrix.iter().skip(column).step_by(columns)).copied().collect()
}

/// What `write` writes.
#[expect(unsafe_code, reason = "all is initialized from the start")]
pub(crate) fn written(count: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut out = vec![MaybeUninit::new(f32::NAN); count];
    write(&mut out);
    // SAFETY: it is initialized with NaN.
    out.into_iter().map(|number| unsafe { number.assume_init() }).collect()
}

const SHAPES: [[usize; 3]; 7] =
    [[1, 1, 1], [3, 5, 7], [8, 16, 48], [13, 33, 50], [70, 64, 130], [300, 20, 95], [65, 500, 512]];

#[test]
fn agrees_with_the_definition_in_every_form() {
    for [rows, depth, columns] in SHAPES {
        let (a, b) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
        let exact = |row: usize, column: usize| -> f64 {
            let (x, w) = (&a[row * depth..][..depth], &b[column * depth..][..depth]);
            x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
        };
        let panels = pack_panels(&b, depth);
        let (lhs, rhs) = (transposed(&a, depth), transposed(&b, depth));
        let rhs_forms = [Rhs::Rows(&rhs), Rhs::Transposed(&b), Rhs::Panels(&panels)];
        let lhs_forms = [Lhs::Rows(&a), Lhs::Transposed(&lhs)];
        for (lhs, rhs) in lhs_forms.iter().flat_map(|lhs| rhs_forms.map(|rhs| (*lhs, rhs))) {
            let out = written(rows * columns, |out| matmul(lhs, depth, &mut [(rhs, out)]));
            for (index, value) in out.iter().enumerate() {
                let exact = exact(index / columns, index % columns);
                assert!((f64::from(*value) - exact).abs() < 1e-4, "{value} is not {exact}");
            }
        }
    }
}

/// Checks that `matmul`, in bf16, agrees with the definition in every form, and all forms with each other to the bit. Gives the
/// products.
fn checked_bf16(matmul: impl Fn(Lhs<'_>, usize, Products<'_, '_>)) -> Vec<Vec<f32>> {
    let round = |x: f32| f64::from(half::bf16::from_f32(x));
    let products = SHAPES.map(|[rows, depth, columns]| {
        let (a, b) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
        let (panels, lhs, rhs) =
            (pack_bf16_panels(&b, depth), transposed(&a, depth), transposed(&b, depth));
        let rhs_forms = [Rhs::Rows(&rhs), Rhs::Transposed(&b), Rhs::Panels(&panels)];
        let lhs_forms = [Lhs::Rows(&a), Lhs::Transposed(&lhs)];
        let products = lhs_forms.iter().flat_map(|lhs| rhs_forms.map(|rhs| (*lhs, rhs)));
        let products = products
            .map(|(lhs, rhs)| written(rows * columns, |out| matmul(lhs, depth, &mut [(rhs, out)])));
        let products: Vec<_> = products.collect();
        for (index, value) in products[0].iter().enumerate() {
            let (x, w) = (&a[index / columns * depth..], &b[index % columns * depth..]);
            let products = x[..depth].iter().zip(w).map(|(x, w)| round(*x) * round(*w));
            let exact: f64 = products.sum();
            assert!((f64::from(*value) - exact).abs() < 1e-4, "{value} is not {exact}");
        }
        assert!(products.iter().all(|product| *product == products[0]));
        products.into_iter().next().unwrap_or_default()
    });
    products.into()
}

/// The products as processors with narrower and fewer registers have them.
#[cfg(target_arch = "x86_64")]
#[test]
fn vectors_of_any_width_give_the_same() {
    let Some(v3) = pulp::x86::V3::try_new() else { return };
    for [rows, depth, columns] in SHAPES {
        let (a, b) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
        let (lhs, rhs) = (Lhs::Rows(&a), Rhs::Transposed(&b));
        let narrow = |layout| {
            let strips = lhs.pack_strips(rows, layout, SHORT_MR);
            let lhs = PackedLhs { words: &strips, strip: SHORT_MR, quantized: None };
            let work = |run: Run<'_>| Simd::vectorize(v3, InF32(run));
            written(rows * columns, |out| run_tasks(lhs, rhs, layout, out, work))
        };
        let widest = written(rows * columns, |out| matmul(lhs, depth, &mut [(rhs, out)]));
        assert_eq!(widest, narrow(Layout::F32(depth)));
        let widest = written(rows * columns, |out| widened(lhs, depth, &mut [(rhs, out)]));
        assert_eq!(widest, narrow(Layout::Widened(depth)));
    }
}

/// Products of pairs that are widened to f32.
fn widened(lhs: Lhs<'_>, depth: usize, products: Products<'_, '_>) {
    by_vectors(lhs, Layout::Widened(depth), products, by_f32);
}

#[test]
fn pairs_are_summed_in_singles_with_the_instruction_and_without_it() {
    let emulated = checked_bf16(widened);
    if let Some(work) = arithmetic::bf16_pairs() {
        let fastest = checked_bf16(|lhs, depth, products| {
            by_vectors(lhs, Layout::Bf16Pairs(depth), products, &work);
        });
        assert_eq!(emulated, fastest);
    }
}

#[test]
fn tiles_are_summed_in_singles_with_the_instruction_and_without_it() {
    let emulated = checked_bf16(|lhs, depth, products| {
        by_tiles(lhs, depth, products, tiles::emulated::Bf16);
    });
    if let Some(tiles) = tiles::bf16_tiles() {
        let fastest = checked_bf16(|lhs, depth, products| {
            by_tiles(lhs, depth, products, tiles);
        });
        assert_eq!(emulated, fastest);
    }
}

#[test]
fn matrices_without_rows_or_columns_have_no_product() {
    for matmul in [matmul, matmul_bf16] {
        matmul(Lhs::Rows(&[]), 4, &mut [(Rhs::Transposed(&[1.0; 12]), &mut [])]);
        matmul(Lhs::Rows(&[1.0; 12]), 4, &mut [(Rhs::Rows(&[]), &mut [])]);
    }
}

#[test]
fn a_row_is_the_same_in_any_batch() {
    let (depth, columns) = (96, 530);
    let panels = pack_panels(&matrix(columns, depth, 0.31), depth);
    let panels = Rhs::Panels(&panels);
    let halves = pack_bf16_panels(&matrix(columns, depth, 0.31), depth);
    let halves = Rhs::Panels(&halves);
    let bytes = pack_int8_panels(&matrix(columns, depth, 0.31), depth);
    let x = matrix(77, depth, 0.17);
    let of = |rows: usize| {
        let x = &x[..rows * depth];
        [
            written(rows * columns, |out| matmul(Lhs::Rows(x), depth, &mut [(panels, out)])),
            written(rows * columns, |out| {
                matmul_bf16(Lhs::Rows(x), depth, &mut [(halves, out)]);
            }),
            written(rows * columns, |out| {
                matmul_int8(x, depth, &mut [(Rhs::Panels(&bytes), out)]);
            }),
        ]
    };
    let all = of(77);
    for rows in [1, 2, 5, 11, 64] {
        for (some, all) in of(rows).iter().zip(&all) {
            assert_eq!(*some, all[..some.len()]);
        }
    }
}
