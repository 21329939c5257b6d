//! Type check: every stage, port, setting and column, before anything runs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use petgraph::graph::DiGraph;

use crate::catalog::{Catalog, FailureSpan, PlanFailure, PlanInput, PortInfo, PortKind, StageInfo};
use crate::config::Checker;
use crate::diagnostic::{Diagnostic, Span};
use crate::document::ShowDocument;
use crate::expect::check_expect;
use crate::expression::within;
use crate::graph::{Edge, Endpoint, Graph, Node, Show};
use crate::misplaced::misplaced;
use crate::names::suggestion;
use crate::reject::{OnError, with_port, with_rejects};
use crate::resolve::{Resolved, ResolvedInput, ResolvedNode, Settings, resolve};
use crate::storable::unfit;
use crate::yaml::{Tree, Value};
use crate::{DEFAULT_BACKEND, DEFAULT_DEVICE, ID_COLUMN, is_identity};

/// Checks the text of a pipeline from end to end. The graph is there only if there is no error; the errors are in the order of
/// the text.
pub fn check_text(
    text: &str,
    settings: &Settings,
    catalog: &dyn Catalog,
) -> (Option<Graph>, Vec<Diagnostic>) {
    // A pipeline with errors of form is still checked, but never run.
    let (resolved, errors) = resolve(text, settings);
    let (graph, mut diagnostics) = check(&resolved, catalog, errors);
    diagnostics.sort_by_key(|diagnostic| diagnostic.span);
    // What an alias stands for is checked wherever it is used.
    let mut told = HashSet::new();
    diagnostics.retain(|error| told.insert((error.span, error.message.clone())));
    (graph, diagnostics)
}

/// Checks the whole graph, beside the `errors` that are known; the graph is there only if there is no error.
fn check(
    resolved: &Resolved,
    catalog: &dyn Catalog,
    errors: Vec<Diagnostic>,
) -> (Option<Graph>, Vec<Diagnostic>) {
    let states = vec![None; resolved.nodes.len()];
    let (stages, told) = (HashMap::new(), HashSet::new());
    let mut pass = Pass { resolved, catalog, stages, states, told, errors, hidden: Vec::new() };
    for index in &resolved.order {
        pass.states[*index] = pass.node(*index);
    }
    let Pass { states, mut errors, mut hidden, .. } = pass;
    hidden.sort_unstable();
    let is_hidden = |span: Span| {
        let above = hidden.partition_point(|hidden| hidden.start <= span.start);
        hidden[..above].last().is_some_and(|hidden| span.end <= hidden.end)
    };
    errors.retain(|error| !is_hidden(error.span));
    // A node with an error hides what reads it, and nothing else: what the others are shown and expected to be is checked.
    let mut graph = build(resolved, states);
    let hidden: HashSet<_> = resolved.nodes.iter().map(|node| node.name.as_str()).collect();
    let is_known = |(name, _): &(String, Span)| {
        let node = name.split('.').next().unwrap_or_default();
        graph.find(node).is_some() || !hidden.contains(node)
    };
    let show = resolved.show.iter().filter(|show| is_known(&show.node));
    let show = show.filter_map(|show| check_show(show, &graph, &mut errors)).collect();
    let expect = resolved.expect.iter().filter(|expect| is_known(&expect.node));
    let expect = expect.filter_map(|expect| check_expect(expect, &graph, &mut errors)).collect();
    (graph.show, graph.expect) = (show, expect);
    let sound = errors.is_empty();
    (Some(graph).filter(|_| sound), errors)
}

/// The built-in backend.
const ALWAYS: &str = "cpu";

/// The backend of a node. `auto` is the built-in one, unless it has no such device. Only the names decide: which other
/// backends are installed does not change what a pipeline computes with.
fn backend(node: &ResolvedNode) -> &str {
    match (node.backend.0.as_str(), kind(&node.device.0)) {
        (DEFAULT_BACKEND, "cuda") => "torch",
        (DEFAULT_BACKEND, "wgpu") => "wgpu",
        (DEFAULT_BACKEND, _) => ALWAYS,
        (backend, _) => backend,
    }
}

