//! Makes the archive that users install: the binary and the stage libraries, linked against a C library as old as Debian 11's,
//! with shell completions, licences, and the quickstart with its base model.
//!
//! Zig's C compiler, from PyPI, links against the C library of any age; cargo-zigbuild, from there too, tells Cargo of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Error};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The C library of Debian 11, Ubuntu 20.04 and RHEL 9.
const GLIBC: (u32, u32) = (2, 31);
const TARGET: &str = "x86_64-unknown-linux-gnu";
const TOOLS: [&str; 2] = ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"];
const PACKAGES: [&str; 3] = ["paraloom", "paraloom-stages-text", "paraloom-stages-t5"];
/// In bytes.
const LARGEST: u64 = 40_000_000;

/// What is installed, and from where in the cargo target directory or the project.
const BUILT: [(&str, &str); 3] = [
    ("paraloom", "bin/paraloom"),
    ("libparaloom_stages_text.so", "lib/paraloom/stages/libparaloom_stages_text.so"),
    ("libparaloom_stages_t5.so", "lib/paraloom/stages/libparaloom_stages_t5.so"),
];
const COPIED: [(&str, &str); 5] = [
    ("README.md", "share/doc/paraloom/README.md"),
    ("CHANGELOG.md", "share/doc/paraloom/CHANGELOG.md"),
    ("LICENSE-APACHE", "share/doc/paraloom/LICENSE-APACHE"),
    ("LICENSE-MIT", "share/doc/paraloom/LICENSE-MIT"),
    ("docs", "share/doc/paraloom/docs"),
];
/// Completions go where shells look for those of a prefix.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/paraloom"),
    ("zsh", "share/zsh/site-functions/_paraloom"),
    ("fish", "share/fish/vendor_completions.d/paraloom.fish"),
];
/// Where `init --template quickstart` looks for its files.
const QUICKSTART: &str = "share/paraloom/quickstart";

/// Makes `target/archive/paraloom-VERSION-TARGET.tar.gz` with its SHA-256 beside it; the problems of what came out.
pub(crate) fn dist(root: &Path, target: &Path) -> io::Result<Vec<String>> {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        return Ok(vec!["archives are made on 64-bit Linux for x86 only".to_owned()]);
    }
    build(root, target)?;
    let dist = target.join("archive");
    let name = format!("paraloom-{}-{TARGET}", env!("CARGO_PKG_VERSION"));
    let tree = dist.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let mut problems = Vec::new();
    for (from, to) in BUILT {
        let built = target.join(TARGET).join("dist").join(from);
        copy(&built, &tree.join(to))?;
        problems.extend(too_new(&built)?);
    }
    for (from, to) in COPIED {
        copy(&root.join(from), &tree.join(to))?;
    }
    let binary = tree.join(BUILT[0].1);
    for (shell, to) in COMPLETIONS {
        let script = output(Command::new(&binary).args(["completions", shell]))?;
        write(&tree.join(to), &script)?;
    }
    for file in quickstart(root)? {
        copy(&root.join("pipelines").join(&file), &tree.join(QUICKSTART).join(&file))?;
    }
    write(&tree.join("share/doc/paraloom/THIRD-PARTY.txt"), &licences(root)?)?;

    let archive = dist.join(format!("{name}.tar.gz"));
    // The same tree is the same archive.
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "--mode=u=rwX,go=rX",
    ]);
    tar.args(["--use-compress-program", "gzip --no-name --best", "--create", "--file"])
        .arg(&archive);
    output(tar.arg("--directory").arg(&dist).arg(&name))?;
    let sum = output(Command::new("sha256sum").current_dir(&dist).arg(format!("{name}.tar.gz")))?;
    fs::write(dist.join(format!("{name}.tar.gz.sha256")), sum)?;
    let bytes = fs::metadata(&archive)?.len();
    eprintln!("{} ({:.1} MB)", archive.display(), bytes as f64 / 1e6);
    if bytes > LARGEST {
        problems.push(format!("{bytes} bytes are more than {LARGEST}"));
    }
    Ok(problems)
}

