//! One file from the hub into the cache: asked for, resumed, checked, and only then named.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::api::{Metadata, RemoteFile};
use crate::cache::{Folder, create_parent};
use crate::digest::Digest;
use crate::error::{HubError, Result};
use crate::http::{Answer, Ask, Http, io_reason};
use crate::partial::Partial;
use crate::reference::Reference;
use crate::settings::{Notice, Watch};

/// How often a watcher is told of progress.
const TELL: Duration = Duration::from_millis(100);
/// Wrong bytes can be an accident once.
const WRONG_BYTES: u32 = 2;

/// Counts the bytes of a download.
pub(crate) struct Meter<'a> {
    watch: Watch<'a>,
    /// Bytes of the files that are done.
    finished: u64,
    total: u64,
    told: Option<Instant>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(watch: Watch<'a>) -> Self {
        Self { watch, finished: 0, total: 0, told: None }
    }

    /// So many more bytes are needed.
    pub(crate) fn expect(&mut self, bytes: u64) {
        self.total += bytes;
    }

    /// So many bytes of the file at hand are here.
    fn within(&mut self, bytes: u64) {
        let done = self.finished + bytes;
        if self.told.is_none_or(|told| told.elapsed() >= TELL) || done == self.total {
            self.told = Some(Instant::now());
            (self.watch.notice)(&Notice::Progress { done, total: self.total });
        }
    }

    fn finish(&mut self, bytes: u64) {
        self.within(bytes);
        self.finished += bytes;
    }
}

/// Downloads files of one commit.
pub(crate) struct Download<'a> {
    pub(crate) http: &'a Http,
    pub(crate) reference: &'a Reference,
    pub(crate) commit: &'a str,
    pub(crate) folder: &'a Folder,
    pub(crate) watch: Watch<'a>,
}

