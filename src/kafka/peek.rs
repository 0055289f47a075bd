//! Reads the timestamps of single records without a group: no coordinator is asked, and no right on a group is needed.
#![allow(unsafe_code, reason = "rdkafka reads partitions only with a group.id")]

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::consumer_config;
use super::quiet::Quiet;
use super::topic_ids::Owned;
use crate::config::Settings;
use crate::record::{Topic, TopicPartition};

/// Returns the timestamp, in milliseconds since 1970, of the first record at or after each of these offsets. Records
/// that do not arrive within `patience`, and records without a timestamp, are omitted. Blocks.
pub fn timestamps(
    settings: &Settings,
    places: &BTreeMap<TopicPartition, i64>,
    patience: Duration,
) -> anyhow::Result<BTreeMap<TopicPartition, i64>> {
    let mut config = consumer_config(settings);
    // One record of each partition is needed; a broker sends the first batch whatever its size.
    config.set("fetch.message.max.bytes", "16384").set("queued.min.messages", "1");
    let client: BaseConsumer<Quiet> =
        config.create_with_context(Quiet).context("the Kafka client could not be created")?;
    let handle = client.client().native_ptr();
    let until = Instant::now() + patience;
    let mut found = BTreeMap::new();
    // SAFETY: the client lives until the end of this function, the queue longer than the topics, and every topic until
    // its partitions are stopped. A message is read while it lives.
    unsafe {
        let queue = Owned(rd::rd_kafka_queue_new(handle), rd::rd_kafka_queue_destroy);
        let mut topics: BTreeMap<Topic, Owned<rd::rd_kafka_topic_t>> = BTreeMap::new();
        let mut started = BTreeSet::new();
        for (place, offset) in places {
            let topic = match topics.entry(place.topic) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let name =
                        CString::new(settings.topic_name(place.topic)).context("the name contains a NUL")?;
                    let topic = rd::rd_kafka_topic_new(handle, name.as_ptr(), std::ptr::null_mut());
                    new.insert(Owned(topic, rd::rd_kafka_topic_destroy))
                }
            };
            if topic.0.is_null() {
                continue;
            }
            if rd::rd_kafka_consume_start_queue(topic.0, place.partition, *offset, queue.0) == 0 {
                started.insert(*place);
            }
        }
        while found.len() < started.len() {
            let left = until.saturating_duration_since(Instant::now());
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            let message = Owned(rd::rd_kafka_consume_queue(queue.0, millis), rd::rd_kafka_message_destroy);
            if message.0.is_null() {
                break;
            }
            if let Some((place, timestamp)) = read(message.0, &settings.topic_prefix) {
                found.entry(place).or_insert(timestamp);
            }
        }
        for place in started {
            if let Some(topic) = topics.get(&place.topic) {
                rd::rd_kafka_consume_stop(topic.0, place.partition);
            }
        }
    }
    Ok(found.into_iter().filter_map(|(place, timestamp)| Some((place, timestamp?))).collect())
}

/// # Safety
/// `message` is a live message.
unsafe fn read(
    message: *const rd::rd_kafka_message_t,
    topic_prefix: &str,
) -> Option<(TopicPartition, Option<i64>)> {
    // SAFETY: as the caller promises; the topic is null for an error of the client.
    unsafe {
        let failed = (*message).err != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        if failed || (*message).rkt.is_null() {
            return None;
        }
        let name = CStr::from_ptr(rd::rd_kafka_topic_name((*message).rkt)).to_str().ok()?;
        let topic = Topic::from_name(name.strip_prefix(topic_prefix)?)?;
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        let timestamp = rd::rd_kafka_message_timestamp(message, &mut kind);
        Some((TopicPartition::new(topic, (*message).partition), Some(timestamp).filter(|at| *at >= 0)))
    }
}
