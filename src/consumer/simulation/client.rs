//! A client of the group that behaves like librdkafka. `docs/design.md` lists the assumptions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use uuid::Uuid;

use super::Millis;
use super::kafka::Kafka;
use crate::kafka::group::GroupEvent;
use crate::record::{Record, Topic, TopicPartition};

/// Number of records fetched ahead (`queued.min.messages`).
const QUEUED: usize = 200;

/// Maximum number of records of a partition in one fetch response.
const FETCHED: usize = 40;

/// One record in this many is large, to exercise the limits on memory.
const HEAVY_EVERY: i64 = 997;
const HEAVY_BYTES: usize = 6 * 1024 * 1024;

/// A rebalance event that is not answered yet: the client takes part in no other rebalance.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub since: Millis,
    /// `None` for an assignment, which releases nothing.
    release: Option<Release>,
}

/// The effect of answering a revocation.
#[derive(Clone, Debug, Default)]
pub(super) struct Release {
    pub partitions: Vec<TopicPartition>,
    /// The assignment that follows.
    pub then: Option<Vec<TopicPartition>>,
}

/// A partition that is read.
#[derive(Debug)]
struct Reading {
    /// The next offset to fetch.
    fetch: i64,
    /// The offset after the last returned record.
    handed_out: i64,
    /// Events of an older version are dropped.
    version: u64,
    /// The offset is out of range: nothing is fetched until the partition is unassigned and assigned again.
    failed: bool,
    paused: bool,
    /// The end that was reported.
    end: Option<i64>,
    /// Time before which nothing is fetched, after an error.
    not_before: Millis,
}

#[derive(Default)]
pub(super) struct Client {
    queue: VecDeque<(Option<(TopicPartition, u64)>, GroupEvent)>,
    reading: BTreeMap<TopicPartition, Reading>,
    version: u64,
    pub unanswered: Option<Unanswered>,
    /// A fatal error occurred: nothing works any more.
    pub dead: bool,
    pub member: bool,
    /// The partitions that the group assigned.
    pub given: BTreeSet<TopicPartition>,
    /// The topics' ids when first seen. The client does not follow a recreated topic.
    topics: BTreeMap<Topic, Uuid>,
}

impl Client {
    pub fn is_reading(&self, key: TopicPartition) -> bool {
        self.reading.get(&key).is_some_and(|reading| !reading.failed && !reading.paused)
    }

    pub fn is_assigned(&self, key: TopicPartition) -> bool {
        self.reading.contains_key(&key)
    }

    pub fn has_events(&self) -> bool {
        !self.queue.is_empty()
    }

    pub fn report(&mut self, event: GroupEvent) {
        self.queue.push_back((None, event));
    }

    pub fn give(&mut self, partitions: Vec<TopicPartition>, now: Millis) {
        self.given.extend(partitions.iter().copied());
        self.unanswered = Some(Unanswered { since: now, release: None });
        self.report(GroupEvent::Assigned(partitions));
    }

    pub fn take_away(&mut self, release: Release, lost: bool, now: Millis) {
        let partitions = release.partitions.clone();
        self.given.retain(|key| !partitions.contains(key));
        self.unanswered = Some(Unanswered { since: now, release: Some(release) });
        self.report(GroupEvent::Revoked { partitions, lost });
    }

    /// Returns the next event. Drops events of partitions that were unassigned or paused since.
    pub fn next_event(&mut self) -> Option<GroupEvent> {
        loop {
            let (of, event) = self.queue.pop_front()?;
            if let Some((key, version)) = of
                && !matches!(event, GroupEvent::OffsetOutOfRange { .. })
            {
                let Some(reading) = self.reading.get_mut(&key).filter(|reading| reading.version == version)
                else {
                    continue;
                };
                if let GroupEvent::Record(record) = &event {
                    reading.handed_out = record.offset + 1;
                }
            }
            if let GroupEvent::Revoked { partitions, .. } = &event {
                self.unassign(partitions);
            }
            return Some(event);
        }
    }

    /// Answers an assignment. Reading another partition counts as an answer, as librdkafka does not distinguish the
    /// calls.
    pub fn answer_assignment(&mut self) -> bool {
        let due = self.unanswered.as_ref().is_some_and(|unanswered| unanswered.release.is_none());
        if due {
            self.unanswered = None;
        }
        due
    }

    /// Answers a revocation. Unassigning another partition counts as an answer.
    pub fn answer_revocation(&mut self) -> Option<Release> {
        self.unanswered.as_ref()?.release.as_ref()?;
        self.unanswered.take()?.release
    }

