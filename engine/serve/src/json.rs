//! JSON as clients send it. Stricter than its usual reader, which takes the last of two members of one name in silence, and with an
//! eye for what other programs write before it.

use std::fmt::{Formatter, Result as FmtResult};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::problem::quoted;

const MARK: &[u8] = b"\xef\xbb\xbf";

/// A text in UTF-8 without the byte order mark that some editors and shells begin it with; an error says what it is instead.
pub(crate) fn utf8_of(body: &[u8]) -> Result<&[u8], String> {
    let body = body.strip_prefix(MARK).unwrap_or(body);
    let Err(error) = std::str::from_utf8(body) else { return Ok(body) };
    let is_utf16 = [b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| body.starts_with(*mark));
    let guess = if is_utf16 { "; it looks like UTF-16" } else { "" };
    Err(format!("this is not UTF-8, from byte {} on{guess}", error.valid_up_to() + 1))
}

/// The JSON of a body.
pub(crate) fn json_of(body: &[u8]) -> Result<Value, String> {
    let read = serde_json::from_slice::<Strict>(utf8_of(body)?);
    read.map(|Strict(value)| value).map_err(|error| format!("this is not JSON: {error}"))
}

/// A value in which no object has two members of one name.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!("{:?} is there twice", quoted(&name))));
            }
            let Strict(value) = members.next_value()?;
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_json_is_said() {
        let said = |body: &[u8]| match json_of(body) {
            Ok(value) => value.to_string(),
            Err(error) => error,
        };
        let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let cases: [(&[u8], &str); 9] = [
            (b"\xef\xbb\xbf{\"a\": [1, -2, 2.5, null, true]}", r#"{"a":[1,-2,2.5,null,true]}"#),
            (b"{\"a\": 1, \"a\": 1}", "this is not JSON: \"a\" is there twice at line 1 column 12"),
            (
                b"{\"a\": {\"b\": 1, \"\\u0062\": 2}}",
                "this is not JSON: \"b\" is there twice at line 1 column 23",
            ),
            (b"[{\"a\": 1}, {\"a\": 2}]", r#"[{"a":1},{"a":2}]"#),
            (b"{\"a\": \"\xff\"}", "this is not UTF-8, from byte 8 on"),
            (&utf16, "this is not UTF-8, from byte 1 on; it looks like UTF-16"),
            (b"1e400", "this is not JSON: number out of range at line 1 column 5"),
            (b"{} {}", "this is not JSON: trailing characters at line 1 column 4"),
            (b"", "this is not JSON: EOF while parsing a value at line 1 column 0"),
        ];
        for (body, expected) in cases {
            assert_eq!(said(body), expected, "{}", String::from_utf8_lossy(body));
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(".{0,4}", inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn other_values_are_read_as_by_the_usual_reader(value in value(), bytes in any::<Vec<u8>>()) {
            let body = value.to_string();
            prop_assert_eq!(json_of(body.as_bytes()), Ok(serde_json::from_str::<Value>(&body).expect("JSON")));
            let _ = json_of(&bytes);
        }
    }
}