/// The device without its number.
fn kind(device: &str) -> &str {
    device.split(':').next().unwrap_or_default()
}

/// Whether a backend supports a kind of device.
fn computes_on(backend: &str, kind: &str) -> bool {
    match backend {
        ALWAYS => kind == DEFAULT_DEVICE,
        "torch" => matches!(kind, DEFAULT_DEVICE | "cuda"),
        "cuda" | "wgpu" => kind == backend,
        _ => true,
    }
}

/// A node during the check. Its outputs are unknown if the plan failed: then nothing downstream can be planned, but
/// ports and settings are checked all the same.
#[derive(Clone)]
struct State<'a> {
    stage: Arc<StageInfo>,
    edges: Vec<(usize, Edge)>,
    /// The stages that its output rows passed, this one included, each with how many times.
    passed: Vec<(&'a str, usize)>,
    planned: Option<Node>,
}

struct Pass<'a> {
    resolved: &'a Resolved,
    catalog: &'a dyn Catalog,
    /// The stages that were found, by name and backend: their nodes share them.
    stages: HashMap<(&'a str, &'a str), Arc<StageInfo>>,
    states: Vec<Option<State<'a>>>,
    /// The messages of [`Pass::once`].
    told: HashSet<String>,
    errors: Vec<Diagnostic>,
    /// Places in the text whose errors are not told, since another one is the cause of them.
    hidden: Vec<Span>,
}

