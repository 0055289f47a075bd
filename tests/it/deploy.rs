//! The deployment: manifests, chart, unit, package; and two versions beside each other, as in a rolling update.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{Daemon, run_command};
use crate::support::left_out::{note, real_kafka};
use crate::support::processes::{Signal, folder};
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually};
use voiceclone_events::traffic::{Scenario, traffic};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The output of the checks for the files in a folder, and whether they pass.
fn checks(files: &Path) -> (String, bool) {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools");
    let mut checks = Command::new(Path::new(ROOT).join("scripts/check-deploy.sh"));
    let done = checks.arg(files).env("TOOLS", tools).output().unwrap();
    (String::from_utf8_lossy(&done.stdout).into_owned(), done.status.success())
}

#[test]
fn the_checks_of_what_deploys_the_daemon_find_a_fault_of_each_kind() {
    let files = folder("deploy");
    let names = ["deploy", "Dockerfile", "docker-compose.yml", ".yamllint", "roles.sql"];
    let mut copy = Command::new("cp");
    copy.arg("-R").args(names.map(|name| Path::new(ROOT).join(name))).arg(&files);
    assert!(copy.status().unwrap().success());
    let (printed, passed) = checks(&files);
    assert!(passed, "{printed}");

    let faults = [
        ("Kubernetes manifests", "deploy/kubernetes/deployment.yaml", "replicas: 2", "replicas: two"),
        (
            "deploy/kubernetes/keda/scaledobject.yaml",
            "deploy/kubernetes/keda/scaledobject.yaml",
            "minReplicaCount: 1",
            "minReplicaCount: 0",
        ),
        (
            "deploy/kubernetes/monitoring/servicemonitor.yaml",
            "deploy/kubernetes/monitoring/servicemonitor.yaml",
            "endpoints:",
            "endpoint:",
        ),
        (
            "alert rules of the manifests and of Prometheus are the same",
            "deploy/kubernetes/monitoring/prometheusrule.yaml",
            "severity: ",
            "severity: not-",
        ),
        ("YAML style", "deploy/kubernetes/service.yaml", "type: ClusterIP", "type:  ClusterIP"),
        ("docker-compose.yml", "docker-compose.yml", "stop_grace_period", "stop_graceperiod"),
        ("Dockerfile", "Dockerfile", "WORKDIR /build", "WORKDIR build"),
        (
            "the chart's values",
            "deploy/helm/voiceclone-events/values.yaml",
            "  KAFKA_GROUP_ID:",
            "  KAFKA_SASL_PASSWORD: \"x\"\n  KAFKA_GROUP_ID:",
        ),
        ("systemd unit", "deploy/systemd/voiceclone-events.service", "PrivateTmp=", "PrivateTemp="),
        (
            "systemd unit is hardened",
            "deploy/systemd/voiceclone-events.service",
            "SystemCallFilter=@system-service\n",
            "",
        ),
        (
            "Helm chart renders the manifests",
            "deploy/kubernetes/poddisruptionbudget.yaml",
            "maxUnavailable",
            "minAvailable",
        ),
    ];
    for (_, file, from, to) in faults {
        let path = files.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }
    let (printed, passed) = checks(&files);
    assert!(!passed, "{printed}");
    for (name, ..) in faults {
        let is_of = |line: &str| {
            line.strip_prefix("left out: ")
                .is_some_and(|rest| name.starts_with(rest.split(": ").next().unwrap()))
        };
        match printed.lines().find(|line| is_of(line)) {
            Some(line) => {
                note("deploy::the_checks_of_what_deploys_the_daemon_find_a_fault_of_each_kind", line)
            }
            None => {
                assert!(printed.lines().any(|line| line == format!("WRONG: {name}")), "{name}\n{printed}")
            }
        }
    }
}

/// Names and values of the lines `name separator value` after the line `from`, quotes taken off.
fn pairs(text: &str, from: &str, separator: &str) -> Vec<(String, String)> {
    let lines = text.lines().skip_while(|line| !line.starts_with(from));
    let pairs = lines.filter_map(|line| line.trim().trim_start_matches('#').split_once(separator));
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    pairs
        .filter(|(name, _)| is_name(name))
        .map(|(name, value)| (name.to_owned(), value.trim().trim_matches('"').to_owned()))
        .collect()
}

