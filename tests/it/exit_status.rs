//! Exit status and last line of commands (contract, section 8): what takes no server to find out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::process::{Command, Stdio};

use crate::support::daemon::{Finished, run_command, run_command_with_input};
use crate::support::wait::SOON;

/// Nobody listens there, and nobody is to be asked.
const NOWHERE: [(&str, &str); 3] = [
    ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none"),
    ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
    ("HTTP_ADDR", ""),
];

const PROGRAM: &str = env!("CARGO_BIN_EXE_voiceclone-events");

fn run(arguments: &[&str], more: &[(&str, &str)]) -> Finished {
    run_command(arguments, &[&NOWHERE[..], more].concat(), SOON * 2)
}

fn last_line(finished: &Finished) -> &str {
    finished.stderr.lines().last().unwrap_or_default()
}

#[test]
fn a_property_that_would_break_a_guarantee_is_refused_by_every_command_before_anything_is_contacted() {
    let commands: [&[&str]; 5] = [
        &["run"],
        &["check"],
        &["replay", "--topic", "clone.ready"],
        &["publish", "--topic", "clone.ready"],
        &["simulate"],
    ];
    for command in commands {
        let ended = run(command, &[("KAFKA_ACKS", "1"), ("KAFKA_TRANSACTIONAL_ID", "x")]);
        assert_eq!(ended.code, 2, "{command:?} {ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        for name in ["KAFKA_ACKS", "KAFKA_TRANSACTIONAL_ID"] {
            assert!(said.contains(name), "{name} of {command:?}: {said}");
        }
    }
}

