//! `replay`: a range of a topic read again, beside the daemon, and an empty database filled again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Finished, run_command};
use crate::support::kafka::Send;
use crate::support::left_out::real_kafka;
use crate::support::postgres::Database;
use crate::support::processes::Signal;
use crate::support::scene::{Scene, TOPICS};
use crate::support::tables;
use crate::support::wait::{SOON, eventually};
use voiceclone_events::traffic::{Scenario, traffic};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(300);

/// 2026-01-15T10:00:00Z in milliseconds.
const TEN: i64 = 1_768_471_200_000;

fn send_traffic(scene: &Scene, calls: u64, seed: u64) {
    let plan = Scenario { calls, seed, disorder: true, start: TEN, spacing_ms: 50, ttl_seconds: None };
    scene.send(traffic(&plan).map(|sent| sent.record));
}

fn migrate(scene: &Scene) {
    let migrated = run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
}

/// Replays with `--json`, and expects that it succeeds.
fn replay(scene: &Scene, arguments: &[&str], variables: &[(&str, &str)]) -> (Value, Finished) {
    let arguments = [&["replay", "--json", "--topic"], arguments].concat();
    let finished = run_command(&arguments, &scene.variables(variables), MINUTES);
    assert_eq!(finished.code, 0, "{finished:?}");
    let value =
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    (value, finished)
}

/// Sends ten transfers to a partition, a second apart; their agents are named after partition and offset.
fn send_ten_transfers(scene: &Scene, partition: i32) {
    scene.kafka.send_all((0..10).map(|offset| {
        let value = format!(
            r#"{{"greeting_call_id":"g","agent_call_id":"{partition}/{offset}","cloned_voice_id":"v"}}"#
        );
        Send::to(&scene.topic("clone.transfer"))
            .partition(partition)
            .timestamp(TEN + 1000 * offset)
            .value(value)
    }));
}

fn agents(scene: &Scene) -> Vec<String> {
    let rows = scene.database.rows("SELECT agent_call_id FROM clone_transfer_events ORDER BY 1");
    rows.into_iter().flatten().flatten().collect()
}

#[test]
fn a_replay_repairs_a_table_beside_the_daemon_and_a_dry_run_foretells_it_without_writing() {
    let scene = Scene::new(real_kafka!(), 2);
    let variables = scene.variables(&[]);
    let sent = run_command(&["simulate", "--calls", "200", "--seed", "5", "--disorder"], &variables, MINUTES);
    assert_eq!(sent.code, 0, "{sent:?}");
    let mut daemon = scene.daemon(&[]);
    scene.assert_as_the_model_says(MINUTES);
    let whole = tables::read(&scene.database);
    let stored =
        "SELECT group_id, topic, partition, next_offset FROM ingest.consumer_offsets ORDER BY 1, 2, 3";
    let offsets = || {
        let in_kafka: Vec<_> =
            TOPICS.iter().map(|topic| scene.kafka.group_offsets(&scene.group, &scene.topic(topic))).collect();
        (scene.database.rows(stored), in_kafka)
    };
    // The daemon commits to Kafka a moment later.
    let offsets_before = eventually(SOON, "all offsets to be committed to Kafka", || {
        let seen = offsets();
        let committed: i64 = seen.1.iter().flat_map(|partitions| partitions.values()).sum();
        let of_database: i64 =
            seen.0.iter().map(|row| row[3].as_ref().unwrap().parse::<i64>().unwrap()).sum();
        if committed == of_database { Ok(seen) } else { Err(seen) }
    });
    scene
        .database
        .run("DELETE FROM clone_ready_events WHERE id IN (SELECT id FROM clone_ready_events LIMIT 5)");

    let broken = tables::read(&scene.database);
    let (told, _) = replay(&scene, &["clone.ready", "--dry-run"], &[]);
    tables::assert_same(&tables::read(&scene.database), &broken);

    let (done, _) = replay(&scene, &["clone.ready"], &[]);
    tables::assert_same(&tables::read(&scene.database), &whole);
    assert_eq!(done["tables"]["clone_ready_events"]["made"], 5);
    assert_eq!(told["tables"], done["tables"], "predicted and done are the same");
    assert_eq!(offsets(), offsets_before, "the group's offsets are not moved");
    assert!(daemon.is_running());
    let assigned = daemon.logs().iter().filter(|line| line.contains("partitions are assigned")).count();
    assert_eq!(assigned, 1, "the group did not notice");
}

