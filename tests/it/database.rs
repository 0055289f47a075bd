//! `DATABASE_URL`: poolers, fail-over, limits, encodings, statements that hang.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use tokio_postgres::NoTls;

use crate::support::block_on;
use crate::support::daemon::{Daemon, run_command};
use crate::support::kafka::Send;
use crate::support::left_out::{or_left_out, real_kafka};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Database, PrivateServer};
use crate::support::processes::Signal;
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually, eventually_eq, holds};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);
/// The contract's limit for a fail-over.
const FAIL_OVER: Duration = Duration::from_secs(60);

/// The variables of a command that needs a database and reaches no broker.
fn variables(url: &str) -> Vec<(&str, &str)> {
    vec![("DATABASE_URL", url), ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"), ("HTTP_ADDR", "")]
}

fn wait_for_line(daemon: &Daemon, parts: &[&str], deadline: Duration) -> String {
    eventually(deadline, &format!("a log line with {parts:?}"), || {
        let lines = daemon.logs();
        let found = lines.into_iter().find(|line| parts.iter().all(|part| line.contains(part)));
        found.ok_or("no such line")
    })
}

/// Sends `count` different events to each topic. `round` makes them differ from those of other rounds.
fn send(scene: &Scene, round: u32, count: u32) {
    let mut events = Vec::new();
    for n in 0..count {
        let id = format!("{round}-{n}");
        let at = 1_700_000_000 + n;
        for (topic, value) in [
            (
                "clone.ready",
                format!(
                    r#"{{"caller_id":"c{id}","greeting_call_id":"g","cloned_voice_id":"v{id}","ready_at":{at}}}"#
                ),
            ),
            (
                "clone.failed",
                format!(
                    r#"{{"caller_id":"c{id}","greeting_call_id":"g","error_message":"e","failed_at":{at}}}"#
                ),
            ),
            (
                "clone.transfer",
                format!(
                    r#"{{"greeting_call_id":"g","agent_call_id":"a{id}","cloned_voice_id":"v{id}","transferred_at":{at}}}"#
                ),
            ),
            ("call.lifecycle", format!(r#"{{"call_id":"k{id}","status":"completed","occurred_at":{at}}}"#)),
            (
                "caller.voice_mapping",
                format!(r#"{{"caller_id":"c{id}","voice_sample_url":"u","updated_at":{at}}}"#),
            ),
        ] {
            events.push(Send::to(&scene.topic(topic)).key(id.clone()).value(value));
        }
    }
    scene.kafka.send_all(events);
}

/// The settings that another client of the pooler finds in its server connections, all held open at once.
fn settings_of_others(url: &str) -> Vec<String> {
    block_on(async {
        let mut clients = Vec::new();
        for _ in 0..15 {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute("BEGIN").await.unwrap();
            clients.push(client);
        }
        let mut found = Vec::new();
        for client in &clients {
            let row = client
                .query_one(
                    "SELECT concat_ws(' ', current_setting('enable_seqscan'), current_setting('jit'),
                                      current_setting('statement_timeout'),
                                      current_setting('idle_in_transaction_session_timeout'))",
                    &[],
                )
                .await
                .unwrap();
            found.push(row.get(0));
        }
        found
    })
}

#[test]
fn a_pooler_in_transaction_or_statement_mode_is_refused_with_the_remedy_before_anything_is_set() {
    for mode in ["transaction", "statement"] {
        let database = Database::new();
        let pooler = or_left_out!(PgBouncer::start(&database, mode));
        let url = pooler.url(&database);
        let mut daemons: Vec<Daemon> =
            (0..3).map(|_| Daemon::start(&["run", "--migrate"], &variables(&url))).collect();
        for daemon in &mut daemons {
            assert_eq!(daemon.wait_exit(MINUTES), 1, "{mode}");
            wait_for_line(daemon, &["pool_mode=session", "ERROR"], SOON);
        }
        for command in [&["migrate", "up"][..], &["migrate", "status"], &["check"]] {
            let ended = run_command(command, &variables(&url), MINUTES);
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(ended.code == 1 && said.contains("pool_mode=session"), "{mode} {command:?}: {ended:?}");
        }
        assert_eq!(database.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'ingest'"), "0");
        if mode == "transaction" {
            let found = settings_of_others(&url);
            assert!(found.iter().all(|settings| settings == "on on 0 0"), "{found:?}");
        }
    }
}

#[test]
fn a_pooler_in_transaction_mode_with_few_server_connections_is_refused_too() {
    let database = Database::new();
    for size in [1, 2, 3] {
        let pooler = or_left_out!(PgBouncer::start_of_size(&database, "transaction", size));
        let url = pooler.url(&database);
        for command in [&["migrate", "status"][..], &["check"]] {
            let ended = run_command(command, &variables(&url), MINUTES);
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(ended.code == 1 && said.contains("pool_mode=session"), "{size} {command:?}: {ended:?}");
        }
    }
}

#[test]
fn a_pooler_in_transaction_mode_is_found_while_other_clients_keep_it_busy() {
    let database = Database::new();
    let pooler = or_left_out!(PgBouncer::start(&database, "transaction"));
    let url = pooler.url(&database);
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            block_on(async {
                let client = async || {
                    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
                    tokio::spawn(connection);
                    while !stop.load(Ordering::Relaxed) {
                        client.batch_execute("SELECT pg_sleep(0.003)").await.unwrap();
                    }
                };
                futures_util::join!(client(), client(), client(), client(), client(), client());
            });
        });
        let refused = |n: usize| {
            let ended = run_command(&["migrate", "status"], &variables(&url), MINUTES);
            (!(ended.code == 1 && ended.stderr.contains("pool_mode=session")))
                .then(|| format!("{n}: {ended:?}"))
        };
        let taken: Vec<String> = (0..15).filter_map(refused).collect();
        stop.store(true, Ordering::Relaxed);
        others.join().unwrap();
        assert!(taken.is_empty(), "{taken:?}");
    });
}

