//! Partitions are independent, and ready means progress (contract, section 7, and the limit of section 6): on real
//! brokers, with one partition, client or server in trouble at a time.
//!
//! - [`offsets`]: stored offsets that the log does not have, and offsets that hold no record;
//! - [`leaders`]: partitions without a leader, on a cluster of several brokers;
//! - [`groups`]: members that come, go, are fenced, and stay through an outage of PostgreSQL;
//! - [`commits`]: the offsets that Kafka's own tools show;
//! - [`limit`]: `DEAD_LETTER_LIMIT` and `dead-letters accept`;
//! - [`fetching`]: batches that cannot be unpacked, quotas, topics that nobody may create, a thousand partitions;
//! - [`readiness`]: what `/readyz` answers;
//! - [`logs`]: how much is logged in an outage;
//! - [`traces`]: events of librdkafka, recorded for the simulation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod commits;
mod fetching;
mod groups;
mod leaders;
mod limit;
mod logs;
mod offsets;
mod readiness;
mod traces;

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::daemon::Daemon;
use crate::support::kafka::Send;
use crate::support::postgres::Database;
use crate::support::scene::{Scene, TOPICS};
use crate::support::unique;
use crate::support::wait::eventually;

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// Maximum time for running daemons to follow `dead-letters accept` (contract, section 6).
const FOLLOWED: Duration = Duration::from_secs(10);

/// Maximum time until Kafka's own tools show no lag (contract, section 7).
const NO_LAG: Duration = Duration::from_secs(15);

/// Settings with short timeouts for members and reconnects.
pub(crate) const MEMBER: [(&str, &str); 3] = [
    ("KAFKA_SESSION_TIMEOUT_MS", "6000"),
    ("KAFKA_HEARTBEAT_INTERVAL_MS", "1000"),
    ("KAFKA_RECONNECT_BACKOFF_MAX_MS", "1000"),
];

/// Settings with a short `max.poll.interval.ms`, after which librdkafka leaves the group unless it is polled.
const IMPATIENT_MEMBER: [(&str, &str); 4] =
    [MEMBER[0], MEMBER[1], MEMBER[2], ("KAFKA_MAX_POLL_INTERVAL_MS", "10000")];

/// A topic without prefix, and a partition.
type Place = (&'static str, i32);

/// The cluster for tests that stop brokers of their own.
pub(crate) fn cluster() -> Result<&'static Cluster, &'static str> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let rights = [
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("allow.everyone.if.no.acl.found", "true"),
    ];
    CLUSTER.get_or_init(|| Cluster::start(&rights)).as_ref().map_err(String::as_str)
}

/// Every partition of the topics that are read.
fn every_place(partitions: i32) -> Vec<Place> {
    TOPICS.iter().flat_map(|topic| (0..partitions).map(move |partition| (*topic, partition))).collect()
}

/// Every partition but this one.
fn every_place_but(without: Place, partitions: i32) -> Vec<Place> {
    every_place(partitions).into_iter().filter(|place| *place != without).collect()
}

/// A good record; its row is found by `id`.
fn good(scene: &Scene, (topic, partition): Place, id: &str) -> Send {
    let value = match topic {
        "clone.ready" => json!({"caller_id": "+15550100", "greeting_call_id": id, "cloned_voice_id": id}),
        "clone.failed" => json!({"caller_id": "+15550100", "greeting_call_id": id, "error_message": "e"}),
        "clone.transfer" => json!({"greeting_call_id": "g", "agent_call_id": id, "cloned_voice_id": id}),
        "call.lifecycle" => json!({"call_id": id, "status": "initiated"}),
        "caller.voice_mapping" => json!({"caller_id": id, "voice_sample_url": "u"}),
        other => panic!("no topic that is read: {other}"),
    };
    Send::to(&scene.topic(topic)).partition(partition).value(value.to_string())
}

/// A record that cannot be used.
fn bad(scene: &Scene, (topic, partition): Place) -> Send {
    Send::to(&scene.topic(topic)).partition(partition).key("+15550100").value("no JSON")
}

/// The number of rows of the good records of a topic with this prefix of ids.
fn rows(scene: &Scene, topic: &str, beginning: &str) -> usize {
    let (table, column) = match topic {
        "clone.ready" => ("clone_ready_events", "greeting_call_id"),
        "clone.failed" => ("clone_failed_events", "greeting_call_id"),
        "clone.transfer" => ("clone_transfer_events", "agent_call_id"),
        "call.lifecycle" => ("call_log", "call_id"),
        _ => ("caller_voice_mapping", "caller_id"),
    };
    let sql = format!("SELECT count(*)::text FROM public.{table} WHERE starts_with({column}, '{beginning}')");
    let count = scene.database.try_rows(&sql).ok().and_then(|rows| rows[0][0].clone());
    count.map_or(0, |count| count.parse().unwrap())
}

