//! Masks events for display: phone numbers are masked, other texts replaced by their length. No I/O.

use serde_json::{Map, Value, json};

use crate::event::Time;

/// Minimum number of digits of a phone number.
const MIN_PHONE_DIGITS: usize = 7;

/// Fields that hold an id. A phone number in an id is masked.
const IDS: [&str; 12] = [
    "greeting_call_id",
    "agent_call_id",
    "cloned_voice_id",
    "call_id",
    "threecx_call_id",
    "account_id",
    "id",
    "source",
    "type",
    "specversion",
    "datacontenttype",
    "subject",
];
const TIMES: [&str; 10] = [
    "ready_at",
    "clone_created_at",
    "failed_at",
    "transferred_at",
    "occurred_at",
    "call_started_at",
    "call_ended_at",
    "updated_at",
    "time",
    "deleted_at",
];
const STATUSES: [&str; 3] = ["initiated", "completed", "failed"];

/// Headers without personal data, except for phone numbers in them.
const HEADERS: [&str; 9] = [
    "content-type",
    "ce_specversion",
    "ce_type",
    "ce_source",
    "ce_id",
    "ce_time",
    "traceparent",
    "ce_traceparent",
    "ce_datacontenttype",
];

/// Masks the middle of every possible phone number in a text: `+1********43`.
pub fn numbers(text: &str) -> String {
    if uuid::Uuid::try_parse(text).is_ok() || Time::parse(text).is_ok() {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    let mut run = String::new();
    for letter in text.chars() {
        let of_a_number = letter.is_numeric() || (letter == '+' && run.is_empty());
        if of_a_number || (!run.is_empty() && matches!(letter, ' ' | '-' | '.' | '(' | ')' | '/')) {
            run.push(letter);
            continue;
        }
        shown.push_str(&masked_run(&std::mem::take(&mut run)));
        shown.push(letter);
    }
    shown.push_str(&masked_run(&run));
    shown
}

fn masked_run(run: &str) -> String {
    let digits = run.chars().filter(|letter| letter.is_numeric()).count();
    if digits < MIN_PHONE_DIGITS {
        return run.to_owned();
    }
    let mut nth = 0;
    let mask = |letter: char| {
        if !letter.is_numeric() {
            return letter;
        }
        nth += 1;
        if nth == 1 || nth > digits - 2 { letter } else { '*' }
    };
    run.chars().map(mask).collect()
}

/// `<text, 312 characters>`
pub fn hidden(text: &str) -> String {
    let count = text.chars().count();
    format!("<text, {count} {}>", if count == 1 { "character" } else { "characters" })
}

/// A name or an id with phone numbers masked; any other text is replaced by its length.
pub fn id(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.:/+*".contains(letter);
    if text.len() <= 128 && text.chars().all(plain) { numbers(text) } else { hidden(text) }
}

/// A caller: a phone number is masked, anything else replaced by its length.
pub fn caller(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_digit() || "+-. ()/".contains(letter);
    let digits = text.chars().filter(char::is_ascii_digit).count();
    if digits >= MIN_PHONE_DIGITS && text.len() <= 40 && text.chars().all(plain) {
        numbers(text)
    } else {
        hidden(text)
    }
}

/// The key of a record, which is a caller or an id.
pub fn key(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if uuid::Uuid::try_parse(text).is_ok() => text.to_owned(),
        Ok(text) => caller(text),
        Err(_) => format!("<{} bytes>", bytes.len()),
    }
}

/// The value of a header.
pub fn header(name: &[u8], value: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(value) else { return format!("<{} bytes>", value.len()) };
    let known = HEADERS.iter().find(|known| known.as_bytes() == name);
    match known {
        Some(&("traceparent" | "ce_traceparent")) if is_traceparent(text) => text.to_owned(),
        Some(&"content-type") => id(&text.replace("; ", ";")),
        Some(_) => id(text),
        None => hidden(text),
    }
}

/// Whether a text is a trace context; the long numbers in it are not phone numbers.
pub fn is_traceparent(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [2, 32, 16, 2] && text.chars().all(|letter| letter.is_ascii_hexdigit() || letter == '-')
}

