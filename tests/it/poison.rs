//! Records that PostgreSQL refuses for good among many that it accepts, faults of the infrastructure in between, and
//! runs of unusable records (contract, section 6).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use voiceclone_events::event::Limits;
use voiceclone_events::ingest::outcome::{Batch, BatchReport, Effort, OffsetSpan, Outcome, WaitKind};
use voiceclone_events::ingest::{Ingest, Memory, Positions};
use voiceclone_events::record::{Record, Topic};
use voiceclone_events::store::offsets::Position;
use voiceclone_events::store::write::Mode;
use voiceclone_events::store::{Store, connect, migrate};

use crate::support::daemon::run_command;
use crate::support::kafka::Send;
use crate::support::left_out::{note, real_kafka, test_name};
use crate::support::postgres::{Database, PrivateServer};
use crate::support::processes::Signal;
use crate::support::scene::Scene;
use crate::support::tables;

use crate::support::wait::{SOON, eventually, eventually_async, eventually_eq};

/// A deadline that is long enough on a busy machine.
pub const MINUTES: Duration = Duration::from_secs(180);

pub fn ingest(url: &str) -> Ingest {
    ingest_with(url, &[])
}

pub fn ingest_with(url: &str, extra: &[(&str, &str)]) -> Ingest {
    let flags = voiceclone_events::cli::SettingFlags::default();
    let variables = std::iter::once(("DATABASE_URL", url)).chain(extra.iter().copied());
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let need = voiceclone_events::config::Need { database: true, broker: false };
    let settings = voiceclone_events::config::Settings::from(&flags, variables, need).unwrap();
    Ingest {
        store: Store::new(connect::pool(&settings).unwrap()),
        limits: Limits { record_max_bytes: 8 * 1024 * 1024, cache_ttl_seconds: 86_400 },
        topic_prefix: String::new(),
        group: None,
        dead_letter_limit: 10_000,
        mode: Mode::Live,
        memory: Memory::default(),
        span: voiceclone_events::traces::Span::default(),
    }
}

pub fn record(topic: Topic, offset: i64, value: &Value) -> Record {
    Record {
        topic,
        partition: 0,
        offset,
        timestamp: 1_577_836_800_000,
        key: None,
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
    }
}

/// `count` `clone.failed` records; those at `poisoned` offsets say `poison`.
pub fn failures(count: i64, poisoned: &[i64]) -> Vec<Record> {
    let value = |offset: i64| {
        let message = if poisoned.contains(&offset) { "poison" } else { "e" };
        json!({"caller_id": "+15550100", "greeting_call_id": format!("g{offset}"), "error_message": message})
    };
    (0..count).map(|offset| record(Topic::CloneFailed, offset, &value(offset))).collect()
}

pub async fn migrated(database: Database) -> Database {
    migrate::up(database.url(), None).await.unwrap();
    database
}

/// A constraint; its violation has an error kind of its own.
pub const CONSTRAINT: &str =
    "ALTER TABLE clone_failed_events ADD CONSTRAINT sound CHECK (error_message <> 'poison')";

/// A trigger that raises an error of a kind unknown to Diesel.
const TRIGGER: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
     BEGIN
         IF NEW.error_message = 'poison' THEN RAISE EXCEPTION 'the account of % does not exist', NEW.caller_id; END IF;
         RETURN NEW;
     END $$;
     CREATE TRIGGER refuse BEFORE INSERT ON clone_failed_events FOR EACH ROW EXECUTE FUNCTION refuse()";

/// Writes the records, and counts the transactions: each one that writes or tries to has an id of its own.
async fn transactions(database: &Database, records: &[Record]) -> u64 {
    let next = || database.value("SELECT pg_current_xact_id()").parse::<u64>().unwrap();
    let writer = ingest(database.url());
    let before = next();
    writer.write(records, &mut Positions::new(), &CancellationToken::new()).await.unwrap();
    next() - before - 1
}

