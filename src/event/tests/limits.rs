//! Whole values: JSON, deletes, sizes, and the messages.

use super::*;

#[test]
#[rustfmt::skip]
fn a_null_value_deletes_the_caller_of_a_usable_key_and_is_a_tombstone_elsewhere() {
    let long = |count| "𝄞".repeat(count).into_bytes();
    let headers: [(&str, &[u8]); 3] =
        [("ce_type", b"x"), ("ce_time", b"\xff"), ("content-type", b"application/cloudevents+json")];
    for (key, usable) in [
        (Some(b"+4930123456".to_vec()), true), (Some(" \u{200b}".into()), true), (Some(long(255)), true),
        (Some(long(256)), false), (None, false), (Some(b"".to_vec()), false),
        (Some(" \t\u{3000}".into()), false), (Some(b"\xff".to_vec()), false), (Some(b"a\0b".to_vec()), false),
        (Some(b"a\x1fb".to_vec()), false),
    ] {
        for topic in Topic::ALL {
            let record =
                Record { value: None, key: key.clone(), ..with_headers(record(topic, ""), &headers) };
            let Some(key) = key.clone().filter(|_| usable && topic == MAPPING) else {
                assert_eq!(read(&record), Err(Reason::Tombstone), "{topic} {key:?}");
                continue;
            };
            let (key, deleted) = (String::from_utf8(key).unwrap(), "true".to_owned());
            let expected = [("caller_id", key), ("updated_at", DEFAULT.to_owned()), ("deleted", deleted)];
            assert_eq!(read(&record), Ok(expected.into()));
        }
    }
}

#[test]
fn keys_do_not_matter_to_a_record_with_a_value() {
    for topic in Topic::ALL {
        for key in [Some(b"\xff\0".to_vec()), Some(Vec::new()), None] {
            assert_eq!(read(&Record { key, ..bare(topic) }), with(topic, &[]));
        }
    }
}

#[test]
#[rustfmt::skip]
fn of_a_delete_only_caller_and_time_are_looked_at() {
    let deleted = ("deleted", "true");
    let state = ["voice_sample_url", "voice_name", "description", "account_id"];
    let expected = with(MAPPING, &[deleted, ("updated_at", NOON.0)]);
    let delete = [("caller_id", "caller_id-1"), ("updated_at", NOON.1), deleted];
    assert_eq!(expected, Ok(delete.map(|(name, value)| (name, value.to_owned())).into()));
    let long = format!("\"{}\"", "x".repeat(3000));
    for raw in ["", "null", "7", "{}", "\"\\u0000\"", &long] {
        let changes: Vec<_> =
            state.iter().map(|name| (*name, raw)).chain([deleted, ("updated_at", NOON.0)]).collect();
        assert_eq!(with(MAPPING, &changes), expected, "{raw}");
    }
    for (name, raw, reason) in [
        ("caller_id", "null", Reason::MissingField), ("caller_id", "7", Reason::InvalidType),
        ("updated_at", "\"x\"", Reason::InvalidValue), ("deleted", "\"true\"", Reason::InvalidType),
        ("deleted", "1", Reason::InvalidType),
    ] {
        let changes = if name == "deleted" { vec![(name, raw)] } else { vec![(name, raw), deleted] };
        assert_eq!(with(MAPPING, &changes), Err(reason), "{name} {raw}");
    }
    assert_eq!(with(MAPPING, &[("deleted", "false")]), with(MAPPING, &[]));
    assert_eq!(with(MAPPING, &[("deleted", "false"), ("voice_sample_url", "")]), Err(Reason::MissingField));
}

