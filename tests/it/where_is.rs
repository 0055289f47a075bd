//! `where-is`: every place that holds a caller, counted without showing anything personal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use voiceclone_events::record::{Header, Record, Topic};
use voiceclone_events::store::expiry::ExpiryCursor;
use voiceclone_events::store::migrate;

use crate::histories::{ingest, write};
use crate::partitions::Lock;
use crate::support::block_on;
use crate::support::daemon::{Finished, run_command_with_input};
use crate::support::postgres::Database;

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

const ADA: &str = "+12025550143";
const BOB: &str = "+12025550187";

fn record(topic: Topic, offset: i64, value: &Value) -> Record {
    Record {
        topic,
        partition: 0,
        offset,
        timestamp: 1_768_471_200_000 + offset,
        key: None,
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
    }
}

/// The records of a caller's call, clone, transfer and mapping: a voice that reused one would have no `clone.ready`.
fn story(caller: &str, name: &str, first: i64) -> Vec<Record> {
    let (greeting, agent, voice) =
        (format!("greet-{name}"), format!("agent-{name}"), format!("voice-{name}"));
    let events = [
        (Topic::CallLifecycle, json!({"call_id": greeting, "status": "initiated", "caller_id": caller})),
        (
            Topic::CloneReady,
            json!({"caller_id": caller, "greeting_call_id": greeting, "cloned_voice_id": voice, "ttl_seconds": 1}),
        ),
        (
            Topic::CloneFailed,
            json!({"caller_id": caller, "greeting_call_id": greeting, "error_message": "too short"}),
        ),
        (
            Topic::CloneTransfer,
            json!({"greeting_call_id": greeting, "agent_call_id": agent, "cloned_voice_id": voice}),
        ),
        // the agent's call names no caller
        (Topic::CallLifecycle, json!({"call_id": agent, "status": "completed"})),
        (Topic::CallerVoiceMapping, json!({"caller_id": caller, "voice_sample_url": "s3://samples/1.wav"})),
    ];
    (first..).zip(events).map(|(offset, (topic, value))| record(topic, offset, &value)).collect()
}

/// Ada's and Bob's stories, letters of Ada's, and texts that name her.
async fn stage() -> Database {
    let database = Database::new();
    migrate::up(database.url(), None).await.unwrap();
    let mut records = story(ADA, "ada", 10);
    records.extend(story(BOB, "bob", 20));
    let spoken =
        json!({"call_id": "call-9", "status": "completed", "transcript": "My number is 12025550143."});
    records.push(record(Topic::CallLifecycle, 30, &spoken));
    let mut in_key = record(Topic::CallLifecycle, 31, &json!({"call_id": "x"}));
    in_key.key = Some(ADA.into());
    let mut in_header = record(Topic::CallLifecycle, 32, &json!({"call_id": "y"}));
    in_header.headers = vec![Header::new("ce_source", format!("/callers/{ADA}"))];
    let in_value = record(Topic::CallLifecycle, 33, &json!({"call_id": "z", "caller_id": ADA}));
    let by_call = record(Topic::CallLifecycle, 34, &json!({"call_id": "agent-ada", "status": "done"}));
    let nobody = record(Topic::CallLifecycle, 35, &json!({"call_id": "agent-ad", "status": "done"}));
    records.extend([in_key, in_header, in_value, by_call, nobody]);
    let ingest = ingest(&database);
    write(&ingest, &records).await;
    ingest.store.expire(&mut ExpiryCursor::default(), 10, None).await.unwrap();
    database.run(
        "INSERT INTO ingest.skips (group_id, topic, partition, from_offset, to_offset, note)
         VALUES ('g', 'clone.ready', 0, 1, 2, 'the record of +12025550143 was too large')",
    );
    database
}

fn where_is(database: &Database, words: &[&str], input: &str) -> Finished {
    let words: Vec<&str> = std::iter::once("where-is").chain(words.iter().copied()).collect();
    let finished =
        run_command_with_input(&words, &[("DATABASE_URL", database.url())], input.as_bytes(), MINUTES);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    for personal in ["2025550143", "2025550187", "ada", "s3://"] {
        assert!(!said.contains(personal), "{personal} in {said}");
    }
    finished
}

