//! The live consumer. [`Machine`] decides; `driver` acts: it owns the group membership and the tasks that ask
//! PostgreSQL and the brokers. Each partition has a state of its own, so that none holds up another (contract, section
//! 7).

mod actions;
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
pub use self::lanes::BatchLimits;
pub use self::machine::Machine;
pub use self::partition::{Trouble, TroubleKind};
pub use self::status::{ConsumerStatus, End, Waiting};
use crate::ingest::outcome::{Batch, BatchReport, Effort};
use crate::record::{Topic, TopicPartition};
use crate::store::offsets::Position;

/// Number of batches written concurrently, each over its own connection: PostgreSQL works on one while another waits
/// for the disk or the network.
const LANES: usize = 2;

/// The id of a write; increasing.
pub type WriteId = u64;

/// Inputs of [`Machine::handle`]. Records go to [`Machine::push`].
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are named in the variant's own sentence")]
pub enum Input {
    /// The group assigns these partitions to this member.
    Assigned(Vec<TopicPartition>),
    /// The group revokes these partitions.
    Revoked(Vec<TopicPartition>),
    /// Every record before `offset` was pushed.
    EndOfPartition { partition: TopicPartition, offset: i64 },
    /// The log does not have the offset to be read.
    OffsetOutOfRange(TopicPartition),
    /// The partition cannot be read from here on.
    Unreadable { partition: TopicPartition, offset: Option<i64>, reason: String },
    /// Stored positions were read. The partitions in `look_ups` need the bounds of their logs first.
    Loaded { starts: Vec<(TopicPartition, Start)>, look_ups: Vec<LookUp> },
    /// Stored positions could not be read. `database`: because of PostgreSQL.
    NotLoaded { wait: String, database: bool },
    /// The bounds of logs were read.
    LookedUp(Vec<(TopicPartition, Start)>),
    /// A write ended.
    Written { id: WriteId, report: BatchReport },
    /// A write ended without a report.
    WriteDied(WriteId),
    /// The stored positions and the paused topics. `asked` is the result of [`Machine::positions`] at the time of the
    /// query.
    Stored {
        asked: BTreeMap<TopicPartition, Position>,
        stored: BTreeMap<TopicPartition, Position>,
        paused: BTreeSet<Topic>,
    },
}

/// The start of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this stored position.
    At(Position),
    /// Not yet.
    Wait(Trouble),
}

/// A partition whose leader must be asked for its first offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUp {
    /// The partition.
    pub partition: TopicPartition,
    /// The stored position.
    pub stored: Option<Position>,
    /// The position to store, once its `next_offset` is known.
    pub to: Position,
}

/// Actions returned by [`Machine::poll`].
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are named in the variant's own sentence")]
pub enum Action {
    /// Read the stored positions of these partitions. `true`: the log does not have the stored offset.
    Load(Vec<(TopicPartition, bool)>),
    /// Ask for the first offsets of these partitions, and store them.
    LookUp(Vec<LookUp>),
    /// Read these partitions from these offsets.
    Read(Vec<(TopicPartition, i64)>),
    /// Stop reading these partitions.
    StopReading(Vec<TopicPartition>),
    /// Fetch nothing from these partitions until `Resume`.
    Pause(Vec<TopicPartition>),
    /// End `Pause`: read these partitions from these offsets, as if for the first time.
    Resume(Vec<(TopicPartition, i64)>),
    /// Write a batch.
    Write { id: WriteId, effort: Effort, batch: Batch },
    /// Log a notice.
    Report(Notice),
}

/// Notices for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are named in the variant's own sentence")]
pub enum Notice {
    /// Another process moved the stored offset; nothing of the partition was written.
    Fenced(TopicPartition),
    /// The stored position changed while this process wrote nothing.
    Differs { partition: TopicPartition, known: Position, stored: Option<Position> },
    /// `DEAD_LETTER_LIMIT` is reached.
    Stopped { partition: TopicPartition, position: Position },
    /// `dead-letters accept` released the partition.
    Accepted(TopicPartition),
    /// PostgreSQL cannot be used; `held` records wait for it.
    DatabaseFailed { reason: String, held: usize },
    /// PostgreSQL can be used again.
    DatabaseWorks,
}

/// One partition in [`Machine::view`].
#[derive(Clone, Copy, Debug)]
pub struct PartitionView<'m> {
    /// The partition.
    pub partition: TopicPartition,
    /// The state.
    pub state: ViewState,
    /// The stored position, once it is known.
    pub position: Option<Position>,
    /// The offset up to which records were received.
    pub read_to: Option<i64>,
    /// The reason why it waits.
    pub trouble: Option<&'m Trouble>,
    /// The timestamp of the first held record, in milliseconds since 1970.
    pub held: Option<i64>,
}

/// The visible state of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewState {
    /// The position is being read.
    Starting,
    /// Records are read.
    Consuming,
    /// Records wait, or the next attempt to read them does.
    Waiting,
    /// `DEAD_LETTER_LIMIT` is reached.
    Stopped,
    /// The topic is paused by `pause`.
    Paused,
}

/// Returns the pause after this many failures of a partition: 200 ms doubled each time, at most 10 s, the upper half of
/// it random.
fn pause(failures: u32, key: TopicPartition) -> Duration {
    jittered(Duration::from_millis(200), Duration::from_secs(10), failures, key)
}

/// Returns the pause after this many failures of the database: 50 ms doubled each time, at most 5 s, the upper half of
/// it random. `of` differs between instances.
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
