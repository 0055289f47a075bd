//! From facts to the document: what is wrong, and the verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::facts::{Cluster, Facts, SILENT_SECONDS, Stock, Unanswered};
use super::partitions::{self, partitions, topics, written};
use super::problems::{Code, Severity};
use super::waits;
use super::{DeadLetters, Document, Expiry, Member, Partition, Place, Problem, State, Verdict};
use crate::record::{Topic, TopicPartition};

/// Events and dead letters that wait for longer are stuck.
const STUCK_SECONDS: f64 = 300.0;

/// Partitions that a sentence names.
const NAMED: usize = 20;

pub(super) const CHECK: &str = "voiceclone-events check";

/// What the facts say.
pub fn judge(facts: &Facts) -> Document {
    let partitions = partitions(facts);
    let mut problems = problems(facts, &partitions);
    problems.sort_by_key(|problem| (problem.severity, problem.code));
    let stock = facts.database.as_ref().ok();
    let cluster = facts.brokers.as_ref().ok();
    let cache = stock.and_then(|stock| stock.cache.clone());
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
        instances: stock.and_then(|stock| stock.instances.clone()),
        dead_letters: stock.and_then(|stock| stock.letters.clone()).map(|(letters, kinds)| DeadLetters {
            unresolved: letters.unresolved,
            unpublished: letters.unpublished,
            oldest_unpublished_seconds: letters.oldest_unpublished_seconds,
            by_reason: kinds,
        }),
        expiry: Expiry {
            interval_seconds: facts.expiry_interval.as_secs_f64(),
            last_expired_at: cache.as_ref().and_then(|cache| cache.last_expired_at.clone()),
        },
        cache,
        outbox: stock.and_then(|stock| stock.outbox.clone()),
        database: stock.map(|stock| stock.server.clone()),
        broker: cluster.map(|cluster| cluster.broker.clone()),
    }
}

fn members(facts: &Facts, cluster: &Cluster) -> Option<Vec<Member>> {
    let place = |key: &TopicPartition| Place { topic: facts.name(key.topic), partition: key.partition };
    let member = |member: &crate::kafka::group_state::Member| Member {
        id: member.id.clone(),
        client_id: member.client_id.clone(),
        host: member.host.clone(),
        partitions: member.partitions.iter().map(place).collect(),
    };
    Some(cluster.members.as_ref().ok()?.iter().map(member).collect())
}

