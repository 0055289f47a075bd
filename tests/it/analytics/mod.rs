//! Schema `analytics`: the contents of its views, the rows that they read, and the rights on them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod plans;
mod questions;
mod report;

use std::time::Duration;

use serde_json::{Value, json};
use voiceclone_events::record::{Record, Topic};
use voiceclone_events::store::migrate;

use crate::histories::{ingest, write};
use crate::support::daemon::{Daemon, run_command};
use crate::support::left_out::real_kafka;
use crate::support::postgres::Database;
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually_eq};

/// A deadline that is long enough on a busy machine.
pub const MINUTES: Duration = Duration::from_secs(180);

/// The five views.
pub const VIEWS: [&str; 5] = ["clones", "calls", "handovers", "voices", "hourly"];

/// An empty database with tables and views.
pub async fn migrated() -> Database {
    let database = Database::new();
    migrate::up(database.url(), None).await.unwrap();
    database
}

/// The rows of a query, the values of each joined with a bar.
pub fn lines(database: &Database, sql: &str) -> Vec<String> {
    let text = |row: Vec<Option<String>>| {
        row.into_iter().map(|value| value.unwrap_or_else(|| "null".into())).collect::<Vec<_>>().join("|")
    };
    database.rows(sql).into_iter().map(text).collect()
}

fn record(topic: Topic, offset: i64, time: &str, value: &Value) -> Record {
    let timestamp = time.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp_millis();
    let value = Some(value.to_string().into_bytes());
    Record { topic, partition: 0, offset, timestamp, key: None, value, headers: Vec::new() }
}

