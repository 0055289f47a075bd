//! Batches that cannot be unpacked, quotas, topics that nobody may create, and very many partitions.

use std::time::{Duration, Instant};

use super::*;
use crate::support::cluster::FIRST;
use crate::support::daemon::run_command;
use crate::support::kafka::Kafka;
use crate::support::left_out::{or_left_out, private_kafka, real_kafka};
use crate::support::protocol::{allow_reading, deny_reading, limit_fetching};
use crate::support::wait::{SOON, eventually_eq, holds};

#[test]
fn a_batch_that_unpacks_to_more_than_the_client_takes_stops_its_partition_alone_and_skip_is_the_way_past_it()
{
    let scene = Scene::new(real_kafka!(), 2);
    let place = ("call.lifecycle", 1);
    let mut daemon = scene.daemon(&MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    let transcript = "x".repeat(7 << 20);
    let call = |n: i32| {
        let value =
            json!({"call_id": format!("packed-{n}"), "status": "initiated", "transcript": transcript});
        Send::to(&scene.topic(place.0)).partition(place.1).value(value.to_string())
    };
    let sent = scene.kafka.send_in_one_batch((0..45).map(call));
    let (first, behind) = (sent[0].1, sent[44].1 + 1);
    scene.kafka.send(good(&scene, place, "behind"));
    assert_takes(&scene, &every_place_but(place, 2), SOON);
    rarely(SOON, "a line that names the partition, the offset and `skip`", || {
        let said = complaints(&daemon, &scene, place);
        let says = |line: &String| line.contains("skip") && line.contains(&first.to_string());
        if said.iter().any(says) { Ok(()) } else { Err(said) }
    });
    assert_eq!(rows(&scene, place.0, "behind"), 0);
    let to = behind.to_string();
    let skip = ["skip", "--topic", place.0, "--partition", "1", "--to", &to, "--note", "one batch of 315 MB"];
    let finished = run_command(&skip, &scene.variables(&[]), SOON);
    assert_eq!(finished.code, 0, "{finished:?}");
    wait_for_rows(&scene, place.0, "behind", 1, SOON);
    assert_eq!(
        scene.database.rows("SELECT from_offset::text, to_offset::text, note FROM ingest.skips"),
        [[Some(first.to_string()), Some(to), Some("one batch of 315 MB".to_owned())]]
    );
    assert_takes(&scene, &every_place(2), SOON);
    daemon.wait_ready(SOON);
}

#[test]
fn a_client_that_a_quota_holds_back_is_slow_and_nothing_more() {
    let scene = Scene::new(real_kafka!(), 1);
    let client = unique("client");
    limit_fetching(&scene.servers, &client, 50_000.0);
    let transcript = "x".repeat(10_000);
    let call = |n: i32| {
        let value = json!({"call_id": format!("slow-{n}"), "status": "initiated", "transcript": transcript});
        Send::to(&scene.topic("call.lifecycle")).partition(0).value(value.to_string())
    };
    let mut daemon = scene.daemon(&[&MEMBER[..], &[("KAFKA_CLIENT_ID", client.as_str())]].concat());
    assert_takes(&scene, &every_place(1), SOON);
    // Small batches: the broker holds back for ever what is larger than the quota's window.
    (0..20).for_each(|n| drop(scene.kafka.send_all((n * 10..n * 10 + 10).map(call))));
    let start = Instant::now();
    wait_for_rows(&scene, "call.lifecycle", "slow-", 200, MINUTES);
    assert!(start.elapsed() > Duration::from_secs(15), "the quota holds nothing back");
    assert_takes(&scene, &every_place(1), SOON * 2);
    daemon.wait_ready(SOON);
    let said = daemon.logs();
    assert!(
        said.iter().all(|line| !line.contains("a new Kafka client")),
        "the client is replaced: {said:#?}"
    );
}

#[test]
fn the_daemon_creates_no_topic_though_the_broker_would() {
    let broker = private_kafka!(("auto.create.topics.enable", "true"));
    let scene = Scene::new(&broker, 1);
    let missing =
        ["voiceclone.dead-letters", "clone.expired", "clone.transfer"].map(|name| scene.topic(name));
    missing.iter().for_each(|topic| scene.kafka.delete_topic(topic));
    let _daemon = scene.daemon(&[&MEMBER[..], &[("EXPIRY_INTERVAL", "1s")]].concat());
    scene.kafka.send(bad(&scene, ("clone.failed", 0)));
    let ready = json!({"caller_id": "+15550100", "greeting_call_id": "g", "cloned_voice_id": "v",
                       "ready_at": 0, "ttl_seconds": 1});
    scene.publish("clone.ready", &ready.to_string());
    let count = |table: &str| scene.database.try_rows(&format!("SELECT count(*)::text FROM ingest.{table}"));
    for table in ["dead_letters", "outbox"] {
        rarely(SOON, &format!("a row of {table}"), || match count(table) {
            Ok(rows) if rows[0][0].as_deref() == Some("1") => Ok(()),
            other => Err(other),
        });
    }
    holds(Duration::from_secs(12), "nobody creates the missing topics", || {
        std::thread::sleep(Duration::from_millis(500));
        let there: Vec<String> =
            scene.kafka.topics().into_iter().filter(|topic| missing.contains(topic)).collect();
        if there.is_empty() { Ok(()) } else { Err(there) }
    });
    missing.iter().for_each(|topic| scene.kafka.create_topic(topic, 1, &[]));
    eventually_eq(SOON, "the published events", 1, || {
        scene.kafka.read_all(&scene.topic("clone.expired")).len()
    });
    let letters = scene.topic("voiceclone.dead-letters");
    eventually_eq(SOON, "the published dead letters", 1, || scene.kafka.read_all(&letters).len());
    assert_takes(&scene, &every_place(1), SOON);
}

#[test]
fn a_topic_that_may_not_be_read_holds_up_no_other_and_is_read_once_it_may_be() {
    let cluster = or_left_out!(cluster());
    let scene = Scene::placed(cluster, |_| vec![vec![FIRST]; 2]);
    let topic = scene.topic("clone.failed");
    let others: Vec<Place> =
        every_place(2).into_iter().filter(|(topic, _)| *topic != "clone.failed").collect();
    let mut first = scene.daemon(&MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    deny_reading(&cluster.servers, &topic);
    scene.kafka.send(good(&scene, ("clone.failed", 0), "denied"));
    assert_takes(&scene, &others, SOON);
    let mut second = scene.daemon(&MEMBER);
    second.wait_ready(SOON);
    assert_takes(&scene, &others, SOON);
    let said = || [lines(&first, &["WARN", "ERROR"]), lines(&second, &["WARN", "ERROR"])].concat();
    assert!(said().iter().any(|line| line.contains(&topic)), "no line names the topic: {:#?}", said());
    allow_reading(&cluster.servers, &topic);
    wait_for_rows(&scene, "clone.failed", "denied", 1, SOON * 2);
    assert_takes(&scene, &every_place(2), SOON);
    first.wait_ready(SOON);
}

#[test]
fn partitions_added_to_a_topic_are_read_from_their_first_record() {
    let mut scene = Scene::new(real_kafka!(), 1);
    let _daemon = scene.daemon(&MEMBER);
    assert_takes(&scene, &every_place(1), SOON);
    let topic = scene.topic("clone.failed");
    scene.kafka.add_partitions(&topic, 3);
    scene.kafka = Kafka::at(&scene.servers); // a producer that knows them
    eventually_eq(SOON, "the new partition to have a leader", true, || {
        scene.kafka.leader(&topic, 2).is_some()
    });
    assert_takes(&scene, &[("clone.failed", 0), ("clone.failed", 1), ("clone.failed", 2)], SOON);
    assert_takes(&scene, &every_place(1), SOON);
}

#[test]
fn a_thousand_partitions_start_and_none_is_left_out_when_an_instance_joins() {
    let cluster = or_left_out!(cluster());
    let scene = Scene::placed(cluster, |topic| match topic {
        "clone.expired" | "voiceclone.dead-letters" => vec![vec![FIRST]],
        _ => vec![vec![FIRST]; 200],
    });
    let send = |what: &str| {
        let place = |(topic, n)| good(&scene, (topic, n), &format!("{what}-{n}"));
        scene.kafka.send_all(every_place(200).into_iter().map(place));
    };
    let all_land = |what: &str| {
        let start = Instant::now();
        TOPICS.iter().for_each(|topic| wait_for_rows(&scene, topic, what, 200, MINUTES));
        eprintln!("a thousand partitions: {what} records landed after {:.1?}", start.elapsed());
    };
    send("first");
    let mut first = scene.daemon(&MEMBER);
    all_land("first");
    let since_assigned = first.logs().iter().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_assignment = line["message"] == "partitions are assigned";
        let at = chrono::DateTime::parse_from_rfc3339(line["timestamp"].as_str()?).ok()?;
        is_assignment.then(|| chrono::Utc::now() - at.to_utc())
    });
    let seconds = since_assigned.map(|time| time.num_milliseconds() as f64 / 1000.0);
    eprintln!("a thousand partitions: all consumed {seconds:?} s after the assignment");
    send("second");
    let mut second = scene.daemon(&MEMBER);
    all_land("second");
    second.wait_ready(SOON);
    send("third");
    all_land("third");
    first.wait_ready(SOON);
    TOPICS.iter().for_each(|topic| scene.kafka.delete_topic(&scene.topic(topic)));
}
