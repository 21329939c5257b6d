//! Batches whose C structures were spoiled at random: each is imported as it is, or refused; nothing panics.

use std::ffi::c_void;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, FixedSizeListArray, Int64Array, ListArray,
    RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use paraloom_abi::ArrowArray;
use paraloom_ffi::{export_batch, import_checked};
use proptest::prelude::*;

/// Five rows of every kind of column that arrow imports in a way of its own.
fn rows() -> RecordBatch {
    let text = StringArray::from(vec![Some("a"), None, Some("bc"), Some(""), Some("déf")]);
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
        Some(vec![Some(2)]),
        Some(vec![Some(3); 4]),
    ]);
    let pairs = vec![Some(vec![Some(1), Some(2)]); 5];
    let pairs = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(pairs, 2);
    let keys: DictionaryArray<Int32Type> = vec!["x", "y", "x", "z", "y"].into_iter().collect();
    let long = "a text that is too long to be within a view";
    let views = StringViewArray::from(vec![Some("a"), Some(long), None, Some("b"), Some(long)]);
    let number = Int64Array::from(vec![Some(1), Some(2), None, Some(4), Some(5)]);
    let inner = vec![
        (Arc::new(Field::new("t", DataType::Utf8, true)), Arc::new(text.clone()) as ArrayRef),
        (Arc::new(Field::new("n", DataType::Int64, true)), Arc::new(number.clone()) as ArrayRef),
    ];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(text)),
        ("number", Arc::new(number)),
        ("flag", Arc::new(BooleanArray::from(vec![true, false, true, true, false]))),
        ("list", Arc::new(lists)),
        ("pair", Arc::new(pairs)),
        ("key", Arc::new(keys)),
        ("view", Arc::new(views)),
        ("struct", Arc::new(StructArray::from(inner))),
    ];
    let field =
        |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect())
        .expect("rows")
}

/// What is spoiled in an array.
#[derive(Clone, Copy, Debug)]
enum Spoil {
    Length(i64),
    Offset(i64),
    NullCount(i64),
    Buffers(i64),
    Children(i64),
    NoBuffers,
    NoBuffer(usize),
    NoChildren,
    NoChild(usize),
    ChildReleased(usize),
    Dictionary,
    Released,
}

fn spoil() -> impl Strategy<Value = Spoil> {
    // Longer than what is there cannot be told from longer buffers, so lengths only shrink or are beyond all memory.
    let shorter = prop_oneof![-3_i64..5, Just(i64::MIN), Just(i64::MAX), Just(i64::MAX / 8)];
    let count = prop_oneof![-2_i64..12, Just(i64::MAX)];
    let index = 0_usize..10;
    prop_oneof![
        shorter.clone().prop_map(Spoil::Length),
        prop_oneof![Just(-1_i64), Just(i64::MIN), Just(i64::MAX), Just(i64::MAX - 3)]
            .prop_map(Spoil::Offset),
        (-3_i64..9).prop_map(Spoil::NullCount),
        // More buffers than there are pointers would be read.
        (-2_i64..3).prop_map(Spoil::Buffers),
        count.prop_map(Spoil::Children),
        Just(Spoil::NoBuffers),
        index.clone().prop_map(Spoil::NoBuffer),
        Just(Spoil::NoChildren),
        index.clone().prop_map(Spoil::NoChild),
        index.prop_map(Spoil::ChildReleased),
        Just(Spoil::Dictionary),
        Just(Spoil::Released),
    ]
}

