//! `/metrics` is as documented, and counts correctly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::partitions::Lock;
use crate::support::daemon::{Daemon, run_command};
use crate::support::kafka::Send;
use crate::support::left_out::{or_left_out, real_kafka};
use crate::support::postgres::{Database, PrivateServer};
use crate::support::prometheus::promtool;
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// A file of the repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the repository.
pub fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A metric as the docs list it, or as a daemon shows it.
#[derive(Debug, Default)]
pub struct Listed {
    kind: String,
    /// In the docs, everything in backticks; of a daemon, names and values of labels.
    labels: BTreeMap<String, BTreeSet<String>>,
    words: BTreeSet<String>,
}

/// The metrics that `docs/metrics.md` lists.
pub fn documented() -> BTreeMap<String, Listed> {
    let mut found = BTreeMap::new();
    for line in text("docs/metrics.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(name) = cells.get(1).and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`')) else {
            continue;
        };
        if !name.starts_with("voiceclone_") && !name.starts_with("process_") {
            continue;
        }
        assert_eq!(cells.len(), 7, "{line}");
        assert!(!cells[4].is_empty() && !cells[5].is_empty(), "meaning and source: {line}");
        let words = cells[3].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let listed = Listed { kind: cells[2].to_owned(), words, ..Listed::default() };
        assert!(found.insert(name.to_owned(), listed).is_none(), "{name} is listed twice");
    }
    found
}

/// The metrics of a daemon's answer.
fn shown(answer: &str) -> BTreeMap<String, Listed> {
    let mut found: BTreeMap<String, Listed> = BTreeMap::new();
    for line in answer.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').unwrap();
            let listed = Listed { kind: kind.to_owned(), ..Listed::default() };
            assert!(found.insert(name.to_owned(), listed).is_none(), "{name} is shown twice");
            assert!(answer.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }
    for (series, _) in series(answer) {
        let (name, labels) = series.split_once('{').unwrap_or((&series, ""));
        let of_histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
        let name = of_histogram.filter(|base| found.contains_key(*base)).unwrap_or(name);
        let listed = found.get_mut(name).unwrap_or_else(|| panic!("{series} has no type"));
        for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once('=').unwrap();
            if name != "le" {
                listed.labels.entry(name.into()).or_default().insert(value.trim_matches('"').into());
            }
        }
    }
    found
}

/// The series of a daemon's answer with their values.
fn series(answer: &str) -> BTreeMap<String, f64> {
    let lines = answer.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}")));
    pairs.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
}

fn now(daemon: &Daemon) -> BTreeMap<String, f64> {
    series(&daemon.http_get("/metrics").1)
}

/// Waits until these series have these values.
fn wait_for(daemon: &Daemon, expected: &[(&str, f64)]) {
    eventually(MINUTES, &format!("{expected:?}"), || {
        let now = now(daemon);
        let seen: Vec<(&str, Option<f64>)> =
            expected.iter().map(|(series, _)| (*series, now.get(*series).copied())).collect();
        let is_as_expected = |((_, seen), (_, expected)): (&(&str, Option<f64>), &(&str, f64))| {
            seen.is_some_and(|seen| (seen - expected).abs() < f64::EPSILON)
        };
        if seen.iter().zip(expected).all(is_as_expected) { Ok(()) } else { Err(seen) }
    });
}

fn failed_clone(id: &str) -> String {
    let failed_at = "2026-01-15T10:00:00Z"; // given, so that a repeat is the same fact
    let value = json!({"caller_id": "+15550100", "greeting_call_id": id, "error_message": "e", "failed_at": failed_at});
    value.to_string()
}

#[test]
fn the_docs_list_every_metric_with_its_labels_and_every_listed_one_is_there_from_the_start() {
    let scene = Scene::new(real_kafka!(), 2);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(MINUTES);
    wait_for(&daemon, &[("voiceclone_database_up", 1.0)]);
    let answer = daemon.http_get("/metrics").1;
    let (shown, documented) = (shown(&answer), documented());
    let names = |of: &BTreeMap<String, Listed>| of.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&shown), names(&documented));
    for (name, listed) in &documented {
        let shown = &shown[name];
        assert_eq!(shown.kind, listed.kind, "{name}");
        let values: BTreeSet<&String> = shown.labels.values().flatten().collect();
        for (label, values) in &shown.labels {
            assert!(listed.words.contains(label), "{name} has the label {label}, which the docs do not list");
            let listed_values = values.intersection(&listed.words).count();
            assert!(listed_values == 0 || listed_values == values.len(), "{name}: {values:?}, {listed:?}");
        }
        for word in &listed.words {
            assert!(shown.labels.contains_key(word) || values.contains(word), "{name} has no {word}");
        }
    }
    let series = series(&answer);
    assert!((330..450).contains(&series.len()), "{} series", series.len());
    for (name, value) in &series {
        let is_counter =
            ["voiceclone_dead_letters_total", "voiceclone_write_retries_total", "voiceclone_rows_total"];
        if is_counter.iter().any(|counter| name.starts_with(counter)) {
            assert!(
                value.abs() < f64::EPSILON,
                "{name} is there before there is something to count: {value}"
            );
        }
    }
    assert_eq!(series.keys().filter(|name| name.starts_with("voiceclone_dead_letters_total{")).count(), 55);
    let said = or_left_out!(promtool(&file("."), &["check", "metrics"], &answer));
    assert!(said.is_ok(), "{said:?}");
}

