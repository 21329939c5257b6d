//! A map stage at work: part by part, and of each part only the rows that no committed part has.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use paraloom_host::{PlannedStage, WorkInput, Worker};
use paraloom_pipeline::Endpoint;
use paraloom_store::{Entry, Lock, PartFile, PartRecord, RowMap};

use crate::account::check_map;
use crate::call;
use crate::error::{Result, RunError};
use crate::event::Event;
use crate::keys::check_fetched;
use crate::lookup::{Committed, OutputParts, PortResult};
use crate::node::{NodeRun, ReadError, artifact_input, read_part, table_input};
use crate::reuse::{KnownRows, Piece, Split};
use crate::services::NodeServices;

/// What the parts of one map node share.
struct MapWork<'a> {
    run: &'a NodeRun<'a>,
    entry: &'a Entry,
    results: Vec<Option<PortResult>>,
    services: Arc<NodeServices>,
    committed: Committed,
    /// How long the file of records was when `committed` had all of it.
    read_to: u64,
    /// The right to compute. Held only while there is something to do: whoever holds it and waits for an input could
    /// wait for a node that needs it, since a stage can be used twice in a row with the same settings.
    lock: Option<Lock>,
    /// The rows of the parts that were there at the start; looked at once a part is missing.
    known: Option<KnownRows>,
    /// The stage, opened once there is something to compute.
    opened: Option<(PlannedStage, Worker)>,
}

/// What came of one input part, by output port.
struct Done {
    outputs: Vec<Option<PartFile>>,
    /// Rows of the input that were not computed now.
    found: u64,
    computed: bool,
}

/// What came of all of them.
struct Tally {
    outputs: OutputParts,
    /// Parts that were computed, and parts that were there.
    computed: u64,
    found: u64,
    rows_found: u64,
}

impl NodeRun<'_> {
    pub(crate) fn map(&self) -> Result<()> {
        let (results, key, preimage, entry) = self.place()?;
        let from = self.shared.graph.mapped(self.index).ok_or(RunError::Stopped)?;
        entry.prepare(&preimage)?;
        // Until there are rows it has nothing to do: that is not its time.
        self.shared.board.part(from, 0)?;
        let started = Instant::now();
        let stage = self.node.stage.name.clone();
        self.send(Event::NodeStarted { node: self.name(), key: key.to_string(), stage });
        let read_to = entry.log_length();
        let mut work = MapWork {
            run: self,
            entry: &entry,
            results,
            services: self.services(&entry),
            committed: Committed::read(&entry)?,
            read_to,
            lock: None,
            known: None,
            opened: None,
        };
        let outcome = work.parts(from);
        work.lock = None;
        drop(work.opened.take());
        work.services.clean_up();
        let Tally { outputs, computed, found, rows_found } = outcome?;
        let result = outputs.result(&entry, key, self.node);
        self.finish(result, computed, found, Some(rows_found), started);
        Ok(())
    }
}

