//! Changes that somebody makes to the database under the daemon, locks, limits of time: no good record becomes a dead
//! letter, other partitions go on, and all lands once the trouble is over (contract, section 6).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use voiceclone_events::ingest::outcome::{Batch, BatchReport, Effort, OffsetSpan, Outcome, Wait, WaitKind};
use voiceclone_events::ingest::{Ingest, Positions};
use voiceclone_events::record::{Record, Topic, TopicPartition};
use voiceclone_events::store::offsets::{Position, PositionChange};

use crate::poison::{CONSTRAINT, MINUTES, batch, deliver, failures, ingest, migrated, record};
use crate::support::postgres::{Database, PrivateServer};
use crate::support::tables;

const GROUP: &str = "group";

/// A good record of a topic.
fn good(topic: Topic, offset: i64) -> Record {
    record(topic, offset, &value(topic, &format!("{offset:05}")))
}

fn value(topic: Topic, name: &str) -> Value {
    match topic {
        Topic::CloneReady => {
            json!({"caller_id": format!("+1555{name}"), "greeting_call_id": format!("g{name}"),
            "cloned_voice_id": format!("v{name}"), "clone_duration_ms": 900})
        }
        Topic::CloneFailed => {
            json!({"caller_id": format!("+1555{name}"), "greeting_call_id": format!("g{name}"),
            "error_message": "e"})
        }
        Topic::CloneTransfer => {
            json!({"greeting_call_id": format!("g{name}"), "agent_call_id": format!("a{name}"),
            "cloned_voice_id": format!("v{name}")})
        }
        Topic::CallLifecycle => json!({"call_id": format!("c{name}"), "status": "initiated"}),
        Topic::CallerVoiceMapping => json!({"caller_id": format!("+1555{name}"),
            "voice_sample_url": "https://example.com/v.wav"}),
    }
}

fn table(topic: Topic) -> &'static str {
    match topic {
        Topic::CloneReady => "clone_ready_events",
        Topic::CloneFailed => "clone_failed_events",
        Topic::CloneTransfer => "clone_transfer_events",
        Topic::CallLifecycle => "call_log",
        Topic::CallerVoiceMapping => "caller_voice_mapping",
    }
}

fn goods(topic: Topic, count: i64) -> Vec<Record> {
    (0..count).map(|offset| good(topic, offset)).collect()
}

/// A writer with offset 0 for partition 0 of each topic.
async fn with_offsets(url: &str) -> Ingest {
    let writer = Ingest { group: Some(GROUP.to_owned()), ..ingest(url) };
    for topic in Topic::ALL {
        let partition = (topic.name().to_owned(), 0);
        let first = PositionChange { partition, expected: None, to: Position::at(0, None), lost: None };
        assert_eq!(writer.store.set_positions(GROUP, &[first]).await.unwrap().len(), 1);
    }
    writer
}

fn key(topic: Topic) -> TopicPartition {
    TopicPartition::new(topic, 0)
}

fn wait(report: &BatchReport, topic: Topic) -> &Wait {
    match &report.outcomes[&key(topic)] {
        Outcome::Waits { wait, .. } => wait,
        other => panic!("{topic}: {other:?}"),
    }
}

fn landed(report: &BatchReport, topic: Topic) -> i64 {
    match &report.outcomes[&key(topic)] {
        Outcome::Landed(position) => position.next_offset,
        other => panic!("{topic}: {other:?}"),
    }
}

fn count(database: &Database, topic: Topic) -> String {
    database.value(&format!("SELECT count(*) FROM {}", table(topic)))
}

