//! Pipeline text to a checked graph.
//!
//! Pure: this crate reads no file, no environment and no clock. What it needs from the
//! world comes in through [`Catalog`] and [`Settings`]. [`check_text`] takes three steps,
//! each with a type of its own: a `Document` is what the text says, a `Resolved` has its
//! variables filled in and its edges found, a [`Graph`] is typed from end to end. Every
//! step reports all the errors it can find, not only the first.

mod catalog;
mod check;
mod config;
mod diagnostic;
mod document;
mod essential;
mod expect;
mod expression;
mod graph;
mod keywords;
mod misplaced;
mod names;
mod reject;
mod resolve;
mod schema;
mod storable;
mod vars;
mod yaml;

pub use catalog::{
    Catalog, FailureSpan, HubLocation, Location, PlanFailure, PlanInput, PlanOutput, PortInfo,
    PortKind, RowAccount, Shape, StageInfo,
};
pub use check::{check_text, with_id};
pub use config::{PathUse, check_value};
pub use diagnostic::{Diagnostic, Severity, Span};
pub use essential::essential;
pub use expect::Expectation;
pub use graph::{Edge, Endpoint, Graph, Node, Show};
pub use keywords::check_config_schema;
pub use paraloom_names::nearest;
pub use reject::{REASON_COLUMN, REJECTED_PORT, Rejects};
pub use resolve::Settings;
pub use schema::editor_schema;
pub use storable::unfit;
pub use yaml::Limits;

/// The version of the pipeline format that this crate reads.
pub const FORMAT: u64 = 1;
/// Name of the column that holds a row's id; every table has it.
pub const ID_COLUMN: &str = "_id";
/// Name of the column that holds the id of the row that a row was derived from.
pub const PARENT_COLUMN: &str = "_parent";

/// Whether a column is what the engine knows rows by, and no part of what they say.
pub fn is_identity(column: &str) -> bool {
    matches!(column, ID_COLUMN | PARENT_COLUMN)
}
/// Default of `backend`: the one that the device needs.
pub const DEFAULT_BACKEND: &str = "auto";
/// Default of `device`.
pub const DEFAULT_DEVICE: &str = "cpu";
/// Rows of a part, unless the pipeline says otherwise: few enough that a part is quickly read and written.
pub const DEFAULT_PART_ROWS: usize = 8192;
/// Bytes of values after which a part is closed, unless the pipeline says how many rows it has.
pub const DEFAULT_PART_BYTES: usize = 8 << 20;
/// How often a call is made again that failed in a way that may pass, unless the pipeline says otherwise.
pub const DEFAULT_RETRIES: u32 = 3;
