//! An independent model of the contract (sections 2 to 4, and the reasons of section 6), the oracle of the
//! tests.
//!
//! It shares no code with the daemon, and is slow and obvious on purpose: every record is decoded on its own,
//! all facts of a row are collected in a `Vec`, and only then sorted, so that no order of arrival can matter.
//! Expiry (section 5) and rows that were there before the first record (end of section 1) are not modelled.
//!
//! Where the contract leaves room, it is read so:
//! - a bare object has no attributes, so `type`, `time` and `data` in it are unknown fields;
//! - the text of `specversion` may be anything, and the media type of `content-type` may have parameters;
//! - `data` is an attribute, but what its object holds is judged by the rules of fields alone;
//! - a number with a fraction or an exponent is the double that it denotes, in integer fields too;
//! - a delete ignores the values of the fields it does not look at, but what section 2 calls invalid JSON is no
//!   delete: a field given twice, or that is a text with a lone surrogate or a number beyond a double.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate};
use serde_json::Value;
use uuid::{Uuid, uuid};

/// A record as it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Input {
    /// The topic's name without its prefix, for example `clone.ready`.
    pub topic: String,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes.
    pub value: Option<Vec<u8>>,
    /// The headers in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The record's own timestamp, in milliseconds since 1970.
    pub timestamp: i64,
}

/// A row: column name -> text as PostgreSQL prints `column::text`, `None` for NULL.
pub type Row = BTreeMap<&'static str, Option<String>>;

/// Table name -> rows by id (lower-case, hyphenated).
pub type Tables = BTreeMap<&'static str, BTreeMap<String, Row>>;

/// The result of a set of records.
#[derive(Clone, Debug)]
pub struct Folded {
    /// All seven tables. `voice_clone_cache.deleted_at` is left out: it belongs to the expiry run.
    pub tables: Tables,
    /// The index of each unusable record, and the reasons any of which is right.
    pub unusable: BTreeMap<usize, BTreeSet<&'static str>>,
}

/// Reasons of section 6 for one record.
type Faults = BTreeSet<&'static str>;

/// The namespace of all row ids (section 3).
const NS: Uuid = uuid!("32912be5-e948-560b-b792-7dcb8baa72b1");
/// The last microsecond of the year 9999.
const LATEST: i64 = 253_402_300_799_999_999;
/// From here up a Unix time is in milliseconds (section 2).
const MILLISECONDS_FROM: i64 = 100_000_000_000;
/// The greatest INTEGER of PostgreSQL.
const INTEGER_MAX: i64 = 2_147_483_647;
/// A TEXT column has no limit.
const UNLIMITED: usize = usize::MAX;

// -------- JSON: just enough of a reader to see what section 2 cares about. It works on a flat list of
// tokens, so nesting thousands deep costs no stack, and leaves every value as text until someone asks for it.

/// One token of a JSON text.
struct Token<'a> {
    text: &'a str,
    at: usize,
    /// How many containers are open here; a bracket or brace counts the container it opens or closes.
    depth: usize,
}

/// The length of the token at the start of `rest`, or `None` where none can start.
fn token_length(rest: &str) -> Option<usize> {
    let first = rest.chars().next()?;
    if "{}[]:,".contains(first) {
        return Some(1);
    }
    if first == '"' {
        let mut characters = rest.char_indices().skip(1);
        loop {
            match characters.next()? {
                (at, '"') => return Some(at + 1),
                (_, '\\') => match characters.next()?.1 {
                    'u' => {
                        for _ in 0..4 {
                            characters.next().filter(|(_, c)| c.is_ascii_hexdigit())?;
                        }
                    }
                    c if "\"\\/bfnrt".contains(c) => {}
                    _ => return None,
                },
                (_, c) if c < ' ' => return None,
                _ => {}
            }
        }
    }
    let length = rest.find(|c: char| " \t\r\n{}[]:,\"".contains(c)).unwrap_or(rest.len());
    let word = rest.get(..length)?;
    (["true", "false", "null"].contains(&word) || is_number(word)).then_some(length)
}

/// Whether a word is a number by the grammar of JSON.
fn is_number(word: &str) -> bool {
    let (mantissa, exponent) = match word.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (word, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    are_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(are_digits)
        && exponent.is_none_or(|e| are_digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// All tokens of a text, or `None` where it is not one well-formed JSON value.
fn tokens(text: &str) -> Option<Vec<Token<'_>>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Next {
        Value,
        ValueOrClose,
        Name,
        NameOrClose,
        Colon,
        CommaOrClose,
        Nothing,
    }
    let mut next = Next::Value;
    let mut open: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        at += rest.len() - trimmed.len();
        if trimmed.is_empty() {
            return (next == Next::Nothing).then_some(found);
        }
        let token = trimmed.get(..token_length(trimmed)?)?;
        let mut depth = open.len();
        next = match (token, next, open.last().copied()) {
            ("{", Next::Value | Next::ValueOrClose, _) => {
                open.push("{");
                depth += 1;
                Next::NameOrClose
            }
            ("[", Next::Value | Next::ValueOrClose, _) => {
                open.push("[");
                depth += 1;
                Next::ValueOrClose
            }
            ("}", Next::NameOrClose | Next::CommaOrClose, Some("{"))
            | ("]", Next::ValueOrClose | Next::CommaOrClose, Some("[")) => {
                open.pop();
                if open.is_empty() { Next::Nothing } else { Next::CommaOrClose }
            }
            (":", Next::Colon, _) => Next::Value,
            (",", Next::CommaOrClose, Some("{")) => Next::Name,
            (",", Next::CommaOrClose, Some("[")) => Next::Value,
            ("{" | "[" | "}" | "]" | ":" | ",", _, _) => return None,
            (_, Next::Name | Next::NameOrClose, _) if token.starts_with('"') => Next::Colon,
            (_, Next::Value | Next::ValueOrClose, inside) => {
                if inside.is_none() {
                    Next::Nothing
                } else {
                    Next::CommaOrClose
                }
            }
            _ => return None,
        };
        found.push(Token { text: token, at, depth });
        at += token.len();
    }
}

/// The members of an object in their order, as raw texts; those of anything else are none.
fn members(raw: &str) -> Vec<(&str, &str)> {
    let Some(tokens) = tokens(raw) else { return Vec::new() };
    let inside = match tokens.as_slice() {
        [open, inside @ .., _] if open.text == "{" => inside,
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    for member in inside.split(|token| token.depth == 1 && token.text == ",") {
        if let [name, _, first, ..] = member
            && let Some(last) = member.last()
            && let Some(value) = raw.get(first.at..last.at + last.text.len())
        {
            found.push((name.text, value));
        }
    }
    found
}

/// The text that a JSON string denotes, or `None` where it has a lone surrogate.
fn unescape(raw: &str) -> Option<String> {
    let mut units: Vec<u16> = Vec::new();
    let mut characters = raw.strip_prefix('"')?.strip_suffix('"')?.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            units.extend(character.encode_utf16(&mut [0; 2]).iter());
            continue;
        }
        units.push(match characters.next()? {
            'u' => u16::from_str_radix(&characters.by_ref().take(4).collect::<String>(), 16).ok()?,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            other => u16::try_from(u32::from(other)).ok()?,
        });
    }
    String::from_utf16(&units).ok()
}

/// A JSON number is a double unless it is a 64-bit integer (section 2).
enum Number {
    Integer(i128),
    Double(f64),
}

fn number(raw: &str) -> Option<Number> {
    if !is_number(raw) {
        return None;
    }
    match (raw.parse::<i64>(), raw.parse::<u64>()) {
        (Ok(integer), _) => Some(Number::Integer(i128::from(integer))),
        (_, Ok(integer)) => Some(Number::Integer(i128::from(integer))),
        _ => raw.parse().ok().map(Number::Double),
    }
}

/// Whether a lone surrogate or a number beyond a double is anywhere in a raw value.
fn is_unsound(raw: &str) -> bool {
    tokens(raw).unwrap_or_default().iter().any(|token| {
        let lone_surrogate = token.text.starts_with('"') && unescape(token.text).is_none();
        lone_surrogate || matches!(number(token.text), Some(Number::Double(double)) if double.is_infinite())
    })
}

