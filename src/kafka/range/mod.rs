//! Ranges of one topic: resolves them and reads their records. Works beside the running daemon: joins no group, commits
//! no offset.

mod bounds;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::Serialize;
use tracing::{debug, error, warn};

pub(super) use self::bounds::resolve;
use self::bounds::watermarks;
pub use self::bounds::{Bound, Missing, Range};
use super::{BATCH_MAX_BYTES, consumer_config, record};
use crate::config::Settings;
use crate::record::{Record, Topic};

/// A partial chunk is returned when nothing more arrived for this long.
const CHUNK_WAIT: Duration = Duration::from_millis(500);

/// A new client takes over after this time without a message, as the old one may have lost the brokers for good (see
/// `consumer::End::BrokersLost`).
const MAX_SILENCE: Duration = Duration::from_secs(30);

/// Offsets that retention removed while they were being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The partition.
    pub partition: i32,
    /// The first removed offset.
    pub from: i64,
    /// The first offset that exists, or the range's end.
    pub to: i64,
}

/// The progress of reading one partition.
struct PartitionProgress {
    /// The next offset to read.
    next: i64,
    end: i64,
    /// The offset after the last buffered record.
    read_to: i64,
    done: bool,
}

/// Reads ranges of one topic.
pub struct RangeReader {
    config: ClientConfig,
    consumer: Arc<StreamConsumer>,
    /// The time of the last record, or of the last end of a partition.
    last_heard: Instant,
    topic_name: String,
    topic_prefix: String,
    chunk_max_records: usize,
    parts: BTreeMap<i32, PartitionProgress>,
    buffer: Vec<Record>,
    buffered_bytes: usize,
    /// Whether the broker reported an offset out of range.
    out_of_range: bool,
    lost: Vec<Lost>,
}

impl RangeReader {
    /// Creates the client; it connects at its first use.
    pub fn new(settings: &Settings, topic: Topic) -> anyhow::Result<RangeReader> {
        let mut config = consumer_config(settings);
        // librdkafka requires a group; it is not joined, and nothing is committed to it.
        config.set("group.id", format!("{}-replay", settings.kafka_group_id));
        config.set("enable.partition.eof", "true");
        let consumer: StreamConsumer = config.create().context("the Kafka consumer could not be created")?;
        Ok(RangeReader {
            config,
            consumer: Arc::new(consumer),
            last_heard: Instant::now(),
            topic_name: settings.topic_name(topic),
            topic_prefix: settings.topic_prefix.clone(),
            chunk_max_records: settings.batch_max_records,
            parts: BTreeMap::new(),
            buffer: Vec::new(),
            buffered_bytes: 0,
            out_of_range: false,
            lost: Vec::new(),
        })
    }

    /// Resolves the ranges to read, of one partition or of all.
    ///
    /// Without `from` a range starts at the oldest record; without `to` it ends at the current end. Timestamps need not
    /// be in order: a range of times starts and ends at the first record that is not earlier, so records inside it may
    /// be earlier, and later ones after its end are not part of it.
    pub async fn resolve(
        &self,
        partition: Option<i32>,
        from: Option<Bound>,
        to: Option<Bound>,
    ) -> anyhow::Result<Vec<Range>> {
        let consumer = self.consumer.clone();
        let topic = self.topic_name.clone();
        tokio::task::spawn_blocking(move || resolve(&*consumer, &topic, partition, from, to))
            .await
            .context("the task that asks the broker failed")?
    }

    /// Starts reading the ranges; empty ones are omitted.
    pub fn start(&mut self, ranges: &[Range]) -> anyhow::Result<()> {
        self.parts = ranges
            .iter()
            .filter(|range| range.start < range.end)
            .map(|range| {
                let part = PartitionProgress {
                    next: range.start,
                    end: range.end,
                    read_to: range.start,
                    done: false,
                };
                (range.partition, part)
            })
            .collect();
        self.last_heard = Instant::now();
        self.assign()
    }