/// Waits until the good records of a topic with this prefix of ids have `count` rows.
fn wait_for_rows(scene: &Scene, topic: &str, beginning: &str, count: usize, deadline: Duration) {
    rarely(deadline, &format!("{count} rows of {topic} like {beginning}"), || {
        match rows(scene, topic, beginning) {
            seen if seen == count => Ok(()),
            seen => Err(seen),
        }
    });
}

/// Sends a good record to each of these partitions, and waits until each has its row.
fn assert_takes(scene: &Scene, places: &[Place], deadline: Duration) {
    let id = unique("row");
    scene.kafka.send_all(places.iter().map(|place| good(scene, *place, &format!("{id}-{}", place.1))));
    let mut missing = places.to_vec();
    rarely(deadline, "a good record of each partition to land", || {
        missing.retain(|(topic, partition)| rows(scene, topic, &format!("{id}-{partition}")) == 0);
        if missing.is_empty() { Ok(()) } else { Err(missing.clone()) }
    });
}

/// As [`eventually`], for conditions that are expensive to check.
fn rarely<T, E: std::fmt::Debug>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    eventually(deadline, what, || {
        std::thread::sleep(Duration::from_millis(100));
        look()
    })
}

/// Waits until Kafka's own tools show no lag of the group in any topic.
fn wait_for_no_lag(scene: &Scene) {
    rarely(NO_LAG, "Kafka's lag of the group to be 0", || {
        let lag = TOPICS.map(|topic| scene.kafka.group_lag(&scene.group, &scene.topic(topic)));
        if lag.iter().all(|lag| lag.values().all(|lag| *lag == 0)) { Ok(()) } else { Err(lag) }
    });
}

/// The stored position of a partition.
fn next_offset(scene: &Scene, (topic, partition): Place) -> i64 {
    let topic = scene.topic(topic);
    let sql = format!(
        "SELECT next_offset FROM ingest.consumer_offsets WHERE group_id = '{}' AND topic = '{topic}'
         AND partition = {partition}",
        scene.group
    );
    scene.database.value(&sql).parse().unwrap()
}

/// Ends a daemon as an orchestrator does.
fn end(mut daemon: Daemon) {
    daemon.signal(crate::support::processes::Signal::Term);
    assert_eq!(daemon.wait_exit(crate::support::wait::SOON), 0);
}

/// The lines of a log at these levels.
fn lines(daemon: &Daemon, levels: &[&str]) -> Vec<String> {
    let level = |line: &String| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        levels.contains(&line["level"].as_str().unwrap_or_default())
    };
    daemon.logs().into_iter().filter(level).collect()
}

/// The warnings and errors that name a partition.
fn complaints(daemon: &Daemon, scene: &Scene, (topic, partition): Place) -> Vec<String> {
    let topic = scene.topic(topic);
    let names = [
        format!("\"partition\":{partition}"),
        format!("partition {partition}"),
        format!("{topic} {partition}"),
        format!("{topic}/{partition}"),
        format!("{topic}[{partition}]"),
        format!("{topic} [{partition}]"),
    ];
    let names_it = |line: &String| line.contains(&topic) && names.iter().any(|name| line.contains(name));
    lines(daemon, &["WARN", "ERROR"]).into_iter().filter(names_it).collect()
}

/// Waits for a warning or an error that names a partition.
fn wait_for_complaint(daemons: &[&Daemon], scene: &Scene, place: Place) {
    eventually(crate::support::wait::SOON, &format!("a warning that names {place:?}"), || {
        let found = daemons.iter().any(|daemon| !complaints(daemon, scene, place).is_empty());
        if found { Ok(()) } else { Err("none") }
    });
}

/// A table that another session has locked, until this value is dropped.
pub(crate) struct Lock {
    client: Option<tokio_postgres::Client>,
    runtime: tokio::runtime::Runtime,
}

impl Lock {
    /// Locks a table.
    pub(crate) fn of(database: &Database, table: &str) -> Lock {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let client = database.client().await;
            let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
            client.batch_execute(&lock).await.unwrap();
            client
        });
        Lock { client: Some(client), runtime }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = self.runtime.block_on(client.batch_execute("ROLLBACK"));
        }
    }
}
