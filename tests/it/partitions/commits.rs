//! The offsets that the group commits to Kafka, for its own tools.

use super::*;
use crate::support::left_out::real_kafka;
use crate::support::wait::SOON;

/// Calls in each of three partitions.
fn send_calls(scene: &Scene, what: &str, count: i32) {
    let calls = (0..count).map(|n| good(scene, ("call.lifecycle", n % 3), &format!("{what}-{n}")));
    scene.kafka.send_all(calls);
}

#[test]
fn kafka_shows_no_lag_of_a_group_that_has_read_everything_though_nothing_new_comes() {
    let scene = Scene::new(real_kafka!(), 3);
    send_calls(&scene, "first", 1000);
    let mut daemons = vec![scene.daemon(&MEMBER), scene.daemon(&MEMBER), scene.daemon(&MEMBER)];
    wait_for_rows(&scene, "call.lifecycle", "first-", 1000, SOON);
    wait_for_no_lag(&scene);
    for round in ["second", "third"] {
        // one joins and one leaves while records are written
        send_calls(&scene, round, 300);
        daemons.push(scene.daemon(&MEMBER));
        send_calls(&scene, &format!("{round}_again"), 300);
        end(daemons.remove(0));
        wait_for_rows(&scene, "call.lifecycle", round, 600, SOON);
        wait_for_no_lag(&scene);
    }
    daemons.drain(..).for_each(end);
    wait_for_no_lag(&scene);
}

#[test]
fn offsets_are_committed_before_a_clean_exit() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&MEMBER);
    daemon.wait_ready(SOON);
    assert_takes(&scene, &every_place(1), SOON);
    end(daemon);
    for topic in TOPICS {
        let lag = scene.kafka.group_lag(&scene.group, &scene.topic(topic));
        assert_eq!(lag.into_values().collect::<Vec<_>>(), [0], "{topic}");
    }
}
