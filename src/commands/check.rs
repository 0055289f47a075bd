//! `check`: tries everything that `run` depends on, and changes nothing.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::config::Settings;
use crate::kafka::{self, TopicState};
use crate::store::connect::connect;
use crate::store::migrate;
use crate::store::rights::{lacking, server};

/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Wrong,
    /// Something before it is wrong.
    NotTried,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Step {
    outcome: Outcome,
    what: String,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Default)]
struct Report {
    steps: Vec<Step>,
}

impl Report {
    fn ok(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.add(Outcome::Ok, what, found, None);
    }

    fn wrong(&mut self, what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) {
        self.add(Outcome::Wrong, what, found, Some(mend.into()));
    }

    fn not_tried(&mut self, what: impl Into<String>, why: &str) {
        self.add(Outcome::NotTried, what, why, None);
    }

    fn add(
        &mut self,
        outcome: Outcome,
        what: impl Into<String>,
        found: impl Into<String>,
        mend: Option<String>,
    ) {
        self.steps.push(Step { outcome, what: what.into(), found: found.into(), mend });
    }

    fn all_ok(&self) -> bool {
        self.steps.iter().all(|step| step.outcome == Outcome::Ok)
    }
}

/// Prints the settings as they hold and, for each thing that the daemon needs, whether it is there and how to mend
/// it; `false` where `run` would not work. Changes nothing.
pub async fn run(settings: &Settings, json: bool) -> anyhow::Result<bool> {
    let mut report = Report::default();
    http(settings, &mut report).await;
    database(settings, &mut report).await;
    let ours = settings.clone();
    // rdkafka blocks its thread; each of its questions ends by itself
    let kafka = tokio::task::spawn_blocking(move || {
        let mut report = Report::default();
        broker(&ours, &mut report);
        report
    });
    report.steps.extend(kafka.await?.steps);
    let is_good = report.all_ok();
    print(settings, &report, is_good, json);
    Ok(is_good)
}

fn print(settings: &Settings, report: &Report, is_good: bool, json: bool) {
    if json {
        let effective: serde_json::Map<_, _> =
            settings.effective().into_iter().map(|(name, value)| (name, value.into())).collect();
        println!("{}", json!({"ok": is_good, "settings": effective, "checks": report.steps}));
        return;
    }
    let effective = settings.effective();
    let width = effective.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    println!("Settings");
    for (name, value) in &effective {
        println!("  {name:width$}  {value}");
    }
    println!("\nChecks");
    let width = report.steps.iter().map(|step| step.what.chars().count()).max().unwrap_or(0);
    for Step { outcome, what, found, mend } in &report.steps {
        let word = match outcome {
            Outcome::Ok => "ok",
            Outcome::Wrong => "WRONG",
            Outcome::NotTried => "-",
        };
        // what goes on over several lines stays in its column
        let found = found.replace('\n', &format!("\n{:1$}", "", width + 11));
        println!("  {word:5}  {what:width$}  {found}");
        if let Some(mend) = mend {
            let mend = mend.replace('\n', &format!("\n{:1$}", "", width + 14));
            println!("  {:5}  {:width$}  -> {mend}", "", "");
        }
    }
    let wrong = report.steps.iter().filter(|step| step.outcome == Outcome::Wrong).count();
    match wrong {
        0 => println!("\n`voiceclone-events run` would work."),
        1 => println!("\nOne thing is wrong: `voiceclone-events run` would not work."),
        _ => println!("\n{wrong} things are wrong: `voiceclone-events run` would not work."),
    }
}

async fn http(settings: &Settings, report: &mut Report) {
    let what = "HTTP_ADDR";
    let Some(address) = settings.http_addr else {
        report.ok(what, "turned off");
        return;
    };
    match TcpListener::bind(address).await {
        Ok(_) => report.ok(what, format!("{address} is free")),
        // most likely the daemon itself, beside which one may well check
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            report.ok(what, format!("{address} is taken, by a running daemon or by another program"));
        }
        Err(error) => report.wrong(
            what,
            format!("nothing can listen on {address}: {error}"),
            "set HTTP_ADDR to an address of this machine and a free port, or to nothing",
        ),
    }
}

