//! The daemon accepts every event that a schema allows: events are generated at random from the bounds of the schemas.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::string::string_regex;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use voiceclone_events::record::Topic;

use super::{decoded, properties, required, schema, structured, validator};

/// Number of events for each of the five topics: 10^5 in all.
const EVENTS: u32 = 20_000;

#[test]
fn whatever_a_schema_allows_is_accepted_by_the_daemon() {
    for topic in Topic::ALL {
        let schema = schema(topic.name());
        let allows = validator(&schema);
        let config = Config {
            cases: EVENTS,
            max_local_rejects: EVENTS,
            failure_persistence: None,
            ..Config::default()
        };
        let check = |event: Value| {
            let error = allows.validate(&event).err().map(|error| error.to_string());
            prop_assert_eq!(error, None, "the schema refuses what was made for it");
            prop_assert_eq!(decoded(topic, event.to_string().as_bytes()), Ok(()));
            prop_assert_eq!(decoded(topic, structured(topic, &event).to_string().as_bytes()), Ok(()));
            Ok(())
        };
        if let Err(error) = TestRunner::new(config).run(&events(&schema), check) {
            panic!("{topic}: {error}");
        }
    }
}

/// Events that a schema allows, with some unknown fields.
fn events(schema: &Value) -> BoxedStrategy<Value> {
    let always: Vec<String> =
        schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let fields: Vec<BoxedStrategy<Option<(String, Value)>>> = properties(schema)
        .iter()
        .map(|(name, field)| {
            let name = name.clone();
            let values = values(field);
            let given = if always.contains(&name) {
                values.prop_map(Some).boxed()
            } else {
                prop::option::weighted(0.6, values).boxed()
            };
            given.prop_map(move |value| value.map(|value| (name.clone(), value))).boxed()
        })
        .collect();
    let known: Vec<String> = properties(schema).keys().cloned().chain(["specversion".to_owned()]).collect();
    let unknown = btree_map("[a-zA-Z_é]{1,12}", json_values(), 0..3);
    let conditional: Vec<String> = required(schema).into_iter().map(str::to_owned).collect();
    (fields, unknown)
        .prop_map(move |(fields, unknown)| {
            let mut event: Map<String, Value> =
                unknown.into_iter().filter(|(name, _)| !known.contains(name)).collect();
            event.extend(fields.into_iter().flatten());
            event
        })
        // a mapping without `deleted: true` needs more than any mapping does
        .prop_filter("a state lacks what it needs", move |event| {
            event.get("deleted") == Some(&json!(true))
                || conditional.iter().all(|name| event.contains_key(name))
        })
        .prop_map(Value::Object)
        .boxed()
}

/// Values of one field, from the field's own bounds.
fn values(field: &Value) -> BoxedStrategy<Value> {
    if let Some(names) = field["enum"].as_array() {
        return prop::sample::select(names.clone()).boxed();
    }
    match field["type"].as_str().unwrap() {
        "integer" => {
            let (min, max) = (field["minimum"].as_i64().unwrap(), field["maximum"].as_i64().unwrap());
            prop_oneof![Just(min), Just(max), min..=max].prop_map(Value::from).boxed()
        }
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "object" => btree_map(text(), json_values(), 0..6).prop_map(|members| json!(members)).boxed(),
        "string" if field["format"] == "date-time" => {
            let pattern = field["pattern"].as_str().unwrap();
            let pattern = pattern.strip_prefix('^').unwrap().strip_suffix('$').unwrap();
            string_regex(pattern).unwrap().prop_map(Value::from).boxed()
        }
        "string" => texts(field),
        other => panic!("no values of type {other} are made here"),
    }
}

/// Texts with every kind of character that the pattern lets through, and of the greatest length.
fn texts(field: &Value) -> BoxedStrategy<Value> {
    let max = usize::try_from(field["maxLength"].as_u64().unwrap_or(3000)).unwrap();
    let allows = validator(&json!({ "pattern": field["pattern"] }));
    let any_length = (vec(character(), 0..30), vec(character(), 0..10)).prop_map(move |(before, after)| {
        // a character allowed next to x is allowed anywhere, as long as there is an x
        let kept = |letters: Vec<char>| -> String {
            letters.into_iter().filter(|letter| allows.is_valid(&json!(format!("x{letter}")))).collect()
        };
        format!("{}x{}", kept(before), kept(after))
    });
    let longest =
        prop::sample::select(vec!["a", "é", "\u{1f600}"]).prop_map(move |letter| letter.repeat(max));
    prop_oneof![60 => any_length, 1 => longest].prop_map(Value::from).boxed()
}

fn character() -> BoxedStrategy<char> {
    let spaces =
        "\t\n\u{b}\r \u{1f}\u{7f}\u{85}\u{a0}\u{1680}\u{2003}\u{2028}\u{3000}\u{feff}\0\u{200b}\"\\/";
    let spaces: Vec<char> = spaces.chars().collect();
    prop_oneof![4 => prop::char::range(' ', '~'), 1 => prop::sample::select(spaces), 1 => any::<char>()]
        .boxed()
}

/// Texts without U+0000.
fn text() -> BoxedStrategy<String> {
    vec(character(), 0..8)
        .prop_map(|letters| letters.into_iter().filter(|letter| *letter != '\0').collect())
        .boxed()
}

/// JSON of every kind, nested some levels deep.
fn json_values() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    let nested = |inner: BoxedStrategy<Value>| {
        let object = btree_map(text(), inner.clone(), 0..3).prop_map(|members| json!(members));
        prop_oneof![vec(inner, 0..3).prop_map(Value::from), object].boxed()
    };
    leaf.prop_recursive(3, 12, 3, nested).boxed()
}