#[test]
fn the_daemon_works_through_a_pooler_in_session_mode_and_leaves_no_setting_behind() {
    let scene = Scene::new(real_kafka!(), 1);
    let pooler = or_left_out!(PgBouncer::start(&scene.database, "session"));
    let url = pooler.url(&scene.database);
    let mut daemon = scene.daemon(&[("DATABASE_URL", &url), ("DB_MAX_OVERFLOW", "5")]);
    send(&scene, 1, 50);
    scene.assert_as_the_model_says(MINUTES);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    let found = settings_of_others(&url);
    assert!(found.iter().all(|settings| settings == "on on 0 0"), "{found:?}");
}

#[test]
fn a_pooler_that_changes_to_transaction_mode_is_noticed_while_the_daemon_runs() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut pooler = or_left_out!(PgBouncer::start(&scene.database, "session"));
    let url = pooler.url(&scene.database);
    let daemon = scene.daemon(&[("DATABASE_URL", &url)]);
    send(&scene, 1, 10);
    scene.wait_until_consumed(MINUTES);

    pooler.start_again("transaction");
    send(&scene, 2, 10);
    wait_for_line(&daemon, &["pool_mode=session"], MINUTES);
    assert_eq!(scene.database.value("SELECT count(*) FROM call_log"), "10");

    pooler.start_again("session");
    scene.assert_as_the_model_says(MINUTES);
    assert_eq!(scene.database.value("SELECT count(*) FROM ingest.dead_letters"), "0");
}

#[test]
fn a_start_up_parameter_that_a_pooler_refuses_is_named_with_the_remedy() {
    let database = Database::new();
    let pooler = or_left_out!(PgBouncer::start(&database, "session"));
    let url = format!("{}?options=-c%20geqo%3Doff", pooler.url(&database));
    let ended = run_command(&["migrate", "status"], &variables(&url), MINUTES);
    assert!(ended.code == 1 && ended.stderr.contains("ignore_startup_parameters"), "{ended:?}");
}

