//! Decodes a record's bytes to an event, or to the reason why it cannot be used (contract, sections 2 and 4). Pure
//! functions: no clock, no I/O, no panic on any input.

mod decode;
pub mod edit;
mod encoding;
mod envelope;
mod fields;
mod json;
mod time;
mod unusable;

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::record::Topic;

pub use decode::{decode, states_every_time};
pub use time::Time;
pub use unusable::{Reason, Unusable};

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

#[cfg(test)]
mod tests;
