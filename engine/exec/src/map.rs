//! A map stage at work: part by part, and of each part only the rows that no committed part has.

use std::collections::HashSet;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use paraloom_host::Worker;
use paraloom_pipeline::Endpoint;
use paraloom_store::{Digest, Entry, Event, Lock, Origin, PartFile, PartRecord, RowMap};

use crate::context::NodeContext;
use crate::error::{Result, RunError};
use crate::input::read_part;
use crate::lookup::{Committed, OutputParts};
use crate::retry::with_retries;
use crate::reuse::{KnownRows, Piece, Split};
use crate::rows::map_rows;
use crate::schedule::{Task, Work};
use crate::share::{Shard, order};
use crate::slice::{Slice, slices};
use crate::worker::{Begun, Run, Taken};

/// What a map node keeps from part to part.
pub(crate) struct MapState {
    started: Instant,
    committed: Committed,
    /// How long the file of records was when `committed` had all of it.
    read_to: u64,
    /// The right to compute. Held from part to part only while they come without a wait: two nodes in a row can have
    /// one key (the same stage with the same settings), and the second would wait for rows that the first may not compute.
    lock: Option<Lock>,
    /// The rows of the parts that were there at the start; looked at once a part is missing.
    known: Option<KnownRows>,
    /// The stage, opened once there is something to compute.
    worker: Option<Box<dyn Worker>>,
    outputs: OutputParts,
    /// How many slices of the part at hand are mapped.
    slice: usize,
    /// Where several processes share the work: whether nothing is left of it, and the slices that were computed here.
    is_shared_out: bool,
    own: HashSet<Digest>,
    /// Slices that were computed, slices that were there, and rows that need not be computed.
    computed: u64,
    found: u64,
    rows_found: u64,
}

impl MapState {
    fn begin(begun: &Begun) -> Result<Self> {
        begun.send(begun.started());
        begun.entry.prepare(&begun.context.preimage)?;
        Ok(Self {
            started: Instant::now(),
            read_to: begun.entry.log_length(),
            committed: Committed::read(&begun.entry)?,
            lock: None,
            known: None,
            worker: None,
            outputs: OutputParts::new(begun.context.node),
            slice: 0,
            is_shared_out: false,
            own: HashSet::new(),
            computed: 0,
            found: 0,
            rows_found: 0,
        })
    }
}

impl<'a> Run<'a> {
    /// Maps parts for as long as there are some.
    pub(crate) fn map(&self, mut begun: Begun<'a>, mut task: Task) -> Result<()> {
        let node = task.node;
        let mut state = match begun.map.take() {
            Some(state) => state,
            None => MapState::begin(&begun)?,
        };
        if let Some(shard) = self.options.share.filter(|_| !state.is_shared_out) {
            let holder = At { run: self, begun: &begun, state: &mut state }.share(shard)?;
            if let Some(holder) = holder {
                begun.map = Some(state);
                self.wait_for(holder, begun);
                return Ok(());
            }
            state.is_shared_out = true;
        }
        loop {
            let Work::Part(index) = task.work else {
                drop((state.worker.take(), state.lock.take()));
                let outputs = state.outputs;
                let (key, context) = (begun.context.key.clone(), &begun.context);
                let result = outputs.result(&begun.entry, key, context.node);
                let counts = (state.computed, state.found, Some(state.rows_found));
                self.finish(begun, result, counts, state.started);
                return Ok(());
            };
            let from = begun.context.mapped();
            let part = from.and_then(|from| self.crew.part(from, index));
            let (source, part) = part.ok_or_else(|| RunError::Internal {
                what: format!("`{}` was given a part that is not there", begun.name()),
            })?;
            let mut at = At { run: self, begun: &begun, state: &mut state };
            if let Some(holder) = at.part(&source, &part)? {
                begun.map = Some(state);
                self.wait_for(holder, begun);
                return Ok(());
            }
            self.crew.part_mapped(node);
            match self.crew.more(node) {
                Some(next) => task = next,
                None => {
                    state.lock = None;
                    begun.map = Some(state);
                    self.crew.park(node, begun);
                    return Ok(());
                }
            }
        }
    }
}

