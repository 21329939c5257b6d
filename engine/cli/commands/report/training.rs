//! The section on training: what was measured by step.

use arrow::datatypes::DataType;
use paraloom_exec::TableRef;
use paraloom_pipeline::Endpoint;

use super::subject::{Subject, numbers};
use crate::error::Result;
use crate::render::{self, Chart, Group, Series, number, steps_per_column};

const STEP: &str = "step";
const VALIDATION: &str = "validation_";

/// Values by step.
type Points = Vec<(f64, f64)>;

impl Subject<'_> {
    /// The charts of every table that has steps.
    pub(super) fn training(&self) -> Result<Vec<Group>> {
        let (mut groups, mut charts) = (Vec::new(), 0);
        for index in self.graph.order() {
            for (endpoint, table) in self.tables_of(*index) {
                if charts < self.sizes.charts && has_steps(table) {
                    let group = self.group(endpoint, table)?;
                    charts += group.charts.len();
                    groups.push(group);
                }
            }
        }
        groups.retain(|group| !group.charts.is_empty());
        Ok(groups)
    }

    fn group(&self, endpoint: Endpoint, table: &TableRef) -> Result<Group> {
        let node = self.graph.node(endpoint.node);
        let before = self.table_before(endpoint).filter(has_steps);
        let mut charts = Vec::new();
        for name in values(table) {
            // The loss on validation is drawn with that of training.
            if name.strip_prefix(VALIDATION).is_some_and(|of| table.schema.index_of(of).is_ok()) {
                continue;
            }
            charts.extend(by_step(table, before.as_ref(), &name)?);
        }
        let steps = numbers(table, STEP)?.into_iter().flatten().fold(0.0, f64::max);
        let mut note = format!("{} steps", number(steps));
        let per_column = steps_per_column(table.rows() as usize);
        if per_column > 1 {
            note += &format!(
                "; a line is the mean of every {per_column} steps, the band around it their smallest and largest value"
            );
        }
        if before.is_some() {
            note += "; grey: the run that this is compared with";
        }
        let (node, stage) = (self.cut(&node.name), &node.stage.name);
        Ok(Group { title: format!("{node} ({stage})"), note, charts })
    }

    /// The loss at the last step of the last training: that of validation, if there is one.
    pub(super) fn last_loss(&self) -> Result<Option<(String, String, f64)>> {
        for index in self.graph.order().iter().rev() {
            for (_, table) in self.tables_of(*index) {
                if !has_steps(table) {
                    continue;
                }
                for column in ["validation_loss", "loss"] {
                    if table.schema.index_of(column).is_ok()
                        && let Some(last) = points_of(table, column)?.0.last()
                    {
                        let node = self.graph.node(*index).name.clone();
                        return Ok(Some((node, column.to_owned(), last.1)));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// The chart of a column, with that of validation and that of another run.
fn by_step(table: &TableRef, before: Option<&TableRef>, name: &str) -> Result<Option<Chart>> {
    let (points, left_out) = points_of(table, name)?;
    let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) else {
        return Ok(None);
    };
    let validation = format!("{VALIDATION}{name}");
    let validated = match table.schema.index_of(&validation) {
        Ok(_) => points_of(table, &validation)?.0,
        Err(_) => Vec::new(),
    };
    let earlier = match before {
        Some(before) if before.schema.index_of(name).is_ok() => points_of(before, name)?.0,
        _ => Vec::new(),
    };
    let mut series = vec![Series { name: "training", points: &points, is_before: false }];
    if !validated.is_empty() {
        series.push(Series { name: "validation", points: &validated, is_before: false });
    }
    if !earlier.is_empty() {
        series.push(Series { name: "before", points: &earlier, is_before: true });
    }
    let mut summary = format!("{} to {}", number(first.1), number(last.1));
    let best = validated.iter().min_by(|one, other| one.1.total_cmp(&other.1));
    if let Some((step, best)) = best {
        summary += &format!("; validation at best {} at step {}", number(*best), number(*step));
    }
    let highest = points.iter().max_by(|one, other| one.1.total_cmp(&other.1));
    if let Some((step, value)) = highest.filter(|point| point.1 > first.1.max(last.1)) {
        summary += &format!("; highest {} at step {}", number(*value), number(*step));
    }
    if left_out > 0 {
        summary += &format!("; {left_out} steps without a finite value");
    }
    let title = name.replace('_', " ");
    let told = format!("{title} by step: {summary}");
    let svg = render::curves(&series, (&title, &told));
    Ok(Some(Chart { title, node: String::new(), summary, svg }))
}

/// Whether a table has values by step.
pub(super) fn has_steps(table: &TableRef) -> bool {
    let step = table.schema.field_with_name(STEP);
    step.is_ok_and(|step| step.data_type().is_integer()) && !values(table).is_empty()
}

/// The columns of floats.
fn values(table: &TableRef) -> Vec<String> {
    let fields = table.schema.fields().iter();
    let floats = fields.filter(|field| DataType::is_floating(field.data_type()));
    floats.map(|field| field.name().clone()).collect()
}

/// Steps and finite values, by step, and how many have none that is finite.
fn points_of(table: &TableRef, column: &str) -> Result<(Points, usize)> {
    let (steps, values) = (numbers(table, STEP)?, numbers(table, column)?);
    let given = steps.into_iter().zip(values).filter_map(|(step, value)| Some((step?, value?)));
    let (mut points, odd): (Points, Points) = given.partition(|(_, value)| value.is_finite());
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    Ok((points, odd.len()))
}
