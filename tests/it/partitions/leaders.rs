//! Partitions without a leader. Each test has a broker of its own in the cluster that all of them share.

use std::time::{Duration, Instant};

use super::*;
use crate::support::cluster::{Broker, Cluster, FIRST};
use crate::support::left_out::or_left_out;
use crate::support::processes::Signal;
use crate::support::wait::SOON;

/// The one partition that lies on the test's own broker alone.
const AWAY: Place = ("clone.failed", 1);

/// Topics of two partitions, all on the first broker but for [`AWAY`].
fn scene_with_one_partition_on(cluster: &Cluster, broker: &Broker) -> Scene {
    Scene::placed(cluster, |topic| match topic {
        "clone.failed" => vec![vec![FIRST], vec![broker.id]],
        _ => vec![vec![FIRST], vec![FIRST]],
    })
}

fn others() -> Vec<Place> {
    every_place_but(AWAY, 2)
}

#[test]
fn a_partition_without_a_leader_at_the_start_waits_alone_and_the_log_names_it() {
    let cluster = or_left_out!(cluster());
    let mut broker = cluster.another_broker();
    let scene = scene_with_one_partition_on(cluster, &broker);
    scene.kafka.send(good(&scene, AWAY, "unread"));
    broker.process.stop();
    cluster.wait_until_leaderless(&scene.topic(AWAY.0), AWAY.1);
    let mut daemon = scene.daemon(&MEMBER);
    assert_takes(&scene, &others(), SOON);
    daemon.wait_ready(SOON);
    wait_for_complaint(&[&daemon], &scene, AWAY);
    broker.process.start_again();
    wait_for_rows(&scene, AWAY.0, "unread", 1, SOON);
    assert_takes(&scene, &every_place(2), SOON);
    daemon.wait_ready(SOON);
}

#[test]
fn a_partition_that_loses_its_leader_waits_alone_also_while_instances_come_and_go() {
    let cluster = or_left_out!(cluster());
    let mut broker = cluster.another_broker();
    let scene = scene_with_one_partition_on(cluster, &broker);
    let mut first = scene.daemon(&MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    broker.process.kill();
    cluster.wait_until_leaderless(&scene.topic(AWAY.0), AWAY.1);
    assert_takes(&scene, &others(), Duration::from_secs(15));
    wait_for_complaint(&[&first], &scene, AWAY);
    let mut second = scene.daemon(&MEMBER);
    second.wait_ready(SOON);
    assert_takes(&scene, &others(), SOON);
    end(second);
    assert_takes(&scene, &others(), SOON);
    first.wait_ready(SOON);
    broker.process.start_again();
    assert_takes(&scene, &every_place(2), SOON);
    first.wait_ready(SOON);
}

#[test]
fn a_topic_deleted_while_one_of_its_partitions_has_no_leader_costs_no_member() {
    let cluster = or_left_out!(cluster());
    let mut broker = cluster.another_broker();
    let scene = scene_with_one_partition_on(cluster, &broker);
    let mut first = scene.daemon(&IMPATIENT_MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    let topic = scene.topic(AWAY.0);
    broker.process.stop();
    cluster.wait_until_leaderless(&topic, AWAY.1);
    let mut second = scene.daemon(&IMPATIENT_MEMBER);
    second.wait_ready(SOON);
    scene.kafka.delete_topic(&topic);
    let others: Vec<Place> = every_place(2).into_iter().filter(|(topic, _)| *topic != AWAY.0).collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(15) {
        assert_takes(&scene, &others, Duration::from_secs(15));
    }
    assert_eq!(scene.kafka.group_members(&scene.group), 2);
    scene.kafka.create_topic_on(&topic, &[&[FIRST], &[FIRST]], &[]);
    assert_takes(&scene, &every_place(2), SOON * 2);
    first.wait_ready(SOON);
    second.wait_ready(SOON);
}

#[test]
fn a_broker_that_hangs_holds_up_only_the_partitions_that_it_leads() {
    let cluster = or_left_out!(cluster());
    let mut broker = cluster.another_broker();
    let scene = scene_with_one_partition_on(cluster, &broker);
    let mut daemon = scene.daemon(&MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    broker.process.signal(Signal::Stop);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        assert_takes(&scene, &others(), Duration::from_secs(15));
    }
    daemon.wait_ready(SOON);
    broker.process.signal(Signal::Cont);
    assert_takes(&scene, &every_place(2), SOON);
    daemon.wait_ready(SOON);
}

#[test]
fn partitions_with_a_replica_go_on_with_their_new_leader() {
    let cluster = or_left_out!(cluster());
    let mut broker = cluster.another_broker();
    let scene = Scene::placed(cluster, |_| vec![vec![broker.id, FIRST], vec![FIRST, broker.id]]);
    let mut daemon = scene.daemon(&MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    broker.process.kill();
    assert_takes(&scene, &every_place(2), SOON);
    broker.process.start_again();
    assert_takes(&scene, &every_place(2), SOON);
    daemon.wait_ready(SOON);
    scene.wait_until_consumed(SOON);
}
