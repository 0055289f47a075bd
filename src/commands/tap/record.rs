//! One record with its outcome, as a line or as JSON. No I/O.

use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};

use super::effects::Effects;
use crate::cli::tap::TapArgs;
use crate::commands::view::{RecordView, printable};
use crate::event::Unusable;
use crate::mask;
use crate::record::Record;

/// A record with its outcome.
pub struct Judged<'a> {
    /// The name of the topic, with its prefix.
    pub topic_name: String,
    /// The record.
    pub record: &'a Record,
    /// The reason why the record is unusable; `None` where it can be used.
    pub unusable: Option<Unusable>,
    /// The effects of a usable record, with `--effects`.
    pub effects: Option<Effects>,
}

impl<'a> Judged<'a> {
    /// `clone.ready/3@4711`
    pub fn place(&self) -> String {
        format!("{}/{}@{}", self.topic_name, self.record.partition, self.record.offset)
    }

    /// The masked view of the record.
    pub fn view(&self) -> RecordView<'a> {
        let record = self.record;
        let message = self.unusable.as_ref().map(|unusable| unusable.message.as_str());
        RecordView::new(record.key.as_deref(), record.value.as_deref(), &record.headers, message, false)
    }

    /// The CloudEvents `type`; the topic's name where there is none.
    pub fn event_type(&self) -> String {
        self.view().event_type().unwrap_or_else(|| self.record.topic.name().to_owned())
    }

    /// Whether the filters let it through.
    pub fn passes(&self, filters: &TapArgs) -> bool {
        let reason = self.unusable.as_ref().map(|unusable| unusable.reason);
        filters.event_type.as_ref().is_none_or(|wanted| *wanted == self.event_type())
            && filters.reason.is_none_or(|wanted| reason == Some(wanted))
            && !(filters.usable && reason.is_some())
            && !(filters.unusable && reason.is_none())
    }

    /// `usable`, or the reason with its message.
    pub fn outcome(&self) -> String {
        match &self.unusable {
            None => "usable".to_owned(),
            Some(Unusable { reason, message }) => printable(&format!("{reason}: {message}")),
        }
    }

    /// A line for a person; the effects follow on a second line.
    pub fn line(&self) -> String {
        let (at, place, outcome) = (time(self.record.timestamp), self.place(), self.outcome());
        let rows = self.effects.as_ref().map_or_else(String::new, |effects| format!("\n    rows: {effects}"));
        let at = at.unwrap_or_else(|| "no timestamp".to_owned());
        format!("{at} {place} [{outcome}] {}{rows}", self.view().line())
    }

    /// The record as JSON.
    pub fn object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        let unusable = self.unusable.as_ref();
        let own = [
            ("topic", json!(self.topic_name)),
            ("partition", json!(self.record.partition)),
            ("offset", json!(self.record.offset)),
            ("timestamp", json!(time(self.record.timestamp))),
            ("type", json!(mask::id(&self.event_type()))),
            ("outcome", json!(if unusable.is_some() { "unusable" } else { "usable" })),
            ("reason", json!(unusable.map(|unusable| unusable.reason.name()))),
            ("message", json!(unusable.map(|unusable| &unusable.message))),
        ];
        object.extend(own.map(|(name, value)| (name.to_owned(), value)));
        if let Some(effects) = &self.effects {
            object.insert("rows".to_owned(), json!(effects.rows));
        }
        object.extend(self.view().members());
        object
    }
}

/// Milliseconds since 1970 as RFC 3339; `None` for a missing timestamp, or one that RFC 3339 cannot express.
pub fn time(millis: i64) -> Option<String> {
    let time = DateTime::from_timestamp_millis(millis).filter(|_| millis >= 0)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::event::Reason;
    use crate::record::{Header, Topic};

    fn record(headers: Vec<Header>) -> Record {
        Record {
            topic: Topic::CallLifecycle,
            partition: 2,
            offset: 7,
            timestamp: 1_768_471_212_000,
            key: Some(b"+12025550143".to_vec()),
            value: Some(br#"{"call_id":"c","transcript":"Jane"}"#.to_vec()),
            headers,
        }
    }

    fn judged(record: &Record, reason: Option<Reason>) -> Judged<'_> {
        let unusable = reason.map(|reason| Unusable::new(reason, "status is missing"));
        Judged { topic_name: "p.call.lifecycle".into(), record, unusable, effects: None }
    }

    #[test]
    fn a_record_is_one_masked_line_with_its_outcome() {
        let record = record(Vec::new());
        let mut judged = judged(&record, Some(Reason::MissingField));
        assert_eq!(
            judged.line(),
            "2026-01-15T10:00:12.000Z p.call.lifecycle/2@7 [missing_field: status is missing] +1********43 \
             {\"call_id\":\"c\",\"transcript\":\"<text, 4 characters>\"}"
        );
        judged.unusable = None;
        judged.effects = Some(Effects::default());
        assert!(judged.line().contains("@7 [usable] ") && judged.line().ends_with("\n    rows: none"));
        assert_eq!(time(-1), None);
    }

    #[test]
    fn filters_look_at_type_and_outcome() {
        let plain = record(Vec::new());
        let typed = record(vec![Header::new("ce_type", "clone.ready")]);
        let (usable, unusable) = (judged(&plain, None), judged(&typed, Some(Reason::WrongTypeForTopic)));
        let of_type = |wanted: &str| TapArgs { event_type: Some(wanted.into()), ..TapArgs::default() };
        let of_reason = |reason| TapArgs { reason: Some(reason), ..TapArgs::default() };
        for (filters, expected) in [
            (TapArgs::default(), [true, true]),
            (TapArgs { usable: true, ..TapArgs::default() }, [true, false]),
            (TapArgs { unusable: true, ..TapArgs::default() }, [false, true]),
            (of_type("call.lifecycle"), [true, false]),
            (of_type("clone.ready"), [false, true]),
            (of_reason(Reason::WrongTypeForTopic), [false, true]),
            (of_reason(Reason::Tombstone), [false, false]),
        ] {
            assert_eq!([usable.passes(&filters), unusable.passes(&filters)], expected, "{filters:?}");
        }
    }
}
