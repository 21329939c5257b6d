//! A [`Document`] is the parsed pipeline file, before variables are filled in.

use paraloom_names::nearest;

use crate::FORMAT;
use crate::diagnostic::{Diagnostic, Span};
use crate::names::{NAME_RULE, is_name, suggestion};
use crate::reject::OnError;
use crate::yaml::{Limits, Tree, Value, read};

/// A pipeline as it is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    /// `name:`; empty if there is none.
    pub(crate) name: String,
    /// `seed:`
    pub(crate) seed: Option<u64>,
    /// `part_rows:`
    pub(crate) part_rows: Option<usize>,
    /// `backend:` and `device:`
    pub(crate) compute: Compute,
    /// `vars:` with the positions of their names; none if there is something, and no telling what.
    pub(crate) vars: Option<Vec<(String, Span, Tree)>>,
    /// `nodes:`, in the order of the file.
    pub(crate) nodes: Vec<NodeDocument>,
    /// `show:` what a run prints when it is done.
    pub(crate) show: Vec<ShowDocument>,
    /// `expect:` what must hold of the results; its variables are not filled in yet.
    pub(crate) expect: Option<Tree>,
}

/// `backend:` and `device:` as written, with their positions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compute {
    /// `backend:`
    pub(crate) backend: Option<(String, Span)>,
    /// `device:`
    pub(crate) device: Option<(String, Span)>,
}

/// A table that a run prints when it is done, as it is written.
#[derive(Clone, Debug)]
pub(crate) struct ShowDocument {
    /// `node:` a node or `node.port`, with its position.
    pub(crate) node: (String, Span),
    /// `columns:` all if empty.
    pub(crate) columns: Vec<(String, Span)>,
    /// `limit:`
    pub(crate) limit: usize,
}

/// A node as it is written.
#[derive(Clone, Debug)]
pub(crate) struct NodeDocument {
    /// Its name.
    pub(crate) name: String,
    /// Position of the name.
    pub(crate) name_span: Span,
    /// `stage:`
    pub(crate) stage: (String, Span),
    /// `inputs:` port, position of the port's name, what is connected to it; none if there is something, and no telling what.
    pub(crate) inputs: Option<Vec<(String, Span, Tree)>>,
    /// `with:`; an empty mapping if there is none, unknown if there is something, and no telling what.
    pub(crate) with: Tree,
    /// `seed:`
    pub(crate) seed: Option<u64>,
    /// `part_rows:`
    pub(crate) part_rows: Option<usize>,
    /// `on_error:` with its position.
    pub(crate) on_error: Option<(OnError, Span)>,
    /// `retries:`
    pub(crate) retries: Option<u32>,
    /// `backend:` and `device:`
    pub(crate) compute: Compute,
    /// Keys that no node has, with their positions. They are reported once the stage is known, of which they may be settings.
    pub(crate) strays: Vec<(String, Span)>,
}

const TOP_KEYS: [&str; 11] = [
    "paraloom",
    "name",
    "description",
    "seed",
    "part_rows",
    "backend",
    "device",
    "vars",
    "nodes",
    "show",
    "expect",
];
pub(crate) const NODE_KEYS: [&str; 10] = [
    "stage",
    "description",
    "inputs",
    "with",
    "seed",
    "part_rows",
    "on_error",
    "retries",
    "backend",
    "device",
];

/// What other programs call the keys.
const ELSEWHERE: [(&str, &str); 22] = [
    ("version", "paraloom"),
    ("variables", "vars"),
    ("params", "vars"),
    ("parameters", "vars"),
    ("env", "vars"),
    ("steps", "nodes"),
    ("tasks", "nodes"),
    ("jobs", "nodes"),
    ("stages", "nodes"),
    ("type", "stage"),
    ("kind", "stage"),
    ("uses", "stage"),
    ("operator", "stage"),
    ("params", "with"),
    ("parameters", "with"),
    ("config", "with"),
    ("settings", "with"),
    ("options", "with"),
    ("args", "with"),
    ("needs", "inputs"),
    ("depends_on", "inputs"),
    ("deps", "inputs"),
];

/// Reads the text of a pipeline; reports all errors of syntax and structure.
pub(crate) fn parse(text: &str, limits: Limits) -> (Document, Vec<Diagnostic>) {
    let mut document = Document::default();
    let mut errors = Vec::new();
    if let Some(tree) = read(text, limits, &mut errors) {
        Reader { errors: &mut errors }.document(tree, &mut document);
    }
    (document, errors)
}

