//! Frames through the socket between the engine and the process of a stage.
//!
//! A frame is the length of its message and the number of its blobs (4 bytes each), the length of each blob (8 bytes), the
//! message as JSON, and the blobs: schemas and batches as Arrow IPC streams (`ipc.rs`). Numbers are little-endian.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::Blobs;

/// Writes one frame.
pub(super) fn write(
    stream: &mut impl Write,
    message: &impl Serialize,
    blobs: &Blobs,
) -> io::Result<()> {
    let message = serde_json::to_vec(message)?;
    let too_long = |_| io::Error::other("a message of more than 4 GiB");
    let mut head = Vec::with_capacity(HEAD + message.len());
    head.extend(u32::try_from(message.len()).map_err(too_long)?.to_le_bytes());
    head.extend(u32::try_from(blobs.len()).map_err(too_long)?.to_le_bytes());
    blobs.iter().for_each(|blob| head.extend((blob.len() as u64).to_le_bytes()));
    head.extend(message);
    stream.write_all(&head)?;
    blobs.iter().try_for_each(|blob| stream.write_all(blob))
}

/// The length of a message and the number of blobs.
const HEAD: usize = 8;
/// What is read at once.
const CHUNK: usize = 64 << 10;

/// Frames from a stream, whose bytes come in pieces.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    /// Bytes at the beginning that belong to frames that were taken.
    taken: usize,
}

impl Frames {
    /// Waits for bytes and adds them; false at the end of the stream.
    pub(super) fn read(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        let before = self.bytes.len();
        self.bytes.resize(before + CHUNK, 0);
        let read = loop {
            match stream.read(&mut self.bytes[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another time.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.bytes.truncate(before);
                    return Ok(true);
                }
                read => break read,
            }
        };
        self.bytes.truncate(before + read.as_ref().map_or(0, |read| *read));
        read.map(|read| read > 0)
    }

    /// The next frame, if all of it is there.
    pub(super) fn next<M: DeserializeOwned>(&mut self) -> io::Result<Option<(M, Blobs)>> {
        let bytes = &self.bytes[self.taken..];
        let Some((message, blobs, end)) = layout(bytes) else { return Ok(None) };
        if bytes.len() < end {
            return Ok(None);
        }
        let message = serde_json::from_slice(&bytes[message])?;
        let blobs = blobs.into_iter().map(|blob| bytes[blob].to_vec()).collect();
        self.taken += end;
        Ok(Some((message, blobs)))
    }
}

type Span = std::ops::Range<usize>;

/// Where message and blobs of a frame are, and where it ends; none if its head is not there yet. What would end beyond all
/// numbers never ends.
fn layout(bytes: &[u8]) -> Option<(Span, Vec<Span>, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let (length, count) = (number(0)?, number(4)?);
    let mut at = HEAD + count * 8;
    let lengths = bytes.get(HEAD..at)?.chunks_exact(8);
    let mut span = |length: usize| {
        let start = at;
        at = at.saturating_add(length);
        start..at
    };
    let message = span(length);
    let blobs = lengths.map(|length| {
        let length = length.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        span(usize::try_from(length).unwrap_or(usize::MAX))
    });
    let blobs: Vec<_> = blobs.collect();
    Some((message, blobs, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = Vec::new();
        let messages = ["", "one", "two"];
        for (count, message) in messages.iter().enumerate() {
            let blobs = (0..count).map(|blob| vec![7; blob * 70_000]).collect();
            write(&mut bytes, message, &blobs).expect("memory takes all");
        }
        for piece in [1, 3, 1000, bytes.len()] {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for mut piece in bytes.chunks(piece) {
                while frames.read(&mut piece).expect("memory can be read") {}
                while let Some((message, blobs)) = frames.next::<String>().expect("it is JSON") {
                    assert!(
                        blobs.iter().enumerate().all(|(at, blob)| *blob == vec![7; at * 70_000])
                    );
                    assert_eq!(blobs.len(), found.len());
                    found.push(message);
                }
            }
            assert_eq!(found, messages);
            assert!(!frames.read(&mut io::empty()).expect("the end"));
        }
    }

    #[test]
    fn nonsense_is_an_error_or_never_ends() {
        for (bytes, is_error) in [
            (vec![0; 8], true),
            (vec![0xff; 200], false),
            ([&[2, 0, 0, 0, 0, 0, 0, 0][..], b"{]"].concat(), true),
            ([&[0, 0, 0, 0, 1, 0, 0, 0][..], &[0xff; 8]].concat(), false),
        ] {
            let mut frames = Frames::default();
            frames.read(&mut bytes.as_slice()).expect("memory can be read");
            let next = frames.next::<crate::isolated::wire::ToEngine>();
            assert_eq!(next.is_err(), is_error, "{bytes:?}: {next:?}");
        }
    }
}
