//! A text file as UTF-8: unpacked, decoded, without a byte order mark, line by line.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use memchr::memchr2;
use paraloom_sdk::{Error, Result};

use super::encoding::{Decoded, Encoding};
use super::packed::{Packing, foreign};

/// How text files are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextSettings {
    pub(super) encoding: Encoding,
    /// What is no text becomes U+FFFD instead of an error.
    pub(super) replace: bool,
    /// The longest line or record, in bytes.
    pub(super) max_line: usize,
    /// Lines at the start of a file that are left out, and at its end.
    pub(super) skip_lines: usize,
    pub(super) skip_footer: usize,
}

/// Lines with their numbers.
pub(super) struct Lines {
    reader: Box<dyn BufRead>,
    settings: TextSettings,
    path: String,
    packing: Option<Packing>,
    /// Of the line that was read last, from 1.
    number: u64,
    line: Vec<u8>,
    /// Lines at the start that are still to be left out.
    to_skip: usize,
    /// The next lines, each with the length of its end: those that the file ends with are left out.
    ahead: VecDeque<(Vec<u8>, usize)>,
}

/// What ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// `\n` and `\r\n`.
    Newline,
    /// These, and `\r` alone, as of old Macs.
    AnyReturn,
    /// Not of a line, but of a piece that may hold several: `}`.
    Brace,
}

