//! `finetune`: teaches a model from examples.

mod settings;
mod texts;
mod work;

use std::path::Path;
use std::sync::Arc;

use paraloom_sdk::{About, Error, PlanInputs, Planned, Port, Result, Run, Services, Stage};
use paraloom_t5_core::device::fingerprint;
use paraloom_t5_core::folder::{self, Format};
use paraloom_t5_core::tokenizer::Tokenizer;
use paraloom_t5_core::train::{Example, Mixing, Portion, Trainer};
use rayon::ThreadPool;
use serde_json::json;

use self::settings::{Config, OptimizerName};
use self::texts::Trial;
use self::work::{Metric, Work, metrics_schema, start, to_rows};
use super::card::{self, Card};
use super::examples::{Pair, TableCount, Tasks};
use super::shared::{Loaded, pool};
use super::tally::Tally;
use crate::memory::{self, Use};

/// Where the adapter is by itself, in the directory of the model that it was merged into.
const ADAPTER: &str = "adapter";

/// The stage.
pub struct Finetune {
    config: Config,
    tasks: Tasks,
}

impl Finetune {
    /// What the model is loaded for.
    fn purpose(&self) -> Use {
        let states = match self.config.optimizer {
            OptimizerName::AdamW => 2,
            OptimizerName::Adafactor => 0,
        };
        Use::Train { states, precision: self.config.precision }
    }
}

impl Stage for Finetune {
    type Config = Config;

    fn about() -> About {
        About::new("finetune", "1.4.0", "Teaches a T5 model from examples.")
            .input(Port::artifact("model", "The model to start from."))
            .input(
                Port::table("examples", "What to learn: a source and a target column each.").many(),
            )
            .input(Port::table("validation", "What to validate on.").optional().many())
            .output(Port::artifact("model", "The model that has learnt."))
            .output(Port::table("metrics", "Loss, learning rate and gradient norm of every step."))
            .uses_seed()
            .resumable()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        config.check(config.validation_split > 0.0 || inputs.is_connected("validation"))?;
        config.check_order(inputs.tables("examples").count())?;
        let (own, order_by) = (config.tasks.clone(), config.order_by.clone());
        let tasks = Tasks::check(config.task(), own, order_by, inputs)?;
        let fingerprint = fingerprint(config.precision.into())?;
        let stage = Self { config, tasks };
        // What comes out has the shape of what goes in.
        let (note, memory) =
            (inputs.note("model"), memory::likely(inputs.note("model"), stage.purpose()));
        let schema = Arc::new(metrics_schema(stage.config.keep_best.as_ref()));
        let planned = Planned::new(stage, [None, Some(schema)]);
        Ok(planned.fingerprint(fingerprint).note(0, note).memory(memory))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let Loaded { model, tokenizer } = Loaded::for_training(run, self.purpose())?;
        let tokenizer = self.config.special_tokens.of(tokenizer)?;
        let pool = pool(run.threads())?;
        let services = run.services();
        let read = |tables, to_learn| {
            let (pairs, counts) = self.tasks.read(tables, to_learn, services)?;
            let examples = self.encode(&pairs, &tokenizer, &pool, services)?;
            let tables = counts.iter().enumerate();
            let set = Set {
                examples,
                targets: pairs.into_iter().map(|pair| pair.target).collect(),
                tables: tables.flat_map(|(number, table)| vec![number; table.examples]).collect(),
            };
            Ok::<_, Error>((set, counts))
        };
        let (mut learnt, tables) = read(run.tables("examples"), true)?;
        let (mut validation, _) = read(run.tables("validation"), false)?;
        if validation.examples.is_empty() && self.config.validation_split > 0.0 {
            validation = learnt.hold_back(self.config.validation_split);
        }
        // Only what is validated on is compared as text.
        learnt.targets = Vec::new();
        if learnt.examples.is_empty() {
            let rows = tables.iter().map(|table| table.rows).sum();
            let why = match rows {
                0 => "`examples` has no rows".to_owned(),
                _ => format!("none of the {rows} rows of `examples` has a source and a target"),
            };
            return Err(
                Error::data(format!("there is nothing to learn from: {why}")).input("examples")
            );
        }
        let keep_best = self.config.keep_best.as_ref();
        let work = Work {
            services,
            trial: keep_best.map(|keep| {
                Trial::new(keep, &tokenizer, &validation.examples, &validation.targets)
            }),
            validation: validation.examples,
            validate_every: self.config.validate_every,
            patience: self.config.patience,
        };
        let mut options = self.config.options(run.seed());
        if let Some(mix) = &self.config.mix {
            options.mix = learnt.mixed(&mix.mixing(), &tables, services);
        }
        let (trainer, metrics) = pool.install(|| -> Result<_> {
            let (mut trainer, mut metrics) = start(model, learnt.examples, options, services)?;
            work.train(&mut trainer, &mut metrics)?;
            Ok((trainer, metrics))
        })?;
        run.push("metrics", &to_rows(&metrics, keep_best)?)?;
        let out = run.output_dir("model")?;
        pool.install(|| self.save(trainer, &tokenizer, &tables, &metrics, out))
    }
}

