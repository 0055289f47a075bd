//! The tables: as documented, made, rolled back, and taken over from another tool; and the settings without which
//! nothing starts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::daemon::{Finished, run_command};
use crate::support::left_out::real_kafka;
use crate::support::postgres::Database;
use crate::support::scene::Scene;
use crate::support::wait::SOON;

/// For commands on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// The schema document, and NOT NULL as in section 1 of the contract: table, column, type (`!`: never null).
const COLUMNS: &str = "
    caller_voice_mapping id UUID!
    caller_voice_mapping caller_id VARCHAR(255)!
    caller_voice_mapping voice_sample_url VARCHAR(2048)!
    caller_voice_mapping voice_name VARCHAR(255)
    caller_voice_mapping description TEXT
    caller_voice_mapping account_id VARCHAR(255)
    caller_voice_mapping created_at TIMESTAMP!
    caller_voice_mapping updated_at TIMESTAMP!
    caller_voice_mapping deleted_at TIMESTAMP

    voice_clone_cache id UUID!
    voice_clone_cache caller_id VARCHAR(255)!
    voice_clone_cache cloned_voice_id VARCHAR(255)!
    voice_clone_cache clone_created_at TIMESTAMP!
    voice_clone_cache ttl_expires_at TIMESTAMP!
    voice_clone_cache reuse_count INTEGER!
    voice_clone_cache last_used_at TIMESTAMP!
    voice_clone_cache created_at TIMESTAMP!
    voice_clone_cache deleted_at TIMESTAMP

    call_log id UUID!
    call_log call_id VARCHAR(255)!
    call_log threecx_call_id VARCHAR(255)
    call_log caller_id VARCHAR(255)
    call_log cloned_voice_id VARCHAR(255)
    call_log call_started_at TIMESTAMP
    call_log call_ended_at TIMESTAMP
    call_log duration_seconds INTEGER
    call_log transcript TEXT
    call_log status VARCHAR(50)!
    call_log metadata JSON
    call_log created_at TIMESTAMP!
    call_log updated_at TIMESTAMP!

    voice_clone_log id UUID!
    voice_clone_log caller_id VARCHAR(255)!
    voice_clone_log cloned_voice_id VARCHAR(255)
    voice_clone_log clone_created_at TIMESTAMP
    voice_clone_log api_response_time_ms INTEGER
    voice_clone_log sample_file_size_bytes INTEGER
    voice_clone_log status VARCHAR(50)!
    voice_clone_log error_message TEXT
    voice_clone_log created_at TIMESTAMP!

    clone_ready_events id UUID!
    clone_ready_events caller_id VARCHAR(255)!
    clone_ready_events greeting_call_id VARCHAR(255)!
    clone_ready_events cloned_voice_id VARCHAR(255)!
    clone_ready_events clone_duration_ms INTEGER
    clone_ready_events ready_at TIMESTAMP!
    clone_ready_events created_at TIMESTAMP!

    clone_failed_events id UUID!
    clone_failed_events caller_id VARCHAR(255)!
    clone_failed_events greeting_call_id VARCHAR(255)!
    clone_failed_events error_message TEXT!
    clone_failed_events failed_at TIMESTAMP!
    clone_failed_events created_at TIMESTAMP!

    clone_transfer_events id UUID!
    clone_transfer_events greeting_call_id VARCHAR(255)!
    clone_transfer_events agent_call_id VARCHAR(255)!
    clone_transfer_events cloned_voice_id VARCHAR(255)!
    clone_transfer_events transferred_at TIMESTAMP!
    clone_transfer_events created_at TIMESTAMP!
";

/// The indexes of the schema document, with those of the primary keys.
const INDEXES: &str = "
    caller_voice_mapping id unique
    caller_voice_mapping caller_id unique
    caller_voice_mapping account_id
    caller_voice_mapping created_at
    voice_clone_cache id unique
    voice_clone_cache caller_id
    voice_clone_cache cloned_voice_id
    voice_clone_cache ttl_expires_at
    call_log id unique
    call_log call_id unique
    call_log threecx_call_id
    call_log caller_id
    call_log status
    call_log created_at
    voice_clone_log id unique
    voice_clone_log caller_id
    voice_clone_log cloned_voice_id
    voice_clone_log status
    clone_ready_events id unique
    clone_ready_events caller_id
    clone_ready_events greeting_call_id
    clone_ready_events ready_at
    clone_failed_events id unique
    clone_failed_events caller_id
    clone_failed_events greeting_call_id
    clone_failed_events failed_at
    clone_transfer_events id unique
    clone_transfer_events greeting_call_id
    clone_transfer_events agent_call_id
    clone_transfer_events transferred_at
