//! The map in `src/lib.rs` holds: it names every module, and imports go down it only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The modules of the map with their lines, from top to bottom.
fn map(lib: &str) -> BTreeMap<String, usize> {
    let lines =
        lib.lines().skip_while(|line| !line.starts_with("//! main ")).take_while(|line| *line != "//! ```");
    let name = |line: &str| line.trim_start_matches("//! ").split(' ').next().unwrap().to_owned();
    lines.map(name).zip(0..).collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The names after `crate::` in the code of a file, but for its tests.
fn imports(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]").next().unwrap();
    let lines =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let name = |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
    let mut found = Vec::new();
    for rest in lines.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => {
                found.extend(list.split('}').next().unwrap().split(',').map(|item| name(item.trim())))
            }
            None => found.push(name(rest)),
        }
    }
    found
}

#[test]
fn the_map_names_every_module() {
    let lib = std::fs::read_to_string(format!("{ROOT}/src/lib.rs")).unwrap();
    let map = map(&lib);
    let module = |line: &str| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
    };
    let missing: Vec<String> =
        lib.lines().filter_map(module).filter(|name| !map.contains_key(name)).collect();
    assert!(missing.is_empty(), "modules that the map in src/lib.rs lacks: {missing:?}");
}

#[test]
fn imports_go_down_the_map_only() {
    let source = PathBuf::from(ROOT).join("src");
    let map = map(&std::fs::read_to_string(source.join("lib.rs")).unwrap());
    let mut wrong = Vec::new();
    for file in files(&source) {
        let place = file.strip_prefix(&source).unwrap().to_string_lossy().replace(".rs", "");
        if place.contains("test") {
            continue;
        }
        let module = place.split('/').next().unwrap();
        let Some(own) = map.get(module) else { continue };
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
            if map.get(&import).is_some_and(|line| line < own) {
                wrong.push(format!("{} imports {import}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the map in src/lib.rs: {wrong:#?}");
}
