//! A real Chromium that opens a page, with Playwright and axe-core.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::processes::find_program;

/// The folder where `scripts/setup.sh` installs npm packages.
fn tools() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("tools/page")
}

/// Chromium and Node.js.
pub struct Browser {
    chromium: PathBuf,
    node: PathBuf,
}

impl Browser {
    /// Finds the browser; the error says what is missing.
    pub fn find() -> Result<Browser, String> {
        let program = |names: &[&str]| {
            let found = names.iter().find_map(|name| find_program(name, []));
            found.ok_or_else(|| format!("{} is not installed", names[0]))
        };
        let chromium = program(&["chromium", "chromium-browser", "google-chrome"])?;
        let node = program(&["node"])?;
        for package in ["playwright-core", "axe-core"] {
            if !tools().join("node_modules").join(package).is_dir() {
                return Err(format!("npm's {package} is not installed (scripts/setup.sh test)"));
            }
        }
        Ok(Browser { chromium, node })
    }

    /// Returns the findings of `tests/page/look.mjs` at this URL; `screenshot` is a file to write.
    ///
    /// # Panics
    /// Where the browser fails.
    pub fn look(&self, url: &str, screenshot: Option<&Path>) -> Value {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/look.mjs");
        let mut look = Command::new(&self.node);
        look.arg(script).arg(tools()).arg(&self.chromium).arg(url).args(screenshot);
        let output = look.output().unwrap();
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{errors}");
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{errors}"))
    }
}
