//! Decodes a record's bytes to an event, or to the reason why it cannot be used (contract, sections 2 and 4). Pure
//! functions: no clock, no I/O, no panic on any input.

mod call_lifecycle;
mod call_status;
mod clone_failed;
mod clone_ready;
mod clone_transfer;
mod decode;
pub mod edit;
mod encoding;
mod envelope;
mod fields;
mod json;
mod time;
mod unusable;
mod voice_mapping;

use std::collections::BTreeMap;

use crate::record::Topic;

pub use call_lifecycle::CallLifecycle;
pub use call_status::CallStatus;
pub use clone_failed::CloneFailed;
pub use clone_ready::CloneReady;
pub use clone_transfer::CloneTransfer;
pub use decode::{decode, states_every_time};
pub use time::Time;
pub use unusable::{Reason, Unusable};
pub use voice_mapping::{MappingState, VoiceMapping};

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

/// Returns the names of the topic's fields (contract, section 4).
pub fn field_names(topic: Topic) -> &'static [&'static str] {
    match topic {
        Topic::CloneReady => CloneReady::NAMES,
        Topic::CloneFailed => CloneFailed::NAMES,
        Topic::CloneTransfer => CloneTransfer::NAMES,
        Topic::CallLifecycle => CallLifecycle::NAMES,
        Topic::CallerVoiceMapping => VoiceMapping::NAMES,
    }
}

/// Parses a stored `metadata` to the form in which events are compared; `None` if it is not an object that events could
/// have produced.
pub fn stored_metadata(text: &str) -> Option<BTreeMap<String, String>> {
    // The merged `metadata` of several events may hold more values than that of one event.
    json::metadata(text, usize::MAX).ok()
}

#[cfg(test)]
mod tests;
