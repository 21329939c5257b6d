//! `report`: one page on what came of a pipeline.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use paraloom_exec::{Found, Lookup, PortResult, TableRef, judge};
use paraloom_pipeline::{Endpoint, Graph};
use petgraph::graph::NodeIndex;

use super::print;
use super::run::{input_rows, outcome};
use super::show::{project, read_rows};
use crate::args::{ReportArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, Result};
use crate::out::Out;
use crate::render::{self, Chart, Group, NodeLine, Report, Table, duration, number};

/// Rows of a table, where the pipeline does not say.
const ROWS: usize = 10;
/// What every report has in its title, within so many bytes.
const MARK: &str = " - paraloom report</title>";
const HEAD: u64 = 4096;

pub(crate) fn run(args: &ReportArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    let graph = &project.graph;
    let lookup = Lookup::new(graph, &project.workspace.host, Some(&store))?;
    let nodes: Vec<_> = graph.order().iter().map(|node| line(graph, *node, &lookup)).collect();
    let done = graph.order().iter().filter(|node| lookup.complete(**node).is_some()).count();
    let groups = graph.order().iter().map(|node| charts(graph, *node, &lookup));
    let mut groups = groups.collect::<Result<Vec<_>>>()?;
    groups.retain(|group| !group.charts.is_empty());
    let unmet = judge(graph, graph.order(), lookup.results())?;
    let unmet = unmet.into_iter().filter_map(|verdict| verdict.unmet);
    let name = match graph.name.as_str() {
        "" => args.pipeline.pipeline.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        name => name.to_owned(),
    };
    let page = render::report(Report {
        name,
        version: env!("CARGO_PKG_VERSION"),
        made: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        done,
        unmet: unmet.map(|found| found.message).collect(),
        nodes,
        drawing: render::svg(graph),
        groups,
        tables: tables(graph, &lookup)?,
    });
    let page = page.map_err(|error| CliError::new(1, error.to_string()))?;
    if args.to == Path::new("-") {
        print(&page)?;
        return Ok(ExitCode::SUCCESS);
    }
    check_is_ours(&args.to)?;
    let mut out = Out::file(&args.to)?;
    out.text(&page)?;
    out.finish()?;
    render::note(&format!("wrote {}", args.to.display()));
    Ok(ExitCode::SUCCESS)
}

/// A file that this command did not write stays: the name may have been meant for something else.
fn check_is_ours(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    if read.is_err() || head.is_empty() || String::from_utf8_lossy(&head).contains(MARK) {
        return Ok(());
    }
    let message = format!("{} is there already, and is no report", path.display());
    Err(CliError::usage(message).hint("name another file with --to"))
}

fn line(graph: &Graph, index: NodeIndex, lookup: &Lookup) -> NodeLine {
    let node = graph.node(index);
    let (name, stage) = (node.name.clone(), node.stage.name.clone());
    let Some(result) = lookup.complete(index) else {
        let outcome = match lookup.found(index) {
            Found::Partial { parts, .. } if parts.0 > 0 => {
                format!("{} of {} parts", parts.0, parts.1)
            }
            _ => "not done yet".to_owned(),
        };
        let (time, key) = Default::default();
        return NodeLine { name, stage, outcome, share: None, time, key };
    };
    let tables = result.ports.iter().filter_map(|port| match port {
        PortResult::Table(table) => Some(table.rows()),
        PortResult::Artifact { .. } => None,
    });
    let rows: Vec<u64> = tables.collect();
    // Several tables are parts of one, which a whole stage has sorted out.
    let of = if rows.len() > 1 {
        Some(rows.iter().sum())
    } else {
        input_rows(graph, index, lookup.results())
    };
    let share = match (rows.first(), of) {
        (Some(rows), Some(of)) if of > 0 && *rows <= of => Some(*rows as f64 / of as f64),
        _ => None,
    };
    NodeLine {
        name,
        stage,
        outcome: outcome(graph, index, result, lookup.results()),
        share,
        time: result.took_ms.map(duration).unwrap_or_default(),
        key: result.key.to_string().chars().take(12).collect(),
    }
}

