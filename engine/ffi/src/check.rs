//! Checks a batch that another program handed over, before and after it is imported.
//!
//! Arrow's importer believes what a C structure says: a negative length or a missing child makes it panic, or read what is
//! not there. So the structure is walked first, along the schema that was promised. What the C data interface does not say,
//! how long a buffer is, cannot be checked by anybody.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayData, RecordBatch, RecordBatchOptions, StructArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ffi::{FFI_ArrowArray, from_ffi_and_data_type};
use paraloom_abi::ArrowArray;

/// What is wrong with a batch, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The column, or `column/child` within one; empty if it is none in particular.
    pub column: String,
    /// The row of the batch, from 0, if one can be told.
    pub row: Option<usize>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.column.is_empty() {
            write!(f, "column `{}`", self.column)?;
            if let Some(row) = self.row {
                write!(f, ", row {}", row + 1)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Flaw {}

type Result<T, E = Flaw> = std::result::Result<T, E>;

fn flaw<T>(column: &str, what: impl Into<String>) -> Result<T> {
    Err(Flaw { column: column.to_owned(), row: None, what: what.into() })
}

/// Checks a C structure of a batch of `schema` as far as it can be checked.
///
/// # Errors
/// The first flaw.
///
/// # Safety
/// `array` must be null or point to a structure whose pointers are null or valid, and whose buffers hold as many values as
/// the lengths in it need, where these are consistent.
pub unsafe fn check_structure(array: *const ArrowArray, schema: &Schema) -> Result<()> {
    // SAFETY: by contract.
    let Some(root) = (unsafe { array.as_ref() }) else {
        return flaw("", "it pushed a null pointer");
    };
    if root.release.is_none() {
        return flaw("", "it pushed a batch that was released");
    }
    check_numbers(root, "")?;
    let (columns, promised) = (root.n_children, schema.fields().len());
    if usize::try_from(columns) != Ok(promised) {
        return flaw("", format!("the batch has {columns} columns, its plan promised {promised}"));
    }
    // SAFETY: by contract.
    unsafe {
        check_buffers(root, 1, &[], "")?;
        no_dictionary(root, "")?;
        if root.length == 0 {
            return Ok(());
        }
        for (index, field) in schema.fields().iter().enumerate() {
            let column = child(root, index, field.name())?;
            check_array(column, field.data_type(), root.offset + root.length, field.name())?;
        }
    }
    Ok(())
}

/// Takes over a batch of `schema` from a program that is not trusted. A batch of broken structure is not released, since
/// its `release` would walk the same structure; anything else is.
///
/// # Errors
/// The first flaw.
///
/// # Safety
/// As for [`check_structure`]; `array` is moved from.
pub unsafe fn import_checked(array: *mut ArrowArray, schema: &SchemaRef) -> Result<RecordBatch> {
    // SAFETY: by contract.
    if let Err(flaw) = unsafe { check_structure(array, schema) } {
        // SAFETY: null or valid by contract.
        if let Some(array) = unsafe { array.as_mut() } {
            array.release = None;
        }
        return Err(flaw);
    }
    // SAFETY: valid by contract, and checked; from_raw moves it and marks it as released.
    let array = unsafe { FFI_ArrowArray::from_raw(array.cast()) };
    if array.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    let data_type = DataType::Struct(schema.fields().clone());
    let whole = |error: ArrowError| {
        let what = error.to_string();
        Flaw { column: String::new(), row: None, what }
    };
    // SAFETY: it has the structure of `schema`.
    let data = unsafe { from_ffi_and_data_type(array, data_type) }.map_err(whole)?;
    if data.null_count() > 0 {
        return flaw("", "rows are null as a whole, not by column");
    }
    for (field, column) in schema.fields().iter().zip(data.child_data()) {
        // A slice would count its nulls anew.
        let column = match (data.offset(), data.len()) {
            (0, length) if length == column.len() => column.clone(),
            (offset, length) => column.slice(offset, length),
        };
        check_values(&column, field.name(), true)?;
        if let Some(nulls) = column.nulls().filter(|_| !field.is_nullable()) {
            let row = (0..nulls.len()).find(|row| nulls.is_null(*row));
            if row.is_some() {
                let what = "it is null, and its plan promised that none is".to_owned();
                return Err(Flaw { column: field.name().clone(), row, what });
            }
        }
    }
    let rows = data.len();
    let (_, columns, _) = StructArray::from(data).into_parts();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(whole)
}

/// Checks offsets, UTF-8, keys of dictionaries and counts of nulls. Values within lists are not those of rows.
fn check_values(data: &ArrayData, column: &str, are_rows: bool) -> Result<()> {
    let children = data.child_data().iter().zip(child_names(data.data_type()));
    let is_struct = matches!(data.data_type(), DataType::Struct(_));
    for (child, name) in children {
        check_values(child, &format!("{column}/{name}"), are_rows && is_struct)?;
    }
    let Err(error) = data.validate_data() else { return Ok(()) };
    let is_flawed = |row: &usize| data.slice(*row, 1).validate_data().is_err();
    let row = are_rows.then(|| (0..data.len()).find(is_flawed)).flatten();
    let what = match error.to_string() {
        text if text.contains("UTF8") || text.contains("utf-8") => "its text is not UTF-8".into(),
        text => text.trim_start_matches("Invalid argument error: ").to_owned(),
    };
    Err(Flaw { column: column.to_owned(), row, what })
}

fn child_names(data_type: &DataType) -> Vec<&str> {
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => vec![field.name()],
        DataType::Struct(fields) => fields.iter().map(|field| field.name().as_str()).collect(),
        DataType::RunEndEncoded(ends, values) => vec![ends.name(), values.name()],
        DataType::Dictionary(..) => vec!["dictionary"],
        _ => Vec::new(),
    }
}

/// # Safety
/// As for [`check_structure`]. `needed` is how many values the parent refers to.
unsafe fn check_array(
    array: &ArrowArray,
    data_type: &DataType,
    needed: i64,
    column: &str,
) -> Result<()> {
    check_numbers(array, column)?;
    if array.length < needed {
        return flaw(column, format!("it has {} values where {needed} are needed", array.length));
    }
    // With the offset, which buffers and children hold too.
    let values = array.offset + array.length;
    // SAFETY: by contract, here and in all that follows.
    unsafe {
        match data_type {
            DataType::Dictionary(keys, values_type) => {
                let Some(dictionary) = array.dictionary.as_ref() else {
                    return flaw(column, "it has no dictionary");
                };
                check_buffers(array, 2, &[width(keys, values, column)?], column)?;
                children(array, 0, column)?;
                return check_array(dictionary, values_type, 0, column);
            }
            _ => no_dictionary(array, column)?,
        }
        match data_type {
            DataType::Null => check_buffers(array, 0, &[], column),
            DataType::Utf8 | DataType::Binary => check_binary::<i32>(array, values, column),
            DataType::LargeUtf8 | DataType::LargeBinary => {
                check_binary::<i64>(array, values, column)
            }
            DataType::Utf8View | DataType::BinaryView => check_views(array, values, column),
            DataType::ListView(field) | DataType::LargeListView(field) => {
                check_buffers(array, 3, &[values, values], column)?;
                check_child(array, 0, 1, field.name(), field.data_type(), 0, column)
            }
            DataType::RunEndEncoded(ends, runs) => {
                check_buffers(array, 0, &[], column)?;
                check_child(array, 0, 2, ends.name(), ends.data_type(), 0, column)?;
                check_child(array, 1, 2, runs.name(), runs.data_type(), 0, column)
            }
            DataType::List(field) | DataType::Map(field, _) => {
                let end = check_offsets::<i32>(array, values, 2, column)?;
                check_child(array, 0, 1, field.name(), field.data_type(), end, column)
            }
            DataType::LargeList(field) => {
                let end = check_offsets::<i64>(array, values, 2, column)?;
                check_child(array, 0, 1, field.name(), field.data_type(), end, column)
            }
            DataType::FixedSizeList(field, size) => {
                check_buffers(array, 1, &[], column)?;
                let Some(needed) = values.checked_mul(i64::from(*size)) else {
                    return flaw(column, "it has more values than memory can hold");
                };
                check_child(array, 0, 1, field.name(), field.data_type(), needed, column)
            }
            DataType::Struct(fields) => {
                check_buffers(array, 1, &[], column)?;
                children(array, fields.len(), column)?;
                for (index, field) in fields.iter().enumerate() {
                    let (name, of) = (field.name(), fields.len());
                    check_child(array, index, of, name, field.data_type(), values, column)?;
                }
                Ok(())
            }
            _ if data_type.is_primitive()
                || matches!(data_type, DataType::Boolean | DataType::FixedSizeBinary(_)) =>
            {
                check_buffers(array, 2, &[width(data_type, values, column)?], column)
            }
            other => flaw(column, format!("a table cannot hold columns of the type {other}")),
        }?;
        match data_type {
            _ if data_type.is_nested() => Ok(()),
            _ => children(array, 0, column),
        }
    }
}

/// Lengths and counts that make sense.
fn check_numbers(array: &ArrowArray, column: &str) -> Result<()> {
    let ArrowArray { length, offset, null_count, n_buffers, n_children, .. } = *array;
    for (name, number) in [
        ("length", length),
        ("offset", offset),
        ("n_buffers", n_buffers),
        ("n_children", n_children),
    ] {
        if number < 0 {
            return flaw(column, format!("its `{name}` is {number}"));
        }
    }
    if null_count < -1 || null_count > length {
        return flaw(
            column,
            format!("its `null_count` is {null_count}, and its `length` {length}"),
        );
    }
    // With room for what is computed of it: no value is wider than 2^16 bytes but in a `FixedSizeBinary`.
    if offset.checked_add(length).is_none_or(|values| values > i64::MAX >> 20) {
        return flaw(column, "it has more values than memory can hold");
    }
    Ok(())
}

/// # Safety
/// As for [`check_structure`].
unsafe fn no_dictionary(array: &ArrowArray, column: &str) -> Result<()> {
    if array.dictionary.is_null() {
        Ok(())
    } else {
        flaw(column, "it has a dictionary, which its plan did not promise")
    }
}

/// That there are `count` buffers, the validity first, and none is null that has to hold bytes: `bytes` are those of the
/// buffers behind the validity, as far as they are known.
///
/// # Safety
/// As for [`check_structure`].
unsafe fn check_buffers(
    array: &ArrowArray,
    count: usize,
    bytes: &[i64],
    column: &str,
) -> Result<()> {
    let found = array.n_buffers;
    if usize::try_from(found) != Ok(count) {
        return flaw(column, format!("it has {found} buffers, its type has {count}"));
    }
    if count > 0 && array.buffers.is_null() {
        return flaw(column, "its `buffers` are a null pointer");
    }
    // SAFETY: there are `count` pointers.
    if count > 0 && array.null_count > 0 && unsafe { buffer(array, 0) }.is_null() {
        let nulls = array.null_count;
        return flaw(column, format!("its `null_count` is {nulls}, and it has no validity buffer"));
    }
    for (index, bytes) in (1..count).zip(bytes) {
        // SAFETY: `index` is less than `count`, the number of pointers.
        if *bytes > 0 && unsafe { buffer(array, index) }.is_null() {
            return flaw(column, format!("its buffer {index} is a null pointer"));
        }
    }
    Ok(())
}

/// # Safety
/// There must be a buffer of that number.
unsafe fn buffer(array: &ArrowArray, index: usize) -> *const std::ffi::c_void {
    // SAFETY: by contract.
    unsafe { *array.buffers.add(index) }
}

/// That there are `count` children.
///
/// # Safety
/// As for [`check_structure`].
unsafe fn children(array: &ArrowArray, count: usize, column: &str) -> Result<()> {
    let found = array.n_children;
    if usize::try_from(found) != Ok(count) {
        return flaw(column, format!("it has {found} children, its type has {count}"));
    }
    Ok(())
}

/// # Safety
/// As for [`check_structure`]; `n_children` is more than `index`.
unsafe fn child<'a>(array: &ArrowArray, index: usize, column: &str) -> Result<&'a ArrowArray> {
    if array.children.is_null() {
        return flaw(column, "the `children` of the array that holds it are a null pointer");
    }
    // SAFETY: there are more than `index` children.
    match unsafe { (*array.children.add(index)).as_ref() } {
        Some(child) if child.release.is_some() => Ok(child),
        Some(_) => flaw(column, "its array was released"),
        None => flaw(column, "its array is a null pointer"),
    }
}

/// # Safety
/// As for [`check_structure`].
unsafe fn check_child(
    array: &ArrowArray,
    index: usize,
    count: usize,
    name: &str,
    data_type: &DataType,
    needed: i64,
    column: &str,
) -> Result<()> {
    let path = format!("{column}/{name}");
    // SAFETY: by contract.
    unsafe {
        children(array, count, column)?;
        check_array(child(array, index, &path)?, data_type, needed, &path)
    }
}

/// The bytes of `values` values of a type of one width.
fn width(data_type: &DataType, values: i64, column: &str) -> Result<i64> {
    let bytes = match data_type {
        DataType::Boolean => Some((values + 7) / 8),
        DataType::FixedSizeBinary(width) => values.checked_mul(i64::from(*width)),
        other => values.checked_mul(other.primitive_width().unwrap_or(1) as i64),
    };
    match bytes {
        Some(bytes) => Ok(bytes),
        None => flaw(column, "it has more values than memory can hold"),
    }
}

/// Offsets of 32 or 64 bits.
trait Offset: Copy + Into<i64> {}
impl Offset for i32 {}
impl Offset for i64 {}

/// # Safety
/// As for [`check_structure`].
unsafe fn check_binary<T: Offset>(array: &ArrowArray, values: i64, column: &str) -> Result<()> {
    // SAFETY: by contract.
    let end = unsafe { check_offsets::<T>(array, values, 3, column) }?;
    // SAFETY: by contract.
    unsafe { check_buffers(array, 3, &[0, end], column) }
}

/// That offsets are there, none is negative, and they never fall; the last of them.
///
/// # Safety
/// As for [`check_structure`].
unsafe fn check_offsets<T: Offset>(
    array: &ArrowArray,
    values: i64,
    buffers: usize,
    column: &str,
) -> Result<i64> {
    // SAFETY: by contract.
    unsafe { check_buffers(array, buffers, &[values], column) }?;
    if values == 0 {
        return Ok(0);
    }
    // SAFETY: it is there, and not null.
    let offsets = unsafe { buffer(array, 1) }.cast::<T>();
    if !offsets.is_aligned() {
        return flaw(column, "its offsets are not aligned");
    }
    // SAFETY: by contract there are as many offsets as the numbers need.
    let at = |index: i64| -> i64 { unsafe { *offsets.add(index as usize) }.into() };
    let mut before = at(array.offset);
    if before < 0 {
        return flaw(column, format!("its first offset is {before}"));
    }
    for row in 0..array.length {
        let after = at(array.offset + row + 1);
        if after < before {
            let what = format!("it ends at {after}, and begins at {before}");
            return Err(Flaw { column: column.to_owned(), row: Some(row as usize), what });
        }
        before = after;
    }
    Ok(before)
}

/// # Safety
/// As for [`check_structure`].
unsafe fn check_views(array: &ArrowArray, values: i64, column: &str) -> Result<()> {
    // The validity, the views, any number of buffers with data, and the lengths of these.
    let count = array.n_buffers as usize;
    if count < 3 {
        return flaw(column, format!("it has {count} buffers, its type has at least 3"));
    }
    // SAFETY: by contract.
    unsafe { check_buffers(array, count, &[values], column) }?;
    let data = count - 3;
    // SAFETY: there are `count` buffers.
    let lengths = unsafe { buffer(array, count - 1) }.cast::<i64>();
    if data > 0 && (lengths.is_null() || !lengths.is_aligned()) {
        return flaw(column, "the lengths of its data are not there");
    }
    for index in 0..data {
        // SAFETY: one length for each buffer with data.
        let length = unsafe { *lengths.add(index) };
        // SAFETY: the buffers of data are between the first two and the last of the `count`.
        if length < 0 || (length > 0 && unsafe { buffer(array, index + 2) }.is_null()) {
            return flaw(column, format!("its buffer {} has {length} bytes", index + 2));
        }
    }
    Ok(())
}
