//! The decisions of the live consumer: a state machine without I/O and without a clock. The driver feeds it inputs
//! ([`Machine::handle`], [`Machine::push`]), carries out its actions ([`Machine::poll`]), and wakes it in time
//! ([`Machine::next_timeout`]). `docs/design.md` draws the states.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::lanes::{BatchLimits, Lane};
use super::partition::{Partition, State, Trouble, TroubleKind};
use super::{Action, Input, LANES, Notice, Start, WriteId};
use crate::record::{Record, Topic, TopicPartition};
use crate::store::offsets::Position;

/// Maximum delay before an offset that moves without a record is stored; a batch of records stores it earlier.
const MARKER_DELAY: Duration = Duration::from_millis(500);

/// The database could not be used: no query is sent before `until`.
#[derive(Debug)]
pub(super) struct Gate {
    pub until: Instant,
    pub failures: u32,
}

/// The state of the consumer.
#[derive(Debug)]
pub struct Machine {
    pub(super) limits: BatchLimits,
    pub(super) partitions: BTreeMap<TopicPartition, Partition>,
    /// The partitions that become due at some time: `Starting` and `Waiting`.
    pub(super) timed: BTreeSet<TopicPartition>,
    pub(super) lanes: [Lane; LANES],
    pub(super) actions: VecDeque<Action>,
    pub(super) gate: Option<Gate>,
    /// Whether stored positions are being read.
    pub(super) loading: bool,
    /// Number of writes in flight that are of a single partition.
    pub(super) single_writes: usize,
    pub(super) writes: WriteId,
    /// The seed of this instance's random pauses.
    pub(super) jitter_seed: u32,
    pub(super) held_bytes: usize,
    /// The topics paused by `pause`.
    pub(super) paused: BTreeSet<Topic>,
}

impl Machine {
    /// Creates a machine without partitions.
    pub fn new(limits: BatchLimits) -> Machine {
        Machine {
            limits,
            partitions: BTreeMap::new(),
            timed: BTreeSet::new(),
            lanes: Default::default(),
            actions: VecDeque::new(),
            gate: None,
            loading: false,
            single_writes: 0,
            writes: 0,
            jitter_seed: std::process::id(),
            held_bytes: 0,
            paused: BTreeSet::new(),
        }
    }

    /// Adds a record. Ignores a record of a partition that is not read, or before the next offset: it is read again if
    /// it is needed.
    pub fn push(&mut self, record: Record, now: Instant) {
        let Some(partition) = self.partitions.get_mut(&record.topic_partition()) else { return };
        let State::Consuming { next } = &mut partition.state else { return };
        if record.offset < *next {
            return;
        }
        *next = record.offset.saturating_add(1);
        partition.is_read();
        let first = !std::mem::replace(&mut partition.touched, true);
        if let Some(lane) = self.lanes.get_mut(partition.lane) {
            lane.push(record, first, &self.limits, now);
        }
    }

