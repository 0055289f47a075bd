//! What the database and the brokers answered.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::{Broker, Database};
use crate::kafka::brokers::Log;
use crate::kafka::group_state::Member;
use crate::record::{Topic, TopicPartition};
use crate::store::letters::Group;
use crate::store::status::{Cache, Instance, Letters, Outbox, Pause, Skipped, Stored, Wait};

/// Why a server gave no answer, and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unanswered {
    /// In its own words.
    pub what: String,
    /// The remedy.
    pub fix: String,
}

/// The stored positions of the group, by partition.
pub type Positions = BTreeMap<TopicPartition, Stored>;

/// Where the logs begin and end, by partition; those that no broker told are left out.
pub type Logs = BTreeMap<TopicPartition, Log>;

/// What the database answered. What is `None` could not be asked; `failed` says why.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Stock {
    pub server: Database,
    pub read_only: bool,
    /// The stored positions at the first look and at the second.
    pub positions: [Option<Positions>; 2],
    pub pauses: Vec<Pause>,
    pub skips: Vec<Skipped>,
    pub instances: Option<Vec<Instance>>,
    /// What partitions wait for, the latest signs of life last.
    pub waits: Vec<Wait>,
    pub letters: Option<(Letters, Vec<Group>)>,
    pub cache: Option<Cache>,
    pub outbox: Option<Outbox>,
    /// What was asked and why there is no answer.
    pub failed: Vec<(&'static str, String)>,
}

/// A topic that is missing or may not be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The name as Kafka has it.
    pub topic: String,
    /// Why it is refused; `None` where there is none of that name.
    pub refused: Option<String>,
}

/// What the brokers answered.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Cluster {
    pub broker: Broker,
    pub unseen: Vec<Unseen>,
    pub ids: BTreeMap<Topic, Uuid>,
    pub leaders: BTreeMap<TopicPartition, Option<i32>>,
    /// The logs at the first look and at the second, each read after the positions.
    pub logs: [Logs; 2],
    pub members: Result<Vec<Member>, String>,
    pub committed: Result<BTreeMap<TopicPartition, i64>, String>,
    /// Timestamps, in milliseconds since 1970, of the records that wait longest, where they were found.
    pub waiting: BTreeMap<TopicPartition, i64>,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Milliseconds since 1970.
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
    pub database: Result<Stock, Unanswered>,
    /// The brokers' answers.
    pub brokers: Result<Cluster, Unanswered>,
}

/// An instance that gave no sign of life for longer says nothing of now.
pub const SILENT_SECONDS: f64 = 30.0;

impl Facts {
    /// A topic's name as Kafka has it.
    pub fn name(&self, topic: Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }

    /// The position at a look, unless it is one of another topic that had the same name.
    pub fn position(&self, look: usize, partition: TopicPartition) -> Option<&Stored> {
        let stored = self.database.as_ref().ok()?.positions.get(look)?.as_ref()?.get(&partition)?;
        let id = self.brokers.as_ref().ok().and_then(|cluster| cluster.ids.get(&partition.topic));
        let is_other = matches!((stored.topic_id, id), (Some(stored), Some(id)) if stored != *id);
        (!is_other).then_some(stored)
    }

    /// Whether the stored positions are known at a look.
    pub fn knows_positions(&self, look: usize) -> bool {
        self.database.as_ref().is_ok_and(|stock| stock.positions.get(look).is_some_and(Option::is_some))
    }

    /// Where a log begins and ends at a look.
    pub fn log(&self, look: usize, partition: TopicPartition) -> Option<Log> {
        self.brokers.as_ref().ok()?.logs.get(look)?.get(&partition).copied()
    }

    /// Whether the brokers say that none of them leads a partition.
    pub fn is_leaderless(&self, partition: TopicPartition) -> bool {
        let leader = self.brokers.as_ref().ok().and_then(|cluster| cluster.leaders.get(&partition));
        leader.is_some_and(Option::is_none)
    }

    /// What a partition waits for, by the latest sign of life of its instance.
    pub fn wait(&self, partition: TopicPartition) -> Option<&Wait> {
        let waits = &self.database.as_ref().ok()?.waits;
        let name = self.name(partition.topic);
        let is_it = |wait: &&Wait| wait.topic == name && wait.partition == partition.partition;
        waits.iter().rev().find(is_it).filter(|wait| wait.silent_seconds <= SILENT_SECONDS)
    }
}
