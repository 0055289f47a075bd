//! Lanes: each batches the records of some partitions and writes one batch at a time. A partition always uses the same
//! lane.

use std::time::{Duration, Instant};

use super::WriteId;
use crate::record::{Record, TopicPartition};

/// The limits of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// `BATCH_MAX_RECORDS`.
    pub records: usize,
    /// Bytes of records at which a batch is full; the last record may exceed it.
    pub bytes: usize,
    /// `BATCH_MAX_WAIT`.
    pub wait: Duration,
}

/// A lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    buffer: Vec<Record>,
    bytes: usize,
    /// The partitions of the next batch, including those whose offset moves without a record.
    touched: Vec<TopicPartition>,
    /// The time at which the next batch is due.
    due: Option<Instant>,
    /// The write in flight, with its bytes.
    writing: Option<(WriteId, usize)>,
    /// The time since which the buffer has been full.
    pub full_since: Option<Instant>,
    /// Whether the lane's partitions are paused because the buffer is full.
    pub paused: bool,
}

impl Lane {
    /// Adds a record. `first`: its partition is not in the next batch yet.
    pub fn push(&mut self, record: Record, first: bool, limits: &BatchLimits, now: Instant) {
        if first {
            self.touched.push(record.topic_partition());
        }
        let due = now + limits.wait;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        self.bytes += record.size();
        self.buffer.push(record);
        if self.full_since.is_none() && self.is_full(limits) {
            self.full_since = Some(now);
        }
    }

    /// Adds a partition whose offset moves without a record.
    pub fn touch(&mut self, partition: TopicPartition, due: Instant) {
        self.touched.push(partition);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Whether the next batch accepts no more records.
    pub fn is_full(&self, limits: &BatchLimits) -> bool {
        self.buffer.len() >= limits.records || self.bytes >= limits.bytes
    }

    /// Returns when the next batch may be written; `None` if there is none or one is in flight.
    pub fn next_write(&self, limits: &BatchLimits, now: Instant) -> Option<Instant> {
        if self.writing.is_some() || self.touched.is_empty() {
            None
        } else if self.is_full(limits) {
            Some(now)
        } else {
            self.due
        }
    }

    /// Returns the records of the next batch.
    pub fn buffered(&self) -> &[Record] {
        &self.buffer
    }

    /// Returns the bytes in the buffer.
    pub fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of records in the buffer.
    pub fn buffered_records(&self) -> usize {
        self.buffer.len()
    }

    /// Returns the bytes of the write in flight.
    pub fn written_bytes(&self) -> usize {
        self.writing.map_or(0, |(_, bytes)| bytes)
    }

    /// Whether a write belongs to this lane.
    pub fn is_writing(&self, id: WriteId) -> bool {
        self.writing.is_some_and(|(writing, _)| writing == id)
    }

    /// Takes the next batch: its records and its partitions.
    pub fn take(&mut self, id: WriteId) -> (Vec<Record>, Vec<TopicPartition>) {
        self.writing = Some((id, self.bytes));
        self.bytes = 0;
        self.due = None;
        self.full_since = None;
        (std::mem::take(&mut self.buffer), std::mem::take(&mut self.touched))
    }

    /// Ends the write in flight.
    pub fn written(&mut self) {
        self.writing = None;
    }

    /// Puts records that did not land back in front. The caller must touch their partitions.
    pub fn put_back(&mut self, mut records: Vec<Record>, limits: &BatchLimits, now: Instant) {
        self.bytes += records.iter().map(Record::size).sum::<usize>();
        records.append(&mut self.buffer);
        self.buffer = records;
        self.due = Some(now);
        if self.full_since.is_none() && self.is_full(limits) {
            self.full_since = Some(now);
        }
    }

    /// Drops the records and the offset of a partition from the next batch.
    pub fn forget(&mut self, partition: TopicPartition, limits: &BatchLimits) {
        self.touched.retain(|touched| *touched != partition);
        self.buffer.retain(|record| record.topic_partition() != partition);
        self.bytes = self.buffer.iter().map(Record::size).sum();
        if self.touched.is_empty() {
            self.due = None;
        }
        if !self.is_full(limits) {
            self.full_since = None;
        }
    }
}