/// The result, unless the step takes too long or fails.
async fn timely<T, E: std::fmt::Display>(work: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn database(settings: &Settings, report: &mut Report) {
    let steps = ["database writable", "schema", "column types", "table permissions"];
    let mut connection = match timely(connect(&settings.database_url)).await {
        Ok(connection) => connection,
        Err(why) => {
            report.wrong(
                "database",
                why,
                "start PostgreSQL, or correct host, port, database, user, password or sslmode in DATABASE_URL",
            );
            for what in steps {
                report.not_tried(what, "not tried, as there is no connection");
            }
            return;
        }
    };
    match timely(server(&mut connection)).await {
        Err(why) => {
            report.wrong("database", why, "see the log of PostgreSQL");
        }
        Ok(server) => {
            report.ok("database", format!("PostgreSQL {}, as {}", server.version, server.role));
            if server.read_only {
                report.wrong(
                    "database writable",
                    "the database only reads",
                    "name the primary in DATABASE_URL, or turn default_transaction_read_only off",
                );
            } else {
                report.ok("database writable", "yes");
            }
        }
    }
    match timely(migrate::state(&mut connection)).await {
        Err(why) => report.wrong(
            "schema",
            why,
            "grant this role SELECT on public.__diesel_schema_migrations and USAGE on schema public",
        ),
        Ok(state) if !state.pending.is_empty() => report.wrong(
            "schema",
            format!("behind; pending: {}", state.pending.join(", ")),
            "voiceclone-events migrate up",
        ),
        Ok(state) if !state.unknown.is_empty() => report.ok(
            "schema",
            format!(
                "current, with newer migrations that this version does not know: {}",
                state.unknown.join(", ")
            ),
        ),
        Ok(state) => report.ok("schema", format!("current, {} migrations applied", state.applied.len())),
    }
    match timely(migrate::disagreements(&mut connection)).await {
        Err(why) => report.wrong("column types", why, "see the log of PostgreSQL"),
        Ok(list) if list.is_empty() => {
            report.ok("column types", "as documented, of the tables that are there")
        }
        Ok(list) => report.wrong(
            "column types",
            list.join("\n"),
            "give these columns their documented types with ALTER TABLE, or use another database",
        ),
    }
    match timely(lacking(&mut connection)).await {
        Err(why) => report.wrong("table permissions", why, "see the log of PostgreSQL"),
        Ok(list) if list.is_empty() => {
            report.ok("table permissions", "this role may read and write the tables that are there");
        }
        Ok(list) => report.wrong(
            "table permissions",
            "this role lacks rights",
            format!("as the tables' owner:\n{};", list.join(";\n")),
        ),
    }
}

/// Blocks.
fn broker(settings: &Settings, report: &mut Report) {
    let names = kafka::topic_names(settings);
    let not_tried = |report: &mut Report, first: &[&str], why: &str| {
        for what in first {
            report.not_tried(*what, why);
        }
        for name in &names {
            report.not_tried(format!("topic {name}"), why);
        }
    };
    if let Err(error) = kafka::check_properties(settings) {
        report.wrong(
            "Kafka properties",
            format!("{error:#}"),
            "give the variable a name and a value of librdkafka's CONFIGURATION.md, or unset it",
        );
        not_tried(report, &["broker", "consumer group"], "not tried, as a property is wrong");
        return;
    }
    report
        .ok("Kafka properties", format!("{} set, all known to librdkafka", settings.kafka_properties.len()));
    let states = match kafka::topic_states(settings, &names, PATIENCE) {
        Ok(states) => states,
        Err(error) => {
            report.wrong(
                "broker",
                format!("{error:#}"),
                "start the broker, or correct KAFKA_BOOTSTRAP_SERVERS and the other KAFKA_* settings (protocol, \
                 login, certificates)",
            );
            not_tried(report, &["consumer group"], "not tried, as no broker answers");
            return;
        }
    };
    report.ok("broker", format!("{} answers", settings.kafka_bootstrap_servers));
    let known = names.iter().zip(&states).find(|(_, state)| matches!(state, TopicState::Partitions(_)));
    match known.map(|(name, _)| kafka::group_usable(settings, name, PATIENCE)) {
        None => report.not_tried("consumer group", "not tried, as there is no topic to ask about"),
        Some(Ok(())) => report.ok("consumer group", format!("{} may be used", settings.kafka_group_id)),
        Some(Err(error)) => report.wrong(
            "consumer group",
            format!("{error:#}"),
            format!(
                "let this client read the group {}, or set KAFKA_GROUP_ID to another",
                settings.kafka_group_id
            ),
        ),
    }
    for (name, state) in names.iter().zip(states) {
        let what = format!("topic {name}");
        match state {
            TopicState::Partitions(1) => report.ok(what, "1 partition"),
            TopicState::Partitions(count) => report.ok(what, format!("{count} partitions")),
            TopicState::Missing => report.wrong(
                what,
                "does not exist",
                "create it, or correct TOPIC_PREFIX if its name begins otherwise",
            ),
            TopicState::Refused(why) => {
                report.wrong(what, why, "let this client describe, read and write the topic");
            }
        }
    }
}
