//! The answers of the database and the brokers.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::{ClusterInfo, DatabaseInfo};
use crate::kafka::brokers::Log;
use crate::kafka::group_state::Member;
use crate::record::{Topic, TopicPartition};
use crate::store::letters::LetterGroup;
use crate::store::status::{Cache, Instance, Letters, Outbox, Pause, ReportedWait, Skipped, Stored};

/// A missing answer of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unanswered {
    /// The reason, in the words of the server or its client.
    pub what: String,
    /// The remedy.
    pub fix: String,
}

/// The stored positions of the group, by partition.
pub type StoredPositions = BTreeMap<TopicPartition, Stored>;

/// The first and the end offset of the logs by partition, without those that no broker answered for.
pub type Logs = BTreeMap<TopicPartition, Log>;

/// The answers of the database. `None` is a failed query; `failed` has the reason.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct DatabaseAnswers {
    pub server: DatabaseInfo,
    pub read_only: bool,
    /// The stored positions at the first look and at the second.
    pub positions: [Option<StoredPositions>; 2],
    pub pauses: Vec<Pause>,
    pub skips: Vec<Skipped>,
    pub instances: Option<Vec<Instance>>,
    /// The reasons why partitions wait, in the order of the latest heartbeats of their instances.
    pub waits: Vec<ReportedWait>,
    pub letters: Option<(Letters, Vec<LetterGroup>)>,
    pub cache: Option<Cache>,
    pub outbox: Option<Outbox>,
    /// Failed queries, each with the reason.
    pub failed: Vec<(&'static str, String)>,
}

/// A topic that is missing or not visible to this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The name, with its prefix.
    pub topic: String,
    /// Why the broker refuses to describe it; `None` where it does not exist.
    pub refused: Option<String>,
}

/// The answers of the brokers.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct BrokerAnswers {
    pub broker: ClusterInfo,
    pub unseen: Vec<Unseen>,
    pub ids: BTreeMap<Topic, Uuid>,
    pub leaders: BTreeMap<TopicPartition, Option<i32>>,
    /// The logs at the first look and at the second, each read after the positions.
    pub logs: [Logs; 2],
    pub members: Result<Vec<Member>, String>,
    pub committed: Result<BTreeMap<TopicPartition, i64>, String>,
    /// Timestamps of the oldest waiting records, in milliseconds since 1970, as far as they could be read.
    pub waiting: BTreeMap<TopicPartition, i64>,
}

/// All facts about a group.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The time of the check, in milliseconds since 1970.
    pub checked_at: i64,
    /// `KAFKA_GROUP_ID`
    pub group: String,
    /// `TOPIC_PREFIX`
    pub topic_prefix: String,
    /// `DEAD_LETTER_LIMIT`
    pub dead_letter_limit: i64,
    /// `EXPIRY_INTERVAL`
    pub expiry_interval: Duration,
    /// Time between the two looks.
    pub between: Duration,
    /// The database's answers.
    pub database: Result<DatabaseAnswers, Unanswered>,
    /// The brokers' answers.
    pub brokers: Result<BrokerAnswers, Unanswered>,
}

/// Maximum age of a heartbeat that still counts.
pub const SILENT_SECONDS: f64 = 30.0;

impl Facts {
    /// The name of a topic, with its prefix.
    pub fn name(&self, topic: Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }

    /// The position at a look, unless it belongs to a topic of the same name from before it was recreated.
    pub fn position(&self, look: usize, partition: TopicPartition) -> Option<&Stored> {
        let stored = self.database.as_ref().ok()?.positions.get(look)?.as_ref()?.get(&partition)?;
        let id = self.brokers.as_ref().ok().and_then(|cluster| cluster.ids.get(&partition.topic));
        let is_other = matches!((stored.topic_id, id), (Some(stored), Some(id)) if stored != *id);
        (!is_other).then_some(stored)
    }

    /// Whether the stored positions are known at a look.
    pub fn knows_positions(&self, look: usize) -> bool {
        self.database.as_ref().is_ok_and(|answers| answers.positions.get(look).is_some_and(Option::is_some))
    }

    /// The first and the end offset of a log at a look.
    pub fn log(&self, look: usize, partition: TopicPartition) -> Option<Log> {
        self.brokers.as_ref().ok()?.logs.get(look)?.get(&partition).copied()
    }

    /// Whether the brokers report that a partition has no leader.
    pub fn is_leaderless(&self, partition: TopicPartition) -> bool {
        let leader = self.brokers.as_ref().ok().and_then(|cluster| cluster.leaders.get(&partition));
        leader.is_some_and(Option::is_none)
    }

    /// The reason why a partition waits, from the latest heartbeat of its instance.
    pub fn wait(&self, partition: TopicPartition) -> Option<&ReportedWait> {
        let waits = &self.database.as_ref().ok()?.waits;
        let name = self.name(partition.topic);
        let is_it = |wait: &&ReportedWait| wait.topic == name && wait.partition == partition.partition;
        waits.iter().rev().find(is_it).filter(|wait| wait.silent_seconds <= SILENT_SECONDS)
    }
}
