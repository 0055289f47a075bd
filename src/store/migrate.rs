//! The migrations inside the binary: apply, roll back, show; and the comparison with tables that another tool has
//! made. Raw SQL: PostgreSQL's catalogs and Diesel's own table are not in `schema.rs`.

use anyhow::{Context, anyhow, bail};
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::sql_types::{Bool, Nullable, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::pooled_connection::PoolableConnection;
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::connect::{ConnectError, connect, look_over, pg_backend_pid};
use super::fault::NO_CONNECTION;
use super::tables::COLUMNS;
use super::waits;

/// The directory `migrations` at build time.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!();

/// The migration that creates the seven tables or takes them over. Once it is applied, types are not compared any
/// more.
const TABLES_MIGRATION: &str = "2026-11-23-000002_tables";

/// The advisory lock of a running migration (`voiceclo` in ASCII).
const LOCK: i64 = 0x766f_6963_6563_6c6f;

/// How far a database is migrated. Names are those of the directories; a migration that this program does not know
/// has its version for a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaState {
    /// Applied, the oldest first.
    pub applied: Vec<String>,
    /// Still to be applied, in this order. The schema is behind if there are any.
    pub pending: Vec<String>,
    /// Applied by another, presumably newer, version of the program.
    pub unknown: Vec<String>,
}

#[derive(QueryableByName)]
struct Exists {
    #[diesel(sql_type = Bool)]
    found: bool,
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

#[derive(QueryableByName)]
struct ColumnType {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Nullable<Text>)]
    column_name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    type_name: Option<String>,
}

/// The applied, pending and unknown migrations. Changes nothing, and does not even create Diesel's table.
pub async fn state(conn: &mut AsyncPgConnection) -> anyhow::Result<SchemaState> {
    let exists: Exists =
        sql_query("SELECT to_regclass('public.__diesel_schema_migrations') IS NOT NULL AS found")
            .get_result(conn)
            .await
            .context("looking for Diesel's table of migrations")?;
    let mut versions: Vec<String> = Vec::new();
    if exists.found {
        let rows: Vec<Version> = sql_query(
            "SELECT version::text AS version FROM public.__diesel_schema_migrations ORDER BY version",
        )
        .load(conn)
        .await
        .context("reading public.__diesel_schema_migrations")?;
        versions = rows.into_iter().map(|row| row.version).collect();
    }
    let mut state = SchemaState::default();
    let all = known()?;
    for migration in &all {
        let name = migration.name().to_string();
        if versions.contains(&migration.name().version().to_string()) {
            state.applied.push(name);
        } else {
            state.pending.push(name);
        }
    }
    let is_known = |version: &String| all.iter().any(|m| m.name().version().to_string() == *version);
    state.unknown = versions.iter().filter(|version| !is_known(version)).cloned().collect();
    Ok(state)
}

/// Applies the next `n` migrations, or all, and returns their names. Several programs may call it at once: one works,
/// the others wait and then find nothing to do.
///
/// If another tool has made tables whose columns have other types than documented, nothing is changed and the error
/// lists them. A database whose encoding is not UTF-8 is refused.
pub async fn up(url: &str, n: Option<u64>) -> anyhow::Result<Vec<String>> {
    let conn = look_over(url).await.map_err(|refusal| match refusal {
        ConnectError::Person(why) => anyhow!(why),
        ConnectError::Away(why) => anyhow!("{NO_CONNECTION}: {why}"),
    })?;
    let mut conn = locked(conn).await?;
    let mut pending = state(&mut conn).await?.pending;
    if pending.iter().any(|name| name == TABLES_MIGRATION) {
        let list = disagreements(&mut conn).await?;
        if !list.is_empty() {
            bail!(
                "the database has tables from another tool that disagree with the schema document; nothing \
                 was changed. Alter these columns, or use another database:\n  {}",
                list.join("\n  ")
            );
        }
    }
    pending.truncate(count(n, pending.len()));
    in_turn(url, conn, pending, Direction::Up).await
}

/// Rolls back the last `n` migrations, or one, and returns their names. After the last one Diesel's own table is
/// dropped, too.
pub async fn down(url: &str, n: Option<u64>) -> anyhow::Result<Vec<String>> {
    let conn = connect(url).await.map_err(|e| anyhow!("{NO_CONNECTION}: {e}"))?;
    let mut conn = locked(conn).await?;
    let SchemaState { mut applied, unknown, .. } = state(&mut conn).await?;
    if !unknown.is_empty() {
        bail!(
            "the database has migrations that this program does not know ({}): roll them back first, with the \
             version of the program that applied them",
            unknown.join(", ")
        );
    }
    applied.reverse();
    applied.truncate(count(n, 1));
    in_turn(url, conn, applied, Direction::Down).await
}

