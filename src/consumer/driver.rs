//! The driver of the machine: a loop that owns the group membership and runs the machine's actions as tasks. Each task
//! ends with an input for the machine.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::gauges::{self, Oldest};
use super::log::{Troubles, names};
use super::progress::Progress;
use super::start::Starter;
use super::status::{End, Status};
use super::topics::TopicWatch;
use super::{Action, Input, Limits, Machine, Notice, WriteId};
use crate::config::Settings;
use crate::ingest::Ingest;
use crate::ingest::outcome::{Batch, Effort};
use crate::kafka::BATCH_MAX_BYTES;
use crate::kafka::brokers::{Brokers, Topics};
use crate::kafka::group::{Event, Group};
use crate::kafka::quiet;
use crate::metrics;
use crate::outage;
use crate::record::TopicPartition;

/// Maximum number of events received per loop turn, so that other work gets a turn.
const TAKE: usize = 256;

/// Interval of updates to readiness and log lines.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Timeout for a broker's answer to a commit or a probe.
pub(super) const ANSWER: Duration = Duration::from_secs(4);

/// At shutdown, the time for writes in flight to land, and the time after that to leave the group. With the daemon's
/// other tasks they stay within the 10 s of the contract (section 8).
const WRITES_END_WITHIN: Duration = Duration::from_millis(4500);
const LEAVE_WITHIN: Duration = Duration::from_millis(2500);

/// The result of a task.
pub(super) enum Done {
    Input(Input),
    /// The machine's input, and the topics if the brokers were asked for them.
    Loaded(Input, Option<Topics>),
    /// The machine's input, the number of records, and the duration.
    Written(Input, u64, Duration),
    Committed(Result<Vec<(TopicPartition, i64)>, String>),
    NotCompared(String),
    Watched(Watched),
}

/// The result of asking the brokers.
pub(super) struct Watched {
    pub topics: Option<Topics>,
    /// Whether the consumer's own client was probed and got no answer.
    pub unanswered: bool,
    /// The end offsets of partitions that are stopped or paused.
    pub ends: BTreeMap<TopicPartition, i64>,
}

/// The live consumer.
pub struct Consumer {
    pub(super) group: Group,
    pub(super) machine: Machine,
    pub(super) ingest: Ingest,
    pub(super) starter: Starter,
    pub(super) tasks: JoinSet<Done>,
    pub(super) writes: usize,
    pub(super) status: watch::Sender<Status>,
    pub(super) cancel: CancellationToken,
    pub(super) topics: TopicWatch,
    pub(super) leaders: BTreeMap<TopicPartition, Option<i32>>,
    pub(super) ends: BTreeMap<TopicPartition, i64>,
    pub(super) progress: Progress,
    pub(super) oldest: Oldest,
    pub(super) troubles: Troubles,
    pub(super) committed: BTreeMap<TopicPartition, i64>,
    pub(super) committing: bool,
    pub(super) comparing: bool,
    pub(super) watching: bool,
    pub(super) member: bool,
    pub(super) joined: Instant,
    pub(super) said_waiting: Option<Instant>,
    /// When the assigned partitions fell behind; `None` once everything was read.
    pub(super) behind: Option<Instant>,
    pub(super) heard: Option<Instant>,
    pub(super) landed: Option<Instant>,
    pub(super) unanswered: u32,
    pub(super) looks: u64,
}

