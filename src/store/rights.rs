//! The privileges that the daemon's role needs, for `check`. Raw SQL: PostgreSQL's catalogs are not in `schema.rs`.

use diesel::sql_types::{Bool, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::tables::TABLES;

/// A schema, a table of it, and privileges.
type Rights = (&'static str, &'static str, &'static [&'static str]);

const WRITE: &[&str] = &["SELECT", "INSERT", "UPDATE"];
const ALL: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

const MIGRATIONS: Rights = ("public", "__diesel_schema_migrations", &["SELECT"]);

const BOOKKEEPING: [Rights; 9] = [
    ("ingest", "consumer_offsets", WRITE),
    ("ingest", "dead_letters", ALL),
    ("ingest", "voices", WRITE),
    ("ingest", "calls", WRITE),
    ("ingest", "mappings", WRITE),
    ("ingest", "outbox", ALL),
    ("ingest", "instances", ALL),
    ("ingest", "skips", &["SELECT", "INSERT"]),
    ("ingest", "pauses", ALL),
];

/// The privileges that the daemon needs on tables. `roles.sql` grants the same, and a test compares the two. Locking
/// rows (`FOR UPDATE`) needs `UPDATE`.
fn rights() -> impl Iterator<Item = Rights> {
    let written = TABLES.into_iter().map(|table| ("public", table, WRITE));
    std::iter::once(MIGRATIONS).chain(written).chain(BOOKKEEPING)
}

/// The names of these tables.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    rights().map(|(_, table, _)| table)
}

/// Facts about the server that was reached.
#[derive(QueryableByName)]
pub struct ReachedServer {
    #[diesel(sql_type = Text)]
    /// PostgreSQL's version.
    pub version: String,
    #[diesel(sql_type = Text)]
    /// The role of this connection.
    pub role: String,
    #[diesel(sql_type = Bool)]
    /// Whether the server takes no writes.
    pub read_only: bool,
    #[diesel(sql_type = Text)]
    /// The encoding of the database.
    pub encoding: String,
    #[diesel(sql_type = Bool)]
    /// Whether the error messages are in English, in which `fault` knows them.
    pub speaks_english: bool,
    #[diesel(sql_type = diesel::sql_types::Nullable<Text>)]
    /// The tightest limit on this role's connections, in PostgreSQL's words; `None` if there is none.
    pub bounded_by: Option<String>,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    /// Maximum number of connections of this role.
    pub connections: i64,
}

/// Asks the server for its facts.
pub async fn server(connection: &mut AsyncPgConnection) -> diesel::QueryResult<ReachedServer> {
    // the limits of role and database do not apply to a superuser
    sql_query(format!(
        "SELECT current_setting('server_version') AS version, current_user::text AS role,
                current_setting('transaction_read_only')::boolean AS read_only,
                current_setting('server_encoding') AS encoding, {ENGLISH} AS speaks_english,
                l.name AS bounded_by, l.value AS connections
         FROM (SELECT format('CONNECTION LIMIT of role %I', rolname), rolconnlimit::bigint
               FROM pg_catalog.pg_roles WHERE rolname = session_user AND rolconnlimit >= 0 AND NOT rolsuper
               UNION ALL
               SELECT format('CONNECTION LIMIT of database %I', datname), datconnlimit::bigint
               FROM pg_catalog.pg_database
               WHERE datname = current_database() AND datconnlimit >= 0
                 AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user)
               UNION ALL
               SELECT 'max_connections', current_setting('max_connections')::bigint
                                         - current_setting('superuser_reserved_connections')::bigint
              ) AS l (name, value)
         ORDER BY l.value LIMIT 1"
    ))
    .get_result(connection)
    .await
}

#[derive(QueryableByName)]
struct Answer {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

/// Whether messages are in English, in SQL.
const ENGLISH: &str = "current_setting('lc_messages') ~* '^($|(c|posix|en_[a-z]+)($|[.@]))'";

/// Whether this connection's error messages are in English.
pub(super) async fn messages_are_english(connection: &mut AsyncPgConnection) -> diesel::QueryResult<bool> {
    let answer: Answer = sql_query(format!("SELECT {ENGLISH} AS yes")).get_result(connection).await?;
    Ok(answer.yes)
}

/// Whether a table of this name is partitioned or is a partition.
pub(super) async fn is_partitioned(
    connection: &mut AsyncPgConnection,
    table: &str,
) -> diesel::QueryResult<bool> {
    let answer: Answer = sql_query(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class
                        WHERE relname = $1 AND (relkind = 'p' OR relispartition)) AS yes",
    )
    .bind::<Text, _>(table)
    .get_result(connection)
    .await?;
    Ok(answer.yes)
}

#[derive(QueryableByName)]
struct MissingRight {
    #[diesel(sql_type = Text)]
    statement: String,
}

/// The statements that would give this role the privileges that it lacks on the existing schemas and tables.
pub async fn lacking(connection: &mut AsyncPgConnection) -> diesel::QueryResult<Vec<String>> {
    let (mut schemas, mut tables, mut privileges) = (Vec::new(), Vec::new(), Vec::new());
    for (schema, table, needed) in rights() {
        for privilege in needed {
            schemas.push(schema);
            tables.push(table);
            privileges.push(*privilege);
        }
    }
    // the catalogue, as a name in a schema without USAGE cannot be looked up
    let rows: Vec<MissingRight> = sql_query(
        "SELECT format('GRANT USAGE ON SCHEMA %I TO %I', n.nspname, current_user) AS statement
         FROM pg_catalog.pg_namespace n
         WHERE n.nspname IN ('public', 'ingest') AND NOT has_schema_privilege(n.oid, 'USAGE')
         UNION ALL
         (SELECT format('GRANT %s ON %I.%I TO %I', string_agg(u.privilege, ', ' ORDER BY u.privilege), u.schema_name, u.table_name,
                        current_user)
          FROM unnest($1, $2, $3) AS u (schema_name, table_name, privilege)
          JOIN pg_catalog.pg_namespace n ON n.nspname = u.schema_name
          JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = u.table_name
          WHERE NOT has_table_privilege(c.oid, u.privilege)
          GROUP BY u.schema_name, u.table_name
          ORDER BY u.schema_name, u.table_name)",
    )
    .bind::<diesel::sql_types::Array<Text>, _>(schemas)
    .bind::<diesel::sql_types::Array<Text>, _>(tables)
    .bind::<diesel::sql_types::Array<Text>, _>(privileges)
    .load(connection)
    .await?;
    Ok(rows.into_iter().map(|row| row.statement).collect())
}
