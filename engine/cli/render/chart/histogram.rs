//! How many values are how large.

use std::fmt::Write;

use minijinja::HtmlEscape;
use paraloom_expr::Bound;

use super::{Axis, BOTTOM, Frame, LEFT, RIGHT, TOP, number};

/// The values of a column.
pub(crate) struct Histogram<'a> {
    /// What the values are, for the axis.
    pub(crate) title: &'a str,
    /// The values, all finite.
    pub(crate) values: &'a [f64],
    /// Those of another run.
    pub(crate) before: Option<&'a [f64]>,
    /// Thresholds that are set on them.
    pub(crate) limits: &'a [Bound<'a>],
    /// What is to be seen, for who cannot see it.
    pub(crate) name: &'a str,
}

/// Room that a count above its bar needs.
const LABEL: (f64, f64) = (7.0, 11.0);

impl Histogram<'_> {
    /// The drawing. Every bar says its range and count to who points at it.
    pub(crate) fn svg(&self) -> String {
        let limits: Vec<_> = self.limits.iter().map(|limit| limit.value).collect();
        let all = [self.values, self.before.unwrap_or_default()].concat();
        let x = Axis::of_score(self.title, &all, &limits);
        let edges = x.bins();
        let counts = count(&edges, self.values);
        let before = self.before.map(|values| count(&edges, values));
        let most = counts.iter().chain(before.iter().flatten()).max().copied().unwrap_or(0).max(1);
        let frame = Frame { x, y: Axis::of_counts(most) };
        let mut svg = frame.open(self.name, (self.title, "rows"));
        let mut labelled: Vec<(f64, f64)> = Vec::new();
        let mut bars: Vec<_> = counts.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        for (bin, count) in &bars {
            let (low, high) = (edges[*bin], edges[bin + 1]);
            let (x, right) = (frame.x(low), frame.x(high));
            // What is there is to be seen, however little it is.
            let y = frame.y(**count as f64).min(BOTTOM - 2.0);
            let is_out = self.limits.iter().any(|limit| !limit.passes(f64::midpoint(low, high)));
            let _ = write!(
                svg,
                "<rect class=\"bar{}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{} to {}: {count}</title></rect>",
                if is_out { " out" } else { "" },
                x + 0.5,
                (right - x - 1.0).max(0.5),
                BOTTOM - y,
                number(low),
                number(high),
            );
        }
        if let Some(before) = &before {
            svg.push_str(&outline(&frame, &edges, before));
        }
        // The tallest first; a count that would be written over another is left out.
        bars.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (bin, count) in bars {
            let middle = f64::midpoint(frame.x(edges[bin]), frame.x(edges[bin + 1]));
            let (text, y) = (number(*count as f64), frame.y(*count as f64).min(BOTTOM - 2.0) - 3.0);
            let half = text.len() as f64 * LABEL.0 / 2.0;
            let collides = |(at, high): &(f64, f64)| {
                (at - middle).abs() < 2.0 * half + 2.0 && (high - y).abs() < LABEL.1
            };
            if !labelled.iter().any(collides) {
                labelled.push((middle, y));
                let _ = write!(
                    svg,
                    "<text class=\"count\" x=\"{middle:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{text}</text>"
                );
            }
        }
        for (at, limit) in self.limits.iter().enumerate() {
            svg.push_str(&line(&frame, limit, at));
        }
        Frame::close(svg)
    }
}

/// A threshold: a dashed line, named above the frame.
fn line(frame: &Frame, limit: &Bound, at: usize) -> String {
    let x = frame.x(limit.value);
    let is_left = x < f64::midpoint(LEFT, RIGHT);
    let (anchor, gap) = if is_left { ("start", 4.0) } else { ("end", -4.0) };
    let text = format!("{} {}", limit.comparison, number(limit.value));
    format!(
        "<path class=\"limit\" d=\"M{x:.1} {:.1}V{BOTTOM}\"/>\
         <text class=\"limit-name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
        TOP - 14.0,
        x + gap,
        TOP - 6.0 + 11.0 * at as f64,
        HtmlEscape(&text),
    )
}

/// The counts of another run, as a line over the bars.
fn outline(frame: &Frame, edges: &[f64], counts: &[usize]) -> String {
    let mut path = format!("M{LEFT} {BOTTOM}");
    for (count, edge) in counts.iter().zip(&edges[1..]) {
        let _ = write!(path, "V{:.1}H{:.1}", frame.y(*count as f64), frame.x(*edge));
    }
    format!("<path class=\"before\" d=\"{path}V{BOTTOM}\"/>")
}

fn count(edges: &[f64], values: &[f64]) -> Vec<usize> {
    let bins = edges.len() - 1;
    let (low, high) = (edges[0], edges[bins]);
    let mut counts = vec![0; bins];
    for value in values {
        // A value at an edge belongs to the bin that begins there, whatever the last bit says.
        let place = (value - low) / (high - low) * bins as f64 + 1e-9;
        counts[(place.max(0.0) as usize).min(bins - 1)] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(title: &str, values: &[f64], limits: &[Bound]) -> String {
        Histogram { title, values, before: Some(values), limits, name: "<what>" }.svg()
    }

    #[test]
    fn every_value_is_in_a_bar() {
        let many: Vec<_> = (0..1000).map(f64::from).collect();
        for values in [&[3.0][..], &[0.0, 5.0, 5.0, 2.6], &many, &[-1e300, 1e300], &[1e-300]] {
            let svg = drawn("x", values, &[]);
            let bars = svg.split("</title>").filter_map(|bar| bar.rsplit_once(": "));
            let counts = bars.filter_map(|(_, count)| count.parse::<usize>().ok());
            assert_eq!(counts.sum::<usize>(), values.len(), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert!(!drawn("x", &[], &[]).contains("<rect"));
    }

    #[test]
    fn thresholds_are_drawn_and_part_the_bars() {
        let limit = Bound { column: "stsb", comparison: ">=", value: 4.0 };
        let svg = drawn("stsb", &[3.8, 4.0, 4.9, 5.0], &[limit]);
        let out: Vec<_> = svg.match_indices("class=\"bar out\"").collect();
        assert_eq!(out.len(), 1, "{svg}");
        assert!(svg.contains("3.8 to 4: 1") && svg.contains("4 to 4.2: 1"), "{svg}");
        assert!(svg.contains("&gt;= 4<"), "{svg}");
        assert!(svg.contains("aria-label=\"&lt;what&gt;\""), "{svg}");
    }
}
