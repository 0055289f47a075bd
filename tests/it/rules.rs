//! Every merge rule of the contract, sections 3 and 4, by its name, on a real PostgreSQL. Each test states its expected
//! values literally, as the contract does: nothing is computed, so each test can be checked by reading.
//!
//! Each test's records are written in every order, as one batch and as one batch each, once and twice over. The
//! database sorts texts as a dictionary does, so that a rule that forgets to compare bytes is found.
//!
//! `t(5)`, and the first argument of each event (its record's timestamp), are seconds after 2026-01-01 00:00:00.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio_postgres::{Client, SimpleQueryMessage};
use voiceclone_events::record::{Header, Record, Topic};

use crate::histories::{EMPTY, ingest, migrated, write};
use crate::support::postgres::Database;

const START: i64 = 1_767_225_600;

/// The caller of all events, but where a test says otherwise.
const CALLER: &str = "+1555";

fn t(seconds: i64) -> Value {
    json!(START + seconds)
}

fn event(topic: Topic, sent: i64, required: Value, fields: Value) -> Record {
    let mut value = required;
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Record {
        topic,
        partition: 0,
        offset: 0,
        timestamp: (START + sent) * 1000,
        key: None,
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
    }
}

fn ready(sent: i64, fields: Value) -> Record {
    let required = json!({"caller_id": CALLER, "greeting_call_id": "g1", "cloned_voice_id": "v1"});
    event(Topic::CloneReady, sent, required, fields)
}

fn failed(sent: i64, fields: Value) -> Record {
    let required =
        json!({"caller_id": CALLER, "greeting_call_id": "g1", "error_message": "e", "failed_at": t(0)});
    event(Topic::CloneFailed, sent, required, fields)
}

fn transfer(sent: i64, fields: Value) -> Record {
    let required = json!({"greeting_call_id": "g1", "agent_call_id": "a1", "cloned_voice_id": "v1"});
    event(Topic::CloneTransfer, sent, required, fields)
}

fn call(sent: i64, fields: Value) -> Record {
    event(Topic::CallLifecycle, sent, json!({"call_id": "c1", "status": "initiated"}), fields)
}

fn mapping(sent: i64, fields: Value) -> Record {
    event(Topic::CallerVoiceMapping, sent, json!({"caller_id": CALLER, "voice_sample_url": "url"}), fields)
}

/// A delete by a null value: its key is the caller, its timestamp the event time.
fn tombstone(sent: i64) -> Record {
    Record { key: Some(CALLER.into()), value: None, ..mapping(sent, json!({})) }
}

/// A query, and the rows it must have: their values joined by ` | `.
type Expected<'a> = (&'a str, &'a [&'a str]);

/// Asserts that the records make these rows however they are written.
async fn rule(records: &[Record], expected: &[Expected<'_>]) {
    rule_after(&[], "", records, expected).await;
}

/// As [`rule`], where some records are written and some SQL is run before.
async fn rule_after(before: &[Record], sql: &str, records: &[Record], expected: &[Expected<'_>]) {
    // Creating a database takes longer than the rest, so databases are reused.
    static FREE: Mutex<Vec<Database>> = Mutex::new(Vec::new());
    let free = FREE.lock().unwrap().pop();
    let database = match free {
        Some(database) => database,
        None => migrated().await,
    };
    let writer = ingest(&database);
    let client = database.client().await;
    for order in orders(records.len()) {
        for times in [1, 2] {
            for one_batch in [true, false] {
                client.batch_execute(EMPTY).await.unwrap();
                write(&writer, before).await;
                client.batch_execute(sql).await.unwrap();
                let sent: Vec<Record> =
                    order.repeat(times).into_iter().map(|index| records[index].clone()).collect();
                for batch in sent.chunks(if one_batch { sent.len() } else { 1 }) {
                    write(&writer, batch).await;
                }
                let batches = if one_batch { "one batch" } else { "a batch for each" };
                for (query, rows) in expected {
                    let way = format!("records in the order {order:?}, {times} times over, in {batches}");
                    assert_eq!(select(&client, query).await, *rows, "{way}: {query}");
                }
            }
        }
    }
    FREE.lock().unwrap().push(database);
}

/// All orders of up to three records; of more some.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let forward: Vec<usize> = (0..count).collect();
    match count {
        2 => vec![vec![0, 1], vec![1, 0]],
        3 => [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].map(Vec::from).to_vec(),
        _ => {
            let (first, second) = forward.split_at(count / 2);
            vec![forward.clone(), forward.iter().rev().copied().collect(), [second, first].concat()]
        }
    }
}

async fn select(client: &Client, query: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for message in client.simple_query(query).await.unwrap() {
        if let SimpleQueryMessage::Row(row) = message {
            let values: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or("null")).collect();
            rows.push(values.join(" | "));
        }
    }
    rows
}

