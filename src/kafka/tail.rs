//! Reads records of several topics from given offsets on, including those that arrive later. Joins no group: without a
//! `group.id` there is no coordinator and no commit, and no right on a group is needed.
#![allow(unsafe_code, reason = "rdkafka reads partitions only with a group.id")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use super::quiet::Quiet;
use super::range::{self, Bound, Range};
use super::topic_ids::{Owned, text};
use super::{consumer_config, queue};
use crate::config::Settings;
use crate::record::{Record, Topic, TopicPartition};

/// Interval at which the caller is asked whether to continue while nothing arrives.
const PULSE: Duration = Duration::from_millis(100);

/// The offsets to read from a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailRange {
    /// The first offset.
    pub from: i64,
    /// The offset to stop before, which the log has reached; `None` for no end.
    pub to: Option<i64>,
}

/// Items that a reader passes on.
#[derive(Debug)]
pub enum Seen {
    /// A record.
    Record(Record),
    /// A partition cannot be read, with librdkafka's text; the others continue.
    Failed(TopicPartition, String),
    /// Nothing arrived within the interval.
    Nothing,
}

/// A client without a group.
pub struct Tail {
    client: BaseConsumer<Quiet>,
    topic_prefix: String,
}

impl Tail {
    /// Creates the client; it connects at its first use.
    pub fn new(settings: &Settings) -> anyhow::Result<Tail> {
        Tail::with(settings, &[])
    }

    /// The same with librdkafka's properties.
    pub(super) fn with(settings: &Settings, properties: &[(&str, &str)]) -> anyhow::Result<Tail> {
        let mut config = consumer_config(settings);
        for (name, value) in properties {
            config.set(*name, *value);
        }
        config.set("enable.partition.eof", "true");
        // If retention removed the offset, reading continues at the oldest record that is left.
        config.set("auto.offset.reset", "earliest");
        let client = config.create_with_context(Quiet).context("the Kafka client could not be created")?;
        Ok(Tail { client, topic_prefix: settings.topic_prefix.clone() })
    }

    fn name(&self, topic: Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }

    /// Connects to a broker, so that the first read need not. Blocks for at most `patience`; a failure shows at the read.
    pub(super) fn connect(&self, patience: Duration) {
        let _ = self.client.fetch_metadata(Some(&self.name(Topic::CloneReady)), patience);
    }

    /// Resolves the ranges of one topic between two bounds, as [`range::RangeReader::resolve`]. Blocks.
    pub fn resolve(
        &self,
        topic: Topic,
        partition: Option<i32>,
        from: Option<Bound>,
        to: Option<Bound>,
    ) -> anyhow::Result<Vec<Range>> {
        range::resolve(&self.client, &self.name(topic), partition, from, to)
    }

