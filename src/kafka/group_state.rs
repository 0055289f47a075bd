//! The group as its coordinator describes it: its members, and the offsets committed to Kafka. Neither joins the group
//! nor changes anything.
#![allow(unsafe_code, reason = "rdkafka does not wrap DescribeConsumerGroups")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::slice;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::consumer_config;
use super::operations::ask;
use super::quiet::Quiet;
use super::topic_ids::text;
use crate::config::Settings;
use crate::record::{Topic, TopicPartition};

/// A member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The id that the coordinator assigned.
    pub id: String,
    /// Its `client.id`.
    pub client_id: String,
    /// The address that it connects from.
    pub host: String,
    /// The partitions assigned to it.
    pub partitions: Vec<TopicPartition>,
}

/// Asks the coordinator of the group. Each question blocks for at most its `patience`.
pub struct GroupAsker {
    client: BaseConsumer<Quiet>,
    settings: Settings,
}

impl GroupAsker {
    /// Creates the client; it connects at its first question.
    pub fn new(settings: &Settings) -> anyhow::Result<GroupAsker> {
        let mut config = consumer_config(settings);
        config.set("group.id", &settings.kafka_group_id);
        let client = config.create_with_context(Quiet).context("the Kafka client could not be created")?;
        Ok(GroupAsker { client, settings: settings.clone() })
    }

    /// The members of the group.
    pub fn members(&self, patience: Duration) -> anyhow::Result<Vec<Member>> {
        members(self.client.client(), &self.settings, patience)
    }

    /// The offsets that the group committed; partitions without one are omitted.
    pub fn committed(
        &self,
        partitions: &[TopicPartition],
        patience: Duration,
    ) -> anyhow::Result<BTreeMap<TopicPartition, i64>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.settings.topic_name(partition.topic), partition.partition);
        }
        let answer = self.client.committed_offsets(list, patience)?;
        let found = answer.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => {
                Some((ours(&self.settings, element.topic(), element.partition())?, offset))
            }
            _ => None,
        });
        Ok(found.collect())
    }
}

fn ours(settings: &Settings, name: &str, partition: i32) -> Option<TopicPartition> {
    let topic = Topic::from_name(name.strip_prefix(settings.topic_prefix.as_str())?)?;
    Some(TopicPartition::new(topic, partition))
}

fn members<C: ClientContext>(
    client: &Client<C>,
    settings: &Settings,
    patience: Duration,
) -> anyhow::Result<Vec<Member>> {
    use rd::rd_kafka_resp_err_t as Code;
    let name = CString::new(settings.kafka_group_id.as_str()).context("the name contains a NUL")?;
    let mut names = [name.as_ptr()];
    // SAFETY: the name is NUL-terminated and copied by librdkafka. What the event holds is read while it lives.
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
        let groups = rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        let groups = if count == 0 { &[] } else { slice::from_raw_parts(groups, count) };
        let group = *groups.first().context("the broker did not describe the group")?;
        let error = rd::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() {
            match rd::rd_kafka_error_code(error) {
                Code::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                // A group that no member has joined yet.
                Code::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND => return Ok(Vec::new()),
                code => bail!("{}", text(rd::rd_kafka_err2str(code))),
            }
        }
        let members = 0..rd::rd_kafka_ConsumerGroupDescription_member_count(group);
        Ok(members
            .map(|index| rd::rd_kafka_ConsumerGroupDescription_member(group, index))
            .map(|member| Member {
                id: text(rd::rd_kafka_MemberDescription_consumer_id(member)),
                client_id: text(rd::rd_kafka_MemberDescription_client_id(member)),
                host: text(rd::rd_kafka_MemberDescription_host(member)).trim_start_matches('/').to_owned(),
                partitions: assigned(settings, rd::rd_kafka_MemberDescription_assignment(member)),
            })
            .collect())
    }
}

/// # Safety
/// The pointer is null or to an assignment that lives.
unsafe fn assigned(
    settings: &Settings,
    assignment: *const rd::rd_kafka_MemberAssignment_t,
) -> Vec<TopicPartition> {
    if assignment.is_null() {
        return Vec::new();
    }
    // SAFETY: as the caller promises; the list belongs to the assignment and holds `cnt` elements.
    unsafe {
        let list = rd::rd_kafka_MemberAssignment_partitions(assignment);
        if list.is_null() {
            return Vec::new();
        }
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        let elements = if count == 0 { &[] } else { slice::from_raw_parts((*list).elems, count) };
        let partition = |element: &rd::rd_kafka_topic_partition_t| {
            ours(settings, &text(element.topic), element.partition)
        };
        elements.iter().filter_map(partition).collect()
    }
}
