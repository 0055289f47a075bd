//! `call.lifecycle`: a call was initiated, was completed or failed (contract, section 4).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::envelope::Content;
use super::{CallStatus, Reason, Time, Unusable};

/// A call was initiated, was completed or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the contract, section 4")]
pub struct CallLifecycle<'a> {
    pub call_id: Cow<'a, str>,
    pub status: CallStatus,
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

impl<'a> CallLifecycle<'a> {
    /// An event without optional fields.
    pub fn new(call_id: Cow<'a, str>, status: CallStatus, occurred_at: Time) -> CallLifecycle<'a> {
        CallLifecycle {
            call_id,
            status,
            occurred_at,
            threecx_call_id: None,
            caller_id: None,
            cloned_voice_id: None,
            call_started_at: None,
            call_ended_at: None,
            duration_seconds: None,
            transcript: None,
            metadata: None,
        }
    }

    pub(super) const NAMES: &'static [&'static str] = &[
        "call_id",
        "status",
        "occurred_at",
        "threecx_call_id",
        "caller_id",
        "cloned_voice_id",
        "call_started_at",
        "call_ended_at",
        "duration_seconds",
        "transcript",
        "metadata",
    ];

    pub(super) fn decode(content: &Content<'a>) -> Result<CallLifecycle<'a>, Unusable> {
        let status = content.required("status", content.text("status", None)?)?;
        Ok(CallLifecycle {
            call_id: content.id("call_id")?,
            status: CallStatus::from_name(&status).ok_or_else(|| {
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
}
