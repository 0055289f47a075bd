//! `check` finds everything that would keep `run` from working, on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{Finished, run_command};
use crate::support::kafka::PrivateKafka;
use crate::support::left_out::{or_left_out, real_kafka};
use crate::support::postgres::Database;
use crate::support::scene::Scene;
use crate::support::wait::eventually;

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(120);

/// A stage on which `check` finds nothing.
fn good_scene(kafka: &crate::support::kafka::Kafka, database: Database) -> Scene {
    let scene = Scene::on(kafka, database, 2);
    scene.compact_mappings();
    let migrated = run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    scene
}

fn check(scene: &Scene, more: &[(&str, &str)]) -> (Finished, Vec<Value>) {
    let variables = scene.variables(&[&[("HTTP_ADDR", "")], more].concat());
    let ended = run_command(&["check", "--json"], &variables, MINUTES);
    let report: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert_eq!(report["ok"], ended.code == 0, "{ended:?}");
    let steps = report["checks"].as_array().unwrap().clone();
    (ended, steps)
}

/// The findings of one outcome: what, found and remedy, a line each.
fn findings(steps: &[Value], outcome: &str) -> Vec<String> {
    let text = |step: &Value, field: &str| step[field].as_str().unwrap_or_default().to_owned();
    steps
        .iter()
        .filter(|step| step["outcome"] == outcome)
        .map(|step| format!("{}: {} -> {}", text(step, "what"), text(step, "found"), text(step, "remedy")))
        .collect()
}

/// The one finding of `check`, which must be the only one.
fn the_fault(scene: &Scene, more: &[(&str, &str)], status: i32) -> String {
    let (ended, steps) = check(scene, more);
    let wrong = findings(&steps, "wrong");
    assert_eq!((ended.code, wrong.len()), (status, 1), "{wrong:#?} {ended:?}");
    wrong[0].clone()
}