";

/// The tables as Alembic's autogenerate writes them: three of the seven, with no constraint but the keys.
const ALEMBIC: &str = r#"
    CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
    INSERT INTO alembic_version VALUES ('3f1c0a9be2d7');
    CREATE TABLE caller_voice_mapping (
        id UUID NOT NULL, caller_id VARCHAR(255), voice_sample_url VARCHAR(2048), voice_name VARCHAR(255), description TEXT,
        account_id VARCHAR(255), created_at TIMESTAMP WITHOUT TIME ZONE, updated_at TIMESTAMP WITHOUT TIME ZONE,
        deleted_at TIMESTAMP WITHOUT TIME ZONE, PRIMARY KEY (id));
    CREATE UNIQUE INDEX ix_caller_voice_mapping_caller_id ON caller_voice_mapping (caller_id);
    CREATE INDEX ix_caller_voice_mapping_account_id ON caller_voice_mapping (account_id);
    CREATE INDEX ix_caller_voice_mapping_created_at ON caller_voice_mapping (created_at);
    CREATE TABLE call_log (
        id UUID NOT NULL, call_id VARCHAR(255), threecx_call_id VARCHAR(255), caller_id VARCHAR(255),
        cloned_voice_id VARCHAR(255), call_started_at TIMESTAMP WITHOUT TIME ZONE,
        call_ended_at TIMESTAMP WITHOUT TIME ZONE, duration_seconds INTEGER, transcript TEXT, status VARCHAR(50),
        metadata JSON, created_at TIMESTAMP WITHOUT TIME ZONE, updated_at TIMESTAMP WITHOUT TIME ZONE, PRIMARY KEY (id));
    CREATE UNIQUE INDEX ix_call_log_call_id ON call_log (call_id);
    CREATE INDEX ix_call_log_threecx_call_id ON call_log (threecx_call_id);
    CREATE INDEX ix_call_log_caller_id ON call_log (caller_id);
    CREATE INDEX ix_call_log_status ON call_log (status);
    CREATE TABLE clone_transfer_events (
        id UUID NOT NULL, greeting_call_id VARCHAR(255), agent_call_id VARCHAR(255), cloned_voice_id VARCHAR(255),
        transferred_at TIMESTAMP WITHOUT TIME ZONE, created_at TIMESTAMP WITHOUT TIME ZONE, PRIMARY KEY (id));
    CREATE INDEX ix_clone_transfer_events_greeting_call_id ON clone_transfer_events (greeting_call_id);
    CREATE INDEX ix_clone_transfer_events_agent_call_id ON clone_transfer_events (agent_call_id);
    CREATE INDEX ix_clone_transfer_events_transferred_at ON clone_transfer_events (transferred_at);

    INSERT INTO call_log VALUES
        ('00000000-0000-4000-8000-000000000001', 'call-1', 'x1', '+15550100', 'v-old', '2024-01-01 10:00', NULL, NULL,
         'old words', 'initiated', '{"a": 1, "b": 2}', '2024-01-01 10:00:01', '2024-01-01 10:00:02'),
        ('00000000-0000-4000-8000-000000000002', 'call-2', NULL, '+15550101', NULL, NULL, '2024-01-02 10:00', 60,
         NULL, 'completed', NULL, '2024-01-02 10:00:01', '2024-01-02 10:00:02'),
        ('00000000-0000-4000-8000-000000000003', 'call-3', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'ringing', NULL, NULL, NULL);
    INSERT INTO caller_voice_mapping VALUES
        ('00000000-0000-4000-8000-000000000011', '+15550100', 's3://old', 'Old', 'old text', 'acc', '2024-01-01', '2024-01-02', NULL),
        ('00000000-0000-4000-8000-000000000012', '+15550101', 's3://kept', 'Kept', NULL, NULL, '2024-01-01', '2024-01-02', NULL),
        ('00000000-0000-4000-8000-000000000013', '+15550102', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    INSERT INTO clone_transfer_events VALUES
        ('00000000-0000-4000-8000-000000000021', 'g1', 'a1', 'v-old', '2024-01-01 12:00', '2024-01-01 12:00'),
        ('00000000-0000-4000-8000-000000000022', 'g2', 'a2', 'v-old', '2024-01-03 12:00', '2024-01-03 12:00'),
        ('00000000-0000-4000-8000-000000000023', 'g3', 'a3', NULL, NULL, NULL);
"#;

/// All rows of the tables that [`ALEMBIC`] fills.
const ALEMBIC_ROWS: &str = "
    SELECT row_to_json(t)::text FROM (SELECT * FROM call_log ORDER BY id) t
    UNION ALL SELECT row_to_json(t)::text FROM (SELECT * FROM caller_voice_mapping ORDER BY id) t
    UNION ALL SELECT row_to_json(t)::text FROM (SELECT * FROM clone_transfer_events ORDER BY id) t
    UNION ALL SELECT row_to_json(t)::text FROM alembic_version t";

fn command(database: &Database, arguments: &[&str]) -> Finished {
    run_command(arguments, &[("DATABASE_URL", database.url())], PATIENCE)
}

fn migrate(database: &Database, arguments: &[&str]) -> Finished {
    let finished = command(database, &[&["migrate"], arguments].concat());
    assert_eq!(finished.code, 0, "{finished:?}");
    finished
}

fn migrated() -> Database {
    let database = Database::new();
    migrate(&database, &["up"]);
    database
}

/// The names under `applied` and `pending` in `migrate status --json`.
fn status(database: &Database) -> (Vec<String>, Vec<String>) {
    let status: serde_json::Value =
        serde_json::from_str(&migrate(database, &["status", "--json"]).stdout).unwrap();
    let names = |of: &str| serde_json::from_value(status[of].clone()).unwrap();
    (names("applied"), names("pending"))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
}

/// The rows of a query, the values of each joined with a space.
fn joined(database: &Database, sql: &str) -> Vec<String> {
    let text = |row: Vec<Option<String>>| {
        row.into_iter().map(|value| value.unwrap_or_else(|| "null".into())).collect::<Vec<_>>().join(" ")
    };
    database.rows(sql).into_iter().map(text).collect()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// The columns in `public` as [`COLUMNS`] writes them, each table's in its order.
fn columns(database: &Database) -> Vec<String> {
    joined(
        database,
        "SELECT table_name, column_name,
            CASE data_type WHEN 'character varying' THEN 'VARCHAR(' || character_maximum_length || ')'
                WHEN 'timestamp without time zone' THEN 'TIMESTAMP' ELSE upper(data_type) END
            || CASE is_nullable WHEN 'NO' THEN '!' ELSE '' END
         FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name NOT IN ('__diesel_schema_migrations', 'alembic_version')
         ORDER BY table_name, ordinal_position",
    )
}

/// The indexes in `public` as [`INDEXES`] writes them, sorted.
fn indexes(database: &Database) -> Vec<String> {
    let definitions = database.rows(
        "SELECT tablename, indexdef FROM pg_indexes
         WHERE schemaname = 'public' AND tablename NOT IN ('__diesel_schema_migrations', 'alembic_version')",
    );
    let line = |row: &Vec<Option<String>>| {
        let (table, definition) = (row[0].as_deref().unwrap(), row[1].as_deref().unwrap());
        let unique = if definition.starts_with("CREATE UNIQUE INDEX ") { " unique" } else { "" };
        let (_, columns) = definition.split_once(" USING btree (").expect(definition);
        // The text after the bracket, such as a condition, is kept and would differ.
        format!("{table} {}{unique}", columns.strip_suffix(')').unwrap_or(columns))
    };
    sorted(definitions.iter().map(line).collect())
}

/// By table, as the catalogue gives them: stable, so that each table's columns keep their order.
fn documented_columns() -> Vec<String> {
    let mut documented = lines(COLUMNS);
    documented.sort_by_key(|line| line.split(' ').next().unwrap().to_owned());
    documented
}

#[test]
fn the_tables_are_exactly_as_documented() {
    let database = migrated();
    assert_eq!(columns(&database), documented_columns());
    assert_eq!(indexes(&database), sorted(lines(INDEXES)));

    let defaults = "SELECT table_name, column_name, column_default FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name <> '__diesel_schema_migrations' AND column_default IS NOT NULL";
    assert_eq!(joined(&database, defaults), ["voice_clone_cache reuse_count 1"]);
    let keys = "SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype <> 'c' AND contype <> 'n'
        AND conrelid <> 'public.__diesel_schema_migrations'::regclass ORDER BY 1::text";
    let tables: BTreeSet<String> =
        documented_columns().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    let expected = tables.iter().map(|table| format!("{table} PRIMARY KEY (id)")).collect();
    assert_eq!(sorted(joined(&database, keys)), sorted(expected));
    let checked = "SELECT c.conrelid::regclass, a.attname FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
        WHERE c.connamespace = 'public'::regnamespace AND c.contype = 'c'";
    assert_eq!(
        sorted(joined(&database, checked)),
        [
            "call_log duration_seconds",
            "call_log status",
            "clone_ready_events clone_duration_ms",
            "voice_clone_cache reuse_count",
            "voice_clone_log api_response_time_ms",
            "voice_clone_log sample_file_size_bytes",
            "voice_clone_log status",
        ]
    );

    let relations =
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind <> 'i'";
    let mut expected: Vec<String> = tables.into_iter().collect();
    expected.push("__diesel_schema_migrations".into());
    assert_eq!(sorted(joined(&database, relations)), sorted(expected), "nothing else in public");
    let others = "SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)
        + (SELECT count(*) FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd', 'r'))
        + (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)";
    assert_eq!(database.value(others), "0", "no functions, types or triggers");
}

#[test]
fn schema_rs_says_the_same_as_the_database() {
    let generated = [include_str!("../../schema.rs"), include_str!("../../schema_ingest.rs")];
    let (mut table, mut length) = ("", String::new());
    let mut written = Vec::new();
    for line in generated.into_iter().flat_map(str::lines).map(str::trim) {
        if let Some((name, _)) = line.split_once(" (").filter(|_| line.ends_with(") {")) {
            table = name;
        } else if let Some(given) = line.strip_prefix("#[max_length = ") {
            length = format!("({})", given.trim_end_matches(']'));
        } else if let Some((column, kind)) = line.split_once(" -> ") {
            written.push(format!("{table} {column} {}{length}", kind.trim_end_matches(',')));
            length.clear();
        }
    }
    let columns = "SELECT table_schema || '.' || table_name, column_name,
            format(CASE is_nullable WHEN 'YES' THEN 'Nullable<%s>' ELSE '%s' END,
                   format(CASE WHEN starts_with(udt_name, '_') THEN 'Array<Nullable<%s>>' ELSE '%s' END,
                          initcap(ltrim(udt_name, '_'))))
            || COALESCE('(' || character_maximum_length || ')', '')
         FROM information_schema.columns
         WHERE table_schema IN ('public', 'ingest') AND table_name <> '__diesel_schema_migrations'
         ORDER BY table_schema DESC, table_name, ordinal_position";
    assert_eq!(written, joined(&migrated(), columns));
}

#[test]
fn migrations_roll_back_to_nothing_and_come_again() {
    let database = Database::new();
    let relations = || {
        joined(
            &database,
            "SELECT nspname, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
             WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
             UNION ALL SELECT nspname, '' FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
             AND nspname NOT IN ('public', 'information_schema')",
        )
    };
    let (applied, all) = status(&database);
    assert_eq!((applied.len(), all.len() >= 2), (0, true), "{all:?}");
    assert_eq!(relations(), Vec::<String>::new(), "`status` makes nothing");

    migrate(&database, &["up", "1"]);
    assert_eq!(status(&database), (all[..1].to_vec(), all[1..].to_vec()));
    migrate(&database, &["up"]);
    assert_eq!(status(&database), (all.clone(), vec![]));
    database.run("INSERT INTO clone_failed_events VALUES (gen_random_uuid(), 'c', 'g', 'e', now(), now())");
    migrate(&database, &["down"]);
    let last = all.len() - 1;
    assert_eq!(status(&database), (all[..last].to_vec(), all[last..].to_vec()), "`down` alone takes one");
    migrate(&database, &["down", "100"]);
    assert_eq!(relations(), Vec::<String>::new(), "no trace is left");
    assert_eq!(status(&database), (vec![], all.clone()));

    migrate(&database, &["up"]);
    assert_eq!(status(&database), (all, vec![]));
    assert_eq!(columns(&database), documented_columns());
}

#[test]
fn a_database_that_alembic_made_is_taken_over_and_given_back_with_its_rows() {
    let database = Database::new();
    database.run(ALEMBIC);
    let (rows, made) = (joined(&database, ALEMBIC_ROWS), columns(&database));
    migrate(&database, &["up"]);
    assert_eq!(joined(&database, ALEMBIC_ROWS), rows);
    assert_eq!(indexes(&database), sorted(lines(INDEXES)), "what was missing is added, and nothing twice");
    let now = columns(&database);
    for line in &made {
        assert!(now.contains(line), "{line} is left as it was, nullable or not");
    }
    let bare = |lines: Vec<String>| lines.iter().map(|line| line.replace('!', "")).collect::<Vec<_>>();
    assert_eq!(bare(now), bare(documented_columns()));

    migrate(&database, &["down", "100"]);
    assert_eq!(joined(&database, ALEMBIC_ROWS), rows);
    assert_eq!(columns(&database), made, "only what the migrations made is gone");
}

#[test]
fn rows_that_alembic_left_keep_their_ids_and_count_as_older_than_all() {
    let kafka = real_kafka!();
    let database = Database::new();
    database.run(ALEMBIC);
    let before = joined(&database, ALEMBIC_ROWS);
    let scene = Scene::on(kafka, database, 1);
    let _daemon = scene.daemon(&[]);
    for (topic, value) in [
        (
            "call.lifecycle",
            r#"{"call_id":"call-1","status":"completed","occurred_at":"1970-01-01T00:00:05Z","threecx_call_id":"x2",
                "metadata":{"b":3,"c":4}}"#,
        ),
        (
            "call.lifecycle",
            r#"{"call_id":"call-2","status":"initiated","occurred_at":"1970-01-01T00:00:05Z"}"#,
        ),
        (
            "caller.voice_mapping",
            r#"{"caller_id":"+15550100","voice_sample_url":"s3://new","updated_at":"1970-01-01T00:00:05Z"}"#,
        ),
        (
            "caller.voice_mapping",
            r#"{"caller_id":"+15550101","deleted":true,"updated_at":"1970-01-01T00:00:05Z"}"#,
        ),
        (
            "clone.ready",
            r#"{"caller_id":"+15550100","greeting_call_id":"g9","cloned_voice_id":"v-old",
                "ready_at":"2024-01-02T00:00:00Z","ttl_seconds":2000000000}"#,
        ),
    ] {
        scene.publish(topic, value);
    }
    scene.wait_until_consumed(SOON);
    // Older than what has just come, and yet newer than what Alembic's rows held.
    scene.publish(
        "call.lifecycle",
        r#"{"call_id":"call-1","status":"failed","occurred_at":"1970-01-01T00:00:01Z","threecx_call_id":"x3",
            "transcript":"new words","metadata":{"a":7,"b":8}}"#,
    );
    scene.wait_until_consumed(SOON);

    let database = &scene.database;
    assert_eq!(database.value("SELECT count(*) FROM ingest.dead_letters"), "0");
    let call = |id: &str| {
        joined(
            database,
            &format!(
                "SELECT right(id::text, 2), threecx_call_id, caller_id, cloned_voice_id, call_started_at, call_ended_at,
                    duration_seconds, transcript, status, metadata::jsonb, created_at, updated_at > '2024-02-01'
                 FROM call_log WHERE call_id = '{id}'"
            ),
        )
    };
    assert_eq!(
        call("call-1"),
        [concat!(
            "01 x2 +15550100 v-old 2024-01-01 10:00:00 1970-01-01 00:00:05 null new words completed ",
            r#"{"a": 7, "b": 3, "c": 4} 2024-01-01 10:00:01 t"#
        )]
    );
    assert_eq!(
        call("call-2"),
        [concat!(
            "02 null +15550101 null 1970-01-01 00:00:05 2024-01-02 10:00:00 60 null completed null ",
            "2024-01-02 10:00:01 t"
        )]
    );
    assert_eq!(
        joined(
            database,
            "SELECT right(id::text, 2), caller_id, voice_sample_url, voice_name, description, account_id, created_at, deleted_at
             FROM caller_voice_mapping WHERE updated_at IS NOT NULL ORDER BY id"
        ),
        [
            "11 +15550100 s3://new null null null 2024-01-01 00:00:00 null", // a state counts whole
            "12 +15550101 s3://kept Kept null null 2024-01-01 00:00:00 1970-01-01 00:00:05",
        ]
    );
    let after = joined(database, ALEMBIC_ROWS);
    assert_eq!(after.len(), before.len(), "no row was added");
    let untouched = before.iter().filter(|row| after.contains(row)).count();
    assert_eq!(untouched, before.len() - 4, "the rows of no event are as they were: {after:?}");
    assert_eq!(
        joined(database, "SELECT cloned_voice_id, reuse_count, last_used_at FROM voice_clone_cache"),
        ["v-old 2 2024-01-03 12:00:00"]
    );

    scene.publish(
        "clone.transfer",
        r#"{"greeting_call_id":"g4","agent_call_id":"a4","cloned_voice_id":"v-old","transferred_at":"2024-01-04T12:00:00Z"}"#,
    );
    scene.wait_until_consumed(SOON);
    assert_eq!(
        joined(database, "SELECT cloned_voice_id, reuse_count, last_used_at FROM voice_clone_cache"),
        ["v-old 3 2024-01-04 12:00:00"]
    );
}

