//! The questions to the brokers. Each of the clients connects at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::task::{JoinHandle, spawn_blocking};

use super::ANSWER_TIMEOUT;
use crate::config::Settings;
use crate::kafka;
use crate::kafka::admin::{Cluster, TopicState};
use crate::kafka::brokers::{Brokers, Topics};
use crate::kafka::group_state::{GroupAsker, Member};
use crate::kafka::peek::Peek;
use crate::record::TopicPartition;
use crate::status::ClusterInfo;
use crate::status::facts::{BrokerAnswers, Logs, Unanswered, Unseen};

/// The brokers, or why none answers.
pub(super) struct Reached(Result<(Arc<Brokers>, BrokerAnswers), Unanswered>);

type Committed = BTreeMap<TopicPartition, i64>;
type Asked = JoinHandle<anyhow::Result<(GroupAsker, Result<Vec<Member>, String>)>>;

/// Reaches the brokers, and describes the topics.
pub(super) async fn reach(settings: &Settings) -> anyhow::Result<Reached> {
    let brokers = Arc::new(Brokers::new(settings));
    let (known, asked) = (settings.clone(), brokers.clone());
    let described = spawn_blocking(move || asked.topics());
    let reached = spawn_blocking(move || -> Result<(ClusterInfo, Vec<Unseen>), Unanswered> {
        let names = kafka::topic_names(&known);
        let cluster = Cluster::reach(&known, ANSWER_TIMEOUT).map_err(|why| Unanswered {
            what: why.sentence().replace('\n', "; "),
            fix: why.remedy().to_owned(),
        })?;
        let info = ClusterInfo { id: cluster.broker(), brokers: cluster.brokers() };
        let unseen = names.iter().zip(cluster.topics(&names)).filter_map(|(name, state)| {
            let refused = match state {
                TopicState::There { .. } => return None,
                TopicState::Missing => None,
                TopicState::Refused(reason) => Some(reason.sentence),
            };
            Some(Unseen { topic: name.clone(), refused })
        });
        Ok((info, unseen.collect()))
    });
    let (broker, unseen) = match reached.await.context("the requests to the brokers failed")? {
        Ok(answered) => answered,
        Err(unanswered) => return Ok(Reached(Err(unanswered))),
    };
    let Topics { ids, leaders } = match described.await? {
        Ok(topics) => topics,
        Err(why) => {
            let fix = "voiceclone-events check".to_owned();
            return Ok(Reached(Err(Unanswered { what: format!("{why:#}"), fix })));
        }
    };
    let not_asked = "they were not asked for";
    let answers = BrokerAnswers {
        broker,
        unseen,
        ids,
        leaders,
        logs: [Logs::new(), Logs::new()],
        members: Err(not_asked.to_owned()),
        committed: Err(not_asked.to_owned()),
        waiting: BTreeMap::new(),
    };
    Ok(Reached(Ok((brokers, answers))))
}

/// Asks for the members of the group.
pub(super) fn ask_members(settings: &Settings) -> Asked {
    let settings = settings.clone();
    spawn_blocking(move || {
        let asker = GroupAsker::new(&settings)?;
        let members = asker.members(ANSWER_TIMEOUT).map_err(|error| format!("{error:#}"));
        Ok((asker, members))
    })
}

impl Reached {
    /// Reads the logs' bounds. Asks each leader separately, so that one without an answer affects its own partitions only.
    pub async fn logs(&self) -> anyhow::Result<Logs> {
        let Ok((brokers, answers)) = &self.0 else { return Ok(Logs::new()) };
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        for (key, leader) in &answers.leaders {
            if let Some(leader) = leader {
                by_leader.entry(*leader).or_default().push(*key);
            }
        }
        let asked = by_leader.into_values().map(|partitions| {
            let brokers = brokers.clone();
            spawn_blocking(move || brokers.logs(&partitions).unwrap_or_default())
        });
        let mut found = Logs::new();
        for logs in join_all(asked).await {
            found.extend(logs?);
        }
        Ok(found)
    }

    /// The answers, with the logs of the two looks.
    pub fn answers(&self, logs: [Logs; 2]) -> Result<BrokerAnswers, Unanswered> {
        let (_, answers) = self.0.as_ref().map_err(Unanswered::clone)?;
        Ok(BrokerAnswers { logs, ..answers.clone() })
    }

    /// The members of the group, and the offsets that it committed.
    pub async fn group(
        &self,
        asked: Asked,
    ) -> anyhow::Result<(Result<Vec<Member>, String>, Result<Committed, String>)> {
        let failed = |why: String| Ok((Err(why.clone()), Err(why)));
        let Ok((_, answers)) = &self.0 else { return failed("the brokers did not answer".to_owned()) };
        let (asker, members) = match asked.await? {
            Ok(asked) => asked,
            Err(why) => return failed(format!("{why:#}")),
        };
        let partitions: Vec<TopicPartition> = answers.leaders.keys().copied().collect();
        let committed = spawn_blocking(move || asker.committed(&partitions, ANSWER_TIMEOUT)).await?;
        Ok((members, committed.map_err(|error| format!("{error:#}"))))
    }
}

/// Reads the oldest waiting records.
pub(super) struct RecordReader(JoinHandle<anyhow::Result<Peek>>);

impl RecordReader {
    pub fn open(settings: &Settings) -> RecordReader {
        let settings = settings.clone();
        RecordReader(spawn_blocking(move || Peek::open(&settings, ANSWER_TIMEOUT)))
    }

    /// The timestamps of the records at these offsets. A record that cannot be read in time has none; the document
    /// reports that.
    pub async fn read(
        self,
        places: BTreeMap<TopicPartition, i64>,
        time: Duration,
    ) -> anyhow::Result<BTreeMap<TopicPartition, i64>> {
        if places.is_empty() {
            return Ok(BTreeMap::new());
        }
        let Ok(Ok(peek)) = self.0.await else { return Ok(BTreeMap::new()) };
        let read = spawn_blocking(move || peek.timestamps(&places, time)).await?;
        Ok(read.unwrap_or_default())
    }
}
