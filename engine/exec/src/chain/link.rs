//! One node of a chain, opened with its own settings and, for a while, with those that requests ask for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use paraloom_host::{HostError, WorkInput, WorkOutput, WorkSettings, Worker};
use paraloom_pipeline::{Node, RowAccount, Shape, with_id};
use paraloom_store::{Event, Store};
use serde_json::{Map, Value};

use super::parameters::{Changes, MarkColumns, changed, free_marks};
use super::{Mapped, Mark};
use crate::account::origins;
use crate::context::{Bound, NodeContext};
use crate::error::{Result, RunError};
use crate::input::{ReadError, artifact_input};
use crate::lookup::PortResult;
use crate::rows::map_rows;
use crate::run::{Cancel, RunOptions};
use crate::services::NodeServices;

/// How many other settings a node is kept open with. Each is a process of a stage that works in one.
const KEPT_OPEN: usize = 4;

/// One node of a chain.
pub(super) struct Link<'a> {
    context: NodeContext<'a>,
    options: RunOptions,
    /// Has a stage said what it says.
    events: Sender<Event>,
    cancel: Cancel,
    services: Arc<NodeServices>,
    /// By input: the directory of an artifact, which was checked once.
    dirs: Vec<Option<PathBuf>>,
    /// With the settings of the pipeline.
    own: Instance,
    /// With others; what was used last is the last.
    others: Vec<(Map<String, Value>, Instance)>,
    /// The output that the next link reads; of the last, the first one.
    pub(super) next: usize,
    /// The settings that are turned on so that it marks its rows.
    marking: Vec<String>,
}

/// A stage at work, with certain settings.
struct Instance {
    node: Node,
    work: Work,
    marks: MarkColumns,
}

/// How a stage gets rows.
enum Work {
    /// It maps them, with everything loaded.
    Map(Box<dyn Worker>),
    /// It runs for each batch.
    Whole,
}

/// A whole stage, as if it mapped rows.
struct Whole<'a> {
    context: NodeContext<'a>,
    dirs: &'a [Option<PathBuf>],
    settings: WorkSettings,
    services: Arc<NodeServices>,
}

impl Worker for Whole<'_> {
    fn map(
        &mut self,
        rows: &RecordBatch,
        outputs: Vec<WorkOutput<'_>>,
    ) -> paraloom_host::Result<()> {
        let mut planned = self.context.plan_anew()?;
        let read_error = ReadError::default();
        let inputs = inputs(&self.context, self.dirs, Some(rows), &read_error);
        let inputs = inputs.map_err(|error| HostError::Engine(Box::new(error)))?;
        let services = Arc::clone(&self.services);
        planned.run(&self.settings, services as _, inputs, outputs)
    }
}

impl<'a> Link<'a> {
    pub(super) fn open(
        context: NodeContext<'a>,
        options: &RunOptions,
        cancel: &Cancel,
        events: &Sender<Event>,
        next: usize,
    ) -> Result<Self> {
        let node = context.node.clone();
        let services = services(&node.name, options, cancel, events);
        let dir = |input: &Bound| match &input.content {
            Some(PortResult::Artifact { entry, port, artifact }) => {
                match artifact_input(entry, port, artifact)? {
                    WorkInput::Artifact(dir) => Ok(Some(dir)),
                    WorkInput::Table(..) => Ok(None),
                }
            }
            _ => Ok(None),
        };
        let dirs = context.inputs.iter().map(dir).collect::<Result<Vec<_>>>()?;
        let mut planned = context.plan()?;
        let work = if node.stage.shape == Shape::Whole {
            Work::Whole
        } else {
            let read_error = ReadError::default();
            let inputs = inputs(&context, &dirs, None, &read_error)?;
            let settings = context.settings(options);
            let worker = planned.open(&settings, Arc::clone(&services) as _, inputs);
            Work::Map(worker.map_err(|error| read_error.or(&node.name, error))?)
        };
        let own = Instance { node, work, marks: MarkColumns::default() };
        let (options, others, marking) = (options.clone(), Vec::new(), Vec::new());
        let (events, cancel) = (events.clone(), cancel.clone());
        Ok(Self { context, options, events, cancel, services, dirs, own, others, next, marking })
    }

