//! Memory stays bounded while Kafka is full, PostgreSQL is blocked, and the daemon waits in its group.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use crate::support::daemon::Daemon;
use crate::support::kafka::Send;
use crate::support::left_out::real_kafka;
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually, holds};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(300);

/// Maximum time without a poll or heartbeat before the group removes a member.
const GROUP: [(&str, &str); 2] =
    [("KAFKA_MAX_POLL_INTERVAL_MS", "10000"), ("KAFKA_SESSION_TIMEOUT_MS", "6000")];

/// Longer than both.
const STALL: Duration = Duration::from_secs(15);

/// Resident memory at its peak, in MiB.
const MOST: u64 = 200;

/// A daemon is started while a session locks all tables that it writes, stays in its group for longer than the group
/// waits, and can then write.
fn stall_and_release(scene: &Scene, deadline: Duration) {
    let migrated = crate::support::daemon::run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let holder = runtime.block_on(scene.database.client());
    let lock =
        "BEGIN; LOCK TABLE ingest.calls, public.clone_transfer_events, public.call_log IN EXCLUSIVE MODE";
    runtime.block_on(holder.batch_execute(lock)).unwrap();

    let mut daemon = scene.daemon(&GROUP);
    daemon.wait_ready(SOON);
    eventually(SOON, "a session that waits for the lock", || {
        let waiting = scene.database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        );
        if waiting == "0" { Err(waiting) } else { Ok(()) }
    });
    holds(STALL, "the daemon is alive, small, and a member of its group", || {
        let seen =
            (daemon.peak_memory(), daemon.http_get("/healthz").0, scene.kafka.group_members(&scene.group));
        if seen.0 < MOST && seen.1 == 200 && seen.2 == 1 { Ok(()) } else { Err(seen) }
    });
    let stalled = daemon.peak_memory();
    runtime.block_on(holder.batch_execute("ROLLBACK")).unwrap();
    scene.wait_until_consumed(deadline);
    let peak = daemon.peak_memory();
    println!("peak {stalled} MiB while stalled, {peak} MiB in all, {} MiB at the end", daemon.memory());
    assert!(peak < MOST, "{peak} MiB");
    assert_never_rebalanced(&daemon);
}

fn assert_never_rebalanced(daemon: &Daemon) {
    let logs = daemon.logs();
    let count = |text: &str| logs.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("partitions are assigned"), 1, "{logs:#?}");
    assert_eq!(count("partitions are revoked"), 0, "{logs:#?}");
}

#[test]
fn with_kafka_full_of_8_mib_records_and_postgresql_stalled() {
    let scene = Scene::new(real_kafka!(), 4);
    let topic = scene.topic("call.lifecycle");
    const RECORDS: i32 = 40;
    for number in 0..RECORDS {
        let head = format!(r#"{{"call_id":"call-{number}","status":"completed","transcript":""#);
        let transcript = "x".repeat(8 * 1024 * 1024 - head.len() - 2);
        let value = format!(r#"{head}{transcript}"}}"#);
        assert_eq!(value.len(), 8 * 1024 * 1024, "the largest that is taken");
        scene.kafka.send(Send::to(&topic).partition(number % 4).value(value));
    }
    stall_and_release(&scene, MINUTES);
    let longest = scene.database.rows("SELECT count(*), min(length(transcript)) > 8388000 FROM call_log");
    assert_eq!(longest, [[Some(RECORDS.to_string()), Some("t".to_owned())]]);
}

#[test]
fn with_kafka_full_of_small_records_and_postgresql_stalled() {
    let records: i32 =
        std::env::var("BOUNDED_TEST_RECORDS").map_or(200_000, |records| records.parse().unwrap());
    let scene = Scene::new(real_kafka!(), 4);
    let topic = scene.topic("clone.transfer");
    scene.kafka.send_all((0..records).map(|number| {
        let value = format!(
            r#"{{"greeting_call_id":"greeting-{number}","agent_call_id":"agent","cloned_voice_id":"v{}","transferred_at":1700000000}}"#,
            number % 1000
        );
        Send::to(&topic).partition(number % 4).value(value)
    }));
    stall_and_release(&scene, MINUTES * 4);
    let landed = scene.database.value("SELECT count(*) FROM clone_transfer_events");
    assert_eq!(landed, records.to_string());
}

/// Everything that is large at once: values, keys, headers, deep `metadata`, and a topic that refuses every letter.
#[test]
fn with_large_values_keys_and_headers_and_a_dead_letter_topic_that_refuses_them() {
    let scene = Scene::new(real_kafka!(), 4);
    let letters = scene.topic("voiceclone.dead-letters");
    scene.kafka.delete_topic(&letters);
    scene.kafka.create_topic(&letters, 1, &[("max.message.bytes", "1000")]);
    let topic = scene.topic("call.lifecycle");
    const EACH: i32 = 16;
    let to = |number: i32| Send::to(&topic).partition(number % 4);
    for number in 0..EACH {
        let head = format!(r#"{{"call_id":"call-{number}","status":"completed","transcript":""#);
        let transcript = "x".repeat(8 * 1024 * 1024 - head.len() - 2);
        scene.kafka.send(to(number).value(format!(r#"{head}{transcript}"}}"#)));
        scene.kafka.send(to(number).key(vec![b'4'; 6 << 20]).value("{}"));
        let mut many = to(number).value("{}");
        let mut empty = to(number).value("{}");
        for header in 0..1000 {
            many = many.header(&format!("name-{header}"), vec![b'v'; 1000]);
        }
        for _ in 0..100_000 {
            empty = empty.null_header("");
        }
        scene.kafka.send(many);
        scene.kafka.send(empty);
        let deep = format!("{}0{}", "[".repeat(98), "]".repeat(98));
        let values = vec![deep.as_str(); 600].join(",");
        scene.kafka.send(to(number).value(format!(
            r#"{{"call_id":"deep-{number}","status":"failed","metadata":{{"a":[{values}]}}}}"#
        )));
        let values = vec!["0"; 65_535].join(",");
        scene.kafka.send(to(number).value(format!(
            r#"{{"call_id":"wide-{number}","status":"failed","metadata":{{"a":[{values}]}}}}"#
        )));
    }
    let daemon = scene.daemon(&[]);
    scene.wait_until_consumed(MINUTES);
    let count = (3 * EACH).to_string();
    eventually(MINUTES, "the letters to be found unpublishable", || {
        let marked = scene.database.value("SELECT count(unpublishable) FROM ingest.dead_letters");
        if marked == count { Ok(()) } else { Err((marked, daemon.peak_memory())) }
    });
    assert_eq!(scene.database.value("SELECT count(*) FROM call_log"), count);
    let peak = daemon.peak_memory();
    println!("peak {peak} MiB, {} MiB at the end", daemon.memory());
    assert!(peak < 256, "{peak} MiB");
}
