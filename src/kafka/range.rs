//! Ranges of one topic: resolves them and reads their records. Works beside the running daemon: joins no group, commits
//! no offset.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::consumer::{Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::Serialize;
use tracing::{debug, error, warn};

use super::{BATCH_MAX_BYTES, consumer_config, record};
use crate::cli::Usage;
use crate::config::Settings;
use crate::event::Time;
use crate::record::{Record, Topic};

/// A partial chunk is returned when nothing more arrived for this long.
const CHUNK_WAIT: Duration = Duration::from_millis(500);

/// A new client takes over after this time without a message, as the old one may have lost the brokers for good (see
/// `consumer::End::BrokersLost`).
const QUIET: Duration = Duration::from_secs(30);

/// Timeout of a broker's answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The start or the end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// At this offset.
    Offset(i64),
    /// At the first record whose timestamp is this or later.
    Time(Time),
}

/// The part of a range that the topic no longer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Eaten {
    /// Nothing is missing.
    Nothing,
    /// The offsets from `from` until before `to` are missing.
    Offsets {
        /// The first missing offset.
        from: i64,
        /// The first offset that exists, or the range's end.
        to: i64,
    },
    /// Earlier records may be missing: the range starts at a time, and the oldest remaining record is not earlier than
    /// it.
    Perhaps,
}

/// The offsets of one partition to read, from `start` until before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub start: i64,
    /// The offset to stop before; at least `start`.
    pub end: i64,
    /// The records missing before `start`.
    pub eaten: Eaten,
}

impl Range {
    /// Returns the number of offsets in the range. There may be fewer records, as compaction and transactions leave
    /// gaps.
    pub fn offsets(&self) -> u64 {
        u64::try_from(self.end - self.start).unwrap_or(0)
    }

    /// Limits the requested bounds to the partition's offsets from `low` until before `high`.
    fn resolve(partition: i32, (low, high): (i64, i64), from: Option<Wish>, to: Option<Wish>) -> Range {
        let wished_end = match to {
            None => high,
            Some(Wish::Offset(offset) | Wish::FromTime(offset)) => offset.min(high),
        };
        let wished_start = match from {
            None => low,
            Some(Wish::Offset(offset) | Wish::FromTime(offset)) => offset,
        };
        let start = wished_start.clamp(low, high);
        let eaten = match from {
            Some(Wish::Offset(offset)) if offset < low.min(to.map_or(low, Wish::offset)) => {
                Eaten::Offsets { from: offset, to: low.min(to.map_or(low, Wish::offset)) }
            }
            Some(Wish::FromTime(offset)) if offset <= low && low > 0 => Eaten::Perhaps,
            _ => Eaten::Nothing,
        };
        Range { partition, start, end: wished_end.max(start), eaten }
    }
}

/// A bound resolved to an offset of one partition.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Offset(i64),
    FromTime(i64),
}

impl Wish {
    fn offset(self) -> i64 {
        match self {
            Wish::Offset(offset) | Wish::FromTime(offset) => offset,
        }
    }
}

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
struct Part {
    /// The next offset to read.
    next: i64,
    end: i64,
    /// The offset after the last buffered record.
    gathered: i64,
    done: bool,
}

/// Reads ranges of one topic.
pub struct Reader {
    config: ClientConfig,
    consumer: Arc<StreamConsumer>,
    /// The time of the last record, or of the last end of a partition.
    heard: Instant,
    topic_name: String,
    topic_prefix: String,
    chunk_max_records: usize,
    parts: BTreeMap<i32, Part>,
    buffer: Vec<Record>,
    buffered_bytes: usize,
    /// Whether the broker reported an offset out of range.
    out_of_range: bool,
    lost: Vec<Lost>,
}

