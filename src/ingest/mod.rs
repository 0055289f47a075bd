//! Writes batches of records to the database: decode, plan, write. Live records, replays and tests all take this path.
//!
//! A batch that fails is split by partition. A partition that fails is written in halves, and a record that PostgreSQL
//! refuses alone is tried beside a known good one (contract, section 6).
//!
//! ```text
//! mod          -> one transaction for a batch, then one for each partition
//! until_landed -> the loop of a replay
//! thorough     -> one partition: halving, trials of suspects, rows after a refused record
//! suspects     -> runs trials: a suspect and a known good record in one session
//! trial        -> pure: a verdict from the tries
//! good         -> pure: a known good record with unused identities
//! sizes        -> pure: the maximum number of records of a topic in a transaction
//! prepare      -> pure: a plan, dead letters and positions from records
//! memory       -> state that a batch leaves to later ones
//! counts       -> the metrics of a batch
//! traced       -> the spans of a batch
//! ```

mod counts;
mod good;
mod memory;
pub mod outcome;
mod prepare;
mod sizes;
mod suspects;
mod thorough;
mod traced;
mod trial;
mod until_landed;

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Settings;
use crate::event::Limits;
use crate::record::{Record, Topic, TopicPartition};
use crate::store::dead_letters;
use crate::store::fault::LOCK_TIMEOUT;
use crate::store::offsets::Position;
use crate::store::write::{Mode, Written};
use crate::store::{Fault, Store};
use crate::traces;

pub use memory::Memory;
use outcome::{Batch, BatchReport, Effort, OffsetSpan, Outcome, Wait, WaitKind};
use prepare::{Part, Rejected};
pub use until_landed::Stop;

/// The positions of partitions, by topic and partition.
pub type Positions = BTreeMap<(Topic, i32), Position>;

/// Writes batches.
#[derive(Clone)]
pub struct Ingest {
    /// The database.
    pub store: Store,
    /// The settings that decoding depends on.
    pub limits: Limits,
    /// `TOPIC_PREFIX`.
    pub topic_prefix: String,
    /// The group whose offsets move with the rows; `None` in a replay, which moves none.
    pub group: Option<String>,
    /// `DEAD_LETTER_LIMIT`.
    pub dead_letter_limit: i64,
    /// Whether writes are committed.
    pub mode: Mode,
    /// State that earlier batches left, shared by all clones.
    pub memory: Memory,
    /// The span of the batch in hand, or of the command whose batches these are.
    pub span: traces::Span,
}

type Outcomes = BTreeMap<TopicPartition, Outcome>;

impl Ingest {
    /// Returns an ingest with the settings' limits and an empty memory. For `group` see the field.
    pub fn new(settings: &Settings, store: Store, group: Option<String>, mode: Mode) -> Ingest {
        Ingest {
            store,
            limits: settings.limits(),
            topic_prefix: settings.topic_prefix.clone(),
            group,
            dead_letter_limit: settings.dead_letter_limit,
            mode,
            memory: Memory::default(),
            span: traces::Span::default(),
        }
    }

    /// Returns the topic's name in Kafka, with prefix.
    pub fn topic_name(&self, topic: Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }

    /// Writes a batch as far as it lands, and returns the outcome of each partition. Pauses only during a trial.
    pub async fn write_batch(&self, batch: Batch, effort: Effort, cancel: &CancellationToken) -> BatchReport {
        let Batch { records, spans } = batch;
        let borrowed: Vec<&Record> = records.iter().collect();
        let (outcomes, written) = self.write_spans(&borrowed, &spans, effort, cancel).await;
        drop(borrowed);
        self.count_rows(&written);
        let waits = |record: &Record| match outcomes.get(&record.topic_partition()) {
            Some(Outcome::Waits { landed, .. }) => record.offset >= landed.next_offset,
            _ => false,
        };
        let remaining = records.into_iter().filter(waits).collect();
        BatchReport { outcomes, remaining, written, span: self.span.clone() }
    }

    async fn write_spans(
        &self,
        records: &[&Record],
        spans: &BTreeMap<TopicPartition, OffsetSpan>,
        effort: Effort,
        cancel: &CancellationToken,
    ) -> (Outcomes, Written) {
        let mut by_partition: BTreeMap<TopicPartition, Vec<&Record>> =
            spans.keys().map(|key| (*key, Vec::new())).collect();
        for record in records {
            if let Some(records) = by_partition.get_mut(&record.topic_partition()) {
                records.push(record);
            }
        }
        let parts = spans.iter().zip(by_partition.values()).map(|((key, span), records)| Part {
            key: *key,
            from: span.from,
            to_offset: span.to_offset,
            completes: true,
            records,
        });
        let parts: Vec<Part> = parts.collect();
        let mut written = Written::default();
        let mut outcomes = match effort {
            Effort::Once => self.write_once(&parts, &mut written).await,
            Effort::Thorough => self.write_each_thoroughly(&parts, cancel, &mut written).await,
        };
        self.name_lock_holders(&mut outcomes).await;
        counts::retries(&outcomes);
        (outcomes, written)
    }

    /// Adds the sessions that hold a lock to the text of each wait for one.
    async fn name_lock_holders(&self, outcomes: &mut Outcomes) {
        let locked = outcomes.values_mut().filter_map(|outcome| match outcome {
            Outcome::Waits { wait, .. } if wait.text.contains(LOCK_TIMEOUT) => Some(wait),
            _ => None,
        });
        let locked: Vec<&mut Wait> = locked.collect();
        if locked.is_empty() {
            return;
        }
        let holders = self.store.lock_holders().await.unwrap_or_default();
        for wait in locked {
            wait.text = match holders.as_slice() {
                [] => "a lock was not granted within 2 s".to_owned(),
                holders => format!("a lock was not granted within 2 s; held by {}", holders.join("; ")),
            };
        }
    }

