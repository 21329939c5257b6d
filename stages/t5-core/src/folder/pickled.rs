//! Weights as torch pickles them (`pytorch_model.bin`): the zip archive of torch 1.6 and later, and the stream of pickles
//! before that.
//!
//! Nothing in the file is run: what a pickle says of tensors is written down as their places in the file, and the values are
//! read from there.

mod archive;
mod machine;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use self::{
    archive::Archive,
    machine::{Fault, Machine, Result, Storage, Tensor, Value},
};
use super::tensors::Place;
use crate::Error;

/// More bytes than the pickle of any checkpoint has: some 30,000 tensors.
const MOST_PICKLE: u64 = 8 << 20;
/// What the stream of pickles begins with, and its version.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;
/// Where a tar archive says that it is one.
const TAR: std::ops::Range<usize> = 257..262;
/// Names shown of those that are wrong.
const SHOWN: usize = 3;

/// The tensors of a pickled checkpoint, by name.
///
/// # Errors
/// When the file cannot be read, is damaged, or holds anything but tensors; then the message has the line that converts it.
pub(super) fn read(path: &Path) -> crate::Result<BTreeMap<String, Place>> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut start = Vec::new();
    file.by_ref().take(512).read_to_end(&mut start).map_err(Error::io(path))?;
    let found = match start.as_slice() {
        [b'P', b'K', ..] => of_archive(&file, length, path),
        // A pickle of protocol 2 or later.
        [0x80, ..] => of_stream(&mut file, length, path),
        [b'{' | b'v', ..] if super::tensors::is_pointer(&start) => {
            return Err(Error::malformed(path, super::tensors::POINTER));
        }
        tar if tar.get(TAR).is_some_and(|magic| magic == b"ustar") => {
            Err(Fault::Refused("it is in the layout of torch before 0.2".into()))
        }
        _ => Err(Fault::Damaged("this is not a checkpoint of torch".into())),
    };
    found.map_err(|fault| {
        Error::malformed(
            path,
            match fault {
                Fault::Damaged(what) => what,
                Fault::Refused(what) => format!(
                    "{what}; where you trust it, let torch keep the tensors alone, and name the new directory: {}",
                    command(KEEP_TENSORS, path)
                ),
                Fault::Compressed(name) => format!(
                    "`{name}` is compressed, which torch never does, and reads wrongly; unpack it, and name the new \
                     directory: {}",
                    command(UNPACK, path)
                ),
            },
        )
    })
}

/// Copies a model directory, without all in its weights that is no tensor.
const KEEP_TENSORS: &str = "import sys, glob, shutil, torch; old, new = sys.argv[1:]; shutil.copytree(old, new); \
    [torch.save({k: v.detach().to_dense() for k, v in (w.state_dict() if hasattr(w, 'state_dict') else \
    w.get('state_dict', w)).items() if torch.is_tensor(v)}, p) for p in glob.glob(new + '/pytorch_model*.bin') for w in \
    [torch.load(p, map_location='cpu', weights_only=False)]]";
/// Copies a model directory, with the archives of its weights stored as torch stores them.
const UNPACK: &str = "import sys, glob, shutil, zipfile as z; old, new = sys.argv[1:]; shutil.copytree(old, new); \
    [[t.writestr(n, f.read(n)) for n in f.namelist()] + [t.close()] for p in glob.glob(old + '/pytorch_model*.bin') \
    for f in [z.ZipFile(p)] for t in [z.ZipFile(new + p[len(old):], 'w')]]";

/// The line for a shell that runs a program on the directory of a file.
fn command(program: &str, path: &Path) -> String {
    let directory = path.parent().unwrap_or(path).display().to_string().replace('\'', r"'\''");
    format!("python -c \"{program}\" '{directory}' NEW")
}

/// Where a storage begins in the file, and the bytes that it has there.
type Extent = (u64, u64);

fn of_archive(file: &File, length: u64, path: &Path) -> Result<BTreeMap<String, Place>> {
    let archive = Archive::open(file, length)?;
    let roots: Vec<&str> =
        archive.names().filter_map(|name| name.strip_suffix("data.pkl")).collect();
    let &[root] = roots.as_slice() else {
        return Err(Fault::Damaged("this archive is not a checkpoint of torch".into()));
    };
    if archive.names().any(|name| name.strip_prefix(root) == Some("constants.pkl")) {
        return Err(Fault::Refused("it is a TorchScript program, not only weights".into()));
    }
    let order = format!("{root}byteorder");
    if archive.names().any(|name| name == order) && archive.bytes(&order, 16)? != b"little" {
        return Err(Fault::Refused("its numbers are big-endian".into()));
    }
    let pickle = archive.bytes(&format!("{root}data.pkl"), MOST_PICKLE)?;
    let mut machine = Machine::new(&pickle);
    let state = machine.load()?;
    places(&machine, state, path, |storage| archive.place(&format!("{root}data/{}", storage.key)))
}

