//! Finds an event's fields: in the bare object, or in a CloudEvents envelope around it (contract, section 2).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::fields::{self, CALLER_ID};
use super::json::{Json, Members, Names, is_blank};
use super::{Reason, Time, Unusable, field_names};
use crate::record::{Header, Record};

/// The names of an envelope's attributes that are read at the top level of a value.
const ATTRIBUTES: &[&str] = &["specversion", "type", "time", "data", "data_base64"];

/// The object that contains the fields, and the default event time.
pub(super) struct Content<'a> {
    pub members: Members<'a>,
    /// The envelope's `time`, else the record's timestamp.
    pub default_time: Time,
}

impl<'a> Content<'a> {
    /// Finds the fields of a record that has this value.
    pub fn read(record: &'a Record, value: &'a [u8]) -> Result<Content<'a>, Unusable> {
        let text = std::str::from_utf8(value).map_err(|error| {
            let message = format!("the value is no UTF-8 (byte {})", error.valid_up_to() + 1);
            Unusable::new(Reason::InvalidJson, message)
        })?;
        let record_time = fields::record_time(record)?;
        let names = Names { fields: field_names(record.topic), attributes: ATTRIBUTES };
        let outer = Members::read(text, names)?;

        let structured = is_structured(&record.headers) || outer.get("specversion")?.is_some();
        let (kind, time, members) = if structured {
            let data = match outer.get("data")? {
                Some(Json::Object(raw)) => Members::read(raw, names)?,
                _ if outer.has("data_base64") => {
                    let message = "the envelope has data_base64: give the fields as an object in data";
                    return Err(Unusable::new(Reason::NotAnObject, message));
                }
                _ => return Err(Unusable::new(Reason::NotAnObject, "data is missing, or no object")),
            };
            outer
                .get("specversion")?
                .map(|version| fields::text("specversion", version, None))
                .transpose()?;
            let kind = outer.get("type")?.map(|kind| fields::text("type", kind, None)).transpose()?;
            let time = outer.get("time")?.map(|time| fields::time("time", time)).transpose()?;
            (kind, time, data)
        } else {
            let attribute = |name| Ok(header(&record.headers, name)?.map(|text| Json::Text(text.into())));
            let text = |name| attribute(name)?.map(|value| fields::text(name, value, None)).transpose();
            text("ce_specversion")?;
            let kind = text("ce_type")?;
            let time = attribute("ce_time")?.map(|value| fields::time("ce_time", value)).transpose()?;
            (kind, time, outer)
        };
        if kind.is_some_and(|kind| kind != record.topic.name()) {
            return Err(Unusable::new(
                Reason::WrongTypeForTopic,
                format!("the envelope's type is not {}", record.topic),
            ));
        }
        Ok(Content { members, default_time: time.unwrap_or(record_time) })
    }

    /// Returns a required text of at most 255 characters that is part of a row id.
    pub fn id(&self, name: &'static str) -> Result<Cow<'a, str>, Unusable> {
        let text =
            self.members.get(name)?.map(|value| fields::ruled_text(name, value, CALLER_ID)).transpose()?;
        self.required(name, text)
    }

    /// Returns an optional text of at most `max` characters.
    pub fn text(&self, name: &'static str, max: Option<usize>) -> Result<Option<Cow<'a, str>>, Unusable> {
        self.members.get(name)?.map(|value| fields::text(name, value, max)).transpose()
    }

    /// Returns an optional integer.
    pub fn integer(&self, name: &'static str) -> Result<Option<i32>, Unusable> {
        self.members.get(name)?.map(|value| fields::integer(name, value)).transpose()
    }

    /// Returns an optional time.
    pub fn time(&self, name: &'static str) -> Result<Option<Time>, Unusable> {
        self.members.get(name)?.map(|value| fields::time(name, value)).transpose()
    }

    /// Returns the event's time: this field, else the envelope's time, else the record's timestamp.
    pub fn event_time(&self, name: &'static str) -> Result<Time, Unusable> {
        Ok(self.time(name)?.unwrap_or(self.default_time))
    }

    /// Returns an optional boolean.
    pub fn boolean(&self, name: &'static str) -> Result<Option<bool>, Unusable> {
        self.members.get(name)?.map(|value| fields::boolean(name, value)).transpose()
    }

    /// Returns an optional object as its top-level keys, each with its value as compact JSON.
    pub fn metadata(&self, name: &'static str) -> Result<Option<BTreeMap<String, String>>, Unusable> {
        self.members.get(name)?.map(|value| fields::metadata(name, value)).transpose()
    }

    /// Returns the value, or [`Reason::MissingField`] if there is none.
    pub fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, Unusable> {
        value.ok_or_else(|| Unusable::new(Reason::MissingField, format!("{name} is missing")))
    }
}

/// Whether `content-type` declares the value to be an envelope.
pub(super) fn is_structured(headers: &[Header]) -> bool {
    let content_type = headers.iter().rfind(|header| header.name == b"content-type");
    content_type
        .and_then(|header| std::str::from_utf8(header.value.as_deref()?).ok())
        .and_then(|text| text.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case("application/cloudevents+json"))
}

/// Returns a header's text. The last of repeated headers counts, and a blank one is absent.
fn header<'a>(headers: &'a [Header], name: &str) -> Result<Option<&'a str>, Unusable> {
    let Some(value) = headers
        .iter()
        .rfind(|header| header.name == name.as_bytes())
        .and_then(|header| header.value.as_deref())
    else {
        return Ok(None);
    };
    match std::str::from_utf8(value) {
        Ok(text) => Ok((!is_blank(text)).then_some(text)),
        Err(_) => Err(Unusable::new(Reason::InvalidValue, format!("{name} is no UTF-8"))),
    }
}