impl<'a> Pass<'a> {
    fn node(&mut self, index: usize) -> Option<State<'a>> {
        let resolved: &'a Resolved = self.resolved;
        let node = &resolved.nodes[index];
        // A missing stage has been reported.
        let found = if node.stage.0.is_empty() { None } else { self.stage(node) };
        let before = self.errors.len();
        let misplaced = misplaced(node, found.as_deref(), &mut self.errors, &mut self.hidden);
        let stage = found?;
        self.device(node, &stage);
        let edges = self.edges(node, &stage, &misplaced);
        let mut checker = Checker::new(self.catalog, &mut self.errors);
        checker.misplaced = misplaced;
        let config = checker.check(&node.with, &stage.config_schema, "");
        let Checker { paths, unknown, is_known, .. } = checker;
        // An unknown source, or one of an unknown stage, has an error of its own; here its edge is missing.
        let connected = node.known && edges.len() == node.inputs.len();
        let sound = connected && is_known && self.errors.len() == before;
        let schemas = self.schemas(&edges);
        let mut passed = self.passed(&stage, &edges);
        let repeats = count(&mut passed, &node.stage.0);
        let planned = match schemas {
            Some(inputs) if sound => self.plan(node, &stage, config, paths, repeats, &inputs),
            _ => {
                self.errors.extend(unknown);
                None
            }
        };
        // Readers of `rejected` get no error of their own if the node has one.
        let stage = match (&planned, node.on_error.0) {
            (Some(planned), _) => Arc::clone(&planned.stage),
            (None, OnError::Reject | OnError::Unknown) => with_port(&stage),
            (None, OnError::Fail) => stage,
        };
        Some(State { stage, edges, passed, planned })
    }

    /// The stage of a node, as its backend computes it.
    fn stage(&mut self, node: &'a ResolvedNode) -> Option<Arc<StageInfo>> {
        let (name, span) = &node.stage;
        let key = (name.as_str(), backend(node));
        if let Some(stage) = self.stages.get(&key) {
            return Some(Arc::clone(stage));
        }
        let found = match self.catalog.stage(key.0, key.1) {
            Ok(found) => found,
            Err(failure) => {
                // The built-in implementation has the same ports and settings, so the rest of the node is checked.
                let always = self.catalog.stage(name, ALWAYS);
                let of_backend = node.backend.1.or(node.device.1).filter(|_| always.is_ok());
                let error = Diagnostic::error(failure.message, of_backend.unwrap_or(*span));
                self.once(error.maybe_hint(failure.hint));
                let Ok(always) = always else { return None };
                always
            }
        };
        let Some(stage) = found else {
            let hint = suggestion(name, self.catalog.names());
            let error = Diagnostic::error(format!("there is no stage `{name}`"), *span);
            self.errors.push(error.maybe_hint(hint));
            return None;
        };
        let stage = Arc::new(stage.clone());
        self.stages.insert(key, Arc::clone(&stage));
        Some(stage)
    }

    /// Reports an error that many nodes share only once.
    fn once(&mut self, error: Diagnostic) {
        if self.told.insert(error.message.clone()) {
            self.errors.push(error);
        }
    }

    /// Checks the device. Only stages of a backend use it; those that do not compute ignore it.
    fn device(&mut self, node: &ResolvedNode, stage: &StageInfo) {
        let (device, span) = &node.device;
        let written = span.or(node.backend.1);
        let span = written.unwrap_or(node.stage.1);
        let note = |pass: &mut Self, error| match written {
            Some(_) => pass.errors.push(error),
            None => pass.once(error),
        };
        let kind = kind(device);
        let is_device = match device[kind.len()..].strip_prefix(':') {
            None => matches!(kind, DEFAULT_DEVICE | "cuda" | "wgpu"),
            Some(number) => matches!(kind, "cuda" | "wgpu") && number.parse::<usize>().is_ok(),
        };
        if !is_device {
            let error = Diagnostic::error(format!("there is no device `{device}`"), span);
            note(self, error.hint("write `cpu`, `cuda`, `cuda:0`, `wgpu` or `wgpu:0`"));
            return;
        }
        // An empty name is the built-in backend, or a stage that does not compute.
        let backend = match (stage.backend.as_str(), node.backend.0.as_str()) {
            ("", ALWAYS) => ALWAYS,
            (own, _) => own,
        };
        if !computes_on(backend, kind) {
            let message = format!("the backend `{backend}` has no `{device}`");
            let hint = match kind {
                "cuda" => "leave `backend` out, or write `torch` or `cuda`",
                "wgpu" => "leave `backend` out, or write `wgpu`",
                _ => "leave `device` out, or `backend`",
            };
            note(self, Diagnostic::error(message, span).hint(hint));
        }
    }

    /// Matches the node's inputs with the ports of its stage.
    fn edges(
        &mut self,
        node: &ResolvedNode,
        stage: &StageInfo,
        misplaced: &HashSet<String>,
    ) -> Vec<(usize, Edge)> {
        let mut edges = Vec::new();
        let Some(ports) = &node.ports else { return edges };
        let is_input = |name: &str| stage.inputs.iter().any(|port| port.name == name);
        for (name, span, _) in ports {
            if !is_input(name) && !misplaced.contains(name) {
                let names: Vec<_> = stage.inputs.iter().map(|port| port.name.as_str()).collect();
                let error =
                    Diagnostic::error(format!("`{}` has no input `{name}`", stage.name), *span);
                let hint = suggestion(name, names)
                    .unwrap_or_else(|| format!("`{}` takes no input", stage.name));
                self.errors.push(error.hint(hint));
            }
        }
        for (position, input) in node.inputs.iter().enumerate() {
            let port = stage.inputs.iter().position(|port| port.name == input.port.0);
            let Some(port) = port else { continue };
            edges.extend(self.edge(input, &stage.inputs[port], port, position));
        }
        // A misspelt or misplaced port has been reported, so it is not reported as missing too.
        let is_misspelt =
            ports.iter().any(|(name, ..)| !is_input(name) && !misplaced.contains(name));
        let is_missing = |port: &&PortInfo| {
            let is_named =
                ports.iter().any(|(name, ..)| *name == port.name) || misplaced.contains(&port.name);
            !is_named && !port.optional && !is_misspelt
        };
        let missing: Vec<_> = stage.inputs.iter().filter(is_missing).collect();
        let names: Vec<_> = missing.iter().map(|port| format!("`{}`", port.name)).collect();
        let message = match names.as_slice() {
            [] => return edges,
            [name] => format!("input {name} of `{}` is not connected", stage.name),
            names => {
                format!("inputs {} of `{}` are not connected", names.join(" and "), stage.name)
            }
        };
        let docs = missing.iter().map(|port| match names.len() {
            1 => port.doc.clone(),
            _ => format!("`{}`: {}", port.name, port.doc),
        });
        let hint = docs.collect::<Vec<_>>().join(" ");
        self.errors.push(Diagnostic::error(message, node.name_span).hint(hint));
        edges
    }

    fn edge(
        &mut self,
        input: &ResolvedInput,
        port: &PortInfo,
        index: usize,
        position: usize,
    ) -> Option<(usize, Edge)> {
        if input.label.is_some() && !port.many {
            let message = format!("input `{}` takes one source", port.name);
            self.errors
                .push(Diagnostic::error(message, input.span).hint("write the name of a node"));
            return None;
        }
        // A source of an unknown stage has been reported.
        let source = self.states[input.from].as_ref()?.stage.clone();
        let output = self.output(input, port, &source)?;
        let label = match &input.label {
            Some(label) => label.clone(),
            None if port.many => self.resolved.nodes[input.from].name.clone(),
            None => String::new(),
        };
        Some((input.from, Edge { output, input: index, label, position }))
    }

    /// The output that is named, or the first one of the kind that the port takes.
    fn output(
        &mut self,
        input: &ResolvedInput,
        port: &PortInfo,
        source: &StageInfo,
    ) -> Option<usize> {
        let from = &self.resolved.nodes[input.from];
        let wanted = match port.kind {
            PortKind::Table => "a table",
            PortKind::Artifact => "an artifact",
        };
        let names = source.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>();
        let Some(name) = &input.output else {
            let found = source.outputs.iter().position(|output| output.kind == port.kind);
            if found.is_none() {
                let message =
                    format!("`{}` takes {wanted}, but `{}` offers none", port.name, from.name);
                let error = Diagnostic::error(message, input.span);
                let offers = format!("`{}` offers {}", from.name, names.join(", "));
                let hint = Some(offers).filter(|_| !names.is_empty());
                self.errors.push(error.maybe_hint(hint).related(from.name_span, "declared here"));
            }
            return found;
        };
        let Some(found) = source.outputs.iter().position(|output| output.name == *name) else {
            let message = format!("`{}` has no output `{name}`", from.name);
            let error = Diagnostic::error(message, input.span);
            self.errors.push(error.maybe_hint(suggestion(name, names)));
            return None;
        };
        if source.outputs[found].kind != port.kind {
            let message =
                format!("`{}` takes {wanted}, but `{}.{name}` is not one", port.name, from.name);
            self.errors.push(Diagnostic::error(message, input.span));
            return None;
        }
        Some(found)
    }

    /// The schemas of the inputs, if all sources could be planned.
    fn schemas(&self, edges: &[(usize, Edge)]) -> Option<Vec<PlanInput>> {
        let schema = |(from, edge): &(usize, Edge)| {
            let source = self.states[*from].as_ref()?.planned.as_ref()?;
            Some(source.plan_input(edge))
        };
        edges.iter().map(schema).collect()
    }

    /// The stages that the input rows of a node of `stage` passed, each with how many times.
    fn passed(&self, stage: &StageInfo, edges: &[(usize, Edge)]) -> Vec<(&'a str, usize)> {
        let port = stage.rows_input();
        let source = edges.iter().find(|(_, edge)| Some(edge.input) == port);
        let source = source.and_then(|(from, _)| self.states[*from].as_ref());
        source.map(|state| state.passed.clone()).unwrap_or_default()
    }

    fn plan(
        &mut self,
        node: &ResolvedNode,
        stage: &Arc<StageInfo>,
        config: serde_json::Value,
        paths: Vec<crate::PathUse>,
        repeats: usize,
        inputs: &[PlanInput],
    ) -> Option<Node> {
        let planned = match self.catalog.plan(stage, &node.name, &config, inputs) {
            Ok(planned) => planned,
            Err(failure) => {
                self.errors.extend(diagnostics_of(failure, node));
                return None;
            }
        };
        if let Err(message) = check_outputs(stage, &planned.outputs) {
            self.errors.push(Diagnostic::error(message, node.stage.1));
            return None;
        }
        let device =
            if stage.backend.is_empty() { DEFAULT_DEVICE } else { &node.device.0 }.to_owned();
        let outputs = planned.outputs.into_iter().map(|schema| schema.map(with_id));
        let (mut outputs, mut stage, mut rejects) = (outputs.collect(), Arc::clone(stage), None);
        if node.on_error.0 == OnError::Reject {
            let rows = inputs.iter().find(|input| Some(input.port) == stage.mapped_input());
            let rows = rows.and_then(|input| input.schema.as_ref());
            match with_rejects(&stage, &mut outputs, rows) {
                Ok((with_port, found)) => (stage, rejects) = (with_port, Some(found)),
                Err((message, hint)) => {
                    self.errors.push(Diagnostic::error(message, node.on_error.1).hint(hint));
                    return None;
                }
            }
        }
        Some(Node {
            name: node.name.clone(),
            span: node.name_span,
            stage,
            config,
            paths,
            seed: node.seed,
            repeats,
            part_rows: node.part_rows,
            rejects,
            retries: node.retries,
            device,
            outputs,
            fingerprint: planned.fingerprint,
            notes: planned.notes,
            memory: planned.memory,
        })
    }
}

