use proptest::prelude::*;

use super::*;

fn load(bytes: &[u8]) -> Result<Value<'_>> {
    Machine::new(bytes).load()
}

#[test]
fn plain_values_are_read() {
    let cases: [(&[u8], Value<'_>); 8] = [
        (b"\x80\x02N.", Value::None),
        (b"\x88.", Value::Bool(true)),
        (b"M\x01\x02.", Value::Int(513)),
        (b"J\xff\xff\xff\xff.", Value::Int(-1)),
        (b"\x8a\x02\x00\xff.", Value::Int(-256)),
        (b"\x8a\x00.", Value::Int(0)),
        (b"X\x02\0\0\0hiq\x00h\x00\x86.", Value::Tuple(0)),
        (b"\x95\0\0\0\0\0\0\0\0\x8c\x02hi\x94.", Value::Text("hi")),
    ];
    for (bytes, value) in cases {
        assert_eq!(load(bytes), Ok(value), "{bytes:?}");
    }
}

#[test]
fn what_is_no_tensor_is_refused_by_name() {
    let cases: [(&[u8], &str); 8] = [
        (b"cposix\nsystem\nX\x04\0\0\0true\x85R.", "`posix.system`"),
        (b"\x8c\x08builtins\x8c\x04eval\x93.", "`builtins.eval`"),
        (b"c__builtin__\nexec\n.", "`__builtin__.exec`"),
        (b"ctorch._utils\n_rebuild_qtensor\n.", "`torch._utils._rebuild_qtensor`"),
        (b"ctorch\nload\n.", "`torch.load`"),
        (b"}\x81.", "object of a class"),
        (b"(i__main__\nModel\n.", "object of a class"),
        (b"N}b.", "attributes of nothing"),
    ];
    for (bytes, message) in cases {
        match load(bytes) {
            Err(Fault::Refused(what)) => {
                assert!(what.contains(message), "{what}, not {message}");
            }
            other => panic!("{message}: {other:?}"),
        }
    }
}

#[test]
fn damage_is_told_with_its_place() {
    let cases: [&[u8]; 12] = [
        b"",
        b".",
        b"X\xff\xff\xff\xffa.",
        b"h\x00.",
        b"(NNu.",
        b"Na.",
        b"t.",
        b"NR.",
        b"NNR.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"(0.",
        b"cposix",
    ];
    for bytes in cases {
        assert!(
            matches!(load(bytes), Err(Fault::Damaged(what)) if what.contains("at byte")),
            "{bytes:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = load(&bytes);
    }

    /// Instructions in any order, which get further than bytes do.
    #[test]
    fn any_instructions_are_refused_or_read(
        steps in prop::collection::vec(prop::sample::select(vec![
            &b"("[..], b"}", b"]", b")", b"t", b"u", b"s", b"a", b"e", b"b", b"R", b"Q", b"0", b"N", b"K\x02",
            b"\x85", b"\x86", b"\x87", b"q\x01", b"h\x01", b"\x94", b"X\x07\0\0\0storage", b"\x8c\x010",
            b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n",
            b"ctorch._utils\n_rebuild_parameter\n",
        ]), 0..60),
    ) {
        let mut bytes = steps.concat();
        bytes.push(b'.');
        let _ = load(&bytes);
    }
}
