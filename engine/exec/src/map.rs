//! A map stage at work: part by part, and of each part only the rows that no committed part has.

use std::collections::HashSet;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use paraloom_host::Worker;
use paraloom_pipeline::Endpoint;
use paraloom_store::{
    Digest, Entry, Event, Lock, Origin, PartFile, PartRecord, RowMap, StoreError,
};

use crate::commits::{Commits, committing};
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

/// Why a map node does not go on with parts.
enum Pause {
    /// This other process has the right to compute what is missing.
    Locked(String),
    /// No more of its input is there now.
    Parked,
    /// All parts are mapped.
    Mapped,
}

/// A slice whose rows are committed.
struct Made {
    slice: Digest,
    outputs: Vec<Option<PartFile>>,
    event: Option<Event>,
    /// Whether it was committed now.
    is_new: bool,
    /// Whether its place among the parts of the outputs is here: where processes share the work, it is found out later.
    is_in_order: bool,
}

impl<'a> Run<'a> {
    /// Maps parts for as long as there are some.
    pub(crate) fn map(&self, mut begun: Begun<'a>, task: Task) -> Result<()> {
        let mut state = match begun.map.take() {
            Some(state) => state,
            None => MapState::begin(&begun)?,
        };
        let (index, entry, services) = (task.node, &begun.entry, &begun.services);
        let publish = |made: &Made| {
            made.event.iter().for_each(|event| services.send(event.clone()));
            for (port, part) in made.outputs.iter().enumerate().filter(|_| made.is_in_order) {
                if let Some(part) = part {
                    self.crew.part_made(Endpoint { node: index, port }, entry, *part);
                }
            }
        };
        let pause = committing(&begun.context.node.name, &publish, |commits| {
            let under_way = HashSet::new();
            let mut at = At { run: self, begun: &begun, state: &mut state, commits, under_way };
            let pause = at.parts(task);
            // Whatever ended the parts: what was under way came before.
            at.settle().and(pause)
        });
        match pause? {
            Pause::Locked(holder) => {
                begun.map = Some(state);
                self.wait_for(holder, begun);
            }
            Pause::Parked => {
                state.lock = None;
                begun.map = Some(state);
                self.crew.park(index, begun);
            }
            Pause::Mapped => {
                drop((state.worker.take(), state.lock.take()));
                let outputs = state.outputs;
                let (key, context) = (begun.context.key.clone(), &begun.context);
                let result = outputs.result(&begun.entry, key, context.node);
                let counts = (state.computed, state.found, Some(state.rows_found));
                self.finish(begun, result, counts, state.started);
            }
        }
        Ok(())
    }
}

/// A map node at its parts.
struct At<'r, 'a> {
    run: &'r Run<'a>,
    begun: &'r Begun<'a>,
    state: &'r mut MapState,
    commits: &'r Commits<'r, 'a, Made>,
    /// The slices that may not be committed yet.
    under_way: HashSet<Digest>,
}

impl<'r, 'a> At<'r, 'a> {
    fn context(&self) -> &'r NodeContext<'a> {
        &self.begun.context
    }

    /// Maps parts from that of a task on, until there is a reason not to.
    fn parts(&mut self, mut task: Task) -> Result<Pause> {
        if let Some(shard) = self.run.options.share.filter(|_| !self.state.is_shared_out) {
            if let Some(holder) = self.share(shard)? {
                return Ok(Pause::Locked(holder));
            }
            self.settle()?;
            self.state.is_shared_out = true;
        }
        loop {
            let Work::Part(index) = task.work else { return Ok(Pause::Mapped) };
            let from = self.context().mapped();
            let part = from.and_then(|from| self.run.crew.part(from, index));
            let (source, part) = part.ok_or_else(|| RunError::Internal {
                what: format!("`{}` was given a part that is not there", self.begun.name()),
            })?;
            if let Some(holder) = self.part(&source, &part)? {
                return Ok(Pause::Locked(holder));
            }
            self.run.crew.part_mapped(task.node);
            match self.run.crew.more(task.node) {
                Some(next) => task = next,
                None => return Ok(Pause::Parked),
            }
        }
    }

    /// Waits until all that was begun is committed.
    fn settle(&mut self) -> Result<()> {
        let made = self.commits.wait()?;
        made.into_iter().for_each(|made| self.keep(made));
        self.under_way.clear();
        if self.is_alone() {
            self.state.read_to = self.begun.entry.log_length();
        }
        Ok(())
    }

    /// Whether all that is appended to the records of this machine is of this node.
    fn is_alone(&self) -> bool {
        self.run.options.share.is_none() && self.state.lock.is_some()
    }

    /// Takes note of something that is committed.
    fn keep(&mut self, made: Made) {
        let Made { slice, outputs, is_new, is_in_order, .. } = made;
        if is_new {
            self.state.committed.insert(slice, &outputs);
        }
        if is_in_order {
            self.state.outputs.push(&outputs);
        } else {
            self.state.own.insert(slice);
        }
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
            if self.run.crew.should_stop() || self.commits.has_failed() {
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
            self.commit(source, part, rows, slice, false)?;
        }
        Ok(None)
    }