#[test]
#[rustfmt::skip]
fn a_value_is_one_json_object() {
    for topic in Topic::ALL {
        let usable = body(topic, &[]);
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for value in
            ["[]", &format!("[{usable}]"), "\"x\"", "\"\\ud800\"", "7", "1e999", "null", " true\n", &deep]
        { assert_eq!(read(&record(topic, value)), Err(Reason::NotAnObject), "{value}"); }
        for value in [
            "", " ", "\0", "garbage", "nul", "{", "}", "{}}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{'a':1}",
            "{a:1}", "{\"a\":01}", "{\"a\":.5}", "{\"a\":\"\\x\"}", "{\"a\":\"\t\"}", "{\"a\":NaN}",
            "{} // x",
            "[1", "7 7", "\u{a0}{}", &"[".repeat(100_000), &"{\"a\":".repeat(100_000),
            &format!("{usable}{usable}"), &format!("{usable},"), &format!("{usable}\0"),
            &format!("{usable}\u{a0}"), &usable[..usable.len() - 1],
        ] { assert_eq!(read(&record(topic, value)), Err(Reason::InvalidJson), "{topic} {value:.99}"); }
        assert_eq!(read(&record(topic, "{}")), Err(Reason::MissingField));
        assert_eq!(read(&record(topic, format!(" \t\r\n{usable} \t\r\n"))), with(topic, &[]));
    }
}

#[test]
fn a_value_has_at_most_record_max_bytes() {
    for topic in Topic::ALL {
        let record = with_headers(bare(topic), &[("x", &[b'x'; 999])]);
        let size = record.value.as_ref().unwrap().len();
        for (record_max_bytes, usable) in [(size, true), (size - 1, false)] {
            let reason =
                decode(&record, Limits { record_max_bytes, ..LIMITS }).err().map(|fault| fault.reason);
            assert_eq!(reason, (!usable).then_some(Reason::TooLarge));
        }
    }
}

#[test]
fn key_and_headers_have_at_most_a_mebibyte_together() {
    const LIMIT: usize = 1 << 20;
    for topic in Topic::ALL {
        for (key, name, value, usable) in [
            (LIMIT, 0, 0, true),
            (LIMIT + 1, 0, 0, false),
            (LIMIT - 7, 3, 4, true),
            (LIMIT - 7, 4, 4, false),
            (0, 0, LIMIT, true),
            (0, 1, LIMIT, false),
        ] {
            let headers = vec![Header::new(vec![b'n'; name], vec![b'v'; value])];
            let record = Record { key: Some(vec![b'k'; key]), headers, ..bare(topic) };
            let expected = if usable { with(topic, &[]) } else { Err(Reason::TooLarge) };
            assert_eq!(read(&record), expected, "{topic} {key} {name} {value}");
        }
    }
}

#[test]
fn a_record_has_at_most_1000_headers() {
    for topic in Topic::ALL {
        for (count, usable) in [(1000, true), (1001, false)] {
            let headers = vec![Header { name: Vec::new(), value: None }; count];
            let expected = if usable { with(topic, &[]) } else { Err(Reason::TooLarge) };
            assert_eq!(read(&Record { headers, ..bare(topic) }), expected, "{topic} {count}");
        }
    }
}

#[test]
fn too_large_a_key_or_too_many_headers_are_decided_before_anything_else() {
    let headers = vec![Header::new("ce_type", "other"); 1001];
    for topic in Topic::ALL {
        for value in [None, Some(Vec::new()), Some(b"\xef\xbb\xbf".to_vec()), Some(b"{}".to_vec())] {
            let record = Record { value, timestamp: -1, ..record(topic, "") };
            let many = Record { headers: headers.clone(), ..record.clone() };
            let large = Record { key: Some(vec![b'4'; (1 << 20) + 1]), ..record };
            assert_eq!((read(&many), read(&large)), (Err(Reason::TooLarge), Err(Reason::TooLarge)));
        }
    }
}

