//! The rights of the daemon, the data that it shows, and attacks over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::daemon::{Daemon, run_command};
use crate::support::kafka::Send;
use crate::support::left_out::real_kafka;
use crate::support::postgres::Database;
use crate::support::processes::Signal;
use crate::support::scene::Scene;
use crate::support::tables;
use crate::support::wait::{SOON, eventually, eventually_eq};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// Migrates, runs roles.sql as an operator does, and gives the URL of a login that is a member of nothing but the
/// daemon's role. Roles belong to the whole server, so the daemon's stays.
fn url_of_the_daemons_role(database: &Database) -> String {
    let variables = [("DATABASE_URL", database.url())];
    let migrated = run_command(&["migrate", "up"], &variables, MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    // twice, as it may be run again; one at a time, as two sessions cannot change one role at once
    for _ in 0..2 {
        eventually(MINUTES, "roles.sql", || {
            let mut psql = Command::new("psql");
            psql.arg(database.url()).args(["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--file"]);
            let done = psql.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/roles.sql")).output().unwrap();
            if done.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&done.stderr).into_owned())
            }
        });
    }
    eventually(MINUTES, "the login", || {
        let made = "ALTER ROLE voiceclone_events LOGIN PASSWORD 'role-secret'";
        let mut psql = Command::new("psql");
        psql.arg(database.url()).args([
            "--quiet",
            "--no-psqlrc",
            "--set",
            "ON_ERROR_STOP=1",
            "--command",
            made,
        ]);
        if psql.output().unwrap().status.success() { Ok(()) } else { Err("not yet") }
    });
    database.url_as("voiceclone_events", "role-secret")
}

