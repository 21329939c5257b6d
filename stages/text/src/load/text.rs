//! Text files: encodings, byte order marks, line ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use paraloom_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longer lines are refused: they are a sign of a file that is not lines.
const MAX_LINE: usize = 1 << 20;

/// The encoding of a text file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum Encoding {
    /// UTF-8, with or without a byte order mark.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// ISO 8859-1.
    #[serde(rename = "latin-1")]
    Latin1,
    /// UTF-16 with a byte order mark.
    #[serde(rename = "utf-16")]
    Utf16,
}

/// Opens a text file as UTF-8 without a byte order mark.
pub(crate) fn open(path: &Path, encoding: Encoding) -> Result<Box<dyn BufRead>> {
    let name = path.display();
    let file = File::open(path)
        .map_err(|error| Error::from(error).prefixed(&format!("cannot read {name}")))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    match encoding {
        Encoding::Utf8 => {
            let start = reader.fill_buf()?;
            if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
                return Err(Error::data(format!("{name} is UTF-16"))
                    .at("/from")
                    .hint("say `encoding: utf-16`"));
            }
            if start.starts_with(b"\x1f\x8b") || start.starts_with(b"PK\x03\x04") {
                return Err(Error::data(format!("{name} is compressed"))
                    .at("/from")
                    .hint("unpack it first"));
            }
            let mark = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
            reader.consume(mark);
            Ok(Box::new(reader))
        }
        Encoding::Latin1 => {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            let text: String = bytes.into_iter().map(char::from).collect();
            Ok(Box::new(Cursor::new(text.into_bytes())))
        }
        Encoding::Utf16 => {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            Ok(Box::new(Cursor::new(utf16(&bytes, path)?.into_bytes())))
        }
    }
}

fn utf16(bytes: &[u8], path: &Path) -> Result<String> {
    let bad = || Error::data(format!("{} is not UTF-16", path.display())).at("/encoding");
    let (mark, rest) = bytes.split_at_checked(2).ok_or_else(bad)?;
    let pair: fn([u8; 2]) -> u16 = match mark {
        b"\xff\xfe" => u16::from_le_bytes,
        b"\xfe\xff" => u16::from_be_bytes,
        _ => return Err(bad()),
    };
    if rest.len() % 2 == 1 {
        return Err(bad());
    }
    let units: Vec<_> = rest.chunks_exact(2).map(|two| pair([two[0], two[1]])).collect();
    String::from_utf16(&units).map_err(|_| bad())
}

/// Reads lines with their numbers: `\n`, `\r\n` and a last line without an end.
pub(crate) struct LineReader {
    reader: Box<dyn BufRead>,
    path: String,
    number: u64,
}

impl LineReader {
    pub(crate) fn open(path: &Path, encoding: Encoding) -> Result<Self> {
        Ok(Self { reader: open(path, encoding)?, path: path.display().to_string(), number: 0 })
    }

    /// The next line, without its end.
    pub(crate) fn next(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let limit = MAX_LINE as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if read as u64 == limit {
            return Err(self.error("the line is longer than 1 MiB"));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let line = String::from_utf8(bytes).map_err(|_| {
            self.error("it is not UTF-8").hint("if the file is Latin-1, say `encoding: latin-1`")
        })?;
        Ok(Some(line))
    }

    /// An error at the line that was read last.
    pub(crate) fn error(&self, message: &str) -> Error {
        Error::data(format!("{}:{}: {message}", self.path, self.number)).at("/from")
    }
}
