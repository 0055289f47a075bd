//! Traces, as a collector receives them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use openssl::pkey::PKey;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::X509;
use serde_json::Value;
use voiceclone_events::store::expiry::ExpiryCursor;
use voiceclone_events::store::{Store, migrate};

use crate::histories::ingest;
use crate::partitions::Lock;
use crate::support::certificates::{Authority, Signed};
use crate::support::collector::{Answers, Attributes, Collector, Span};
use crate::support::daemon::{Daemon, run_command};
use crate::support::kafka::{Record, Send};
use crate::support::left_out::real_kafka;
use crate::support::postgres::Database;
use crate::support::processes::{Signal, folder, free_port};
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually, eventually_eq};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// How often spans are sent, in milliseconds: the default of 5 s would only delay the tests.
const OFTEN: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "100");

/// The context of a producer; `flags` is 01 if the producer's span is sampled.
fn traceparent(number: u32, flags: &str) -> String {
    format!("00-{}-{flags}", context(number))
}

/// The ids of such a context.
fn context(number: u32) -> String {
    format!("{number:032x}-{number:016x}")
}

fn failed_clone(number: u32) -> String {
    format!(r#"{{"caller_id":"+1555010{number}","greeting_call_id":"g-{number}","error_message":"e"}}"#)
}

/// An event whose clone has reached the end of its TTL.
const EXPIRED: &str =
    r#"{"caller_id":"+15550100","greeting_call_id":"g","cloned_voice_id":"v","ready_at":0,"ttl_seconds":1}"#;

fn migrate_up(scene: &Scene) {
    let migrated = run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
}

/// A daemon that sends its traces to this URL.
fn traced(scene: &Scene, url: &str, more: &[(&str, &str)]) -> Daemon {
    scene.daemon(&[&[("OTEL_EXPORTER_OTLP_ENDPOINT", url), OFTEN], more].concat())
}

fn batch_of(collector: &Collector, topic: &str) -> Span {
    let name = format!("process {topic}");
    collector.wait_for(MINUTES, &name, |span| span.name == name)
}

fn texts(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The value of a counter without labels.
fn counter(daemon: &Daemon, name: &str) -> f64 {
    let (_, text) = daemon.http_get("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

const FAILURES: &str = "voiceclone_trace_export_failures_total";

#[test]
fn a_batch_is_a_consumers_span_with_a_link_for_each_producer_and_its_transaction_below() {
    let scene = Scene::new(real_kafka!(), 2);
    let topic = scene.topic("clone.failed");
    let to = |number| Send::to(&topic).partition(1).value(failed_clone(number));
    scene.kafka.send_all([
        to(0).header("traceparent", traceparent(7, "00")),
        to(1).header("traceparent", traceparent(8, "01")),
        to(2).header("traceparent", traceparent(8, "01")),
        to(3).header("traceparent", "no context").header("ce_traceparent", traceparent(9, "01")),
        to(4).header("traceparent", traceparent(8, "01")).header("ce_traceparent", traceparent(8, "01")),
        to(5).null_header("traceparent"),
        to(6),
    ]);
    let collector = Collector::start(Answers::Takes);
    let mut daemon = traced(&scene, &collector.url(), &[("BATCH_MAX_WAIT", "1s")]);
    let batch = batch_of(&collector, &topic);

    assert_eq!((batch.kind.as_str(), batch.parent.as_str(), batch.failed), ("CONSUMER", "", false));
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.consumer.group.name", scene.group.as_str()),
        ("messaging.client.id", "voiceclone-events"),
        ("messaging.batch.message_count", "7"),
        ("messaging.destination.name", topic.as_str()),
        ("messaging.destination.partition.id", "1"),
        ("voiceclone.dead_letters", "0"),
        ("voiceclone.retries", "0"),
        ("voiceclone.rows.inserted", "14"),
        ("error.type", ""),
        ("voiceclone.links.left_out", ""),
    ] {
        assert_eq!(batch.attribute(name), value, "{name} of {batch:?}");
    }
    assert_eq!(batch.resource["service.name"], "voiceclone-events");
    assert_eq!(batch.resource["service.version"], env!("CARGO_PKG_VERSION"));
    let place = |offset| {
        texts(&[
            ("messaging.destination.name", topic.as_str()),
            ("messaging.destination.partition.id", "1"),
            ("messaging.kafka.offset", offset),
        ])
    };
    let sampled_first = [(context(8), place("1")), (context(9), place("3")), (context(7), place("0"))];
    assert_eq!(batch.links, sampled_first);

    let [write] = &collector.below(&batch)[..] else { panic!("{:?}", collector.spans()) };
    assert_eq!((write.name.as_str(), write.kind.as_str()), ("write", "CLIENT"));
    assert_eq!(write.attribute("db.system.name"), "postgresql");
    assert_eq!(write.attribute("db.namespace"), scene.database.value("SELECT current_database()"));
    assert_eq!(write.attribute("server.address"), "127.0.0.1");
    assert_eq!(write.attribute("server.port"), scene.database.value("SHOW port"));
    assert_eq!(write.attribute("db.operation.batch.size"), "7");

    let all = format!("{:?}", collector.spans());
    assert!(!all.contains("15550"), "no caller: {all}");
    let request = collector.requests().remove(0).to_lowercase();
    assert!(request.starts_with("post /v1/traces http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\ncontent-type: application/x-protobuf\r\n"), "{request}");
    assert_eq!(counter(&daemon, FAILURES), 0.0);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
}

#[test]
fn a_batch_has_at_most_as_many_links_as_the_limit_says_and_counts_the_rest() {
    let scene = Scene::new(real_kafka!(), 1);
    let topic = scene.topic("clone.failed");
    let to = |number: u32| {
        Send::to(&topic).value(failed_clone(number)).header("traceparent", traceparent(number, "01"))
    };
    scene.kafka.send_all((1..=6).map(to));
    let collector = Collector::start(Answers::Takes);
    let more =
        [("OTEL_SPAN_LINK_COUNT_LIMIT", "4"), ("BATCH_MAX_WAIT", "1s"), ("OTEL_SERVICE_NAME", "clones")];
    let _daemon = traced(&scene, &collector.url(), &more);
    let batch = batch_of(&collector, &topic);
    let linked: Vec<String> = batch.links.iter().map(|(context, _)| context.clone()).collect();
    assert_eq!(linked, [1, 2, 3, 4].map(context));
    assert_eq!(batch.attribute("voiceclone.links.left_out"), "2");
    assert_eq!(batch.resource["service.name"], "clones");
}

#[test]
fn a_dead_letter_is_an_event_of_its_batch_and_is_sent_with_its_own_context() {
    let scene = Scene::new(real_kafka!(), 1);
    let topic = scene.topic("clone.failed");
    scene.kafka.send(Send::to(&topic).value("no JSON").header("traceparent", traceparent(7, "01")));
    let collector = Collector::start(Answers::Takes);
    let daemon = traced(&scene, &collector.url(), &[]);

    let batch = batch_of(&collector, &topic);
    let place = [("topic", topic.as_str()), ("partition", "0"), ("offset", "0"), ("reason", "invalid_json")];
    assert_eq!(batch.events, [("dead_letter".to_owned(), texts(&place))]);
    assert_eq!(batch.attribute("voiceclone.dead_letters"), "1");

    let topic = scene.topic("voiceclone.dead-letters");
    let name = format!("send {topic}");
    let sent = collector.wait_for(MINUTES, &name, |span| span.name == name);
    assert_eq!((sent.kind.as_str(), sent.parent.as_str(), sent.failed), ("PRODUCER", "", false));
    assert_eq!(sent.attribute("messaging.destination.name"), topic);
    assert_eq!(sent.attribute("messaging.operation.type"), "send");
    assert_eq!(sent.attribute("messaging.batch.message_count"), "1");
    assert_eq!(sent.links, [(context(7), Attributes::new())]);
    let letter = scene.kafka.read_all(&topic).remove(0);
    assert_eq!(letter.header("traceparent"), Some(traceparent(7, "01").as_str()));

    let logged = eventually(SOON, "a line about the dead letter", || {
        let lines = daemon.logs();
        let line = lines.iter().find(|line| line.contains("kept as dead letters")).cloned();
        line.ok_or(lines)
    });
    let logged: Value = serde_json::from_str(&logged).unwrap();
    assert_eq!(logged["trace_id"], batch.trace);
}

#[test]
fn a_batch_with_a_refused_record_shows_each_transaction_that_was_tried() {
    let scene = Scene::new(real_kafka!(), 1);
    migrate_up(&scene);
    scene.database.run("ALTER TABLE clone_failed_events ADD CHECK (greeting_call_id <> 'g-2')");
    let topic = scene.topic("clone.failed");
    scene.kafka.send_all((0..4).map(|number| Send::to(&topic).value(failed_clone(number))));
    let collector = Collector::start(Answers::Takes);
    let _daemon = traced(&scene, &collector.url(), &[("BATCH_MAX_WAIT", "1s")]);

    let refused = batch_of(&collector, &topic);
    assert!(refused.failed, "{refused:?}");
    // The search for the suspect follows without a pause.
    let retry = texts(&[("cause", "other"), ("pause_ms", "0")]);
    assert_eq!(refused.events, [("retry".to_owned(), retry)]);
    assert_eq!(refused.attribute("voiceclone.retries"), "1");
    let outcomes = |batch: &Span| -> Vec<(String, String)> {
        let writes = collector.below(batch).into_iter();
        let texts = |write: Span| {
            let attribute = |name| write.attribute(name).to_owned();
            (attribute("db.operation.batch.size"), attribute("error.type"))
        };
        writes.map(texts).collect()
    };
    let outcome = |size: &str, error: &str| (size.to_owned(), error.to_owned());
    assert_eq!(outcomes(&refused), [outcome("4", "refused")]);

    let landed = collector.wait_for(MINUTES, "a batch with a dead letter", |span| {
        span.attribute("voiceclone.dead_letters") == "1"
    });
    let halved = |records| ("halved".to_owned(), texts(&[("records", records)]));
    let letter =
        [("topic", topic.as_str()), ("partition", "0"), ("offset", "2"), ("reason", "rejected_by_database")];
    assert_eq!(landed.events, [halved("4"), halved("2"), ("dead_letter".to_owned(), texts(&letter))]);
    assert!(!landed.failed, "{landed:?}");
    let tried = outcomes(&landed);
    let first = ["4", "2", "2"].map(|size| outcome(size, if size == "2" { "" } else { "refused" }));
    assert_eq!(tried[..2], first[..2], "{tried:?}");
    assert_eq!(tried.last().unwrap().1, "", "{tried:?}");
}

#[test]
fn each_retry_says_how_long_the_records_pause_before_it() {
    let scene = Scene::new(real_kafka!(), 1);
    migrate_up(&scene);
    let topic = scene.topic("clone.failed");
    scene.kafka.send(Send::to(&topic).value(failed_clone(0)));
    let lock = Lock::of(&scene.database, "clone_failed_events");
    let collector = Collector::start(Answers::Takes);
    let _daemon = traced(&scene, &collector.url(), &[]);

    let name = format!("process {topic}");
    let batches = || collector.spans().into_iter().filter(|span| span.name == name);
    let retried = eventually(MINUTES, "three retries", || {
        let retried: Vec<Span> = batches().filter(|batch| !batch.events.is_empty()).collect();
        if retried.len() >= 3 { Ok(retried) } else { Err(retried) }
    });
    // 200 ms doubled each time, the upper half of it random
    for (batch, pauses) in retried.iter().zip([100..=200, 200..=400, 400..=800]) {
        let [(event, of)] = &batch.events[..] else { panic!("{batch:?}") };
        assert_eq!((event.as_str(), of["cause"].as_str()), ("retry", "timeout"));
        let pause: u64 = of["pause_ms"].parse().unwrap();
        assert!(pauses.contains(&pause), "{pause} ms, not {pauses:?}");
        assert_eq!((batch.attribute("voiceclone.retries"), batch.failed), ("1", true));
    }

    drop(lock);
    let landed = collector.wait_for(MINUTES, "a batch that landed", |span| span.name == name && !span.failed);
    assert_eq!(landed.attribute("voiceclone.retries"), "0");
    assert_eq!(landed.events, []);
}

/// Bytes of an event: key, value and headers.
type Bytes = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn events(scene: &Scene) -> Vec<Bytes> {
    let bytes = |event: Record| (event.key, event.value, event.headers);
    scene.kafka.read_all(&scene.topic("clone.expired")).into_iter().map(bytes).collect()
}

#[test]
fn an_expiry_has_the_context_of_its_run_also_when_it_is_sent_again_by_a_daemon_without_traces() {
    let scene = Scene::new(real_kafka!(), 1);
    scene.publish("clone.ready", EXPIRED);
    let mut daemon = scene.daemon(&[("EXPIRY_INTERVAL", "1h")]);
    scene.wait_until_consumed(MINUTES);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    // What was sent stays in the outbox, as if the daemon had died before it could note it.
    scene.database.run(
        "CREATE FUNCTION ingest.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER keep BEFORE DELETE ON ingest.outbox FOR EACH ROW EXECUTE FUNCTION ingest.keep()",
    );
    let collector = Collector::start(Answers::Takes);
    let mut daemon = traced(&scene, &collector.url(), &[("EXPIRY_INTERVAL", "1s")]);
    let sent = format!("send {}", scene.topic("clone.expired"));
    let sent = collector.wait_for(MINUTES, &sent, |span| span.name == sent);
    let run = collector.wait_for(MINUTES, "a run of the expiry", |span| {
        span.name == "expire" && span.attribute("voiceclone.rows.expired") == "1"
    });
    assert_eq!((run.kind.as_str(), run.parent.as_str(), run.failed), ("INTERNAL", "", false));
    assert_eq!(sent.kind, "PRODUCER");
    assert_eq!(sent.links, [(format!("{}-{}", run.trace, run.id), Attributes::new())]);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    let first = events(&scene).remove(0);
    let traceparent = ("traceparent".to_owned(), Some(run.traceparent().into_bytes()));
    assert_eq!(first.2.iter().filter(|header| **header == traceparent).count(), 1, "{first:?}");

    let so_far = events(&scene).len();
    scene.database.run(
        "DROP TRIGGER keep ON ingest.outbox;
         UPDATE ingest.outbox SET publish_at = now() AT TIME ZONE 'utc', publish_claim = NULL",
    );
    let _another = scene.daemon(&[("EXPIRY_INTERVAL", "1s")]);
    eventually_eq(MINUTES, "the outbox", "0".to_owned(), || {
        scene.database.value("SELECT count(*) FROM ingest.outbox")
    });
    let all = events(&scene);
    assert!(all.len() > so_far, "it was sent again");
    assert!(all.iter().all(|event| *event == first), "{all:?}");
}

/// The only event that waits, and the context of its run.
async fn waiting_event(store: &Store) -> (String, Option<Vec<u8>>, Vec<u8>, Option<String>) {
    let mut events = store.claim_expired(i64::MAX).await.unwrap().events;
    assert_eq!(events.len(), 1);
    let event = events.remove(0);
    (event.event_id.to_string(), event.key.map(String::into_bytes), event.value, event.traceparent)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waits_while_the_column_of_the_context_goes_and_comes_loses_its_context_and_nothing_else()
 {
    let database = Database::new();
    migrate::up(database.url(), None).await.unwrap();
    database.run(
        "INSERT INTO voice_clone_cache (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at, reuse_count,
                                        last_used_at, created_at)
         SELECT gen_random_uuid(), 'caller', 'voice', t, t, 1, t, t FROM (SELECT timestamp '2020-01-01' AS t) AS at",
    );
    let store = ingest(&database).store;
    let mut run = ExpiryCursor::traced(Some(traceparent(7, "01")));
    assert_eq!(store.expire(&mut run, 10, None).await.unwrap(), (1, false));
    let (id, key, value, context) = waiting_event(&store).await;
    assert_eq!(context, Some(traceparent(7, "01")));

    let applied =
        database.value("SELECT count(*) FROM __diesel_schema_migrations WHERE version <= '20261127000011'");
    let all = database.value("SELECT count(*) FROM __diesel_schema_migrations");
    let newer = all.parse::<u64>().unwrap() - applied.parse::<u64>().unwrap();
    migrate::down(database.url(), Some(newer)).await.unwrap();
    let gone = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'outbox' AND column_name = 'traceparent'";
    assert_eq!(database.value(gone), "0");
    migrate::up(database.url(), None).await.unwrap();
    database.run("UPDATE ingest.outbox SET publish_at = now() AT TIME ZONE 'utc'");
    let store = ingest(&database).store;
    assert_eq!(waiting_event(&store).await, (id, key, value, None));
}

#[test]
fn a_replay_and_a_retry_of_dead_letters_are_internal_traces_of_their_own() {
    let scene = Scene::new(real_kafka!(), 1);
    migrate_up(&scene);
    let topic = scene.topic("clone.failed");
    let good = Send::to(&topic).value(failed_clone(0)).header("traceparent", traceparent(7, "01"));
    scene.kafka.send_all([good, Send::to(&topic).value("no JSON")]);
    let collector = Collector::start(Answers::Takes);
    let url = collector.url();
    let variables = scene.variables(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
    let below = |root: &Span| -> Vec<Span> {
        let [batch] = &collector.below(root)[..] else { panic!("{:?}", collector.spans()) };
        assert_eq!((batch.name.as_str(), batch.kind.as_str()), (&*format!("process {topic}"), "INTERNAL"));
        assert_eq!(batch.attribute("voiceclone.dead_letters"), "1");
        let writes = collector.below(batch);
        assert!(writes.iter().all(|write| (write.name.as_str(), write.kind.as_str()) == ("write", "CLIENT")));
        [vec![batch.clone()], writes].concat()
    };
    let root = |name: &str| {
        let root = collector.wait_for(SOON, name, |span| span.name == name);
        assert_eq!((root.kind.as_str(), root.parent.as_str(), root.failed), ("INTERNAL", "", false));
        root
    };

    let replayed = run_command(&["replay", "--topic", "clone.failed"], &variables, MINUTES);
    assert_eq!(replayed.code, 0, "{replayed:?}");
    let replay = root("replay");
    assert_eq!(replay.attribute("messaging.destination.name"), topic);
    assert_eq!(replay.attribute("voiceclone.records"), "2");
    let spans = below(&replay);
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert_eq!(spans[0].links.iter().map(|(context, _)| context.clone()).collect::<Vec<_>>(), [context(7)]);

    let retried = run_command(&["dead-letters", "retry", "--all", "--yes"], &variables, MINUTES);
    assert_eq!(retried.code, 1, "{retried:?}");
    below(&root("dead-letters retry"));
}

#[test]
fn nothing_is_connected_or_added_unless_an_endpoint_is_set_and_traces_are_on() {
    let scene = Scene::new(real_kafka!(), 1);
    scene.publish("clone.ready", EXPIRED);
    let collector = Collector::start(Answers::Takes);
    let url = collector.url();
    for more in [
        [("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())],
        [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())],
        [("OTEL_SERVICE_NAME", "clones"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
    ] {
        let mut daemon = scene.daemon(&[&more[..], &[OFTEN, ("EXPIRY_INTERVAL", "1s")]].concat());
        scene.wait_until_consumed(MINUTES);
        eventually_eq(MINUTES, "the published expiries", 1, || events(&scene).len());
        daemon.signal(Signal::Term);
        assert_eq!(daemon.wait_exit(SOON), 0);
        let logs = daemon.logs().join("\n");
        assert!(logs.contains("OTEL_EXPORTER_OTLP_ENDPOINT=(off)"), "{logs}");
        assert!(!logs.contains("trace_id") && !logs.contains("is no setting"), "{logs}");
    }
    assert_eq!(collector.connections(), 0);
    let headers: Vec<String> = events(&scene).remove(0).2.into_iter().map(|(name, _)| name).collect();
    assert!(!headers.contains(&"traceparent".to_owned()), "{headers:?}");
}

/// A daemon does its work with this collector, counts what it lost, says so once, and ends in good order.
fn works_without(scene: &Scene, url: &str, more: &[(&str, &str)], reason: &str) {
    let mut daemon = traced(scene, url, more);
    scene.publish("clone.failed", &failed_clone(0));
    scene.wait_until_consumed(MINUTES);
    if !reason.is_empty() {
        eventually(MINUTES, "several failures", || match counter(&daemon, FAILURES) {
            few if few < 3.0 => {
                scene.publish("clone.failed", &failed_clone(1));
                Err(few)
            }
            _ => Ok(()),
        });
        let logs = daemon.logs();
        let begins = |line: &&String| line.contains("the trace collector") && line.contains(r#""times":1,"#);
        let about: Vec<&String> = logs.iter().filter(begins).collect();
        let [line] = &about[..] else { panic!("{logs:?}") };
        assert!(line.contains("spans are lost") && line.contains(reason), "{line}");
        assert!(line.contains(url.split_once("://").unwrap().1), "{line}");
    }
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    assert!(daemon.logs().iter().any(|line| line.contains("shut down cleanly")));
}

#[test]
fn a_collector_that_is_away_costs_a_count_and_one_line() {
    let scene = Scene::new(real_kafka!(), 1);
    works_without(&scene, &format!("http://127.0.0.1:{}", free_port()), &[], "refused");
}

#[test]
fn a_collector_that_takes_nothing_costs_a_count_and_one_line() {
    let scene = Scene::new(real_kafka!(), 1);
    works_without(&scene, &Collector::start(Answers::Refuses).url(), &[], "503");
}

#[test]
fn a_collector_that_never_answers_holds_up_neither_the_work_nor_the_end() {
    let scene = Scene::new(real_kafka!(), 1);
    let collector = Collector::start(Answers::Hangs);
    let an_hour = [("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000")];
    works_without(&scene, &collector.url(), &an_hour, "");
    assert!(collector.connections() > 0);
}

#[test]
fn traces_go_over_tls_to_a_collector_whose_authority_is_trusted_and_to_no_other() {
    let scene = Scene::new(real_kafka!(), 1);
    let authority = Authority::new("Test authority");
    let collector = Collector::start(Answers::TakesOverTls(acceptor(&authority.sign("localhost", (-1, 30)))));
    let url = format!("https://localhost:{}", collector.port());
    let file = |name: &str, text: &str| {
        let file = folder("certificates").join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let other = file("other.pem", &Authority::new("Another authority").pem());
    works_without(&scene, &url, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", &other)], "certificate verify failed");
    assert!(collector.requests().is_empty());

    let trusted = file("trusted.pem", &authority.pem());
    let more = [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", trusted.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2"),
        ("RUST_LOG", "trace"),
    ];
    let mut daemon = traced(&scene, &url, &more);
    scene.publish("clone.failed", &failed_clone(2));
    batch_of(&collector, &scene.topic("clone.failed"));
    assert!(collector.requests()[0].contains("Bearer hunter2"), "{:?}", collector.requests());
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    assert!(!daemon.logs().join("\n").contains("hunter2"));
}

fn acceptor(signed: &Signed) -> SslAcceptor {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    builder.set_private_key(&PKey::private_key_from_pem(signed.key().as_bytes()).unwrap()).unwrap();
    builder.set_certificate(&X509::from_pem(signed.pem().as_bytes()).unwrap()).unwrap();
    builder.build()
}