fn refused_offsets(database: &Database) -> Vec<i64> {
    let letters = tables::dead_letters(database);
    assert!(letters.iter().all(|letter| letter.reason == "rejected_by_database"), "{letters:?}");
    assert!(letters.iter().all(|letter| !letter.message.contains("5550100")), "{letters:?}");
    letters.iter().map(|letter| letter.record_offset).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_neighbours_of_a_refused_record_among_5000_land_in_about_twice_log2_of_n_more_transactions() {
    // nothing else may count: no other test, no autovacuum
    let server = PrivateServer::start(&[("autovacuum", "off")]);
    let levels = 13; // 2^13 is the first power of two above 5,000
    // a thorough write starts again, tests a good record first, and counts the offsets at its end
    let thorough = 3;
    // three times the suspect, three times a good record
    let alone = 6;
    for refusal in [CONSTRAINT, TRIGGER] {
        for poisoned in [&[0][..], &[2499], &[4999], &[17, 18, 2600, 4998]] {
            let database = migrated(Database::on(&server)).await;
            database.run(refusal);
            let count = transactions(&database, &failures(5000, poisoned)).await;
            assert_eq!(refused_offsets(&database), poisoned);
            let landed = 5000 - poisoned.len();
            assert_eq!(database.value("SELECT count(*) FROM clone_failed_events"), landed.to_string());
            let allowed = 1 + thorough + poisoned.len() as u64 * (2 * levels + alone);
            assert!(count <= allowed, "{count} transactions for {poisoned:?}, {allowed} are allowed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_without_a_refused_record_takes_one_transaction() {
    let server = PrivateServer::start(&[("autovacuum", "off")]);
    let database = migrated(Database::on(&server)).await;
    assert_eq!(transactions(&database, &failures(5000, &[])).await, 1);
}

/// Raises faults of the infrastructure in turn, one every few statements on the table; the last one is of an unknown kind.
const WORLD: &str = "CREATE SEQUENCE calls;
    CREATE FUNCTION world() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE n bigint := nextval('calls');
    BEGIN
        IF n % 5 = 0 THEN
            CASE (n / 5) % 7
            WHEN 0 THEN RAISE EXCEPTION USING ERRCODE = '40P01', MESSAGE = 'deadlock detected';
            WHEN 1 THEN RAISE EXCEPTION USING ERRCODE = '53100',
                MESSAGE = 'could not extend file \"base/1/2\": No space left on device';
            WHEN 2 THEN RAISE EXCEPTION USING ERRCODE = '57014', MESSAGE = 'canceling statement due to user request';
            WHEN 3 THEN RAISE EXCEPTION USING ERRCODE = '53200', MESSAGE = 'out of memory';
            WHEN 4 THEN PERFORM pg_sleep(60);
            WHEN 5 THEN PERFORM pg_terminate_backend(pg_backend_pid());
            ELSE RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'something odd has happened';
            END CASE;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER world BEFORE INSERT ON clone_failed_events FOR EACH STATEMENT EXECUTE FUNCTION world()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worlds_faults_in_the_middle_of_halving_never_make_a_dead_letter() {
    for refusal in [CONSTRAINT, TRIGGER] {
        let database = migrated(Database::new()).await;
        database.run(refusal);
        database.run(WORLD);
        let name = database.value("SELECT current_database()");
        database.run(&format!("ALTER DATABASE {name} SET statement_timeout = '1s'"));
        let writer = ingest(database.url());
        // until each has occurred
        while database.value("SELECT last_value FROM calls").parse::<i64>().unwrap() < 40 {
            for offset in [3, 70] {
                let records = failures(100, &[offset]);
                let written = writer.write(&records, &mut Positions::new(), &CancellationToken::new()).await;
                assert_eq!(written.unwrap().unusable, 1);
            }
        }
        assert_eq!(refused_offsets(&database), [3, 70]);
        assert_eq!(
            database.value("SELECT count(*) FROM clone_failed_events"),
            "100",
            "refused in one, taken in two"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_again_and_again_in_the_middle_of_halving_never_makes_a_dead_letter() {
    for refusal in [CONSTRAINT, TRIGGER] {
        let mut server = PrivateServer::start(&[]);
        let database = migrated(Database::on(&server)).await;
        database.run(refusal);
        // slow enough to be interrupted in the middle
        database.run(
            "CREATE SEQUENCE calls;
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('calls'), pg_sleep(0.1); RETURN NULL; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON clone_failed_events FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        );
        let writer = Arc::new(ingest(database.url()));
        let task = tokio::spawn(async move {
            let records = failures(1000, &[700]);
            writer.write(&records, &mut Positions::new(), &CancellationToken::new()).await.unwrap();
        });
        for crash in 0..4 {
            let calls = || database.value("SELECT last_value FROM calls").parse::<i64>().unwrap();
            let before = calls();
            eventually_async(MINUTES, "the halving to go on", || async {
                if task.is_finished() || calls() >= before + 3 { Ok(()) } else { Err(calls()) }
            })
            .await;
            if crash % 2 == 0 {
                server.stop_immediately();
                server.start_again();
            } else {
                database.run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'voiceclone-events'",
                );
            }
        }
        task.await.unwrap();
        assert_eq!(refused_offsets(&database), [700]);
        assert_eq!(database.value("SELECT count(*) FROM clone_failed_events"), "999");
    }
}

/// The outcome of one record.
#[derive(Debug, PartialEq)]
pub enum Fate {
    Landed,
    DeadLetter,
    Kept,
}

/// Writes a batch once, and what is suspected thoroughly, as the daemon does before it pauses.
pub async fn deliver(writer: &Ingest, batch: Batch) -> BatchReport {
    let never = CancellationToken::new();
    let spans = batch.spans.clone();
    let mut report = writer.write_batch(batch, Effort::Once, &never).await;
    let remaining = std::mem::take(&mut report.remaining);
    for (key, outcome) in report.outcomes.clone() {
        let records = remaining.iter().filter(|record| record.topic_partition() == key).cloned().collect();
        match outcome {
            Outcome::Waits { landed, wait } if wait.kind == WaitKind::Suspects => {
                let span = OffsetSpan { from: landed, ..spans[&key] };
                let batch = Batch { records, spans: [(key, span)].into() };
                let mut thorough = writer.write_batch(batch, Effort::Thorough, &never).await;
                report.outcomes.append(&mut thorough.outcomes);
                report.remaining.append(&mut thorough.remaining);
                report.written.add(thorough.written);
            }
            _ => report.remaining.extend(records),
        }
    }
    report
}

/// A batch of records that begin where their partitions are.
pub fn batch(records: Vec<Record>) -> Batch {
    let mut spans = std::collections::BTreeMap::new();
    for record in &records {
        let from = Position::at(record.offset, None);
        let span = spans.entry(record.topic_partition()).or_insert(OffsetSpan { from, to_offset: 0 });
        span.to_offset = record.offset + 1;
    }
    Batch { records, spans }
}

/// Tries to write it, without waiting where it is to be tried again, unless a busy machine has no connection yet.
pub async fn fate(writer: &Ingest, record: &Record) -> Fate {
    loop {
        let report = deliver(writer, batch(vec![record.clone()])).await;
        match report.outcomes.into_values().next().unwrap() {
            Outcome::Landed(_) if report.written.unusable == 0 => return Fate::Landed,
            Outcome::Landed(_) => return Fate::DeadLetter,
            Outcome::Waits { wait, .. } if wait.text.starts_with("no connection") => {}
            Outcome::Waits { wait, .. } => {
                println!("kept: {wait:?}");
                return Fate::Kept;
            }
            Outcome::Fenced => panic!("nothing is fenced without a group"),
        }
    }
}

pub fn transfer(agent: &str) -> Record {
    let value = json!({"greeting_call_id": "g", "agent_call_id": agent, "cloned_voice_id": "v"});
    record(Topic::CloneTransfer, 1, &value)
}

// each case has a thread of its own, as its queries block
#[tokio::test(flavor = "multi_thread", worker_threads = 12)]
async fn genuine_refusals_of_a_row_make_a_dead_letter() {
    let mut cases = Vec::new();
    for (sqlstate, refusal) in [
        (
            "23505",
            "CREATE UNIQUE INDEX one ON clone_transfer_events (greeting_call_id);
             INSERT INTO clone_transfer_events VALUES (gen_random_uuid(), 'g', 'a', 'v', now(), now())",
        ),
        ("23514", "ALTER TABLE clone_transfer_events ADD CHECK (agent_call_id <> 'bad')"),
        (
            "23514, by a trigger that names the table",
            "CREATE FUNCTION check_agent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.agent_call_id = 'bad' THEN
                     RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation', TABLE = TG_TABLE_NAME;
                 END IF; RETURN NEW; END $$;
             CREATE TRIGGER check_agent BEFORE INSERT ON clone_transfer_events
             FOR EACH ROW EXECUTE FUNCTION check_agent()",
        ),
        (
            "23505, at the commit",
            "ALTER TABLE clone_transfer_events ADD UNIQUE (greeting_call_id) DEFERRABLE INITIALLY DEFERRED;
             INSERT INTO clone_transfer_events VALUES (gen_random_uuid(), 'g', 'a', 'v', now(), now())",
        ),
        ("23P01", "ALTER TABLE clone_transfer_events ADD EXCLUDE USING hash (greeting_call_id WITH =);
             INSERT INTO clone_transfer_events VALUES (gen_random_uuid(), 'g', 'a', 'v', now(), now())"),
        // a good row is short enough
        ("22001", "ALTER TABLE clone_transfer_events ADD short VARCHAR(1)
                     GENERATED ALWAYS AS (CASE WHEN agent_call_id = 'bad' THEN 'long' END) STORED"),
        ("22003", "ALTER TABLE clone_transfer_events ADD small SMALLINT
                     GENERATED ALWAYS AS (CASE WHEN agent_call_id = 'bad' THEN 100000 END) STORED"),
        ("22012", "ALTER TABLE clone_transfer_events ADD one INTEGER
                     GENERATED ALWAYS AS (1 / (CASE WHEN agent_call_id = 'bad' THEN 0 ELSE 1 END)) STORED"),
        ("22P02", "ALTER TABLE clone_transfer_events ADD number INTEGER
                     GENERATED ALWAYS AS ((CASE WHEN agent_call_id = 'bad' THEN agent_call_id END)::integer) STORED"),
    ] {
        cases.push(tokio::spawn(async move {
            let database = migrated(Database::new()).await;
            database.run(refusal);
            let writer = ingest(database.url());
            assert_eq!(fate(&writer, &transfer("bad")).await, Fate::DeadLetter, "{sqlstate}");
            let letters = tables::dead_letters(&database);
            assert_eq!((letters.len(), letters[0].reason.as_str()), (1, "rejected_by_database"), "{sqlstate}");
            assert!(letters[0].message.contains("clone_transfer_events"), "{sqlstate}: {letters:?}");
        }));
    }
    for case in cases {
        case.await.unwrap();
    }
}

/// A trigger that raises, for the transfer to agent `bad`, what table `fault` holds.
const RAISES: &str = "CREATE TABLE fault (code TEXT, message TEXT);
    CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE f fault;
    BEGIN
        IF NEW.agent_call_id = 'bad' THEN
            SELECT * INTO f FROM public.fault;
            RAISE EXCEPTION USING ERRCODE = f.code, MESSAGE = f.message;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER raise BEFORE INSERT ON clone_transfer_events FOR EACH ROW EXECUTE FUNCTION raise()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sqlstate_is_the_worlds_or_the_rows() {
    let database = migrated(Database::new()).await;
    database.run(RAISES);
    let writer = ingest(database.url());
    use Fate::{DeadLetter, Kept};
    for (code, message, expected) in [
        ("22021", "invalid byte sequence for encoding \"UTF8\": 0x00", DeadLetter),
        ("22001", "value too long for type character varying(255)", DeadLetter),
        ("22003", "integer out of range", DeadLetter),
        ("22P05", "unsupported Unicode escape sequence", DeadLetter),
        ("22P02", "invalid input syntax for type json", DeadLetter),
        ("21000", "ON CONFLICT DO UPDATE command cannot affect row a second time", DeadLetter),
        ("23505", "duplicate key value violates unique constraint \"x\"", DeadLetter),
        ("54000", "index row size 2712 exceeds btree version 4 maximum 2704 for index \"x\"", DeadLetter),
        ("P0001", "account 7 does not exist", DeadLetter),
        ("P0001", "the caller's permission denied for now, out of memory of us all", DeadLetter),
        ("40P01", "deadlock detected", Kept),
        ("40001", "could not serialize access due to concurrent update", Kept),
        ("57014", "canceling statement due to statement timeout", Kept),
        ("57014", "canceling statement due to user request", Kept),
        ("55P03", "canceling statement due to lock timeout", Kept),
        ("55P03", "could not obtain lock on row in relation \"call_log\"", Kept),
        ("57P01", "terminating connection due to administrator command", Kept),
        ("57P02", "terminating connection because of crash of another server process", Kept),
        ("57P03", "the database system is starting up", Kept),
        ("25P03", "terminating connection due to idle-in-transaction timeout", Kept),
        ("53100", "could not extend file \"base/16384/16399\": No space left on device", Kept),
        ("53100", "could not write to file \"pg_wal/xlogtemp.1\": No space left on device", Kept),
        ("53100", "could not write to file \"base/pgsql_tmp/pgsql_tmp1.0\": No space left on device", Kept),
        ("53200", "out of memory", Kept),
        ("53200", "out of shared memory", Kept),
        ("53300", "sorry, too many clients already", Kept),
        ("53300", "remaining connection slots are reserved for non-replication superuser connections", Kept),
        ("53300", "too many connections for role \"voiceclone_events\"", Kept),
        ("53400", "temporary file size exceeds temp_file_limit (1kB)", Kept),
        ("54000", "database is not accepting commands to avoid wraparound data loss in database \"x\"", Kept),
        ("25006", "cannot execute INSERT in a read-only transaction", Kept),
        ("25006", "cannot execute INSERT during recovery", Kept),
        ("42501", "permission denied for table call_log", Kept),
        ("42501", "permission denied for schema ingest", Kept),
        ("42P01", "relation \"ingest.voices\" does not exist", Kept),
        ("42703", "column \"reuse_count\" of relation \"voice_clone_cache\" does not exist", Kept),
        ("42703", "column v.transfers does not exist", Kept),
        ("3F000", "schema \"ingest\" does not exist", Kept),
        ("42883", "function unnest(uuid[]) does not exist", Kept),
        ("0A000", "cached plan must not change result type", Kept),
        ("25P02", "current transaction is aborted, commands ignored until end of transaction block", Kept),
        ("58030", "could not read block 7 in file \"base/16384/16399\": Input/output error", Kept),
        ("XX001", "invalid page in block 7 of relation base/16384/16399", Kept),
        ("XX000", "cache lookup failed for relation 16399", Kept),
        ("XX000", "tuple concurrently updated", Kept),
    ] {
        let (code, message) = (code.replace('\'', "''"), message.replace('\'', "''"));
        database.run(&format!(
            "TRUNCATE fault, ingest.dead_letters; INSERT INTO fault VALUES ('{code}', '{message}')"
        ));
        assert_eq!(fate(&writer, &transfer("bad")).await, expected, "{code} {message}");
        let letters = if expected == DeadLetter { 1 } else { 0 };
        assert_eq!(tables::dead_letters(&database).len(), letters, "{code} {message}");
    }
    assert_eq!(fate(&writer, &transfer("good")).await, Fate::Landed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn genuine_faults_of_the_infrastructure_keep_the_record_which_lands_once_they_are_fixed() {
    let sleeps = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF NEW.agent_call_id = 'bad' THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$;
         CREATE TRIGGER wait BEFORE INSERT ON clone_transfer_events FOR EACH ROW EXECUTE FUNCTION wait();
         ALTER DATABASE {db} SET statement_timeout = '500ms'";
    let ends = "CREATE FUNCTION kill() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(1); RETURN NEW; END $$;
         CREATE TRIGGER kill BEFORE INSERT ON clone_transfer_events FOR EACH ROW EXECUTE FUNCTION kill()";
    for (sqlstate, breaks, mends) in [
        ("57014", sleeps, "DROP TRIGGER wait ON clone_transfer_events"),
        ("57P01", ends, "DROP TRIGGER kill ON clone_transfer_events"),
        (
            "25006",
            "ALTER ROLE {user} SET default_transaction_read_only = on",
            "ALTER ROLE {user} RESET default_transaction_read_only",
        ),
        ("42P01", "ALTER TABLE ingest.voices RENAME TO gone", "ALTER TABLE ingest.gone RENAME TO voices"),
        (
            "42703",
            "ALTER TABLE clone_transfer_events RENAME transferred_at TO gone",
            "ALTER TABLE clone_transfer_events RENAME gone TO transferred_at",
        ),
        ("42501", "REVOKE UPDATE ON ingest.voices FROM {user}", "GRANT UPDATE ON ingest.voices TO {user}"),
    ] {
        let database = migrated(Database::new()).await;
        let name = database.value("SELECT current_database()");
        let user = format!("{name}_user");
        let with_names = |sql: &str| sql.replace("{db}", &name).replace("{user}", &user);
        database.run(&format!(
            "CREATE ROLE {user} LOGIN PASSWORD 'secret'; GRANT USAGE ON SCHEMA public, ingest TO {user};
             GRANT ALL ON ALL TABLES IN SCHEMA public, ingest TO {user}"
        ));
        database.run(&with_names(breaks));
        let writer = ingest(&database.url_as(&user, "secret"));
        assert_eq!(fate(&writer, &transfer("bad")).await, Fate::Kept, "{sqlstate}");
        database.run(&with_names(mends));
        // settings of the database hold for new connections
        let writer = ingest(&database.url_as(&user, "secret"));
        assert_eq!(fate(&writer, &transfer("bad")).await, Fate::Landed, "{sqlstate}");
        assert_eq!(tables::dead_letters(&database).len(), 0, "{sqlstate}");
        database.run(&format!("DROP OWNED BY {user}; DROP ROLE {user}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_for_long_keeps_the_record() {
    let database = migrated(Database::new()).await;
    let writer = ingest(database.url());
    assert_eq!(fate(&writer, &transfer("first")).await, Fate::Landed);
    let holder = database.client().await;
    holder.batch_execute("BEGIN; SELECT FROM ingest.voices FOR UPDATE").await.unwrap();
    assert_eq!(fate(&writer, &transfer("second")).await, Fate::Kept);
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(fate(&writer, &transfer("second")).await, Fate::Landed);
    assert_eq!(tables::dead_letters(&database).len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_altered_under_a_prepared_statement_holds_the_records_up_only_for_a_moment() {
    let database = migrated(Database::new()).await;
    // one connection, which is not replaced
    let writer = ingest_with(database.url(), &[("DB_POOL_SIZE", "1"), ("DB_MAX_OVERFLOW", "0")]);
    let call = |status: &str, at: i64| {
        record(Topic::CallLifecycle, at, &json!({"call_id": "c", "status": status, "occurred_at": at}))
    };
    assert_eq!(fate(&writer, &call("initiated", 0)).await, Fate::Landed);
    database.run("ALTER TABLE call_log ALTER transcript TYPE VARCHAR(100000)");
    let records = [call("completed", 20)];
    let write = async {
        let mut positions = Positions::new();
        writer.write(&records, &mut positions, &CancellationToken::new()).await.unwrap()
    };
    let written = tokio::time::timeout(SOON, write).await.expect("the record to land");
    assert_eq!((written.unusable, database.value("SELECT status FROM call_log").as_str()), (0, "completed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_another_language_divert_no_good_record() {
    let server = PrivateServer::start(&[]);
    let database = migrated(Database::on(&server)).await;
    let client = database.client().await;
    if client.batch_execute("SET lc_messages = 'de_DE.UTF-8'").await.is_err() {
        fn here() {}
        note(&test_name(here), "this machine has no locale de_DE.UTF-8");
        return;
    }
    database.run(
        "CREATE ROLE german LOGIN PASSWORD 'geheim'; ALTER ROLE german SET lc_messages = 'de_DE.UTF-8';
         ALTER ROLE german SET statement_timeout = '500ms'; GRANT USAGE ON SCHEMA public, ingest TO german;
         GRANT ALL ON ALL TABLES IN SCHEMA public, ingest TO german;
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.agent_call_id = 'slow' THEN PERFORM pg_sleep(60); END IF;
             IF NEW.agent_call_id = 'bad' THEN RAISE EXCEPTION 'nein'; END IF;
             IF NEW.agent_call_id = 'twice' THEN RAISE unique_violation; END IF; RETURN NEW; END $$;
         CREATE TRIGGER wait BEFORE INSERT ON clone_transfer_events FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let german = ingest(&database.url_as("german", "geheim"));
    assert_eq!(fate(&german, &transfer("slow")).await, Fate::Kept);
    assert_eq!(
        fate(&german, &transfer("bad")).await,
        Fate::Kept,
        "it looks like a fault of the infrastructure"
    );
    assert_eq!(fate(&german, &transfer("twice")).await, Fate::DeadLetter, "what has a kind of its own can");
    assert!(server.log().contains("FEHLER"), "the messages were German");
    database.run("GRANT SET ON PARAMETER lc_messages TO german");
    let english = ingest(&database.url_as("german", "geheim"));
    assert_eq!(fate(&english, &transfer("slow")).await, Fate::Kept);
    assert_eq!(fate(&english, &transfer("bad")).await, Fate::DeadLetter);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_refused_in_any_table_of_a_batch_of_all_topics_is_found_and_all_others_land() {
    let number = |nth: i64| format!("n{nth}");
    let value = |topic: Topic, nth: i64, poisoned: bool| {
        let name = if poisoned { "poison".to_owned() } else { number(nth) };
        match topic {
            Topic::CloneReady => {
                json!({"caller_id": name, "greeting_call_id": number(nth), "cloned_voice_id": number(nth)})
            }
            Topic::CloneFailed => {
                json!({"caller_id": name, "greeting_call_id": number(nth), "error_message": "e"})
            }
            Topic::CloneTransfer => {
                json!({"greeting_call_id": name, "agent_call_id": number(nth), "cloned_voice_id": number(nth)})
            }
            Topic::CallLifecycle => json!({"call_id": number(nth), "status": "initiated", "caller_id": name}),
            Topic::CallerVoiceMapping => {
                json!({"caller_id": name, "voice_sample_url": "https://example.com/v.wav"})
            }
        }
    };
    for (table, column, bad_topic) in [
        ("clone_ready_events", "caller_id", Topic::CloneReady),
        ("voice_clone_cache", "caller_id", Topic::CloneReady),
        ("clone_failed_events", "caller_id", Topic::CloneFailed),
        ("clone_transfer_events", "greeting_call_id", Topic::CloneTransfer),
        ("call_log", "caller_id", Topic::CallLifecycle),
        ("caller_voice_mapping", "caller_id", Topic::CallerVoiceMapping),
    ] {
        let database = migrated(Database::new()).await;
        database.run(&format!("ALTER TABLE {table} ADD CHECK ({column} <> 'poison')"));
        let mut records = Vec::new();
        for topic in Topic::ALL {
            records.extend(
                (0..20).map(|nth| record(topic, nth, &value(topic, nth, topic == bad_topic && nth == 7))),
            );
        }
        ingest(database.url())
            .write(&records, &mut Positions::new(), &CancellationToken::new())
            .await
            .unwrap();
        let letters = tables::dead_letters(&database);
        let found: Vec<_> =
            letters.iter().map(|letter| (letter.topic.as_str(), letter.record_offset)).collect();
        assert_eq!(found, [(bad_topic.name(), 7)], "{table}");
        for (topic, table) in [
            (Topic::CloneReady, "clone_ready_events"),
            (Topic::CloneReady, "voice_clone_cache"),
            (Topic::CloneFailed, "clone_failed_events"),
            (Topic::CloneTransfer, "clone_transfer_events"),
            (Topic::CallLifecycle, "call_log"),
            (Topic::CallerVoiceMapping, "caller_voice_mapping"),
        ] {
            let landed = if topic == bad_topic { "19" } else { "20" };
            assert_eq!(database.value(&format!("SELECT count(*) FROM {table}")), landed, "{table}");
        }
    }
}

fn bad(scene: &Scene, partition: i32, count: usize) {
    scene.kafka.send_all(
        (0..count).map(|_| Send::to(&scene.topic("clone.failed")).partition(partition).value("no json")),
    );
}

fn good(scene: &Scene, partition: i32) {
    let value = r#"{"caller_id":"c","greeting_call_id":"g","error_message":"e"}"#;
    scene.kafka.send(Send::to(&scene.topic("clone.failed")).partition(partition).value(value));
}

/// Next offset and unusable records in a row of a partition of `clone.failed`.
fn position(scene: &Scene, partition: i32) -> (String, String) {
    let rows = scene.database.rows(&format!(
        "SELECT next_offset, dead_in_a_row FROM ingest.consumer_offsets
         WHERE topic = '{}' AND partition = {partition}",
        scene.topic("clone.failed")
    ));
    let value = |at: usize| rows[0][at].clone().unwrap();
    (value(0), value(1))
}

fn at(next_offset: i64, dead_in_a_row: i64) -> (String, String) {
    (next_offset.to_string(), dead_in_a_row.to_string())
}

#[test]
fn a_row_of_unusable_records_stops_its_partition_until_it_is_accepted() {
    let scene = Scene::new(real_kafka!(), 2);
    let limit = [("DEAD_LETTER_LIMIT", "50")];
    // a usable record in between resets the count, and each partition has its own
    bad(&scene, 0, 30);
    good(&scene, 0);
    bad(&scene, 0, 30);
    bad(&scene, 1, 45);
    let mut daemon = scene.daemon(&limit);
    scene.wait_until_consumed(MINUTES);
    assert!(daemon.is_running());
    assert_eq!((position(&scene, 0), position(&scene, 1)), (at(61, 30), at(45, 45)));

    bad(&scene, 0, 20);
    let stopped = || position(&scene, 0);
    eventually_eq(MINUTES, "the batch that reaches the limit", at(81, 50), stopped);
    let command = "`voiceclone-events dead-letters accept --topic clone.failed --partition 0`";
    eventually(MINUTES, "the command in the log", || {
        if daemon.logs().iter().any(|line| line.contains(command)) { Ok(()) } else { Err("not there") }
    });
    assert_eq!(tables::dead_letters(&scene.database).len(), 125);

    // a restart finds the stop and reads nothing more of that partition; the other one goes on
    bad(&scene, 0, 5);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(MINUTES), 0);
    good(&scene, 1);
    let mut daemon = scene.daemon(&limit);
    eventually_eq(MINUTES, "the other partition", at(46, 0), || position(&scene, 1));
    assert_eq!(position(&scene, 0), at(81, 50));
    assert_eq!(tables::dead_letters(&scene.database).len(), 125);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(MINUTES), 0);

    // the command needs no broker
    let (url, prefix) = (scene.database.url(), scene.prefix.as_str());
    let accept = |more: &[&str]| {
        let variables = [("DATABASE_URL", url), ("TOPIC_PREFIX", prefix), ("KAFKA_GROUP_ID", &scene.group)];
        run_command(&[&["dead-letters", "accept"], more].concat(), &variables, MINUTES)
    };
    for (more, words) in [
        (&["--partition", "0"][..], "--topic"),
        (&["--topic", "clone.unknown"], "clone.ready, clone.failed"),
        (&["--topic", &scene.topic("clone.failed")], "without TOPIC_PREFIX"),
        (&["--topic", "clone.failed", "--partition", "x"], "0 or above"),
    ] {
        let wrong = accept(more);
        assert_eq!(wrong.code, 2, "{wrong:?}");
        assert!(wrong.stderr.lines().last().unwrap().contains(words), "{wrong:?}");
    }
    let nothing = accept(&["--topic", "clone.ready"]);
    assert_eq!(nothing.code, 0, "{nothing:?}");
    assert!(nothing.stdout.starts_with("Nothing to accept"), "{nothing:?}");
    let one = accept(&["--topic", "clone.failed", "--partition", "0", "--json"]);
    assert_eq!(one.code, 0, "{one:?}");
    let told: Value = serde_json::from_str(&one.stdout).unwrap();
    let topic = scene.topic("clone.failed");
    let accepted = json!([{"topic": topic, "partition": 0, "count": 50}]);
    assert_eq!(told, json!({"group": scene.group, "accepted": accepted}));
    assert_eq!(
        (position(&scene, 0), position(&scene, 1)),
        (at(81, 0), at(46, 0)),
        "the other is not touched"
    );

    let mut daemon = scene.daemon(&limit);
    scene.wait_until_consumed(MINUTES);
    assert!(daemon.is_running());
    assert_eq!((position(&scene, 0), position(&scene, 1)), (at(86, 5), at(46, 0)));

    // a partition that is not stopped keeps its count
    let all = accept(&[]);
    assert!(all.stdout.starts_with("Nothing to accept"), "{all:?}");
    bad(&scene, 0, 45);
    eventually_eq(MINUTES, "the limit again", at(131, 50), || position(&scene, 0));
    assert!(daemon.is_running());
}

#[test]
fn dead_letters_that_the_broker_never_takes_hold_no_others_up() {
    let scene = Scene::new(real_kafka!(), 1);
    let topic = scene.topic("voiceclone.dead-letters");
    scene.kafka.delete_topic(&topic);
    scene.kafka.create_topic(&topic, 1, &[("max.message.bytes", "100000")]);
    // More than are published at once, in bytes.
    for _ in 0..3 {
        scene.kafka.send(Send::to(&scene.topic("clone.failed")).partition(0).value(vec![b' '; 7 << 20]));
    }
    bad(&scene, 0, 2);
    let _daemon = scene.daemon(&[]);
    eventually_eq(MINUTES, "the published dead letters", 2, || scene.kafka.read_all(&topic).len());
    let waiting = scene.database.value("SELECT count(*) FROM ingest.dead_letters WHERE published_at IS NULL");
    assert_eq!(waiting, "3", "what is not published is kept");
}

#[test]
fn ten_thousand_unusable_records_in_a_row_stop_a_partition_with_the_default_limit() {
    let scene = Scene::new(real_kafka!(), 1);
    bad(&scene, 0, 10_000);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(MINUTES);
    eventually_eq(MINUTES, "the stop", "1".to_owned(), || {
        scene.database.value("SELECT count(*) FROM ingest.consumer_offsets WHERE stopped_at IS NOT NULL")
    });
    assert_eq!(position(&scene, 0), at(10_000, 10_000));
    assert_eq!(scene.database.value("SELECT count(*) FROM ingest.dead_letters"), "10000");
    let accepted = run_command(
        &["dead-letters", "accept"],
        &scene.variables(&[("KAFKA_BOOTSTRAP_SERVERS", "")]),
        MINUTES,
    );
    assert_eq!(accepted.code, 0, "{accepted:?}");
    assert!(daemon.is_running());
    let topic = scene.topic("voiceclone.dead-letters");
    eventually_eq(MINUTES, "the published dead letters", 10_000, || {
        scene.kafka.watermarks(&topic).values().map(|(_, high)| high).sum::<i64>()
    });
}
