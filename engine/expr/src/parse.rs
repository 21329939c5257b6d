//! Tokens to a tree, by recursive descent.

use crate::lex::{Spanned, Token, lex};
use crate::{ExprError, Result};

/// Deeper nesting is refused rather than recursed into.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Byte range in the text.
    pub(crate) span: (usize, usize),
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Whole(i128),
    Number(f64),
    Text(String),
    Column(String),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(Op, Box<Node>, Box<Node>),
    IsNull(Box<Node>),
    IsNan(Box<Node>),
    In(Box<Node>, Vec<Node>),
    Call(Function, Vec<Node>),
    /// An unknown function; reported by the type check together with all other errors.
    Unknown(String, Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Length,
    Words,
    Lower,
    Upper,
    Trim,
    Abs,
    Contains,
    StartsWith,
    EndsWith,
    EditDistance,
    WordOverlap,
    SameNumbers,
    Coalesce,
    Number,
    Text,
    Date,
}

impl Function {
    /// Name, function, minimum and maximum number of arguments.
    pub(crate) const ALL: [(&'static str, Self, usize, usize); 16] = [
        ("length", Self::Length, 1, 1),
        ("words", Self::Words, 1, 1),
        ("lower", Self::Lower, 1, 1),
        ("upper", Self::Upper, 1, 1),
        ("trim", Self::Trim, 1, 1),
        ("abs", Self::Abs, 1, 1),
        ("contains", Self::Contains, 2, 2),
        ("starts_with", Self::StartsWith, 2, 2),
        ("ends_with", Self::EndsWith, 2, 2),
        ("edit_distance", Self::EditDistance, 2, 2),
        ("word_overlap", Self::WordOverlap, 2, 2),
        ("same_numbers", Self::SameNumbers, 2, 2),
        ("coalesce", Self::Coalesce, 1, 16),
        ("number", Self::Number, 1, 1),
        ("text", Self::Text, 1, 1),
        ("date", Self::Date, 1, 1),
    ];
}

impl Node {
    /// The operand that is last in the text.
    fn rightmost(&self) -> &Self {
        match &self.kind {
            Kind::Binary(_, _, right) => right.rightmost(),
            Kind::Not(inner) | Kind::Negate(inner) => inner.rightmost(),
            _ => self,
        }
    }

    /// The conditions that are joined by `and` at the top.
    pub(crate) fn conjuncts(&self) -> Vec<&Self> {
        match &self.kind {
            Kind::Binary(Op::And, left, right) => {
                let mut all = left.conjuncts();
                all.extend(right.conjuncts());
                all
            }
            _ => vec![self],
        }
    }

    /// Calls `visit` with this node and all below it.
    pub(crate) fn visit<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        match &self.kind {
            Kind::Not(inner) | Kind::Negate(inner) | Kind::IsNull(inner) | Kind::IsNan(inner) => {
                inner.visit(visit);
            }
            Kind::Binary(_, left, right) => {
                left.visit(visit);
                right.visit(visit);
            }
            Kind::In(needle, list) => {
                needle.visit(visit);
                list.iter().for_each(|item| item.visit(visit));
            }
            Kind::Call(_, arguments) | Kind::Unknown(_, arguments) => {
                arguments.iter().for_each(|item| item.visit(visit));
            }
            Kind::Null
            | Kind::Bool(_)
            | Kind::Whole(_)
            | Kind::Number(_)
            | Kind::Text(_)
            | Kind::Column(_) => {}
        }
    }

    pub(crate) fn visit_columns<'a>(&'a self, visit: &mut impl FnMut(&'a str)) {
        self.visit(&mut |node| {
            if let Kind::Column(name) = &node.kind {
                visit(name);
            }
        });
    }
}

pub(crate) fn parse(text: &str) -> Result<Node> {
    let mut parser = Parser { tokens: lex(text)?, at: 0, depth: 0 };
    if parser.peek() == &Token::End {
        return Err(ExprError::new("the expression is empty", (0, text.len())));
    }
    let node = parser.or()?;
    match parser.peek() {
        Token::End => Ok(node),
        token => {
            let hint = way_on(token, &node);
            Err(ExprError::new("the expression should end here", parser.span()).hint(hint))
        }
    }
}

