//! The document for a person, within 100 columns: verdict, problems, then tables.

use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};

use crate::status::judge::ago;
use crate::status::{Document, Partition, Problem, State, Verdict};

const WIDTH: usize = 100;

/// Partitions that are shown; `--json` has all.
const SHOWN: usize = 40;

/// All of it.
pub(super) fn text(document: &Document) -> String {
    let mut parts = vec![head(document)];
    if !document.problems.is_empty() {
        parts.push(document.problems.iter().map(problem).collect::<Vec<_>>().join("\n"));
    }
    parts.extend(tables(document));
    parts.push(backlogs(document));
    parts.join("\n\n")
}

fn head(document: &Document) -> String {
    let verdict = match document.verdict {
        Verdict::Ok => "OK: records are consumed as they come",
        Verdict::CatchingUp => "CATCHING UP: records wait, and they become fewer",
        Verdict::Degraded => "DEGRADED: it works, and something needs a person",
        Verdict::Stopped => "STOPPED: DEAD_LETTER_LIMIT stopped a partition",
        Verdict::Down => "DOWN: nothing is consumed, or nobody can tell",
    };
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
    let facts = format!("{lag}{seconds}; group {group}, {members}; version {version}, {checked_at}");
    format!("{verdict}\n{}", wrapped(&facts, 0))
}

fn problem(problem: &Problem) -> String {
    let Problem { severity, code, what, since, fix } = problem;
    let since = since.as_ref().map_or_else(String::new, |since| format!(", since {since}"));
    format!(
        "{:8}  {}{since}\n{}\n{}",
        severity.name(),
        code.name(),
        wrapped(what, 10),
        wrapped(&format!("-> {fix}"), 10)
    )
}

/// Words in lines within the width, each indented. A word that is longer has a line of its own.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.iter().map(|line| format!("{:indent$}{line}", "")).collect::<Vec<_>>().join("\n")
}

fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, numbers: &[usize]) -> Option<String> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    // no lines between rows: there may be many
    for part in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
        TableComponent::LeftBorderIntersections,
        TableComponent::RightBorderIntersections,
    ] {
        table.remove_style(part);
    }
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(WIDTH).unwrap_or(u16::MAX));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    (!table.is_empty()).then(|| table.to_string())
}

fn tables(document: &Document) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let seconds = |seconds: Option<f64>| or_dash(seconds.map(ago));
    let number = |number: Option<i64>| or_dash(number.map(|number| number.to_string()));
    let topics = document.topics.iter().map(|topic| {
        vec![
            topic.topic.clone(),
            topic.partitions.to_string(),
            number(topic.lag_records),
            seconds(topic.lag_seconds),
            or_dash(topic.records_per_second.map(|rate| format!("{rate:.1}"))),
            seconds(topic.eta_seconds),
        ]
    });
    let header = ["topic", "partitions", "behind", "oldest waits", "records/s", "caught up in"];
    let mut found = vec![table(&header, topics, &[1, 2, 3, 4, 5])];

    // Without a member all are unassigned, and those where nothing waits say nothing more.
    let is_idle = |partition: &Partition| match partition.state {
        Some(State::Ok) => true,
        Some(State::Unassigned) => document.members.as_ref().is_some_and(Vec::is_empty),
        _ => false,
    };
    let worth_it = |partition: &&Partition| partition.lag_records > Some(0) || !is_idle(partition);
    let shown: Vec<&Partition> = document.partitions.iter().filter(worth_it).collect();
    let rows = shown.iter().take(SHOWN).map(|partition| {
        vec![
            format!("{}/{}", partition.topic, partition.partition),
            or_dash(partition.state.map(word).map(str::to_owned)),
            number(partition.next_offset),
            number(partition.end),
            number(partition.lag_records),
            seconds(partition.lag_seconds),
        ]
    });
    let header = ["partition", "state", "next", "end", "behind", "oldest waits"];
    found.push(table(&header, rows, &[2, 3, 4, 5]).map(|table| match shown.len().saturating_sub(SHOWN) {
        0 => table,
        more => format!("{table}\n{more} more partitions: see --json"),
    }));

    let members = document.members.iter().flatten().map(|member| {
        vec![member.host.clone(), member.client_id.clone(), member.partitions.len().to_string()]
    });
    found.push(table(&["member at", "client", "partitions"], members, &[2]));
    let instances = document.instances.iter().flatten().map(|instance| {
        let beat = format!("{} ago", ago(instance.silent_seconds));
        let host = Some(instance.host.clone()).filter(|host| !host.is_empty());
        let name = host.unwrap_or_else(|| instance.id.to_string());
        vec![name, instance.version.clone(), instance.started_at.clone(), beat]
    });
    found.push(table(&["instance", "version", "started", "sign of life"], instances, &[]));
    let kinds = document.dead_letters.iter().flat_map(|letters| &letters.by_reason).map(|kind| {
        vec![
            kind.topic.clone(),
            kind.reason.clone(),
            kind.message.clone(),
            kind.count.to_string(),
            kind.latest_at.get(..19).unwrap_or(&kind.latest_at).to_owned(),
            kind.example_id.to_string(),
        ]
    });
    let header = ["dead letters of", "reason", "message", "count", "latest", "example"];
    found.push(table(&header, kinds, &[3, 5]));
    found.into_iter().flatten().collect()
}

fn word(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::CatchingUp => "catching up",
        State::Stalled => "stalled",
        State::StoppedByLimit => "stopped by limit",
        State::Paused => "paused",
        State::Unassigned => "unassigned",
        State::OffsetLost => "offset lost",
        State::NoLeader => "no leader",
    }
}

fn backlogs(document: &Document) -> String {
    let mut lines = Vec::new();
    let oldest = |seconds: Option<f64>| {
        seconds.map_or_else(String::new, |seconds| format!(", the oldest for {}", ago(seconds)))
    };
    let mut line = |name: &str, text: Option<String>| {
        lines.push(wrapped(&format!("{name}: {}", text.unwrap_or_else(|| "not known".to_owned())), 0));
    };
    line(
        "Dead letters",
        document.dead_letters.as_ref().map(|letters| {
            let oldest = oldest(letters.oldest_unpublished_seconds);
            format!("{} unresolved; {} to be published{oldest}", letters.unresolved, letters.unpublished)
        }),
    );
    line(
        "Cache",
        document.cache.as_ref().map(|cache| {
            let estimated = if cache.estimated { " (estimated)" } else { "" };
            let last = document.expiry.last_expired_at.as_ref();
            let last = last.map_or_else(String::new, |last| format!("; last expiry {last}"));
            format!(
                "{} live, {} expired{estimated}, {} overdue{last}",
                cache.live, cache.expired, cache.overdue
            )
        }),
    );
    line(
        "Outbox",
        document.outbox.as_ref().map(|outbox| {
            format!("{} clone.expired events to be published{}", outbox.events, oldest(outbox.oldest_seconds))
        }),
    );
    line(
        "Database",
        document.database.as_ref().map(|database| {
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
        }),
    );
    line("Brokers", document.broker.as_ref().map(|broker| broker.brokers.to_string()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sentences_are_wrapped_within_the_width_and_long_words_stay_whole() {
        let text = wrapped(&"word ".repeat(60), 10);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH && line.starts_with("          word")));
        let long = "x".repeat(150);
        assert_eq!(wrapped(&format!("a {long} b"), 2), format!("  a\n  {long}\n  b"));
    }
}