/// The items of an array in their order, as raw texts.
fn items(raw: &str) -> Vec<&str> {
    let tokens = tokens(raw).unwrap_or_default();
    let inside = tokens.get(1..tokens.len().saturating_sub(1)).unwrap_or_default();
    let separated = inside.split(|token| token.depth == 1 && token.text == ",");
    let item = |item: &[Token<'_>]| raw.get(item.first()?.at..item.last()?.at + item.last()?.text.len());
    separated.filter_map(item).collect()
}

/// The members of objects and the items of arrays in a raw value, at every level, each as often as it is given.
fn count_values(raw: &str) -> usize {
    let inner: Vec<&str> = match raw.get(..1) {
        Some("{") => members(raw).into_iter().map(|(_, value)| value).collect(),
        Some("[") => items(raw),
        _ => Vec::new(),
    };
    inner.into_iter().map(|value| 1 + count_values(value)).sum()
}

/// Compact JSON with the keys sorted by bytes at every level; `None` where a lone surrogate is in it.
/// (serde_json reads an object whose only name is one of its own private ones as something else.)
fn compact(raw: &str) -> Option<String> {
    Some(match raw.get(..1)? {
        "[" => format!("[{}]", items(raw).into_iter().map(compact).collect::<Option<Vec<_>>>()?.join(",")),
        "{" => compact_object(&members_of_metadata(raw)?),
        "\"" => quoted(&unescape(raw)?),
        // A number comes out as serde_json prints it, and `true`, `false` and `null` as they are.
        _ => serde_json::from_str::<Value>(raw).ok()?.to_string(),
    })
}

/// The members of an object, printed; of a name given twice the last counts.
fn members_of_metadata(raw: &str) -> Option<BTreeMap<String, String>> {
    members(raw).into_iter().map(|(name, value)| Some((unescape(name)?, compact(value)?))).collect()
}

/// An object of values that are already printed, as compact JSON.
fn compact_object(map: &BTreeMap<String, String>) -> String {
    let members: Vec<_> = map.iter().map(|(name, json)| format!("{}:{json}", quoted(name))).collect();
    format!("{{{}}}", members.join(","))
}

/// A text as a JSON string.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

// -------- Times, in microseconds since 1970

/// Nothing but Unicode white space, or nothing at all (section 2).
fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

fn in_range(micros: i128) -> Option<i64> {
    i64::try_from(micros).ok().filter(|micros| (0..=LATEST).contains(micros))
}

/// A time as text, by the grammar of section 2.
fn time_from_text(text: &str) -> Option<i64> {
    let digits =
        |from: usize, to: usize| text.get(from..to).filter(|part| are_digits(part))?.parse::<u32>().ok();
    let is = |at: usize, one_of: &str| text.get(at..at + 1).is_some_and(|c| one_of.contains(c));
    let punctuated = is(4, "-") && is(7, "-") && is(10, "Tt ") && is(13, ":") && is(16, ":");
    let year = i32::try_from(digits(0, 4)?).ok()?;
    let day = NaiveDate::from_ymd_opt(year, digits(5, 7)?, digits(8, 10)?)?;
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    if !punctuated || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("0", rest),
    };
    if fraction.is_empty() {
        return None;
    }
    let fraction: i128 = fraction.chars().chain("000000".chars()).take(6).collect::<String>().parse().ok()?;
    let offset_minutes = match zone.split_at_checked(1) {
        None if zone.is_empty() => 0,
        Some(("Z" | "z", "")) => 0,
        Some((sign @ ("+" | "-"), offset)) => {
            let (hours, minutes) = offset.split_once(':')?;
            if hours.len() != 2 || minutes.len() != 2 || !are_digits(hours) || !are_digits(minutes) {
                return None;
            }
            let (hours, minutes): (i128, i128) = (hours.parse().ok()?, minutes.parse().ok()?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if sign == "+" { 1 } else { -1 }
        }
        _ => return None,
    };
    let days = i128::from(day.signed_duration_since(NaiveDate::default()).num_days());
    // A second 60 becomes the next minute's first by mere counting.
    let minutes = (days * 24 + i128::from(hour)) * 60 + i128::from(minute) - offset_minutes;
    in_range((minutes * 60 + i128::from(second)) * 1_000_000 + fraction)
}

/// A time as a number: seconds, or milliseconds from `MILLISECONDS_FROM` up.
fn time_from_number(number: &Number) -> Option<i64> {
    match *number {
        Number::Integer(integer) => {
            let unit = if integer >= i128::from(MILLISECONDS_FROM) { 1_000 } else { 1_000_000 };
            in_range(integer * unit)
        }
        Number::Double(double) => {
            let unit = if double >= MILLISECONDS_FROM as f64 { 1_000 } else { 1_000_000 };
            in_range(times_rounded(double, unit)?)
        }
    }
}

/// The exact value of a double times `unit`, rounded half away from zero; `None` where it is beyond any time.
fn times_rounded(double: f64, unit: u128) -> Option<i128> {
    if !double.is_finite() || double.abs() > 1e16 {
        return None;
    }
    // A double below 1e16 is `mantissa * 2^exponent`; the product with the unit stays below 2^128.
    let bits = double.abs().to_bits();
    let (biased, fraction) = (bits >> 52, bits & ((1 << 52) - 1));
    let mantissa = if biased == 0 { fraction } else { fraction | (1 << 52) };
    let exponent = i32::try_from(biased.max(1)).ok()? - 1075;
    let product = u128::from(mantissa) * unit;
    let shift = exponent.unsigned_abs();
    let magnitude = if exponent >= 0 {
        product.checked_shl(shift)?
    } else if shift > 120 {
        0
    } else {
        // Half a unit of the last place is added before the places below it are cut off.
        (product + (1 << (shift - 1))) >> shift
    };
    let magnitude = i128::try_from(magnitude).ok()?;
    Some(if double < 0.0 { -magnitude } else { magnitude })
}

/// A time as PostgreSQL prints a `TIMESTAMP`.
pub fn printed(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    let text = format!("{}.{:06}", time.format("%Y-%m-%d %H:%M:%S"), micros.rem_euclid(1_000_000));
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

// -------- Fields (section 2): an object's members, and the faults found while asking for them

#[derive(Default)]
struct Fields {
    members: Vec<(String, String)>,
    faults: Faults,
}

impl Fields {
    /// The members of an object. A lone surrogate in any of its names is `invalid_json`.
    fn of(raw: &str) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in members(raw) {
            match unescape(name) {
                Some(name) => fields.members.push((name, value.to_owned())),
                None => fields.fault("invalid_json"),
            }
        }
        fields
    }

    fn fault(&mut self, reason: &'static str) {
        self.faults.insert(reason);
    }

    /// A known field may be given once only.
    fn at_most_once(&mut self, name: &str) {
        if self.members.iter().filter(|(member, _)| member == name).count() > 1 {
            self.fault("invalid_json");
        }
    }

    /// The raw value of a known field; `null` and blank texts are absent.
    fn value(&mut self, name: &str) -> Option<String> {
        self.at_most_once(name);
        let absent = |raw: &str| raw == "null" || unescape(raw).is_some_and(|text| is_blank(&text));
        let given = |(member, raw): &&(String, String)| member == name && !absent(raw);
        let raw = self.members.iter().rfind(given)?.1.clone();
        if is_unsound(&raw) {
            self.fault("invalid_json");
        }
        Some(raw)
    }

    fn text(&mut self, name: &str, limit: usize) -> Option<String> {
        let raw = self.value(name)?;
        if !raw.starts_with('"') {
            self.fault("invalid_type");
            return None;
        }
        let text = unescape(&raw)?;
        if text.contains('\0') {
            self.fault("nul_character");
        }
        if text.chars().count() > limit {
            self.fault("too_long");
        }
        Some(text)
    }

    /// A required text; `None` is a fault.
    fn required(&mut self, name: &str, limit: usize) -> Option<String> {
        if self.value(name).is_none() {
            self.fault("missing_field");
        }
        let text = self.text(name, limit)?;
        if limit == 255 && text.contains('\u{1f}') {
            self.fault("invalid_value");
        }
        Some(text)
    }

    fn integer(&mut self, name: &str) -> Option<i64> {
        let raw = self.value(name)?;
        let integer = match number(&raw) {
            None => {
                self.fault("invalid_type");
                return None;
            }
            Some(Number::Integer(integer)) => i64::try_from(integer).ok(),
            Some(Number::Double(double)) => {
                (double.fract() == 0.0 && double.abs() < 1e15).then_some(double as i64)
            }
        };
        let integer = integer.filter(|integer| (0..=INTEGER_MAX).contains(integer));
        if integer.is_none() {
            self.fault("invalid_value");
        }
        integer
    }

    fn time(&mut self, name: &str) -> Option<i64> {
        let raw = self.value(name)?;
        let time = if raw.starts_with('"') {
            let text = unescape(&raw)?;
            if text.contains('\0') {
                self.fault("nul_character");
            }
            time_from_text(&text)
        } else if let Some(number) = number(&raw) {
            time_from_number(&number)
        } else {
            self.fault("invalid_type");
            return None;
        };
        if time.is_none() {
            self.fault("invalid_value");
        }
        time
    }

    fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.value(name)?.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                self.fault("invalid_type");
                None
            }
        }
    }

    /// An object of free content, as its names and the compact JSON of their values.
    fn object(&mut self, name: &str) -> Option<BTreeMap<String, String>> {
        let raw = self.value(name)?;
        if !raw.starts_with('{') {
            self.fault("invalid_type");
            return None;
        }
        let tokens = tokens(&raw)?;
        let strings = tokens.iter().filter(|token| token.text.starts_with('"'));
        if strings.filter_map(|token| unescape(token.text)).any(|text| text.contains('\0')) {
            self.fault("nul_character");
        }
        if tokens.iter().any(|token| token.depth > 100) {
            self.fault("invalid_json");
            return None;
        }
        if count_values(&raw) > 65_536 {
            self.fault("invalid_value");
        }
        // An unsound value has no compact form, and is a fault already.
        members_of_metadata(&raw)
    }
}