/// Runs roles.sql, as somebody with this URL does.
fn roles_sql(url: &str) -> Result<(), String> {
    let mut psql = Command::new("psql");
    psql.arg(url).args(["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--file"]);
    let done = psql.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/roles.sql")).output().unwrap();
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

#[test]
fn roles_sql_takes_an_owner_without_createrole_beside_tables_of_others() {
    let database = Database::new();
    // an administrator has created the roles
    url_of_the_daemons_role(&Database::new());
    let owner = crate::support::unique("owner");
    let name = database.value("SELECT current_database()");
    database.run(&format!(
        "CREATE ROLE {owner} LOGIN PASSWORD 'owner' NOCREATEROLE; ALTER DATABASE {name} OWNER TO {owner};
         CREATE TABLE public.of_another_owner (a int)"
    ));
    let url = database.url_as(&owner, "owner");
    let migrated = run_command(&["migrate", "up"], &[("DATABASE_URL", &url)], MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    // concurrent grants to one role from several sessions may conflict
    eventually(MINUTES, "roles.sql", || roles_sql(&url));
    for table in ["public.call_log", "ingest.consumer_offsets"] {
        let may = format!("SELECT has_table_privilege('voiceclone_events', '{table}', 'INSERT')");
        assert_eq!(database.value(&may), "t", "{table}");
    }
    database.run(&format!("REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}"));
}

#[test]
fn the_backfill_recipe_keeps_dead_letters_and_the_rights_of_the_daemons_role() {
    let database = Database::new();
    url_of_the_daemons_role(&database);
    let letter = |offset: u32| {
        format!(
            "INSERT INTO ingest.dead_letters (topic, partition, record_offset, record_timestamp, headers, reason, message)
             VALUES ('clone.ready', 0, {offset}, '2026-01-01', '{{}}', 'invalid_json', 'no JSON')"
        )
    };
    database.run(&letter(7));
    let dump = crate::support::processes::folder("dump").join("dead_letters.sql");
    let dumped = Command::new("pg_dump")
        .args([database.url(), "--data-only", "--table=ingest.dead_letters", "--file"])
        .arg(&dump)
        .output()
        .unwrap();
    assert!(dumped.status.success(), "{dumped:?}");
    let variables = [("DATABASE_URL", database.url())];
    for way in [&["migrate", "down", "100"][..], &["migrate", "up"]] {
        assert_eq!(run_command(way, &variables, MINUTES).code, 0);
    }
    let restored = Command::new("psql")
        .args([
            database.url(),
            "--quiet",
            "--no-psqlrc",
            "--set",
            "ON_ERROR_STOP=1",
            "--single-transaction",
            "--file",
        ])
        .arg(&dump)
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    eventually(MINUTES, "roles.sql", || roles_sql(database.url()));
    database.run(&letter(8));
    assert_eq!(
        database.value("SELECT string_agg(record_offset::text, ' ' ORDER BY id) FROM ingest.dead_letters"),
        "7 8"
    );
    let may = "SELECT has_table_privilege('voiceclone_events', 'public.call_log', 'INSERT')";
    assert_eq!(database.value(may), "t");
}

/// The error of a statement of the daemon's role; `None` where it succeeds.
fn refusal(url: &str, sql: &str) -> Option<String> {
    let done = Command::new("psql").arg(url).args(["--no-psqlrc", "--command", sql]).output().unwrap();
    (!done.status.success()).then(|| String::from_utf8_lossy(&done.stderr).into_owned())
}

#[test]
fn the_daemon_does_all_its_work_in_the_role_of_roles_sql_which_may_do_nothing_else() {
    let scene = Scene::new(real_kafka!(), 1);
    let url = url_of_the_daemons_role(&scene.database);
    let variables: Vec<(&str, &str)> = scene
        .variables(&[("EXPIRY_INTERVAL", "1s"), ("DEAD_LETTER_LIMIT", "50")])
        .into_iter()
        .map(|(name, value)| if name == "DATABASE_URL" { (name, url.as_str()) } else { (name, value) })
        .collect();
    scene.compact_mappings();
    let checked = run_command(&["check"], &[&variables[..], &[("HTTP_ADDR", "")]].concat(), MINUTES);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(!format!("{checked:?}").contains("role-secret"));
    // records without a key follow
    let size = ("max.message.bytes", "10485760");
    scene.kafka.set_topic_settings(&scene.topic("caller.voice_mapping"), &[size]);

    let _daemon = Daemon::run(&variables);
    let publish = |topic: &str, value: &str| scene.publish(topic, value);
    for _ in 0..2 {
        publish(
            "clone.ready",
            r#"{"caller_id":"c","greeting_call_id":"g","cloned_voice_id":"v","ready_at":0,"ttl_seconds":1}"#,
        );
        publish(
            "clone.failed",
            r#"{"caller_id":"c","greeting_call_id":"g","error_message":"e","failed_at":0}"#,
        );
        publish("clone.transfer", r#"{"greeting_call_id":"g","agent_call_id":"a","cloned_voice_id":"v"}"#);
        publish(
            "call.lifecycle",
            r#"{"call_id":"c","status":"completed","transcript":"t","metadata":{"a":1}}"#,
        );
        publish("caller.voice_mapping", r#"{"caller_id":"c","voice_sample_url":"u"}"#);
        publish("clone.failed", "no json");
    }
    scene.wait_until_consumed(MINUTES);
    for table in tables::TABLES.map(|(table, _)| table) {
        assert_ne!(scene.database.value(&format!("SELECT count(*) FROM {table}")), "0", "{table}");
    }
    for (topic, count) in [("clone.expired", 1), ("voiceclone.dead-letters", 2)] {
        let topic = scene.topic(topic);
        eventually_eq(MINUTES, &topic, count, || scene.kafka.read_all(&topic).len());
    }
    eventually_eq(MINUTES, "the outbox", "0".to_owned(), || {
        scene.database.value("SELECT count(*) FROM ingest.outbox")
    });
    let accepted = run_command(&["dead-letters", "accept"], &variables, MINUTES);
    assert_eq!(accepted.code, 0, "{accepted:?}");

    scene.database.run("CREATE SCHEMA other; CREATE TABLE other.secrets (a int)");
    let mut forbidden = vec![
        "CREATE TABLE public.mine (a int)".to_owned(),
        "CREATE TABLE ingest.mine (a int)".to_owned(),
        "CREATE SCHEMA mine".to_owned(),
        "SELECT * FROM other.secrets".to_owned(),
        "SELECT * FROM ingest.adopted_tables".to_owned(),
        "TRUNCATE ingest.dead_letters".to_owned(),
        "DELETE FROM ingest.consumer_offsets".to_owned(),
        "DELETE FROM public.__diesel_schema_migrations".to_owned(),
        "CREATE ROLE mine".to_owned(),
    ];
    for table in tables::TABLES.map(|(table, _)| table) {
        forbidden.push(format!("DROP TABLE public.{table}"));
        forbidden.push(format!("ALTER TABLE public.{table} ADD a int"));
        forbidden.push(format!("TRUNCATE public.{table}"));
        forbidden.push(format!("DELETE FROM public.{table}"));
        forbidden.push(format!("CREATE INDEX ON public.{table} (id)"));
    }
    for statement in forbidden {
        let why = refusal(&url, &statement).unwrap_or_else(|| panic!("{statement}: was done"));
        assert!(why.contains("permission denied") || why.contains("must be owner"), "{statement}: {why}");
    }
}

#[test]
fn check_misses_each_right_that_roles_sql_grants_and_roles_sql_grants_nothing_more() {
    let scene = Scene::new(real_kafka!(), 1);
    let url = url_of_the_daemons_role(&scene.database);
    let granted = scene.database.rows(
        "SELECT table_schema, table_name, privilege_type FROM information_schema.role_table_grants
         WHERE grantee = 'voiceclone_events' ORDER BY 1, 2, 3",
    );
    assert_eq!(granted.len(), 52, "{granted:?}");
    let variables =
        [("DATABASE_URL", url.as_str()), ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"), ("HTTP_ADDR", "")];
    let text = |value: &Option<String>| value.clone().unwrap();
    let rights: Vec<(String, String, String)> =
        granted.iter().map(|row| (text(&row[0]), text(&row[1]), text(&row[2]))).collect();
    for (schema, table, right) in &rights {
        scene.database.run(&format!("REVOKE {right} ON {schema}.{table} FROM voiceclone_events"));
    }
    let checked = run_command(&["check", "--json"], &variables, MINUTES);
    assert_eq!(checked.code, 1, "{checked:?}");
    let report: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
    let mut missed = BTreeSet::new();
    for step in report["checks"].as_array().unwrap() {
        for statement in step["remedy"].as_str().unwrap_or_default().lines() {
            let Some(rest) = statement.strip_prefix("GRANT ") else { continue };
            let (rights, rest) = rest.split_once(" ON ").unwrap();
            let (schema, table) = rest.split_once(" TO ").unwrap().0.split_once('.').unwrap();
            for right in rights.split(", ") {
                missed.insert((schema.to_owned(), table.to_owned(), right.to_owned()));
            }
        }
    }
    assert_eq!(missed, rights.into_iter().collect());
    let reader = scene.database.rows(
        "SELECT DISTINCT table_schema, privilege_type FROM information_schema.role_table_grants
         WHERE grantee = 'voiceclone_reader' ORDER BY 1",
    );
    assert_eq!(
        reader,
        ["analytics", "public"].map(|schema| [Some(schema.to_owned()), Some("SELECT".to_owned())])
    );
}

const MARK: &str = "geheimnis";
const NUMBER: &str = "2025550143";

/// Everything that may never be seen.
fn assert_no_secret(what: &str, lines: &[String]) {
    assert!(!lines.is_empty(), "{what}: nothing was printed");
    for line in lines {
        // a trace may print bytes as numbers
        let as_numbers =
            |text: &str| text.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
        for secret in [MARK, NUMBER, &as_numbers(MARK), &as_numbers(NUMBER)] {
            assert!(!line.contains(secret), "{what}: {line}");
        }
    }
}

#[test]
fn no_log_line_at_any_level_holds_personal_data_or_a_password() {
    for format in ["text", "json"] {
        let scene = Scene::new(real_kafka!(), 1);
        let migrated = run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
        assert_eq!(migrated.code, 0, "{migrated:?}");
        scene.database.run(
            "CREATE SEQUENCE slow; CREATE SEQUENCE passing;
             CREATE FUNCTION talk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE WARNING 'row %', NEW; RAISE NOTICE 'row %', NEW; RAISE INFO 'row %', NEW;
                 CASE NEW.greeting_call_id
                 WHEN 'raise' THEN RAISE EXCEPTION 'no %', NEW;
                 WHEN 'slow' THEN IF nextval('slow') < 3 THEN PERFORM pg_sleep(60); END IF;
                 WHEN 'passing' THEN IF nextval('passing') < 3 THEN
                     RAISE EXCEPTION 'permission denied for %', NEW; END IF;
                 ELSE NULL; END CASE;
                 RETURN NEW; END $$;
             CREATE TRIGGER talk BEFORE INSERT ON clone_failed_events FOR EACH ROW EXECUTE FUNCTION talk();
             CREATE UNIQUE INDEX one ON clone_failed_events (error_message) WHERE greeting_call_id = 'unique';
             ALTER TABLE clone_failed_events ADD CHECK (greeting_call_id <> 'check')",
        );
        let name = scene.database.value("SELECT current_database()");
        scene.database.run(&format!("ALTER DATABASE {name} SET statement_timeout = '2s'"));
        let caller = format!("+1{NUMBER}");
        for call in ["good", "raise", "check", "unique", "unique", "slow", "passing"] {
            let at = chrono::Utc::now().timestamp_micros();
            let value = format!(
                r#"{{"caller_id":"{caller}","greeting_call_id":"{call}","error_message":"{MARK}","failed_at":{}}}"#,
                at as f64 / 1e6
            );
            let send = Send::to(&scene.topic("clone.failed")).value(value).key(caller.as_str());
            scene.kafka.send(send.header("x-caller", caller.as_str()).header(MARK, MARK));
        }
        let long = MARK.repeat(40);
        for value in [
            format!("{MARK} {caller}"),
            format!(r#"["{MARK}","{caller}"]"#),
            format!(r#"{{"call_id":"{caller}"}}"#),
            format!(r#"{{"call_id":"{caller}","status":"{MARK}"}}"#),
            format!(r#"{{"call_id":"{caller}","status":"completed","duration_seconds":"{MARK}"}}"#),
            format!(r#"{{"call_id":"{caller}","status":"completed","occurred_at":"{MARK}"}}"#),
            format!(r#"{{"call_id":"{long}","status":"completed"}}"#),
            format!(r#"{{"call_id":"{caller}\u0000","status":"completed","transcript":"{MARK}"}}"#),
            format!(r#"{{"call_id":"{caller}","call_id":"{MARK}","status":"completed"}}"#),
            format!(
                r#"{{"call_id":"{caller}","status":"completed","metadata":{{"{MARK}":"{caller}\u0000"}}}}"#
            ),
            format!(
                r#"{{"specversion":"1.0","type":"{MARK}","source":"s","id":"i","data":{{"call_id":"{caller}"}}}}"#
            ),
            format!(
                r#"{{"call_id":"{caller}","status":"completed","transcript":"{MARK}","metadata":{{"{MARK}":1}}}}"#
            ),
            format!(
                r#"{{"call_id":"{}","status":"completed","transcript":"{}"}}"#,
                caller,
                MARK.repeat(20_000)
            ),
        ] {
            scene.publish("call.lifecycle", &value);
        }
        scene.kafka.send(Send::to(&scene.topic("call.lifecycle")).key(caller.as_str()));
        scene.publish(
            "clone.ready",
            &format!(
                r#"{{"caller_id":"{caller}","greeting_call_id":"g","cloned_voice_id":"{MARK}","ready_at":0,"ttl_seconds":1}}"#
            ),
        );
        let mut daemon = scene.daemon(&[
            ("RUST_LOG", "trace"),
            ("LOG_FORMAT", format),
            ("RECORD_MAX_BYTES", "100000"),
            ("EXPIRY_INTERVAL", "1s"),
            ("KAFKA_SASL_PASSWORD", MARK),
            ("KAFKA_DEBUG", "all"),
        ]);
        scene.wait_until_consumed(MINUTES);
        let letters = tables::dead_letters(&scene.database);
        let reasons: BTreeSet<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
        for reason in [
            "invalid_json",
            "not_an_object",
            "missing_field",
            "invalid_type",
            "invalid_value",
            "too_long",
            "nul_character",
            "tombstone",
            "too_large",
            "wrong_type_for_topic",
            "rejected_by_database",
        ] {
            assert!(reasons.contains(reason), "{reason} is not among {reasons:?}");
        }
        assert_no_secret("messages", &letters.iter().map(|l| l.message.clone()).collect::<Vec<_>>());
        eventually(MINUTES, "the published expiry", || {
            if scene.kafka.read_all(&scene.topic("clone.expired")).is_empty() { Err("none") } else { Ok(()) }
        });
        assert_no_secret("metrics", &[daemon.http_get("/metrics").1]);
        daemon.signal(Signal::Term);
        assert_eq!(daemon.wait_exit(SOON), 0);
        for (what, part) in [
            ("a timeout", "canceling statement due to"),
            ("a fault", "permission denied for"),
            ("the level that was asked for", "DEBUG"),
            ("the end", "shut down cleanly"),
        ] {
            eventually(SOON, &format!("{what} in the log"), || {
                if daemon.logs().iter().any(|line| line.contains(part)) { Ok(()) } else { Err("not there") }
            });
        }
        assert_no_secret(format, &daemon.logs());
    }
}

#[test]
fn a_password_is_shown_by_no_command_no_error_and_no_process_list() {
    let database = Database::new();
    let wrong = database.url_as("postgres", MARK);
    let urls = [
        wrong.as_str(),
        "postgresql://u:geheimnis@127.0.0.1:port/x",
        "postgresql://u:geheimnis@[::1/x",
        "postgresql://u:geheimnis",
        "postgresql://u:pass?geheimnis@127.0.0.1:1/x",
        "postgresql://u:p@geheimnis@127.0.0.1:1/x",
        "postgresql://u:p/geheimnis@127.0.0.1:1/x",
        "postgresql://u:p#geheimnis@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/x?user=u&password=geheimnis",
        "postgresql://127.0.0.1:1/x?user=u&passwort=geheimnis",
        "mysql://u:geheimnis@127.0.0.1/x",
        "u:geheimnis@127.0.0.1/x",
        "host=127.0.0.1 password=geheimnis",
    ];
    for url in urls {
        let variables = [
            ("DATABASE_URL", url),
            ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
            ("KAFKA_SASL_PASSWORD", MARK),
            ("KAFKA_SSL_KEY_PASSWORD", MARK),
            ("HTTP_ADDR", ""),
            ("RUST_LOG", "trace"),
        ];
        for command in
            [&["check"][..], &["check", "--json"], &["migrate", "status"], &["dead-letters", "accept"]]
        {
            let ended = run_command(command, &variables, MINUTES);
            assert_ne!(ended.code, 0, "{url} {ended:?}");
            assert_no_secret(&format!("{command:?} {url}"), &[ended.stdout, ended.stderr]);
        }
    }
    let mut daemon = Daemon::run(&[
        ("DATABASE_URL", &wrong),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
        ("RUST_LOG", "trace"),
    ]);
    eventually(MINUTES, "the refused login to be logged", || {
        if daemon.logs().iter().any(|line| line.contains("password authentication failed")) {
            Ok(())
        } else {
            Err(())
        }
    });
    assert!(daemon.is_running(), "secrets rotate");
    assert_no_secret("run", &daemon.logs());
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("voiceclone-events\0run") {
            processes.push(line);
        }
    }
    assert_no_secret("ps", &processes);
}

/// Sends bytes and reads the answer until the server closes.
fn talk(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // the server may close before all is sent
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_stranger_on_http_gets_three_pages_and_takes_little() {
    let daemon = Daemon::run(&[
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
    ]);
    eventually(SOON, "/healthz", || daemon.try_http_get("/healthz"));
    let address = daemon.address();
    assert!(talk(address, b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 404"));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert!(talk(address, request.as_bytes()).starts_with("HTTP/1.1 405"), "{method}");
    }
    // a head of 1 MiB: refused, or cut off before the answer could be read
    let head = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let answer = talk(address, head.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    // an endless body is answered without being read
    let body = b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000000\r\n\r\n";
    assert!(talk(address, body).starts_with("HTTP/1.1 405"));
    // more half requests than there are places: all are closed, and others are answered then
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    eventually(MINUTES, "/healthz beside slow clients", || daemon.try_http_get("/healthz"));
    for mut stream in slow {
        stream.set_read_timeout(Some(MINUTES)).unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}
