//! Asks the database and the brokers concurrently, and reads offsets and log ends twice.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use diesel_async::AsyncPgConnection;
use futures_util::future::join_all;

use crate::config::Settings;
use crate::kafka;
use crate::kafka::admin::TopicState;
use crate::kafka::brokers::Brokers;
use crate::kafka::{group_state::GroupState, group_state::group_state, peek};
use crate::record::{Topic, TopicPartition};
use crate::status::facts::{
    BrokerAnswers, DatabaseAnswers, Facts, Logs, StoredPositions, Unanswered, Unseen,
};
use crate::status::partitions::furthest_behind;
use crate::status::{ClusterInfo, Schema};
use crate::store::connect::{self, remedy};
use crate::store::letters;
use crate::store::status::{self as questions, Stored};
use crate::store::{migrate, rights};

/// Maximum time for an answer of a server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time for a connection: several hosts may be tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between the two looks at offsets and log ends.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// Maximum number of partitions whose oldest waiting record is read, and the time for all of them together.
const MAX_RECORDS_READ: usize = 32;
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// Gathers the facts. Takes about two seconds if all servers answer.
pub async fn gather(settings: &Settings) -> anyhow::Result<Facts> {
    let (connection, brokers) = tokio::join!(reach_database(settings), reach_brokers(settings));
    let brokers = brokers?;
    let (mut connection, mut database) = match connection {
        Ok(connection) => (Some(connection), Ok(DatabaseAnswers::default())),
        Err(unanswered) => (None, Err(unanswered)),
    };
    let (asking, mut cluster) = match brokers {
        Ok((asking, cluster)) => (Some(asking), Ok(cluster)),
        Err(unanswered) => (None, Err(unanswered)),
    };

    let first = Instant::now();
    look(0, settings, &mut connection, &mut database, asking.as_ref(), &mut cluster).await?;
    tokio::try_join!(ask_group(settings, &mut cluster), async {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        Ok(())
    })?;
    let between = first.elapsed();
    look(1, settings, &mut connection, &mut database, asking.as_ref(), &mut cluster).await?;
    // Dead letters are read after the positions, so that a stopped partition is never shown without them.
    ask_database(settings, &mut connection, &mut database).await;

    let mut facts = Facts {
        checked_at: chrono::Utc::now().timestamp_millis(),
        group: settings.kafka_group_id.clone(),
        topic_prefix: settings.topic_prefix.clone(),
        dead_letter_limit: settings.dead_letter_limit,
        expiry_interval: settings.expiry_interval,
        between,
        database,
        brokers: cluster,
    };
    let places = furthest_behind(&facts, MAX_RECORDS_READ);
    if !places.is_empty()
        && let Ok(cluster) = &mut facts.brokers
    {
        let settings = settings.clone();
        // A record that cannot be read has no age; the document reports that.
        let looked =
            tokio::task::spawn_blocking(move || peek::timestamps(&settings, &places, READ_TIMEOUT)).await?;
        cluster.waiting = looked.unwrap_or_default();
    }
    facts.checked_at = chrono::Utc::now().timestamp_millis();
    Ok(facts)
}

/// Reads the positions, and then the log ends.
async fn look(
    number: usize,
    settings: &Settings,
    connection: &mut Option<AsyncPgConnection>,
    database: &mut Result<DatabaseAnswers, Unanswered>,
    brokers: Option<&std::sync::Arc<Brokers>>,
    cluster: &mut Result<BrokerAnswers, Unanswered>,
) -> anyhow::Result<()> {
    if let (Some(connection), Ok(answers)) = (connection.as_mut(), database.as_mut()) {
        let answer = timely(ANSWER_TIMEOUT, questions::positions(connection, &settings.kafka_group_id)).await;
        match (answer, answers.positions.get_mut(number)) {
            (Ok(stored), Some(look)) => *look = Some(by_partition(settings, stored)),
            (Ok(_), None) => {}
            // reported only if the second look fails, too
            (Err(_), _) if number == 0 => {}
            (Err(why), _) => answers.failed.push(("the stored offsets", why)),
        }
    }
    if let (Some(brokers), Ok(cluster)) = (brokers, cluster.as_mut())
        && let Some(logs) = cluster.logs.get_mut(number)
    {
        *logs = ends(brokers, &cluster.leaders).await?;
    }
    Ok(())
}

fn by_partition(settings: &Settings, stored: Vec<Stored>) -> StoredPositions {
    let key = |stored: &Stored| {
        let topic = Topic::from_name(stored.topic.strip_prefix(settings.topic_prefix.as_str())?)?;
        Some(TopicPartition::new(topic, stored.partition))
    };
    stored.into_iter().filter_map(|stored| Some((key(&stored)?, stored))).collect()
}

/// Asks each leader separately, so that one without an answer affects its own partitions only.
async fn ends(
    brokers: &std::sync::Arc<Brokers>,
    leaders: &BTreeMap<TopicPartition, Option<i32>>,
) -> anyhow::Result<Logs> {
    let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
    for (key, leader) in leaders {
        if let Some(leader) = leader {
            by_leader.entry(*leader).or_default().push(*key);
        }
    }
    let asked = by_leader.into_values().map(|partitions| {
        let brokers = brokers.clone();
        tokio::task::spawn_blocking(move || brokers.logs(&partitions).unwrap_or_default())
    });
    let mut found = Logs::new();
    for logs in join_all(asked).await {
        found.extend(logs?);
    }
    Ok(found)
}

