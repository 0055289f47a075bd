//! Questions to the brokers outside of the group: topics, partition leaders, and the bounds of logs. A separate client
//! asks them, so that they never wait behind fetched records.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::consumer::Consumer;
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::admin::{QueryClient, query_client};
use super::topic_ids::topic_ids;
use crate::config::Settings;
use crate::record::{Topic, TopicPartition};

/// Timeout of a broker's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The topics as the brokers describe them. A topic that does not exist is in neither map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    /// The topics' ids; brokers before 2.8 have none.
    pub ids: BTreeMap<Topic, Uuid>,
    /// The leader of each partition; `None` if it has none.
    pub leaders: BTreeMap<TopicPartition, Option<i32>>,
}

/// The bounds of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The first offset.
    pub low: i64,
    /// The offset of the next record.
    pub high: i64,
}

/// Asks the brokers. Every method blocks for a few seconds at most.
pub struct Brokers {
    settings: Settings,
    client: Mutex<Option<Arc<QueryClient>>>,
}

impl Brokers {
    /// Creates the value; connects at the first question.
    pub fn new(settings: &Settings) -> Brokers {
        Brokers { settings: settings.clone(), client: Mutex::default() }
    }

    /// Asks a question. A client that got no answer is replaced, as librdkafka may never connect again.
    fn ask<T>(&self, question: impl FnOnce(&QueryClient) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let known = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let client = match known {
            Some(client) => client,
            None => Arc::new(query_client(&self.settings)?),
        };
        let answer = question(&client);
        let keep = answer.is_ok().then_some(client);
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = keep;
        answer
    }

    /// Describes the five topics.
    pub fn topics(&self) -> anyhow::Result<Topics> {
        let names = Topic::ALL.map(|topic| self.settings.topic_name(topic));
        self.ask(|client| {
            let mut topics = Topics::default();
            let ids = topic_ids(client.client(), &names, ANSWER_TIMEOUT)?;
            for (topic, name) in Topic::ALL.into_iter().zip(&names) {
                let metadata = client
                    .client()
                    .fetch_metadata(Some(name), ANSWER_TIMEOUT)
                    .context("no broker answers")?;
                let Some(described) = metadata.topics().first().filter(|topic| topic.error().is_none())
                else {
                    continue;
                };
                topics.leaders.extend(leaders(topic, described));
                if let Some(id) = ids.get(name) {
                    topics.ids.insert(topic, *id);
                }
            }
            Ok(topics)
        })
    }

    /// Returns the bounds of these partitions' logs. One broker must lead them all.
    pub fn logs(&self, partitions: &[TopicPartition]) -> anyhow::Result<BTreeMap<TopicPartition, Log>> {
        self.ask(|client| {
            let lows = self.offsets(client, partitions, Offset::Beginning)?;
            let highs = self.offsets(client, partitions, Offset::End)?;
            let log = |partition: &TopicPartition| {
                Some((*partition, Log { low: *lows.get(partition)?, high: *highs.get(partition)? }))
            };
            Ok(partitions.iter().filter_map(log).collect())
        })
    }

    /// Returns the first or the end offsets that the leader reports, with one request for all partitions.
    fn offsets(
        &self,
        client: &QueryClient,
        partitions: &[TopicPartition],
        place: Offset,
    ) -> anyhow::Result<BTreeMap<TopicPartition, i64>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let topic = self.settings.topic_name(partition.topic);
            list.add_partition_offset(&topic, partition.partition, place)?;
        }
        let answer = client.offsets_for_times(list, ANSWER_TIMEOUT)?;
        let found = answer.elements().into_iter().filter_map(|element| {
            let topic = Topic::from_name(element.topic().strip_prefix(self.settings.topic_prefix.as_str())?)?;
            match (element.error(), element.offset()) {
                (Ok(()), Offset::Offset(offset)) => {
                    Some((TopicPartition::new(topic, element.partition()), offset))
                }
                _ => None,
            }
        });
        Ok(found.collect())
    }
}

fn leaders(topic: Topic, described: &MetadataTopic) -> impl Iterator<Item = (TopicPartition, Option<i32>)> {
    described.partitions().iter().map(move |partition| {
        let leader = Some(partition.leader()).filter(|leader| *leader >= 0);
        (TopicPartition::new(topic, partition.id()), leader)
    })
}
