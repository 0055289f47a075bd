//! Likely mistakes in usable records: the daemon accepts them, but the author probably meant something else. No I/O.

use serde_json::{Map, Value};
use strsim::damerau_levenshtein;

use crate::event::{Event, Time, field_names};
use crate::mask;
use crate::record::Topic;

/// An event time further in the future, in microseconds, is most likely in another unit or time zone.
const MAX_FUTURE_MICROS: i64 = 86_400_000_000;

/// A longer `ttl_seconds` is most likely in milliseconds: an hour in milliseconds is 41 days in seconds.
const MAX_TTL_SECONDS: f64 = 30.0 * 86_400.0;

/// A likely mistake.
#[derive(Debug, PartialEq, Eq)]
pub struct Advice {
    /// The field, as the record names it.
    pub field: String,
    /// The likely mistake and its remedy; quotes no value.
    pub message: String,
}

fn advice(field: &str, message: impl Into<String>) -> Advice {
    Advice { field: mask::id(field), message: message.into() }
}

/// The likely mistakes in a record's value, at `now`. `event` is the decoded value, if it is usable.
pub fn on(topic: Topic, value: &[u8], event: Option<&Event>, now: Time) -> Vec<Advice> {
    // No advice on the names of a value that serde_json cannot hold, such as an unknown number too large for a double.
    let value = serde_json::from_slice(value).unwrap_or(Value::Null);
    let fields = match value.get("specversion") {
        None | Some(Value::Null) => value.as_object(),
        Some(_) => value.get("data").and_then(Value::as_object),
    };
    let none = Map::new();
    let fields = fields.unwrap_or(&none);
    let mut all: Vec<Advice> = fields.keys().filter_map(|name| misspelt(topic, name)).collect();
    if let Some(event) = event {
        all.extend(ahead(event, now));
        all.extend(caller(event));
        let ttl_seconds = fields.get("ttl_seconds").and_then(Value::as_f64);
        if let Some(ttl) = ttl_seconds.filter(|ttl| topic == Topic::CloneReady && *ttl > MAX_TTL_SECONDS) {
            let days = ttl / 86_400.0;
            let message =
                format!("is {days:.0} days: it counts seconds; divide by 1000 if it is in milliseconds");
            all.push(advice("ttl_seconds", message));
        }
    }
    all
}

fn misspelt(topic: Topic, name: &str) -> Option<Advice> {
    let likely = likely(topic, name)?;
    Some(advice(name, format!("is not a field of {topic} and is ignored: perhaps {likely} is meant")))
}

/// The known field with the name closest to an unknown one, if it is close enough.
fn likely(topic: Topic, name: &str) -> Option<&'static str> {
    let names = field_names(topic);
    if names.contains(&name) || matches!(name, "specversion" | "type" | "time" | "data") {
        return None;
    }
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let near = |field: &&'static str| {
        let (name, plain_field) = (plain(name), plain(field));
        // one typing error in a short name, two in a longer one
        let most = if plain_field.len() < 10 { 1 } else { 2 };
        let distance = damerau_levenshtein(&name, &plain_field);
        (distance <= most).then_some((distance, *field))
    };
    names.iter().chain(&["specversion"]).filter_map(near).min().map(|(_, field)| field)
}

fn ahead(event: &Event, now: Time) -> Option<Advice> {
    let (field, time) = match event {
        Event::Ready(event) => ("ready_at", event.ready_at),
        Event::Failed(event) => ("failed_at", event.failed_at),
        Event::Transfer(event) => ("transferred_at", event.transferred_at),
        Event::Call(event) => ("occurred_at", event.occurred_at),
        Event::Mapping(event) => ("updated_at", event.updated_at),
    };
    let ahead = time.micros().saturating_sub(now.micros());
    let days = ahead / MAX_FUTURE_MICROS;
    (ahead > MAX_FUTURE_MICROS).then(|| {
        let noun = if days == 1 { "day" } else { "days" };
        advice(field, format!("is {days} {noun} ahead of now: check the year, the unit and the time zone"))
    })
}

fn caller(event: &Event) -> Option<Advice> {
    let caller_id = match event {
        Event::Ready(event) => Some(&event.caller_id),
        Event::Failed(event) => Some(&event.caller_id),
        Event::Mapping(event) => Some(&event.caller_id),
        Event::Call(event) => event.caller_id.as_ref(),
        Event::Transfer(_) => None,
    };
    let caller_id = caller_id.filter(|caller_id| !is_e164(caller_id))?;
    let written = mask::caller(caller_id);
    let message =
        format!("is no phone number in E.164 form ({written}): write + and the digits, like +12025550143");
    Some(advice("caller_id", message))
}