// -------- From a record to a fact (sections 2 and 4)

/// A value of a column. All values of one column are of one kind, so the derived order is that of section 3.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Text(String),
    Number(i64),
    /// Microseconds since 1970.
    Time(i64),
}

/// The event of a record.
#[derive(Default)]
struct Fact {
    /// Event time, in microseconds since 1970.
    at: i64,
    /// The record's own timestamp, in the same.
    timestamp: i64,
    /// Whether it deletes a mapping.
    delete: bool,
    cells: BTreeMap<&'static str, Cell>,
    /// The names in `metadata`, and the compact JSON of their values.
    metadata: Option<BTreeMap<String, String>>,
}

impl Fact {
    fn put(&mut self, column: &'static str, cell: Option<Cell>) {
        self.cells.extend(cell.map(|cell| (column, cell)));
    }

    fn cell(&self, column: &str) -> Option<Cell> {
        self.cells.get(column).cloned()
    }
}

/// The tables of section 4, but for the fields that only one topic has.
struct Rules {
    topic: &'static str,
    required: &'static [(&'static str, usize)],
    event_time: &'static str,
    texts: &'static [(&'static str, usize)],
    times: &'static [&'static str],
    integers: &'static [&'static str],
}

const RULES: [Rules; 5] = [
    Rules {
        topic: "clone.ready",
        required: &[("caller_id", 255), ("greeting_call_id", 255), ("cloned_voice_id", 255)],
        event_time: "ready_at",
        texts: &[],
        times: &["clone_created_at"],
        integers: &["clone_duration_ms", "api_response_time_ms", "sample_file_size_bytes", "ttl_seconds"],
    },
    Rules {
        topic: "clone.failed",
        required: &[("caller_id", 255), ("greeting_call_id", 255), ("error_message", UNLIMITED)],
        event_time: "failed_at",
        texts: &[("cloned_voice_id", 255)],
        times: &[],
        integers: &["api_response_time_ms", "sample_file_size_bytes"],
    },
    Rules {
        topic: "clone.transfer",
        required: &[("greeting_call_id", 255), ("agent_call_id", 255), ("cloned_voice_id", 255)],
        event_time: "transferred_at",
        texts: &[],
        times: &[],
        integers: &[],
    },
    Rules {
        topic: "call.lifecycle",
        required: &[("call_id", 255), ("status", UNLIMITED)],
        event_time: "occurred_at",
        texts: &[
            ("threecx_call_id", 255),
            ("caller_id", 255),
            ("cloned_voice_id", 255),
            ("transcript", UNLIMITED),
        ],
        times: &["call_started_at", "call_ended_at"],
        integers: &["duration_seconds"],
    },
    Rules {
        topic: "caller.voice_mapping",
        required: &[("caller_id", 255), ("voice_sample_url", 2048)],
        event_time: "updated_at",
        texts: &[("voice_name", 255), ("description", UNLIMITED), ("account_id", 255)],
        times: &[],
        integers: &[],
    },
];

/// The event of a record, or why it is unusable.
fn decode(record: &Input, rules: &Rules, cache_ttl: i64, record_max_bytes: usize) -> Result<Fact, Faults> {
    // Decided before anything else (section 2).
    if record.headers.len() > 1_000 || key_and_header_bytes(record) > 1_048_576 {
        return Err(Faults::from(["too_large"]));
    }
    let mut faults = Faults::new();
    let timestamp = in_range(i128::from(record.timestamp) * 1_000);
    if timestamp.is_none() {
        faults.insert("invalid_value");
    }
    let timestamp = timestamp.unwrap_or_default();
    let mut fact = Fact { at: timestamp, timestamp, ..Fact::default() };
    if let Some(value) = &record.value {
        if value.len() > record_max_bytes {
            faults.insert("too_large");
        }
        let (mut attributes, fields) = open_envelope(record, value);
        attributes.text("specversion", UNLIMITED);
        if attributes.text("type", UNLIMITED).is_some_and(|given| given != record.topic) {
            attributes.fault("wrong_type_for_topic");
        }
        // Of the three that the event's time can come from, each is valid wherever it is given.
        fact.at = attributes.time("time").unwrap_or(timestamp);
        faults.extend(attributes.faults);
        if let Some(mut fields) = fields {
            read_fields(rules, &mut fields, &mut fact, cache_ttl);
            faults.extend(fields.faults);
        }
    } else {
        // A null value deletes its key's caller, and is a tombstone elsewhere; headers count for nothing.
        let caller = usable_caller(record).filter(|_| record.topic == "caller.voice_mapping");
        if caller.is_none() {
            faults.insert("tombstone");
        }
        fact.delete = true;
        fact.put("caller_id", caller.map(Cell::Text));
    }
    if faults.is_empty() { Ok(fact) } else { Err(faults) }
}

/// The bytes of key, header names and header values.
fn key_and_header_bytes(record: &Input) -> usize {
    let mut bytes = record.key.clone().unwrap_or_default();
    for (name, value) in &record.headers {
        bytes.extend(name.bytes());
        bytes.extend(value.clone().unwrap_or_default());
    }
    bytes.len()
}

/// The caller that the key of a null value names, by the rules of a required text of 255.
fn usable_caller(record: &Input) -> Option<String> {
    let key = String::from_utf8(record.key.clone()?).ok()?;
    let fits = !is_blank(&key) && key.chars().count() <= 255 && !key.contains(['\0', '\u{1f}']);
    fits.then_some(key)
}

