//! Key, headers and value of a record as text, with the fault marked; masked unless revealed. No I/O.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::mask;
use crate::record::Header;

/// Maximum number of characters shown before the fault of a line, and after it.
const MAX_BEFORE: usize = 40;
const MAX_AFTER: usize = 20;

/// The position of a record's fault, as far as its message states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultPosition {
    /// An existing field of the event.
    Field(String),
    /// An existing header.
    Header(String),
    /// The record's key.
    Key,
    /// A position in the value's text, counted from 1.
    Text { line: usize, column: usize },
}

/// The printable form of a record.
pub struct RecordView<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [Header],
    /// The value, if it is JSON.
    parsed: Option<Value>,
    fault: Option<FaultPosition>,
    reveal: bool,
}

impl<'a> RecordView<'a> {
    /// `message` is why the record is unusable, if it is.
    pub fn new(
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
        headers: &'a [Header],
        message: Option<&str>,
        reveal: bool,
    ) -> RecordView<'a> {
        let parsed: Option<Value> = value.and_then(|value| serde_json::from_slice(value).ok());
        let fault = message.and_then(|message| fault(message, parsed.as_ref(), headers));
        RecordView { key, value, headers, parsed, fault, reveal }
    }

    /// A line each for the attributes of the event's origin, the key and the headers; then the value.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<11}{value}");
        };
        for (name, value) in self.origin() {
            line(name, &printable(&value));
        }
        let mark = |is_fault: bool, plain: &str| format!("{}{plain}", if is_fault { ">" } else { "" });
        line(&mark(self.fault == Some(FaultPosition::Key), "key"), &printable(&self.key()));
        for Header { name, value } in self.headers {
            let is_fault =
                matches!(&self.fault, Some(FaultPosition::Header(faulty)) if faulty.as_bytes() == name);
            let shown = self.header_value(name, value.as_deref());
            line(&mark(is_fault, "header"), &printable(&format!("{}: {shown}", self.header_name(name))));
        }
        text.push_str(self.value_text().trim_end());
        text
    }

    /// The members of the JSON form.
    pub fn members(&self) -> Vec<(String, Value)> {
        let mut members: Vec<(String, Value)> =
            self.origin().into_iter().map(|(name, value)| (name.replace(' ', "_"), json!(value))).collect();
        let fault = match &self.fault {
            None => Value::Null,
            Some(FaultPosition::Field(field)) => json!({ "field": field }),
            Some(FaultPosition::Header(header)) => json!({ "header": header }),
            Some(FaultPosition::Key) => json!({ "key": true }),
            Some(FaultPosition::Text { line, column }) => json!({ "line": line, "column": column }),
        };
        let headers = self.headers.iter().map(|header| {
            let value = header.value.as_deref();
            json!({
                "name": self.header_name(&header.name),
                "value": value.map(|value| self.header_value(&header.name, Some(value))),
            })
        });
        members.push(("fault".into(), fault));
        members.push(("headers".into(), headers.collect()));
        members.push(("key".into(), json!(self.key.map(|_| self.key()))));
        let (name, value) = match (self.value, &self.parsed, self.reveal) {
            (None, ..) => ("value", Value::Null),
            (Some(_), Some(value), false) => ("value", mask::event(value)),
            (Some(_), Some(value), true) => ("value", value.clone()),
            (Some(bytes), None, false) => ("value", json!(no_json(bytes))),
            (Some(bytes), None, true) => ("value_base64", json!(STANDARD.encode(bytes))),
        };
        members.push((name.into(), value));
        members
    }

    /// Key and value in one line, masked.
    pub fn line(&self) -> String {
        let value = match (self.value, &self.parsed) {
            (None, _) => "null".to_owned(),
            (Some(_), Some(value)) => mask::event(value).to_string(),
            (Some(bytes), None) => no_json(bytes),
        };
        printable(&format!("{} {value}", self.key())).replace('\n', " ")
    }

    /// The CloudEvents `type`, if the record has one.
    pub fn event_type(&self) -> Option<String> {
        self.attribute("type").or_else(|| self.header("ce_type"))
    }

    /// The trace and the CloudEvents attributes with which a producer finds its event.
    fn origin(&self) -> Vec<(&'static str, String)> {
        let trace = self.header("traceparent").filter(|text| mask::is_traceparent(text));
        let trace = trace.and_then(|text| text.split('-').nth(1).map(str::to_owned));
        let id = self.header("ce_id").or_else(|| self.attribute("id")).map(|text| mask::id(&text));
        let source = self.header("ce_source").or_else(|| self.attribute("source"));
        let all = [("trace id", trace), ("ce_id", id), ("ce_source", source.map(|text| mask::id(&text)))];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// An attribute of the CloudEvents envelope.
    fn attribute(&self, name: &str) -> Option<String> {
        let envelope = self.parsed.as_ref().filter(|value| value.get("specversion").is_some())?;
        envelope.get(name)?.as_str().map(str::to_owned)
    }

    fn header(&self, name: &str) -> Option<String> {
        let header = self.headers.iter().rfind(|header| header.name == name.as_bytes())?;
        String::from_utf8(header.value.clone()?).ok()
    }

    fn key(&self) -> String {
        match self.key {
            None => "null".to_owned(),
            Some(key) if self.reveal => String::from_utf8_lossy(key).into_owned(),
            Some(key) => mask::key(key),
        }
    }

    fn header_name(&self, name: &[u8]) -> String {
        let name = String::from_utf8_lossy(name);
        if self.reveal { name.into_owned() } else { mask::id(&name) }
    }

    fn header_value(&self, name: &[u8], value: Option<&[u8]>) -> String {
        match value {
            None => "null".to_owned(),
            Some(value) if self.reveal => String::from_utf8_lossy(value).into_owned(),
            Some(value) => mask::header(name, value),
        }
    }

    fn value_text(&self) -> String {
        let Some(bytes) = self.value else { return "value      null".to_owned() };
        let Some(value) = &self.parsed else {
            let text = String::from_utf8_lossy(bytes);
            let mut shown = format!("value      {}\n", no_json(bytes));
            if self.reveal {
                let _ = writeln!(shown, "{}", printable(&text));
            }
            if let Some(FaultPosition::Text { line, column }) = self.fault {
                shown.push_str(&excerpt(&text, line, column, self.reveal));
            }
            return shown;
        };
        let shown = if self.reveal { value.clone() } else { mask::event(value) };
        let pretty = serde_json::to_string_pretty(&shown).unwrap_or_default();
        let mut text = "value\n".to_owned();
        let marked = match &self.fault {
            Some(FaultPosition::Field(field)) => format!("\"{field}\":"),
            _ => String::new(),
        };
        for line in pretty.lines() {
            let is_fault = !marked.is_empty() && line.trim_start().starts_with(&marked);
            let _ = writeln!(text, "{} {}", if is_fault { '>' } else { ' ' }, printable(line));
        }
        text
    }
}

