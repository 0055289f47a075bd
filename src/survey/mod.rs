//! Asks the database and the brokers, beside each other, and looks twice at offsets and ends.

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
use crate::status::facts::{Cluster, Facts, Logs, Positions, Stock, Unanswered, Unseen};
use crate::status::partitions::furthest_behind;
use crate::status::{Broker, Schema};
use crate::store::connect::{self, remedy};
use crate::store::letters;
use crate::store::status::{self as questions, Stored};
use crate::store::{migrate, rights};

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a connection may take: several hosts may be tried.
const CONNECT: Duration = Duration::from_secs(10);

/// Time between the two looks.
const BETWEEN: Duration = Duration::from_secs(2);

/// So many partitions have their oldest waiting record looked at, within this time in all.
const LOOKED_AT: usize = 32;
const LOOK: Duration = Duration::from_secs(1);

/// The facts. Takes some two seconds where all answer.
pub async fn gather(settings: &Settings) -> anyhow::Result<Facts> {
    let (connection, brokers) = tokio::join!(reach_database(settings), reach_brokers(settings));
    let brokers = brokers?;
    let (mut connection, mut database) = match connection {
        Ok(connection) => (Some(connection), Ok(Stock::default())),
        Err(unanswered) => (None, Err(unanswered)),
    };
    let (asking, mut cluster) = match brokers {
        Ok((asking, cluster)) => (Some(asking), Ok(cluster)),
        Err(unanswered) => (None, Err(unanswered)),
    };

    let first = Instant::now();
    look(0, settings, &mut connection, &mut database, asking.as_ref(), &mut cluster).await?;
    tokio::try_join!(ask_group(settings, &mut cluster), async {
        tokio::time::sleep(BETWEEN).await;
        Ok(())
    })?;
    let between = first.elapsed();
    look(1, settings, &mut connection, &mut database, asking.as_ref(), &mut cluster).await?;
    // The positions come first: a stopped partition is never shown without its dead letters.
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
    let places = furthest_behind(&facts, LOOKED_AT);
    if !places.is_empty()
        && let Ok(cluster) = &mut facts.brokers
    {
        let settings = settings.clone();
        // A record that cannot be looked at has no age; the document says so.
        let looked = tokio::task::spawn_blocking(move || peek::timestamps(&settings, &places, LOOK)).await?;
        cluster.waiting = looked.unwrap_or_default();
    }
    facts.checked_at = chrono::Utc::now().timestamp_millis();
    Ok(facts)
}

/// The positions, and after them the ends.
async fn look(
    number: usize,
    settings: &Settings,
    connection: &mut Option<AsyncPgConnection>,
    database: &mut Result<Stock, Unanswered>,
    brokers: Option<&std::sync::Arc<Brokers>>,
    cluster: &mut Result<Cluster, Unanswered>,
) -> anyhow::Result<()> {
    if let (Some(connection), Ok(stock)) = (connection.as_mut(), database.as_mut()) {
        let answer = timely(ANSWER, questions::positions(connection, &settings.kafka_group_id)).await;
        match (answer, stock.positions.get_mut(number)) {
            (Ok(stored), Some(look)) => *look = Some(by_partition(settings, stored)),
            (Ok(_), None) => {}
            // said once, where the second look fails as well
            (Err(_), _) if number == 0 => {}
            (Err(why), _) => stock.failed.push(("the stored offsets", why)),
        }
    }
    if let (Some(brokers), Ok(cluster)) = (brokers, cluster.as_mut())
        && let Some(logs) = cluster.logs.get_mut(number)
    {
        *logs = ends(brokers, &cluster.leaders).await?;
    }
    Ok(())
}

fn by_partition(settings: &Settings, stored: Vec<Stored>) -> Positions {
    let key = |stored: &Stored| {
        let topic = Topic::from_name(stored.topic.strip_prefix(settings.topic_prefix.as_str())?)?;
        Some(TopicPartition::new(topic, stored.partition))
    };
    stored.into_iter().filter_map(|stored| Some((key(&stored)?, stored))).collect()
}

