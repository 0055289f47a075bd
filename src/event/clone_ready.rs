//! `clone.ready`: a voice was cloned (contract, section 4).

use std::borrow::Cow;

use super::envelope::Content;
use super::{Limits, Reason, Time, Unusable};

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

impl<'a> CloneReady<'a> {
    pub(super) const NAMES: &'static [&'static str] = &[
        "caller_id",
        "greeting_call_id",
        "cloned_voice_id",
        "ready_at",
        "clone_duration_ms",
        "clone_created_at",
        "api_response_time_ms",
        "sample_file_size_bytes",
        "ttl_seconds",
    ];

    pub(super) fn decode(content: &Content<'a>, limits: Limits) -> Result<CloneReady<'a>, Unusable> {
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
}