/// A magic number, the protocol, the machine that wrote it, the weights, and the storages one after another.
fn of_stream(file: &mut File, length: u64, path: &Path) -> Result<BTreeMap<String, Place>> {
    let damaged = |what: &str| Fault::Damaged(what.to_owned());
    let io = |error: std::io::Error| Fault::Damaged(error.to_string());
    let mut pickles = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    file.by_ref().take(MOST_PICKLE).read_to_end(&mut pickles).map_err(io)?;
    let mut machine = Machine::new(&pickles);
    if machine.load()? != Value::Long(&MAGIC) {
        return Err(damaged("this is a pickle, but not a checkpoint of torch"));
    }
    if machine.load()? != Value::Int(PROTOCOL) {
        return Err(damaged("this is a checkpoint of an unknown version"));
    }
    let system = machine.load()?;
    let little = (Value::Text("little_endian"), Value::Bool(true));
    if !machine.dict(system).is_some_and(|system| system.contains(&little)) {
        return Err(Fault::Refused("its numbers are big-endian".into()));
    }
    let state = machine.load()?;
    let keys = machine.load()?;
    let mut storages: HashMap<&str, Extent> = HashMap::new();
    let mut at = machine.position() as u64;
    // Each storage follows the last, after the number of its elements.
    let of_key = machine.storages();
    for key in machine.list(keys).ok_or_else(|| damaged("the keys of its storages are missing"))? {
        let Value::Text(key) = *key else { return Err(damaged("a storage has no key")) };
        let storage =
            of_key.get(key).ok_or_else(|| damaged("it has a storage without a tensor"))?;
        let mut count = [0; 8];
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        file.read_exact(&mut count).map_err(|_| damaged("it is cut short"))?;
        let bytes = u64::from_le_bytes(count).checked_mul(storage.dtype.bitsize() as u64 / 8);
        let end = bytes.and_then(|bytes| bytes.checked_add(at + 8)).filter(|end| *end <= length);
        let end = end.ok_or_else(|| damaged("it is cut short"))?;
        storages.insert(key, (at + 8, end - at - 8));
        at = end;
    }
    let missing = || damaged("a storage is missing");
    places(&machine, state, path, |storage| storages.get(storage.key).copied().ok_or_else(missing))
}

/// The tensors of a state dictionary.
fn places<'a>(
    machine: &Machine<'a>,
    state: Value<'a>,
    path: &Path,
    extent: impl Fn(Storage<'a>) -> Result<Extent>,
) -> Result<BTreeMap<String, Place>> {
    let entries = machine.dict(state).ok_or_else(|| {
        Fault::Refused(format!("it holds {}, not the weights of a model by name", state.kind()))
    })?;
    let (mut places, mut others) = (BTreeMap::new(), Vec::new());
    for &(key, value) in entries {
        match (key, machine.tensor(value)) {
            (Value::Text(name), Some((tensor, storage))) => {
                let place = place(tensor, storage, extent(storage)?, path);
                places.insert(
                    name.to_owned(),
                    place.map_err(|what| Fault::Damaged(format!("`{name}` {what}")))?,
                );
            }
            (Value::Text(name), None) => others.push(format!("`{name}` is {}", value.kind())),
            (key, _) => others.push(format!("{} is the name of something", key.kind())),
        }
    }
    if others.is_empty() {
        return Ok(places);
    }
    let more = others.len().saturating_sub(SHOWN);
    let mut told = others.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 {
        told.push_str(&format!(", and {more} more"));
    }
    Err(Fault::Refused(format!("it holds what is no tensor: {told}")))
}

/// Where a tensor lies, if it lies within its storage.
fn place(
    tensor: &Tensor,
    storage: Storage<'_>,
    (start, bytes): Extent,
    path: &Path,
) -> std::result::Result<Place, &'static str> {
    const LARGE: &str = "is larger than its storage";
    let size = storage.dtype.bitsize() / 8;
    let stored = storage.elements.checked_mul(size).ok_or(LARGE)?;
    if stored as u64 > bytes {
        return Err(LARGE);
    }
    let elements = tensor.shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
    let elements = elements.ok_or(LARGE)?;
    let last = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(tensor.offset, |last, (&size, &stride)| {
            last.checked_add(size.saturating_sub(1).checked_mul(stride)?)
        });
    if elements > 0 && last.is_none_or(|last| last >= storage.elements) {
        return Err(LARGE);
    }
    if elements > storage.elements {
        return Err("repeats values of its storage");
    }
    Ok(Place {
        file: path.to_path_buf(),
        offset: start + (tensor.offset.min(storage.elements) * size) as u64,
        dtype: storage.dtype,
        shape: tensor.shape.clone(),
        strides: (elements > 0 && !is_contiguous(tensor)).then(|| tensor.strides.clone()),
    })
}

