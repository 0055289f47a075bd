//! `dead-letters` as an operator and a program call it (contract, section 8).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};
use voiceclone_events::record::{Header, Record, Topic};
use voiceclone_events::store::migrate;
use voiceclone_events::store::write::Mode;

use crate::histories::{ingest, write};
use crate::support::daemon::{Finished, run_command};
use crate::support::left_out::real_kafka;
use crate::support::postgres::Database;
use crate::support::scene::Scene;
use crate::support::wait::eventually_eq;

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

const PHONE: &str = "+12025550143";
const SECRET: &str = "My name is Jane and I live in Springfield";

async fn migrated() -> Database {
    let database = Database::new();
    migrate::up(database.url(), None).await.unwrap();
    database
}

fn record(topic: Topic, offset: i64, value: &[u8]) -> Record {
    Record {
        topic,
        partition: 0,
        offset,
        timestamp: 1_767_225_600_000 + offset,
        key: Some(PHONE.into()),
        value: Some(value.to_vec()),
        headers: vec![Header::new("ce_id", "event-7"), Header::new("x-user", SECRET)],
    }
}

fn transfer(offset: i64, agent_call_id: &str) -> Record {
    let value = json!({
        "greeting_call_id": format!("g{offset}"), "agent_call_id": agent_call_id, "cloned_voice_id": "v",
    });
    record(Topic::CloneTransfer, offset, value.to_string().as_bytes())
}

/// A letter of each: no status, a wrong status, no JSON, no UTF-8.
async fn four_letters(database: &Database) {
    let wrong = json!({ "call_id": "c1", "status": "done", "caller_id": PHONE, "transcript": SECRET });
    let missing = json!({ "call_id": "c2", "caller_id": PHONE, "transcript": SECRET });
    let records = [
        record(Topic::CallLifecycle, 10, missing.to_string().as_bytes()),
        record(Topic::CallLifecycle, 11, wrong.to_string().as_bytes()),
        record(Topic::CallLifecycle, 12, format!("{{\"transcript\": \"{SECRET}\", x}}").as_bytes()),
        record(Topic::CloneReady, 13, b"\xff\xfe"),
    ];
    write(&ingest(database), &records).await;
}

fn run(database: &Database, words: &[&str]) -> Finished {
    let words: Vec<&str> = std::iter::once("dead-letters").chain(words.iter().copied()).collect();
    run_command(&words, &[("DATABASE_URL", database.url())], MINUTES)
}