/// Reads the position of the fault from the message.
fn fault(message: &str, value: Option<&Value>, headers: &[Header]) -> Option<FaultPosition> {
    if let Some((_, rest)) = message.split_once("(line ") {
        let (line, rest) = rest.split_once(", column ")?;
        let (column, _) = rest.split_once(')')?;
        return Some(FaultPosition::Text { line: line.parse().ok()?, column: column.parse().ok()? });
    }
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words: Vec<&str> = message.split(|letter| !is_word(letter)).filter(|word| !word.is_empty()).collect();
    let is_field = |word: &&&str| {
        value.is_some_and(|value| {
            value.get(**word).or_else(|| value.get("data").and_then(|data| data.get(**word))).is_some()
        })
    };
    if let Some(field) = words.iter().find(is_field) {
        return Some(FaultPosition::Field((*field).to_owned()));
    }
    let is_header = |name: &str| headers.iter().any(|header| header.name == name.as_bytes());
    let faulty = words.iter().copied().find(|word| is_header(word));
    let of_type =
        Some("ce_type").filter(|name| message.starts_with("the envelope's type") && is_header(name));
    if let Some(name) = faulty.or(of_type) {
        return Some(FaultPosition::Header(name.to_owned()));
    }
    message.contains("the key is").then_some(FaultPosition::Key)
}

fn no_json(bytes: &[u8]) -> String {
    let what = if std::str::from_utf8(bytes).is_ok() { "JSON" } else { "UTF-8" };
    format!("<{} bytes that are no {what}>", bytes.len())
}

/// A line of the value around the fault, with a caret below it.
fn excerpt(text: &str, line: usize, column: usize, reveal: bool) -> String {
    let Some(found) = text.lines().nth(line.saturating_sub(1)) else { return String::new() };
    // columns are bytes
    let before = found.char_indices().take_while(|(at, _)| *at + 1 < column).count();
    let skipped = before.saturating_sub(MAX_BEFORE);
    let part: String = found.chars().skip(skipped).take(before - skipped + 1 + MAX_AFTER).collect();
    let part = if reveal { printable(&part).replace('\n', " ") } else { mask::shape(&part) };
    format!("line {line}, column {column}:\n  {part}\n  {}^\n", " ".repeat(before - skipped))
}

/// A text without control characters, which a terminal would obey.
pub fn printable(text: &str) -> String {
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
        let headers = [Header::new("ce_time", "x"), Header::new("ce_type", "y")];
        let place = |message| fault(message, Some(&value), &headers);
        assert_eq!(place("status is none of initiated"), Some(FaultPosition::Field("status".into())));
        assert_eq!(place("call_id is no text"), Some(FaultPosition::Field("call_id".into())));
        assert_eq!(place("caller_id is missing"), None);
        assert_eq!(place("ce_time is no UTF-8"), Some(FaultPosition::Header("ce_time".into())));
        assert_eq!(
            place("the envelope's type is not clone.ready"),
            Some(FaultPosition::Header("ce_type".into())),
            "the value has no type"
        );
        assert_eq!(fault("the value is null, and the key is no text", None, &[]), Some(FaultPosition::Key));
        let of_text = fault("the value is no JSON (line 3, column 17)", None, &[]);
        assert_eq!(of_text, Some(FaultPosition::Text { line: 3, column: 17 }));
    }

    #[test]
    fn a_faulty_header_is_marked() {
        let headers = [Header::new("ce_time", "soon"), Header::new("ce_id", "7")];
        let view = RecordView::new(None, None, &headers, Some("ce_time is not written as a time"), false);
        let text = view.text();
        assert!(text.lines().any(|line| line.starts_with(">header") && line.contains("ce_time")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("header") && line.contains("ce_id")), "{text}");
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
