//! What the harness found, each as a test of its own that needs no luck.

use crate::support::kafka::{Kafka, Send};
use crate::support::left_out::{private_kafka, real_kafka};
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
#[ignore = "fails: a running instance does not read a topic that was made anew after a restart of the broker"]
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
