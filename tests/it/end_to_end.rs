//! Records in, rows out: the program against a real Kafka and a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use crate::support::kafka::Send;
use crate::support::left_out::real_kafka;
use crate::support::processes::Signal;
use crate::support::scene::Scene;
use crate::support::tables;
use crate::support::wait::{SOON, eventually, eventually_eq};
use voiceclone_events::traffic::{Scenario, traffic};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(300);

fn plan(calls: u64, seed: u64) -> Scenario {
    let start = chrono::Utc::now().timestamp_millis() - 2 * 3_600_000;
    Scenario { calls, seed, disorder: true, start, spacing_ms: 100, ttl_seconds: None }
}

#[test]
fn a_clone_ready_event_makes_its_three_rows() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(SOON);
    scene.publish(
        "clone.ready",
        r#"{"caller_id":"+15550100","greeting_call_id":"g1","cloned_voice_id":"v1","ready_at":"2100-01-02T03:04:05Z"}"#,
    );
    scene.assert_as_the_model_says(SOON);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
}

#[test]
fn disordered_traffic_read_by_two_instances_ends_in_the_tables_that_the_contract_describes() {
    let scene = Scene::new(real_kafka!(), 4);
    scene.send(traffic(&plan(40_000, 7)).map(|sent| sent.record));
    let _first = scene.daemon(&[]);
    let _second = scene.daemon(&[]);
    scene.assert_as_the_model_says(MINUTES);

    let letters = tables::dead_letters(&scene.database);
    let topic = scene.topic("voiceclone.dead-letters");
    let published = eventually(MINUTES, "every dead letter to be published", || {
        let published = scene.kafka.read_all(&topic);
        if published.len() >= letters.len() { Ok(published) } else { Err(published.len()) }
    });
    assert_eq!(published.len(), letters.len(), "once where nothing fails");
    for record in published {
        let of = |name: &str| record.header(&format!("__connect.errors.{name}")).unwrap().to_owned();
        let letter = letters.iter().find(|letter| {
            letter.topic == of("topic")
                && letter.partition.to_string() == of("partition")
                && letter.record_offset.to_string() == of("offset")
        });
        let letter = letter.unwrap_or_else(|| panic!("no dead letter for {record:?}"));
        assert_eq!(of("exception.class.name"), letter.reason);
        assert_eq!(of("exception.message"), letter.message);
        assert_eq!((&record.key, &record.value), (&letter.key, &letter.value), "the original bytes");
        let original = record.headers.len() - 5;
        let headers: Vec<_> = record.headers[..original]
            .iter()
            .flat_map(|(name, value)| [Some(name.clone().into_bytes()), value.clone()])
            .collect();
        assert_eq!(headers, letter.headers, "the original headers, before the added ones");
    }
}

#[test]
fn a_cache_row_expires_once_with_one_event_and_a_later_clone_makes_it_live_again() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemons: Vec<_> = (0..2).map(|_| scene.daemon(&[("EXPIRY_INTERVAL", "1s")])).collect();
    daemons[0].wait_ready(SOON);
    let ready = |at: &str| {
        let value = format!(
            r#"{{"caller_id":"+15550100","greeting_call_id":"g","cloned_voice_id":"v","ready_at":"{at}","ttl_seconds":1}}"#
        );
        scene.publish("clone.ready", &value);
    };
    let deleted =
        || scene.database.value("SELECT count(*) FROM voice_clone_cache WHERE deleted_at IS NOT NULL");
    let events = || scene.kafka.read_all(&scene.topic("clone.expired"));
    ready("2020-01-01T00:00:00Z");
    scene.wait_until_consumed(SOON);
    eventually_eq(SOON, "the expired rows", "1".to_owned(), deleted);
    eventually_eq(SOON, "the published expiries", 1, || events().len());

    let event = events().remove(0);
    let value: serde_json::Value = serde_json::from_slice(event.value.as_deref().unwrap()).unwrap();
    assert_eq!(event.key.as_deref(), Some(b"+15550100".as_slice()));
    assert_eq!(value["ttl_expires_at"], "2020-01-01T00:00:01Z");
    assert_eq!(event.header("ce_id"), value["event_id"].as_str());
    assert_eq!(event.header("ce_time"), value["expired_at"].as_str());
    assert_eq!(event.header("ce_type"), Some("clone.expired"));
    assert_eq!(event.header("content-type"), Some("application/json"));

    ready("2100-01-01T00:00:00Z");
    scene.wait_until_consumed(SOON);
    eventually_eq(SOON, "the expired rows", "0".to_owned(), deleted);
}

