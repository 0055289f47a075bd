//! Tests of the decoder against the contract, sections 2, 4 and 6: each rule has a test, each limit one on both sides.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::record::Header;

/// The type of a field, with the maximum length of texts in characters.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A required text of at most 255 characters.
    Id,
    Required(Option<usize>),
    Text(Option<usize>),
    Integer,
    Time,
    Status,
    Boolean,
    Object,
}
use Kind::{Boolean, Id, Integer, Object, Required, Text};

/// The fields of each topic, from section 4 of the contract.
#[rustfmt::skip]
fn fields(topic: Topic) -> &'static [(&'static str, Kind)] {
    const SHORT: Kind = Text(Some(255));
    match topic {
        Topic::CloneReady => &[("caller_id", Id), ("greeting_call_id", Id), ("cloned_voice_id", Id),
            ("ready_at", Kind::Time), ("clone_duration_ms", Integer), ("clone_created_at", Kind::Time),
            ("api_response_time_ms", Integer), ("sample_file_size_bytes", Integer), ("ttl_seconds", Integer)],
        Topic::CloneFailed => &[("caller_id", Id), ("greeting_call_id", Id), ("error_message", Required(None)),
            ("failed_at", Kind::Time), ("cloned_voice_id", SHORT), ("api_response_time_ms", Integer),
            ("sample_file_size_bytes", Integer)],
        Topic::CloneTransfer => &[("greeting_call_id", Id), ("agent_call_id", Id), ("cloned_voice_id", Id),
            ("transferred_at", Kind::Time)],
        Topic::CallLifecycle => &[("call_id", Id), ("status", Kind::Status), ("occurred_at", Kind::Time),
            ("threecx_call_id", SHORT), ("caller_id", SHORT), ("cloned_voice_id", SHORT),
            ("call_started_at", Kind::Time), ("call_ended_at", Kind::Time), ("duration_seconds", Integer),
            ("transcript", Text(None)), ("metadata", Object)],
        Topic::CallerVoiceMapping => &[("caller_id", Id), ("voice_sample_url", Required(Some(2048))),
            ("voice_name", SHORT), ("description", Text(None)), ("account_id", SHORT),
            ("updated_at", Kind::Time), ("deleted", Boolean)],
    }
}

fn all_fields() -> impl Iterator<Item = (Topic, &'static str, Kind)> {
    Topic::ALL
        .into_iter()
        .flat_map(|topic| fields(topic).iter().map(move |(name, kind)| (topic, *name, *kind)))
}

#[rustfmt::skip]
fn max_of(kind: Kind) -> Option<usize> {
    match kind { Id => Some(255), Required(max) | Text(max) => max, _ => None, }
}

fn is_text(kind: Kind) -> bool {
    matches!(kind, Id | Required(_) | Text(_))
}

/// The content of an event by field name: texts unchanged, times in microseconds.
type Values = BTreeMap<&'static str, String>;

trait Show {
    fn show(&self) -> Option<String>;
}
impl<T: Show> Show for Option<T> {
    fn show(&self) -> Option<String> {
        self.as_ref()?.show()
    }
}
macro_rules! show {
    ($($of:ty: $by:expr),*) => { $(impl Show for $of {
        fn show(&self) -> Option<String> { let by: fn(&Self) -> String = $by; Some(by(self)) }
    })* };
}
show!(Cow<'_, str>: |text| text.to_string(), i32: i32::to_string, Time: |time| time.micros().to_string(),
Status: |status| status.name().to_owned(), BTreeMap<String, String>: |members| {
    let members: Vec<_> = members.iter().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
    format!("{{{}}}", members.join(","))
});

