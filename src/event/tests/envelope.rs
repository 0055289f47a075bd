//! CloudEvents envelopes.

use super::*;

#[test]
fn an_attribute_of_the_envelope_given_twice_is_refused_and_an_unknown_field_is_not() {
    for topic in Topic::ALL {
        let usable = with(topic, &[]);
        for (twice, expected) in [
            ("\"specversion\":\"1.0\",", Err(Reason::InvalidJson)),
            ("\"type\":null,\"type\":null,", Err(Reason::InvalidJson)),
            ("\"time\":null,\"time\":null,", Err(Reason::InvalidJson)),
            ("\"data\":{},", Err(Reason::InvalidJson)),
            ("\"id\":1,\"id\":2,\"caller_id\":1,\"caller_id\":2,", usable.clone()),
        ] {
            let found = read(&envelope(topic, &format!("{twice}\"specversion\":\"1.0\","), &[]));
            assert_eq!(found, expected, "{topic} {twice}");
        }
        let other = if topic == Topic::CloneTransfer { "caller_id" } else { "agent_call_id" };
        for name in ["unknown", "type", "time", "data", other] {
            assert_eq!(with(topic, &[(name, "1"), (name, "2")]), usable, "{topic} {name}");
        }
    }
}

#[test]
fn the_event_time_is_that_of_the_field_else_of_the_envelope_else_of_the_record() {
    for topic in Topic::ALL {
        let name = event_time(topic);
        let of = |record: &Record| read(record).unwrap()[name].clone();
        let timed = [(name, "1")];
        let structured = format!("\"specversion\":\"1.0\",\"time\":{},", NOON.0);
        let ce_time = NOON.0.trim_matches('"').as_bytes();
        let binary = |changes| with_headers(record(topic, body(topic, changes)), &[("ce_time", ce_time)]);
        assert_eq!(of(&bare(topic)), DEFAULT);
        assert_eq!(of(&record(topic, body(topic, &[("time", NOON.0)]))), DEFAULT);
        assert_eq!(of(&record(topic, body(topic, &timed))), "1000000");
        assert_eq!(of(&envelope(topic, &structured, &[])), NOON.1);
        assert_eq!(of(&envelope(topic, &structured, &timed)), "1000000");
        assert_eq!(of(&envelope(topic, "\"specversion\":\"1.0\",\"time\":\" \",", &[])), DEFAULT);
        assert_eq!(of(&envelope(topic, "\"specversion\":\"1.0\",\"time\":5,", &[])), "5000000");
        assert_eq!(of(&binary(&[])), NOON.1);
        assert_eq!(of(&binary(&timed)), "1000000");
    }
}

#[test]
#[rustfmt::skip]
fn an_envelope_is_known_by_its_content_type_or_by_its_specversion() {
    let by_header = |media: &[u8]| {
        let record = envelope(MAPPING, "", &[]);
        read(&with_headers(record, &[("content-type", media)]))
    };
    for (media, structured) in [
        (b"application/cloudevents+json".as_slice(), true),
        (b"application/cloudevents+json; charset=utf-8", true),
        (b" Application/CloudEvents+JSON ;charset=UTF-8", true), (b"application/json", false),
        (b"application/cloudevents+json2", false), (b"text/plain; application/cloudevents+json", false),
        (b"", false), (b"\xff", false),
    ] {
        let expected = if structured { with(MAPPING, &[]) } else { Err(Reason::MissingField) };
        assert_eq!(by_header(media), expected, "{media:?}");
    }
    let media = b"application/cloudevents+json".as_slice();
    let headers = |headers: &[(&str, &[u8])]| read(&with_headers(envelope(MAPPING, "", &[]), headers));
    assert!(headers(&[("content-type", b"text/plain"), ("content-type", media)]).is_ok());
    assert!(headers(&[("content-type", media), ("content-type", b"text/plain")]).is_err());
    assert!(headers(&[("Content-Type", media)]).is_err(), "header names are as the contract writes them");
    for topic in Topic::ALL {
        assert_eq!(read(&envelope(topic, "\"specversion\":\"1.0\",", &[])), with(topic, &[]));
        // A blank `specversion` is absent: this is a bare object without the fields.
        assert_eq!(read(&envelope(topic, "\"specversion\":\" \",", &[])), Err(Reason::MissingField));
        assert_eq!(read(&envelope(topic, "\"specversion\":1,", &[])), Err(Reason::InvalidType));
    }
}

#[test]
fn an_envelope_without_an_object_as_data_is_not_an_object() {
    for topic in Topic::ALL {
        for data in
            ["", ",\"data\":null", ",\"data\":\"\"", ",\"data\":\"e30=\"", ",\"data\":[{}]", ",\"data\":1"]
        {
            let value = format!("{{\"specversion\":\"1.0\"{data}}}");
            assert_eq!(read(&record(topic, value)), Err(Reason::NotAnObject), "{data}");
        }
        let headers: [(&str, &[u8]); 1] = [("content-type", b"application/cloudevents+json")];
        assert_eq!(read(&with_headers(bare(topic), &headers)), Err(Reason::NotAnObject));
    }
}