/// Each leader is asked by itself: one that does not answer takes the ends of its own partitions only.
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
    let reached = async {
        let mut connection = timely(CONNECT, connect::connect(&settings.database_url)).await?;
        timely(ANSWER, questions::bound(&mut connection)).await?;
        Ok(connection)
    };
    reached.await.map_err(|why: String| Unanswered { fix: remedy(&why).to_owned(), what: why })
}

/// All but the positions.
async fn ask_database(
    settings: &Settings,
    connection: &mut Option<AsyncPgConnection>,
    database: &mut Result<Stock, Unanswered>,
) {
    let (Some(connection), Ok(stock)) = (connection.as_mut(), database.as_mut()) else { return };
    let group = &settings.kafka_group_id;
    let Stock { failed, .. } = stock;
    if let Some(server) = answer(failed, "itself", rights::server(connection)).await {
        stock.server.version = Some(server.version);
        stock.server.role = Some(server.role);
        stock.read_only = server.read_only;
    }
    stock.server.connections = answer(failed, "connections", questions::connections(connection)).await;
    if let Some(state) = answer(failed, "its schema", migrate::state(connection)).await {
        let current = state.applied.last().cloned();
        stock.server.schema = Some(Schema { current, pending: state.pending });
    }
    stock.pauses = answer(failed, "pauses", questions::pauses(connection, group)).await.unwrap_or_default();
    stock.skips = answer(failed, "skips", questions::skips(connection, group)).await.unwrap_or_default();
    stock.instances = answer(failed, "instances", questions::instances(connection, group)).await;
    stock.waits = answer(failed, "what waits", questions::waits(connection, group)).await.unwrap_or_default();
    let letters = answer(failed, "dead letters", questions::letters(connection)).await;
    let kinds = answer(failed, "kinds of dead letters", letters::groups(connection, questions::KINDS)).await;
    stock.letters = letters.zip(kinds);
    stock.cache = answer(failed, "the voice cache", questions::cache(connection)).await;
    stock.outbox = answer(failed, "the outbox", questions::outbox(connection)).await;
}

/// The answer; where there is none, the reason goes to the others.
async fn answer<T, E: std::fmt::Display>(
    failed: &mut Vec<(&'static str, String)>,
    question: &'static str,
    asked: impl Future<Output = Result<T, E>>,
) -> Option<T> {
    match timely(ANSWER + Duration::from_secs(1), asked).await {
        Ok(answer) => Some(answer),
        Err(why) => {
            failed.push((question, why));
            None
        }
    }
}

type Reached = Result<(std::sync::Arc<Brokers>, Cluster), Unanswered>;

async fn reach_brokers(settings: &Settings) -> anyhow::Result<Reached> {
    let settings = settings.clone();
    tokio::task::spawn_blocking(move || {
        let names = kafka::topic_names(&settings);
        let reached = match kafka::admin::Cluster::reach(&settings, ANSWER) {
            Ok(reached) => reached,
            Err(why) => {
                let what = why.sentence().replace('\n', "; ");
                return Ok(Err(Unanswered { what, fix: why.remedy().to_owned() }));
            }
        };
        let states = reached.topics(&names);
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
        let cluster = Cluster {
            broker: Broker { id: reached.broker(), brokers: reached.brokers() },
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
    .context("the question to the brokers broke off")?
}

async fn ask_group(settings: &Settings, cluster: &mut Result<Cluster, Unanswered>) -> anyhow::Result<()> {
    let Ok(cluster) = cluster else { return Ok(()) };
    let (settings, partitions) = (settings.clone(), cluster.leaders.keys().copied().collect::<Vec<_>>());
    let asked = tokio::task::spawn_blocking(move || group_state(&settings, &partitions, ANSWER)).await?;
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