/// Takes a record's value out of its envelope (section 2): the attributes, and the fields where an object
/// holds them.
fn open_envelope(record: &Input, value: &[u8]) -> (Fields, Option<Fields>) {
    let header = |name: &str| record.headers.iter().rfind(|(given, _)| given == name)?.1.clone();
    let content_type = String::from_utf8(header("content-type").unwrap_or_default()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let mut structured = media_type.eq_ignore_ascii_case("application/cloudevents+json");

    let well_formed = std::str::from_utf8(value).ok().filter(|text| tokens(text).is_some());
    let raw = well_formed.map(|text| text.trim_matches([' ', '\t', '\r', '\n']));
    if let Some(mut body) = raw.filter(|raw| raw.starts_with('{')).map(Fields::of) {
        structured |= body.value("specversion").is_some();
        if structured {
            let data = body.value("data").filter(|data| data.starts_with('{'));
            // The rules of fields judge the object in `data`.
            let mut attributes = Fields::of(raw.unwrap_or_default());
            attributes.at_most_once("data");
            let fields = data.map(|data| Fields::of(&data));
            if fields.is_none() {
                attributes.fault("not_an_object");
                attributes.value("data");
            }
            return (attributes, fields);
        }
        let mut attributes = binary_attributes(header);
        attributes.faults.extend(body.faults.iter());
        return (attributes, Some(body));
    }
    let mut attributes = if structured { Fields::default() } else { binary_attributes(header) };
    attributes.fault(if raw.is_some() { "not_an_object" } else { "invalid_json" });
    (attributes, None)
}

/// The attributes of binary mode, put as if a structured envelope had held them: the same rules apply.
fn binary_attributes(header: impl Fn(&str) -> Option<Vec<u8>>) -> Fields {
    let mut attributes = Fields::default();
    for name in ["specversion", "type", "time"] {
        match header(&format!("ce_{name}")).map(String::from_utf8) {
            Some(Ok(text)) => attributes.members.push((name.to_owned(), quoted(&text))),
            Some(Err(_)) => attributes.fault("invalid_value"),
            None => {}
        }
    }
    attributes
}

/// Reads an object by the rules of its topic. Where that finds faults, the fact means nothing.
fn read_fields(rules: &Rules, fields: &mut Fields, fact: &mut Fact, cache_ttl: i64) {
    fact.at = fields.time(rules.event_time).unwrap_or(fact.at);
    fact.put(rules.event_time, Some(Cell::Time(fact.at)));
    if rules.topic == "caller.voice_mapping" && fields.boolean("deleted") == Some(true) {
        fact.delete = true;
        fact.put("caller_id", fields.required("caller_id", 255).map(Cell::Text));
        // A delete looks at nothing else, yet the object must be one by section 2.
        for (name, _) in rules.required.iter().chain(rules.texts) {
            fields.at_most_once(name);
            let is_scalar = |raw: &str| !raw.starts_with(['{', '[']);
            if fields.members.iter().any(|(member, raw)| member == name && is_scalar(raw) && is_unsound(raw))
            {
                fields.fault("invalid_json");
            }
        }
        return;
    }
    for (name, limit) in rules.required {
        fact.put(name, fields.required(name, *limit).map(Cell::Text));
    }
    for (name, limit) in rules.texts {
        fact.put(name, fields.text(name, *limit).map(Cell::Text));
    }
    for name in rules.times {
        fact.put(name, fields.time(name).map(Cell::Time));
    }
    for name in rules.integers {
        fact.put(name, fields.integer(name).map(Cell::Number));
    }
    match rules.topic {
        "clone.ready" => {
            let created_at = fact.cell("clone_created_at").or(Some(Cell::Time(fact.at)));
            fact.put("clone_created_at", created_at);
            let response_time = fact.cell("api_response_time_ms").or(fact.cell("clone_duration_ms"));
            fact.put("api_response_time_ms", response_time);
            let ttl = fields.integer("ttl_seconds").unwrap_or(cache_ttl);
            let expires_at = in_range(i128::from(fact.at) + i128::from(ttl) * 1_000_000);
            if expires_at.is_none() {
                fields.fault("invalid_value");
            }
            fact.put("ttl_expires_at", expires_at.map(Cell::Time));
        }
        "call.lifecycle" => {
            let known = ["initiated", "completed", "failed"].map(|status| Cell::Text(status.to_owned()));
            if fact.cell("status").is_some_and(|status| !known.contains(&status)) {
                fields.fault("invalid_value");
            }
            fact.metadata = fields.object("metadata");
        }
        _ => {}
    }
}

// -------- From facts to rows (sections 3 and 4)

/// The id of a row: the UUIDv5 of its kind and the parts of its identity.
fn uid(kind: &str, parts: impl IntoIterator<Item = String>) -> String {
    let name = std::iter::once(kind.to_owned()).chain(parts).collect::<Vec<_>>().join("\u{1f}");
    Uuid::new_v5(&NS, name.as_bytes()).to_string()
}

/// The id that some of a fact's columns make.
fn id_of(fact: &Fact, kind: &str, identity: &[&str]) -> String {
    uid(
        kind,
        identity.iter().filter_map(|column| match fact.cell(column)? {
            Cell::Text(text) => Some(text),
            Cell::Number(number) | Cell::Time(number) => Some(number.to_string()),
        }),
    )
}

/// The greatest of some values: sort them all, take the last.
fn greatest<T: Ord>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort();
    values.pop()
}

/// The least of some values: sort them all, take the first.
fn least<T: Ord>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort();
    values.into_iter().next()
}

/// The value that the latest fact gives a column; at equal times the greater one.
fn latest(facts: &[&Fact], column: &str) -> Option<Cell> {
    greatest(facts.iter().filter_map(|fact| Some((fact.at, fact.cell(column)?)))).map(|(_, cell)| cell)
}

