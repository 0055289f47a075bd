//! Finds the start of each partition: the stored position if the log has it, else the earliest record (contract,
//! section 7).

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::error;
use uuid::Uuid;

use super::{Input, LookUp, Start, Trouble, TroubleKind};
use crate::kafka::brokers::{Brokers, Log, Topics};
use crate::metrics;
use crate::record::{Topic, TopicPartition};
use crate::store::Store;
use crate::store::offsets::{LostOffset, Partition as StoredPartition, Position, PositionChange};

/// Asks PostgreSQL and the brokers.
#[derive(Clone)]
pub(super) struct Starter {
    pub store: Store,
    pub brokers: Arc<Brokers>,
    pub group: String,
    pub topic_prefix: String,
}

/// The consequence of a stored position for the start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The partition starts at this position.
    Start(Position),
    /// The partition starts at this position once it is stored.
    Remember(Position),
    /// The log's first offset must be asked.
    LookUp(LookUp),
}

/// `lost`: the log does not have the stored offset. `topic_id`: the topic's current id, if the brokers give one.
pub(super) fn decide(
    partition: TopicPartition,
    lost: bool,
    stored: Option<Position>,
    topic_id: Option<Uuid>,
) -> Decision {
    let Some(position) = stored else {
        return Decision::LookUp(LookUp { partition, stored, to: Position::at(0, topic_id) });
    };
    let recreated = is_recreated(&position, topic_id);
    if lost || recreated {
        // A stop outlives the topic: only `dead-letters accept` clears it.
        let dead_in_a_row = if position.stopped { position.dead_in_a_row } else { 0 };
        let to = Position { dead_in_a_row, topic_id: topic_id.or(position.topic_id), ..position };
        return Decision::LookUp(LookUp { partition, stored, to });
    }
    if position.topic_id.is_none() && topic_id.is_some() {
        return Decision::Remember(Position { topic_id, ..position });
    }
    Decision::Start(position)
}

/// Decides the start of a partition from the bounds of its log: the stored position if the log has it, else the first
/// offset.
pub(super) fn decide_in_log(look_up: &LookUp, log: Log) -> Decision {
    match look_up.stored {
        // The offset was out of range for the client, but the log has reached it since.
        Some(stored)
            if !is_recreated(&stored, look_up.to.topic_id)
                && (log.low..=log.high).contains(&stored.next_offset) =>
        {
            Decision::Start(stored)
        }
        _ => Decision::Remember(Position { next_offset: log.low, ..look_up.to }),
    }
}

fn is_recreated(stored: &Position, topic_id: Option<Uuid>) -> bool {
    stored.topic_id.is_some() && topic_id.is_some() && stored.topic_id != topic_id
}

/// A position to be stored before a partition starts there.
struct StartChange {
    partition: TopicPartition,
    from: Option<Position>,
    to: Position,
    lost: Option<LostOffset>,
}

/// Why the log does not have the offset of this position, which another topic of the same name may have had.
fn why_lost(stored: &Position, topic_id: Option<Uuid>, log: Log) -> LostOffset {
    let is_removed = !is_recreated(stored, topic_id) && stored.next_offset < log.low;
    if is_removed { LostOffset::Removed } else { LostOffset::Recreated }
}

fn trouble(kind: TroubleKind, text: impl Into<String>) -> Start {
    Start::Wait(Trouble { kind, text: text.into() })
}

impl Starter {
    /// Returns the partition's name in the database.
    pub fn name(&self, partition: TopicPartition) -> StoredPartition {
        (format!("{}{}", self.topic_prefix, partition.topic), partition.partition)
    }

    /// Reads the group's stored positions in the five topics.
    pub async fn stored(&self) -> Result<BTreeMap<TopicPartition, Position>, crate::store::Fault> {
        let stored = self.store.positions(&self.group).await?;
        let ours = stored.into_iter().filter_map(|((topic, partition), position)| {
            let topic = Topic::from_name(topic.strip_prefix(self.topic_prefix.as_str())?)?;
            Some((TopicPartition::new(topic, partition), position))
        });
        Ok(ours.collect())
    }

    /// Asks the brokers for the topics.
    pub async fn topics(&self) -> anyhow::Result<Topics> {
        let brokers = Arc::clone(&self.brokers);
        tokio::task::spawn_blocking(move || brokers.topics()).await?
    }

