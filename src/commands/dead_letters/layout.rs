//! One letter laid out for a person, the place of the fault marked; masked unless it is to be revealed. No I/O.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::mask;
use crate::record::Header;
use crate::store::letters::Letter;

/// Characters of a faulty line that are shown before the fault, and behind it.
const BEFORE: usize = 40;
const BEHIND: usize = 20;

/// Where a record's fault is, as far as its message says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A field of the event that is there.
    Field(String),
    /// A place of the value's text, from 1.
    Text { line: usize, column: usize },
}

/// Reads the place of the fault from the message.
pub fn fault(message: &str, value: Option<&Value>) -> Option<Fault> {
    if let Some((_, rest)) = message.split_once("(line ") {
        let (line, rest) = rest.split_once(", column ")?;
        let (column, _) = rest.split_once(')')?;
        return Some(Fault::Text { line: line.parse().ok()?, column: column.parse().ok()? });
    }
    let value = value?;
    let is_field = |word: &&str| value.get(word).or_else(|| value.get("data")?.get(word)).is_some();
    let words = message.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| !word.is_empty()).find(is_field).map(|word| Fault::Field(word.to_owned()))
}

/// The value as JSON, where it is JSON.
pub fn parsed(letter: &Letter) -> Option<Value> {
    serde_json::from_slice(letter.value.as_deref()?).ok()
}

/// The whole letter.
pub fn text(letter: &Letter, reveal: bool) -> String {
    let head = &letter.head;
    let value = parsed(letter);
    let fault = fault(&head.message, value.as_ref());
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line("id", &head.id.to_string());
    line("place", &head.place());
    line("timestamp", head.record_timestamp.as_deref().unwrap_or("none"));
    line("reason", &head.reason);
    line("message", &printable(&head.message));
    line("made", &head.created_at);
    let resolved = head.resolved_at.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
    line("state", &format!("{}{resolved}", head.state()));
    if let Some(note) = &head.note {
        line("note", &printable(note));
    }
    if let Some(at) = &head.last_tried_at {
        line("tried", &format!("{} times, the last one at {at}", head.tries));
    }
    let published = head.published_at.as_ref().map_or("not yet".to_owned(), |at| format!("at {at}"));
    line("published", &published);
    if let Some(why) = &head.unpublishable {
        line("refused", &printable(why));
    }
    for (name, value) in origin(letter, value.as_ref()) {
        line(name, &printable(&value));
    }
    line("key", &printable(&key(letter, reveal)));
    for Header { name, value } in letter.headers() {
        let shown = header_value(&name, value.as_deref(), reveal);
        line("header", &printable(&format!("{}: {shown}", header_name(&name, reveal))));
    }
    text.push_str(value_text(letter, value.as_ref(), fault.as_ref(), reveal).trim_end());
    text
}

/// The same for a program.
pub fn object(letter: &Letter, reveal: bool) -> Value {
    let value = parsed(letter);
    let mut object = json!(letter.head);
    let place = match fault(&letter.head.message, value.as_ref()) {
        None => Value::Null,
        Some(Fault::Field(field)) => json!({ "field": field }),
        Some(Fault::Text { line, column }) => json!({ "line": line, "column": column }),
    };
    let headers: Vec<Value> = letter
        .headers()
        .iter()
        .map(|header| {
            let value = header.value.as_deref();
            json!({
                "name": header_name(&header.name, reveal),
                "value": value.map(|value| header_value(&header.name, Some(value), reveal)),
            })
        })
        .collect();
    if let Some(members) = object.as_object_mut() {
        for (name, value) in origin(letter, value.as_ref()) {
            members.insert(name.replace(' ', "_"), json!(value));
        }
        members.insert("fault".into(), place);
        members.insert("headers".into(), json!(headers));
        members.insert("key".into(), json!(letter.key.as_ref().map(|_| key(letter, reveal))));
        let (name, value) = value_member(letter, value.as_ref(), reveal);
        members.insert(name.into(), value);
    }
    object
}

fn value_member(letter: &Letter, parsed: Option<&Value>, reveal: bool) -> (&'static str, Value) {
    let Some(bytes) = letter.value.as_deref() else { return ("value", Value::Null) };
    match (parsed, reveal) {
        (Some(value), false) => ("value", mask::event(value)),
        (Some(value), true) => ("value", value.clone()),
        (None, false) => ("value", json!(no_json(bytes))),
        (None, true) => ("value_base64", json!(STANDARD.encode(bytes))),
    }
}

fn no_json(bytes: &[u8]) -> String {
    let what = if std::str::from_utf8(bytes).is_ok() { "JSON" } else { "UTF-8" };
    format!("<{} bytes that are no {what}>", bytes.len())
}