/// Place, and rows by caller, by call or voice, by text.
fn places(finished: &Finished) -> Vec<(String, i64, i64, i64)> {
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let count = |place: &Value, name: &str| place[name].as_i64().unwrap();
    let place = |place: &Value| {
        (
            place["place"].as_str().unwrap().to_owned(),
            count(place, "by_caller"),
            count(place, "by_call_or_voice"),
            count(place, "by_text"),
        )
    };
    report["places"].as_array().unwrap().iter().map(place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_that_holds_a_caller_is_counted_with_what_leads_to_it() {
    let database = stage().await;
    let found = where_is(&database, &["--caller", ADA, "--json"], "");
    assert_eq!(found.code, 0, "{found:?}");
    let expected = [
        ("caller_voice_mapping", 1, 0, 0),
        ("voice_clone_cache", 1, 0, 0),
        // the greeting; the agent's call by its transfer; a transcript
        ("call_log", 1, 1, 1),
        ("voice_clone_log", 2, 0, 0),
        ("clone_ready_events", 1, 0, 0),
        ("clone_failed_events", 1, 0, 0),
        ("clone_transfer_events", 0, 1, 0),
        ("ingest.mappings", 1, 0, 0),
        ("ingest.calls", 0, 2, 0),
        ("ingest.voices", 0, 1, 0),
        ("ingest.outbox", 1, 0, 0),
        // the agent's call; key, header and value
        ("ingest.dead_letters", 0, 1, 3),
        ("ingest.skips", 0, 0, 1),
    ];
    assert_eq!(places(&found), expected.map(|(place, a, b, c)| (place.to_owned(), a, b, c)));
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    let total: i64 = expected.iter().map(|(_, a, b, c)| a + b + c).sum();
    assert_eq!(report["total"], total);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_may_be_given_on_standard_input_and_an_unknown_one_has_no_row() {
    let database = stage().await;
    let given = where_is(&database, &["--caller", "-", "--json"], &format!("{ADA}\n"));
    assert_eq!(places(&given), places(&where_is(&database, &["--caller", ADA, "--json"], "")));
    let nobody = where_is(&database, &["--caller", "-"], "+12025550100\r\n");
    assert_eq!(nobody.code, 0, "{nobody:?}");
    assert!(nobody.stdout.contains("Nothing here holds the caller."), "{nobody:?}");
    assert!(nobody.stdout.contains("Not looked at: Kafka's topics, backups, logs."), "{nobody:?}");
    // what it says shows how to write a number
    let words = ["where-is", "--caller", "-"];
    let empty = run_command_with_input(&words, &[("DATABASE_URL", database.url())], b"\n", MINUTES);
    assert_eq!(empty.code, 2, "{empty:?}");
    assert!(empty.stderr.contains("--caller is empty"), "{empty:?}");
}

#[test]
fn a_search_that_takes_too_long_is_ended_and_says_how_to_give_it_more_time() {
    let database = block_on(stage());
    let lock = Lock::of(&database, "call_log");
    let ended = where_is(&database, &["--caller", ADA, "--within", "1s"], "");
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("ended after 1 s") && ended.stderr.contains("--within 2h"), "{ended:?}");
    drop(lock);
    assert_eq!(where_is(&database, &["--caller", ADA, "--within", "10m"], "").code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voice_that_two_callers_share_does_not_count_the_calls_of_the_other() {
    let database = stage().await;
    database.run("UPDATE clone_transfer_events SET cloned_voice_id = 'voice-ada'");
    let found = where_is(&database, &["--caller", ADA, "--json"], "");
    let calls = places(&found).into_iter().find(|(place, ..)| place == "ingest.calls").unwrap();
    // Bob's greeting has his id in call_log. His agent's call has none: it counts as joined.
    assert_eq!(calls.2, 3, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_erasure_by_hand_that_the_documentation_shows_leaves_only_texts_letters_and_the_outbox() {
    let database = stage().await;
    let bob = places(&where_is(&database, &["--caller", BOB, "--json"], ""));
    let (_, rest) = include_str!("../../docs/privacy.md").split_once("```sql\n").unwrap();
    let sql = rest.split("```").next().unwrap().replace(":'caller'", &format!("'{ADA}'"));
    database.run(&sql);
    let left: Vec<_> = places(&where_is(&database, &["--caller", ADA, "--json"], ""))
        .into_iter()
        .filter(|(_, by_caller, by_call_or_voice, by_text)| by_caller + by_call_or_voice + by_text > 0)
        .collect();
    let expected = [
        ("call_log", 0, 0, 1),
        ("ingest.outbox", 1, 0, 0),
        // no id leads to the letter of the agent's call any more
        ("ingest.dead_letters", 0, 0, 3),
        ("ingest.skips", 0, 0, 1),
    ];
    assert_eq!(left, expected.map(|(place, a, b, c)| (place.to_owned(), a, b, c)));
    assert_eq!(
        places(&where_is(&database, &["--caller", BOB, "--json"], "")),
        bob,
        "the other caller is left alone"
    );
}
