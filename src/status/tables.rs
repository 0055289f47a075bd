//! The document as sentences and tables, for the terminal and the page.

use uuid::Uuid;

use super::judge::ago;
use super::{Document, PartitionState, PartitionStatus};

/// A table for a person.
pub struct StatusTable {
    /// The title.
    pub name: &'static str,
    /// The names of the columns.
    pub header: &'static [&'static str],
    /// The indices of columns with numbers.
    pub numbers: &'static [usize],
    /// The cells.
    pub rows: Vec<Vec<String>>,
    /// The number of omitted rows.
    pub more: usize,
}

/// One line: the lag, the group, its members, the version.
pub fn facts(document: &Document) -> String {
    let Document { version, group, checked_at, .. } = document;
    let lag: Option<i64> = document.topics.iter().map(|topic| topic.lag_records).sum();
    let seconds = document.topics.iter().filter_map(|topic| topic.lag_seconds).reduce(f64::max);
    let seconds = seconds.filter(|_| lag > Some(0));
    let seconds = seconds.map_or_else(String::new, |seconds| format!(", the oldest for {}", ago(seconds)));
    let lag = lag
        .filter(|_| !document.topics.is_empty())
        .map_or_else(|| "lag not known".to_owned(), |lag| format!("{lag} records behind"));
    let members = document.members.as_ref().map_or_else(
        || "members not known".to_owned(),
        |members| format!("{} member{}", members.len(), if members.len() == 1 { "" } else { "s" }),
    );
    format!("{lag}{seconds}; group {group}, {members}; version {version}, {checked_at}")
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn seconds(seconds: Option<f64>) -> String {
    or_dash(seconds.map(ago))
}

fn number(number: Option<i64>) -> String {
    or_dash(number.map(|number| number.to_string()))
}

/// The table of topics.
pub fn topics(document: &Document) -> StatusTable {
    let row = |topic: &super::TopicSum| {
        vec![
            topic.topic.clone(),
            topic.partitions.to_string(),
            number(topic.lag_records),
            seconds(topic.lag_seconds),
            or_dash(topic.records_per_second.map(|rate| format!("{rate:.1}"))),
            seconds(topic.eta_seconds),
        ]
    };
    StatusTable {
        name: "Topics",
        header: &["topic", "partitions", "behind", "oldest waits", "records/s", "caught up in"],
        numbers: &[1, 2, 3, 4, 5],
        rows: document.topics.iter().map(row).collect(),
        more: 0,
    }
}

fn words(state: PartitionState, waits: bool) -> &'static str {
    if state == PartitionState::CatchingUp && waits { "waiting" } else { state.words() }
}

/// The table of at most `most` partitions: first those that need attention, then, with `all`, the others.
pub fn partitions(document: &Document, all: bool, most: usize) -> StatusTable {
    // Without members all partitions are unassigned: only those with waiting records need attention.
    let is_idle = |partition: &PartitionStatus| match partition.state {
        Some(PartitionState::Ok) => true,
        Some(PartitionState::Unassigned) => document.members.as_ref().is_some_and(Vec::is_empty),
        _ => false,
    };
    let worth_it = |partition: &&PartitionStatus| partition.lag_records > Some(0) || !is_idle(partition);
    let (first, rest): (Vec<&PartitionStatus>, Vec<&PartitionStatus>) =
        document.partitions.iter().partition(worth_it);
    let shown = first.into_iter().chain(rest.into_iter().filter(|_| all)).collect::<Vec<_>>();
    let instance = |partition: &PartitionStatus| {
        let id = partition.member.as_ref()?;
        let member = document.members.iter().flatten().find(|member| member.id == *id)?;
        member.instance.map(short)
    };
    let row = |partition: &&PartitionStatus| {
        vec![
            format!("{}/{}", partition.topic, partition.partition),
            or_dash(instance(partition)),
            or_dash(partition.state.map(|state| words(state, partition.waits_for.is_some()).to_owned())),
            number(partition.next_offset),
            number(partition.end),
            number(partition.lag_records),
            seconds(partition.lag_seconds),
        ]
    };
    StatusTable {
        name: "Partitions",
        header: &["partition", "instance", "state", "next", "end", "behind", "oldest waits"],
        numbers: &[3, 4, 5, 6],
        more: shown.len().saturating_sub(most),
        rows: shown.iter().take(most).map(row).collect(),
    }
}