impl MapWork<'_> {
    /// Follows the input part by part, as they are committed.
    fn parts(&mut self, from: Endpoint) -> Result<Tally> {
        let outputs = OutputParts::new(self.run.node);
        let mut tally = Tally { outputs, computed: 0, found: 0, rows_found: 0 };
        for index in 0.. {
            let Some((source, part)) = self.next(from, index)? else { break };
            let done = self.part(&source, &part)?;
            for (port, part) in done.outputs.iter().enumerate() {
                if let Some(part) = part {
                    let endpoint = Endpoint { node: self.run.index, port };
                    self.run.shared.board.publish_part(endpoint, self.entry, *part);
                }
            }
            tally.outputs.push(&done.outputs);
            tally.rows_found += done.found;
            *(if done.computed { &mut tally.computed } else { &mut tally.found }) += 1;
        }
        Ok(tally)
    }

    fn next(&mut self, from: Endpoint, index: usize) -> Result<Option<(Entry, PartFile)>> {
        let board = &self.run.shared.board;
        if let Some(next) = board.part_now(from, index) {
            return Ok(next);
        }
        self.lock = None;
        board.part(from, index)
    }

    /// Takes the right to compute. What others have committed meanwhile is not computed again.
    fn take_lock(&mut self) -> Result<()> {
        if self.lock.is_none() {
            self.lock = Some(self.run.lock(self.entry)?);
            let length = self.entry.log_length();
            if length != self.read_to {
                self.committed = Committed::read(self.entry)?;
                self.known = None;
                self.read_to = length;
            }
        }
        Ok(())
    }

    fn part(&mut self, source: &Entry, part: &PartFile) -> Result<Done> {
        let (node, rows) = (self.run.name(), part.rows);
        if self.committed.get(&part.digest).is_none() {
            self.take_lock()?;
        }
        if let Some(outputs) = self.committed.get(&part.digest) {
            self.run.send(Event::PartFound { node, rows });
            return Ok(Done { outputs: outputs.to_vec(), found: rows, computed: false });
        }
        let (record, reused) = self.compute(source, part)?;
        self.entry.commit_part(&record)?;
        self.committed.insert(&record);
        self.read_to = self.entry.log_length();
        self.run.send(Event::Part { node, rows, reused });
        Ok(Done { outputs: record.outputs, found: reused, computed: true })
    }

    /// The record of a part, and how many of its rows were known.
    fn compute(&mut self, source: &Entry, part: &PartFile) -> Result<(PartRecord, u64)> {
        let rows = read_part(source, part)?;
        let outputs = match self.split(&rows)? {
            Some(split) if split.known() > 0 => self.pieced(part, &rows, split)?,
            Some(split) => self.whole(part, &rows, Some(split))?,
            None => self.whole(part, &rows, None)?,
        };
        let Outputs { tables, map, reused } = outputs;
        let keep = |(rows, schema): (Option<RecordBatch>, &Option<SchemaRef>)| match (rows, schema)
        {
            (Some(rows), Some(schema)) => self.entry.write_part(schema, &rows).map(Some),
            _ => Ok(None),
        };
        let outputs = tables.into_iter().zip(&self.run.node.outputs).map(keep);
        let outputs = outputs.collect::<Result<_, _>>()?;
        Ok((PartRecord { input: part.digest, outputs, rows: map }, reused))
    }

    /// What of some rows is known; none if the stage may mix rows.
    fn split(&mut self, rows: &RecordBatch) -> Result<Option<Split>> {
        if !self.run.node.stage.batch_invariant {
            return Ok(None);
        }
        let known = match self.known.take() {
            Some(known) => known,
            None => KnownRows::read(self.entry)?,
        };
        self.known.insert(known).split(rows).map(Some).map_err(|error| self.run.rows_error(error))
    }

    /// Computes all rows of a part.
    fn whole(
        &mut self,
        part: &PartFile,
        rows: &RecordBatch,
        split: Option<Split>,
    ) -> Result<Outputs> {
        let tables = self.call(part, rows)?;
        let map = split.and_then(|split| {
            let counts = tables.iter().map(|table| match table {
                Some(table) => Some(Piece::of(table.clone(), rows)?.counts()),
                None => Some(Vec::new()),
            });
            Some(RowMap::new(&split.digests, counts.collect::<Option<_>>()?))
        });
        Ok(Outputs { tables, map, reused: 0 })
    }

    /// Computes the new rows of a part and puts the known ones in between.
    fn pieced(&mut self, part: &PartFile, rows: &RecordBatch, split: Split) -> Result<Outputs> {
        let run = self.run;
        let bad = |error: ArrowError| run.bad_output(&error);
        let new_rows = split.new_rows(rows).map_err(bad)?;
        let new = if new_rows.num_rows() > 0 {
            self.call(part, &new_rows)?
        } else {
            let empty = |schema: &Option<SchemaRef>| schema.clone().map(RecordBatch::new_empty);
            self.run.node.outputs.iter().map(empty).collect()
        };
        let (mut tables, mut counts) = (Vec::new(), Vec::new());
        for (port, (new, schema)) in new.into_iter().zip(&self.run.node.outputs).enumerate() {
            let (Some(new), Some(schema)) = (new, schema) else {
                tables.push(None);
                counts.push(Vec::new());
                continue;
            };
            let Some(new) = Piece::of(new, &new_rows) else {
                // The stage has lost track of its rows, which it did not do before.
                return self.whole(part, rows, None);
            };
            let known = self.known_pieces(&split, port)?;
            let (rows, count) = split.assemble(schema, &known, &new).map_err(bad)?;
            tables.push(Some(rows));
            counts.push(count);
        }
        let map = Some(RowMap::new(&split.digests, counts));
        Ok(Outputs { tables, map, reused: split.known() as u64 })
    }

    /// One output of every record that holds known rows.
    fn known_pieces(&self, split: &Split, port: usize) -> Result<Vec<Piece>> {
        let Some(known) = &self.known else { return Ok(Vec::new()) };
        let piece = |number: u32| {
            let record = known.record(number)?;
            let (Some(Some(part)), Some(map)) = (record.outputs.get(port), &record.rows) else {
                return Err(RunError::Stopped);
            };
            Ok(Piece { rows: read_part(self.entry, part)?, ranges: map.ranges(port) })
        };
        split.records().into_iter().map(piece).collect()
    }

    /// Has the stage map rows: one table per output port, with ids.
    fn call(&mut self, part: &PartFile, rows: &RecordBatch) -> Result<Vec<Option<RecordBatch>>> {
        let _permit = self.run.shared.board.permit()?;
        if self.opened.is_none() {
            check_fetched(self.run.node)?;
            let mut planned = self.run.plan_stage()?;
            let worker = self.open(&mut planned)?;
            self.opened = Some((planned, worker));
        }
        let (_, worker) = self.opened.as_mut().ok_or(RunError::Stopped)?;
        let outputs = &self.run.node.outputs;
        let pushed = call::map(worker, rows, outputs.len());
        let pushed = pushed.map_err(|error| self.run.host_error(error))?;
        let tables = pushed.into_iter().zip(outputs).enumerate();
        let tables = tables.map(|(port, (batches, schema))| {
            let Some(schema) = schema else { return Ok(None) };
            self.identified(port, schema, batches, part).map(Some)
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        let stage = &self.run.node.stage;
        check_map(stage, rows, &tables)
            .map_err(|what| RunError::miscounted(&self.run.node.name, stage.rows, what))?;
        Ok(tables)
    }

    fn open(&self, planned: &mut PlannedStage) -> Result<Worker> {
        let mut inputs = Vec::with_capacity(self.results.len());
        for (result, (from, _)) in self.results.iter().zip(&self.run.inputs) {
            inputs.push(match result {
                Some(PortResult::Table(table)) => table_input(table, &ReadError::default()),
                Some(artifact) => match artifact_input(artifact)? {
                    Some(input) => input,
                    None => continue,
                },
                // The mapped table: its rows come through map().
                None => {
                    let schema = self.run.shared.graph.node(from.node).outputs[from.port].clone();
                    let schema = schema.ok_or(RunError::Stopped)?;
                    WorkInput::Table(schema, Box::new(std::iter::empty()))
                }
            });
        }
        let services = Arc::clone(&self.services);
        let opened = planned.open(&self.run.settings(), services as _, inputs);
        opened.map_err(|error| self.run.host_error(error))
    }

    /// The batches that a stage pushed as one table with ids. The salt of new ids is the input part, so that equal rows
    /// from different parts differ.
    fn identified(
        &self,
        port: usize,
        schema: &SchemaRef,
        batches: Vec<RecordBatch>,
        input: &PartFile,
    ) -> Result<RecordBatch> {
        let stage = &self.run.node.stage;
        let salt = format!("{}/{}/{}", stage.name, stage.outputs[port].name, input.digest);
        let identify = self.entry.identify(Arc::clone(schema), salt);
        call::join(schema, batches, identify).map_err(|error| self.run.rows_error(error))
    }
}

/// What came of one part.
struct Outputs {
    tables: Vec<Option<RecordBatch>>,
    map: Option<RowMap>,
    reused: u64,
}
