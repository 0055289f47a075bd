//! The rules of single fields.

use super::*;

#[test]
fn every_field_of_every_topic_is_read() {
    for topic in Topic::ALL {
        let (mut raw, mut expected) = (Vec::new(), Values::new());
        for (i, (name, kind)) in (1..).zip(fields(topic)) {
            let (json, value) = match kind {
                Id | Required(_) | Text(_) => {
                    (format!("\" {name} ü\\n🙂\\ud83d\\ude42 \""), format!(" {name} ü\n🙂🙂 "))
                }
                Integer => (i.to_string(), i.to_string()),
                FieldKind::Time => (i.to_string(), format!("{i}000000")),
                FieldKind::Status => ("\"completed\"".to_owned(), "completed".to_owned()),
                Boolean => continue,
                Object => ("{ \"b\" : 1 , \"a\" : null }".to_owned(), "{\"a\":null,\"b\":1}".to_owned()),
            };
            raw.push((*name, json));
            expected.insert(name, value);
        }
        let raw: Vec<_> = raw.iter().map(|(name, json)| (*name, json.as_str())).collect();
        assert_eq!(with(topic, &raw), Ok(expected), "{topic}");
    }
}

#[test]
fn null_and_blank_texts_mean_absent_for_every_kind_of_field() {
    let spaces = "\u{85}\u{a0}\u{1680}\u{2000}\u{2005}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}";
    let spaces = format!("\"{spaces} \\t\\n\\u000b\\f\\r\"");
    for (topic, name, kind) in all_fields() {
        let left_out = with(topic, &[(name, "")]);
        let required = matches!(kind, Id | Required(_) | FieldKind::Status);
        assert_eq!(left_out.clone().err(), required.then_some(Reason::MissingField), "{topic} {name}");
        for raw in ["null", " null\n", "\"\"", "\" \"", &spaces] {
            assert_eq!(with(topic, &[(name, raw)]), left_out, "{topic} {name} {raw}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn characters_other_than_unicode_white_space_are_not_blank() {
    for (topic, name, kind) in all_fields() {
        for (raw, text) in [
            ("\u{200b}", "\u{200b}"), ("\u{feff}", "\u{feff}"), ("\\u180e", "\u{180e}"),
            ("\\u001f", "\u{1f}"),
        ] {
            let expected = match kind {
                Id if text == "\u{1f}" => Err(Reason::InvalidValue), Id | Required(_) | Text(_) => Ok(text),
                FieldKind::Time | FieldKind::Status => Err(Reason::InvalidValue),
                Integer | Boolean | Object => Err(Reason::InvalidType),
            };
            assert_field(topic, name, &format!("\"{raw}\""), expected);
        }
    }
}

#[test]
fn a_text_has_at_most_as_many_characters_as_its_column_however_many_bytes_they_take() {
    for (topic, name, kind) in all_fields().filter(|(.., kind)| is_text(*kind)) {
        for (letter, escaped) in [("a", "a"), ("𝄞", "𝄞"), ("𝄞", "\\ud834\\udd1e"), ("\u{301}", "\\u0301")]
        {
            let limit = max_of(kind).unwrap_or(100_000);
            assert_field(topic, name, &format!("\"{}\"", escaped.repeat(limit)), Ok(&letter.repeat(limit)));
            let beyond = with(topic, &[(name, &format!("\"{}\"", escaped.repeat(limit + 1)))]);
            assert_eq!(beyond.err(), max_of(kind).map(|_| Reason::TooLong), "{topic} {name} {letter}");
        }
    }
    let spaces = format!("\"{}x\"", " ".repeat(255));
    assert_field(MAPPING, "caller_id", &spaces, Err(Reason::TooLong));
    assert_field(MAPPING, "caller_id", &format!("\"{}\"", " ".repeat(256)), Err(Reason::MissingField));
}

#[test]
#[rustfmt::skip]
fn no_text_may_hold_the_character_nul() {
    for (topic, name, kind) in all_fields() {
        for raw in ["\"\\u0000\"", "\"a\\u0000b\"", "\" \\u0000\""] {
            match kind {
                Id | Required(_) | Text(_) | FieldKind::Status => {
                    assert_field(topic, name, raw, Err(Reason::NulCharacter));
                }
                _ => assert!(with(topic, &[(name, raw)]).is_err(), "{topic} {name}"),
            }
        }
        assert!(with(topic, &[("unknown", "\"\\u0000\"")]).is_ok());
        assert_field(topic, name, "\"\0\"", Err(Reason::InvalidJson));
    }
    for raw in [
        r#"{"a":"\u0000"}"#, r#"{"a\u0000":1}"#, r#"{"a":{"b":[{"c\u0000":1}]}}"#, r#"{"a":[[1,"\u0000"]]}"#,
        r#"{"\u0000":null}"#,
    ] { assert_metadata(raw, Err(Reason::NulCharacter)); }
    assert_metadata(r#"{"a":"\\u0000\u001f"}"#, Ok(r#"{"a":"\\u0000\u001f"}"#));
    for attribute in ["specversion", "type"] {
        let other = if attribute == "type" { "\"specversion\":\"1.0\"," } else { "" };
        let record = envelope(MAPPING, &format!("{other}\"{attribute}\":\"\\u0000\","), &[]);
        assert_eq!(read(&record), Err(Reason::NulCharacter), "{attribute}");
        let header = format!("ce_{attribute}");
        let binary = with_headers(bare(MAPPING), &[(header.as_str(), b"\0")]);
        assert_eq!(read(&binary), Err(Reason::NulCharacter), "{attribute}");
    }
}

#[test]
fn the_separator_of_ids_is_refused_in_required_texts_of_255_characters_only() {
    for (topic, name, kind) in all_fields().filter(|(.., kind)| is_text(*kind)) {
        let expected = if kind == Id { Err(Reason::InvalidValue) } else { Ok("a\u{1f}b") };
        assert_field(topic, name, "\"a\\u001fb\"", expected);
        assert_field(topic, name, "\"a\\u001eb\\u007f\"", Ok("a\u{1e}b\u{7f}"));
    }
}

#[test]
#[rustfmt::skip]
fn invalid_utf_8_is_refused_in_every_place() {
    let bad: [&[u8]; 6] = [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"M\xfcller"];
    for topic in Topic::ALL {
        for bytes in bad {
            for place in [
                body(topic, &[("unknown", "\"@\"")]), body(topic, &[("unknown", "[{\"a\":\"@\"}]")]),
                body(topic, &[("un@known", "1")]), body(topic, &[(fields(topic)[0].0, "\"@\"")]),
                body(topic, &[]) + "@", "@".to_owned() + &body(topic, &[]), "@".to_owned(),
                "\"@\"".to_owned(),
            ] {
                let (before, after) = place.split_once('@').unwrap();
                let value = [before.as_bytes(), bytes, after.as_bytes()].concat();
                assert_eq!(
                    read(&record(topic, value)), Err(Reason::InvalidJson),
                    "{topic} {place} {bytes:?}"
                );
            }
        }
    }
}

#[test]
fn a_byte_order_mark_is_refused() {
    for topic in Topic::ALL {
        for mark in [b"\xef\xbb\xbf".as_slice(), b"\xff\xfe", b" \xef\xbb\xbf"] {
            let value = [mark, body(topic, &[]).as_bytes()].concat();
            assert_eq!(read(&record(topic, value)), Err(Reason::InvalidJson));
        }
    }
}

#[test]
#[rustfmt::skip]
fn half_a_surrogate_pair_or_a_number_beyond_a_double_is_refused_where_it_could_count() {
    for raw in [
        "\"\\ud800\"", "\"a\\udc00\"", "\"\\udc00\\ud800\"", "\"\\ud83d\\u0041\"", "1e400", "-1e309",
        "1E+999",
    ] {
        for (topic, name, _) in all_fields() { assert_field(topic, name, raw, Err(Reason::InvalidJson)); }
        for raw in [format!("{{\"a\":{raw}}}"), format!("{{\"a\":[{{\"b\":[{raw}]}}]}}")] {
            assert_metadata(&raw, Err(Reason::InvalidJson));
        }
        for topic in Topic::ALL {
            let usable = with(topic, &[]);
            for raw in [raw, &format!("[{raw}]"), &format!("{{\"a\":{raw},\"\\ud800\":{raw}}}")] {
                assert_eq!(with(topic, &[("unknown", raw)]), usable);
                // Without an envelope there are no attributes.
                assert_eq!(with(topic, &[("type", raw), ("time", raw), ("data", raw)]), usable);
                let attributes = format!("\"specversion\":\"1.0\",\"id\":{raw},\"caller_id\":{raw},");
                assert_eq!(read(&envelope(topic, &attributes, &[("time", raw), ("type", raw)])), usable);
            }
            assert_eq!(with(topic, &[("specversion", raw)]), Err(Reason::InvalidJson));
            for attribute in ["type", "time"] {
                let attributes = format!("\"specversion\":\"1.0\",\"{attribute}\":{raw},");
                assert_eq!(read(&envelope(topic, &attributes, &[])), Err(Reason::InvalidJson));
            }
        }
    }
    for name in ["\\ud800", "a\\udc00", "caller_id\\ud83d"] {
        assert_metadata(&format!("{{\"{name}\":1}}"), Err(Reason::InvalidJson));
        for topic in Topic::ALL {
            assert_eq!(with(topic, &[(name, "1")]), Err(Reason::InvalidJson));
            let data = envelope(topic, "\"specversion\":\"1.0\",", &[(name, "1")]);
            assert_eq!(read(&data), Err(Reason::InvalidJson));
            let outer = envelope(topic, &format!("\"specversion\":\"1.0\",\"{name}\":1,"), &[]);
            assert_eq!(read(&outer), Err(Reason::InvalidJson));
        }
    }
    assert_metadata("{\"a\":1.7976931348623157e308}", Ok("{\"a\":1.7976931348623157e+308}"));
}

#[test]
fn a_known_field_given_twice_is_refused() {
    for (topic, name, _) in all_fields() {
        let once = body(topic, &[(name, "null")]);
        let more = &once[1..];
        let escaped = name.replace('_', "\\u005f").replace("at", "\\u0061t");
        for first in [format!("\"{name}\":null"), format!("\"{name}\":\"x\""), format!("\"{escaped}\":null")]
        {
            let twice = format!("{{{first},{more}");
            assert_eq!(read(&record(topic, twice.clone())), Err(Reason::InvalidJson), "{twice}");
            let inside = format!("{{\"specversion\":\"1.0\",\"data\":{twice}}}");
            assert_eq!(read(&record(topic, inside)), Err(Reason::InvalidJson));
        }
    }
}

#[test]
fn unknown_fields_are_ignored_whatever_they_hold() {
    let nested = |open: &str, close: &str| open.repeat(100_000) + "1" + &close.repeat(100_000);
    let (arrays, objects) = (nested("[", "]"), nested("{\"a\":", "}"));
    for topic in Topic::ALL {
        for raw in ["null", "true", "\"x\"", "{\"a\":1,\"a\":[]}", "1e999", "-0.0e-0", &arrays, &objects] {
            assert_eq!(with(topic, &[("unknown", raw), ("Caller_id", raw), ("", raw)]), with(topic, &[]));
        }
        for (name, kind) in fields(topic) {
            let expected = if *kind == Object { Reason::InvalidJson } else { Reason::InvalidType };
            assert_field(topic, name, &arrays, Err(Reason::InvalidType));
            assert_field(topic, name, &objects, Err(expected));
        }
    }
}

#[test]
#[rustfmt::skip]
fn a_field_of_the_wrong_json_type_is_refused() {
    for (topic, name, kind) in all_fields() {
        for raw in ["true", "false", "5", "1.5", "{}", "[]", "[\"a\"]", "\"x\""] {
            let right = match kind {
                Id | Required(_) | Text(_) | FieldKind::Status => raw.starts_with('"'),
                Integer => raw == "5" || raw == "1.5", FieldKind::Time => raw.starts_with(['"', '5', '1']),
                Boolean => raw == "true" || raw == "false", Object => raw == "{}",
            };
            let found = with(topic, &[(name, raw)]).err() == Some(Reason::InvalidType);
            assert_eq!(found, !right, "{topic} {name} {raw}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn an_integer_is_whole_and_between_zero_and_2147483647() {
    let (value, kind) = (Err(Reason::InvalidValue), Err(Reason::InvalidType));
    for (topic, name, _) in all_fields().filter(|(.., kind)| *kind == Integer) {
        for (raw, expected) in [
            ("0", Ok("0")), ("-0", Ok("0")), ("-0.0", Ok("0")), ("5.0", Ok("5")), ("1e3", Ok("1000")),
            ("12e-1", value), ("120E-1", Ok("12")), ("2147483647", Ok("2147483647")),
            ("2147483647.0", Ok("2147483647")), ("2147483648", value), ("2147483647.5", value),
            ("2147483648.0", value), ("-1", value), ("-1.0", value), ("1.5", value), ("0.5", value),
            ("1e300", value), ("9223372036854775808", value), ("4294967296", value), ("\"5\"", kind),
            ("true", kind), ("05", Err(Reason::InvalidJson)), ("+5", Err(Reason::InvalidJson)),
            ("NaN", Err(Reason::InvalidJson)),
        ] { assert_field(topic, name, raw, expected); }
    }
}

#[test]
#[rustfmt::skip]
fn a_time_has_the_forms_and_the_range_of_the_contract() {
    let refused = Err(Reason::InvalidValue);
    for (topic, name, _) in all_fields().filter(|(.., kind)| *kind == FieldKind::Time) {
        let ready = name == "ready_at";
        for (raw, expected) in [
            (NOON.0, Ok(NOON.1)), ("\"2026-01-01t12:00:00z\"", Ok(NOON.1)),
            ("\"2026-01-01 12:00:00\"", Ok(NOON.1)), ("\"2026-01-01T14:30:00+02:30\"", Ok(NOON.1)),
            ("\"2026-01-01T11:59:60Z\"", Ok(NOON.1)),
            ("\"2026-01-01T12:00:00.1234567890123\"", Ok("1767268800123456")), ("1767268800", Ok(NOON.1)),
            ("1767268800000", Ok(NOON.1)), ("1.7672688e9", Ok(NOON.1)),
            ("1767268800.123456", Ok("1767268800123456")), ("1767268800000.5", Ok("1767268800000500")),
            ("99999999999", Ok("99999999999000000")), ("100000000000", Ok("100000000000000")),
            ("0.0078125", Ok("7813")), ("0", Ok("0")), ("\"1970-01-01T00:00:00Z\"", Ok("0")),
            ("\"1969-12-31T23:59:59.999999Z\"", refused), ("-1", refused), ("-0.001", refused),
            ("\"9999-12-31T23:59:59.9999999Z\"", Ok("253402300799999999")),
            ("\"9999-12-31T23:59:60Z\"", refused), ("253402300799999", Ok("253402300799999000")),
            ("253402300800000", refused), ("18446744073709551615", refused), ("1e300", refused),
            ("\"1767268800\"", refused), ("\"2026-01-01\"", refused), ("\"2026-02-29T12:00:00Z\"", refused),
            ("\" 2026-01-01T12:00:00Z\"", refused), ("\"2026-01-01T12:00:00Z\\u0000\"", refused),
            ("\"２026-01-01T12:00:00Z\"", refused), ("true", Err(Reason::InvalidType)),
            ("{}", Err(Reason::InvalidType)),
        ] {
            // The lifetime of a voice has a test of its own.
            let ends = ready && expected.is_ok_and(|micros| micros.starts_with("2534"));
            assert_field(topic, name, raw, if ends { refused } else { expected });
        }
    }
}

#[test]
#[rustfmt::skip]
fn the_records_own_timestamp_is_from_1970_to_9999_too() {
    for topic in Topic::ALL {
        for (timestamp, usable) in [
            (-1, false), (0, true), (253_402_300_799_999, true), (253_402_300_800_000, false),
            (i64::MAX, false), (i64::MIN, false),
        ] {
            let expected = if usable { None } else { Some(Reason::InvalidValue) };
            let mut record = record(topic, body(topic, &[(event_time(topic), NOON.0)]));
            record.timestamp = timestamp;
            assert_eq!(read(&record).err(), expected, "{topic} {timestamp}");
            (record.key, record.value) = (Some(b"+1".to_vec()), None);
            let expected = if topic == MAPPING { expected } else { Some(Reason::Tombstone) };
            assert_eq!(read(&record).err(), expected, "{topic} {timestamp}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn a_voice_that_lives_past_the_year_9999_is_refused() {
    let ttl =
        |ready_at: &str, ttl: &str| with(Topic::CloneReady, &[("ready_at", ready_at), ("ttl_seconds", ttl)]);
    for (ready_at, seconds, usable) in [
        ("\"9999-12-31T23:59:50.999999Z\"", "9", true), ("\"9999-12-31T23:59:50Z\"", "10", false),
        ("\"9999-12-30T23:59:59.999999Z\"", "null", true), ("\"9999-12-31T00:00:00Z\"", "null", false),
        ("\"9999-12-31T23:59:59.999999Z\"", "0", true),
    ] { assert_eq!(ttl(ready_at, seconds).err(), (!usable).then_some(Reason::InvalidValue), "{ready_at}"); }
    assert_eq!(ttl(NOON.0, "2147483647").unwrap()["ttl_seconds"], "2147483647");
    let record = record(Topic::CloneReady, body(Topic::CloneReady, &[]));
    for (cache_ttl_seconds, usable) in [(0, true), (7, true), (i64::MAX, false)] {
        let decoded = decode(&record, Limits { cache_ttl_seconds, ..LIMITS });
        let ttl = decoded.map(|event| values(&event)["ttl_seconds"].clone()).map_err(|fault| fault.reason);
        assert_eq!(ttl, if usable { Ok(cache_ttl_seconds.to_string()) } else { Err(Reason::InvalidValue) });
    }
}

#[test]
fn the_optional_fields_of_a_ready_event_default_to_one_another() {
    let given = |changes: &[(&str, &str)]| with(Topic::CloneReady, changes).unwrap();
    let bare = given(&[]);
    assert_eq!((bare["clone_created_at"].as_str(), bare["ttl_seconds"].as_str()), (DEFAULT, "86400"));
    assert!(!bare.contains_key("api_response_time_ms") && !bare.contains_key("clone_duration_ms"));
    assert_eq!(given(&[("ready_at", "7")])["clone_created_at"], "7000000");
    assert_eq!(given(&[("ready_at", "7"), ("clone_created_at", "8")])["clone_created_at"], "8000000");
    assert_eq!(given(&[("clone_duration_ms", "7")])["api_response_time_ms"], "7");
    assert_eq!(
        given(&[("clone_duration_ms", "7"), ("api_response_time_ms", "0")])["api_response_time_ms"],
        "0"
    );
    assert!(!given(&[("api_response_time_ms", "7")]).contains_key("clone_duration_ms"));
    assert_eq!(given(&[("ttl_seconds", "0")])["ttl_seconds"], "0");
}

#[test]
fn a_status_is_one_of_three() {
    for status in ["initiated", "completed", "failed"] {
        assert_field(Topic::CallLifecycle, "status", &format!("\"{status}\""), Ok(status));
    }
    for raw in ["\"Completed\"", "\"completed \"", "\"ringing\"", "\"\\u001f\""] {
        assert_field(Topic::CallLifecycle, "status", raw, Err(Reason::InvalidValue));
    }
}
