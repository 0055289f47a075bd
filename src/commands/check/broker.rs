//! Checks of the brokers: connection, the group (without joining it), each topic with its leaders, rights and settings.

use std::collections::BTreeMap;
use std::time::Duration;

use super::STEP_TIMEOUT;
use super::report::CheckReport;
use super::topics;
use crate::config::{SESSION_TIMEOUT_MS, Settings, variable};
use crate::kafka::admin::{Cluster, TopicState, configs, group_usable};
use crate::kafka::operations::{Allowed, Operation};
use crate::kafka::reason::{FailureReason, Kind};
use crate::kafka::send::Sender;
use crate::kafka::topic_names;
use crate::record::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC};

/// Maximum time for the group's coordinator to answer: a new cluster creates it at the first request.
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(10);

/// The brokers' answers.
struct ClusterDescription {
    broker: Option<i32>,
    brokers: usize,
    states: Vec<TopicState>,
    operations: BTreeMap<String, Allowed>,
    group: Option<Result<(), FailureReason>>,
    group_operations: Allowed,
}

pub(super) async fn check(settings: &Settings, report: &mut CheckReport) -> anyhow::Result<()> {
    let names = topic_names(settings);
    let (ours, asked) = (settings.clone(), names.clone());
    let answers = match tokio::task::spawn_blocking(move || ask(&ours, &asked)).await? {
        Ok(answers) => answers,
        Err(unreachable) => {
            report.wrong("brokers", unreachable.sentence(), unreachable.remedy());
            for what in ["consumer group", "producer"] {
                report.untried(what, "as no broker answers");
            }
            for name in &names {
                report.untried(format!("topic {name}"), "as no broker answers");
            }
            return Ok(());
        }
    };
    let servers = &settings.kafka_bootstrap_servers;
    report.ok("brokers", format!("{servers} answers; {} in the cluster", answers.brokers));
    let described = configs(settings, &names, answers.broker, STEP_TIMEOUT).await?;
    let (of_topics, of_broker) = described.split_at(names.len().min(described.len()));
    group(settings, &answers, report);
    session_timeout(settings, of_broker.first(), report);
    producer(settings, report);
    for ((name, state), config) in names.iter().zip(&answers.states).zip(of_topics) {
        let allowed = answers.operations.get(name).and_then(Option::as_ref);
        topic(settings, name, state, report);
        if matches!(state, TopicState::There { .. }) {
            right(settings, name, allowed, report);
            topics::settings_of(settings, name, config, report);
        }
    }
    Ok(())
}

/// Asks the brokers. Blocks.
fn ask(
    settings: &Settings,
    names: &[String],
) -> Result<ClusterDescription, crate::kafka::admin::Unreachable> {
    let cluster = Cluster::reach(settings, STEP_TIMEOUT)?;
    let states = cluster.topics(names);
    let known = names.iter().zip(&states).find(|(_, state)| matches!(state, TopicState::There { .. }));
    let group = known.map(|(name, _)| group_usable(settings, name, COORDINATOR_TIMEOUT));
    let has_group = matches!(group, Some(Ok(())));
    Ok(ClusterDescription {
        broker: cluster.broker(),
        brokers: cluster.brokers(),
        operations: cluster.operations_on_topics(names),
        group_operations: has_group.then(|| cluster.operations_on_group(&settings.kafka_group_id)).flatten(),
        states,
        group,
    })
}

fn group(settings: &Settings, answers: &ClusterDescription, report: &mut CheckReport) {
    let what = "consumer group";
    let group = &settings.kafka_group_id;
    let lacks_read =
        answers.group_operations.as_ref().is_some_and(|allowed| !allowed.contains(&Operation::Read));
    match &answers.group {
        None => report.untried(what, "as there is no topic to ask about"),
        Some(Ok(())) if lacks_read => {
            let grant = acls(settings, &format!("--group '{group}'"), &[Operation::Read]);
            report.wrong(
                what,
                format!("this client may not join {group}: it lacks Read on the group"),
                grant,
            );
        }
        Some(Ok(())) if answers.group_operations.is_some() => {
            report.ok(what, format!("{group} may be joined"))
        }
        Some(Ok(())) => {
            report.ok(what, format!("{group} may be described"));
            report.untried("joining the group", "as there is no such group yet, and a join would make it");
        }
        Some(Err(reason)) if reason.kind == Kind::MissingRight => {
            let grant =
                acls(settings, &format!("--group '{group}'"), &[Operation::Read, Operation::Describe]);
            report.wrong(what, format!("this client may not use {group} ({})", reason.sentence), grant);
        }
        Some(Err(reason)) => report.wrong(what, &reason.sentence, &reason.remedy),
    }
}