    /// Asks for the end offsets of partitions that are not read, of which librdkafka has no recent ones. Leaders are
    /// asked separately, and partitions whose leader does not answer are left out.
    pub async fn ends(
        &self,
        partitions: &[TopicPartition],
        topics: &Topics,
    ) -> BTreeMap<TopicPartition, i64> {
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        for partition in partitions {
            if let Some(leader) = topics.leaders.get(partition).copied().flatten() {
                by_leader.entry(leader).or_default().push(*partition);
            }
        }
        let mut ends = BTreeMap::new();
        for partitions in by_leader.into_values() {
            let brokers = Arc::clone(&self.brokers);
            let logs = tokio::task::spawn_blocking(move || brokers.logs(&partitions)).await;
            if let Ok(Ok(logs)) = logs {
                ends.extend(logs.into_iter().map(|(partition, log)| (partition, log.high)));
            }
        }
        ends
    }

    /// Reads the starts of these partitions with one query to the database and one to the brokers. Also returns the
    /// topics, if the brokers answered.
    pub async fn load(self, partitions: Vec<(TopicPartition, bool)>) -> (Input, Option<Topics>) {
        let (stored, topics) = tokio::join!(self.stored(), self.topics());
        let stored = match stored {
            Ok(stored) => stored,
            Err(fault) => return (Input::NotLoaded { wait: fault.to_string(), database: true }, topics.ok()),
        };
        let topics = match topics {
            Ok(topics) => topics,
            Err(error) => {
                return (Input::NotLoaded { wait: format!("Kafka: {error:#}"), database: false }, None);
            }
        };
        let (mut starts, mut look_ups, mut remember) = (Vec::new(), Vec::new(), Vec::new());
        for (partition, lost) in partitions {
            let known = stored.get(&partition).copied();
            match decide(partition, lost, known, topics.ids.get(&partition.topic).copied()) {
                Decision::Start(position) => starts.push((partition, Start::At(position))),
                Decision::Remember(to) => {
                    remember.push(StartChange { partition, from: known, to, lost: None })
                }
                Decision::LookUp(look_up) => look_ups.push(look_up),
            }
        }
        starts.extend(self.store_positions(&remember).await);
        (Input::Loaded { starts, look_ups }, Some(topics))
    }

    /// Asks the leaders for the first offsets, each leader separately, and stores the resulting positions.
    pub async fn look_up(self, look_ups: Vec<LookUp>) -> Input {
        let topics = match self.topics().await {
            Ok(topics) => topics,
            Err(error) => {
                let wait = |look_up: LookUp| {
                    (look_up.partition, trouble(TroubleKind::Start, format!("Kafka: {error:#}")))
                };
                return Input::LookedUp(look_ups.into_iter().map(wait).collect());
            }
        };
        let mut by_leader: BTreeMap<Option<i32>, Vec<LookUp>> = BTreeMap::new();
        for look_up in look_ups {
            let leader = topics.leaders.get(&look_up.partition).copied().flatten();
            by_leader.entry(leader).or_default().push(look_up);
        }
        let of_each_leader =
            by_leader.into_iter().map(|(leader, look_ups)| self.ask_leader(leader, look_ups));
        let starts = futures_util::future::join_all(of_each_leader).await;
        Input::LookedUp(starts.into_iter().flatten().collect())
    }

    async fn ask_leader(&self, leader: Option<i32>, look_ups: Vec<LookUp>) -> Vec<(TopicPartition, Start)> {
        let partitions: Vec<TopicPartition> = look_ups.iter().map(|look_up| look_up.partition).collect();
        let Some(leader) = leader else {
            let start = trouble(TroubleKind::NoLeader, "no broker leads it");
            return partitions.into_iter().map(|partition| (partition, start.clone())).collect();
        };
        let (brokers, asked) = (Arc::clone(&self.brokers), partitions.clone());
        let logs = tokio::task::spawn_blocking(move || brokers.logs(&asked)).await;
        let logs = match logs.map_err(anyhow::Error::from).and_then(|logs| logs) {
            Ok(logs) => logs,
            Err(error) => {
                let text = format!("broker {leader}, its leader, did not return its first offset: {error:#}");
                let start = trouble(TroubleKind::NoLeader, text);
                return partitions.into_iter().map(|partition| (partition, start.clone())).collect();
            }
        };
        let (mut starts, mut changes) = (Vec::new(), Vec::new());
        for look_up in &look_ups {
            let partition = look_up.partition;
            let Some(log) = logs.get(&partition) else {
                let text = format!("broker {leader} did not return its first offset");
                starts.push((partition, trouble(TroubleKind::NoLeader, text)));
                continue;
            };
            match decide_in_log(look_up, *log) {
                Decision::Start(position) => starts.push((partition, Start::At(position))),
                Decision::Remember(to) => {
                    let from = look_up.stored;
                    let lost = from.map(|from| why_lost(&from, to.topic_id, *log));
                    changes.push(StartChange { partition, from, to, lost });
                }
                Decision::LookUp(_) => {}
            }
        }
        let stored = self.store_positions(&changes).await;
        for (change, (_, start)) in changes.iter().zip(&stored) {
            if let (Some(from), Some(log), Start::At(_)) = (change.from, logs.get(&change.partition), start) {
                self.report_lost_offset(change.partition, from, change.to, *log);
            }
        }
        starts.extend(stored);
        starts
    }

