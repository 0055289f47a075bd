//! Expiry and its events: exactly once where nothing fails, at least once and recognisable where something does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use uuid::{Uuid, uuid};

use crate::support::daemon::Daemon;
use crate::support::kafka::{Kafka, Record, Send};
use crate::support::left_out::{private_kafka, real_kafka};
use crate::support::processes::Signal;
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually, eventually_eq};

/// Enough for a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// 2020-01-01T00:00:00Z in seconds: `ready_at` of clones whose time is over.
const LONG_AGO: i64 = 1_577_836_800;

/// The contract's `uid`, written down once more.
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
    eventually_eq(MINUTES, "the outbox", count.to_string(), || {
        scene.database.value("SELECT count(*) FROM ingest.outbox")
    });
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
fn two_instances_that_expire_2000_rows_at_once_publish_each_event_exactly_once() {
    let scene = Scene::new(real_kafka!(), 2);
    let topic = scene.topic("clone.ready");
    scene.kafka.send_all((0..2000).map(|number| {
        let value = json!({
            "caller_id": format!("caller-{number}"), "greeting_call_id": "g", "cloned_voice_id": "v",
            "ready_at": LONG_AGO, "ttl_seconds": 1,
        });
        Send::to(&topic).partition(number % 2).value(value.to_string())
    }));
    consume_without_expiring(&scene);
    let _both = [expiring(&scene), expiring(&scene)];
    eventually_eq(MINUTES, "the expired rows", "2000".to_owned(), || deleted(&scene));
    wait_for_outbox(&scene, 0);
    let events = events(&scene);
    assert_eq!(events.len(), 2000, "none is doubled");
    let expected: BTreeSet<String> =
        (0..2000).map(|number| event_id(&format!("caller-{number}"), "v", LONG_AGO + 1)).collect();
    assert_eq!(ids(&events).into_iter().map(String::from).collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_daemon_killed_between_the_expiry_and_the_publishing_leaves_the_event_to_another_one() {
    let scene = Scene::new(real_kafka!(), 1);
    let topic = scene.topic("clone.expired");
    scene.kafka.delete_topic(&topic);
    clone_ready(&scene, "v", LONG_AGO);
    let mut daemon = expiring(&scene);
    scene.wait_until_consumed(MINUTES);
    wait_for_outbox(&scene, 1);
    daemon.signal(Signal::Kill);
    assert_ne!(daemon.wait_exit(SOON), 0);
    assert_eq!(deleted(&scene), "1", "the expiry is committed");
    scene.kafka.create_topic(&topic, 1, &[]);
    let _second = expiring(&scene);
    wait_for_outbox(&scene, 0);
    let events = events(&scene);
    assert_eq!(ids(&events), [event_id("+15550100", "v", LONG_AGO + 1)]);
}

#[test]
fn a_daemon_killed_after_the_publishing_and_before_its_commit_has_the_event_repeated_byte_for_byte() {
    let scene = Scene::new(real_kafka!(), 1);
    clone_ready(&scene, "v", LONG_AGO);
    consume_without_expiring(&scene);
    // What has been published is taken out of the outbox only once this test lets go of the lock.
    scene.database.run(
        "CREATE FUNCTION ingest.hold() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_advisory_xact_lock(1); RETURN OLD; END $$;
         CREATE TRIGGER hold BEFORE DELETE ON ingest.outbox FOR EACH ROW EXECUTE FUNCTION ingest.hold()",
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let holder = runtime.block_on(scene.database.client());
    runtime.block_on(holder.batch_execute("SELECT pg_advisory_lock(1)")).unwrap();

    let mut daemon = expiring(&scene);
    eventually_eq(MINUTES, "the published expiries", 1, || events(&scene).len());
    eventually_eq(MINUTES, "the sessions that wait for the lock", "1".to_owned(), || {
        scene.database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'",
        )
    });
    daemon.signal(Signal::Kill);
    assert_ne!(daemon.wait_exit(SOON), 0);
    runtime.block_on(holder.batch_execute("SELECT pg_advisory_unlock(1)")).unwrap();

    let _second = expiring(&scene);
    wait_for_outbox(&scene, 0);
    let events = events(&scene);
    assert_eq!(events.len(), 2, "the killed daemon's and the repeat");
    assert_eq!(ids(&events)[0], event_id("+15550100", "v", LONG_AGO + 1));
    let bytes = |event: &Record| (event.key.clone(), event.value.clone(), event.headers.clone());
    assert_eq!(bytes(&events[0]), bytes(&events[1]));
}

#[test]
fn rows_that_expire_while_the_broker_is_away_are_told_when_it_is_back() {
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
        let logs: Vec<String> = both.iter().flat_map(Daemon::logs).collect();
        if logs.iter().any(|line| line.contains("not everything could be published")) {
            Ok(())
        } else {
            Err(logs)
        }
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
