//! Unusable records, each with one defect.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::dice::Dice;
use super::event::{Envelope, Occurrence};
use crate::record::{Outgoing, Topic};

/// The fields of a topic that defects and corrections change: its time, its integers, and its required texts with their
/// maximum lengths in characters.
pub(super) type Fields = (&'static str, &'static [&'static str], &'static [(&'static str, usize)]);

#[rustfmt::skip]
pub(super) fn fields(topic: Topic) -> Fields {
    match topic {
        Topic::CloneReady => ("ready_at", &["clone_duration_ms", "sample_file_size_bytes"],
            &[("caller_id", 255), ("greeting_call_id", 255), ("cloned_voice_id", 255)]),
        Topic::CloneFailed => ("failed_at", &["api_response_time_ms", "sample_file_size_bytes"],
            &[("caller_id", 255), ("greeting_call_id", 255)]),
        Topic::CloneTransfer => ("transferred_at", &[],
            &[("greeting_call_id", 255), ("agent_call_id", 255), ("cloned_voice_id", 255)]),
        Topic::CallLifecycle => ("occurred_at", &["duration_seconds"], &[("call_id", 255)]),
        Topic::CallerVoiceMapping => ("updated_at", &[], &[("caller_id", 255), ("voice_sample_url", 2048)]),
    }
}

/// The place of a defect, and the raw JSON or the change.
pub(super) type Defect = (&'static str, &'static [u8]);

/// The defects of unusable records by reason; records take the reasons in turn. The other two reasons of the contract,
/// `too_large` and `rejected_by_database`, depend on settings and on the database.
///
/// `TEXT`, `INTEGER` and `TIME` stand for one of the topic's fields, a name is a field of `call.lifecycle`, and `VALUE`
/// is the whole value. With `RECORD`, the second element is a change made by [`Occurrence::spoiled`].
#[rustfmt::skip]
pub(super) const DEFECTS: [(&str, &[Defect]); 9] = [
    ("invalid_json", &[("RECORD", b"cut off"), ("RECORD", b"byte order mark"), ("RECORD", b"two"),
        ("RECORD", b"twice"), ("TEXT", b"\"M\xfcller\""), ("TEXT", br#""\ud83d""#), ("TIME", b"1e999"),
        ("metadata", b"deep")]),
    ("not_an_object", &[("RECORD", b"in a list"), ("RECORD", b"as text"), ("VALUE", b"42"),
        ("VALUE", br#"{"specversion":"1.0","id":"1","source":"/greeter"}"#),
        ("VALUE", br#"{"specversion":"1.0","id":"1","source":"/greeter","data":"e30="}"#)]),
    ("missing_field", &[("RECORD", b"left out"), ("TEXT", b"null"), ("TEXT", b"\"\""),
        ("TEXT", br#"" \t\u2003""#), ("status", b"null")]),
    ("invalid_type", &[("TEXT", b"42"), ("TEXT", b"{}"), ("TIME", b"true"), ("INTEGER", b"\"5\""),
        ("INTEGER", b"true"), ("metadata", b"[]")]),
    ("invalid_value", &[("TIME", b"\"yesterday\""), ("TIME", b"\"2026-02-30T10:00:00Z\""), ("TIME", b"-1"),
        ("INTEGER", b"-1"), ("INTEGER", b"1.5"), ("INTEGER", b"2147483648"), ("status", b"\"ringing\"")]),
    ("too_long", &[("TEXT", b"x"), ("TEXT", "語".as_bytes()), ("TEXT", "🙂".as_bytes())]),
    ("nul_character", &[("TEXT", br#""a\u0000b""#), ("transcript", br#""Agent: \u0000""#),
        ("metadata", br#"{"tags":["ok",{"\u0000":1}]}"#)]),
    ("tombstone", &[("RECORD", b"none")]),
    ("wrong_type_for_topic", &[("RECORD", b"as it is")]),
];

impl Occurrence {
    /// Returns the record of the event with exactly one defect, of this reason.
    pub(super) fn spoiled(&self, dice: &mut Dice, reason: &str, defects: &[Defect]) -> Outgoing {
        let (time, integers, texts) = fields(self.topic);
        let (text, limit) = dice.pick(texts);
        let mut envelope = if dice.chance(300) { Envelope::Binary } else { Envelope::Bare };
        let mut kind = self.topic.name();
        if reason == "wrong_type_for_topic" {
            envelope = if dice.chance(500) { Envelope::Binary } else { Envelope::Structured };
            kind = dice.pick(&Topic::ALL.map(Topic::name));
            kind = if kind == self.topic.name() { "clone.expired" } else { kind };
        }
        let mut record = self.record(dice, envelope, kind);
        let Some(whole) = record.value.take() else { return record };
        let of_topic = |(field, raw): &Defect| match *field {
            "TEXT" => Some((text, *raw)),
            "TIME" => Some((time, *raw)),
            "INTEGER" => integers.first().map(|name| (*name, *raw)),
            "RECORD" | "VALUE" => Some((*field, *raw)),
            name => (self.topic == Topic::CallLifecycle).then_some((name, *raw)),
        };
        let defects: Vec<_> = defects.iter().filter_map(of_topic).collect();
        record.value = match dice.pick(&defects) {
            ("RECORD", b"cut off") => Some(whole.iter().copied().take(whole.len() / 2).collect()),
            ("RECORD", b"byte order mark") => Some([b"\xef\xbb\xbf", whole.as_slice()].concat()),
            ("RECORD", b"two") => Some([whole.as_slice(), &whole].concat()),
            ("RECORD", b"twice") => {
                let first = format!("{{\"{text}\":\"twice\",").into_bytes();
                Some([&first, whole.get(1..).unwrap_or_default()].concat())
            }
            ("RECORD", b"in a list") => Some([b"[", whole.as_slice(), b"]"].concat()),
            ("RECORD", b"as text") => Some(json!(String::from_utf8_lossy(&whole)).to_string().into_bytes()),
            ("RECORD", b"left out") => {
                let kept = self.body.iter().filter(|(name, _)| *name != text);
                Some(json!(kept.collect::<BTreeMap<_, _>>()).to_string().into_bytes())
            }
            ("RECORD", b"none") => {
                // In the compacted topic a null value is a valid delete if its key names a caller.
                if self.topic == Topic::CallerVoiceMapping {
                    record.key = dice.pick(&[None, Some(b"\xff".as_slice()), Some(b" ")]).map(<[u8]>::to_vec);
                }
                None
            }
            ("RECORD", b"as it is") => Some(whole),
            ("VALUE", raw) => Some(raw.to_vec()),
            ("metadata", b"deep") => {
                let levels = ["{\"a\":".repeat(101), "1".to_owned(), "}".repeat(101)].concat();
                Some(self.with("metadata", levels.as_bytes()))
            }
            // The limit is in characters, not in bytes.
            (field, letter) if reason == "too_long" => {
                Some(self.with(field, &[b"\"", letter.repeat(limit + 1).as_slice(), b"\""].concat()))
            }
            (field, raw) => Some(self.with(field, raw)),
        };
        record
    }

    /// Returns the body with a field set to this raw JSON.
    fn with(&self, field: &str, raw: &[u8]) -> Vec<u8> {
        let mut body = self.body.clone();
        body.insert(field.to_owned(), json!("@here@"));
        let text = Value::Object(body).to_string();
        let (before, after) = text.split_once("\"@here@\"").unwrap_or_default();
        [before.as_bytes(), raw, after.as_bytes()].concat()
    }
}
