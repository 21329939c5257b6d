//! What decides a key, and what `plan` says of an edit: pairs of pipelines, before and after.

mod common;

use arrow::array::RecordBatch;
use common::{Act, Bench};

fn stages(names: &[&'static str]) -> Vec<(&'static str, Act)> {
    let act = |name: &&'static str| {
        let act = if name.starts_with("count") {
            Act::Count
        } else {
            Act::Map(Box::new(|rows: &RecordBatch| Ok(rows.clone())))
        };
        (*name, act)
    };
    names.iter().map(act).collect()
}

const STAGES: [&str; 3] = ["count", "map", "draw~"];

const BEFORE: &str = "\
paraloom: 1
name: test
part_rows: 2
nodes:
  a: { stage: count, with: { rows: 5 } }
  b: { stage: map, inputs: { rows: a }, with: { deep: { x: 1, y: [2] } } }
  c: { stage: draw, inputs: { rows: b } }
";

/// An edit as texts and what takes their place, and what is then said of `a`, `b` and `c`.
#[test]
fn a_plan_says_what_an_edit_costs_and_why() {
    const CACHED: &str = "cached";
    type Edit<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(Edit, [&str; 3])] = &[
        (&[], [CACHED; 3]),
        // What leaves no trace.
        (&[("nodes:", "# a comment\nnodes:")], [CACHED; 3]),
        (&[("b:", "\"b\":"), ("rows: 5", "rows:   5")], [CACHED; 3]),
        (&[("x: 1, y: [2]", "y: [2], x: 1")], [CACHED; 3]),
        (&[("rows: 5", "rows: 5, mode: plain")], [CACHED; 3]),
        (&[("inputs: { rows: b }", "inputs: { rows: b }, retries: 7")], [CACHED; 3]),
        (&[("stage: map", "description: what it is, stage: map")], [CACHED; 3]),
        // What does not change what comes out of a stage that draws nothing.
        (&[("part_rows: 2", "part_rows: 2\nseed: 4")], [CACHED, CACHED, "run seed 0 -> 4"]),
        // What decides.
        (&[("rows: 5", "rows: 6")], ["run rows 5 -> 6", "run reads `a`", "run reads `b`"]),
        (
            &[("rows: 5", "rows: 5, mode: odd")],
            ["run mode none -> `odd`", "run reads `a`", "run reads `b`"],
        ),
        (&[("x: 1", "x: 2")], [CACHED, "run deep.x 1 -> 2", "run reads `b`"]),
        (&[("y: [2]", "y: [2, 3]")], [CACHED, "run deep.y [2] -> [2,3]", "run reads `b`"]),
        (
            &[(", with: { deep: { x: 1, y: [2] } }", "")],
            [CACHED, "run deep {\"x\":1,\"y\":[2]} -> none", "run reads `b`"],
        ),
        (
            &[("part_rows: 2", "part_rows: 3")],
            ["run part_rows 2 -> 3", "run reads `a`", "run reads `b`"],
        ),
        (
            &[("inputs: { rows: b }", "inputs: { rows: b }, on_error: reject")],
            [CACHED, CACHED, "run on_error none -> `reject`"],
        ),
        // A map node that reads other rows: those that are the same are known.
        (&[("inputs: { rows: b }", "inputs: { rows: a }")], [CACHED, CACHED, CACHED]),
    ];
    for (edit, wanted) in cases {
        let bench = Bench::new(BEFORE, stages(&STAGES));
        bench.run().expect("nothing fails");
        let after = edit.iter().fold(BEFORE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        });
        let bench = bench.edited(&after, stages(&STAGES));
        let found = ["a", "b", "c"].map(|node| bench.plan(node));
        assert_eq!(found, *wanted, "{edit:?}");
        // The plan holds, and afterwards nothing is left.
        let worked = bench.run().expect("nothing fails").worked;
        assert_eq!(worked, wanted.iter().filter(|said| **said != CACHED).count(), "{edit:?}");
        assert_eq!(bench.plan("c"), CACHED, "{edit:?}");
    }
}

#[test]
fn a_new_version_of_a_stage_is_named() {
    let bench = Bench::new(BEFORE, stages(&STAGES));
    bench.run().expect("nothing fails");
    let bench = bench.edited(BEFORE, stages(&["count", "map@1.1.0", "draw~"]));
    assert_eq!(bench.plan("a"), "cached");
    assert_eq!(bench.plan("b"), "run stage map 1.0.0 -> 1.1.0");
}

#[test]
fn nodes_may_change_their_names_and_places() {
    let bench = Bench::new(BEFORE, stages(&STAGES));
    bench.run().expect("nothing fails");
    let after = "\
paraloom: 1
name: other
nodes:
  third: { inputs: { rows: second }, stage: draw }
  second: { with: { deep: { x: 1, y: [2] } }, inputs: { rows: first }, stage: map }
  first: { with: { rows: 5 }, stage: count }
part_rows: 2
";
    let bench = bench.edited(after, stages(&STAGES));
    for node in ["first", "second", "third"] {
        assert_eq!(bench.plan(node), "cached", "{node}");
    }
}

#[test]
fn a_cut_run_says_what_is_left() {
    let bench = Bench::new(BEFORE, stages(&STAGES));
    assert_eq!(bench.plan("a"), "run not run yet");
    assert_eq!(bench.plan("c"), "run reads `b`");
    bench.run().expect("nothing fails");
    let longer = BEFORE.replace("rows: 5", "rows: 9");
    let bench = bench.edited(&longer, stages(&STAGES));
    bench.cancel.set();
    bench.run().expect_err("it is stopped");
    // The rows are not there yet, so nobody knows how many are new.
    assert_eq!(bench.plan("b"), "run reads `a`");
}
