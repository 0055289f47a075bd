//! The seven tables of the contract (section 1) and their columns, in its order. A test holds them against `schema.rs`,
//! and another one holds `schema.rs` against the database.

/// A table's name, and its columns: name, and PostgreSQL's name of the type.
pub type TableColumns = (&'static str, &'static [(&'static str, &'static str)]);

const TIMESTAMP: &str = "timestamp without time zone";

/// The tables with their columns.
pub const COLUMNS: [TableColumns; 7] = [
    (
        "caller_voice_mapping",
        &[
            ("id", "uuid"),
            ("caller_id", "character varying(255)"),
            ("voice_sample_url", "character varying(2048)"),
            ("voice_name", "character varying(255)"),
            ("description", "text"),
            ("account_id", "character varying(255)"),
            ("created_at", TIMESTAMP),
            ("updated_at", TIMESTAMP),
            ("deleted_at", TIMESTAMP),
        ],
    ),
    (
        "voice_clone_cache",
        &[
            ("id", "uuid"),
            ("caller_id", "character varying(255)"),
            ("cloned_voice_id", "character varying(255)"),
            ("clone_created_at", TIMESTAMP),
            ("ttl_expires_at", TIMESTAMP),
            ("reuse_count", "integer"),
            ("last_used_at", TIMESTAMP),
            ("created_at", TIMESTAMP),
            ("deleted_at", TIMESTAMP),
        ],
    ),
    (
        "call_log",
        &[
            ("id", "uuid"),
            ("call_id", "character varying(255)"),
            ("threecx_call_id", "character varying(255)"),
            ("caller_id", "character varying(255)"),
            ("cloned_voice_id", "character varying(255)"),
            ("call_started_at", TIMESTAMP),
            ("call_ended_at", TIMESTAMP),
            ("duration_seconds", "integer"),
            ("transcript", "text"),
            ("status", "character varying(50)"),
            ("metadata", "json"),
            ("created_at", TIMESTAMP),
            ("updated_at", TIMESTAMP),
        ],
    ),
    (
        "voice_clone_log",
        &[
            ("id", "uuid"),
            ("caller_id", "character varying(255)"),
            ("cloned_voice_id", "character varying(255)"),
            ("clone_created_at", TIMESTAMP),
            ("api_response_time_ms", "integer"),
            ("sample_file_size_bytes", "integer"),
            ("status", "character varying(50)"),
            ("error_message", "text"),
            ("created_at", TIMESTAMP),
        ],
    ),
    (
        "clone_ready_events",
        &[
            ("id", "uuid"),
            ("caller_id", "character varying(255)"),
            ("greeting_call_id", "character varying(255)"),
            ("cloned_voice_id", "character varying(255)"),
            ("clone_duration_ms", "integer"),
            ("ready_at", TIMESTAMP),
            ("created_at", TIMESTAMP),
        ],
    ),
    (
        "clone_failed_events",
        &[
            ("id", "uuid"),
            ("caller_id", "character varying(255)"),
            ("greeting_call_id", "character varying(255)"),
            ("error_message", "text"),
            ("failed_at", TIMESTAMP),
            ("created_at", TIMESTAMP),
        ],
    ),
    (
        "clone_transfer_events",
        &[
            ("id", "uuid"),
            ("greeting_call_id", "character varying(255)"),
            ("agent_call_id", "character varying(255)"),
            ("cloned_voice_id", "character varying(255)"),
            ("transferred_at", TIMESTAMP),
            ("created_at", TIMESTAMP),
        ],
    ),
];

/// The names of the tables.
pub const TABLES: [&str; 7] = {
    let [(a, _), (b, _), (c, _), (d, _), (e, _), (f, _), (g, _)] = COLUMNS;
    [a, b, c, d, e, f, g]
};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The tables as `schema.rs` has them, with PostgreSQL's names of the types.
    fn schema() -> BTreeMap<&'static str, Vec<(&'static str, String)>> {
        let mut tables: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut table = "";
        let mut length = None;
        for line in include_str!("../../schema.rs").lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("public.").and_then(|line| line.strip_suffix(" (id) {")) {
                table = name;
            } else if let Some(given) = line.strip_prefix("#[max_length = ") {
                length = given.strip_suffix(']');
            } else if let Some((column, kind)) = line.split_once(" -> ") {
                let kind = kind.trim_end_matches(',');
                let kind = kind.strip_prefix("Nullable<").map_or(kind, |kind| kind.trim_end_matches('>'));
                let name = match (kind, length.take()) {
                    ("Varchar", Some(length)) => format!("character varying({length})"),
                    ("Timestamp", None) => TIMESTAMP.to_owned(),
                    ("Int4", None) => "integer".to_owned(),
                    ("Uuid" | "Text" | "Json", None) => kind.to_lowercase(),
                    other => panic!("{table}.{column}: {other:?}"),
                };
                tables.entry(table).or_default().push((column, name));
            }
        }
        tables
    }

    #[test]
    fn the_tables_are_those_of_schema_rs() {
        let listed: BTreeMap<&str, Vec<(&str, String)>> = COLUMNS
            .into_iter()
            .map(|(table, columns)| {
                (table, columns.iter().map(|(column, kind)| (*column, (*kind).to_owned())).collect())
            })
            .collect();
        assert_eq!(listed, schema());
        assert_eq!(listed.len(), TABLES.len());
    }
}