    /// The node as it is in the pipeline.
    pub(super) fn node(&self) -> &'a Node {
        self.context.node
    }

    /// Has the stage tell what it leaves out of texts, if it can.
    pub(super) fn mark(&mut self) -> Result<()> {
        let marking = free_marks(self.node());
        if marking != self.marking {
            self.marking = marking;
            self.own = self.instance(&Map::new())?;
        }
        Ok(())
    }

    /// Opens the stage with some settings changed.
    fn instance(&self, changes: &Map<String, Value>) -> Result<Instance> {
        let original = self.node();
        let refused = |what: String| RunError::Refused { node: original.name.clone(), what };
        let (mut node, marks) = changed(original, changes, &self.marking).map_err(refused)?;
        let context = self.context.with_node(&node);
        let planned = context.plan_anew();
        let mut planned = planned.map_err(|error| match error {
            HostError::Stage(failure) => {
                let hint = failure.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                refused(format!("{}{hint}", failure.message))
            }
            error => RunError::from_host(&original.name, error),
        })?;
        let outputs = planned.output().outputs.iter().map(|schema| schema.clone().map(with_id));
        let added = original.outputs.iter().skip(original.own_outputs().len()).cloned();
        let outputs: Vec<_> = outputs.chain(added).collect();
        let has_all = |(new, old): (&Option<SchemaRef>, &Option<SchemaRef>)| match (new, old) {
            (Some(new), Some(old)) => old.fields().iter().all(|field| {
                new.field_with_name(field.name()).is_ok_and(|found| found == field.as_ref())
            }),
            (new, old) => new.is_none() && old.is_none(),
        };
        if outputs.len() != original.outputs.len()
            || !outputs.iter().zip(&original.outputs).all(has_all)
        {
            return Err(refused("these settings would change its columns".to_owned()));
        }
        let work = if node.stage.shape == Shape::Whole {
            Work::Whole
        } else {
            let read_error = ReadError::default();
            let inputs = inputs(&context, &self.dirs, None, &read_error)?;
            let settings = context.settings(&self.options);
            let worker = planned.open(&settings, Arc::clone(&self.services) as _, inputs);
            Work::Map(worker.map_err(|error| read_error.or(&original.name, error))?)
        };
        node.outputs = outputs;
        Ok(Instance { node, work, marks })
    }

    /// Has the stage opened with these settings, the last of the others.
    fn open_with(&mut self, changes: &Map<String, Value>) -> Result<()> {
        let found = self.others.iter().position(|(known, _)| known == changes);
        let other = match found {
            Some(at) => self.others.remove(at),
            None => (changes.clone(), self.instance(changes)?),
        };
        if self.others.len() >= KEPT_OPEN {
            self.others.remove(0);
        }
        self.others.push(other);
        Ok(())
    }

    /// The table outputs that the next link does not read, of a stage all of whose rows go somewhere: by their numbers.
    pub(super) fn exits(&self) -> impl Iterator<Item = (usize, &'a SchemaRef)> {
        let (node, next) = (self.node(), self.next);
        let says = matches!(node.stage.rows, RowAccount::Divided | RowAccount::Covered)
            || node.rejects.is_some();
        let tables = node.outputs.iter().enumerate().filter(move |_| says);
        tables
            .filter_map(|(port, schema)| Some((port, schema.as_ref()?)))
            .filter(move |(port, _)| *port != next)
    }

    /// One table per output port.
    pub(super) fn map(
        &mut self,
        store: &Store,
        input: &Mapped,
        changes: &Changes,
    ) -> Result<Vec<Option<Mapped>>> {
        let original = self.node();
        let changes = changes.of(&original.name);
        if !changes.is_empty() {
            self.open_with(&changes)?;
        }
        let Self { context, options, events, cancel, services, dirs, own, others, .. } = self;
        let other = others.last_mut().filter(|_| !changes.is_empty());
        let Instance { node, work, marks } = other.map_or(own, |(_, instance)| instance);
        let mut whole = match work {
            Work::Map(_) => None,
            Work::Whole => {
                let context = context.with_node(node);
                let settings = context.settings(options);
                // Its scratch space goes with its services.
                let services = self::services(&node.name, options, cancel, events);
                Some(Whole { context, dirs, settings, services })
            }
        };
        let worker: &mut dyn Worker = match (work, &mut whole) {
            (Work::Map(worker), _) => &mut **worker,
            (Work::Whole, Some(whole)) => whole,
            (Work::Whole, None) => {
                return Err(RunError::Internal { what: "a stage without work".to_owned() });
            }
        };
        let tables = map_rows(node, worker, services, &input.rows, |port, schema| {
            let (stage, output) = (&node.stage.name, &node.stage.outputs[port].name);
            store.identify(Arc::clone(schema), format!("{stage}/{output}"))
        })?;
        let mapped = |(rows, schema): (Option<RecordBatch>, &Option<SchemaRef>)| {
            let Some(rows) = rows else { return Ok(None) };
            let own = origins(&rows, &input.rows);
            let origins = input.origins.as_ref().and_then(|before| {
                Some(own.as_ref()?.iter().map(|origin| before[*origin]).collect())
            });
            let marks = own.zip(input.marks.as_ref()).map(|(own, before)| {
                let read = |(row, origin): (usize, &usize)| {
                    let (own, before) = (mark(&rows, marks, row), before[*origin]);
                    Mark {
                        is_cut: own.is_cut || before.is_cut,
                        is_unfinished: own.is_unfinished || before.is_unfinished,
                        tokens_read: before.tokens_read.or(own.tokens_read),
                        tokens_written: own.tokens_written.or(before.tokens_written),
                    }
                };
                own.iter().enumerate().map(read).collect()
            });
            let rows = match schema {
                Some(schema) if **schema != *rows.schema() => as_planned(&rows, schema)?,
                _ => rows,
            };
            Ok(Some(Mapped { rows, origins, marks }))
        };
        tables.into_iter().zip(&original.outputs).map(mapped).collect()
    }
}