#[test]
fn a_range_of_times_has_the_record_at_its_start_and_not_the_one_at_its_end() {
    let scene = Scene::new(real_kafka!(), 1);
    migrate(&scene);
    send_ten_transfers(&scene, 0);
    let from_to = |from, to| ["clone.transfer", "--from", from, "--to", to];
    let (done, _) = replay(&scene, &from_to("2026-01-15T10:00:03Z", "2026-01-15T10:00:06Z"), &[]);
    assert_eq!(agents(&scene), ["0/3", "0/4", "0/5"]);
    assert_eq!(done["tables"]["clone_transfer_events"], json!({ "made": 3, "changed": 0, "left_alone": 0 }));

    let range = |from, to| {
        let (told, _) = replay(&scene, &[&from_to(from, to)[..], &["--dry-run"]].concat(), &[]);
        (told["ranges"][0]["start"].as_i64().unwrap(), told["ranges"][0]["end"].as_i64().unwrap())
    };
    assert_eq!(
        range("2026-01-15 12:00:03+02:00", "2026-01-15T10:00:06"),
        (3, 6),
        "the contract's other forms"
    );
    assert_eq!(range("2026-01-15T10:00:02.000001Z", "2026-01-15T10:00:05.000001Z"), (3, 6));
    assert_eq!(range("2026-01-15T09:00:00Z", "2026-01-15T11:00:00Z"), (0, 10), "all of it");
    assert_eq!(range("2026-01-15T10:00:08Z", "2030-01-01T00:00:00Z"), (8, 10));
    assert_eq!(range("2030-01-01T00:00:00Z", "2031-01-01T00:00:00Z"), (10, 10), "nothing");
    assert_eq!(range("7", "2026-01-15T10:00:09Z"), (7, 9), "an offset and a time");
}

#[test]
fn a_range_of_offsets_of_one_partition_or_of_all() {
    let scene = Scene::new(real_kafka!(), 3);
    migrate(&scene);
    (0..3).for_each(|partition| send_ten_transfers(&scene, partition));
    replay(&scene, &["clone.transfer", "--partition", "1", "--from", "2", "--to", "4"], &[]);
    assert_eq!(agents(&scene), ["1/2", "1/3"]);
    let (done, _) = replay(&scene, &["clone.transfer", "--from", "8"], &[]);
    assert_eq!(agents(&scene), ["0/8", "0/9", "1/2", "1/3", "1/8", "1/9", "2/8", "2/9"]);
    assert_eq!(done["records"], 6);
    assert_eq!(done["outcome"], "done");

    let wrong = ["replay", "--topic", "clone.transfer", "--partition", "7"];
    let refused = run_command(&wrong, &scene.variables(&[]), MINUTES);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("has no partition 7: give --partition from 0 to 2"), "{refused:?}");
}

#[test]
fn a_range_that_retention_has_removed_is_reported_before_it_is_read() {
    let scene = Scene::new(real_kafka!(), 1);
    migrate(&scene);
    send_ten_transfers(&scene, 0);
    scene.kafka.delete_records(&scene.topic("clone.transfer"), 0, 5);
    let (told, finished) = replay(&scene, &["clone.transfer", "--from", "2", "--dry-run"], &[]);
    let warning = "WARNING: the topic no longer has offsets 2 to 4 of partition 0";
    assert!(finished.stderr.contains(warning), "{finished:?}");
    assert_eq!(told["ranges"][0]["eaten"], json!({ "offsets": { "from": 2, "to": 5 } }));
    assert_eq!(told["records"], 5);
    let (_, finished) = replay(&scene, &["clone.transfer", "--from", "2026-01-15T10:00:02Z"], &[]);
    assert!(
        finished.stderr.contains("WARNING") && finished.stderr.contains("retention MAY have"),
        "{finished:?}"
    );
    let (_, finished) = replay(&scene, &["clone.transfer", "--from", "6"], &[]);
    assert!(!finished.stderr.contains("WARNING"), "{finished:?}");
    assert_eq!(agents(&scene).len(), 5);
}

