//! The end offsets of partitions, from librdkafka's statistics.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::queue::NamedPartition;
use crate::record::TopicPartition;

/// The parts of the statistics that this program uses.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Statistics {
    /// The last stable offset of each partition, if librdkafka knows it: records before it may be read.
    pub ends: BTreeMap<TopicPartition, i64>,
}

#[derive(Deserialize)]
struct StatisticsDocument {
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: BTreeMap<i32, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    #[serde(default = "unknown")]
    ls_offset: i64,
}

fn unknown() -> i64 {
    -1
}

impl Statistics {
    /// Reads the JSON; `None` if it is not what librdkafka documents.
    pub(super) fn parse(
        json: &[u8],
        partition: impl Fn(&NamedPartition) -> Option<TopicPartition>,
    ) -> Option<Statistics> {
        let document: StatisticsDocument = serde_json::from_slice(json).ok()?;
        let mut ends = BTreeMap::new();
        for (topic, statistics) in document.topics {
            for (number, PartitionStatistics { ls_offset }) in statistics.partitions {
                // librdkafka has a partition -1 for records that are not assigned to one yet.
                if number >= 0
                    && ls_offset >= 0
                    && let Some(partition) = partition(&(topic.clone(), number))
                {
                    ends.insert(partition, ls_offset);
                }
            }
        }
        Some(Statistics { ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Topic;

    #[test]
    fn the_ends_of_partitions_are_read_and_what_is_unknown_is_left_out() {
        let json = br#"{"name":"x","topics":{
            "t.clone.ready":{"topic":"t.clone.ready","partitions":{
                "-1":{"partition":-1,"ls_offset":-1001},
                "0":{"partition":0,"ls_offset":12,"hi_offset":13},
                "1":{"partition":1,"ls_offset":-1001}}},
            "other":{"partitions":{"0":{"ls_offset":5}}}}}"#;
        let ours = |(topic, number): &NamedPartition| {
            (topic == "t.clone.ready").then(|| TopicPartition::new(Topic::CloneReady, *number))
        };
        let statistics = Statistics::parse(json, ours);
        let ends = BTreeMap::from([(TopicPartition::new(Topic::CloneReady, 0), 12)]);
        assert_eq!(statistics, Some(Statistics { ends }));
        assert_eq!(Statistics::parse(b"{", ours), None);
    }
}
