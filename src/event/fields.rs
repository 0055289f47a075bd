//! The rules of single fields: text, integer, time, boolean (contract, section 2).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::json::{self, Json};
use super::time::InvalidTime;
use super::{Reason, Time, Unusable};
use crate::identity::SEPARATOR;
use crate::record::Record;

/// The constraints on a text field.
#[derive(Clone, Copy)]
pub(super) struct TextRule {
    /// Maximum number of characters.
    pub max: Option<usize>,
    /// Whether the text is part of a row id, and so must not contain [`SEPARATOR`].
    pub identifies: bool,
}

/// The constraints on `caller_id` and on every other required text of at most 255 characters.
pub(super) const CALLER_ID: TextRule = TextRule { max: Some(255), identifies: true };

/// Returns the first constraint that a text violates.
pub(super) fn text_problem(name: &str, text: &str, rule: TextRule) -> Option<Unusable> {
    if text.contains('\0') {
        return Some(Unusable::new(Reason::NulCharacter, format!("{name} holds the character U+0000")));
    }
    // A text has at least a quarter as many characters as bytes: count only where it matters.
    if let Some(max) = rule.max.filter(|max| text.len() > *max && text.chars().count() > *max) {
        return Some(Unusable::new(Reason::TooLong, format!("{name} has more than {max} characters")));
    }
    if rule.identifies && text.contains(SEPARATOR) {
        return Some(Unusable::new(Reason::InvalidValue, format!("{name} holds the character U+001F")));
    }
    None
}

/// The record's own timestamp.
pub(super) fn record_time(record: &Record) -> Result<Time, Unusable> {
    Time::from_record(record.timestamp).ok_or_else(|| {
        Unusable::new(Reason::InvalidValue, "the record's timestamp is not between the years 1970 and 9999")
    })
}

fn invalid_type(name: &str, wanted: &str) -> Unusable {
    Unusable::new(Reason::InvalidType, format!("{name} is no {wanted}"))
}

/// Reads a text of at most `max` characters.
pub(super) fn text<'a>(name: &str, value: Json<'a>, max: Option<usize>) -> Result<Cow<'a, str>, Unusable> {
    ruled_text(name, value, TextRule { max, identifies: false })
}

/// Reads a text that the rule allows.
pub(super) fn ruled_text<'a>(name: &str, value: Json<'a>, rule: TextRule) -> Result<Cow<'a, str>, Unusable> {
    let Json::Text(text) = value else {
        return Err(invalid_type(name, "text"));
    };
    match text_problem(name, &text, rule) {
        Some(fault) => Err(fault),
        None => Ok(text),
    }
}

/// Reads a time given as text or as a number.
pub(super) fn time(name: &str, value: Json<'_>) -> Result<Time, Unusable> {
    let time = match value {
        Json::Text(text) => Time::parse(&text),
        Json::Number(raw) => match raw.parse::<i64>() {
            Ok(integer) => Time::from_unix_integer(integer),
            Err(_) => raw.parse().ok().and_then(Time::from_unix_double),
        }
        .ok_or(InvalidTime::OutOfRange),
        _ => return Err(invalid_type(name, "time: neither a text nor a number")),
    };
    time.map_err(|fault| Unusable::new(Reason::InvalidValue, format!("{name} {}", fault.explain())))
}

/// Reads an integer from 0 to 2,147,483,647; an exponent or a fraction of zeros is allowed.
pub(super) fn integer(name: &str, value: Json<'_>) -> Result<i32, Unusable> {
    let Json::Number(raw) = value else {
        return Err(invalid_type(name, "integer"));
    };
    let integer = match raw.parse::<i64>() {
        Ok(integer) => i32::try_from(integer).ok().filter(|integer| *integer >= 0),
        Err(_) => raw.parse::<f64>().ok().and_then(whole),
    };
    integer.ok_or_else(|| {
        Unusable::new(Reason::InvalidValue, format!("{name} is no integer from 0 to {}", i32::MAX))
    })
}

fn whole(number: f64) -> Option<i32> {
    let fits = number.fract() == 0.0 && (0.0..=f64::from(i32::MAX)).contains(&number);
    #[allow(clippy::cast_possible_truncation, reason = "whole and within the range")]
    fits.then_some(number as i32)
}

/// Reads a boolean.
pub(super) fn boolean(name: &str, value: Json<'_>) -> Result<bool, Unusable> {
    match value {
        Json::Bool(value) => Ok(value),
        _ => Err(invalid_type(name, "boolean")),
    }
}

/// Reads an object as its top-level keys, each with its value as compact JSON.
pub(super) fn metadata(name: &str, value: Json<'_>) -> Result<BTreeMap<String, String>, Unusable> {
    match value {
        Json::Object(raw) => json::metadata(raw, json::METADATA_VALUES),
        _ => Err(invalid_type(name, "object")),
    }
}