/// Why existing tables cannot be taken over, one line each: `table.column is X, expected Y`. A missing column is no
/// reason, as the migration adds it, except for `id`, which it cannot make up.
pub async fn disagreements(conn: &mut AsyncPgConnection) -> anyhow::Result<Vec<String>> {
    // the catalogue, as information_schema hides everything that the role has no privilege on
    let found: Vec<ColumnType> = sql_query(
        "SELECT c.relname::text AS table_name, c.relkind::text AS kind, a.attname::text AS column_name,
                format_type(a.atttypid, a.atttypmod) AS type_name
         FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE n.nspname = 'public'",
    )
    .load(conn)
    .await
    .context("reading the columns of the tables")?;

    let mut list = Vec::new();
    for (table, columns) in COLUMNS {
        let Some(kind) = found.iter().find(|f| f.table_name == table).map(|f| f.kind.as_str()) else {
            continue;
        };
        if !matches!(kind, "r" | "p") {
            list.push(format!("{table} is {}, expected a table", kind_name(kind)));
            continue;
        }
        for (column, expected) in columns {
            let actual = found
                .iter()
                .find(|f| f.table_name == table && f.column_name.as_deref() == Some(column))
                .and_then(|f| f.type_name.as_deref());
            match actual {
                Some(actual) if actual != *expected => {
                    list.push(format!("{table}.{column} is {actual}, expected {expected}"));
                }
                None if *column == "id" => {
                    list.push(format!("{table}.{column} is missing, expected {expected}"));
                }
                _ => {}
            }
        }
    }
    Ok(list)
}

fn kind_name(kind: &str) -> &'static str {
    match kind {
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        "S" => "a sequence",
        "i" | "I" => "an index",
        "c" => "a composite type",
        _ => "something else",
    }
}

fn count(n: Option<u64>, default: usize) -> usize {
    n.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// A connection that holds the lock until it releases it or ends.
async fn locked(mut conn: AsyncPgConnection) -> anyhow::Result<AsyncPgConnection> {
    // Diesel's table belongs in public, whatever the role's search path. Neither waiting for another program nor an
    // index on a large table may run into a limit of the role for its queries.
    conn.batch_execute("SET search_path TO public; SET statement_timeout TO 0; SET lock_timeout TO 0")
        .await?;
    let got: Exists =
        sql_query(format!("SELECT pg_try_advisory_lock({LOCK}) AS found")).get_result(&mut conn).await?;
    if !got.found {
        tracing::info!("another program is migrating the database; waiting for it");
        conn.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).await?;
    }
    Ok(conn)
}

/// The migrations of this program, the oldest first.
fn known() -> anyhow::Result<Vec<Box<dyn Migration<Pg>>>> {
    let mut all = MigrationSource::<Pg>::migrations(&MIGRATIONS).map_err(|e| anyhow!(e))?;
    all.sort_by(|a, b| a.name().version().cmp(&b.name().version()));
    Ok(all)
}

/// Runs each migration in a transaction of its own, drops Diesel's table if it is empty, and releases the lock.
async fn in_turn(
    url: &str,
    mut conn: AsyncPgConnection,
    names: Vec<String>,
    direction: Direction,
) -> anyhow::Result<Vec<String>> {
    let backend = diesel::select(pg_backend_pid()).get_result(&mut conn).await?;
    // Diesel's harness blocks its thread; a thread of its own disturbs nobody, whatever the runtime
    let migrating = tokio::task::spawn_blocking(move || {
        let mut harness = AsyncMigrationHarness::new(conn);
        let result = run(&mut harness, &names, direction);
        (harness.into_inner(), result)
    });
    let (mut conn, result) =
        waits::watched(url, backend, migrating).await.context("the migration was aborted")?;
    let tidied = conn.batch_execute(TIDY).await;
    let unlocked = conn.batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})")).await;
    // whatever the last words of the server were
    let done = if conn.is_broken() { result.context(NO_CONNECTION)? } else { result? };
    tidied.context("removing Diesel's empty table of migrations")?;
    unlocked.context("releasing the lock of migrations")?;
    Ok(done)
}

fn run(
    harness: &mut AsyncMigrationHarness<AsyncPgConnection>,
    names: &[String],
    direction: Direction,
) -> anyhow::Result<Vec<String>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    // creates Diesel's table if it is missing
    harness.applied_migrations().map_err(|e| anyhow!(e)).context("preparing Diesel's table of migrations")?;
    let all = known()?;
    let mut done = Vec::new();
    for name in names {
        let migration = all
            .iter()
            .find(|m| m.name().to_string() == *name)
            .with_context(|| format!("no migration {name}"))?;
        let result = match direction {
            Direction::Up => harness.run_migration(migration),
            Direction::Down => harness.revert_migration(migration),
        };
        result.map_err(|e| anyhow!(e)).with_context(|| match direction {
            Direction::Up => format!("applying {name} (done before it: {})", list(&done)),
            Direction::Down => format!("rolling back {name} (done before it: {})", list(&done)),
        })?;
        match direction {
            Direction::Up => tracing::info!(migration = name, "applied"),
            Direction::Down => tracing::info!(migration = name, "rolled back"),
        }
        done.push(name.clone());
    }
    Ok(done)
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Drops Diesel's table once nothing is applied.
const TIDY: &str = "DO $$
BEGIN
    IF to_regclass('public.__diesel_schema_migrations') IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM public.__diesel_schema_migrations) THEN
            DROP TABLE public.__diesel_schema_migrations;
        END IF;
    END IF;
END
$$";

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn the_migration_that_takes_tables_over_is_there() {
        let all = MigrationSource::<Pg>::migrations(&MIGRATIONS).unwrap();
        assert!(all.iter().any(|m| m.name().to_string() == TABLES_MIGRATION));
    }
}