/// Events of a few calls, by the time of day on 1 January 2026, which is the record's timestamp and the event time.
fn few_calls() -> Vec<Record> {
    let (ready, failed) = (Topic::CloneReady, Topic::CloneFailed);
    let (transfer, call) = (Topic::CloneTransfer, Topic::CallLifecycle);
    let jane = "+12025550143";
    let started = |call: &str| json!({"call_id": call, "status": "initiated", "caller_id": jane});
    let clone = |greeting: &str, voice: &str, took: i64| json!({"caller_id": jane, "greeting_call_id": greeting, "cloned_voice_id": voice, "clone_duration_ms": took});
    let handed = |greeting: &str, agent: &str, voice: &str| json!({"greeting_call_id": greeting, "agent_call_id": agent, "cloned_voice_id": voice});
    let events = [
        // cloned and handed over
        (call, "00:00:00", started("g1")),
        (ready, "00:00:05", clone("g1", "v1", 2300)),
        (transfer, "00:00:10", handed("g1", "a1", "v1")),
        (call, "00:01:10", json!({"call_id": "a1", "status": "completed", "duration_seconds": 60})),
        // the voice comes from the cache
        (call, "01:00:00", started("g2")),
        (transfer, "01:00:04", handed("g2", "a2", "v1")),
        (call, "01:00:14", json!({"call_id": "a2", "status": "failed", "duration_seconds": 10})),
        // a failure, and then a voice that nobody uses
        (call, "02:00:00", started("g3")),
        (
            failed,
            "02:00:03",
            json!({"caller_id": jane, "greeting_call_id": "g3", "error_message": "HTTP 429 after 12 s"}),
        ),
        (ready, "02:00:07", clone("g3", "v3", 3100)),
        // a call without any other event, and a transfer without events of its calls
        (call, "04:00:00", started("x4")),
        (transfer, "04:00:09", handed("g5", "a5", "v5")),
    ];
    let place = |(offset, (topic, time, value)): (i64, (Topic, &str, Value))| {
        record(topic, offset, &format!("2026-01-01T{time}Z"), &value)
    };
    (0..).zip(events).map(place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_views_join_what_the_events_of_a_call_tell() {
    let database = migrated().await;
    write(&ingest(&database), &few_calls()).await;

    let clones = "SELECT event_at::time, greeting_call_id, caller_id, outcome, cloned_voice_id, latency_ms, error_message,
                         error_kind FROM analytics.clones ORDER BY event_at";
    assert_eq!(
        lines(&database, clones),
        [
            "00:00:05|g1|+12025550143|success|v1|2300|null|null",
            "02:00:03|g3|+12025550143|failed|null|null|HTTP 429 after 12 s|HTTP # after # s",
            "02:00:07|g3|+12025550143|success|v3|3100|null|null",
        ]
    );
    let calls = "SELECT call_id, kind, status, call_started_at::time, duration_seconds, created_at::time
                 FROM analytics.calls ORDER BY call_id";
    assert_eq!(
        lines(&database, calls),
        [
            "a1|agent|completed|null|60|00:01:10",
            "a2|agent|failed|null|10|01:00:14",
            "g1|greeting|initiated|00:00:00|null|00:00:00",
            "g2|greeting|initiated|01:00:00|null|01:00:00",
            "g3|greeting|initiated|02:00:00|null|02:00:00",
            "x4|null|initiated|04:00:00|null|04:00:00",
        ]
    );
    let handovers =
        "SELECT transferred_at::time, greeting_call_id, cloned_voice_id, agent_call_id, cloned_at::time,
                            from_cache, round(seconds, 1), outcome, agent_seconds
                     FROM analytics.handovers ORDER BY transferred_at";
    assert_eq!(
        lines(&database, handovers),
        [
            "00:00:10|g1|v1|a1|00:00:05|f|10.0|completed|60",
            "01:00:04|g2|v1|a2|null|t|4.0|failed|10",
            "04:00:09|g5|v5|a5|null|t|null|null|null",
        ]
    );
    database.run("UPDATE voice_clone_cache SET ttl_expires_at = '9999-01-01' WHERE cloned_voice_id = 'v3'");
    let voices = "SELECT cloned_voice_id, uses, live, last_used_at::time FROM analytics.voices ORDER BY 1";
    assert_eq!(lines(&database, voices), ["v1|2|f|01:00:04", "v3|0|t|02:00:07"]);
    let hourly = "SELECT hour::time, clones, clones_failed, success_percent, p50_ms, p95_ms, handovers, from_cache, calls,
                         calls_failed, call_seconds FROM analytics.hourly ORDER BY hour";
    assert_eq!(
        lines(&database, hourly),
        [
            "00:00:00|1|0|100.0|2300|2300|1|0|2|0|60",
            "01:00:00|0|0|null|null|null|1|1|2|1|10",
            "02:00:00|2|1|50.0|3100|3100|0|0|1|0|null",
            "04:00:00|0|0|null|null|null|1|1|1|0|null",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_time_that_a_table_may_hold_makes_a_view_endless_or_fail() {
    let database = migrated().await;
    let transfers = ["1970-01-01", "9999-12-31 23:59:59.999999", "infinity", "-infinity"].map(|time| {
        format!("INSERT INTO clone_transfer_events VALUES (gen_random_uuid(), 'g', 'a', 'v', '{time}', '2026-01-01');")
    });
    database.run(&transfers.concat());
    database.run(
        "INSERT INTO call_log (id, call_id, status, call_started_at, created_at, updated_at)
                  VALUES (gen_random_uuid(), 'g', 'initiated', '-infinity', 'infinity', 'infinity')",
    );
    let hours = "SELECT hour, handovers, calls FROM analytics.hourly ORDER BY hour";
    assert_eq!(lines(&database, hours), ["1970-01-01 00:00:00|1|0", "9999-12-31 23:00:00|1|0"]);
    assert_eq!(lines(&database, "SELECT DISTINCT seconds FROM analytics.handovers"), ["null"]);
    for view in VIEWS {
        lines(&database, &format!("SELECT * FROM analytics.{view}"));
    }
}

/// Relations and columns of a schema without a comment.
const UNCOMMENTED: &str = "
    SELECT c.relname, COALESCE(a.attname, '') FROM pg_class c
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'v') AND c.relname <> '__diesel_schema_migrations'
      AND c.relnamespace IN ('public'::regnamespace, 'analytics'::regnamespace)
      AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)";

#[tokio::test(flavor = "multi_thread")]
async fn every_view_table_and_column_has_a_comment_and_those_of_others_stay() {
    let database = Database::new();
    database.run(
        "CREATE TABLE call_log (id uuid PRIMARY KEY, call_id varchar(255));
                  COMMENT ON TABLE call_log IS 'theirs'; COMMENT ON COLUMN call_log.call_id IS 'theirs, too'",
    );
    migrate::up(database.url(), None).await.unwrap();
    assert_eq!(lines(&database, UNCOMMENTED), Vec::<String>::new());
    let theirs =
        "SELECT obj_description('call_log'::regclass, 'pg_class'), col_description('call_log'::regclass, 2)";
    assert_eq!(lines(&database, theirs), ["theirs|theirs, too"]);

    while !database.value("SELECT to_regclass('analytics.clones')").is_empty() {
        migrate::down(database.url(), Some(1)).await.unwrap();
    }
    assert_eq!(lines(&database, theirs), ["theirs|theirs, too"]);
    let ours = "SELECT count(*) FROM pg_description WHERE objoid IN
                    (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname <> 'call_log')";
    assert_eq!(database.value(ours), "0", "of tables that the migrations made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_that_name_with_something_of_somebody_else_is_used_and_left() {
    let database = Database::new();
    database.run("CREATE SCHEMA analytics; CREATE VIEW analytics.theirs AS SELECT 1 AS one");
    migrate::up(database.url(), None).await.unwrap();
    assert_eq!(lines(&database, "SELECT count(*) FROM analytics.clones"), ["0"]);
    migrate::down(database.url(), Some(u64::MAX)).await.unwrap();
    let left = "SELECT relname FROM pg_class WHERE relnamespace = 'analytics'::regnamespace";
    assert_eq!(lines(&database, left), ["theirs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_calls_and_clones_have_the_caller_and_no_view_has_texts_of_a_call() {
    let database = migrated().await;
    let columns = "SELECT table_name || '.' || column_name FROM information_schema.columns
                   WHERE table_schema = 'analytics' AND column_name IN ('caller_id', 'transcript', 'metadata')
                   ORDER BY 1";
    assert_eq!(lines(&database, columns), ["calls.caller_id", "clones.caller_id"]);
    let names = "SELECT relname FROM pg_class WHERE relnamespace = 'analytics'::regnamespace";
    let mut names = lines(&database, names);
    names.sort();
    let mut views = VIEWS.map(str::to_owned);
    views.sort();
    assert_eq!(names, views);
}

#[test]
fn a_daemon_runs_with_a_schema_that_a_newer_version_has_migrated() {
    let scene = Scene::new(real_kafka!(), 1);
    let migrated = run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    scene.database.run(
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000001');
         CREATE VIEW analytics.newer AS SELECT * FROM analytics.calls;
         COMMENT ON TABLE call_log IS 'newer'",
    );
    let mut daemon = Daemon::run(&scene.variables(&[]));
    daemon.wait_ready(SOON);
    scene.publish("call.lifecycle", r#"{"call_id":"c","status":"completed"}"#);
    scene.wait_until_consumed(MINUTES);
    let calls = || scene.database.value("SELECT count(*) FROM analytics.newer");
    eventually_eq(SOON, "the call", "1".to_owned(), calls);
}
