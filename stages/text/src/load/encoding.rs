//! Encodings of text, by the names of the WHATWG Encoding Standard.

use std::fmt;
use std::io::{self, BufRead, Read};

use encoding_rs::{Decoder, DecoderResult, UTF_8, UTF_16BE, UTF_16LE};
use paraloom_sdk::{Error, Result, nearest};

/// The encoding of a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// UTF-16 whose byte order mark says which.
    Utf16,
    Known(&'static encoding_rs::Encoding),
}

/// Names that people use and the standard does not have.
const ALIASES: [(&str, &str); 12] = [
    ("latin-1", "windows-1252"),
    ("latin_1", "windows-1252"),
    ("utf_8", "utf-8"),
    ("utf-8-sig", "utf-8"),
    ("utf_16_le", "utf-16le"),
    ("utf-16-le", "utf-16le"),
    ("utf_16_be", "utf-16be"),
    ("utf-16-be", "utf-16be"),
    ("mac-roman", "macintosh"),
    ("mac_roman", "macintosh"),
    ("shift-jis", "shift_jis"),
    ("cp932", "shift_jis"),
];

/// What a wrong name may have been meant to be.
const COMMON: [&str; 14] = [
    "utf-8",
    "utf-16",
    "utf-16le",
    "utf-16be",
    "latin-1",
    "windows-1252",
    "windows-1250",
    "windows-1251",
    "macintosh",
    "koi8-r",
    "shift_jis",
    "euc-jp",
    "gb18030",
    "big5",
];

impl Encoding {
    pub(super) fn named(label: &str) -> Result<Self> {
        let lower = label.trim().to_ascii_lowercase();
        if matches!(lower.as_str(), "utf-16" | "utf16" | "utf_16") {
            return Ok(Self::Utf16);
        }
        let alias = ALIASES.iter().find(|(alias, _)| *alias == lower).map(|(_, known)| *known);
        let found =
            encoding_rs::Encoding::for_label_no_replacement(alias.unwrap_or(&lower).as_bytes());
        found.map(Self::Known).ok_or_else(|| {
            let error = Error::config(format!("there is no encoding `{label}`")).at("/encoding");
            match nearest(&lower, COMMON) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!(
                    "there are {} and the others that browsers know",
                    COMMON.join(", ")
                )),
            }
        })
    }

    /// What to do with a file that starts like this.
    pub(super) fn with_mark(self, start: &[u8], name: &str) -> Result<Opened> {
        let refuse = |what: &str, way: &str| {
            Err(Error::data(format!("{name} is {what}"))
                .at("/from")
                .hint(format!("say `encoding: {way}`")))
        };
        if let [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] = start {
            let error = Error::data(format!("{name} is UTF-32, as its byte order mark says"));
            return Err(error
                .at("/from")
                .hint("convert it: `iconv -f utf-32 -t utf-8` reads it and writes UTF-8"));
        }
        let marked = match start {
            [0xef, 0xbb, 0xbf, ..] => Some((UTF_8, 3)),
            [0xff, 0xfe, ..] => Some((UTF_16LE, 2)),
            [0xfe, 0xff, ..] => Some((UTF_16BE, 2)),
            _ => None,
        };
        let decoder = |encoding: &'static encoding_rs::Encoding| {
            (encoding != UTF_8).then(|| encoding.new_decoder_without_bom_handling())
        };
        match (self, marked) {
            (Self::Known(encoding), Some((found, mark))) if found == encoding => {
                Ok(Opened { mark, decoder: decoder(encoding) })
            }
            (Self::Utf16, Some((found, mark))) if found != UTF_8 => {
                Ok(Opened { mark, decoder: decoder(found) })
            }
            (_, Some((found, _))) if found == UTF_8 && self != Self::Known(UTF_8) => {
                refuse("UTF-8, as its byte order mark says", "utf-8")
            }
            (Self::Known(_), Some(_)) => refuse("UTF-16, as its byte order mark says", "utf-16"),
            (Self::Utf16, None) => {
                if start.is_empty() {
                    return Ok(Opened { mark: 0, decoder: None });
                }
                let error = Error::data(format!(
                    "{name} is UTF-16 without a byte order mark, or not UTF-16"
                ))
                .at("/encoding");
                Err(error.hint("say `encoding: utf-16le` or `utf-16be`"))
            }
            (Self::Known(encoding), None) if encoding == UTF_8 => match utf16_without_mark(start) {
                Some(label) => refuse("UTF-16 without a byte order mark", label),
                None => Ok(Opened { mark: 0, decoder: None }),
            },
            (Self::Known(encoding), None) => Ok(Opened { mark: 0, decoder: decoder(encoding) }),
            (Self::Utf16, Some(_)) => refuse("UTF-8, as its byte order mark says", "utf-8"),
        }
    }
}

/// Text in a Latin script has a zero in every other byte.
fn utf16_without_mark(start: &[u8]) -> Option<&'static str> {
    let start = &start[..start.len().min(256) & !1];
    let zeros = |from: usize| start.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let most = start.len() * 2 / 5;
    match (zeros(0), zeros(1)) {
        _ if start.len() < 4 => None,
        (0, low) if low > most => Some("utf-16le"),
        (high, 0) if high > most => Some("utf-16be"),
        _ => None,
    }
}

/// How to go on after the start of a file was seen.
pub(super) struct Opened {
    /// Bytes of the byte order mark.
    pub(super) mark: usize,
    /// None for UTF-8.
    pub(super) decoder: Option<Decoder>,
}

/// That bytes are no text in the encoding that the file is said to have.
#[derive(Debug)]
pub(super) struct Malformed {
    encoding: &'static str,
    pub(super) line: u64,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is not {}", self.encoding)
    }
}

impl std::error::Error for Malformed {}

/// Reads another encoding as UTF-8, a buffer at a time.
pub(super) struct Decoded<R> {
    inner: R,
    decoder: Decoder,
    replace: bool,
    text: Vec<u8>,
    at: usize,
    line: u64,
    is_done: bool,
}

impl<R: BufRead> Decoded<R> {
    pub(super) fn new(inner: R, decoder: Decoder, replace: bool) -> Self {
        Self { inner, decoder, replace, text: Vec::new(), at: 0, line: 1, is_done: false }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.text.resize(1 << 16, 0);
        self.at = 0;
        let mut written = 0;
        while written == 0 && !self.is_done {
            let input = self.inner.fill_buf()?;
            let last = input.is_empty();
            let (result, read, wrote) =
                self.decoder.decode_to_utf8_without_replacement(input, &mut self.text, last);
            self.inner.consume(read);
            written = wrote;
            self.line += memchr::memchr_iter(b'\n', &self.text[..written]).count() as u64;
            match result {
                DecoderResult::InputEmpty => self.is_done = last,
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) if self.replace => {
                    self.text.truncate(written);
                    self.text.extend_from_slice("\u{fffd}".as_bytes());
                    written = self.text.len();
                }
                DecoderResult::Malformed(..) => {
                    let encoding = self.decoder.encoding().name();
                    self.text.clear();
                    self.is_done = true;
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        Malformed { encoding, line: self.line },
                    ));
                }
            }
        }
        self.text.truncate(written);
        Ok(())
    }
}

impl<R: BufRead> Read for Decoded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.text.len() && !self.is_done {
            self.refill()?;
        }
        let rest = &self.text[self.at..];
        let taken = rest.len().min(out.len());
        out[..taken].copy_from_slice(&rest[..taken]);
        self.at += taken;
        Ok(taken)
    }
}
