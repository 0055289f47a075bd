//! The loop of a replay: writes records until all of them have landed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::outcome::{Effort, OffsetSpan, Outcome, Wait, WaitKind};
use super::traced::{RETRIES, note_retries};
use super::{Ingest, Positions};
use crate::record::{Record, TopicPartition};
use crate::retry::{pause_for, pauses};
use crate::store::offsets::Position;
use crate::store::write::Written;

/// The reason why not all records of [`Ingest::write`] landed. The positions show which did.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// A stored offset differs from the expected one: the positions must be read again.
    Fenced,
    /// The caller was cancelled while the database did not accept the records.
    Cancelled,
}

impl Stop {
    fn name(&self) -> &'static str {
        match self {
            Stop::Fenced => "fenced",
            Stop::Cancelled => "cancelled",
        }
    }
}

impl Ingest {
    /// Writes the records, which are in offset order within each partition, and advances the positions. Retries with
    /// growing pauses until all have landed or a stop is due. Returns the rows written.
    pub async fn write(
        &self,
        records: &[Record],
        positions: &mut Positions,
        cancel: &CancellationToken,
    ) -> Result<Written, Stop> {
        let mut written = Written::default();
        let batch = self.for_batch(records);
        let mut retries = 0;
        let result = batch.until_landed(records, positions, cancel, &mut written, &mut retries).await;
        batch.count_rows(&written);
        batch.span.count(RETRIES, retries);
        if let Err(stop) = &result {
            batch.span.failed(stop.name());
        }
        batch.span.end();
        result.map(|()| written)
    }

    async fn until_landed(
        &self,
        records: &[Record],
        positions: &mut Positions,
        cancel: &CancellationToken,
        written: &mut Written,
        retries: &mut u64,
    ) -> Result<(), Stop> {
        let mut remaining: Vec<&Record> = records.iter().collect();
        let mut effort = Effort::Once;
        let mut delays = pauses();
        while !remaining.is_empty() {
            let spans = spans_of(&remaining, positions);
            let (outcomes, done) = self.write_spans(&remaining, &spans, effort, cancel).await;
            written.add(done);
            let before = remaining.len();
            let mut waits: Vec<&Wait> = Vec::new();
            for (key, outcome) in &outcomes {
                if let Outcome::Landed(position) | Outcome::Waits { landed: position, .. } = outcome {
                    positions.insert((key.topic, key.partition), *position);
                }
                if let Outcome::Waits { wait, .. } = outcome {
                    waits.push(wait);
                }
            }
            if outcomes.values().any(|outcome| *outcome == Outcome::Fenced) {
                return Err(Stop::Fenced);
            }
            remaining.retain(|record| match outcomes.get(&record.topic_partition()) {
                Some(Outcome::Waits { landed, .. }) => record.offset >= landed.next_offset,
                _ => false,
            });
            let Some(wait) = waits.first() else { continue };
            let suspected = waits.iter().any(|wait| wait.kind == WaitKind::Suspects);
            if effort == Effort::Once && suspected {
                effort = Effort::Thorough;
                continue;
            }
            if remaining.len() < before {
                delays = pauses();
            }
            effort = Effort::Once;
            let pause = delays.next().unwrap_or(Duration::from_secs(5));
            *retries += note_retries(&self.span, waits.iter().map(|wait| (wait.cause(), pause)));
            warn!(
                records = remaining.len(),
                partitions = waits.len(),
                problem = wait.text,
                pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                trace_id = self.span.trace_id(),
                "a batch did not land and is retried"
            );
            if !pause_for(pause, cancel).await {
                return Err(Stop::Cancelled);
            }
        }
        Ok(())
    }
}

/// Returns the spans of records that are read from these positions.
fn spans_of(records: &[&Record], positions: &Positions) -> BTreeMap<TopicPartition, OffsetSpan> {
    let mut spans: BTreeMap<TopicPartition, OffsetSpan> = BTreeMap::new();
    for record in records {
        let key = record.topic_partition();
        let from = || {
            let known = positions.get(&(key.topic, key.partition)).copied();
            known.unwrap_or(Position::at(record.offset, None))
        };
        let span = spans.entry(key).or_insert_with(|| OffsetSpan { from: from(), to_offset: 0 });
        span.to_offset = record.offset + 1;
    }
    spans
}
