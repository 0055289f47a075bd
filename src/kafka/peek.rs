//! Reads the timestamps of single records without a group: no coordinator is asked, and no right on a group is needed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::tail::{Seen, Tail, TailRange};
use crate::config::Settings;
use crate::record::TopicPartition;

/// One record of each partition is needed. Most batches of producers fit into this size; for a larger one librdkafka asks
/// again for twice as much, until it has the batch.
const SMALL_FETCHES: [(&str, &str); 2] =
    [("fetch.message.max.bytes", "131072"), ("queued.min.messages", "1")];

/// A client that reads single records.
pub struct Peek(Tail);

impl Peek {
    /// Creates the client, and lets it connect and learn the leaders of the partitions, which takes longer than to read
    /// the records. Blocks for at most `patience`.
    pub fn open(settings: &Settings, patience: Duration) -> anyhow::Result<Peek> {
        let tail = Tail::with(settings, &SMALL_FETCHES)?;
        tail.connect(patience);
        Ok(Peek(tail))
    }

    /// Returns the timestamp, in milliseconds since 1970, of the first record at or after each of these offsets. Records
    /// that do not arrive within `patience`, and records without a timestamp, are omitted. Blocks.
    pub fn timestamps(
        &self,
        places: &BTreeMap<TopicPartition, i64>,
        patience: Duration,
    ) -> anyhow::Result<BTreeMap<TopicPartition, i64>> {
        let until = Instant::now() + patience;
        let spans =
            places.iter().map(|(place, from)| (*place, TailRange { from: *from, to: None })).collect();
        let mut found = BTreeMap::new();
        self.0.read(&spans, |seen| {
            if let Seen::Record(record) = seen {
                found.entry(record.topic_partition()).or_insert(record.timestamp);
            }
            found.len() < places.len() && Instant::now() < until
        })?;
        found.retain(|_, timestamp| *timestamp >= 0);
        Ok(found)
    }
}
