//! The live consumer. [`Machine`] decides, `driver` does: it owns the group's membership and the tasks that ask
//! PostgreSQL and the brokers. Each partition has a state of its own, so that none holds up another
//! (contract, section 7).

mod driver;
mod gauges;
mod lanes;
mod log;
mod look;
mod machine;
mod outcomes;
mod partition;
pub mod progress;
mod schedule;
mod start;
mod status;
mod topics;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod simulation;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

pub use self::driver::Consumer;
pub use self::lanes::Limits;
pub use self::machine::Machine;
pub use self::partition::{Trouble, TroubleKind};
pub use self::status::{End, Status, Waiting};
use crate::ingest::outcome::{Batch, Effort, Report};
use crate::record::{Topic, TopicPartition};
use crate::store::offsets::Position;

/// Batches that are written at the same time, each over a connection of its own: PostgreSQL works on one while another
/// waits for the disk or the network.
const LANES: usize = 2;

/// Names a write; counts up.
pub type WriteId = u64;

/// What happened, for [`Machine::handle`]. Records go to [`Machine::push`].
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are named in the variant's own sentence")]
pub enum Input {
    /// The group gives these partitions to this member.
    Assigned(Vec<TopicPartition>),
    /// The group takes these partitions away.
    Revoked(Vec<TopicPartition>),
    /// Every record before `offset` was pushed.
    EndOfPartition { partition: TopicPartition, offset: i64 },
    /// The log does not have the offset that was to be read.
    OffsetOutOfRange(TopicPartition),
    /// The partition cannot be read on.
    Unreadable { partition: TopicPartition, offset: Option<i64>, reason: String },
    /// Stored positions were read. Partitions in `look_ups` need a look at the log first.
    Loaded { starts: Vec<(TopicPartition, Start)>, look_ups: Vec<LookUp> },
    /// Stored positions could not be read. `database`: PostgreSQL is the reason.
    NotLoaded { wait: String, database: bool },
    /// The log was looked at.
    LookedUp(Vec<(TopicPartition, Start)>),
    /// A write is over.
    Written { id: WriteId, report: Report },
    /// A write ended without a report.
    WriteDied(WriteId),
    /// The answer to [`Machine::positions`] of before (`asked`): what is stored, and which topics `pause` holds.
    Stored {
        asked: BTreeMap<TopicPartition, Position>,
        stored: BTreeMap<TopicPartition, Position>,
        paused: BTreeSet<Topic>,
    },
}

/// Where a partition starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this stored position.
    At(Position),
    /// Not yet.
    Wait(Trouble),
}

/// A partition whose first offset must be asked from its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUp {
    /// The partition.
    pub partition: TopicPartition,
    /// What is stored.
    pub stored: Option<Position>,
    /// The position to store, once its `next_offset` is known.
    pub to: Position,
}

/// What is to be done, from [`Machine::poll`].
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are named in the variant's own sentence")]
pub enum Action {
    /// Read the stored positions of these partitions. `true`: the log does not have the stored offset.
    Load(Vec<(TopicPartition, bool)>),
    /// Ask for the first offsets of these partitions, and store them.
    LookUp(Vec<LookUp>),
    /// Read these partitions from these offsets on.
    Read(Vec<(TopicPartition, i64)>),
    /// Read these partitions no longer.
    StopReading(Vec<TopicPartition>),
    /// Fetch nothing of these partitions until `Resume`.
    Pause(Vec<TopicPartition>),
    /// The end of `Pause`: read these partitions from these offsets on, as if for the first time.
    Resume(Vec<(TopicPartition, i64)>),
    /// Write a batch.
    Write { id: WriteId, effort: Effort, batch: Batch },
    /// Say something.
    Report(Notice),
}

/// What a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are named in the variant's own sentence")]
pub enum Notice {
    /// Another process moved the stored offset; nothing of the partition was written.
    Fenced(TopicPartition),
    /// The stored position changed while nothing was written.
    Differs { partition: TopicPartition, known: Position, stored: Option<Position> },
    /// `DEAD_LETTER_LIMIT` is reached.
    Stopped { partition: TopicPartition, position: Position },
    /// `dead-letters accept` lets the partition go on.
    Accepted(TopicPartition),
    /// PostgreSQL cannot be used; `held` records wait for it.
    DatabaseFailed { reason: String, held: usize },
    /// PostgreSQL can be used again.
    DatabaseWorks,
}

/// One partition, as [`Machine::view`] shows it.
#[derive(Clone, Copy, Debug)]
pub struct PartitionView<'m> {
    /// The partition.
    pub partition: TopicPartition,
    /// What it does.
    pub state: ViewState,
    /// The stored position, once it is known.
    pub position: Option<Position>,
    /// The offset up to which records were received.
    pub read_to: Option<i64>,
    /// Why it waits.
    pub trouble: Option<&'m Trouble>,
    /// The timestamp of its first record that is held, in milliseconds since 1970.
    pub held: Option<i64>,
}

/// What a partition does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewState {
    /// Its position is being read.
    Starting,
    /// Its records are read.
    Consuming,
    /// Its records, or the next try to read it, wait.
    Waiting,
    /// `DEAD_LETTER_LIMIT` is reached.
    Stopped,
    /// `pause` holds it.
    Paused,
}

/// The pause after so many failures of a partition: 200 ms doubled each time, 10 s at most, the last half of it by
/// chance.
fn pause(failures: u32, key: TopicPartition) -> Duration {
    jittered(Duration::from_millis(200), Duration::from_secs(10), failures, key)
}

/// The pause after so many failures of the database: 50 ms doubled each time, 5 s at most, likewise. `of` differs
/// between the instances.
fn database_pause(failures: u32, of: u32) -> Duration {
    jittered(Duration::from_millis(50), Duration::from_secs(5), failures, of)
}

fn jittered(first: Duration, most: Duration, failures: u32, of: impl Hash) -> Duration {
    let full = first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(most);
    let mut hasher = DefaultHasher::new();
    (of, failures).hash(&mut hasher);
    let chance = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
    full / 2 + full / 2 * chance / 1000
}