/// Next offset, unusable records in a row and whether it is stopped, as they are stored for a topic.
fn stored(database: &Database, topic: Topic) -> (String, String, String) {
    let rows = database.rows(&format!(
        "SELECT next_offset, dead_in_a_row, stopped_at IS NOT NULL FROM ingest.consumer_offsets WHERE topic = '{topic}'"
    ));
    let value = |at: usize| rows[0][at].clone().unwrap();
    (value(0), value(1), value(2))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_takes_no_good_row_keeps_the_records_and_names_the_rule_that_refuses_them() {
    use Topic::{CallLifecycle, CallerVoiceMapping, CloneFailed, CloneReady, CloneTransfer};
    let raises = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'no +15550100 today'; END $$;";
    let inserts = format!(
        "{raises} CREATE TRIGGER no BEFORE INSERT ON clone_transfer_events FOR EACH ROW EXECUTE FUNCTION no()"
    );
    let updates = format!(
        "{raises} CREATE TRIGGER no BEFORE UPDATE ON caller_voice_mapping FOR EACH ROW EXECUTE FUNCTION no()"
    );
    let cases: Vec<(Topic, String, &str, &[&str])> = vec![
        (CallLifecycle, "ALTER TABLE call_log ADD tenant_id integer NOT NULL".into(),
            "ALTER TABLE call_log DROP tenant_id", &["NOT NULL", "tenant_id", "call_log", "default"]),
        (CloneReady, "ALTER TABLE voice_clone_cache ADD tenant_id integer NOT NULL".into(),
            "ALTER TABLE voice_clone_cache DROP tenant_id", &["tenant_id", "voice_clone_cache"]),
        (CallLifecycle, "ALTER TABLE call_log ADD CONSTRAINT nobody CHECK (status = 'x')".into(),
            "ALTER TABLE call_log DROP CONSTRAINT nobody", &["CHECK", "nobody", "call_log"]),
        (CloneTransfer, "CREATE TABLE agents (id VARCHAR(255) PRIMARY KEY);
            ALTER TABLE clone_transfer_events ADD CONSTRAINT agent FOREIGN KEY (agent_call_id) REFERENCES agents".into(),
            "ALTER TABLE clone_transfer_events DROP CONSTRAINT agent", &["foreign key", "agent", "clone_transfer_events"]),
        (CloneTransfer, "CREATE TABLE agents (id VARCHAR(255) PRIMARY KEY);
            ALTER TABLE clone_transfer_events ADD CONSTRAINT agent FOREIGN KEY (agent_call_id) REFERENCES agents
            DEFERRABLE INITIALLY DEFERRED".into(),
            "ALTER TABLE clone_transfer_events DROP CONSTRAINT agent", &["foreign key", "agent", "clone_transfer_events"]),
        (CloneFailed, "ALTER TABLE clone_failed_events RENAME TO old;
            CREATE TABLE clone_failed_events (LIKE old INCLUDING ALL) PARTITION BY RANGE (id)".into(),
            "CREATE TABLE failed_1 PARTITION OF clone_failed_events DEFAULT", &["partition", "clone_failed_events"]),
        (CloneTransfer, "CREATE UNIQUE INDEX one ON clone_transfer_events ((true));
            INSERT INTO clone_transfer_events VALUES (gen_random_uuid(), 'g', 'a', 'v', now(), now())".into(),
            "DROP INDEX one; DELETE FROM clone_transfer_events WHERE greeting_call_id = 'g'", &["unique", "one"]),
        (CloneTransfer, inserts, "DROP TRIGGER no ON clone_transfer_events", &["clone_transfer_events", "own log"]),
        (CallerVoiceMapping, updates, "DROP TRIGGER no ON caller_voice_mapping", &["caller_voice_mapping"]),
        (CallLifecycle, "REVOKE INSERT ON call_log FROM {user}".into(), "GRANT INSERT ON call_log TO {user}",
            &["permission denied", "call_log"]),
        (CallLifecycle, "REVOKE UPDATE ON ingest.consumer_offsets FROM {user}".into(),
            "GRANT UPDATE ON ingest.consumer_offsets TO {user}", &["permission denied", "consumer_offsets"]),
        (CallLifecycle, "ALTER TABLE call_log DROP transcript".into(), "ALTER TABLE call_log ADD transcript TEXT",
            &["transcript"]),
        (CallLifecycle, "ALTER TABLE call_log ENABLE ROW LEVEL SECURITY".into(),
            "ALTER TABLE call_log DISABLE ROW LEVEL SECURITY", &["call_log"]),
        (CloneFailed, "DROP SCHEMA analytics CASCADE;
            ALTER TABLE clone_failed_events ALTER greeting_call_id TYPE varchar(3)".into(),
            "ALTER TABLE clone_failed_events ALTER greeting_call_id TYPE varchar(255)",
            &["value too long", "clone_failed_events"]),
        (CloneFailed, "CREATE RULE also AS ON INSERT TO clone_failed_events DO ALSO SELECT 1".into(),
            "DROP RULE also ON clone_failed_events", &["clone_failed_events", "own log"]),
        (CloneFailed, "ALTER TABLE clone_failed_events DROP CONSTRAINT clone_failed_events_pkey".into(),
            "ALTER TABLE clone_failed_events ADD PRIMARY KEY (id)", &["no unique or exclusion constraint"]),
        (CloneReady, "ALTER TABLE clone_ready_events RENAME TO gone".into(),
            "ALTER TABLE gone RENAME TO clone_ready_events", &["does not exist", "clone_ready_events"]),
    ];
    for (topic, change, undo, words) in cases {
        let database = migrated(Database::new()).await;
        let user = format!("{}_user", database.value("SELECT current_database()"));
        database.run(&format!(
            "CREATE ROLE {user} LOGIN PASSWORD 'secret'; GRANT USAGE ON SCHEMA public, ingest TO {user};
                 GRANT ALL ON ALL TABLES IN SCHEMA public, ingest TO {user};
                 ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {user}"
        ));
        let writer = with_offsets(&database.url_as(&user, "secret")).await;
        let mut records = goods(topic, 20);
        if topic == Topic::CallerVoiceMapping {
            // a second state of the first caller changes its row
            let mut again = value(topic, "00000");
            again["updated_at"] = json!("2031-01-01T00:00:00Z");
            writer
                .write_batch(batch(records.drain(..1).collect()), Effort::Once, &CancellationToken::new())
                .await;
            records.push(record(topic, 20, &again));
        }
        database.run(&change.replace("{user}", &user));
        let batch = || batch(records.clone());

        let report = deliver(&writer, batch()).await;
        let wait = wait(&report, topic);
        assert_eq!(wait.kind, WaitKind::Drift, "{change}: {wait:?}");
        assert!(words.iter().all(|word| wait.text.contains(word)), "{change}: {wait:?}");
        assert!(!wait.text.contains("5550100"), "{change}: {wait:?}");
        assert_eq!(report.remaining.len(), records.len(), "{change}");
        assert_eq!(tables::dead_letters(&database), [], "{change}");

        database.run(&undo.replace("{user}", &user));
        let granted = format!("GRANT ALL ON ALL TABLES IN SCHEMA public, ingest TO {user}");
        database.run(&granted);
        let report = deliver(&writer, batch()).await;
        assert_eq!(landed(&report, topic), records.last().unwrap().offset + 1, "{change}");
        assert_eq!(count(&database, topic), "20", "{change}");
        assert_eq!(tables::dead_letters(&database), [], "{change}");
        database.run(&format!(
                "ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM {user}; DROP OWNED BY {user}; DROP ROLE {user}"
            ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_all_topics_lands_but_for_the_topic_whose_table_takes_no_row() {
    let database = migrated(Database::new()).await;
    let writer = with_offsets(database.url()).await;
    database.run("ALTER TABLE call_log ADD tenant_id integer NOT NULL");
    let records = Topic::ALL.into_iter().flat_map(|topic| goods(topic, 10)).collect();
    let report = deliver(&writer, batch(records)).await;
    for topic in Topic::ALL.into_iter().filter(|topic| *topic != Topic::CallLifecycle) {
        assert_eq!(landed(&report, topic), 10, "{topic}");
        assert_eq!(count(&database, topic), "10", "{topic}");
    }
    assert_eq!(wait(&report, Topic::CallLifecycle).kind, WaitKind::Drift);
    assert!(report.remaining.iter().all(|record| record.topic == Topic::CallLifecycle));
    assert_eq!(report.remaining.len(), 10);
    assert_eq!(stored(&database, Topic::CallLifecycle).0, "0");
}

/// The cache belongs to two topics. A transfer changes its rows and makes none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_takes_no_new_rows_keeps_clones_and_lets_transfers_land() {
    let database = migrated(Database::new()).await;
    let writer = with_offsets(database.url()).await;
    database.run(
        "ALTER TABLE voice_clone_cache ADD tenant_id integer NOT NULL;
                  ALTER TABLE clone_transfer_events ADD CONSTRAINT sound CHECK (agent_call_id <> 'bad')",
    );
    let mut records = goods(Topic::CloneReady, 5);
    records.extend(goods(Topic::CloneTransfer, 5));
    let mut bad = value(Topic::CloneTransfer, "00007");
    bad["agent_call_id"] = json!("bad");
    records.push(record(Topic::CloneTransfer, 5, &bad));
    let report = deliver(&writer, batch(records)).await;
    assert_eq!(wait(&report, Topic::CloneReady).kind, WaitKind::Drift);
    assert_eq!(landed(&report, Topic::CloneTransfer), 6);
    let letters = tables::dead_letters(&database);
    assert_eq!(
        letters.iter().map(|letter| letter.record_offset).collect::<Vec<_>>(),
        [5],
        "the guilty one is found"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_takes_no_changes_keeps_transfers() {
    let database = migrated(Database::new()).await;
    let writer = with_offsets(database.url()).await;
    assert_eq!(landed(&deliver(&writer, batch(goods(Topic::CloneReady, 5))).await, Topic::CloneReady), 5);
    database.run("ALTER TABLE voice_clone_cache ADD CONSTRAINT once CHECK (reuse_count < 2 AND last_used_at < '1999-01-01') NOT VALID");
    let later = |offset| {
        let mut value = value(Topic::CloneTransfer, &format!("{offset:05}"));
        value["transferred_at"] = json!("2031-01-01T00:00:00Z");
        record(Topic::CloneTransfer, offset, &value)
    };
    let transfers: Vec<Record> = (0..5).map(later).collect();
    let report = deliver(&writer, batch(transfers.clone())).await;
    let wait = wait(&report, Topic::CloneTransfer);
    assert_eq!(wait.kind, WaitKind::Drift);
    assert!(wait.text.contains("once of table voice_clone_cache"), "{wait:?}");
    database.run("ALTER TABLE voice_clone_cache DROP CONSTRAINT once");
    assert_eq!(
        landed(&deliver(&writer, batch(goods(Topic::CloneTransfer, 5))).await, Topic::CloneTransfer),
        5
    );
    assert_eq!(tables::dead_letters(&database), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constraint_that_refuses_some_makes_dead_letters_of_them_after_three_seconds() {
    let database = migrated(Database::new()).await;
    let writer = with_offsets(database.url()).await;
    database.run(CONSTRAINT);
    let poisoned = [0, 7, 8, 9, 55, 99];
    let begin = Instant::now();
    let report = deliver(&writer, batch(failures(100, &poisoned))).await;
    let took = begin.elapsed();
    assert_eq!(landed(&report, Topic::CloneFailed), 100);
    assert!(took >= Duration::from_secs(3), "{took:?}: a verdict takes three seconds");
    assert!(took < Duration::from_secs(12), "{took:?}: all are tried side by side");
    assert_eq!(count(&database, Topic::CloneFailed), "94");
    let letters = tables::dead_letters(&database);
    assert_eq!(letters.iter().map(|letter| letter.record_offset).collect::<Vec<_>>(), poisoned);
    for letter in letters {
        assert!(letter.message.contains("CHECK constraint sound of table clone_failed_events"), "{letter:?}");
    }
    assert_eq!(stored(&database, Topic::CloneFailed), ("100".into(), "1".into(), "f".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_innocent_waits_with_all_behind_it_and_all_before_it_lands() {
    let database = migrated(Database::new()).await;
    let writer = with_offsets(database.url()).await;
    database.run(
        "CREATE TABLE agents (id VARCHAR(255) PRIMARY KEY);
         INSERT INTO agents SELECT 'a' || to_char(n, 'FM00000') FROM generate_series(0, 19) n WHERE n <> 12;
         ALTER TABLE clone_transfer_events ADD CONSTRAINT agent FOREIGN KEY (agent_call_id) REFERENCES agents;
         CREATE FUNCTION any_agent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.agent_call_id <> 'a00012' THEN INSERT INTO agents VALUES (NEW.agent_call_id) ON CONFLICT DO NOTHING; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER any_agent BEFORE INSERT ON clone_transfer_events FOR EACH ROW EXECUTE FUNCTION any_agent()",
    );
    let records = goods(Topic::CloneTransfer, 20);
    let report = deliver(&writer, batch(records.clone())).await;
    let Outcome::Waits { landed: position, wait } = &report.outcomes[&key(Topic::CloneTransfer)] else {
        panic!("{report:?}");
    };
    assert_eq!((position.next_offset, wait.kind), (12, WaitKind::Drift));
    assert_eq!(
        report.remaining.iter().map(|record| record.offset).collect::<Vec<_>>(),
        (12..20).collect::<Vec<_>>()
    );
    assert_eq!(count(&database, Topic::CloneTransfer), "19", "the neighbours land");
    assert_eq!(stored(&database, Topic::CloneTransfer).0, "12");

    database.run("INSERT INTO agents VALUES ('a00012')");
    let span = OffsetSpan { from: *position, to_offset: 20 };
    let rest = Batch { records: report.remaining.clone(), spans: [(key(Topic::CloneTransfer), span)].into() };
    assert_eq!(landed(&deliver(&writer, rest).await, Topic::CloneTransfer), 20);
    assert_eq!(count(&database, Topic::CloneTransfer), "20");
    assert_eq!(tables::dead_letters(&database), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_fails_now_and_then_diverts_no_record() {
    let database = migrated(Database::new()).await;
    database.run(
        "CREATE SEQUENCE asked;
         CREATE FUNCTION ask() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('asked') % 37 = 0 THEN RAISE EXCEPTION USING ERRCODE = 'HV000', MESSAGE = 'the other server is away'; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER ask BEFORE INSERT ON clone_failed_events FOR EACH ROW EXECUTE FUNCTION ask()",
    );
    let writer = ingest(database.url());
    let records = failures(300, &[]);
    let never = CancellationToken::new();
    let written = tokio::time::timeout(MINUTES, writer.write(&records, &mut Positions::new(), &never)).await;
    assert_eq!(written.expect("the records to land").unwrap().unusable, 0);
    assert_eq!(tables::dead_letters(&database), []);
    assert_eq!(count(&database, Topic::CloneFailed), "300");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_too_many_for_the_time_of_a_statement_land_in_parts_and_the_size_is_remembered() {
    let database = migrated(Database::new()).await;
    let name = database.value("SELECT current_database()");
    database.run(&format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON clone_failed_events FOR EACH ROW EXECUTE FUNCTION slow();
         ALTER DATABASE {name} SET statement_timeout = '3s'"
    ));
    let writer = with_offsets(database.url()).await;
    let report = deliver(&writer, batch(failures(4000, &[]))).await;
    assert_eq!(landed(&report, Topic::CloneFailed), 4000);
    assert_eq!(count(&database, Topic::CloneFailed), "4000");

    let span = OffsetSpan { from: Position::at(4000, None), to_offset: 7000 };
    let more: Vec<Record> = failures(7000, &[]).split_off(4000);
    let next = Batch { records: more, spans: [(key(Topic::CloneFailed), span)].into() };
    let report = writer.write_batch(next, Effort::Once, &CancellationToken::new()).await;
    assert_eq!(landed(&report, Topic::CloneFailed), 7000, "the next batch lands at once, in parts");
    assert_eq!(tables::dead_letters(&database), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_record_that_is_too_slow_is_kept_and_named_by_its_offset() {
    let database = migrated(Database::new()).await;
    let name = database.value("SELECT current_database()");
    database.run(&format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.error_message = 'poison' THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON clone_failed_events FOR EACH ROW EXECUTE FUNCTION slow();
         ALTER DATABASE {name} SET statement_timeout = '500ms'"
    ));
    let writer = with_offsets(database.url()).await;
    let report = deliver(&writer, batch(failures(40, &[21]))).await;
    let wait = wait(&report, Topic::CloneFailed);
    assert_eq!(wait.kind, WaitKind::TooLarge);
    assert!(wait.text.contains("offset 21") && wait.text.contains("skip"), "{wait:?}");
    assert_eq!(report.remaining.first().unwrap().offset, 21);
    assert_eq!(stored(&database, Topic::CloneFailed).0, "21");
    assert_eq!(tables::dead_letters(&database), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_somebody_locks_holds_up_its_own_topic_only() {
    let database = migrated(Database::new()).await;
    let writer = with_offsets(database.url()).await;
    let holder = database.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE call_log").await.unwrap();
    let records: Vec<Record> = Topic::ALL.into_iter().flat_map(|topic| goods(topic, 10)).collect();
    let begin = Instant::now();
    let report = deliver(&writer, batch(records)).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    for topic in Topic::ALL.into_iter().filter(|topic| *topic != Topic::CallLifecycle) {
        assert_eq!(landed(&report, topic), 10, "{topic}");
    }
    assert_eq!(wait(&report, Topic::CallLifecycle).kind, WaitKind::Other);
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(landed(&deliver(&writer, batch(report.remaining)).await, Topic::CallLifecycle), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_offset_moved_is_fenced_and_the_others_land() {
    let database = migrated(Database::new()).await;
    let writer = with_offsets(database.url()).await;
    database.run("UPDATE ingest.consumer_offsets SET next_offset = 3 WHERE topic = 'clone.failed'");
    let records = [goods(Topic::CloneFailed, 5), goods(Topic::CallLifecycle, 5)].concat();
    let report = deliver(&writer, batch(records)).await;
    assert_eq!(report.outcomes[&key(Topic::CloneFailed)], Outcome::Fenced);
    assert_eq!(count(&database, Topic::CloneFailed), "0");
    assert_eq!(landed(&report, Topic::CallLifecycle), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_every_partition_waits_for_it_with_all_its_records() {
    let mut server = PrivateServer::start(&[]);
    let database = migrated(Database::on(&server)).await;
    let writer = with_offsets(database.url()).await;
    server.stop();
    let records: Vec<Record> = Topic::ALL.into_iter().flat_map(|topic| goods(topic, 10)).collect();
    for effort in [Effort::Once, Effort::Thorough] {
        let report = writer.write_batch(batch(records.clone()), effort, &CancellationToken::new()).await;
        assert!(
            Topic::ALL.into_iter().all(|topic| wait(&report, topic).kind == WaitKind::Database),
            "{report:?}"
        );
        assert_eq!(report.remaining.len(), 50);
    }
    server.start_again();
    let report = deliver(&writer, batch(records)).await;
    assert!(Topic::ALL.into_iter().all(|topic| landed(&report, topic) == 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_hold_no_record_move_without_one() {
    let database = migrated(Database::new()).await;
    let writer = with_offsets(database.url()).await;
    let from = Position::at(0, None);
    let spans = [
        (key(Topic::CloneFailed), OffsetSpan { from, to_offset: 9 }),
        (key(Topic::CallLifecycle), OffsetSpan { from, to_offset: 7 }),
    ];
    let with_markers = Batch { records: goods(Topic::CallLifecycle, 5), spans: spans.into() };
    let report = deliver(&writer, with_markers).await;
    assert_eq!((landed(&report, Topic::CloneFailed), landed(&report, Topic::CallLifecycle)), (9, 7));
    assert_eq!(stored(&database, Topic::CloneFailed).0, "9");
    assert_eq!(stored(&database, Topic::CallLifecycle).0, "7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_batch_in_which_the_limit_is_reached_lands_whole_and_stops_its_partition() {
    let bad = |offset| record(Topic::CloneFailed, offset, &json!("no object"));
    for refused in [false, true] {
        let database = migrated(Database::new()).await;
        database.run(CONSTRAINT);
        let writer = Ingest { dead_letter_limit: 5, ..with_offsets(database.url()).await };
        // four, a usable one, four, and then the fifth, with usable ones behind it
        let mut records: Vec<Record> = (0..20).map(|offset| good(Topic::CloneFailed, offset)).collect();
        for offset in [0, 1, 2, 3, 5, 6, 7, 8] {
            records[offset] = bad(offset as i64);
        }
        // refused by the database or not, it counts in the order of the offsets
        records[9] = if refused { failures(10, &[9]).pop().unwrap() } else { bad(9) };
        let report = deliver(&writer, batch(records)).await;
        let expected = Position { next_offset: 20, dead_in_a_row: 5, topic_id: None, stopped: true };
        assert_eq!(report.outcomes[&key(Topic::CloneFailed)], Outcome::Landed(expected), "{refused}");
        assert_eq!(stored(&database, Topic::CloneFailed), ("20".into(), "5".into(), "t".into()), "{refused}");
        assert_eq!(count(&database, Topic::CloneFailed), "11", "{refused}");
        assert_eq!(tables::dead_letters(&database).len(), 9, "{refused}");
    }
}

/// The statement of docs/tables.md for voice `voice-1`.
fn recount() -> String {
    let (_, rest) = include_str!("../../docs/tables.md").split_once("This recounts one voice").unwrap();
    let (_, sql) = rest.split_once("```sql\n").unwrap();
    sql.split_once("```").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voice_whose_transfers_somebody_deleted_is_recounted_by_the_documented_statement() {
    let database = migrated(Database::new()).await;
    let writer = ingest(database.url());
    let write = async |records: Vec<Record>| {
        writer.write(&records, &mut Positions::new(), &CancellationToken::new()).await.unwrap();
    };
    let transfers = |agents: std::ops::Range<i64>| -> Vec<Record> {
        let transfer = |agent: i64| {
            let value = json!({"greeting_call_id": "g", "agent_call_id": format!("a{agent}"), "cloned_voice_id": "voice-1"});
            record(Topic::CloneTransfer, agent, &value)
        };
        agents.map(transfer).collect()
    };
    let ready = json!({"caller_id": "+15550100", "greeting_call_id": "g", "cloned_voice_id": "voice-1"});
    write(vec![record(Topic::CloneReady, 0, &ready)]).await;
    write(transfers(0..4)).await;
    database.run("DELETE FROM clone_transfer_events WHERE agent_call_id <> 'a0'");
    write(transfers(1..2)).await;
    let reuse_count = || database.value("SELECT reuse_count FROM voice_clone_cache");
    assert_eq!(reuse_count(), "5", "it counts again");
    database.run(&recount());
    assert_eq!(reuse_count(), "2");
    write(transfers(0..3)).await;
    assert_eq!(reuse_count(), "3");
}
