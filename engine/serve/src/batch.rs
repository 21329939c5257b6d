//! Dynamic batching: requests that arrive while a batch is computed form the next one.

use std::time::Instant;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;

use crate::metrics::Metrics;
use crate::queue::{Batch, Piece, Queue};
use crate::{Failure, Mapped, Mapper};

impl Mapped {
    /// The rows of some numbers.
    fn rows(&self, rows: &[u32]) -> Result<Self, ArrowError> {
        let marks = self.marks.as_ref();
        Ok(Self {
            rows: take_record_batch(&self.rows, &UInt32Array::from(rows.to_vec()))?,
            origins: None,
            marks: marks.map(|marks| rows.iter().map(|row| marks[*row as usize]).collect()),
        })
    }

    /// One table of several.
    pub(crate) fn join(parts: Vec<Self>) -> Result<Self, ArrowError> {
        let Ok([part]) = <[Self; 1]>::try_from(parts.clone()) else {
            let schema = parts.first().map(|part| part.rows.schema());
            let schema = schema.unwrap_or_else(|| arrow::datatypes::Schema::empty().into());
            let marks = parts.iter().map(|part| part.marks.clone());
            return Ok(Self {
                rows: concat_batches(&schema, parts.iter().map(|part| &part.rows))?,
                origins: None,
                marks: marks.collect::<Option<Vec<_>>>().map(|marks| marks.concat()),
            });
        };
        Ok(part)
    }
}

impl Batch {
    /// The distinct rows.
    fn distinct(&self) -> Result<RecordBatch, ArrowError> {
        let starts: Vec<_> = self
            .pieces
            .iter()
            .scan(0, |end, piece| {
                let start = *end;
                *end += piece.job.rows().num_rows();
                Some(start)
            })
            .collect();
        let all: Vec<_> = self.pieces.iter().map(|piece| piece.job.rows()).collect();
        let schema = all[0].schema();
        let indices = self.rows.iter().map(|(piece, row)| (starts[*piece] + row) as u32);
        take_record_batch(&concat_batches(&schema, all)?, &indices.collect::<UInt32Array>())
    }

    /// Splits the results by piece; `None` if rows cannot be attributed to pieces.
    fn split(&self, outputs: &[Mapped]) -> Option<Result<Vec<Vec<Mapped>>, ArrowError>> {
        if self.pieces.len() == 1 {
            return Some(Ok(vec![outputs.to_vec()]));
        }
        let mut by_row = Vec::with_capacity(outputs.len());
        for output in outputs {
            let mut rows = vec![Vec::new(); self.rows.len()];
            for (row, origin) in output.origins.as_ref()?.iter().enumerate() {
                rows.get_mut(*origin)?.push(row as u32);
            }
            by_row.push(rows);
        }
        let of_piece = |piece: &Piece| {
            let ports = outputs.iter().zip(&by_row).map(|(output, by_row)| {
                let rows = piece.places.iter().flat_map(|row| by_row[*row].iter().copied());
                output.rows(&rows.collect::<Vec<_>>())
            });
            ports.collect()
        };
        Some(self.pieces.iter().map(of_piece).collect())
    }
}

/// Closes the queue when the worker ends, also by a panic.
struct Closing<'a>(&'a Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Maps batches until the queue is closed.
pub(crate) fn work(queue: &Queue, mappers: &mut [Box<dyn Mapper + Send + '_>], metrics: &Metrics) {
    let _closing = Closing(queue);
    while let Some(batch) = queue.take() {
        compute(queue, &mut *mappers[batch.model()], batch, metrics);
    }
}

/// Maps a batch and answers the requests that are done. If the batch fails, its pieces are mapped one by one, so that a
/// request fails only by its own rows.
fn compute(queue: &Queue, mapper: &mut dyn Mapper, batch: Batch, metrics: &Metrics) {
    let (started, model) = (Instant::now(), batch.model());
    let outputs = match batch.distinct() {
        Ok(rows) => mapper
            .map(&rows, batch.pieces[0].job.parameters())
            .inspect(|_| metrics.batch(model, rows.num_rows(), started)),
        Err(error) => Err(Failure::Failed(error.to_string())),
    };
    let is_alone = batch.pieces.len() == 1;
    let split = match outputs {
        Ok(outputs) => batch
            .split(&outputs)
            .map(|split| split.map_err(|error| Failure::Failed(error.to_string()))),
        Err(_) if !is_alone => None,
        Err(failure) => Some(Err(failure)),
    };
    match split {
        Some(Ok(all)) => {
            for (Piece { mut job, count, .. }, outputs) in batch.pieces.into_iter().zip(all) {
                if job.add(count, outputs) {
                    job.finish();
                } else {
                    queue.put_back(job);
                }
            }
        }
        Some(Err(failure)) => {
            for piece in batch.pieces {
                piece.job.fail(failure.clone());
            }
        }
        None => {
            // The request may have timed out.
            for Piece { job, count, .. } in batch.pieces.into_iter().filter(|p| p.job.is_wanted()) {
                compute(queue, mapper, Batch::alone(job, count), metrics);
            }
        }
    }
}
