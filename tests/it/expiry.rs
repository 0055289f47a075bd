//! Expiry and its events: exactly once where nothing fails, at least once and recognisable where something does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};
use uuid::{Uuid, uuid};

use voiceclone_events::store::expiry::ExpiryCursor;
use voiceclone_events::store::outbox::Expired;
use voiceclone_events::store::{Store, migrate};

use crate::histories::ingest;
use crate::support::daemon::{Daemon, run_command};
use crate::support::kafka::{Kafka, Record, Send};
use crate::support::left_out::{private_kafka, real_kafka};
use crate::support::postgres::Database;
use crate::support::processes::Signal;
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually, eventually_eq, holds};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// 2020-01-01T00:00:00Z in seconds: `ready_at` of clones that have reached the end of their TTL.
const LONG_AGO: i64 = 1_577_836_800;

/// The contract's `uid`, written independently.
fn uid(kind: &str, parts: &[&str]) -> String {
    let namespace: Uuid = uuid!("32912be5-e948-560b-b792-7dcb8baa72b1");
    let name = [&[kind], parts].concat().join("\u{1f}");
    Uuid::new_v5(&namespace, name.as_bytes()).hyphenated().to_string()
}

/// The `event_id` of the expiry of this caller's voice at this time, in seconds since 1970.
fn event_id(caller: &str, voice: &str, ttl_expires_at: i64) -> String {
    let row = uid("voice_clone_cache", &[caller, voice]);
    uid("clone.expired", &[&row, &format!("{ttl_expires_at}000000")])
}

/// Publishes a clone that lives for a second from `ready_at` on.
fn clone_ready(scene: &Scene, voice: &str, ready_at: i64) {
    let value = json!({
        "caller_id": "+15550100", "greeting_call_id": "g", "cloned_voice_id": voice, "ready_at": ready_at,
        "ttl_seconds": 1,
    });
    scene.publish("clone.ready", &value.to_string());
}

fn expiring(scene: &Scene) -> Daemon {
    scene.daemon(&[("EXPIRY_INTERVAL", "1s")])
}

/// Has everything consumed by a daemon that ends before it would expire anything.
fn consume_without_expiring(scene: &Scene) {
    let mut daemon = scene.daemon(&[("EXPIRY_INTERVAL", "1h")]);
    scene.wait_until_consumed(MINUTES);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    assert_eq!(deleted(scene), "0", "the first run of the expiry was before the first row");
}

fn deleted(scene: &Scene) -> String {
    scene.database.value("SELECT count(*) FROM voice_clone_cache WHERE deleted_at IS NOT NULL")
}

fn wait_for_outbox(scene: &Scene, count: usize) {
    eventually_eq(MINUTES, "the outbox", count.to_string(), || waiting(&scene.database));
}

fn waiting(database: &Database) -> String {
    database.value("SELECT coalesce(sum(cardinality(ids)), 0) FROM ingest.outbox")
}

/// Whether one of them says so; else what they say.
fn says_that_not_everything_went(daemons: &[Daemon]) -> Result<(), Vec<String>> {
    let logs: Vec<String> = daemons.iter().flat_map(Daemon::logs).collect();
    let says_so = logs.iter().any(|line| line.contains("not everything could be published"));
    if says_so { Ok(()) } else { Err(logs) }
}

fn events(scene: &Scene) -> Vec<Record> {
    scene.kafka.read_all(&scene.topic("clone.expired"))
}

fn ids(events: &[Record]) -> Vec<&str> {
    events.iter().map(|event| event.header("ce_id").unwrap()).collect()
}

