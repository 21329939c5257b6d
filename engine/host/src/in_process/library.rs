//! Loading a library into this process and reading its tables.

use std::collections::BTreeMap;
use std::path::Path;

use libloading::os::unix::{Library as Dynamic, RTLD_LOCAL, RTLD_NOW};
use paraloom_abi as abi;
use paraloom_pipeline::{PortInfo, PortKind, RowAccount, Shape, StageInfo};

use crate::description::Description;
use crate::error::{HostError, Result};

/// Never unload: see the crate's documentation.
const RTLD_NODELETE: i32 = 0x1000;

/// The table of one stage.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    /// What the stage knows itself by.
    pointer: *const abi::Stage,
    /// What is there, with zeros for what came after the version that the library was built against.
    stage: abi::Stage,
}

// SAFETY: the table is static and its functions may be called from any thread.
unsafe impl Send for Table {}
// SAFETY: it is never changed, so shared references may be used from any thread.
unsafe impl Sync for Table {}

impl Table {
    pub(super) fn as_ptr(&self) -> *const abi::Stage {
        self.pointer
    }

    pub(super) fn get(&self) -> &abi::Stage {
        &self.stage
    }
}

/// Loads the library at `path`, an absolute path; the tables of its stages by name.
pub(super) fn load(path: &Path) -> Result<(Description, BTreeMap<String, Table>)> {
    let refuse = |reason: String| HostError::Load { path: path.to_owned(), reason };
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
    let table = unsafe { entry().as_ref() }
        .ok_or_else(|| refuse("it returned no table of its stages".to_owned()))?;
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
    if table.n_stages > 0 && table.stages.is_null() {
        return Err(refuse("its stages are a null pointer".to_owned()));
    }
    let (mut stages, mut tables) = (Vec::new(), BTreeMap::new());
    for index in 0..table.n_stages as usize {
        // SAFETY: the table has n_stages static stages.
        let stage = unsafe { *table.stages.add(index) };
        let (info, table) = read_stage(stage).map_err(refuse)?;
        tables.insert(info.name.clone(), table);
        stages.push(info);
    }
    let description = Description {
        name: text(table.name).map_err(refuse)?,
        version: text(table.version).map_err(refuse)?,
        built_with: text(table.built_with).map_err(refuse)?,
        stages,
    };
    Ok((description, tables))
}

/// libloading's own text is only "dlopen failed"; the reason is its source.
fn source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The table at `pointer` as far as it goes, with zeros behind.
fn read_table(pointer: *const abi::Stage) -> std::result::Result<abi::Stage, String> {
    if pointer.is_null() {
        return Err("its table has an empty place".to_owned());
    }
    // SAFETY: static for the life of the process; the size comes first, in every version.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    if size < abi::Stage::SIZE_1_0 {
        return Err("the table of a stage is cut short".to_owned());
    }
    let mut table = std::mem::MaybeUninit::<abi::Stage>::zeroed();
    // SAFETY: as many bytes as the library says are there, and at most as many as there is room for; all zeros are valid
    // in every field.
    Ok(unsafe {
        let (from, to) = (pointer.cast::<u8>(), table.as_mut_ptr().cast::<u8>());
        from.copy_to_nonoverlapping(to, size.min(size_of::<abi::Stage>()));
        table.assume_init()
    })
}

fn read_stage(pointer: *const abi::Stage) -> std::result::Result<(StageInfo, Table), String> {
    let stage = read_table(pointer)?;
    let name = text(stage.name)?;
    let shape = match (stage.run, stage.open, stage.map, stage.close) {
        (Some(_), None, None, None) => Shape::Whole,
        (None, Some(_), Some(_), Some(_)) => Shape::Map,
        _ => return Err(format!("stage `{name}` offers neither run, nor open, map and close")),
    };
    if stage.plan.is_none() {
        return Err(format!("stage `{name}` offers no plan"));
    }
    let config_schema = serde_json::from_str(&text(stage.config_schema)?).map_err(|error| {
        format!("the configuration schema of stage `{name}` is not JSON: {error}")
    })?;
    let has = |flag: u32| stage.flags & flag != 0;
    let info = StageInfo {
        version: text(stage.version)?,
        doc: text(stage.doc)?,
        library: String::new(),
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
        part_rows: Some(stage.part_rows).filter(|rows| *rows > 0),
        backend: String::new(),
        name,
    };
    Ok((info, Table { pointer, stage }))
}

/// A text of a library, which is static.
fn text(text: abi::Str) -> std::result::Result<String, String> {
    if text.ptr.is_null() && text.len > 0 {
        return Err("one of its texts is a null pointer".to_owned());
    }
    // SAFETY: the texts of a library are static.
    let bytes = unsafe { text.bytes() };
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|_| format!("its text {:?} is not UTF-8", String::from_utf8_lossy(bytes)))
}

/// # Safety
/// `ports` must be null or point to `count` static ports.
unsafe fn read_ports(
    ports: *const *const abi::Port,
    count: u32,
) -> std::result::Result<Vec<PortInfo>, String> {
    if ports.is_null() && count > 0 {
        return Err("the ports of a stage are a null pointer".to_owned());
    }
    (0..count as usize)
        .map(|index| {
            // SAFETY: by contract.
            let port = unsafe { (*ports.add(index)).as_ref() };
            let port = port.ok_or("a port is a null pointer")?;
            if (port.struct_size as usize) < size_of::<abi::Port>() {
                return Err("the table of a port is cut short".to_owned());
            }
            let kind = match port.kind {
                abi::PORT_TABLE => PortKind::Table,
                abi::PORT_ARTIFACT => PortKind::Artifact,
                other => return Err(format!("a port is of the unknown kind {other}")),
            };
            Ok(PortInfo {
                name: text(port.name)?,
                doc: text(port.doc)?,
                kind,
                optional: port.flags & abi::PORT_OPTIONAL != 0,
                many: port.flags & abi::PORT_MANY != 0,
            })
        })
        .collect()
}
