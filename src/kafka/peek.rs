//! Reads the timestamps of single records without a group: no coordinator is asked, and no right on a group is needed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::tail::{Seen, Tail, TailRange};
use crate::config::Settings;
use crate::record::TopicPartition;

/// One record of each partition is needed; a broker sends the first batch whatever its size.
const SMALL_FETCHES: [(&str, &str); 2] = [("fetch.message.max.bytes", "16384"), ("queued.min.messages", "1")];

/// Returns the timestamp, in milliseconds since 1970, of the first record at or after each of these offsets. Records
/// that do not arrive within `patience`, and records without a timestamp, are omitted. Blocks.
pub fn timestamps(
    settings: &Settings,
    places: &BTreeMap<TopicPartition, i64>,
    patience: Duration,
) -> anyhow::Result<BTreeMap<TopicPartition, i64>> {
    let until = Instant::now() + patience;
    let spans = places.iter().map(|(place, from)| (*place, TailRange { from: *from, to: None })).collect();
    let mut found = BTreeMap::new();
    Tail::with(settings, &SMALL_FETCHES)?.read(&spans, |seen| {
        if let Seen::Record(record) = seen {
            found.entry(record.topic_partition()).or_insert(record.timestamp);
        }
        found.len() < places.len() && Instant::now() < until
    })?;
    found.retain(|_, timestamp| *timestamp >= 0);
    Ok(found)
}