#[test]
fn nothing_is_wrong_where_run_works_and_nothing_is_changed() {
    let scene = good_scene(real_kafka!(), Database::new());
    let rows = || {
        let tables = [
            "clone_ready_events",
            "clone_failed_events",
            "clone_transfer_events",
            "voice_clone_log",
            "voice_clone_cache",
            "call_log",
            "caller_voice_mapping",
            "ingest.consumer_offsets",
            "ingest.dead_letters",
            "ingest.voices",
            "ingest.calls",
            "ingest.mappings",
        ];
        tables.map(|table| scene.database.value(&format!("SELECT count(*) FROM {table}"))).join(" ")
    };
    let before = rows();
    let (ended, steps) = check(&scene, &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(findings(&steps, "warning"), Vec::<String>::new());
    assert_eq!(rows(), before);
    assert_eq!(scene.kafka.group_members(&scene.group), 0);
    assert!(scene.kafka.read_all(&scene.topic("clone.expired")).is_empty());
    let untried = findings(&steps, "untried").join("\n");
    assert!(untried.contains("sending: as a record that is sent stays in the topic"), "{untried}");
}

#[test]
fn a_table_that_takes_no_good_row_is_found_by_a_write_that_is_rolled_back() {
    let scene = good_scene(real_kafka!(), Database::new());
    for (change, undo, topic, part) in [
        (
            "ALTER TABLE call_log ADD tenant_id integer NOT NULL",
            "ALTER TABLE call_log DROP tenant_id",
            "write of call.lifecycle",
            "tenant_id",
        ),
        (
            "ALTER TABLE caller_voice_mapping ADD CONSTRAINT no_more CHECK (false) NOT VALID",
            "ALTER TABLE caller_voice_mapping DROP CONSTRAINT no_more",
            "write of caller.voice_mapping",
            "no_more",
        ),
    ] {
        scene.database.run(change);
        let fault = the_fault(&scene, &[], 1);
        assert!(fault.contains(topic) && fault.contains(part), "{fault}");
        scene.database.run(undo);
    }
    assert_eq!(check(&scene, &[]).0.code, 0);
}

#[test]
fn a_stopped_partition_is_wrong_and_named_with_the_command() {
    let scene = good_scene(real_kafka!(), Database::new());
    scene.database.run(&format!(
        "INSERT INTO ingest.consumer_offsets (group_id, topic, partition, next_offset, dead_in_a_row, stopped_at)
         VALUES ('{}', '{}', 1, 5, 5, now() AT TIME ZONE 'utc')",
        scene.group,
        scene.topic("clone.failed")
    ));
    let fault = the_fault(&scene, &[], 1);
    let command = "voiceclone-events dead-letters accept --topic clone.failed --partition 1";
    assert!(fault.ends_with(command), "{fault}");
    // of another group it is another one's trouble
    assert_eq!(check(&scene, &[("KAFKA_GROUP_ID", "another")]).0.code, 0);
}

#[test]
fn topic_settings_that_lose_records_are_wrong() {
    let scene = good_scene(real_kafka!(), Database::new());
    let letters = scene.topic("voiceclone.dead-letters");
    scene.kafka.set_topic_settings(&letters, &[("max.message.bytes", "1000")]);
    let fault = the_fault(&scene, &[], 1);
    assert!(fault.contains("max.message.bytes is 1000") && fault.contains("kafka-configs.sh"), "{fault}");
    assert_eq!(
        check(&scene, &[("RECORD_MAX_BYTES", "100")]).0.code,
        1,
        "a mebibyte of headers is to fit, too"
    );
    scene.kafka.set_topic_settings(&letters, &[("max.message.bytes", "10485760")]);

    let mappings = scene.topic("caller.voice_mapping");
    scene.kafka.set_topic_settings(&mappings, &[("cleanup.policy", "delete")]);
    let fault = the_fault(&scene, &[], 1);
    assert!(
        fault.contains("cleanup.policy is delete") && fault.contains("cleanup.policy=compact"),
        "{fault}"
    );
    scene.kafka.set_topic_settings(&mappings, &[("cleanup.policy", "compact,delete")]);

    let calls = scene.topic("call.lifecycle");
    scene.kafka.set_topic_settings(&calls, &[("message.timestamp.type", "LogAppendTime")]);
    let (ended, steps) = check(&scene, &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(findings(&steps, "warning").join("\n").contains("LogAppendTime"), "{ended:?}");
}

#[test]
fn a_missing_topic_is_named() {
    let scene = good_scene(real_kafka!(), Database::new());
    let topic = scene.topic("voiceclone.dead-letters");
    scene.kafka.delete_topic(&topic);
    let fault = the_fault(&scene, &[], 1);
    assert!(fault.starts_with(&format!("topic {topic}: does not exist")), "{fault}");
    let listed = scene.kafka.config().create::<rdkafka::consumer::BaseConsumer>().unwrap();
    let all = rdkafka::consumer::Consumer::fetch_metadata(&listed, None, MINUTES).unwrap();
    assert!(all.topics().iter().all(|found| found.name() != topic), "check makes no topic");
}

#[test]
fn a_database_that_cannot_hold_every_text_is_refused_by_its_encodings_name() {
    let kafka = real_kafka!();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let scene = Scene::on(kafka, Database::with_encoding(encoding), 1);
        scene.compact_mappings();
        // migrate may refuse it, too
        let _ = run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
        let (ended, steps) = check(&scene, &[]);
        assert_eq!(ended.code, 1, "{ended:?}");
        let wrong = findings(&steps, "wrong");
        let is_named = |fault: &String| fault.starts_with("database") && fault.contains(encoding);
        assert!(wrong.iter().any(is_named), "{wrong:#?}");
    }
}

#[test]
fn fewer_connections_than_the_pool_may_ask_for_are_a_warning() {
    let scene = good_scene(real_kafka!(), Database::new());
    let role = crate::support::unique("limited");
    scene.database.run(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'limited' CONNECTION LIMIT 5;
         GRANT USAGE ON SCHEMA public, ingest TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, ingest TO {role};
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA ingest TO {role}"
    ));
    let url = scene.database.url_as(&role, "limited");
    let (ended, steps) = check(&scene, &[("DATABASE_URL", &url)]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let warning = findings(&steps, "warning").join("\n");
    assert!(warning.contains(&format!("CONNECTION LIMIT of role {role} allows 5")), "{warning} {ended:?}");
    scene.database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_session_that_the_broker_does_not_take_is_found_before_the_join_is_refused() {
    let broker = or_left_out!(PrivateKafka::start(&[("group.min.session.timeout.ms", "6000")]));
    let scene = good_scene(&broker, Database::new());
    let short = [("KAFKA_SESSION_TIMEOUT_MS", "3500")];
    let fault = the_fault(&scene, &short, 1);
    assert!(
        fault.starts_with("KAFKA_SESSION_TIMEOUT_MS: 3500, and the broker takes sessions from 6000"),
        "{fault}"
    );
    assert_eq!(check(&scene, &[("KAFKA_SESSION_TIMEOUT_MS", "6000")]).0.code, 0);
}

#[test]
fn a_broker_is_found_out_to_be_away_and_to_be_back() {
    let mut broker = or_left_out!(PrivateKafka::start(&[]));
    let scene = good_scene(&broker, Database::new());
    broker.stop();
    let (ended, steps) = check(&scene, &[]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let wrong = findings(&steps, "wrong");
    assert!(wrong.len() == 1 && wrong[0].contains("the connection is refused"), "{wrong:#?}");
    broker.start_again();
    eventually(MINUTES, "check to be content", || match check(&scene, &[]) {
        (ended, _) if ended.code == 0 => Ok(()),
        (ended, _) => Err(ended.stdout),
    });
}
