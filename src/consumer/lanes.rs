//! Lanes: batches of some of the partitions each, written one after the other. A partition always uses the same lane.

use std::time::{Duration, Instant};

use super::WriteId;
use crate::record::{Record, TopicPartition};

/// How much a lane gathers, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `BATCH_MAX_RECORDS`.
    pub records: usize,
    /// Bytes of records after which a batch is full; the last record may exceed it.
    pub bytes: usize,
    /// `BATCH_MAX_WAIT`.
    pub wait: Duration,
}

/// A lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    buffer: Vec<Record>,
    bytes: usize,
    /// The partitions of the next batch: those with records, and those whose offset alone moves.
    touched: Vec<TopicPartition>,
    /// When the next batch is due.
    due: Option<Instant>,
    /// The write in flight, with its bytes.
    writing: Option<(WriteId, usize)>,
    /// Since when the buffer has been full.
    pub full_since: Option<Instant>,
    /// Whether the lane's partitions are paused because the buffer is full.
    pub paused: bool,
}

impl Lane {
    /// Adds a record. `first` says that its partition is not in the next batch yet.
    pub fn push(&mut self, record: Record, first: bool, limits: &Limits, now: Instant) {
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

    /// Adds a partition whose offset alone moves.
    pub fn touch(&mut self, partition: TopicPartition, due: Instant) {
        self.touched.push(partition);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Whether the next batch takes no more records.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.buffer.len() >= limits.records || self.bytes >= limits.bytes
    }

    /// When the next batch may be written; `None` if there is none or one is in flight.
    pub fn next_write(&self, limits: &Limits, now: Instant) -> Option<Instant> {
        if self.writing.is_some() || self.touched.is_empty() {
            None
        } else if self.is_full(limits) {
            Some(now)
        } else {
            self.due
        }
    }

    /// The records of the next batch.
    pub fn buffered(&self) -> &[Record] {
        &self.buffer
    }

    /// Bytes in the buffer.
    pub fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    /// Records in the buffer.
    pub fn buffered_records(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes of the write in flight.
    pub fn written_bytes(&self) -> usize {
        self.writing.map_or(0, |(_, bytes)| bytes)
    }

    /// Whether this write is the lane's.
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

    /// The write is over.
    pub fn written(&mut self) {
        self.writing = None;
    }

    /// Puts records that did not land back in front. Their partitions must be touched by the caller.
    pub fn put_back(&mut self, mut records: Vec<Record>, limits: &Limits, now: Instant) {
        self.bytes += records.iter().map(Record::size).sum::<usize>();
        records.append(&mut self.buffer);
        self.buffer = records;
        self.due = Some(now);
        if self.full_since.is_none() && self.is_full(limits) {
            self.full_since = Some(now);
        }
    }

    /// Drops what the next batch holds of a partition.
    pub fn forget(&mut self, partition: TopicPartition, limits: &Limits) {
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
