//! `KAFKA_X_Y` is librdkafka's property `x.y`. This module refuses properties that would break a guarantee, and
//! ignores variables that belong to other programs.

use std::collections::BTreeMap;

use super::SettingError;

/// The brokers' addresses, and the properties of the connection to them.
#[derive(Default)]
pub(super) struct BrokerSettings {
    pub(super) servers: String,
    pub(super) properties: BTreeMap<String, String>,
}

/// The values of a property that keep the guarantees.
enum Allowed {
    /// One of these values.
    Only(&'static [&'static str]),
    /// A number from the first to the second, both included.
    Within(i64, i64),
    /// No value: the daemon sets the property by itself, or not at all.
    Nothing,
}
use Allowed::{Nothing, Only, Within};

/// librdkafka's words for false and true.
const NO: Allowed = Only(&["false", "f", "0"]);
const YES: Allowed = Only(&["true", "t", "1"]);
/// librdkafka's upper bound of numbers that have no bound of their own.
const MAX_NUMBER: i64 = 2_147_483_647;

const OFFSETS: &str = "offsets are committed after the rows they stand for";
const ACKS: &str = "an event is published once all in-sync replicas have it";
const RETRIES: &str = "a record that the broker did not take is sent again";
const IN_FLIGHT: &str = "more requests in flight would change the order of what is published";
const BROKERS: &str = "the brokers are named by KAFKA_BOOTSTRAP_SERVERS";
const AGREE: &str = "instances of one group must agree on it";
const ALL_TOPICS: &str = "all five topics are read";

/// Properties on which the guarantees depend: the values accepted, and why. Aliases follow their property.
const GUARDED: &[(&str, Allowed, &str)] = &[
    ("enable.auto.commit", NO, OFFSETS),
    ("auto.commit.enable", NO, OFFSETS),
    ("enable.auto.offset.store", NO, OFFSETS),
    ("offset.store.method", Only(&["broker"]), OFFSETS),
    ("auto.offset.reset", Only(&["error"]), "a lost offset must be noticed, never skipped over"),
    ("isolation.level", Only(&["read_committed"]), "records of aborted transactions must not become rows"),
    ("enable.partition.eof", Nothing, "the daemon sets it where it needs it"),
    ("metadata.broker.list", Nothing, BROKERS),
    ("test.mock.num.brokers", Nothing, BROKERS),
    ("topic.blacklist", Nothing, ALL_TOPICS),
    ("partition.assignment.strategy", Only(&["cooperative-sticky"]), AGREE),
    ("group.protocol", Only(&["classic"]), AGREE),
    ("group.protocol.type", Only(&["consumer"]), AGREE),
    ("allow.auto.create.topics", NO, "a missing topic must be reported, not made"),
    ("acks", Only(&["all", "-1"]), ACKS),
    ("request.required.acks", Only(&["all", "-1"]), ACKS),
    ("retries", Within(1, MAX_NUMBER), RETRIES),
    ("message.send.max.retries", Within(1, MAX_NUMBER), RETRIES),
    ("max.in.flight", Within(1, 5), IN_FLIGHT),
    ("max.in.flight.requests.per.connection", Within(1, 5), IN_FLIGHT),
    ("enable.idempotence", YES, "each event is published once where nothing fails"),
    ("transactional.id", Nothing, "a producer with it publishes nothing outside a transaction"),
    ("enable.gapless.guarantee", NO, "one record that fails would end the producer for good"),
    ("delivery.report.only.error", NO, "a record counts as published once the broker has confirmed it"),
];

/// Defaults in milliseconds, for the comparison of times. `max.poll.interval.ms`, unless set, grows with the session
/// timeout up to librdkafka's default, which is given here.
const SESSION_TIMEOUT: (&str, i64) = ("session.timeout.ms", super::SESSION_TIMEOUT_MS);
const HEARTBEAT_INTERVAL: (&str, i64) = ("heartbeat.interval.ms", 3_000);
const MAX_POLL_INTERVAL: (&str, i64) = ("max.poll.interval.ms", 300_000);

/// The properties in the environment, and all errors in them.
pub(super) fn properties(env: &BTreeMap<String, String>) -> (BTreeMap<String, String>, Vec<SettingError>) {
    let (mut properties, mut errors) = (BTreeMap::new(), Vec::new());
    for (name, value) in env {
        let Some(key) = name.strip_prefix("KAFKA_") else { continue };
        let is_ours = matches!(key, "BOOTSTRAP_SERVERS" | "GROUP_ID");
        if value.trim().is_empty() || is_ours || is_of_another_program(key, value) {
            continue;
        }
        let property = key.to_lowercase().replace('_', ".");
        match GUARDED.iter().find(|(guarded, _, _)| *guarded == property) {
            None => {
                properties.insert(property, value.clone());
            }
            Some((_, allowed, why)) => errors.extend(refusal(name, value, allowed, why)),
        }
    }
    errors.extend(contradiction(&properties, HEARTBEAT_INTERVAL, SESSION_TIMEOUT, "below"));
    errors.extend(contradiction(&properties, SESSION_TIMEOUT, MAX_POLL_INTERVAL, "at most"));
    (properties, errors)
}

