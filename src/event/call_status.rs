//! The status of a call (contract, section 4).

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
