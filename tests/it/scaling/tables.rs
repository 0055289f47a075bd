//! Rows that lie in several tables behind the documented names (docs/scale.md).

use serde_json::Value;
use voiceclone_events::record::{Record, Topic};
use voiceclone_events::traffic::{Scenario, Sent, traffic};

use crate::histories::{ingest, inputs, migrated, write};
use crate::model;
use crate::support::postgres::Database;
use crate::support::scene::{CACHE_TTL, RECORD_MAX_BYTES};
use crate::support::tables::read_with_ids;

/// The statements of docs/scale.md that begin with these words.
fn documented(beginning: &str) -> &'static str {
    let docs = include_str!("../../../docs/scale.md");
    let mut blocks = docs.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.find(|block| block.starts_with(beginning)).unwrap_or_else(|| panic!("no {beginning}"))
}

/// The usable records of some calls from this day on.
fn calls(day: &str, seed: u64, first_offset: i64) -> Vec<Record> {
    let start = chrono::DateTime::parse_from_rfc3339(&format!("{day}T00:00:00Z")).unwrap();
    let start = start.timestamp_millis();
    let plan = Scenario { calls: 60, seed, disorder: true, start, spacing_ms: 1000, ttl_seconds: None };
    let usable = traffic(&plan).filter(|sent| sent.unusable.is_none());
    let record = |(offset, sent): (i64, Sent)| Record {
        topic: Topic::from_name(sent.record.topic).unwrap(),
        partition: 0,
        offset,
        timestamp: sent.record.timestamp.unwrap_or(start),
        key: sent.record.key,
        value: sent.record.value,
        headers: sent.record.headers,
    };
    (first_offset..).zip(usable).map(record).collect()
}

fn assert_as_the_model_says(database: &Database, records: &[Record]) {
    let inputs = inputs(records);
    let folded = model::fold(&inputs, CACHE_TTL, RECORD_MAX_BYTES);
    let seen = read_with_ids(database);
    let difference = model::explained_difference(&folded.tables, &seen, &inputs, CACHE_TTL, RECORD_MAX_BYTES);
    assert!(difference.is_none(), "{}", difference.unwrap());
}

fn plan(database: &Database, sql: &str) -> Value {
    serde_json::from_str(&database.value(&format!("EXPLAIN (FORMAT JSON) {sql}"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn older_months_lie_in_tables_of_their_own_and_are_found_under_the_documented_names() {
    let database = migrated().await;
    let writer = ingest(&database);
    let january = calls("2026-01-10", 1, 0);
    let february = calls("2026-02-10", 2, 100_000);
    write(&writer, &january).await;
    write(&writer, &february).await;
    let clones = "SELECT count(*) FROM analytics.clones";
    let clones_before = database.value(clones);

    database.run(documented("CREATE SCHEMA archive"));
    database.run(documented("CALL archive.move"));
    let alone = |month: &str| {
        let sql = format!("SELECT count(*) FROM ONLY public.call_log WHERE created_at::text LIKE '{month}%'");
        database.value(&sql)
    };
    assert_eq!(alone("2026-01"), "0");
    assert_ne!(alone("2026-02"), "0");
    assert_as_the_model_says(&database, &[january.clone(), february.clone()].concat());
    assert_eq!(database.value(clones), clones_before);

    // The daemon writes on beside it; a voice of January that is used again is counted on.
    let march = calls("2026-03-10", 3, 200_000);
    write(&writer, &march).await;
    let all = [january, february, march].concat();
    assert_as_the_model_says(&database, &all);

    // A query by time leaves the other months alone.
    let sql =
        "SELECT count(*) FROM public.call_log WHERE created_at >= '2026-02-01' AND created_at < '2026-03-01'";
    assert!(!plan(&database, sql).to_string().contains("call_log_2026_01"));

    // A month that is no longer wanted goes without a DELETE.
    database.run(documented("ALTER TABLE archive.call_log_2026_01 NO INHERIT"));
    let left = "SELECT count(*) FROM public.call_log WHERE created_at < '2026-02-01'";
    assert_eq!(database.value(left), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_partitioned_by_id_take_rows_and_their_changes() {
    let database = migrated().await;
    database.run("DROP SCHEMA analytics CASCADE");
    for table in ["clone_ready_events", "clone_failed_events", "voice_clone_log", "voice_clone_cache"] {
        database.run(&format!(
            "CREATE TABLE public.by_id (LIKE public.{table} INCLUDING ALL) PARTITION BY HASH (id);
             CREATE TABLE public.{table}_0 PARTITION OF public.by_id FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE public.{table}_1 PARTITION OF public.by_id FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             DROP TABLE public.{table};
             ALTER TABLE public.by_id RENAME TO {table}"
        ));
    }
    let writer = ingest(&database);
    let records = calls("2026-01-10", 4, 0);
    let (first, rest) = records.split_at(records.len() / 2);
    write(&writer, first).await;
    write(&writer, rest).await;
    assert_as_the_model_says(&database, &records);
    // again, and cut otherwise
    for some in records.chunks(7) {
        write(&writer, some).await;
    }
    assert_as_the_model_says(&database, &records);
    assert_ne!(database.value("SELECT count(*) FROM voice_clone_cache_1"), "0");
}