/// The first characters of an instance's id, which tell it from the others.
fn short(id: Uuid) -> String {
    id.to_string().chars().take(8).collect()
}

/// The table of members.
pub fn members(document: &Document) -> StatusTable {
    let row = |member: &super::GroupMember| {
        let instance = or_dash(member.instance.map(short));
        vec![member.host.clone(), member.client_id.clone(), instance, member.partitions.len().to_string()]
    };
    StatusTable {
        name: "Members",
        header: &["member at", "client", "instance", "partitions"],
        numbers: &[3],
        rows: document.members.iter().flatten().map(row).collect(),
        more: 0,
    }
}

/// The table of instances with their last heartbeats.
pub fn instances(document: &Document) -> StatusTable {
    let row = |instance: &crate::store::status::Instance| {
        let beat = format!("{} ago", ago(instance.silent_seconds));
        // several instances may run on one host
        let id = short(instance.id);
        let name = if instance.host.is_empty() { id } else { format!("{} ({id})", instance.host) };
        vec![name, instance.version.clone(), instance.started_at.clone(), beat]
    };
    StatusTable {
        name: "Instances",
        header: &["instance", "version", "started", "last heartbeat"],
        numbers: &[],
        rows: document.instances.iter().flatten().map(row).collect(),
        more: 0,
    }
}

/// The table of unresolved dead letters by kind.
pub fn dead_letters(document: &Document) -> StatusTable {
    let row = |kind: &crate::store::letters::LetterGroup| {
        vec![
            kind.topic.clone(),
            kind.reason.clone(),
            kind.message.clone(),
            kind.count.to_string(),
            kind.latest_at.get(..19).unwrap_or(&kind.latest_at).replace('T', " "),
            kind.example_id.to_string(),
        ]
    };
    StatusTable {
        name: "Dead letters",
        header: &["dead letters of", "reason", "message", "count", "latest", "example"],
        numbers: &[3, 5],
        rows: document.dead_letters.iter().flat_map(|letters| &letters.by_reason).map(row).collect(),
        more: 0,
    }
}

/// The backlogs and the servers, each with a name and a sentence.
pub fn backlogs(document: &Document) -> Vec<(&'static str, String)> {
    let oldest = |seconds: Option<f64>| {
        seconds.map_or_else(String::new, |seconds| format!(", the oldest for {}", ago(seconds)))
    };
    let letters = document.dead_letters.as_ref().map(|letters| {
        let oldest = oldest(letters.oldest_unpublished_seconds);
        format!("{} unresolved; {} to be published{oldest}", letters.unresolved, letters.unpublished)
    });
    let cache = document.cache.as_ref().map(|cache| {
        let estimated = if cache.estimated { " (estimated)" } else { "" };
        let last = document.expiry.last_expired_at.as_ref();
        let last = last.map_or_else(String::new, |last| format!("; last expiry {last}"));
        format!("{} live, {} expired, {} overdue{estimated}{last}", cache.live, cache.expired, cache.overdue)
    });
    let outbox = document.outbox.as_ref().map(|outbox| {
        format!("{} clone.expired events to be published{}", outbox.events, oldest(outbox.oldest_seconds))
    });
    let database = document.database.as_ref().map(|database| {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "not known".to_owned());
        let connections =
            database.connections.map_or_else(|| "not known".to_owned(), |count| count.to_string());
        let schema = match &database.schema {
            Some(schema) if schema.pending.is_empty() => "current",
            Some(_) => "behind",
            None => "not known",
        };
        let (version, role) = (text(&database.version), text(&database.role));
        format!("PostgreSQL {version}, role {role}, schema {schema}, connections {connections}")
    });
    let brokers = document.broker.as_ref().map(|broker| broker.brokers.to_string());
    let lines = [
        ("Dead letters", letters),
        ("Cache", cache),
        ("Outbox", outbox),
        ("Database", database),
        ("Brokers", brokers),
    ];
    lines.map(|(name, text)| (name, text.unwrap_or_else(|| "not known".to_owned()))).to_vec()
}