/// The greatest contents that some facts give these columns: compared column by column in this order, null
/// lowest (section 3).
fn contents<const N: usize>(facts: &[&Fact], columns: [&'static str; N]) -> Row {
    let cells = greatest(facts.iter().map(|fact| columns.map(|column| fact.cell(column))));
    cells.into_iter().flat_map(|cells| columns.into_iter().zip(cells.map(text_of))).collect()
}

/// A cell as PostgreSQL prints it.
fn text_of(cell: Option<Cell>) -> Option<String> {
    Some(match cell? {
        Cell::Text(text) => text,
        Cell::Number(number) => number.to_string(),
        Cell::Time(micros) => printed(micros),
    })
}

/// One row for each identity among some facts, with its `id` and `created_at`; `contents` makes the rest, or
/// no row.
fn rows(
    facts: &[Fact],
    kind: &str,
    identity: &[&str],
    contents: impl Fn(&[&Fact]) -> Option<Row>,
) -> BTreeMap<String, Row> {
    let mut groups: BTreeMap<String, Vec<&Fact>> = BTreeMap::new();
    for fact in facts {
        groups.entry(id_of(fact, kind, identity)).or_default().push(fact);
    }
    let mut rows = BTreeMap::new();
    for (id, facts) in groups {
        if let Some(mut row) = contents(&facts) {
            row.insert("id", Some(id.clone()));
            row.insert("created_at", least(facts.iter().map(|fact| fact.timestamp)).map(printed));
            rows.insert(id, row);
        }
    }
    rows
}

/// The tables that a set of records makes, and the records that make nothing.
pub fn fold(records: &[Input], cache_ttl_seconds: i64, record_max_bytes: usize) -> Folded {
    let mut unusable = BTreeMap::new();
    let mut facts: [Vec<Fact>; 5] = Default::default();
    for (index, record) in records.iter().enumerate() {
        let known = RULES.iter().zip(&mut facts).find(|(rules, _)| rules.topic == record.topic);
        assert!(known.is_some(), "the contract has no topic {}", record.topic);
        let Some((rules, facts)) = known else { continue };
        match decode(record, rules, cache_ttl_seconds, record_max_bytes) {
            Ok(fact) => facts.push(fact),
            Err(faults) => {
                unusable.insert(index, faults);
            }
        }
    }
    let [ready, failed, transfers, calls, mappings] = facts;

    let ready_id = ["caller_id", "greeting_call_id", "cloned_voice_id"];
    let ready_events = rows(&ready, "clone.ready", &ready_id, |facts| {
        Some(contents(
            facts,
            ["caller_id", "greeting_call_id", "cloned_voice_id", "ready_at", "clone_duration_ms"],
        ))
    });
    let successes = rows(&ready, "clone.ready", &ready_id, |facts| {
        let columns = [
            "caller_id",
            "cloned_voice_id",
            "clone_created_at",
            "api_response_time_ms",
            "sample_file_size_bytes",
        ];
        let mut row = contents(facts, columns);
        row.extend([("status", Some("success".to_owned())), ("error_message", None)]);
        Some(row)
    });
    let failed_id = ["caller_id", "greeting_call_id", "failed_at"];
    let failed_events = rows(&failed, "clone.failed", &failed_id, |facts| {
        Some(contents(facts, ["caller_id", "greeting_call_id", "failed_at", "error_message"]))
    });
    let failures = rows(&failed, "clone.failed", &failed_id, |facts| {
        let columns = [
            "caller_id",
            "cloned_voice_id",
            "api_response_time_ms",
            "sample_file_size_bytes",
            "error_message",
        ];
        let mut row = contents(facts, columns);
        row.extend([("status", Some("failed".to_owned())), ("clone_created_at", None)]);
        Some(row)
    });
    // A row of the log takes its id from that of its event's row.
    let log = successes.into_iter().chain(failures).map(|(id, mut row)| {
        let id = uid("voice_clone_log", [id]);
        row.insert("id", Some(id.clone()));
        (id, row)
    });
    let transfer_id = ["greeting_call_id", "agent_call_id", "cloned_voice_id"];
    let transfer_events = rows(&transfers, "clone.transfer", &transfer_id, |facts| {
        Some(contents(facts, ["greeting_call_id", "agent_call_id", "cloned_voice_id", "transferred_at"]))
    });
    let mut of_voice: BTreeMap<Option<Cell>, Vec<&Fact>> = BTreeMap::new();
    for transfer in &transfers {
        of_voice.entry(transfer.cell("cloned_voice_id")).or_default().push(transfer);
    }
    let cache = rows(&ready, "voice_clone_cache", &["caller_id", "cloned_voice_id"], |facts| {
        let voice = facts.first()?.cell("cloned_voice_id");
        let transfers = of_voice.get(&voice).cloned().unwrap_or_default();
        let reuses: BTreeSet<_> =
            transfers.iter().map(|fact| id_of(fact, "clone.transfer", &transfer_id)).collect();
        let created_at = least(facts.iter().map(|fact| fact.cell("clone_created_at"))).flatten();
        let expires_at = greatest(facts.iter().map(|fact| fact.cell("ttl_expires_at"))).flatten();
        let mut row = contents(facts, ["caller_id", "cloned_voice_id"]);
        row.extend([
            ("clone_created_at", text_of(created_at)),
            ("ttl_expires_at", text_of(expires_at)),
            ("reuse_count", Some(reuses.len().max(1).to_string())),
            ("last_used_at", greatest(facts.iter().chain(&transfers).map(|fact| fact.at)).map(printed)),
        ]);
        Some(row)
    });
    let tables = Tables::from([
        ("clone_ready_events", ready_events),
        ("clone_failed_events", failed_events),
        ("clone_transfer_events", transfer_events),
        ("voice_clone_cache", cache),
        ("voice_clone_log", log.collect()),
        ("call_log", rows(&calls, "call_log", &["call_id"], call)),
        ("caller_voice_mapping", rows(&mappings, "caller_voice_mapping", &["caller_id"], mapping)),
    ]);
    Folded { tables, unusable }
}

/// A row of `call_log` (section 4): the fold of all the call's events by event time.
fn call(facts: &[&Fact]) -> Option<Row> {
    let initiated = Some(Cell::Text("initiated".to_owned()));
    let (first, terminal): (Vec<&Fact>, Vec<&Fact>) =
        facts.iter().partition(|fact| fact.cell("status") == initiated);
    let first_at = least(first.iter().map(|fact| fact.at)).map(Cell::Time);
    let terminal_at = greatest(terminal.iter().map(|fact| fact.at)).map(Cell::Time);
    let started_at = latest(facts, "call_started_at").or(first_at);
    let ended_at = latest(facts, "call_ended_at").or(terminal_at);
    let derived = match (&started_at, &ended_at) {
        (Some(Cell::Time(from)), Some(Cell::Time(to))) if from <= to => Some((to - from) / 1_000_000),
        _ => None,
    };
    let derived = derived.filter(|seconds| *seconds <= INTEGER_MAX).map(Cell::Number);

    let columns = ["call_id", "threecx_call_id", "caller_id", "cloned_voice_id", "transcript"];
    let mut row: Row = columns.map(|column| (column, text_of(latest(facts, column)))).into();
    row.extend([
        ("status", text_of(latest(&terminal, "status").or(initiated))),
        ("call_started_at", text_of(started_at)),
        ("call_ended_at", text_of(ended_at)),
        ("duration_seconds", text_of(latest(facts, "duration_seconds").or(derived))),
        ("metadata", merged_metadata(facts)),
        ("updated_at", greatest(facts.iter().map(|fact| fact.timestamp)).map(printed)),
    ]);
    Some(row)
}

/// The metadata of a call, merged key by key at the top level; `None` where no event has any.
fn merged_metadata(facts: &[&Fact]) -> Option<String> {
    let mut given: BTreeMap<&String, Vec<(i64, &String)>> = BTreeMap::new();
    for fact in facts {
        for (name, json) in fact.metadata.iter().flatten() {
            given.entry(name).or_default().push((fact.at, json));
        }
    }
    let merged = given.into_iter().filter_map(|(name, all)| Some((name.clone(), greatest(all)?.1.clone())));
    facts.iter().any(|fact| fact.metadata.is_some()).then(|| compact_object(&merged.collect()))
}

/// A row of `caller_voice_mapping` (section 4): the latest state, whole, and the latest delete. Deletes alone
/// make no row.
fn mapping(facts: &[&Fact]) -> Option<Row> {
    let (deletes, states): (Vec<&Fact>, Vec<&Fact>) = facts.iter().partition(|fact| fact.delete);
    let state_at = greatest(states.iter().map(|fact| fact.at))?;
    let deleted_at = greatest(deletes.iter().map(|fact| fact.at)).filter(|at| *at >= state_at);
    let latest: Vec<&Fact> = states.into_iter().filter(|fact| fact.at == state_at).collect();
    let columns = ["caller_id", "voice_sample_url", "voice_name", "description", "account_id"];
    let mut row = contents(&latest, columns);
    row.insert("updated_at", greatest(facts.iter().map(|fact| fact.at)).map(printed));
    row.insert("deleted_at", deleted_at.map(printed));
    Some(row)
}

/// The first difference of two sets of tables, for a person to read: table, row, column, both values, and the
/// records that had a part in the row. Columns that the expected row does not have are not compared.
pub fn explained_difference(
    expected: &Tables,
    actual: &Tables,
    records: &[Input],
    cache_ttl: i64,
    record_max_bytes: usize,
) -> Option<String> {
    let (table, id, mut text) = differing_row(expected, actual)?;
    let row = expected[table].get(&id).or(actual[table].get(&id))?;
    text.push_str("; the records that had a part in it:");
    for (index, record) in records.iter().enumerate() {
        let alone = fold(std::slice::from_ref(record), cache_ttl, record_max_bytes).tables;
        let mut transfers = alone["clone_transfer_events"].values();
        let has_part = match table {
            "voice_clone_cache" if transfers.any(|of| of["cloned_voice_id"] == row["cloned_voice_id"]) => {
                true
            }
            // A delete alone makes no row.
            "caller_voice_mapping" if record.topic == table.replacen('_', ".", 1) => {
                decode(record, &RULES[4], cache_ttl, record_max_bytes)
                    .is_ok_and(|fact| text_of(fact.cell("caller_id")) == row["caller_id"])
            }
            _ => alone[table].contains_key(&id),
        };
        if has_part {
            let shown = |bytes: &Option<Vec<u8>>| match bytes {
                Some(bytes) => String::from_utf8_lossy(bytes).chars().take(600).collect(),
                None => "null".to_owned(),
            };
            let headers: Vec<String> =
                record.headers.iter().map(|(name, value)| format!("{name}: {}", shown(value))).collect();
            text.push_str(&format!(
                "\n  record {index}, {} at {}, key {}, headers {headers:?}, value {}",
                record.topic,
                record.timestamp,
                shown(&record.key),
                shown(&record.value)
            ));
        }
    }
    Some(text)
}

/// Table and id of the first row that is different, and what is different.
fn differing_row(expected: &Tables, actual: &Tables) -> Option<(&'static str, String, String)> {
    let none = BTreeMap::new();
    for table in expected.keys().chain(actual.keys()).copied().collect::<BTreeSet<_>>() {
        let (wanted, found) = (expected.get(table).unwrap_or(&none), actual.get(table).unwrap_or(&none));
        for id in wanted.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
            let (Some(wanted), Some(found)) = (wanted.get(id), found.get(id)) else {
                let verdict =
                    if wanted.contains_key(id) { "is missing, expected" } else { "is surplus, found" };
                let row = wanted.get(id).or(found.get(id));
                return Some((table, id.clone(), format!("{table}: row {id} {verdict} {row:?}")));
            };
            for (column, value) in wanted {
                let other = found.get(column);
                if other != Some(value) {
                    let other = other.map_or("no such column".to_owned(), |other| format!("{other:?}"));
                    let difference =
                        format!("{table}: row {id}, {column}: expected {value:?}, found {other}");
                    return Some((table, id.clone(), difference));
                }
            }
        }
    }
    None
}

mod tests {
    use super::*;

