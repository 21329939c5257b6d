//! What all T5 stages share: the loaded models, the thread pools, errors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arrow::array::RecordBatch;
use paraloom_sdk::identity::ids;
use paraloom_sdk::{About, Error as StageError, Result as StageResult, Run};
use paraloom_t5_core::Error;
use paraloom_t5_core::device::has_slow_halves;
use paraloom_t5_core::device::{
    BATCH_INVARIANT, Device, check_precision, cpu_device, device, set_threads,
};
use paraloom_t5_core::folder;
use paraloom_t5_core::model::{InferenceModel, Model};
use paraloom_t5_core::numeric::Precision;
use paraloom_t5_core::tokenizer::Tokenizer;
use rayon::ThreadPool;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::memory::{self, Use};

/// Says that rows can be computed in any batch, where the backend keeps that.
pub(super) fn row_by_row(about: About) -> About {
    let about = about.part_rows(PART_ROWS);
    if BATCH_INVARIANT { about.batch_invariant() } else { about }
}

/// Rows that are given at once and committed together: as many as are written side by side, which is when T5 is fastest, and
/// few enough that a kill costs seconds.
pub(super) const PART_ROWS: u32 = 192;

/// Longer sources are cut. T5 was trained on 512 tokens.
pub(super) const MAX_SOURCE_TOKENS: usize = 512;

/// What the names of the model's built-in special tokens are in texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SpecialTokens {
    /// Text like any other.
    #[default]
    Text,
    /// The tokens, as in T5's pre-training.
    Parse,
}

impl SpecialTokens {
    /// The tokenizer that reads them so.
    pub(super) fn of(self, tokenizer: Arc<Tokenizer>) -> paraloom_t5_core::Result<Arc<Tokenizer>> {
        match self {
            Self::Text => Ok(tokenizer),
            Self::Parse => tokenizer.parsing_special_tokens().map(Arc::new),
        }
    }

    /// Whether it is the default, which a card does not tell.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(super) fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

/// A model with its tokenizer.
pub(super) struct Loaded<M = InferenceModel> {
    pub(super) model: M,
    pub(super) tokenizer: Arc<Tokenizer>,
}

impl Loaded {
    /// Reads the model of a stage that writes or scores.
    fn for_inference(run: &Run, precision: Precision) -> StageResult<Self> {
        Self::read(run, Use::Read(precision), |directory, device| {
            folder::load_for_inference(directory, device, precision)
        })
    }
}

impl Loaded<Model> {
    /// Reads the model of a stage that trains.
    pub(super) fn for_training(run: &Run, purpose: Use) -> StageResult<Self> {
        Self::read(run, purpose, folder::load)
    }
}

impl<M: Send> Loaded<M> {
    fn read(
        run: &Run,
        purpose: Use,
        load: impl FnOnce(&Path, &Device) -> paraloom_t5_core::Result<M> + Send,
    ) -> StageResult<Self> {
        let (directory, device) = (run.artifact("model")?, device(run.device())?);
        let precision = match purpose {
            Use::Read(precision) => precision,
            Use::Train { precision, .. } => precision.into(),
        };
        check_precision(&device, precision)?;
        if precision == Precision::Bf16 && has_slow_halves(&device) {
            run.services()
                .info("this processor has no fast instructions for bf16; f32 would be faster");
        }
        if device == cpu_device() {
            memory::check(run.services(), &folder::config(directory)?, purpose)?;
        }
        let model = || load(directory, &device);
        let tokenizer = || Tokenizer::load(directory);
        let (model, tokenizer) = pool(run.threads())?.join(model, tokenizer);
        Ok(Self { model: model?, tokenizer: tokenizer?.into() })
    }
}

/// By directory, device and precision.
type InUse = HashMap<(PathBuf, String, Precision), Weak<Loaded>>;

/// Loads the model that a stage writes or scores with, or finds it among those in use: nodes that use the same
/// model share one copy. Artifacts never change, so the path says which model it is.
pub(super) fn load_model(run: &Run, precision: Precision) -> StageResult<Arc<Loaded>> {
    static IN_USE: Mutex<Option<InUse>> = Mutex::new(None);
    let directory = run.artifact("model")?;
    // Held while loading, so that two nodes do not load the same model side by side.
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    let models = in_use.get_or_insert_default();
    let place = (directory.to_owned(), run.device().to_owned(), precision);
    if let Some(loaded) = models.get(&place).and_then(Weak::upgrade) {
        return Ok(loaded);
    }
    let loaded = Arc::new(Loaded::for_inference(run, precision)?);
    models.retain(|_, model| model.strong_count() > 0);
    models.insert(place, Arc::downgrade(&loaded));
    Ok(loaded)
}

/// The pool of `threads` threads; made once.
pub(super) fn pool(threads: usize) -> StageResult<Arc<ThreadPool>> {
    static POOLS: Mutex<Option<HashMap<usize, Arc<ThreadPool>>>> = Mutex::new(None);
    set_threads(threads);
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let pools = pools.get_or_insert_default();
    if let Some(pool) = pools.get(&threads) {
        return Ok(Arc::clone(pool));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = Arc::new(pool.map_err(|error| {
        StageError::resource(format!("cannot start {threads} threads: {error}"))
            .hint("allow more memory or processes, or lower --threads")
    })?);
    pools.insert(threads, Arc::clone(&pool));
    Ok(pool)
}

/// Names the row for whose source the model computed NaN; `row_of` has the number of the row of each source.
pub(super) fn with_row(error: Error, rows: &RecordBatch, row_of: &[usize]) -> StageError {
    let Error::NotNumbers { row: source, what } = error else { return error.into() };
    let row = row_of.get(source).copied().unwrap_or(source);
    let named = ids(rows).map(|ids| format!("`{}`", ids.value(row)));
    let row = named.unwrap_or_else(|_| format!("number {}", row + 1));
    StageError::data(format!("row {row}: the model's {what} are NaN"))
        .hint("its numbers are too large to compute with; try `precision: f32`, or another model")
}
