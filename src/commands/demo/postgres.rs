//! A throw-away PostgreSQL server.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::bail;
use pgtemp::{PgTempDB, PgTempDBBuilder};

/// A server, not yet started.
pub(super) fn builder() -> anyhow::Result<PgTempDBBuilder> {
    let Some(programs) = program_folder() else {
        bail!("PostgreSQL is not installed: install the package postgresql, or run `make setup`");
    };
    // PostgreSQL refuses to run as root: pgtemp then uses sudo to become another user.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if is_root && !path_folders().any(|folder| folder.join("sudo").is_file()) {
        bail!(
            "PostgreSQL does not run as root, and sudo, with which it would run as the user postgres, is not \
             installed: install the package sudo, or run `make setup`, or run this as another user"
        );
    }
    // pgtemp leaves the server's standard error unread, and a full pipe would stop the server
    let builder = PgTempDB::builder().with_bin_path(programs).with_config_param("logging_collector", "on");
    // Without a locale in the environment the encoding would be SQL_ASCII.
    Ok(builder.with_initdb_arg("--encoding", "UTF8"))
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// The folder of `initdb` and `postgres`: on the path, else Debian's folder of the newest version.
fn program_folder() -> Option<PathBuf> {
    let has = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    if let Some(folder) = path_folders().find(|folder| folder.is_absolute() && has(folder)) {
        return Some(folder);
    }
    std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path().join("bin");
            has(&folder).then_some((version, folder))
        })
        .max()
        .map(|(_, folder)| folder)
}
