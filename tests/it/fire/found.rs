//! The findings of the harness, each as a deterministic test.

use std::time::Duration;

use super::stage::broker_behind_proxy;
use crate::support::daemon::{Daemon, run_command};
use crate::support::kafka::{Kafka, Send};
use crate::support::left_out::{or_left_out, private_kafka, real_kafka};
use crate::support::processes::Signal;
use crate::support::proxy::Mode;
use crate::support::scene::{Scene, TOPICS};
use crate::support::wait::{SOON, eventually, eventually_eq};

#[test]
fn a_connection_lost_while_migrating_is_waited_out() {
    let scene = Scene::new(real_kafka!(), 1);
    let end_of_sessions = |which: &str, what: &str| {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND {which}"
        );
        eventually(SOON, what, || match scene.database.value(&sql).as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        });
    };
    std::thread::scope(|scope| {
        // The lock of a migration.
        let hold = "SELECT pg_advisory_lock(x'766f696365636c6f'::bit(64)::bigint); SELECT pg_sleep(300)";
        let holder = scope.spawn(|| scene.database.try_rows(hold));
        eventually(SOON, "the lock to be held", || {
            let held =
                scene.database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted");
            if held == "0" { Err(held) } else { Ok(()) }
        });
        let mut daemon = scene.daemon(&[]);
        end_of_sessions(
            "wait_event_type = 'Lock' AND wait_event = 'advisory'",
            "the daemon to wait for the lock",
        );
        end_of_sessions("wait_event = 'PgSleep'", "the lock's holder to end");
        assert!(holder.join().unwrap().is_err());
        daemon.wait_ready(SOON);
    });
}

/// A restart of the broker raises the leader epoch of each partition, and that of a new topic begins at 0. librdkafka
/// 2.12 keeps the higher one and ignores the new topic's (`rd_kafka_toppar_leader_update`): it fetches in vain until
/// the consumer is recreated.
#[test]
fn a_topic_recreated_after_a_restart_of_the_broker_is_read_by_the_running_instance() {
    let mut broker = private_kafka!();
    let scene = Scene::new(&Kafka::at(&broker.servers), 1);
    let topic = scene.topic("clone.transfer");
    let send = |count: usize, name: &str| {
        scene.kafka.send_all((0..count).map(|number| {
            let value = format!(
                r#"{{"greeting_call_id":"{name}","agent_call_id":"{number}","cloned_voice_id":"v"}}"#
            );
            Send::to(&topic).value(value)
        }));
    };
    let transfers = || scene.database.value("SELECT count(*) FROM clone_transfer_events");
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(SOON);
    broker.stop();
    broker.start_again();
    send(10, "before");
    eventually_eq(SOON * 2, "the transfers", "10".to_owned(), transfers);
    scene.kafka.delete_topic(&topic);
    scene.kafka.create_topic(&topic, 1, &[]);
    send(3, "after");
    eventually_eq(SOON * 2, "the transfers", "13".to_owned(), transfers);
    assert!(daemon.is_running());
}

/// A consumer knows the leader epochs of all partitions of its topics, including those of other members. When a topic
/// was recreated in its lifetime and it is assigned partitions of the topic later, it may fetch in vain.
#[test]
fn a_recreated_topic_is_noticed_by_an_instance_that_has_none_of_its_partitions() {
    let mut broker = private_kafka!();
    let scene = Scene::new(&Kafka::at(&broker.servers), 1);
    let mut first = scene.daemon(&[]);
    first.wait_ready(SOON);
    broker.stop();
    broker.start_again();
    let mut second = scene.daemon(&[]);
    second.wait_ready(SOON * 2);
    let seconds = |name: &&&str| logged(&second, &format!("{}/0", scene.topic(name))).is_ok();
    let name = *["clone.transfer", "clone.failed", "call.lifecycle", "clone.ready", "caller.voice_mapping"]
        .iter()
        .find(|name| !seconds(name))
        .unwrap();
    let topic = scene.topic(name);
    let send = |count: usize| scene.kafka.send_all((0..count).map(|_| Send::to(&topic).value("no event")));
    let read = |count: &str| {
        let stored = "SELECT next_offset FROM ingest.consumer_offsets WHERE topic";
        let stored = || scene.database.value(&format!("{stored} = '{topic}'"));
        eventually_eq(SOON * 2, "the stored offset", count.to_owned(), stored);
    };
    send(10);
    read("10");
    scene.kafka.delete_topic(&topic);
    scene.kafka.create_topic(&topic, 1, &[]);
    send(3);
    read("3");
    eventually(SOON, "a new consumer of the second instance", || logged(&second, "the topic was recreated"));
    first.signal(Signal::Term);
    assert_eq!(first.wait_exit(SOON), 0);
    send(2);
    read("5");
    assert!(second.is_running());
}

