//! The actions of [`Machine`] and their times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::lanes::Lane;
use super::machine::Machine;
use super::partition::{State, Trouble};
use super::{Action, PartitionView, ViewState};
use crate::ingest::outcome::{Batch, Effort, OffsetSpan};
use crate::record::{Record, TopicPartition};
use crate::store::offsets::Position;

/// Time that a full lane waits for the write in flight; after that its partitions are paused, so that other lanes
/// continue.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// Maximum number of concurrent writes of a single partition.
const SINGLE_WRITES: usize = 3;

impl Machine {
    /// Returns the next action; `None` until an input arrives or [`Machine::next_timeout`] has passed.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.actions.is_empty() {
            self.resume_lanes();
            if !self.is_gated(now) {
                // Partitions whose records were not kept start again, so retries come before the load.
                self.retry_waiting(now);
                self.load(now);
                self.write_lanes(now);
            }
            self.pause_lanes(now);
        }
        self.actions.pop_front()
    }

    /// Returns when [`Machine::poll`] has a new action without an input.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let gate = self.gate.as_ref().map(|gate| gate.until).filter(|until| *until > now);
        let after_gate = |at: Instant| gate.map_or(at, |gate| gate.max(at));
        let loads = |state: &State| matches!(state, State::Starting { .. }) && !self.loading;
        let retries = |state: &State| matches!(state, State::Waiting { held, .. } if held.is_empty() || self.single_writes < SINGLE_WRITES);
        let partitions = self
            .timed
            .iter()
            .filter_map(|key| self.partitions.get(key))
            .filter(|partition| loads(&partition.state) || retries(&partition.state))
            .filter_map(|partition| partition.due());
        let lanes = (0..self.lanes.len()).filter(|lane| self.may_write(*lane));
        let lanes = lanes.filter_map(|lane| self.lanes.get(lane)?.next_write(&self.limits, now));
        let due = partitions.chain(lanes).map(after_gate);
        let pauses = self.lanes.iter().filter(|lane| !lane.paused);
        let pauses = pauses.filter_map(|lane| Some(lane.full_since? + PAUSE_AFTER));
        due.chain(pauses).min()
    }

    /// Returns the time until this partition is tried again; `None` if this member does not try it again by itself.
    pub fn pause_of(&self, key: TopicPartition, now: Instant) -> Option<Duration> {
        let partition = self.partitions.get(&key)?;
        if matches!(partition.state, State::Stopped | State::Paused | State::Revoked) {
            return None;
        }
        let gate = self.gate.as_ref().map(|gate| gate.until);
        let due = partition.due().max(gate);
        Some(due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now)))
    }

    /// Whether the driver may receive more records: no full lane is unpaused.
    pub fn wants_records(&self) -> bool {
        self.lanes.iter().all(|lane| lane.paused || !lane.is_full(&self.limits))
    }

    /// Returns the known stored positions of this member's partitions.
    pub fn positions(&self) -> BTreeMap<TopicPartition, Position> {
        let known = |(key, partition): (&TopicPartition, &super::partition::Partition)| {
            Some((*key, partition.position.filter(|_| !matches!(partition.state, State::Revoked))?))
        };
        self.partitions.iter().filter_map(known).collect()
    }

    /// Returns the state of each partition of this member.
    pub fn view(&self) -> impl Iterator<Item = PartitionView<'_>> {
        self.partitions.iter().filter_map(|(key, partition)| {
            let (state, read_to) = match &partition.state {
                State::Revoked => return None,
                State::Starting { .. } | State::Loading => (ViewState::Starting, None),
                State::Consuming { next } => (ViewState::Consuming, Some(*next)),
                State::Waiting { held, .. } => (ViewState::Waiting, held.last().map(|last| last.offset + 1)),
                State::Retrying => (ViewState::Waiting, None),
                State::Stopped => (ViewState::Stopped, None),
                State::Paused => (ViewState::Paused, None),
            };
            let held = match &partition.state {
                State::Waiting { held, .. } => held.first().map(|first| first.timestamp),
                _ => None,
            };
            let trouble: Option<&Trouble> = partition.trouble.as_ref();
            Some(PartitionView {
                partition: *key,
                state,
                position: partition.position,
                read_to,
                trouble,
                held,
            })
        })
    }

    /// Returns the records of the next batches.
    pub fn buffered(&self) -> impl Iterator<Item = &Record> {
        self.lanes.iter().flat_map(Lane::buffered)
    }

    /// Whether the last attempt to use the database failed.
    pub fn database_is_away(&self) -> bool {
        self.gate.is_some()
    }

    fn is_gated(&self, now: Instant) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.until > now)
    }

    /// Reads the stored positions of every partition that is due to start.
    fn load(&mut self, now: Instant) {
        if self.loading {
            return;
        }
        let mut due = Vec::new();
        for key in &self.timed {
            if let Some(partition) = self.partitions.get(key)
                && partition.writing.is_none()
                && let State::Starting { at, lost } = partition.state
                && at <= now
            {
                due.push((*key, lost));
            }
        }
        for (key, _) in &due {
            self.set(*key, State::Loading);
        }
        if !due.is_empty() {
            self.loading = true;
            self.actions.push_back(Action::Load(due));
        }
    }

    fn write_lanes(&mut self, now: Instant) {
        for lane in 0..self.lanes.len() {
            let due = self.lanes.get(lane).and_then(|lane| lane.next_write(&self.limits, now));
            if due.is_some_and(|due| due <= now) && self.may_write(lane) {
                self.write_lane(lane, now);
            }
        }
    }

    /// Whether a lane may write now. Large batches are written one at a time, as a batch exists in memory several times
    /// while it is written.
    fn may_write(&self, lane: usize) -> bool {
        let writing: usize = self.lanes.iter().map(|lane| lane.written_bytes()).sum();
        let next = self.lanes.get(lane).map_or(0, |lane| lane.buffered_bytes());
        writing == 0 || writing + next <= 2 * self.limits.bytes
    }

    /// Writes the lane's next batch, unless one is in flight or there is none.
    pub(super) fn write_lane(&mut self, number: usize, now: Instant) {
        let Some(lane) = self.lanes.get_mut(number) else { return };
        if lane.next_write(&self.limits, now).is_none() {
            return;
        }
        self.writes += 1;
        let id = self.writes;
        let (records, touched) = lane.take(id);
        let mut spans = BTreeMap::new();
        for key in touched {
            let Some(partition) = self.partitions.get_mut(&key) else { continue };
            partition.touched = false;
            if let (State::Consuming { next }, Some(from)) = (&partition.state, partition.position)
                && *next > from.next_offset
            {
                partition.writing = Some(id);
                spans.insert(key, OffsetSpan { from, to_offset: *next });
            }
        }
        if spans.is_empty() {
            lane.written();
            return;
        }
        self.actions.push_back(Action::Write { id, effort: Effort::Once, batch: Batch { records, spans } });
    }

    /// Writes the held records of partitions whose pause is over, each partition alone. Partitions whose records were
    /// not kept start again.
    fn retry_waiting(&mut self, now: Instant) {
        let is_due = |key: &&TopicPartition| {
            self.partitions.get(*key).is_some_and(|partition| {
                matches!(partition.state, State::Waiting { until, .. } if until <= now)
                    && partition.writing.is_none()
            })
        };
        let due: Vec<TopicPartition> = self.timed.iter().filter(is_due).copied().collect();
        for key in due {
            self.retry(key, now);
        }
    }

    fn retry(&mut self, key: TopicPartition, now: Instant) {
        let Some(partition) = self.partitions.get(&key) else { return };
        let State::Waiting { held, .. } = &partition.state else { return };
        let (Some(last), Some(from)) = (held.last().map(|last| last.offset), partition.position) else {
            self.set(key, State::Starting { at: now, lost: false });
            return;
        };
        if self.single_writes >= SINGLE_WRITES {
            return;
        }
        let Some(State::Waiting { held: records, .. }) = self.set(key, State::Retrying) else { return };
        self.single_writes += 1;
        self.writes += 1;
        let id = self.writes;
        if let Some(partition) = self.partitions.get_mut(&key) {
            partition.writing = Some(id);
        }
        let spans = BTreeMap::from([(key, OffsetSpan { from, to_offset: last.saturating_add(1) })]);
        self.actions.push_back(Action::Write {
            id,
            effort: Effort::Thorough,
            batch: Batch { records, spans },
        });
    }

    fn pause_lanes(&mut self, now: Instant) {
        for number in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get_mut(number) else { continue };
            if !lane.paused && lane.full_since.is_some_and(|since| since + PAUSE_AFTER <= now) {
                lane.paused = true;
                self.actions.push_back(Action::Pause(self.consuming(number)));
            }
        }
    }

    fn resume_lanes(&mut self) {
        for number in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get_mut(number) else { continue };
            if lane.paused && !lane.is_full(&self.limits) {
                lane.paused = false;
                let next = |key: TopicPartition| match self.partitions.get(&key)?.state {
                    State::Consuming { next } => Some((key, next)),
                    _ => None,
                };
                let offsets = self.consuming(number).into_iter().filter_map(next).collect();
                self.actions.push_back(Action::Resume(offsets));
            }
        }
    }

    fn consuming(&self, lane: usize) -> Vec<TopicPartition> {
        let consuming = self.partitions.iter().filter(|(_, partition)| {
            partition.lane == lane && matches!(partition.state, State::Consuming { .. })
        });
        consuming.map(|(key, _)| *key).collect()
    }
}