/// Whether a text is `+` and 2 to 15 digits that do not start with 0 (ITU-T E.164).
fn is_e164(text: &str) -> bool {
    let Some(digits) = text.strip_prefix('+') else { return false };
    (2..=15).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::event::{Limits, decode};
    use crate::record::Record;

    /// 2026-01-15T10:00:00Z
    const NOW: i64 = 1_768_471_200_000;

    fn given(topic: Topic, value: &str) -> Vec<(String, String)> {
        let record = Record {
            topic,
            partition: 0,
            offset: 0,
            timestamp: NOW,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
        };
        let event = decode(&record, Limits { record_max_bytes: 1 << 20, cache_ttl_seconds: 60 }).ok();
        let advice = on(topic, value.as_bytes(), event.as_ref(), Time::from_record(NOW).unwrap());
        advice.into_iter().map(|advice| (advice.field, advice.message)).collect()
    }

    fn fields(topic: Topic, value: &str) -> Vec<String> {
        given(topic, value).into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn an_unknown_field_close_to_a_known_one_is_named_with_it() {
        for (name, likely) in [
            ("occurredAt", "occurred_at"),
            ("OCCURRED-AT", "occurred_at"),
            ("ocurred_at", "occurred_at"),
            ("callerId", "caller_id"),
            ("transcipt", "transcript"),
            ("meta_data", "metadata"),
            ("spec_version", "specversion"),
        ] {
            let value = format!(r#"{{"call_id":"c","status":"failed","{name}":1}}"#);
            let message =
                format!("is not a field of call.lifecycle and is ignored: perhaps {likely} is meant");
            assert_eq!(given(Topic::CallLifecycle, &value), [(name.to_owned(), message)]);
        }
    }

    #[test]
    fn the_fields_inside_of_an_envelope_are_looked_at_and_its_attributes_are_not() {
        let value = r#"{"specversion":"1.0","id":"1","source":"s","subject":"x","callid":1,
                        "data":{"callID":"c","call_id":"c","status":"failed"}}"#;
        assert_eq!(fields(Topic::CallLifecycle, value), ["callID"]);
    }

    #[test]
    fn a_misspelt_required_field_is_named_though_the_record_cannot_be_used() {
        assert_eq!(fields(Topic::CallLifecycle, r#"{"callId":"c","status":"failed"}"#), ["callId"]);
    }

    #[test]
    fn a_field_that_resembles_none_gets_no_advice() {
        let value =
            r#"{"call_id":"c","status":"failed","region":"eu","trace":"t","date":1,"id":1,"huge":[1]}"#;
        assert!(given(Topic::CallLifecycle, value).is_empty());
    }

    #[test]
    fn an_event_time_over_a_day_ahead_is_named() {
        let at = |at: &str| format!(r#"{{"call_id":"c","status":"failed","occurred_at":"{at}"}}"#);
        assert!(given(Topic::CallLifecycle, &at("2026-01-16T10:00:00Z")).is_empty());
        let ahead = given(Topic::CallLifecycle, &at("2027-01-15T10:00:01Z"));
        assert_eq!(ahead.first().unwrap().0, "occurred_at");
        assert!(ahead.first().unwrap().1.starts_with("is 365 days ahead of now"), "{ahead:?}");
    }

    #[test]
    fn a_ttl_that_looks_like_milliseconds_is_named() {
        let ttl = |ttl: &str| {
            format!(
                r#"{{"caller_id":"+12025550143","greeting_call_id":"g","cloned_voice_id":"v","ttl_seconds":{ttl}}}"#
            )
        };
        assert!(given(Topic::CloneReady, &ttl("2592000")).is_empty(), "30 days");
        let day_in_milliseconds = given(Topic::CloneReady, &ttl("86400000"));
        assert!(
            day_in_milliseconds.first().unwrap().1.starts_with("is 1000 days"),
            "{day_in_milliseconds:?}"
        );
        assert_eq!(fields(Topic::CloneReady, &ttl("3600000")), ["ttl_seconds"]);
    }

    #[test]
    fn a_caller_id_that_is_no_phone_number_in_e164_form_is_named_and_not_quoted() {
        let caller = |caller: &str| {
            format!(r#"{{"caller_id":"{caller}","greeting_call_id":"g","error_message":"e"}}"#)
        };
        for good in ["+12025550143", "+4930123456", "+290000"] {
            assert!(given(Topic::CloneFailed, &caller(good)).is_empty(), "{good}");
        }
        for bad in
            ["12025550143", "+1 202 555 0143", "+02025550143", "anonymous", "+1234567890123456", "+", "+49x"]
        {
            let advice = given(Topic::CloneFailed, &caller(bad));
            let (field, message) = advice.first().unwrap();
            assert_eq!(field, "caller_id");
            assert!(!message.contains(&format!("({bad})")), "{message}");
        }
    }
}
