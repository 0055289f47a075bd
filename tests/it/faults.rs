//! Faults of the infrastructure: each once, with the tables that the contract describes afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use diesel::dsl::sql;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;

use crate::support::block_on;
use crate::support::daemon::Daemon;
use crate::support::kafka::{Kafka, Send};
use crate::support::left_out::{private_kafka, real_kafka};
use crate::support::postgres::{Database, PrivateServer};
use crate::support::processes::Signal;
use crate::support::proxy::{Mode, Proxy};
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually, eventually_eq};
use voiceclone_events::cli::SettingFlags;
use voiceclone_events::config::{Need, Settings};
use voiceclone_events::store::connect;
use voiceclone_events::traffic::{Scenario, traffic};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

fn send_traffic(scene: &Scene, calls: u64, seed: u64) {
    let start = chrono::Utc::now().timestamp_millis() - 3_600_000;
    let plan = Scenario { calls, seed, disorder: true, start, spacing_ms: 50, ttl_seconds: None };
    scene.send(traffic(&plan).map(|sent| sent.record));
}

#[test]
fn a_daemon_without_kafka_and_postgresql_is_alive_not_ready_and_ends_when_asked() {
    let mut daemon = Daemon::run(&[
        ("DATABASE_URL", "postgresql+asyncpg://nobody:secret-word@127.0.0.1:1/none"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
    ]);
    eventually(SOON, "/healthz to answer 200", || match daemon.try_http_get("/healthz") {
        Ok((200, _)) => Ok(()),
        other => Err(other),
    });
    assert_eq!(daemon.http_get("/readyz").0, 503);
    eventually(SOON, "a log line that says what is waited for", || {
        let logs = daemon.logs();
        if logs.iter().any(|line| line.contains("PostgreSQL")) { Ok(()) } else { Err(logs) }
    });
    assert!(daemon.logs().iter().all(|line| !line.contains("secret-word")), "no password in the logs");
    assert!(daemon.logs().iter().all(|line| line.starts_with('{')), "every line is one JSON object");
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
}

/// A proxy before the database's server, and the database's URL there.
pub(crate) fn behind_proxy(database: &Database) -> (Proxy, String) {
    let (_, server) = database.url().split_once('@').unwrap();
    let (server, _) = server.split_once('/').unwrap();
    let proxy = Proxy::to(server);
    let url = database.url().replace(server, &proxy.address());
    (proxy, url)
}

#[test]
fn a_server_that_does_not_answer_while_run_migrates_is_waited_for() {
    let database = Database::new();
    let (proxy, url) = behind_proxy(&database);
    proxy.set(Mode::AnswerOne);
    let url = format!("{url}?connect_timeout=1");
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("DB_POOL_SIZE", "1"), // has the one connection
        ("DB_MAX_OVERFLOW", "0"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
    ];
    let mut daemon = Daemon::start(&["run", "--migrate"], &variables);
    eventually(SOON, "a log line that says that the server does not answer", || {
        let logs = daemon.logs();
        let says_so = |line: &String| line.contains("PostgreSQL: ") && line.contains("no answer within");
        if logs.iter().any(says_so) { Ok(()) } else { Err(logs) }
    });
    proxy.set(Mode::Pass);
    eventually(SOON, "the schema to be there", || database.try_rows("SELECT 1 FROM ingest.outbox"));
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
}

#[test]
fn connections_that_have_gone_silent_while_idle_are_found_before_they_are_used() {
    let scene = Scene::new(real_kafka!(), 1);
    let (proxy, url) = behind_proxy(&scene.database);
    let mut daemon = scene.daemon(&[("DATABASE_URL", &url)]);
    daemon.wait_ready(SOON);
    proxy.silence();
    send_traffic(&scene, 20, 15);
    scene.assert_as_the_model_says(MINUTES);
}

#[test]
fn postgresql_stopped_at_once_and_started_again_loses_and_doubles_nothing() {
    let mut server = PrivateServer::start(&[]);
    let scene = Scene::on(real_kafka!(), Database::on(&server), 2);
    let mut daemon = scene.daemon(&[("BATCH_MAX_RECORDS", "100")]);
    daemon.wait_ready(SOON);
    send_traffic(&scene, 2000, 11);
    scene.wait_until_some_calls(MINUTES);
    server.stop_immediately();
    eventually_eq(SOON, "/readyz", 503, || daemon.http_get("/readyz").0);
    server.start_again();
    scene.assert_as_the_model_says(MINUTES);
    assert!(daemon.is_running());
}

#[test]
fn the_broker_restarted_and_a_daemon_killed_lose_and_double_nothing() {
    let mut broker = private_kafka!();
    let scene = Scene::new(&Kafka::at(&broker.servers), 2);
    let mut daemon = scene.daemon(&[("BATCH_MAX_RECORDS", "200")]);
    daemon.wait_ready(SOON);
    send_traffic(&scene, 2000, 12);
    scene.wait_until_some_calls(MINUTES);
    daemon.signal(Signal::Kill);
    assert_ne!(daemon.wait_exit(SOON), 0);
    let _second = scene.daemon(&[]);
    broker.stop();
    broker.start_again();
    send_traffic(&scene, 200, 13);
    scene.assert_as_the_model_says(MINUTES);
}

#[test]
fn sigterm_in_the_middle_of_a_batch_ends_within_ten_seconds_with_nothing_half_written() {
    let scene = Scene::new(real_kafka!(), 2);
    send_traffic(&scene, 3000, 14);
    let mut daemon = scene.daemon(&[]);
    scene.wait_until_some_calls(MINUTES);
    daemon.signal(Signal::Term);
    let contracts_limit = Duration::from_secs(10);
    assert_eq!(daemon.wait_exit(contracts_limit), 0);
    let _second = scene.daemon(&[]);
    scene.assert_as_the_model_says(MINUTES);
}

#[test]
fn a_database_restored_from_a_backup_is_filled_up_again() {
    let scene = Scene::new(real_kafka!(), 1);
    let _daemon = scene.daemon(&[]);
    send_traffic(&scene, 100, 15);
    scene.assert_as_the_model_says(MINUTES);
    // As in a dump from before the first record.
    scene.database.run(
        "BEGIN; TRUNCATE call_log, caller_voice_mapping, voice_clone_cache, voice_clone_log, clone_ready_events,
            clone_failed_events, clone_transfer_events, ingest.calls, ingest.mappings, ingest.voices,
            ingest.dead_letters;
         UPDATE ingest.consumer_offsets SET next_offset = 0; COMMIT",
    );
    scene.assert_as_the_model_says(MINUTES);
}

#[test]
fn a_stored_offset_that_the_topic_no_longer_has_is_reported_and_starts_from_the_earliest_record() {
    let scene = Scene::new(real_kafka!(), 1);
    let topic = scene.topic("clone.transfer");
    let transfer = |agent: &str| {
        let value = format!(r#"{{"greeting_call_id":"g","agent_call_id":"{agent}","cloned_voice_id":"v"}}"#);
        scene.kafka.send(Send::to(&topic).value(value));
    };
    transfer("before");
    transfer("before too");
    let mut daemon = scene.daemon(&[]);
    scene.wait_until_consumed(SOON);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    scene.kafka.delete_topic(&topic);
    scene.kafka.create_topic(&topic, 1, &[]);
    transfer("after");
    let daemon = scene.daemon(&[]);
    eventually_eq(MINUTES, "the transfers", "3".to_owned(), || {
        scene.database.value("SELECT count(*) FROM clone_transfer_events")
    });
    assert!(daemon.logs().iter().any(|line| line.contains("no longer has the stored offset")));
}

/// Sends transfers to agents of these names.
fn send_transfers(scene: &Scene, agents: &[&str]) {
    for agent in agents {
        let value = format!(r#"{{"greeting_call_id":"g","agent_call_id":"{agent}","cloned_voice_id":"v"}}"#);
        scene.publish("clone.transfer", &value);
    }
}

fn recreate_topic(scene: &Scene, topic: &str) {
    let topic = scene.topic(topic);
    scene.kafka.delete_topic(&topic);
    scene.kafka.create_topic(&topic, 1, &[]);
}

#[test]
fn a_recreated_topic_that_already_has_the_stored_offset_is_distinguished_from_the_old_one() {
    let scene = Scene::new(real_kafka!(), 1);
    send_transfers(&scene, &["before", "before too"]);
    let mut daemon = scene.daemon(&[]);
    scene.wait_until_consumed(SOON);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    recreate_topic(&scene, "clone.transfer");
    send_transfers(&scene, &["after", "after too", "the third"]);
    let daemon = scene.daemon(&[]);
    eventually_eq(MINUTES, "the transfers", "5".to_owned(), || {
        scene.database.value("SELECT count(*) FROM clone_transfer_events")
    });
    assert!(daemon.logs().iter().any(|line| line.contains("recreated")));
}

#[test]
fn a_topic_recreated_beside_the_running_daemon_is_read_from_its_first_record() {
    let scene = Scene::new(real_kafka!(), 1);
    send_transfers(&scene, &["before", "before too"]);
    let mut daemon = scene.daemon(&[]);
    scene.wait_until_consumed(SOON);
    recreate_topic(&scene, "clone.transfer");
    send_transfers(&scene, &["after", "after too", "the third"]);
    eventually_eq(MINUTES, "the transfers", "5".to_owned(), || {
        scene.database.value("SELECT count(*) FROM clone_transfer_events")
    });
    assert!(daemon.is_running());
}

#[test]
fn an_event_waits_in_the_outbox_until_its_topic_is_there() {
    let scene = Scene::new(real_kafka!(), 1);
    let topic = scene.topic("clone.expired");
    scene.kafka.delete_topic(&topic);
    let _daemon = scene.daemon(&[("EXPIRY_INTERVAL", "1s")]);
    scene.publish(
        "clone.ready",
        r#"{"caller_id":"+15550100","greeting_call_id":"g","cloned_voice_id":"v","ready_at":0,"ttl_seconds":1}"#,
    );
    scene.wait_until_consumed(SOON);
    eventually_eq(SOON, "the outbox", "1".to_owned(), || {
        scene.database.value("SELECT count(*) FROM ingest.outbox")
    });
    scene.kafka.create_topic(&topic, 1, &[]);
    eventually_eq(MINUTES, "the outbox", "0".to_owned(), || {
        scene.database.value("SELECT count(*) FROM ingest.outbox")
    });
    let events = scene.kafka.read_all(&topic);
    assert!(!events.is_empty(), "at least once");
    assert!(events.iter().all(|event| event.header("ce_id") == events[0].header("ce_id")), "the same event");
}

/// `idle_in_transaction_session_timeout` of a fresh connection of the daemon's pool.
fn patience_with_a_halted_transaction(url: &str) -> String {
    let variables = [("DATABASE_URL".to_owned(), url.to_owned())];
    let need = Need { database: true, broker: false };
    let settings = Settings::from(&SettingFlags::default(), variables.into_iter(), need).unwrap();
    block_on(async {
        let pool = connect::pool(&settings).unwrap();
        let mut connection = pool.get().await.unwrap();
        let asked = sql::<Text>("SELECT current_setting('idle_in_transaction_session_timeout')");
        asked.get_result(&mut *connection).await.unwrap()
    })
}

#[test]
fn a_session_halted_in_a_transaction_keeps_its_locks_for_a_minute_at_most() {
    assert_eq!(patience_with_a_halted_transaction(Database::new().url()), "1min");
}

#[test]
fn another_limit_for_halted_transactions_of_the_database_the_role_or_the_server_stands() {
    let database = Database::new();
    let name = database.value("SELECT current_database()");
    database.run(&format!("ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '5s'"));
    assert_eq!(patience_with_a_halted_transaction(database.url()), "5s");

    let server = PrivateServer::start(&[("idle_in_transaction_session_timeout", "7min")]);
    let database = Database::on(&server);
    assert_eq!(patience_with_a_halted_transaction(database.url()), "7min");
    database.run("CREATE ROLE patient LOGIN PASSWORD 'word'; ALTER ROLE patient SET idle_in_transaction_session_timeout = '1h'");
    assert_eq!(patience_with_a_halted_transaction(&database.url_as("patient", "word")), "1h");
}
