//! Type check against a schema. An error in one subexpression does not hide errors in others.

use std::fmt;

use arrow::datatypes::{DataType, Schema};
use paraloom_names::nearest;

use crate::ExprError;
use crate::parse::{Function, Kind, Node, Op};

/// The type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// The type of `null`, which is compatible with every other.
    Null,
    /// True, false or unknown.
    Bool,
    /// A whole number, exact.
    Whole,
    /// A 64-bit float.
    Number,
    /// UTF-8 text.
    Text,
    /// A day.
    Date,
    /// A moment.
    Time,
    /// A list, bytes and so on, which only `is null` applies to.
    Other,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a condition",
            Self::Whole => "a whole number",
            Self::Number => "a number",
            Self::Text => "text",
            Self::Date => "a date",
            Self::Time => "a date and time",
            Self::Other => "neither text nor number",
        })
    }
}

impl Type {
    pub(crate) fn of(kind: &DataType) -> Self {
        match kind {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Boolean => Self::Bool,
            DataType::Null => Self::Null,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Timestamp(..) => Self::Time,
            kind if kind.is_integer() => Self::Whole,
            kind if kind.is_numeric() => Self::Number,
            _ => Self::Other,
        }
    }

    /// Whether a value of this type is accepted where the other is expected.
    fn is(self, wanted: Self) -> bool {
        self == wanted || self == Self::Null || (self == Self::Whole && wanted == Self::Number)
    }

    /// The common supertype; `None` if there is none.
    fn join(self, other: Self) -> Option<Self> {
        match (self, other) {
            _ if self == other => Some(self),
            (Self::Null, kind) | (kind, Self::Null) => Some(kind),
            (Self::Whole, Self::Number) | (Self::Number, Self::Whole) => Some(Self::Number),
            (Self::Date, Self::Time) | (Self::Time, Self::Date) => Some(Self::Time),
            _ => None,
        }
    }
}

/// The type of an Arrow column, in the words of messages.
pub fn type_name(kind: &DataType) -> &'static str {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Boolean => "true or false",
        DataType::Null => "always missing",
        DataType::Date32 | DataType::Date64 => "a date",
        DataType::Timestamp(..) => "a date and time",
        DataType::Time32(_) | DataType::Time64(_) => "a time of day",
        DataType::Duration(_) | DataType::Interval(_) => "a span of time",
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "bytes",
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => "a list",
        DataType::Struct(_) => "a struct",
        DataType::Map(..) => "a map",
        DataType::Union(..) => "of several types",
        DataType::Dictionary(_, value) => type_name(value),
        DataType::RunEndEncoded(_, values) => type_name(values.data_type()),
        kind if kind.is_integer() => "a whole number",
        _ => "a number",
    }
}

/// The type of the expression; `None` if it has errors, which are added to `errors`.
pub(crate) fn check(node: &Node, schema: &Schema, errors: &mut Vec<ExprError>) -> Option<Type> {
    Checker { schema, errors }.check(node)
}

/// Errors that do not depend on the columns.
pub(crate) fn check_functions(node: &Node, errors: &mut Vec<ExprError>) {
    node.visit(&mut |node| {
        if let Kind::Unknown(name, _) = &node.kind {
            errors.push(unknown_function(name, node));
        }
    });
}

fn unknown_function(name: &str, node: &Node) -> ExprError {
    let known = || Function::ALL.iter().map(|(known, ..)| *known);
    let span = (node.span.0, node.span.0 + name.len());
    let error = ExprError::new(format!("there is no function `{name}`"), span);
    error.hint(match nearest(&name.to_lowercase(), known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
    })
}

/// The type of an erroneous subexpression is `None`; enclosing expressions report nothing about it.
struct Checker<'a> {
    schema: &'a Schema,
    errors: &'a mut Vec<ExprError>,
}

