//! The event queue of a consumer. rdkafka's own polling drops the partition of an error, the offset of a partition's
//! end, and every header name that is not UTF-8, so this module reads them from librdkafka's events.
#![allow(unsafe_code, reason = "rdkafka does not expose these parts of an event")]

use std::ffi::{CStr, c_void};
use std::ptr;
use std::slice;
use std::sync::Arc;

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;

use super::headers;
use super::topic_ids::{Owned, text};
use crate::record::{Record, Topic};

/// A topic's name with prefix, and a partition.
pub(super) type NamedPartition = (String, i32);

/// Events of librdkafka.
#[derive(Debug)]
pub(super) enum QueueEvent {
    /// A record.
    Record(Record),
    /// Every record before this offset was returned, and no more exist yet.
    EndOfPartition { place: NamedPartition, offset: i64 },
    /// A partition cannot be read. `offset` is negative if librdkafka gives none.
    PartitionFailed { place: NamedPartition, offset: i64, code: RDKafkaErrorCode, reason: String },
    /// An error of the client or of a topic.
    ClientFailed { code: RDKafkaErrorCode, reason: String, fatal: bool },
    /// The group assigns these partitions to this member.
    Assigned(Vec<NamedPartition>),
    /// The group revokes these partitions.
    Revoked(Vec<NamedPartition>),
    /// Statistics as JSON.
    Statistics(Vec<u8>),
    /// A line of librdkafka's log.
    Log { level: i32, facility: String, text: String },
}

/// The event queue. Holds the consumer, which outlives every event.
pub(super) struct Queue<C: ConsumerContext + 'static> {
    // The order of the fields matters: the queue is destroyed before the consumer.
    queue: Owned<rd::rd_kafka_queue_t>,
    consumer: Arc<BaseConsumer<C>>,
    topic_prefix: String,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl<C: ConsumerContext> Send for Queue<C> {}
// SAFETY: as above.
unsafe impl<C: ConsumerContext> Sync for Queue<C> {}

impl<C: ConsumerContext> Queue<C> {
    /// Opens the queue of this consumer, which must have a `group.id`. `None` if it has no queue.
    pub(super) fn of(consumer: Arc<BaseConsumer<C>>, topic_prefix: String) -> Option<Queue<C>> {
        // SAFETY: the consumer is alive; the result is null or a new reference to its queue.
        let queue = unsafe { rd::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        let queue = (!queue.is_null()).then_some(Owned(queue, rd::rd_kafka_queue_destroy))?;
        Some(Queue { queue, consumer, topic_prefix })
    }

    /// The consumer.
    pub(super) fn consumer(&self) -> &Arc<BaseConsumer<C>> {
        &self.consumer
    }

    /// The id that the group gave this member; `None` before.
    pub(super) fn member_id(&self) -> Option<String> {
        let client = self.consumer.client().native_ptr();
        // SAFETY: the client is alive; the result is null or a text that the caller frees, and is read before.
        let id = unsafe {
            let id = rd::rd_kafka_memberid(client);
            let written = text(id);
            rd::rd_kafka_mem_free(client, id.cast());
            written
        };
        Some(id).filter(|id| !id.is_empty())
    }

    /// Returns the next queued event. Does not block. Skips events of other types.
    pub(super) fn next(&self) -> Option<QueueEvent> {
        loop {
            // SAFETY: the queue is alive; the result is null or an event that the caller owns.
            let event = unsafe { rd::rd_kafka_queue_poll(self.queue.0, 0) };
            if event.is_null() {
                return None;
            }
            let event = Owned(event, rd::rd_kafka_event_destroy);
            // SAFETY: the event is alive until the end of this turn, and so is all that it points to.
            if let Some(event) = unsafe { self.read(event.0) } {
                return Some(event);
            }
        }
    }

    /// # Safety
    /// `event` is a live event.
    unsafe fn read(&self, event: *mut rd::rd_kafka_event_t) -> Option<QueueEvent> {
        // SAFETY: every call takes the live event; every pointer read belongs to it.
        unsafe {
            match rd::rd_kafka_event_type(event) {
                rd::RD_KAFKA_EVENT_FETCH => {
                    record(rd::rd_kafka_event_message_next(event), &self.topic_prefix).map(QueueEvent::Record)
                }
                rd::RD_KAFKA_EVENT_ERROR => failure(event),
                rd::RD_KAFKA_EVENT_REBALANCE => {
                    let places = places(rd::rd_kafka_event_topic_partition_list(event));
                    match rd::rd_kafka_event_error(event) {
                        rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                            Some(QueueEvent::Assigned(places))
                        }
                        _ => Some(QueueEvent::Revoked(places)),
                    }
                }
                rd::RD_KAFKA_EVENT_STATS => {
                    let json = rd::rd_kafka_event_stats(event);
                    (!json.is_null())
                        .then(|| QueueEvent::Statistics(CStr::from_ptr(json).to_bytes().to_vec()))
                }
                rd::RD_KAFKA_EVENT_LOG => {
                    let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
                    let read = rd::rd_kafka_event_log(event, &mut facility, &mut line, &mut level);
                    (read == 0).then(|| QueueEvent::Log { level, facility: text(facility), text: text(line) })
                }
                _ => None,
            }
        }
    }
}

