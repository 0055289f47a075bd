//! A PostgreSQL that answers in German, and a role that may not choose the language. Nothing depends on the words.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::json;
use tokio_util::sync::CancellationToken;
use voiceclone_events::ingest::{Ingest, Positions};
use voiceclone_events::record::{Record, Topic};
use voiceclone_events::store::write::{Counts, Mode};

use crate::poison::{CONSTRAINT, Fate, MINUTES, fate, ingest, migrated, record};
use crate::support::daemon::run_command;
use crate::support::left_out::{or_left_out, real_kafka};
use crate::support::postgres::{Database, PrivateServer};
use crate::support::scene::Scene;
use crate::support::tables;
use crate::support::wait::{SOON, eventually};

/// A server with German messages, also for those who log in.
fn german_server() -> Result<PrivateServer, String> {
    let server = PrivateServer::start(&[]);
    let any = Database::on(&server);
    any.try_rows("SET lc_messages = 'de_DE.UTF-8'").map_err(|_| "this machine has no locale de_DE.UTF-8")?;
    any.run("ALTER SYSTEM SET lc_messages = 'de_DE.UTF-8'");
    any.run("SELECT pg_reload_conf()");
    eventually(SOON, "the new setting", || match any.value("SHOW lc_messages").as_str() {
        "de_DE.UTF-8" => Ok(()),
        other => Err(other.to_owned()),
    });
    let _ = any.try_rows("SELECT 1 / 0");
    if !server.log().contains("Division durch Null") {
        return Err("PostgreSQL has no German messages on this machine".to_owned());
    }
    any.run("CREATE ROLE german LOGIN PASSWORD 'geheim'");
    Ok(server)
}

/// The URL of the database as its owner, who is no superuser.
fn owned(database: &Database) -> String {
    database.run(&format!("ALTER DATABASE {} OWNER TO german", database.name()));
    database.url_as("german", "geheim")
}

fn variables(url: &str) -> Vec<(&str, &str)> {
    vec![("DATABASE_URL", url), ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"), ("HTTP_ADDR", "")]
}

#[test]
fn good_records_land_a_bad_one_is_diverted_by_proof_and_an_outage_is_waited_for() {
    let mut server = or_left_out!(german_server());
    let scene = Scene::on(real_kafka!(), Database::on(&server), 1);
    let url = owned(&scene.database);
    let daemon = scene.daemon(&[("DATABASE_URL", &url)]);
    let publish = |call: &str, message: &str| {
        let value = json!({"caller_id": "+4930123456", "greeting_call_id": call, "error_message": message});
        scene.publish("clone.failed", &value.to_string());
    };
    publish("first", "e");
    scene.wait_until_consumed(MINUTES);
    scene.database.run(CONSTRAINT);
    publish("bad", "poison");
    publish("second", "e");
    scene.wait_until_consumed(MINUTES);
    let letters = tables::dead_letters(&scene.database);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].reason.as_str(), letters[0].record_offset), ("rejected_by_database", 1));

    server.stop();
    publish("third", "e");
    eventually(MINUTES, "an instance that is not ready", || match daemon.try_http_get("/readyz") {
        Ok((503, _)) => Ok(()),
        other => Err(other),
    });
    assert_eq!(daemon.http_get("/healthz").0, 200);
    server.start_again();
    scene.wait_until_consumed(MINUTES);
    let calls = scene.database.value(
        "SELECT string_agg(greeting_call_id, ' ' ORDER BY greeting_call_id)
                                      FROM clone_failed_events",
    );
    assert_eq!(calls, "first second third");
    assert_eq!(tables::dead_letters(&scene.database).len(), 1);
}