/// An event: ids, times and short numbers unchanged, phone numbers masked, anything else replaced by its size.
pub fn event(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, value)| (id(name), member(name, value))).collect())
        }
        Value::String(text) => json!(hidden(text)),
        Value::Array(items) => json!(format!("<array, {} items>", items.len())),
        Value::Number(_) => json!("<number>"),
        other => other.clone(),
    }
}

fn member(name: &str, value: &Value) -> Value {
    match value {
        Value::Object(_) if name == "data" => event(value),
        Value::Object(members) => json!(format!("<object, {} members>", Map::len(members))),
        Value::Array(items) => json!(format!("<array, {} items>", items.len())),
        Value::String(text) if text.is_empty() => value.clone(),
        Value::String(text) => json!(match name {
            "caller_id" => caller(text),
            "status" if STATUSES.contains(&text.as_str()) => text.clone(),
            _ if IDS.contains(&name) => id(text),
            _ if TIMES.contains(&name) && Time::parse(text).is_ok() => text.clone(),
            _ => hidden(text),
        }),
        Value::Number(number) => {
            let text = number.to_string();
            let is_long = text.chars().filter(char::is_ascii_digit).count() >= MIN_PHONE_DIGITS;
            match is_long {
                true if TIMES.contains(&name) => value.clone(),
                true => json!(numbers(&text)),
                false => value.clone(),
            }
        }
        other => other.clone(),
    }
}

/// The shape of a text: every letter and digit becomes `x`.
pub fn shape(text: &str) -> String {
    let shaped = |letter: char| match letter {
        '\n' | '\r' | '\t' => ' ',
        letter if letter.is_ascii_punctuation() || letter == ' ' => letter,
        _ => 'x',
    };
    text.chars().map(shaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phone_numbers_are_masked_wherever_they_are() {
        assert_eq!(numbers("+12025550143"), "+1********43");
        assert_eq!(numbers("conv-+12025550143-x"), "conv-+1********43-x");
        assert_eq!(caller("+1 (202) 555-0143"), "+1 (***) ***-**43");
        assert_eq!(caller("Jane Doe"), "<text, 8 characters>");
        assert_eq!(numbers("conv-123"), "conv-123");
        let uuid = "550e8400-e29b-41d4-a716-446655440000";
        assert_eq!(numbers(uuid), uuid);
        assert_eq!(numbers("2026-01-15T10:00:00Z"), "2026-01-15T10:00:00Z");
        assert_eq!(key(b"+12025550143"), "+1********43");
        assert_eq!(key(b"\xff\xfe"), "<2 bytes>");
    }

    #[test]
    fn of_an_event_only_what_is_no_personal_data_is_shown() {
        let event = event(&json!({
            "call_id": "conv-1", "caller_id": "+12025550143", "status": "completed", "transcript": "Hello there",
            "metadata": {"name": "Jane"}, "occurred_at": "2026-01-15T10:00:00Z", "duration_seconds": 90,
            "call_ended_at": "tomorrow, says Jane", "note": 12_025_550_143_i64, "voice_name": "",
            "data": {"error_message": "no", "status": "Jane"},
        }));
        assert_eq!(
            event,
            json!({
                "call_id": "conv-1", "caller_id": "+1********43", "status": "completed",
                "transcript": "<text, 11 characters>", "metadata": "<object, 1 members>",
                "occurred_at": "2026-01-15T10:00:00Z", "duration_seconds": 90,
                "call_ended_at": "<text, 19 characters>", "note": "1********43", "voice_name": "",
                "data": {"error_message": "<text, 2 characters>", "status": "<text, 4 characters>"},
            })
        );
        assert_eq!(shape("{\"a\":Jäne 1}\n"), "{\"x\":xxxx x} ");
    }

    #[test]
    fn of_headers_only_known_ones_are_shown() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(header(b"traceparent", trace.as_bytes()), trace);
        assert_eq!(header(b"ce_type", b"clone.ready"), "clone.ready");
        assert_eq!(header(b"x-user", b"Jane"), "<text, 4 characters>");
        assert_eq!(header(b"ce_source", b"/calls/+12025550143"), "/calls/+1********43");
    }
}