impl Lines {
    pub(super) fn open(path: &Path, settings: TextSettings) -> Result<Self> {
        let name = path.display().to_string();
        let unreadable = |error: io::Error| {
            Error::from(error).prefixed(&format!("cannot read {name}")).at("/from")
        };
        let file = File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(Error::data(format!("{name} is not a file")).at("/from"));
        }
        let mut packed = BufReader::with_capacity(1 << 16, file);
        let packing = Packing::of(packed.fill_buf().map_err(unreadable)?);
        let mut reader = match packing {
            Some(packing) => packing.unpack(packed),
            None => Box::new(packed),
        };
        let broken = |error: &io::Error| damaged(&name, 1, packing, error);
        let start = reader.fill_buf().map_err(|error| broken(&error))?;
        if let Some(problem) = foreign(start, &name) {
            return Err(problem.at("/from"));
        }
        let encoding = settings.encoding.with_mark(start, &name)?;
        reader.consume(encoding.mark);
        let reader: Box<dyn BufRead> = match encoding.decoder {
            Some(decoder) => Box::new(BufReader::with_capacity(
                1 << 16,
                Decoded::new(reader, decoder, settings.replace),
            )),
            None => reader,
        };
        let (to_skip, ahead) = (settings.skip_lines, VecDeque::new());
        let (number, line) = (0, Vec::new());
        Ok(Self { reader, settings, path: name, packing, number, line, to_skip, ahead })
    }

    /// Appends the next line and its end to `out`; how many bytes the end has, or `None` after the last line.
    pub(super) fn append(&mut self, out: &mut String, ends: Ends) -> Result<Option<usize>> {
        while self.to_skip > 0 && self.before_footer(ends)?.is_some() {
            self.to_skip -= 1;
        }
        let Some(end) = self.before_footer(ends)? else { return Ok(None) };
        match std::str::from_utf8(&self.line) {
            Ok(line) => out.push_str(line),
            Err(_) if self.settings.replace => out.push_str(&String::from_utf8_lossy(&self.line)),
            Err(_) => return Err(self.not_utf8()),
        }
        Ok(Some(end))
    }

    /// The next line, without its end.
    pub(super) fn next(&mut self, out: &mut String) -> Result<bool> {
        out.clear();
        let Some(end) = self.append(out, Ends::Newline)? else { return Ok(false) };
        out.truncate(out.len() - end);
        Ok(true)
    }

    /// Reads the next line, unless it is one of those that the file ends with and that are left out.
    fn before_footer(&mut self, ends: Ends) -> Result<Option<usize>> {
        let end = if self.settings.skip_footer == 0 {
            self.read(ends)?
        } else {
            while self.ahead.len() <= self.settings.skip_footer
                && let Some(end) = self.read(ends)?
            {
                self.ahead.push_back((std::mem::take(&mut self.line), end));
            }
            let is_before = self.ahead.len() > self.settings.skip_footer;
            let next = self.ahead.pop_front().filter(|_| is_before);
            next.map(|(line, end)| {
                self.line = line;
                end
            })
        };
        if end.is_some() {
            self.number += match ends {
                Ends::Brace => memchr::memchr_iter(b'\n', &self.line).count() as u64,
                _ => 1,
            };
        }
        Ok(end)
    }

    /// Reads a line; the length of its end, or `None` after the last one.
    fn read(&mut self, ends: Ends) -> Result<Option<usize>> {
        self.line.clear();
        let end = self.fill(ends)?;
        // What DOS puts at the end of a file.
        if self.line.is_empty() || (self.line == b"\x1a" && self.fill_buf()?.is_empty()) {
            return Ok(None);
        }
        Ok(Some(end))
    }

    /// The number of the line that is being read.
    fn reading(&self) -> u64 {
        self.number + self.ahead.len() as u64 + 1
    }

    /// Reads a line with its end, whose length is returned.
    fn fill(&mut self, ends: Ends) -> Result<usize> {
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(damaged(&self.path, self.reading(), self.packing, &error));
                }
            };
            if buffer.is_empty() {
                return Ok(0);
            }
            let found = match ends {
                Ends::Newline => memchr::memchr(b'\n', buffer),
                Ends::AnyReturn => memchr2(b'\n', b'\r', buffer),
                Ends::Brace => memchr::memchr(b'}', buffer),
            };
            let taken = found.map_or(buffer.len(), |at| at + 1);
            let last = found.map(|at| buffer[at]);
            self.line.extend_from_slice(&buffer[..taken]);
            self.reader.consume(taken);
            if self.line.len() > self.settings.max_line {
                return Err(self.too_long(self.reading()));
            }
            match last {
                None => {}
                Some(b'}') => return Ok(0),
                Some(b'\n') => {
                    return Ok(if self.line.ends_with(b"\r\n") { 2 } else { 1 });
                }
                Some(_) => {
                    let is_pair = self.fill_buf()?.first() == Some(&b'\n');
                    if is_pair {
                        self.reader.consume(1);
                        self.line.push(b'\n');
                    }
                    return Ok(1 + usize::from(is_pair));
                }
            }
        }
    }

    fn fill_buf(&mut self) -> Result<&[u8]> {
        let (number, path, packing) = (self.reading(), &self.path, self.packing);
        self.reader.fill_buf().map_err(|error| damaged(path, number, packing, &error))
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn settings(&self) -> TextSettings {
        self.settings
    }

    /// An error at the line that was read last.
    pub(super) fn error(&self, message: &str) -> Error {
        self.error_at(self.number, message)
    }

    pub(super) fn error_at(&self, line: u64, message: &str) -> Error {
        Error::data(format!("{}:{line}: {message}", self.path)).at("/from")
    }

    /// That what begins in this line has no end for too long.
    pub(super) fn too_long(&self, line: u64) -> Error {
        let most = self.settings.max_line;
        let shown = if most.is_multiple_of(1 << 20) {
            format!("{} MiB", most >> 20)
        } else {
            format!("{most} bytes")
        };
        self.error_at(line, &format!("the line is longer than {shown}"))
            .hint("if it is meant to be, say `max_line: BYTES`")
    }

    fn not_utf8(&self) -> Error {
        let error = self.error("it is not UTF-8");
        // Western text has single letters beyond ASCII; runs of them are of other scripts.
        let runs = self.line.split(u8::is_ascii).map(<[u8]>::len);
        if self.line.contains(&0) {
            return error
                .hint("it does not look like text; if it is UTF-16, say `encoding: utf-16le`");
        }
        error.hint(match runs.max() {
            Some(0..=2) => "if the file comes from Windows or is Latin-1, say `encoding: windows-1252`",
            _ => "say what it is, such as `encoding: windows-1251`, `shift_jis`, `gb18030` or `windows-1252`",
        })
    }
}

/// Why no more can be read.
fn damaged(path: &str, line: u64, packing: Option<Packing>, error: &io::Error) -> Error {
    if let Some(malformed) =
        error.get_ref().and_then(|inner| inner.downcast_ref::<super::encoding::Malformed>())
    {
        let message = format!("{path}:{}: {malformed}", malformed.line);
        return Error::data(message)
            .at("/encoding")
            .hint("say another `encoding`, or `malformed: replace`");
    }
    match packing {
        Some(packing) => Error::data(format!(
            "{path}:{line}: the {} data ends early or is damaged: {error}",
            packing.name()
        ))
        .at("/from")
        .hint("fetch or pack the file again"),
        None => Error::new(paraloom_sdk::Status::Io, format!("{path}:{line}: {error}")).at("/from"),
    }
}

/// A JSON pointer to a member of a setting.
pub(super) fn pointer(setting: &str, member: &str) -> String {
    // RFC 6901.
    format!("/{setting}/{}", member.replace('~', "~0").replace('/', "~1"))
}
