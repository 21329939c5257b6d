//! What a condition asks of a row, piece by piece: for charts, and for whoever moves a threshold.

use crate::Expr;
use crate::parse::{Kind, Node, Op};

/// One of the conditions that an expression joins by `and`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition<'a> {
    /// As it is written.
    pub text: &'a str,
    /// The threshold that it is, if it compares a column with a number.
    pub bound: Option<Bound<'a>>,
}

/// A threshold: a column compared with a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound<'a> {
    /// The column, which stands at the left.
    pub column: &'a str,
    /// `<`, `<=`, `>` or `>=`.
    pub comparison: &'static str,
    /// The number.
    pub value: f64,
}

impl Bound<'_> {
    /// Whether a value meets it; NaN never does.
    pub fn passes(&self, value: f64) -> bool {
        match self.comparison {
            "<" => value < self.value,
            "<=" => value <= self.value,
            ">" => value > self.value,
            _ => value >= self.value,
        }
    }
}

impl Expr {
    /// The conditions that are joined by `and`, in the order of the text.
    pub fn conditions(&self) -> Vec<Condition<'_>> {
        let text = |(start, end): (usize, usize)| self.text.get(start..end).unwrap_or_default();
        let conditions = self.root.conjuncts().into_iter();
        conditions.map(|node| Condition { text: text(node.span), bound: bound(node) }).collect()
    }
}

fn bound(node: &Node) -> Option<Bound<'_>> {
    let Kind::Binary(op, left, right) = &node.kind else { return None };
    if let (Kind::Column(column), Some(value)) = (&left.kind, number(right)) {
        let comparison = match op {
            Op::Less => "<",
            Op::LessEqual => "<=",
            Op::Greater => ">",
            Op::GreaterEqual => ">=",
            _ => return None,
        };
        return Some(Bound { column, comparison, value });
    }
    let (Some(value), Kind::Column(column)) = (number(left), &right.kind) else { return None };
    let comparison = match op {
        Op::Less => ">",
        Op::LessEqual => ">=",
        Op::Greater => "<",
        Op::GreaterEqual => "<=",
        _ => return None,
    };
    Some(Bound { column, comparison, value })
}

fn number(node: &Node) -> Option<f64> {
    match &node.kind {
        Kind::Whole(value) => Some(*value as f64),
        Kind::Number(value) => Some(*value),
        Kind::Negate(inner) => number(inner).map(|value| -value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_found_among_the_conditions() {
        let cases = [
            ("stsb >= 4.0", "stsb >= 4.0: stsb >= 4"),
            ("4 <= stsb", "4 <= stsb: stsb >= 4"),
            ("0.5 > cola_p and -1 < x", "0.5 > cola_p: cola_p < 0.5; -1 < x: x > -1"),
            ("a < -2 and (b > 1 and c <= 3)", "a < -2: a < -2; b > 1: b > 1; c <= 3: c <= 3"),
            ("stsb >= 4.0 and cola = 'acceptable'", "stsb >= 4.0: stsb >= 4; cola = 'acceptable'"),
            ("a = 1", "a = 1"),
            ("a > b", "a > b"),
            ("length(a) > 3", "length(a) > 3"),
            ("a > 1 or b > 2", "a > 1 or b > 2"),
            ("not a > 1", "not a > 1"),
        ];
        for (text, expected) in cases {
            let expr = Expr::parse(text).expect("it is right");
            let said = expr.conditions().into_iter().map(|condition| match condition.bound {
                Some(Bound { column, comparison, value }) => {
                    format!("{}: {column} {comparison} {value}", condition.text)
                }
                None => condition.text.to_owned(),
            });
            assert_eq!(said.collect::<Vec<_>>().join("; "), expected);
        }
    }

    #[test]
    fn a_bound_judges_as_the_expression_does() {
        for (comparison, passing) in [("<", "-"), ("<=", "-="), (">", "+"), (">=", "+=")] {
            let bound = Bound { column: "x", comparison, value: 1.0 };
            for (value, name) in [(0.0, '-'), (1.0, '='), (2.0, '+'), (f64::NAN, '?')] {
                assert_eq!(bound.passes(value), passing.contains(name), "{value} {comparison} 1");
            }
        }
    }
}