#[test]
fn every_setting_that_manifests_chart_and_unit_give_is_one_of_the_program() {
    let certificate = folder("certificates").join("ca.pem");
    let authority = crate::support::certificates::Authority::new("Test authority");
    std::fs::write(&certificate, authority.pem()).unwrap();
    let certificate = certificate.display().to_string();
    let secret = || pairs(&read("deploy/kubernetes/secret.example.yaml"), "apiVersion:", ": ");
    let map = pairs(&read("deploy/kubernetes/configmap.yaml"), "data:", ": ");
    let values = pairs(&read("deploy/helm/voiceclone-events/values.yaml"), "config:", ": ");
    for (file, given, least) in [
        ("the manifests", [map, secret()].concat(), 11),
        ("the chart", [values, secret()].concat(), 11),
        ("the unit", pairs(&read("deploy/systemd/environment"), "", "="), 9),
    ] {
        assert!(given.len() >= least, "{file}: {given:?}");
        let mut variables = vec![
            ("DATABASE_URL", "postgresql://u@127.0.0.1:1/x"),
            ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
        ];
        for (name, value) in &given {
            match name.as_str() {
                // no server may be reached
                "DATABASE_URL" => assert!(value.starts_with("postgresql://voice"), "{file}: {value}"),
                "KAFKA_BOOTSTRAP_SERVERS" => assert!(value.ends_with(":9093"), "{file}: {value}"),
                "KAFKA_SSL_CA_LOCATION" => variables.push((name, &certificate)),
                // the port may be taken on this machine
                "HTTP_ADDR" => assert!(value.ends_with(":8080"), "{file}: {value}"),
                _ => variables.push((name, value)),
            }
        }
        variables.push(("HTTP_ADDR", ""));
        let ended = run_command(&["check", "--json"], &variables, MINUTES);
        assert_eq!(ended.code, 1, "{file}: {ended:?}");
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        for step in report["checks"].as_array().unwrap() {
            let what = step["what"].as_str().unwrap();
            let is_of_a_server = matches!(what, "database" | "brokers");
            assert!(
                is_of_a_server || !matches!(step["outcome"].as_str(), Some("wrong" | "warning")),
                "{file}: {step}"
            );
        }
    }
}

#[test]
fn version_user_and_times_are_the_same_wherever_they_stand() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, expected) in [
        ("deploy/kubernetes/deployment.yaml", format!("image: voiceclone-events:{version}\n")),
        ("deploy/kubernetes/migrate-job.yaml", format!("image: voiceclone-events:{version}\n")),
        ("deploy/helm/voiceclone-events/Chart.yaml", format!("appVersion: \"{version}\"\n")),
        ("deploy/debian/changelog", format!("voiceclone-events ({version}-1)")),
        ("Dockerfile", "--uid 10001 --gid 10001".to_owned()),
        ("Dockerfile", "USER 10001:10001\n".to_owned()),
        ("deploy/kubernetes/deployment.yaml", "runAsUser: 10001\n".to_owned()),
        // above the 10 s in which SIGTERM ends it
        ("deploy/kubernetes/deployment.yaml", "terminationGracePeriodSeconds: 20\n".to_owned()),
        ("deploy/systemd/voiceclone-events.service", "TimeoutStopSec=20\n".to_owned()),
        ("docker-compose.yml", "stop_grace_period: 20s\n".to_owned()),
    ] {
        assert!(read(file).contains(&expected), "{file}: {expected}");
    }
}

