//! docs/analysis.md: each of its answers is what the views say of the page's week, and what the events say themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use chrono::{DateTime, NaiveDateTime, Timelike as _, Utc};
use voiceclone_events::commands::simulate::plan_over_days;
use voiceclone_events::event::Time;
use voiceclone_events::record::{Record, Topic};
use voiceclone_events::traffic::traffic_over_days;

use super::migrated;
use crate::histories::{ingest, inputs, write};
use crate::model;
use crate::support::postgres::Database;
use crate::support::tables::{Row, Tables};

/// Read when the test runs, so that the page can be corrected without a build.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/analysis.md")).unwrap()
});

/// The records that the page's first command sends.
pub fn week() -> Vec<Record> {
    let command = PAGE.lines().find(|line| line.starts_with("voiceclone-events simulate")).unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    let flag = |name: &str| words[words.iter().position(|word| *word == name).unwrap() + 1];
    let (since, until) = (Time::parse(flag("--since")).unwrap(), Time::parse(flag("--until")).unwrap());
    let (calls, seed) = (flag("--calls").parse().unwrap(), flag("--seed").parse().unwrap());
    let (plan, end) = plan_over_days(Some(calls), since, seed, false, until.micros() / 1000).unwrap();
    let record = |(offset, sent): (i64, voiceclone_events::traffic::Sent)| Record {
        topic: Topic::from_name(sent.record.topic).unwrap(),
        partition: 0,
        offset,
        timestamp: sent.record.timestamp.unwrap(),
        key: sent.record.key,
        value: sent.record.value,
        headers: sent.record.headers,
    };
    (0..).zip(traffic_over_days(&plan, end)).map(record).collect()
}

/// Writes them as the daemon does.
pub async fn land(database: &Database, records: &[Record]) {
    let ingest = ingest(database);
    for batch in records.chunks(2000) {
        write(&ingest, batch).await;
    }
}

type Rows = Vec<Vec<String>>;

/// The statement and the table of each question of the page.
fn questions() -> Vec<(String, Rows)> {
    let question = |section: &str| {
        let (_, rest) = section.split_once("```sql\n").unwrap();
        let (statement, rest) = rest.split_once("```\n").unwrap();
        let table = rest.lines().filter(|line| line.starts_with('|')).skip(2);
        let cells =
            |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        (statement.to_owned(), table.map(cells).collect())
    };
    PAGE.split("\n## ").skip(1).map(question).collect()
}

