//! Compressed text is known by its first bytes, and so is what is no text at all.

use std::io::{BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use paraloom_sdk::Error;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

/// The most memory that a file may ask for to be unpacked.
const XZ_MEMORY_KIB: u32 = 256 << 10;

impl Packing {
    /// By the first bytes, whatever the name: `a.csv` from a browser may be packed, `a.csv.gz` may be not.
    pub(super) fn of(start: &[u8]) -> Option<Self> {
        if start.starts_with(b"\x1f\x8b\x08") {
            Some(Self::Gzip)
        } else if start.starts_with(b"\x28\xb5\x2f\xfd") {
            Some(Self::Zstd)
        } else if start.starts_with(b"BZh")
            && (start.get(4..10) == Some(b"1AY&SY")
                || start.get(4..10) == Some(b"\x17\x72\x45\x38\x50\x90"))
        {
            Some(Self::Bzip2)
        } else if start.starts_with(b"\xfd7zXZ\0") {
            Some(Self::Xz)
        } else {
            None
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        }
    }

    /// All members of the file, one after the other.
    pub(super) fn unpack(self, packed: impl BufRead + 'static) -> Box<dyn BufRead> {
        match self {
            Self::Gzip => buffered(Members::new(packed)),
            Self::Zstd => match zstd::stream::read::Decoder::with_buffer(packed) {
                Ok(reader) => buffered(reader),
                Err(error) => buffered(Failed(Some(error))),
            },
            Self::Bzip2 => buffered(bzip2::bufread::MultiBzDecoder::new(packed)),
            Self::Xz => buffered(lzma_rust2::XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB)),
        }
    }

    /// What a file name says after the name of the format.
    pub(super) const EXTENSIONS: [&'static str; 7] =
        ["gz", "gzip", "zst", "zstd", "bz2", "xz", "bgz"];
}

fn buffered(reader: impl Read + 'static) -> Box<dyn BufRead> {
    Box::new(BufReader::with_capacity(1 << 16, reader))
}

/// The members of a gzip file. Zeros behind the last one are padding, as tapes and some tools leave it.
struct Members<R> {
    current: Option<GzDecoder<R>>,
}

impl<R: BufRead> Members<R> {
    fn new(packed: R) -> Self {
        Self { current: Some(GzDecoder::new(packed)) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while let Some(member) = &mut self.current {
            let read = member.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            let Some(mut packed) = self.current.take().map(GzDecoder::into_inner) else { break };
            let has_more = loop {
                let buffer = packed.fill_buf()?;
                let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
                if zeros < buffer.len() || zeros == 0 {
                    break zeros < buffer.len();
                }
                packed.consume(zeros);
            };
            if has_more {
                let zeros = packed.fill_buf()?.iter().take_while(|byte| **byte == 0).count();
                packed.consume(zeros);
                self.current = Some(GzDecoder::new(packed));
            }
        }
        Ok(0)
    }
}

/// A decoder that could not be made.
struct Failed(Option<std::io::Error>);

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// The first bytes of what is no text, what it is, and what to do with it.
const FOREIGN: [(&[u8], &str, &str); 12] = [
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself",
        "fetch the file with `git lfs pull`",
    ),
    (b"PK\x03\x04", "a ZIP archive, as .xlsx files are too", "unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel or Word file", "save the sheet as CSV"),
    (b"PAR1", "a Parquet file", "say `format: parquet`"),
    (b"ARROW1", "an Arrow file", "say `format: arrow`"),
    (b"%PDF-", "a PDF file", "save its text as a file of its own"),
    (b"SQLite format 3\0", "an SQLite database", "export the table as CSV"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it first"),
    (b"\x1f\x9d", "compressed with compress", "unpack it first"),
    (b"\x89PNG", "a picture", "name a file of text"),
    (b"\x80\x04", "a Python pickle", "write it as Parquet or JSON lines"),
];

/// What is wrong with a file that starts like this, if it is no text.
pub(super) fn foreign(start: &[u8], name: &str) -> Option<Error> {
    if let Some((_, what, way)) = FOREIGN.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return Some(Error::data(format!("{name} is {what}")).hint(*way));
    }
    let text = start.trim_ascii_start();
    let begins =
        |tag: &[u8]| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    if begins(b"<!doctype html") || begins(b"<html") {
        let error = Error::data(format!("{name} is an HTML page"));
        return Some(error.hint("download the file itself, not the page that shows it"));
    }
    None
}