fn call(scene: &Scene, id: &str) {
    scene.publish("call.lifecycle", &format!(r#"{{"call_id":"{id}","status":"completed"}}"#));
}

fn wait_for_calls(scene: &Scene, count: usize) {
    scene.wait_until_consumed(MINUTES);
    assert_eq!(scene.database.value("SELECT count(*) FROM call_log"), count.to_string());
}

#[test]
fn a_version_goes_on_beside_a_newer_one_and_its_schema_and_does_not_roll_that_back() {
    let scene = Scene::new(real_kafka!(), 2);
    let mut older = scene.daemon(&[]);
    older.wait_ready(MINUTES);
    call(&scene, "before");
    wait_for_calls(&scene, 1);

    // what a newer version's migration does: it adds, and this program does not know it
    scene.database.run(
        "ALTER TABLE public.call_log ADD COLUMN of_a_newer_version text;
         CREATE TABLE ingest.of_a_newer_version (id int);
         INSERT INTO public.__diesel_schema_migrations (version) VALUES ('20991231000001')",
    );
    // another instance that starts now also covers a roll-back of the program alone
    let mut another = scene.daemon(&[]);
    another.wait_ready(MINUTES);
    older.wait_ready(SOON);
    for n in 0..20 {
        call(&scene, &format!("during-{n}"));
    }
    wait_for_calls(&scene, 21);
    older.signal(Signal::Term);
    assert_eq!(older.wait_exit(SOON), 0);
    call(&scene, "after");
    wait_for_calls(&scene, 22);

    let refused = run_command(&["migrate", "down"], &scene.variables(&[]), MINUTES);
    assert!(refused.code == 1 && refused.stderr.contains("20991231000001"), "{refused:?}");
    let nothing = run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
    assert_eq!(nothing.code, 0, "{nothing:?}");
}

#[test]
fn a_schema_rolled_back_under_a_running_daemon_makes_it_unready_and_loses_nothing() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(MINUTES);
    call(&scene, "before");
    wait_for_calls(&scene, 1);
    let migrate = |way: &str| {
        let done = run_command(&["migrate", way], &scene.variables(&[]), MINUTES);
        assert_eq!(done.code, 0, "{done:?}");
    };
    migrate("down");
    eventually(MINUTES, "not ready", || match daemon.http_get("/readyz") {
        (503, body) if body.contains(r#""schema":false"#) => Ok(()),
        other => Err(other),
    });
    call(&scene, "meanwhile");
    // the version that the schema lacks refuses to start beside it
    let mut refused = Daemon::run(&scene.variables(&[]));
    assert_eq!(refused.wait_exit(MINUTES), 1);
    migrate("up");
    daemon.wait_ready(MINUTES);
    call(&scene, "after");
    wait_for_calls(&scene, 3);
}

/// Disordered traffic of `calls` calls, others for each seed.
fn send_traffic(scene: &Scene, calls: u64, seed: u64) {
    let start = chrono::Utc::now().timestamp_millis() - 2 * 3_600_000;
    let plan = Scenario { calls, seed, disorder: true, start, spacing_ms: 100, ttl_seconds: None };
    scene.send(traffic(&plan).map(|sent| sent.record));
}

/// `OLDER_PROGRAM` is a build of an older version (`make rolling OLDER=a-commit`).
#[test]
fn an_older_version_and_this_one_share_a_group_through_a_migration_and_back() {
    let Ok(older) = std::env::var("OLDER_PROGRAM") else {
        let test = "deploy::an_older_version_and_this_one_share_a_group_through_a_migration_and_back";
        return note(test, "OLDER_PROGRAM names no build of an older version (`make rolling` does)");
    };
    let scene = Scene::new(real_kafka!(), 4);
    let variables = scene.variables(&[("EXPIRY_INTERVAL", "1h")]);
    let start = |arguments: &[&str]| {
        let mut daemon = Daemon::start_program(&older, arguments, &variables, None);
        daemon.wait_ready(MINUTES);
        daemon
    };
    let stop = |mut daemon: Daemon| {
        daemon.signal(Signal::Term);
        assert_eq!(daemon.wait_exit(SOON), 0);
    };
    let (first, second) = (start(&["run", "--migrate"]), start(&["run"]));
    send_traffic(&scene, 500, 1);
    scene.wait_until_consumed(MINUTES);

    // while records come
    send_traffic(&scene, 3_000, 2);
    let migrated = run_command(&["migrate", "up"], &variables, MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    stop(first);
    let mut newer = Daemon::run(&variables);
    newer.wait_ready(MINUTES);
    send_traffic(&scene, 3_000, 3);
    scene.assert_as_the_model_says(MINUTES);
    stop(second);
    send_traffic(&scene, 1_000, 4);
    scene.assert_as_the_model_says(MINUTES);

    // back, with the schema as it is now
    let third = start(&["run"]);
    send_traffic(&scene, 1_000, 5);
    stop(newer);
    send_traffic(&scene, 1_000, 6);
    scene.assert_as_the_model_says(MINUTES);
    stop(third);
}