/// Spoils the array at `path`, a child of a child, and so on. What `private_data` frees is left alone.
fn apply(
    array: &mut ArrowArray,
    path: &[usize],
    spoil: Spoil,
    keep: &mut Vec<Box<[*const c_void]>>,
) {
    let count = usize::try_from(array.n_children).unwrap_or_default();
    if let Some((at, rest)) = path.split_first().filter(|_| count > 0) {
        // SAFETY: nothing of it is spoiled yet.
        let child = unsafe { &mut **array.children.add(at % count) };
        return apply(child, rest, spoil, keep);
    }
    let buffers = usize::try_from(array.n_buffers).unwrap_or_default();
    match spoil {
        Spoil::Length(length) => array.length = length,
        Spoil::Offset(offset) => array.offset = offset,
        Spoil::NullCount(count) => array.null_count = count,
        Spoil::Buffers(count) if count < array.n_buffers => array.n_buffers = count,
        Spoil::Children(count) => array.n_children = count,
        Spoil::NoBuffers => array.buffers = std::ptr::null_mut(),
        Spoil::NoBuffer(at) if buffers > 0 => {
            // SAFETY: there are as many.
            let mut pointers: Box<[_]> =
                (0..buffers).map(|at| unsafe { *array.buffers.add(at) }).collect();
            pointers[at % buffers] = std::ptr::null();
            array.buffers = pointers.as_mut_ptr();
            keep.push(pointers);
        }
        Spoil::NoChildren => array.children = std::ptr::null_mut(),
        Spoil::ChildReleased(at) if count > 0 => {
            // SAFETY: nothing of it is spoiled yet.
            unsafe { (**array.children.add(at % count)).release = None }
        }
        Spoil::NoChild(at) if count > 0 => {
            // SAFETY: as above; what is replaced leaks.
            unsafe { *array.children.add(at % count) = std::ptr::null_mut() }
        }
        Spoil::Dictionary if array.dictionary.is_null() => {
            array.dictionary = std::ptr::from_mut(array);
        }
        Spoil::Dictionary => array.dictionary = std::ptr::null_mut(),
        Spoil::Released => array.release = None,
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn nothing_panics(path in proptest::collection::vec(0_usize..10, 0..3), spoil in spoil()) {
        let rows = rows();
        let mut array = export_batch(&rows).expect("it can be exported");
        let mut keep = Vec::new();
        apply(&mut array, &path, spoil, &mut keep);
        // SAFETY: buffers are as long as they were, and no number says more.
        let found = unsafe { import_checked(&raw mut array, &rows.schema()) };
        prop_assert!(array.release.is_none(), "it was moved");
        if let Ok(found) = found {
            prop_assert!(found.num_rows() <= rows.num_rows());
            // It can be read.
            let text = format!("{found:?}");
            prop_assert!(!text.is_empty());
        }
    }
}

#[test]
fn a_flaw_says_where_it_is() {
    let text = StringArray::from(vec!["a", "b", "cd"]);
    let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, false)]));
    let rows = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(text)]).expect("rows");
    // Of a slice, rows are counted from its first.
    for (from, length, row) in [(0, 3, 3), (1, 2, 2), (2, 1, 1)] {
        let slice = rows.slice(from, length);
        let mut array = export_batch(&slice).expect("it can be exported");
        // SAFETY: the one column has three buffers; the text is replaced by as many bytes.
        let flaw = unsafe {
            let column = &mut **array.children;
            let mut buffers: Box<[_]> = (0..3).map(|at| *column.buffers.add(at)).collect();
            buffers[2] = b"ab\xff\xff".as_ptr().cast();
            column.buffers = buffers.as_mut_ptr();
            let flaw = import_checked(&raw mut array, &schema).expect_err("it is not UTF-8");
            drop(buffers);
            flaw
        };
        let expected = format!("column `text`, row {row}: its text is not UTF-8");
        assert_eq!(flaw.to_string(), expected);
    }
    // None of no rows is wrong, whatever the columns are.
    let mut array = export_batch(&rows.slice(0, 0)).expect("it can be exported");
    // SAFETY: one child.
    unsafe { (**array.children).buffers = std::ptr::null_mut() };
    // SAFETY: the columns of no rows are not looked at.
    let none = unsafe { import_checked(&raw mut array, &schema) }.expect("no rows");
    assert_eq!(none.num_rows(), 0);
}