    /// Writes all parts in one transaction; if that fails, each part in a transaction of its own.
    async fn write_once(&self, parts: &[Part<'_, '_>], written: &mut Written) -> Outcomes {
        let mut database: Option<Fault> = None;
        if self.memory.fit(parts) {
            match self.land(parts, &Rejected::new(), written).await {
                Ok(after) => {
                    return after.into_iter().map(|(key, to)| (key, Outcome::Landed(to))).collect();
                }
                Err(fault) => {
                    if let [part] = parts {
                        return Outcomes::from([(part.key, failed(part.from, &fault))]);
                    }
                    database = Some(fault).filter(|fault| matches!(fault, Fault::Unavailable(_)));
                }
            }
        }
        let mut outcomes = Outcomes::new();
        // A locked table costs one lock timeout per topic, not one per partition.
        let mut busy: BTreeMap<Topic, Fault> = BTreeMap::new();
        for part in parts {
            let known = database.as_ref().or_else(|| busy.get(&part.key.topic));
            let outcome = match known {
                Some(fault) => failed(part.from, fault),
                None => match self.land_in_turn(part, written).await {
                    Ok(position) => Outcome::Landed(position),
                    Err((position, fault)) => {
                        let outcome = failed(position, &fault);
                        match fault {
                            Fault::Unavailable(_) => database = Some(fault),
                            Fault::Busy(_) => drop(busy.insert(part.key.topic, fault)),
                            _ => {}
                        }
                        outcome
                    }
                },
            };
            outcomes.insert(part.key, outcome);
        }
        outcomes
    }

    async fn write_each_thoroughly(
        &self,
        parts: &[Part<'_, '_>],
        cancel: &CancellationToken,
        written: &mut Written,
    ) -> Outcomes {
        let mut outcomes = Outcomes::new();
        for part in parts {
            outcomes.insert(part.key, self.write_thoroughly(part, cancel, written).await);
        }
        outcomes
    }

    /// Writes a partition in pieces of a size known to land. The error includes the position reached.
    async fn land_in_turn(
        &self,
        part: &Part<'_, '_>,
        written: &mut Written,
    ) -> Result<Position, (Position, Fault)> {
        let mut landed = part.from;
        for piece in part.pieces(self.memory.limit(part.key.topic)) {
            let piece = Part { from: landed, ..piece };
            match self.land(&[piece], &Rejected::new(), written).await {
                Ok(after) => landed = after.get(&part.key).copied().unwrap_or(landed),
                Err(fault) => return Err((landed, fault)),
            }
        }
        Ok(landed)
    }

    /// Writes rows, dead letters and offsets in one transaction, and returns the new positions.
    async fn land(
        &self,
        parts: &[Part<'_, '_>],
        rejected: &Rejected,
        written: &mut Written,
    ) -> Result<BTreeMap<TopicPartition, Position>, Fault> {
        let batch = self.prepare(parts, rejected);
        let span = traces::write(&self.span, batch.plan.source.records.len());
        let write = self.store.write(&batch.plan, &batch.dead_letters, &batch.advances, self.mode);
        let done = write.await;
        traced::end(&span, &done);
        if let Err(Fault::TooLarge(_)) = done {
            self.memory.too_large(parts);
        }
        let mut done = done?;
        done.unusable = batch.dead_letters.len() as u64;
        if self.mode != Mode::Live {
            let refused = batch.dead_letters.iter().map(|letter| {
                (letter.record.topic_partition(), letter.record.offset, letter.unusable.clone())
            });
            done.refused = refused.collect();
        }
        if self.mode != Mode::Rehearse {
            counts::rows(&done);
        }
        written.add(done);
        if self.mode != Mode::Rehearse {
            for summary in dead_letters::summaries(&batch.dead_letters) {
                warn!(
                    topic = summary.topic,
                    partition = summary.partition,
                    first_offset = summary.first_offset,
                    last_offset = summary.last_offset,
                    reason = summary.reason.name(),
                    count = summary.count,
                    trace_id = self.span.trace_id(),
                    "records that cannot be used are kept as dead letters"
                );
            }
            counts::landed(parts, &batch.dead_letters);
            self.note_dead_letters(&batch.dead_letters);
            self.memory.landed(&batch.good);
        }
        Ok(batch.after)
    }
}

/// Returns the outcome of a partition whose write failed.
fn failed(landed: Position, fault: &Fault) -> Outcome {
    match fault {
        Fault::Fenced => Outcome::Fenced,
        fault => Outcome::Waits { landed, wait: wait(fault) },
    }
}

/// Returns the wait for a fault.
fn wait(fault: &Fault) -> Wait {
    let kind = match fault {
        Fault::Refused(_) | Fault::TooLarge(_) => WaitKind::Suspects,
        Fault::Drifted(_) => WaitKind::Drift,
        Fault::Busy(_) | Fault::Fenced => WaitKind::Other,
        Fault::Unavailable(_) => WaitKind::Database,
    };
    let text = match fault {
        Fault::Refused(refusal) => format!("PostgreSQL refused a row: {refusal}"),
        Fault::Drifted(text) => format!("{text}: undo the change, or grant the right (`check` names it)"),
        fault => fault.to_string(),
    };
    Wait { kind, text }
}