    pub fn assign(&mut self, offsets: &[(TopicPartition, i64)]) -> Result<(), String> {
        if let Some((key, _)) = offsets.iter().find(|(key, _)| self.reading.contains_key(key)) {
            return Err(format!("{key} is assigned already"));
        }
        for (key, offset) in offsets {
            self.version += 1;
            let reading = Reading {
                fetch: *offset,
                handed_out: *offset,
                version: self.version,
                failed: false,
                paused: false,
                end: None,
                not_before: 0,
            };
            self.reading.insert(*key, reading);
        }
        Ok(())
    }

    pub fn unassign(&mut self, partitions: &[TopicPartition]) {
        self.reading.retain(|key, _| !partitions.contains(key));
    }

    /// Stops reading partitions, which answers a pending revocation.
    pub fn stop_reading(&mut self, partitions: &[TopicPartition]) -> Option<Release> {
        self.unassign(partitions);
        self.answer_revocation()
    }

    /// `rd_kafka_seek`: fails permanently once an offset was out of range.
    pub fn seek(&mut self, key: TopicPartition, offset: i64) -> bool {
        self.version += 1;
        let version = self.version;
        let Some(reading) = self.reading.get_mut(&key).filter(|reading| !reading.failed) else {
            return false;
        };
        (reading.fetch, reading.handed_out, reading.version, reading.end) = (offset, offset, version, None);
        true
    }

    /// Drops the records fetched ahead, which are fetched again after the pause. An out-of-range error has no version:
    /// it is dropped only at the head of the queue, behind events of the same partition alone
    /// (`rd_kafka_q_purge_toppar_version`).
    pub fn pause(&mut self, partitions: &[TopicPartition], paused: bool) {
        for key in partitions {
            let of = |event: &(Option<(TopicPartition, u64)>, GroupEvent)| {
                event.0.is_some_and(|(of, _)| of == *key)
            };
            while paused && self.reading.contains_key(key) && self.queue.front().is_some_and(of) {
                self.queue.pop_front();
            }
            self.version += 1;
            if let Some(reading) = self.reading.get_mut(key) {
                reading.paused = paused;
                reading.version = self.version;
                (reading.fetch, reading.end) = (reading.handed_out, None);
            }
        }
    }

    /// Fetches the available records of each partition. Returns whether there may be more.
    pub fn fetch(&mut self, kafka: &Kafka, now: Millis) -> bool {
        let mut more = false;
        for (key, reading) in &mut self.reading {
            if reading.failed || reading.paused || reading.not_before > now {
                more |= reading.not_before > now && !reading.failed;
                continue;
            }
            let (Some(log), Some(id)) = (kafka.logs.get(key), kafka.ids.get(&key.topic)) else { continue };
            if !log.is_served() || self.topics.entry(key.topic).or_insert(*id) != id {
                continue;
            }
            if self.queue.len() >= QUEUED {
                more = true;
                continue;
            }
            let of = Some((*key, reading.version));
            if reading.fetch < log.low || reading.fetch > log.end() {
                reading.failed = true;
                self.queue.push_back((of, GroupEvent::OffsetOutOfRange { partition: *key }));
                continue;
            }
            let before = reading.fetch;
            let mut fetched = 0;
            while reading.fetch < log.end() && fetched < FETCHED {
                if let Some((from, to)) = log.unreadable
                    && (from..to).contains(&reading.fetch)
                {
                    break;
                }
                if log.has_record(reading.fetch) {
                    fetched += 1;
                    self.queue.push_back((of, GroupEvent::Record(record(*key, reading.fetch, *id))));
                }
                reading.fetch += 1;
            }
            if reading.fetch == log.end() {
                if reading.end != Some(reading.fetch) {
                    reading.end = Some(reading.fetch);
                    let event = GroupEvent::EndOfPartition { partition: *key, offset: reading.fetch };
                    self.queue.push_back((of, event));
                }
            } else if reading.fetch == before {
                reading.not_before = now + 500;
                more = true;
                let reason = "decompression failed".to_owned();
                let event =
                    GroupEvent::PartitionFailed { partition: *key, offset: Some(reading.fetch), reason };
                self.queue.push_back((of, event));
            } else {
                more = true;
            }
        }
        more
    }
}

/// Creates a record that carries the topic's id as its timestamp.
fn record(key: TopicPartition, offset: i64, id: Uuid) -> Record {
    let bytes = if offset % HEAVY_EVERY == HEAVY_EVERY - 1 { HEAVY_BYTES } else { 10 };
    Record {
        topic: key.topic,
        partition: key.partition,
        offset,
        timestamp: id.as_u128() as i64,
        key: None,
        value: Some(vec![0; bytes]),
        headers: Vec::new(),
    }
}