/// Increments the count of `stage`; returns what it was before.
fn count<'a>(counts: &mut Vec<(&'a str, usize)>, stage: &'a str) -> usize {
    if let Some((_, count)) = counts.iter_mut().find(|(name, _)| *name == stage) {
        *count += 1;
        return *count - 1;
    }
    counts.push((stage, 1));
    0
}

/// Checks that column names are unique and not empty, that ids are text, and that there can be such columns; the engine relies on
/// all of it later.
fn check_outputs(stage: &StageInfo, outputs: &[Option<SchemaRef>]) -> Result<(), String> {
    for (port, schema) in stage.outputs.iter().zip(outputs) {
        let fields = schema.iter().flat_map(|schema| schema.fields());
        let mut seen = HashSet::new();
        let table = format!("table `{}` of `{}`", port.name, stage.name);
        for field in fields {
            let name = field.name();
            if name.trim().is_empty() {
                return Err(format!("a column of {table} has no name"));
            }
            if !seen.insert(name) {
                return Err(format!("two columns of {table} are called `{name}`"));
            }
            if let Some(why) = unfit(field.data_type()) {
                let kind = field.data_type();
                return Err(format!("column `{name}` of {table} is {kind}, {why}"));
            }
            if is_identity(name) && *field.data_type() != DataType::Utf8 {
                return Err(format!(
                    "column `{name}` of {table} is not text: it is how the engine knows rows"
                ));
            }
        }
    }
    Ok(())
}