pub(crate) struct Reader<'a> {
    pub(crate) errors: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    pub(crate) fn error(&mut self, message: impl Into<String>, span: Span) {
        self.errors.push(Diagnostic::error(message, span));
    }

    fn document(&mut self, tree: Tree, document: &mut Document) {
        let span = Span::new(tree.span.start, tree.span.start);
        let Value::Map(members) = tree.value else {
            self.errors.push(
                Diagnostic::error(
                    "a pipeline is a mapping with `paraloom`, `name` and `nodes`",
                    span,
                )
                .hint("`paraloom init` writes one to start from"),
            );
            return;
        };
        let mut version = None;
        let mut has_nodes = false;
        // A misspelt key is not reported as missing too.
        let meant: Vec<_> = members.iter().filter_map(|(key, ..)| meant(key, &TOP_KEYS)).collect();
        document.vars = (!meant.contains(&"vars")).then(Vec::new);
        for (key, key_span, value) in members {
            match key.as_str() {
                "paraloom" => version = Some(value),
                "name" => document.name = self.name(&value).unwrap_or_default(),
                "description" => drop(self.text(&value, "`description`")),
                "seed" => document.seed = self.whole(&value, "`seed`", 0),
                "part_rows" => document.part_rows = self.part_rows(&value),
                "backend" => document.compute.backend = self.placed(&value, "`backend`"),
                "device" => document.compute.device = self.placed(&value, "`device`"),
                "vars" => document.vars = self.vars(value),
                "nodes" => {
                    has_nodes = true;
                    document.nodes = self.nodes(value);
                }
                "show" => document.show = self.shows(value),
                "expect" => document.expect = Some(value),
                other => self.unknown_key(other, key_span, &TOP_KEYS),
            }
        }
        if version.is_some() || !meant.contains(&"paraloom") {
            self.version(version.as_ref(), span);
        }
        if !has_nodes && !meant.contains(&"nodes") {
            self.error("`nodes` is missing", span);
        }
    }

    fn version(&mut self, version: Option<&Tree>, start: Span) {
        let way_out = format!("write `paraloom: {FORMAT}` in the first line");
        match version.map(|tree| (&tree.value, tree.span)) {
            Some((Value::Int(number), _)) if u64::try_from(*number) == Ok(FORMAT) => {}
            Some((Value::Int(number), span)) => {
                let message = format!("this engine reads format {FORMAT}, not {number}");
                self.errors.push(Diagnostic::error(message, span));
            }
            Some((_, span)) => {
                let error = Diagnostic::error("`paraloom` is the number of the format", span);
                self.errors.push(error.hint(way_out));
            }
            None => {
                let error =
                    Diagnostic::error("`paraloom`, the number of the format, is missing", start);
                self.errors.push(error.hint(way_out));
            }
        }
    }

    pub(crate) fn unknown_key(&mut self, key: &str, span: Span, known: &[&str]) {
        let hint = match meant(key, known) {
            Some(meant) => Some(format!("did you mean `{meant}`?")),
            None => suggestion(key, known.iter().copied()),
        };
        self.errors.push(Diagnostic::error(format!("unknown key `{key}`"), span).maybe_hint(hint));
    }

    fn text(&mut self, tree: &Tree, what: &str) -> Option<String> {
        let text = tree.as_text().map(str::to_owned);
        if text.is_none() && tree.value != Value::Unknown {
            self.error(format!("{what} must be text, not {}", tree.kind()), tree.span);
        }
        text
    }

    pub(crate) fn placed(&mut self, tree: &Tree, what: &str) -> Option<(String, Span)> {
        Some((self.text(tree, what)?, tree.span))
    }

    fn name(&mut self, tree: &Tree) -> Option<String> {
        let name = self.text(tree, "`name`")?;
        self.check_name(&name, tree.span);
        Some(name)
    }

    fn check_name(&mut self, name: &str, span: Span) {
        if !is_name(name) {
            let message = format!("`{}` cannot be a name", name.escape_debug());
            self.errors.push(Diagnostic::error(message, span).hint(NAME_RULE));
        }
    }

    pub(crate) fn whole(&mut self, tree: &Tree, what: &str, least: i64) -> Option<u64> {
        match tree.value {
            Value::Int(number) if number >= least => u64::try_from(number).ok(),
            Value::Unknown => None,
            _ => {
                self.error(format!("{what} must be a whole number, at least {least}"), tree.span);
                None
            }
        }
    }

    fn part_rows(&mut self, tree: &Tree) -> Option<usize> {
        self.whole(tree, "`part_rows`", 1).and_then(|rows| usize::try_from(rows).ok())
    }

    /// The members of a mapping; none if it is something else, which is an error.
    pub(crate) fn members(&mut self, tree: Tree, what: &str) -> Option<Vec<(String, Span, Tree)>> {
        match tree.value {
            Value::Map(members) => Some(members),
            Value::Null => Some(Vec::new()),
            Value::Unknown => None,
            _ => {
                let message = format!("{what} must be a mapping, not {}", tree.kind());
                let hint = match what {
                    "`inputs`" => Some("write `{ PORT: NODE }`, such as `{ rows: corpus }`"),
                    "`vars`" => Some("write `{ NAME: VALUE }`"),
                    _ => None,
                };
                let error = Diagnostic::error(message, tree.span);
                self.errors.push(error.maybe_hint(hint.map(str::to_owned)));
                None
            }
        }
    }

    fn vars(&mut self, tree: Tree) -> Option<Vec<(String, Span, Tree)>> {
        let mut vars = self.members(tree, "`vars`")?;
        for (name, span, value) in &mut vars {
            self.check_name(name, *span);
            if matches!(value.value, Value::List(_) | Value::Map(_)) {
                self.error(format!("a variable is one value, not {}", value.kind()), value.span);
                value.value = Value::Unknown;
            }
        }
        Some(vars)
    }

    fn nodes(&mut self, tree: Tree) -> Vec<NodeDocument> {
        let span = tree.span;
        if matches!(tree.value, Value::List(_)) {
            let error = Diagnostic::error("`nodes` must be a mapping, not a list", span);
            self.errors.push(error.hint("write `NAME: { stage: … }` for each node"));
            return Vec::new();
        }
        let Some(nodes) = self.members(tree, "`nodes`") else { return Vec::new() };
        if nodes.is_empty() {
            self.error("a pipeline needs at least one node", span);
        }
        let mut read = Vec::with_capacity(nodes.len());
        let mut nodes = nodes.into_iter().peekable();
        while let Some((name, span, value)) = nodes.next() {
            // Keys of a node that are not indented stand beside it, as nodes.
            let is_key = |next: &(String, Span, Tree)| NODE_KEYS.contains(&next.0.as_str());
            let Some((key, ..)) = nodes.next_if(|next| value.value == Value::Null && is_key(next))
            else {
                read.push(self.node(name, span, value));
                continue;
            };
            while nodes.next_if(is_key).is_some() {}
            self.check_name(&name, span);
            let message = format!("node `{name}` is empty, and `{key}` stands beside it");
            let error = Diagnostic::error(message, span);
            self.errors.push(error.hint(format!("indent what belongs to `{name}`")));
            read.push(Self::empty_node(name, span));
        }
        read
    }

    fn shows(&mut self, tree: Tree) -> Vec<ShowDocument> {
        self.items(tree, "`show`").into_iter().filter_map(|item| self.show(item)).collect()
    }

    pub(crate) fn items(&mut self, tree: Tree, what: &str) -> Vec<Tree> {
        let kind = tree.kind();
        match tree.value {
            Value::List(items) => items,
            Value::Unknown => Vec::new(),
            _ => {
                self.error(format!("{what} must be a list, not {kind}"), tree.span);
                Vec::new()
            }
        }
    }

    /// A node's name, or a mapping with `node`, `columns` and `limit`.
    fn show(&mut self, tree: Tree) -> Option<ShowDocument> {
        let span = tree.span;
        let mut show = ShowDocument { node: (String::new(), span), columns: Vec::new(), limit: 10 };
        if let Some(name) = tree.as_text() {
            name.clone_into(&mut show.node.0);
            return Some(show);
        }
        for (key, key_span, value) in self.members(tree, "an entry of `show`")? {
            match key.as_str() {
                "node" => show.node = (self.text(&value, "`node`")?, value.span),
                "limit" => {
                    let limit = self.whole(&value, "`limit`", 1)?;
                    show.limit = usize::try_from(limit).unwrap_or(usize::MAX);
                }
                "columns" => {
                    let Value::List(items) = &value.value else {
                        self.error("`columns` must be a list of names", value.span);
                        return None;
                    };
                    for item in items {
                        show.columns.push((self.text(item, "a column")?, item.span));
                    }
                }
                other => self.unknown_key(other, key_span, &["node", "columns", "limit"]),
            }
        }
        if show.node.0.is_empty() {
            self.error("`node` is missing", span);
            return None;
        }
        Some(show)
    }

    /// A node of which only the name is known, so that nodes that read it find it.
    fn empty_node(name: String, name_span: Span) -> NodeDocument {
        NodeDocument {
            name,
            name_span,
            stage: (String::new(), name_span),
            inputs: Some(Vec::new()),
            with: Tree { value: Value::Map(Vec::new()), span: name_span },
            seed: None,
            part_rows: None,
            on_error: None,
            retries: None,
            compute: Compute::default(),
            strays: Vec::new(),
        }
    }

    fn on_error(&mut self, tree: &Tree) -> (OnError, Span) {
        let Some(text) = self.text(tree, "`on_error`") else {
            return (OnError::Unknown, tree.span);
        };
        let found = OnError::ALL.into_iter().find(|(name, _)| *name == text);
        let Some((_, on_error)) = found else {
            let error = Diagnostic::error(
                format!("`{}` is no way to go on", text.escape_debug()),
                tree.span,
            );
            let hint = suggestion(&text, OnError::ALL.map(|(name, _)| name));
            self.errors.push(error.maybe_hint(hint));
            return (OnError::Unknown, tree.span);
        };
        (on_error, tree.span)
    }

    fn node(&mut self, name: String, name_span: Span, tree: Tree) -> NodeDocument {
        self.check_name(&name, name_span);
        if !matches!(tree.value, Value::Map(_)) {
            let message = format!("node `{name}` must be a mapping, not {}", tree.kind());
            // An absent value has no position of its own.
            let span = if tree.value == Value::Null { name_span } else { tree.span };
            let error = Diagnostic::error(message, span);
            self.errors.push(error.hint("write `{ stage: …, inputs: {…}, with: {…} }`"));
            return Self::empty_node(name, name_span);
        }
        let mut node = Self::empty_node(name, name_span);
        let members = self.members(tree, "a node").unwrap_or_default();
        let meant: Vec<_> = members.iter().filter_map(|(key, ..)| meant(key, &NODE_KEYS)).collect();
        if meant.contains(&"inputs") {
            node.inputs = None;
        }
        if meant.contains(&"with") {
            node.with.value = Value::Unknown;
        }
        for (key, key_span, value) in members {
            match key.as_str() {
                "stage" => {
                    node.stage = (self.text(&value, "`stage`").unwrap_or_default(), value.span);
                }
                "description" => drop(self.text(&value, "`description`")),
                "inputs" => node.inputs = self.members(value, "`inputs`"),
                "with" if matches!(value.value, Value::Map(_)) => node.with = value,
                "with" if value.value == Value::Null => {}
                "with" => {
                    node.with.value = Value::Unknown;
                    self.error(
                        format!("`with` must be a mapping, not {}", value.kind()),
                        value.span,
                    );
                }
                "seed" => node.seed = self.whole(&value, "`seed`", 0),
                "part_rows" => node.part_rows = self.part_rows(&value),
                "on_error" => node.on_error = Some(self.on_error(&value)),
                "retries" => {
                    let retries = self.whole(&value, "`retries`", 0);
                    node.retries =
                        retries.map(|retries| u32::try_from(retries).unwrap_or(u32::MAX));
                }
                "backend" => node.compute.backend = self.placed(&value, "`backend`"),
                "device" => node.compute.device = self.placed(&value, "`device`"),
                other => node.strays.push((other.to_owned(), key_span)),
            }
        }
        if node.stage.0.is_empty() && node.stage.1 == name_span && !meant.contains(&"stage") {
            self.error(format!("node `{}` has no `stage`", node.name), name_span);
        }
        node
    }
}

/// The known key that an unknown one was most likely meant to be.
fn meant<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    if known.contains(&key) {
        return None;
    }
    let elsewhere = |(name, _): &&(&str, &str)| *name == key.to_lowercase();
    let mut elsewhere = ELSEWHERE.iter().filter(elsewhere).map(|(_, meant)| *meant);
    nearest(key, known.iter().copied()).or_else(|| elsewhere.find(|meant| known.contains(meant)))
}