// -------- Section 3: identity

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_the_uuid_version_5_of_what_identifies_the_fact() {
    // python3 -c "import uuid; print(uuid.uuid5(uuid.UUID('32912be5-e948-560b-b792-7dcb8baa72b1'),
    //     '\x1f'.join(['clone.ready', '+1555', 'g1', 'v1'])))"
    let records = [
        ready(0, json!({})),
        failed(0, json!({"failed_at": "2026-01-01T00:00:05.000001Z"})),
        transfer(0, json!({})),
        call(0, json!({})),
        call(0, json!({"call_id": "\u{e9} \u{1F600}"})),
        mapping(0, json!({})),
    ];
    rule(
        &records,
        &[
            ("SELECT id FROM clone_ready_events", &["65ce56cd-48bb-5cbf-9c7e-2254f4f12be1"]),
            // clone.failed, +1555, g1, 1767225605000001
            ("SELECT id FROM clone_failed_events", &["6d1abef0-ea38-5e3e-ae51-f7286509a339"]),
            ("SELECT id FROM clone_transfer_events", &["c503dfc6-b327-54c5-89bf-a85907fa3ba4"]),
            ("SELECT id FROM voice_clone_cache", &["16c94909-e460-55fa-991e-72341403a637"]),
            (
                "SELECT id, status FROM voice_clone_log ORDER BY status",
                &[
                    // voice_clone_log, 6d1abef0-ea38-5e3e-ae51-f7286509a339
                    "7f454010-bc87-5e38-8f41-3867a346928d | failed",
                    // voice_clone_log, 65ce56cd-48bb-5cbf-9c7e-2254f4f12be1
                    "30e4f775-6cc8-5741-a4b4-fba50ba47bb6 | success",
                ],
            ),
            (
                "SELECT id, call_id FROM call_log ORDER BY call_id",
                &[
                    "1645d982-ea25-5d35-939d-f222f8eabaf0 | c1",
                    "9de0fe37-b59a-5423-8bc2-3c01a4415921 | \u{e9} \u{1F600}",
                ],
            ),
            ("SELECT id FROM caller_voice_mapping", &["1796d4c0-8429-508e-8592-ae017274711e"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fact_sent_with_two_event_ids_and_with_none_makes_one_row() {
    let plain = ready(0, json!({"ready_at": t(5)}));
    let mut binary = plain.clone();
    binary.headers = vec![
        Header { name: "ce_id".into(), value: Some("1".into()) },
        Header { name: "ce_source".into(), value: None },
    ];
    let mut structured = plain.clone();
    let data: Value = serde_json::from_slice(plain.value.as_ref().unwrap()).unwrap();
    structured.value = Some(json!({"specversion": "1.0", "id": "2", "data": data}).to_string().into_bytes());
    rule(
        &[plain, binary, structured],
        &[
            ("SELECT caller_id, ready_at FROM clone_ready_events", &["+1555 | 2026-01-01 00:00:05"]),
            ("SELECT count(*) FROM voice_clone_log", &["1"]),
            ("SELECT reuse_count FROM voice_clone_cache", &["1"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_that_differ_in_a_byte_are_other_facts() {
    let records = ["v1", "V1", "v1 ", "\u{e9}", "e\u{301}", "v\u{200b}1"]
        .map(|voice| transfer(0, json!({"cloned_voice_id": voice})));
    rule(&records, &[("SELECT count(*), count(DISTINCT id) FROM clone_transfer_events", &["6 | 6"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn created_at_is_the_earliest_timestamp_of_a_rows_records_whichever_content_counts() {
    let records = [
        ready(20, json!({"ready_at": t(2)})),
        ready(10, json!({"ready_at": t(1)})),
        failed(21, json!({"error_message": "b"})),
        failed(11, json!({"error_message": "a"})),
        transfer(22, json!({"transferred_at": t(2)})),
        transfer(12, json!({"transferred_at": t(1)})),
    ];
    rule(
        &records,
        &[
            (
                "SELECT ready_at, created_at FROM clone_ready_events",
                &["2026-01-01 00:00:02 | 2026-01-01 00:00:10"],
            ),
            ("SELECT error_message, created_at FROM clone_failed_events", &["b | 2026-01-01 00:00:11"]),
            (
                "SELECT transferred_at, created_at FROM clone_transfer_events",
                &["2026-01-01 00:00:02 | 2026-01-01 00:00:12"],
            ),
            (
                "SELECT status, created_at FROM voice_clone_log ORDER BY status",
                &["failed | 2026-01-01 00:00:11", "success | 2026-01-01 00:00:10"],
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn created_at_is_not_compared() {
    let records = [
        ready(10, json!({"ready_at": t(2), "clone_duration_ms": 1})),
        ready(20, json!({"ready_at": t(1), "clone_duration_ms": 2})),
    ];
    rule(
        &records,
        &[(
            "SELECT ready_at, clone_duration_ms, created_at FROM clone_ready_events",
            &["2026-01-01 00:00:02 | 1 | 2026-01-01 00:00:10"],
        )],
    )
    .await;
}

// -------- Section 4: event times and defaults

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_time_defaults_to_the_time_of_the_envelope_then_to_the_records_timestamp() {
    let mut enveloped = transfer(1, json!({"agent_call_id": "a2"}));
    enveloped.headers =
        vec![Header { name: "ce_time".into(), value: Some("2026-01-01T00:00:07.25Z".into()) }];
    let mut given = transfer(2, json!({"agent_call_id": "a3", "transferred_at": t(8)}));
    given.headers = enveloped.headers.clone();
    rule(
        &[transfer(0, json!({})), enveloped, given],
        &[(
            "SELECT agent_call_id, transferred_at FROM clone_transfer_events ORDER BY agent_call_id",
            &["a1 | 2026-01-01 00:00:00", "a2 | 2026-01-01 00:00:07.25", "a3 | 2026-01-01 00:00:08"],
        )],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ready_event_s_defaults_are_ready_at_the_clone_duration_and_cache_ttl() {
    let records = [
        ready(0, json!({"ready_at": t(5), "clone_duration_ms": 7})),
        ready(
            0,
            json!({"caller_id": "+2", "ready_at": t(5), "clone_duration_ms": 7, "clone_created_at": t(4),
                "api_response_time_ms": 0, "ttl_seconds": 0}),
        ),
    ];
    rule(
        &records,
        &[
            (
                "SELECT caller_id, clone_created_at, api_response_time_ms FROM voice_clone_log ORDER BY caller_id",
                &["+1555 | 2026-01-01 00:00:05 | 7", "+2 | 2026-01-01 00:00:04 | 0"],
            ),
            (
                "SELECT caller_id, clone_created_at, ttl_expires_at FROM voice_clone_cache ORDER BY caller_id",
                &[
                    "+1555 | 2026-01-01 00:00:05 | 2026-01-02 00:00:05",
                    "+2 | 2026-01-01 00:00:04 | 2026-01-01 00:00:05",
                ],
            ),
        ],
    )
    .await;
}

// -------- Section 4: clone.ready

const READY: &str = "SELECT ready_at, clone_duration_ms FROM clone_ready_events";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ready_events_the_later_ready_at_counts_whatever_the_duration() {
    let records = [
        ready(0, json!({"ready_at": t(9), "clone_duration_ms": 50})),
        ready(0, json!({"ready_at": t(10), "clone_duration_ms": 4})),
    ];
    rule(&records, &[(READY, &["2026-01-01 00:00:10 | 4"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ready_events_the_later_ready_at_counts_also_without_a_duration() {
    let records =
        [ready(0, json!({"ready_at": t(9), "clone_duration_ms": 50})), ready(0, json!({"ready_at": t(10)}))];
    rule(&records, &[(READY, &["2026-01-01 00:00:10 | null"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ready_events_at_one_time_the_longer_duration_counts_by_size_and_null_is_lowest() {
    let at = |duration: Value| ready(0, json!({"ready_at": t(9), "clone_duration_ms": duration}));
    rule(&[at(json!(9)), at(json!(10)), at(json!(null))], &[(READY, &["2026-01-01 00:00:09 | 10"])]).await;
    rule(&[at(json!(0)), at(json!(null))], &[(READY, &["2026-01-01 00:00:09 | 0"])]).await;
}

const LOG: &str = "SELECT status, caller_id, cloned_voice_id, clone_created_at, api_response_time_ms,
    sample_file_size_bytes, error_message FROM voice_clone_log";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_successes_in_the_log_the_later_clone_created_at_counts_whole() {
    let records = [
        ready(0, json!({"clone_created_at": t(1), "api_response_time_ms": 90, "sample_file_size_bytes": 80})),
        ready(0, json!({"clone_created_at": t(2), "api_response_time_ms": 3})),
    ];
    rule(&records, &[(LOG, &["success | +1555 | v1 | 2026-01-01 00:00:02 | 3 | null | null"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_successes_made_at_one_time_the_longer_response_then_the_larger_sample_counts() {
    let at = |response: Value, size: Value| {
        ready(
            0,
            json!({"clone_created_at": t(1), "api_response_time_ms": response, "sample_file_size_bytes": size}),
        )
    };
    let rows = ["success | +1555 | v1 | 2026-01-01 00:00:01 | 10 | 2 | null"];
    rule(&[at(json!(9), json!(70)), at(json!(10), json!(2)), at(json!(null), json!(90))], &[(LOG, &rows)])
        .await;
    let rows = ["success | +1555 | v1 | 2026-01-01 00:00:01 | 5 | 10 | null"];
    rule(&[at(json!(5), json!(9)), at(json!(5), json!(10)), at(json!(5), json!(null))], &[(LOG, &rows)])
        .await;
    let rows = ["success | +1555 | v1 | 2026-01-01 00:00:01 | null | 0 | null"];
    rule(&[at(json!(null), json!(null)), at(json!(null), json!(0))], &[(LOG, &rows)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ready_row_and_its_log_row_may_take_their_contents_from_different_records() {
    let records = [
        ready(0, json!({"ready_at": t(5), "clone_created_at": t(1), "clone_duration_ms": 1})),
        ready(0, json!({"ready_at": t(4), "clone_created_at": t(2), "clone_duration_ms": 9})),
    ];
    rule(
        &records,
        &[
            (READY, &["2026-01-01 00:00:05 | 1"]),
            (LOG, &["success | +1555 | v1 | 2026-01-01 00:00:02 | 9 | null | null"]),
        ],
    )
    .await;
}

// -------- Section 4: the cache

const CACHE: &str =
    "SELECT caller_id, clone_created_at, ttl_expires_at, reuse_count, last_used_at, created_at
    FROM voice_clone_cache ORDER BY caller_id";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_row_counts_all_records_of_its_caller_and_voice_whatever_the_greeting() {
    // clone_created_at: the earliest; ttl_expires_at: the latest ready_at + ttl, not the ttl of the latest;
    // last_used_at: the latest ready_at; created_at: the earliest timestamp
    let records = [
        ready(30, json!({"ready_at": t(10), "ttl_seconds": 100, "clone_created_at": t(8)})),
        ready(
            40,
            json!({"greeting_call_id": "g2", "ready_at": t(20), "ttl_seconds": 5, "clone_created_at": t(9)}),
        ),
        ready(
            50,
            json!({"greeting_call_id": "g3", "ready_at": t(15), "ttl_seconds": 1, "clone_created_at": t(7)}),
        ),
    ];
    rule(
        &records,
        &[(
            CACHE,
            &["+1555 | 2026-01-01 00:00:07 | 2026-01-01 00:01:50 | 1 | 2026-01-01 00:00:20 | 2026-01-01 00:00:30"],
        )],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_content_does_not_count_in_its_ready_row_counts_in_the_cache() {
    let records = [
        ready(30, json!({"ready_at": t(10), "ttl_seconds": 10})),
        ready(40, json!({"ready_at": t(9), "ttl_seconds": 50, "clone_created_at": t(1)})),
    ];
    rule(
        &records,
        &[
            (READY, &["2026-01-01 00:00:10 | null"]),
            (
                CACHE,
                &["+1555 | 2026-01-01 00:00:01 | 2026-01-01 00:00:59 | 1 | 2026-01-01 00:00:10 | 2026-01-01 00:00:30"],
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reuse_count_is_at_least_one_and_counts_transfer_rows_not_records() {
    let none = [ready(0, json!({}))];
    rule(&none, &[("SELECT reuse_count FROM voice_clone_cache", &["1"])]).await;
    let one = [ready(0, json!({})), transfer(1, json!({}))];
    rule(&one, &[("SELECT reuse_count FROM voice_clone_cache", &["1"])]).await;
    let two_rows_of_three_records = [
        ready(0, json!({})),
        transfer(1, json!({"transferred_at": t(1)})),
        transfer(2, json!({"transferred_at": t(2)})),
        transfer(3, json!({"agent_call_id": "a2"})),
        transfer(4, json!({"cloned_voice_id": "V1"})),
    ];
    rule(&two_rows_of_three_records, &[("SELECT reuse_count FROM voice_clone_cache", &["2"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_count_in_the_cache_rows_of_every_caller_with_their_voice() {
    let records = [
        ready(0, json!({"ttl_seconds": 60})),
        ready(1, json!({"caller_id": "+2", "ttl_seconds": 60})),
        ready(2, json!({"caller_id": "+3", "cloned_voice_id": "v2", "ttl_seconds": 60})),
        transfer(10, json!({})),
        transfer(20, json!({"greeting_call_id": "g2"})),
    ];
    rule(
        &records,
        &[(
            CACHE,
            &[
                "+1555 | 2026-01-01 00:00:00 | 2026-01-01 00:01:00 | 2 | 2026-01-01 00:00:20 | 2026-01-01 00:00:00",
                "+2 | 2026-01-01 00:00:01 | 2026-01-01 00:01:01 | 2 | 2026-01-01 00:00:20 | 2026-01-01 00:00:01",
                "+3 | 2026-01-01 00:00:02 | 2026-01-01 00:01:02 | 1 | 2026-01-01 00:00:02 | 2026-01-01 00:00:02",
            ],
        )],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_used_at_is_the_latest_of_ready_at_and_transferred_at() {
    let last_used_at = "SELECT last_used_at FROM voice_clone_cache";
    let transferred_last =
        [ready(0, json!({"ready_at": t(5)})), transfer(0, json!({"transferred_at": t(6)}))];
    rule(&transferred_last, &[(last_used_at, &["2026-01-01 00:00:06"])]).await;
    let ready_last = [ready(0, json!({"ready_at": t(5)})), transfer(0, json!({"transferred_at": t(4)}))];
    rule(&ready_last, &[(last_used_at, &["2026-01-01 00:00:05"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_before_its_voice_is_ready_counts_when_the_ready_event_comes() {
    let before = [transfer(0, json!({"transferred_at": t(7)})), transfer(1, json!({"agent_call_id": "a2"}))];
    let records = [ready(3, json!({"ready_at": t(2), "ttl_seconds": 60}))];
    rule_after(
        &before,
        "",
        &records,
        &[(
            CACHE,
            &["+1555 | 2026-01-01 00:00:02 | 2026-01-01 00:01:02 | 2 | 2026-01-01 00:00:07 | 2026-01-01 00:00:03"],
        )],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_whose_content_changes_moves_last_used_at_and_counts_once() {
    let before = [ready(0, json!({"ready_at": t(1)})), transfer(0, json!({"transferred_at": t(5)}))];
    let records =
        [transfer(0, json!({"transferred_at": t(9)})), transfer(0, json!({"transferred_at": t(7)}))];
    let expected = ["1 | 2026-01-01 00:00:09"];
    rule_after(
        &before,
        "",
        &records,
        &[("SELECT reuse_count, last_used_at FROM voice_clone_cache", &expected)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn created_at_of_a_cache_row_is_the_earliest_of_its_ready_records_alone() {
    let records =
        [ready(20, json!({})), ready(10, json!({"greeting_call_id": "g2"})), transfer(5, json!({}))];
    rule(&records, &[("SELECT created_at FROM voice_clone_cache", &["2026-01-01 00:00:10"])]).await;
}

/// A row that expired at 00:00:30 with an end at 00:00:20.
const EXPIRED: &str = "UPDATE voice_clone_cache SET deleted_at = '2026-01-01 00:00:30'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_row_whose_end_moves_past_its_deletion_is_live_again() {
    let before = [ready(0, json!({"ready_at": t(10), "ttl_seconds": 10}))];
    let records = [ready(0, json!({"ready_at": t(21), "ttl_seconds": 10})), transfer(0, json!({}))];
    let expected = ["2026-01-01 00:00:31 | null"];
    rule_after(
        &before,
        EXPIRED,
        &records,
        &[("SELECT ttl_expires_at, deleted_at FROM voice_clone_cache", &expected)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_row_whose_end_moves_up_to_its_deletion_stays_deleted() {
    let before = [ready(0, json!({"ready_at": t(10), "ttl_seconds": 10}))];
    let records = [
        ready(0, json!({"ready_at": t(20), "ttl_seconds": 10})),
        ready(0, json!({"ready_at": t(15), "ttl_seconds": 7})),
    ];
    let expected = ["2026-01-01 00:00:30 | 2026-01-01 00:00:30"];
    rule_after(
        &before,
        EXPIRED,
        &records,
        &[("SELECT ttl_expires_at, deleted_at FROM voice_clone_cache", &expected)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_cache_row_stays_deleted_where_only_a_transfer_or_an_earlier_ready_event_comes() {
    let before = [ready(0, json!({"ready_at": t(10), "ttl_seconds": 10}))];
    let records = [
        transfer(0, json!({"transferred_at": t(99)})),
        ready(0, json!({"ready_at": t(5), "ttl_seconds": 1})),
    ];
    let expected = ["2026-01-01 00:00:20 | 2026-01-01 00:00:30 | 2026-01-01 00:00:05 | 2026-01-01 00:01:39"];
    let query = "SELECT ttl_expires_at, deleted_at, clone_created_at, last_used_at FROM voice_clone_cache";
    rule_after(&before, EXPIRED, &records, &[(query, &expected)]).await;
}

// -------- Section 4: clone.failed

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_failure_is_part_of_its_identity() {
    let records = [
        failed(0, json!({"failed_at": "2026-01-01T00:00:05Z"})),
        failed(1, json!({"failed_at": "2026-01-01T00:00:05.000001Z"})),
        failed(2, json!({"failed_at": "2026-01-01T01:00:05.0000019+01:00", "error_message": "f"})),
    ];
    rule(
        &records,
        &[
            (
                "SELECT failed_at, error_message FROM clone_failed_events ORDER BY failed_at",
                &["2026-01-01 00:00:05 | e", "2026-01-01 00:00:05.000001 | f"],
            ),
            ("SELECT count(*) FROM voice_clone_log", &["2"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_failures_the_error_message_that_is_greater_by_bytes_counts() {
    let message = "SELECT error_message FROM clone_failed_events";
    for (one, other, greater) in [
        ("B", "a", "a"),
        ("b", "B", "b"),
        ("z", "\u{e9}", "\u{e9}"),
        ("10", "9", "9"),
        ("a", "a ", "a "),
        ("a b", "a-b", "a-b"),
        // U+FFFF is before U+10000 in bytes of UTF-8, after it in UTF-16
        ("\u{ffff}", "\u{10000}", "\u{10000}"),
    ] {
        let records = [failed(0, json!({"error_message": one})), failed(0, json!({"error_message": other}))];
        rule(&records, &[(message, &[greater]), ("SELECT error_message FROM voice_clone_log", &[greater])])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_failures_in_the_log_the_voice_goes_before_the_response_the_sample_and_the_message() {
    let at = |voice: Value, response: Value, size: Value, message: &str| {
        failed(
            0,
            json!({"cloned_voice_id": voice, "api_response_time_ms": response,
            "sample_file_size_bytes": size, "error_message": message}),
        )
    };
    let null = || json!(null);
    for (lower, higher, expected) in [
        (
            at(json!("B"), json!(9), json!(9), "z"),
            at(json!("a"), null(), null(), "y"),
            "failed | +1555 | a | null | null | null | y",
        ),
        (
            at(null(), json!(9), json!(9), "z"),
            at(json!("a"), null(), null(), "y"),
            "failed | +1555 | a | null | null | null | y",
        ),
        (
            at(json!("a"), json!(9), json!(99), "z"),
            at(json!("a"), json!(10), null(), "y"),
            "failed | +1555 | a | null | 10 | null | y",
        ),
        (
            at(null(), null(), json!(9), "z"),
            at(null(), json!(0), null(), "y"),
            "failed | +1555 | null | null | 0 | null | y",
        ),
        (
            at(json!("a"), json!(1), json!(9), "z"),
            at(json!("a"), json!(1), json!(10), "y"),
            "failed | +1555 | a | null | 1 | 10 | y",
        ),
        (
            at(null(), null(), null(), "z"),
            at(null(), null(), json!(0), "y"),
            "failed | +1555 | null | null | null | 0 | y",
        ),
        (
            at(null(), null(), json!(1), "B"),
            at(null(), null(), json!(1), "a"),
            "failed | +1555 | null | null | null | 1 | a",
        ),
    ] {
        // The event's own row compares the message alone.
        let message = if expected.ends_with('a') { "a" } else { "z" };
        let rows = [(LOG, [expected]), ("SELECT error_message FROM clone_failed_events", [message])];
        rule(&[lower, higher], &rows.each_ref().map(|(query, rows)| (*query, rows.as_slice()))).await;
    }
}

// -------- Section 4: clone.transfer

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_transfers_the_later_transferred_at_counts() {
    let records = [9, 10, 8].map(|at| transfer(0, json!({"transferred_at": t(at)})));
    rule(&records, &[("SELECT transferred_at FROM clone_transfer_events", &["2026-01-01 00:00:10"])]).await;
}

// -------- Section 4: call.lifecycle

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_field_of_a_call_holds_the_value_of_the_latest_event_that_has_it() {
    let records = [
        call(
            0,
            json!({"occurred_at": t(1), "threecx_call_id": "z", "caller_id": "z", "cloned_voice_id": "z",
                "call_started_at": t(90), "call_ended_at": t(99), "duration_seconds": 900, "transcript": "z"}),
        ),
        call(
            0,
            json!({"occurred_at": t(2), "threecx_call_id": "b", "caller_id": " ", "cloned_voice_id": "b",
                "call_started_at": t(20), "call_ended_at": null, "duration_seconds": 2, "transcript": ""}),
        ),
        call(0, json!({"occurred_at": t(3), "cloned_voice_id": "a", "duration_seconds": 0})),
    ];
    rule(
        &records,
        &[(
            "SELECT threecx_call_id, caller_id, cloned_voice_id, call_started_at, call_ended_at, duration_seconds,
                transcript, metadata FROM call_log",
            &["b | z | a | 2026-01-01 00:00:20 | 2026-01-01 00:01:39 | 0 | z | null"],
        )],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_equal_event_times_the_greater_value_counts_field_by_field() {
    let records = [
        call(
            0,
            json!({"occurred_at": t(1), "threecx_call_id": "a", "caller_id": "B", "cloned_voice_id": "9",
                "call_started_at": t(9), "call_ended_at": t(30), "duration_seconds": 9, "transcript": "z"}),
        ),
        call(
            0,
            json!({"occurred_at": t(1), "threecx_call_id": "B", "caller_id": "a", "cloned_voice_id": "10",
                "call_started_at": t(10), "call_ended_at": t(29), "duration_seconds": 10, "transcript": "\u{e9}"}),
        ),
    ];
    rule(
        &records,
        &[(
            "SELECT threecx_call_id, caller_id, cloned_voice_id, call_started_at, call_ended_at, duration_seconds,
                transcript FROM call_log",
            &["a | a | 9 | 2026-01-01 00:00:10 | 2026-01-01 00:00:30 | 10 | \u{e9}"],
        )],
    )
    .await;
}

const METADATA: &str = "SELECT metadata FROM call_log";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_merged_key_by_key_at_its_top_level_by_event_time() {
    let records = [
        call(0, json!({"occurred_at": t(2), "metadata": {"a": {"x": 1, "y": 1}, "b": 1}})),
        call(0, json!({"occurred_at": t(3), "metadata": {"b": 0, "d": []}})),
        call(0, json!({"occurred_at": t(1), "metadata": {"a": {"z": 9}, "b": 9, "c": "x"}})),
    ];
    rule(&records, &[(METADATA, &[r#"{"a":{"x":1,"y":1},"b":0,"c":"x","d":[]}"#])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_null_in_metadata_is_a_value() {
    let records = [
        call(0, json!({"occurred_at": t(1), "metadata": {"a": 1, "b": null}})),
        call(0, json!({"occurred_at": t(2), "metadata": {"a": null}})),
    ];
    rule(&records, &[(METADATA, &[r#"{"a":null,"b":null}"#])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_metadata_makes_an_empty_object_and_removes_nothing() {
    let empty = call(0, json!({"occurred_at": t(2), "metadata": {}}));
    let absent = call(0, json!({"occurred_at": t(3), "metadata": null}));
    rule(&[empty.clone(), absent.clone()], &[(METADATA, &["{}"])]).await;
    rule(std::slice::from_ref(&absent), &[(METADATA, &["null"])]).await;
    let full = call(0, json!({"occurred_at": t(1), "metadata": {"a": 1}}));
    rule(&[empty, absent, full], &[(METADATA, &[r#"{"a":1}"#])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_stored_compact_with_its_keys_sorted_by_bytes_at_every_level() {
    let text = r#"{ "b" : 1, "B": [ {"z": 1, "Z": 2.50, "\u00e9": -0.0} ], "aa": {"b": {"d":1, "c":1e2}}, "a": 18446744073709551615 }"#;
    let metadata: Box<serde_json::value::RawValue> = serde_json::from_str(text).unwrap();
    let mut records = [call(0, json!({}))];
    records[0].value =
        Some(format!(r#"{{"call_id":"c1","status":"failed","metadata":{metadata}}}"#).into_bytes());
    let stored =
        r#"{"B":[{"Z":2.5,"z":1,"é":-0.0}],"a":18446744073709551615,"aa":{"b":{"c":100.0,"d":1}},"b":1}"#;
    rule(&records, &[(METADATA, &[stored])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_equal_event_times_the_metadata_value_whose_compact_json_is_greater_by_bytes_counts() {
    let at = |metadata: Value| call(0, json!({"occurred_at": t(1), "metadata": metadata}));
    let records = [
        at(json!({"a": 10, "b": "x", "c": {"k": 2, "j": 1}, "d": null})),
        at(json!({"a": 9, "b": 5, "c": {"j": 3}, "d": false})),
    ];
    rule(&records, &[(METADATA, &[r#"{"a":9,"b":5,"c":{"j":3},"d":null}"#])]).await;
}

const STATUS: &str = "SELECT status FROM call_log";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_initiated_until_there_is_a_terminal_event() {
    let initiated = [call(0, json!({"occurred_at": t(1)})), call(0, json!({"occurred_at": t(2)}))];
    rule(&initiated, &[(STATUS, &["initiated"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_status_is_kept_also_against_a_later_initiated() {
    let records = [
        call(0, json!({"occurred_at": t(1), "status": "completed"})),
        call(0, json!({"occurred_at": t(2), "status": "initiated"})),
    ];
    rule(&records, &[(STATUS, &["completed"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_terminal_status_counts_and_at_equal_times_the_greater() {
    let at = |seconds: i64, status: &str| call(0, json!({"occurred_at": t(seconds), "status": status}));
    rule(&[at(1, "failed"), at(2, "completed"), at(3, "initiated")], &[(STATUS, &["completed"])]).await;
    rule(&[at(2, "failed"), at(1, "completed")], &[(STATUS, &["failed"])]).await;
    rule(&[at(2, "failed"), at(2, "completed"), at(2, "initiated")], &[(STATUS, &["failed"])]).await;
}

const SPAN: &str = "SELECT call_started_at, call_ended_at, duration_seconds FROM call_log";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_starts_with_its_earliest_initiated_and_ends_with_its_latest_terminal_event() {
    let records = [
        call(0, json!({"occurred_at": t(3)})),
        call(0, json!({"occurred_at": t(5)})),
        call(0, json!({"occurred_at": t(10), "status": "failed"})),
        call(0, json!({"occurred_at": t(20), "status": "completed"})),
    ];
    rule(&records, &[(SPAN, &["2026-01-01 00:00:03 | 2026-01-01 00:00:20 | 17"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_its_first_or_its_last_event_has_no_duration() {
    let first = [call(0, json!({"occurred_at": t(3)}))];
    rule(&first, &[(SPAN, &["2026-01-01 00:00:03 | null | null"])]).await;
    let last = [call(0, json!({"occurred_at": t(9), "status": "failed"}))];
    rule(&last, &[(SPAN, &["null | 2026-01-01 00:00:09 | null"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_events_give_wins_over_what_is_derived_however_old_the_event() {
    let records = [
        call(0, json!({"occurred_at": t(1), "call_started_at": t(100), "call_ended_at": t(107)})),
        call(0, json!({"occurred_at": t(2)})),
        call(0, json!({"occurred_at": t(50), "status": "completed"})),
    ];
    rule(&records, &[(SPAN, &["2026-01-01 00:01:40 | 2026-01-01 00:01:47 | 7"])]).await;
    let records = [
        call(0, json!({"occurred_at": t(1), "duration_seconds": 33})),
        call(0, json!({"occurred_at": t(50), "status": "completed"})),
    ];
    rule(&records, &[(SPAN, &["2026-01-01 00:00:01 | 2026-01-01 00:00:50 | 33"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_derived_duration_is_in_whole_seconds_cut_off() {
    let at = |from: &str, to: &str| {
        [call(0, json!({"call_started_at": from})), call(1, json!({"call_ended_at": to}))]
    };
    for (from, to, expected) in [
        (
            "2026-01-01T00:00:01.5Z",
            "2026-01-01T00:00:04.499999Z",
            "2026-01-01 00:00:01.5 | 2026-01-01 00:00:04.499999 | 2",
        ),
        ("2026-01-01T00:00:01Z", "2026-01-01T00:00:01Z", "2026-01-01 00:00:01 | 2026-01-01 00:00:01 | 0"),
        // negative before cutting: minus one microsecond is not 0
        (
            "2026-01-01T00:00:01.000001Z",
            "2026-01-01T00:00:01Z",
            "2026-01-01 00:00:01.000001 | 2026-01-01 00:00:01 | null",
        ),
        (
            "1970-01-01T00:00:00Z",
            "2038-01-19T03:14:07.999999Z",
            "1970-01-01 00:00:00 | 2038-01-19 03:14:07.999999 | 2147483647",
        ),
        ("1970-01-01T00:00:00Z", "2038-01-19T03:14:08Z", "1970-01-01 00:00:00 | 2038-01-19 03:14:08 | null"),
    ] {
        rule(&at(from, to), &[(SPAN, &[expected])]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn created_at_and_updated_at_of_a_call_are_its_records_timestamps_not_its_events_times() {
    let records = [
        call(20, json!({"occurred_at": t(1)})),
        call(10, json!({"occurred_at": t(99)})),
        call(30, json!({"occurred_at": t(50)})),
    ];
    let expected = ["2026-01-01 00:00:10 | 2026-01-01 00:00:30"];
    rule(&records, &[("SELECT created_at, updated_at FROM call_log", &expected)]).await;
}

// -------- Section 4: caller.voice_mapping

const MAPPING: &str = "SELECT voice_sample_url, voice_name, description, account_id, updated_at, deleted_at
    FROM caller_voice_mapping";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_is_the_whole_state_of_its_latest_event() {
    let records = [
        mapping(
            0,
            json!({"updated_at": t(1), "voice_sample_url": "z", "voice_name": "z", "description": "z", "account_id": "z"}),
        ),
        mapping(0, json!({"updated_at": t(2), "voice_sample_url": "a", "description": "b"})),
    ];
    rule(&records, &[(MAPPING, &["a | null | b | null | 2026-01-01 00:00:02 | null"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_mapping_states_at_one_time_the_greater_counts_whole_in_the_order_of_their_fields() {
    let state = |url: &str, name: Value, description: Value, account: Value| {
        mapping(
            0,
            json!({"updated_at": t(1), "voice_sample_url": url, "voice_name": name,
            "description": description, "account_id": account}),
        )
    };
    let (a, z, null) = (|| json!("a"), || json!("Z"), || json!(null));
    for (lower, higher, expected) in [
        (state("B", z(), z(), z()), state("a", null(), null(), null()), "a | null | null | null"),
        (state("u", z(), z(), z()), state("u", a(), null(), null()), "u | a | null | null"),
        (state("u", null(), z(), z()), state("u", z(), null(), null()), "u | Z | null | null"),
        (state("u", a(), z(), z()), state("u", a(), a(), null()), "u | a | a | null"),
        (state("u", a(), null(), z()), state("u", a(), z(), null()), "u | a | Z | null"),
        (state("u", a(), a(), z()), state("u", a(), a(), a()), "u | a | a | a"),
        (state("u", null(), null(), null()), state("u", null(), null(), z()), "u | null | null | Z"),
    ] {
        let row = format!("{expected} | 2026-01-01 00:00:01 | null");
        rule(&[lower, higher], &[(MAPPING, &[&row])]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_null_value_deletes_the_mapping_of_its_key_at_its_timestamp() {
    let records = [mapping(0, json!({"updated_at": t(4)})), tombstone(5)];
    rule(&records, &[(MAPPING, &["url | null | null | null | 2026-01-01 00:00:05 | 2026-01-01 00:00:05"])])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_true_deletes_the_mapping_at_its_updated_at_whatever_else_it_holds() {
    let delete = json!({"updated_at": t(5), "deleted": true, "voice_sample_url": 7, "voice_name": "x"});
    let records = [mapping(0, json!({"updated_at": t(4), "deleted": false})), mapping(90, delete)];
    rule(&records, &[(MAPPING, &["url | null | null | null | 2026-01-01 00:00:05 | 2026-01-01 00:00:05"])])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_equal_times_the_delete_stands() {
    let records = [mapping(0, json!({"updated_at": t(5), "voice_name": "n"})), tombstone(5)];
    rule(&records, &[(MAPPING, &["url | n | null | null | 2026-01-01 00:00:05 | 2026-01-01 00:00:05"])])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_state_undoes_a_delete() {
    let records = [
        mapping(0, json!({"updated_at": t(4)})),
        tombstone(5),
        mapping(0, json!({"updated_at": "2026-01-01T00:00:05.000001Z", "voice_name": "n"})),
    ];
    rule(&records, &[(MAPPING, &["url | n | null | null | 2026-01-01 00:00:05.000001 | null"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_at_is_the_latest_delete() {
    let records = [mapping(0, json!({"updated_at": t(4)})), tombstone(5), tombstone(7)];
    rule(&records, &[(MAPPING, &["url | null | null | null | 2026-01-01 00:00:07 | 2026-01-01 00:00:07"])])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_before_any_state_makes_no_row_but_counts_when_an_older_state_comes() {
    let before = [tombstone(5)];
    rule(&before, &[(MAPPING, &[])]).await;
    let older = [mapping(0, json!({"updated_at": t(4)}))];
    let deleted = ["url | null | null | null | 2026-01-01 00:00:05 | 2026-01-01 00:00:05"];
    rule_after(&before, "", &older, &[(MAPPING, &deleted)]).await;
    let newer = [mapping(0, json!({"updated_at": t(6)}))];
    rule_after(&before, "", &newer, &[(MAPPING, &["url | null | null | null | 2026-01-01 00:00:06 | null"])])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_whose_caller_nobody_knows_makes_no_row_however_often_it_comes() {
    let records = [tombstone(5), mapping(0, json!({"deleted": true, "updated_at": t(9)}))];
    rule(&records, &[("SELECT count(*) FROM caller_voice_mapping", &["0"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updated_at_of_a_mapping_is_its_latest_event_time_deletes_included() {
    // The state's record has the latest timestamp, and the latest event time is a delete's that counts.
    let records =
        [mapping(99, json!({"updated_at": t(4)})), tombstone(5), mapping(0, json!({"updated_at": t(3)}))];
    let expected = ["2026-01-01 00:00:05"];
    rule(&records, &[("SELECT updated_at FROM caller_voice_mapping", &expected)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn created_at_of_a_mapping_is_its_earliest_record_timestamp_deletes_included() {
    let query = "SELECT created_at FROM caller_voice_mapping";
    let a_delete =
        [mapping(30, json!({"updated_at": t(4)})), tombstone(10), mapping(20, json!({"updated_at": t(9)}))];
    rule(&a_delete, &[(query, &["2026-01-01 00:00:10"])]).await;
    let an_old_state = [mapping(30, json!({"updated_at": t(9)})), mapping(20, json!({"updated_at": t(4)}))];
    rule(&an_old_state, &[(query, &["2026-01-01 00:00:20"])]).await;
}

// -------- Section 1: rows that another tool made

const ADOPTED_CALL: &str = "INSERT INTO call_log
    (id, call_id, threecx_call_id, caller_id, call_started_at, duration_seconds, status, metadata, created_at, updated_at)
    VALUES ('11111111-1111-4111-8111-111111111111', 'c1', 'z', 'z', '2026-01-01 00:00:59', 7, 'completed',
            '{\"b\": 9, \"a\": 1}', '2026-01-01 00:00:30', '2026-01-01 00:00:50')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_another_tool_stored_keeps_its_id_and_its_values_are_older_than_all() {
    let records = [
        call(40, json!({"occurred_at": 0, "caller_id": "a", "metadata": {"b": 0}})),
        call(45, json!({"occurred_at": 1, "call_started_at": 5, "duration_seconds": 1})),
    ];
    rule_after(
        &[],
        ADOPTED_CALL,
        &records,
        &[(
            "SELECT id, threecx_call_id, caller_id, call_started_at, call_ended_at, duration_seconds, status, metadata,
                created_at, updated_at FROM call_log",
            &["11111111-1111-4111-8111-111111111111 | z | a | 1970-01-01 00:00:05 | null | 1 | completed \
                | {\"a\":1,\"b\":0} | 2026-01-01 00:00:30 | 2026-01-01 00:00:45"],
        )],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_of_another_tool_that_cannot_be_merged_stays_until_an_event_brings_some() {
    for stored in
        ["[1,2,3]", "{\"a\": 1e400}", "{\"a\":\"\\ud800\"}", "\"text\"", "null", "{\"a\":\"\\u0000\"}"]
    {
        let adopted = format!(
            "INSERT INTO call_log (id, call_id, status, metadata, created_at, updated_at)
             VALUES ('11111111-1111-4111-8111-111111111111', 'c1', 'initiated', '{stored}', '2026-01-01', '2026-01-01')"
        );
        let without =
            [call(40, json!({"occurred_at": 0, "caller_id": "a"})), call(41, json!({"occurred_at": 1}))];
        rule_after(
            &[],
            &adopted,
            &without,
            &[("SELECT caller_id, metadata::text FROM call_log", &[format!("a | {stored}").as_str()])],
        )
        .await;
        let with = [without[0].clone(), call(41, json!({"occurred_at": 1, "metadata": {"b": 1}}))];
        rule_after(&[], &adopted, &with, &[("SELECT metadata::text FROM call_log", &["{\"b\":1}"])]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_several_events_bring_together_may_hold_more_values_than_one_of_them_may() {
    let part = |name: &str| json!({"metadata": {name: vec![0; 24_000]}});
    let count = "SELECT sum(json_array_length(value)) FROM call_log, json_each(metadata)";
    rule(&[call(1, part("a")), call(2, part("b")), call(3, part("c"))], &[(count, &["72000"])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_event_replaces_the_status_that_another_tool_stored() {
    let records =
        [call(40, json!({"occurred_at": 0, "status": "failed"})), call(41, json!({"occurred_at": 9}))];
    let expected = ["11111111-1111-4111-8111-111111111111 | failed | 1970-01-01 00:00:00"];
    rule_after(&[], ADOPTED_CALL, &records, &[("SELECT id, status, call_ended_at FROM call_log", &expected)])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_that_another_tool_stored_keeps_its_id_and_its_state_is_older_than_all() {
    let adopted = "INSERT INTO caller_voice_mapping
        (id, caller_id, voice_sample_url, voice_name, created_at, updated_at, deleted_at)
        VALUES ('22222222-2222-4222-8222-222222222222', '+1555', 'z', 'z', '2026-01-01 00:00:30',
                '2026-01-01 00:00:50', '2026-01-01 00:00:50')";
    let query = "SELECT id, voice_sample_url, voice_name, created_at, updated_at, deleted_at FROM caller_voice_mapping";
    let states = [
        mapping(40, json!({"updated_at": 0})),
        mapping(41, json!({"updated_at": 0, "voice_sample_url": "a"})),
    ];
    rule_after(
        &[],
        adopted,
        &states,
        &[(
            query,
            &["22222222-2222-4222-8222-222222222222 | url | null | 2026-01-01 00:00:30 | 1970-01-01 00:00:00 | null"],
        )],
    )
    .await;
    rule_after(
        &[],
        adopted,
        &[tombstone(40)],
        &[(
            query,
            &["22222222-2222-4222-8222-222222222222 | z | z | 2026-01-01 00:00:30 | 2026-01-01 00:00:40 \
                | 2026-01-01 00:00:40"],
        )],
    )
    .await;
}

// -------- What a rule may cost

/// How often each table was read as a whole.
fn whole_reads(database: &Database) -> Vec<Vec<Option<String>>> {
    database.wait_until_alone();
    database.rows("SELECT schemaname || '.' || relname, seq_scan FROM pg_stat_user_tables ORDER BY 1")
}

/// The bookkeeping compares texts by bytes, the tables' indexes do not: a join of the two may use neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_reads_a_large_table_as_a_whole() {
    let database = migrated().await;
    database.run(
        "INSERT INTO voice_clone_cache
            SELECT gen_random_uuid(), 'caller ' || n, 'voice ' || n, now(), now(), 1, now(), now()
            FROM generate_series(1, 20000) AS n;
         INSERT INTO call_log (id, call_id, caller_id, status, created_at, updated_at)
            SELECT gen_random_uuid(), 'call ' || n, 'caller ' || n, 'initiated', now(), now()
            FROM generate_series(1, 20000) AS n;
         INSERT INTO caller_voice_mapping (id, caller_id, voice_sample_url, created_at, updated_at)
            SELECT gen_random_uuid(), 'caller ' || n, 'url', now(), now() FROM generate_series(1, 20000) AS n;
         INSERT INTO clone_transfer_events
            SELECT gen_random_uuid(), 'call ' || n, 'agent', 'voice ' || n, now(), now()
            FROM generate_series(1, 20000) AS n;
         INSERT INTO clone_ready_events
            SELECT gen_random_uuid(), 'caller ' || n, 'call ' || n, 'voice ' || n, 1, now(), now()
            FROM generate_series(1, 20000) AS n;
         INSERT INTO clone_failed_events
            SELECT gen_random_uuid(), 'caller ' || n, 'call ' || n, 'error', now(), now()
            FROM generate_series(1, 20000) AS n;
         INSERT INTO voice_clone_log (id, caller_id, status, created_at)
            SELECT id, caller_id, 'failed', now() FROM clone_failed_events;
         INSERT INTO ingest.voices SELECT cloned_voice_id, 1, now() FROM voice_clone_cache;
         INSERT INTO ingest.calls (call_id, initiated_at) SELECT call_id, now() FROM call_log;
         INSERT INTO ingest.mappings (caller_id, state_at, updated_at, created_at)
            SELECT caller_id, now(), now(), now() FROM caller_voice_mapping;
         ANALYZE",
    );
    let before = whole_reads(&database);
    let of = json!({"caller_id": "caller 7", "call_id": "call 7", "cloned_voice_id": "voice 7"});
    let records = [
        transfer(1, of.clone()),
        ready(1, of.clone()),
        failed(1, of.clone()),
        call(1, of.clone()),
        mapping(1, of),
    ];
    let writer = ingest(&database);
    // Existing rows are looked up instead of written, with another statement.
    for _ in 0..2 {
        for record in &records {
            write(&writer, std::slice::from_ref(record)).await;
        }
    }
    drop(writer);
    assert_eq!(database.value("SELECT reuse_count FROM voice_clone_cache WHERE cloned_voice_id = 'voice 7' ORDER BY 1 DESC LIMIT 1"), "2");
    assert_eq!(whole_reads(&database), before);
}

/// A statement's plan is kept for long: one that suits a table of a few rows must not read all of it when it has grown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_reads_a_table_as_a_whole_that_was_small_when_the_first_one_came() {
    let database = migrated().await;
    let before = whole_reads(&database);
    let records: Vec<Record> = (0..300)
        .flat_map(|number| {
            let of = json!({"caller_id": format!("caller {number}"), "call_id": format!("call {number}"),
                            "cloned_voice_id": format!("voice {number}")});
            let unusable = Record { offset: number, ..call(number, json!({"call_id": null})) };
            let fields = || of.clone();
            [
                transfer(number, fields()),
                ready(number, fields()),
                failed(number, fields()),
                call(number, fields()),
                mapping(number, fields()),
                unusable,
            ]
        })
        .collect();
    let writer = ingest(&database);
    for _ in 0..2 {
        for batch in records.chunks(60) {
            write(&writer, batch).await;
        }
    }
    drop(writer);
    assert_eq!(whole_reads(&database), before);
    let entries: usize =
        database.value("SELECT sum(idx_tup_read) FROM pg_stat_user_indexes").parse().unwrap();
    assert!((records.len()..20 * records.len()).contains(&entries), "{entries} entries of indexes were read");
}
