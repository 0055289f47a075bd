//! The amount and contents of the log in an outage.

use std::time::Duration;

use super::*;
use crate::support::left_out::{private_kafka, real_kafka};
use crate::support::postgres::PrivateServer;
use crate::support::wait::{SOON, holds};

/// Duration of the outages.
const OUTAGE: Duration = Duration::from_secs(20);

/// Maximum number of lines for an outage of a minute; one of 20 s has only those of its start and end, not those of each
/// minute.
const LINES: usize = 16;

/// The lines logged during an outage. They name the server that was away, and report its return.
fn assert_bounded(daemon: &Daemon, lines_before: usize, address: &str) {
    let said = || daemon.logs().split_off(lines_before);
    rarely(SOON, "a line that says that it is back", || {
        if said().iter().any(|line| line.contains(" is back")) { Ok(()) } else { Err(said()) }
    });
    let said = said();
    assert!(said.len() <= LINES, "{} lines, not {LINES} at most: {said:#?}", said.len());
    assert!(said.iter().any(|line| line.contains(address)), "no line names {address}: {said:#?}");
}

#[test]
fn an_outage_of_the_broker_makes_few_lines_and_one_when_it_is_over() {
    let mut broker = private_kafka!();
    let scene = Scene::new(&broker, 2);
    let mut daemon = scene.daemon(&[]);
    assert_takes(&scene, &every_place(2), SOON);
    daemon.wait_ready(SOON);
    let before = daemon.logs().len();
    broker.stop();
    rarely(SOON, "/readyz to be 503", || match daemon.http_get("/readyz") {
        (503, body) => Ok(body),
        other => Err(other),
    });
    holds(OUTAGE, "the daemon runs", || if daemon.is_running() { Ok(()) } else { Err("ended") });
    broker.start_again();
    assert_takes(&scene, &every_place(2), SOON * 2);
    daemon.wait_ready(SOON);
    assert_bounded(&daemon, before, &scene.servers);
}

#[test]
fn an_outage_of_postgresql_makes_few_lines_and_one_when_it_is_over() {
    let mut server = PrivateServer::start(&[]);
    let scene = Scene::on(real_kafka!(), Database::on(&server), 2);
    let mut daemon = scene.daemon(&[]);
    assert_takes(&scene, &every_place(2), SOON);
    daemon.wait_ready(SOON);
    let before = daemon.logs().len();
    server.stop_immediately();
    scene
        .kafka
        .send_all(every_place(2).into_iter().map(|place| good(&scene, place, &format!("held-{}", place.1))));
    holds(OUTAGE, "the daemon runs", || if daemon.is_running() { Ok(()) } else { Err("ended") });
    server.start_again();
    for topic in TOPICS {
        wait_for_rows(&scene, topic, "held-", 2, SOON);
    }
    daemon.wait_ready(SOON);
    assert_bounded(&daemon, before, &server.address());
}