/// Whether the values lie one after the other, the last dimension fastest.
fn is_contiguous(tensor: &Tensor) -> bool {
    let mut expected = 1;
    tensor.shape.iter().zip(&tensor.strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected *= size.max(1);
        fits
    })
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::PathBuf};

    use proptest::prelude::*;

    use super::*;
    use crate::folder::TensorFiles;

    /// What tests/fidelity/make_pickles.py has written.
    fn recorded(name: &str) -> PathBuf {
        // The crates of other backends compile these tests too.
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pickles").join(name)
    }

    fn error(path: &Path) -> String {
        read(path)
            .map_or_else(|error| error.to_string(), |places| format!("{} places", places.len()))
    }

    #[test]
    fn tensors_are_those_of_torch() -> crate::Result<()> {
        let expected = TensorFiles::of_file(&recorded("expected.safetensors"))?;
        for name in ["archive.bin", "archive-4.bin", "stream.bin"] {
            let places = read(&recorded(name))?;
            assert_eq!(places.len(), 13, "{name}");
            for (tensor, place) in places {
                let (_, same) = expected.find(&[&tensor], &place.shape)?;
                assert_eq!(place.dtype, same.dtype, "{name}: {tensor}");
                assert_eq!(place.read_bytes()?, same.read_bytes()?, "{name}: {tensor}");
                if tensor != "integers" {
                    assert_eq!(place.values(&tensor)?, same.values(&tensor)?, "{name}: {tensor}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn tied_tensors_lie_in_one_place() -> crate::Result<()> {
        let places = read(&recorded("archive.bin"))?;
        assert_eq!(places["tied"], places["f32"]);
        Ok(())
    }

    #[test]
    fn what_is_more_than_weights_is_refused_with_the_way_out() {
        let cases = [
            (
                "training.bin",
                "it holds what is no tensor: `epoch` is a number, `optimizer` is a dictionary",
            ),
            ("module.bin", "it refers to `torch.nn.modules.linear.Linear`"),
            ("sparse.bin", "it refers to `torch._utils._rebuild_sparse_tensor`"),
        ];
        for (name, message) in cases {
            let error = error(&recorded(name));
            assert!(error.contains(message) && error.contains("python -c"), "{name}: {error}");
        }
    }

    #[test]
    fn what_is_no_checkpoint_is_told_as_what_it_is() -> std::io::Result<()> {
        let mut tar = vec![0; 512];
        tar[TAR].copy_from_slice(b"ustar");
        let archive = std::fs::read(recorded("archive.bin"))?;
        let stream = std::fs::read(recorded("stream.bin"))?;
        let cases: [(&[u8], &str); 8] = [
            (b"", "not a checkpoint"),
            (b"pickle", "not a checkpoint"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
            (&tar, "before 0.2"),
            (b"\x80\x02N.", "a pickle, but not a checkpoint"),
            (b"PK\x03\x04", "cut short"),
            (&archive[..archive.len() - 30], "cut short"),
            (&stream[..stream.len() - 1], "cut short"),
        ];
        for (bytes, message) in cases {
            let file = file(bytes)?;
            let error = error(file.path());
            assert!(error.contains(message), "{error}, not {message}");
        }
        Ok(())
    }

    fn file(bytes: &[u8]) -> std::io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(bytes)?;
        Ok(file)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        /// Damaged anywhere, a checkpoint is refused, or its tensors lie within it.
        #[test]
        fn a_damaged_checkpoint_is_refused_or_read(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            length in any::<prop::sample::Index>(),
            cut in any::<bool>(),
            name in prop::sample::select(vec!["archive.bin", "archive-4.bin", "stream.bin"]),
        ) {
            let mut bytes = std::fs::read(recorded(name)).expect("it was recorded");
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if cut {
                bytes.truncate(length.index(bytes.len()));
            }
            let file = file(&bytes).expect("it is ours");
            for (tensor, place) in read(file.path()).unwrap_or_default() {
                prop_assert!(place.bytes() <= bytes.len());
                let _ = place.read_bytes().expect("it lies within the file");
                let _ = place.values(&tensor);
            }
        }
    }
}
