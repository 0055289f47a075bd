//! The document from the facts: the problems and the verdict.
//!
//! The problems have a module each for `database`, `brokers` and `partitions`.

mod brokers;
mod database;
mod partitions;

use std::collections::BTreeMap;

use super::facts::{BrokerAnswers, Facts, Unanswered};
use super::partitions::{partitions, topics, written};
use super::problems::{Code, Severity};
use super::{
    DeadLetterBacklog, Document, Expiry, GroupMember, PartitionName, PartitionState, PartitionStatus,
    Problem, Verdict,
};
use crate::record::{Topic, TopicPartition};

/// An event or dead letter that waits to be published for longer is stuck.
const STUCK_SECONDS: f64 = 300.0;

/// Maximum number of partitions named in a sentence.
const NAMED: usize = 20;

/// The fix of a problem whose cause `check` finds.
pub(super) const CHECK: &str = "voiceclone-events check";

/// Judges the facts.
pub fn judge(facts: &Facts) -> Document {
    let partitions = partitions(facts);
    let mut problems = problems(facts, &partitions);
    problems.sort_by_key(|problem| (problem.severity, problem.code));
    let answers = facts.database.as_ref().ok();
    let cluster = facts.brokers.as_ref().ok();
    let cache = answers.and_then(|answers| answers.cache.clone());
    Document {
        version: env!("CARGO_PKG_VERSION"),
        checked_at: written(facts.checked_at).unwrap_or_default(),
        group: facts.group.clone(),
        topic_prefix: facts.topic_prefix.clone(),
        verdict: verdict(&problems, &partitions),
        problems,
        topics: topics(facts, &partitions),
        partitions: partitions.into_iter().map(|(_, partition)| partition).collect(),
        members: cluster.and_then(|cluster| members(facts, cluster)),
        instances: answers.and_then(|answers| answers.instances.clone()),
        dead_letters: answers.and_then(|answers| answers.letters.clone()).map(|(letters, kinds)| {
            DeadLetterBacklog {
                unresolved: letters.unresolved,
                unpublished: letters.unpublished,
                oldest_unpublished_seconds: letters.oldest_unpublished_seconds,
                by_reason: kinds,
            }
        }),
        expiry: Expiry {
            interval_seconds: facts.expiry_interval.as_secs_f64(),
            last_expired_at: cache.as_ref().and_then(|cache| cache.last_expired_at.clone()),
        },
        cache,
        outbox: answers.and_then(|answers| answers.outbox.clone()),
        database: answers.map(|answers| answers.server.clone()),
        broker: cluster.map(|cluster| cluster.broker.clone()),
    }
}

fn members(facts: &Facts, cluster: &BrokerAnswers) -> Option<Vec<GroupMember>> {
    let place =
        |key: &TopicPartition| PartitionName { topic: facts.name(key.topic), partition: key.partition };
    let instances = facts.database.as_ref().ok().and_then(|answers| answers.instances.as_deref());
    let instance = |id: &str| {
        let of = instances.into_iter().flatten().find(|instance| instance.member.as_deref() == Some(id));
        of.map(|instance| instance.id)
    };
    let member = |member: &crate::kafka::group_state::Member| GroupMember {
        id: member.id.clone(),
        instance: instance(&member.id),
        client_id: member.client_id.clone(),
        host: member.host.clone(),
        partitions: member.partitions.iter().map(place).collect(),
    };
    Some(cluster.members.as_ref().ok()?.iter().map(member).collect())
}

fn verdict(problems: &[Problem], partitions: &[(TopicPartition, PartitionStatus)]) -> Verdict {
    let has = |code: Code| problems.iter().any(|problem| problem.code == code);
    let any = |state: PartitionState| partitions.iter().any(|(_, partition)| partition.state == Some(state));
    if has(Code::DatabaseAway) || has(Code::BrokersAway) || has(Code::NoMember) {
        Verdict::Down
    } else if has(Code::PartitionStopped) {
        Verdict::Stopped
    } else if problems.iter().any(|problem| problem.severity < Severity::Info) {
        Verdict::Degraded
    } else if any(PartitionState::CatchingUp) {
        Verdict::CatchingUp
    } else {
        Verdict::Ok
    }
}

fn problem(severity: Severity, code: Code, what: impl Into<String>, fix: impl Into<String>) -> Problem {
    Problem { severity, code, what: what.into(), since: None, fix: fix.into() }
}

pub(super) fn critical(code: Code, what: impl Into<String>, fix: impl Into<String>) -> Problem {
    problem(Severity::Critical, code, what, fix)
}

pub(super) fn warning(code: Code, what: impl Into<String>, fix: impl Into<String>) -> Problem {
    problem(Severity::Warning, code, what, fix)
}

fn info(code: Code, what: impl Into<String>, fix: impl Into<String>) -> Problem {
    problem(Severity::Info, code, what, fix)
}

fn problems(facts: &Facts, partitions: &[(TopicPartition, PartitionStatus)]) -> Vec<Problem> {
    let mut found = Vec::new();
    match &facts.database {
        Ok(answers) => database::problems(facts, answers, &mut found),
        Err(Unanswered { what, fix }) => found.push(critical(
            Code::DatabaseAway,
            format!(
                "PostgreSQL could not be asked, so that offsets, lag and dead letters are not known: {what}"
            ),
            fix,
        )),
    }
    match &facts.brokers {
        Ok(cluster) => brokers::problems(facts, cluster, &mut found),
        Err(Unanswered { what, fix }) => found.push(critical(
            Code::BrokersAway,
            format!("Kafka could not be asked, so that ends, lag and members are not known: {what}"),
            fix,
        )),
    }
    found.extend(brokers::no_member(facts));
    let is_down = found.iter().any(|problem| problem.code == Code::NoMember);
    self::partitions::problems(facts, partitions, is_down, &mut found);
    found
}

fn by_topic(keys: Vec<TopicPartition>) -> BTreeMap<Topic, Vec<i32>> {
    let mut found: BTreeMap<Topic, Vec<i32>> = BTreeMap::new();
    for key in keys {
        found.entry(key.topic).or_default().push(key.partition);
    }
    found
}

/// A topic with its partitions; only the first [`NAMED`] by number.
pub(super) fn named(facts: &Facts, topic: Topic, partitions: &[i32]) -> String {
    let numbers: Vec<String> = partitions.iter().take(NAMED).map(ToString::to_string).collect();
    let noun = if partitions.len() == 1 { "partition" } else { "partitions" };
    let more = match partitions.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{} {noun} {}{more}", facts.name(topic), numbers.join(", "))
}

fn counted(count: i64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A duration in seconds, for a person.
pub fn ago(seconds: f64) -> String {
    let unit = |size: f64, unit: &str| format!("{:.0} {unit}", (seconds / size).floor());
    match seconds {
        seconds if seconds < 120.0 => unit(1.0, "s"),
        seconds if seconds < 7_200.0 => unit(60.0, "min"),
        seconds if seconds < 172_800.0 => unit(3_600.0, "h"),
        _ => unit(86_400.0, "d"),
    }
}
