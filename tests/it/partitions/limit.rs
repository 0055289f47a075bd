//! `DEAD_LETTER_LIMIT` (contract, section 6): only the partition that reaches it stops, until `dead-letters accept`.

use std::time::Duration;

use super::*;
use crate::support::daemon::{Finished, run_command};
use crate::support::left_out::real_kafka;
use crate::support::wait::{SOON, holds};

/// The partitions that are stopped, by topic without prefix.
fn stopped(scene: &Scene) -> Vec<(String, String)> {
    let sql = format!(
        "SELECT topic, partition::text FROM ingest.consumer_offsets
         WHERE group_id = '{}' AND stopped_at IS NOT NULL ORDER BY 1, 2",
        scene.group
    );
    let text = |value: &Option<String>| value.clone().unwrap();
    let place = |row: &Vec<Option<String>>| {
        (text(&row[0]).strip_prefix(&scene.prefix).unwrap().to_owned(), text(&row[1]))
    };
    scene.database.rows(&sql).iter().map(place).collect()
}

fn wait_for_stopped(scene: &Scene, places: &[Place]) {
    let expected: Vec<_> = places.iter().map(|(topic, p)| ((*topic).to_owned(), p.to_string())).collect();
    rarely(SOON, &format!("the stopped partitions to be {expected:?}"), || match stopped(scene) {
        seen if seen == expected => Ok(()),
        seen => Err(seen),
    });
}

fn wait_for_dead_in_a_row(scene: &Scene, (topic, partition): Place, count: i64) {
    let sql = format!(
        "SELECT dead_in_a_row::text FROM ingest.consumer_offsets WHERE topic = '{}' AND partition = {partition}",
        scene.topic(topic)
    );
    rarely(SOON, &format!("{count} dead letters in a row"), || match scene.database.value(&sql) {
        seen if seen == count.to_string() => Ok(()),
        seen => Err(seen),
    });
}

fn accept(scene: &Scene, place: &[&str]) -> Finished {
    let arguments = [&["dead-letters", "accept"], place].concat();
    let finished = run_command(&arguments, &scene.variables(&[]), SOON);
    assert_eq!(finished.code, 0, "{finished:?}");
    finished
}

/// Nothing of a stopped partition is read, though there is a good record.
fn assert_stays_stopped(scene: &Scene, place: Place, id: &str, time: Duration) {
    scene.kafka.send(good(scene, place, id));
    let before = next_offset(scene, place);
    holds(time, "the partition is stopped", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = next_offset(scene, place);
        if now == before && rows(scene, place.0, id) == 0 { Ok(()) } else { Err(now) }
    });
}

#[test]
fn only_the_partition_that_reaches_the_limit_stops_until_an_operator_accepts() {
    let scene = Scene::new(real_kafka!(), 3);
    let place = ("call.lifecycle", 1);
    let others = every_place_but(place, 3);
    let variables = [&MEMBER[..], &[("DEAD_LETTER_LIMIT", "5")]].concat();
    let mut daemons = [0; 3].map(|_| scene.daemon(&variables));
    assert_takes(&scene, &every_place(3), SOON);
    scene.kafka.send_all((0..8).map(|_| bad(&scene, place)));
    wait_for_stopped(&scene, &[place]);
    assert_takes(&scene, &others, SOON);
    assert_stays_stopped(&scene, place, "behind", Duration::from_secs(6));
    let letters: usize = scene.database.value("SELECT count(*) FROM ingest.dead_letters").parse().unwrap();
    assert!((5..=8).contains(&letters), "the batch in which the limit is reached lands: {letters}");
    for daemon in &mut daemons {
        assert!(daemon.is_running());
        daemon.wait_ready(SOON);
    }
    let says = daemons.iter().flat_map(|daemon| complaints(daemon, &scene, place)).collect::<Vec<_>>();
    assert!(says.iter().any(|line| line.contains("dead-letters accept")), "{says:?}");
    daemons.into_iter().for_each(end);

    let mut daemon = scene.daemon(&[&MEMBER[..], &[("DEAD_LETTER_LIMIT", "100")]].concat());
    assert_takes(&scene, &others, SOON);
    assert_stays_stopped(&scene, place, "further behind", Duration::from_secs(3));
    daemon.wait_ready(SOON);
    let marks = scene.kafka.watermarks(&scene.topic(place.0))[&place.1];
    assert!(marks.1 - next_offset(&scene, place) >= 2, "its lag grows");
    let accepted = accept(&scene, &["--topic", place.0, "--partition", "1"]);
    assert!(accepted.stdout.contains(&scene.topic(place.0)), "{accepted:?}");
    wait_for_rows(&scene, place.0, "behind", 1, FOLLOWED);
    wait_for_rows(&scene, place.0, "further behind", 1, FOLLOWED);
    assert_eq!(stopped(&scene), []);
    assert_takes(&scene, &every_place(3), SOON);
    assert_eq!(scene.database.value("SELECT count(*) FROM ingest.dead_letters"), "8");
    assert!(daemon.is_running());
}