fn refusal(name: &str, value: &str, allowed: &Allowed, why: &str) -> Option<SettingError> {
    let remedy = "remove it";
    let value = value.trim().to_ascii_lowercase();
    let problem = match allowed {
        Nothing => format!("cannot be set, as {why}"),
        Only(values) if values.contains(&value.as_str()) => return None,
        Only(values) => format!("can only be {}, as {why}", values.first().unwrap_or(&"")),
        Within(least, most) => match value.parse::<i64>() {
            Ok(number) if (*least..=*most).contains(&number) => return None,
            _ => format!("can only be from {least} to {most}, as {why}"),
        },
    };
    Some(SettingError::new(name, problem, remedy))
}

/// The error of a timeout that must be shorter than another one and is not. It names the one that was set.
fn contradiction(
    properties: &BTreeMap<String, String>,
    (short, short_default): (&str, i64),
    (long, long_default): (&str, i64),
    relation: &str,
) -> Option<SettingError> {
    let given = |property: &str| properties.get(property).and_then(|text| text.trim().parse::<i64>().ok());
    let (short_given, long_given) = (given(short), given(long));
    let (low, high) = (short_given.unwrap_or(short_default), long_given.unwrap_or(long_default));
    let fits = if relation == "below" { low < high } else { low <= high };
    if fits || (short_given.is_none() && long_given.is_none()) {
        return None;
    }
    let (name, problem, remedy) = if long_given.is_some() {
        (
            long,
            format!("is {high}, too short for {short}, which is {low}"),
            format!("raise it, or lower {}", super::variable(short)),
        )
    } else {
        (
            short,
            format!("is {low}, too long for {long}, which is {high}"),
            format!("lower it, or raise {}", super::variable(long)),
        )
    };
    Some(SettingError::new(super::variable(name), problem, remedy))
}

/// The first of the servers that is not a host with an optional port.
pub(super) fn unusable_server(servers: &str) -> Option<String> {
    let entries: Vec<&str> = servers.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    if entries.is_empty() {
        return Some(servers.to_owned());
    }
    entries.into_iter().find(|entry| !is_server(entry)).map(str::to_owned)
}

/// Whether librdkafka accepts the entry: `host`, `host:port`, `[::1]:port`, each also after `PROTOCOL://`.
fn is_server(entry: &str) -> bool {
    let address = entry.split_once("://").map_or(entry, |(_, address)| address);
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => {
                (host, if port.is_empty() { None } else { port.strip_prefix(':').or(Some("")) })
            }
            None => return false,
        },
        None => match address.rsplit_once(':') {
            // an IPv6 address without brackets and port
            Some((before, _)) if before.contains(':') => (address, None),
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    let port_is_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    !host.is_empty() && host.chars().all(legal) && port_is_good
}

/// Whether `KAFKA_<key>` belongs to another program: Kubernetes injects some into every container for each service
/// whose name begins with `kafka`, and Kafka's own scripts read others.
fn is_of_another_program(key: &str, value: &str) -> bool {
    is_of_kubernetes(key, value) || is_of_kafkas_scripts(key, value)
}

fn is_of_kubernetes(key: &str, value: &str) -> bool {
    let parts: Vec<&str> = key.split('_').collect();
    let is_link = |parts: &[&str]| match parts {
        [number, protocol, rest @ ..] => {
            !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && matches!(*protocol, "TCP" | "UDP" | "SCTP")
                && matches!(rest, [] | ["ADDR" | "PORT" | "PROTO"])
        }
        _ => false,
    };
    let after_service = parts.windows(2).any(|pair| matches!(pair, ["SERVICE", "PORT"]));
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.trim().starts_with(scheme));
    key == "PORT"
        || parts.ends_with(&["SERVICE", "HOST"])
        || after_service
        || (is_address && parts.contains(&"PORT"))
        || (0..parts.len()).any(|at| parts.get(at..).is_some_and(is_link))
}

/// The debug contexts of librdkafka. Other values of `KAFKA_DEBUG` are meant for Kafka's scripts.
const DEBUG_CONTEXTS: &[&str] = &[
    "generic",
    "broker",
    "topic",
    "metadata",
    "feature",
    "queue",
    "msg",
    "protocol",
    "cgrp",
    "security",
    "fetch",
    "interceptor",
    "plugin",
    "consumer",
    "admin",
    "eos",
    "mock",
    "assignor",
    "conf",
    "telemetry",
    "all",
];

fn is_of_kafkas_scripts(key: &str, value: &str) -> bool {
    const NAMES: &[&str] = &[
        "HOME",
        "VERSION",
        "DIR",
        "CONF_DIR",
        "LOG_DIR",
        "LOGS_DIR",
        "JMX_PORT",
        "JMX_HOSTNAME",
        "MODE",
        "USER",
    ];
    match key {
        "DEBUG" => !value.split(',').all(|part| DEBUG_CONTEXTS.contains(&part.trim())),
        _ => key == "OPTS" || key.ends_with("_OPTS") || NAMES.contains(&key),
    }
}
