//! One partition of this member: its state, and the reason why it waits.

use std::time::Instant;

use super::WriteId;
use crate::record::Record;
use crate::store::offsets::Position;

/// The reason why a partition waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The kind.
    pub kind: TroubleKind,
    /// The reason for the log, `/readyz` and `status`. Quotes no value of a record.
    pub text: String,
}

/// The kinds of [`Trouble`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TroubleKind {
    /// No broker leads the partition, or its leader does not answer.
    NoLeader,
    /// The broker or the client cannot read past an offset.
    Unreadable,
    /// The database accepts no good record of the topic.
    Drift,
    /// The database does not accept the records for another reason.
    Write,
    /// The stored position cannot be read.
    Start,
}

impl TroubleKind {
    /// Returns the name in `/readyz` and `ingest.consumer_offsets`.
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

/// The state of a partition. librdkafka reads it only in `Consuming`.
#[derive(Debug)]
pub(super) enum State {
    /// The stored position is due to be read at `at`. `lost`: the log does not have the stored offset.
    Starting { at: Instant, lost: bool },
    /// The stored position is being read.
    Loading,
    /// Records are read; the next one has at least this offset.
    Consuming { next: i64 },
    /// The next attempt is due at `until`. `held` are the records that did not land; it is empty if memory did not
    /// allow to keep them, and they are read again.
    Waiting { until: Instant, held: Vec<Record> },
    /// The held records are being written alone.
    Retrying,
    /// `DEAD_LETTER_LIMIT` is reached. `dead-letters accept` releases the partition.
    Stopped,
    /// The topic is paused by `pause`. `resume` releases it.
    Paused,
    /// The group revoked the partition while a write was in flight. It may be assigned again.
    Revoked,
}

/// A partition.
#[derive(Debug)]
pub(super) struct Partition {
    /// The number of the lane.
    pub lane: usize,
    pub state: State,
    /// The stored position as known to this process.
    pub position: Option<Position>,
    /// The write in flight that includes records or the offset of this partition.
    pub writing: Option<WriteId>,
    /// Consecutive failures since a record landed.
    pub failures: u32,
    /// Whether the lane's next batch includes this partition.
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

    /// Returns when the partition is due for its next step; `None` while a write is in flight, whose end comes first.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            _ if self.writing.is_some() => None,
            State::Starting { at, .. } => Some(at),
            State::Waiting { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Returns the bytes of the held records.
    pub fn held_bytes(&self) -> usize {
        match &self.state {
            State::Waiting { held, .. } => held.iter().map(Record::size).sum(),
            _ => 0,
        }
    }

    /// Clears a trouble with reading, as a record or the end arrived.
    pub fn is_read(&mut self) {
        let reading =
            |trouble: &Trouble| matches!(trouble.kind, TroubleKind::Unreadable | TroubleKind::NoLeader);
        if self.trouble.as_ref().is_some_and(reading) {
            self.trouble = None;
            self.failures = 0;
        }
    }

    /// Applies the position after a write. Returns whether records landed.
    pub fn move_to(&mut self, position: Position) -> bool {
        let moved = self.position.is_none_or(|before| before.next_offset < position.next_offset);
        self.position = Some(position);
        if moved {
            self.failures = 0;
        }
        moved
    }
}