#[test]
fn what_librdkafka_refuses_only_when_a_client_is_made_is_a_wrong_setting() {
    for (name, value) in [
        ("KAFKA_SSL_CA_LOCATION", "/nowhere/ca.pem"),
        ("KAFKA_SSL_KEYSTORE_LOCATION", "/nowhere/store.p12"),
        ("KAFKA_RECONNECT_BACKOFF_MS", "20000"),
        ("KAFKA_FETCH_MAX_BYTES", "1000"),
        ("KAFKA_QUEUE_BUFFERING_BACKPRESSURE_THRESHOLD", "100"),
    ] {
        let tls = ("KAFKA_SECURITY_PROTOCOL", "SSL");
        let ended = run(&["publish", "--topic", "clone.ready"], &[tls, (name, value)]);
        assert_eq!(ended.code, 2, "{name} {ended:?}");
        assert!(last_line(&ended).starts_with("KAFKA_"), "{name} {ended:?}");
    }
    let ended = run(&["simulate"], &[("KAFKA_SSL_CA_LOCATIONS", "/ca.pem")]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(last_line(&ended).contains("ssl.ca.locations, which is no property of librdkafka"), "{ended:?}");
    let ended = run(&["simulate"], &[("KAFKA_BOOTSTRAP_SERVER", "kafka:9092")]);
    assert_eq!(
        (ended.code, last_line(&ended).contains("perhaps KAFKA_BOOTSTRAP_SERVERS is meant")),
        (2, true)
    );
}

#[test]
fn every_wrong_setting_is_named_at_once_by_every_command() {
    let wrong = [
        ("DATABASE_URL", "mysql://u@h/d"),
        ("CACHE_TTL", "soon"),
        ("BATCH_MAX_WAIT", "20"),
        ("KAFKA_RETRIES", "0"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "a=b=c"),
    ];
    for command in [&["run"][..], &["check"], &["check", "--json"], &["replay", "--topic", "clone.ready"]] {
        let ended = run(command, &wrong);
        assert_eq!(ended.code, 2, "{command:?} {ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        for (name, _) in wrong {
            assert!(said.contains(name), "{name} of {command:?}: {said}");
        }
        assert!(said.contains("20ms"), "{command:?}: {said}");
    }
}

#[test]
fn what_kubernetes_injects_and_kafkas_scripts_use_does_not_end_a_command() {
    let others = [
        ("KAFKA_UI_PORT", "tcp://10.0.0.2:8080"),
        ("KAFKA_UI_SERVICE_PORT_HTTP", "8080"),
        ("KAFKA_9092_TCP_ADDR", "10.0.0.1"),
        ("KAFKA_HEAP_OPTS", "-Xmx1g"),
    ];
    let ended = run(&["publish", "--topic", "clone.ready"], &others);
    assert_eq!(ended.code, 1, "the broker is away: {ended:?}");
    assert!(last_line(&ended).contains("127.0.0.1:1: the connection is refused"), "{ended:?}");
}

#[test]
fn a_misspelt_setting_is_named_with_the_likely_one() {
    for command in [&["check"][..], &["migrate", "status"], &["publish", "--topic", "clone.ready"]] {
        let ended = run(command, &[("CACHE_TLL", "5"), ("BATCH_MAX_WAITS", "5ms")]);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        for (name, likely) in [("CACHE_TLL", "CACHE_TTL"), ("BATCH_MAX_WAITS", "BATCH_MAX_WAIT")] {
            let is_named =
                |line: &str| line.contains(name) && line.contains(&format!("perhaps {likely} is meant"));
            assert!(said.lines().any(is_named), "{command:?}: {said}");
        }
        assert_eq!(ended.code, 1, "it is a warning: {ended:?}");
    }
}

#[test]
fn wrong_usage_is_2_wherever_it_is_found() {
    let commands: [&[&str]; 9] = [
        &["publish", "--topic", "clone.reedy"],
        &["replay", "--topic", "clone.reedy"],
        &["replay", "--topic", "clone.ready", "--from", "yesterday"],
        &["replay", "--topic", "clone.ready", "--to=-1"],
        &["replay", "--topic", "clone.ready", "--from", "100", "--to", "50"],
        &[
            "replay",
            "--topic",
            "clone.ready",
            "--from",
            "2026-01-02T00:00:00Z",
            "--to",
            "2026-01-01T00:00:00Z",
        ],
        &["replay", "--topic", "clone.ready", "--partition=-1"],
        &["dead-letters", "accept", "--topic", "clone.reedy"],
        &["simulate", "--rate", "0"],
    ];
    for command in commands {
        let ended = run_command_with_input(command, &NOWHERE, b"{}\n", SOON);
        assert_eq!(ended.code, 2, "{command:?} {ended:?}");
        let last = last_line(&ended);
        assert!(last.contains("--") && last.contains("give"), "{command:?}: {last}");
    }
}

#[test]
fn a_server_that_is_away_is_1_with_what_to_do() {
    for command in [&["migrate", "status"][..], &["dead-letters", "accept"], &["simulate"]] {
        let ended = run(command, &[]);
        assert_eq!(ended.code, 1, "{command:?} {ended:?}");
    }
    let ended = run(&["check"], &[]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stdout.contains("start PostgreSQL, or correct host and port in DATABASE_URL"), "{ended:?}");
    assert!(ended.stdout.contains("start the broker, or correct host and port"), "{ended:?}");
    assert!(ended.stdout.lines().last().unwrap().contains("would not work"), "{ended:?}");
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure_and_no_panic() {
    for command in [&["check"][..], &["check", "--json"], &["--help"], &["run", "--help"], &["--version"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut program = Command::new(PROGRAM);
        program.args(command).env_clear().envs(NOWHERE).stdin(Stdio::null()).stdout(full);
        let ended = program.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{command:?} {said}");
        assert!(
            said.lines().last().unwrap().contains("standard output could not be written"),
            "{command:?} {said}"
        );
        assert!(!said.contains("panicked"), "{command:?} {said}");
    }
}

#[test]
fn a_pipe_that_nobody_reads_is_a_failure_and_no_panic() {
    let mut program = Command::new(PROGRAM);
    program.args(["check"]).env_clear().envs(NOWHERE);
    let mut child =
        program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("standard output could not be written: its reader ended before"), "{said}");
    assert!(!said.contains("os error"), "{said}");
}
