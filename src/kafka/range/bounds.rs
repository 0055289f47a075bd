//! Resolves bounds given as offsets or times to ranges of offsets.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;

use crate::cli::Usage;
use crate::event::Time;

/// Timeout of a broker's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The start or the end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// At this offset.
    Offset(i64),
    /// At the first record whose timestamp is this or later.
    Time(Time),
}

/// The part of a range that the topic no longer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Nothing is missing.
    #[serde(rename = "nothing")]
    None,
    /// The offsets from `from` until before `to` are missing.
    Offsets {
        /// The first missing offset.
        from: i64,
        /// The first offset that exists, or the range's end.
        to: i64,
    },
    /// Earlier records may be missing: the range starts at a time, and the oldest remaining record is not earlier than
    /// it.
    #[serde(rename = "perhaps")]
    Unknown,
}

/// The offsets of one partition to read, from `start` until before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub start: i64,
    /// The offset to stop before; at least `start`.
    pub end: i64,
    /// The records missing before `start`.
    #[serde(rename = "eaten")]
    pub missing: Missing,
}

impl Range {
    /// Returns the number of offsets in the range. There may be fewer records, as compaction and transactions leave
    /// gaps.
    pub fn offsets(&self) -> u64 {
        u64::try_from(self.end - self.start).unwrap_or(0)
    }

    /// Limits the requested bounds to the partition's offsets from `low` until before `high`.
    fn resolve(
        partition: i32,
        (low, high): (i64, i64),
        from: Option<ResolvedBound>,
        to: Option<ResolvedBound>,
    ) -> Range {
        let requested_end = match to {
            None => high,
            Some(ResolvedBound::Offset(offset) | ResolvedBound::FromTime(offset)) => offset.min(high),
        };
        let requested_start = match from {
            None => low,
            Some(ResolvedBound::Offset(offset) | ResolvedBound::FromTime(offset)) => offset,
        };
        let start = requested_start.clamp(low, high);
        let missing = match from {
            Some(ResolvedBound::Offset(offset))
                if offset < low.min(to.map_or(low, ResolvedBound::offset)) =>
            {
                Missing::Offsets { from: offset, to: low.min(to.map_or(low, ResolvedBound::offset)) }
            }
            Some(ResolvedBound::FromTime(offset)) if offset <= low && low > 0 => Missing::Unknown,
            _ => Missing::None,
        };
        Range { partition, start, end: requested_end.max(start), missing }
    }
}

/// A bound resolved to an offset of one partition.
#[derive(Clone, Copy, Debug)]
enum ResolvedBound {
    Offset(i64),
    FromTime(i64),
}

impl ResolvedBound {
    fn offset(self) -> i64 {
        match self {
            ResolvedBound::Offset(offset) | ResolvedBound::FromTime(offset) => offset,
        }
    }
}

/// As [`super::RangeReader::resolve`], with any client. Blocks.
pub(in crate::kafka) fn resolve<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partition: Option<i32>,
    from: Option<Bound>,
    to: Option<Bound>,
) -> anyhow::Result<Vec<Range>> {
    let partitions = partitions(consumer, topic, partition)?;
    let from = resolve_bounds(consumer, topic, &partitions, from)?;
    let to = resolve_bounds(consumer, topic, &partitions, to)?;
    partitions
        .into_iter()
        .map(|partition| {
            let marks = watermarks(consumer, topic, partition)?;
            // If no record is late enough, the bound is the partition's end.
            let at_end = ResolvedBound::Offset(marks.1);
            let bound = |resolved: &Option<BTreeMap<i32, ResolvedBound>>| {
                resolved.as_ref().map(|resolved| resolved.get(&partition).copied().unwrap_or(at_end))
            };
            Ok(Range::resolve(partition, marks, bound(&from), bound(&to)))
        })
        .collect()
}