/// A map node at one part.
struct At<'r, 'a> {
    run: &'r Run<'a>,
    begun: &'r Begun<'a>,
    state: &'r mut MapState,
}

impl<'r, 'a> At<'r, 'a> {
    fn context(&self) -> &'r NodeContext<'a> {
        &self.begun.context
    }

    /// Takes the right to compute, or says who has it. What others have committed meanwhile is not computed again.
    fn take_lock(&mut self) -> Result<Option<String>> {
        if self.state.lock.is_some() {
            return Ok(None);
        }
        let is_shared = self.run.options.share.is_some();
        match self.begun.lock_parts(is_shared)? {
            Taken::Lock(lock) => self.state.lock = Some(lock),
            Taken::By(holder) => return Ok(Some(holder)),
        }
        let length = self.begun.entry.log_length();
        if length != self.state.read_to {
            self.state.committed = Committed::read(&self.begun.entry)?;
            self.state.known = None;
            self.state.read_to = length;
        }
        Ok(None)
    }

    /// Where several processes share the work: computes what is not there, first of the own shard and then of any, until all
    /// is there. Or says which process has the right to do so alone.
    fn share(&mut self, shard: Shard) -> Result<Option<String>> {
        if let Some(holder) = self.take_lock()? {
            return Ok(Some(holder));
        }
        let Some(from) = self.context().mapped() else { return Ok(None) };
        let parts = (0..).map_while(|index| self.run.crew.part(from, index));
        let parts: Vec<_> = parts.collect();
        let node = self.context().node;
        let all: Vec<_> = (0..)
            .zip(&parts)
            .flat_map(|(number, (_, part))| slices(node, part).map(move |slice| (number, slice)))
            .collect();
        let nonce = format!("{} {shard} {:?}", std::process::id(), Instant::now());
        let mut read: Option<(usize, RecordBatch)> = None;
        for number in order(all.len(), shard, &nonce) {
            let (index, slice) = &all[number];
            if self.run.crew.should_stop() {
                return Err(RunError::Stopped);
            }
            if self.is_done(slice)? {
                continue;
            }
            let (source, part) = &parts[*index];
            let rows = match read.take().filter(|(known, _)| known == index) {
                Some((_, rows)) => rows,
                None => read_part(source, part)?,
            };
            let (_, rows) = read.insert((*index, rows));
            self.commit(source, part, rows, slice)?;
            self.state.own.insert(slice.digest);
        }
        Ok(None)
    }

    /// Whether a slice is there, of whichever process.
    fn is_done(&mut self, slice: &Slice) -> Result<bool> {
        let (entry, state) = (&self.begun.entry, &mut *self.state);
        if state.committed.get(&slice.digest).is_none() && entry.log_length() != state.read_to {
            let (records, read_to) = entry.records_since(state.read_to)?;
            records.iter().for_each(|record| state.committed.insert(record));
            state.read_to = read_to;
        }
        if state.committed.get(&slice.digest).is_none()
            && let Some(record) = entry.find_record(&slice.digest)?
        {
            state.committed.insert(&record);
        }
        Ok(state.committed.get(&slice.digest).is_some())
    }

