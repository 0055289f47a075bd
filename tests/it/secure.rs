//! The daemon over secured connections: Kafka with TLS, SCRAM and certificates of clients, with just the rights that
//! docs/security.md grants; PostgreSQL with each `sslmode`. Why a connection is refused is in `reach`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::certificates::Authority;
use crate::support::daemon::{Daemon, run_command};
use crate::support::kafka::PrivateKafka;
use crate::support::left_out::or_left_out;
use crate::support::postgres::{Database, PrivateServer};
use crate::support::processes::{Signal, folder, free_port};
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually, eventually_eq};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);
const PASSWORD: &str = "geheimnis";

fn write(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

/// A PostgreSQL with a certificate for `localhost` of this authority, valid for `days`. The role `tls_only` may log in only
/// with TLS and its password.
fn server(authority: &Authority, days: i64) -> PrivateServer {
    let shown = authority.sign("localhost", (-1, days));
    let (certificate, key) = (shown.pem(), shown.key());
    let files = [
        ("server.crt", certificate.as_str()),
        ("server.key", key.as_str()),
        (
            "pg_hba.conf",
            "hostssl all tls_only all scram-sha-256\nhost all tls_only all reject\nhost all all all scram-sha-256\n",
        ),
    ];
    let settings = [("ssl", "on"), ("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")];
    PrivateServer::start_with_files(&settings, &files)
}

/// The URL at another host name of this machine, with parameters.
fn url_at(url: &str, host: &str, parameters: &str) -> String {
    format!("{}?{parameters}", url.replace("@127.0.0.1:", &format!("@{host}:")))
}

#[test]
fn each_sslmode_checks_of_a_real_server_what_it_says_and_no_more() {
    let authority = Authority::new("Test authority");
    let server = server(&authority, 30);
    let files = folder("certificates");
    let root = write(&files, "ca.pem", &authority.pem());
    let other = write(&files, "other.pem", &Authority::new("Another authority").pem());
    let database = Database::on(&server);
    database.run(&format!("CREATE ROLE tls_only LOGIN PASSWORD '{PASSWORD}'"));
    let url = database.url_as("tls_only", PASSWORD);
    let checked = |mode: &str, root: &str| format!("sslmode={mode}&sslrootcert={root}");
    let cases = [
        // a host name that is not in the certificate
        ("127.0.0.1", "sslmode=disable".to_owned(), Some("pg_hba.conf")),
        ("127.0.0.1", "sslmode=prefer".to_owned(), None),
        ("127.0.0.1", "sslmode=require".to_owned(), None),
        ("127.0.0.1", checked("verify-ca", &root), None),
        ("127.0.0.1", checked("verify-full", &root), Some("certificate verify failed")),
        ("localhost", checked("verify-ca", &other), Some("certificate verify failed")),
        ("localhost", checked("verify-full", &other), Some("certificate verify failed")),
        ("localhost", checked("verify-full", &root), None),
        // SCRAM that is bound to this TLS connection
        ("localhost", format!("{}&channel_binding=require", checked("verify-full", &root)), None),
    ];
    for (host, parameters, refusal) in cases {
        let url = url_at(&url, host, &parameters);
        let ended = run_command(&["migrate", "status"], &[("DATABASE_URL", &url)], MINUTES);
        match refusal {
            None => assert_eq!(ended.code, 0, "{host} {parameters} {ended:?}"),
            Some(words) => {
                assert!(ended.code == 1 && ended.stderr.contains(words), "{host} {parameters} {ended:?}");
            }
        }
    }
    let wrong = url_at(&database.url_as("tls_only", "wrong"), "localhost", &checked("verify-full", &root));
    let ended = run_command(&["migrate", "status"], &[("DATABASE_URL", &wrong)], MINUTES);
    assert!(ended.code == 1 && ended.stderr.contains("password authentication failed"), "{ended:?}");
}

/// The words of each command that docs/security.md grants rights to the daemon with.
fn documented_rights() -> Vec<Vec<String>> {
    let page = include_str!("../../docs/security.md").replace("\\\n", " ");
    let commands = page.lines().filter_map(|line| line.strip_prefix("grant "));
    commands.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// A broker with a listener for SCRAM over TLS and one for certificates of clients.
struct Stage {
    broker: PrivateKafka,
    scram: String,
    mutual: String,
}

/// Starts the broker with a certificate that is valid for `days`.
fn stage(files: &Path, authority: &Authority, days: i64) -> Result<Stage, String> {
    let shown = write(files, "broker.pem", &authority.sign("localhost", (-1, days)).key_and_certificate());
    let root = write(files, "ca.pem", &authority.pem());
    let (scram, mutual) = (free_port(), free_port());
    let listeners =
        format!("PLAINTEXT://127.0.0.1:{{port}},SCRAM://localhost:{scram},MUTUAL://localhost:{mutual}");
    let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let broker = PrivateKafka::start_with_users(
        &[
            ("listeners", &format!("{listeners},CONTROLLER://127.0.0.1:{{controller}}")),
            ("advertised.listeners", &listeners),
            (
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,SCRAM:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT",
            ),
            ("inter.broker.listener.name", "PLAINTEXT"),
            ("ssl.keystore.type", "PEM"),
            ("ssl.keystore.location", &shown),
            ("ssl.truststore.type", "PEM"),
            ("ssl.truststore.location", &root),
            ("listener.name.mutual.ssl.client.auth", "required"),
            ("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
            ("listener.name.scram.scram-sha-512.sasl.jaas.config", login),
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            ("super.users", "User:ANONYMOUS"),
        ],
        &[("voiceclone-events", PASSWORD)],
    )?;
    let at = |port: u16| format!("localhost:{port}");
    Ok(Stage { broker, scram: at(scram), mutual: at(mutual) })
}

/// Grants the documented rights on the scene's topics and group to a user and to the holder of a certificate.
fn grant_what_is_documented(broker: &PrivateKafka, scene: &Scene) {
    let commands = documented_rights();
    assert_eq!(commands.len(), 2, "{commands:?}");
    for words in commands {
        let mut arguments = vec!["--bootstrap-server".to_owned(), broker.servers.clone(), "--add".to_owned()];
        for principal in ["User:voiceclone-events", "User:CN=voiceclone-events"] {
            arguments.extend(["--allow-principal".to_owned(), principal.to_owned()]);
        }
        let mut after = String::new();
        for word in words {
            arguments.push(match after.as_str() {
                "--topic" => scene.topic(&word),
                "--group" => scene.group.clone(),
                _ => word.clone(),
            });
            after = word;
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        assert!(broker.run_tool("org.apache.kafka.tools.AclCommand", &arguments), "{arguments:?}");
    }
}

#[test]
fn the_daemon_does_its_work_with_the_documented_rights_alone_over_scram_and_over_mutual_tls() {
    let files = folder("certificates");
    let authority = Authority::new("Test authority");
    let stage = or_left_out!(stage(&files, &authority, 5));
    let server = server(&authority, 3);
    let scene = Scene::on(&stage.broker, Database::on(&server), 1);
    let migrated = run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    grant_what_is_documented(&stage.broker, &scene);

    let root = write(&files, "ca.pem", &authority.pem());
    let client = authority.sign("voiceclone-events", (-1, 7));
    let own = write(&files, "client.pem", &client.pem());
    let key = write(&files, "client.key", &client.key());
    let url = url_at(scene.database.url(), "localhost", &format!("sslmode=verify-full&sslrootcert={root}"));
    let common = [
        ("DATABASE_URL", url.as_str()),
        ("KAFKA_GROUP_ID", scene.group.as_str()),
        ("TOPIC_PREFIX", scene.prefix.as_str()),
        ("KAFKA_SSL_CA_LOCATION", root.as_str()),
        ("EXPIRY_INTERVAL", "1s"),
    ];
    let scram = [
        ("KAFKA_BOOTSTRAP_SERVERS", stage.scram.as_str()),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"),
        ("KAFKA_SASL_USERNAME", "voiceclone-events"),
        ("KAFKA_SASL_PASSWORD", PASSWORD),
    ];
    let mutual = [
        ("KAFKA_BOOTSTRAP_SERVERS", stage.mutual.as_str()),
        ("KAFKA_SECURITY_PROTOCOL", "SSL"),
        ("KAFKA_SSL_CERTIFICATE_LOCATION", own.as_str()),
        ("KAFKA_SSL_KEY_LOCATION", key.as_str()),
    ];
    for (round, way) in [&scram[..], &mutual[..]].into_iter().enumerate() {
        let variables = [&common[..], way].concat();
        let mut daemon = Daemon::run(&variables);
        daemon.wait_ready(MINUTES);
        scene.publish(
            "clone.ready",
            &format!(
                r#"{{"caller_id":"c","greeting_call_id":"g","cloned_voice_id":"v-{round}","ready_at":0,"ttl_seconds":1}}"#
            ),
        );
        scene.publish("clone.failed", "no json");
        scene.wait_until_consumed(MINUTES);
        for topic in ["clone.expired", "voiceclone.dead-letters"] {
            eventually_eq(MINUTES, topic, round + 1, || scene.kafka.read_all(&scene.topic(topic)).len());
        }
        assert_certificates_are_said(&daemon, &variables, way.len() == mutual.len());
        daemon.signal(Signal::Term);
        assert_eq!(daemon.wait_exit(SOON), 0);
    }
}

/// The certificates of PostgreSQL, the broker and, with `with_own`, the client expire within 14 days.
fn assert_certificates_are_said(daemon: &Daemon, variables: &[(&str, &str)], with_own: bool) {
    let mut expected =
        vec![("the PostgreSQL server localhost", "in 2 days"), ("the broker localhost", "in 4 days")];
    if with_own {
        expected.push(("this client of Kafka", "in 6 days"));
    }
    let checked = run_command(&["check", "--json"], &[variables, &[("HTTP_ADDR", "")]].concat(), MINUTES);
    let report: Value = serde_json::from_str(&checked.stdout).unwrap_or_else(|_| panic!("{checked:?}"));
    let steps = report["checks"].as_array().unwrap();
    let of = |outcome: &str| steps.iter().filter(|step| step["outcome"] == outcome).count();
    assert_eq!(of("wrong"), 0, "{checked:?}");
    for (whose, end) in &expected {
        let step = steps
            .iter()
            .find(|step| step["what"].as_str().unwrap().starts_with(&format!("certificate of {whose}")))
            .unwrap_or_else(|| panic!("{whose}: {checked:?}"));
        assert_eq!(step["outcome"], "warning", "{step}");
        assert!(step["found"].as_str().unwrap().ends_with(end), "{step}");
    }
    for (whose, _) in expected {
        eventually(SOON, &format!("a line on the certificate of {whose}"), || {
            let said = |line: &String| line.contains("a certificate ends soon") && line.contains(whose);
            if daemon.logs().iter().any(said) { Ok(()) } else { Err(()) }
        });
    }
}