#[test]
fn a_dry_run_foretells_what_the_run_does_whatever_the_batches_and_writes_nothing() {
    let scene = Scene::new(real_kafka!(), 2);
    migrate(&scene);
    send_traffic(&scene, 400, 21);
    let small = [("BATCH_MAX_RECORDS", "23")];
    let large = [("BATCH_MAX_RECORDS", "150")];
    for topic in TOPICS {
        // A part of the rows exists before.
        replay(&scene, &[topic, "--partition", "0", "--from", "10", "--to", "40"], &[]);
        let before = tables::read(&scene.database);
        let letters = tables::dead_letters(&scene.database);
        let (told, _) = replay(&scene, &[topic, "--dry-run"], &small);
        tables::assert_same(&tables::read(&scene.database), &before);
        assert_eq!(tables::dead_letters(&scene.database), letters);

        let (done, _) = replay(&scene, &[topic], &large);
        for field in ["tables", "records", "unusable", "new_dead_letters"] {
            assert_eq!(told[field], done[field], "{field} of {topic}");
        }
        let after = tables::read(&scene.database);
        for (table, rows) in done["tables"].as_object().unwrap() {
            let (before, after) = (&before[table.as_str()], &after[table.as_str()]);
            let made = after.keys().filter(|id| !before.contains_key(*id)).count();
            assert_eq!(rows["made"], made, "{table} of {topic}");
            // A change of the bookkeeping counts, too.
            let changed = before.iter().filter(|(id, row)| after[*id] != **row).count() as u64;
            assert!(rows["changed"].as_u64().unwrap() >= changed, "{table} of {topic}: {changed}, {rows}");
        }
        let new = tables::dead_letters(&scene.database).len() - letters.len();
        assert_eq!(done["new_dead_letters"], new);
        let (again, _) = replay(&scene, &[topic], &small);
        for (table, rows) in again["tables"].as_object().unwrap() {
            assert_eq!(
                (&rows["made"], &rows["changed"]),
                (&json!(0), &json!(0)),
                "{table} of {topic}, again"
            );
        }
    }
}

#[test]
fn ctrl_c_leaves_whole_batches_and_prints_the_commands_that_go_on_from_there() {
    let mut scene = Scene::new(real_kafka!(), 2);
    send_traffic(&scene, 6000, 22);
    let full = std::mem::replace(&mut scene.database, Database::new());
    let cut = std::mem::replace(&mut scene.database, Database::new());
    let arguments = ["replay", "--topic", "call.lifecycle"];
    for database in [full.url(), cut.url(), scene.database.url()] {
        let migrated =
            run_command(&["migrate", "up"], &scene.variables(&[("DATABASE_URL", database)]), MINUTES);
        assert_eq!(migrated.code, 0, "{migrated:?}");
    }
    let on = |database| scene.variables(&[("DATABASE_URL", database), ("BATCH_MAX_RECORDS", "20")]);
    let done = run_command(&arguments, &scene.variables(&[("DATABASE_URL", full.url())]), MINUTES);
    assert_eq!(done.code, 0, "{done:?}");

    let mut interrupted = Daemon::start(&arguments, &on(cut.url()));
    eventually(MINUTES, "some rows", || match cut.value("SELECT count(*) FROM call_log").as_str() {
        "0" => Err(()),
        _ => Ok(()),
    });
    interrupted.signal(Signal::Int);
    assert_eq!(interrupted.wait_exit(SOON), 1);
    let logs = interrupted.logs();
    let commands: Vec<&str> = logs
        .iter()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.contains("--from"))
        .collect();
    assert!(!commands.is_empty(), "{logs:#?}");

    // The commands are exact: a replay of only the finished part makes the same rows.
    for command in &commands {
        let word = |after: &str| {
            let mut words = command.split(' ').skip_while(|word| *word != after);
            words.nth(1).unwrap()
        };
        let (partition, to) = (word("--partition"), word("--from"));
        if to != "0" {
            replay(&scene, &["call.lifecycle", "--partition", partition, "--to", to], &[]);
        }
    }
    tables::assert_same(&tables::read(&cut), &tables::read(&scene.database));
    for command in commands {
        let mut shell = std::process::Command::new("sh");
        let ended = shell.args(["-c", command]).env_clear().envs(on(cut.url())).output().unwrap();
        assert!(ended.status.success(), "{command}: {ended:?}");
    }
    tables::assert_same(&tables::read(&cut), &tables::read(&full));
}