#[test]
fn an_event_has_exactly_the_key_the_headers_and_the_fields_of_the_contract() {
    let scene = Scene::new(real_kafka!(), 1);
    for agent in ["a", "b", "c"] {
        let value = json!({
            "greeting_call_id": "g", "agent_call_id": agent, "cloned_voice_id": "v",
            "transferred_at": "2020-01-01T00:00:00.25Z",
        });
        scene.publish("clone.transfer", &value.to_string());
    }
    clone_ready(&scene, "v", LONG_AGO);
    consume_without_expiring(&scene);
    let _daemon = expiring(&scene);
    eventually_eq(MINUTES, "the published expiries", 1, || events(&scene).len());

    let deleted_at = r#"SELECT to_char(deleted_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM voice_clone_cache"#;
    let deleted_at = scene.database.value(deleted_at);
    let event_id = event_id("+15550100", "v", LONG_AGO + 1);
    let event = events(&scene).remove(0);
    let value: Value = serde_json::from_slice(event.value.as_deref().unwrap()).unwrap();
    assert_eq!(
        value,
        json!({
            "event_id": event_id,
            "caller_id": "+15550100",
            "cloned_voice_id": "v",
            "clone_created_at": "2020-01-01T00:00:00Z",
            "ttl_expires_at": "2020-01-01T00:00:01Z",
            "expired_at": deleted_at,
            "reuse_count": 3,
            "last_used_at": "2020-01-01T00:00:00.250000Z",
        })
    );
    assert_eq!(event.key.as_deref(), Some(b"+15550100".as_slice()));
    let headers: BTreeMap<&str, &str> = event
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), std::str::from_utf8(value.as_deref().unwrap()).unwrap()))
        .collect();
    assert_eq!(event.headers.len(), headers.len(), "no header twice");
    let source = headers["ce_source"];
    assert!(!source.is_empty());
    assert_eq!(
        headers,
        BTreeMap::from([
            ("ce_specversion", "1.0"),
            ("ce_id", event_id.as_str()),
            ("ce_source", source),
            ("ce_type", "clone.expired"),
            ("ce_time", deleted_at.as_str()),
            ("content-type", "application/json"),
        ])
    );
}

