//! What the harness found, each as a test of its own that needs no luck.

use crate::support::daemon::Daemon;
use crate::support::kafka::{Kafka, Send};
use crate::support::left_out::{private_kafka, real_kafka};
use crate::support::processes::Signal;
use crate::support::scene::Scene;
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
        // The lock that whoever migrates holds.
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
/// the consumer is made anew.
#[test]
fn a_topic_made_anew_after_a_restart_of_the_broker_is_read_by_the_running_instance() {
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

#[test]
fn partitions_lost_while_they_are_paused_are_read_when_they_come_back() {
    let scene = Scene::new(real_kafka!(), 4);
    let mut first = scene.daemon(&[("BATCH_MAX_RECORDS", "1"), ("RUST_LOG", "voiceclone_events=debug")]);
    first.wait_ready(SOON);
    let logged = |daemon: &Daemon, part: &str| {
        daemon.logs().iter().rposition(|line| line.contains(part)).ok_or_else(|| format!("nothing of {part}"))
    };
    std::thread::scope(|scope| {
        let hold = "BEGIN; LOCK TABLE clone_transfer_events IN EXCLUSIVE MODE; SELECT pg_sleep(120)";
        let holder = scope.spawn(|| scene.database.try_rows(hold));
        let held = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        eventually_eq(SOON, "the sessions that lock", "1".to_owned(), || scene.database.value(held));
        scene.kafka.send_all((0..40).map(|number| {
            let value =
                format!(r#"{{"greeting_call_id":"g","agent_call_id":"{number}","cloned_voice_id":"v"}}"#);
            Send::to(&scene.topic("clone.transfer")).partition(number % 4).value(value)
        }));
        eventually(SOON, "the first instance to pause", || logged(&first, "the partitions are paused"));
        let mut second = scene.daemon(&[]);
        let revoked =
            eventually(SOON, "the first one to lose partitions", || logged(&first, "partitions are revoked"));
        eventually(SOON, "the second one to have them", || logged(&second, "a partition starts"));
        second.signal(Signal::Term);
        second.wait_exit(SOON);
        eventually(SOON, "them to come back", || match logged(&first, "a partition starts")? {
            line if line > revoked => Ok(()),
            line => Err(format!("line {line}, not after {revoked}")),
        });
        let end = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM ({}) AS held",
            held.replace("count(*)", "pid")
        );
        scene.database.value(&end);
        assert!(holder.join().unwrap().is_err());
    });
    scene.wait_until_consumed(SOON);
}
