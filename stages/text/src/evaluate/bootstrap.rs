//! Confidence intervals: the spread of a metric over rows that are drawn anew.

/// How often rows are drawn.
const RESAMPLES: usize = 1_000;

/// The interval around a metric that `confidence` of the resamples fall into (percentiles); none for fewer than two rows, or
/// where a resample has no value.
///
/// The rows are drawn by a generator of fixed seed, so that the same rows have the same interval.
pub(super) fn interval<E>(
    rows: usize,
    confidence: f64,
    mut of: impl FnMut(&[usize]) -> Result<f64, E>,
) -> Result<Option<[f64; 2]>, E> {
    if rows < 2 {
        return Ok(None);
    }
    let mut draws = blake3::Hasher::new_derive_key("paraloom 2026 bootstrap").finalize_xof();
    let mut bytes = vec![0; rows * size_of::<u64>()];
    let mut values = Vec::with_capacity(RESAMPLES);
    let mut drawn = vec![0; rows];
    for _ in 0..RESAMPLES {
        draws.fill(&mut bytes);
        for (row, bytes) in drawn.iter_mut().zip(bytes.as_chunks().0) {
            *row = ((u128::from(u64::from_le_bytes(*bytes)) * rows as u128) >> 64) as usize;
        }
        let value = of(&drawn)?;
        // A correlation of rows that are all the same, say: the spread of the others would be too small.
        if !value.is_finite() {
            return Ok(None);
        }
        values.push(value);
    }
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    Ok(Some([quantile(&values, tail), quantile(&values, 1.0 - tail)]))
}

/// Between two values in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_mean(values: &[f64], confidence: f64) -> Option<[f64; 2]> {
        let mean = |rows: &[usize]| {
            let sum: f64 = rows.iter().map(|row| values[*row]).sum();
            Ok::<_, ()>(sum / rows.len() as f64)
        };
        interval(values.len(), confidence, mean).expect("it cannot fail")
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_its_standard_error() {
        let values: Vec<f64> = (0..400).map(|row| f64::from(row % 20)).collect();
        // The standard deviation is 5.766, that of the mean 0.288; 1.96 and 1.28 of them are on both sides.
        for (confidence, expected) in [(0.95, 0.565), (0.8, 0.369)] {
            let [low, high] = of_mean(&values, confidence).expect("there are rows");
            assert!(
                (9.5 - low - expected).abs() < 0.06 && (high - 9.5 - expected).abs() < 0.06,
                "{low} {high}"
            );
        }
        assert_eq!(of_mean(&[3.0; 5], 0.95), Some([3.0, 3.0]));
        assert_eq!(of_mean(&[3.0], 0.95), None);
        assert_eq!(of_mean(&[3.0, f64::NAN], 0.95), None);
    }
}