    /// 2026-01-02T03:04:05.120Z.
    const NOW: i64 = 1_767_323_045_120;
    const READY: &str = r#""caller_id":"+4930","greeting_call_id":"g1","cloned_voice_id":"v1""#;
    const CALL: &str = r#""call_id":"c1","status":"initiated""#;

    fn record(topic: &str, timestamp: i64, value: &str) -> Input {
        let value = Some(value.as_bytes().to_vec());
        Input { topic: topic.to_owned(), key: None, value, headers: Vec::new(), timestamp }
    }

    fn first_difference(expected: &Tables, actual: &Tables) -> Option<String> {
        differing_row(expected, actual).map(|(_, _, difference)| difference)
    }

    fn with_headers(mut record: Input, headers: &[(&str, &str)]) -> Input {
        record.headers =
            headers.iter().map(|(name, text)| (name.to_string(), Some(text.as_bytes().to_vec()))).collect();
        record
    }

    fn delete(key: &str, timestamp: i64) -> Input {
        let key = Some(key.as_bytes().to_vec());
        Input { key, value: None, ..record("caller.voice_mapping", timestamp, "") }
    }

    /// The reasons for one record, joined; empty where it can be used.
    fn reasons(record: &Input) -> String {
        let faults = fold(std::slice::from_ref(record), 86_400, 1_000_000).unusable.remove(&0);
        faults.unwrap_or_default().into_iter().collect::<Vec<_>>().join(" ")
    }

    fn ready(more: &str) -> String {
        reasons(&record("clone.ready", NOW, &format!("{{{READY}{more}}}")))
    }

    fn call(more: &str) -> String {
        reasons(&record("call.lifecycle", NOW, &format!("{{{CALL}{more}}}")))
    }

    /// One column of the only row of a table, `-` for NULL; whatever the order of the records.
    fn column(records: &[Input], table: &str, column: &str) -> String {
        let folded = fold(records, 86_400, 1_000_000);
        assert!(folded.unusable.is_empty(), "{:?}", folded.unusable);
        let reversed: Vec<_> = records.iter().rev().chain(records).cloned().collect();
        assert_eq!(first_difference(&folded.tables, &fold(&reversed, 86_400, 1_000_000).tables), None);
        let rows = folded.tables.get(table).cloned().unwrap_or_default();
        assert_eq!(rows.len(), 1, "{table}: {rows:?}");
        rows.values().find_map(|row| row.get(column).cloned().flatten()).unwrap_or("-".to_owned())
    }