impl Download<'_> {
    /// Whether a file is in the cache, as far as its length tells: a blob is checked before
    /// it gets its name.
    pub(crate) fn is_here(&self, file: &RemoteFile) -> bool {
        let path = self.folder.snapshot(self.commit).join(&file.path);
        path.metadata().is_ok_and(|found| found.is_file() && found.len() == file.size)
    }

    /// Brings a file into the cache, unless it is there.
    pub(crate) fn file(&self, file: &RemoteFile, meter: &mut Meter) -> Result<()> {
        if !self.is_here(file) {
            let metadata = self.http.patiently(&self.watch, || {
                self.http.metadata(self.reference, self.commit, &file.path)
            })?;
            self.check_size(file, &metadata)?;
            self.blob(file, &metadata, meter)?;
            self.folder.link(self.commit, &file.path, &metadata.blob)?;
        }
        meter.finish(file.size);
        Ok(())
    }

    fn check_size(&self, file: &RemoteFile, metadata: &Metadata) -> Result<()> {
        match metadata.size {
            Some(size) if size != file.size => Err(HubError::Malformed {
                address: self.address(file),
                reason: format!("{size} bytes, where the listing says {}", file.size),
            }),
            _ => Ok(()),
        }
    }

    fn address(&self, file: &RemoteFile) -> String {
        self.http.file_address(self.reference, self.commit, &file.path)
    }

    fn blob(&self, file: &RemoteFile, metadata: &Metadata, meter: &mut Meter) -> Result<()> {
        let path = self.folder.blobs().join(&metadata.blob);
        create_parent(&path)?;
        let _lock = self.lock(file, &metadata.blob)?;
        if path.metadata().is_ok_and(|found| found.len() == file.size) {
            return Ok(());
        }
        // The tag is a digest on the public hub; elsewhere the listing may have one.
        let digest = metadata.digest.as_ref().or(file.digest.as_ref());
        let mut partial = Partial::open(&path, digest)?;
        let (mut failures, mut wrong) = (0, 0);
        loop {
            let before = partial.length();
            let tried = self
                .stream(file, metadata, &mut partial, meter)
                .and_then(|()| self.check(file, digest, &mut partial));
            let error = match tried {
                Ok(()) => return partial.persist(&path),
                Err(error) if error.is_passing() => error,
                Err(error) => return Err(error),
            };
            failures = if partial.length() > before { 1 } else { failures + 1 };
            wrong += u32::from(matches!(error, HubError::WrongBytes { .. }));
            if wrong >= WRONG_BYTES {
                return Err(error);
            }
            self.http.pause(failures, error, &self.watch)?;
        }
    }

    /// Waits while another process downloads the same blob.
    fn lock(&self, file: &RemoteFile, blob: &str) -> Result<File> {
        let mut told = false;
        loop {
            if let Some(lock) = self.folder.try_lock(blob)? {
                return Ok(lock);
            }
            if self.watch.is_stopped() {
                return Err(HubError::Stopped);
            }
            if !told {
                (self.watch.notice)(&Notice::Waiting { file: file.path.clone() });
                told = true;
            }
            std::thread::sleep(TELL);
        }
    }

    /// Appends what is missing; afterwards the length is right.
    fn stream(
        &self,
        file: &RemoteFile,
        metadata: &Metadata,
        partial: &mut Partial,
        meter: &mut Meter,
    ) -> Result<()> {
        if partial.length() > file.size {
            partial.clear()?;
        }
        let start = partial.length();
        if start == file.size {
            return Ok(());
        }
        let ask = Ask { from: start, tag: metadata.tag.clone(), ..Ask::get(self.address(file)) };
        let mut answer = self.http.ask(&ask)?;
        match answer.status {
            206 if start > 0 && continues(&answer, start, file.size) => {}
            // Not a part, whatever was asked for: it begins at the beginning.
            200 => partial.clear()?,
            206 | 416 => {
                partial.clear()?;
                return Err(wrong_bytes(&answer, "a part of the file that was not asked for"));
            }
            _ => {
                answer = self.http.expect_success(answer, self.reference, self.commit)?;
                return Err(answer.malformed(format!("status {} instead of a file", answer.status)));
            }
        }
        let expected = file.size - partial.length();
        let announced = answer.header("content-length").and_then(|text| text.parse::<u64>().ok());
        if let Some(length) = announced.filter(|length| *length != expected) {
            return Err(wrong_bytes(&answer, &format!("{length} bytes instead of {expected}")));
        }
        self.copy(&mut answer, file, partial, meter)
    }

    fn copy(
        &self,
        answer: &mut Answer,
        file: &RemoteFile,
        partial: &mut Partial,
        meter: &mut Meter,
    ) -> Result<()> {
        let mut buffer = vec![0; 1 << 17];
        let address = answer.address.clone();
        let cut = |reason: String| HubError::Unreachable { address: address.clone(), reason };
        let mut reader = answer.body.as_reader();
        loop {
            if self.watch.is_stopped() {
                return Err(HubError::Stopped);
            }
            let read = reader.read(&mut buffer).map_err(|error| cut(io_reason(&error)))?;
            if read == 0 {
                break;
            }
            if partial.length() + read as u64 > file.size {
                partial.clear()?;
                let reason = format!("more than the {} bytes that it announced", file.size);
                return Err(HubError::WrongBytes { address, reason });
            }
            partial.append(&buffer[..read])?;
            meter.within(partial.length());
        }
        match file.size - partial.length() {
            0 => Ok(()),
            missing => Err(cut(format!("it stopped {missing} bytes before the end"))),
        }
    }

    /// Wrong bytes are not kept.
    fn check(
        &self,
        file: &RemoteFile,
        digest: Option<&Digest>,
        partial: &mut Partial,
    ) -> Result<()> {
        let Some(digest) = digest else { return Ok(()) };
        if partial.fits(digest)? {
            return Ok(());
        }
        partial.clear()?;
        let reason = "they do not have the digest that it announced".to_owned();
        Err(HubError::WrongBytes { address: self.address(file), reason })
    }
}

/// Whether a part begins where we stopped: `Content-Range: bytes START-END/TOTAL`.
fn continues(answer: &Answer, start: u64, size: u64) -> bool {
    let range = answer.header("content-range").and_then(|text| text.strip_prefix("bytes "));
    let Some((range, total)) = range.and_then(|range| range.split_once('/')) else { return false };
    let from = range.split('-').next().and_then(|from| from.parse::<u64>().ok());
    from == Some(start) && (total == "*" || total.parse() == Ok(size))
}

fn wrong_bytes(answer: &Answer, reason: &str) -> HubError {
    HubError::WrongBytes { address: answer.address.clone(), reason: reason.to_owned() }
}
