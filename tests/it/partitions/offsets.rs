//! Stored offsets that the log does not have, and offsets that hold no record.

use std::time::Duration;

use super::*;
use crate::support::daemon::run_command;
use crate::support::kafka::{Kafka, Transaction};
use crate::support::left_out::real_kafka;
use crate::support::wait::SOON;

/// Calls so large that a consumer fetches only a part of them: first some whose records are deleted unread, then some
/// whose records stay.
fn send_large_calls(scene: &Scene, lost: usize, kept: usize) {
    let transcript = "x".repeat(4096);
    let ids = (0..lost).map(|n| format!("lost-{n}")).chain((0..kept).map(|n| format!("kept-{n}")));
    let call = |id: String| {
        let value = json!({"call_id": id, "status": "initiated", "transcript": transcript});
        Send::to(&scene.topic("call.lifecycle")).partition(0).value(value.to_string())
    };
    scene.kafka.send_all(ids.map(call));
}

/// A consumer falls behind, as `call_log` is locked; its unread records are deleted; and with `joins` a second instance
/// joins meanwhile.
fn records_deleted_under_a_lagging_consumer(kafka: &Kafka, joins: bool) {
    let scene = Scene::new(kafka, 2);
    let mut daemon = scene.daemon(&MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    let lock = Lock::of(&scene.database, "public.call_log");
    send_large_calls(&scene, 9_500, 500);
    let topic = scene.topic("call.lifecycle");
    let end = scene.kafka.watermarks(&topic)[&0].1;
    scene.kafka.delete_records(&topic, 0, end - 500);
    let mut second = joins.then(|| scene.daemon(&MEMBER));
    if let Some(second) = &mut second {
        second.wait_ready(SOON);
    }
    drop(lock);
    assert_takes(&scene, &every_place_but(("call.lifecycle", 0), 2), Duration::from_secs(15));
    wait_for_rows(&scene, "call.lifecycle", "kept-", 500, MINUTES);
    assert!(rows(&scene, "call.lifecycle", "lost-") < 9_500, "no record was lost: the test shows nothing");
    let daemons: Vec<&Daemon> = std::iter::once(&daemon).chain(&second).collect();
    wait_for_complaint(&daemons, &scene, ("call.lifecycle", 0));
    assert_takes(&scene, &every_place(2), SOON);
    daemon.wait_ready(SOON);
}

#[test]
fn records_deleted_under_a_lagging_consumer_cost_those_records_and_stop_nothing_else() {
    records_deleted_under_a_lagging_consumer(real_kafka!(), false);
}

#[test]
fn records_deleted_under_a_lagging_consumer_while_an_instance_joins_stop_nothing_else() {
    records_deleted_under_a_lagging_consumer(real_kafka!(), true);
}

#[test]
fn a_partition_whose_stored_offset_is_outside_the_log_starts_at_its_earliest_record_and_holds_up_no_other() {
    let scene = Scene::new(real_kafka!(), 2);
    let daemon = scene.daemon(&MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    end(daemon);
    let (below, above) = (("call.lifecycle", 0), ("clone.transfer", 1));
    scene.kafka.send_all((0..10).map(|n| good(&scene, below, &format!("below-{n}"))));
    scene.kafka.delete_records(&scene.topic(below.0), 0, 8); // the first record of all, and seven of these
    scene.kafka.send(good(&scene, above, "above"));
    scene.database.run(&format!(
        "UPDATE ingest.consumer_offsets SET next_offset = 1000 WHERE topic = '{}' AND partition = 1",
        scene.topic(above.0)
    ));
    let mut daemon = scene.daemon(&MEMBER);
    wait_for_rows(&scene, below.0, "below-", 3, SOON);
    wait_for_rows(&scene, above.0, "above", 1, SOON);
    assert_takes(&scene, &every_place(2), SOON);
    wait_for_complaint(&[&daemon], &scene, below);
    wait_for_complaint(&[&daemon], &scene, above);
    assert_losses_are_listed(&scene, below, above);
    daemon.wait_ready(SOON);
    assert_eq!(next_offset(&scene, above), scene.kafka.watermarks(&scene.topic(above.0))[&1].1);
}

/// `status` lists both losses, and `tap` knows what became of a record that is gone.
fn assert_losses_are_listed(scene: &Scene, below: (&str, i32), above: (&str, i32)) {
    let finished = run_command(&["status", "--json"], &scene.variables(&[]), MINUTES);
    let document: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished:?}"));
    let problems = document["problems"].as_array().unwrap();
    let lost: Vec<&Value> = problems.iter().filter(|problem| problem["code"] == "offsets_lost").collect();
    let of = |(topic, partition): (&str, i32)| {
        let place = format!("{} partition {partition}: ", scene.topic(topic));
        let what = lost.iter().filter_map(|problem| problem["what"].as_str()?.strip_prefix(&place));
        what.map(str::to_owned).collect::<Vec<_>>()
    };
    let removed = "offsets 1 to 7 were lost before they were consumed, at most 7 records: retention or a deletion of \
                   records had removed them";
    assert_eq!(of(below), [removed], "{document:#}");
    assert!(of(above)[0].starts_with("the log no longer had offset 1000"), "{document:#}");
    assert!(lost.iter().all(|problem| problem["severity"] == "critical" && problem["since"].is_string()));

    let words = ["tap", "--topic", below.0, "--partition", "0", "--offset", "7"];
    let said = run_command(&words, &scene.variables(&[]), MINUTES);
    assert!(said.stdout.contains("consumed   no, it was removed before it was consumed"), "{said:?}");
    assert!(said.stdout.contains("lost       at "), "{said:?}");
}

#[test]
fn offsets_that_hold_no_record_leave_no_lag_and_are_not_missed_once_they_are_deleted() {
    let scene = Scene::new(real_kafka!(), 3);
    let topic = scene.topic("clone.failed");
    let transaction = |end, partition, ids: &[&str]| {
        let records = ids.iter().map(|id| good(&scene, ("clone.failed", partition), id));
        scene.kafka.send_in_transaction(end, records);
    };
    let delete_all = || {
        for (partition, (_, high)) in scene.kafka.watermarks(&topic) {
            scene.kafka.delete_records(&topic, partition, high);
        }
    };
    let mut first = scene.daemon(&MEMBER);
    first.wait_ready(SOON);
    transaction(Transaction::Commit, 0, &["c1", "c2", "c3", "c4", "c5"]);
    transaction(Transaction::Abort, 0, &["a1", "a2", "a3", "a4", "a5", "a6", "a7"]);
    transaction(Transaction::Abort, 1, &["a8"]);
    transaction(Transaction::Commit, 2, &["c6"]);
    wait_for_rows(&scene, "clone.failed", "c", 6, SOON);
    wait_for_no_lag(&scene);
    assert_eq!(rows(&scene, "clone.failed", "a"), 0, "aborted records count for nothing");
    delete_all(); // under the running daemon
    assert_takes(&scene, &[("clone.failed", 0), ("clone.failed", 1), ("clone.failed", 2)], SOON);
    transaction(Transaction::Abort, 0, &["a9"]);
    transaction(Transaction::Commit, 1, &["c7"]);
    wait_for_rows(&scene, "clone.failed", "c7", 1, SOON);
    wait_for_no_lag(&scene);
    first.signal(crate::support::processes::Signal::Term);
    assert_eq!(first.wait_exit(SOON), 0);
    delete_all(); // while no daemon runs
    let mut second = scene.daemon(&MEMBER);
    second.wait_ready(SOON);
    assert_takes(&scene, &every_place(3), SOON);
    wait_for_no_lag(&scene);
    for daemon in [&first, &second] {
        let about = lines(daemon, &["WARN", "ERROR"]).into_iter().filter(|line| line.contains(&topic));
        assert_eq!(about.collect::<Vec<_>>(), Vec::<String>::new(), "no offset was lost");
    }
}

#[test]
fn a_topic_recreated_beside_the_daemon_is_read_and_the_others_pause_for_at_most_ten_seconds() {
    let scene = Scene::new(real_kafka!(), 2);
    let mut daemon = scene.daemon(&MEMBER);
    for _ in 0..3 {
        assert_takes(&scene, &every_place(2), SOON);
    }
    let topic = scene.topic("clone.transfer");
    scene.kafka.delete_topic(&topic);
    scene.kafka.create_topic(&topic, 2, &[]);
    scene.kafka.send_all([0, 1].map(|n| good(&scene, ("clone.transfer", n), &format!("new-{n}"))));
    let others: Vec<Place> =
        every_place(2).into_iter().filter(|(topic, _)| *topic != "clone.transfer").collect();
    rarely(SOON, "the records of the recreated topic to land", || {
        // the contract's 10 s, and a moment for this to look
        assert_takes(&scene, &others, Duration::from_secs(12));
        match rows(&scene, "clone.transfer", "new-") {
            2 => Ok(()),
            seen => Err(seen),
        }
    });
    assert_takes(&scene, &every_place(2), SOON);
    daemon.wait_ready(SOON);
}

#[test]
fn a_topic_deleted_beside_the_daemon_holds_up_no_other_and_is_read_once_it_is_there_again() {
    let scene = Scene::new(real_kafka!(), 2);
    let mut daemon = scene.daemon(&IMPATIENT_MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    let topic = scene.topic("clone.failed");
    scene.kafka.delete_topic(&topic);
    let others: Vec<Place> =
        every_place(2).into_iter().filter(|(topic, _)| *topic != "clone.failed").collect();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(12) {
        assert_takes(&scene, &others, Duration::from_secs(12));
    }
    daemon.wait_ready(SOON);
    scene.kafka.create_topic(&topic, 2, &[]);
    assert_takes(&scene, &every_place(2), SOON * 2);
    daemon.wait_ready(SOON);
}