#[test]
fn a_row_that_postgresql_refuses_for_good_is_isolated_and_its_neighbours_land() {
    let scene = Scene::new(real_kafka!(), 1);
    let migrated = crate::support::daemon::run_command(&["migrate", "up"], &scene.variables(&[]), SOON);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    scene.database.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF NEW.greeting_call_id = 'poison' THEN RAISE EXCEPTION 'no %', NEW.caller_id; END IF; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON clone_failed_events FOR EACH ROW EXECUTE FUNCTION refuse();
         ALTER TABLE clone_transfer_events ADD CONSTRAINT no_evil CHECK (agent_call_id <> 'evil')",
    );
    scene.kafka.send_all((0..200).map(|number| {
        let call = if number == 77 { "poison".to_owned() } else { format!("g{number}") };
        let value = format!(r#"{{"caller_id":"+15550100","greeting_call_id":"{call}","error_message":"e"}}"#);
        Send::to(&scene.topic("clone.failed")).value(value)
    }));
    for agent in ["a", "evil", "b"] {
        let value = format!(r#"{{"greeting_call_id":"g","agent_call_id":"{agent}","cloned_voice_id":"v"}}"#);
        scene.publish("clone.transfer", &value);
    }
    let _daemon = scene.daemon(&[]);
    scene.wait_until_consumed(SOON);
    assert_eq!(scene.database.value("SELECT count(*) FROM clone_failed_events"), "199");
    assert_eq!(scene.database.value("SELECT count(*) FROM clone_transfer_events"), "2");
    let letters = tables::dead_letters(&scene.database);
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| letter.reason == "rejected_by_database"));
    assert!(letters.iter().all(|letter| !letter.message.contains("+1555")), "no personal data: {letters:?}");
}

#[test]
fn an_emptied_database_is_filled_again_byte_for_byte() {
    let scene = Scene::new(real_kafka!(), 2);
    scene.send(traffic(&plan(500, 3)).map(|sent| sent.record));
    let mut daemon = scene.daemon(&[]);
    scene.wait_until_consumed(MINUTES);
    let before = tables::read(&scene.database);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    scene.database.run("DROP SCHEMA ingest CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    let _daemon = scene.daemon(&[]);
    scene.wait_until_consumed(MINUTES);
    tables::assert_same(&tables::read(&scene.database), &before);
}

#[test]
fn rows_that_expired_longer_ago_than_the_setting_are_deleted_without_an_event() {
    let scene = Scene::new(real_kafka!(), 1);
    let _daemon = scene.daemon(&[("EXPIRY_INTERVAL", "1s"), ("EXPIRED_EVENT_MAX_AGE", "1h")]);
    let recent = chrono::Utc::now().timestamp() - 60;
    for (voice, ready_at) in [("long ago", 0), ("just now", recent)] {
        let value = format!(
            r#"{{"caller_id":"c","greeting_call_id":"g","cloned_voice_id":"{voice}","ready_at":{ready_at},"ttl_seconds":1}}"#
        );
        scene.publish("clone.ready", &value);
    }
    scene.wait_until_consumed(SOON);
    eventually_eq(SOON, "the expired rows", "2".to_owned(), || {
        scene.database.value("SELECT count(*) FROM voice_clone_cache WHERE deleted_at IS NOT NULL")
    });
    eventually_eq(SOON, "the outbox", "0".to_owned(), || {
        scene.database.value("SELECT count(*) FROM ingest.outbox")
    });
    let events = scene.kafka.read_all(&scene.topic("clone.expired"));
    assert_eq!(events.len(), 1);
    assert!(String::from_utf8_lossy(events[0].value.as_deref().unwrap()).contains("just now"));
}