impl Checker<'_> {
    fn check(&mut self, node: &Node) -> Option<Type> {
        match &node.kind {
            Kind::Null => Some(Type::Null),
            Kind::Bool(_) => Some(Type::Bool),
            Kind::Whole(_) => Some(Type::Whole),
            Kind::Number(_) => Some(Type::Number),
            Kind::Text(_) => Some(Type::Text),
            Kind::Column(name) => self.column(name, node),
            Kind::Not(inner) => self.want(inner, Type::Bool),
            Kind::Negate(inner) => self.want(inner, Type::Number),
            Kind::IsNull(inner) => self.any(inner).map(|_| Type::Bool),
            Kind::IsNan(inner) => self.want(inner, Type::Number).map(|_| Type::Bool),
            Kind::Binary(op, left, right) => self.binary(*op, left, right),
            Kind::In(needle, list) => {
                let found = self.check(needle);
                let fits: Vec<_> =
                    list.iter().map(|item| self.comparable(needle, found, item)).collect();
                fits.into_iter().all(|fits| fits).then_some(Type::Bool).filter(|_| found.is_some())
            }
            Kind::Call(function, arguments) => self.call(*function, node, arguments),
            Kind::Unknown(name, arguments) => {
                self.errors.push(unknown_function(name, node));
                for argument in arguments {
                    self.any(argument);
                }
                None
            }
        }
    }

    fn fail<T>(&mut self, error: ExprError) -> Option<T> {
        self.errors.push(error);
        None
    }

    /// The type of an operand that may have any type, lists included.
    fn any(&mut self, node: &Node) -> Option<Type> {
        match &node.kind {
            Kind::Column(name) if self.schema.field_with_name(name).is_ok() => Some(Type::Other),
            _ => self.check(node),
        }
    }

    fn column(&mut self, name: &str, node: &Node) -> Option<Type> {
        let names = || self.schema.fields().iter().map(|field| field.name().as_str());
        let Ok(field) = self.schema.field_with_name(name) else {
            let error = ExprError::new(format!("there is no column `{name}`"), node.span);
            let hint = match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let names: Vec<_> = names().map(|name| format!("`{name}`")).collect();
                    format!("there are {}", names.join(", "))
                }
            };
            return self.fail(error.hint(hint));
        };
        let kind = Type::of(field.data_type());
        if kind == Type::Other {
            let message = format!(
                "column `{name}` is {}, which cannot be compared or computed with",
                type_name(field.data_type())
            );
            let error = ExprError::new(message, node.span);
            return self.fail(error.hint(format!(
                "`{name} is null` and `{name} is not null` ask whether it is there"
            )));
        }
        Some(kind)
    }

    /// The type that was found, if it is one of those expected.
    fn want(&mut self, node: &Node, wanted: Type) -> Option<Type> {
        let found = self.check(node)?;
        if found.is(wanted) {
            return Some(if found == Type::Null { wanted } else { found });
        }
        let error = ExprError::new(format!("this is {found}, not {wanted}"), node.span);
        let error = match (found, wanted) {
            (Type::Text, Type::Number) => {
                error.hint("`number(...)` makes a number of a text that holds one")
            }
            (Type::Whole | Type::Number | Type::Date | Type::Time | Type::Bool, Type::Text) => {
                error.hint("`text(...)` makes a text of it")
            }
            _ => error,
        };
        self.fail(error)
    }

    /// Whether `right` can be compared with `left`, whose type is known already.
    fn comparable(&mut self, left: &Node, found: Option<Type>, right: &Node) -> bool {
        let other = self.check(right);
        let (Some(a), Some(b)) = (found, other) else { return other.is_some() };
        if a.join(b).is_some() {
            return true;
        }
        let is_moment = |kind: Type| matches!(kind, Type::Date | Type::Time);
        let written = match (&left.kind, &right.kind) {
            (Kind::Text(text), _) if is_moment(b) => Some((text, left.span)),
            (_, Kind::Text(text)) if is_moment(a) => Some((text, right.span)),
            _ => None,
        };
        if let Some((text, span)) = written {
            if crate::moment::parse(text).is_some() {
                return true;
            }
            let error = ExprError::new(format!("`{text}` is not a date"), span);
            self.errors.push(
                error.hint("a date is written '2024-01-31', and a moment '2024-01-31T08:30:00Z'"),
            );
            return false;
        }
        let error =
            ExprError::new(format!("{a} is compared with {b}"), (left.span.0, right.span.1));
        let error = match text_column(left, a, b).or_else(|| text_column(right, b, a)) {
            Some(name) => error.hint(format!(
                "`{name}` is a text column: `number({name})` makes numbers of it; `types: {{ {name}: number }}` where it is loaded finds the cell that is none"
            )),
            None => error,
        };
        self.errors.push(error);
        false
    }

    fn binary(&mut self, op: Op, left: &Node, right: &Node) -> Option<Type> {
        match op {
            Op::Or | Op::And => {
                let (a, b) = (self.want(left, Type::Bool), self.want(right, Type::Bool));
                a.and(b)
            }
            Op::Equal
            | Op::NotEqual
            | Op::Less
            | Op::LessEqual
            | Op::Greater
            | Op::GreaterEqual => {
                let found = self.check(left);
                let fits = self.comparable(left, found, right);
                (fits && found.is_some()).then_some(Type::Bool)
            }
            Op::Add | Op::Subtract | Op::Multiply | Op::Divide | Op::Remainder => {
                let (a, b) = (self.want(left, Type::Number), self.want(right, Type::Number));
                let both = a?.join(b?)?;
                Some(if op == Op::Divide { Type::Number } else { both })
            }
        }
    }

    fn call(&mut self, function: Function, node: &Node, arguments: &[Node]) -> Option<Type> {
        let (wanted, result) = match function {
            Function::Length | Function::Words => (Type::Text, Type::Whole),
            Function::EditDistance | Function::WordOverlap => (Type::Text, Type::Number),
            Function::Lower | Function::Upper | Function::Trim => (Type::Text, Type::Text),
            Function::Contains
            | Function::StartsWith
            | Function::EndsWith
            | Function::SameNumbers => (Type::Text, Type::Bool),
            Function::Abs => return self.want(&arguments[0], Type::Number),
            Function::Coalesce => return self.coalesce(arguments),
            Function::Number => {
                return match self.check(&arguments[0])? {
                    Type::Date | Type::Time | Type::Other => self
                        .fail(ExprError::new("of a date no number can be made", arguments[0].span)),
                    _ => Some(Type::Number),
                };
            }
            Function::Text => return self.check(&arguments[0]).map(|_| Type::Text),
            Function::Date => {
                return match self.check(&arguments[0])? {
                    Type::Text | Type::Date | Type::Time | Type::Null => Some(Type::Date),
                    found => self
                        .fail(ExprError::new(format!("of {found} no date can be made"), node.span)),
                };
            }
        };
        let fits: Vec<_> = arguments.iter().map(|argument| self.want(argument, wanted)).collect();
        fits.into_iter().all(|fits| fits.is_some()).then_some(result)
    }

    fn coalesce(&mut self, arguments: &[Node]) -> Option<Type> {
        let mut result = Some(Type::Null);
        for argument in arguments {
            let found = self.check(argument);
            let (Some(known), Some(found)) = (result, found) else {
                result = None;
                continue;
            };
            result = known.join(found);
            if result.is_none() {
                let message = format!(
                    "`coalesce` takes values of one type, and these are {known} and {found}"
                );
                self.errors.push(ExprError::new(message, argument.span));
            }
        }
        result
    }
}

/// The column that is text although it is compared with a number.
fn text_column(node: &Node, own: Type, other: Type) -> Option<&str> {
    match &node.kind {
        Kind::Column(name) if own == Type::Text && matches!(other, Type::Number | Type::Whole) => {
            Some(name)
        }
        _ => None,
    }
}
