//! Handles the end of a write: records landed, were fenced, or wait.

use std::collections::BTreeMap;
use std::time::Instant;

use super::machine::Machine;
use super::partition::{State, Trouble, TroubleKind};
use super::{Action, Notice, WriteId};
use crate::ingest::outcome::{BatchReport, Outcome, Wait, WaitKind};
use crate::record::{Record, TopicPartition};
use crate::store::offsets::Position;

/// Maximum bytes of records held by all waiting partitions together. Records beyond it are dropped and read again.
const HELD_MAX_BYTES: usize = 16 * 1024 * 1024;

impl Machine {
    pub(super) fn written(&mut self, id: WriteId, report: BatchReport, now: Instant) {
        let lane = self.lanes.iter().position(|lane| lane.is_writing(id));
        self.write_ended(lane);
        let mut remaining: BTreeMap<TopicPartition, Vec<Record>> = BTreeMap::new();
        for record in report.remaining {
            remaining.entry(record.topic_partition()).or_default().push(record);
        }
        let (mut landed, mut unavailable, mut put_back) = (false, None, Vec::new());
        for (key, outcome) in report.outcomes {
            let Some(partition) = self.partitions.get_mut(&key) else { continue };
            if partition.writing != Some(id) {
                continue;
            }
            partition.writing = None;
            if matches!(partition.state, State::Revoked) {
                self.partitions.remove(&key);
                continue;
            }
            if !matches!(partition.state, State::Consuming { .. } | State::Retrying) {
                continue;
            }
            let records = remaining.remove(&key).unwrap_or_default();
            match outcome {
                Outcome::Landed(position) => {
                    landed = true;
                    self.landed(key, position);
                }
                Outcome::Fenced => {
                    self.actions.push_back(Action::Report(Notice::Fenced(key)));
                    self.restart(key, false, now);
                }
                Outcome::Waits { landed: position, wait } => {
                    landed |= partition.move_to(position);
                    match wait {
                        _ if position.stopped => self.stop(key, position),
                        Wait { kind: WaitKind::Database, text } => {
                            unavailable = Some(text);
                            if lane.is_some() {
                                put_back.push((key, records));
                            } else {
                                self.set(key, State::Waiting { until: now, held: records });
                            }
                        }
                        wait => self.wait(key, wait, records, lane.is_some(), now),
                    }
                }
            }
        }
        if let Some(lane) = lane {
            self.put_back(lane, put_back, now);
        }
        match unavailable {
            Some(text) => self.database_failed(&text, now),
            None if landed => self.database_works(),
            None => {}
        }
    }

    fn write_ended(&mut self, lane: Option<usize>) {
        match lane.and_then(|lane| self.lanes.get_mut(lane)) {
            Some(lane) => lane.written(),
            None => self.single_writes = self.single_writes.saturating_sub(1),
        }
    }

    fn landed(&mut self, key: TopicPartition, position: Position) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        partition.move_to(position);
        partition.failures = 0;
        partition.trouble = None;
        let retried = matches!(partition.state, State::Retrying);
        if position.stopped {
            self.stop(key, position);
        } else if retried {
            self.read(vec![(key, position.next_offset)]);
        }
    }

    /// Lets records of a partition wait for a reason of its own. `first`: they were written in a batch with other
    /// partitions.
    fn wait(&mut self, key: TopicPartition, wait: Wait, held: Vec<Record>, first: bool, now: Instant) {
        self.stop_reading(key);
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        let at_once = first && wait.kind == WaitKind::Suspects;
        if !at_once {
            partition.failures = partition.failures.saturating_add(1);
            let kind = if wait.kind == WaitKind::Drift { TroubleKind::Drift } else { TroubleKind::Write };
            partition.trouble = Some(Trouble { kind, text: wait.text });
        }
        let until = if at_once { now } else { now + super::pause(partition.failures, key) };
        let bytes = held.iter().map(Record::size).sum::<usize>();
        let fits = self.held_bytes + bytes <= HELD_MAX_BYTES;
        let held = if fits { held } else { Vec::new() };
        self.set(key, State::Waiting { until, held });
    }

    /// Puts records back at the front of the lane's next batch, in their old order.
    fn put_back(&mut self, lane: usize, parts: Vec<(TopicPartition, Vec<Record>)>, now: Instant) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        let mut all = Vec::new();
        for (key, records) in parts {
            let Some(partition) = self.partitions.get_mut(&key) else { continue };
            if !std::mem::replace(&mut partition.touched, true) {
                lane.touch(key, now);
            }
            all.extend(records);
        }
        if !all.is_empty() {
            lane.put_back(all, &self.limits, now);
        }
    }

    /// Handles a write whose task ended without a result: it is unknown which records landed, so the positions are read
    /// again.
    pub(super) fn write_died(&mut self, id: WriteId, now: Instant) {
        let lane = self.lanes.iter().position(|lane| lane.is_writing(id));
        self.write_ended(lane);
        let keys: Vec<TopicPartition> = self.partitions.keys().copied().collect();
        for key in keys {
            let Some(partition) = self.partitions.get_mut(&key) else { continue };
            if partition.writing != Some(id) {
                continue;
            }
            partition.writing = None;
            match partition.state {
                State::Revoked => drop(self.partitions.remove(&key)),
                State::Consuming { .. } | State::Retrying => self.restart(key, false, now),
                _ => {}
            }
        }
    }
}