fn asked(database: &Database, statement: &str) -> Rows {
    let text = |value: Option<String>| value.unwrap_or_default();
    database.rows(statement).into_iter().map(|row| row.into_iter().map(text).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_the_page_is_what_its_statement_says_and_what_the_events_say() {
    let database = migrated().await;
    let records = week();
    land(&database, &records).await;
    let tables = model::fold(&inputs(&records), 86_400, 8 << 20).tables;
    let counted = answers(&tables);
    let questions = questions();
    assert_eq!((questions.len(), counted.len()), (8, 8));
    let mut stale = String::new();
    for (number, ((statement, written), counted)) in (1..).zip(questions.iter().zip(&counted)) {
        let seen = asked(&database, statement);
        assert!(seen.len() > usize::from(number != 2), "question {number} has no answer");
        assert_eq!(&seen, counted, "question {number}: the view and the events");
        if &seen != written {
            let table: Vec<String> = seen.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
            stale.push_str(&format!("question {number}:\n{}\n", table.join("\n")));
        }
    }
    assert!(stale.is_empty(), "the page must say\n{stale}");
}

// -------- The same questions, answered from the model's tables without SQL

fn time(row: &Row, column: &str) -> Option<NaiveDateTime> {
    let text = row[column].as_deref()?;
    Some(NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap())
}

fn at(text: &str) -> NaiveDateTime {
    format!("{text}Z").replace(' ', "T").parse::<DateTime<Utc>>().unwrap().naive_utc()
}

fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row[column].as_deref().unwrap_or_default()
}

fn number(row: &Row, column: &str) -> Option<f64> {
    row[column].as_deref().map(|text| text.parse().unwrap())
}

fn between(moment: Option<NaiveDateTime>, from: &str, to: &str) -> bool {
    moment.is_some_and(|moment| at(from) <= moment && moment < at(to))
}

/// As `percentile_cont`.
fn percentile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = part * (values.len() - 1) as f64;
    let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// As `round(100.0 * part / whole, 1)`: half away from zero.
fn percent(part: usize, whole: usize) -> String {
    let tenths = (2000 * part + whole) / (2 * whole);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// The window of the first question.
fn window(statement: &str) -> (String, String) {
    let quoted: Vec<&str> = statement.split('\'').collect();
    (format!("{}:00", quoted[1]), format!("{}:00", quoted[3]))
}

const WEEK: (&str, &str) = ("2026-01-05 00:00:00", "2026-01-12 00:00:00");

fn answers(tables: &Tables) -> Vec<Rows> {
    let rows = |table: &str| tables[table].values().collect::<Vec<_>>();
    let (ready, failed) = (rows("clone_ready_events"), rows("clone_failed_events"));
    let (transfers, calls) = (rows("clone_transfer_events"), rows("call_log"));
    let calls_by_id: BTreeMap<&str, &Row> = calls.iter().map(|row| (text(row, "call_id"), *row)).collect();
    let in_week = |row: &Row, column: &str| between(time(row, column), WEEK.0, WEEK.1);
    let ready_ids: BTreeSet<&str> = ready.iter().map(|row| text(row, "greeting_call_id")).collect();
    let cloned: BTreeSet<(&str, &str)> =
        ready.iter().map(|row| (text(row, "greeting_call_id"), text(row, "cloned_voice_id"))).collect();
    let from_cache =
        |row: &Row| !cloned.contains(&(text(row, "greeting_call_id"), text(row, "cloned_voice_id")));
    let mut answers = Vec::new();

    let (from, to) = window(&questions()[0].0);
    let mut hours: BTreeMap<NaiveDateTime, (Vec<f64>, usize)> = BTreeMap::new();
    let hour = |moment: NaiveDateTime| {
        moment.with_minute(0).unwrap().with_second(0).unwrap().with_nanosecond(0).unwrap()
    };
    for row in ready.iter().filter(|row| between(time(row, "ready_at"), &from, &to)) {
        let took = number(row, "clone_duration_ms").unwrap();
        hours.entry(hour(time(row, "ready_at").unwrap())).or_default().0.push(took);
    }
    for row in failed.iter().filter(|row| between(time(row, "failed_at"), &from, &to)) {
        hours.entry(hour(time(row, "failed_at").unwrap())).or_default().1 += 1;
    }
    answers.push(
        hours
            .into_iter()
            .map(|(hour, (took, failed))| {
                let all = took.len() + failed;
                let good = percent(took.len(), all);
                vec![
                    hour.to_string(),
                    all.to_string(),
                    good,
                    percentile(took, 0.95).round_ties_even().to_string(),
                ]
            })
            .collect(),
    );

    let agents: BTreeSet<&str> = transfers.iter().map(|row| text(row, "agent_call_id")).collect();
    let known: BTreeSet<&str> = [&ready, &failed, &transfers]
        .into_iter()
        .flatten()
        .map(|row| text(row, "greeting_call_id"))
        .filter(|id| !agents.contains(id))
        .collect();
    let greetings: BTreeSet<&str> = known
        .into_iter()
        .filter(|id| calls_by_id.get(id).is_some_and(|row| in_week(row, "created_at")))
        .collect();
    let handed: Vec<&&Row> =
        transfers.iter().filter(|row| greetings.contains(text(row, "greeting_call_id"))).collect();
    let agent = |row: &&&&Row| calls_by_id.get(text(row, "agent_call_id"));
    let steps = [
        greetings.len(),
        greetings.intersection(&ready_ids).count(),
        handed.iter().filter(|row| from_cache(row)).count(),
        handed.len(),
        handed.iter().filter(|row| agent(row).is_some()).count(),
        handed.iter().filter(|row| agent(row).is_some_and(|row| text(row, "status") == "completed")).count(),
    ];
    answers.push(vec![steps.map(|count| count.to_string()).into()]);

    let mut days: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for row in transfers.iter().filter(|row| in_week(row, "transferred_at")) {
        let day = days.entry(time(row, "transferred_at").unwrap().date().to_string()).or_default();
        *day = (day.0 + 1, day.1 + usize::from(from_cache(row)));
    }
    let day = |(day, (all, cached)): (String, (usize, usize))| {
        vec![day, all.to_string(), cached.to_string(), percent(cached, all)]
    };
    answers.push(days.into_iter().map(day).collect());

    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for row in failed.iter().filter(|row| in_week(row, "failed_at")) {
        let mut kind = String::new();
        for letter in text(row, "error_message").chars() {
            match letter.is_ascii_digit() {
                true if kind.ends_with('#') => {}
                true => kind.push('#'),
                false => kind.push(letter),
            }
        }
        *kinds.entry(kind).or_default() += 1;
    }
    let mut kinds: Vec<(String, usize)> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    answers.push(kinds.into_iter().map(|(kind, count)| vec![kind, count.to_string()]).collect());

    let mut callers: BTreeMap<&str, (usize, Vec<f64>)> = BTreeMap::new();
    for row in calls.iter().filter(|row| agents.contains(text(row, "call_id")) && in_week(row, "created_at"))
    {
        let caller = callers.entry(text(row, "caller_id")).or_default();
        caller.0 += 1;
        caller.1.extend(number(row, "duration_seconds"));
    }
    let mut callers: Vec<(&str, (usize, Vec<f64>))> = callers.into_iter().collect();
    callers.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let caller = |(caller, (count, seconds)): (&str, (usize, Vec<f64>))| {
        let average = (seconds.iter().sum::<f64>() / seconds.len() as f64).round();
        vec![caller.to_owned(), count.to_string(), average.to_string()]
    };
    answers.push(callers.into_iter().take(5).map(caller).collect());

    let second = |moment: NaiveDateTime| moment.with_nanosecond(0).unwrap().to_string();
    let mut voices: Vec<(NaiveDateTime, Vec<String>)> = Vec::new();
    for row in rows("voice_clone_cache") {
        let expires = time(row, "ttl_expires_at");
        if between(expires, "2026-01-08 06:00:00", "2026-01-08 07:00:00") {
            let voice = text(row, "cloned_voice_id");
            let uses = transfers.iter().filter(|row| text(row, "cloned_voice_id") == voice).count();
            let line = vec![voice.to_owned(), uses.to_string(), second(expires.unwrap())];
            voices.push((expires.unwrap(), line));
        }
    }
    voices.sort();
    answers.push(voices.into_iter().map(|(_, line)| line).collect());

    let mut changed: Vec<(NaiveDateTime, Vec<String>)> = Vec::new();
    for row in rows("caller_voice_mapping") {
        let updated = time(row, "updated_at");
        let is_changed = updated > time(row, "created_at");
        if is_changed && between(updated, "2026-01-11 12:00:00", "2026-01-12 00:00:00") {
            let withdrawn = if row["deleted_at"].is_some() { "t" } else { "f" };
            let line =
                vec![text(row, "caller_id").to_owned(), second(updated.unwrap()), withdrawn.to_owned()];
            changed.push((updated.unwrap(), line));
        }
    }
    changed.sort();
    answers.push(changed.into_iter().map(|(_, line)| line).collect());

    let mut waited: BTreeMap<bool, (usize, Vec<f64>)> = BTreeMap::new();
    for row in transfers.iter().filter(|row| in_week(row, "transferred_at")) {
        let greeting = calls_by_id.get(text(row, "greeting_call_id"));
        let started = greeting.and_then(|row| time(row, "call_started_at"));
        let entry = waited.entry(from_cache(row)).or_default();
        entry.0 += 1;
        let seconds = started.map(|started| time(row, "transferred_at").unwrap() - started);
        entry.1.extend(seconds.map(|seconds| seconds.num_microseconds().unwrap() as f64 / 1e6));
    }
    let wait = |(cached, (count, seconds)): (bool, (usize, Vec<f64>))| {
        let at = |part: f64| format!("{:.1}", percentile(seconds.clone(), part));
        vec![if cached { "t" } else { "f" }.to_owned(), count.to_string(), at(0.5), at(0.95)]
    };
    answers.push(waited.into_iter().map(wait).collect());
    answers
}
