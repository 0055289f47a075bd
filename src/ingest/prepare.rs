//! Prepares a write: a plan of rows, dead letters, and the new positions. No I/O, no clock.

use std::collections::BTreeMap;

use super::Ingest;
use crate::blocking;
use crate::event::{Event, Time, Unusable, decode};
use crate::plan::{Plan, Source};
use crate::record::{Record, Topic, TopicPartition};
use crate::store::dead_letters::DeadLetter;
use crate::store::offsets::{Advance, Position};

/// Records of one partition that are written in one transaction.
#[derive(Clone, Copy)]
pub(super) struct Part<'a, 'r> {
    pub key: TopicPartition,
    /// The stored position.
    pub from: Position,
    /// The offset to store.
    pub to_offset: i64,
    /// Whether these are the last records of their batch. Only then does the dead letter limit stop the partition, as
    /// the batch that reaches it still lands (contract, section 6).
    pub completes: bool,
    /// In offset order. May be empty: then only the offset moves.
    pub records: &'r [&'a Record],
}

impl<'a, 'r> Part<'a, 'r> {
    /// Returns a range of the records as a part of its own.
    pub fn piece(&self, first: usize, end: usize) -> Part<'a, 'r> {
        let last = end >= self.records.len();
        let records = self.records.get(first..end).unwrap_or_default();
        let to_offset = match records.last() {
            Some(record) if !last => record.offset + 1,
            _ => self.to_offset,
        };
        Part { to_offset, completes: self.completes && last, records, ..*self }
    }

    /// Splits the part into pieces of at most `most` records.
    pub fn pieces(&self, most: usize) -> Vec<Part<'a, 'r>> {
        let most = most.max(1);
        let count = self.records.len().div_ceil(most).max(1);
        (0..count).map(|nth| self.piece(nth * most, self.records.len().min((nth + 1) * most))).collect()
    }
}

/// Records that were found guilty, by offset.
pub(super) type Rejected = BTreeMap<i64, Unusable>;

/// Everything that is written for some records.
pub(super) struct Prepared<'a> {
    pub plan: Plan<'a>,
    pub dead_letters: Vec<DeadLetter<'a>>,
    pub advances: Vec<Advance>,
    /// The positions after the write.
    pub after: BTreeMap<TopicPartition, Position>,
    /// The last record of each topic that produces a row.
    pub good: BTreeMap<Topic, &'a Record>,
}

impl Ingest {
    /// Decodes the records.
    pub(super) fn prepare<'a>(&'a self, parts: &[Part<'a, '_>], rejected: &Rejected) -> Prepared<'a> {
        let bytes = parts.iter().flat_map(|part| part.records).map(|record| record.size()).sum();
        blocking::compute(bytes, || self.plan(parts, rejected))
    }

    fn plan<'a>(&'a self, parts: &[Part<'a, '_>], rejected: &Rejected) -> Prepared<'a> {
        let records = parts.iter().flat_map(|part| part.records.iter().copied()).collect();
        let source = Source { records, topic_prefix: &self.topic_prefix };
        let mut prepared = Prepared {
            plan: Plan { source, ..Plan::default() },
            dead_letters: Vec::new(),
            advances: Vec::new(),
            after: BTreeMap::new(),
            good: BTreeMap::new(),
        };
        for part in parts {
            let topic_name = self.topic_name(part.key.topic);
            let mut dead_in_a_row = part.from.dead_in_a_row;
            for record in part.records {
                let outcome = self.outcome(record, rejected);
                dead_in_a_row = count_consecutive(dead_in_a_row, outcome.is_ok(), self.dead_letter_limit);
                match outcome {
                    Ok((event, timestamp)) => {
                        if makes_a_row(&event) {
                            prepared.good.insert(part.key.topic, record);
                        }
                        prepared.plan.add(event, timestamp);
                    }
                    Err(unusable) => {
                        let topic_name = topic_name.clone();
                        prepared.dead_letters.push(DeadLetter { topic_name, record, unusable });
                    }
                }
            }
            let reached = part.completes && dead_in_a_row >= self.dead_letter_limit;
            let stopped = part.from.stopped || reached;
            let to = Position { next_offset: part.to_offset, dead_in_a_row, stopped, ..part.from };
            prepared.after.insert(part.key, to);
            if let Some(group) = &self.group {
                prepared.advances.push(Advance {
                    group: group.clone(),
                    partition: (topic_name, part.key.partition),
                    expected: part.from,
                    to,
                });
            }
        }
        prepared
    }

    /// Returns the event of a record with the record's timestamp, or the reason why it cannot be used.
    pub(super) fn outcome<'a>(
        &self,
        record: &'a Record,
        rejected: &Rejected,
    ) -> Result<(Event<'a>, Time), Unusable> {
        if let Some(unusable) = rejected.get(&record.offset) {
            return Err(unusable.clone());
        }
        let event = self.decode(record)?;
        // Decoding has checked the timestamp if the event uses it.
        Ok((event, Time::from_record(record.timestamp).unwrap_or(Time::from_micros(0))))
    }

    /// Decodes one record.
    pub(super) fn decode<'a>(&self, record: &'a Record) -> Result<Event<'a>, Unusable> {
        blocking::compute(record.size(), || decode(record, self.limits))
    }
}

/// Returns the count of consecutive unusable records after one more record. The count stays at the limit once it is
/// reached.
fn count_consecutive(before: i64, usable: bool, limit: i64) -> i64 {
    match before {
        reached if reached >= limit => reached,
        _ if usable => 0,
        count => count + 1,
    }
}

/// Whether an event always produces a row: a delete of a mapping that does not exist does not.
fn makes_a_row(event: &Event<'_>) -> bool {
    match event {
        Event::Mapping(mapping) => mapping.state.is_some(),
        _ => true,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
