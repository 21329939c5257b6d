//! What other programs call the settings of `load`: pandas, polars, DuckDB, `datasets` and Spark.

use serde_json::{Map, Value};

/// Each name with what to write here.
const NAMES: [(&str, &str); 43] = [
    ("path", "it is called `from`"),
    ("paths", "it is called `from`, which takes a list"),
    ("file", "it is called `from`"),
    ("files", "it is called `from`, which takes a list"),
    ("filename", "it is called `from`"),
    ("data_files", "it is called `from`, which takes a list"),
    ("source", "it is called `from`"),
    ("url", "download the file, and name it with `from`"),
    (
        "skiprows",
        "lines above the table are left out with `skip_lines`, and rows of it with `skip`",
    ),
    (
        "skip_rows",
        "lines above the table are left out with `skip_lines`, and rows of it with `skip`",
    ),
    ("skip_rows_after_header", "it is called `skip`"),
    ("offset", "it is called `skip`"),
    ("skipfooter", "it is called `skip_footer`"),
    ("comment_prefix", "it is called `comment`"),
    ("comment_char", "it is called `comment`"),
    ("sep", "it is called `delimiter`"),
    ("separator", "it is called `delimiter`"),
    ("delim", "it is called `delimiter`"),
    ("quotechar", "it is called `quote`"),
    ("quote_char", "it is called `quote`"),
    ("escapechar", "it is called `escape`"),
    ("na_values", "it is called `missing`"),
    ("null_values", "it is called `missing`"),
    ("nullstr", "it is called `missing`"),
    ("null_value", "it is called `missing`, which takes a list"),
    ("dtype", "it is called `types`"),
    ("dtypes", "it is called `types`"),
    ("schema", "it is called `types`"),
    ("schema_overrides", "it is called `types`"),
    ("column_types", "it is called `types`"),
    ("usecols", "write `columns: { NAME: NAME }`"),
    ("select", "write `columns: { NAME: NAME }`"),
    ("rename", "write `columns: { OLD: NEW }`"),
    ("names", "write `columns: { column1: NAME }`, with `header: false` where the file has none"),
    (
        "column_names",
        "write `columns: { column1: NAME }`, with `header: false` where the file has none",
    ),
    ("nrows", "it is called `limit`"),
    ("n_rows", "it is called `limit`"),
    ("head", "it is called `limit`"),
    ("filter", "it is called `keep`"),
    ("where", "it is called `keep`"),
    ("has_header", "it is called `header`"),
    ("decimal_comma", "write `decimal: ','`"),
    ("compression", "there is none: packed files are known by how they begin"),
];

pub(super) fn names() -> Value {
    let members = NAMES.iter().map(|(name, hint)| ((*name).to_owned(), Value::from(*hint)));
    Value::Object(members.collect::<Map<_, _>>())
}
