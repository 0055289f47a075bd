//! Asks the database and the brokers, and reads offsets and log ends twice. All connections are opened at once, and
//! everything else is asked between and after the two looks.
//!
//! - `database`: the questions to PostgreSQL, over one connection, and what takes long to count, over another;
//! - `cluster`: the questions to the brokers.

mod cluster;
mod database;

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::cluster::RecordReader;
use self::database::Questions;
use crate::config::Settings;
use crate::status::facts::Facts;
use crate::status::partitions::furthest_behind;

/// Maximum time for an answer of a server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time from the start to the second look at offsets and log ends. If all servers answer quickly, `status` takes less
/// than 2 s.
const SECOND_LOOK: Duration = Duration::from_millis(1000);

/// Minimum time between the two looks, for servers that are slow.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Time from the start by which the oldest waiting records have been read. Those that were not are omitted.
const RECORDS_READ: Duration = Duration::from_millis(1800);

/// Limits of the time to read the oldest waiting records, for servers that are slow.
const READ_TIMEOUTS: [Duration; 2] = [Duration::from_millis(400), Duration::from_secs(1)];

/// Maximum number of partitions whose oldest waiting record is read.
const MAX_RECORDS_READ: usize = 32;

/// Gathers the facts.
pub async fn gather(settings: &Settings) -> anyhow::Result<Facts> {
    let begin = Instant::now();
    let (looked, first_look) = oneshot::channel();
    let counts = tokio::spawn(database::count(settings.clone(), first_look));
    let group = cluster::ask_members(settings);
    let reader = RecordReader::open(settings);
    let (mut database, brokers) = tokio::join!(Questions::connect(settings), cluster::reach(settings));
    let brokers = brokers?;

    // Positions are read before the log ends.
    let first = database.positions(0).await;
    let _ = looked.send(());
    let first_logs = brokers.logs().await?;
    database.ask().await;
    let second = (begin + SECOND_LOOK).max(first + BETWEEN_LOOKS);
    tokio::time::sleep_until(second.into()).await;
    let second = database.positions(1).await;
    let second_logs = brokers.logs().await?;

    let mut facts = Facts {
        checked_at: chrono::Utc::now().timestamp_millis(),
        group: settings.kafka_group_id.clone(),
        topic_prefix: settings.topic_prefix.clone(),
        dead_letter_limit: settings.dead_letter_limit,
        expiry_interval: settings.expiry_interval,
        between: second - first,
        database: database.answers.clone(),
        brokers: brokers.answers([first_logs, second_logs]),
    };
    let places = furthest_behind(&facts, MAX_RECORDS_READ);
    let [least, most] = READ_TIMEOUTS;
    let time = RECORDS_READ.saturating_sub(begin.elapsed()).clamp(least, most);
    let (waiting, members, counts) = tokio::join!(reader.read(places, time), brokers.group(group), counts);
    database.set_counts(counts?).await;
    if let Ok(cluster) = &mut facts.brokers {
        cluster.waiting = waiting?;
        let (members, committed) = members?;
        (cluster.members, cluster.committed) = (members, committed);
    }
    facts.database = database.answers;
    facts.checked_at = chrono::Utc::now().timestamp_millis();
    Ok(facts)
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
