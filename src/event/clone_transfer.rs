//! `clone.transfer`: a call was transferred to the agent (contract, section 4).

use std::borrow::Cow;

use super::envelope::Content;
use super::{Time, Unusable};

/// A call was transferred to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the contract, section 4")]
pub struct CloneTransfer<'a> {
    pub greeting_call_id: Cow<'a, str>,
    pub agent_call_id: Cow<'a, str>,
    pub cloned_voice_id: Cow<'a, str>,
    pub transferred_at: Time,
}

impl<'a> CloneTransfer<'a> {
    pub(super) const NAMES: &'static [&'static str] =
        &["greeting_call_id", "agent_call_id", "cloned_voice_id", "transferred_at"];

    pub(super) fn decode(content: &Content<'a>) -> Result<CloneTransfer<'a>, Unusable> {
        Ok(CloneTransfer {
            greeting_call_id: content.id("greeting_call_id")?,
            agent_call_id: content.id("agent_call_id")?,
            cloned_voice_id: content.id("cloned_voice_id")?,
            transferred_at: content.event_time("transferred_at")?,
        })
    }
}
