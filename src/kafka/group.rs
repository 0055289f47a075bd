//! Membership of the consumer group: joins it, returns its events, and reads assigned partitions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tracing::warn;

use super::consumer_config;
use super::queue::{self, Queue};
use super::quiet;
use super::statistics::Statistics;
use crate::config::{MAX_POLL_INTERVAL_MS, SESSION_TIMEOUT_MS, Settings};
use crate::record::{Record, Topic, TopicPartition};

/// Returns the configuration of a group member.
pub(super) fn group_config(settings: &Settings) -> ClientConfig {
    let mut config = consumer_config(settings);
    config.set("group.id", &settings.kafka_group_id);
    config.set("enable.partition.eof", "true");
    let session = settings.kafka_properties.get("session.timeout.ms").and_then(|value| value.parse().ok());
    for (property, value) in [
        ("statistics.interval.ms", 5_000),
        ("session.timeout.ms", SESSION_TIMEOUT_MS),
        // librdkafka refuses a value below the session timeout.
        ("max.poll.interval.ms", MAX_POLL_INTERVAL_MS.max(session.unwrap_or_default())),
    ] {
        if !settings.kafka_properties.contains_key(property) {
            config.set(property, value.to_string());
        }
    }
    config
}

/// Events of the group. Partitions of topics other than the five do not appear.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are named in the variant's own sentence")]
pub enum GroupEvent {
    /// A record of a partition that is read.
    Record(Record),
    /// Every record before `offset` was returned, and no more exist yet. Offsets that hold no record count.
    EndOfPartition { partition: TopicPartition, offset: i64 },
    /// The offset to be read is not in the log.
    OffsetOutOfRange { partition: TopicPartition },
    /// The partition cannot be read; `reason` is librdkafka's text.
    PartitionFailed { partition: TopicPartition, offset: Option<i64>, reason: String },
    /// The client reported an error; `reason` is librdkafka's text.
    ClientFailed { code: RDKafkaErrorCode, reason: String },
    /// The client failed for good: a new one must replace it.
    ClientDied { code: RDKafkaErrorCode, reason: String },
    /// The group assigns these partitions to this member.
    Assigned(Vec<TopicPartition>),
    /// The group revokes these partitions. `lost`: this member is not in the group at the moment.
    Revoked { partitions: Vec<TopicPartition>, lost: bool },
    /// librdkafka's statistics of the partitions.
    Statistics(Statistics),
    /// A line of librdkafka's log, of level warning or worse.
    Log { facility: String, text: String },
}

struct Context;

impl ClientContext for Context {
    /// The driver takes statistics from the queue. Those that come while the client closes are of no use, and the
    /// default logs them whole.
    fn stats_raw(&self, _statistics: &[u8]) {}
}

impl ConsumerContext for Context {
    /// rdkafka calls this only while the consumer is being closed; before that, [`Group::next_event`] answers
    /// rebalances.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, _: &mut TopicPartitionList) {
        answer(consumer, code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS, None);
    }
}

/// Answers a rebalance at once, independently of the database, as librdkafka takes part in no other rebalance before.
/// Assigned partitions are not read until [`Group::assign`].
fn answer(consumer: &BaseConsumer<Context>, assigned: bool, revoked: Option<&[queue::NamedPartition]>) {
    if assigned {
        if let Err(error) = consumer.incremental_assign(&TopicPartitionList::new()) {
            warn!(%error, "an assignment of the group could not be confirmed");
        }
        return;
    }
    let mut list = TopicPartitionList::new();
    // librdkafka refuses to unassign partitions that it does not read.
    for element in consumer.assignment().iter().flat_map(TopicPartitionList::elements) {
        let place = (element.topic().to_owned(), element.partition());
        if revoked.is_none_or(|revoked| revoked.contains(&place)) {
            list.add_partition(&place.0, place.1);
        }
    }
    if let Err(error) = consumer.incremental_unassign(&list) {
        warn!(%error, "a revocation of the group could not be confirmed");
    }
}

/// A member of the group.
pub struct Group {
    queue: Queue<Context>,
    ready: Arc<Notify>,
    topic_prefix: String,
    /// The partitions that librdkafka reads.
    read: BTreeSet<TopicPartition>,
    session_timeout_ms: String,
}

