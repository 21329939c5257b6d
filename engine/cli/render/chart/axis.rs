//! Axes that begin, end and step at round numbers.

/// An axis from `low` to `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    /// Between two ticks.
    step: f64,
}

/// Ticks at most.
const TICKS: f64 = 6.0;
/// Bins of a histogram, where round ones fit.
const BINS: f64 = 25.0;

impl Axis {
    /// The smallest axis with round ends that has all values on it; zero too where it is near.
    pub(crate) fn around(values: impl IntoIterator<Item = f64>) -> Self {
        let ends = values.into_iter().filter(|value| value.is_finite()).fold(
            None,
            |ends: Option<(f64, f64)>, value| {
                let (low, high) = ends.unwrap_or((value, value));
                Some((low.min(value), high.max(value)))
            },
        );
        let (mut low, mut high) = ends.unwrap_or((0.0, 1.0));
        if low > 0.0 && low <= high / 2.0 {
            low = 0.0;
        }
        if high < 0.0 && high >= low / 2.0 {
            high = 0.0;
        }
        if high - low <= f64::EPSILON * high.abs().max(low.abs()) {
            let room = if low == 0.0 { 1.0 } else { low.abs() / 2.0 };
            (low, high) = (low - room, high + room);
        }
        let step = round_up((high / TICKS - low / TICKS).abs());
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    /// From zero to at least `most`, in whole steps.
    pub(crate) fn of_counts(most: usize) -> Self {
        let most = most.max(1) as f64;
        let step = round_up(most / TICKS).max(1.0).ceil();
        Self { low: 0.0, high: (most / step).ceil() * step, step }
    }

    /// From the first to the last of some steps: the ends are those values, and only the ticks are round.
    pub(crate) fn exactly(low: f64, high: f64) -> Self {
        if high <= low {
            return Self::around([low]);
        }
        Self { low, high, step: round_up((high - low) / TICKS) }
    }

    /// An axis for a score: what is between 0 and 1 is drawn from 0 to 1, a similarity as in STS-B from 0 to 5, all else by
    /// its values.
    pub(crate) fn of_score(name: &str, values: &[f64], limits: &[f64]) -> Self {
        let all = || values.iter().chain(limits).copied().filter(|value| value.is_finite());
        let within = |high: f64| all().all(|value| (0.0..=high).contains(&value));
        match name {
            _ if values.is_empty() => Self::around(all()),
            _ if within(1.0) => Self { low: 0.0, high: 1.0, step: 0.2 },
            _ if name.starts_with("stsb") && within(5.0) => Self { low: 0.0, high: 5.0, step: 1.0 },
            _ => Self::around(all()),
        }
    }

    /// Where a value is, from 0 to 1.
    pub(crate) fn share(self, value: f64) -> f64 {
        // The division first, since the difference of two huge numbers may be none.
        let size = self.high / 2.0 - self.low / 2.0;
        ((value / 2.0 - self.low / 2.0) / size).clamp(0.0, 1.0)
    }

    /// Round numbers from end to end.
    pub(crate) fn ticks(self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil();
        let count = ((self.high / self.step + 1e-9).floor() - first).clamp(0.0, 3.0 * TICKS);
        // Zero is no sum of rounding errors.
        let tick = |at: u32| {
            let tick = (first + f64::from(at)) * self.step;
            if tick.abs() < self.step * 1e-9 { 0.0 } else { tick }
        };
        (0..=count as u32).map(tick).collect()
    }

    /// The edges of bins of one round width, some twenty of them.
    pub(crate) fn bins(self) -> Vec<f64> {
        let span = self.high - self.low;
        let widths = [round_up(span / BINS), self.step / 4.0, self.step / 5.0, self.step];
        let fits = |width: &f64| {
            let count = span / width;
            (count - count.round()).abs() < 1e-6
        };
        let width = widths.into_iter().find(fits).unwrap_or(span / BINS);
        let count = (span / width).round().clamp(1.0, 64.0);
        (0..=count as u32).map(|at| self.low + f64::from(at) * width).collect()
    }
}

/// The next of 1, 2, 2.5 and 5 times a power of ten.
fn round_up(step: f64) -> f64 {
    if !step.is_finite() || step <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(step.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0];
    let fits = |factor: &f64| factor * power >= step * (1.0 - 1e-9);
    factors.into_iter().find(fits).unwrap_or(10.0) * power
}

/// A number in as few digits as tell it from its like.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e7).contains(&size) {
        let text = format!("{value:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    grouped(if text == "-0" { "0" } else { text })
}

/// Thousands apart: `12,345.6`.
fn grouped(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, rest) = digits.find('.').map_or((digits, ""), |dot| digits.split_at(dot));
    let mut out = sign.to_owned();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let values =
            [0.0, -0.0, 5.0, 0.98651, -1.5, 1e-5, 2.5e-4, 330.0, -1320.25, 12_345_678.0, 1e-3];
        let said = values.map(number);
        let expected = [
            "0",
            "0",
            "5",
            "0.9865",
            "-1.5",
            "1e-5",
            "2.5e-4",
            "330",
            "-1,320.25",
            "1.23e7",
            "0.001",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn axes_have_round_ends_and_all_values_between_them() {
        let cases: [(&[f64], &str); 10] = [
            (&[3.0], "1.5 2 2.5 3 3.5 4 4.5"),
            (&[0.0], "-1 -0.5 0 0.5 1"),
            (&[0.31, 2.77], "0 0.5 1 1.5 2 2.5 3"),
            (&[96.0, 104.0], "96 98 100 102 104"),
            (&[-3.0, 17.0], "-5 0 5 10 15 20"),
            (&[1e-5, 3e-4], "0 5e-5 1e-4 1.5e-4 2e-4 2.5e-4 3e-4"),
            (&[-7.0, -6.5], "-7 -6.9 -6.8 -6.7 -6.6 -6.5"),
            (&[], "0 0.2 0.4 0.6 0.8 1"),
            (&[f64::NAN, 1.0, f64::INFINITY], "0.4 0.6 0.8 1 1.2 1.4 1.6"),
            (&[f64::MIN / 4.0, f64::MAX / 4.0], "-6e307 -4e307 -2e307 0 2e307 4e307 6e307"),
        ];
        for (values, expected) in cases {
            let axis = Axis::around(values.iter().copied());
            let ticks: Vec<_> = axis.ticks().into_iter().map(number).collect();
            assert_eq!(ticks.join(" "), expected, "{values:?}");
            for value in values.iter().filter(|value| value.is_finite()) {
                assert!((axis.low..=axis.high).contains(value), "{value} on {axis:?}");
            }
        }
    }

    #[test]
    fn counts_are_whole() {
        for (most, expected) in [
            (0, "0 1"),
            (1, "0 1"),
            (3, "0 1 2 3"),
            (13, "0 3 6 9 12 15"),
            (330, "0 100 200 300 400"),
        ] {
            let ticks: Vec<_> = Axis::of_counts(most).ticks().into_iter().map(number).collect();
            assert_eq!(ticks.join(" "), expected);
        }
    }

    #[test]
    fn a_score_is_drawn_on_the_axis_of_its_kind() {
        let cases = [
            ("cola_p", vec![0.98, 0.99], "0 to 1, 20 bins"),
            ("stsb", vec![4.8, 5.0], "0 to 5, 25 bins"),
            ("stsb_mean", vec![0.1, 0.9, 3.0], "0 to 5, 25 bins"),
            ("loss", vec![2.2, 4.1], "2 to 4.5, 25 bins"),
            ("stsb", vec![40.0, 100.0], "0 to 100, 20 bins"),
        ];
        for (name, values, expected) in cases {
            let axis = Axis::of_score(name, &values, &[]);
            let bins = axis.bins().len() - 1;
            assert_eq!(format!("{} to {}, {bins} bins", axis.low, axis.high), expected, "{name}");
        }
        let axis = Axis::of_score("stsb_mean", &[0.1, 0.9], &[4.0]);
        assert!((axis.high - 5.0).abs() < f64::EPSILON, "a threshold is on the axis");
    }
}
