//! The document of `status` as plain data, and its derivation from facts. Pure: no server is asked here.
//!
//! - [`facts`]: the answers of the database and the brokers;
//! - [`problems`]: the kinds of problems, each with its severity, its code and its entry in `docs/runbooks.md`;
//! - [`partitions`]: lag and state of each partition; `waits`: the reasons why partitions wait, as instances report them;
//! - [`judge`]: the document with its verdict; [`tables`]: the document as sentences and tables.

pub mod facts;
pub mod judge;
pub mod partitions;
pub mod problems;
pub mod tables;
mod waits;

use serde::Serialize;
use uuid::Uuid;

pub use self::judge::judge;
use self::problems::{Code, Severity};
use crate::store::letters::LetterGroup;
use crate::store::status::{Cache, Instance, Outbox};

/// The overall verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Records are consumed as they arrive, and nothing needs a person.
    Ok,
    /// Records wait, and their number shrinks.
    CatchingUp,
    /// Records are consumed, but something needs a person.
    Degraded,
    /// `DEAD_LETTER_LIMIT` stopped a partition.
    Stopped,
    /// The group has no member, or the database or the brokers do not answer.
    Down,
}

impl Verdict {
    /// The verdict as a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Verdict::Ok => "OK: records are consumed as they come",
            Verdict::CatchingUp => "CATCHING UP: records wait, and they become fewer",
            Verdict::Degraded => "DEGRADED: it works, and something needs a person",
            Verdict::Stopped => "STOPPED: DEAD_LETTER_LIMIT stopped a partition",
            Verdict::Down => "DOWN: nothing is consumed, or the state is unknown",
        }
    }
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The severity.
    pub severity: Severity,
    /// The kind of problem.
    pub code: Code,
    /// The problem as a sentence.
    pub what: String,
    /// The start of the problem, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The fix: a command or a sentence.
    pub fix: String,
}

/// The state of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionState {
    /// Records are consumed as they arrive.
    Ok,
    /// Records wait. If the partition's instance names a wait, `waits_for` has it.
    CatchingUp,
    /// Records wait, and the stored offset has not moved for a minute.
    Stalled,
    /// `DEAD_LETTER_LIMIT` stopped the partition.
    StoppedByLimit,
    /// `pause` holds the partition.
    Paused,
    /// No member of the group is assigned the partition.
    Unassigned,
    /// The log no longer has the record at the stored offset.
    OffsetLost,
    /// The partition has no leader, or its leader does not answer.
    NoLeader,
    /// The broker or the client refuses to read past an offset.
    Unreadable,
    /// The database refuses even good records of the topic.
    Drift,
}

impl PartitionState {
    /// The state as words.
    pub fn words(self) -> &'static str {
        match self {
            PartitionState::Ok => "ok",
            PartitionState::CatchingUp => "catching up",
            PartitionState::Stalled => "stalled",
            PartitionState::StoppedByLimit => "stopped by limit",
            PartitionState::Paused => "paused",
            PartitionState::Unassigned => "unassigned",
            PartitionState::OffsetLost => "offset lost",
            PartitionState::NoLeader => "no leader",
            PartitionState::Unreadable => "unreadable",
            PartitionState::Drift => "drift",
        }
    }
}

/// A partition. An unknown value is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "docs/operation.md has the fields")]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    pub low: Option<i64>,
    pub end: Option<i64>,
    pub next_offset: Option<i64>,
    pub committed_offset: Option<i64>,
    pub lag_records: Option<i64>,
    pub lag_seconds: Option<f64>,
    pub moved_at: Option<String>,
    pub dead_in_a_row: Option<i64>,
    pub member: Option<String>,
    pub state: Option<PartitionState>,
    pub waits_for: Option<String>,
    pub reason: Option<String>,
}

/// The sums over the partitions of a topic.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "docs/operation.md has the fields")]
pub struct TopicSum {
    pub topic: String,
    pub partitions: usize,
    pub lag_records: Option<i64>,
    pub lag_seconds: Option<f64>,
    pub oldest_waiting_at: Option<String>,
    pub records_per_second: Option<f64>,
    pub eta_seconds: Option<f64>,
}

/// The topic and number of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct PartitionName {
    pub topic: String,
    pub partition: i32,
}

/// A member of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "docs/operation.md has the fields")]
pub struct GroupMember {
    pub id: String,
    /// The `id` of the instance that it is; `None` for another program, or before its first heartbeat.
    pub instance: Option<Uuid>,
    pub client_id: String,
    pub host: String,
    pub partitions: Vec<PartitionName>,
}

/// The backlog of dead letters.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "docs/operation.md has the fields")]
pub struct DeadLetterBacklog {
    pub unresolved: i64,
    pub unpublished: i64,
    pub oldest_unpublished_seconds: Option<f64>,
    pub by_reason: Vec<LetterGroup>,
}

/// The expiry.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "docs/operation.md has the fields")]
pub struct Expiry {
    pub interval_seconds: f64,
    pub last_expired_at: Option<String>,
}

/// The state of the migrations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "docs/operation.md has the fields")]
pub struct Schema {
    pub current: Option<String>,
    pub pending: Vec<String>,
}

/// The database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "docs/operation.md has the fields")]
pub struct DatabaseInfo {
    pub version: Option<String>,
    pub role: Option<String>,
    pub schema: Option<Schema>,
    pub connections: Option<i64>,
}

/// The brokers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "docs/operation.md has the fields")]
pub struct ClusterInfo {
    pub id: Option<i32>,
    pub brokers: usize,
}

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "docs/operation.md has the fields")]
pub struct Document {
    pub version: &'static str,
    pub checked_at: String,
    pub group: String,
    pub topic_prefix: String,
    pub verdict: Verdict,
    pub problems: Vec<Problem>,
    pub topics: Vec<TopicSum>,
    pub partitions: Vec<PartitionStatus>,
    pub members: Option<Vec<GroupMember>>,
    pub instances: Option<Vec<Instance>>,
    pub dead_letters: Option<DeadLetterBacklog>,
    pub cache: Option<Cache>,
    pub expiry: Expiry,
    pub outbox: Option<Outbox>,
    pub database: Option<DatabaseInfo>,
    pub broker: Option<ClusterInfo>,
}

impl Document {
    /// Whether there is a problem of at least this severity.
    pub fn has(&self, severity: Severity) -> bool {
        self.problems.iter().any(|problem| problem.severity <= severity)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