fn build(root: &Path, target: &Path) -> io::Result<()> {
    let venv = target.join("dist-tools");
    let python = venv.join("bin/python");
    if !python.exists() {
        output(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    output(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(TOOLS))?;
    let mut zigbuild = Command::new(venv.join("bin/cargo-zigbuild"));
    zigbuild.args(["zigbuild", "--locked", "--profile", "dist", "--target"]);
    zigbuild.arg(format!("{TARGET}.{}.{}", GLIBC.0, GLIBC.1)).current_dir(root);
    for package in PACKAGES {
        zigbuild.args(["--package", package]);
    }
    // Messages name sources by their place in the project.
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"));
    let mut flags = format!("{flags} --remap-path-prefix={}=paraloom", root.display());
    if let Ok(home) = home {
        flags += &format!(" --remap-path-prefix={home}=cargo");
    }
    zigbuild.env("RUSTFLAGS", flags.trim()).env("CARGO_ZIGBUILD_PYTHON_PATH", &python);
    zigbuild.env("PATH", with_first(&venv.join("bin")));
    crate::forget_package(&mut zigbuild);
    match zigbuild.status()? {
        status if status.success() => Ok(()),
        status => Err(Error::other(format!("cargo zigbuild ended with {status}"))),
    }
}

/// The search path with a directory before the others: cargo-zigbuild asks the Python there for Zig.
fn with_first(dir: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(all).unwrap_or(path)
}

/// What a library needs of the C library that is newer than [`GLIBC`].
fn too_new(file: &Path) -> io::Result<Vec<String>> {
    const PREFIX: &[u8] = b"GLIBC_";
    let bytes = fs::read(file)?;
    let named = bytes.windows(PREFIX.len()).enumerate().filter(|(_, window)| *window == PREFIX);
    let versions: BTreeSet<_> =
        named.filter_map(|(at, _)| version(&bytes[at + PREFIX.len()..])).collect();
    let newer = versions.into_iter().filter(|version| *version > GLIBC);
    Ok(newer
        .map(|(major, minor)| format!("{} needs GLIBC_{major}.{minor}", file.display()))
        .collect())
}

/// The first two numbers of a version such as `2.31`.
fn version(bytes: &[u8]) -> Option<(u32, u32)> {
    let is_part = |byte: &&u8| byte.is_ascii_digit() || **byte == b'.';
    let text: Vec<u8> = bytes.iter().take_while(is_part).copied().collect();
    let mut numbers = std::str::from_utf8(&text).ok()?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The files that `init --template quickstart` writes, as its source lists them.
fn quickstart(root: &Path) -> io::Result<Vec<String>> {
    let source = fs::read_to_string(root.join("engine/cli/commands/init.rs"))?;
    let list = source.split_once("const QUICKSTART").and_then(|(_, rest)| rest.split_once("= ["));
    let list = list.and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) =
        list.ok_or_else(|| Error::other("engine/cli/commands/init.rs has no list QUICKSTART"))?;
    Ok(list.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

/// The licences of all crates that are linked in: each text once, with the crates that it is of.
fn licences(root: &Path) -> io::Result<Vec<u8>> {
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(arguments).current_dir(root);
        crate::forget_package(&mut cargo);
        output(&mut cargo)
    };
    let mut tree = vec![
        "tree", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--target", TARGET,
    ];
    for package in PACKAGES {
        tree.extend(["--package", package]);
    }
    let linked: BTreeSet<String> =
        String::from_utf8_lossy(&cargo(&tree)?).lines().filter_map(name_and_version).collect();
    let metadata = cargo(&["metadata", "--format-version", "1", "--filter-platform", TARGET])?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut list = String::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |name: &str| package[name].as_str().unwrap_or_default();
        let name = format!("{} v{}", text("name"), text("version"));
        // Our own have no source.
        if package["source"].is_null() || !linked.contains(&name) {
            continue;
        }
        list += &format!("{name}: {} {}\n", text("license"), text("repository"));
        for licence in licence_files(Path::new(text("manifest_path")))? {
            texts.entry(licence).or_default().push(name.clone());
        }
    }
    let mut all = format!(
        "Paraloom is linked with these crates. The texts of their licences follow.\n\n{list}"
    );
    for (licence, crates) in texts {
        all += &format!("\n{}\n{}\n\n{}\n", "=".repeat(80), crates.join(", "), licence.trim());
    }
    Ok(all.into_bytes())
}

/// `serde v1.0.2 (proc-macro)` without what follows the version.
fn name_and_version(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    Some(format!("{} {}", words.next()?, words.next()?))
}

/// The texts beside a crate's manifest that are licences or notices by their names.
fn licence_files(manifest: &Path) -> io::Result<Vec<String>> {
    const NAMES: [&str; 6] = ["licen", "copying", "notice", "unlicense", "copyright", "authors"];
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in manifest.parent().map(fs::read_dir).into_iter().flatten().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
            files.push(path);
        }
    }
    files.sort();
    files.iter().map(|path| Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())).collect()
}

/// Copies a file or a directory.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let told = |error: Error| Error::new(error.kind(), format!("{}: {error}", from.display()));
    if from.is_dir() {
        for entry in fs::read_dir(from).map_err(told)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to).map(drop).map_err(told)
}

fn write(to: &Path, content: &[u8]) -> io::Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::write(to, content)
}

/// What a program writes; its end with an error is one.
fn output(command: &mut Command) -> io::Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let told = |error: Error| Error::new(error.kind(), format!("{program}: {error}"));
    let output = command.output().map_err(told)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::other(format!("{program} ended with {}: {said}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version(b"2.31\0GLIBC_2.4\0"), Some((2, 31)));
        assert_eq!(version(b"2.2.5\0"), Some((2, 2)));
        assert_eq!(version(b"PRIVATE\0"), None);
        assert!((2, 4) < GLIBC && (2, 34) > GLIBC);
    }

    #[test]
    fn what_needs_a_newer_c_library_is_told() {
        let file = std::env::temp_dir().join(format!("paraloom-dist-{}", std::process::id()));
        fs::write(
            &file,
            b"\x7fELF\0GLIBC_2.2.5\0GLIBC_2.31\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.34\0",
        )
        .expect("it can be written");
        let said = too_new(&file).expect("it can be read");
        fs::remove_file(&file).expect("it is there");
        assert_eq!(said, [format!("{} needs GLIBC_2.34", file.display())]);
    }

    #[test]
    fn the_quickstart_is_all_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project");
        let files = quickstart(root).expect("a list");
        assert!(files.contains(&"quickstart-base/model.safetensors".to_owned()), "{files:?}");
        for file in files {
            assert!(root.join("pipelines").join(&file).is_file(), "{file}");
        }
    }
}
