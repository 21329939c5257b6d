//! The Rust mirror and the C header describe the same bytes: a C program, compiled against
//! the header, prints sizes and offsets, and they are compared with Rust's.

use std::mem::{offset_of, size_of};
use std::process::Command;

use paraloom_abi as abi;

macro_rules! layout {
    ($($rust:ident $c:literal { $($field:ident),* })*) => {{
        let mut rust = Vec::new();
        let mut c = String::new();
        $(
            rust.push((String::from($c), size_of::<abi::$rust>()));
            c.push_str(&format!("printf(\"{0} %zu\\n\", sizeof(struct {0}));\n", $c));
            $(
                let name = stringify!($field);
                rust.push((format!("{}.{name}", $c), offset_of!(abi::$rust, $field)));
                c.push_str(&format!("printf(\"{0}.{name} %zu\\n\", offsetof(struct {0}, {name}));\n", $c));
            )*
        )*
        (rust, c)
    }};
}

#[test]
fn rust_and_c_agree() {
    let (rust, prints) = layout! {
        Str "paraloom_str" { ptr, len }
        Error "paraloom_error" { struct_size, flags, message, detail, release, private_data }
        Host "paraloom_host" { struct_size, abi_minor, ctx, max_log_level, log, progress, metric, is_cancelled,
            checkpoint_latest, checkpoint_begin, checkpoint_commit, scratch_dir,
            checkpoint_ms }
        Sink "paraloom_sink" { struct_size, ctx, push }
        Port "paraloom_port" { struct_size, kind, flags, name, doc }
        PlanInput "paraloom_plan_input" { struct_size, port, label, schema, note }
        PlanArgs "paraloom_plan_args" { struct_size, n_inputs, node, config_json, inputs }
        Plan "paraloom_plan" { struct_size, n_outputs, outputs, fingerprint, release, private_data, notes,
            memory_bytes }
        Input "paraloom_input" { struct_size, port, label, stream, dir }
        Output "paraloom_output" { struct_size, sink, dir }
        RunArgs "paraloom_run_args" { struct_size, threads, host, n_inputs, n_outputs, inputs, outputs, seed,
            memory_bytes, device }
        Worker "paraloom_worker" { struct_size, private_data }
        Stage "paraloom_stage" { struct_size, flags, name, version, doc, config_schema, n_inputs, n_outputs, inputs,
            outputs, plan, run, open, map, close, part_rows }
        Library "paraloom_library" { struct_size, abi_major, abi_minor, n_stages, name, version, built_with, stages }
        ArrowSchema "ArrowSchema" { format, name, metadata, flags, n_children, children, dictionary, release, private_data }
        ArrowArray "ArrowArray" { length, null_count, offset, n_buffers, n_children, buffers, children, dictionary,
            release, private_data }
        ArrowArrayStream "ArrowArrayStream" { get_schema, get_next, get_last_error, release, private_data }
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (source, program) = (dir.path().join("layout.c"), dir.path().join("layout"));
    let text = format!(
        "#include <stdio.h>\n#include \"paraloom_stage.h\"\nint main(void) {{\n{prints}\
         printf(\"major %u\\n\", PARALOOM_ABI_MAJOR);\nreturn 0;\n}}\n"
    );
    std::fs::write(&source, text).expect("the directory is ours");
    // Not the place where it was compiled: target directories are moved and shared.
    let crate_dir = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test");
    let include = std::path::Path::new(&crate_dir).join("include");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(include)
        .arg("-o")
        .args([&program, &source])
        .status()
        .expect("a C compiler");
    assert!(compiled.success());
    let output = Command::new(&program).output().expect("it was just compiled");
    let c = String::from_utf8(output.stdout).expect("text");
    let mut expected: String =
        rust.iter().map(|(name, number)| format!("{name} {number}\n")).collect();
    expected.push_str(&format!("major {}\n", abi::ABI_MAJOR));
    assert_eq!(c, expected);
}
