//! The alerts and the dashboard, with a real Prometheus that scrapes a running daemon: each alert fires at its fault and
//! ends with it, and each panel has an answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::metrics::{file, text};
use crate::partitions::Lock;
use crate::support::daemon::run_command;
use crate::support::kafka::Send;
use crate::support::left_out::{or_left_out, private_kafka, real_kafka};
use crate::support::prometheus::{Prometheus, promtool};
use crate::support::scene::Scene;
use crate::support::wait::eventually;

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// The rules without `for`.
fn rules_at_once() -> String {
    let at_once = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("for: ") {
            format!("{}for: 0s", &line[..indent])
        } else {
            line.into()
        }
    };
    text("deploy/prometheus/rules.yml").lines().map(at_once).collect::<Vec<_>>().join("\n")
}

/// Waits until an alert fires with these labels.
fn wait_for(prometheus: &Prometheus, alert: &str, labels: &[(&str, &str)]) {
    eventually(MINUTES, &format!("{alert} with {labels:?} to fire"), || {
        let firing = prometheus.firing(alert);
        let is_it = firing
            .iter()
            .any(|seen| labels.iter().all(|(name, value)| seen.get(*name).is_some_and(|seen| seen == value)));
        if is_it { Ok(()) } else { Err(firing) }
    });
}

/// Waits until an alert no longer fires.
fn wait_for_end(prometheus: &Prometheus, alert: &str) {
    eventually(MINUTES, &format!("{alert} to end"), || match prometheus.firing(alert) {
        firing if firing.is_empty() => Ok(()),
        firing => Err(firing),
    });
}

/// The documented alerts, including disabled ones, with their runbooks.
fn alerts() -> Vec<(String, String)> {
    let text = text("deploy/prometheus/rules.yml");
    let values = |name: &str| -> Vec<String> {
        let value = |line: &str| {
            let line = line.trim_start().trim_start_matches("# ").trim_start().trim_start_matches("- ");
            line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned)
        };
        text.lines().filter_map(value).collect()
    };
    let (names, runbooks) = (values("alert"), values("runbook_url"));
    assert_eq!(names.len(), runbooks.len(), "each alert has a runbook");
    names.into_iter().zip(runbooks).collect()
}

#[test]
fn promtool_takes_the_rules_and_their_unit_tests_pass() {
    let folder = file("deploy/prometheus");
    let checked = or_left_out!(promtool(&folder, &["check", "rules", "rules.yml"], ""));
    let checked = checked.unwrap_or_else(|said| panic!("{said}"));
    assert!(
        checked.contains(&format!("{} rules found", alerts().len() - 1)),
        "all but the one that is off: {checked}"
    );
    let tested = or_left_out!(promtool(&folder, &["test", "rules", "rules_test.yml"], ""));
    tested.unwrap_or_else(|said| panic!("{said}"));
}

#[test]
fn each_alert_has_a_unit_test_and_a_runbook_that_says_what_is_not_lost_and_whom_to_wake() {
    let (tests, runbooks) = (text("deploy/prometheus/rules_test.yml"), text("docs/runbooks.md"));
    let alerts = alerts();
    assert_eq!(alerts.len(), 16);
    for (alert, runbook) in alerts {
        assert!(tests.contains(&alert) || alert == "VoicecloneNoRecords", "{alert} has no unit test");
        let anchor =
            runbook.strip_prefix("docs/runbooks.md#").unwrap_or_else(|| panic!("{alert}: {runbook}"));
        let is_it =
            |section: &&str| section.lines().next().is_some_and(|title| title.to_lowercase() == anchor);
        let section = runbooks.split("\n## ").find(is_it);
        let section = section.unwrap_or_else(|| panic!("{alert}: docs/runbooks.md has no ## for #{anchor}"));
        for part in ["**Meaning:**", "**Not lost:**", "**Command:**", "**Wake:**"] {
            assert!(section.contains(part), "{alert}: no {part} in {section}");
        }
    }
}