fn services(
    node: &str,
    options: &RunOptions,
    cancel: &Cancel,
    events: &Sender<Event>,
) -> Arc<NodeServices> {
    NodeServices::new(node, None, events.clone(), cancel.flag(), options.checkpoint_every)
}

/// What a stage reads, with directories that were checked before. A whole stage reads the rows of a batch.
fn inputs(
    context: &NodeContext,
    dirs: &[Option<PathBuf>],
    rows: Option<&RecordBatch>,
    read_error: &ReadError,
) -> Result<Vec<WorkInput>> {
    let input = |(input, dir): (&Bound, &Option<PathBuf>)| match (dir, rows) {
        (Some(dir), _) => Ok(WorkInput::Artifact(dir.clone())),
        (None, Some(rows)) if input.content.is_none() => {
            let batches = Box::new(std::iter::once(Ok(rows.clone())));
            Ok(WorkInput::Table(rows.schema(), batches))
        }
        _ => context.work_input(input, read_error),
    };
    context.inputs.iter().zip(dirs).map(input).collect()
}

/// What the stage says of a row.
fn mark(rows: &RecordBatch, columns: &MarkColumns, row: usize) -> Mark {
    let flag =
        |name: &String| -> Option<&BooleanArray> { rows.column_by_name(name)?.as_boolean_opt() };
    let text = |name: &String| -> Option<&StringArray> {
        rows.column_by_name(name)?.as_string_opt::<i32>()
    };
    let number = |name: &String| -> Option<u64> {
        let numbers = rows.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        numbers.is_valid(row).then(|| u64::try_from(numbers.value(row)).ok()).flatten()
    };
    let is_cut = columns.cut.as_ref().and_then(flag);
    let ended = columns.ended.as_ref().and_then(text);
    Mark {
        is_cut: is_cut.is_some_and(|flags| flags.iter().nth(row).flatten() == Some(true)),
        is_unfinished: ended.is_some_and(|texts| texts.iter().nth(row).flatten() == Some("length")),
        tokens_read: columns.read.as_ref().and_then(number),
        tokens_written: columns.written.as_ref().and_then(number),
    }
}

/// The columns of the pipeline's plan.
fn as_planned(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let internal = |error: arrow::error::ArrowError| RunError::Internal { what: error.to_string() };
    let places = schema.fields().iter().map(|field| rows.schema().index_of(field.name()));
    let places = places.collect::<std::result::Result<Vec<_>, _>>().map_err(internal)?;
    let columns = places.into_iter().map(|place| Arc::clone(rows.column(place))).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(internal)
}