/// Checks `session.timeout.ms`: the broker refuses members with a value outside its bounds.
fn session_timeout(
    settings: &Settings,
    broker: Option<&Result<BTreeMap<String, String>, FailureReason>>,
    report: &mut CheckReport,
) {
    let property = "session.timeout.ms";
    let name = variable(property);
    let given = settings.kafka_properties.get(property).and_then(|text| text.trim().parse::<i64>().ok());
    let config = match broker {
        Some(Ok(config)) => config,
        Some(Err(_)) | None if given.is_none() => return,
        _ => {
            return report.untried(
                name,
                "whether the broker takes this session: its settings may not be read (DescribeConfigs on the cluster)",
            );
        }
    };
    let timeout = given.unwrap_or(SESSION_TIMEOUT_MS);
    let bound = |name: &str| config.get(name).and_then(|text| text.parse::<i64>().ok());
    let least = bound("group.min.session.timeout.ms").unwrap_or(0);
    let most = bound("group.max.session.timeout.ms").unwrap_or(i64::MAX);
    if (least..=most).contains(&timeout) {
        return report.ok(name, format!("{timeout}, which the broker takes"));
    }
    report.wrong(
        name,
        format!("{timeout}, and the broker takes sessions from {least} to {most} ms only (INVALID_SESSION_TIMEOUT)"),
        "set it within these bounds, or change group.min.session.timeout.ms and group.max.session.timeout.ms of the \
         brokers",
    );
}

/// Creates the producer as `run` does. The brokers are contacted only at the first send.
fn producer(settings: &Settings, report: &mut CheckReport) {
    match Sender::new(settings) {
        Ok(_) => {
            report.ok("producer", "can be made as `run` makes it");
            report.untried("sending", "as a record that is sent stays in the topic");
        }
        Err(error) => {
            report.wrong("producer", format!("{error:#}"), "correct the KAFKA_* setting that it names")
        }
    }
}

fn topic(settings: &Settings, name: &str, state: &TopicState, report: &mut CheckReport) {
    let what = format!("topic {name}");
    match state {
        TopicState::There { partitions, leaderless } if leaderless.is_empty() => {
            report.ok(what, format!("{partitions} partition{}", if *partitions == 1 { "" } else { "s" }));
        }
        TopicState::There { leaderless, .. } => {
            let list: Vec<String> = leaderless.iter().map(ToString::to_string).collect();
            let (noun, verb) = if list.len() == 1 { ("partition", "has") } else { ("partitions", "have") };
            report.wrong(
                what,
                format!("{noun} {} {verb} no leader", list.join(", ")),
                "start the brokers that hold their replicas (kafka-topics.sh --describe names them)",
            );
        }
        TopicState::Missing => report.wrong(
            what,
            "does not exist, or this client may not see it",
            "create it, or correct TOPIC_PREFIX if its name begins otherwise",
        ),
        TopicState::Refused(reason) if reason.kind == Kind::MissingRight => {
            let grant = acls(settings, &format!("--topic '{name}'"), needed(settings, name));
            report.wrong(what, "this client may not describe it", grant);
        }
        TopicState::Refused(reason) => report.wrong(what, &reason.sentence, &reason.remedy),
    }
}

/// The operations of `run` on a topic.
fn needed(settings: &Settings, name: &str) -> &'static [Operation] {
    let is_written =
        [EXPIRED_TOPIC, DEAD_LETTER_TOPIC].iter().any(|topic| settings.topic_name(topic) == name);
    if is_written {
        &[Operation::Write, Operation::Describe]
    } else {
        &[Operation::Read, Operation::Describe]
    }
}

fn right(
    settings: &Settings,
    name: &str,
    allowed: Option<&std::collections::BTreeSet<Operation>>,
    report: &mut CheckReport,
) {
    let what = format!("rights on {name}");
    let needed = needed(settings, name);
    let Some(allowed) = allowed else {
        return report.untried(what, "as no broker describes them");
    };
    let lacking: Vec<Operation> =
        needed.iter().copied().filter(|operation| !allowed.contains(operation)).collect();
    if lacking.is_empty() {
        return report.ok(what, names_of(needed));
    }
    let grant = acls(settings, &format!("--topic '{name}'"), &lacking);
    report.wrong(what, format!("this client lacks {}", names_of(&lacking)), grant);
}

fn names_of(operations: &[Operation]) -> String {
    operations.iter().map(|operation| operation.name()).collect::<Vec<_>>().join(", ")
}

/// The command that grants the operations.
fn acls(settings: &Settings, resource: &str, operations: &[Operation]) -> String {
    let user = settings.kafka_properties.get("sasl.username").map_or("NAME", String::as_str);
    let operations: Vec<String> =
        operations.iter().map(|operation| format!("--operation {}", operation.name())).collect();
    format!(
        "kafka-acls.sh --bootstrap-server {} --add --allow-principal 'User:{user}' {} {resource}",
        settings.kafka_bootstrap_servers,
        operations.join(" ")
    )
}
