//! Unreachable brokers and databases: each cause has its own sentence and remedy in `check`. One broker has a listener
//! for each kind of security, another an expired certificate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::Value;

use crate::support::certificates::Authority;
use crate::support::daemon::{Finished, run_command};
use crate::support::kafka::PrivateKafka;
use crate::support::left_out::or_left_out;
use crate::support::postgres::Database;
use crate::support::processes::{folder, free_port};
use crate::support::scene::{Scene, TOPICS};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(120);
const PASSWORD: &str = "geheimnis";
const MECHANISM: (&str, &str) = ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512");
const USER: (&str, &str) = ("KAFKA_SASL_USERNAME", "voice");
const LOGIN: [(&str, &str); 3] = [MECHANISM, USER, ("KAFKA_SASL_PASSWORD", PASSWORD)];

/// Servers, settings, and parts of the sentence and the remedy.
type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str, &'a str);

/// The broker with all its listeners, and the files of certificates.
struct Stage {
    broker: PrivateKafka,
    ssl: u16,
    sasl: u16,
    sasl_ssl: u16,
    expired: u16,
    files: PathBuf,
}

impl Stage {
    fn start() -> Result<Stage, String> {
        let files = folder("certificates");
        let ours = Authority::new("Test authority");
        let store = |file: &str, days: (i64, i64)| {
            std::fs::write(files.join(file), ours.sign("localhost", days).key_and_certificate()).unwrap();
            files.join(file).display().to_string()
        };
        let (good, expired) = (store("good.pem", (-1, 30)), store("expired.pem", (-30, -1)));
        std::fs::write(files.join("ca.pem"), ours.pem()).unwrap();
        std::fs::write(files.join("other.pem"), Authority::new("Another authority").pem()).unwrap();
        let [ssl, sasl, sasl_ssl, past] = [free_port(), free_port(), free_port(), free_port()];
        let listeners = format!(
            "PLAINTEXT://127.0.0.1:{{port}},SSL://localhost:{ssl},SASL_PLAINTEXT://127.0.0.1:{sasl},\
             SASL_SSL://localhost:{sasl_ssl},EXPIRED://localhost:{past}"
        );
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let broker = PrivateKafka::start_with_users(
            &[
                ("listeners", &format!("{listeners},CONTROLLER://127.0.0.1:{{controller}}")),
                ("advertised.listeners", &listeners),
                (
                    "listener.security.protocol.map",
                    "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,EXPIRED:SSL,\
                     CONTROLLER:PLAINTEXT",
                ),
                ("inter.broker.listener.name", "PLAINTEXT"),
                ("ssl.keystore.type", "PEM"),
                ("ssl.keystore.location", &good),
                ("listener.name.expired.ssl.keystore.type", "PEM"),
                ("listener.name.expired.ssl.keystore.location", &expired),
                ("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
                ("listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config", scram),
                ("listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config", scram),
                ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
                ("super.users", "User:ANONYMOUS"),
            ],
            &[("voice", PASSWORD)],
        )?;
        Ok(Stage { broker, ssl, sasl, sasl_ssl, expired: past, files })
    }

    fn file(&self, name: &str) -> String {
        self.files.join(name).display().to_string()
    }
}

fn json(ended: &Finished) -> Vec<Value> {
    let report: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    report["checks"].as_array().unwrap().clone()
}

/// The finding of `check` on the brokers: sentence and remedy.
fn brokers_fault(servers: &str, more: &[(&str, &str)]) -> (String, String) {
    let mut variables = vec![
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none"),
        ("KAFKA_BOOTSTRAP_SERVERS", servers),
        ("HTTP_ADDR", ""),
    ];
    variables.extend_from_slice(more);
    let ended = run_command(&["check", "--json"], &variables, MINUTES);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(!format!("{ended:?}").contains(PASSWORD), "{ended:?}");
    let steps = json(&ended);
    let step = steps.iter().find(|step| step["what"] == "brokers").unwrap_or_else(|| panic!("{ended:?}"));
    assert_eq!(step["outcome"], "wrong", "{ended:?}");
    let text = |field: &str| step[field].as_str().unwrap().to_owned();
    (text("found"), text("remedy"))
}

#[test]
fn each_reason_why_a_broker_cannot_be_reached_has_its_own_sentence_and_remedy() {
    let stage = or_left_out!(Stage::start());
    let plain = stage.broker.servers.as_str();
    let [ssl, sasl, sasl_ssl] =
        [stage.ssl, stage.sasl, stage.sasl_ssl].map(|port| format!("localhost:{port}"));
    let sasl = sasl.replace("localhost", "127.0.0.1");
    let by_address = format!("127.0.0.1:{}", stage.ssl);
    let expired = format!("localhost:{}", stage.expired);
    let (ca, other) = (stage.file("ca.pem"), stage.file("other.pem"));
    let closed = format!("127.0.0.1:{}", free_port());
    let protocol = |name| ("KAFKA_SECURITY_PROTOCOL", name);
    let wrong_password = ("KAFKA_SASL_PASSWORD", "geheimnis-not");
    let nobody = ("KAFKA_SASL_USERNAME", "nobody");
    let (trusted, untrusted) =
        (("KAFKA_SSL_CA_LOCATION", ca.as_str()), ("KAFKA_SSL_CA_LOCATION", other.as_str()));
    let cases: Vec<Case<'_>> = vec![
        (
            "nowhere.invalid:9092",
            vec![],
            "the host name is not found",
            "correct the name in KAFKA_BOOTSTRAP_SERVERS",
        ),
        (&closed, vec![], "the connection is refused", "start the broker"),
        (&ssl, vec![], "the broker expects TLS", "KAFKA_SECURITY_PROTOCOL to SSL"),
        (
            &sasl_ssl,
            vec![protocol("SASL_PLAINTEXT"), LOGIN[0], LOGIN[1], LOGIN[2]],
            "the broker expects TLS",
            "SASL_SSL",
        ),
        (
            plain,
            vec![protocol("SSL"), trusted],
            "the broker speaks no TLS",
            "KAFKA_SECURITY_PROTOCOL to PLAINTEXT",
        ),
        (
            &ssl,
            vec![protocol("SSL"), untrusted],
            "not signed by an authority that is trusted",
            "KAFKA_SSL_CA_LOCATION",
        ),
        (&ssl, vec![protocol("SSL")], "not signed by an authority that is trusted", "KAFKA_SSL_CA_LOCATION"),
        (&by_address, vec![protocol("SSL"), trusted], "for another host name", "as its certificate does"),
        (&expired, vec![protocol("SSL"), trusted], "has expired", "renew the broker's certificate"),
        (
            &sasl,
            vec![protocol("SASL_PLAINTEXT"), MECHANISM, USER, wrong_password],
            "refuses the user or the password",
            "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
        ),
        (
            &sasl_ssl,
            vec![protocol("SASL_SSL"), trusted, MECHANISM, nobody, LOGIN[2]],
            "refuses the user or the password",
            "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
        ),
        (
            &sasl,
            vec![protocol("SASL_PLAINTEXT"), ("KAFKA_SASL_MECHANISM", "PLAIN"), USER, LOGIN[2]],
            "does not offer this SASL mechanism; it offers SCRAM-SHA-512",
            "KAFKA_SASL_MECHANISM",
        ),
        (&sasl, vec![], "expects a login", "KAFKA_SECURITY_PROTOCOL to SASL_PLAINTEXT"),
        (
            plain,
            vec![protocol("SASL_PLAINTEXT"), LOGIN[0], LOGIN[1], LOGIN[2]],
            "takes no login on this port",
            "KAFKA_SECURITY_PROTOCOL to PLAINTEXT",
        ),
    ];
    let mut differences = Vec::new();
    for (servers, more, sentence, remedy) in cases {
        let (found, advice) = brokers_fault(servers, &more);
        if !found.contains(sentence) || !advice.contains(remedy) {
            differences
                .push(format!("{servers} {more:?}\n  expected {sentence}\n  found    {found} -> {advice}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_broker_that_says_nothing_is_a_time_out() {
    // it takes connections and never answers
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (found, remedy) = brokers_fault(&silent.local_addr().unwrap().to_string(), &[]);
    assert!(found.contains("no answer came in time"), "{found}");
    assert!(remedy.contains("firewall"), "{remedy}");
}

#[test]
fn missing_rights_are_named_with_the_command_that_grants_them() {
    let stage = or_left_out!(Stage::start());
    let scene = Scene::on(&stage.broker, Database::new(), 1);
    scene.compact_mappings();
    assert_eq!(run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES).code, 0);
    let servers = format!("127.0.0.1:{}", stage.sasl);
    let secure =
        [("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT"), LOGIN[0], LOGIN[1], LOGIN[2], ("HTTP_ADDR", "")];
    let variables: Vec<(&str, &str)> = scene
        .variables(&secure)
        .into_iter()
        .map(|(name, value)| (name, if name == "KAFKA_BOOTSTRAP_SERVERS" { servers.as_str() } else { value }))
        .collect();
    let mut granted = 0;
    // with this right, the next check gets further
    for round in 1.. {
        let ended = run_command(&["check", "--json"], &variables, MINUTES);
        let steps = json(&ended);
        let wrong: Vec<&Value> = steps.iter().filter(|step| step["outcome"] == "wrong").collect();
        if wrong.is_empty() {
            assert_eq!(ended.code, 0, "{ended:?}");
            break;
        }
        assert!(round < 4, "{wrong:#?}");
        for step in wrong {
            let remedy = step["remedy"].as_str().unwrap();
            let words = remedy.strip_prefix("kafka-acls.sh ").unwrap_or_else(|| panic!("{step:#?}"));
            let words = words.replace(&servers, &stage.broker.servers).replace('\'', "");
            let words: Vec<&str> = words.split(' ').collect();
            assert!(words.contains(&"User:voice"), "{remedy}");
            assert!(stage.broker.run_tool("org.apache.kafka.tools.AclCommand", &words), "{remedy}");
            granted += 1;
        }
    }
    assert!(granted >= 8, "seven topics and the group: {granted}");
}

#[test]
fn a_partition_without_a_leader_is_named() {
    let cluster = MockCluster::new(1).unwrap();
    let servers = cluster.bootstrap_servers();
    for topic in TOPICS.iter().chain(&["clone.expired", "voiceclone.dead-letters"]) {
        cluster.create_topic(topic, 3, 1).unwrap();
    }
    cluster.partition_leader("clone.failed", 2, None).unwrap();
    let variables = [
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none"),
        ("KAFKA_BOOTSTRAP_SERVERS", servers.as_str()),
        ("HTTP_ADDR", ""),
    ];
    let ended = run_command(&["check", "--json"], &variables, MINUTES);
    assert_eq!(ended.code, 1, "{ended:?}");
    let steps = json(&ended);
    let of = |topic: &str| steps.iter().find(|step| step["what"] == format!("topic {topic}")).unwrap();
    assert_eq!(of("clone.failed")["found"], "partition 2 has no leader", "{ended:?}");
    assert_eq!(of("clone.ready")["outcome"], "ok", "{ended:?}");
}

#[test]
fn a_coordinator_that_is_not_there_yet_is_no_missing_right() {
    let cluster = MockCluster::new(1).unwrap();
    let servers = cluster.bootstrap_servers();
    cluster.create_topic("clone.ready", 1, 1).unwrap();
    let away = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 500];
    cluster.request_errors(RDKafkaApiKey::FindCoordinator, &away);
    let variables = [
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none"),
        ("KAFKA_BOOTSTRAP_SERVERS", servers.as_str()),
        ("HTTP_ADDR", ""),
    ];
    let ended = run_command(&["check", "--json"], &variables, MINUTES);
    let steps = json(&ended);
    let step = steps.iter().find(|step| step["what"] == "consumer group").unwrap();
    assert_eq!(step["found"], "the group's coordinator is not there yet; no right is missing", "{ended:?}");
    assert!(step["remedy"].as_str().unwrap().starts_with("try again"), "{ended:?}");
}

#[test]
fn each_reason_why_a_database_cannot_be_reached_has_its_own_remedy() {
    let database = Database::new();
    let wrong_password = database.url_as("postgres", "wrong");
    let (base, _) = database.url().rsplit_once('/').unwrap();
    let no_database = format!("{base}/nowhere");
    let no_tls = format!("{}?sslmode=require", database.url());
    let cases = [
        (wrong_password.as_str(), "password authentication failed", "correct user and password"),
        (no_database.as_str(), "does not exist", "correct the database"),
        (no_tls.as_str(), "does not support TLS", "turn ssl on"),
        ("postgresql://u@127.0.0.1:1/x", "Connection refused", "start PostgreSQL"),
        ("postgresql://u@nowhere.invalid/x", "lookup", "correct the host"),
    ];
    for (url, found, remedy) in cases {
        let variables =
            [("DATABASE_URL", url), ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"), ("HTTP_ADDR", "")];
        let ended = run_command(&["check", "--json"], &variables, MINUTES);
        assert_eq!(ended.code, 1, "{ended:?}");
        let steps = json(&ended);
        let step = steps.iter().find(|step| step["what"] == "database").unwrap();
        assert!(step["found"].as_str().unwrap().contains(found), "{step}");
        assert!(step["remedy"].as_str().unwrap().contains(remedy), "{step}");
    }
}