    /// Returns the next records, in offset order within each partition; `None` when all ranges are read. May be dropped
    /// and called again without losing records.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<Record>>> {
        loop {
            if self.out_of_range {
                self.skip_removed().await?;
            }
            let all = self.parts.values().all(|part| part.done);
            if all || self.buffer.len() >= self.chunk_max_records || self.buffered_bytes >= BATCH_MAX_BYTES {
                return Ok(self.take());
            }
            let consumer = self.consumer.clone();
            let message = match tokio::time::timeout(CHUNK_WAIT, consumer.recv()).await {
                Ok(message) => message,
                Err(_) if !self.buffer.is_empty() => return Ok(self.take()),
                Err(_) => {
                    if self.last_heard.elapsed() >= MAX_SILENCE {
                        self.replace_client()?;
                    }
                    continue;
                }
            };
            match message {
                Ok(message) => {
                    self.last_heard = Instant::now();
                    if let Some(record) = record(&message, &self.topic_prefix) {
                        self.buffer_record(record);
                    }
                }
                Err(error) => self.consumer_error(error)?,
            }
        }
    }

    /// Whether a partition's range is read to its end, and all its records are before `offset`.
    pub fn is_complete(&self, partition: i32, offset: i64) -> bool {
        self.parts.get(&partition).is_none_or(|part| part.done && part.read_to <= offset)
    }

    /// Returns the offsets that retention removed while they were being read.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// Closes the client.
    pub async fn close(self) {
        let closed = tokio::task::spawn_blocking(move || drop(self));
        if tokio::time::timeout(Duration::from_secs(3), closed).await.is_err() {
            debug!("the Kafka client did not end in time");
        }
    }

    fn take(&mut self) -> Option<Vec<Record>> {
        self.buffered_bytes = 0;
        Some(std::mem::take(&mut self.buffer)).filter(|records| !records.is_empty())
    }

    fn buffer_record(&mut self, record: Record) {
        let partition = record.partition;
        let Some(part) = self.parts.get_mut(&partition) else {
            return;
        };
        if part.done || record.offset < part.next {
            return;
        }
        let wanted = record.offset < part.end;
        let done = record.offset + 1 >= part.end;
        if wanted {
            part.next = record.offset + 1;
            part.read_to = part.next;
            self.buffered_bytes += record.size();
            self.buffer.push(record);
        }
        if done {
            self.finish(partition);
        }
    }

    /// Stops reading a partition.
    fn finish(&mut self, partition: i32) {
        if let Some(part) = self.parts.get_mut(&partition) {
            part.done = true;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic_name, partition);
        if let Err(error) = self.consumer.pause(&list) {
            debug!(%error, partition, "a partition that is read could not be paused");
        }
    }

    fn replace_client(&mut self) -> anyhow::Result<()> {
        warn!("nothing arrived for {} s: a new Kafka client takes over", MAX_SILENCE.as_secs());
        let new = self.config.create().context("the Kafka consumer could not be created")?;
        let old = std::mem::replace(&mut self.consumer, Arc::new(new));
        tokio::task::spawn_blocking(move || drop(old));
        self.last_heard = Instant::now();
        self.assign()
    }

    fn assign(&self) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        for (partition, part) in self.parts.iter().filter(|(_, part)| !part.done) {
            list.add_partition_offset(&self.topic_name, *partition, Offset::Offset(part.next))
                .with_context(|| format!("offset {} of partition {partition} is invalid", part.next))?;
        }
        self.consumer.assign(&list).context("the partitions could not be assigned")
    }

    fn consumer_error(&mut self, error: KafkaError) -> anyhow::Result<()> {
        use RDKafkaErrorCode as Code;
        match error {
            // The end existed when the range was resolved: offsets before it that did not arrive are gaps.
            KafkaError::PartitionEOF(partition) => {
                self.last_heard = Instant::now();
                self.finish(partition);
            }
            KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                self.out_of_range = true;
            }
            KafkaError::MessageConsumption(
                Code::TopicAuthorizationFailed
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::UnknownTopicOrPartition,
            )
            | KafkaError::MessageConsumptionFatal(_) => {
                return Err(error).with_context(|| format!("{} can no longer be read", self.topic_name));
            }
            // The group is used in name only.
            KafkaError::MessageConsumption(Code::GroupAuthorizationFailed) => {
                debug!(%error, "ignored, as the group is not used")
            }
            error => warn!(%error, "the Kafka consumer reported an error"),
        }
        Ok(())
    }

    /// Continues at the oldest remaining record after retention has overtaken this reader.
    async fn skip_removed(&mut self) -> anyhow::Result<()> {
        let consumer = self.consumer.clone();
        let topic = self.topic_name.clone();
        let open: Vec<i32> = self.parts.iter().filter(|(_, part)| !part.done).map(|(p, _)| *p).collect();
        let marks = tokio::task::spawn_blocking(move || {
            open.into_iter()
                .map(|partition| Ok((partition, watermarks(&*consumer, &topic, partition)?)))
                .collect::<anyhow::Result<Vec<_>>>()
        });
        for (partition, (low, high)) in marks.await.context("the task that asks the broker failed")?? {
            let Some(part) = self.parts.get_mut(&partition) else {
                continue;
            };
            if part.next > high {
                bail!(
                    "partition {partition} of {} ends at offset {high}, before offset {} that was to be read: the \
                     topic was recreated; start the replay again",
                    self.topic_name,
                    part.next
                );
            }
            if part.next < low {
                let lost = Lost { partition, from: part.next, to: low.min(part.end) };
                error!(
                    partition,
                    from = lost.from,
                    to = lost.to,
                    "retention removed records before they were read"
                );
                self.lost.push(lost);
                part.next = lost.to;
                part.done = part.next >= part.end;
            }
        }
        self.out_of_range = false;
        self.assign()
    }
}
