//! Replaces fields in a record's value; the rest of its text stays unchanged byte for byte.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope::is_structured;
use crate::record::Header;

/// The members of an object in their order, including repeated names.
struct RawMembers<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for RawMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawMembers<'de>, D::Error> {
        deserializer.deserialize_map(RawMembersVisitor)
    }
}

struct RawMembersVisitor;

impl<'de> Visitor<'de> for RawMembersVisitor {
    type Value = RawMembers<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawMembers<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            members.push((name, value.get()));
        }
        Ok(RawMembers(members))
    }
}

impl<'a> RawMembers<'a> {
    fn read(text: &'a str) -> Option<RawMembers<'a>> {
        serde_json::from_str(text).ok()
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rfind(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Sets the value of a name, at the place of its first occurrence; other occurrences are removed.
    fn set(&mut self, name: &str, value: &'a str) {
        let first = self.0.iter().position(|(known, _)| known == name);
        let mut position = 0;
        self.0.retain(|(known, _)| {
            position += 1;
            known != name || first == Some(position - 1)
        });
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn write(&self) -> String {
        let member = |(name, value): &(String, &str)| format!("{}:{value}", serde_json::json!(name));
        format!("{{{}}}", self.0.iter().map(member).collect::<Vec<_>>().join(","))
    }
}

/// Returns the value with these fields set, each to a JSON text. The fields are set in the object itself, or in `data`
/// of a CloudEvents envelope in structured mode (contract, section 2). The error names the problem of a value that has
/// no fields.
pub fn with_fields(
    value: Option<&[u8]>,
    headers: &[Header],
    fields: &[(String, String)],
) -> Result<Vec<u8>, &'static str> {
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    let mut outer = text.and_then(RawMembers::read).ok_or("the value is no JSON object")?;
    let is_given = |value: &str| {
        value != "null" && !serde_json::from_str::<String>(value).is_ok_and(|text| text.trim().is_empty())
    };
    if !is_structured(headers) && !outer.get("specversion").is_some_and(is_given) {
        fields.iter().for_each(|(name, value)| outer.set(name, value));
        return Ok(outer.write().into_bytes());
    }
    let data = outer.get("data").filter(|data| *data != "null").unwrap_or("{}");
    let mut data = RawMembers::read(data).ok_or("the value is an envelope whose data is no object")?;
    fields.iter().for_each(|(name, value)| data.set(name, value));
    let data = data.write();
    outer.set("data", &data);
    Ok(outer.write().into_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn edited(value: &str, headers: &[Header], fields: &[(&str, &str)]) -> Result<String, &'static str> {
        let fields: Vec<(String, String)> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        with_fields(Some(value.as_bytes()), headers, &fields).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn fields_that_are_not_set_stay_as_they_were_written() {
        let value = r#"{ "b" : 1.50, "a": "\u00e9", "n": 1e400, "b": 2 }"#;
        assert_eq!(
            edited(value, &[], &[("c", "null"), ("a", r#""x""#)]).unwrap(),
            r#"{"b":1.50,"a":"x","n":1e400,"b":2,"c":null}"#
        );
        assert_eq!(
            edited(value, &[], &[("b", "3")]).unwrap(),
            r#"{"b":3,"a":"\u00e9","n":1e400}"#,
            "a name that was given twice is given once"
        );
    }

    #[test]
    fn in_structured_mode_the_fields_are_those_of_data() {
        let envelope = r#"{"specversion":"1.0","data":{"a":1},"id":"7"}"#;
        assert_eq!(
            edited(envelope, &[], &[("a", "2")]).unwrap(),
            r#"{"specversion":"1.0","data":{"a":2},"id":"7"}"#
        );
        let header = [Header::new("content-type", "application/cloudevents+json; charset=UTF-8")];
        assert_eq!(edited(r#"{"a":1}"#, &header, &[("a", "2")]).unwrap(), r#"{"a":1,"data":{"a":2}}"#);
        assert_eq!(
            edited(r#"{"a":1,"specversion":" "}"#, &[], &[("a", "2")]).unwrap(),
            r#"{"a":2,"specversion":" "}"#
        );
        assert!(edited(r#"{"specversion":"1.0","data":[]}"#, &[], &[("a", "2")]).is_err());
    }

    #[test]
    fn a_value_that_is_no_object_has_no_fields() {
        for value in ["[]", "{", "\"{}\"", ""] {
            assert_eq!(edited(value, &[], &[("a", "1")]), Err("the value is no JSON object"), "{value}");
        }
        assert!(with_fields(None, &[], &[]).is_err());
        assert!(with_fields(Some(b"\xff"), &[], &[]).is_err());
    }
}