fn json_of(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// The offsets that `list` finds, sorted.
fn listed(database: &Database, words: &[&str]) -> Vec<i64> {
    let words: Vec<&str> = ["list", "--json"].iter().chain(words).copied().collect();
    let finished = run(database, &words);
    assert_eq!(finished.code, 0, "{finished:?}");
    let letters = json_of(&finished)["letters"].clone();
    let mut offsets: Vec<i64> =
        letters.as_array().unwrap().iter().map(|letter| letter["offset"].as_i64().unwrap()).collect();
    offsets.sort_unstable();
    offsets
}

/// Offset, resolution and tries of each letter.
fn states(database: &Database) -> Vec<String> {
    let sql = "SELECT record_offset, CASE WHEN resolved_at IS NULL THEN 'open' ELSE 'resolved' END,
                      COALESCE(resolution, '-'), tries FROM ingest.dead_letters ORDER BY record_offset";
    let shown = |row: Vec<Option<String>>| row.into_iter().flatten().collect::<Vec<_>>().join(" ");
    database.rows(sql).into_iter().map(shown).collect()
}

fn nothing_personal(finished: &Finished) {
    let text = format!("{}{}", finished.stdout, finished.stderr);
    for personal in [PHONE, "2025550143", "Jane", "Springfield"] {
        assert!(!text.contains(personal), "{personal} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_narrows_the_list() {
    let database = migrated().await;
    four_letters(&database).await;
    let ids: Vec<String> = database
        .rows("SELECT id FROM ingest.dead_letters ORDER BY record_offset")
        .into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect();
    let range = format!("{}-{}", ids[1], ids[2]);
    database.run("UPDATE ingest.dead_letters SET created_at = '2026-01-01' WHERE record_offset = 12");
    database.run("UPDATE ingest.dead_letters SET resolved_at = now(), resolution = 'discarded' WHERE record_offset = 10");
    for (words, expected) in [
        (&[][..], &[11, 12, 13][..]),
        (&["--state", "all"], &[10, 11, 12, 13]),
        (&["--state", "resolved"], &[10]),
        (&[&ids[0]], &[10]),
        (&[&range], &[11, 12]),
        (&[&ids[3], &range, "--state", "all"], &[11, 12, 13]),
        (&["--topic", "clone.ready"], &[13]),
        (&["--partition", "1"], &[]),
        (&["--offset", "12..13"], &[12, 13]),
        (&["--reason", "invalid_value"], &[11]),
        (&["--message-like", "NO JSON (LINE"], &[12]),
        (&["--message-like", "status%initiated"], &[11]),
        (&["--until", "2026-01-02T00:00:00Z"], &[12]),
        (&["--since", "1h"], &[11, 13]),
        (&["--limit", "2", "--topic", "call.lifecycle", "--state", "all"], &[10, 11]),
        (&["--topic", "call.lifecycle", "--since", "1h", "--reason", "invalid_json"], &[]),
    ] {
        assert_eq!(listed(&database, words), expected, "{words:?}");
    }
    let person = run(&database, &["list", "--limit", "1", "--topic", "call.lifecycle"]);
    assert!(person.stdout.contains("call.lifecycle/0@11"), "{person:?}");
    assert!(person.stdout.contains("The first 1 of 2 dead letters"), "{person:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summary_counts_by_topic_reason_and_message_also_without_a_word() {
    let database = migrated().await;
    assert!(run(&database, &[]).stdout.contains("No unresolved dead letters"));
    let records: Vec<Record> =
        (0..5).map(|offset| record(Topic::CallLifecycle, offset, br#"{"call_id":"c"}"#)).collect();
    write(&ingest(&database), &records).await;
    four_letters(&database).await;
    database.run("UPDATE ingest.consumer_offsets SET dead_in_a_row = 0");
    database.run(
        "INSERT INTO ingest.consumer_offsets (group_id, topic, partition, next_offset, dead_in_a_row, stopped_at)
         VALUES ('voiceclone-events', 'clone.failed', 3, 9, 10000, now()),
                ('voiceclone-events', 'clone.failed', 4, 9, 8000, NULL),
                ('voiceclone-events', 'clone.failed', 5, 9, 7999, NULL)",
    );
    let report = json_of(&run(&database, &["summary", "--json"]));
    let first = &report["groups"][0];
    assert_eq!((&first["reason"], &first["count"]), (&json!("missing_field"), &json!(6)), "{report}");
    assert_eq!(report["groups"].as_array().unwrap().len(), 4, "{report}");
    assert_eq!(report["backlog"]["unpublished"], 9, "{report}");
    let near: Vec<_> = report["partitions"].as_array().unwrap().iter().map(|at| &at["partition"]).collect();
    assert_eq!(near, [3, 4], "{report}");
    let person = run(&database, &[]);
    assert_eq!(person.code, 0, "{person:?}");
    assert!(person.stdout.contains("dead-letters accept --topic clone.failed --partition 3"), "{person:?}");
    assert!(person.stdout.contains("9 dead letters not published yet"), "{person:?}");
    nothing_personal(&person);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_shown_masked_with_its_fault_marked_and_revealed_only_on_demand() {
    let database = migrated().await;
    four_letters(&database).await;
    let id = |offset: i64| {
        database.value(&format!("SELECT id FROM ingest.dead_letters WHERE record_offset = {offset}"))
    };
    for offset in 10..14 {
        nothing_personal(&run(&database, &["show", &id(offset)]));
        nothing_personal(&run(&database, &["show", &id(offset), "--json"]));
    }
    let wrong = run(&database, &["show", &id(11)]).stdout;
    assert!(wrong.contains("call.lifecycle/0@11"), "{wrong}");
    assert!(wrong.contains(r#""caller_id": "+1********43""#), "{wrong}");
    assert!(wrong.contains(r#""transcript": "<text, 41 characters>""#), "{wrong}");
    assert!(wrong.lines().any(|line| line.starts_with('>') && line.contains("\"status\"")), "{wrong}");
    assert!(wrong.contains("ce_id      event-7"), "{wrong}");
    let invalid = run(&database, &["show", &id(12)]).stdout;
    assert!(invalid.lines().any(|line| line.trim() == "^"), "{invalid}");
    let shown = json_of(&run(&database, &["show", &id(11), "--json"]));
    assert_eq!((&shown["fault"]["field"], &shown["ce_id"]), (&json!("status"), &json!("event-7")), "{shown}");

    let revealed = run(&database, &["show", &id(11), "--reveal"]).stdout;
    assert!(revealed.contains(PHONE) && revealed.contains(SECRET), "{revealed}");
    let raw = run(&database, &["show", &id(12), "--raw"]);
    assert_eq!(raw.stdout, format!("{{\"transcript\": \"{SECRET}\", x}}"), "without a line's end");

    for words in [&["show", "987654"][..], &["retry", "987654"], &["discard", "987654", "--note", "n"]] {
        let unknown = run(&database, words);
        assert_eq!(unknown.code, 1, "{unknown:?}");
        assert!(unknown.stderr.contains("there is no dead letter 987654"), "{unknown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_resolved_by_a_retry_once_the_constraint_is_fixed() {
    let database = migrated().await;
    database
        .run("ALTER TABLE clone_transfer_events ADD CONSTRAINT no_bad CHECK (agent_call_id NOT LIKE 'bad%')");
    let records: Vec<Record> = (0..300).map(|offset| transfer(offset, "bad")).collect();
    write(&ingest(&database), &records).await;
    assert_eq!(database.value("SELECT count(*) FROM ingest.dead_letters"), "300");

    let failed = run(&database, &["retry", "--offset", "0..2", "--yes"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stdout.contains("clone.transfer/0@1: rejected_by_database: "), "{failed:?}");
    assert!(failed.stdout.contains("3 tried: 0 resolved, 3 still cannot be used."), "{failed:?}");
    assert_eq!(states(&database)[..4], ["0 open - 1", "1 open - 1", "2 open - 1", "3 open - 0"]);

    database.run("ALTER TABLE clone_transfer_events DROP CONSTRAINT no_bad");
    let dry = run(&database, &["retry", "--all", "--dry-run"]);
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(dry.stdout.contains("300 tried: 300 would be resolved"), "{dry:?}");
    assert!(dry.stderr.contains("300 clone.transfer rejected_by_database"), "says the kinds: {dry:?}");
    assert_eq!(states(&database)[..2], ["0 open - 1", "1 open - 1"], "a dry run sets nothing");
    assert_eq!(database.value("SELECT count(*) FROM clone_transfer_events"), "0");

    // Two operators at once, for a second or two.
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| run(&database, &["retry", "--all", "--yes", "--rate", "150", "--json"]));
        (run(&database, &["retry", "--all", "--yes", "--rate", "150"]), other.join().unwrap())
    });
    assert_eq!((first.code, second.code), (0, 0), "{first:?} {second:?}");
    assert_eq!(json_of(&second)["failed"], 0);
    assert_eq!(database.value("SELECT count(*) FROM clone_transfer_events"), "300");
    let retried = "SELECT count(*) FROM ingest.dead_letters
                   WHERE resolved_at IS NOT NULL AND resolution = 'retried' AND tries > 0 AND last_tried_at IS NOT NULL";
    assert_eq!(database.value(retried), "300");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gives_the_new_reason_and_leaves_a_discarded_letter_alone() {
    let database = migrated().await;
    let large = json!({ "greeting_call_id": "g", "cloned_voice_id": "v", "unknown": "x".repeat(5000) });
    let mut small = ingest(&database);
    small.limits.record_max_bytes = 1000;
    small.mode = Mode::Live;
    let value = large.to_string();
    let records: Vec<Record> =
        (0..2).map(|offset| record(Topic::CloneTransfer, offset, value.as_bytes())).collect();
    write(&small, &records).await;
    let note = run(&database, &["discard", "--offset", "1", "--note", "known", "--yes"]);
    assert!(note.stdout.contains("Discarded 1 dead letter."), "{note:?}");
    let retried = run(&database, &["retry", "--topic", "clone.transfer", "--yes", "--rate", "100"]);
    assert_eq!(retried.code, 1, "{retried:?}");
    assert!(retried.stdout.contains("missing_field: agent_call_id"), "{retried:?}");
    assert_eq!(states(&database), ["0 open - 1", "1 resolved discarded 0"]);
    let reason = "SELECT reason FROM ingest.dead_letters WHERE record_offset = 0";
    assert_eq!(database.value(reason), "missing_field");
    assert_eq!(database.value("SELECT note FROM ingest.dead_letters WHERE record_offset = 1"), "known");
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_work_without_a_terminal_needs_yes_and_without_a_filter_needs_all() {
    let database = migrated().await;
    four_letters(&database).await;
    for (words, remedy) in [
        (&["retry", "--topic", "clone.ready"][..], "--yes"),
        (&["retry", "1-9"], "--yes"),
        (&["retry", "--yes"], "--all"),
        (&["discard", "--all", "--note", "n"], "--yes"),
        (&["discard", "--yes", "--state", "unresolved", "--note", "n"], "--all"),
        (&["discard", "--all", "--yes", "--note", " "], "--note"),
        (&["purge", "--older-than", "90d"], "--yes"),
        (&["purge", "--yes"], "--all"),
        (&["purge", "--all", "--yes", "--state", "all"], "--state"),
    ] {
        let refused = run(&database, words);
        assert_eq!(refused.code, 2, "{words:?}: {refused:?}");
        assert!(refused.stderr.lines().last().unwrap().contains(remedy), "{words:?}: {refused:?}");
    }
    let open: Vec<String> = (10..14).map(|offset| format!("{offset} open - 0")).collect();
    assert_eq!(states(&database), open, "nothing was done");
    let dry = run(&database, &["discard", "--reason", "invalid_json", "--note", "n", "--dry-run"]);
    assert!(dry.stdout.contains("Would discard 2 dead letters"), "{dry:?}");
    assert_eq!(states(&database), open, "a dry run sets nothing");
    let done = run(&database, &["discard", "--all", "--yes", "--note", "n", "--json"]);
    assert_eq!(json_of(&done)["discarded"], 4, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_deletes_only_what_is_resolved_published_and_old() {
    let database = migrated().await;
    four_letters(&database).await;
    write(&ingest(&database), &[record(Topic::CallLifecycle, 14, b"[]")]).await;
    for (offset, sets) in [
        (10, "resolved_at = now(), published_at = now(), created_at = now() - interval '91 days'"),
        (11, "resolved_at = now(), created_at = now() - interval '91 days'"),
        (12, "published_at = now(), created_at = now() - interval '91 days'"),
        (13, "resolved_at = now(), published_at = now(), created_at = now() - interval '89 days'"),
    ] {
        database.run(&format!("UPDATE ingest.dead_letters SET {sets} WHERE record_offset = {offset}"));
    }
    let left = || {
        database.value(
            "SELECT string_agg(record_offset::text, ' ' ORDER BY record_offset) FROM ingest.dead_letters",
        )
    };
    let dry = run(&database, &["purge", "--older-than", "90d", "--dry-run"]);
    assert!(dry.stdout.contains("Would delete 1 dead letter."), "{dry:?}");
    assert_eq!(left(), "10 11 12 13 14");
    let purged = run(&database, &["purge", "--older-than", "90d", "--yes"]);
    assert!(purged.stdout.contains("Deleted 1 dead letter."), "{purged:?}");
    assert_eq!(left(), "11 12 13 14");
    assert_eq!(json_of(&run(&database, &["purge", "--all", "--yes", "--json"]))["deleted"], 1);
    assert_eq!(left(), "11 12 14");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_goes_back_through_publish() {
    let scene = Scene::new(real_kafka!(), 1);
    let database = &scene.database;
    migrate::up(database.url(), None).await.unwrap();
    let mut live = ingest(database);
    live.topic_prefix.clone_from(&scene.prefix);
    live.limits.record_max_bytes = 60;
    let good = format!(
        "{{\n \"greeting_call_id\": \"g\",\n \"agent_call_id\": \"a\",\n \"cloned_voice_id\": \"{PHONE}\"}}"
    );
    let records =
        [record(Topic::CloneTransfer, 0, good.as_bytes()), record(Topic::CloneTransfer, 1, b"\xff")];
    write(&live, &records).await;

    let variables = scene.variables(&[]);
    let export = |words: &[&str]| {
        let words: Vec<&str> = ["dead-letters", "export"].iter().chain(words).copied().collect();
        let finished = run_command(&words, &variables, MINUTES);
        assert_eq!(finished.code, 0, "{finished:?}");
        finished
    };
    for format in ["ndjson", "csv"] {
        let masked = export(&["--format", format]);
        nothing_personal(&masked);
        assert!(masked.stderr.contains("2 dead letters exported"), "{masked:?}");
    }
    let csv = export(&["--format", "csv", "--reveal"]).stdout;
    assert!(csv.contains(&format!(",'{PHONE},")), "no formula: {csv}");
    assert!(csv.lines().count() >= 3 && csv.contains(",/w=="), "{csv}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("letters.ndjson");
    let file_name = file.to_str().unwrap();
    export(&["--topic", "clone.transfer", "--reveal", "--output", file_name]);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    let other: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&other["offset"], &other["value_base64"]), (&json!(1), &json!("/w==")), "{text}");
    let published =
        run_command(&["publish", "--topic", "clone.transfer", "--json", file_name], &variables, MINUTES);
    assert_eq!(json_of(&published)["sent"], 1, "{published:?}");
    let sent = scene.kafka.read_all(&scene.topic("clone.transfer"));
    let value: Value = serde_json::from_slice(sent[0].value.as_deref().unwrap()).unwrap();
    assert_eq!(value, serde_json::from_str::<Value>(&good).unwrap());
    let again = ["dead-letters", "export", "--output", file_name];
    assert_eq!(run_command(&again, &variables, MINUTES).code, 1, "a file that is there is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_deletes_what_is_resolved_published_and_older_than_the_retention() {
    let scene = Scene::new(real_kafka!(), 1);
    migrate::up(scene.database.url(), None).await.unwrap();
    four_letters(&scene.database).await;
    scene.database.run(
        "UPDATE ingest.dead_letters SET published_at = now(), created_at = now() - interval '3 days';
         UPDATE ingest.dead_letters SET resolved_at = now(), resolution = 'discarded' WHERE record_offset IN (10, 11);
         UPDATE ingest.dead_letters SET created_at = now() - interval '1 day' WHERE record_offset = 11",
    );
    let _daemon = scene.daemon(&[("DEAD_LETTER_RETENTION", "2d")]);
    eventually_eq(MINUTES, "the letters that are left", "11 12 13".to_owned(), || {
        scene.database.value(
            "SELECT string_agg(record_offset::text, ' ' ORDER BY record_offset) FROM ingest.dead_letters",
        )
    });
}