#[test]
fn two_instances_that_expire_12000_rows_at_once_publish_each_event_exactly_once() {
    let scene = Scene::new(real_kafka!(), 2);
    let topic = scene.topic("clone.ready");
    scene.kafka.send_all((0..12_000).map(|number| {
        let value = json!({
            "caller_id": format!("caller-{number}"), "greeting_call_id": "g", "cloned_voice_id": "v",
            "ready_at": LONG_AGO, "ttl_seconds": 1,
        });
        Send::to(&topic).partition(number % 2).value(value.to_string())
    }));
    consume_without_expiring(&scene);
    let _both = [expiring(&scene), expiring(&scene)];
    eventually_eq(MINUTES, "the expired rows", "12000".to_owned(), || deleted(&scene));
    wait_for_outbox(&scene, 0);
    let events = events(&scene);
    assert_eq!(events.len(), 12_000, "none is doubled");
    let expected: BTreeSet<String> =
        (0..12_000).map(|number| event_id(&format!("caller-{number}"), "v", LONG_AGO + 1)).collect();
    assert_eq!(ids(&events).into_iter().map(String::from).collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_daemon_killed_between_the_expiry_and_the_publishing_leaves_the_event_to_another_one() {
    let scene = Scene::new(real_kafka!(), 1);
    let topic = scene.topic("clone.expired");
    scene.kafka.delete_topic(&topic);
    clone_ready(&scene, "v", LONG_AGO);
    let mut daemon = expiring(&scene);
    // From here on it has tried to publish the event, whatever it does with one that the broker does not take.
    eventually(MINUTES, "a line that says that the broker takes nothing", || {
        says_that_not_everything_went(std::slice::from_ref(&daemon))
    });
    daemon.signal(Signal::Kill);
    assert_ne!(daemon.wait_exit(SOON), 0);
    assert_eq!(deleted(&scene), "1", "the expiry is committed");
    assert_eq!(waiting(&scene.database), "1", "and its event with it");
    scene.kafka.create_topic(&topic, 1, &[]);
    let _second = expiring(&scene);
    wait_for_outbox(&scene, 0);
    let events = events(&scene);
    assert_eq!(ids(&events), [event_id("+15550100", "v", LONG_AGO + 1)]);
}

/// An event that has been published is taken out of the outbox only once `signal` was sent to the daemon. Gives its exit
/// status.
fn signalled_between_the_publishing_and_its_commit(scene: &Scene, signal: Signal) -> i32 {
    clone_ready(scene, "v", LONG_AGO);
    consume_without_expiring(scene);
    scene.database.run(
        "CREATE FUNCTION ingest.hold() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_advisory_xact_lock(1); RETURN OLD; END $$;
         CREATE TRIGGER hold BEFORE DELETE ON ingest.outbox FOR EACH ROW EXECUTE FUNCTION ingest.hold()",
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let holder = runtime.block_on(scene.database.client());
    runtime.block_on(holder.batch_execute("SELECT pg_advisory_lock(1)")).unwrap();

    let mut daemon = expiring(scene);
    eventually_eq(MINUTES, "the published expiries", 1, || events(scene).len());
    eventually_eq(MINUTES, "the sessions that wait for the lock", "1".to_owned(), || {
        scene.database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'",
        )
    });
    daemon.signal(signal);
    if signal == Signal::Kill {
        daemon.wait_exit(SOON);
    }
    runtime.block_on(holder.batch_execute("SELECT pg_advisory_unlock(1)")).unwrap();
    daemon.wait_exit(SOON)
}

#[test]
fn a_daemon_that_ends_in_good_order_notes_what_it_has_just_published() {
    let scene = Scene::new(real_kafka!(), 1);
    assert_eq!(signalled_between_the_publishing_and_its_commit(&scene, Signal::Term), 0);
    assert_eq!(waiting(&scene.database), "0");
    assert_eq!(events(&scene).len(), 1);
}

#[test]
fn a_daemon_killed_after_the_publishing_and_before_its_commit_has_the_event_repeated_byte_for_byte() {
    let scene = Scene::new(real_kafka!(), 1);
    assert_ne!(signalled_between_the_publishing_and_its_commit(&scene, Signal::Kill), 0);

    let _second = expiring(&scene);
    wait_for_outbox(&scene, 0);
    let events = events(&scene);
    assert_eq!(events.len(), 2, "the killed daemon's and the repeat");
    assert_eq!(ids(&events)[0], event_id("+15550100", "v", LONG_AGO + 1));
    let bytes = |event: &Record| (event.key.clone(), event.value.clone(), event.headers.clone());
    assert_eq!(bytes(&events[0]), bytes(&events[1]));
}

#[test]
fn rows_that_expire_while_the_broker_is_away_are_published_when_it_is_back() {
    let mut broker = private_kafka!();
    let scene = Scene::new(&Kafka::at(&broker.servers), 1);
    for number in 0..20 {
        clone_ready(&scene, &format!("v{number}"), LONG_AGO);
    }
    consume_without_expiring(&scene);
    broker.stop();
    let mut both = [expiring(&scene), expiring(&scene)];
    wait_for_outbox(&scene, 20);
    assert_eq!(deleted(&scene), "20");
    eventually(MINUTES, "a line that says that the broker takes nothing", || {
        says_that_not_everything_went(&both)
    });
    broker.start_again();
    wait_for_outbox(&scene, 0);
    let events = events(&scene);
    let expected: BTreeSet<String> =
        (0..20).map(|number| event_id("+15550100", &format!("v{number}"), LONG_AGO + 1)).collect();
    assert_eq!(ids(&events).into_iter().map(String::from).collect::<BTreeSet<_>>(), expected);
    let different: BTreeSet<_> = events.iter().map(|event| &event.value).collect();
    assert_eq!(different.len(), 20, "a repeat has the same bytes");
    assert!(both.iter_mut().all(Daemon::is_running));
}

#[test]
fn a_partition_without_a_leader_delays_its_own_events_only_and_no_event_goes_out_twice() {
    const ROWS: usize = 200;
    let cluster = MockCluster::new(2).unwrap();
    let database = Database::new();
    // A session that waits for the broker inside a transaction is ended.
    let name = database.value("SELECT current_database()");
    database.run(&format!("ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '5s'"));
    let topics = ["clone.ready", "clone.failed", "clone.transfer", "call.lifecycle", "caller.voice_mapping"];
    for topic in topics.iter().chain(&["clone.expired", "voiceclone.dead-letters"]) {
        cluster.create_topic(topic, 2, 1).unwrap();
    }
    cluster.partition_leader("clone.expired", 1, None).unwrap();
    let servers = cluster.bootstrap_servers();
    let variables = [("DATABASE_URL", database.url()), ("KAFKA_BOOTSTRAP_SERVERS", servers.as_str())];
    let migrated = run_command(&["migrate", "up"], &variables, MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    database.run(&due_rows(ROWS));

    let variables = [&variables[..], &[("EXPIRY_INTERVAL", "1s")]].concat();
    let _daemons = [Daemon::run(&variables), Daemon::run(&variables), Daemon::run(&variables)];
    let published = |partition: i32| {
        // A new client, as an old one remembers for a while that the partition has no leader.
        eventually(SOON, "the end of the partition", || {
            let mut config = Kafka::at(&servers).config();
            let consumer: BaseConsumer = config.set("group.id", "unused").create().unwrap();
            let marks = consumer.fetch_watermarks("clone.expired", partition, SOON);
            marks.map(|(_, high)| usize::try_from(high).unwrap())
        })
    };
    let healthy = eventually(MINUTES, "the events of the healthy partition", || {
        let waiting: usize = waiting(&database).parse().unwrap();
        if waiting > 0 && waiting < ROWS { Ok(ROWS - waiting) } else { Err(waiting) }
    });
    assert_eq!(published(0), healthy);
    holds(Duration::from_secs(25), "the healthy partition has each of its events once", || {
        let count = published(0);
        if count == healthy { Ok(()) } else { Err(count) }
    });
    cluster.partition_leader("clone.expired", 1, Some(2)).unwrap();
    eventually_eq(MINUTES, "the outbox", "0".to_owned(), || waiting(&database));
    assert_eq!((published(0), published(1)), (healthy, ROWS - healthy));
}

#[test]
fn a_row_made_live_again_by_a_later_clone_expires_again_with_an_event_of_its_own() {
    let scene = Scene::new(real_kafka!(), 1);
    let _daemon = expiring(&scene);
    clone_ready(&scene, "v", LONG_AGO);
    eventually_eq(MINUTES, "the published expiries", 1, || events(&scene).len());

    // Later than the first, but over when the row was deleted: it stays deleted.
    clone_ready(&scene, "v", LONG_AGO + 60);
    scene.wait_until_consumed(MINUTES);
    assert_eq!(deleted(&scene), "1");

    let again = chrono::Utc::now().timestamp() + 4;
    clone_ready(&scene, "v", again);
    eventually_eq(MINUTES, "the deleted rows", "0".to_owned(), || deleted(&scene));
    eventually_eq(MINUTES, "the deleted rows", "1".to_owned(), || deleted(&scene));
    wait_for_outbox(&scene, 0);
    let events = events(&scene);
    let expected = [event_id("+15550100", "v", LONG_AGO + 1), event_id("+15550100", "v", again + 1)];
    assert_eq!(ids(&events), expected);
}

// -------- The store alone, without a daemon

/// Fills the cache with rows that were due long ago, a second apart, numbered from 1.
fn due_rows(rows: usize) -> String {
    format!(
        "INSERT INTO voice_clone_cache (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at, reuse_count,
                                        last_used_at, created_at)
         SELECT md5(n::text)::uuid, 'caller ' || n, 'voice', t, t + interval '1 day', 1, t, t
         FROM (SELECT n, timestamp '2020-01-01' + n * interval '1 second' AS t FROM generate_series(1, {rows}) n) AS m"
    )
}

async fn migrated() -> (Database, Store) {
    let database = Database::new();
    migrate::up(database.url(), None).await.unwrap();
    let store = ingest(&database).store;
    (database, store)
}

/// Runs the expiry once, in chunks of this size; returns the number of expired rows.
async fn run(store: &Store, chunk: i64) -> usize {
    let (mut reached, mut total) = (ExpiryCursor::default(), 0);
    loop {
        let (expired, more) = store.expire(&mut reached, chunk, None).await.unwrap();
        total += expired;
        if !more {
            return total;
        }
    }
}

/// Id, key, value, time.
type ExpiryEvent = (Uuid, Option<String>, String, String);

fn told(event: &Expired) -> ExpiryEvent {
    let value = String::from_utf8(event.value.clone()).unwrap();
    (event.event_id, event.key.clone(), value, event.event_time.clone())
}

/// Publishes `chunks` chunks to a fake broker, which accepts the events at the indices given by `takes`. Returns all
/// events and the accepted ones.
async fn publish(
    store: &Store,
    chunks: i64,
    takes: impl Fn(usize) -> bool + Sync,
) -> (Vec<ExpiryEvent>, Vec<ExpiryEvent>) {
    let claimed = store.claim_expired(chunks).await.unwrap();
    let seen: Vec<ExpiryEvent> = claimed.events.iter().map(told).collect();
    let places: HashSet<usize> = (0..seen.len()).filter(|place| takes(*place)).collect();
    store.settle_expired(&claimed, &places).await.unwrap();
    let taken = (0..seen.len()).filter(|place| places.contains(place)).map(|place| seen[place].clone());
    (seen.clone(), taken.collect())
}

/// Lets every chunk be claimed at once, as if no claim and no failure had been.
const ALL_DUE: &str =
    "UPDATE ingest.outbox SET publish_at = created_at, publish_claim = NULL, publish_tries = 0";

/// The waiting events, in order.
async fn all_waiting(database: &Database, store: &Store) -> Vec<ExpiryEvent> {
    database.run(ALL_DUE);
    let events = store.claim_expired(i64::MAX).await.unwrap().events.iter().map(told).collect();
    database.run(ALL_DUE);
    events
}

fn sorted(mut events: Vec<ExpiryEvent>) -> Vec<ExpiryEvent> {
    events.sort();
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_chunk_that_went_out_in_part_exactly_the_rest_waits_and_lets_others_go_first() {
    let (database, store) = migrated().await;
    // Another tool's table may hold nulls.
    database.run(&format!(
        "ALTER TABLE voice_clone_cache ALTER caller_id DROP NOT NULL, ALTER cloned_voice_id DROP NOT NULL,
             ALTER clone_created_at DROP NOT NULL, ALTER reuse_count DROP NOT NULL, ALTER last_used_at DROP NOT NULL;
         {};
         UPDATE voice_clone_cache SET caller_id = NULL, clone_created_at = NULL WHERE caller_id LIKE '%3';
         UPDATE voice_clone_cache SET cloned_voice_id = NULL, reuse_count = NULL, last_used_at = NULL
         WHERE caller_id LIKE '%7'",
        due_rows(30)
    ));
    // The same rows again, with another time, in chunks of their own.
    assert_eq!(run(&store, 10).await, 30);
    database.run(
        "UPDATE voice_clone_cache SET deleted_at = NULL, ttl_expires_at = ttl_expires_at + interval '1 year'",
    );
    assert_eq!(run(&store, 10).await, 30);
    let all = all_waiting(&database, &store).await;
    let different: BTreeSet<_> = all.iter().map(|event| event.0).collect();
    assert_eq!((all.len(), different.len()), (60, 60));
    assert_eq!(all.iter().filter(|event| event.1.is_none()).count(), 6);

    let (first, taken) = publish(&store, 2, |place| place < 10 || place % 3 == 0).await;
    assert_eq!(first, all[..20], "the chunks that have waited longest");
    assert_eq!(taken.len(), 13, "one whole chunk, and of the other one a part");
    let (second, none) = publish(&store, 1, |_| false).await;
    assert_eq!((&second[..], none.len()), (&all[20..30], 0), "the next chunk, not what was just refused");
    let (others, none) = publish(&store, i64::MAX, |_| false).await;
    assert_eq!((&others[..], none.len()), (&all[30..], 0), "what was refused has its pause");
    let left = all_waiting(&database, &store).await;
    let expected: Vec<ExpiryEvent> = all.iter().filter(|event| !taken.contains(event)).cloned().collect();
    assert_eq!(sorted(left.clone()), sorted(expected));
    let rest: Vec<&ExpiryEvent> = first.iter().filter(|event| !taken.contains(event)).collect();
    let place = left.iter().position(|event| event == rest[0]).unwrap();
    assert_eq!(left[place..place + rest.len()].iter().collect::<Vec<_>>(), rest, "in their order");

    let (_, taken) = publish(&store, i64::MAX, |_| true).await;
    assert_eq!(sorted(taken), sorted(left));
    assert_eq!(database.value("SELECT count(*) FROM ingest.outbox"), "0");
}

/// The pause after which a chunk is tried again, in seconds.
async fn pause_after_a_failure(database: &Database, store: &Store) -> f64 {
    database.run("UPDATE ingest.outbox SET publish_at = now() AT TIME ZONE 'utc'");
    publish(store, 1, |_| false).await;
    let pause = "SELECT extract(epoch FROM publish_at - now() AT TIME ZONE 'utc')::float8 FROM ingest.outbox";
    database.value(pause).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pauses_of_a_chunk_that_the_broker_does_not_take_grow_up_to_5_minutes() {
    let (database, store) = migrated().await;
    database.run(&due_rows(3));
    assert_eq!(run(&store, 10).await, 3);
    for wanted in [1.0, 2.0, 4.0, 8.0] {
        let pause = pause_after_a_failure(&database, &store).await;
        assert!((wanted - 1.0..=wanted).contains(&pause), "{pause} s, not {wanted}");
    }
    database.run("UPDATE ingest.outbox SET publish_tries = 1000000");
    let pause = pause_after_a_failure(&database, &store).await;
    assert!((299.0..=300.0).contains(&pause), "{pause} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_instances_claim_each_event_exactly_once() {
    let (database, store) = migrated().await;
    database.run(&due_rows(3000));
    assert_eq!(run(&store, 20).await, 3000);
    let stores = [store, ingest(&database).store, ingest(&database).store];
    let instance = async |store: &Store| {
        let mut claimed = Vec::new();
        loop {
            let (seen, _) = publish(store, 2, |_| true).await;
            if seen.is_empty() {
                return claimed;
            }
            claimed.extend(seen);
        }
    };
    let (first, second, third) =
        tokio::join!(instance(&stores[0]), instance(&stores[1]), instance(&stores[2]));
    assert_eq!(first.len() + second.len() + third.len(), 3000, "none is claimed twice");
    let different: BTreeSet<ExpiryEvent> = [first, second, third].concat().into_iter().collect();
    assert_eq!(different.len(), 3000);
    assert_eq!(waiting(&database), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_of_an_instance_that_dies_is_taken_up_by_another_with_the_same_bytes() {
    let (database, store) = migrated().await;
    let other = ingest(&database).store;
    database.run(&due_rows(10));
    assert_eq!(run(&store, 10).await, 10);
    let claimed = store.claim_expired(10).await.unwrap();
    assert_eq!(claimed.events.len(), 10);
    assert_eq!(other.claim_expired(10).await.unwrap().events.len(), 0, "the lease is not over");

    database.run("UPDATE ingest.outbox SET publish_at = now() AT TIME ZONE 'utc'");
    let again = other.claim_expired(10).await.unwrap();
    let bytes = |events: &[Expired]| events.iter().map(told).collect::<Vec<_>>();
    assert_eq!(bytes(&again.events), bytes(&claimed.events));
    // The first instance was only slow: it settles a claim that is no longer its own.
    let (all, half) = ((0..10).collect(), (0..5).collect());
    store.settle_expired(&claimed, &half).await.unwrap();
    store.settle_expired(&claimed, &all).await.unwrap();
    assert_eq!(waiting(&database), "10");
    other.settle_expired(&again, &all).await.unwrap();
    assert_eq!(waiting(&database), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_waited_in_the_earlier_form_are_published_with_the_same_bytes() {
    let database = Database::new();
    migrate::up(database.url(), Some(3)).await.unwrap();
    let row = |caller: &str, voice: &str, created: &str, count: &str, used: &str, expired: &str| {
        let event_id =
            Uuid::new_v5(&Uuid::nil(), [caller, voice, created, used, expired].concat().as_bytes());
        let value = format!(
            r#"{{"caller_id":{caller},"clone_created_at":{created},"cloned_voice_id":{voice},"event_id":"{event_id}","#
        ) + &format!(
            r#""expired_at":"{expired}","last_used_at":{used},"reuse_count":{count},"ttl_expires_at":"2020-01-02T00:00:00.000001Z"}}"#
        );
        let key: Option<String> = serde_json::from_str(caller).unwrap();
        (event_id, key, value, expired.to_owned())
    };
    let (day, later) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.100001Z");
    let quoted = |text: &str| format!("\"{text}\"");
    let rows = vec![
        row(r#""+15550100""#, r#""v""#, &quoted(day), "1", &quoted(later), day),
        row(
            r#""\"q\" \\ \n\u0001 ü 🎤""#,
            r#""v 2""#,
            &quoted(day),
            "2147483647",
            &quoted("1999-12-31T23:59:59.999999Z"),
            day,
        ),
        row("null", "null", "null", "null", "null", later),
        row(
            r#""no bounds""#,
            r#""v""#,
            &quoted("9223372036854775807 microseconds since 1970"),
            "1",
            &quoted("-9222425352054775808 microseconds since 1970"),
            later,
        ),
        row(
            r#""long ago and far ahead""#,
            r#""v""#,
            &quoted("-0043-03-15T00:00:00Z"),
            "1",
            &quoted("+12026-01-01T00:00:00.500000Z"),
            later,
        ),
    ];
    let client = database.client().await;
    for (event_id, key, value, event_time) in &rows {
        let sql = format!(
            "INSERT INTO ingest.outbox (event_id, key, value, event_time) VALUES ('{event_id}', $1, $2, $3)"
        );
        let key = key.as_deref().map(str::as_bytes);
        client.execute(&sql, &[&key, &value.as_bytes(), event_time]).await.unwrap();
    }
    migrate::up(database.url(), None).await.unwrap();
    assert_eq!(waiting(&database), rows.len().to_string());
    let (_, taken) = publish(&ingest(&database).store, i64::MAX, |_| true).await;
    assert_eq!(sorted(taken), sorted(rows));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_events_wait_when_the_outbox_gets_its_earlier_form_back_expire_again() {
    let (database, store) = migrated().await;
    database.run(&due_rows(20));
    run(&store, 10).await;
    let (_, taken) = publish(&store, 1, |_| true).await;
    let left: Vec<Uuid> = all_waiting(&database, &store).await.iter().map(|event| event.0).collect();
    assert_eq!((taken.len(), left.len()), (10, 10));
    // The third migration is the last one with the earlier form.
    let applied: u64 = database.value("SELECT count(*) FROM __diesel_schema_migrations").parse().unwrap();
    migrate::down(database.url(), Some(applied - 3)).await.unwrap();
    assert_eq!(database.value("SELECT count(*) FROM voice_clone_cache WHERE deleted_at IS NULL"), "10");
    migrate::up(database.url(), None).await.unwrap();
    let store = ingest(&database).store;
    assert_eq!(run(&store, 100).await, 10);
    let again: BTreeSet<Uuid> = all_waiting(&database, &store).await.iter().map(|event| event.0).collect();
    assert_eq!(again, left.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_another_session_has_in_hand_are_left_to_the_next_run_and_hold_nobody_up() {
    let (database, store) = migrated().await;
    database.run(&due_rows(1000));
    let holder = database.client().await;
    let hold = "BEGIN; SELECT 1 FROM voice_clone_cache WHERE caller_id LIKE '%5' FOR UPDATE";
    holder.batch_execute(hold).await.unwrap();
    assert_eq!(run(&store, 50).await, 900);
    assert_eq!(run(&store, 50).await, 0);
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(run(&store, 50).await, 100);
    assert_eq!(waiting(&database), "1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_run_reads_each_row_once_also_where_the_table_has_no_statistics() {
    let (database, store) = migrated().await;
    database.run("ALTER TABLE voice_clone_cache SET (autovacuum_enabled = off)");
    database.run(&due_rows(20_000));
    assert_eq!(run(&store, 500).await, 20_000);
    drop(store);
    database.wait_until_alone();
    let read = database
        .value("SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'voice_clone_cache'");
    let read: u64 = read.parse().unwrap();
    assert!((20_000..40_000).contains(&read), "{read} entries of indexes were read");
    assert_eq!(
        database.value("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'voice_clone_cache'"),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_another_tool_without_an_end_in_time_expires_like_others() {
    let (database, store) = migrated().await;
    database.run(&due_rows(3));
    database.run("UPDATE voice_clone_cache SET ttl_expires_at = '-infinity' WHERE caller_id = 'caller 1'");
    database.run("UPDATE voice_clone_cache SET ttl_expires_at = 'infinity' WHERE caller_id = 'caller 2'");
    database.run(
        "UPDATE voice_clone_cache SET ttl_expires_at = now() AT TIME ZONE 'utc' WHERE caller_id = 'caller 3'",
    );
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(store.expire(&mut ExpiryCursor::default(), 10, hour).await.unwrap(), (2, false));
    let told = all_waiting(&database, &store).await;
    assert_eq!(told.iter().map(|event| event.1.as_deref().unwrap()).collect::<Vec<_>>(), ["caller 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_expire_each_row_exactly_once_while_rows_change_and_live_again() {
    const ROWS: usize = 20_000;
    let (database, store) = migrated().await;
    let other = ingest(&database).store;
    database.run(&due_rows(ROWS));
    let identity = "md5(id::text || ttl_expires_at)";
    let mut expected: BTreeSet<String> =
        values(&database, &format!("SELECT {identity} FROM voice_clone_cache"));
    assert_eq!(expected.len(), ROWS);

    let changing = AtomicBool::new(true);
    let instance = async |store: &Store| {
        while changing.load(Ordering::Relaxed) {
            run(store, 300).await;
        }
    };
    let change = async {
        let client = database.client().await;
        let mut kept = 0;
        for number in 0..300 {
            // One row in a hundred, different ones each time.
            let some = format!("hashtext(caller_id || '{number}') % 100 = 0");
            let touched = format!("UPDATE voice_clone_cache SET reuse_count = reuse_count + 1 WHERE {some}");
            client.batch_execute(&touched).await.unwrap();
            let revived = format!(
                "UPDATE voice_clone_cache SET deleted_at = NULL, ttl_expires_at = ttl_expires_at + interval '1 second'
                 WHERE deleted_at IS NOT NULL AND {some} RETURNING {identity}"
            );
            let revived = client.query(&revived, &[]).await.unwrap();
            expected.extend(revived.iter().map(|row| row.get::<_, String>(0)));
            if number < 100 {
                let extended = format!(
                    "UPDATE voice_clone_cache c SET ttl_expires_at = '9999-01-01' FROM
                        (SELECT id, ttl_expires_at FROM voice_clone_cache
                         WHERE deleted_at IS NULL AND ttl_expires_at < '9999-01-01' AND {some} FOR UPDATE) AS b
                     WHERE c.id = b.id RETURNING md5(c.id::text || b.ttl_expires_at)"
                );
                for row in client.query(&extended, &[]).await.unwrap() {
                    assert!(expected.remove(row.get::<_, &str>(0)));
                    kept += 1;
                }
            }
        }
        changing.store(false, Ordering::Relaxed);
        kept
    };
    let ((), (), kept) = tokio::join!(instance(&store), instance(&other), change);
    run(&store, 300).await;

    let live = "SELECT count(*), count(*) FILTER (WHERE ttl_expires_at = '9999-01-01') FROM voice_clone_cache WHERE deleted_at IS NULL";
    assert_eq!(database.rows(live), [[Some(kept.to_string()), Some(kept.to_string())]]);
    let told = "FROM ingest.outbox o, unnest(o.ids, o.ttl_expires_ats) AS u (id, ttl_expires_at)";
    assert_eq!(waiting(&database), expected.len().to_string(), "none is doubled");
    assert_eq!(values(&database, &format!("SELECT md5(u.id::text || u.ttl_expires_at) {told}")), expected);
    assert!(expected.len() > ROWS, "some have lived again");
}

fn values(database: &Database, sql: &str) -> BTreeSet<String> {
    database.rows(sql).into_iter().map(|mut row| row.remove(0).unwrap()).collect()
}