#[test]
fn after_a_fail_over_everything_lands_on_the_new_server_also_what_the_standby_had_not_got() {
    let primary = PrivateServer::start(&[]);
    let scene = Scene::on(real_kafka!(), Database::on(&primary), 2);
    let standby = PrivateServer::standby_of(&primary);
    let url = format!(
        "{}?target_session_attrs=read-write",
        scene
            .database
            .url()
            .replace(&primary.address(), &format!("{},{}", primary.address(), standby.address()))
    );
    let daemon = scene.daemon(&[("DATABASE_URL", &url)]);
    send(&scene, 1, 100);
    scene.wait_until_consumed(MINUTES);
    let on_standby = scene.database.on_standby(&standby);
    eventually_eq(SOON, "the standby's rows", "100".to_owned(), || {
        on_standby.value("SELECT count(*) FROM call_log")
    });

    // the standby gets no more
    on_standby.run("ALTER SYSTEM SET primary_conninfo = ''");
    on_standby.run("SELECT pg_reload_conf()");
    eventually_eq(SOON, "the standby's receiver", "0".to_owned(), || {
        on_standby.value("SELECT count(*) FROM pg_stat_wal_receiver")
    });
    send(&scene, 2, 100);
    scene.wait_until_consumed(MINUTES);
    assert_eq!(on_standby.value("SELECT count(*) FROM call_log"), "100");

    // the old primary stays, takes no more writes, and keeps its connections
    scene.database.run("ALTER SYSTEM SET default_transaction_read_only = on");
    scene.database.run("SELECT pg_reload_conf()");
    let promoted = Instant::now();
    on_standby.run("SELECT pg_promote()");
    // one topic has new records, the others are idle
    scene.publish("call.lifecycle", r#"{"call_id":"last","status":"initiated","occurred_at":1700000000}"#);
    let scene = Scene { database: on_standby, ..scene };
    scene.assert_as_the_model_says(FAIL_OVER);
    assert!(promoted.elapsed() < FAIL_OVER, "{:?}", promoted.elapsed());
    wait_for_line(&daemon, &["another server"], SOON);
}

#[test]
fn several_servers_are_tried_in_turn_and_the_error_names_each_with_its_own_reason() {
    let database = Database::new();
    let (before, server) = database.url().split_once('@').unwrap();
    let url = format!("{before}@127.0.0.1:1,{server}");
    let ended = run_command(&["migrate", "up"], &variables(&url), MINUTES);
    assert_eq!(ended.code, 0, "{ended:?}");

    let url = format!("{url}?target_session_attrs=standby");
    let ended = run_command(&["migrate", "status"], &variables(&url), MINUTES);
    let address = server.split('/').next().unwrap();
    assert_eq!(ended.code, 1);
    for part in ["127.0.0.1:1: ", "Connection refused", &format!("{address}: it is no standby")] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
}

#[test]
fn a_malformed_database_url_ends_every_command_with_2_and_other_drivers_parameters_are_ignored() {
    let database = Database::new();
    let with = |parameters: &str| format!("{}?{parameters}", database.url());
    for parameters in
        ["sslmod=require", "connect_timeout=soon", "sslrootcert=/nowhere/ca.pem&sslmode=verify-ca"]
    {
        let url = with(parameters);
        for command in
            [&["run"][..], &["run", "--migrate"], &["migrate", "up"], &["migrate", "status"], &["check"]]
        {
            let ended = run_command(command, &variables(&url), MINUTES);
            assert_eq!(ended.code, 2, "{command:?} {parameters}: {ended:?}");
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(said.contains("DATABASE_URL") && !said.contains("throw-away"), "{said}");
        }
    }
    let url = with("prepared_statement_cache_size=0&gssencmode=disable&client_encoding=utf8&sslmode=prefer")
        .replace("postgresql://", "postgresql+asyncpg://");
    let ended = run_command(&["migrate", "up"], &variables(&url), MINUTES);
    assert_eq!(ended.code, 0, "{ended:?}");
    let named = ended.stderr.lines().filter(|line| line.contains("prepared_statement_cache_size")).count();
    assert_eq!(named, 1, "{ended:?}");
}

#[test]
fn run_migrates_and_works_in_a_role_that_may_have_few_connections() {
    let scene = Scene::new(real_kafka!(), 1);
    let role = crate::support::unique("few");
    let name = scene.database.name();
    scene.database.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'word' CONNECTION LIMIT 5"));
    scene.database.run(&format!("ALTER DATABASE {name} OWNER TO {role}"));
    let url = scene.database.url_as(&role, "word");
    // the schema is behind at first, and current later
    for (round, limit) in [(1, 5), (2, 5), (3, 3), (4, 1)] {
        scene.database.run(&format!("ALTER ROLE {role} CONNECTION LIMIT {limit}"));
        let mut daemon = scene.daemon(&[("DATABASE_URL", &url)]);
        send(&scene, round, 20);
        scene.assert_as_the_model_says(MINUTES);
        if limit <= 3 {
            wait_for_line(&daemon, &["fewer connections than DB_POOL_SIZE and DB_MAX_OVERFLOW allow"], SOON);
        }
        let lines = daemon.logs().iter().filter(|line| line.contains("fewer connections")).count();
        assert!(lines <= 1, "{lines} lines");
        daemon.signal(Signal::Term);
        assert_eq!(daemon.wait_exit(SOON), 0);
        scene.database.wait_until_alone();
    }
    scene
        .database
        .run(&format!("ALTER DATABASE {name} OWNER TO postgres; REASSIGN OWNED BY {role} TO postgres"));
    scene.database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_database_of_another_encoding_is_refused_by_name_with_the_remedy() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let database = Database::with_encoding(encoding);
        for command in [&["migrate", "up"][..], &["run", "--migrate"], &["run"]] {
            let ended = run_command(command, &variables(database.url()), MINUTES);
            assert_eq!(ended.code, 1, "{command:?}: {ended:?}");
            assert!(ended.stderr.contains(encoding) && ended.stderr.contains("ENCODING 'UTF8'"), "{ended:?}");
        }
        assert_eq!(database.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'ingest'"), "0");
    }
}

#[test]
fn a_commit_that_waits_for_a_standby_is_reported_once_and_a_lock_with_the_session_that_holds_it() {
    let server = PrivateServer::start(&[]);
    let scene = Scene::on(real_kafka!(), Database::on(&server), 1);
    let daemon = scene.daemon(&[]);
    send(&scene, 1, 5);
    scene.wait_until_consumed(MINUTES);

    scene.database.run("ALTER SYSTEM SET synchronous_standby_names = 'gone'");
    scene.database.run("SELECT pg_reload_conf()");
    send(&scene, 2, 5);
    wait_for_line(&daemon, &["PostgreSQL has not finished a statement", "COMMIT", "SyncRep"], SOON);
    scene.database.run("ALTER SYSTEM RESET synchronous_standby_names");
    scene.database.run("SELECT pg_reload_conf()");
    scene.assert_as_the_model_says(MINUTES);
    wait_for_line(&daemon, &["PostgreSQL has finished the statements"], SOON);

    block_on(async {
        let mut client = scene.database.client().await;
        let lock = client.transaction().await.unwrap();
        lock.batch_execute("LOCK TABLE call_log").await.unwrap();
        send(&scene, 3, 5);
        let blocker: i32 = lock.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let blocker = format!("process {blocker}");
        wait_for_line(&daemon, &["partitions wait", "call.lifecycle", "held by", &blocker, "call_log"], SOON);
        lock.rollback().await.unwrap();
    });
    scene.assert_as_the_model_says(MINUTES);
    let lines = daemon.logs().iter().filter(|line| line.contains("has not finished a statement")).count();
    assert_eq!(lines, 1);
}

#[test]
fn a_migration_whose_commit_waits_for_a_standby_is_reported_and_holds_up_no_end() {
    let server = PrivateServer::start(&[]);
    let database = Database::on(&server);
    database.run("ALTER SYSTEM SET synchronous_standby_names = 'gone'");
    database.run("SELECT pg_reload_conf()");
    let mut daemon = Daemon::start(&["run", "--migrate"], &variables(database.url()));
    wait_for_line(&daemon, &["PostgreSQL has not finished a statement", "SyncRep"], SOON);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
    database.run("ALTER SYSTEM RESET synchronous_standby_names");
    database.run("SELECT pg_reload_conf()");
    let migrated = run_command(&["migrate", "up"], &variables(database.url()), MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
}

#[test]
fn a_database_that_is_away_is_one_line_with_host_port_and_reason_and_one_when_it_is_back() {
    let mut server = PrivateServer::start(&[]);
    let database = Database::on(&server);
    let migrated = run_command(&["migrate", "up"], &variables(database.url()), MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    let mut daemon = Daemon::run(&variables(database.url()));
    wait_for_line(&daemon, &["consuming"], SOON);
    let outage = r#""message":"PostgreSQL: "#;
    let count = |daemon: &Daemon| daemon.logs().iter().filter(|line| line.contains(outage)).count();
    assert_eq!(count(&daemon), 0);

    server.stop();
    let line = wait_for_line(&daemon, &[outage], SOON);
    // A server that is stopping still answers for a moment, and ends the statements that are in flight.
    let reasons = [
        "Connection refused",
        "the database system is shutting down",
        "terminating connection",
        "connection closed",
    ];
    assert!(line.contains(&server.address()), "{line}");
    assert!(reasons.iter().any(|reason| line.contains(reason)), "{line}");
    holds(Duration::from_secs(12), "one line", || {
        let lines = count(&daemon);
        if lines == 1 { Ok(()) } else { Err(lines) }
    });
    server.start_again();
    wait_for_line(&daemon, &["PostgreSQL is back"], SOON);
    daemon.signal(Signal::Term);
    assert_eq!(daemon.wait_exit(SOON), 0);
}

/// A key, and its certificate in this name: signed by `authority`, or an authority of its own.
fn certificate(name: &str, authority: Option<&(PKey<Private>, X509)>) -> (PKey<Private>, X509) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut certificate = X509Builder::new().unwrap();
    certificate.set_version(2).unwrap();
    let serial = u32::try_from(name.len()).unwrap();
    certificate.set_serial_number(&BigNum::from_u32(serial).unwrap().to_asn1_integer().unwrap()).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    certificate.set_subject_name(&subject).unwrap();
    certificate.set_pubkey(&key).unwrap();
    let signer = match authority {
        Some((signer, issuer)) => {
            certificate.set_issuer_name(issuer.subject_name()).unwrap();
            let names =
                SubjectAlternativeName::new().ip("127.0.0.1").build(&certificate.x509v3_context(None, None));
            certificate.append_extension(names.unwrap()).unwrap();
            signer
        }
        None => {
            certificate.set_issuer_name(&subject).unwrap();
            certificate.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
            &key
        }
    };
    certificate.sign(signer, MessageDigest::sha256()).unwrap();
    let certificate = certificate.build();
    (key, certificate)
}

#[test]
fn a_client_certificate_is_shown_to_a_server_that_asks_for_it() {
    let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
    let authority = certificate("the authority", None);
    let server = certificate("127.0.0.1", Some(&authority));
    let client = certificate("certain", Some(&authority));
    let files = [
        ("ca.crt", text(authority.1.to_pem().unwrap())),
        ("server.crt", text(server.1.to_pem().unwrap())),
        ("server.key", text(server.0.private_key_to_pem_pkcs8().unwrap())),
        ("pg_hba.conf", "hostssl all certain all cert\nhost all all all scram-sha-256\n".to_owned()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let settings = [
        ("ssl", "on"),
        ("ssl_cert_file", "server.crt"),
        ("ssl_key_file", "server.key"),
        ("ssl_ca_file", "ca.crt"),
    ];
    let server = PrivateServer::start_with_files(&settings, &files);
    let database = Database::on(&server);
    database.run("CREATE ROLE certain LOGIN");
    let path = |name: &str, pem: Vec<u8>| {
        let path = server.path(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let root = path("root.pem", authority.1.to_pem().unwrap());
    let own = path("own.pem", client.1.to_pem().unwrap());
    let cipher = openssl::symm::Cipher::aes_256_cbc();
    let key = path("key.pem", client.0.private_key_to_pem_pkcs8_passphrase(cipher, b"opens").unwrap());

    let url = database.url_as("certain", "none").replace(":none@", "@");
    let checked = format!("{url}?sslmode=verify-full&sslrootcert={root}");
    let with = format!("{checked}&sslcert={own}&sslkey={key}&sslpassword=opens");
    let ended = run_command(&["migrate", "status"], &variables(&with), MINUTES);
    assert_eq!(ended.code, 0, "{ended:?}");
    let ended = run_command(&["migrate", "status"], &variables(&checked), MINUTES);
    assert!(ended.code == 1 && ended.stderr.contains("client certificate"), "{ended:?}");
    let wrong = with.replace("=opens", "=closes");
    let ended = run_command(&["migrate", "status"], &variables(&wrong), MINUTES);
    assert!(
        ended.code == 2 && ended.stderr.contains("sslkey") && !ended.stderr.contains("closes"),
        "{ended:?}"
    );
}