/// A hint for a token after a complete expression.
fn way_on(token: &Token, node: &Node) -> &'static str {
    match token {
        Token::Word(word) => match word.to_lowercase().as_str() {
            "between" => "write `1 <= stsb and stsb <= 2`",
            "like" | "ilike" | "matches" | "regexp" | "glob" | "contains" => {
                "there is `contains(a, 'b')`, `starts_with(a, 'b')` and `ends_with(a, 'b')`"
            }
            _ => "join conditions with `and` or `or`; text is written in single quotes",
        },
        Token::Symbol(",") => match node.rightmost().kind {
            Kind::Whole(_) => "a number has a point before its fraction, as in `4.0`",
            _ => "join conditions with `and` or `or`",
        },
        _ => "join conditions with `and` or `or`",
    }
}

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    fn span(&self) -> (usize, usize) {
        self.tokens[self.at].span
    }

    /// End of the last token that was consumed.
    fn end(&self) -> usize {
        self.tokens[self.at.saturating_sub(1)].span.1
    }

    fn advance(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        if found {
            self.advance();
        }
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(found) if found.eq_ignore_ascii_case(word));
        if found {
            self.advance();
        }
        found
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<()> {
        if self.take_symbol(symbol) {
            return Ok(());
        }
        Err(ExprError::new(format!("`{symbol}` is missing here"), self.span()))
    }

    fn nested<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExprError::new("the expression is nested too deeply", self.span()));
        }
        let result = body(self);
        self.depth -= 1;
        result
    }

    /// Left-associative operators of one level; long chains are bounded too, since the
    /// tree that they make is walked recursively.
    fn chain(
        &mut self,
        operand: fn(&mut Self) -> Result<Node>,
        operator: fn(&mut Self) -> Option<Op>,
    ) -> Result<Node> {
        let mut left = operand(self)?;
        let mut links = 0;
        while let Some(op) = operator(self) {
            links += 1;
            if links > 1000 {
                return Err(ExprError::new("the expression is too long", self.span()));
            }
            let right = operand(self)?;
            let span = (left.span.0, right.span.1);
            left = Node { kind: Kind::Binary(op, Box::new(left), Box::new(right)), span };
        }
        Ok(left)
    }

    fn or(&mut self) -> Result<Node> {
        self.nested(|parser| parser.chain(Self::and, |p| p.take_word("or").then_some(Op::Or)))
    }

    fn and(&mut self) -> Result<Node> {
        self.chain(Self::not, |parser| parser.take_word("and").then_some(Op::And))
    }

    fn not(&mut self) -> Result<Node> {
        let start = self.span().0;
        if !self.take_word("not") {
            return self.comparison();
        }
        let inner = self.nested(Self::not)?;
        Ok(Node { span: (start, inner.span.1), kind: Kind::Not(Box::new(inner)) })
    }

    fn comparison(&mut self) -> Result<Node> {
        let left = self.sum()?;
        let start = left.span.0;
        if self.take_word("is") {
            let negated = self.take_word("not");
            let kind = if self.take_word("null") {
                Kind::IsNull(Box::new(left))
            } else if self.take_word("nan") {
                Kind::IsNan(Box::new(left))
            } else {
                let error = ExprError::new("`is` is followed by `null` or `nan`", self.span());
                return Err(error.hint("of a condition, write `a` and `not a`"));
            };
            return Ok(self.negate_if(negated, start, kind));
        }
        let before_not = self.at;
        let negated = self.take_word("not");
        if self.take_word("in") {
            let list = self.list()?;
            return Ok(self.negate_if(negated, start, Kind::In(Box::new(left), list)));
        }
        self.at = before_not;
        let Some(op) = self.comparison_operator() else { return Ok(left) };
        let right = self.sum()?;
        let span = (start, right.span.1);
        if let Some(_second) = self.comparison_operator() {
            let span = self.tokens[self.at - 1].span;
            return Err(ExprError::new("comparisons cannot be chained", span)
                .hint("write `a < b and b < c`"));
        }
        Ok(Node { kind: Kind::Binary(op, Box::new(left), Box::new(right)), span })
    }

    fn negate_if(&self, negated: bool, start: usize, kind: Kind) -> Node {
        let span = (start, self.end());
        let node = Node { kind, span };
        if negated { Node { kind: Kind::Not(Box::new(node)), span } } else { node }
    }

    fn comparison_operator(&mut self) -> Option<Op> {
        let op = match self.peek() {
            Token::Symbol("=" | "==") => Op::Equal,
            Token::Symbol("!=" | "<>") => Op::NotEqual,
            Token::Symbol("<") => Op::Less,
            Token::Symbol("<=") => Op::LessEqual,
            Token::Symbol(">") => Op::Greater,
            Token::Symbol(">=") => Op::GreaterEqual,
            _ => return None,
        };
        self.advance();
        Some(op)
    }

    fn list(&mut self) -> Result<Vec<Node>> {
        self.expect_symbol("(")?;
        let mut items = Vec::new();
        if self.take_symbol(")") {
            return Ok(items);
        }
        loop {
            items.push(self.or()?);
            if self.take_symbol(")") {
                return Ok(items);
            }
            self.expect_symbol(",")?;
        }
    }

    fn sum(&mut self) -> Result<Node> {
        self.chain(Self::product, |parser| {
            if parser.take_symbol("+") {
                Some(Op::Add)
            } else {
                parser.take_symbol("-").then_some(Op::Subtract)
            }
        })
    }

    fn product(&mut self) -> Result<Node> {
        self.chain(Self::unary, |parser| {
            if parser.take_symbol("*") {
                Some(Op::Multiply)
            } else if parser.take_symbol("/") {
                Some(Op::Divide)
            } else {
                parser.take_symbol("%").then_some(Op::Remainder)
            }
        })
    }

    fn unary(&mut self) -> Result<Node> {
        let start = self.span().0;
        if !self.take_symbol("-") {
            return self.primary();
        }
        let inner = self.nested(Self::unary)?;
        Ok(Node { span: (start, inner.span.1), kind: Kind::Negate(Box::new(inner)) })
    }

    fn primary(&mut self) -> Result<Node> {
        let span = self.span();
        let token = self.peek().clone();
        self.advance();
        let kind = match token {
            Token::Whole(number) => Kind::Whole(number),
            Token::Number(number) => Kind::Number(number),
            Token::Text(text) => Kind::Text(text),
            Token::Quoted(name) => Kind::Column(name),
            Token::Symbol("(") => {
                let inner = self.or()?;
                self.expect_symbol(")")?;
                return Ok(Node { kind: inner.kind, span: (span.0, self.end()) });
            }
            Token::Word(word) => return self.word(word, span),
            Token::End => {
                let before = self.tokens.len().checked_sub(2).map(|at| &self.tokens[at].token);
                let what = match before {
                    Some(Token::Word(word)) => format!("something is missing after `{word}`"),
                    Some(Token::Symbol(symbol)) => format!("something is missing after `{symbol}`"),
                    _ => "something is missing at the end".to_owned(),
                };
                return Err(ExprError::new(what, span));
            }
            Token::Symbol(symbol) => {
                let error = ExprError::new(format!("`{symbol}` cannot stand here"), span);
                return Err(match symbol {
                    "." => error.hint("a number begins with a digit, as in `0.5`"),
                    _ => error,
                });
            }
        };
        Ok(Node { kind, span })
    }

    fn word(&mut self, word: String, span: (usize, usize)) -> Result<Node> {
        let kind = match word.to_ascii_lowercase().as_str() {
            "null" => Kind::Null,
            "true" => Kind::Bool(true),
            "false" => Kind::Bool(false),
            "and" | "or" | "is" | "in" => {
                let error = ExprError::new(format!("`{word}` cannot stand here"), span);
                return Err(error.hint(format!("write `{word}` in backquotes if it is a column")));
            }
            _ if matches!(self.peek(), Token::Symbol("(")) => return self.call(&word, span),
            _ => Kind::Column(word),
        };
        Ok(Node { kind, span })
    }

    fn call(&mut self, name: &str, span: (usize, usize)) -> Result<Node> {
        let found = Function::ALL.iter().find(|(known, ..)| name.eq_ignore_ascii_case(known));
        let Some((_, function, fewest, most)) = found else {
            let arguments = self.list()?;
            let span = (span.0, self.end());
            return Ok(Node { kind: Kind::Unknown(name.to_owned(), arguments), span });
        };
        let arguments = self.list()?;
        let span = (span.0, self.end());
        if arguments.len() < *fewest || arguments.len() > *most {
            let wanted = match (*fewest, *most) {
                (1, 1) => "1 argument".to_owned(),
                (fewest, most) if fewest == most => format!("{fewest} arguments"),
                (fewest, most) => format!("{fewest} to {most} arguments"),
            };
            let message = format!("`{name}` takes {wanted}, not {}", arguments.len());
            return Err(ExprError::new(message, span));
        }
        Ok(Node { kind: Kind::Call(*function, arguments), span })
    }
}
