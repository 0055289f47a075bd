//! Members of the group that come, go, are fenced or killed, and stay through an outage of PostgreSQL.

use std::time::Duration;

use super::*;
use crate::support::left_out::real_kafka;
use crate::support::postgres::PrivateServer;
use crate::support::processes::Signal;
use crate::support::wait::{SOON, eventually, eventually_eq, holds};

#[test]
fn a_static_member_that_another_one_fenced_says_why_and_consumes_again_once_the_other_ends() {
    let scene = Scene::new(real_kafka!(), 2);
    let variables = [&MEMBER[..], &[("KAFKA_GROUP_INSTANCE_ID", "pod-0")]].concat();
    let mut first = scene.daemon(&variables);
    assert_takes(&scene, &every_place(2), SOON);
    let second = scene.daemon(&variables);
    eventually(SOON * 2, "an error that names KAFKA_GROUP_INSTANCE_ID", || {
        let errors = [lines(&first, &["ERROR"]), lines(&second, &["ERROR"])].concat();
        if errors.iter().any(|line| line.contains("KAFKA_GROUP_INSTANCE_ID")) { Ok(()) } else { Err(errors) }
    });
    end(second);
    assert_takes(&scene, &every_place(2), SOON * 2);
    first.wait_ready(SOON);
}

#[test]
fn a_survivor_stays_a_member_while_postgresql_is_away_and_consumes_everything_once_it_is_back() {
    let mut server = PrivateServer::start(&[]);
    let scene = Scene::on(real_kafka!(), Database::on(&server), 3);
    let mut daemons = [0; 3].map(|_| scene.daemon(&IMPATIENT_MEMBER));
    daemons.iter_mut().for_each(|daemon| daemon.wait_ready(SOON));
    assert_takes(&scene, &every_place(3), SOON);
    server.stop_immediately();
    scene
        .kafka
        .send_all(every_place(3).into_iter().map(|place| good(&scene, place, &format!("away-{}", place.1))));
    let [mut survivor, mut second, mut third] = daemons;
    second.signal(Signal::Kill);
    eventually_eq(SOON, "the members of the group", 2, || scene.kafka.group_members(&scene.group));
    third.signal(Signal::Kill);
    eventually_eq(SOON, "the members of the group", 1, || scene.kafka.group_members(&scene.group));
    // longer than max.poll.interval.ms
    holds(Duration::from_secs(12), "the survivor is a member", || {
        std::thread::sleep(Duration::from_millis(500));
        if scene.kafka.group_members(&scene.group) == 1 { Ok(()) } else { Err("it is none") }
    });
    server.start_again();
    for topic in TOPICS {
        wait_for_rows(&scene, topic, "away-", 3, MINUTES);
    }
    assert_takes(&scene, &every_place(3), SOON);
    survivor.wait_ready(SOON);
}

#[test]
fn an_instance_without_partitions_is_ready_and_takes_over_from_one_that_ends() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemons: Vec<Daemon> = (0..6).map(|_| scene.daemon(&MEMBER)).collect();
    daemons.iter_mut().for_each(|daemon| daemon.wait_ready(SOON * 2));
    assert_takes(&scene, &every_place(1), SOON);
    daemons.drain(..3).for_each(end);
    assert_takes(&scene, &every_place(1), SOON);
    daemons.iter_mut().for_each(|daemon| daemon.wait_ready(SOON));
}

#[test]
fn an_instance_that_follows_a_killed_one_consumes_after_the_session_timeout_and_says_what_it_waits_for() {
    let scene = Scene::new(real_kafka!(), 1);
    let session = [("KAFKA_SESSION_TIMEOUT_MS", "10000")];
    let mut killed = scene.daemon(&session);
    assert_takes(&scene, &every_place(1), SOON);
    killed.signal(Signal::Kill);
    killed.wait_exit(SOON);
    let mut daemon = scene.daemon(&session);
    // the session timeout of 10 s, and a moment to start
    assert_takes(&scene, &every_place(1), Duration::from_secs(20));
    daemon.wait_ready(SOON);
    let said = daemon.logs();
    let says = |line: &String| line.contains("waiting for the group") && line.contains("session");
    assert!(said.iter().any(says), "no line says what is waited for: {said:#?}");
}

#[test]
fn a_static_member_that_was_killed_is_back_at_once() {
    let scene = Scene::new(real_kafka!(), 1);
    let variables = [("KAFKA_SESSION_TIMEOUT_MS", "60000"), ("KAFKA_GROUP_INSTANCE_ID", "pod-0")];
    let mut killed = scene.daemon(&variables);
    assert_takes(&scene, &every_place(1), SOON);
    killed.signal(Signal::Kill);
    killed.wait_exit(SOON);
    let _daemon = scene.daemon(&variables);
    assert_takes(&scene, &every_place(1), Duration::from_secs(20));
}
