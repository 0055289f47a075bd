//! The published schemas against the decoder, the documentation and the masking. They are the producers' contract:
//!
//! - [`allowed`]: the daemon accepts every event that a schema allows;
//! - [`refused`]: schema and daemon refuse what the contract forbids, with its reason;
//! - [`beyond`]: what the daemon accepts beyond a schema, and what a schema cannot say;
//! - [`docs`]: the examples and field tables of the documentation; [`asyncapi`]: the AsyncAPI document.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod allowed;
mod asyncapi;
mod beyond;
mod commands;
mod docs;
mod refused;

use jsonschema::Validator;
use serde_json::{Map, Value, json};
use voiceclone_events::event::{Limits, Unusable, decode};
use voiceclone_events::json_schemas::{SCHEMAS, of_topic};
use voiceclone_events::mask;
use voiceclone_events::record::{Header, Record, Topic};
use voiceclone_events::store::expiry::ExpiryCursor;
use voiceclone_events::store::migrate;

use crate::histories::{ingest, write};
use crate::support::postgres::Database;

/// 2026-01-15T10:00:00Z
const NOW: i64 = 1_768_471_200_000;

const LIMITS: Limits = Limits { record_max_bytes: 8 << 20, cache_ttl_seconds: 86_400 };

fn schema(topic: &str) -> Value {
    serde_json::from_str(of_topic(topic).unwrap()).unwrap()
}

/// `format` is not asserted: a validator may leave it out.
fn validator(schema: &Value) -> Validator {
    jsonschema::draft7::options().should_validate_formats(false).build(schema).unwrap()
}

fn record(topic: Topic, value: Vec<u8>, headers: Vec<Header>) -> Record {
    Record { topic, partition: 0, offset: 0, timestamp: NOW, key: None, value: Some(value), headers }
}

/// The daemon's verdict on a value.
fn decoded(topic: Topic, value: &[u8]) -> Result<(), Unusable> {
    decode(&record(topic, value.to_vec(), Vec::new()), LIMITS).map(|_| ())
}

fn properties(schema: &Value) -> &Map<String, Value> {
    schema["properties"].as_object().unwrap()
}

/// The fields that an event must have; a delete of a mapping needs fewer.
fn required(schema: &Value) -> Vec<&str> {
    let names = |list: &'static str, schema: &'_ Value| -> Vec<String> {
        let names = schema[list].as_array().cloned().unwrap_or_default();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let all = [names("required", schema), names("required", &schema["else"])].concat();
    properties(schema).keys().map(String::as_str).filter(|name| all.iter().any(|one| one == name)).collect()
}

/// The example with the most fields.
fn full_example(schema: &Value) -> Value {
    let examples = schema["examples"].as_array().unwrap();
    examples.iter().max_by_key(|example| example.as_object().unwrap().len()).unwrap().clone()
}

fn structured(topic: Topic, event: &Value) -> Value {
    json!({"specversion": "1.0", "id": "1", "source": "test", "type": topic.name(), "data": event})
}

#[test]
fn the_schemas_are_draft_7() {
    for (topic, _) in SCHEMAS {
        assert!(jsonschema::draft7::meta::is_valid(&schema(topic)), "{topic}");
    }
}

#[test]
fn a_schema_has_exactly_the_fields_that_the_daemon_reads_of_the_topic() {
    for topic in Topic::ALL {
        let schema = schema(topic.name());
        let mut published: Vec<&str> = properties(&schema).keys().map(String::as_str).collect();
        let mut read = voiceclone_events::event::field_names(topic).to_vec();
        published.sort_unstable();
        read.sort_unstable();
        assert_eq!(published, read, "{topic}");
    }
}

#[test]
fn every_field_is_described_and_has_examples_that_the_schema_allows() {
    for (topic, _) in SCHEMAS {
        let schema = schema(topic);
        for (name, field) in properties(&schema) {
            assert!(field["description"].as_str().is_some_and(|text| text.ends_with('.')), "{topic}.{name}");
            let examples = field["examples"].as_array().unwrap();
            assert!(!examples.is_empty(), "{topic}.{name}");
            for example in examples {
                assert!(validator(field).is_valid(example), "{topic}.{name}: {example}");
            }
        }
    }
}

#[test]
fn every_example_of_a_schema_is_allowed_by_it_and_taken_by_the_daemon_bare_and_in_each_mode_of_cloudevents() {
    for (name, _) in SCHEMAS {
        let schema = schema(name);
        let validator = validator(&schema);
        for example in schema["examples"].as_array().unwrap() {
            validator.validate(example).unwrap_or_else(|error| panic!("{name}: {error}: {example}"));
            let Some(topic) = Topic::from_name(name) else { continue };
            decoded(topic, example.to_string().as_bytes()).unwrap();
            decoded(topic, structured(topic, example).to_string().as_bytes()).unwrap();
            let headers = vec![
                Header::new("ce_specversion", "1.0"),
                Header::new("ce_type", name),
                Header::new("ce_time", "2026-01-15T10:00:00Z"),
                Header::new("content-type", "application/json"),
            ];
            decode(&record(topic, example.to_string().into_bytes(), headers), LIMITS).unwrap();
        }
    }
}

#[test]
fn what_a_schema_marks_as_personal_is_masked_and_everything_else_is_shown() {
    for topic in Topic::ALL {
        let schema = schema(topic.name());
        for (name, field) in properties(&schema) {
            for example in field["examples"].as_array().unwrap() {
                let shown = mask::event(&json!({ name: example }))[name].clone();
                let is_personal = field.get("x-personal-data").is_some();
                assert_eq!(shown != *example, is_personal, "{topic}.{name}: {example} is shown as {shown}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expired_events_that_are_published_are_allowed_by_their_schema() {
    let database = Database::new();
    migrate::up(database.url(), None).await.unwrap();
    let ingest = ingest(&database);
    let event = |caller: &str, ready_at: &str| {
        let event = json!({
            "caller_id": caller, "greeting_call_id": "g", "cloned_voice_id": "v", "ready_at": ready_at, "ttl_seconds": 1,
        });
        record(Topic::CloneReady, event.to_string().into_bytes(), Vec::new())
    };
    let records =
        [event("+12025550143", "2026-01-15T10:00:00Z"), event("a b", "2001-01-01T00:00:00.123456789Z")];
    write(&ingest, &records).await;
    // as another tool's table may have it
    database
        .run("ALTER TABLE voice_clone_cache ALTER caller_id DROP NOT NULL, ALTER last_used_at DROP NOT NULL");
    database
        .run("UPDATE voice_clone_cache SET caller_id = NULL, last_used_at = NULL WHERE caller_id = 'a b'");
    ingest.store.expire(&mut ExpiryCursor::default(), 10, None).await.unwrap();
    let events = ingest.store.claim_expired(10).await.unwrap().events;
    assert_eq!(events.len(), 2);
    for event in events {
        let value: Value = serde_json::from_slice(&event.value).unwrap();
        validator(&schema("clone.expired"))
            .validate(&value)
            .unwrap_or_else(|error| panic!("{error}: {value}"));
        let fields = value.as_object().unwrap();
        assert!(fields.keys().eq(properties(&schema("clone.expired")).keys()), "{value}");
    }
}