#[test]
fn a_broker_that_is_away_makes_the_instance_not_ready_until_it_is_back() {
    let mut broker = private_kafka!();
    let scene = Scene::new(&broker, 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(MINUTES);
    let prometheus = or_left_out!(Prometheus::start(&[daemon.address()], &rules_at_once()));
    wait_for_end(&prometheus, "VoicecloneDown");
    wait_for_end(&prometheus, "VoicecloneNotReady");
    broker.stop();
    wait_for(&prometheus, "VoicecloneNotReady", &[("condition", "broker"), ("severity", "page")]);
    eventually(MINUTES, "the broker's errors", || {
        match prometheus.query("sum(voiceclone_kafka_errors_total{kind='transport'}) > 0") {
            Ok(samples) if !samples.is_empty() => Ok(()),
            other => Err(other),
        }
    });
    broker.start_again();
    wait_for_end(&prometheus, "VoicecloneNotReady");
    drop(daemon);
    wait_for(&prometheus, "VoicecloneDown", &[("job", "voiceclone-events")]);
}

#[test]
fn alerts_of_the_lag_the_limit_and_the_outbox_fire_at_their_faults_and_end_with_them() {
    let scene = Scene::new(real_kafka!(), 2);
    let mut daemon = scene.daemon(&[("DEAD_LETTER_LIMIT", "3"), ("EXPIRY_INTERVAL", "1s")]);
    daemon.wait_ready(MINUTES);
    let prometheus = or_left_out!(Prometheus::start(&[daemon.address()], &rules_at_once()));

    let lock = Lock::of(&scene.database, "clone_failed_events");
    let hour_ago = chrono::Utc::now().timestamp_millis() - 3_600_000;
    let value = json!({"caller_id": "+15550100", "greeting_call_id": "g", "error_message": "e"}).to_string();
    scene.kafka.send(Send::to(&scene.topic("clone.failed")).value(value).timestamp(hour_ago));
    wait_for(&prometheus, "VoicecloneLagHigh", &[("topic", "clone.failed"), ("severity", "page")]);
    wait_for(&prometheus, "VoicecloneWriteRetries", &[("cause", "timeout")]);
    drop(lock);
    wait_for_end(&prometheus, "VoicecloneLagHigh");

    let bad = || Send::to(&scene.topic("call.lifecycle")).partition(1).value("no JSON");
    scene.kafka.send_all((0..3).map(|_| bad()));
    wait_for(&prometheus, "VoiceclonePartitionStopped", &[("topic", "call.lifecycle"), ("severity", "page")]);
    wait_for(
        &prometheus,
        "VoicecloneDeadLettersArriving",
        &[("reason", "invalid_json"), ("severity", "ticket")],
    );
    let accept = ["dead-letters", "accept", "--topic", "call.lifecycle", "--partition", "1"];
    let accepted = run_command(&accept, &scene.variables(&[]), MINUTES);
    assert_eq!(accepted.code, 0, "{accepted:?}");
    wait_for_end(&prometheus, "VoiceclonePartitionStopped");

    // an expiry that cannot be published, and is an hour old
    let expired = scene.topic("clone.expired");
    scene.kafka.delete_topic(&expired);
    let value = json!({
        "caller_id": "+15550100", "greeting_call_id": "g", "cloned_voice_id": "v", "ready_at": 1_577_836_800,
        "ttl_seconds": 1,
    });
    scene.publish("clone.ready", &value.to_string());
    eventually(MINUTES, "an event in the outbox", || {
        match scene.database.value("SELECT count(*) FROM ingest.outbox") {
            count if count == "1" => Ok(()),
            count => Err(count),
        }
    });
    scene.database.run("UPDATE ingest.outbox SET created_at = created_at - interval '1 hour'");
    wait_for(&prometheus, "VoicecloneOutboxStuck", &[("topic", "clone.expired")]);
    scene.kafka.create_topic(&expired, 1, &[]);
    scene.database.run("UPDATE ingest.outbox SET publish_at = now() AT TIME ZONE 'utc'");
    wait_for_end(&prometheus, "VoicecloneOutboxStuck");
}

/// The panels of the dashboard, those within rows included.
fn panels(of: &Value) -> Vec<&Value> {
    let panels = of["panels"].as_array().into_iter().flatten();
    panels.flat_map(|panel| [vec![panel], self::panels(panel)].concat()).collect()
}

#[test]
fn each_panel_of_the_dashboard_has_an_answer_from_a_running_daemon() {
    let scene = Scene::new(real_kafka!(), 2);
    let mut daemon = scene.daemon(&[("EXPIRY_INTERVAL", "1s")]);
    daemon.wait_ready(MINUTES);
    let prometheus = or_left_out!(Prometheus::start(&[daemon.address()], &rules_at_once()));
    let mut seed = 0;
    let mut simulate = || {
        seed += 1;
        let simulate = ["simulate", "--calls", "200", "--seed", &seed.to_string(), "--disorder"];
        let simulated = run_command(&simulate, &scene.variables(&[]), MINUTES);
        assert_eq!(simulated.code, 0, "{simulated:?}");
    };
    simulate();

    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/dashboard.json")).unwrap();
    assert!(
        dashboard.get("id").is_none_or(Value::is_null) && dashboard.get("uid").is_none_or(Value::is_null)
    );
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(
        variables.iter().any(|variable| variable["type"] == "datasource" && variable["name"] == "datasource")
    );
    let (mut titles, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(titles.insert(title) && ids.insert(panel["id"].as_u64().unwrap()), "{title} is there twice");
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert!(
            panel["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{title} has no description"
        );
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            assert!(
                !expression.contains("rate(") || expression.contains("[$__rate_interval]"),
                "{title}: {expression}"
            );
            let filled = expression
                .replace("$__rate_interval", "1m")
                .replace("$job", "voiceclone-events")
                .replace("$instance", ".*");
            assert!(!filled.contains('$'), "{title}: {filled}");
            eventually(MINUTES, &format!("an answer to {title}: {filled}"), || {
                match prometheus.query(&filled) {
                    Ok(samples) if samples.is_empty() => {
                        // Rates need traffic in the last minute.
                        simulate();
                        Err("nothing".to_owned())
                    }
                    Ok(_) => Ok(()),
                    Err(error) => Err(error),
                }
            });
        }
    }
    assert!(titles.len() > 15, "{titles:?}");
}