    /// Handles an input.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Assigned(partitions) => partitions.into_iter().for_each(|key| self.assigned(key, now)),
            Input::Revoked(partitions) => partitions.into_iter().for_each(|key| self.revoked(key)),
            Input::EndOfPartition { partition, offset } => self.reached_end(partition, offset, now),
            Input::OffsetOutOfRange(partition) => {
                if self.is_consuming(partition) {
                    self.restart(partition, true, now);
                }
            }
            Input::Unreadable { partition, offset, reason } => {
                self.unreadable(partition, offset, reason, now);
            }
            Input::Loaded { starts, look_ups } => {
                self.loading = false;
                self.database_works();
                self.start(starts, now);
                let mut look_ups = look_ups;
                look_ups.retain(|look_up| self.is_loading(look_up.partition));
                if !look_ups.is_empty() {
                    self.actions.push_back(Action::LookUp(look_ups));
                }
            }
            Input::NotLoaded { wait, database } => {
                self.loading = false;
                if database {
                    self.database_failed(&wait, now);
                }
                let loading: Vec<_> =
                    self.partitions.keys().copied().filter(|key| self.is_loading(*key)).collect();
                for key in loading {
                    self.start_later(key, Trouble { kind: TroubleKind::Start, text: wait.clone() }, now);
                }
            }
            Input::LookedUp(starts) => self.start(starts, now),
            Input::Written { id, report } => self.written(id, report, now),
            Input::WriteDied(id) => self.write_died(id, now),
            Input::Stored { asked, stored, paused } => self.compare(&asked, &stored, paused, now),
        }
    }

    fn assigned(&mut self, key: TopicPartition, now: Instant) {
        let lane = (key.topic as usize).wrapping_add(usize::try_from(key.partition).unwrap_or(0)) % LANES;
        let before = self.partitions.remove(&key);
        let mut partition = Partition::new(lane, now);
        // The write in flight may still move the stored offset: it must end before the offset is read.
        partition.writing = before.and_then(|before| before.writing);
        self.partitions.insert(key, partition);
        let paused = self.paused.contains(&key.topic);
        self.set(key, if paused { State::Paused } else { State::Starting { at: now, lost: false } });
    }

    /// Whether it has partitions besides these.
    pub fn has_others(&self, than: &[TopicPartition]) -> bool {
        let mut assigned =
            self.partitions.iter().filter(|(_, partition)| !matches!(partition.state, State::Revoked));
        assigned.any(|(key, _)| !than.contains(key))
    }

    fn revoked(&mut self, key: TopicPartition) {
        self.forget(key);
        self.set(key, State::Revoked);
        if self.partitions.get(&key).is_some_and(|partition| partition.writing.is_none()) {
            self.partitions.remove(&key);
        }
    }

    /// Changes a partition's state; every change goes through here. Returns the previous state.
    pub(super) fn set(&mut self, key: TopicPartition, state: State) -> Option<State> {
        let partition = self.partitions.get_mut(&key)?;
        self.held_bytes = self.held_bytes.saturating_sub(partition.held_bytes());
        let before = std::mem::replace(&mut partition.state, state);
        self.held_bytes += partition.held_bytes();
        if matches!(partition.state, State::Starting { .. } | State::Waiting { .. }) {
            self.timed.insert(key);
        } else {
            self.timed.remove(&key);
        }
        Some(before)
    }

    /// Drops a partition from the next batch.
    pub(super) fn forget(&mut self, key: TopicPartition) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        if std::mem::take(&mut partition.touched)
            && let Some(lane) = self.lanes.get_mut(partition.lane)
        {
            lane.forget(key, &self.limits);
        }
    }

    /// Stops reading a partition, and drops its buffered records.
    pub(super) fn stop_reading(&mut self, key: TopicPartition) {
        if self.is_consuming(key) {
            self.actions.push_back(Action::StopReading(vec![key]));
        }
        self.forget(key);
    }

    /// Reads the stored position again and starts from there. `lost`: the log does not have the stored offset.
    pub(super) fn restart(&mut self, key: TopicPartition, lost: bool, now: Instant) {
        self.stop_reading(key);
        self.set(key, State::Starting { at: now, lost });
    }

    fn start_later(&mut self, key: TopicPartition, trouble: Trouble, now: Instant) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        partition.failures = partition.failures.saturating_add(1);
        let at = now + super::pause(partition.failures, key);
        partition.trouble = Some(trouble);
        self.set(key, State::Starting { at, lost: false });
    }

    fn is_consuming(&self, key: TopicPartition) -> bool {
        matches!(self.partitions.get(&key), Some(Partition { state: State::Consuming { .. }, .. }))
    }

    fn is_loading(&self, key: TopicPartition) -> bool {
        matches!(self.partitions.get(&key), Some(Partition { state: State::Loading, .. }))
    }

    /// Starts partitions whose position was read. Results for a partition that is no longer loading are out of date.
    fn start(&mut self, starts: Vec<(TopicPartition, Start)>, now: Instant) {
        let mut read = Vec::new();
        for (key, start) in starts {
            if !self.is_loading(key) {
                continue;
            }
            match start {
                Start::Wait(trouble) => self.start_later(key, trouble, now),
                Start::At(position) => {
                    if let Some(partition) = self.partitions.get_mut(&key) {
                        partition.position = Some(position);
                        if partition
                            .trouble
                            .as_ref()
                            .is_some_and(|trouble| trouble.kind == TroubleKind::Start)
                        {
                            partition.trouble = None;
                        }
                    }
                    if position.stopped {
                        self.stop(key, position);
                    } else {
                        read.push((key, position.next_offset));
                    }
                }
            }
        }
        self.read(read);
    }

    pub(super) fn read(&mut self, offsets: Vec<(TopicPartition, i64)>) {
        if offsets.is_empty() {
            return;
        }
        for (key, offset) in &offsets {
            self.set(*key, State::Consuming { next: *offset });
        }
        let full = |key: &TopicPartition| {
            let lane = self.partitions.get(key).and_then(|partition| self.lanes.get(partition.lane));
            lane.is_some_and(|lane| lane.paused)
        };
        let pause: Vec<_> = offsets.iter().map(|(key, _)| *key).filter(full).collect();
        self.actions.push_back(Action::Read(offsets));
        if !pause.is_empty() {
            self.actions.push_back(Action::Pause(pause));
        }
    }

    pub(super) fn stop(&mut self, key: TopicPartition, position: Position) {
        self.stop_reading(key);
        self.set(key, State::Stopped);
        self.actions.push_back(Action::Report(Notice::Stopped { partition: key, position }));
    }

    fn reached_end(&mut self, key: TopicPartition, offset: i64, now: Instant) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        let State::Consuming { next } = &mut partition.state else { return };
        *next = (*next).max(offset);
        let moves = partition.position.is_some_and(|position| position.next_offset < *next);
        partition.is_read();
        if moves
            && !std::mem::replace(&mut partition.touched, true)
            && let Some(lane) = self.lanes.get_mut(partition.lane)
        {
            lane.touch(key, now + MARKER_DELAY);
        }
    }

    fn unreadable(&mut self, key: TopicPartition, offset: Option<i64>, reason: String, now: Instant) {
        if !self.is_consuming(key) {
            return;
        }
        let offset = offset.or_else(|| Some(self.partitions.get(&key)?.position?.next_offset));
        let text = match offset {
            Some(offset) => format!(
                "offset {offset} cannot be read: {reason} (where that stays so, `voiceclone-events skip --topic {} \
                 --partition {} --to` an offset behind it is the way past it)",
                key.topic, key.partition
            ),
            None => format!("it cannot be read: {reason}"),
        };
        // Records buffered before that offset are written first; the position is read again after that.
        let buffered = self.partitions.get(&key).is_some_and(|partition| partition.touched);
        if buffered && let Some(lane) = self.partitions.get(&key).map(|partition| partition.lane) {
            self.write_lane(lane, now);
        }
        self.stop_reading(key);
        self.start_later(key, Trouble { kind: TroubleKind::Unreadable, text }, now);
    }

    pub(super) fn database_failed(&mut self, reason: &str, now: Instant) {
        let failures = self.gate.as_ref().map_or(0, |gate| gate.failures).saturating_add(1);
        self.gate = Some(Gate { until: now + super::database_pause(failures, self.jitter_seed), failures });
        let held = self.lanes.iter().map(Lane::buffered_records).sum();
        self.actions.push_back(Action::Report(Notice::DatabaseFailed { reason: reason.to_owned(), held }));
    }

    pub(super) fn database_works(&mut self) {
        if self.gate.take().is_some() {
            self.actions.push_back(Action::Report(Notice::DatabaseWorks));
        }
    }

    /// Adopts the stored positions also while nothing is written, as `accept`, `skip`, `pause` and a restored backup
    /// change them. `asked` are the positions at the time of the query: partitions that moved since are not compared.
    fn compare(
        &mut self,
        asked: &BTreeMap<TopicPartition, Position>,
        stored: &BTreeMap<TopicPartition, Position>,
        paused: BTreeSet<Topic>,
        now: Instant,
    ) {
        self.database_works();
        self.paused = paused;
        let keys: Vec<TopicPartition> = self.partitions.keys().copied().collect();
        for key in keys {
            let Some(partition) = self.partitions.get(&key) else { continue };
            let known = partition.position.filter(|position| asked.get(&key) == Some(position));
            let idle = partition.writing.is_none();
            let now_stored = stored.get(&key).copied();
            let is_paused = self.paused.contains(&key.topic);
            match partition.state {
                State::Revoked => {}
                State::Paused if !is_paused => drop(self.set(key, State::Starting { at: now, lost: false })),
                State::Paused => {}
                _ if is_paused => {
                    self.stop_reading(key);
                    self.set(key, State::Paused);
                }
                State::Stopped if now_stored.is_some_and(|stored| !stored.stopped) => {
                    self.actions.push_back(Action::Report(Notice::Accepted(key)));
                    self.restart(key, false, now);
                }
                State::Consuming { .. } | State::Waiting { .. } if idle => {
                    if let Some(known) = known
                        && now_stored != Some(known)
                    {
                        let notice = Notice::Differs { partition: key, known, stored: now_stored };
                        self.actions.push_back(Action::Report(notice));
                        self.restart(key, false, now);
                    }
                }
                _ => {}
            }
        }
    }
}
