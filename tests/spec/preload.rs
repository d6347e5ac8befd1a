//! Libraries that take the place of functions of libc in a process (`LD_PRELOAD`).

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles a C file of this directory into `dir`.
pub fn compile(dir: &Path, source: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spec");
    let source = tests.join(source);
    let library = dir.join("preload.so");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library);
    let compiled = compiler.arg(source).arg("-ldl").status();
    assert!(compiled.expect("cc, which tests/run installs").success());
    library
}
