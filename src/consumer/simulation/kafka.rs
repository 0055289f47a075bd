//! Topics, partitions, leaders and logs.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::group::Group;
use crate::kafka::brokers;
use crate::record::{Topic, TopicPartition};

/// The log of a partition.
#[derive(Default)]
pub(super) struct Log {
    /// The first remaining offset.
    pub low: i64,
    /// By offset: whether it holds a record. A transaction marker has an offset but no record.
    pub entries: Vec<bool>,
    /// Time until which no broker leads it.
    pub leaderless: bool,
    /// The leader accepts connections and does not answer.
    pub silent: bool,
    /// The offset of a batch that cannot be decompressed, and the offset after it.
    pub unreadable: Option<(i64, i64)>,
}

impl Log {
    pub fn end(&self) -> i64 {
        self.entries.len() as i64
    }

    pub fn has_record(&self, offset: i64) -> bool {
        offset >= self.low && self.entries.get(offset as usize).copied().unwrap_or(false)
    }

    pub fn is_served(&self) -> bool {
        !self.leaderless && !self.silent
    }
}

/// The brokers.
pub(super) struct Kafka {
    pub logs: BTreeMap<TopicPartition, Log>,
    /// The topics that exist, with their ids.
    pub ids: BTreeMap<Topic, Uuid>,
    pub away: bool,
    pub group: Group,
    topics_made: u128,
}

impl Kafka {
    pub fn new(topics: &[(Topic, i32)]) -> Kafka {
        let mut kafka = Kafka {
            logs: BTreeMap::new(),
            ids: BTreeMap::new(),
            away: false,
            group: Group::default(),
            topics_made: 0,
        };
        topics.iter().for_each(|(topic, partitions)| kafka.create(*topic, *partitions));
        kafka
    }

    pub fn create(&mut self, topic: Topic, partitions: i32) {
        self.topics_made += 1;
        self.ids.insert(topic, Uuid::from_u128(self.topics_made));
        for partition in 0..partitions {
            self.logs.insert(TopicPartition::new(topic, partition), Log::default());
        }
        self.group.changed = true;
    }

    /// Returns the number of partitions that the topic had.
    pub fn delete(&mut self, topic: Topic) -> i32 {
        let before = self.logs.len();
        self.logs.retain(|key, _| key.topic != topic);
        self.ids.remove(&topic);
        self.group.changed = true;
        (before - self.logs.len()) as i32
    }

    pub fn add_partition(&mut self, topic: Topic) {
        let count = self.logs.keys().filter(|key| key.topic == topic).count() as i32;
        if self.ids.contains_key(&topic) {
            self.logs.insert(TopicPartition::new(topic, count), Log::default());
            self.group.changed = true;
        }
    }

    pub fn partitions(&self) -> BTreeSet<TopicPartition> {
        self.logs.keys().copied().collect()
    }

    /// Returns the bounds of a log; `None` if the leader does not answer.
    pub fn ask_log(&self, key: TopicPartition) -> Option<brokers::Log> {
        let log = self.logs.get(&key).filter(|log| log.is_served())?;
        Some(brokers::Log { low: log.low, high: log.end() })
    }
}