impl Consumer {
    /// Joins the group. The topics' ids are asked first, so that they are not newer than the client's own metadata.
    pub async fn join(
        settings: &Settings,
        ingest: Ingest,
        status: watch::Sender<Status>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Consumer> {
        let starter = Starter {
            store: ingest.store.clone(),
            brokers: Arc::new(Brokers::new(settings)),
            group: settings.kafka_group_id.clone(),
            topic_prefix: settings.topic_prefix.clone(),
        };
        let mut topics = TopicWatch::default();
        tokio::select! {
            known = starter.topics() => drop(known.map(|known| topics.compare(&known.ids))),
            () = cancel.cancelled() => {}
        }
        let limits = Limits {
            records: settings.batch_max_records,
            bytes: BATCH_MAX_BYTES,
            wait: settings.batch_max_wait,
        };
        Ok(Consumer {
            group: Group::join(settings)?,
            machine: Machine::new(limits),
            ingest,
            starter,
            tasks: JoinSet::new(),
            writes: 0,
            status,
            cancel: cancel.child_token(),
            topics,
            leaders: BTreeMap::new(),
            ends: BTreeMap::new(),
            progress: Progress::default(),
            oldest: Oldest::default(),
            troubles: Troubles::default(),
            committed: BTreeMap::new(),
            committing: false,
            comparing: false,
            watching: false,
            member: false,
            joined: Instant::now(),
            said_waiting: None,
            behind: None,
            heard: None,
            landed: None,
            unanswered: 0,
            looks: 0,
        })
    }

    /// Consumes until cancelled or until a new client is needed; then commits and leaves the group.
    pub async fn run(mut self) -> End {
        let end = self.consume().await;
        self.finish().await;
        end
    }

    async fn consume(&mut self) -> End {
        let cancel = self.cancel.clone();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(action) = self.machine.poll(Instant::now()) {
                self.perform(action);
            }
            let timeout = self.machine.next_timeout(Instant::now());
            let end = tokio::select! {
                biased;
                () = cancel.cancelled() => Some(End::Cancelled),
                Some(done) = self.tasks.join_next() => self.done(done.ok()),
                _ = looks.tick() => self.look(),
                () = until(timeout) => None,
                () = self.group.ready(), if self.machine.wants_records() => self.receive(),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Receives events from the group.
    pub(super) fn receive(&mut self) -> Option<End> {
        let now = Instant::now();
        for _ in 0..TAKE {
            if !self.machine.wants_records() {
                break;
            }
            let event = self.group.next_event()?;
            if let Some(end) = self.take(event, now) {
                return Some(end);
            }
        }
        self.group.again();
        None
    }

    fn take(&mut self, event: Event, now: Instant) -> Option<End> {
        match event {
            Event::Record(record) => {
                self.heard = Some(now);
                self.machine.push(record, now);
            }
            Event::EndOfPartition { partition, offset } => {
                self.heard = Some(now);
                self.ends.insert(partition, offset);
                self.machine.handle(Input::EndOfPartition { partition, offset }, now);
            }
            Event::OffsetOutOfRange { partition } => {
                self.machine.handle(Input::OffsetOutOfRange(partition), now);
            }
            Event::PartitionFailed { partition, offset, reason } => {
                self.machine.handle(Input::Unreadable { partition, offset, reason }, now);
            }
            Event::ClientFailed { code, reason } => {
                quiet::client_failed(Some(code), &format!("{reason} ({code:?})"))
            }
            Event::ClientDied { code, reason } => {
                let fenced = code == rdkafka::error::RDKafkaErrorCode::FencedInstanceId;
                return Some(End::ClientDied { fenced, reason });
            }
            Event::Assigned(partitions) => {
                self.member = true;
                metrics::REBALANCES.add(&["assigned"], 1);
                if !partitions.is_empty() {
                    self.behind.get_or_insert(now);
                    let names = names(&partitions, &self.ingest.topic_prefix);
                    info!(partitions = names, count = partitions.len(), "partitions are assigned");
                }
                self.machine.handle(Input::Assigned(partitions), now);
            }
            Event::Revoked { partitions, lost } => {
                if lost {
                    // The wait for an assignment begins again.
                    (self.member, self.joined) = (false, now);
                }
                metrics::REBALANCES.add(&["revoked"], 1);
                let names = names(&partitions, &self.ingest.topic_prefix);
                info!(partitions = names, count = partitions.len(), lost, "partitions are revoked");
                for partition in &partitions {
                    self.oldest.forget(*partition);
                    self.committed.remove(partition);
                    self.ends.remove(partition);
                }
                self.machine.handle(Input::Revoked(partitions), now);
            }
            Event::Statistics(statistics) => self.ends.extend(statistics.ends),
            Event::Log { facility, text } => quiet::failed(&format!("{text} ({facility})")),
        }
        None
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Load(partitions) => {
                let starter = self.starter.clone();
                self.spawn(start_died(), async move {
                    let (input, topics) = starter.load(partitions).await;
                    Done::Loaded(input, topics)
                });
            }
            Action::LookUp(look_ups) => {
                let starter = self.starter.clone();
                self.spawn(start_died(), async move { Done::Input(starter.look_up(look_ups).await) });
            }
            Action::Read(offsets) => self.read(&offsets),
            Action::StopReading(partitions) => {
                if let Err(error) = self.group.unassign(&partitions) {
                    let names = names(&partitions, &self.ingest.topic_prefix);
                    warn!(partitions = names, %error, "the client goes on to read partitions that wait");
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
        let (ingest, cancel) = (self.ingest.clone(), self.cancel.clone());
        let count = batch.records.len() as u64;
        self.oldest.writes(id, &batch.records);
        let begin = Instant::now();
        self.spawn(Done::Written(Input::WriteDied(id), count, Duration::ZERO), async move {
            let report = ingest.write_batch(batch, effort, &cancel).await;
            Done::Written(Input::Written { id, report }, count, begin.elapsed())
        });
    }

    /// Spawns a task; if it panics, `died` is its result.
    pub(super) fn spawn(&mut self, died: Done, task: impl Future<Output = Done> + Send + 'static) {
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
                "the stored offset is not the one that this process knows; it goes on from the stored one"
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

    /// Handles the result of a task.
    fn done(&mut self, done: Option<Done>) -> Option<End> {
        let now = Instant::now();
        match done? {
            Done::Input(input) => {
                if matches!(input, Input::Stored { .. }) {
                    self.comparing = false;
                }
                self.machine.handle(input, now);
            }
            Done::Loaded(input, topics) => {
                let end = topics.and_then(|topics| self.learn(topics));
                self.machine.handle(input, now);
                return end;
            }
            Done::Written(input, records, took) => self.written(input, records, took, now),
            Done::Committed(committed) => {
                self.committing = false;
                match committed {
                    Ok(committed) => self.committed.extend(committed),
                    Err(reason) => {
                        debug!(reason, "offsets were not committed to Kafka; they are committed again")
                    }
                }
            }
            Done::NotCompared(reason) => {
                self.comparing = false;
                debug!(reason, "the stored offsets could not be compared");
            }
            Done::Watched(watched) => return self.watched(watched),
        }
        None
    }

    fn written(&mut self, input: Input, records: u64, took: Duration, now: Instant) {
        self.writes = self.writes.saturating_sub(1);
        if let Input::Written { id, .. } | Input::WriteDied(id) = &input {
            self.oldest.wrote(*id);
        }
        if let Input::Written { report, .. } = &input {
            let landed = records.saturating_sub(report.remaining.len() as u64);
            if report.remaining.is_empty() {
                self.landed = Some(now);
                if records > 0 {
                    metrics::BATCH_DURATION.observe(&[], took.as_secs_f64());
                    #[allow(clippy::cast_precision_loss, reason = "a batch has some thousands")]
                    metrics::BATCH_RECORDS.observe(&[], records as f64);
                }
            }
            debug!(records = landed, "a batch landed");
        }
        self.machine.handle(input, now);
    }

    /// Handles the brokers' description of the topics.
    pub(super) fn learn(&mut self, topics: Topics) -> Option<End> {
        self.leaders = topics.leaders;
        let recreated = self.topics.compare(&topics.ids)?;
        Some(End::TopicRecreated(self.ingest.topic_name(recreated)))
    }

    /// Lets writes in flight land if the database accepts them, commits, and leaves the group.
    async fn finish(mut self) {
        self.cancel.cancel();
        self.status.send_replace(Status::default());
        gauges::show(&[], &self.machine.paused);
        let landed = tokio::time::timeout(WRITES_END_WITHIN, async {
            // The client leaves the group when its last reference is dropped, and a probe holds one.
            while self.writes > 0 || self.committing || self.watching {
                match self.tasks.join_next().await {
                    Some(Ok(Done::Written(input, records, took))) => {
                        self.written(input, records, took, Instant::now());
                    }
                    Some(Ok(Done::Committed(_))) => self.committing = false,
                    Some(Ok(Done::Watched(_))) => self.watching = false,
                    Some(_) => {}
                    None => return,
                }
            }
        });
        if landed.await.is_err() {
            warn!("a batch did not land in time; it is read again after the next start");
        }
        self.tasks.abort_all();
        let commit = self.group.committing(&self.uncommitted(), LEAVE_WITHIN);
        let member = self.member;
        let left = tokio::task::spawn_blocking(move || {
            if member && let Err(error) = commit() {
                debug!(%error, "the last offsets were not committed to Kafka; the database has them");
            }
            drop(self);
        });
        if tokio::time::timeout(LEAVE_WITHIN, left).await.is_err() {
            warn!("the broker did not let the consumer leave its group in time");
        }
    }
}

/// The result of a start whose task panicked.
fn start_died() -> Done {
    Done::Input(Input::NotLoaded { wait: "its start failed: this is a bug".into(), database: false })
}

async fn until(timeout: Option<Instant>) {
    match timeout {
        Some(timeout) => tokio::time::sleep_until(timeout.into()).await,
        None => std::future::pending().await,
    }
}
