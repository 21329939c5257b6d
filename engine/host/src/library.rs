//! Loading a library and reading its table.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::os::unix::{Library as Dynamic, RTLD_LOCAL, RTLD_NOW};
use paraloom_abi as abi;
use paraloom_pipeline::{PortInfo, PortKind, RowAccount, Shape, StageInfo};

use crate::error::{HostError, Result};
use crate::isolated::{Isolated, Isolation};
use crate::search::Origin;

/// Never unload: see the crate's documentation.
const RTLD_NODELETE: i32 = 0x1000;

/// A stage that can be called.
#[derive(Clone, Debug)]
pub struct LoadedStage {
    /// What it says of itself.
    pub info: StageInfo,
    /// Digest of its library if it is not shipped with the engine.
    pub foreign: Option<String>,
    /// Of its library; behind a `+` are the sources that it was built from.
    pub(crate) library_version: String,
    pub(crate) place: Place,
}

/// Where a stage works.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    InProcess(Table),
    Isolated(Arc<Isolated>),
}

/// A pointer to a static table of a library that is never unloaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table(*const abi::Stage);

// SAFETY: the table is static and its functions may be called from any thread.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    pub(crate) fn as_ptr(self) -> *const abi::Stage {
        self.0
    }

    pub(crate) fn get(&self) -> &abi::Stage {
        // SAFETY: static, checked when it was loaded.
        unsafe { &*self.0 }
    }
}

/// A loaded library.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    origin: Origin,
    name: String,
    version: String,
    built_with: String,
    stages: Vec<LoadedStage>,
}

impl Library {
    /// Loads the library at `path`: into this process, or if it is foreign into one in `isolation`.
    pub fn load(path: &Path, origin: Origin, isolation: Option<&Isolation>) -> Result<Self> {
        let refuse = |reason: String| HostError::Load { path: path.to_owned(), reason };
        // Without a slash, dlopen would search the system's paths.
        let path = &path.canonicalize().map_err(|error| refuse(error.to_string()))?;
        check_is_whole(path).map_err(refuse)?;
        let foreign = match origin {
            Origin::Shipped => None,
            Origin::Foreign => Some(digest(path).map_err(|error| refuse(error.to_string()))?),
        };
        if let (Some(digest), Some(isolation)) = (&foreign, isolation) {
            return Self::load_isolated(path, digest, isolation);
        }
        // SAFETY: loading runs the library's initialisers. The user named the library or
        // it ships with the engine; that is as far as trust can be established here.
        let dynamic = unsafe { Dynamic::open(Some(path), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) };
        let dynamic = dynamic.map_err(|error| refuse(source(&error)))?;
        // SAFETY: the header fixes the type of this symbol.
        let entry = unsafe { dynamic.get::<abi::EntryFn>(abi::ENTRY_SYMBOL) };
        let entry = *entry.map_err(|_| {
            refuse("it is not a stage library: it does not export `paraloom_stages_v1`".to_owned())
        })?;
        std::mem::forget(dynamic);
        // SAFETY: the entry function takes nothing and returns a static table.
        let table =
            unsafe { entry().as_ref() }.ok_or_else(|| refuse("it returned no table".to_owned()))?;
        if table.abi_major != abi::ABI_MAJOR {
            let wanted = abi::ABI_MAJOR;
            return Err(refuse(format!(
                "it speaks version {} of the stage ABI, this engine {wanted}",
                table.abi_major
            )));
        }
        if (table.struct_size as usize) < size_of::<abi::Library>() {
            return Err(refuse("its table is cut short".to_owned()));
        }
        // SAFETY: the texts of a library are static.
        let text = |text: abi::Str| unsafe { text.to_text() };
        let mut library = Self {
            path: path.clone(),
            origin,
            name: text(table.name),
            version: text(table.version),
            built_with: text(table.built_with),
            stages: Vec::new(),
        };
        for index in 0..table.n_stages as usize {
            // SAFETY: the table has n_stages static stages.
            let stage = unsafe { *table.stages.add(index) };
            let stage = read_stage(stage, &library, foreign.clone()).map_err(refuse)?;
            library.stages.push(stage);
        }
        Ok(library)
    }

