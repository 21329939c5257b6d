//! The build script of the T5 library, for every backend: digests its sources, so that the engine can tell a backend that was built
//! from other ones; and says where libtorch is found.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// For the packages of all backends, which are siblings of these.
const SOURCES: [&str; 3] = ["../t5/src", "../t5-core/src", "../t5-kernels/src"];

fn main() -> io::Result<()> {
    for sources in SOURCES {
        println!("cargo::rerun-if-changed={sources}");
    }
    println!("cargo::rustc-env=PARALOOM_SOURCES={}", digest()?);
    if env::var("CARGO_PKG_NAME").is_ok_and(|name| name.ends_with("-torch")) {
        find_libtorch();
    }
    Ok(())
}

/// FNV-1a of names and contents: it has to notice an edit, not an attack.
fn digest() -> io::Result<String> {
    let mut files = Vec::new();
    for sources in SOURCES {
        collect(Path::new(sources), &mut files)?;
    }
    files.sort();
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let name = file.to_string_lossy().into_owned().into_bytes();
        for byte in name.into_iter().chain(fs::read(&file)?) {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(format!("{digest:016x}"))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Beside the library, where `cargo xtask torch` lays it out, or where it is now.
fn find_libtorch() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let now = env::var("LIBTORCH").map(|path| format!("{path}/lib")).ok();
    let places = ["$ORIGIN/libtorch/lib", "$ORIGIN/../libtorch/lib", "$ORIGIN/../../libtorch/lib"];
    for place in places.into_iter().map(str::to_owned).chain(now) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{place}");
    }
}
