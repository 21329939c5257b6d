//! How much memory the work with a model takes, told before it is taken.

use paraloom_sdk::{Error, Result, Services, free_memory};
use paraloom_t5_core::config::Config;
use paraloom_t5_core::memory::or_error;
use paraloom_t5_core::model::Weights;
use paraloom_t5_core::numeric::{Float, Precision};

/// What a model is loaded for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Use {
    /// Writing and scoring.
    Read(Precision),
    /// Training, with so many numbers of the optimizer's for each weight.
    Train {
        /// Two for AdamW; Adafactor has next to none.
        states: u64,
        /// Of the products; everything is kept in f32.
        precision: Float,
    },
}

/// Sequences that are computed side by side, those of a part unless a pipeline says otherwise, and tokens of each that are
/// counted on.
const BATCH: u64 = 128;
const TOKENS: u64 = 48;

/// Bytes on the CPU: those of the weights and what belongs to them, and those with a batch of sentences at work.
///
/// The second is what was measured for sentences, to within a third; long texts and large batches of training take more.
pub(crate) fn estimate(config: &Config, purpose: Use) -> [u64; 2] {
    const F32: u64 = 4;
    let vocabulary = F32 * (config.vocab_size * config.d_model) as u64;
    let specs = Weights::layout(config);
    let weights = F32 * specs.list().iter().map(|spec| spec.len() as u64).sum::<u64>();
    // Some numbers are in two places for a moment, and those of activations.
    let loading = 2 * vocabulary;
    match purpose {
        Use::Read(precision) => {
            // The embedding stays as it is, beside what makes logits.
            let [layers, head] = match precision {
                Precision::F32 => [weights - vocabulary, vocabulary],
                Precision::Bf16 => [(weights - vocabulary) / 2, vocabulary / 2],
                Precision::Int8 => [(weights - vocabulary) / 4, vocabulary / 4],
            };
            let kept = vocabulary + layers + head;
            let blocks = config.num_decoder_layers as u64;
            // Keys and values, of the source and of what is written.
            let cache = BATCH * TOKENS * blocks * 4 * F32 * config.inner_dim() as u64;
            let logits = BATCH * F32 * config.vocab_size as u64;
            [kept, kept + loading.max(cache + logits)]
        }
        Use::Train { states, .. } => {
            // With a gradient of each.
            let kept = weights * (2 + states);
            [kept, kept + loading]
        }
    }
}

/// Bytes below which nobody wants to know.
const WORTH_TELLING: u64 = 64 << 20;

/// Bytes that the work with a model is likely to take, by its `config.json`; 0 where that is not known yet, or little.
pub(crate) fn likely(note: &str, purpose: Use) -> u64 {
    let config = serde_json::from_str(note).ok().and_then(|json| Config::from_json(json).ok());
    let [_, likely] = config.map_or([0; 2], |config| estimate(&config, purpose));
    if likely < WORTH_TELLING { 0 } else { likely }
}

/// Says how much memory a node is about to take, and refuses what cannot fit.
///
/// # Errors
/// When the weights alone are more than there is room for.
pub(crate) fn check(services: Services, config: &Config, purpose: Use) -> Result<()> {
    let [least, likely] = estimate(config, purpose);
    if likely < WORTH_TELLING {
        return Ok(());
    }
    let Some(free) = free_memory() else {
        services.info(&format!("needs about {} of memory", size(likely)));
        return Ok(());
    };
    if least > free {
        let [needed, free] = [least, free].map(size);
        return Err(Error::resource(format!("out of memory: {needed} are needed, of {free} that are free"))
            .hint("allow more, or take a smaller model; to write and to score, `precision: int8` takes less"));
    }
    let message =
        format!("needs about {} of memory, of {} that are free", size(likely), size(free));
    if likely > free {
        services.warn(&message);
    } else {
        services.info(&message);
    }
    Ok(())
}

/// Does work in batches of a size; where memory runs out, it says so and does it once more in batches of half the size.
pub(crate) fn halving<T>(
    services: Services,
    size: usize,
    work: impl Fn(usize) -> paraloom_t5_core::Result<T>,
) -> paraloom_t5_core::Result<T> {
    match or_error(|| work(size)) {
        Err(paraloom_t5_core::Error::Memory(_)) if size > 1 => {
            let half = size / 2;
            services
                .warn(&format!("out of memory: going on with batches of {half} instead of {size}"));
            or_error(|| work(half))
        }
        result => result,
    }
}

fn size(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1024.0 {
        format!("{mebibytes:.0} MiB")
    } else {
        format!("{:.1} GiB", mebibytes / 1024.0)
    }
}
