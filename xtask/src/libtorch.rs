//! Lays out a CPU libtorch from the wheels that PyTorch is published as: the version that `torch-sys` is made for, and of
//! its files only those that a program in Rust needs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `torch-sys` 0.22 is made for, and the two CUDA libraries that this build of `libtorch_cpu` wants to be there, though
/// nothing of them is called without a GPU.
const WHEELS: [&str; 3] =
    ["torch==2.9.0", "nvidia-cuda-runtime-cu12==12.8.90", "nvidia-cuda-cupti-cu12==12.8.90"];

/// What is taken of the wheels' libraries.
const LIBRARIES: [&str; 5] =
    ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.12", "libcupti.so.12"];

/// Makes `to`, unless it is there already.
pub(crate) fn libtorch(to: &Path) -> io::Result<Vec<String>> {
    let done = to.join("build-version");
    if done.is_file() {
        return Ok(Vec::new());
    }
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        return Ok(vec![
            "wheels are laid out on 64-bit Linux for x86 only; unpack a libtorch 2.9.0 yourself and set LIBTORCH".into(),
        ]);
    }
    let wheels = to.with_extension("wheels");
    fs::create_dir_all(&wheels)?;
    if let Some(problem) = download(&wheels) {
        return Ok(vec![problem]);
    }
    for directory in ["lib", "include"] {
        fs::create_dir_all(to.join(directory))?;
    }
    for wheel in fs::read_dir(&wheels)? {
        unpack(&wheel?.path(), to)?;
    }
    let missing = LIBRARIES.iter().filter(|name| !to.join("lib").join(name).is_file());
    let missing: Vec<_> = missing.map(|name| format!("no wheel has {name}")).collect();
    if !missing.is_empty() {
        return Ok(missing);
    }
    if let Some(problem) = empty_library(&to.join("lib"))? {
        return Ok(vec![problem]);
    }
    fs::remove_dir_all(&wheels)?;
    fs::write(done, "2.9.0\n")?;
    Ok(Vec::new())
}

/// pip knows the index that this machine uses, and checks what it gets. The tags say that the wheels are not for its Python.
fn download(to: &Path) -> Option<String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"]);
    pip.args(["--python-version", "3.11", "--implementation", "cp"]);
    pip.args(["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64"]);
    pip.args(["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]);
    pip.arg("--dest").arg(to).args(WHEELS);
    match pip.status() {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("pip ended with {status}; is the package index within reach?")),
        Err(error) => Some(format!(
            "python3: {error}; pip fetches the wheels, nothing else of Python is needed (or set LIBTORCH to a libtorch 2.9.0)"
        )),
    }
}

fn unpack(wheel: &Path, to: &Path) -> io::Result<()> {
    let mut wheel = zip::ZipArchive::new(File::open(wheel)?).map_err(io::Error::other)?;
    for index in 0..wheel.len() {
        let mut member = wheel.by_index(index).map_err(io::Error::other)?;
        let Some(path) = member.enclosed_name().filter(|_| member.is_file()) else { continue };
        let Some(path) = place(&path) else { continue };
        let path = to.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        io::copy(&mut member, &mut File::create(path)?)?;
    }
    Ok(())
}

/// Where a member of a wheel goes, if it is wanted.
fn place(member: &Path) -> Option<PathBuf> {
    if let Ok(header) = member.strip_prefix("torch/include") {
        return Some(Path::new("include").join(header));
    }
    let name = member.file_name()?.to_str()?;
    LIBRARIES.contains(&name).then(|| Path::new("lib").join(name))
}

/// `libtorch.so` itself would want the CUDA half. Linking asks for it by name, so an empty one stands in.
fn empty_library(lib: &Path) -> io::Result<Option<String>> {
    let source = lib.join("empty.c");
    fs::write(&source, "")?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-Wl,-soname,libtorch.so", "-o"]).arg(lib.join("libtorch.so")).arg(&source);
    let status = cc.status()?;
    fs::remove_file(&source)?;
    Ok((!status.success()).then(|| format!("cc ended with {status}")))
}