fn verdict(problems: &[Problem], partitions: &[(TopicPartition, Partition)]) -> Verdict {
    let has = |code: Code| problems.iter().any(|problem| problem.code == code);
    let any = |state: State| partitions.iter().any(|(_, partition)| partition.state == Some(state));
    if has(Code::DatabaseAway) || has(Code::BrokersAway) || has(Code::NoMember) {
        Verdict::Down
    } else if has(Code::PartitionStopped) {
        Verdict::Stopped
    } else if problems.iter().any(|problem| problem.severity < Severity::Info) {
        Verdict::Degraded
    } else if any(State::CatchingUp) {
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

fn problems(facts: &Facts, partitions: &[(TopicPartition, Partition)]) -> Vec<Problem> {
    let mut found = Vec::new();
    match &facts.database {
        Ok(stock) => of_database(facts, stock, &mut found),
        Err(Unanswered { what, fix }) => found.push(critical(
            Code::DatabaseAway,
            format!(
                "PostgreSQL could not be asked, so that offsets, lag and dead letters are not known: {what}"
            ),
            fix,
        )),
    }
    match &facts.brokers {
        Ok(cluster) => of_brokers(facts, cluster, &mut found),
        Err(Unanswered { what, fix }) => found.push(critical(
            Code::BrokersAway,
            format!("Kafka could not be asked, so that ends, lag and members are not known: {what}"),
            fix,
        )),
    }
    found.extend(no_member(facts));
    let is_down = found.iter().any(|problem| problem.code == Code::NoMember);
    of_partitions(facts, partitions, is_down, &mut found);
    found
}

fn of_database(facts: &Facts, stock: &Stock, found: &mut Vec<Problem>) {
    let pending = stock.server.schema.as_ref().map(|schema| schema.pending.as_slice()).unwrap_or_default();
    if !pending.is_empty() {
        let what = format!("the database's schema is behind; missing: {}", pending.join(", "));
        found.push(critical(Code::SchemaBehind, what, "voiceclone-events migrate up"));
    } else {
        found.extend(stock.failed.iter().map(|(question, why)| {
            warning(Code::NotAnswered, format!("PostgreSQL did not answer on {question}: {why}"), CHECK)
        }));
    }
    if stock.read_only {
        let fix = "name the primary in DATABASE_URL, or turn default_transaction_read_only off";
        found.push(critical(Code::DatabaseReadOnly, "the database takes no writes", fix));
    }
    for pause in &stock.pauses {
        let (what, option) = match pause.topic.as_str() {
            "" => ("all topics".to_owned(), String::new()),
            topic => (format!("{}{topic}", facts.topic_prefix), format!(" --topic {topic}")),
        };
        let until = pause.until.as_ref().map_or_else(String::new, |until| format!(" until {until}"));
        let fix = format!("voiceclone-events resume{option}");
        let paused = warning(Code::Paused, format!("`pause` holds {what}{until}"), fix);
        found.push(Problem { since: Some(pause.paused_at.clone()), ..paused });
    }
    for skip in &stock.skips {
        let last = skip.to_offset - 1;
        let what = format!(
            "offsets {} to {last} of {} partition {} were passed over: {}",
            skip.from_offset, skip.topic, skip.partition, skip.note
        );
        let skipped = info(Code::Skipped, what, "nothing to do; ingest.skips keeps it");
        found.push(Problem { since: Some(skip.skipped_at.clone()), ..skipped });
    }
    letters(stock, found);
    if let Some(outbox) = &stock.outbox
        && outbox.oldest_seconds.is_some_and(|seconds| seconds > STUCK_SECONDS)
    {
        let what = format!(
            "{} clone.expired events wait to be published, the oldest for {}",
            outbox.events,
            ago(outbox.oldest_seconds.unwrap_or_default())
        );
        found.push(warning(Code::OutboxStuck, what, CHECK));
    }
    if let Some(cache) = &stock.cache {
        let limit = (3.0 * facts.expiry_interval.as_secs_f64()).max(STUCK_SECONDS);
        if cache.overdue > 0 && cache.overdue_seconds > limit {
            let what = format!(
                "{} cache rows are past their time and not expired, the first for {}",
                cache.overdue,
                ago(cache.overdue_seconds)
            );
            let fix = "look for lines about the expiry in the daemon's log, and for locks in pg_locks";
            found.push(warning(Code::ExpiryLate, what, fix));
        }
        if cache.estimated {
            let what = "the cache has over a million rows: live and expired rows are estimated, and the time of the \
                        last expiry is not known";
            found.push(info(Code::CacheEstimated, what, "ANALYZE public.voice_clone_cache makes it exacter"));
        }
    }
}

fn letters(stock: &Stock, found: &mut Vec<Problem>) {
    let Some((letters, kinds)) = &stock.letters else { return };
    if letters.unresolved > 0 {
        let mut what = format!("{} unresolved", counted(letters.unresolved, "dead letter"));
        if letters.recent > 0 {
            let _ = write!(what, ", {} of them from the last hour", letters.recent);
        }
        if let Some(kind) = kinds.first() {
            let _ = write!(what, "; most are of {}: {} ({})", kind.topic, kind.reason, kind.message);
        }
        let severity = if letters.recent > 0 { Severity::Warning } else { Severity::Info };
        found.push(problem(severity, Code::DeadLetters, what, "voiceclone-events dead-letters summary"));
    }
    let publishable = letters.unpublished - letters.unpublishable;
    let oldest = letters.oldest_unpublished_seconds.unwrap_or_default();
    if publishable > 0 && oldest > STUCK_SECONDS {
        let what = format!(
            "{} not published yet, the oldest for {}",
            counted(publishable, "dead letter"),
            ago(oldest)
        );
        found.push(warning(Code::DeadLettersUnpublished, what, CHECK));
    }
    if letters.unpublishable > 0 {
        let what =
            format!("the broker refuses {} for what they are", counted(letters.unpublishable, "dead letter"));
        let fix = "raise max.message.bytes of voiceclone.dead-letters; unpublishable in ingest.dead_letters has the \
                   broker's words";
        found.push(warning(Code::DeadLettersUnpublishable, what, fix));
    }
}

fn of_brokers(facts: &Facts, cluster: &Cluster, found: &mut Vec<Problem>) {
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
    let untold: Vec<TopicPartition> = led.filter(|key| !logs.contains_key(key)).collect();
    for (topic, list) in by_topic(untold) {
        let what =
            format!("no broker told the end of {}, so that its lag is not known", named(facts, topic, &list));
        found.push(warning(Code::NotAnswered, what, "look whether the leaders of these partitions run"));
    }
    if let Err(why) = &cluster.members {
        let what = format!("the members of group {} are not known: {why}", facts.group);
        // the embedded broker of `demo` describes no group
        let cannot = why.contains("not supported by broker");
        let severity = if cannot { Severity::Info } else { Severity::Warning };
        found.push(problem(severity, Code::NotAnswered, what, CHECK));
    }
    if let Err(why) = &cluster.committed {
        let what = format!("the offsets that group {} committed to Kafka are not known: {why}", facts.group);
        found.push(warning(Code::NotAnswered, what, CHECK));
    }
}

fn no_member(facts: &Facts) -> Option<Problem> {
    let fix = "start `voiceclone-events run`; where it runs, its log says what it waits for";
    let members = facts.brokers.as_ref().ok().and_then(|cluster| cluster.members.as_ref().ok());
    let instances = facts.database.as_ref().ok().and_then(|stock| stock.instances.as_ref());
    let last = instances.and_then(|all| all.iter().map(|instance| instance.silent_seconds).reduce(f64::min));
    let heard = last.map_or_else(
        || "no instance has a row in ingest.instances".to_owned(),
        |seconds| format!("the last sign of life of an instance was {} ago", ago(seconds)),
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

fn of_partitions(
    facts: &Facts,
    partitions: &[(TopicPartition, Partition)],
    is_down: bool,
    found: &mut Vec<Problem>,
) {
    let in_state = |state: State| {
        let keys = partitions.iter().filter(move |(_, partition)| partition.state == Some(state));
        keys.map(|(key, _)| *key).collect::<Vec<_>>()
    };
    let mut leaderless = in_state(State::NoLeader);
    leaderless.retain(|key| facts.is_leaderless(*key));
    for (topic, list) in by_topic(leaderless) {
        let what = format!("{} without a leader", named(facts, topic, &list));
        let fix = format!(
            "start the brokers that hold the replicas: kafka-topics.sh --describe --topic {}",
            facts.name(topic)
        );
        found.push(critical(Code::NoLeader, what, fix));
    }
    for (key, partition) in partitions {
        let Some(stored) = facts.position(1, *key) else { continue };
        let place = format!("{} partition {}", partition.topic, key.partition);
        let accept = format!(
            "voiceclone-events dead-letters accept --topic {} --partition {}",
            key.topic, key.partition
        );
        let count = stored.dead_in_a_row;
        if stored.stopped_at.is_some() {
            let what =
                format!("{place} is stopped by DEAD_LETTER_LIMIT after {count} unusable records in a row");
            let stopped = critical(Code::PartitionStopped, what, accept);
            found.push(Problem { since: stored.stopped_at.clone(), ..stopped });
        } else if count > 0 && count >= facts.dead_letter_limit / 2 {
            let limit = facts.dead_letter_limit;
            let what =
                format!("{place} has {count} unusable records in a row, and DEAD_LETTER_LIMIT is {limit}");
            let fix = "stop their producer, or raise DEAD_LETTER_LIMIT";
            found.push(warning(Code::NearDeadLetterLimit, what, fix));
        }
        if partition.state == Some(State::OffsetLost)
            && let (Some(low), Some(end)) = (partition.low, partition.end)
        {
            let next = stored.next_offset;
            let what = if next < low {
                format!(
                    "{place}: the log begins at {low}, and offsets {next} to {} were not consumed",
                    low - 1
                )
            } else {
                format!("{place}: the log ends at {end}, before the stored offset {next}")
            };
            let fix = "the daemon goes on with the first record there is; raise retention.ms of the topic";
            found.push(critical(Code::OffsetsLost, what, fix));
        }
    }
    found.extend(waits::problems(facts, partitions));
    let stalled = partitions.iter().filter(|(key, partition)| {
        partition.state == Some(State::Stalled) && !waits::is_told(facts, *key, partition)
    });
    for (topic, list) in by_topic(stalled.map(|(key, _)| *key).collect()) {
        let what = format!("records wait in {}, and nothing moves", named(facts, topic, &list));
        let since = partitions.iter().filter(|(key, _)| list.contains(&key.partition) && key.topic == topic);
        let since = since.filter_map(|(_, partition)| partition.moved_at.clone()).min();
        let fix = "/readyz of the daemon says what they wait for; see its log";
        found.push(Problem { since, ..critical(Code::Stalled, what, fix) });
    }
    if !is_down {
        for (topic, list) in by_topic(in_state(State::Unassigned)) {
            let what = format!("no member of the group has {}", named(facts, topic, &list));
            let fix = "wait for the group to rebalance; where it stays so, restart the instances";
            found.push(warning(Code::Unassigned, what, fix));
        }
        for (topic, list) in by_topic(in_state(State::CatchingUp)) {
            if partitions::shrinks_by(facts, topic).is_none_or(|by| by > 0) {
                continue;
            }
            let what =
                format!("records wait in {}, and they do not become fewer", named(facts, topic, &list));
            let fix = "start more instances, up to the number of partitions; see docs/performance.md";
            found.push(warning(Code::LagNotShrinking, what, fix));
        }
    }
    let unknown = partitions
        .iter()
        .filter(|(_, partition)| partition.lag_records > Some(0) && partition.lag_seconds.is_none());
    for (topic, list) in by_topic(unknown.map(|(key, _)| *key).collect()) {
        let what = format!(
            "the age of the oldest record that waits in {} is not known: it was not read within 1 s, has no timestamp, \
             or 32 other partitions are further behind",
            named(facts, topic, &list)
        );
        found.push(info(Code::LagSecondsUnknown, what, "run it again; it takes the right to read the topic"));
    }
}

fn by_topic(keys: Vec<TopicPartition>) -> BTreeMap<Topic, Vec<i32>> {
    let mut found: BTreeMap<Topic, Vec<i32>> = BTreeMap::new();
    for key in keys {
        found.entry(key.topic).or_default().push(key.partition);
    }
    found
}

/// A topic with its partitions, the first of them by number.
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

/// Seconds for a person.
pub fn ago(seconds: f64) -> String {
    let unit = |size: f64, unit: &str| format!("{:.0} {unit}", (seconds / size).floor());
    match seconds {
        seconds if seconds < 120.0 => unit(1.0, "s"),
        seconds if seconds < 7_200.0 => unit(60.0, "min"),
        seconds if seconds < 172_800.0 => unit(3_600.0, "h"),
        _ => unit(86_400.0, "d"),
    }
}
