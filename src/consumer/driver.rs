//! The driver of the machine: a loop that owns the group membership and runs the machine's actions. Each task
//! ends with an input for the machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::gauges::{self, Oldest};
use super::log::{Troubles, names};
use super::progress::Progress;
use super::start::Starter;
use super::status::{ConsumerStatus, End};
use super::topics::TopicWatch;
use super::{BatchLimits, Input, Machine};
use crate::config::Settings;
use crate::ingest::Ingest;
use crate::kafka::BATCH_MAX_BYTES;
use crate::kafka::brokers::{Brokers, Topics};
use crate::kafka::group::{Group, GroupEvent};
use crate::kafka::quiet;
use crate::metrics;
use crate::record::TopicPartition;

/// Maximum number of events received per loop turn, so that other work gets a turn.
const RECEIVE_BURST: usize = 256;

/// Interval of updates to readiness and log lines.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Timeout for a broker's answer to a commit or a probe.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// At shutdown, the time for writes in flight to land, and the time after that to leave the group. With the daemon's
/// other tasks they stay within the 10 s of the contract (section 8).
const WRITES_TIMEOUT: Duration = Duration::from_millis(4500);
const LEAVE_TIMEOUT: Duration = Duration::from_millis(2500);

/// The result of a task.
pub(super) enum TaskResult {
    Input(Input),
    /// The machine's input, and the topics if the brokers were asked for them.
    Loaded(Input, Option<Topics>),
    /// The machine's input, the number of records, and the duration.
    Written(Input, u64, Duration),
    Committed(Result<Vec<(TopicPartition, i64)>, String>),
    NotCompared(String),
    BrokersChecked(BrokerCheck),
}

/// The result of asking the brokers.
pub(super) struct BrokerCheck {
    pub topics: Option<Topics>,
    /// Whether the consumer's own client was probed and got no answer.
    pub probe_failed: bool,
    /// The end offsets of partitions that are stopped or paused.
    pub ends: BTreeMap<TopicPartition, i64>,
}

/// The live consumer.
pub struct Consumer {
    pub(super) group: Group,
    pub(super) machine: Machine,
    pub(super) ingest: Ingest,
    pub(super) starter: Starter,
    pub(super) tasks: JoinSet<TaskResult>,
    pub(super) writes: usize,
    pub(super) status: watch::Sender<ConsumerStatus>,
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
    pub(super) checking_brokers: bool,
    pub(super) member: bool,
    pub(super) member_id: Option<String>,
    pub(super) joined: Instant,
    pub(super) waiting_logged_at: Option<Instant>,
    /// When the assigned partitions fell behind; `None` once everything was read.
    pub(super) behind: Option<Instant>,
    pub(super) heard: Option<Instant>,
    pub(super) landed: Option<Instant>,
    pub(super) failed_probes: u32,
    pub(super) looks: u64,
}