#[test]
fn a_refused_login_has_its_remedy_and_one_connection_is_enough_to_migrate() {
    let server = or_left_out!(german_server());
    let database = Database::on(&server);
    let url = owned(&database);
    let wrong = [
        (database.url_as("german", "falsch"), "correct user and password"),
        (url.replace(database.name(), "fehlt"), "correct the database"),
    ];
    for (url, remedy) in wrong {
        let ended = run_command(&["check"], &variables(&url), MINUTES);
        assert!(ended.code == 1 && ended.stdout.contains(remedy), "{ended:?}");
    }
    database.run("ALTER ROLE german CONNECTION LIMIT 1");
    let ended = run_command(&["migrate", "up"], &variables(&url), MINUTES);
    assert_eq!(ended.code, 0, "{ended:?}");

    database.run("ALTER ROLE german CONNECTION LIMIT -1");
    let checked = |url: &str| run_command(&["check"], &variables(url), MINUTES).stdout;
    let right = "GRANT SET ON PARAMETER lc_messages TO german";
    assert!(checked(&url).contains(right), "{}", checked(&url));
    database.run(right);
    assert!(!checked(&url).contains(right), "{}", checked(&url));
}

/// The tables whose only unique index is their primary key, which a partitioned table can have.
const PARTITIONABLE: [&str; 5] = [
    "clone_ready_events",
    "clone_failed_events",
    "clone_transfer_events",
    "voice_clone_log",
    "voice_clone_cache",
];

fn counts(made: u64, changed: u64, left_alone: u64) -> Counts {
    Counts { made, changed, left_alone }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitioned_tables_take_rows_and_a_transfer_is_counted_once() {
    let server = or_left_out!(german_server());
    let database = migrated(Database::on(&server)).await;
    for table in PARTITIONABLE {
        database.run(&format!(
            "ALTER TABLE {table} RENAME TO {table}_old;
             CREATE TABLE {table} (LIKE {table}_old INCLUDING ALL) PARTITION BY HASH (id);
             CREATE TABLE {table}_0 PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        ));
    }
    database.run(
        "GRANT USAGE ON SCHEMA public, ingest TO german;
         GRANT ALL ON ALL TABLES IN SCHEMA public, ingest TO german",
    );
    let live = ingest(&database.url_as("german", "geheim"));
    let ready = |offset: i64| {
        let value = json!({"caller_id": "+4930123456", "greeting_call_id": "g", "cloned_voice_id": "v",
                           "clone_duration_ms": offset});
        record(Topic::CloneReady, offset, &value)
    };
    let transfer = |offset: i64, agent: &str, at: i64| {
        let value = json!({"greeting_call_id": "g", "agent_call_id": agent, "cloned_voice_id": "v",
                           "transferred_at": at});
        record(Topic::CloneTransfer, offset, &value)
    };
    let write = async |writer: &Ingest, records: Vec<Record>| {
        let mut positions = Positions::new();
        writer.write(&records, &mut positions, &CancellationToken::new()).await.unwrap().counts
    };
    let reuse_count = || database.value("SELECT reuse_count FROM voice_clone_cache");

    let transfers = vec![transfer(0, "a", 1000), transfer(1, "b", 1000), transfer(2, "c", 1000)];
    assert_eq!(write(&live, transfers).await["clone_transfer_events"], counts(3, 0, 0));
    assert_eq!(write(&live, vec![ready(0)]).await["clone_ready_events"], counts(1, 0, 0));
    assert_eq!(reuse_count(), "3");

    // one is known, one is known with another time, one is new
    let again = vec![transfer(3, "a", 1000), transfer(4, "b", 2000), transfer(5, "d", 1000)];
    assert_eq!(write(&live, again).await["clone_transfer_events"], counts(1, 1, 1));
    assert_eq!(reuse_count(), "4");
    let replay = Ingest { mode: Mode::Replay, ..live.clone() };
    let more = vec![transfer(6, "b", 3000), transfer(7, "e", 1000)];
    assert_eq!(write(&replay, more).await["clone_transfer_events"], counts(1, 1, 0));
    let written = write(&replay, vec![ready(5)]).await;
    assert_eq!(written["clone_ready_events"], counts(0, 1, 0), "{written:?}");
    assert_eq!(reuse_count(), "5");

    // the trial works there, too
    database.run(CONSTRAINT);
    let failure = |offset: i64, message: &str| {
        let value = json!({"caller_id": "+4930123456", "greeting_call_id": "g", "error_message": message});
        record(Topic::CloneFailed, offset, &value)
    };
    assert_eq!(fate(&live, &failure(0, "poison")).await, Fate::DeadLetter);
    assert_eq!(fate(&live, &failure(1, "e")).await, Fate::Landed);
}
