//! What several models made of the same rows, side by side.

use serde_json::{Value, json};

use super::results::{Group, Results, Slider, Summary};

impl Results {
    /// Those of several models side by side, each with its name; of some, why there are none.
    pub(crate) fn beside(outcomes: Vec<(String, Result<Self, String>)>) -> Self {
        let mut all = Self { json: json!({}), ..Self::default() };
        all.models = outcomes.iter().map(|(model, _)| model.clone()).collect();
        for (number, (model, outcome)) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(results) => all.add_column(number, &model, results),
                Err(problem) => {
                    all.summaries.push(Summary { model, text: problem, is_problem: true });
                }
            }
        }
        all.groups.sort_by_key(|group| group.place);
        all
    }

    /// Adds the results of one of several models.
    fn add_column(&mut self, number: usize, model: &str, results: Self) {
        let count = self.models.len();
        for summary in results.summaries {
            self.summaries.push(Summary { model: model.to_owned(), ..summary });
        }
        for slider in results.sliders {
            self.add_slider(model, slider);
        }
        for Group { source, place, columns } in results.groups {
            let known = self.groups.iter().position(|group| group.source == source);
            let at = known.unwrap_or_else(|| {
                let columns = std::iter::repeat_with(Vec::new).take(count).collect();
                self.groups.push(Group { source, place, columns });
                self.groups.len() - 1
            });
            self.groups[at].columns[number] = columns.into_iter().flatten().collect();
        }
        for mut table in results.tables {
            table.port = format!("{model}: {}", table.port);
            self.tables.push(table);
        }
        self.add_rows(model, results.json);
    }

    /// Models with one judge share a slider.
    fn add_slider(&mut self, model: &str, slider: Slider) {
        let is_same = |known: &&mut Slider| {
            let judge = |slider: &Slider| {
                (slider.label.clone(), slider.column.clone(), slider.comparison.clone())
            };
            judge(known) == judge(&slider) && known.value.to_bits() == slider.value.to_bits()
        };
        match self.sliders.iter_mut().find(is_same) {
            Some(known) => {
                known.models.push(model.to_owned());
                known.low = known.low.min(slider.low);
                known.high = known.high.max(slider.high);
                known.step = known.step.max(slider.step);
            }
            None => self.sliders.push(Slider { models: vec![model.to_owned()], ..slider }),
        }
    }

    /// Adds rows by output, each with the model that made it.
    fn add_rows(&mut self, model: &str, rows: Value) {
        let (Value::Object(all), Value::Object(rows)) = (&mut self.json, rows) else { return };
        for (port, rows) in rows {
            let known = all.entry(port).or_insert_with(|| json!([]));
            if let (Value::Array(known), Value::Array(rows)) = (known, rows) {
                known.extend(rows.into_iter().map(|mut row| {
                    row["model"] = model.into();
                    row
                }));
            }
        }
    }
}