#[test]
fn messages_lead_to_the_fault() {
    let message = |record: &Record| decode(record, LIMITS).unwrap_err().message;
    let utf_16: Vec<u8> = body(MAPPING, &[]).encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (value, words) in [
        (b"".as_slice(), "empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"\0\0\0\0\x01\x0c", "magic byte 0"),
        (b"Obj\x01", "Avro"),
        (b"\x1f\x8b\x08", "gzip"),
        (&utf_16, "UTF-16"),
    ] {
        let record = record(MAPPING, value);
        assert_eq!(read(&record), Err(Reason::InvalidJson));
        assert!(message(&record).contains(words), "{}", message(&record));
    }
    let base64 = record(MAPPING, "{\"specversion\":\"1.0\",\"data_base64\":\"e30=\"}");
    assert_eq!(read(&base64), Err(Reason::NotAnObject));
    assert!(message(&base64).contains("data_base64"), "{}", message(&base64));
    let twice = record(MAPPING, json!(body(MAPPING, &[])).to_string());
    assert_eq!(read(&twice), Err(Reason::NotAnObject));
    assert!(message(&twice).contains("encoded as JSON twice"), "{}", message(&twice));

    for topic in Topic::ALL {
        let name = event_time(topic);
        for (raw, words) in [
            ("\"15.01.2026\"", "write it like \"2026-01-15T10:00:12.5Z\""),
            ("\"1768471212\"", "without quotes"),
            ("\"2026-02-30T10:00:12Z\"", "no such day"),
            ("\"1969-12-31T23:59:59Z\"", "outside of the years 1970 to 9999"),
            ("1768471212000000", "outside of the years 1970 to 9999"),
        ] {
            let faulty = record(topic, body(topic, &[(name, raw)]));
            assert_eq!(read(&faulty), Err(Reason::InvalidValue));
            let message = message(&faulty);
            assert!(message.starts_with(name) && message.contains(words), "{raw}: {message}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn messages_name_the_field_and_never_quote_what_it_holds() {
    let secret = "Zq7";
    let long = format!("\"{}\"", secret.repeat(2049));
    let raws = [
        "\"Zq7\\u0000\"", "\"Zq7\\ud800\"", "\"Zq7\\u001f\"", "\"Zq7\"", "[\"Zq7\"]", "{\"Zq7\":\"\\u0000\"}",
        "{\"a\":\"Zq7\\ud800\"}", "492718281828", "-492718281828.5", "492718281828e999", &long,
    ];
    for (topic, name, _) in all_fields() {
        for raw in raws {
            for (record, named) in [
                (record(topic, body(topic, &[(name, raw)])), true),
                (envelope(topic, "\"specversion\":\"1.0\",", &[(name, raw)]), true),
                (
                    envelope(topic, &format!("\"specversion\":\"1.0\",\"time\":{raw},\"type\":{raw},"), &[]),
                    false,
                ),
                (record(topic, raw), false), (record(topic, format!("{{\"{name}\":{raw}")), false),
                (with_headers(bare(topic), &[("ce_type", raw.as_bytes())]), false),
                (with_headers(bare(topic), &[("ce_time", raw.as_bytes())]), false),
                (Record { value: None, key: Some(long.clone().into()), ..record(topic, "") }, false),
            ] {
                let Err(Unusable { message, .. }) = decode(&record, LIMITS) else { continue };
                let quiet = !message.contains(secret) && !message.contains("7182") && message.len() < 200;
                assert!(
                    quiet && !message.is_empty() && (!named || message.contains(name)),
                    "{name}: {message}"
                );
            }
        }
    }
}

#[test]
fn reasons_have_the_names_of_the_contract() {
    #[rustfmt::skip]
    let reasons = [Reason::InvalidJson, Reason::NotAnObject, Reason::MissingField, Reason::InvalidType,
        Reason::InvalidValue, Reason::TooLong, Reason::NulCharacter, Reason::Tombstone, Reason::TooLarge,
        Reason::WrongTypeForTopic, Reason::RejectedByDatabase];
    let names = "invalid_json not_an_object missing_field invalid_type invalid_value too_long nul_character \
        tombstone too_large wrong_type_for_topic rejected_by_database";
    assert_eq!(reasons.map(|reason| reason.to_string()).join(" "), names);
}