/// Every table has an `_id`: the engine adds it where the stage does not.
pub fn with_id(schema: SchemaRef) -> SchemaRef {
    if schema.column_with_name(ID_COLUMN).is_some() {
        return schema;
    }
    let id = Arc::new(Field::new(ID_COLUMN, DataType::Utf8, false));
    let fields = std::iter::once(id).chain(schema.fields().iter().cloned());
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The diagnostics for a failed plan: one for each error within the text that the stage names, if it tells them apart.
fn diagnostics_of(failure: PlanFailure, node: &ResolvedNode) -> Vec<Diagnostic> {
    let pointer = failure.pointer.as_deref().filter(|pointer| exists(&node.with, pointer));
    let located = pointer.map(|pointer| node.with.locate_tree(pointer));
    let Some((text, whole)) = located.and_then(|tree| Some((tree.as_text()?, tree.span))) else {
        return vec![diagnostic_of(failure, node)];
    };
    let place = |span: &FailureSpan| within(whole, text, (span.start, span.end));
    let places: BTreeSet<_> = failure.spans.iter().map(place).collect();
    // Errors that cannot be told apart by their place, as in a text with escapes, are told together.
    if places.len() < failure.spans.len().max(1) {
        return vec![diagnostic_of(failure, node)];
    }
    let spans = failure.spans.into_iter();
    let diagnostics = spans.map(|span| {
        let at = place(&span);
        Diagnostic::error(span.message, at).maybe_hint(span.hint)
    });
    diagnostics.collect()
}

/// The diagnostic for a failed plan, at the setting or input that the stage names.
fn diagnostic_of(failure: PlanFailure, node: &ResolvedNode) -> Diagnostic {
    let span = match (&failure.pointer, &failure.input) {
        // A default is not in the text.
        (Some(pointer), _) if exists(&node.with, pointer) => node.with.locate(pointer),
        (_, Some(port)) => {
            let input = node.inputs.iter().find(|input| input.port.0 == *port);
            input.map_or(node.name_span, |input| input.span)
        }
        (Some(pointer), None) => parent(&node.with, pointer).unwrap_or(node.stage.1),
        (None, None) => node.stage.1,
    };
    Diagnostic::error(failure.message, span).maybe_hint(failure.hint)
}

fn exists(with: &Tree, pointer: &str) -> bool {
    let first = pointer.split('/').nth(1).unwrap_or_default();
    with.get(first).is_some()
}

fn parent(with: &Tree, pointer: &str) -> Option<Span> {
    match &with.value {
        Value::Map(members) if !members.is_empty() => Some(with.locate(pointer)),
        _ => None,
    }
}

/// The table that a `show` or `expect` entry names; reports an error if there is none.
pub(crate) fn table(
    (name, span): &(String, Span),
    graph: &Graph,
    errors: &mut Vec<Diagnostic>,
) -> Option<Endpoint> {
    // Where there are no nodes at all, that was told.
    if graph.order.is_empty() {
        return None;
    }
    graph.table(name).map_err(|message| errors.push(Diagnostic::error(message, *span))).ok()
}

fn check_show(show: &ShowDocument, graph: &Graph, errors: &mut Vec<Diagnostic>) -> Option<Show> {
    let endpoint = table(&show.node, graph, errors)?;
    let (name, schema) = (&show.node.0, graph.schema(endpoint)?);
    for (column, span) in &show.columns {
        if schema.column_with_name(column).is_none() {
            let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let error = Diagnostic::error(format!("`{name}` has no column `{column}`"), *span);
            errors.push(error.maybe_hint(suggestion(column, names)));
        }
    }
    let columns = show.columns.iter().map(|(column, _)| column.clone()).collect();
    Some(Show { endpoint, name: name.clone(), columns, limit: show.limit })
}

/// The graph of the nodes that could be planned.
fn build(resolved: &Resolved, states: Vec<Option<State<'_>>>) -> Graph {
    let mut graph = DiGraph::new();
    let (mut edges, mut indices) = (Vec::new(), vec![None; states.len()]);
    for (to, state) in states.into_iter().enumerate() {
        let Some(State { edges: entering, planned: Some(node), .. }) = state else { continue };
        indices[to] = Some(graph.add_node(node));
        edges.extend(entering.into_iter().map(|(from, edge)| (from, to, edge)));
    }
    for (from, to, edge) in edges {
        if let (Some(from), Some(to)) = (indices[from], indices[to]) {
            graph.add_edge(from, to, edge);
        }
    }
    let order = resolved.order.iter().filter_map(|index| indices[*index]).collect();
    Graph::new(resolved.name.clone(), graph, order)
}
