//! One partition of this member: its state, which has a name, and why it waits.

use std::time::Instant;

use super::WriteId;
use crate::record::Record;
use crate::store::offsets::Position;

/// Why a partition waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The kind.
    pub kind: TroubleKind,
    /// The reason, for log, `/readyz` and `status`. It quotes no value of a record.
    pub text: String,
}

/// The kinds of [`Trouble`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TroubleKind {
    /// No broker leads the partition, or the leader does not answer.
    NoLeader,
    /// The broker or the client refuses to read on at an offset.
    Unreadable,
    /// The database takes no good record of the topic.
    Drift,
    /// The database does not take the records for another reason.
    Write,
    /// The stored position cannot be read.
    Start,
}

impl TroubleKind {
    /// The name in `/readyz` and `ingest.consumer_offsets`.
    pub fn name(self) -> &'static str {
        match self {
            TroubleKind::NoLeader => "no_leader",
            TroubleKind::Unreadable => "unreadable",
            TroubleKind::Drift => "drift",
            TroubleKind::Write => "write",
            TroubleKind::Start => "start",
        }
    }
}

/// The state of a partition. Only in `Consuming` does librdkafka read it.
#[derive(Debug)]
pub(super) enum State {
    /// The stored position is to be read, from this moment on. `lost`: the log does not have the stored offset.
    Starting { at: Instant, lost: bool },
    /// The stored position is being read.
    Loading,
    /// Records are read; the next one has at least this offset.
    Consuming { next: i64 },
    /// The next try is due at this moment. `held` are the records that did not land; where memory did not allow to keep
    /// them it is empty, and they are read again.
    Waiting { until: Instant, held: Vec<Record> },
    /// The held records are being written by themselves.
    Retrying,
    /// `DEAD_LETTER_LIMIT` is reached; `dead-letters accept` lets it start.
    Stopped,
    /// `pause` holds the topic; `resume` lets it start.
    Paused,
    /// The group took the partition away while a write was in flight. It may be given back.
    Revoked,
}

/// A partition.
#[derive(Debug)]
pub(super) struct Partition {
    /// The number of its lane.
    pub lane: usize,
    pub state: State,
    /// The stored position as this process knows it.
    pub position: Option<Position>,
    /// The write in flight that has records or the offset of this partition.
    pub writing: Option<WriteId>,
    /// Failures since a record landed.
    pub failures: u32,
    /// Whether the lane's next batch has something of this partition.
    pub touched: bool,
    pub trouble: Option<Trouble>,
}

impl Partition {
    pub fn new(lane: usize, now: Instant) -> Partition {
        Partition {
            lane,
            state: State::Starting { at: now, lost: false },
            position: None,
            writing: None,
            failures: 0,
            touched: false,
            trouble: None,
        }
    }

    /// When the partition wants something by itself; `None` while a write is in flight, whose end is awaited.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            _ if self.writing.is_some() => None,
            State::Starting { at, .. } => Some(at),
            State::Waiting { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Bytes of the records that are held.
    pub fn held_bytes(&self) -> usize {
        match &self.state {
            State::Waiting { held, .. } => held.iter().map(Record::size).sum(),
            _ => 0,
        }
    }

    /// The partition can be read: a record or its end arrived.
    pub fn is_read(&mut self) {
        let reading =
            |trouble: &Trouble| matches!(trouble.kind, TroubleKind::Unreadable | TroubleKind::NoLeader);
        if self.trouble.as_ref().is_some_and(reading) {
            self.trouble = None;
            self.failures = 0;
        }
    }

    /// Takes the position after a write. Returns whether records landed.
    pub fn move_to(&mut self, position: Position) -> bool {
        let moved = self.position.is_none_or(|before| before.next_offset < position.next_offset);
        self.position = Some(position);
        if moved {
            self.failures = 0;
        }
        moved
    }
}
