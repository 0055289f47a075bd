//! The contents of a database as plain values, for comparing with the expected ones.

use std::collections::BTreeMap;

use super::block_on;
use super::postgres::Database;

/// The seven public tables and their columns, but for `id`, in the order of the schema document.
pub const TABLES: [(&str, &[&str]); 7] = [
    (
        "caller_voice_mapping",
        &[
            "caller_id",
            "voice_sample_url",
            "voice_name",
            "description",
            "account_id",
            "created_at",
            "updated_at",
            "deleted_at",
        ],
    ),
    (
        "voice_clone_cache",
        &[
            "caller_id",
            "cloned_voice_id",
            "clone_created_at",
            "ttl_expires_at",
            "reuse_count",
            "last_used_at",
            "created_at",
            "deleted_at",
        ],
    ),
    (
        "call_log",
        &[
            "call_id",
            "threecx_call_id",
            "caller_id",
            "cloned_voice_id",
            "call_started_at",
            "call_ended_at",
            "duration_seconds",
            "transcript",
            "status",
            "metadata",
            "created_at",
            "updated_at",
        ],
    ),
    (
        "voice_clone_log",
        &[
            "caller_id",
            "cloned_voice_id",
            "clone_created_at",
            "api_response_time_ms",
            "sample_file_size_bytes",
            "status",
            "error_message",
            "created_at",
        ],
    ),
    (
        "clone_ready_events",
        &["caller_id", "greeting_call_id", "cloned_voice_id", "clone_duration_ms", "ready_at", "created_at"],
    ),
    ("clone_failed_events", &["caller_id", "greeting_call_id", "error_message", "failed_at", "created_at"]),
    (
        "clone_transfer_events",
        &["greeting_call_id", "agent_call_id", "cloned_voice_id", "transferred_at", "created_at"],
    ),
];

/// A row: each column's value as PostgreSQL writes it as text, or `None` for null.
pub type Row = BTreeMap<&'static str, Option<String>>;

/// The rows of a table by `id`.
pub type Rows = BTreeMap<String, Row>;

/// The rows of all tables, by the table's name.
pub type Tables = BTreeMap<&'static str, Rows>;

/// Reads the seven public tables, all as of one moment. Every table is in the result, empty ones too.
pub fn read(database: &Database) -> Tables {
    block_on(async {
        let mut client = database.client().await;
        let at_once =
            client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
        let transaction = at_once.read_only(true).start().await.unwrap();
        let mut tables = Tables::new();
        for (table, columns) in TABLES {
            let texts = columns.iter().map(|column| format!("{column}::text")).collect::<Vec<_>>().join(", ");
            let rows = transaction
                .query(&format!("SELECT id::text, {texts} FROM public.{table}"), &[])
                .await
                .unwrap();
            let row = |row: tokio_postgres::Row| {
                (
                    row.get(0),
                    columns.iter().enumerate().map(|(at, column)| (*column, row.get(at + 1))).collect(),
                )
            };
            tables.insert(table, rows.into_iter().map(row).collect());
        }
        tables
    })
}

/// As [`read`], with each row's id as a column too, as the model has it.
pub fn read_with_ids(database: &Database) -> Tables {
    let mut tables = read(database);
    for (id, row) in tables.values_mut().flatten() {
        row.insert("id", Some(id.clone()));
    }
    tables
}

/// Asserts that two states of the tables are the same.
///
/// # Panics
/// Where they are not: with the first rows that differ, not with two whole databases.
pub fn assert_same(seen: &Tables, expected: &Tables) {
    let mut differences = Vec::new();
    for (table, columns) in TABLES {
        let none = Rows::new();
        let (seen, expected) = (seen.get(table).unwrap_or(&none), expected.get(table).unwrap_or(&none));
        for id in seen.keys().chain(expected.keys().filter(|id| !seen.contains_key(*id))) {
            match (seen.get(id), expected.get(id)) {
                (Some(seen), Some(expected)) => {
                    for column in columns.iter().filter(|column| seen.get(*column) != expected.get(*column)) {
                        let (seen, expected) = (&seen[column], &expected[column]);
                        differences.push(format!("{table} {id}: {column} is {seen:?}, not {expected:?}"));
                    }
                }
                (Some(seen), None) => differences.push(format!("{table} {id}: should not exist: {seen:?}")),
                (_, expected) => differences.push(format!("{table} {id}: is missing: {expected:?}")),
            }
        }
    }
    let first = differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} differences, the first of them:\n{first}", differences.len());
}

/// A row of `ingest.dead_letters`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The topic that the record came from.
    pub topic: String,
    /// The partition of the record.
    pub partition: i32,
    /// The offset of the record.
    pub record_offset: i64,
    /// The reason why the record is unusable.
    pub reason: String,
    /// The message of the reason.
    pub message: String,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The record's headers: name, value, name, value, ...
    pub headers: Vec<Option<Vec<u8>>>,
}

/// Reads `ingest.dead_letters`, by topic, partition and offset.
pub fn dead_letters(database: &Database) -> Vec<DeadLetter> {
    let sql =
        "SELECT topic::text, partition::int4, record_offset::int8, reason::text, message::text, key, value, headers
        FROM ingest.dead_letters ORDER BY topic COLLATE \"C\", partition, record_offset, record_timestamp";
    let rows = block_on(async { database.client().await.query(sql, &[]).await.unwrap() });
    let letter = |row: tokio_postgres::Row| DeadLetter {
        topic: row.get(0),
        partition: row.get(1),
        record_offset: row.get(2),
        reason: row.get(3),
        message: row.get(4),
        key: row.get(5),
        value: row.get(6),
        headers: row.get(7),
    };
    rows.into_iter().map(letter).collect()
}