    /// Maps what is left of a part, slice by slice, or says which process has the right to.
    fn part(&mut self, source: &Entry, part: &PartFile) -> Result<Option<String>> {
        let index = self.context().index;
        let mut read = None;
        for slice in slices(self.context().node, part).skip(self.state.slice) {
            if self.run.crew.should_stop() {
                return Err(RunError::Stopped);
            }
            if self.state.committed.get(&slice.digest).is_none()
                && let Some(holder) = self.take_lock()?
            {
                return Ok(Some(holder));
            }
            // Others may have made it since.
            self.is_done(&slice)?;
            let outputs = match self.committed(&slice) {
                Some(outputs) => outputs,
                None => {
                    let rows = match read.take() {
                        Some(rows) => rows,
                        None => read_part(source, part)?,
                    };
                    self.commit(source, part, read.insert(rows), &slice)?
                }
            };
            for (port, part) in outputs.iter().enumerate() {
                if let Some(part) = part {
                    let from = Endpoint { node: index, port };
                    self.run.crew.part_made(from, &self.begun.entry, *part);
                }
            }
            self.state.outputs.push(&outputs);
            self.state.slice += 1;
        }
        self.state.slice = 0;
        Ok(None)
    }

    /// What came of a slice before.
    fn committed(&mut self, slice: &Slice) -> Option<Vec<Option<PartFile>>> {
        let outputs = self.state.committed.get(&slice.digest)?.to_vec();
        if self.state.own.contains(&slice.digest) {
            return Some(outputs);
        }
        self.begun.send(Event::PartFound { node: self.begun.name(), rows: slice.rows });
        self.state.found += 1;
        self.state.rows_found += slice.rows;
        Some(outputs)
    }

    /// Maps a slice of the rows of a part, and commits what comes of it.
    fn commit(
        &mut self,
        source: &Entry,
        part: &PartFile,
        rows: &RecordBatch,
        slice: &Slice,
    ) -> Result<Vec<Option<PartFile>>> {
        let rows = rows.slice(slice.start as usize, slice.rows as usize);
        let key = source.key();
        let origin = key.as_ref().map(|key| Origin { key, part, row: slice.start, rows: &rows });
        let (record, reused) = self.compute(&rows, origin.as_ref(), slice)?;
        self.begun.entry.commit_part(&record)?;
        self.state.committed.insert(&record);
        if self.run.options.share.is_none() {
            self.state.read_to = self.begun.entry.log_length();
        }
        self.begun.send(Event::Part { node: self.begun.name(), rows: slice.rows, reused });
        self.state.computed += 1;
        self.state.rows_found += reused;
        Ok(record.outputs)
    }

    /// The record of a slice, and how many of its rows were known.
    fn compute(
        &mut self,
        rows: &RecordBatch,
        origin: Option<&Origin>,
        slice: &Slice,
    ) -> Result<(PartRecord, u64)> {
        let outputs = match self.split(rows)? {
            Some(split) if split.known() > 0 => self.pieced(slice, rows, split)?,
            Some(split) => self.whole(slice, rows, Some(split))?,
            None => self.whole(slice, rows, None)?,
        };
        let Outputs { tables, map, reused } = outputs;
        let keep = |(rows, schema): (Option<RecordBatch>, &Option<SchemaRef>)| match (rows, schema)
        {
            (Some(rows), Some(schema)) if rows.num_rows() > 0 => {
                let entry = &self.begun.entry;
                let part = match origin {
                    Some(origin) => entry.write_part_of(schema, &rows, origin),
                    None => entry.write_part(schema, &rows),
                };
                part.map(Some)
            }
            _ => Ok(None),
        };
        let outputs = tables.into_iter().zip(&self.context().node.outputs).map(keep);
        let outputs = outputs.collect::<Result<_, _>>()?;
        Ok((PartRecord { input: slice.digest, outputs, rows: map }, reused))
    }

    /// What of some rows is known; none if the stage may mix rows.
    fn split(&mut self, rows: &RecordBatch) -> Result<Option<Split>> {
        if !self.context().node.stage.batch_invariant {
            return Ok(None);
        }
        let known = match self.state.known.take() {
            Some(known) => known,
            None => KnownRows::read(&self.begun.entry)?,
        };
        let split = self.state.known.insert(known).split(rows);
        split.map(Some).map_err(|error| RunError::from_store(&self.context().node.name, error))
    }