/// Text of the log line with the partitions that are read.
const READ: &str = r#"read","partitions":"#;

/// The index of the last such line in the log of a daemon.
fn logged(daemon: &Daemon, part: &str) -> Result<usize, String> {
    daemon.logs().iter().rposition(|line| line.contains(part)).ok_or_else(|| format!("nothing of {part}"))
}

/// Locks a table against writes, runs something, and unlocks the table if that has not done so.
fn while_locked(table: &str, scene: &Scene, do_it: impl FnOnce(&dyn Fn())) {
    let held =
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    let release = || {
        scene.database.value(&format!("SELECT count(pg_terminate_backend(pid)) FROM ({held}) AS held"));
    };
    std::thread::scope(|scope| {
        let hold = format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE; SELECT pg_sleep(120)");
        let holder = scope.spawn(move || scene.database.try_rows(&hold));
        eventually_eq(SOON, "the sessions that lock", 1, || scene.database.rows(held).len());
        do_it(&release);
        release();
        assert!(holder.join().unwrap().is_err());
    });
}

/// Waits until this number of sessions that insert into a table wait for a lock.
fn wait_for_blocked_writes(scene: &Scene, table: &str, count: usize) {
    let blocked = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
         AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO {table}%'"
    );
    eventually_eq(SOON, "the writes that wait for the lock", count, || scene.database.rows(&blocked).len());
}

