//! A protobuf message, read field by field; as much of the wire format as a SentencePiece model needs.
//!
//! Nothing is trusted: a length that points past the end is an error, and no length is allocated before it is checked.

/// What is wrong with the bytes, for a sentence that begins with the name of the file.
pub(super) type Result<T> = std::result::Result<T, &'static str>;

const CUT_SHORT: &str = "a field is cut short";

/// The value of a field, as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Numbers, booleans and enumerations.
    Varint(u64),
    /// A fixed 64-bit value; SentencePiece has none that we read.
    Fixed64,
    /// Text, bytes or a message inside.
    Bytes(&'a [u8]),
    /// The bits of a float.
    Fixed32(u32),
}

impl<'a> Value<'a> {
    /// A number; an error for any other type.
    pub(super) fn number(self) -> Result<u64> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err("a number is of another type"),
        }
    }

    /// A float; an error for any other type.
    pub(super) fn float(self) -> Result<f32> {
        match self {
            Self::Fixed32(bits) => Ok(f32::from_bits(bits)),
            _ => Err("a float is of another type"),
        }
    }

    /// Bytes; an error for any other type.
    pub(super) fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err("a text or message is of another type"),
        }
    }

    /// UTF-8 text; an error for anything else.
    pub(super) fn text(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a text is not UTF-8")
    }
}

/// The fields of a message, in the order in which they were written.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| CUT_SHORT)?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let (bits, rest) = self.rest.split_first_chunk().ok_or(CUT_SHORT)?;
                self.rest = rest;
                Value::Fixed32(u32::from_le_bytes(*bits))
            }
            _ => return Err("a field is of an unknown type"),
        };
        Ok((tag >> 3, value))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number has no end")
    }
}

impl<'a> Iterator for Fields<'a> {
    /// Number and value of a field.
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            // What follows a damaged field has no beginning.
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Result<(u64, Value<'_>)>> {
        Fields::new(bytes).collect()
    }

    #[test]
    fn every_wire_type_is_read() {
        let bytes = [
            0x08, 0xac, 0x02, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f, 0x21, 0, 0, 0, 0, 0, 0,
            0, 0,
        ];
        let one = 1.0f32.to_bits();
        assert_eq!(
            read(&bytes),
            [
                Ok((1, Value::Varint(300))),
                Ok((2, Value::Bytes(b"hi"))),
                Ok((3, Value::Fixed32(one))),
                Ok((4, Value::Fixed64)),
            ]
        );
    }

    #[test]
    fn damage_ends_the_message_with_an_error() {
        let cases: [(&[u8], &str); 5] = [
            (&[0x80], CUT_SHORT),
            (&[0x12, 5, b'a'], CUT_SHORT),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], CUT_SHORT),
            (&[0x0b], "a field is of an unknown type"),
            (&[0xff; 12], "a number has no end"),
        ];
        for (bytes, message) in cases {
            assert_eq!(read(bytes), [Err(message)], "{bytes:?}");
        }
    }
}
