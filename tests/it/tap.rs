//! `tap`: records with the outcome of each, without a group and without lasting effects (contract, section 8).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Finished, run_command};
use crate::support::kafka::{Send, Transaction};
use crate::support::left_out::real_kafka;
use crate::support::processes::Signal;
use crate::support::scene::Scene;
use crate::support::wait::{eventually, eventually_eq};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// 2026-01-15T10:00:00Z in milliseconds.
const TEN: i64 = 1_768_471_200_000;

const PHONE: &str = "+12025550143";

fn call(id: u64, more: Value) -> String {
    let mut call = json!({ "call_id": format!("c{id}"), "status": "initiated", "caller_id": PHONE });
    call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call.to_string()
}

/// Five calls, a second apart; the second one has a wrong status, and the fourth is no JSON.
fn five_calls(scene: &Scene) {
    let values = [
        call(0, json!({"transcript": "My name is Jane"})),
        call(1, json!({"status": "done"})),
        call(2, json!({})),
        "{".to_owned(),
        call(4, json!({"status": "completed"})),
    ];
    let topic = scene.topic("call.lifecycle");
    scene.kafka.send_all((0..).zip(values).map(|(nth, value)| {
        Send::to(&topic).partition(0).timestamp(TEN + nth * 1000).key(PHONE).value(value)
    }));
}

/// The variables without a database.
fn without_database(scene: &Scene) -> Vec<(&str, &str)> {
    scene.variables(&[]).into_iter().filter(|(name, _)| *name != "DATABASE_URL").collect()
}

fn tap(variables: &[(&str, &str)], words: &[&str]) -> Finished {
    let words: Vec<&str> = std::iter::once("tap").chain(words.iter().copied()).collect();
    let finished = run_command(&words, variables, MINUTES);
    assert_eq!(finished.code, 0, "{finished:?}");
    let text = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!text.contains(PHONE) && !text.contains("Jane"), "{text}");
    finished
}

