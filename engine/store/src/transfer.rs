//! Results go from store to store.

use std::collections::HashSet;

use crate::entry::{Entry, Output};
use crate::error::{Result, StoreError};
use crate::part::PartFile;

impl Entry {
    /// Copies what of this result is not in another store: its parts, its artifacts, and what says that they are there. None if
    /// nothing was missing, or else the bytes that were.
    pub fn copy_to(&self, to: &Self) -> Result<Option<u64>> {
        let Some(preimage) = self.preimage()? else { return Ok(None) };
        let committed = to.records()?.map(|record| Ok(record?.1.input));
        let committed: HashSet<_> = committed.collect::<Result<_>>()?;
        let manifest = match to.manifest()? {
            Some(_) => None,
            None => self.manifest()?,
        };
        let mut copied = None;
        for record in self.records()? {
            let (_, record) = record?;
            if committed.contains(&record.input) {
                continue;
            }
            to.prepare(&preimage)?;
            let bytes = copied.get_or_insert(0);
            for part in record.outputs.iter().flatten() {
                *bytes += self.copy_part(part, to)?;
            }
            to.commit_part(&record)?;
        }
        let Some(manifest) = manifest else { return Ok(copied) };
        to.prepare(&preimage)?;
        let bytes = copied.get_or_insert(0);
        for (port, output) in &manifest.outputs {
            match output {
                Output::Table(parts) => {
                    for part in parts {
                        *bytes += self.copy_part(part, to)?;
                    }
                }
                Output::Artifact(artifact) => {
                    let (from, aside) =
                        (self.local_artifact(port, artifact)?, to.begin_artifact(port)?);
                    for file in &artifact.files {
                        let target = aside.join(&file.path);
                        let fail = |error| StoreError::io("copy", &target, error);
                        if let Some(above) = target.parent() {
                            std::fs::create_dir_all(above).map_err(fail)?;
                        }
                        std::fs::copy(from.join(&file.path), &target).map_err(fail)?;
                    }
                    to.commit_artifact(port, &aside)?;
                    *bytes += artifact.bytes();
                }
            }
        }
        to.commit(&manifest)?;
        Ok(copied)
    }

    fn copy_part(&self, part: &PartFile, to: &Self) -> Result<u64> {
        let rows = self.read_part(part)?;
        let copy = to.write_part(&rows.schema(), &rows)?;
        if copy == *part {
            return Ok(part.bytes);
        }
        // Another version of the writer may have made it.
        let reason = "this version of the engine writes its rows in another way; run the pipeline in the other store";
        Err(StoreError::Rows { action: "copy", reason: reason.to_owned() })
    }
}
