//! The operations that the brokers allow this client on topics and its group. They are part of a description, so that
//! nothing must be sent, read or joined to test them. librdkafka supports this, but rdkafka does not wrap it.
#![allow(unsafe_code, reason = "rdkafka wraps neither DescribeTopics nor DescribeConsumerGroups")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::ptr;
use std::slice;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};

use super::topic_ids::{Owned, text};

/// An operation on a topic or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are Kafka's")]
pub enum Operation {
    Read,
    Write,
    Describe,
}

impl Operation {
    /// Returns the operation's name in `kafka-acls.sh`.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Read => "Read",
            Operation::Write => "Write",
            Operation::Describe => "Describe",
        }
    }

    fn of(code: rd::rd_kafka_AclOperation_t) -> Option<Operation> {
        use rd::rd_kafka_AclOperation_t as Acl;
        match code {
            Acl::RD_KAFKA_ACL_OPERATION_READ => Some(Operation::Read),
            Acl::RD_KAFKA_ACL_OPERATION_WRITE => Some(Operation::Write),
            Acl::RD_KAFKA_ACL_OPERATION_DESCRIBE => Some(Operation::Describe),
            _ => None,
        }
    }
}

/// The allowed operations; `None` if the broker does not report them.
pub type Allowed = Option<BTreeSet<Operation>>;

/// Returns the operations allowed on each of these topics (names with prefix); topics without a description are
/// omitted. Blocks for at most `patience`.
pub(super) fn on_topics<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    patience: Duration,
) -> anyhow::Result<BTreeMap<String, Allowed>> {
    let names: Vec<CString> = names
        .iter()
        .map(|name| CString::new(name.as_str()))
        .collect::<Result<_, _>>()
        .context("the name contains a NUL")?;
    let mut names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the names are NUL-terminated and copied by librdkafka. What the event holds is read while it lives.
    unsafe {
        let topics = Owned(
            rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
            rd::rd_kafka_TopicCollection_destroy,
        );
        let event = ask(
            client,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            patience,
            |handle, options, queue| rd::rd_kafka_DescribeTopics(handle, topics.0, options, queue),
        )?;
        let result = rd::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            bail!("the broker's answer does not describe the topics");
        }
        let mut count = 0;
        let described = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let mut all = BTreeMap::new();
        for &topic in if count == 0 { &[] } else { slice::from_raw_parts(described, count) } {
            if failed(rd::rd_kafka_TopicDescription_error(topic)) {
                continue;
            }
            let mut count = 0;
            let operations = rd::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
            all.insert(text(rd::rd_kafka_TopicDescription_name(topic)), allowed(operations, count));
        }
        Ok(all)
    }
}

/// Returns the operations allowed on a group; `None` also if the group does not exist yet. Blocks for at most
/// `patience`.
pub(super) fn on_group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    patience: Duration,
) -> anyhow::Result<Allowed> {
    let name = CString::new(group).context("the name contains a NUL")?;
    let mut names = [name.as_ptr()];
    // SAFETY: as above.
    unsafe {
        let event = ask(
            client,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
            patience,
            |handle, options, queue| {
                rd::rd_kafka_DescribeConsumerGroups(handle, names.as_mut_ptr(), names.len(), options, queue);
            },
        )?;
        let result = rd::rd_kafka_event_DescribeConsumerGroups_result(event.0);
        if result.is_null() {
            bail!("the broker's answer does not describe the group");
        }
        let mut count = 0;
        let described = rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        let described = if count == 0 { &[] } else { slice::from_raw_parts(described, count) };
        let Some(&group) = described.first() else { return Ok(None) };
        if failed(rd::rd_kafka_ConsumerGroupDescription_error(group)) {
            return Ok(None);
        }
        let mut count = 0;
        let operations = rd::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &mut count);
        Ok(allowed(operations, count))
    }
}

/// Sends an admin request and waits for the answer.
///
/// # Safety
/// `request` hands its three pointers to an admin request of librdkafka of the kind `operation`, and nothing else.
pub(super) unsafe fn ask<C: ClientContext>(
    client: &Client<C>,
    operation: rd::rd_kafka_admin_op_t,
    patience: Duration,
    request: impl FnOnce(*mut rd::rd_kafka_t, *const rd::rd_kafka_AdminOptions_t, *mut rd::rd_kafka_queue_t),
) -> anyhow::Result<Owned<rd::rd_kafka_event_t>> {
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let handle = client.native_ptr();
    // SAFETY: the client lives until the end of this function; options and queue are freed when they are not used
    // any more.
    unsafe {
        let options =
            Owned(rd::rd_kafka_AdminOptions_new(handle, operation), rd::rd_kafka_AdminOptions_destroy);
        rd::rd_kafka_AdminOptions_set_request_timeout(options.0, millis, ptr::null_mut(), 0);
        let error = Owned(
            rd::rd_kafka_AdminOptions_set_include_authorized_operations(options.0, 1),
            rd::rd_kafka_error_destroy,
        );
        if failed(error.0) {
            bail!("librdkafka cannot ask for the allowed operations");
        }
        let queue = Owned(rd::rd_kafka_queue_new(handle), rd::rd_kafka_queue_destroy);
        request(handle, options.0, queue.0);
        let event = Owned(rd::rd_kafka_queue_poll(queue.0, millis), rd::rd_kafka_event_destroy);
        if event.0.is_null() {
            bail!("no broker answered in time");
        }
        let code = rd::rd_kafka_event_error(event.0);
        if code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            bail!("{}", text(rd::rd_kafka_err2str(code)));
        }
        Ok(event)
    }
}

/// # Safety
/// The pointer is null or an error that lives.
unsafe fn failed(error: *const rd::rd_kafka_error_t) -> bool {
    // SAFETY: as the caller promises.
    !error.is_null()
        && unsafe { rd::rd_kafka_error_code(error) } != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// # Safety
/// The pointer is null or points to `count` operations.
unsafe fn allowed(operations: *const rd::rd_kafka_AclOperation_t, count: usize) -> Allowed {
    if operations.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let operations = if count == 0 { &[] } else { unsafe { slice::from_raw_parts(operations, count) } };
    Some(operations.iter().filter_map(|code| Operation::of(*code)).collect())
}
