//! Values by step.

use std::fmt::Write;

use minijinja::HtmlEscape;

use super::{Axis, Frame, LEFT, RIGHT, TOP};

/// More columns than these cannot be told apart.
const COLUMNS: usize = 250;
/// Fewer points than these are marked.
const MARKED: usize = 40;

/// A line of a chart.
pub(crate) struct Series<'a> {
    /// For the legend; it is left out where there is one line.
    pub(crate) name: &'a str,
    /// Step and value, by step, all finite.
    pub(crate) points: &'a [(f64, f64)],
    /// Whether it is of another run.
    pub(crate) is_before: bool,
}

/// Lines over the same steps. Where there are more points than columns, the line is the mean of each column, and a band goes
/// from its smallest to its largest value, so that no spike is lost. `name` says what is to be seen.
pub(crate) fn curves(series: &[Series], (title, name): (&str, &str)) -> String {
    let all = || series.iter().flat_map(|series| series.points);
    let steps = all()
        .map(|point| point.0)
        .fold((f64::MAX, f64::MIN), |(low, high), step| (low.min(step), high.max(step)));
    let x = Axis::exactly(steps.0.min(steps.1), steps.1.max(steps.0));
    let frame = Frame { x, y: Axis::around(all().map(|point| point.1)) };
    let mut svg = frame.open(name, ("step", title));
    for (at, series) in series.iter().enumerate() {
        let class = if series.is_before { "before".to_owned() } else { format!("line line-{at}") };
        let columns = columns(&frame, series.points);
        if series.points.len() > columns.len() {
            svg.push_str(&band(&columns, &class));
        }
        let points: Vec<_> =
            columns.iter().map(|column| format!("{:.1},{:.1}", column.x, column.mean)).collect();
        let _ = write!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
        if columns.len() < MARKED {
            for column in &columns {
                let _ = write!(
                    svg,
                    "<circle class=\"{class} point\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
                    column.x, column.mean
                );
            }
        }
    }
    if series.len() > 1 {
        svg.push_str(&legend(series));
    }
    Frame::close(svg)
}

/// How many points of a chart's widest line one of its columns stands for.
pub(crate) fn steps_per_column(points: usize) -> usize {
    points.div_ceil(COLUMNS)
}

/// The points that share a column of the drawing, as places in it.
struct Column {
    x: f64,
    mean: f64,
    low: f64,
    high: f64,
}

fn columns(frame: &Frame, points: &[(f64, f64)]) -> Vec<Column> {
    let column = |group: &[(f64, f64)]| {
        let count = group.len() as f64;
        let values = || group.iter().map(|point| point.1);
        Column {
            x: frame.x(group.iter().map(|point| point.0 / count).sum()),
            mean: frame.y(values().map(|value| value / count).sum()),
            low: frame.y(values().fold(f64::INFINITY, f64::min)),
            high: frame.y(values().fold(f64::NEG_INFINITY, f64::max)),
        }
    };
    points.chunks(steps_per_column(points.len()).max(1)).map(column).collect()
}

fn band(columns: &[Column], class: &str) -> String {
    let above = columns.iter().map(|column| (column.x, column.high));
    let below = columns.iter().rev().map(|column| (column.x, column.low));
    let points: Vec<_> = above.chain(below).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    format!("<polygon class=\"band {class}\" points=\"{}\"/>", points.join(" "))
}

/// At the right above the frame, the last first.
fn legend(series: &[Series]) -> String {
    let (mut svg, mut right) = (String::new(), RIGHT);
    for (at, series) in series.iter().enumerate().rev() {
        let class = if series.is_before { "before".to_owned() } else { format!("line line-{at}") };
        let left = (right - series.name.chars().count() as f64 * 6.4).max(LEFT);
        let (y, from) = (TOP - 12.0, left - 22.0);
        let _ = write!(
            svg,
            "<path class=\"{class}\" d=\"M{from:.1} {:.1}h16\"/><text x=\"{left:.1}\" y=\"{y:.1}\">{}</text>",
            y - 4.0,
            HtmlEscape(series.name),
        );
        right = from - 14.0;
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::super::BOTTOM;
    use super::*;

    /// The numbers of an attribute, as points.
    fn places(svg: &str, shape: &str) -> Vec<(f64, f64)> {
        let found =
            svg.split(&format!("<{shape} ")).nth(1).and_then(|rest| rest.split_once("points=\""));
        let text = found.and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
        let place = |pair: &str| {
            let (x, y) = pair.split_once(',').expect("two numbers");
            (x.parse().expect("x"), y.parse().expect("y"))
        };
        text.split_whitespace().map(place).collect()
    }

    fn drawn(points: &[(f64, f64)]) -> String {
        curves(&[Series { name: "loss", points, is_before: false }], ("loss", "what"))
    }

    #[test]
    fn a_line_stays_in_its_frame() {
        let many: Vec<_> = (0..10_000).map(|at| (f64::from(at), f64::from(at % 7))).collect();
        for points in [&many[..], &many[..1], &[], &[(0.0, -1e308), (1.0, 1e308)]] {
            let places = places(&drawn(points), "polyline");
            assert!(places.len() <= COLUMNS && places.is_empty() == points.is_empty());
            for (x, y) in places {
                assert!((LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y), "{x} {y}");
            }
        }
    }

    #[test]
    fn a_spike_of_one_step_is_there() {
        let mut points: Vec<_> = (0..3000).map(|at| (f64::from(at), 1.0)).collect();
        points[1234].1 = 50.0;
        let svg = drawn(&points);
        let top =
            |places: Vec<(f64, f64)>| places.iter().map(|place| place.1).fold(BOTTOM, f64::min);
        assert!((top(places(&svg, "polygon")) - TOP).abs() < 1.0, "the band reaches its value");
        assert!(top(places(&svg, "polyline")) > TOP + 50.0, "the line is a mean");
        assert!(svg.contains(">50<"), "the axis goes there: {svg}");
    }

    #[test]
    fn two_lines_are_named() {
        let points = [(1.0, 2.0), (2.0, 1.0)];
        let series = |name, is_before| Series { name, points: &points, is_before };
        let svg = curves(&[series("training", false), series("<then>", true)], ("loss", "what"));
        assert!(svg.contains(">training<") && svg.contains(">&lt;then&gt;<"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 4);
    }
}
