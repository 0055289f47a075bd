//! `dead-letters fix` (contract, section 8), and a `retry` of many letters that is killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use voiceclone_events::record::{Header, Record, Topic};
use voiceclone_events::store::migrate;

use crate::histories::{ingest, write};
use crate::support::daemon::{Daemon, Finished, run_command, run_command_with_input};
use crate::support::kafka::{self, Send};
use crate::support::left_out::real_kafka;
use crate::support::postgres::Database;
use crate::support::processes::Signal;
use crate::support::scene::Scene;
use crate::support::wait::{eventually, eventually_eq};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

const PHONE: &str = "+12025550143";

/// 2026-01-15T10:00:00Z in milliseconds.
const TEN: i64 = 1_768_471_200_000;

fn fix(scene: &Scene, words: &[&str]) -> Finished {
    let words: Vec<&str> = ["dead-letters", "fix"].iter().chain(words).copied().collect();
    run_command(&words, &scene.variables(&[]), MINUTES)
}

fn object(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// Topic without prefix, and how it was resolved, of each letter by place.
fn states(database: &Database) -> Vec<String> {
    let sql = "SELECT COALESCE(resolution, 'open') FROM ingest.dead_letters ORDER BY topic, partition, record_offset";
    database.rows(sql).into_iter().flatten().flatten().collect()
}

/// The id of the letter of this offset, once there is one.
fn letter(scene: &Scene, offset: i64) -> String {
    let sql = format!("SELECT COALESCE(max(id), 0) FROM ingest.dead_letters WHERE record_offset = {offset}");
    eventually(MINUTES, "the dead letter", || {
        let there = scene.database.value("SELECT COALESCE(to_regclass('ingest.dead_letters')::text, '')");
        match there.as_str() {
            "" => Err("not migrated".to_owned()),
            _ => Ok(scene.database.value(&sql)).and_then(|id| if id == "0" { Err(id) } else { Ok(id) }),
        }
    })
}

/// A stage with a letter for each value of `call.lifecycle`, at offsets that the topic holds; no daemon runs.
async fn stage_with_letters(kafka: &kafka::Kafka, values: &[Value]) -> Scene {
    let scene = Scene::new(kafka, 1);
    migrate::up(scene.database.url(), None).await.unwrap();
    let mut live = ingest(&scene.database);
    live.topic_prefix.clone_from(&scene.prefix);
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    let topic = scene.topic("call.lifecycle");
    scene.kafka.send_all(values.iter().map(|value| Send::to(&topic).timestamp(TEN).value(value.as_str())));
    let record = |(offset, value): (i64, &String)| Record {
        topic: Topic::CallLifecycle,
        partition: 0,
        offset,
        timestamp: TEN,
        key: None,
        value: Some(value.clone().into_bytes()),
        headers: vec![Header::new("ce_id", "event-7")],
    };
    let records: Vec<Record> = (0..).zip(&values).map(record).collect();
    write(&live, &records).await;
    assert_eq!(scene.database.value("SELECT count(*) FROM ingest.dead_letters"), values.len().to_string());
    scene
}

fn sent(scene: &Scene) -> Vec<kafka::Record> {
    scene.kafka.read_all(&scene.topic("call.lifecycle"))
}

#[test]
fn a_fix_publishes_the_corrected_record_to_its_own_partition_once_and_survives_an_emptied_database() {
    let mut scene = Scene::new(real_kafka!(), 3);
    let topic = scene.topic("call.lifecycle");
    let envelope = json!({
        "specversion": "1.0", "id": "e7", "source": "/calls", "type": "call.lifecycle",
        "data": {"call_id": "c1", "status": "done", "caller_id": PHONE, "transcript": "Hello."},
    });
    scene.kafka.send_all([
        Send::to(&topic).partition(2).timestamp(TEN).value(r#"{"call_id":"c1","status":"initiated"}"#),
        Send::to(&topic)
            .partition(2)
            .timestamp(TEN + 90_000)
            .key(PHONE)
            .header("x-team", "a")
            .null_header("x-null")
            .header("__connect.errors.topic", "call.lifecycle")
            .value(envelope.to_string()),
    ]);
    let mut daemon = scene.daemon(&[]);
    let id = letter(&scene, 1);
    assert_eq!(scene.database.value("SELECT duration_seconds IS NULL FROM call_log"), "t");

    let fixed = fix(&scene, &[&id, "--set", "status=\"completed\"", "--json"]);
    assert_eq!(fixed.code, 0, "{fixed:?}");
    let told = object(&fixed);
    assert_eq!((&told["outcome"], &told["offset"]), (&json!("fixed"), &json!(2)), "{told}");
    let corrected = scene.kafka.read_all(&topic).pop().unwrap();
    assert_eq!((corrected.partition, corrected.offset, corrected.timestamp), (2, 2, Some(TEN + 90_000)));
    assert_eq!(corrected.key.as_deref(), Some(PHONE.as_bytes()));
    assert_eq!(corrected.headers, [("x-team".to_owned(), Some(b"a".to_vec())), ("x-null".to_owned(), None)]);
    let mut expected = envelope;
    expected["data"]["status"] = json!("completed");
    let value: Value = serde_json::from_slice(corrected.value.as_deref().unwrap()).unwrap();
    assert_eq!(value, expected, "the rest of the envelope is as it was");
    assert_eq!(states(&scene.database), ["fixed"]);
    scene.assert_as_the_model_says(MINUTES);
    assert_eq!(scene.database.value("SELECT status FROM call_log"), "completed");

    let again = fix(&scene, &[&id, "--set", "status=\"completed\""]);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stdout.contains(&format!("already fixed by the record {topic}/2@2")), "{again:?}");
    assert_eq!(scene.kafka.read_all(&topic).len(), 3, "nothing more was sent");
    let shown = run_command(&["dead-letters", "show", &id], &scene.variables(&[]), MINUTES);
    assert!(shown.stdout.contains(&format!("fixed by the record {topic}/2@2")), "{shown:?}");

    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(MINUTES), 0);
    scene.database = Database::new();
    let _daemon = scene.daemon(&[]);
    scene.assert_as_the_model_says(MINUTES);
    assert_eq!(scene.database.value("SELECT duration_seconds FROM call_log"), "90");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_who_fix_the_same_letter_at_once_publish_one_record() {
    let scene = stage_with_letters(real_kafka!(), &[json!({"call_id": "c"})]).await;
    let id = letter(&scene, 0);
    let words = [&id, "--set", "status=\"failed\"", "--json"];
    let both = std::thread::scope(|scope| {
        let other = scope.spawn(|| fix(&scene, &words));
        [fix(&scene, &words), other.join().unwrap()]
    });
    let mut outcomes = both.each_ref().map(|finished| object(finished)["outcome"].clone().to_string());
    outcomes.sort();
    assert_eq!(outcomes, ["\"fixed\"", "\"fixed_before\""], "{both:?}");
    assert_eq!(both.map(|finished| finished.code), [0, 0]);
    assert_eq!(sent(&scene).len(), 2, "the faulty record and the corrected one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_record_that_cannot_be_used_is_not_sent_and_a_dry_run_sends_nothing() {
    let values = [json!({"call_id": "c"}), json!([1]), json!({"call_id": "d"})];
    let scene = stage_with_letters(real_kafka!(), &values).await;
    let (id, list) = (letter(&scene, 0), letter(&scene, 1));
    for (words, code, said) in [
        (&[id.as_str(), "--set", "status=\"done\""][..], 1, "invalid_value: status is none of"),
        (&[&id, "--key", "k"], 1, "missing_field: status is missing"),
        (&[&id, "--drop-header", "x"], 1, "the record has no header x"),
        (&[&list, "--set", "status=\"failed\""], 1, "give the whole value with --value"),
        (&["987654", "--key", "k"], 1, "there is no dead letter 987654"),
        (&[&id], 2, "nothing is to be changed"),
        (&[&id, "--set", "status=failed"], 2, "write a text in quotes"),
        (&[&id, "--timestamp", "yesterday"], 2, "give a time such as"),
        (&[&id, "--value", "/nowhere.json"], 1, "/nowhere.json cannot be read"),
    ] {
        let refused = fix(&scene, words);
        assert_eq!(refused.code, code, "{words:?}: {refused:?}");
        assert!(format!("{}{}", refused.stdout, refused.stderr).contains(said), "{words:?}: {refused:?}");
    }
    let words = [&id, "--set", "status=\"failed\"", "--set", "caller_id=\"+12025550143\"", "--dry-run"];
    let dry = fix(&scene, &words);
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(dry.stdout.contains("rows: call_log 1 made"), "{dry:?}");
    assert!(dry.stdout.contains("+1********43") && !dry.stdout.contains(PHONE), "{dry:?}");
    let dry = object(&fix(&scene, &[&words[..], &["--json"]].concat()));
    assert_eq!((&dry["outcome"], &dry["rows"]["call_log"]["made"]), (&json!("would_be_fixed"), &json!(1)));

    scene.database.run("ALTER TABLE call_log ADD CONSTRAINT no_d CHECK (call_id <> 'd')");
    let refused = fix(&scene, &[&letter(&scene, 2), "--set", "status=\"failed\""]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stdout.contains("rejected_by_database"), "as the daemon would: {refused:?}");

    assert_eq!(sent(&scene).len(), 3, "nothing was sent");
    assert_eq!(states(&scene.database), ["open", "open", "open"]);
    assert_eq!(scene.database.value("SELECT count(*) FROM call_log"), "0");

    let discard = ["dead-letters", "discard", &id, "--note", "known"];
    assert_eq!(run_command(&discard, &scene.variables(&[]), MINUTES).code, 0);
    let resolved = fix(&scene, &[&id, "--set", "status=\"failed\""]);
    assert_eq!(resolved.code, 1, "{resolved:?}");
    assert!(resolved.stderr.contains("resolved already (discarded at"), "{resolved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_value_comes_from_a_file_or_from_standard_input() {
    let scene = stage_with_letters(real_kafka!(), &[json!("no object"), json!(7)]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value.json");
    let value = br#"{"call_id":"c","status":"failed","duration_seconds":1.0}"#;
    std::fs::write(&file, value).unwrap();
    let fixed = fix(
        &scene,
        &[
            &letter(&scene, 0),
            "--value",
            file.to_str().unwrap(),
            "--key",
            "c",
            "--header",
            "ce_id=event-8",
            "--timestamp",
            "2026-01-15T11:00:00Z",
        ],
    );
    assert_eq!(fixed.code, 0, "{fixed:?}");
    let piped = run_command_with_input(
        &["dead-letters", "fix", &letter(&scene, 1), "--value", "-", "--set", "call_id=\"d\""],
        &scene.variables(&[]),
        value,
        MINUTES,
    );
    assert_eq!(piped.code, 0, "{piped:?}");
    let sent = sent(&scene);
    assert_eq!(sent[2].value.as_deref(), Some(value.as_slice()), "byte by byte");
    assert_eq!((sent[2].key.as_deref(), sent[2].timestamp), (Some(b"c".as_slice()), Some(TEN + 3_600_000)));
    assert_eq!(sent[2].headers, [("ce_id".to_owned(), Some(b"event-8".to_vec()))]);
    let expected = br#"{"call_id":"d","status":"failed","duration_seconds":1.0}"#;
    assert_eq!(sent[3].value.as_deref(), Some(expected.as_slice()));
    assert_eq!(states(&scene.database), ["fixed", "fixed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fix_is_refused_where_the_topic_would_change_the_events_time() {
    let kafka = real_kafka!();
    for (setting, value) in
        [("message.timestamp.type", "LogAppendTime"), ("message.timestamp.before.max.ms", "3600000")]
    {
        let scene = stage_with_letters(kafka, &[json!({"call_id": "c"})]).await;
        scene.kafka.set_topic_settings(&scene.topic("call.lifecycle"), &[(setting, value)]);
        let id = letter(&scene, 0);
        let words = [&id, "--set", "status=\"failed\""];
        let refused = fix(&scene, &words);
        assert_eq!(refused.code, 1, "{setting}: {refused:?}");
        assert!(refused.stderr.contains(setting) && refused.stderr.contains("--set"), "{refused:?}");
        assert_eq!((sent(&scene).len(), states(&scene.database)), (1, vec!["open".to_owned()]));

        let stated = fix(&scene, &[&words[..], &["--set", "occurred_at=\"2026-01-15T10:00:00Z\""]].concat());
        assert_eq!(stated.code, 0, "{setting}: {stated:?}");
        let corrected = sent(&scene).pop().unwrap();
        assert!(corrected.timestamp.unwrap() > TEN + 3_600_000, "the time of sending: {corrected:?}");
        assert_eq!(states(&scene.database), ["fixed"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_ten_thousand_letters_that_is_killed_half_way_goes_on() {
    let database = Database::new();
    migrate::up(database.url(), None).await.unwrap();
    // As a constraint had refused them, which is dropped by now.
    database.run(
        r#"INSERT INTO ingest.dead_letters
               (topic, partition, record_offset, record_timestamp, value, headers, reason, message)
           SELECT 'clone.transfer', n % 3, n, timestamp '2026-01-15 10:00' + n * interval '1 second',
                  convert_to('{"greeting_call_id":"g' || n || '","agent_call_id":"a","cloned_voice_id":"v"}', 'UTF8'),
                  '{}', 'rejected_by_database', 'a constraint'
           FROM generate_series(1, 10000) AS n"#,
    );
    let resolved =
        || database.value("SELECT count(resolved_at) FROM ingest.dead_letters").parse::<u64>().unwrap();
    let variables = [("DATABASE_URL", database.url())];
    let mut killed =
        Daemon::start(&["dead-letters", "retry", "--all", "--yes", "--rate", "2000"], &variables);
    eventually(MINUTES, "some letters to be resolved", || match resolved() {
        0 => Err(0),
        some => Ok(some),
    });
    killed.signal(Signal::Kill);
    killed.wait_exit(MINUTES);
    assert!(resolved() < 10_000, "it was killed half-way");

    let words = ["dead-letters", "retry", "--all", "--yes", "--json"];
    let retried = run_command(&words, &variables, MINUTES);
    assert_eq!(retried.code, 0, "{}", retried.stderr);
    let told = object(&retried);
    assert_eq!((&told["failed"], &told["resolved"]), (&json!(0), &told["selected"]));
    eventually_eq(MINUTES, "all letters to be resolved", 10_000, resolved);
    assert_eq!(database.value("SELECT count(*) FROM clone_transfer_events"), "10000");
    let counted = "SELECT transfers FROM ingest.voices WHERE cloned_voice_id = 'v'";
    assert_eq!(database.value(counted), "10000", "each once");
}
