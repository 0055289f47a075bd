//! The ids of topics. A topic that is deleted and recreated keeps its name and starts at offset 0 again; only its id
//! shows that a stored offset belongs to the old topic (contract, section 7). librdkafka provides the ids, but rdkafka
//! has no safe function for them yet.
#![allow(unsafe_code, reason = "rdkafka does not wrap DescribeTopics")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ptr;
use std::slice;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use uuid::Uuid;

/// A pointer from librdkafka with its destructor, which is called on drop.
pub(super) struct Owned<T>(pub(super) *mut T, pub(super) unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the pointer came from the function that this destructor belongs to, and is freed once.
            unsafe { self.1(self.0) }
        }
    }
}

/// Returns the ids of the topics (names with prefix) that exist and have one; brokers before version 2.8 have none.
/// Creates no topic. Blocks for at most `patience`.
///
/// The request goes to any broker: by default librdkafka asks the controller, which may be away for long while
/// everything else works.
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    patience: Duration,
) -> anyhow::Result<BTreeMap<String, Uuid>> {
    let Some(first) = names.first() else {
        return Ok(BTreeMap::new());
    };
    let started = Instant::now();
    let brokers = client.fetch_metadata(Some(first), patience).context("no broker answers")?;
    let broker = brokers.brokers().first().context("the cluster has no broker")?.id();
    let patience = patience.saturating_sub(started.elapsed());
    let names: Vec<CString> = names
        .iter()
        .map(|name| CString::new(name.as_str()))
        .collect::<Result<_, _>>()
        .context("the name contains a NUL")?;
    let mut names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let handle = client.native_ptr();
    // SAFETY: the client lives until the end of this function. The names are NUL-terminated and copied by
    // librdkafka. Every pointer below belongs to the event, which lives as long as they are read.
    unsafe {
        let topics = Owned(
            rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
            rd::rd_kafka_TopicCollection_destroy,
        );
        let options = Owned(
            rd::rd_kafka_AdminOptions_new(handle, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            rd::rd_kafka_AdminOptions_destroy,
        );
        rd::rd_kafka_AdminOptions_set_request_timeout(options.0, patience, ptr::null_mut(), 0);
        rd::rd_kafka_AdminOptions_set_broker(options.0, broker, ptr::null_mut(), 0);
        let queue = Owned(rd::rd_kafka_queue_new(handle), rd::rd_kafka_queue_destroy);
        rd::rd_kafka_DescribeTopics(handle, topics.0, options.0, queue.0);
        let event = Owned(rd::rd_kafka_queue_poll(queue.0, patience), rd::rd_kafka_event_destroy);
        if event.0.is_null() {
            bail!("no broker returned the topics' ids in time");
        }
        let code = rd::rd_kafka_event_error(event.0);
        if code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            bail!("the topics' ids cannot be asked for: {}", text(rd::rd_kafka_err2str(code)));
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            bail!("the broker's answer does not contain the topics' ids");
        }
        let mut count = 0;
        let described = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let described = if count == 0 { &[] } else { slice::from_raw_parts(described, count) };
        let mut ids = BTreeMap::new();
        for &topic in described {
            let id = rd::rd_kafka_TopicDescription_topic_id(topic);
            let error = rd::rd_kafka_TopicDescription_error(topic);
            let failed = !error.is_null()
                && rd::rd_kafka_error_code(error) != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            if failed || id.is_null() {
                continue;
            }
            let id = Uuid::from_u64_pair(
                rd::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned(),
                rd::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned(),
            );
            if !id.is_nil() {
                ids.insert(text(rd::rd_kafka_TopicDescription_name(topic)), id);
            }
        }
        Ok(ids)
    }
}

/// # Safety
/// The pointer is null, which gives an empty text, or a NUL-terminated text.
pub(super) unsafe fn text(pointer: *const std::ffi::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
