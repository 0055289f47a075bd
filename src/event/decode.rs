//! Decodes a record to the event of its topic (contract, sections 2 and 4).

use std::borrow::Cow;

use super::envelope::Content;
use super::fields::{self, CALLER_ID, text_problem};
use super::{
    CallLifecycle, CloneFailed, CloneReady, CloneTransfer, Event, Limits, Reason, Unusable, VoiceMapping,
    encoding, json,
};
use crate::record::{Record, Topic};

/// Maximum bytes of key, header names and header values together.
const KEY_AND_HEADERS_MAX_BYTES: usize = 1 << 20;

/// Maximum number of headers.
const HEADERS_MAX: usize = 1000;

/// Returns [`Reason::TooLarge`] if key and headers exceed their limits. Checked before anything else.
fn oversize(record: &Record) -> Option<Unusable> {
    let message = if record.headers.len() > HEADERS_MAX {
        format!("the record has {} headers, more than {HEADERS_MAX}", record.headers.len())
    } else {
        let bytes = record.key_and_header_bytes();
        if bytes <= KEY_AND_HEADERS_MAX_BYTES {
            return None;
        }
        format!("key and headers have {bytes} bytes together, more than {KEY_AND_HEADERS_MAX_BYTES}")
    };
    Some(Unusable::new(Reason::TooLarge, message))
}

/// Decodes a record to its event, or to the reason why it cannot be used.
pub fn decode<'a>(record: &'a Record, limits: Limits) -> Result<Event<'a>, Unusable> {
    if let Some(unusable) = oversize(record) {
        return Err(unusable);
    }
    let Some(value) = record.value.as_deref() else {
        return tombstone(record);
    };
    if value.len() > limits.record_max_bytes {
        return Err(Unusable::new(
            Reason::TooLarge,
            format!(
                "the value has {} bytes, more than RECORD_MAX_BYTES ({})",
                value.len(),
                limits.record_max_bytes
            ),
        ));
    }
    let content = Content::read(record, value).map_err(|unusable| match encoding::problem(value) {
        Some(words) if unusable.reason == Reason::InvalidJson => Unusable::new(Reason::InvalidJson, words),
        _ => unusable,
    })?;
    match record.topic {
        Topic::CloneReady => CloneReady::decode(&content, limits).map(Event::Ready),
        Topic::CloneFailed => CloneFailed::decode(&content).map(Event::Failed),
        Topic::CloneTransfer => CloneTransfer::decode(&content).map(Event::Transfer),
        Topic::CallLifecycle => CallLifecycle::decode(&content).map(Event::Call),
        Topic::CallerVoiceMapping => VoiceMapping::decode(&content).map(Event::Mapping),
    }
}

/// Whether every time in a usable record's event comes from its value or its headers, and none from the record's own
/// timestamp.
pub fn states_every_time(record: &Record, limits: Limits) -> bool {
    let at = |timestamp| Record { timestamp, ..record.clone() };
    let (one, other) = (at(0), at(1));
    match (decode(&one, limits), decode(&other, limits)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Decodes a null value: on the compacted topic it deletes the mapping of the caller that the key names.
fn tombstone(record: &Record) -> Result<Event<'_>, Unusable> {
    let unusable = |message: &str| Err(Unusable::new(Reason::Tombstone, message));
    if record.topic != Topic::CallerVoiceMapping {
        return unusable("the value is null");
    }
    let Some(caller_id) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) else {
        return unusable("the value is null, and the key is no text");
    };
    if json::is_blank(caller_id) || text_problem("key", caller_id, CALLER_ID).is_some() {
        return unusable("the value is null, and the key is no usable caller_id");
    }
    Ok(Event::Mapping(VoiceMapping {
        caller_id: Cow::Borrowed(caller_id),
        updated_at: fields::record_time(record)?,
        state: None,
    }))
}