#[test]
fn accept_touches_stopped_partitions_only() {
    let scene = Scene::new(real_kafka!(), 2);
    let (counting, stops) = (("call.lifecycle", 0), ("clone.failed", 1));
    let _daemon = scene.daemon(&[&MEMBER[..], &[("DEAD_LETTER_LIMIT", "5")]].concat());
    assert_takes(&scene, &every_place(2), SOON);
    scene.kafka.send_all((0..3).map(|_| bad(&scene, counting)));
    wait_for_dead_in_a_row(&scene, counting, 3);
    accept(&scene, &[]); // no partition is stopped
    wait_for_dead_in_a_row(&scene, counting, 3);
    scene.kafka.send_all((0..5).map(|_| bad(&scene, stops)));
    wait_for_stopped(&scene, &[stops]);
    accept(&scene, &["--topic", "clone.failed", "--partition", "0"]);
    accept(&scene, &["--topic", "call.lifecycle"]);
    assert_stays_stopped(&scene, stops, "behind", Duration::from_secs(6));
    accept(&scene, &[]);
    wait_for_rows(&scene, stops.0, "behind", 1, FOLLOWED);
    wait_for_stopped(&scene, &[]);
    wait_for_dead_in_a_row(&scene, counting, 3);
    scene.kafka.send_all((0..2).map(|_| bad(&scene, counting)));
    wait_for_stopped(&scene, &[counting]);
}

#[test]
fn each_partition_is_counted_alone_and_over_restarts() {
    let scene = Scene::new(real_kafka!(), 2);
    let (first, second) = (("clone.ready", 0), ("clone.ready", 1));
    let variables = [&MEMBER[..], &[("DEAD_LETTER_LIMIT", "5")]].concat();
    let daemon = scene.daemon(&variables);
    assert_takes(&scene, &every_place(2), SOON);
    scene.kafka.send_all((0..8).map(|n| bad(&scene, if n % 2 == 0 { first } else { second })));
    wait_for_dead_in_a_row(&scene, first, 4);
    wait_for_dead_in_a_row(&scene, second, 4);
    assert_eq!(stopped(&scene), []);
    end(daemon);
    let _daemon = scene.daemon(&variables);
    scene.kafka.send(bad(&scene, first));
    wait_for_stopped(&scene, &[first]);
    assert_takes(&scene, &every_place_but(first, 2), SOON);
    wait_for_dead_in_a_row(&scene, second, 0);
    assert_eq!(stopped(&scene).len(), 1);
}

#[test]
fn a_recreated_topic_stays_stopped_until_an_operator_accepts() {
    let scene = Scene::new(real_kafka!(), 1);
    let place = ("clone.transfer", 0);
    let mut daemon = scene.daemon(&[&MEMBER[..], &[("DEAD_LETTER_LIMIT", "3")]].concat());
    assert_takes(&scene, &every_place(1), SOON);
    scene.kafka.send_all((0..3).map(|_| bad(&scene, place)));
    wait_for_stopped(&scene, &[place]);
    scene.kafka.delete_topic(&scene.topic(place.0));
    scene.kafka.create_topic(&scene.topic(place.0), 1, &[]);
    scene.kafka.send(good(&scene, place, "new"));
    // longer than the daemon takes to notice
    holds(Duration::from_secs(12), "the partition is stopped", || {
        std::thread::sleep(Duration::from_millis(200));
        if rows(&scene, place.0, "new") == 0 && stopped(&scene).len() == 1 { Ok(()) } else { Err("read") }
    });
    assert_takes(&scene, &every_place_but(place, 1), SOON);
    accept(&scene, &["--topic", place.0]);
    wait_for_rows(&scene, place.0, "new", 1, FOLLOWED);
    assert_takes(&scene, &every_place(1), SOON);
    assert!(daemon.is_running());
}
