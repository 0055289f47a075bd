//! Where schema and daemon differ: `docs/events.md` lists it, and each row of its tables is tried.

use serde_json::{Map, Value, json};
use voiceclone_events::record::Topic;

use super::docs::{EVENTS, rows_after};
use super::{decoded, full_example, schema, validator};

#[test]
fn each_thing_that_the_documentation_says_the_daemon_takes_beyond_a_schema_is_refused_by_the_schema_and_taken()
 {
    let rows = rows_after(EVENTS, "The daemon takes more than the schemas allow");
    assert!(rows.len() >= 12, "{rows:?}");
    for row in rows {
        let [what, topic, members] = row.as_slice() else { panic!("{row:?}") };
        let topic = Topic::from_name(topic.trim_matches('`')).unwrap();
        let schema = schema(topic.name());
        let members: Map<String, Value> =
            serde_json::from_str(&format!("{{{}}}", members.trim_matches('`'))).unwrap();
        let mut event = full_example(&schema);
        event.as_object_mut().unwrap().extend(members);
        assert!(!validator(&schema).is_valid(&event), "the schema allows it: {what}: {event}");
        decoded(topic, event.to_string().as_bytes()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    }
}

/// A value that the schema of `call.lifecycle` allows once it is read, with what it is an example of.
fn beyond_a_schema() -> Vec<(&'static str, Vec<u8>)> {
    let with = |members: &str| format!(r#"{{"call_id":"c","status":"failed",{members}}}"#).into_bytes();
    let nested = format!("{}{}", r#"{"a":"#.repeat(100), "1") + &"}".repeat(100);
    let many = json!({ "a": vec![0; 65_536] });
    let mut marked = b"\xef\xbb\xbf".to_vec();
    marked.extend(with(r#""x":1"#));
    let long = json!({"call_id": "c", "status": "failed", "transcript": "x".repeat(8 << 20)});
    vec![
        ("a name given twice", with(r#""status":"failed""#)),
        ("half of a surrogate pair", with(r#""transcript":"\ud800""#)),
        ("a byte order mark", marked),
        ("more than 100 levels", with(&format!(r#""metadata":{{"a":{nested}}}"#))),
        ("more than 65,536 values", with(&format!(r#""metadata":{many}"#))),
        ("U+0000 in a text", with(r#""metadata":{"a":"\u0000"}"#)),
        ("a number beyond a double", with(r#""metadata":{"a":1e400}"#)),
        ("more than `RECORD_MAX_BYTES`", long.to_string().into_bytes()),
    ]
}

#[test]
fn each_thing_that_the_documentation_says_no_schema_can_say_is_refused_by_the_daemon_with_its_reason() {
    let rows = rows_after(EVENTS, "A schema cannot say everything");
    let examples = beyond_a_schema();
    assert_eq!(rows.len(), examples.len(), "{rows:?}");
    let allows = validator(&schema("call.lifecycle"));
    for (row, (what, value)) in rows.iter().zip(examples) {
        let [said, reason] = row.as_slice() else { panic!("{row:?}") };
        assert!(said.contains(what), "{said}: {what}");
        let unusable = decoded(Topic::CallLifecycle, &value).unwrap_err();
        assert_eq!(unusable.reason.name(), reason.trim_matches('`'), "{what}");
        if let Ok(event) = serde_json::from_slice::<Value>(&value) {
            assert!(allows.is_valid(&event), "the schema can say it: {what}");
        }
    }
}
