//! The input and the result of a write by the live consumer, with one outcome for each partition.

use std::collections::BTreeMap;

use crate::record::{Record, TopicPartition};
use crate::store::offsets::Position;
use crate::store::write::Written;
use crate::traces::Span;

/// A batch of the live consumer.
#[derive(Debug, Default)]
pub struct Batch {
    /// In offset order within each partition.
    pub records: Vec<Record>,
    /// Every partition of the batch, including those whose offset moves without a record.
    pub spans: BTreeMap<TopicPartition, OffsetSpan>,
}

/// The part of a partition that a batch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetSpan {
    /// The position that the database is expected to hold.
    pub from: Position,
    /// The offset to store once every record of the partition has landed. It exceeds the last record's offset by more
    /// than one if the offsets in between hold no record (contract, section 7).
    pub to_offset: i64,
}

/// The work that a write may do before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// One transaction for the whole batch, then one for each partition.
    Once,
    /// Halving and the proof by trial as well (contract, section 6), which takes seconds.
    Thorough,
}

/// The result of a write.
#[derive(Debug, Default)]
pub struct BatchReport {
    /// One outcome for each partition of the batch.
    pub outcomes: BTreeMap<TopicPartition, Outcome>,
    /// The records that did not land, in their order.
    pub remaining: Vec<Record>,
    /// The rows written.
    pub written: Written,
    /// The batch's span. [`BatchReport::ending`] ends it once it is known when the rest is tried again.
    pub span: Span,
}

/// The outcome of one partition of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every record landed, and this position is stored.
    Landed(Position),
    /// The stored position is not the expected one. Nothing was written.
    Fenced,
    /// Some records did not land.
    Waits {
        /// The stored position, after the records that landed.
        landed: Position,
        /// The reason why the other records wait.
        wait: Wait,
    },
}

/// A reason why records wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The kind, which decides the consumer's next step.
    pub kind: WaitKind,
    /// The reason for the log. Names a table, constraint, column or offset, and quotes no value.
    pub text: String,
}

impl Wait {
    /// Returns the label of `voiceclone_write_retries_total{cause}`, from the kind and the words of `store::fault`.
    pub fn cause(&self) -> &'static str {
        let says = |words: &[&str]| words.iter().any(|words| self.text.contains(words));
        let right = says(&["permission denied", "must be owner of"]);
        match self.kind {
            WaitKind::Drift if right => "permission",
            WaitKind::Drift => "drift",
            WaitKind::Suspects => "other",
            _ if says(&["a lock was not granted"]) => "timeout",
            _ if says(&["read-only", "during recovery", "not accepting commands"]) => "read_only",
            _ if says(&["could not extend file", "could not write", "No space left"]) => "disk_full",
            _ if says(&["terminating connection", "the database system is"]) => "shutdown",
            _ if says(&["deadlock"]) => "deadlock",
            _ if says(&["canceling statement", "timeout", "no answer within"]) => "timeout",
            _ if right => "permission",
            WaitKind::Database => "connection",
            WaitKind::TooLarge | WaitKind::Other => "other",
        }
    }
}

/// The kinds of [`Wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKind {
    /// The database cannot be reached or accepts no writes. Every partition waits, and one retry serves all.
    Database,
    /// PostgreSQL refused a row, or a part of the batch failed. A thorough write follows without a pause.
    Suspects,
    /// The table refuses good rows as well (contract, section 6: drift).
    Drift,
    /// One record is too slow or too large for the database.
    TooLarge,
    /// Any other error that may be transient.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_counted_by_the_words_of_postgresql() {
        use WaitKind::{Database, Drift, Other, Suspects};
        for (kind, text, cause) in [
            (Database, "no connection to PostgreSQL: none within 5 s (127.0.0.1:1: refused)", "connection"),
            (Database, "PostgreSQL: connection closed", "connection"),
            (Database, "PostgreSQL takes no writes (read-only)", "read_only"),
            (Database, "PostgreSQL: cannot execute in a read-only transaction", "read_only"),
            (Database, "PostgreSQL: could not extend file", "disk_full"),
            (Database, "PostgreSQL: terminating connection", "shutdown"),
            (Database, "no connection to PostgreSQL: h:5432: the database system is starting up", "shutdown"),
            (Other, "PostgreSQL: deadlock detected", "deadlock"),
            (Other, "PostgreSQL: canceling statement due to lock timeout", "timeout"),
            (Other, "a lock was not granted within 2 s; held by process 7, role deadlock", "timeout"),
            (Drift, "PostgreSQL: permission denied for (call_log): undo the change", "permission"),
            (Drift, "good rows are refused: NOT NULL of column tenant_id of table call_log", "drift"),
            (Suspects, "PostgreSQL refused a row: a CHECK", "other"),
            (Other, "PostgreSQL: invalid page in block", "other"),
        ] {
            assert_eq!(Wait { kind, text: text.to_owned() }.cause(), cause, "{text}");
        }
    }
}
