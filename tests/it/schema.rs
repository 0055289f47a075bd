//! `make schema`.

use std::process::Command;

use crate::support::postgres::Database;

/// Not a test: `make schema` runs it for the throw-away database that it needs. diesel.toml says what is written where.
#[test]
#[ignore = "writes to the sources"]
fn regenerate() {
    let database = Database::new();
    let mut diesel = Command::new("diesel");
    diesel
        .args(["migration", "run"])
        .env("DATABASE_URL", database.url())
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(diesel.status().unwrap().success());
}
