//! Charts as SVG without scripts, in the colours of the page around them.
//!
//! Each has a name for who cannot see it, axes with round numbers and a title, and a size that does not grow with the data.

mod axis;
mod curve;
mod histogram;

pub(crate) use axis::{Axis, number};
pub(crate) use curve::{Series, curves, steps_per_column};
pub(crate) use histogram::Histogram;

use std::fmt::Write;

use minijinja::HtmlEscape;

/// Units of the drawing, which is scaled to its place.
const WIDTH: f64 = 370.0;
const HEIGHT: f64 = 212.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = HEIGHT - 40.0;

/// The frame of a chart: where values are, the axes and the grid.
struct Frame {
    x: Axis,
    y: Axis,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - self.y.share(value) * (BOTTOM - TOP)
    }

    /// The beginning of the drawing, left open. `name` says what is to be seen.
    fn open(&self, name: &str, (x_title, y_title): (&str, &str)) -> String {
        let mut svg = format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            HtmlEscape(name)
        );
        for tick in self.y.ticks() {
            let (at, text) = (self.y(tick), number(tick));
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 6.0,
                at + 3.5,
            );
        }
        for tick in self.x.ticks() {
            let (at, text) = (self.x(tick), number(tick));
            let _ = write!(
                svg,
                "<path class=\"tick\" d=\"M{at:.1} {BOTTOM}v4\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                BOTTOM + 16.0,
            );
        }
        let _ = write!(
            svg,
            "<text class=\"title\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"title\" x=\"{LEFT}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, RIGHT),
            HEIGHT - 6.0,
            HtmlEscape(x_title),
            TOP - 12.0,
            HtmlEscape(y_title),
        );
        svg
    }

    /// The end of the drawing: the axes are above everything else.
    fn close(mut svg: String) -> String {
        let _ = write!(svg, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/></svg>");
        svg
    }
}