    #[test]
    fn ids_are_those_of_any_other_uuid_library() {
        let failed = format!(r#"{{{READY},"error_message":"x"}}"#);
        let transfer = r#"{"greeting_call_id":"g1","agent_call_id":"a1","cloned_voice_id":"v1"}"#;
        let mapping = r#"{"caller_id":"+4930","voice_sample_url":"s3://x"}"#;
        let folded = fold(
            &[
                record("clone.ready", NOW, &format!("{{{READY}}}")),
                record("clone.failed", NOW, &failed),
                record("clone.transfer", NOW, transfer),
                record("call.lifecycle", NOW, &format!("{{{CALL}}}")),
                record("caller.voice_mapping", NOW, mapping),
            ],
            86_400,
            1_000,
        );
        let ids = |table: &str| folded.tables[table].keys().cloned().collect::<Vec<_>>();
        assert_eq!(ids("clone_ready_events"), ["ff62ecf8-5d81-56f0-8b04-5b1abfc6bc15"]);
        assert_eq!(ids("clone_failed_events"), ["3290c2c9-259e-558d-9d4b-575eafbe830d"]);
        assert_eq!(ids("clone_transfer_events"), ["c503dfc6-b327-54c5-89bf-a85907fa3ba4"]);
        assert_eq!(ids("voice_clone_cache"), ["87b2d2b8-e339-5240-8108-7732962a8c20"]);
        assert_eq!(
            ids("voice_clone_log"),
            ["af1b859f-20bb-5b21-9bd2-07592854b8e4", "c5500d20-6a31-5d6d-be79-8198ef318753"]
        );
        assert_eq!(ids("call_log"), ["1645d982-ea25-5d35-939d-f222f8eabaf0"]);
        assert_eq!(ids("caller_voice_mapping"), ["674deced-8988-50c3-b88b-dcfadd2bca58"]);
    }

    #[test]
    fn times_as_text() {
        let read = |text: &str| time_from_text(text).map_or("-".to_owned(), printed);
        assert_eq!(read("2026-01-02T03:04:05.1200009Z"), "2026-01-02 03:04:05.12");
        assert_eq!(read("2026-01-02 03:04:05"), "2026-01-02 03:04:05");
        assert_eq!(read("2026-01-02t03:04:05.9999999+01:30"), "2026-01-02 01:34:05.999999");
        assert_eq!(read("2026-12-31T23:59:60.5z"), "2027-01-01 00:00:00.5");
        assert_eq!(read("1970-01-01T00:00:00-00:00"), "1970-01-01 00:00:00");
        assert_eq!(read("1969-12-31T23:30:00-00:30"), "1970-01-01 00:00:00");
        assert_eq!(read("9999-12-31T23:59:59.999999999Z"), "9999-12-31 23:59:59.999999");
        let wrong = "1969-12-31T23:59:59.999999Z|9999-12-31T23:59:60Z|1970-01-01T00:00:00+00:01|\
            2026-02-29T00:00:00Z|2026-01-02T24:00:00Z|2026-01-02T03:60:00Z|2026-01-02T03:04:61Z|\
            2026-01-02T03:04:05.Z|2026-01-02T03:04:05,5Z|2026-01-02T03:04Z|\
            2026-01-02T03:04:05+0100|2026-01-02T03:04:05+01|2026-01-02T03:04:05+24:00|\
            2026-01-02T03:04:05 Z| 2026-01-02T03:04:05Z|2026-1-2T03:04:05Z|+2026-01-02T03:04:05Z|\
            2026-01-02|1767323045|٢٠٢٦-01-02T03:04:05Z";
        for wrong in wrong.split('|') {
            assert_eq!(read(wrong), "-", "{wrong}");
        }
    }

    #[test]
    fn times_as_numbers() {
        let read = |raw: &str| number(raw).and_then(|number| time_from_number(&number));
        assert_eq!(read("1767323045"), Some(1_767_323_045_000_000));
        assert_eq!(read("1767323045.12"), Some(1_767_323_045_120_000));
        assert_eq!(read("1767323045120"), Some(1_767_323_045_120_000));
        assert_eq!(read("1.76732304512e12"), Some(1_767_323_045_120_000));
        assert_eq!(read("99999999999"), Some(99_999_999_999_000_000));
        assert_eq!(read("100000000000"), Some(100_000_000_000_000));
        assert_eq!(read("253402300799999"), Some(LATEST - 999));
        assert_eq!(read("253402300800000"), None);
        assert_eq!((read("-1"), read("-0"), read("-0.0"), read("-1e-6")), (None, Some(0), Some(0), None));
        // 2^-21 s is 0.476... microseconds, 3 * 2^-21 s is 1.43...; 2^-7 ms is exactly 7.8125 microseconds.
        assert_eq!((read("4.76837158203125e-7"), read("1.430511474609375e-6")), (Some(0), Some(1)));
        assert_eq!(read("100000000000.0078125"), Some(100_000_000_000_008));
        // 2^-7 s is 7812.5 microseconds: the half goes away from zero, and its neighbours do not.
        assert_eq!((read("0.0078125"), read("0.007812499999999999")), (Some(7_813), Some(7_812)));
        assert_eq!((read("1e308"), read("5e-324"), read("18446744073709551615")), (None, Some(0), None));
    }

    #[test]
    fn fields_and_their_faults() {
        assert_eq!(ready(""), "");
        assert_eq!(ready(r#","clone_duration_ms":5.0,"ttl_seconds":1e3,"unknown":[1e999,"\ud800"]"#), "");
        assert_eq!(ready(&format!(r#","unknown":{}{}"#, "[".repeat(5_000), "]".repeat(5_000))), "");
        assert_eq!(ready(r#","clone_duration_ms":" \u00a0","ready_at":"","clone_created_at":null"#), "");
        assert_eq!(ready(r#","clone_duration_ms":2147483647,"transcript":1,"transcript":2"#), "");
        for number in ["1.5", "-1", "2147483648", "1e300"] {
            assert_eq!(ready(&format!(r#","clone_duration_ms":{number}"#)), "invalid_value", "{number}");
        }
        for other in ["true", "\"5\"", "[]", "{}"] {
            assert_eq!(ready(&format!(r#","clone_duration_ms":{other}"#)), "invalid_type", "{other}");
        }
        assert_eq!(ready(r#","ready_at":true"#), "invalid_type");
        assert_eq!(ready(r#","ready_at":"yesterday""#), "invalid_value");
        assert_eq!(ready(r#","ready_at":1e999"#), "invalid_json invalid_value");
        assert_eq!(ready(r#","caller_id":"+4930""#), "invalid_json");
        assert_eq!(ready(r#","caller\u005fid":null"#), "invalid_json");
        assert_eq!(ready(r#","\udc00":1"#), "invalid_json");
        assert_eq!(ready(r#","x":1,}"#), "invalid_json");
        assert_eq!(ready(r#","ready_at":"9999-12-31T12:00:00Z""#), "invalid_value");
        assert_eq!(ready(r#","ready_at":"9999-12-31T12:00:00Z","ttl_seconds":0"#), "");

        let of = |value: &str| reasons(&record("clone.transfer", NOW, value));
        let one =
            |id: &str| format!(r#"{{"greeting_call_id":"g","agent_call_id":"a","cloned_voice_id":"{id}"}}"#);
        assert_eq!(of(&one(&"ä".repeat(255))), "");
        assert_eq!(of(&one(&"ä".repeat(256))), "too_long");
        assert_eq!(of(&one(&" ".repeat(256))), "missing_field");
        assert_eq!(of(&one("\\u0000")), "nul_character");
        assert_eq!(of(&one("\\u001f")), "invalid_value");
        assert_eq!(of(&one("\\ud83d\\ude00")), "");
        assert_eq!(of(&one("\\ude00\\ud83d")), "invalid_json");
        assert_eq!(
            (of("[]"), of("\"\\ud800\""), of("")),
            ("not_an_object".into(), "not_an_object".into(), "invalid_json".into())
        );
        assert_eq!(of("\u{feff}{}"), "invalid_json");
        assert_eq!(of("{}"), "missing_field");
        assert_eq!(reasons(&Input { value: None, ..record("clone.transfer", NOW, "") }), "tombstone");
        assert_eq!(
            reasons(&Input {
                value: Some(b"{\"a\":\"\xff\"}".to_vec()),
                ..record("clone.transfer", NOW, "")
            }),
            "invalid_json"
        );
        assert_eq!(reasons(&record("clone.transfer", -1, &one("v"))), "invalid_value");
        assert_eq!(reasons(&record("clone.transfer", 253_402_300_800_000, &one("v"))), "invalid_value");
        let large = fold(&[record("clone.transfer", NOW, &one("v"))], 1, one("v").len() - 1);
        assert_eq!(large.unusable[&0], BTreeSet::from(["too_large"]));
    }

    #[test]
    fn json_is_read_strictly() {
        for right in [
            "{}",
            " [1 , -0.5e+7,\"\\u00e4\\n\", true,null] ",
            "\"\u{7f}\u{2028}\"",
            "-0",
            "{\"a\":{\"\":[]}}",
        ] {
            assert!(tokens(right).is_some(), "{right}");
        }
        let wrong = r#"{ § [1,] § [,1] § {"a"} § {"a":} § {"a":1,} § {1:2} § [1} § [1 2] § {} {} § 01 § 1.
            § .5 § +1 § 1e § --1 § nul § True § NaN § 'a' § " § "\x" § "\u12g4" § "\u12" § "a"b § [1]] § :
            § ] § , § {"a":1:2} § {"a","b"}"#;
        for wrong in wrong.split('§').map(str::trim).chain(["", "[\u{a0}]", "\"\t\"", "\u{feff}1"]) {
            assert!(tokens(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn metadata() {
        let nested = |levels: usize| {
            format!(
                r#","metadata":{}{}"#,
                "{\"a\":".repeat(levels - 1),
                "{}".to_owned() + &"}".repeat(levels - 1)
            )
        };
        assert_eq!((call(&nested(100)), call(&nested(101))), (String::new(), "invalid_json".to_owned()));
        assert_eq!(call(&nested(20_000)), "invalid_json");
        assert_eq!(call(r#","metadata":[]"#), "invalid_type");
        assert_eq!(call(r#","metadata":{"a":{"\u0000":1}}"#), "nul_character");
        assert_eq!(call(r#","metadata":{"a":[1e999]}"#), "invalid_json");
        assert_eq!(call(r#","metadata":{"a":"\ud800"}"#), "invalid_json");
        let event = |at: i64, metadata: &str| {
            record("call.lifecycle", NOW, &format!(r#"{{{CALL},"occurred_at":{at},"metadata":{metadata}}}"#))
        };
        let stored = |events: &[Input]| column(events, "call_log", "metadata");
        assert_eq!(stored(&[event(1, "\" \"")]), "-");
        assert_eq!(stored(&[event(1, "{}")]), "{}");
        assert_eq!(
            stored(&[event(
                1,
                r#"{"é":18446744073709551615,"b":{"z":1.0,"a":1e2,"a":-7},"B":"\u00e9\/\n"}"#
            )]),
            r#"{"B":"é/\n","b":{"a":-7,"z":1.0},"é":18446744073709551615}"#
        );
        let merged = [event(1, r#"{"a":1,"b":1}"#), event(2, r#"{"b":null,"c":10}"#), event(2, r#"{"c":9}"#)];
        assert_eq!(stored(&merged), r#"{"a":1,"b":null,"c":9}"#);
    }

    #[test]
    fn envelopes() {
        let bare = format!("{{{CALL}}}");
        let of = |value: &str, headers: &[(&str, &str)]| {
            reasons(&with_headers(record("call.lifecycle", NOW, value), headers))
        };
        let structured = |more: &str| format!(r#"{{"specversion":"1.0"{more}}}"#);
        assert_eq!(of(&bare, &[("ce_type", "call.lifecycle"), ("ce_time", "2026-01-02T03:04:05Z")]), "");
        assert_eq!(of(&bare, &[("ce_type", "clone.ready")]), "wrong_type_for_topic");
        assert_eq!(of(&bare, &[("ce_type", "clone.ready"), ("ce_type", " ")]), "");
        assert_eq!(of(&bare, &[("ce_time", "1767323045")]), "invalid_value");
        assert_eq!(of(&bare, &[("CE_TYPE", "clone.ready"), ("content-type", "application/json")]), "");
        let data = format!(r#","data":{bare}"#);
        assert_eq!(of(&structured(&data), &[("ce_type", "clone.ready"), ("ce_time", "x")]), "");
        assert_eq!(of(&structured(&format!(r#"{data},"type":"call.lifecycle","time":1"#)), &[]), "");
        assert_eq!(of(&structured(&format!(r#"{data},"type":"clone.ready""#)), &[]), "wrong_type_for_topic");
        assert_eq!(of(&structured(&format!(r#"{data},"type":5"#)), &[]), "invalid_type");
        assert_eq!(of(&structured(&format!(r#"{data},"time":"soon""#)), &[]), "invalid_value");
        assert_eq!(of(&structured(&format!(r#"{data},"time":null,"time":null"#)), &[]), "invalid_json");
        assert_eq!(of(&structured(&format!(r#"{data},"id":"\ud800","id":7"#)), &[]), "");
        assert_eq!(of(&structured(r#","data":[]"#), &[]), "not_an_object");
        assert_eq!(of(&structured(""), &[]), "not_an_object");
        assert_eq!(of(&bare, &[("content-type", "application/cloudevents+json")]), "not_an_object");
        let bare_with = |more: &str| format!("{{{CALL},{more}}}");
        assert_eq!(of(&bare_with(r#""specversion":" ","type":7,"type":8,"time":"x""#), &[]), "");
        let time = |value: &str, headers: &[(&str, &str)]| {
            let record = with_headers(record("call.lifecycle", NOW, value), headers);
            column(&[record], "call_log", "call_started_at")
        };
        assert_eq!(time(&bare, &[]), "2026-01-02 03:04:05.12");
        assert_eq!(time(&bare, &[("ce_time", "2026-01-01T00:00:00Z")]), "2026-01-01 00:00:00");
        assert_eq!(time(&structured(&format!(r#"{data},"time":86400"#)), &[]), "1970-01-02 00:00:00");
    }

    #[test]
    fn the_cache_counts_transfers_of_its_voice() {
        let ready =
            |timestamp: i64, more: &str| record("clone.ready", timestamp, &format!("{{{READY}{more}}}"));
        let transfer = |agent: &str, at: i64| {
            let ids = format!(r#""greeting_call_id":"g9","agent_call_id":"{agent}","cloned_voice_id":"v1""#);
            record("clone.transfer", NOW, &format!(r#"{{{ids},"transferred_at":{at}}}"#))
        };
        let mut records = vec![
            ready(NOW, r#","ready_at":2000,"ttl_seconds":10"#),
            ready(
                NOW - 1,
                r#","ready_at":1000,"ttl_seconds":5000,"clone_created_at":900,"clone_duration_ms":7"#,
            ),
        ];
        let cache = |records: &[Input], name: &str| column(records, "voice_clone_cache", name);
        assert_eq!(cache(&records, "reuse_count"), "1");
        assert_eq!(cache(&records, "last_used_at"), "1970-01-01 00:33:20");
        assert_eq!(cache(&records, "clone_created_at"), "1970-01-01 00:15:00");
        assert_eq!(cache(&records, "ttl_expires_at"), "1970-01-01 01:40:00");
        assert_eq!(cache(&records, "created_at"), "2026-01-02 03:04:05.119");
        assert_eq!(column(&records, "clone_ready_events", "ready_at"), "1970-01-01 00:33:20");
        assert_eq!(column(&records, "clone_ready_events", "clone_duration_ms"), "-");
        assert_eq!(column(&records, "voice_clone_log", "api_response_time_ms"), "-");
        assert_eq!(column(&records, "voice_clone_log", "clone_created_at"), "1970-01-01 00:33:20");
        records.extend([transfer("a1", 3000), transfer("a1", 2500), transfer("a2", 10)]);
        assert_eq!(cache(&records, "reuse_count"), "2");
        assert_eq!(cache(&records, "last_used_at"), "1970-01-01 00:50:00");
    }

    #[test]
    fn a_call_is_the_fold_of_its_events() {
        let event = |status: &str, at: f64, more: &str| {
            let value = format!(r#"{{"call_id":"c1","status":"{status}","occurred_at":{at}{more}}}"#);
            record("call.lifecycle", NOW, &value)
        };
        let log = |events: &[Input], name: &str| column(events, "call_log", name);
        let short =
            [event("initiated", 10.5, ""), event("completed", 20.4, ""), event("initiated", 30.0, "")];
        assert_eq!(log(&short, "status"), "completed");
        assert_eq!(log(&short, "call_started_at"), "1970-01-01 00:00:10.5");
        assert_eq!(log(&short, "call_ended_at"), "1970-01-01 00:00:20.4");
        assert_eq!(log(&short, "duration_seconds"), "9");
        let tied =
            [event("failed", 5.0, r#","caller_id":"a""#), event("completed", 5.0, r#","caller_id":"b""#)];
        assert_eq!((log(&tied, "status"), log(&tied, "caller_id")), ("failed".into(), "b".into()));
        assert_eq!((log(&tied, "call_started_at"), log(&tied, "duration_seconds")), ("-".into(), "-".into()));
        assert_eq!(log(&[event("failed", 9.5, r#","call_started_at":10"#)], "duration_seconds"), "-");
        let long = [event("failed", 2_147_483_647.5, r#","call_started_at":0"#)];
        assert_eq!(log(&long, "duration_seconds"), "2147483647");
        let longer = [event("failed", 2_147_483_648.0, r#","call_started_at":0"#)];
        assert_eq!(log(&longer, "duration_seconds"), "-");
        assert_eq!(call(r#","status":"ringing""#), "invalid_json invalid_value");
    }

    #[test]
    fn a_mapping_is_its_latest_state_and_its_latest_delete() {
        let value = |more: &str| format!(r#"{{"caller_id":"+4930"{more}}}"#);
        let state = |at: i64, more: &str| {
            let more = format!(r#","voice_sample_url":"s3://x","updated_at":{at}{more}"#);
            record("caller.voice_mapping", NOW, &value(&more))
        };
        let mapping = |records: &[Input], name: &str| column(records, "caller_voice_mapping", name);
        let garbage = r#","deleted":true,"updated_at":5,"voice_sample_url":7,"description":"\u0000""#;
        let delete_at_5 = record("caller.voice_mapping", NOW - 5, &value(garbage));
        let tombstone = delete("+4930", 5_000);
        assert!(fold(std::slice::from_ref(&tombstone), 1, 1).tables["caller_voice_mapping"].is_empty());
        assert_eq!(mapping(&[state(5, ""), delete_at_5.clone()], "deleted_at"), "1970-01-01 00:00:05");
        assert_eq!(mapping(&[state(5, ""), tombstone.clone()], "created_at"), "1970-01-01 00:00:05");
        assert_eq!(mapping(&[state(6, ""), delete_at_5.clone()], "deleted_at"), "-");
        assert_eq!(mapping(&[state(4, ""), delete_at_5], "updated_at"), "1970-01-01 00:00:05");
        let states = [state(6, r#","voice_name":"b""#), state(6, r#","voice_name":"a","description":"z""#)];
        assert_eq!(
            (mapping(&states, "voice_name"), mapping(&states, "description")),
            ("b".into(), "-".into())
        );
        let ignored = with_headers(tombstone, &[("ce_type", "wrong"), ("ce_time", "wrong")]);
        assert_eq!(reasons(&ignored), "");
        for key in ["", " ", "a\0", "a\u{1f}", &"x".repeat(256)] {
            assert_eq!(reasons(&delete(key, NOW)), "tombstone");
        }
        assert_eq!(reasons(&delete("+4930", -1)), "invalid_value");
        let doubled = value(r#","deleted":true,"voice_name":"a","voice_name":"b""#);
        assert_eq!(reasons(&record("caller.voice_mapping", NOW, &doubled)), "invalid_json");
        for unsound in ["1e400", r#""\ud800""#] {
            let delete = value(&format!(r#","deleted":true,"description":{unsound}"#));
            assert_eq!(reasons(&record("caller.voice_mapping", NOW, &delete)), "invalid_json");
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let tables = fold(&[record("call.lifecycle", NOW, &format!("{{{CALL}}}"))], 1, 1_000).tables;
        assert_eq!(first_difference(&tables, &tables), None);
        let empty = fold(&[], 1, 1).tables;
        assert!(first_difference(&tables, &empty).unwrap().contains("is missing"));
        assert!(first_difference(&empty, &tables).unwrap().contains("is surplus"));
        let mut other = tables.clone();
        let row = other.get_mut("call_log").unwrap().values_mut().next().unwrap();
        row.insert("deleted_at", None);
        assert_eq!(first_difference(&tables, &other), None);
        other.get_mut("call_log").unwrap().values_mut().next().unwrap().insert("status", None);
        let difference = first_difference(&tables, &other).unwrap();
        assert!(difference.contains(r#"status: expected Some("initiated"), found None"#), "{difference}");
    }

    #[test]
    fn a_difference_is_explained_by_the_records_that_had_a_part_in_the_row() {
        let id = r#""caller_id":"+4930""#;
        let transfer = |voice: &str| {
            let ids = r#""greeting_call_id":"g","agent_call_id":"a""#;
            record("clone.transfer", NOW, &format!(r#"{{{ids},"cloned_voice_id":"{voice}"}}"#))
        };
        let records = [
            transfer("v2"),
            transfer("v1"),
            delete("+4930", NOW),
            delete("+4931", NOW),
            record("clone.ready", NOW, &format!("{{{READY}}}")),
            record("caller.voice_mapping", NOW, &format!(r#"{{{id},"voice_sample_url":"s"}}"#)),
        ];
        let tables = fold(&records, 1, 1_000).tables;
        for (table, column, makers) in
            [("voice_clone_cache", "reuse_count", [1, 4]), ("caller_voice_mapping", "deleted_at", [2, 5])]
        {
            let mut other = tables.clone();
            other.get_mut(table).unwrap().values_mut().next().unwrap().insert(column, Some("7".into()));
            let text = explained_difference(&tables, &other, &records, 1, 1_000).unwrap();
            assert!(text.contains(&format!("{column}: expected")), "{text}");
            let named: Vec<usize> =
                (0..records.len()).filter(|index| text.contains(&format!("record {index}, "))).collect();
            assert_eq!(named, makers, "{text}");
        }
    }
}
