//! The status of a call (contract, section 4).

/// The status of a call. The variants are in the order of their texts, which decides between events at equal times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum CallStatus {
    Completed,
    Failed,
    Initiated,
}

impl CallStatus {
    /// Returns the status as it is written in events and in the table.
    pub fn name(self) -> &'static str {
        match self {
            CallStatus::Completed => "completed",
            CallStatus::Failed => "failed",
            CallStatus::Initiated => "initiated",
        }
    }

    /// Parses a status.
    pub fn from_name(name: &str) -> Option<CallStatus> {
        [CallStatus::Completed, CallStatus::Failed, CallStatus::Initiated]
            .into_iter()
            .find(|status| status.name() == name)
    }
}
