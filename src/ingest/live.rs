//! TEMPORARY: replaced by the merge of the work on writes.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::outcome::{Batch, Effort, Outcome, Report, Wait, WaitKind};
use super::{Ingest, Positions};
use crate::record::{Record, TopicPartition};
use crate::store::Fault;
use crate::store::offsets::{Advance, Position};

impl Ingest {
    pub async fn write_batch(&self, batch: Batch, _effort: Effort, cancel: &CancellationToken) -> Report {
        let _ = cancel;
        let mut report = Report::default();
        match self.once(&batch.records, &batch, None).await {
            Ok((after, written)) => {
                report.outcomes = after.into_iter().map(|(key, at)| (key, Outcome::Landed(at))).collect();
                report.written = written;
                return report;
            }
            Err(fault) if is_database(&fault) => {
                let wait = Wait { kind: WaitKind::Database, text: fault.to_string() };
                for (key, span) in &batch.spans {
                    report.outcomes.insert(*key, Outcome::Waits { landed: span.from, wait: wait.clone() });
                }
                report.remaining = batch.records;
                return report;
            }
            Err(_) => {}
        }
        let mut records: BTreeMap<TopicPartition, Vec<Record>> = BTreeMap::new();
        for record in &batch.records {
            records.entry(record.topic_partition()).or_default().push(record.clone());
        }
        for (key, span) in &batch.spans {
            let own = records.remove(key).unwrap_or_default();
            let outcome = match self.once(&own, &batch, Some(*key)).await {
                Ok((after, _)) => Outcome::Landed(after.get(key).copied().unwrap_or(span.from)),
                Err(Fault::Fenced) => Outcome::Fenced,
                Err(fault) => {
                    report.remaining.extend(own);
                    Outcome::Waits {
                        landed: span.from,
                        wait: Wait { kind: WaitKind::Other, text: fault.to_string() },
                    }
                }
            };
            report.outcomes.insert(*key, outcome);
        }
        report
    }

    async fn once(
        &self,
        records: &[Record],
        batch: &Batch,
        only: Option<TopicPartition>,
    ) -> Result<(BTreeMap<TopicPartition, Position>, crate::store::write::Written), Fault> {
        let spans: Vec<_> =
            batch.spans.iter().filter(|(key, _)| only.is_none_or(|only| only == **key)).collect();
        let positions: Positions =
            spans.iter().map(|(key, span)| ((key.topic, key.partition), span.from)).collect();
        let prepared = self.prepare(records, &positions, None);
        let mut advances = Vec::new();
        let mut after = BTreeMap::new();
        for (key, span) in spans {
            let mut to = prepared.after.get(&(key.topic, key.partition)).copied().unwrap_or(span.from);
            to.next_offset = span.to_offset;
            to.stopped = to.dead_in_a_row >= self.dead_letter_limit;
            after.insert(*key, to);
            advances.push(Advance {
                group: self.group.clone().unwrap_or_default(),
                partition: (self.topic_name(key.topic), key.partition),
                expected: span.from,
                to,
            });
        }
        let written = self.store.write(&prepared.plan, &prepared.dead_letters, &advances, self.mode).await?;
        Ok((after, written))
    }
}

fn is_database(fault: &Fault) -> bool {
    matches!(fault, Fault::Unavailable(text) if text.contains("connection") || text.contains("shutting") || text.contains("terminating") || text.contains("Closed"))
}
