//! Decodes a record to the event of its topic (contract, sections 2 and 4).

use std::borrow::Cow;

use super::envelope::Content;
use super::fields::{self, CALLER_ID, text_problem};
use super::{
    CallLifecycle, CloneFailed, CloneReady, CloneTransfer, Event, Limits, MappingState, Reason, Status,
    Unusable, VoiceMapping, encoding, json,
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
        Topic::CloneReady => clone_ready(&content, limits).map(Event::Ready),
        Topic::CloneFailed => clone_failed(&content).map(Event::Failed),
        Topic::CloneTransfer => clone_transfer(&content).map(Event::Transfer),
        Topic::CallLifecycle => call_lifecycle(&content).map(Event::Call),
        Topic::CallerVoiceMapping => voice_mapping(&content).map(Event::Mapping),
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

fn clone_ready<'a>(content: &Content<'a>, limits: Limits) -> Result<CloneReady<'a>, Unusable> {
    let ready_at = content.event_time("ready_at")?;
    let clone_duration_ms = content.integer("clone_duration_ms")?;
    let ttl_seconds = content.integer("ttl_seconds")?.map_or(limits.cache_ttl_seconds, i64::from);
    Ok(CloneReady {
        caller_id: content.id("caller_id")?,
        greeting_call_id: content.id("greeting_call_id")?,
        cloned_voice_id: content.id("cloned_voice_id")?,
        ready_at,
        clone_duration_ms,
        clone_created_at: content.time("clone_created_at")?.unwrap_or(ready_at),
        api_response_time_ms: content.integer("api_response_time_ms")?.or(clone_duration_ms),
        sample_file_size_bytes: content.integer("sample_file_size_bytes")?,
        ttl_expires_at: ready_at.plus_seconds(ttl_seconds).ok_or_else(|| {
            Unusable::new(Reason::InvalidValue, "ready_at plus ttl_seconds is after the year 9999")
        })?,
    })
}

fn clone_failed<'a>(content: &Content<'a>) -> Result<CloneFailed<'a>, Unusable> {
    Ok(CloneFailed {
        caller_id: content.id("caller_id")?,
        greeting_call_id: content.id("greeting_call_id")?,
        error_message: content.required("error_message", content.text("error_message", None)?)?,
        failed_at: content.event_time("failed_at")?,
        cloned_voice_id: content.text("cloned_voice_id", Some(255))?,
        api_response_time_ms: content.integer("api_response_time_ms")?,
        sample_file_size_bytes: content.integer("sample_file_size_bytes")?,
    })
}

fn clone_transfer<'a>(content: &Content<'a>) -> Result<CloneTransfer<'a>, Unusable> {
    Ok(CloneTransfer {
        greeting_call_id: content.id("greeting_call_id")?,
        agent_call_id: content.id("agent_call_id")?,
        cloned_voice_id: content.id("cloned_voice_id")?,
        transferred_at: content.event_time("transferred_at")?,
    })
}

fn call_lifecycle<'a>(content: &Content<'a>) -> Result<CallLifecycle<'a>, Unusable> {
    let status = content.required("status", content.text("status", None)?)?;
    Ok(CallLifecycle {
        call_id: content.id("call_id")?,
        status: Status::from_name(&status).ok_or_else(|| {
            Unusable::new(Reason::InvalidValue, "status is none of initiated, completed, failed")
        })?,
        occurred_at: content.event_time("occurred_at")?,
        threecx_call_id: content.text("threecx_call_id", Some(255))?,
        caller_id: content.text("caller_id", Some(255))?,
        cloned_voice_id: content.text("cloned_voice_id", Some(255))?,
        call_started_at: content.time("call_started_at")?,
        call_ended_at: content.time("call_ended_at")?,
        duration_seconds: content.integer("duration_seconds")?,
        transcript: content.text("transcript", None)?,
        metadata: content.metadata("metadata")?,
    })
}

fn voice_mapping<'a>(content: &Content<'a>) -> Result<VoiceMapping<'a>, Unusable> {
    let caller_id = content.id("caller_id")?;
    let updated_at = content.event_time("updated_at")?;
    if content.boolean("deleted")?.unwrap_or(false) {
        // The state is not decoded, but a record with malformed JSON must not count as a delete.
        for name in ["voice_sample_url", "voice_name", "description", "account_id"] {
            content.members.get(name)?;
        }
        return Ok(VoiceMapping { caller_id, updated_at, state: None });
    }
    let state = MappingState {
        voice_sample_url: content
            .required("voice_sample_url", content.text("voice_sample_url", Some(2048))?)?,
        voice_name: content.text("voice_name", Some(255))?,
        description: content.text("description", None)?,
        account_id: content.text("account_id", Some(255))?,
    };
    Ok(VoiceMapping { caller_id, updated_at, state: Some(state) })
}