    /// Reads until every span is complete or `take` returns false. The records of a partition come in the order of
    /// their offsets. Blocks.
    pub fn read(
        &self,
        spans: &BTreeMap<TopicPartition, TailRange>,
        mut take: impl FnMut(Seen) -> bool,
    ) -> anyhow::Result<()> {
        let is_empty = |span: &TailRange| span.to.is_some_and(|to| span.from >= to);
        let mut open: BTreeMap<TopicPartition, TailRange> =
            spans.iter().filter(|(_, span)| !is_empty(span)).map(|(place, span)| (*place, *span)).collect();
        let handle = self.client.client().native_ptr();
        // SAFETY: the client outlives this function, the queue the topics, and each topic its partitions, which are
        // stopped before it is destroyed.
        let queue = unsafe { Owned(rd::rd_kafka_queue_new(handle), rd::rd_kafka_queue_destroy) };
        let mut topics: BTreeMap<Topic, Owned<rd::rd_kafka_topic_t>> = BTreeMap::new();
        for place in open.keys() {
            if topics.contains_key(&place.topic) {
                continue;
            }
            let name = CString::new(self.name(place.topic)).context("a topic's name holds a NUL")?;
            // SAFETY: as above; the name is copied.
            let topic = unsafe { rd::rd_kafka_topic_new(handle, name.as_ptr(), std::ptr::null_mut()) };
            if topic.is_null() {
                bail!("librdkafka refuses the topic {}", self.name(place.topic));
            }
            topics.insert(place.topic, Owned(topic, rd::rd_kafka_topic_destroy));
        }
        let mut started = Started { topics: &topics, places: Vec::new() };
        for (place, span) in &open {
            let Some(topic) = topics.get(&place.topic) else { continue };
            // SAFETY: topic and queue are alive.
            let failed = unsafe {
                rd::rd_kafka_consume_start_queue(topic.0, place.partition, span.from, queue.0) != 0
            };
            if failed {
                bail!("librdkafka does not read {place}");
            }
            started.places.push(*place);
        }
        while !open.is_empty() {
            // Serves librdkafka's log and errors; records do not arrive here.
            let _ = self.client.poll(Duration::ZERO);
            let millis = i32::try_from(PULSE.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: the queue is alive; the message is null or owned from here on.
            let message =
                Owned(unsafe { rd::rd_kafka_consume_queue(queue.0, millis) }, rd::rd_kafka_message_destroy);
            // SAFETY: the message is null or alive.
            let seen = unsafe { self.seen(message.0, &mut open) };
            if seen.is_some_and(|seen| !take(seen)) {
                break;
            }
        }
        Ok(())
    }

    /// Interprets a message. Closes spans that end with it.
    ///
    /// # Safety
    /// `message` is null or a live message.
    unsafe fn seen(
        &self,
        message: *const rd::rd_kafka_message_t,
        open: &mut BTreeMap<TopicPartition, TailRange>,
    ) -> Option<Seen> {
        if message.is_null() {
            return Some(Seen::Nothing);
        }
        // SAFETY: the message is alive; the topic is null for an error of the client.
        let (place, code, offset) = unsafe {
            if (*message).rkt.is_null() {
                return None;
            }
            let name = CStr::from_ptr(rd::rd_kafka_topic_name((*message).rkt)).to_str().ok()?;
            let topic = Topic::from_name(name.strip_prefix(self.topic_prefix.as_str())?)?;
            (TopicPartition::new(topic, (*message).partition), (*message).err, (*message).offset)
        };
        let span = *open.get(&place)?;
        let is_end = |next: i64| span.to.is_some_and(|to| next >= to);
        if code == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            if is_end(offset + 1) {
                open.remove(&place);
            }
            if is_end(offset) || offset < span.from {
                return None;
            }
            // SAFETY: the message is alive.
            return unsafe { queue::record(message, &self.topic_prefix) }.map(Seen::Record);
        }
        let code = RDKafkaErrorCode::from(code);
        if code == RDKafkaErrorCode::PartitionEOF {
            // A bounded span lies within the log: offsets that did not arrive hold no record.
            if span.to.is_some() {
                open.remove(&place);
            }
            return None;
        }
        if code != RDKafkaErrorCode::AllBrokersDown && code != RDKafkaErrorCode::BrokerTransportFailure {
            // SAFETY: the message is alive, and its payload is the error's text.
            let words = unsafe { text(rd::rd_kafka_message_errstr(message)) };
            if is_final(code) {
                open.remove(&place);
            }
            return Some(Seen::Failed(place, words));
        }
        None
    }
}

/// Whether a partition stays unreadable until a person intervenes.
fn is_final(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition
    )
}

/// Partitions that are being read; stopped on drop.
struct Started<'t> {
    topics: &'t BTreeMap<Topic, Owned<rd::rd_kafka_topic_t>>,
    places: Vec<TopicPartition>,
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        for place in &self.places {
            if let Some(topic) = self.topics.get(&place.topic) {
                // SAFETY: the topic is alive and the partition was started.
                unsafe { rd::rd_kafka_consume_stop(topic.0, place.partition) };
            }
        }
    }
}
