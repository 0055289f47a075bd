//! `simulate`, as it is called again and again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{Daemon, Finished, run_command};
use crate::support::left_out::real_kafka;
use crate::support::processes::{Process, Signal, command};
use crate::support::scene::Scene;
use crate::support::tables;
use crate::support::wait::eventually;

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

fn simulate(scene: &Scene, words: &[&str]) -> Finished {
    let done = run_command(&[&["simulate"], words].concat(), &scene.variables(&[]), MINUTES);
    assert_eq!(done.code, 0, "{done:?}");
    done
}

/// The command that the last line gives, but for the program's name.
fn once_more(done: &Finished) -> Vec<String> {
    let line = done.stdout.lines().last().unwrap();
    let (_, command) = line.split_once("The same records once more: voiceclone-events simulate ").unwrap();
    command.split(' ').map(str::to_owned).collect()
}

#[test]
fn each_time_there_are_other_calls_and_the_earlier_ones_stay_as_they_are() {
    let scene = Scene::new(real_kafka!(), 2);
    let _daemon = scene.daemon(&[]);
    let ids = || {
        let rows = scene.database.rows("SELECT row_to_json(c)::text FROM call_log c ORDER BY call_id");
        rows.into_iter().flatten().flatten().collect::<Vec<_>>()
    };
    let first: Value = serde_json::from_str(&simulate(&scene, &["--calls", "50", "--json"]).stdout).unwrap();
    scene.assert_as_the_model_says(MINUTES);
    let before = ids();
    let second: Value = serde_json::from_str(&simulate(&scene, &["--calls", "50", "--json"]).stdout).unwrap();
    scene.assert_as_the_model_says(MINUTES);
    let after = ids();
    assert_ne!(first["seed"], second["seed"]);
    assert!(before.iter().all(|call| after.contains(call)), "a call of the first time was changed");
    assert!(after.len() > before.len() + 50, "{} and {}", before.len(), after.len());
}

#[test]
fn the_days_of_a_simulation_are_filled_and_its_last_line_sends_the_same_records_again() {
    let scene = Scene::new(real_kafka!(), 2);
    let _daemon = scene.daemon(&[]);
    let done = simulate(&scene, &["--since", "4d", "--calls", "400", "--disorder"]);
    scene.assert_as_the_model_says(MINUTES);
    let calls =
        "SELECT count(DISTINCT created_at::date) >= 4 AND max(call_started_at) < now() AT TIME ZONE 'utc'
                        AND min(call_started_at) > now() AT TIME ZONE 'utc' - INTERVAL '4 days 1 hour'
                 FROM call_log";
    assert_eq!(scene.database.value(calls), "t");
    let long = "SELECT count(*) > 0 FROM call_log WHERE duration_seconds > 1800";
    assert_eq!(scene.database.value(long), "t", "some calls are long");

    let before = tables::read(&scene.database);
    let command = once_more(&done);
    simulate(&scene, &command.iter().map(String::as_str).collect::<Vec<_>>());
    scene.assert_as_the_model_says(MINUTES);
    let mut after = tables::read(&scene.database);
    for (id, row) in after.get_mut("voice_clone_cache").unwrap().iter_mut() {
        // the expiry may have run meanwhile
        let deleted = before["voice_clone_cache"][id]["deleted_at"].clone();
        row.insert("deleted_at", deleted);
    }
    tables::assert_same(&after, &before);
}

#[test]
fn times_that_leave_no_room_for_the_calls_are_wrong_usage() {
    for words in [
        &["--since", "5m"][..],
        &["--since", "2026-01-02T00:00:00Z", "--until", "2026-01-01T00:00:00Z"],
        &["--since", "1970-01-01T00:00:00Z"],
        &["--since", "1d", "--rate", "5"],
        &["--until", "soon"],
    ] {
        let nowhere = [("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")];
        let ended = run_command(&[&["simulate"], words].concat(), &nowhere, MINUTES);
        assert_eq!(ended.code, 2, "{words:?}: {ended:?}");
        assert!(ended.stderr.contains("--since") || ended.stderr.contains("--until"), "{ended:?}");
    }
}

#[test]
fn asked_to_end_simulate_says_what_it_has_sent() {
    let scene = Scene::new(real_kafka!(), 1);
    for signal in [Signal::Term, Signal::Int] {
        let words = ["simulate", "--rate", "20", "--calls", "3000"];
        let mut simulate = Daemon::start(&words, &scene.variables(&[]));
        eventually(MINUTES, "the first records", || {
            let logs = simulate.logs();
            if logs.iter().any(|line| line.contains("records sent")) { Ok(()) } else { Err(logs) }
        });
        simulate.signal(signal);
        assert_eq!(simulate.wait_exit(MINUTES), 0, "{:?}", simulate.logs());
        let logs = simulate.logs();
        assert!(logs.iter().any(|line| line.starts_with("Interrupted: ")), "{logs:?}");
        assert!(logs.iter().any(|line| line.contains("call.lifecycle")), "{logs:?}");
    }
}

#[test]
fn asked_to_end_publish_that_waits_for_input_says_what_it_has_sent() {
    let scene = Scene::new(real_kafka!(), 1);
    for (signal, sent) in [(Signal::Term, 1), (Signal::Int, 2)] {
        let mut program = command(env!("CARGO_BIN_EXE_voiceclone-events"));
        program.args(["publish", "--topic", "call.lifecycle"]).env_clear().envs(scene.variables(&[]));
        program.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut publish = Process::spawn(&mut program, Signal::Kill);
        let mut input = publish.child().stdin.take().unwrap();
        input.write_all(b"{\"call_id\": \"c\", \"status\": \"initiated\"}\n").unwrap();
        let topic = scene.topic("call.lifecycle");
        eventually(MINUTES, "the record", || match scene.kafka.partition_watermarks(&topic, 0) {
            (_, end) if end >= sent => Ok(()),
            ends => Err(ends),
        });
        publish.signal(signal);
        assert_eq!(publish.wait(MINUTES).code(), Some(1));
        let (mut said, mut warned) = (String::new(), String::new());
        std::io::Read::read_to_string(&mut publish.child().stdout.take().unwrap(), &mut said).unwrap();
        std::io::Read::read_to_string(&mut publish.child().stderr.take().unwrap(), &mut warned).unwrap();
        assert!(said.contains("1 record sent to"), "{said}");
        assert!(warned.contains("interrupted before the end of the input"), "{warned}");
        drop(input);
    }
}
