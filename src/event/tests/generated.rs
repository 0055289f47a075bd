//! Generated records: simulated traffic, and random and damaged values.

use super::*;

#[test]
fn simulated_traffic_is_usable_or_not_as_it_says() {
    for seed in [1, 2] {
        let (calls, disorder, start, spacing_ms) = (2000, true, SENT, 2000);
        let plan =
            crate::traffic::Scenario { calls, seed, disorder, start, spacing_ms, ttl_seconds: Some(20) };
        let mut unusable = 0;
        for sent in crate::traffic::traffic(&plan) {
            let topic = Topic::from_name(sent.record.topic).unwrap();
            let timestamp = sent.record.timestamp.unwrap();
            let (key, value, headers) = (sent.record.key, sent.record.value, sent.record.headers);
            let record = Record { topic, partition: 0, offset: 0, timestamp, key, value, headers };
            assert_eq!(read(&record).err().map(Reason::name), sent.unusable, "seed {seed}: {record:?}");
            unusable += usize::from(sent.unusable.is_some());
        }
        assert!(unusable > 50, "{unusable}");
    }
}

/// Asserts the properties of any decoded event.
fn assert_sound(record: &Record) -> Result<(), TestCaseError> {
    let event = match decode(record, LIMITS) {
        Ok(event) => event,
        Err(unusable) => {
            let impossible = matches!(unusable.reason, Reason::TooLarge | Reason::RejectedByDatabase);
            prop_assert!(!impossible && !unusable.message.is_empty() && unusable.message.len() < 200);
            return Ok(());
        }
    };
    let values = values(&event);
    for (name, kind) in fields(record.topic) {
        let Some(value) = values.get(name) else {
            let optional = !matches!(kind, Id | FieldKind::Time | FieldKind::Status | Required(_))
                || values.contains_key("deleted")
                || ["call_started_at", "call_ended_at"].contains(name);
            prop_assert!(optional, "{} is missing", name);
            continue;
        };
        prop_assert!(!value.contains('\0') && max_of(*kind).is_none_or(|max| value.chars().count() <= max));
        let separated = *kind == Id && value.contains('\u{1f}');
        prop_assert!(!separated);
        prop_assert!(!is_text(*kind) || !value.chars().all(char::is_whitespace));
        match kind {
            FieldKind::Time => prop_assert!((0..=Time::MAX.micros()).contains(&value.parse().unwrap())),
            Integer => prop_assert!(value.parse::<i32>().unwrap() >= 0 || *name == "ttl_seconds"),
            Object => prop_assert!(serde_json::from_str::<Value>(value).unwrap().is_object()),
            _ => {}
        }
    }
    Ok(())
}

fn topics() -> impl Strategy<Value = Topic> {
    prop::sample::select(Topic::ALL.to_vec())
}

#[rustfmt::skip]
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let likely = [
        b"clone.ready".as_slice(), b"2026-01-01T12:00:00Z", b"application/cloudevents+json", b" ", b"+49301",
    ];
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        prop::sample::select(likely.map(<[u8]>::to_vec).to_vec())
    ]
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    let names = ["ce_type", "ce_time", "ce_specversion", "content-type", "other"];
    let header = (prop::sample::select(names.to_vec()), prop::option::of(bytes()));
    prop::collection::vec(header.prop_map(|(name, value)| Header { name: name.into(), value }), 0..4)
}

/// Raw JSON values, some of them invalid.
fn raws() -> impl Strategy<Value = String> {
    #[rustfmt::skip]
    let weird = ["null", "true", "false", "0", "-0", "-1", "1.5", "5.0", "1e3", "2147483647", "2147483648", "1e400",
        "253402300799999", "\"\"", "\" \"", "\"\\u0000\"", "\"\\u001f\"", "\"\\ud800\"", "\"initiated\"", "{}", "[]",
        "{\"a\":{\"b\":\"\\u0000\"}}", "{\"a\":1,\"a\":[2]}", "\"2026-01-01T00:00:60\"", "\"clone.ready\"", "", "@"];
    let text = prop::collection::vec(any::<char>(), 0..20)
        .prop_map(|text| json!(String::from_iter(text)).to_string());
    let long =
        (any::<char>(), 254..257_usize).prop_map(|(c, count)| json!(c.to_string().repeat(count)).to_string());
    let number = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| json!(n).to_string())
    ];
    prop_oneof![3 => prop::sample::select(weird.map(str::to_owned).to_vec()), 1 => text, 1 => long, 1 => number]
}

/// The topic's object with a few fields changed, bare or in an envelope.
fn objects() -> impl Strategy<Value = (Topic, String)> {
    topics().prop_flat_map(|topic| {
        let others = ["specversion", "type", "time", "data", "unknown", "\\ud800", "caller\\u005fid"];
        let names: Vec<_> = fields(topic).iter().map(|(name, _)| *name).chain(others).collect();
        let changes = prop::collection::vec((prop::sample::select(names), raws()), 0..5);
        (changes, prop::bool::weighted(0.3)).prop_map(move |(changes, wrapped)| {
            let changes: Vec<_> = changes.iter().map(|(name, raw)| (*name, raw.as_str())).collect();
            let (inside, outside) = changes.split_at(if wrapped { changes.len() / 2 } else { changes.len() });
            let object = body(topic, inside);
            let attributes: String = outside.iter().map(|(name, raw)| format!("\"{name}\":{raw},")).collect();
            let whole = format!("{{{attributes}\"specversion\":\"1.0\",\"data\":{object}}}");
            (topic, if wrapped { whole } else { object })
        })
    })
}

#[rustfmt::skip]
fn trees() -> impl Strategy<Value = Value> {
    let name = || {
        prop::collection::vec(any::<char>().prop_map(|c| if c == '\0' { 'n' } else { c }), 0..6)
            .prop_map(String::from_iter)
    };
    let leaf = prop_oneof![
        Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from), any::<f64>().prop_map(Value::from),
        name().prop_map(Value::from)
    ];
    let tree = leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..6).prop_map(|map| map.into_iter().collect())
        ]
    });
    prop::collection::btree_map(name(), tree, 0..6).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_an_event_or_have_a_reason(
        topic in topics(), timestamp in prop_oneof![Just(SENT), any::<i64>()], key in prop::option::of(bytes()),
        value in prop::option::of(bytes()), headers in headers(),
    ) {
        assert_sound(&Record { topic, partition: 0, offset: 0, timestamp, key, value, headers })?;
    }

    #[test]
    fn any_object_is_an_event_within_the_limits_or_has_a_reason((topic, value) in objects(), headers in headers()) {
        let record = record(topic, value);
        assert_sound(&record)?;
        assert_sound(&Record { headers, ..record })?;
    }

    #[test]
    fn any_damaged_object_is_an_event_or_has_a_reason(
        (topic, value) in objects(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut value = value.into_bytes();
        let at = at.index(value.len());
        if cut { value.truncate(at) } else { value[at] = byte }
        assert_sound(&record(topic, value))?;
    }

    #[test]
    fn any_metadata_comes_out_as_it_went_in(tree in trees()) {
        let raw = tree.to_string();
        let found = with(Topic::CallLifecycle, &[("metadata", &raw)]).unwrap();
        prop_assert_eq!(&found["metadata"], &raw);
    }
}
