//! Record batches in and out of the Arrow C data interface: the one place where the
//! engine and the SDK turn arrow's types into those of the ABI and back.

use std::ffi::{CStr, c_char};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions, StructArray};
use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type, to_ffi};
use paraloom_abi as abi;

mod check;
mod stream;
pub use check::{Flaw, check_structure, import_checked};
pub use stream::export_stream;

type Result<T> = std::result::Result<T, ArrowError>;

fn broken(message: impl Into<String>) -> ArrowError {
    ArrowError::CDataInterface(message.into())
}

/// Moves a batch into a C array whose schema both sides already know.
pub fn export_batch(batch: &RecordBatch) -> Result<abi::ArrowArray> {
    let data = StructArray::from(batch.clone()).into_data();
    let (array, _schema) = to_ffi(&data)?;
    // SAFETY: arrow's structure and ours are both the one of the C data interface;
    // the value is moved, so it is released once.
    Ok(unsafe { std::mem::transmute::<FFI_ArrowArray, abi::ArrowArray>(array) })
}

/// Takes over a C array of the given schema.
///
/// # Safety
/// `array` must follow the C data interface and match `schema`; it is moved from.
pub unsafe fn import_batch(array: *mut abi::ArrowArray, schema: &SchemaRef) -> Result<RecordBatch> {
    // SAFETY: the caller vouches for `array`; from_raw moves it and marks it released.
    let array = unsafe { FFI_ArrowArray::from_raw(array.cast()) };
    let data_type = DataType::Struct(schema.fields().clone());
    // SAFETY: the caller vouches that the array matches the schema.
    let data = unsafe { from_ffi_and_data_type(array, data_type) }?;
    let rows = data.len();
    let (_, columns, _) = StructArray::from(data).into_parts();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Writes a schema as a C struct schema.
pub fn export_schema(schema: &Schema) -> Result<abi::ArrowSchema> {
    let exported = FFI_ArrowSchema::try_from(DataType::Struct(schema.fields().clone()))?;
    // SAFETY: same layout, moved once.
    Ok(unsafe { std::mem::transmute::<FFI_ArrowSchema, abi::ArrowSchema>(exported) })
}

/// Reads a C struct schema without taking it over.
///
/// # Safety
/// `schema` must be null or follow the C data interface.
pub unsafe fn import_schema(schema: *const abi::ArrowSchema) -> Result<Option<SchemaRef>> {
    // SAFETY: null or valid by contract.
    let Some(found) = (unsafe { schema.as_ref() }) else {
        return Ok(None);
    };
    // SAFETY: valid by contract.
    unsafe { check_schema(found, 0) }?;
    // SAFETY: valid by contract; arrow's structure has the same layout.
    let schema = unsafe { &*schema.cast::<FFI_ArrowSchema>() };
    match DataType::try_from(schema)? {
        DataType::Struct(fields) => Ok(Some(Arc::new(Schema::new(fields)))),
        other => Err(broken(format!("a table schema must be a struct, not {other}"))),
    }
}

/// How deep types may be nested.
const DEEPEST: usize = 64;

/// Refuses what arrow's reader of schemas would panic on.
///
/// # Safety
/// The pointers in `schema` must be null or valid.
unsafe fn check_schema(schema: &abi::ArrowSchema, depth: usize) -> Result<()> {
    // SAFETY: texts are null or end in a NUL.
    let text = |text: *const c_char| unsafe { (!text.is_null()).then(|| CStr::from_ptr(text)) };
    let name = text(schema.name).unwrap_or_default().to_string_lossy();
    let wrong = |what: &str| Err(broken(format!("the schema of `{name}` {what}")));
    if schema.release.is_none() {
        return wrong("was released");
    }
    if text(schema.name).is_some_and(|name| name.to_str().is_err()) {
        return wrong("has a name that is not UTF-8");
    }
    let Some(Ok(format)) = text(schema.format).map(CStr::to_str) else {
        return wrong("has no format");
    };
    let children = match format.as_bytes() {
        [b'+', b'l' | b'L' | b'w' | b'v' | b'm', ..] => Some(1),
        [b'+', b'r', ..] => Some(2),
        _ => None,
    };
    if children.is_some_and(|children| schema.n_children != children) {
        return wrong("has another number of children than its format");
    }
    if depth == DEEPEST {
        return wrong("is nested too deep");
    }
    if schema.n_children < 0 || (schema.n_children > 0 && schema.children.is_null()) {
        return wrong("has no children where it says that it has some");
    }
    for index in 0..schema.n_children as usize {
        // SAFETY: it has n_children pointers.
        let Some(child) = (unsafe { (*schema.children.add(index)).as_ref() }) else {
            return wrong("has a child that is a null pointer");
        };
        // SAFETY: by contract.
        unsafe { check_schema(child, depth + 1) }?;
    }
    // SAFETY: null or valid by contract.
    match unsafe { schema.dictionary.as_ref() } {
        // SAFETY: by contract.
        Some(dictionary) => unsafe { check_schema(dictionary, depth + 1) },
        None => Ok(()),
    }
}

/// Reads the batches of a C stream; ends it when dropped.
pub struct StreamReader {
    stream: abi::ArrowArrayStream,
    schema: SchemaRef,
}

// SAFETY: the C stream interface allows use from one thread at a time, and the
// reader owns the stream.
unsafe impl Send for StreamReader {}

impl StreamReader {
    /// Moves the stream out of `source`.
    ///
    /// # Safety
    /// `source` must follow the C stream interface and not be released yet.
    pub unsafe fn take(source: *mut abi::ArrowArrayStream) -> Result<Self> {
        // SAFETY: valid by contract; marking the source as released makes this a move.
        let stream = unsafe {
            let stream = std::ptr::read(source);
            (*source).release = None;
            stream
        };
        let mut reader = Self { stream, schema: Arc::new(Schema::new(Fields::empty())) };
        let mut schema = abi::ArrowSchema::empty();
        let get_schema =
            reader.stream.get_schema.ok_or_else(|| broken("a stream without get_schema"))?;
        // SAFETY: both pointers are valid for the call.
        let code = unsafe { get_schema(&raw mut reader.stream, &raw mut schema) };
        if code != 0 {
            return Err(reader.error(code));
        }
        // SAFETY: filled by get_schema; the drop of arrow's structure releases it.
        let owned = unsafe { FFI_ArrowSchema::from_raw((&raw mut schema).cast()) };
        // SAFETY: valid until `owned` is dropped.
        let imported = unsafe { import_schema((&raw const owned).cast()) }?;
        reader.schema = imported.ok_or_else(|| broken("a stream without a schema"))?;
        Ok(reader)
    }

    /// Schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn error(&mut self, code: i32) -> ArrowError {
        // SAFETY: the callback may be called after any failed call; the text lives
        // until the next call on the stream.
        let text = self.stream.get_last_error.and_then(|last| unsafe {
            let text = last(&raw mut self.stream);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        });
        let text = text.unwrap_or_else(|| format!("error {code}"));
        broken(format!("reading rows failed: {text}"))
    }

    fn read(&mut self) -> Result<Option<RecordBatch>> {
        let get_next = self.stream.get_next.ok_or_else(|| broken("a stream without get_next"))?;
        let mut array = abi::ArrowArray::empty();
        // SAFETY: both pointers are valid for the call.
        let code = unsafe { get_next(&raw mut self.stream, &raw mut array) };
        if code != 0 {
            return Err(self.error(code));
        }
        if array.release.is_none() {
            return Ok(None);
        }
        // SAFETY: the stream promises arrays of its schema.
        unsafe { import_batch(&raw mut array, &self.schema) }.map(Some)
    }
}

impl Iterator for StreamReader {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        if let Some(release) = self.stream.release {
            // SAFETY: not released yet, since release is still set.
            unsafe { release(&raw mut self.stream) };
        }
    }
}
