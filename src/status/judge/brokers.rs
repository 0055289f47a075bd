//! The problems that the brokers' answers show, and a group without members.

use super::{CHECK, ago, by_topic, critical, named, problem, warning};
use crate::record::TopicPartition;
use crate::status::Problem;
use crate::status::facts::{BrokerAnswers, Facts, SILENT_SECONDS};
use crate::status::problems::{Code, Severity};

pub(super) fn problems(facts: &Facts, cluster: &BrokerAnswers, found: &mut Vec<Problem>) {
    for unseen in &cluster.unseen {
        let name = &unseen.topic;
        found.push(match &unseen.refused {
            None => critical(
                Code::TopicMissing,
                format!("topic {name} does not exist, or this client may not see it"),
                format!("kafka-topics.sh --create --topic {name}, or correct TOPIC_PREFIX"),
            ),
            Some(why) => {
                critical(Code::TopicRefused, format!("topic {name} cannot be described: {why}"), CHECK)
            }
        });
    }
    let [_, logs] = &cluster.logs;
    let led = cluster.leaders.iter().filter(|(_, leader)| leader.is_some()).map(|(key, _)| *key);
    let without_end: Vec<TopicPartition> = led.filter(|key| !logs.contains_key(key)).collect();
    for (topic, list) in by_topic(without_end) {
        let what = format!(
            "no broker returned the end of {}, so that its lag is not known",
            named(facts, topic, &list)
        );
        found.push(warning(Code::NotAnswered, what, "look whether the leaders of these partitions run"));
    }
    if let Err(why) = &cluster.members {
        let what = format!("the members of group {} are not known: {why}", facts.group);
        // the embedded broker of `demo` cannot describe a group
        let cannot = why.contains("not supported by broker");
        let severity = if cannot { Severity::Info } else { Severity::Warning };
        found.push(problem(severity, Code::NotAnswered, what, CHECK));
    }
    if let Err(why) = &cluster.committed {
        let what = format!("the offsets that group {} committed to Kafka are not known: {why}", facts.group);
        found.push(warning(Code::NotAnswered, what, CHECK));
    }
}

pub(super) fn no_member(facts: &Facts) -> Option<Problem> {
    let fix = "start `voiceclone-events run`; where it runs, its log says what it waits for";
    let members = facts.brokers.as_ref().ok().and_then(|cluster| cluster.members.as_ref().ok());
    let instances = facts.database.as_ref().ok().and_then(|answers| answers.instances.as_ref());
    let last = instances.and_then(|all| all.iter().map(|instance| instance.silent_seconds).reduce(f64::min));
    let heard = last.map_or_else(
        || "no instance has a row in ingest.instances".to_owned(),
        |seconds| format!("the last heartbeat of an instance was {} ago", ago(seconds)),
    );
    match (members, instances) {
        (Some(members), Some(_)) if members.is_empty() => {
            Some(critical(Code::NoMember, format!("group {} has no member; {heard}", facts.group), fix))
        }
        (Some(members), None) if members.is_empty() => {
            Some(critical(Code::NoMember, format!("group {} has no member", facts.group), fix))
        }
        (None, Some(_)) if last.is_none_or(|seconds| seconds > SILENT_SECONDS) => {
            Some(critical(Code::NoMember, format!("no instance of group {} runs: {heard}", facts.group), fix))
        }
        _ => None,
    }
}