#[test]
fn tables_with_other_types_are_refused_with_a_list_and_left_untouched() {
    let database = Database::new();
    database.run(ALEMBIC);
    database.run(
        "ALTER TABLE call_log ALTER metadata TYPE jsonb;
         CREATE TABLE voice_clone_cache (id UUID PRIMARY KEY, ttl_expires_at TIMESTAMPTZ)",
    );
    let (rows, made, indexed) = (joined(&database, ALEMBIC_ROWS), columns(&database), indexes(&database));
    let finished = command(&database, &["migrate", "up"]);
    assert_eq!(finished.code, 1, "{finished:?}");
    for line in [
        "call_log.metadata is jsonb, expected json",
        "voice_clone_cache.ttl_expires_at is timestamp with time zone, expected timestamp without time zone",
    ] {
        assert!(finished.stderr.contains(line), "{line}: {finished:?}");
    }
    assert_eq!(finished.stderr.matches(", expected ").count(), 2, "only those: {finished:?}");
    assert_eq!(joined(&database, ALEMBIC_ROWS), rows);
    assert_eq!((columns(&database), indexes(&database)), (made, indexed));
    let ours =
        "SELECT to_regnamespace('ingest') IS NULL, to_regclass('public.__diesel_schema_migrations') IS NULL";
    assert_eq!(joined(&database, ours), ["t t"]);
}