impl Reader {
    /// Creates the client; it connects at its first use.
    pub fn new(settings: &Settings, topic: Topic) -> anyhow::Result<Reader> {
        let mut config = consumer_config(settings);
        // librdkafka requires a group; it is not joined, and nothing is committed to it.
        config.set("group.id", format!("{}-replay", settings.kafka_group_id));
        config.set("enable.partition.eof", "true");
        let consumer: StreamConsumer = config.create().context("the Kafka consumer could not be made")?;
        Ok(Reader {
            config,
            consumer: Arc::new(consumer),
            heard: Instant::now(),
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
            .context("asking the broker died")?
    }

    /// Starts reading the ranges; empty ones are omitted.
    pub fn start(&mut self, ranges: &[Range]) -> anyhow::Result<()> {
        self.parts = ranges
            .iter()
            .filter(|range| range.start < range.end)
            .map(|range| {
                let part = Part { next: range.start, end: range.end, gathered: range.start, done: false };
                (range.partition, part)
            })
            .collect();
        self.heard = Instant::now();
        self.assign()
    }

    /// Returns the next records, in offset order within each partition; `None` when all ranges are read. May be dropped
    /// and called again without losing records.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<Record>>> {
        loop {
            if self.out_of_range {
                self.look_again().await?;
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
                    if self.heard.elapsed() >= QUIET {
                        self.go_on_with_a_new_client()?;
                    }
                    continue;
                }
            };
            match message {
                Ok(message) => {
                    self.heard = Instant::now();
                    if let Some(record) = record(&message, &self.topic_prefix) {
                        self.gather(record);
                    }
                }
                Err(error) => self.consumer_error(error)?,
            }
        }
    }

