//! Tests of the decoder against the contract, sections 2, 4 and 6: each rule has a test, each limit one on both sides.

mod envelope;
mod fields;
mod generated;
mod limits;
mod metadata;
mod names;

use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::record::{Header, Record};

/// The type of a field, with the maximum length of texts in characters.
#[derive(Clone, Copy, Debug, PartialEq)]
enum FieldKind {
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
use FieldKind::{Boolean, Id, Integer, Object, Required, Text};

/// The fields of each topic, from section 4 of the contract.
#[rustfmt::skip]
fn fields(topic: Topic) -> &'static [(&'static str, FieldKind)] {
    const SHORT: FieldKind = Text(Some(255));
    match topic {
        Topic::CloneReady => &[("caller_id", Id), ("greeting_call_id", Id), ("cloned_voice_id", Id),
            ("ready_at", FieldKind::Time), ("clone_duration_ms", Integer), ("clone_created_at", FieldKind::Time),
            ("api_response_time_ms", Integer), ("sample_file_size_bytes", Integer), ("ttl_seconds", Integer)],
        Topic::CloneFailed => &[("caller_id", Id), ("greeting_call_id", Id), ("error_message", Required(None)),
            ("failed_at", FieldKind::Time), ("cloned_voice_id", SHORT), ("api_response_time_ms", Integer),
            ("sample_file_size_bytes", Integer)],
        Topic::CloneTransfer => &[("greeting_call_id", Id), ("agent_call_id", Id), ("cloned_voice_id", Id),
            ("transferred_at", FieldKind::Time)],
        Topic::CallLifecycle => &[("call_id", Id), ("status", FieldKind::Status), ("occurred_at", FieldKind::Time),
            ("threecx_call_id", SHORT), ("caller_id", SHORT), ("cloned_voice_id", SHORT),
            ("call_started_at", FieldKind::Time), ("call_ended_at", FieldKind::Time), ("duration_seconds", Integer),
            ("transcript", Text(None)), ("metadata", Object)],
        Topic::CallerVoiceMapping => &[("caller_id", Id), ("voice_sample_url", Required(Some(2048))),
            ("voice_name", SHORT), ("description", Text(None)), ("account_id", SHORT),
            ("updated_at", FieldKind::Time), ("deleted", Boolean)],
    }
}

fn all_fields() -> impl Iterator<Item = (Topic, &'static str, FieldKind)> {
    Topic::ALL
        .into_iter()
        .flat_map(|topic| fields(topic).iter().map(move |(name, kind)| (topic, *name, *kind)))
}

#[rustfmt::skip]
fn max_of(kind: FieldKind) -> Option<usize> {
    match kind { Id => Some(255), Required(max) | Text(max) => max, _ => None, }
}

fn is_text(kind: FieldKind) -> bool {
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
CallStatus: |status| status.name().to_owned(), BTreeMap<String, String>: |members| {
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
        FieldKind::Status => Some((*name, "\"initiated\"".to_owned())),
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