#[test]
fn several_may_migrate_at_once() {
    let database = Database::new();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| migrate(&database, &["up", "--json"]))).collect();
        let done: Vec<serde_json::Value> =
            all.into_iter().map(|one| serde_json::from_str(&one.join().unwrap().stdout).unwrap()).collect();
        let applied: usize = done.iter().map(|one| one["applied"].as_array().unwrap().len()).sum();
        assert_eq!(applied, status(&database).0.len(), "each once: {done:?}");
    });
    assert_eq!(status(&database).1, Vec::<String>::new());
    assert_eq!(columns(&database), documented_columns());
}

#[test]
fn run_refuses_a_database_whose_schema_is_behind() {
    for half in [false, true] {
        let database = Database::new();
        if half {
            migrate(&database, &["up", "1"]);
        }
        let before = status(&database);
        let variables = [
            ("DATABASE_URL", database.url()),
            ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
            ("HTTP_ADDR", ""),
            ("LOG_FORMAT", "text"),
        ];
        let finished = run_command(&["run"], &variables, PATIENCE);
        assert_eq!(finished.code, 1, "{finished:?}");
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("migrate up"), "{finished:?}");
        assert_eq!(status(&database), before);
    }
}

#[test]
fn a_missing_or_malformed_setting_ends_run_with_2_and_a_last_line_that_names_it() {
    let good =
        [("DATABASE_URL", "postgresql://u:p@127.0.0.1:1/d"), ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")];
    for (name, value) in [
        ("DATABASE_URL", None),
        ("DATABASE_URL", Some("nonsense")),
        ("KAFKA_BOOTSTRAP_SERVERS", None),
        ("KAFKA_NO_SUCH_PROPERTY", Some("1")),
        ("CACHE_TTL", Some("abc")),
        ("EXPIRY_INTERVAL", Some("0")),
        ("BATCH_MAX_RECORDS", Some("0")),
        ("HTTP_ADDR", Some("nonsense")),
        ("LOG_FORMAT", Some("xml")),
    ] {
        let mut variables: Vec<_> = good.into_iter().filter(|(good, _)| *good != name).collect();
        variables.extend(value.map(|value| (name, value)));
        let finished = run_command(&["run"], &variables, PATIENCE);
        assert_eq!(finished.code, 2, "{name}={value:?}: {finished:?}");
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(name), "{name}={value:?}: {finished:?}");
    }
}
