//! The daemon's log, as a program reads it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Map, Value, json};

use crate::support::daemon::Daemon;
use crate::support::kafka::Send;
use crate::support::left_out::real_kafka;
use crate::support::postgres::PASSWORD;
use crate::support::processes::Signal;
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually};

type Line = Map<String, Value>;

/// All lines, each a JSON object.
fn lines(daemon: &Daemon) -> Vec<Line> {
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    daemon.logs().iter().map(parse).collect()
}

/// The lines whose message begins like this.
fn lines_with(daemon: &Daemon, message: &str) -> Vec<Line> {
    let begins = |line: &Line| line["message"].as_str().is_some_and(|text| text.starts_with(message));
    lines(daemon).into_iter().filter(begins).collect()
}

/// The first such line, once it is there.
fn line(daemon: &Daemon, message: &str) -> Line {
    eventually(SOON * 2, message, || lines_with(daemon, message).into_iter().next().ok_or(daemon.logs()))
}

/// A field is a text for a person, a number or a boolean, and no Rust value in a text.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            let is_debug =
                ["Some(", "None", "Ok(", "Err(", "[\"", "\""].iter().any(|part| text.starts_with(part));
            !is_debug && text.parse::<f64>().is_err()
        }
        Value::Number(_) | Value::Bool(_) => true,
        _ => false,
    }
}

#[test]
fn the_log_says_what_runs_when_it_has_caught_up_what_could_not_be_used_and_that_it_ends() {
    let scene = Scene::new(real_kafka!(), 2);
    let (calls, failed) = (scene.topic("call.lifecycle"), scene.topic("clone.failed"));
    let good = |n: i32| {
        json!({"caller_id": "+12025550143", "greeting_call_id": format!("g-{n}"), "error_message": "e"})
            .to_string()
    };
    scene.kafka.send_all((0..50).map(|n| Send::to(&failed).partition(n % 2).value(good(n))));
    let bad = |value: &str| Send::to(&calls).partition(1).value(value);
    scene.kafka.send_all([bad("no JSON"), bad("no JSON"), bad("{\"call_id\": \"+12025550143\"}")]);
    let mut daemon = scene.daemon(&[("KAFKA_SASL_PASSWORD", "hunter2"), ("CACHE_TTL", "12h")]);

    let first = line(&daemon, "starting");
    assert_eq!(first, lines(&daemon)[0], "the first line");
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    let settings = first["settings"].as_str().unwrap();
    for part in ["CACHE_TTL=12h", &format!("TOPIC_PREFIX={}", scene.prefix), "KAFKA_SASL_PASSWORD=***"] {
        assert!(settings.contains(part), "no {part}: {settings}");
    }
    assert!(settings.contains("DATABASE_URL=postgres") && !settings.contains(PASSWORD), "{settings}");
    let topics = first["topics"].as_str().unwrap();
    assert!(topics.split(", ").any(|topic| topic == calls) && topics.split(", ").count() == 5, "{topics}");

    let caught_up = line(&daemon, "caught up");
    assert_eq!(caught_up["partitions"], 10);
    assert!(caught_up["for_seconds"].is_u64(), "{caught_up:?}");
    let stored = scene.database.value("SELECT sum(next_offset) FROM ingest.consumer_offsets");
    assert_eq!(stored, "53", "everything had landed");

    let dead = lines_with(&daemon, "records that cannot be used are kept as dead letters");
    let of = |reason: &str| {
        dead.iter().find(|line| line["reason"] == reason).unwrap_or_else(|| panic!("{dead:?}"))
    };
    let told = |line: &Line| {
        ["topic", "partition", "first_offset", "last_offset", "count"].map(|field| line[field].clone())
    };
    assert_eq!(told(of("invalid_json")), [json!(calls), json!(1), json!(0), json!(1), json!(2)]);
    assert_eq!(told(of("missing_field")), [json!(calls), json!(1), json!(2), json!(2), json!(1)]);

    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    let ends = line(&daemon, "asked to end");
    assert_eq!(ends["signal"], "SIGTERM");
    assert_eq!(lines(&daemon).last().unwrap()["message"], "shut down cleanly");
    assert_eq!(lines_with(&daemon, "caught up").len(), 1);

    for line in lines(&daemon) {
        for (field, value) in &line {
            assert!(is_plain(value), "{field} is {value} in {line:?}");
        }
    }
    let all = daemon.logs().join("\n");
    assert!(!all.contains("hunter2") && !all.contains("2025550143"), "{all}");
}