/// The numbers that a node has made: by step where there are steps, or else how many are how large.
fn charts(graph: &Graph, index: NodeIndex, lookup: &Lookup) -> Result<Group> {
    let node = graph.node(index);
    let mapped = graph.mapped(index);
    let known = mapped.and_then(|from| graph.schema(from));
    let known: HashSet<_> = known.into_iter().flat_map(names).collect();
    let mut charts = Vec::new();
    for port in 0..node.outputs.len() {
        let Some(PortResult::Table(table)) = lookup.output(Endpoint { node: index, port }) else {
            continue;
        };
        let steps = table.schema.index_of("step").is_ok();
        let fields = table.schema.fields().iter();
        let made = fields.filter(|field| field.data_type().is_floating());
        for name in made.map(|field| field.name()).filter(|name| !known.contains(*name)) {
            if steps {
                charts.extend(curve(table, name)?);
            } else if mapped.is_some() {
                charts.extend(histogram(table, name)?);
            }
        }
    }
    Ok(Group { title: format!("{} ({})", node.name, node.stage.name), charts })
}

fn names(schema: &SchemaRef) -> impl Iterator<Item = String> + '_ {
    schema.fields().iter().map(|field| field.name().clone())
}

fn curve(table: &TableRef, column: &str) -> Result<Option<Chart>> {
    let (steps, values) = (numbers(table, "step")?, numbers(table, column)?);
    let points: Vec<_> = steps
        .into_iter()
        .zip(values)
        .filter_map(|(step, value)| Some((step?, value.filter(|value| value.is_finite())?)))
        .collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(None) };
    let summary = format!("{} to {}", number(first.1), number(last.1));
    Ok(Some(Chart { title: column.to_owned(), summary, svg: render::curve(&points) }))
}

fn histogram(table: &TableRef, column: &str) -> Result<Option<Chart>> {
    let values = numbers(table, column)?.into_iter().flatten().filter(|value| value.is_finite());
    let values: Vec<_> = values.collect();
    if values.is_empty() {
        return Ok(None);
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let summary = format!("{} rows, mean {}", values.len(), number(mean));
    Ok(Some(Chart { title: column.to_owned(), summary, svg: render::histogram(&values) }))
}

/// A column of numbers.
fn numbers(table: &TableRef, column: &str) -> Result<Vec<Option<f64>>> {
    let mut numbers = Vec::with_capacity(table.rows() as usize);
    for batch in table.batches_of(vec![table.schema.index_of(column)?]) {
        let values = cast(batch?.column(0), &DataType::Float64)?;
        numbers.extend(values.as_primitive::<Float64Type>().iter());
    }
    Ok(numbers)
}

/// The tables that the pipeline wants shown, or else those that no other node reads.
fn tables(graph: &Graph, lookup: &Lookup) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for show in &graph.show {
        tables.extend(table(lookup, show.endpoint, &show.name, &show.columns, show.limit)?);
    }
    if !graph.show.is_empty() {
        return Ok(tables);
    }
    for index in graph.order() {
        let node = graph.node(*index);
        if !graph.readers(*index).is_empty() {
            continue;
        }
        for (port, info) in node.stage.outputs.iter().enumerate() {
            let name = format!("{}.{}", node.name, info.name);
            let endpoint = Endpoint { node: *index, port };
            tables.extend(table(lookup, endpoint, &name, &[], ROWS)?);
        }
    }
    Ok(tables)
}

fn table(
    lookup: &Lookup,
    endpoint: Endpoint,
    name: &str,
    columns: &[String],
    limit: usize,
) -> Result<Option<Table>> {
    let Some(PortResult::Table(table)) = lookup.output(endpoint) else { return Ok(None) };
    let rows = project(read_rows(table, None, limit)?, columns)?;
    let cells = render::cells(&rows)?;
    Ok(Some(Table {
        name: name.to_owned(),
        rows: table.rows(),
        shown: cells.len(),
        columns: rows.first().map_or_else(Vec::new, |rows| names(&rows.schema()).collect()),
        cells,
    }))
}