impl Consumer {
    /// Joins the group. The topics' ids are asked first, so that they are not newer than the client's own metadata.
    pub async fn join(
        settings: &Settings,
        ingest: Ingest,
        status: watch::Sender<ConsumerStatus>,
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
        let limits = BatchLimits {
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
            checking_brokers: false,
            member: false,
            member_id: None,
            joined: Instant::now(),
            waiting_logged_at: None,
            behind: None,
            heard: None,
            landed: None,
            failed_probes: 0,
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
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(action) = self.machine.poll(Instant::now()) {
                self.perform(action);
            }
            let timeout = self.machine.next_timeout(Instant::now());
            let end = tokio::select! {
                biased;
                () = cancel.cancelled() => Some(End::Cancelled),
                Some(done) = self.tasks.join_next() => self.task_ended(done.ok()),
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
        for _ in 0..RECEIVE_BURST {
            if !self.machine.wants_records() {
                break;
            }
            let event = self.group.next_event()?;
            if let Some(end) = self.on_event(event, now) {
                return Some(end);
            }
        }
        self.group.again();
        None
    }

    fn on_event(&mut self, event: GroupEvent, now: Instant) -> Option<End> {
        match event {
            GroupEvent::Record(record) => {
                self.heard = Some(now);
                self.machine.push(record, now);
            }
            GroupEvent::EndOfPartition { partition, offset } => {
                self.heard = Some(now);
                self.ends.insert(partition, offset);
                self.machine.handle(Input::EndOfPartition { partition, offset }, now);
            }
            GroupEvent::OffsetOutOfRange { partition } => {
                self.machine.handle(Input::OffsetOutOfRange(partition), now);
            }
            GroupEvent::PartitionFailed { partition, offset, reason } => {
                self.machine.handle(Input::Unreadable { partition, offset, reason }, now);
            }
            GroupEvent::ClientFailed { code, reason } => {
                quiet::client_failed(Some(code), &format!("{reason} ({code:?})"))
            }
            GroupEvent::ClientDied { code, reason } => {
                let fenced = code == rdkafka::error::RDKafkaErrorCode::FencedInstanceId;
                return Some(End::ClientDied { fenced, reason });
            }
            GroupEvent::Assigned(partitions) => {
                self.member = true;
                self.member_id = self.group.member_id();
                metrics::REBALANCES.add(&["assigned"], 1);
                if !partitions.is_empty() {
                    self.behind.get_or_insert(now);
                    let names = names(&partitions, &self.ingest.topic_prefix);
                    info!(partitions = names, count = partitions.len(), "partitions are assigned");
                }
                self.machine.handle(Input::Assigned(partitions), now);
            }
            GroupEvent::Revoked { partitions, lost } => {
                // The partitions of a deleted topic are lost alone. Without any the wait for an assignment begins again.
                if lost && !self.machine.has_others(&partitions) {
                    (self.member, self.member_id, self.joined) = (false, None, now);
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
            GroupEvent::Statistics(statistics) => self.ends.extend(statistics.ends),
            GroupEvent::Log { facility, text } => quiet::failed(&format!("{text} ({facility})")),
        }
        None
    }

    /// Handles the result of a task.
    fn task_ended(&mut self, done: Option<TaskResult>) -> Option<End> {
        let now = Instant::now();
        match done? {
            TaskResult::Input(input) => {
                if matches!(input, Input::Stored { .. }) {
                    self.comparing = false;
                }
                self.machine.handle(input, now);
            }
            TaskResult::Loaded(input, topics) => {
                let end = topics.and_then(|topics| self.on_topics(topics));
                self.machine.handle(input, now);
                return end;
            }
            TaskResult::Written(input, records, took) => self.written(input, records, took, now),
            TaskResult::Committed(committed) => {
                self.committing = false;
                match committed {
                    Ok(committed) => self.committed.extend(committed),
                    Err(reason) => {
                        debug!(reason, "offsets were not committed to Kafka; the commit is retried")
                    }
                }
            }
            TaskResult::NotCompared(reason) => {
                self.comparing = false;
                debug!(reason, "the stored offsets could not be compared");
            }
            TaskResult::BrokersChecked(check) => return self.brokers_checked(check),
        }
        None
    }

    fn written(&mut self, input: Input, records: u64, took: Duration, now: Instant) {
        self.writes = self.writes.saturating_sub(1);
        if let Input::Written { id, .. } | Input::WriteDied(id) = &input {
            self.oldest.write_ended(*id);
        }
        let mut ending = None;
        if let Input::Written { report, .. } = &input {
            ending = report.ending();
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
        if let Some(ending) = ending {
            ending.end(|partition| self.machine.pause_of(partition, now));
        }
    }

    /// Handles the brokers' description of the topics.
    pub(super) fn on_topics(&mut self, topics: Topics) -> Option<End> {
        self.leaders = topics.leaders;
        let recreated = self.topics.compare(&topics.ids)?;
        Some(End::TopicRecreated(self.ingest.topic_name(recreated)))
    }

    /// Lets writes in flight land if the database accepts them, commits, and leaves the group.
    async fn finish(mut self) {
        self.cancel.cancel();
        self.status.send_replace(ConsumerStatus::default());
        gauges::show(&[], &self.machine.paused);
        let landed = tokio::time::timeout(WRITES_TIMEOUT, async {
            // The client leaves the group when its last reference is dropped, and a probe holds one.
            while self.writes > 0 || self.committing || self.checking_brokers {
                match self.tasks.join_next().await {
                    Some(Ok(TaskResult::Written(input, records, took))) => {
                        self.written(input, records, took, Instant::now());
                    }
                    Some(Ok(TaskResult::Committed(_))) => self.committing = false,
                    Some(Ok(TaskResult::BrokersChecked(_))) => self.checking_brokers = false,
                    Some(_) => {}
                    None => return,
                }
            }
        });
        if landed.await.is_err() {
            warn!("a batch did not land in time; it is read again after the next start");
        }
        self.tasks.abort_all();
        let commit = self.group.committing(&self.uncommitted(), LEAVE_TIMEOUT);
        let member = self.member;
        let left = tokio::task::spawn_blocking(move || {
            if member && let Err(error) = commit() {
                debug!(%error, "the last offsets were not committed to Kafka; the database has them");
            }
            drop(self);
        });
        if tokio::time::timeout(LEAVE_TIMEOUT, left).await.is_err() {
            warn!("the broker did not let the consumer leave its group in time");
        }
    }
}

async fn until(timeout: Option<Instant>) {
    match timeout {
        Some(timeout) => tokio::time::sleep_until(timeout.into()).await,
        None => std::future::pending().await,
    }
}