impl Finetune {
    /// The examples of pairs; tells what was cut.
    fn encode(
        &self,
        pairs: &[Pair],
        tokenizer: &Tokenizer,
        pool: &ThreadPool,
        services: Services,
    ) -> Result<Vec<Example>> {
        let mut tally = Tally::new(services);
        let mut side = |(what, text): (&str, fn(&Pair) -> &str), limit, setting| -> Result<_> {
            let texts: Vec<&str> = pairs.iter().map(text).collect();
            let encoded = pool.install(|| tokenizer.encode_all(&texts, limit))?;
            tally.cut(what, limit, setting, encoded.iter().map(|text| text.cut));
            Ok(encoded.into_iter().map(|text| text.ids))
        };
        let [source, target] = Pair::TEXTS;
        let sources = side(source, self.config.max_source_tokens, "max_source_tokens")?;
        let targets = side(target, self.config.max_target_tokens, "max_target_tokens")?;
        Ok(sources.zip(targets).map(|(source, target)| Example { source, target }).collect())
    }

    /// Writes the model that did best, with its tokenizer and its card.
    fn save(
        &self,
        trainer: Trainer,
        tokenizer: &Tokenizer,
        tables: &[TableCount],
        metrics: &[Metric],
        out: &Path,
    ) -> Result<()> {
        let (model, adapter) = trainer.into_best_model();
        let base = card::hub_name(model.config());
        if let Some(adapter) = adapter {
            adapter.write(base, &out.join(ADAPTER))?;
        }
        let format = Format {
            precision: self.config.dtype,
            max_shard_bytes: folder::parse_size(&self.config.max_shard_size)?,
        };
        folder::save_as(&model, out, format)?;
        tokenizer.save(out)?;
        let best = Metric::best(metrics);
        let mut result = json!({
            "steps": metrics.len(),
            "loss": metrics.last().map(Metric::loss),
            "validation_loss": best.and_then(Metric::validation_loss),
        });
        if let Some(keep) = &self.config.keep_best {
            result[keep.metric.column()] = json!(best.and_then(Metric::texts));
        }
        let card = Card {
            what: "fine-tuned from examples",
            base,
            tables,
            sections: vec![("Configuration", card::section(&self.config)), ("Result", result)],
        };
        Ok(card.write(&model, out)?)
    }
}

/// Examples of several tables, one table after the other.
struct Set {
    examples: Vec<Example>,
    /// The texts of their targets.
    targets: Vec<String>,
    /// The numbers of their tables.
    tables: Vec<usize>,
}

impl Set {
    /// Takes evenly spread examples out.
    fn hold_back(&mut self, share: f64) -> Self {
        Self {
            examples: hold_back(&mut self.examples, share),
            targets: hold_back(&mut self.targets, share),
            tables: hold_back(&mut self.tables, share),
        }
    }

    /// What an epoch has of each table; tells it.
    fn mixed(&self, mixing: &Mixing, tables: &[TableCount], services: Services) -> Vec<Portion> {
        let mut sizes = vec![0; tables.len()];
        self.tables.iter().for_each(|&table| sizes[table] += 1);
        let portions = mixing.portions(&sizes);
        for (table, Portion { examples, drawn }) in tables.iter().zip(&portions) {
            let label = &table.label;
            services.info(&format!("an epoch has {drawn} of the {examples} examples of `{label}`"));
        }
        portions
    }
}

/// Takes evenly spread values out.
fn hold_back<T>(values: &mut Vec<T>, share: f64) -> Vec<T> {
    let (mut kept, mut held, mut due) = (Vec::new(), Vec::new(), 0.0);
    for value in values.drain(..) {
        due += share;
        if due >= 1.0 {
            due -= 1.0;
            held.push(value);
        } else {
            kept.push(value);
        }
    }
    *values = kept;
    held
}
