//! Decodes a record's bytes to an event, or to the reason why it cannot be used (contract, sections 2 and 4). Pure
//! functions: no clock, no I/O, no panic on any input.

pub mod edit;
mod encoding;
mod envelope;
mod fields;
mod json;
mod time;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::record::{Record, Topic};
use envelope::Content;
use fields::{CALLER_ID, text_fault};

pub use time::Time;

/// The reason why a record cannot be used (contract, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The value is not JSON, or is JSON that the contract rules out.
    InvalidJson,
    /// The value, or the envelope's `data`, is not an object.
    NotAnObject,
    /// A required field is absent, null or blank.
    MissingField,
    /// A field has the wrong JSON type.
    InvalidType,
    /// A field has the right type and an impossible value.
    InvalidValue,
    /// A text is longer than its column.
    TooLong,
    /// A text holds U+0000, which PostgreSQL cannot store.
    NulCharacter,
    /// A null value that is not a delete.
    Tombstone,
    /// The value is larger than `RECORD_MAX_BYTES`, or key and headers exceed the limits of the contract.
    TooLarge,
    /// The envelope's `type` is that of another topic.
    WrongTypeForTopic,
    /// PostgreSQL refused the row for good.
    RejectedByDatabase,
}

impl Reason {
    /// All reasons, in the order of the contract.
    pub const ALL: [Reason; 11] = [
        Reason::InvalidJson,
        Reason::NotAnObject,
        Reason::MissingField,
        Reason::InvalidType,
        Reason::InvalidValue,
        Reason::TooLong,
        Reason::NulCharacter,
        Reason::Tombstone,
        Reason::TooLarge,
        Reason::WrongTypeForTopic,
        Reason::RejectedByDatabase,
    ];

    /// Returns the reason's name in the dead letter.
    pub fn name(self) -> &'static str {
        match self {
            Reason::InvalidJson => "invalid_json",
            Reason::NotAnObject => "not_an_object",
            Reason::MissingField => "missing_field",
            Reason::InvalidType => "invalid_type",
            Reason::InvalidValue => "invalid_value",
            Reason::TooLong => "too_long",
            Reason::NulCharacter => "nul_character",
            Reason::Tombstone => "tombstone",
            Reason::TooLarge => "too_large",
            Reason::WrongTypeForTopic => "wrong_type_for_topic",
            Reason::RejectedByDatabase => "rejected_by_database",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A record that cannot be used: the reason, and a message that names the field and quotes no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The reason.
    pub reason: Reason,
    /// The message for a person. Contains no personal data.
    pub message: String,
}

impl Unusable {
    /// Combines a reason and a message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Unusable {
        Unusable { reason, message: message.into() }
    }
}

/// The settings that decoding depends on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `RECORD_MAX_BYTES`.
    pub record_max_bytes: usize,
    /// `CACHE_TTL`, in seconds.
    pub cache_ttl_seconds: i64,
}

/// An event of one of the five topics. Texts borrow from the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// `clone.ready`
    Ready(CloneReady<'a>),
    /// `clone.failed`
    Failed(CloneFailed<'a>),
    /// `clone.transfer`
    Transfer(CloneTransfer<'a>),
    /// `call.lifecycle`
    Call(CallLifecycle<'a>),
    /// `caller.voice_mapping`
    Mapping(VoiceMapping<'a>),
}

/// A voice was cloned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the contract, section 4")]
pub struct CloneReady<'a> {
    pub caller_id: Cow<'a, str>,
    pub greeting_call_id: Cow<'a, str>,
    pub cloned_voice_id: Cow<'a, str>,
    pub ready_at: Time,
    pub clone_duration_ms: Option<i32>,
    pub clone_created_at: Time,
    pub api_response_time_ms: Option<i32>,
    pub sample_file_size_bytes: Option<i32>,
    pub ttl_expires_at: Time,
}

/// A clone failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the contract, section 4")]
pub struct CloneFailed<'a> {
    pub caller_id: Cow<'a, str>,
    pub greeting_call_id: Cow<'a, str>,
    pub error_message: Cow<'a, str>,
    pub failed_at: Time,
    pub cloned_voice_id: Option<Cow<'a, str>>,
    pub api_response_time_ms: Option<i32>,
    pub sample_file_size_bytes: Option<i32>,
}

/// A call was transferred to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the contract, section 4")]
pub struct CloneTransfer<'a> {
    pub greeting_call_id: Cow<'a, str>,
    pub agent_call_id: Cow<'a, str>,
    pub cloned_voice_id: Cow<'a, str>,
    pub transferred_at: Time,
}

/// The status of a call. The variants are in the order of their texts, which decides between events at equal times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Status {
    Completed,
    Failed,
    Initiated,
}

impl Status {
    /// Returns the status as it is written in events and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Initiated => "initiated",
        }
    }

    /// Parses a status.
    pub fn from_name(name: &str) -> Option<Status> {
        [Status::Completed, Status::Failed, Status::Initiated]
            .into_iter()
            .find(|status| status.name() == name)
    }
}

/// A call was initiated, was completed or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the contract, section 4")]
pub struct CallLifecycle<'a> {
    pub call_id: Cow<'a, str>,
    pub status: Status,
    pub occurred_at: Time,
    pub threecx_call_id: Option<Cow<'a, str>>,
    pub caller_id: Option<Cow<'a, str>>,
    pub cloned_voice_id: Option<Cow<'a, str>>,
    pub call_started_at: Option<Time>,
    pub call_ended_at: Option<Time>,
    pub duration_seconds: Option<i32>,
    pub transcript: Option<Cow<'a, str>>,
    /// Top-level keys, each with its value as compact JSON with sorted keys.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// A caller's voice sample was set or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoiceMapping<'a> {
    /// The caller whose voice sample changed.
    pub caller_id: Cow<'a, str>,
    /// The event's `updated_at`.
    pub updated_at: Time,
    /// The new state; `None` for a delete.
    pub state: Option<MappingState<'a>>,
}

/// The state of a mapping. The fields are in the order in which states are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the fields are those of the contract, section 4")]
pub struct MappingState<'a> {
    pub voice_sample_url: Cow<'a, str>,
    pub voice_name: Option<Cow<'a, str>>,
    pub description: Option<Cow<'a, str>>,
    pub account_id: Option<Cow<'a, str>>,
}

/// Returns the names of the topic's fields (contract, section 4).
pub fn field_names(topic: Topic) -> &'static [&'static str] {
    let names = envelope::names(topic);
    names.get(..names.len() - envelope::ENVELOPE_NAMES).unwrap_or(names)
}

/// Parses a stored `metadata` to the form in which events are compared; `None` if it is not an object that events could
/// have produced.
pub fn stored_metadata(text: &str) -> Option<BTreeMap<String, String>> {
    // The merged `metadata` of several events may hold more values than that of one event.
    json::metadata(text, usize::MAX).ok()
}

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
    let content = Content::read(record, value).map_err(|unusable| match encoding::foreign(value) {
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
    if json::is_blank(caller_id) || text_fault("key", caller_id, CALLER_ID).is_some() {
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

#[cfg(test)]
mod tests;