/// The trace and the CloudEvents attributes by which a producer finds its event.
fn origin(letter: &Letter, value: Option<&Value>) -> Vec<(&'static str, String)> {
    let headers = letter.headers();
    let header = |name: &str| {
        let header = headers.iter().rfind(|header| header.name == name.as_bytes())?;
        String::from_utf8(header.value.clone()?).ok()
    };
    let structured = value.filter(|value| value.get("specversion").is_some());
    let attribute = |name: &str| structured?.get(name)?.as_str().map(str::to_owned);
    let trace = header("traceparent").filter(|text| mask::is_traceparent(text));
    let trace = trace.and_then(|text| text.split('-').nth(1).map(str::to_owned));
    let id = header("ce_id").or_else(|| attribute("id")).map(|text| mask::id(&text));
    let source = header("ce_source").or_else(|| attribute("source")).map(|text| mask::id(&text));
    let all = [("trace id", trace), ("ce_id", id), ("ce_source", source)];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn key(letter: &Letter, reveal: bool) -> String {
    match letter.key.as_deref() {
        None => "null".to_owned(),
        Some(key) if reveal => String::from_utf8_lossy(key).into_owned(),
        Some(key) => mask::key(key),
    }
}

fn header_name(name: &[u8], reveal: bool) -> String {
    let name = String::from_utf8_lossy(name);
    if reveal { name.into_owned() } else { mask::id(&name) }
}

fn header_value(name: &[u8], value: Option<&[u8]>, reveal: bool) -> String {
    match value {
        None => "null".to_owned(),
        Some(value) if reveal => String::from_utf8_lossy(value).into_owned(),
        Some(value) => mask::header(name, value),
    }
}

fn value_text(letter: &Letter, parsed: Option<&Value>, fault: Option<&Fault>, reveal: bool) -> String {
    let Some(bytes) = letter.value.as_deref() else { return "value      null".to_owned() };
    let Some(value) = parsed else {
        let text = String::from_utf8_lossy(bytes);
        let mut shown = format!("value      {}\n", no_json(bytes));
        if reveal {
            let _ = writeln!(shown, "{}", printable(&text));
        }
        if let Some(Fault::Text { line, column }) = fault {
            shown.push_str(&excerpt(&text, *line, *column, reveal));
        }
        return shown;
    };
    let shown = if reveal { value.clone() } else { mask::event(value) };
    let pretty = serde_json::to_string_pretty(&shown).unwrap_or_default();
    let mut text = "value\n".to_owned();
    let marked = match fault {
        Some(Fault::Field(field)) => format!("\"{field}\":"),
        _ => String::new(),
    };
    for line in pretty.lines() {
        let is_fault = !marked.is_empty() && line.trim_start().starts_with(&marked);
        let _ = writeln!(text, "{} {}", if is_fault { '>' } else { ' ' }, printable(line));
    }
    text
}

/// A line of the value around the fault, with a caret below it.
fn excerpt(text: &str, line: usize, column: usize, reveal: bool) -> String {
    let Some(found) = text.lines().nth(line.saturating_sub(1)) else { return String::new() };
    // columns count bytes
    let before = found.char_indices().take_while(|(at, _)| *at + 1 < column).count();
    let skipped = before.saturating_sub(BEFORE);
    let part: String = found.chars().skip(skipped).take(before - skipped + 1 + BEHIND).collect();
    let part = if reveal { printable(&part).replace('\n', " ") } else { mask::shape(&part) };
    format!("line {line}, column {column}:\n  {part}\n  {}^\n", " ".repeat(before - skipped))
}

/// A text without the control characters that a terminal obeys.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\n' && letter != '\t' {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_place_of_the_fault() {
        let value = json!({ "specversion": "1.0", "data": { "status": "x" }, "call_id": 5 });
        let field = |message| fault(message, Some(&value));
        assert_eq!(field("status is none of initiated"), Some(Fault::Field("status".into())));
        assert_eq!(field("call_id is no text"), Some(Fault::Field("call_id".into())));
        assert_eq!(field("caller_id is missing"), None);
        let of_text = fault("the value is no JSON (line 3, column 17)", None);
        assert_eq!(of_text, Some(Fault::Text { line: 3, column: 17 }));
    }

    #[test]
    fn an_excerpt_points_at_the_fault_and_shows_only_the_shape() {
        assert_eq!(
            excerpt("{\n\"name\": Jane}", 2, 9, false),
            "line 2, column 9:\n  \"xxxx\": xxxx}\n          ^\n"
        );
        assert!(excerpt("{\"name\": Jane}", 1, 10, true).contains("Jane"));
        assert_eq!(excerpt("{}", 5, 1, true), "");
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(printable("a\u{1b}[31m\tb"), "a\\u{1b}[31m\tb");
    }
}