fn objects(finished: &Finished) -> Vec<Value> {
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn offsets(finished: &Finished) -> Vec<i64> {
    objects(finished).iter().map(|object| object["offset"].as_i64().unwrap()).collect()
}

/// The outcome of the record of `call.lifecycle` partition 0 at this offset.
fn one(variables: &[(&str, &str)], offset: &str, more: &[&str]) -> Value {
    let words =
        [&["--json", "--topic", "call.lifecycle", "--partition", "0", "--offset", offset], more].concat();
    objects(&tap(variables, &words)).pop().unwrap()
}

#[test]
fn records_are_shown_as_they_arrive_until_ctrl_c_without_a_database_and_without_a_group() {
    let scene = Scene::new(real_kafka!(), 2);
    five_calls(&scene);
    let mut shown = Daemon::start(&["tap"], &without_database(&scene));
    let wait_for = |shown: &Daemon, part: &str| {
        eventually(MINUTES, part, || {
            let lines = shown.logs();
            lines.iter().find(|line| line.contains(part)).cloned().ok_or(lines)
        })
    };
    wait_for(&shown, "from now on; Ctrl-C ends");
    scene.publish("clone.transfer", r#"{"greeting_call_id":"g","agent_call_id":"a"}"#);
    scene
        .kafka
        .send(Send::to(&scene.topic("call.lifecycle")).partition(1).key(PHONE).value(call(7, json!({}))));
    let unusable = wait_for(&shown, "clone.transfer/");
    assert!(unusable.contains("[missing_field: cloned_voice_id is missing]"), "{unusable}");
    let usable = wait_for(&shown, "call.lifecycle/1@0 [usable]");
    assert!(usable.contains(r#""call_id":"c7""#) && usable.contains("+1********43"), "{usable}");
    shown.signal(Signal::Int);
    assert_eq!(shown.wait_exit(MINUTES), 0);
    let lines = shown.logs().join("\n");
    assert!(!lines.contains("\"c0\"") && !lines.contains(PHONE), "only what arrived, masked: {lines}");
    let committed = scene.kafka.group_offsets(&scene.group, &scene.topic("call.lifecycle"));
    assert!(committed.is_empty(), "{committed:?}");
}

#[test]
fn a_range_is_filtered_by_what_is_not_masked() {
    let scene = Scene::new(real_kafka!(), 1);
    five_calls(&scene);
    let variables = without_database(&scene);
    let calls =
        |more: &[&str]| offsets(&tap(&variables, &[&["--json", "--topic", "call.lifecycle"], more].concat()));
    let end = ["--to", "2030-01-01T00:00:00Z"];
    assert_eq!(calls(&end), [0, 1, 2, 3, 4], "until what is there now");
    assert_eq!(calls(&["--from", "1", "--to", "3"]), [1, 2]);
    assert_eq!(calls(&["--from", "2026-01-15T10:00:02Z", "--to", "2026-01-15T10:00:04Z"]), [2, 3]);
    assert_eq!(calls(&["--from", "1", "--limit", "2"]), [1, 2], "ends without --to");
    assert_eq!(calls(&["--unusable", end[0], end[1]]), [1, 3]);
    assert_eq!(calls(&["--usable", end[0], end[1]]), [0, 2, 4]);
    assert_eq!(calls(&["--reason", "invalid_json", end[0], end[1]]), [3]);
    assert_eq!(calls(&["--type", "call.lifecycle", "--limit", "1", "--from", "2"]), [2]);
    assert_eq!(calls(&["--type", "clone.ready", end[0], end[1]]), [0_i64; 0]);

    scene.publish("clone.ready", "[]");
    let all = objects(&tap(&variables, &["--json", end[0], end[1], "--unusable"]));
    assert_eq!(all.len(), 3, "all topics: {all:?}");
    let wrong = all.iter().find(|object| object["offset"] == 1).unwrap();
    assert_eq!(wrong["topic"], scene.topic("call.lifecycle"));
    assert_eq!(
        (&wrong["outcome"], &wrong["reason"], &wrong["fault"]["field"], &wrong["timestamp"]),
        (&json!("unusable"), &json!("invalid_value"), &json!("status"), &json!("2026-01-15T10:00:01.000Z")),
        "{wrong}"
    );
}

#[test]
fn effects_are_reported_and_rolled_back() {
    let scene = Scene::new(real_kafka!(), 1);
    five_calls(&scene);
    let variables = scene.variables(&[]);
    assert_eq!(run_command(&["migrate", "up"], &variables, MINUTES).code, 0);
    let words = ["--topic", "call.lifecycle", "--from", "0", "--limit", "2", "--effects"];
    let told = tap(&variables, &words).stdout;
    assert!(told.contains("@0 [usable]") && told.contains("\n    rows: call_log 1 made"), "{told}");
    let counted = "SELECT (SELECT count(*) FROM call_log) + (SELECT count(*) FROM ingest.dead_letters)
                        + (SELECT count(*) FROM ingest.consumer_offsets)";
    assert_eq!(scene.database.value(counted), "0", "nothing stays");

    scene.database.run("ALTER TABLE call_log ADD CONSTRAINT no_c2 CHECK (call_id <> 'c2')");
    let refused = one(&variables, "2", &["--effects"]);
    assert_eq!(refused["record"]["reason"], "rejected_by_database", "{refused}");
    assert_eq!(one(&variables, "4", &["--effects"])["record"]["rows"]["call_log"]["made"], 1);
}

#[test]
fn the_outcome_of_one_record_is_reported_by_its_offset() {
    let scene = Scene::new(real_kafka!(), 1);
    let topic = scene.topic("call.lifecycle");
    five_calls(&scene);
    let variables = scene.variables(&[]);
    let unread = one(&without_database(&scene), "1", &[]);
    assert_eq!((&unread["consumed"], &unread["dead_letters"]), (&Value::Null, &Value::Null), "{unread}");
    assert_eq!(unread["unknown_because"], "DATABASE_URL is not set");
    assert_eq!(unread["record"]["reason"], "invalid_value", "this is known without a database");

    let mut daemon = scene.daemon(&[]);
    scene.wait_until_consumed(MINUTES);
    daemon.signal(Signal::Term);
    daemon.wait_exit(MINUTES);
    scene.kafka.send_in_transaction(Transaction::Commit, [Send::to(&topic).value(call(5, json!({})))]);

    // The marker is written a moment after the commit is acknowledged.
    eventually_eq(MINUTES, "the log's end", 7, || scene.kafka.partition_watermarks(&topic, 0).1);

    let usable = one(&variables, "0", &[]);
    assert_eq!((&usable["consumed"], &usable["found"]), (&json!(true), &json!(true)), "{usable}");
    assert_eq!((&usable["record"]["outcome"], &usable["dead_letters"]), (&json!("usable"), &json!([])));
    let dead = one(&variables, "1", &[]);
    assert_eq!(dead["consumed"], true);
    let letter = &dead["dead_letters"][0];
    let id = scene.database.value("SELECT id FROM ingest.dead_letters WHERE record_offset = 1");
    assert_eq!((letter["id"].to_string(), &letter["resolved_at"]), (id.clone(), &Value::Null), "{dead}");
    let waits = one(&variables, "5", &[]);
    assert_eq!((&waits["consumed"], &waits["next_offset"]), (&json!(false), &json!(5)), "{waits}");
    let marker = one(&variables, "6", &[]);
    assert!(marker["absent"].as_str().unwrap().contains("marker"), "{marker}");
    let not_yet = one(&variables, "7", &[]);
    assert!(not_yet["absent"].as_str().unwrap().contains("ends at offset 7"), "{not_yet}");
    assert_eq!((&not_yet["found"], &not_yet["record"]), (&json!(false), &Value::Null));

    let words = ["--topic", "call.lifecycle", "--partition", "0", "--offset", "1"];
    let person = tap(&variables, &words).stdout;
    for part in [
        "consumed   yes: group",
        "outcome    invalid_value: status is none of",
        &format!("letter     {id}, unresolved: invalid_value: `dead-letters show {id}`"),
        ">   \"status\":",
    ] {
        assert!(person.contains(part), "{part}: {person}");
    }

    scene.kafka.delete_records(&topic, 0, 2);
    let removed = one(&variables, "1", &[]);
    assert!(removed["absent"].as_str().unwrap().contains("begins at offset 2"), "{removed}");
    assert_eq!(removed["dead_letters"][0]["id"].to_string(), id, "the database still has it");
    let skip = ["skip", "--topic", "call.lifecycle", "--partition", "0", "--to", "6", "--note", "load test"];
    assert_eq!(run_command(&skip, &variables, MINUTES).code, 0);
    let skipped = one(&variables, "5", &[]);
    assert_eq!((&skipped["consumed"], &skipped["skipped"]["note"]), (&json!(false), &json!("load test")));
}

#[test]
fn a_wrong_request_says_what_to_do() {
    let nowhere = [("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")];
    for (words, code, said) in [
        (&["--effects"][..], 2, "DATABASE_URL is not set"),
        (&["--offset", "3"], 2, "--topic"),
        (&["--partition", "3"], 2, "--topic"),
        (&["--from", "yesterday"], 2, "--from is \"yesterday\""),
        (&["--from", "5", "--to", "5"], 2, "--from is not before --to"),
        (&["--usable", "--unusable"], 2, "keep one"),
        (&["--topic", "clone.ready"], 1, "127.0.0.1:1: the connection is refused"),
    ] {
        let words: Vec<&str> = std::iter::once("tap").chain(words.iter().copied()).collect();
        let refused = run_command(&words, &nowhere, MINUTES);
        assert_eq!(refused.code, code, "{words:?}: {refused:?}");
        assert!(refused.stderr.contains(said), "{words:?}: {refused:?}");
    }
    let scene = Scene::new(real_kafka!(), 1);
    let words = ["tap", "--topic", "call.lifecycle", "--partition", "7", "--from", "0"];
    let refused = run_command(&words, &scene.variables(&[]), MINUTES);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("has no partition 7"), "{refused:?}");
}