#[test]
fn records_rows_and_dead_letters_are_counted_where_they_land() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(MINUTES);
    let publish = |ids: &[&str]| ids.iter().for_each(|id| scene.publish("clone.failed", &failed_clone(id)));
    publish(&["a", "b", "c"]);
    scene.publish("clone.failed", "no JSON");
    scene.wait_until_consumed(MINUTES);
    let bytes = (3 * failed_clone("a").len() + "no JSON".len()) as f64;
    wait_for(
        &daemon,
        &[
            (r#"voiceclone_records_total{topic="clone.failed",outcome="used"}"#, 3.0),
            (r#"voiceclone_records_total{topic="clone.failed",outcome="dead_letter"}"#, 1.0),
            (r#"voiceclone_record_bytes_total{topic="clone.failed"}"#, bytes),
            (r#"voiceclone_dead_letters_total{topic="clone.failed",reason="invalid_json"}"#, 1.0),
            (r#"voiceclone_dead_letters_in_a_row{topic="clone.failed"}"#, 1.0),
            (r#"voiceclone_rows_total{table="clone_failed_events",change="inserted"}"#, 3.0),
            (r#"voiceclone_rows_total{table="voice_clone_log",change="inserted"}"#, 3.0),
            (r#"voiceclone_published_total{topic="voiceclone.dead-letters"}"#, 1.0),
            (r#"voiceclone_dead_letters_unresolved{reason="invalid_json"}"#, 1.0),
            (r#"voiceclone_consumer_lag_records{topic="clone.failed"}"#, 0.0),
            (r#"voiceclone_partitions_assigned{topic="clone.failed"}"#, 1.0),
            (r#"voiceclone_partitions{topic="clone.failed",state="ok"}"#, 1.0),
        ],
    );
    let seen = now(&daemon);
    assert!(
        seen["voiceclone_batch_records_count"] >= 1.0
            && seen["voiceclone_batch_duration_seconds_count"] >= 1.0
    );
    assert!(seen[r#"voiceclone_record_age_seconds_count{topic="clone.failed"}"#] >= 1.0);
    let age = chrono::Utc::now().timestamp() as f64
        - seen[r#"voiceclone_last_record_timestamp_seconds{topic="clone.failed"}"#];
    assert!((0.0..120.0).contains(&age), "{age}");

    // the same facts once more, and calls and a cache row that change
    publish(&["a", "b", "c"]);
    let call = |status: &str| json!({"call_id": "c", "status": status}).to_string();
    let ready =
        json!({"caller_id": "+15550100", "greeting_call_id": "g", "cloned_voice_id": "v"}).to_string();
    let transfer = json!({"greeting_call_id": "g", "agent_call_id": "a", "cloned_voice_id": "v"}).to_string();
    for (topic, value) in
        [("call.lifecycle", call("initiated")), ("clone.ready", ready), ("call.lifecycle", call("completed"))]
    {
        scene.publish(topic, &value);
        scene.wait_until_consumed(MINUTES);
    }
    scene.publish("clone.transfer", &transfer);
    wait_for(
        &daemon,
        &[
            (r#"voiceclone_rows_total{table="clone_failed_events",change="unchanged"}"#, 3.0),
            (r#"voiceclone_rows_total{table="clone_failed_events",change="inserted"}"#, 3.0),
            (r#"voiceclone_rows_total{table="call_log",change="inserted"}"#, 1.0),
            (r#"voiceclone_rows_total{table="call_log",change="updated"}"#, 1.0),
            (r#"voiceclone_rows_total{table="voice_clone_cache",change="inserted"}"#, 1.0),
            (r#"voiceclone_rows_total{table="voice_clone_cache",change="updated"}"#, 1.0),
            (r#"voiceclone_rows_total{table="clone_transfer_events",change="inserted"}"#, 1.0),
        ],
    );

    let paused = run_command(&["pause", "--topic", "clone.failed"], &scene.variables(&[]), MINUTES);
    assert_eq!(paused.code, 0, "{paused:?}");
    wait_for(
        &daemon,
        &[
            (r#"voiceclone_paused{topic="clone.failed"}"#, 1.0),
            (r#"voiceclone_paused{topic="clone.ready"}"#, 0.0),
            (r#"voiceclone_partitions{topic="clone.failed",state="paused"}"#, 1.0),
            (r#"voiceclone_partitions{topic="clone.failed",state="ok"}"#, 0.0),
        ],
    );
}

#[test]
fn the_lag_is_counted_while_a_table_is_locked_and_so_is_the_cause() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(MINUTES);
    let lock = Lock::of(&scene.database, "clone_failed_events");
    let hour_ago = chrono::Utc::now().timestamp_millis() - 3_600_000;
    scene.kafka.send_all((0..7).map(|n| {
        Send::to(&scene.topic("clone.failed")).value(failed_clone(&n.to_string())).timestamp(hour_ago)
    }));
    let waits = eventually(MINUTES, "seven records that wait for an hour", || {
        let now = now(&daemon);
        let lag = now[r#"voiceclone_consumer_lag_records{topic="clone.failed"}"#];
        let seconds = now[r#"voiceclone_consumer_lag_seconds{topic="clone.failed"}"#];
        let retries = now[r#"voiceclone_write_retries_total{cause="timeout"}"#];
        if lag > 6.0 && seconds >= 3600.0 && retries > 0.0 { Ok(now) } else { Err((lag, seconds, retries)) }
    });
    assert!(waits[r#"voiceclone_consumer_lag_seconds{topic="clone.failed"}"#] < 3900.0);
    assert!(waits[r#"voiceclone_consumer_lag_seconds{topic="clone.ready"}"#].abs() < f64::EPSILON);
    drop(lock);
    wait_for(
        &daemon,
        &[
            (r#"voiceclone_consumer_lag_records{topic="clone.failed"}"#, 0.0),
            (r#"voiceclone_consumer_lag_seconds{topic="clone.failed"}"#, 0.0),
            (r#"voiceclone_records_total{topic="clone.failed",outcome="used"}"#, 7.0),
        ],
    );
}

#[test]
fn what_the_database_was_asked_for_is_left_out_while_it_is_away() {
    let mut server = PrivateServer::start(&[]);
    let scene = Scene::on(real_kafka!(), Database::on(&server), 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(MINUTES);
    let asked = ["voiceclone_expiry_overdue_rows", r#"voiceclone_publish_backlog{topic="clone.expired"}"#];
    wait_for(&daemon, &[("voiceclone_database_up", 1.0), (asked[0], 0.0), (asked[1], 0.0)]);
    server.stop_immediately();
    eventually(MINUTES, "the database's gauges to go", || {
        let now = now(&daemon);
        let gone = asked.iter().all(|series| !now.contains_key(*series));
        let is_down = now["voiceclone_database_up"].abs() < f64::EPSILON;
        if gone && is_down { Ok(()) } else { Err(now["voiceclone_database_up"]) }
    });
    assert!(now(&daemon)["voiceclone_database_scrape_errors_total"] > 0.0);
    assert!(now(&daemon).contains_key(r#"voiceclone_records_total{topic="clone.ready",outcome="used"}"#));
    server.start_again();
    wait_for(&daemon, &[("voiceclone_database_up", 1.0), (asked[0], 0.0), (asked[1], 0.0)]);
    daemon.wait_ready(SOON * 4);
}

#[test]
fn the_rules_and_the_dashboard_name_no_metric_that_does_not_exist() {
    let documented = documented();
    for path in
        ["deploy/prometheus/rules.yml", "deploy/prometheus/rules_test.yml", "deploy/grafana/dashboard.json"]
    {
        let text = text(path);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let mut named = 0;
        for word in words.filter(|word| word.starts_with("voiceclone_") || word.starts_with("process_")) {
            let base = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| word.strip_suffix(end));
            let is_histogram =
                base.and_then(|base| documented.get(base)).is_some_and(|listed| listed.kind == "histogram");
            assert!(
                documented.contains_key(word) || is_histogram,
                "{path}: {word} is in no list of the docs"
            );
            named += 1;
        }
        assert!(named > 10, "{path} names {named} metrics");
    }
}