async fn reach_database(settings: &Settings) -> Result<AsyncPgConnection, Unanswered> {
    let connected = async {
        let mut connection = timely(CONNECT_TIMEOUT, connect::connect(&settings.database_url)).await?;
        timely(ANSWER_TIMEOUT, questions::bound(&mut connection)).await?;
        Ok(connection)
    };
    connected.await.map_err(|why: String| Unanswered { fix: remedy(&why).to_owned(), what: why })
}

/// Asks the database everything but the positions.
async fn ask_database(
    settings: &Settings,
    connection: &mut Option<AsyncPgConnection>,
    database: &mut Result<DatabaseAnswers, Unanswered>,
) {
    let (Some(connection), Ok(answers)) = (connection.as_mut(), database.as_mut()) else { return };
    let group = &settings.kafka_group_id;
    let DatabaseAnswers { failed, .. } = answers;
    if let Some(server) = answer(failed, "itself", rights::server(connection)).await {
        answers.server.version = Some(server.version);
        answers.server.role = Some(server.role);
        answers.read_only = server.read_only;
    }
    answers.server.connections = answer(failed, "connections", questions::connections(connection)).await;
    if let Some(state) = answer(failed, "its schema", migrate::state(connection)).await {
        let current = state.applied.last().cloned();
        answers.server.schema = Some(Schema { current, pending: state.pending });
    }
    answers.pauses = answer(failed, "pauses", questions::pauses(connection, group)).await.unwrap_or_default();
    answers.skips = answer(failed, "skips", questions::skips(connection, group)).await.unwrap_or_default();
    answers.instances = answer(failed, "instances", questions::instances(connection, group)).await;
    answers.waits =
        answer(failed, "what waits", questions::waits(connection, group)).await.unwrap_or_default();
    let letters = answer(failed, "dead letters", questions::letters(connection)).await;
    let kinds = answer(failed, "kinds of dead letters", letters::groups(connection, questions::KINDS)).await;
    answers.letters = letters.zip(kinds);
    answers.cache = answer(failed, "the voice cache", questions::cache(connection)).await;
    answers.outbox = answer(failed, "the outbox", questions::outbox(connection)).await;
}

/// Returns the answer; adds the reason to `failed` where there is none.
async fn answer<T, E: std::fmt::Display>(
    failed: &mut Vec<(&'static str, String)>,
    question: &'static str,
    asked: impl Future<Output = Result<T, E>>,
) -> Option<T> {
    match timely(ANSWER_TIMEOUT + Duration::from_secs(1), asked).await {
        Ok(answer) => Some(answer),
        Err(why) => {
            failed.push((question, why));
            None
        }
    }
}

type BrokersAndAnswers = Result<(std::sync::Arc<Brokers>, BrokerAnswers), Unanswered>;

async fn reach_brokers(settings: &Settings) -> anyhow::Result<BrokersAndAnswers> {
    let settings = settings.clone();
    tokio::task::spawn_blocking(move || {
        let names = kafka::topic_names(&settings);
        let connected = match kafka::admin::Cluster::reach(&settings, ANSWER_TIMEOUT) {
            Ok(connected) => connected,
            Err(why) => {
                let what = why.sentence().replace('\n', "; ");
                return Ok(Err(Unanswered { what, fix: why.remedy().to_owned() }));
            }
        };
        let states = connected.topics(&names);
        let unseen = names.iter().zip(states).filter_map(|(name, state)| {
            let refused = match state {
                TopicState::There { .. } => return None,
                TopicState::Missing => None,
                TopicState::Refused(reason) => Some(reason.sentence),
            };
            Some(Unseen { topic: name.clone(), refused })
        });
        let unseen = unseen.collect();
        let brokers = std::sync::Arc::new(Brokers::new(&settings));
        let topics = match brokers.topics() {
            Ok(topics) => topics,
            Err(why) => {
                let fix = "voiceclone-events check".to_owned();
                return Ok(Err(Unanswered { what: format!("{why:#}"), fix }));
            }
        };
        let cluster = BrokerAnswers {
            broker: ClusterInfo { id: connected.broker(), brokers: connected.brokers() },
            unseen,
            ids: topics.ids,
            leaders: topics.leaders,
            logs: [Logs::new(), Logs::new()],
            members: Err("they were not asked for".to_owned()),
            committed: Err("they were not asked for".to_owned()),
            waiting: BTreeMap::new(),
        };
        Ok(Ok((brokers, cluster)))
    })
    .await
    .context("the requests to the brokers failed")?
}

async fn ask_group(
    settings: &Settings,
    cluster: &mut Result<BrokerAnswers, Unanswered>,
) -> anyhow::Result<()> {
    let Ok(cluster) = cluster else { return Ok(()) };
    let (settings, partitions) = (settings.clone(), cluster.leaders.keys().copied().collect::<Vec<_>>());
    let asked =
        tokio::task::spawn_blocking(move || group_state(&settings, &partitions, ANSWER_TIMEOUT)).await?;
    let words = |error: &anyhow::Error| format!("{error:#}");
    match asked {
        Ok(GroupState { members, committed }) => {
            cluster.members = members.map_err(|error| words(&error));
            cluster.committed = committed.map_err(|error| words(&error));
        }
        Err(error) => {
            (cluster.members, cluster.committed) = (Err(words(&error)), Err(words(&error)));
        }
    }
    Ok(())
}

async fn timely<T, E: std::fmt::Display>(
    time: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(time, work).await {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} s", time.as_secs())),
    }
}