#[test]
fn a_great_many_records_are_replayed_in_bounded_memory_with_rate_and_time_left() {
    let records: i32 =
        std::env::var("REPLAY_TEST_RECORDS").map_or(250_000, |records| records.parse().unwrap());
    let scene = Scene::new(real_kafka!(), 2);
    migrate(&scene);
    let topic = scene.topic("clone.failed");
    scene.kafka.send_all((0..records).map(|number| {
        let value = format!(
            r#"{{"caller_id":"+1555{number}","greeting_call_id":"greeting-{number}","error_message":"no voice","failed_at":1700000000}}"#
        );
        Send::to(&topic).partition(number % 2).value(value)
    }));
    let mut process = Daemon::start(&["replay", "--json", "--topic", "clone.failed"], &scene.variables(&[]));
    let mut peak = 0;
    eventually(MINUTES * 4, "the replay's end", || {
        peak = peak.max(process.peak_memory());
        if process.is_running() { Err(peak) } else { Ok(()) }
    });
    assert_eq!(process.wait_exit(SOON), 0);
    let logs = process.logs();
    println!("{records} records, peak {peak} MiB\n{}", logs.join("\n"));
    assert!(peak > 0 && peak < 200, "{peak} MiB");
    let done: Value = logs.iter().find_map(|line| serde_json::from_str(line).ok()).unwrap();
    let rows = json!({ "made": records, "changed": 0, "left_alone": 0 });
    assert_eq!(done["tables"], json!({ "clone_failed_events": rows, "voice_clone_log": rows }));
    assert!(
        logs.iter().any(|line| line.contains(" %, ") && line.contains("/s, ") && line.ends_with(" left")),
        "{logs:#?}"
    );
}

#[test]
fn a_database_emptied_by_migrations_is_filled_again_byte_for_byte_by_two_instances() {
    let scene = Scene::new(real_kafka!(), 3);
    send_traffic(&scene, 800, 23);
    // An instance expires what is due as soon as it starts: here nothing is.
    let mut daemon = scene.daemon(&[("CACHE_TTL", "36500d")]);
    scene.wait_until_consumed(MINUTES);
    let before = tables::read(&scene.database);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    for arguments in [["migrate", "down", "100"], ["migrate", "up", "100"]] {
        let migrated = run_command(&arguments, &scene.variables(&[]), MINUTES);
        assert_eq!(migrated.code, 0, "{migrated:?}");
    }
    assert_eq!(scene.database.value("SELECT count(*) FROM call_log"), "0");
    assert_eq!(
        scene.database.value("SELECT count(*) FROM ingest.consumer_offsets"),
        "0",
        "nor do offsets stay"
    );
    let _both = [(); 2].map(|()| scene.daemon(&[("CACHE_TTL", "36500d"), ("BATCH_MAX_RECORDS", "70")]));
    scene.wait_until_consumed(MINUTES);
    tables::assert_same(&tables::read(&scene.database), &before);
}
