//! `clone.failed`: a clone failed (contract, section 4).

use std::borrow::Cow;

use super::envelope::Content;
use super::{Time, Unusable};

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

impl<'a> CloneFailed<'a> {
    pub(super) const NAMES: &'static [&'static str] = &[
        "caller_id",
        "greeting_call_id",
        "error_message",
        "failed_at",
        "cloned_voice_id",
        "api_response_time_ms",
        "sample_file_size_bytes",
    ];

    pub(super) fn decode(content: &Content<'a>) -> Result<CloneFailed<'a>, Unusable> {
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
}
