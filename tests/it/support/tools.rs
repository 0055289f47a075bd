//! Tools that `scripts/setup.sh test` installs under `target/tools`: packages of npm and PyPI.

use std::path::{Path, PathBuf};

const MISSING: &str = "run scripts/setup.sh test, which needs";

/// The folder of the tools: beside the folder that Cargo gives to tests.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools")
}

/// The folder of npm packages, if it has this one.
pub fn node(package: &str) -> Result<PathBuf, String> {
    let modules = folder().join("node_modules");
    if modules.join(package).is_dir() {
        return Ok(modules);
    }
    Err(format!("npm's package {package} is not installed: {MISSING} node and npm"))
}

/// The Python interpreter of the environment that has this package.
pub fn python(package: &str) -> Result<PathBuf, String> {
    let python = folder().join("python/bin/python");
    let found = std::process::Command::new(&python).args(["-c", &format!("import {package}")]).output();
    if found.is_ok_and(|found| found.status.success()) {
        return Ok(python);
    }
    Err(format!("Python's package {package} is not installed: {MISSING} python3 with venv"))
}
