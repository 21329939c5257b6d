//! Charts as SVG without scripts, in the colours of the page around them.

use std::fmt::Write;

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 120.0;
/// Room for numbers at the left and below.
const LEFT: f64 = 56.0;
const BELOW: f64 = 18.0;
/// More points than these do not show.
const MAX_POINTS: usize = 320;
const BINS: usize = 26;

/// A line through points, from left to right. More points than can be seen are averaged in groups.
pub(crate) fn curve(points: &[(f64, f64)]) -> String {
    let points = thin(points);
    let xs = range(points.iter().map(|point| point.0));
    let ys = range(points.iter().map(|point| point.1));
    let place = |(x, y): &(f64, f64)| {
        let x = LEFT + share(*x, xs) * WIDTH;
        let y = (1.0 - share(*y, ys)) * HEIGHT;
        format!("{x:.1},{y:.1}")
    };
    let line: Vec<_> = points.iter().map(place).collect();
    let mut svg = frame(xs, ys);
    let _ = write!(svg, "<polyline class=\"line\" points=\"{}\"/></svg>", line.join(" "));
    svg
}

/// How many values are how large.
pub(crate) fn histogram(values: &[f64]) -> String {
    let (low, high) = range(values.iter().copied());
    let mut counts = [0_usize; BINS];
    for value in values {
        counts[((share(*value, (low, high)) * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    let most = counts.iter().max().copied().unwrap_or(0).max(1);
    let width = WIDTH / BINS as f64;
    let mut svg = frame((low, high), (0.0, most as f64));
    for (bin, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let edge = |bin: usize| number(low + (high - low) * bin as f64 / BINS as f64);
        let height = (*count as f64 / most as f64 * HEIGHT).max(1.0);
        let (x, y) = (LEFT + bin as f64 * width, HEIGHT - height);
        let _ = write!(
            svg,
            "<rect class=\"bar\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{} to {}: {count}</title></rect>",
            width - 1.0,
            edge(bin),
            edge(bin + 1),
        );
    }
    svg + "</svg>"
}

/// The frame with its numbers, left open.
fn frame(xs: (f64, f64), ys: (f64, f64)) -> String {
    let (right, bottom) = (LEFT + WIDTH, HEIGHT + BELOW - 4.0);
    let [x0, x1, y0, y1] = [xs.0, xs.1, ys.0, ys.1].map(number);
    format!(
        "<svg viewBox=\"0 -8 {} {}\" role=\"img\"><path class=\"axis\" d=\"M{LEFT} 0V{HEIGHT}H{right}\"/>\
         <text x=\"{at}\" y=\"4\" text-anchor=\"end\">{y1}</text><text x=\"{at}\" y=\"{HEIGHT}\" text-anchor=\"end\">{y0}</text>\
         <text x=\"{LEFT}\" y=\"{bottom}\">{x0}</text><text x=\"{right}\" y=\"{bottom}\" text-anchor=\"end\">{x1}</text>",
        right + 8.0,
        HEIGHT + BELOW + 12.0,
        at = LEFT - 6.0,
    )
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
        let (low, high) = ends.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    ends.unwrap_or((0.0, 0.0))
}

/// Where a value is between two others; in the middle if they are the same.
fn share(value: f64, (low, high): (f64, f64)) -> f64 {
    if high > low { (value - low) / (high - low) } else { 0.5 }
}

fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |group: &[(f64, f64)]| {
        let sum = group.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / group.len() as f64, sum.1 / group.len() as f64)
    };
    points.chunks(points.len().div_ceil(MAX_POINTS).max(1)).map(mean).collect()
}

/// A number in as few digits as tell it from its like.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e7).contains(&size) {
        return format!("{value:.2e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let said = [0.0, 5.0, 0.98651, -1.5, 1e-5, 330.0, 12_345_678.0, 1e-3].map(number);
        assert_eq!(said, ["0", "5", "0.9865", "-1.5", "1.00e-5", "330", "1.23e7", "0.001"]);
    }

    #[test]
    fn every_value_is_in_a_bar() {
        for values in [vec![3.0], vec![0.0, 5.0, 5.0, 2.6], (0..1000).map(f64::from).collect()] {
            let svg = histogram(&values);
            let counts = svg
                .split("</title>")
                .filter_map(|bar| bar.rsplit(": ").next()?.parse::<usize>().ok());
            assert_eq!(counts.sum::<usize>(), values.len(), "{svg}");
        }
        assert!(!histogram(&[]).contains("<rect"));
    }

    #[test]
    fn a_line_stays_in_its_frame() {
        let points: Vec<_> = (0..10_000).map(|at| (f64::from(at), f64::from(at % 7))).collect();
        for points in [&points[..], &points[..1], &[]] {
            let svg = curve(points);
            let line = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next());
            let places: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
            assert!(places.len() <= MAX_POINTS && places.is_empty() == points.is_empty());
            for place in places {
                let (x, y) = place.split_once(',').expect("two numbers");
                let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
                assert!((LEFT..=LEFT + WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y));
            }
        }
    }
}