    /// Whether a partition's range is read to its end, and all its records are before `offset`.
    pub fn is_complete(&self, partition: i32, offset: i64) -> bool {
        self.parts.get(&partition).is_none_or(|part| part.done && part.gathered <= offset)
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

    fn gather(&mut self, record: Record) {
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
            part.gathered = part.next;
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

    fn go_on_with_a_new_client(&mut self) -> anyhow::Result<()> {
        warn!("nothing came for {} s: a new Kafka client goes on", QUIET.as_secs());
        let anew = self.config.create().context("the Kafka consumer could not be made")?;
        let old = std::mem::replace(&mut self.consumer, Arc::new(anew));
        tokio::task::spawn_blocking(move || drop(old));
        self.heard = Instant::now();
        self.assign()
    }

    fn assign(&self) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        for (partition, part) in self.parts.iter().filter(|(_, part)| !part.done) {
            list.add_partition_offset(&self.topic_name, *partition, Offset::Offset(part.next))
                .with_context(|| format!("offset {} of partition {partition} is none", part.next))?;
        }
        self.consumer.assign(&list).context("the partitions could not be assigned")
    }

    fn consumer_error(&mut self, error: KafkaError) -> anyhow::Result<()> {
        use RDKafkaErrorCode as Code;
        match error {
            // The end existed when the range was resolved: offsets before it that did not arrive are gaps.
            KafkaError::PartitionEOF(partition) => {
                self.heard = Instant::now();
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
            KafkaError::MessageConsumption(Code::GroupAuthorizationFailed) => debug!(%error, "of no concern"),
            error => warn!(%error, "the Kafka consumer reports"),
        }
        Ok(())
    }

    /// Continues at the oldest remaining record after retention has overtaken this reader.
    async fn look_again(&mut self) -> anyhow::Result<()> {
        let consumer = self.consumer.clone();
        let topic = self.topic_name.clone();
        let open: Vec<i32> = self.parts.iter().filter(|(_, part)| !part.done).map(|(p, _)| *p).collect();
        let marks = tokio::task::spawn_blocking(move || {
            open.into_iter()
                .map(|partition| Ok((partition, watermarks(&*consumer, &topic, partition)?)))
                .collect::<anyhow::Result<Vec<_>>>()
        });
        for (partition, (low, high)) in marks.await.context("asking the broker died")?? {
            let Some(part) = self.parts.get_mut(&partition) else {
                continue;
            };
            if part.next > high {
                bail!(
                    "partition {partition} of {} ends at offset {high}, before offset {} that was to be read: the \
                     topic was made anew; start the replay again",
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

/// As [`Reader::resolve`], with any client. Blocks.
pub(super) fn resolve<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partition: Option<i32>,
    from: Option<Bound>,
    to: Option<Bound>,
) -> anyhow::Result<Vec<Range>> {
    let partitions = partitions(consumer, topic, partition)?;
    let from = wishes(consumer, topic, &partitions, from)?;
    let to = wishes(consumer, topic, &partitions, to)?;
    partitions
        .into_iter()
        .map(|partition| {
            let marks = watermarks(consumer, topic, partition)?;
            // If no record is late enough, the bound is the partition's end.
            let at_end = Wish::Offset(marks.1);
            let wish = |wishes: &Option<BTreeMap<i32, Wish>>| {
                wishes.as_ref().map(|wishes| wishes.get(&partition).copied().unwrap_or(at_end))
            };
            Ok(Range::resolve(partition, marks, wish(&from), wish(&to)))
        })
        .collect()
}

/// Returns the requested partition, or all partitions of the topic.
fn partitions<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    wanted: Option<i32>,
) -> anyhow::Result<Vec<i32>> {
    let metadata = consumer
        .fetch_metadata(Some(topic), ANSWER)
        .with_context(|| format!("the broker was asked about {topic} and gave no answer"))?;
    let mut partitions: Vec<i32> = Vec::new();
    for found in metadata.topics().iter().filter(|found| found.name() == topic) {
        match found.error().map(RDKafkaErrorCode::from) {
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
            Some(code) => return Err(code).with_context(|| format!("{topic} cannot be read")),
        }
        partitions.extend(found.partitions().iter().map(|partition| partition.id()));
    }
    partitions.sort_unstable();
    if partitions.is_empty() {
        bail!("the broker has no topic {topic}: make it, or correct TOPIC_PREFIX or KAFKA_BOOTSTRAP_SERVERS");
    }
    match wanted {
        None => Ok(partitions),
        Some(partition) if partitions.contains(&partition) => Ok(vec![partition]),
        Some(partition) => {
            let last = partitions.last().copied().unwrap_or(0);
            let text = format!("{topic} has no partition {partition}: give --partition from 0 to {last}");
            Err(Usage::new(text).into())
        }
    }
}

fn watermarks<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partition: i32,
) -> anyhow::Result<(i64, i64)> {
    consumer
        .fetch_watermarks(topic, partition, ANSWER)
        .with_context(|| format!("the broker was asked for the offsets of {topic} and gave no answer"))
}

/// Resolves a bound to offsets; partitions without a record that late are omitted.
fn wishes<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partitions: &[i32],
    bound: Option<Bound>,
) -> anyhow::Result<Option<BTreeMap<i32, Wish>>> {
    let time = match bound {
        None => return Ok(None),
        Some(Bound::Offset(offset)) => {
            return Ok(Some(partitions.iter().map(|partition| (*partition, Wish::Offset(offset))).collect()));
        }
        Some(Bound::Time(time)) => time,
    };
    // Record timestamps are in milliseconds, so rounding up loses none.
    let millis = time.micros().div_euclid(1000) + i64::from(time.micros().rem_euclid(1000) > 0);
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, *partition, Offset::Offset(millis))
            .context("the time is no offset")?;
    }
    let asked = || format!("the broker was asked where {time} is in {topic} and gave no answer");
    let found = consumer.offsets_for_times(list, ANSWER).with_context(asked)?;
    let mut wishes = BTreeMap::new();
    for element in found.elements() {
        element.error().with_context(asked)?;
        if let Offset::Offset(offset) = element.offset() {
            wishes.insert(element.partition(), Wish::FromTime(offset));
        }
    }
    Ok(Some(wishes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(marks: (i64, i64), from: Option<Wish>, to: Option<Wish>) -> (i64, i64, Eaten) {
        let range = Range::resolve(0, marks, from, to);
        (range.start, range.end, range.eaten)
    }

    #[test]
    fn a_range_is_what_is_wished_as_far_as_the_topic_has_it() {
        use Wish::{FromTime, Offset};
        let none = Eaten::Nothing;
        assert_eq!(resolved((10, 20), None, None), (10, 20, none));
        assert_eq!(resolved((10, 20), Some(Offset(12)), Some(Offset(15))), (12, 15, none));
        assert_eq!(resolved((10, 20), Some(Offset(10)), Some(Offset(99))), (10, 20, none));
        assert_eq!(resolved((10, 20), Some(Offset(30)), None), (20, 20, none));
        assert_eq!(resolved((10, 20), Some(Offset(15)), Some(Offset(12))), (15, 15, none));
        assert_eq!(resolved((10, 20), Some(FromTime(11)), Some(FromTime(13))), (11, 13, none));
        assert_eq!(resolved((0, 20), Some(FromTime(0)), None), (0, 20, none));
    }

    #[test]
    fn what_retention_has_eaten_is_told() {
        use Wish::{FromTime, Offset};
        assert_eq!(resolved((10, 20), Some(Offset(3)), None), (10, 20, Eaten::Offsets { from: 3, to: 10 }));
        assert_eq!(
            resolved((10, 20), Some(Offset(3)), Some(Offset(7))),
            (10, 10, Eaten::Offsets { from: 3, to: 7 })
        );
        assert_eq!(resolved((10, 20), Some(FromTime(10)), None), (10, 20, Eaten::Perhaps));
        assert_eq!(resolved((10, 10), Some(Offset(3)), None), (10, 10, Eaten::Offsets { from: 3, to: 10 }));
    }
}
