//! The schema and the daemon refuse everything that the contract forbids, the daemon with the reason.

use serde_json::{Value, json};
use voiceclone_events::event::Reason;
use voiceclone_events::record::Topic;

use super::{decoded, full_example, properties, required, schema, validator};

const DAY_30_FEBRUARY: &str = "2026-02-30T10:00:00Z";

/// Forbidden values of a field, with the reason. `None` removes the field.
fn mutations(field: &Value, is_required: bool) -> Vec<(Option<Value>, Reason)> {
    let mut all = Vec::new();
    let mut refuse = |value: Value, reason| all.push((Some(value), reason));
    if field["enum"].is_array() {
        refuse(json!("done"), Reason::InvalidValue);
        refuse(json!("Completed"), Reason::InvalidValue);
        refuse(json!(1), Reason::InvalidType);
    } else if field["format"] == "date-time" {
        for text in ["soon", "2026-01-15", DAY_30_FEBRUARY, "2025-02-29T10:00:00Z", "2026-01-15T24:00:00Z"] {
            refuse(json!(text), Reason::InvalidValue);
        }
        for text in
            ["1969-12-31T23:59:59Z", "2026-01-15T10:00:12+0100", "1768471212", "2026-01-15T10:00:12ZZ"]
        {
            refuse(json!(text), Reason::InvalidValue);
        }
        refuse(json!(-1), Reason::InvalidValue);
        refuse(json!(true), Reason::InvalidType);
        refuse(json!({}), Reason::InvalidType);
        refuse(json!([]), Reason::InvalidType);
    } else {
        match field["type"].as_str().unwrap() {
            "integer" => {
                for number in [json!(-1), json!(1.5), json!(2_147_483_648_i64), json!(1e300)] {
                    refuse(number, Reason::InvalidValue);
                }
                for other in [json!("5"), json!(true), json!([5]), json!({})] {
                    refuse(other, Reason::InvalidType);
                }
            }
            "boolean" => {
                for other in [json!("true"), json!(1), json!({})] {
                    refuse(other, Reason::InvalidType);
                }
            }
            "object" => {
                for other in [json!([]), json!("{}"), json!(1)] {
                    refuse(other, Reason::InvalidType);
                }
            }
            _ => {
                for other in [json!(5), json!(false), json!(["x"]), json!({})] {
                    refuse(other, Reason::InvalidType);
                }
                refuse(json!("a\0b"), Reason::NulCharacter);
                if let Some(max) = field["maxLength"].as_u64() {
                    refuse(json!("é".repeat(usize::try_from(max).unwrap() + 1)), Reason::TooLong);
                }
                if is_required && field["maxLength"] == 255 {
                    refuse(json!("a\u{1f}b"), Reason::InvalidValue);
                }
            }
        }
    }
    if is_required {
        refuse(json!(null), Reason::MissingField);
        for blank in ["", " ", "\u{85}", "\u{3000}\n"] {
            refuse(json!(blank), Reason::MissingField);
        }
        all.push((None, Reason::MissingField));
    }
    all
}

#[test]
fn what_the_contract_forbids_is_refused_by_schema_and_daemon_with_the_fields_name_and_its_reason() {
    let mut tried = 0;
    for topic in Topic::ALL {
        let schema = schema(topic.name());
        let validator = validator(&schema);
        for (name, field) in properties(&schema) {
            for (value, reason) in mutations(field, required(&schema).contains(&name.as_str())) {
                let mut event = full_example(&schema);
                match &value {
                    Some(value) => event[name] = value.clone(),
                    None => drop(event.as_object_mut().unwrap().remove(name)),
                }
                let tried_now = format!("{topic}.{name}: {value:?}");
                assert!(!validator.is_valid(&event), "the schema allows {tried_now}");
                let unusable = decoded(topic, event.to_string().as_bytes()).expect_err(&tried_now);
                assert_eq!(unusable.reason, reason, "{tried_now}: {}", unusable.message);
                assert!(unusable.message.contains(name), "{tried_now}: {}", unusable.message);
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried} mutations");
}

#[test]
fn a_value_that_is_no_object_is_refused_by_schema_and_daemon() {
    for topic in Topic::ALL {
        let validator = validator(&schema(topic.name()));
        for value in [json!([]), json!("text"), json!(5), json!(true), Value::Null] {
            assert!(!validator.is_valid(&value), "{topic}: {value}");
            let unusable = decoded(topic, value.to_string().as_bytes()).unwrap_err();
            assert_eq!(unusable.reason, Reason::NotAnObject, "{topic}: {value}");
        }
    }
}

#[test]
fn a_bare_event_with_a_specversion_is_refused_by_schema_and_daemon() {
    for topic in Topic::ALL {
        let schema = schema(topic.name());
        let mut event = full_example(&schema);
        event["specversion"] = json!("1.0");
        assert!(!validator(&schema).is_valid(&event), "{topic}");
        let unusable = decoded(topic, event.to_string().as_bytes()).unwrap_err();
        assert_eq!(unusable.reason, Reason::NotAnObject, "it is an envelope without data");
    }
}
