//! A question about an hour reads the rows of that hour, whatever the tables hold.

use super::{lines, migrated};
use crate::support::postgres::Database;

/// As many rows of each kind over a hundred days from 2026 on: a voice and a transfer a greeting, every tenth clone
/// fails.
fn fill(database: &Database, rows: u32) {
    let each = |rows: u32| {
        format!(
            "generate_series(1, {rows}) n,
             LATERAL (SELECT TIMESTAMP '2026-01-01' + n * INTERVAL '100 days' / {rows} AS at) a"
        )
    };
    let (calls, events) = (each(rows / 2), each(rows));
    database.run(&format!(
        "INSERT INTO call_log (id, call_id, caller_id, call_started_at, duration_seconds, status, created_at, updated_at)
         SELECT gen_random_uuid(), kind || n, 'c' || n % 5000, at, 60, 'completed', at, at
         FROM {calls}, (VALUES ('g'), ('a')) k (kind);
         INSERT INTO clone_ready_events
         SELECT gen_random_uuid(), 'c' || n % 5000, 'g' || n, 'v' || n, 2000 + n % 1000, at, at FROM {events}
         WHERE n % 10 > 0;
         INSERT INTO clone_failed_events
         SELECT gen_random_uuid(), 'c' || n % 5000, 'g' || n, 'HTTP ' || n % 7, at, at FROM {events} WHERE n % 10 = 0;
         INSERT INTO clone_transfer_events
         SELECT gen_random_uuid(), 'g' || n, 'a' || n, 'v' || n, at, at FROM {events};
         INSERT INTO voice_clone_cache
         SELECT id, caller_id, cloned_voice_id, ready_at, ready_at + INTERVAL '1 day', 1, ready_at, created_at
         FROM clone_ready_events;
         INSERT INTO ingest.voices SELECT 'v' || n, 1, at FROM {events};
         ANALYZE"
    ));
}

async fn assert_an_hour_is_read_through_the_indexes(rows: u32) {
    let database = migrated().await;
    fill(&database, rows);
    for (view, filter, indexes) in [
        ("clones", "event_at", &["clone_ready_events_ready_at", "clone_failed_events_failed_at"][..]),
        ("calls", "created_at", &["call_log_created_at"]),
        ("handovers", "transferred_at", &["clone_transfer_events_transferred_at", "call_log_call_id"]),
        ("voices", "ttl_expires_at", &["voice_clone_cache_ttl_expires_at"]),
        (
            "hourly",
            "hour",
            &["clone_ready_events_ready_at", "clone_transfer_events_transferred_at", "call_log_created_at"],
        ),
    ] {
        let plan = lines(
            &database,
            &format!(
                "EXPLAIN (COSTS OFF) SELECT * FROM analytics.{view}
                 WHERE {filter} >= '2026-02-01' AND {filter} < '2026-02-01 01:00'"
            ),
        );
        // The failed clones are few: to look through them at once may be the best for the kind of many calls.
        let is_whole = |line: &&String| line.contains("Seq Scan on") && !line.contains("clone_failed_events");
        let whole: Vec<&String> = plan.iter().filter(is_whole).collect();
        assert!(whole.is_empty(), "{view} reads a whole table: {plan:#?}");
        for index in indexes {
            assert!(plan.iter().any(|line| line.contains(index)), "{view} does not use {index}: {plan:#?}");
        }
        let rows = database.value(&format!(
            "SELECT count(*) > 0 FROM analytics.{view} WHERE {filter} >= '2026-02-01' AND {filter} < '2026-02-01 01:00'"
        ));
        assert_eq!(rows, "t", "{view}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_is_read_through_the_indexes_of_a_hundred_thousand_rows() {
    assert_an_hour_is_read_through_the_indexes(100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn an_hour_is_read_through_the_indexes_of_a_million_rows() {
    assert_an_hour_is_read_through_the_indexes(1_000_000).await;
}