    fn report_lost_offset(&self, partition: TopicPartition, from: Position, to: Position, log: Log) {
        let reason = if is_recreated(&from, to.topic_id) {
            "the topic was recreated"
        } else {
            "retention or a deletion of records passed it, or the topic was recreated"
        };
        error!(
            topic = self.name(partition).0,
            partition = partition.partition,
            stored_offset = from.next_offset,
            first_offset = log.low,
            end_offset = log.high,
            "the topic no longer has the stored offset: {reason}; starting from the earliest record"
        );
        metrics::OFFSETS_LOST.add(&[partition.topic.name()], 1);
    }

    /// Stores changed positions. Returns the start of each partition, in order.
    async fn store_positions(&self, changes: &[StartChange]) -> Vec<(TopicPartition, Start)> {
        if changes.is_empty() {
            return Vec::new();
        }
        let wanted: Vec<PositionChange> = changes
            .iter()
            .map(|change| PositionChange {
                partition: self.name(change.partition),
                expected: change.from.map(|from| from.next_offset),
                to: change.to,
                lost: change.lost,
            })
            .collect();
        let stored = self.store.set_positions(&self.group, &wanted).await;
        let start = |change: &StartChange| match &stored {
            Ok(stored) if stored.contains(&self.name(change.partition)) => Start::At(change.to),
            Ok(_) => trouble(TroubleKind::Start, "another process stored a position at the same moment"),
            Err(fault) => trouble(TroubleKind::Start, fault.to_string()),
        };
        changes.iter().map(|change| (change.partition, start(change))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Option<Uuid> = Some(Uuid::from_u128(1));
    const NEW: Option<Uuid> = Some(Uuid::from_u128(2));

    fn partition() -> TopicPartition {
        TopicPartition::new(Topic::CloneReady, 3)
    }

    fn look_up(stored: Option<Position>, to: Position) -> Decision {
        Decision::LookUp(LookUp { partition: partition(), stored, to })
    }

    #[test]
    fn a_partition_starts_at_the_stored_position_of_its_topic() {
        let stored = Position::at(7, OLD);
        assert_eq!(decide(partition(), false, Some(stored), OLD), Decision::Start(stored));
        assert_eq!(decide(partition(), false, Some(stored), None), Decision::Start(stored));
    }

    #[test]
    fn the_id_of_the_topic_is_remembered_once_it_is_known() {
        let stored = Position::at(7, None);
        assert_eq!(decide(partition(), false, Some(stored), NEW), Decision::Remember(Position::at(7, NEW)));
    }

    #[test]
    fn the_first_offset_is_asked_where_nothing_is_stored_or_the_stored_offset_is_lost() {
        assert_eq!(decide(partition(), false, None, NEW), look_up(None, Position::at(0, NEW)));
        let stored = Position { dead_in_a_row: 5, ..Position::at(7, OLD) };
        assert_eq!(decide(partition(), true, Some(stored), OLD), look_up(Some(stored), Position::at(7, OLD)));
        assert_eq!(
            decide(partition(), false, Some(stored), NEW),
            look_up(Some(stored), Position::at(7, NEW))
        );
    }

    #[test]
    fn an_offset_before_the_log_was_removed_and_one_of_another_topic_or_beyond_the_log_was_not() {
        let log = Log { low: 10, high: 20 };
        for (next_offset, id, expected) in [
            (7, OLD, LostOffset::Removed),
            (7, None, LostOffset::Removed),
            (7, NEW, LostOffset::Recreated),
            (21, OLD, LostOffset::Recreated),
        ] {
            assert_eq!(why_lost(&Position::at(next_offset, OLD), id, log), expected, "{next_offset} {id:?}");
        }
    }

    #[test]
    fn a_stop_outlives_the_topic() {
        let stored = Position { dead_in_a_row: 5, stopped: true, ..Position::at(7, OLD) };
        let to = Position { topic_id: NEW, ..stored };
        assert_eq!(decide(partition(), false, Some(stored), NEW), look_up(Some(stored), to));
    }
}