/// # Safety
/// `event` is a live event of the type `RD_KAFKA_EVENT_ERROR`.
unsafe fn failure(event: *mut rd::rd_kafka_event_t) -> Option<QueueEvent> {
    // SAFETY: as above; the partition is copied out before it is destroyed.
    unsafe {
        let error = rd::rd_kafka_event_error(event);
        if error == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let reason = text(rd::rd_kafka_event_error_string(event));
        let fatal = rd::rd_kafka_event_error_is_fatal(event) != 0;
        let code = RDKafkaErrorCode::from(error);
        let partition = rd::rd_kafka_event_topic_partition(event);
        if partition.is_null() || fatal {
            return Some(QueueEvent::ClientFailed { code, reason, fatal });
        }
        let partition = Owned(partition, rd::rd_kafka_topic_partition_destroy);
        let place = (text((*partition.0).topic), (*partition.0).partition);
        let offset = (*partition.0).offset;
        Some(if code == RDKafkaErrorCode::PartitionEOF {
            QueueEvent::EndOfPartition { place, offset }
        } else {
            QueueEvent::PartitionFailed { place, offset, code, reason }
        })
    }
}

/// # Safety
/// `list` is null or a live list.
unsafe fn places(list: *const rd::rd_kafka_topic_partition_list_t) -> Vec<NamedPartition> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: the list holds `cnt` elements, whose topics are texts.
    unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        if count == 0 {
            return Vec::new();
        }
        let elements = slice::from_raw_parts((*list).elems, count);
        elements.iter().map(|element| (text(element.topic), element.partition)).collect()
    }
}

/// The message as a record; `None` where its topic is not one of the five.
///
/// # Safety
/// `message` is null or a live message.
pub(super) unsafe fn record(message: *const rd::rd_kafka_message_t, topic_prefix: &str) -> Option<Record> {
    if message.is_null() {
        return None;
    }
    // SAFETY: the message is alive, with its topic, key, value and headers.
    unsafe {
        let name = CStr::from_ptr(rd::rd_kafka_topic_name((*message).rkt)).to_str().ok()?;
        let topic = name.strip_prefix(topic_prefix).and_then(Topic::from_name)?;
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        let timestamp = rd::rd_kafka_message_timestamp(message, &mut kind);
        Some(Record {
            topic,
            partition: (*message).partition,
            offset: (*message).offset,
            timestamp,
            key: bytes((*message).key, (*message).key_len),
            value: bytes((*message).payload, (*message).len),
            headers: headers::read_native(message),
        })
    }
}

/// # Safety
/// `from` is null or points to `size` bytes.
unsafe fn bytes(from: *const c_void, size: usize) -> Option<Vec<u8>> {
    // SAFETY: as the caller promises.
    (!from.is_null()).then(|| unsafe { slice::from_raw_parts(from.cast::<u8>(), size) }.to_vec())
}
