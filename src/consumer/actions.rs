//! Carries out the actions of the machine: tasks for the database and the brokers, calls to the group, log lines.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tracing::{debug, error, info, warn};

use super::driver::{Consumer, TaskResult};
use super::log::names;
use super::{Action, Input, Notice, WriteId};
use crate::ingest::outcome::{Batch, Effort};
use crate::metrics;
use crate::outage;
use crate::record::TopicPartition;

impl Consumer {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Load(partitions) => {
                let starter = self.starter.clone();
                self.spawn(start_died(), async move {
                    let (input, topics) = starter.load(partitions).await;
                    TaskResult::Loaded(input, topics)
                });
            }
            Action::LookUp(look_ups) => {
                let starter = self.starter.clone();
                self.spawn(start_died(), async move { TaskResult::Input(starter.look_up(look_ups).await) });
            }
            Action::Read(offsets) => self.read(&offsets),
            Action::StopReading(partitions) => {
                if let Err(error) = self.group.unassign(&partitions) {
                    let names = names(&partitions, &self.ingest.topic_prefix);
                    warn!(partitions = names, %error, "partitions that wait could not be unassigned");
                }
            }
            Action::Pause(partitions) => {
                debug!(
                    count = partitions.len(),
                    "a full batch waits for the one before it: partitions are paused"
                );
                if let Err(error) = self.group.pause(&partitions) {
                    warn!(%error, "partitions could not be paused");
                }
            }
            Action::Resume(offsets) => {
                if let Err(error) = self.group.resume(&offsets) {
                    warn!(%error, "partitions could not be resumed");
                }
            }
            Action::Write { id, effort, batch } => self.write(id, effort, batch),
            Action::Report(notice) => self.report(notice),
        }
    }

    fn read(&mut self, offsets: &[(TopicPartition, i64)]) {
        let partitions: Vec<TopicPartition> = offsets.iter().map(|(partition, _)| *partition).collect();
        let names = names(&partitions, &self.ingest.topic_prefix);
        match self.group.assign(offsets) {
            Ok(()) => match offsets {
                [(_, offset)] => info!(partitions = names, offset, "a partition is read"),
                _ => info!(partitions = names, count = partitions.len(), "partitions are read"),
            },
            Err(error) => {
                for partition in partitions {
                    let reason = error.to_string();
                    let input = Input::Unreadable { partition, offset: None, reason };
                    self.machine.handle(input, Instant::now());
                }
            }
        }
    }

    fn write(&mut self, id: WriteId, effort: Effort, batch: Batch) {
        self.writes += 1;
        let (ingest, cancel) = (self.ingest.for_batch(&batch.records), self.cancel.clone());
        let count = batch.records.len() as u64;
        self.oldest.write_started(id, &batch.records);
        let begin = Instant::now();
        self.spawn(TaskResult::Written(Input::WriteDied(id), count, Duration::ZERO), async move {
            let report = ingest.write_batch(batch, effort, &cancel).await;
            TaskResult::Written(Input::Written { id, report }, count, begin.elapsed())
        });
    }

    /// Spawns a task; if it panics, `died` is its result.
    pub(super) fn spawn(
        &mut self,
        died: TaskResult,
        task: impl Future<Output = TaskResult> + Send + 'static,
    ) {
        self.tasks.spawn(async move { AssertUnwindSafe(task).catch_unwind().await.unwrap_or(died) });
    }

    fn report(&self, notice: Notice) {
        let topic = |partition: TopicPartition| self.ingest.topic_name(partition.topic);
        match notice {
            Notice::Fenced(key) => {
                metrics::FENCED.add(&[], 1);
                warn!(
                    topic = topic(key),
                    partition = key.partition,
                    "another process moved the stored offset; nothing was written, the position is read again"
                );
            }
            Notice::Differs { partition: key, known, stored } => warn!(
                topic = topic(key),
                partition = key.partition,
                known_offset = known.next_offset,
                stored_offset = stored.map(|stored| stored.next_offset),
                "another process changed the stored offset; reading continues from there"
            ),
            Notice::Stopped { partition: key, position } => error!(
                topic = topic(key),
                partition = key.partition,
                next_offset = position.next_offset,
                dead_in_a_row = position.dead_in_a_row,
                "the partition is stopped, and the others go on: {} records in a row could not be used \
                 (DEAD_LETTER_LIMIT). Look at ingest.dead_letters, fix the producer, then run `voiceclone-events \
                 dead-letters accept --topic {} --partition {}`",
                position.dead_in_a_row,
                key.topic,
                key.partition
            ),
            Notice::Accepted(key) => {
                info!(
                    topic = topic(key),
                    partition = key.partition,
                    "the dead letters are accepted: the partition goes on"
                );
            }
            Notice::DatabaseFailed { reason, held } => {
                outage::failed("PostgreSQL", &format!("{reason}; {held} records wait for it"));
            }
            Notice::DatabaseWorks => outage::recovered("PostgreSQL"),
        }
    }
}

/// The result of a start whose task panicked.
fn start_died() -> TaskResult {
    TaskResult::Input(Input::NotLoaded { wait: "its start failed: this is a bug".into(), database: false })
}