impl Group {
    /// Joins the group and subscribes to the five topics.
    pub fn join(settings: &Settings) -> anyhow::Result<Group> {
        let config = group_config(settings);
        let session_timeout_ms = config.get("session.timeout.ms").unwrap_or_default().to_owned();
        let mut consumer: BaseConsumer<Context> =
            config.create_with_context(Context).context("the Kafka consumer could not be created")?;
        let ready = Arc::new(Notify::new());
        let wake = Arc::clone(&ready);
        consumer.set_nonempty_callback(move || wake.notify_one());
        let topics: Vec<String> = Topic::ALL.iter().map(|topic| settings.topic_name(topic)).collect();
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names).context("the topics could not be subscribed to")?;
        let queue = Queue::of(Arc::new(consumer), settings.topic_prefix.clone())
            .context("the Kafka consumer has no queue")?;
        let topic_prefix = settings.topic_prefix.clone();
        Ok(Group { queue, ready, topic_prefix, read: BTreeSet::new(), session_timeout_ms })
    }

    /// Returns the effective `session.timeout.ms`.
    pub fn session_timeout_ms(&self) -> &str {
        &self.session_timeout_ms
    }

    /// The id that the group gave this member; `None` before it has one.
    pub fn member_id(&self) -> Option<String> {
        self.queue.member_id()
    }

    /// Waits until there may be an event. Cancel-safe.
    pub async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Makes [`Group::ready`] return again: more events may be queued.
    pub fn again(&self) {
        self.ready.notify_one();
    }

    /// Returns the next queued event. Answers rebalances on the way.
    pub fn next_event(&mut self) -> Option<GroupEvent> {
        loop {
            let event = self.queue.next()?;
            if let Some(event) = self.translate(event) {
                return Some(event);
            }
        }
    }

    fn translate(&mut self, event: queue::QueueEvent) -> Option<GroupEvent> {
        Some(match event {
            queue::QueueEvent::Record(record) => GroupEvent::Record(record),
            queue::QueueEvent::EndOfPartition { place, offset } => {
                GroupEvent::EndOfPartition { partition: self.partition(&place)?, offset }
            }
            queue::QueueEvent::PartitionFailed { place, offset, code, reason } => {
                let partition = self.partition(&place)?;
                match code {
                    RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                        GroupEvent::OffsetOutOfRange { partition }
                    }
                    // librdkafka looks for the leader by itself, and the result of commits is returned elsewhere.
                    _ if reason.starts_with("Offset commit failed") => return None,
                    _ => {
                        quiet::count(Some(code), &reason);
                        let offset = (offset >= 0).then_some(offset);
                        GroupEvent::PartitionFailed { partition, offset, reason }
                    }
                }
            }
            queue::QueueEvent::ClientFailed { code, reason, fatal: true } => {
                quiet::count(Some(code), &reason);
                GroupEvent::ClientDied { code, reason }
            }
            queue::QueueEvent::ClientFailed { code, reason, fatal: false } => {
                GroupEvent::ClientFailed { code, reason }
            }
            queue::QueueEvent::Assigned(places) => {
                answer(self.consumer(), true, None);
                GroupEvent::Assigned(self.partitions(&places))
            }
            queue::QueueEvent::Revoked(places) => {
                let lost = self.consumer().assignment_lost();
                answer(self.consumer(), false, Some(&places));
                let partitions = self.partitions(&places);
                for partition in &partitions {
                    self.read.remove(partition);
                }
                GroupEvent::Revoked { partitions, lost }
            }
            queue::QueueEvent::Statistics(json) => {
                GroupEvent::Statistics(Statistics::parse(&json, |place| self.partition(place))?)
            }
            // A syslog level: 4 is a warning.
            queue::QueueEvent::Log { level: 0..=4, facility, text } if !quiet::is_noise(&facility) => {
                GroupEvent::Log { facility, text }
            }
            queue::QueueEvent::Log { level, facility, text } => {
                tracing::debug!(target: "librdkafka", level, facility, "{text}");
                return None;
            }
        })
    }

    fn consumer(&self) -> &Arc<BaseConsumer<Context>> {
        self.queue.consumer()
    }

    fn partition(&self, (topic, partition): &queue::NamedPartition) -> Option<TopicPartition> {
        let topic = Topic::from_name(topic.strip_prefix(&self.topic_prefix)?)?;
        Some(TopicPartition::new(topic, *partition))
    }

    fn partitions(&self, places: &[queue::NamedPartition]) -> Vec<TopicPartition> {
        places.iter().filter_map(|place| self.partition(place)).collect()
    }

    fn list(&self, offsets: impl IntoIterator<Item = (TopicPartition, Offset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let topic = format!("{}{}", self.topic_prefix, partition.topic);
            if let Err(error) = list.add_partition_offset(&topic, partition.partition, offset) {
                warn!(%error, topic, partition = partition.partition, ?offset, "the offset is not valid");
            }
        }
        list
    }

    /// Starts reading these partitions at these offsets.
    pub fn assign(&mut self, offsets: &[(TopicPartition, i64)]) -> KafkaResult<()> {
        let list = self.list(offsets.iter().map(|(partition, offset)| (*partition, Offset::Offset(*offset))));
        self.consumer().incremental_assign(&list)?;
        self.read.extend(offsets.iter().map(|(partition, _)| *partition));
        // librdkafka keeps a partition paused if it was revoked while paused.
        self.consumer().resume(&list)
    }

    /// Stops reading those of these partitions that are read.
    pub fn unassign(&mut self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        let read: Vec<TopicPartition> =
            partitions.iter().copied().filter(|partition| self.read.remove(partition)).collect();
        if read.is_empty() {
            return Ok(());
        }
        let list = self.list(read.into_iter().map(|partition| (partition, Offset::Invalid)));
        self.consumer().incremental_unassign(&list)
    }

    /// Pauses those of these partitions that are read.
    pub fn pause(&self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        self.consumer().pause(&self.read_of(partitions))
    }

    /// Resumes those of these partitions that are read by assigning them again at these offsets. A pause may drop the
    /// head of librdkafka's queue, and with it the only error that reports an offset out of range: the partition would
    /// stay silent.
    pub fn resume(&mut self, offsets: &[(TopicPartition, i64)]) -> KafkaResult<()> {
        let read: Vec<_> =
            offsets.iter().copied().filter(|(partition, _)| self.read.contains(partition)).collect();
        if read.is_empty() {
            return Ok(());
        }
        self.unassign(&read.iter().map(|(partition, _)| *partition).collect::<Vec<_>>())?;
        self.assign(&read)
    }

    fn read_of(&self, partitions: &[TopicPartition]) -> TopicPartitionList {
        let read = partitions.iter().filter(|partition| self.read.contains(partition));
        self.list(read.map(|partition| (*partition, Offset::Invalid)))
    }

    /// Returns a function that commits offsets to Kafka and reads them back. It blocks for at most `patience`.
    pub fn committing(
        &self,
        offsets: &[(TopicPartition, i64)],
        patience: Duration,
    ) -> impl FnOnce() -> KafkaResult<Vec<(TopicPartition, i64)>> + Send + 'static + use<> {
        let (consumer, prefix) = (Arc::clone(self.consumer()), self.topic_prefix.clone());
        let list = self.list(offsets.iter().map(|(partition, offset)| (*partition, Offset::Offset(*offset))));
        move || {
            consumer.commit(&list, CommitMode::Sync)?;
            let mut asked = TopicPartitionList::new();
            for element in list.elements() {
                asked.add_partition(element.topic(), element.partition());
            }
            let committed = consumer.committed_offsets(asked, patience)?;
            let read = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
                let topic = Topic::from_name(element.topic().strip_prefix(prefix.as_str())?)?;
                match element.offset() {
                    Offset::Offset(offset) => Some((TopicPartition::new(topic, element.partition()), offset)),
                    _ => None,
                }
            };
            Ok(committed.elements().iter().filter_map(read).collect())
        }
    }

    /// Returns a function that asks a broker for a sign of life with this client. It blocks for at most `patience`.
    pub fn probing(&self, patience: Duration) -> impl FnOnce() -> bool + Send + 'static + use<> {
        let consumer = Arc::clone(self.consumer());
        let topic = format!("{}{}", self.topic_prefix, Topic::CloneReady);
        move || consumer.client().fetch_metadata(Some(&topic), patience).is_ok()
    }
}