fn values(event: &Event<'_>) -> Values {
    macro_rules! of {
        ($event:expr; $($field:ident)*) => { [$((stringify!($field), $event.$field.show())),*].to_vec() };
    }
    let found = match event {
        Event::Ready(e) => {
            let mut found = of!(e; caller_id greeting_call_id cloned_voice_id ready_at clone_duration_ms
                clone_created_at api_response_time_ms sample_file_size_bytes);
            let ttl = e.ttl_expires_at.micros() - e.ready_at.micros();
            found.push(("ttl_seconds", Some((ttl / 1_000_000).to_string())));
            found
        }
        Event::Failed(e) => of!(e; caller_id greeting_call_id error_message failed_at cloned_voice_id
            api_response_time_ms sample_file_size_bytes),
        Event::Transfer(e) => of!(e; greeting_call_id agent_call_id cloned_voice_id transferred_at),
        Event::Call(e) => of!(e; call_id status occurred_at threecx_call_id caller_id cloned_voice_id
            call_started_at call_ended_at duration_seconds transcript metadata),
        Event::Mapping(e) => {
            let mut found = of!(e; caller_id updated_at);
            match &e.state {
                Some(s) => found.extend(of!(s; voice_sample_url voice_name description account_id)),
                None => found.push(("deleted", Some("true".to_owned()))),
            }
            found
        }
    };
    found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

const LIMITS: Limits = Limits { record_max_bytes: 8 << 20, cache_ttl_seconds: 86_400 };
/// The timestamp of the records, in milliseconds.
const SENT: i64 = 1_767_225_600_000;

fn record(topic: Topic, value: impl Into<Vec<u8>>) -> Record {
    let (key, value, headers) = (None, Some(value.into()), Vec::new());
    Record { topic, partition: 0, offset: 0, timestamp: SENT, key, value, headers }
}

fn with_headers(mut record: Record, headers: &[(&str, &[u8])]) -> Record {
    record.headers = headers.iter().map(|(name, value)| Header::new(*name, *value)).collect();
    record
}

fn read(record: &Record) -> Result<Values, Reason> {
    decode(record, LIMITS).map(|event| values(&event)).map_err(|unusable| unusable.reason)
}

/// A body of the required fields with these changes added or in their place. A change to an empty text (no JSON) removes the
/// field.
#[rustfmt::skip]
fn body(topic: Topic, changes: &[(&str, &str)]) -> String {
    let changed = |name: &str| changes.iter().any(|(changed, _)| *changed == name);
    let required = fields(topic).iter().filter_map(|(name, kind)| match kind {
        Id | Required(_) => Some((*name, format!("\"{name}-1\""))),
        Kind::Status => Some((*name, "\"initiated\"".to_owned())),
        _ => None,
    });
    let members = required.filter(|(name, _)| !changed(name))
        .chain(changes.iter().map(|(name, raw)| (*name, (*raw).to_owned())))
        .filter(|(_, raw)| !raw.is_empty()).map(|(name, raw)| format!("\"{name}\":{raw}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn with(topic: Topic, changes: &[(&str, &str)]) -> Result<Values, Reason> {
    read(&record(topic, body(topic, changes)))
}

fn bare(topic: Topic) -> Record {
    record(topic, body(topic, &[]))
}

/// Asserts the decoded value of a field with this raw JSON.
#[track_caller]
fn assert_field(topic: Topic, name: &'static str, raw: &str, expected: Result<&str, Reason>) {
    let found = with(topic, &[(name, raw)]).map(|values| values.get(name).cloned().unwrap_or_default());
    let raw: String = raw.chars().take(99).collect();
    assert_eq!(found, expected.map(str::to_owned), "{topic} {name} {raw}");
}

#[track_caller]
fn assert_metadata(raw: &str, expected: Result<&str, Reason>) {
    assert_field(Topic::CallLifecycle, "metadata", raw, expected);
}

fn envelope(topic: Topic, attributes: &str, changes: &[(&str, &str)]) -> Record {
    record(topic, format!("{{{attributes}\"data\":{}}}", body(topic, changes)))
}

fn event_time(topic: Topic) -> &'static str {
    let times = ["ready_at", "failed_at", "transferred_at", "occurred_at", "updated_at"];
    times[Topic::ALL.iter().position(|other| *other == topic).unwrap()]
}

const MAPPING: Topic = Topic::CallerVoiceMapping;
const NOON: (&str, &str) = ("\"2026-01-01T12:00:00Z\"", "1767268800000000");
const DEFAULT: &str = "1767225600000000";

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
                Kind::Time => (i.to_string(), format!("{i}000000")),
                Kind::Status => ("\"completed\"".to_owned(), "completed".to_owned()),
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
        let required = matches!(kind, Id | Required(_) | Kind::Status);
        assert_eq!(left_out.clone().err(), required.then_some(Reason::MissingField), "{topic} {name}");
        for raw in ["null", " null\n", "\"\"", "\" \"", &spaces] {
            assert_eq!(with(topic, &[(name, raw)]), left_out, "{topic} {name} {raw}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn what_is_no_unicode_white_space_is_not_blank() {
    for (topic, name, kind) in all_fields() {
        for (raw, text) in [
            ("\u{200b}", "\u{200b}"), ("\u{feff}", "\u{feff}"), ("\\u180e", "\u{180e}"),
            ("\\u001f", "\u{1f}"),
        ] {
            let expected = match kind {
                Id if text == "\u{1f}" => Err(Reason::InvalidValue), Id | Required(_) | Text(_) => Ok(text),
                Kind::Time | Kind::Status => Err(Reason::InvalidValue),
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
                Id | Required(_) | Text(_) | Kind::Status => {
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
fn invalid_utf_8_is_refused_wherever_it_stands() {
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
                Id | Required(_) | Text(_) | Kind::Status => raw.starts_with('"'),
                Integer => raw == "5" || raw == "1.5", Kind::Time => raw.starts_with(['"', '5', '1']),
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
    for (topic, name, _) in all_fields().filter(|(.., kind)| *kind == Kind::Time) {
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
fn a_value_has_at_most_so_many_bytes() {
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
fn metadata_holds_at_most_65536_values_at_all_levels_together() {
    let array = |count: usize, item: &str| format!("[{}]", vec![item; count].join(","));
    for (raw, usable) in [
        (format!("{{\"a\":{}}}", array(65_535, "0")), true),
        (format!("{{\"a\":{}}}", array(65_536, "0")), false),
        (format!("{{\"a\":{},\"b\":{{}}}}", array(65_534, "[]")), true),
        (format!("{{\"a\":{},\"b\":{{\"c\":1}}}}", array(65_534, "[]")), false),
        (format!("{{\"a\":{}}}", array(32_767, "[0]")), true),
        (format!("{{\"a\":{},\"b\":1,\"c\":2}}", array(32_767, "[0]")), false),
    ] {
        let found = with(Topic::CallLifecycle, &[("metadata", &raw)]);
        assert_eq!(found.err(), (!usable).then_some(Reason::InvalidValue), "{raw:.40}");
    }
    let members = |count: usize| {
        let members: Vec<String> = (0..count).map(|number| format!("\"{number:05}\":1")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_metadata(&members(65_536), Ok(&members(65_536)));
    assert_metadata(&members(65_537), Err(Reason::InvalidValue));
    assert_metadata(&format!("{{{}}}", vec!["\"a\":1"; 65_537].join(",")), Err(Reason::InvalidValue));
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
fn what_metadata_may_not_hold_it_may_not_hold_in_a_value_that_does_not_count_either() {
    let arrays = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_metadata(&format!(r#"{{"a":{},"a":1}}"#, arrays(99)), Ok(r#"{"a":1}"#));
    for (value, reason) in [
        (arrays(100).as_str(), Reason::InvalidJson),
        (r#"{"\u0000":1}"#, Reason::NulCharacter),
        (r#""\ud800""#, Reason::InvalidJson),
        ("1e400", Reason::InvalidJson),
    ] {
        assert_metadata(&format!(r#"{{"a":{value},"a":1}}"#), Err(reason));
    }
    // Escaped backslashes and brackets in a text are ordinary characters.
    assert_metadata(r#"{"a":"\\u0000[\"["}"#, Ok(r#"{"a":"\\u0000[\"["}"#));
}

#[test]
fn metadata_nests_at_most_100_levels_itself_the_first() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for (levels, usable) in [(100, true), (101, false), (127, false), (128, false), (100_000, false)] {
            let raw = format!("{{\"a\":{}1{}}}", open.repeat(levels - 1), close.repeat(levels - 1));
            assert_metadata(&raw, if usable { Ok(raw.as_str()) } else { Err(Reason::InvalidJson) });
        }
    }
}

#[test]
#[rustfmt::skip]
fn metadata_comes_out_as_it_went_in_compact_and_with_its_keys_sorted_by_bytes_at_every_level() {
    for (raw, expected) in [
        ("{}", "{}"),
        (
            "{ \"b\" : [ 1 , { \"z\" : 1 , \"a\" : 2 } ] , \"a\" : { \"y\" : 1 , \"B\" : 2 } }",
            r#"{"a":{"B":2,"y":1},"b":[1,{"a":2,"z":1}]}"#,
        ),
        // U+10000 sorts after U+FFFF by bytes, and before it by UTF-16 units.
        (
            r#"{"a":{"\ud800\udc00":1,"\uffff":2,"é":3,"e":4,"":5}}"#,
            "{\"a\":{\"\":5,\"e\":4,\"é\":3,\"\u{ffff}\":2,\"\u{10000}\":1}}",
        ),
        (r#"{"a":1,"b":{"x":1,"x":{"y":1},"x":2},"a":null}"#, r#"{"a":null,"b":{"x":2}}"#),
        (
            r#"{"a":[18446744073709551615,-9223372036854775808,0,1.0,0.1,-1.5,1e3,1e-7,5e-324]}"#,
            r#"{"a":[18446744073709551615,-9223372036854775808,0,1.0,0.1,-1.5,1000.0,1e-7,5e-324]}"#,
        ),
        (
            r#"{"a":9007199254740993,"b":18446744073709551616}"#,
            r#"{"a":9007199254740993,"b":1.8446744073709552e+19}"#,
        ),
        (r#"{"a":[true,false,null,"","\u001f\"\\\/ü"]}"#, r#"{"a":[true,false,null,"","\u001f\"\\/ü"]}"#),
        // Names that serde_json uses internally have no special meaning here.
        (
            r#"{"a":{"$serde_json::private::RawValue":"[1]"}}"#,
            r#"{"a":{"$serde_json::private::RawValue":"[1]"}}"#,
        ),
        (r#"{"$serde_json::private::RawValue":"{}"}"#, r#"{"$serde_json::private::RawValue":"{}"}"#),
        (r#"{"$serde_json::private::RawValue":7}"#, r#"{"$serde_json::private::RawValue":7}"#),
        (r#"{"a":{"$serde_json::private::Number":"7"}}"#, r#"{"a":{"$serde_json::private::Number":"7"}}"#),
    ] { assert_metadata(raw, Ok(expected)); }
    let map: Value = serde_json::from_str(r#"{"b":1,"a":1}"#).unwrap();
    assert_eq!(map.to_string(), r#"{"a":1,"b":1}"#, "serde_json's feature preserve_order must be off");
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

#[test]
fn simulated_traffic_is_usable_or_not_as_it_says() {
    for seed in [1, 2] {
        let (calls, disorder, start, spacing_ms) = (2000, true, SENT, 2000);
        let plan = crate::traffic::Plan { calls, seed, disorder, start, spacing_ms, ttl_seconds: Some(20) };
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
            let optional = !matches!(kind, Id | Kind::Time | Kind::Status | Required(_))
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
            Kind::Time => prop_assert!((0..=Time::MAX.micros()).contains(&value.parse().unwrap())),
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