    /// Computes all rows of a slice.
    fn whole(
        &mut self,
        slice: &Slice,
        rows: &RecordBatch,
        split: Option<Split>,
    ) -> Result<Outputs> {
        let tables = self.call(slice, rows)?;
        let map = split.and_then(|split| {
            let counts = tables.iter().map(|table| match table {
                Some(table) => Some(Piece::of(table.clone(), rows)?.counts()),
                None => Some(Vec::new()),
            });
            Some(RowMap::new(&split.digests, counts.collect::<Option<_>>()?))
        });
        Ok(Outputs { tables, map, reused: 0 })
    }

    /// Computes the new rows of a slice and puts the known ones in between.
    fn pieced(&mut self, slice: &Slice, rows: &RecordBatch, split: Split) -> Result<Outputs> {
        let node = self.context().node;
        let bad = |error: ArrowError| RunError::Output {
            node: node.name.clone(),
            what: error.to_string(),
        };
        let new_rows = split.new_rows(rows).map_err(bad)?;
        let new = if new_rows.num_rows() > 0 {
            self.call(slice, &new_rows)?
        } else {
            let empty = |schema: &Option<SchemaRef>| schema.clone().map(RecordBatch::new_empty);
            node.outputs.iter().map(empty).collect()
        };
        let (mut tables, mut counts) = (Vec::new(), Vec::new());
        for (port, (new, schema)) in new.into_iter().zip(&node.outputs).enumerate() {
            let (Some(new), Some(schema)) = (new, schema) else {
                tables.push(None);
                counts.push(Vec::new());
                continue;
            };
            let Some(new) = Piece::of(new, &new_rows) else {
                // The stage has lost track of its rows, which it did not do before.
                return self.whole(slice, rows, None);
            };
            let known = self.known_pieces(&split, port, schema)?;
            let (rows, count) = split.assemble(schema, &known, &new).map_err(bad)?;
            tables.push(Some(rows));
            counts.push(count);
        }
        let map = Some(RowMap::new(&split.digests, counts));
        Ok(Outputs { tables, map, reused: split.known() as u64 })
    }

    /// One output of every record that holds known rows.
    fn known_pieces(&self, split: &Split, port: usize, schema: &SchemaRef) -> Result<Vec<Piece>> {
        let Some(known) = &self.state.known else { return Ok(Vec::new()) };
        let piece = |number: u32| {
            let record = known.record(number)?;
            let Some(map) = &record.rows else {
                let what = "a record of known rows has lost them".to_owned();
                return Err(RunError::Internal { what });
            };
            let rows = match record.outputs.get(port).copied().flatten() {
                Some(part) => read_part(&self.begun.entry, &part)?,
                None => RecordBatch::new_empty(SchemaRef::clone(schema)),
            };
            Ok(Piece { rows, ranges: map.ranges(port) })
        };
        split.records().into_iter().map(piece).collect()
    }

    /// Has the stage map rows: one table per output port, with ids. The salt of new ids is the slice, so that equal
    /// rows from different slices differ.
    fn call(&mut self, slice: &Slice, rows: &RecordBatch) -> Result<Vec<Option<RecordBatch>>> {
        let (context, entry) = (self.context(), &self.begun.entry);
        let node = context.node;
        let worker = match self.state.worker.take() {
            Some(worker) => worker,
            None => with_retries(node, &self.begun.services, || {
                context.open(self.run.options, &self.begun.services)
            })?,
        };
        let worker = self.state.worker.insert(worker);
        map_rows(node, &mut **worker, &self.begun.services, rows, |port, schema| {
            let (stage, output) = (&node.stage.name, &node.stage.outputs[port].name);
            entry.identify(SchemaRef::clone(schema), format!("{stage}/{output}/{}", slice.digest))
        })
    }
}

/// What came of a slice.
struct Outputs {
    tables: Vec<Option<RecordBatch>>,
    map: Option<RowMap>,
    reused: u64,
}