#[test]
#[rustfmt::skip]
fn a_type_is_that_of_the_topic_and_the_last_of_a_header_counts() {
    for topic in Topic::ALL {
        let name = topic.name();
        let wrong = Err(Reason::WrongTypeForTopic);
        for (kind, usable) in [
            (name.to_owned(), true), (" ".to_owned(), true), (format!("{name} "), false),
            (name.to_uppercase(), false), ("clone.expired".to_owned(), false),
        ] {
            let expected = if usable { with(topic, &[]) } else { wrong.clone() };
            let attributes = format!("\"specversion\":\"1.0\",\"type\":\"{kind}\",");
            assert_eq!(read(&envelope(topic, &attributes, &[])), expected, "{topic} {kind}");
            let binary = |headers: &[(&str, &[u8])]| read(&with_headers(bare(topic), headers));
            assert_eq!(binary(&[("ce_type", kind.as_bytes())]), expected, "{topic} {kind}");
            assert_eq!(binary(&[("ce_type", b"x"), ("ce_type", kind.as_bytes())]), expected);
            assert_eq!(binary(&[("ce_type", kind.as_bytes()), ("ce_type", b"x")]), wrong);
            assert_eq!(binary(&[("CE_TYPE", b"x")]), with(topic, &[]));
            // In the body of a bare or binary event it is an unknown field.
            assert_eq!(with(topic, &[("type", "\"x\"")]), with(topic, &[]));
        }
        let mut null_last = with_headers(bare(topic), &[("ce_type", b"x"), ("ce_time", b"x")]);
        null_last.headers
            .extend(["ce_type", "ce_time"].map(|name| Header { name: name.into(), value: None }));
        assert_eq!(read(&null_last), with(topic, &[]));
        let structured = envelope(topic, "\"specversion\":\"1.0\",\"type\":7,", &[]);
        assert_eq!(read(&structured), Err(Reason::InvalidType));
    }
}

#[test]
fn headers_of_binary_mode_count_for_nothing_in_structured_mode() {
    let headers: [(&str, &[u8]); 4] =
        [("ce_type", b"x"), ("ce_time", b"x"), ("ce_specversion", b"\xff"), ("ce_id", b"\0")];
    for topic in Topic::ALL {
        let structured = envelope(topic, "\"specversion\":\"1.0\",", &[]);
        assert_eq!(read(&with_headers(structured, &headers)), with(topic, &[]));
    }
}

#[test]
fn the_specversion_of_an_envelope_is_any_text_that_a_field_may_hold() {
    for topic in Topic::ALL {
        let structured = |raw: &str| read(&envelope(topic, &format!("\"specversion\":{raw},"), &[]));
        let binary = |value: &[u8]| read(&with_headers(bare(topic), &[("ce_specversion", value)]));
        assert_eq!((structured("\"0.3\""), binary(b"0.3")), (with(topic, &[]), with(topic, &[])));
        assert_eq!(structured("1.0"), Err(Reason::InvalidType));
        assert_eq!(structured("\"\\u0000\""), Err(Reason::NulCharacter));
        assert_eq!(binary(b"\0"), Err(Reason::NulCharacter));
        assert_eq!(binary(b"\xff"), Err(Reason::InvalidValue));
        assert_eq!(binary(b" "), with(topic, &[]));
    }
}

#[test]
fn a_time_of_the_envelope_must_be_valid_even_where_it_is_not_needed() {
    for topic in Topic::ALL {
        let timed = [(event_time(topic), NOON.0)];
        for (raw, reason) in
            [("\"soon\"", Reason::InvalidValue), ("-1", Reason::InvalidValue), ("{}", Reason::InvalidType)]
        {
            let attributes = format!("\"specversion\":\"1.0\",\"time\":{raw},");
            assert_eq!(read(&envelope(topic, &attributes, &timed)), Err(reason), "{topic} {raw}");
        }
        let binary =
            |value: &[u8]| read(&with_headers(record(topic, body(topic, &timed)), &[("ce_time", value)]));
        for value in [b"soon".as_slice(), b"1767268800", b"1969-12-31T23:59:59Z", b"\xff", b"\0"] {
            assert_eq!(binary(value), Err(Reason::InvalidValue), "{topic} {value:?}");
        }
        for value in [b"".as_slice(), b" \xc2\xa0", b"2026-01-01T12:00:00Z"] {
            assert_eq!(binary(value), with(topic, &timed));
        }
    }
}