    /// Whether a slice is there, of whichever process.
    fn is_done(&mut self, slice: &Slice) -> Result<bool> {
        // Two parts of the same rows are one slice.
        if self.under_way.contains(&slice.digest) {
            self.settle()?;
        }
        let is_alone = self.is_alone();
        let (entry, state) = (&self.begun.entry, &mut *self.state);
        if state.committed.get(&slice.digest).is_none()
            && !is_alone
            && entry.log_length() != state.read_to
        {
            let (records, read_to) = entry.records_since(state.read_to)?;
            for record in &records {
                state.committed.insert(record.input, &record.outputs);
            }
            state.read_to = read_to;
        }
        if state.committed.get(&slice.digest).is_none()
            && let Some(record) = entry.find_record(&slice.digest)?
        {
            state.committed.insert(record.input, &record.outputs);
        }
        Ok(state.committed.get(&slice.digest).is_some())
    }

    /// Maps what is left of a part, slice by slice, or says which process has the right to.
    fn part(&mut self, source: &Entry, part: &PartFile) -> Result<Option<String>> {
        let mut read = None;
        for slice in slices(self.context().node, part).skip(self.state.slice) {
            if self.run.crew.should_stop() || self.commits.has_failed() {
                return Err(RunError::Stopped);
            }
            if self.state.committed.get(&slice.digest).is_none()
                && let Some(holder) = self.take_lock()?
            {
                return Ok(Some(holder));
            }
            // Others may have made it since.
            self.is_done(&slice)?;
            match self.committed(&slice) {
                Some(made) => self.commits.put(made),
                None => {
                    let rows = match read.take() {
                        Some(rows) => rows,
                        None => read_part(source, part)?,
                    };
                    self.commit(source, part, read.insert(rows), &slice, true)?;
                }
            }
            self.state.slice += 1;
        }
        self.state.slice = 0;
        Ok(None)
    }

    /// What came of a slice before.
    fn committed(&mut self, slice: &Slice) -> Option<Made> {
        let outputs = self.state.committed.get(&slice.digest)?.to_vec();
        let mut made =
            Made { slice: slice.digest, outputs, event: None, is_new: false, is_in_order: true };
        if !self.state.own.contains(&slice.digest) {
            made.event = Some(Event::PartFound { node: self.begun.name(), rows: slice.rows });
            self.state.found += 1;
            self.state.rows_found += slice.rows;
        }
        Some(made)
    }

    /// Maps a slice of the rows of a part, and begins to commit what comes of it.
    fn commit(
        &mut self,
        source: &Entry,
        part: &PartFile,
        rows: &RecordBatch,
        slice: &Slice,
        is_in_order: bool,
    ) -> Result<()> {
        let rows = rows.slice(slice.start as usize, slice.rows as usize);
        let Outputs { tables, map, reused } = self.compute(&rows, slice)?;
        self.commits.published().into_iter().for_each(|made| {
            self.under_way.remove(&made.slice);
            self.keep(made);
        });
        let event = Some(Event::Part { node: self.begun.name(), rows: slice.rows, reused });
        let bytes = tables.iter().flatten().chain([&rows]).map(RecordBatch::get_array_memory_size);
        let (node, entry, key) = (self.context().node, self.begun.entry.clone(), source.key());
        let (slice, part, start) = (slice.digest, *part, slice.start);
        self.commits.start(bytes.sum(), move || {
            let origin =
                key.as_ref().map(|key| Origin { key, part: &part, row: start, rows: &rows });
            let keep = |(rows, schema): (Option<RecordBatch>, &Option<SchemaRef>)| {
                let (Some(rows), Some(schema)) = (rows, schema) else { return Ok(None) };
                if rows.num_rows() == 0 {
                    return Ok(None);
                }
                let part = match &origin {
                    Some(origin) => entry.write_part_of(schema, &rows, origin),
                    None => entry.write_part(schema, &rows),
                };
                part.map(Some)
            };
            let outputs = tables.into_iter().zip(&node.outputs).map(keep);
            let outputs = outputs.collect::<std::result::Result<_, StoreError>>()?;
            let record = PartRecord { input: slice, outputs, rows: map };
            entry.commit_part(&record)?;
            Ok(Made { slice, outputs: record.outputs, event, is_new: true, is_in_order })
        });
        self.under_way.insert(slice);
        self.state.computed += 1;
        self.state.rows_found += reused;
        Ok(())
    }

    /// What comes of a slice.
    fn compute(&mut self, rows: &RecordBatch, slice: &Slice) -> Result<Outputs> {
        match self.split(rows)? {
            Some(split) if split.known() > 0 => self.pieced(slice, rows, split),
            Some(split) => self.whole(slice, rows, Some(split)),
            None => self.whole(slice, rows, None),
        }
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