/// Sends `count` transfers, to one partition after the other.
fn send_transfers(scene: &Scene, count: i32, partitions: i32) {
    scene.kafka.send_all((0..count).map(|number| {
        let value = format!(r#"{{"greeting_call_id":"g","agent_call_id":"{number}","cloned_voice_id":"v"}}"#);
        Send::to(&scene.topic("clone.transfer")).partition(number % partitions).value(value)
    }));
}

#[test]
fn partitions_lost_while_they_are_paused_are_read_when_they_come_back() {
    let scene = Scene::new(real_kafka!(), 4);
    let mut first = scene.daemon(&[("BATCH_MAX_RECORDS", "1"), ("RUST_LOG", "voiceclone_events=debug")]);
    first.wait_ready(SOON);
    while_locked("clone_transfer_events", &scene, |_| {
        send_transfers(&scene, 40, 4);
        eventually(SOON, "the first instance to pause", || logged(&first, "partitions are paused"));
        partitions_go_to_another_one_and_come_back(&scene, &first);
    });
    scene.wait_until_consumed(SOON);
}

fn partitions_go_to_another_one_and_come_back(scene: &Scene, first: &Daemon) {
    let mut second = scene.daemon(&[]);
    let revoked =
        eventually(SOON, "the first one to lose partitions", || logged(first, "partitions are revoked"));
    eventually(SOON, "the second one to have them", || logged(&second, READ));
    second.signal(Signal::Term);
    second.wait_exit(SOON);
    eventually(SOON, "them to come back", || match logged(first, READ)? {
        line if line > revoked => Ok(()),
        line => Err(format!("line {line}, not after {revoked}")),
    });
}

#[test]
fn unusable_records_of_a_partition_that_goes_and_comes_back_while_they_are_written_are_counted_once() {
    let scene = Scene::new(real_kafka!(), 2);
    let send_bad = |each: usize| {
        let places = TOPICS.into_iter().flat_map(|topic| [(topic, 0), (topic, 1)]);
        let bad = |(topic, partition)| Send::to(&scene.topic(topic)).partition(partition).value("no event");
        scene.kafka.send_all(places.flat_map(|place| std::iter::repeat_n(place, each)).map(bad));
    };
    let mut first = scene.daemon(&[("RUST_LOG", "voiceclone_events=debug")]);
    first.wait_ready(SOON);
    while_locked("ingest.dead_letters", &scene, |_| {
        send_bad(10);
        wait_for_blocked_writes(&scene, "ingest.dead_letters", 2);
        partitions_go_to_another_one_and_come_back(&scene, &first);
    });
    scene.wait_until_consumed(SOON);
    // By the time that these are counted, a double count would have happened.
    send_bad(1);
    scene.wait_until_consumed(SOON);
    let counts = "SELECT DISTINCT next_offset || ', ' || dead_in_a_row FROM ingest.consumer_offsets";
    assert_eq!(scene.database.rows(counts), [[Some("11, 11".to_owned())]]);
}

/// See the test after this one.
#[test]
fn a_replay_whose_client_the_brokers_no_longer_answer_goes_on_with_another_one() {
    or_left_out!(crate::support::kafka::available());
    let (broker, proxy) = broker_behind_proxy();
    let scene = Scene::new(&broker, 1);
    let text = "x".repeat(1 << 20);
    let topic = scene.topic("clone.failed");
    // More than a client fetches ahead.
    for number in 0..30 {
        let value = format!(r#"{{"caller_id":"c","greeting_call_id":"{number}","error_message":"{text}"}}"#);
        scene.kafka.send(Send::to(&topic).value(value));
    }
    let address = proxy.address();
    let variables =
        scene.variables(&[("KAFKA_BOOTSTRAP_SERVERS", &address), ("KAFKA_SOCKET_TIMEOUT_MS", "300000")]);
    assert_eq!(run_command(&["migrate", "up"], &variables, SOON).code, 0);
    let mut replay = None;
    while_locked("clone_failed_events", &scene, |_| {
        replay = Some(Daemon::start(&["replay", "--topic", "clone.failed"], &variables));
        wait_for_blocked_writes(&scene, "public.clone_failed_events", 1);
        proxy.silence();
    });
    assert_eq!(replay.unwrap().wait_exit(SOON * 4), 0);
    assert_eq!(scene.database.value("SELECT count(*) FROM clone_failed_events"), "30");
}

/// A client that receives metadata without brokers (sent for a moment after an outage) never connects again:
/// https://github.com/confluentinc/librdkafka/issues/5301. Here its connections go silent, and it waits for answers.
#[test]
fn an_instance_whose_clients_the_brokers_no_longer_answer_goes_on_with_others() {
    or_left_out!(crate::support::kafka::available());
    let (broker, proxy) = broker_behind_proxy();
    let scene = Scene::new(&broker, 1);
    let address = proxy.address();
    let mut daemon = scene.daemon(&[
        ("KAFKA_BOOTSTRAP_SERVERS", &address),
        ("KAFKA_SESSION_TIMEOUT_MS", "6000"),
        ("KAFKA_SOCKET_TIMEOUT_MS", "300000"),
    ]);
    daemon.wait_ready(SOON);
    scene.kafka.send(Send::to(&scene.topic("clone.failed")).value("no event"));
    let letters = || scene.kafka.read_all(&scene.topic("voiceclone.dead-letters")).len();
    eventually_eq(SOON, "the published dead letters", 1, letters);
    proxy.silence();
    send_transfers(&scene, 3, 1);
    scene.kafka.send(Send::to(&scene.topic("clone.failed")).value("no event"));
    let transfers = || scene.database.value("SELECT count(*) FROM clone_transfer_events");
    eventually_eq(SOON * 4, "the transfers", "3".to_owned(), transfers);
    eventually_eq(SOON * 2, "the published dead letters", 2, letters);
    daemon.wait_ready(SOON);
}

/// A gathered batch was due, and its partitions had been revoked: the loop was busy with writing nothing, forever.
#[test]
fn an_instance_that_lost_all_that_it_had_gathered_reads_on() {
    let scene = Scene::new(real_kafka!(), 1);
    let session = [("KAFKA_SESSION_TIMEOUT_MS", "2000"), ("KAFKA_HEARTBEAT_INTERVAL_MS", "500")];
    let patient = [("KAFKA_SESSION_TIMEOUT_MS", "30000"), ("KAFKA_HEARTBEAT_INTERVAL_MS", "3000")];
    let variables = [("BATCH_MAX_RECORDS", "1"), ("RUST_LOG", "voiceclone_events=debug")];
    let mut first = scene.daemon(&[variables, session].concat());
    first.wait_ready(SOON);
    while_locked("clone_transfer_events", &scene, |release| {
        send_transfers(&scene, 10, 1);
        eventually(SOON, "the first instance to pause", || logged(&first, "partitions are paused"));
        first.signal(Signal::Stop);
        // Only after some seconds does it notice that the group has changed, and lets the first one in again.
        let mut second = scene.daemon(&patient);
        eventually(SOON, "the second one to have its partitions", || logged(&second, READ));
        first.signal(Signal::Cont);
        eventually(SOON, "the first one to lose them", || logged(&first, "partitions are revoked"));
        release();
        second.signal(Signal::Term);
        second.wait_exit(SOON);
    });
    scene.wait_until_consumed(SOON);
}

/// The task that asks the broker for starting offsets holds the consumer, too, and a consumer leaves its group only when
/// its last holder drops it: the process had ended before.
#[test]
fn an_instance_that_ends_while_it_asks_where_its_partitions_start_leaves_its_group() {
    or_left_out!(crate::support::kafka::available());
    let (broker, proxy) = broker_behind_proxy();
    let scene = Scene::new(&broker, 1);
    let address = proxy.address();
    proxy.set(Mode::Delay(Duration::from_millis(800)));
    let mut daemon =
        scene.daemon(&[("KAFKA_BOOTSTRAP_SERVERS", &address), ("KAFKA_SESSION_TIMEOUT_MS", "120000")]);
    eventually(SOON * 4, "partitions to be assigned", || logged(&daemon, "partitions are assigned"));
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(Duration::from_secs(10)), 0);
    eventually_eq(SOON, "the members of the group", 0, || scene.kafka.group_members(&scene.group));
}
