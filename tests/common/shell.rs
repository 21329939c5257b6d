//! The binary under the limits that a shell can set.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::OnceLock;

use super::{Project, results, tiny};

/// The exit code where there is no room on a disk or in memory.
pub(crate) const OUT_OF_SPACE: i32 = 11;

/// What it wrote to stderr.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a shell script, with the binary as `$0`, in the directory of the project.
pub(crate) fn shell(project: &Project, script: &str) -> Output {
    let mut command = Command::new("sh");
    let binary = super::paraloom();
    command.args(["-c", script]).arg(binary.get_program()).current_dir(project.path());
    for (name, value) in binary.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.output().expect("a shell")
}

/// Runs what is left, and compares with the results of an undisturbed run.
pub(crate) fn check_resumes(project: &Project) {
    static STRAIGHT: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    let all = |project: &Project| {
        project.ok(&["run", "p.yaml"]);
        results(project, &super::TABLES, &super::MODELS)
    };
    assert!(all(project) == *STRAIGHT.get_or_init(|| all(&tiny())));
}

/// The number before `text`.
pub(crate) fn number(said: &str, text: &str) -> u64 {
    let (before, _) = said.split_once(text).unwrap_or_else(|| panic!("{said}"));
    let number = before.rsplit(' ').next().and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("{said}"))
}
