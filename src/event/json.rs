//! JSON as the contract reads it (section 2): one object, known names at most once, the values of unknown names
//! skipped.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Reason, Unusable};

/// Maximum nesting depth of `metadata`; `metadata` itself is level 1.
const METADATA_LEVELS: usize = 100;

/// Maximum number of object members and array items, over all levels, in the `metadata` of one event.
pub(super) const METADATA_VALUES: usize = 65_536;

/// The names that are read; all others are skipped.
#[derive(Clone, Copy)]
pub(super) struct Names {
    /// The fields of the topic.
    pub fields: &'static [&'static str],
    /// The attributes of an envelope.
    pub attributes: &'static [&'static str],
}

impl Names {
    fn position(self, name: &str) -> Option<usize> {
        self.fields.iter().chain(self.attributes).position(|known| *known == name)
    }

    fn len(self) -> usize {
        self.fields.len() + self.attributes.len()
    }
}

/// The members of an object whose names are known, as raw JSON text.
pub(super) struct Members<'a> {
    names: Names,
    found: Vec<RawMember<'a>>,
}

#[derive(Clone, Copy, Default)]
struct RawMember<'a> {
    raw: Option<&'a RawValue>,
    twice: bool,
}

impl<'a> Members<'a> {
    /// Reads one object. Checks its syntax and all its names; values are checked for syntax only.
    pub fn read(text: &'a str, names: Names) -> Result<Members<'a>, Unusable> {
        let invalid = |error: serde_json::Error| {
            Unusable::new(
                Reason::InvalidJson,
                format!("the value is no JSON (line {}, column {})", error.line(), error.column()),
            )
        };
        if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
            serde_json::from_str::<IgnoredAny>(text).map_err(invalid)?;
            let is_text = text.trim_start().starts_with('"');
            return Err(Unusable::new(
                Reason::NotAnObject,
                if is_text {
                    "the value is a JSON text, not an object: perhaps it was encoded as JSON twice"
                } else {
                    "the value is JSON, but no object"
                },
            ));
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let mut members = Members { names, found: vec![RawMember::default(); names.len()] };
        deserializer
            .deserialize_map(MembersVisitor(&mut members))
            .and_then(|()| deserializer.end())
            .map_err(invalid)?;
        Ok(members)
    }

    /// Returns whether a name is present, with any value.
    pub fn has(&self, name: &'static str) -> bool {
        self.found(name).is_some_and(|found| found.raw.is_some())
    }

    /// Returns the value of a name; `None` if it is absent, null or a blank text.
    pub fn get(&self, name: &'static str) -> Result<Option<Json<'a>>, Unusable> {
        let Some(found) = self.found(name) else {
            return Ok(None);
        };
        if found.twice {
            return Err(Unusable::new(Reason::InvalidJson, format!("{name} is given twice")));
        }
        found.raw.map_or(Ok(None), |raw| Json::read(name, raw.get()))
    }

    /// In debug builds, and so in tests, a name that is not known is an error: its value would always be absent.
    fn found(&self, name: &'static str) -> Option<&RawMember<'a>> {
        let position = self.names.position(name);
        debug_assert!(position.is_some(), "{name} is read, but is not among the known names");
        self.found.get(position?)
    }
}

struct MembersVisitor<'m, 'a>(&'m mut Members<'a>);

impl<'a> Visitor<'a> for MembersVisitor<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(position) = map.next_key_seed(NameIndex(self.0.names))? {
            match position.and_then(|position| self.0.found.get_mut(position)) {
                Some(found) => {
                    found.twice |= found.raw.is_some();
                    found.raw = Some(map.next_value()?);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Deserializes a member's name to its index among the known names.
struct NameIndex(Names);

impl<'a> DeserializeSeed<'a> for NameIndex {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIndex {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.position(name))
    }
}

/// A value that is neither null nor a blank text.
pub(super) enum Json<'a> {
    Text(Cow<'a, str>),
    /// Raw JSON text, within the range of a double.
    Number(&'a str),
    Bool(bool),
    /// Raw JSON text.
    Object(&'a str),
    Array,
}

/// Borrows the text if it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Json<'a> {
    fn read(name: &str, raw: &'a str) -> Result<Option<Json<'a>>, Unusable> {
        Ok(match raw.as_bytes().first() {
            Some(b'"') => {
                let text = serde_json::from_str::<Text<'a>>(raw).map_err(|_| {
                    Unusable::new(Reason::InvalidJson, format!("{name} holds half of a surrogate pair"))
                })?;
                (!is_blank(&text.0)).then_some(Json::Text(text.0))
            }
            Some(b't') => Some(Json::Bool(true)),
            Some(b'f') => Some(Json::Bool(false)),
            Some(b'n') => None,
            Some(b'{') => Some(Json::Object(raw)),
            Some(b'[') => Some(Json::Array),
            _ if raw.parse::<f64>().is_ok_and(f64::is_finite) => Some(Json::Number(raw)),
            _ => {
                return Err(Unusable::new(
                    Reason::InvalidJson,
                    format!("{name} is a number beyond a double"),
                ));
            }
        })
    }
}

/// Whether a text is empty or only Unicode white space; such a text counts as absent.
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// Reads `metadata`: each top-level key with its value as compact JSON with sorted keys.
pub(super) fn metadata(raw: &str, max_values: usize) -> Result<BTreeMap<String, String>, Unusable> {
    let invalid = |problem: &str| Unusable::new(Reason::InvalidJson, format!("metadata {problem}"));
    // The raw text is scanned because parsing keeps only the last value of a repeated name.
    let JsonScan { levels, values, holds_nul } = scan(raw);
    if levels > METADATA_LEVELS {
        return Err(invalid(&format!("nests deeper than {METADATA_LEVELS} levels")));
    }
    if holds_nul {
        return Err(Unusable::new(Reason::NulCharacter, "metadata holds the character U+0000"));
    }
    if values > max_values {
        let message = format!("metadata holds {values} values, more than {max_values}");
        return Err(Unusable::new(Reason::InvalidValue, message));
    }
    let PlainJson(value) = serde_json::from_str(raw)
        .map_err(|_| invalid("holds half of a surrogate pair or a number beyond a double"))?;
    let Value::Object(object) = value else {
        return Err(Unusable::new(Reason::InvalidType, "metadata is no object"));
    };
    Ok(object.into_iter().map(|(key, value)| (key, value.to_string())).collect())
}

/// Properties of a JSON text that are found without parsing its values.
#[derive(Debug, Default, PartialEq, Eq)]
struct JsonScan {
    /// Nesting depth.
    levels: usize,
    /// Object members and array items over all levels; each occurrence of a repeated name counts.
    values: usize,
    /// Whether a text contains U+0000, which JSON must escape.
    holds_nul: bool,
}

fn scan(json: &str) -> JsonScan {
    let mut seen = JsonScan::default();
    let (mut level, mut in_text, mut just_opened) = (0_usize, false, false);
    let mut bytes = json.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        if in_text {
            match byte {
                b'"' => in_text = false,
                b'\\' => {
                    seen.holds_nul |= bytes.as_slice().starts_with(b"u0000");
                    bytes.next();
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            b'}' | b']' => level = level.saturating_sub(1),
            // The first value of an object or array has no comma before it.
            _ if just_opened => seen.values += 1,
            b',' => seen.values += 1,
            _ => {}
        }
        just_opened = matches!(byte, b'{' | b'[');
        in_text = *byte == b'"';
        if just_opened {
            level += 1;
            seen.levels = seen.levels.max(level);
        }
    }
    seen
}

/// Any JSON value. serde_json's own `Deserialize` of [`Value`] treats an object whose first name is the private name of
/// its `RawValue` as the JSON inside that name's text.
struct PlainJson(Value);

impl<'de> Deserialize<'de> for PlainJson {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PlainJson, D::Error> {
        deserializer.deserialize_any(PlainJsonVisitor).map(PlainJson)
    }
}

struct PlainJsonVisitor;

impl<'de> Visitor<'de> for PlainJsonVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(PlainJson(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, PlainJson(value))) = map.next_entry()? {
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_metadata_are_counted_at_every_level() {
        for (json, levels, values) in [
            ("{}", 1, 0),
            ("[ ]", 1, 0),
            (r#"{"a":1}"#, 1, 1),
            (r#"{"a":1,"a":2}"#, 1, 2),
            (r#"{ "a" : [ ] , "b" : [ { } , [ 1 , 2 ] ] }"#, 3, 6),
            (r#"{"a,b":"[1,2,\"3],{"}"#, 1, 1),
            (r#"[[[]],"]"]"#, 3, 3),
        ] {
            assert_eq!(scan(json), JsonScan { levels, values, holds_nul: false }, "{json}");
        }
        assert!(scan(r#"{"a":"\u0000"}"#).holds_nul && !scan(r#"{"a":"\\u0000"}"#).holds_nul);
    }
}
