//! Where a store is: a directory, or a bucket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use paraloom_bucket::{Bucket, is_url};
use paraloom_store::{Digest, Store};

use crate::error::{CliError, Result};

/// The store that `--store` names, or that of a pipeline.
pub(crate) fn of(store: Option<&Path>, pipeline: &Path) -> PathBuf {
    let beside = || pipeline.parent().unwrap_or(Path::new("")).join(".paraloom");
    let store = store.map_or_else(beside, Path::to_owned);
    match store.to_str().and_then(|text| text.strip_prefix("file://")) {
        Some(path) => path.into(),
        None => store,
    }
}

/// The store at a place, if there is one.
pub(crate) fn open(place: &Path) -> Result<Option<Store>> {
    match bucket(place)? {
        Some((copies, bucket)) => Ok(Store::open_in(&copies, bucket)?),
        None => Ok(Store::open(directory(place)?)?),
    }
}

/// A place that can be a directory.
fn directory(place: &Path) -> Result<&Path> {
    if place.metadata().is_ok_and(|there| !there.is_dir()) {
        let message = format!("{} is a file, and a store is a directory", place.display());
        return Err(CliError::usage(message).hint("name another place with --store"));
    }
    Ok(place)
}

/// The store at a place, which is made if there is none.
pub(crate) fn create(place: &Path) -> Result<Store> {
    match bucket(place)? {
        Some((copies, bucket)) => Ok(Store::create_in(&copies, bucket)?),
        None => Ok(Store::create(directory(place)?)?),
    }
}

/// What this machine has of the store at a place. Nothing is asked of a bucket.
pub(crate) fn open_here(place: &Path) -> Option<Store> {
    let copies = address(place).map(copies).transpose().ok()?;
    Store::open(copies.as_deref().unwrap_or(place)).ok().flatten()
}

fn address(place: &Path) -> Option<&str> {
    place.to_str().filter(|text| is_url(text))
}

fn bucket(place: &Path) -> Result<Option<(PathBuf, Arc<Bucket>)>> {
    let Some(url) = address(place) else { return Ok(None) };
    let bucket = Bucket::open(url).map_err(CliError::usage)?;
    Ok(Some((copies(url)?, Arc::new(bucket))))
}

/// The directory for copies of what is in a bucket.
fn copies(url: &str) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = variable("PARALOOM_CACHE").map(PathBuf::from).or_else(|| {
        let user = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let user = user.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
        user.map(|user| user.join("paraloom"))
    });
    let name = Digest::of(url.trim_end_matches('/').as_bytes()).short();
    match cache {
        Some(cache) => Ok(cache.join("stores").join(name)),
        None => Err(CliError::usage("there is no directory for copies of what is in the store")
            .hint("name one by PARALOOM_CACHE")),
    }
}
