//! `caller.voice_mapping`: a caller's voice sample was set or deleted (contract, section 4).

use std::borrow::Cow;

use super::envelope::Content;
use super::{Time, Unusable};

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

impl<'a> VoiceMapping<'a> {
    pub(super) const NAMES: &'static [&'static str] = &[
        "caller_id",
        "voice_sample_url",
        "voice_name",
        "description",
        "account_id",
        "updated_at",
        "deleted",
    ];

    pub(super) fn decode(content: &Content<'a>) -> Result<VoiceMapping<'a>, Unusable> {
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
}
