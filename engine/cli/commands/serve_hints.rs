//! What the page of `serve` is told of the columns: which texts are rewritten, what scores are called, what decides.

use arrow::datatypes::DataType;
use paraloom_exec::{Chain, Lookup, PortResult};
use paraloom_expr::Expr;
use paraloom_pipeline::{Endpoint, Graph};
use paraloom_serve::{ColumnHint, Condition, Hints, Judge, Limit};
use petgraph::graph::NodeIndex;

use super::report::{conditions_of, own_names};
use super::show::read_rows;
use crate::context::Project;

/// Texts of the rows that the pipeline itself maps.
const EXAMPLES: usize = 5;
/// A longer text is no example to try.
const LONGEST: usize = 160;

/// Hints for the page of a chain of nodes.
pub(super) fn hints(project: &Project, graph: &Graph, nodes: &[NodeIndex], chain: &Chain) -> Hints {
    let outputs = chain.outputs();
    let columns = outputs.iter().flat_map(|(_, schema)| own_names(schema).map(str::to_owned));
    let mut named: Vec<ColumnHint> = Vec::new();
    for column in columns {
        if let Some(hint) = hint(&column).filter(|hint| !named.contains(hint)) {
            named.push(hint);
        }
    }
    Hints {
        pair: pair(graph, nodes),
        columns: named,
        judge: nodes.last().and_then(|last| judge(graph, *last)),
        examples: examples(project, graph, nodes).unwrap_or_default(),
    }
}

/// The text that came in, and what a node of the chain has made of it.
fn pair(graph: &Graph, nodes: &[NodeIndex]) -> Option<(String, String)> {
    let is_text = |schema: &arrow::datatypes::Schema, name: &str| {
        schema.field_with_name(name).is_ok_and(|field| field.data_type() == &DataType::Utf8)
    };
    nodes.iter().find_map(|index| {
        let before = graph.schema(graph.mapped(*index)?)?;
        let now = graph.schema(Endpoint { node: *index, port: 0 })?;
        // A label, such as that of score-cola, is short of a text; a text is written by the node that writes several.
        let rewrites = now.index_of("_parent").is_ok();
        let source = own_names(before).find(|name| is_text(before, name) && is_text(now, name))?;
        let target =
            own_names(now).find(|name| before.index_of(name).is_err() && is_text(now, name))?;
        rewrites.then(|| (source.to_owned(), target.to_owned()))
    })
}

/// Scores as people call them, with the ends of their scales.
fn hint(column: &str) -> Option<ColumnHint> {
    let (label, scale) = match column {
        "stsb" => ("Similarity", Some((0.0, 5.0))),
        "stsb_mean" => ("Similarity, mean", Some((0.0, 5.0))),
        "cola" => ("Grammar", None),
        "cola_p" => ("Grammar, probability", Some((0.0, 1.0))),
        "generation_score" => ("Model's score", None),
        // The order of the results says it.
        "candidate" => ("", None),
        _ => return None,
    };
    Some(ColumnHint { column: column.to_owned(), label: label.to_owned(), scale })
}

/// What a node that sorts rows out by a condition asks of them.
fn judge(graph: &Graph, index: NodeIndex) -> Option<Judge> {
    let node = graph.node(index);
    let [kept, rejected] = node.stage.outputs.as_slice() else { return None };
    let (first, second) = (node.outputs.first()?.as_ref()?, node.outputs.get(1)?.as_ref()?);
    let reason = own_names(second).find(|name| first.index_of(name).is_err())?;
    let keep = conditions_of(graph, index).next()?;
    Some(Judge {
        kept: kept.name.clone(),
        rejected: rejected.name.clone(),
        reason: reason.to_owned(),
        conditions: conditions(&keep),
    })
}

fn conditions(keep: &Expr) -> Vec<Condition> {
    let condition = |found: paraloom_expr::Condition| Condition {
        text: found.text.to_owned(),
        words: if found.bound.is_some() { None } else { words(found.text) },
        limit: found.bound.map(|bound| Limit {
            column: bound.column.to_owned(),
            comparison: bound.comparison.to_owned(),
            value: bound.value,
        }),
    };
    keep.conditions().into_iter().map(condition).collect()
}

/// What is wrong with a row that does not meet one of the conditions that many pipelines have.
fn words(condition: &str) -> Option<String> {
    let plain: String = condition.chars().filter(|letter| !letter.is_whitespace()).collect();
    let said = match plain.as_str() {
        "cola='acceptable'" => "not acceptable English",
        text if text.starts_with("same_numbers(") => "its numbers are not those of the source",
        text if text.starts_with("lower(") && text.contains(")!=lower(") => {
            "the same as the source"
        }
        _ => return None,
    };
    Some(said.to_owned())
}

/// The first texts of the table that the chain maps in the pipeline, if it is there.
fn examples(project: &Project, graph: &Graph, nodes: &[NodeIndex]) -> Option<Vec<String>> {
    let store = project.store().ok()??;
    let lookup = Lookup::new(graph, &project.workspace.host, Some(&store)).ok()?;
    let from = graph.mapped(*nodes.first()?)?;
    let Some(PortResult::Table(table)) = lookup.output(from) else { return None };
    let rows = read_rows(table, None, 20 * EXAMPLES).ok()?;
    let schema = graph.schema(from)?;
    let is_text = |name: &&str| {
        schema.field_with_name(name).is_ok_and(|field| field.data_type() == &DataType::Utf8)
    };
    let column = own_names(schema).find(is_text)?;
    let texts = rows.iter().flat_map(|rows| super::report::texts(rows, column));
    let fits =
        |text: &&str| !text.trim().is_empty() && text.len() <= LONGEST && !text.contains('\n');
    Some(texts.filter(fits).take(EXAMPLES).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_conditions_are_told_in_words() {
        let keep = Expr::parse(
            "stsb >= 4.0 and cola = 'acceptable' and lower( a ) != lower(b) and same_numbers(a, b) and length(a) > 3",
        );
        let found = conditions(&keep.expect("it is right"));
        let said = found.iter().map(|condition| match (&condition.words, &condition.limit) {
            (Some(words), None) => words.clone(),
            (None, Some(limit)) => format!("{} {} {}", limit.column, limit.comparison, limit.value),
            _ => condition.text.clone(),
        });
        let expected = [
            "stsb >= 4",
            "not acceptable English",
            "the same as the source",
            "its numbers are not those of the source",
            "length(a) > 3",
        ];
        assert_eq!(said.collect::<Vec<_>>(), expected);
    }
}