    fn load_isolated(path: &Path, digest: &str, isolation: &Isolation) -> Result<Self> {
        let (isolated, described) = Isolated::load(isolation, path, digest)?;
        let stage = |info| LoadedStage {
            info,
            foreign: Some(digest.to_owned()),
            library_version: described.version.clone(),
            place: Place::Isolated(Arc::clone(&isolated)),
        };
        Ok(Self {
            path: path.to_owned(),
            origin: Origin::Foreign,
            stages: described.stages.into_iter().map(stage).collect(),
            name: described.name,
            version: described.version,
            built_with: described.built_with,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shipped or foreign.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether its stages work in processes of their own.
    pub fn is_isolated(&self) -> bool {
        self.stages.iter().any(|stage| matches!(stage.place, Place::Isolated(_)))
    }

    /// Name and version, as the library gives them.
    pub fn name(&self) -> (&str, &str) {
        (&self.name, &self.version)
    }

    /// SDK and compiler, as the library gives them.
    pub fn built_with(&self) -> &str {
        &self.built_with
    }

    /// The stages that it offers.
    pub fn stages(&self) -> &[LoadedStage] {
        &self.stages
    }
}

/// The dynamic loader dies of SIGBUS on a file that is cut short, before any check of
/// ours; so see first that all segments of an ELF file are there.
fn check_is_whole(path: &Path) -> std::result::Result<(), String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut head = Vec::new();
    file.by_ref().take(1 << 16).read_to_end(&mut head).map_err(|error| error.to_string())?;
    if !cfg!(all(target_os = "linux", target_pointer_width = "64")) {
        return Ok(());
    }
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let field = head.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    if head.get(..4) != Some(b"\x7fELF") {
        return Err("it is not a shared library".to_owned());
    }
    let segments = || -> Option<u64> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let mut end = 64;
        for index in 0..count {
            let at = usize::try_from(table.checked_add(index * size)?).ok()?;
            end = end.max(number(at + 8, 8)?.checked_add(number(at + 32, 8)?)?);
        }
        Some(end)
    };
    match segments() {
        Some(end) if end <= length => Ok(()),
        _ => Err("the file is cut short".to_owned()),
    }
}

/// What tells a library from another build of it.
pub(crate) fn digest(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// libloading's own text is only "dlopen failed"; the reason is its source.
fn source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

fn read_stage(
    pointer: *const abi::Stage,
    library: &Library,
    foreign: Option<String>,
) -> std::result::Result<LoadedStage, String> {
    // SAFETY: static for the life of the process.
    let stage = unsafe { pointer.as_ref() }.ok_or("its table has an empty place")?;
    if (stage.struct_size as usize) < size_of::<abi::Stage>() {
        return Err("the table of a stage is cut short".to_owned());
    }
    // SAFETY: the texts of a library are static.
    let text = |text: abi::Str| unsafe { text.to_text() };
    let name = text(stage.name);
    let shape = match (stage.run, stage.open, stage.map, stage.close) {
        (Some(_), None, None, None) => Shape::Whole,
        (None, Some(_), Some(_), Some(_)) => Shape::Map,
        _ => return Err(format!("stage `{name}` offers neither run, nor open, map and close")),
    };
    if stage.plan.is_none() {
        return Err(format!("stage `{name}` offers no plan"));
    }
    let config_schema = serde_json::from_str(&text(stage.config_schema)).map_err(|error| {
        format!("the configuration schema of stage `{name}` is not JSON: {error}")
    })?;
    let has = |flag: u32| stage.flags & flag != 0;
    let info = StageInfo {
        version: text(stage.version),
        doc: text(stage.doc),
        library: library.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        config_schema,
        // SAFETY: n_inputs static ports.
        inputs: unsafe { read_ports(stage.inputs, stage.n_inputs) }?,
        // SAFETY: n_outputs static ports.
        outputs: unsafe { read_ports(stage.outputs, stage.n_outputs) }?,
        shape,
        uses_seed: has(abi::STAGE_USES_SEED),
        resumable: has(abi::STAGE_RESUMABLE),
        batch_invariant: has(abi::STAGE_BATCH_INVARIANT),
        rows: match stage.flags {
            flags if flags & abi::STAGE_KEEPS_ROWS != 0 => RowAccount::Kept,
            flags if flags & abi::STAGE_DIVIDES_ROWS != 0 => RowAccount::Divided,
            flags if flags & abi::STAGE_COVERS_ROWS != 0 => RowAccount::Covered,
            _ => RowAccount::Any,
        },
        backend: String::new(),
        name,
    };
    if info.shape == Shape::Map && info.mapped_input().is_none() {
        return Err(format!("map stage `{}` has no table input", info.name));
    }
    let library_version = library.version.clone();
    Ok(LoadedStage { info, foreign, library_version, place: Place::InProcess(Table(pointer)) })
}

/// # Safety
/// `ports` must point to `count` static ports.
unsafe fn read_ports(
    ports: *const *const abi::Port,
    count: u32,
) -> std::result::Result<Vec<PortInfo>, String> {
    (0..count as usize)
        .map(|index| {
            // SAFETY: by contract.
            let port = unsafe { &**ports.add(index) };
            let kind = match port.kind {
                abi::PORT_TABLE => PortKind::Table,
                abi::PORT_ARTIFACT => PortKind::Artifact,
                other => return Err(format!("a port is of the unknown kind {other}")),
            };
            // SAFETY: the texts of a library are static.
            let text = |text: abi::Str| unsafe { text.to_text() };
            Ok(PortInfo {
                name: text(port.name),
                doc: text(port.doc),
                kind,
                optional: port.flags & abi::PORT_OPTIONAL != 0,
                many: port.flags & abi::PORT_MANY != 0,
            })
        })
        .collect()
}