/// Returns the requested partition, or all partitions of the topic.
fn partitions<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    wanted: Option<i32>,
) -> anyhow::Result<Vec<i32>> {
    let metadata = consumer
        .fetch_metadata(Some(topic), ANSWER_TIMEOUT)
        .with_context(|| format!("the broker was asked about {topic} and gave no answer"))?;
    let mut partitions: Vec<i32> = Vec::new();
    for found in metadata.topics().iter().filter(|found| found.name() == topic) {
        match found.error().map(RDKafkaErrorCode::from) {
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
            Some(code) => return Err(code).with_context(|| format!("{topic} cannot be read")),
        }
        partitions.extend(found.partitions().iter().map(|partition| partition.id()));
    }
    partitions.sort_unstable();
    if partitions.is_empty() {
        bail!("the broker has no topic {topic}: make it, or correct TOPIC_PREFIX or KAFKA_BOOTSTRAP_SERVERS");
    }
    match wanted {
        None => Ok(partitions),
        Some(partition) if partitions.contains(&partition) => Ok(vec![partition]),
        Some(partition) => {
            let last = partitions.last().copied().unwrap_or(0);
            let text = format!("{topic} has no partition {partition}: give --partition from 0 to {last}");
            Err(Usage::new(text).into())
        }
    }
}

pub(super) fn watermarks<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partition: i32,
) -> anyhow::Result<(i64, i64)> {
    consumer
        .fetch_watermarks(topic, partition, ANSWER_TIMEOUT)
        .with_context(|| format!("the broker was asked for the offsets of {topic} and gave no answer"))
}

/// Resolves a bound to offsets; partitions without a record that late are omitted.
fn resolve_bounds<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partitions: &[i32],
    bound: Option<Bound>,
) -> anyhow::Result<Option<BTreeMap<i32, ResolvedBound>>> {
    let time = match bound {
        None => return Ok(None),
        Some(Bound::Offset(offset)) => {
            return Ok(Some(
                partitions.iter().map(|partition| (*partition, ResolvedBound::Offset(offset))).collect(),
            ));
        }
        Some(Bound::Time(time)) => time,
    };
    // Record timestamps are in milliseconds, so rounding up loses none.
    let millis = time.micros().div_euclid(1000) + i64::from(time.micros().rem_euclid(1000) > 0);
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, *partition, Offset::Offset(millis))
            .context("the time cannot be used as an offset")?;
    }
    let asked = || format!("the broker was asked where {time} is in {topic} and gave no answer");
    let found = consumer.offsets_for_times(list, ANSWER_TIMEOUT).with_context(asked)?;
    let mut resolved = BTreeMap::new();
    for element in found.elements() {
        element.error().with_context(asked)?;
        if let Offset::Offset(offset) = element.offset() {
            resolved.insert(element.partition(), ResolvedBound::FromTime(offset));
        }
    }
    Ok(Some(resolved))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(
        marks: (i64, i64),
        from: Option<ResolvedBound>,
        to: Option<ResolvedBound>,
    ) -> (i64, i64, Missing) {
        let range = Range::resolve(0, marks, from, to);
        (range.start, range.end, range.missing)
    }

    #[test]
    fn a_range_is_the_requested_part_of_the_topic() {
        use ResolvedBound::{FromTime, Offset};
        let none = Missing::None;
        assert_eq!(resolved((10, 20), None, None), (10, 20, none));
        assert_eq!(resolved((10, 20), Some(Offset(12)), Some(Offset(15))), (12, 15, none));
        assert_eq!(resolved((10, 20), Some(Offset(10)), Some(Offset(99))), (10, 20, none));
        assert_eq!(resolved((10, 20), Some(Offset(30)), None), (20, 20, none));
        assert_eq!(resolved((10, 20), Some(Offset(15)), Some(Offset(12))), (15, 15, none));
        assert_eq!(resolved((10, 20), Some(FromTime(11)), Some(FromTime(13))), (11, 13, none));
        assert_eq!(resolved((0, 20), Some(FromTime(0)), None), (0, 20, none));
    }

    #[test]
    fn records_removed_by_retention_are_reported() {
        use ResolvedBound::{FromTime, Offset};
        assert_eq!(resolved((10, 20), Some(Offset(3)), None), (10, 20, Missing::Offsets { from: 3, to: 10 }));
        assert_eq!(
            resolved((10, 20), Some(Offset(3)), Some(Offset(7))),
            (10, 10, Missing::Offsets { from: 3, to: 7 })
        );
        assert_eq!(resolved((10, 20), Some(FromTime(10)), None), (10, 20, Missing::Unknown));
        assert_eq!(resolved((10, 10), Some(Offset(3)), None), (10, 10, Missing::Offsets { from: 3, to: 10 }));
    }
}
