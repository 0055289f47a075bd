//! A simulated event, and its records.

use chrono::{DateTime, FixedOffset, Offset, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::defects::fields;
use super::dice::Dice;
use crate::record::{Header, Outgoing, Topic};

/// An event before it is written to a record.
#[derive(Clone)]
pub(super) struct Occurrence {
    pub(super) topic: Topic,
    pub(super) key: String,
    /// Microseconds since 1970.
    pub(super) at: i64,
    pub(super) body: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Envelope {
    Bare,
    Binary,
    Structured,
}

impl Occurrence {
    pub(super) fn record(&self, dice: &mut Dice, envelope: Envelope, kind: &str) -> Outgoing {
        let body = Value::Object(self.body.clone());
        if envelope == Envelope::Bare {
            return self.outgoing(Some(body.to_string().into_bytes()), Vec::new());
        }
        let id = dice.token("evt_", 22);
        let time = rfc3339(self.at, 0);
        let attributes =
            [("specversion", "1.0"), ("id", &id), ("source", "/greeter"), ("type", kind), ("time", &time)];
        if envelope == Envelope::Binary {
            let mut headers = vec![header("content-type", "application/json")];
            headers.extend(attributes.map(|(name, value)| header(&format!("ce_{name}"), value)));
            return self.outgoing(Some(body.to_string().into_bytes()), headers);
        }
        let mut whole: Map<_, _> =
            attributes.map(|(name, value)| (name.to_owned(), json!(value))).into_iter().collect();
        whole.insert("data".to_owned(), body);
        // Without the header, `specversion` in the body marks an envelope.
        let told = dice.chance(700).then(|| header("content-type", "application/cloudevents+json"));
        self.outgoing(Some(Value::Object(whole).to_string().into_bytes()), told.into_iter().collect())
    }

    fn outgoing(&self, value: Option<Vec<u8>>, headers: Vec<Header>) -> Outgoing {
        let key = Some(self.key.as_bytes().to_vec());
        Outgoing { topic: self.topic.name(), key, value, headers, timestamp: None }
    }

    /// Returns the same event sent again with greater contents.
    pub(super) fn corrected(&self, dice: &mut Dice) -> Outgoing {
        let mut event = self.clone();
        let (time, integers, _) = fields(self.topic);
        let moved = if self.topic == Topic::CloneTransfer { 200_000 } else { 0 };
        if moved > 0 || !event.body.contains_key(time) {
            event.body.insert(time.to_owned(), dice.time(self.at + moved));
        }
        for (name, value) in &mut event.body {
            if let Some(number) = value.as_i64().filter(|_| integers.contains(&name.as_str())) {
                *value = json!(number + dice.range(1, 500));
            } else if let (Value::String(text), "error_message" | "transcript" | "voice_name") =
                (value, name.as_str())
            {
                text.push_str(" (corrected)");
            }
        }
        event.record(dice, Envelope::Bare, self.topic.name())
    }
}

fn header(name: &str, value: &str) -> Header {
    Header::new(name, value)
}

pub(super) fn rfc3339(micros: i64, hours_east: i32) -> String {
    let utc = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    let zone = FixedOffset::east_opt(hours_east * 3600).unwrap_or(Utc.fix());
    utc.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
