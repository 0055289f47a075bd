//! `schema` and `publish --check`, which need neither a broker nor a database.

use serde_json::{Value, json};
use voiceclone_events::json_schemas::{SCHEMAS, asyncapi};

use super::schema;
use crate::support::daemon::{Finished, run_command, run_command_with_input};
use crate::support::wait::SOON;

#[test]
fn schema_prints_the_schema_of_a_topic_or_the_asyncapi_document_without_any_setting() {
    for (topic, _) in SCHEMAS {
        let printed = run_command(&["schema", topic], &[], SOON);
        assert_eq!(printed.code, 0, "{printed:?}");
        assert_eq!(serde_json::from_str::<Value>(&printed.stdout).unwrap(), schema(topic));
    }
    let document = run_command(&["schema"], &[], SOON);
    assert_eq!((document.code, document.stdout.trim_end()), (0, asyncapi().as_str()));
    let unknown = run_command(&["schema", "clone.reedy"], &[], SOON);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.stderr.contains("give one of clone.ready, clone.failed"), "{unknown:?}");
}

fn check(topic: &str, lines: &[&str], json: bool) -> Finished {
    let mut words = vec!["publish", "--topic", topic, "--check"];
    words.extend(json.then_some("--json"));
    run_command_with_input(&words, &[], lines.join("\n").as_bytes(), SOON)
}

const GOOD: &str = r#"{"call_id":"c","status":"failed","occurred_at":"2026-01-15T10:00:00Z"}"#;

#[test]
fn good_lines_pass_without_a_broker_or_a_database() {
    let envelope =
        r#"{"specversion":"1.0","type":"call.lifecycle","data":{"call_id":"c","status":"failed"}}"#;
    let checked = check("call.lifecycle", &[GOOD, "", envelope], false);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert_eq!(checked.stdout, "2 lines checked for call.lifecycle: 0 cannot be used, 0 warnings\n");
    assert_eq!(checked.stderr, "");
}

#[test]
fn each_line_that_would_be_a_dead_letter_is_named_with_field_and_reason() {
    let lines = [
        GOOD,
        r#"{"call_id":"c"}"#,
        "no json",
        r#"{"specversion":"1.0","type":"clone.ready","data":{"call_id":"c","status":"failed"}}"#,
        r#"{"call_id":"c","status":"failed","occurred_at":"yesterday"}"#,
    ];
    let checked = check("call.lifecycle", &lines, true);
    assert_eq!(checked.code, 1, "{checked:?}");
    let report: Value = serde_json::from_str(&checked.stdout).unwrap();
    let found: Vec<Value> = report["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refused| json!([refused["line"], refused["field"], refused["reason"]]))
        .collect();
    let expected = json!([
        [2, "status", "missing_field"],
        [3, null, "invalid_json"],
        [4, "type", "wrong_type_for_topic"],
        [5, "occurred_at", "invalid_value"],
    ]);
    assert_eq!(json!(found), expected);
    assert_eq!(
        (&report["lines"], &report["refused_count"], &report["warnings_count"]),
        (&json!(5), &json!(4), &json!(0))
    );

    let said = check("call.lifecycle", &lines, false);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("line 2: missing_field: status is missing\n"), "{said:?}");
    assert!(said.stdout.contains("line 5: invalid_value: occurred_at is not written as a time"), "{said:?}");
    assert!(said.stderr.contains("correct the errors above"), "{said:?}");
}

#[test]
fn a_likely_mistake_is_a_warning_which_does_not_change_the_exit_status() {
    let lines = [
        r#"{"caller_id":"+12025550143","greeting_call_id":"g","cloned_voice_id":"v","readyAt":1}"#,
        r#"{"caller_id":"+12025550143","greeting_call_id":"g","cloned_voice_id":"v","ready_at":"2199-01-01T00:00:00Z"}"#,
        r#"{"caller_id":"+12025550143","greeting_call_id":"g","cloned_voice_id":"v","ttl_seconds":86400000}"#,
        r#"{"caller_id":"(202) 555-0143","greeting_call_id":"g","cloned_voice_id":"v"}"#,
    ];
    let checked = check("clone.ready", &lines, true);
    assert_eq!(checked.code, 0, "{checked:?}");
    let report: Value = serde_json::from_str(&checked.stdout).unwrap();
    let warnings = report["warnings"].as_array().unwrap();
    let found: Vec<Value> =
        warnings.iter().map(|warning| json!([warning["line"], warning["field"]])).collect();
    assert_eq!(json!(found), json!([[1, "readyAt"], [2, "ready_at"], [3, "ttl_seconds"], [4, "caller_id"]]));
    assert!(!checked.stdout.contains("555-0143"), "no number is quoted: {checked:?}");
    let said = check("clone.ready", &lines, false);
    assert!(said.stdout.contains("line 1: warning: readyAt is not a field of clone.ready"), "{said:?}");
}

#[test]
fn a_topic_that_there_is_not_is_wrong_usage() {
    let checked = check("clone.reedy", &[GOOD], false);
    assert_eq!(checked.code, 2, "{checked:?}");
}
