//! Checks of the database: connection, writability, schema, rights, and a write of each topic's rows that is rolled back.

use diesel_async::AsyncPgConnection;

use super::report::CheckReport;
use super::timely;
use crate::config::Settings;
use crate::event::{Time, decode};
use crate::plan::Plan;
use crate::record::{Record, Topic};
use crate::store::connect::{connect, pool, remedy};
use crate::store::rights::{ReachedServer, lacking, server};
use crate::store::write::Mode;
use crate::store::{Store, migrate};

const SERVERS_LOG: &str = "see the log of PostgreSQL";

pub(super) async fn check(settings: &Settings, report: &mut CheckReport) {
    let mut connection = match timely(connect(&settings.database_url)).await {
        Ok(connection) => connection,
        Err(why) => {
            report.wrong("database", &why, remedy(&why));
            for what in
                ["schema", "column types", "table permissions", "write of each topic", "stopped partitions"]
            {
                report.untried(what, "as there is no connection");
            }
            return;
        }
    };
    match timely(server(&mut connection)).await {
        Err(why) => report.wrong("database", why, SERVERS_LOG),
        Ok(server) => describe(settings, &server, report),
    }
    let is_current = schema(&mut connection, report).await;
    match timely(migrate::disagreements(&mut connection)).await {
        Err(why) => report.wrong("column types", why, SERVERS_LOG),
        Ok(list) if list.is_empty() => {
            report.ok("column types", "as documented, for the existing tables");
        }
        Ok(list) => report.wrong(
            "column types",
            list.join("\n"),
            "give these columns their documented types with ALTER TABLE, or use another database",
        ),
    }
    match timely(lacking(&mut connection)).await {
        Err(why) => report.wrong("table permissions", why, SERVERS_LOG),
        Ok(list) if list.is_empty() => {
            report.ok("table permissions", "this role may read and write the existing tables");
        }
        Ok(list) => report.wrong(
            "table permissions",
            "this role lacks rights",
            format!("as the tables' owner:\n{};", list.join(";\n")),
        ),
    }
    // The role may be limited to one connection.
    drop(connection);
    if is_current {
        write(settings, report).await;
    } else {
        report.untried("write of each topic", "as the schema is not current");
        report.untried("stopped partitions", "as the schema is not current");
    }
}

fn describe(settings: &Settings, server: &ReachedServer, report: &mut CheckReport) {
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
    if server.encoding == "UTF8" {
        report.ok("database encoding", "UTF8");
    } else {
        report.wrong(
            "database encoding",
            format!("{}, which cannot hold every text", server.encoding),
            "use a database that was made with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
        );
    }
    // beside the writers, the expiry, the publisher and a migration take a connection each
    let wanted = i64::from(settings.db_pool_size) + i64::from(settings.db_max_overflow);
    if let Some(bound) = server.bounded_by.as_ref().filter(|_| server.connections < wanted) {
        report.warning(
            "connections",
            format!(
                "DB_POOL_SIZE and DB_MAX_OVERFLOW ask for {wanted}, and {bound} allows {}",
                server.connections
            ),
            "lower DB_POOL_SIZE and DB_MAX_OVERFLOW, or raise the limit; each instance takes its own",
        );
    }
    if !server.speaks_english {
        report.warning(
            "error messages",
            "PostgreSQL's are not in English: a record that a trigger or a type refuses is kept, and its partition waits",
            format!("as a superuser: GRANT SET ON PARAMETER lc_messages TO {}", server.role),
        );
    }
}

async fn schema(connection: &mut AsyncPgConnection, report: &mut CheckReport) -> bool {
    let what = "schema";
    match timely(migrate::state(connection)).await {
        Err(why) => report.wrong(
            what,
            why,
            "grant this role SELECT on public.__diesel_schema_migrations and USAGE on schema public",
        ),
        Ok(state) if !state.pending.is_empty() => report.wrong(
            what,
            format!("behind; pending: {}", state.pending.join(", ")),
            "voiceclone-events migrate up",
        ),
        Ok(state) if !state.unknown.is_empty() => {
            let unknown = state.unknown.join(", ");
            report.ok(
                what,
                format!("current, with newer migrations that this version does not know: {unknown}"),
            );
            return true;
        }
        Ok(state) => {
            report.ok(what, format!("current, {} migrations applied", state.applied.len()));
            return true;
        }
    }
    false
}

/// Writes in sessions like the daemon's, and rolls back.
async fn write(settings: &Settings, report: &mut CheckReport) {
    // one connection is enough, and leaves those of a running daemon alone
    let one = Settings { db_pool_size: 1, db_max_overflow: 0, ..settings.clone() };
    let store = match pool(&one) {
        Ok(pool) => Store::new(pool),
        Err(error) => {
            return report.wrong("write of each topic", format!("{error:#}"), "correct DATABASE_URL");
        }
    };
    for topic in Topic::ALL {
        let what = format!("write of {topic}");
        match timely(rehearse(settings, &store, topic)).await {
            Ok(()) => report.ok(what, "its rows can be written (rolled back)"),
            Err(why) => report.wrong(
                what,
                why,
                format!(
                    "undo what was changed at its tables ({}): a column, constraint, trigger, partition or right; \
                     a lock that somebody holds is in pg_locks",
                    tables(topic)
                ),
            ),
        }
    }
    stopped(settings, &store, report).await;
}

fn tables(topic: Topic) -> &'static str {
    match topic {
        Topic::CloneReady => "clone_ready_events, voice_clone_log, voice_clone_cache",
        Topic::CloneFailed => "clone_failed_events, voice_clone_log",
        Topic::CloneTransfer => "clone_transfer_events, voice_clone_cache",
        Topic::CallLifecycle => "call_log",
        Topic::CallerVoiceMapping => "caller_voice_mapping",
    }
}

/// Writes the rows of an ordinary record of the topic, and rolls back.
async fn rehearse(settings: &Settings, store: &Store, topic: Topic) -> Result<(), String> {
    let record = plain(topic);
    let event = decode(&record, settings.limits()).map_err(|unusable| unusable.message)?;
    let timestamp = Time::from_record(record.timestamp).ok_or("the clock is before 1970")?;
    let mut plan = Plan::default();
    plan.add(event, timestamp);
    store.write(&plan, &[], &[], Mode::Rehearse).await.map(drop).map_err(|fault| fault.to_string())
}

/// An ordinary record with unique ids.
fn plain(topic: Topic) -> Record {
    let now = chrono::Utc::now().timestamp_micros();
    let id = format!("check-{now}");
    let value = serde_json::json!({
        "caller_id": "+12025550100", "greeting_call_id": id, "agent_call_id": id, "cloned_voice_id": id,
        "call_id": id, "status": "initiated", "error_message": "none",
        "voice_sample_url": "https://example.com/sample.wav",
    });
    Record {
        topic,
        partition: 0,
        offset: 0,
        timestamp: now / 1_000,
        key: None,
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
    }
}

/// Reports the partitions of the group that `DEAD_LETTER_LIMIT` has stopped.
async fn stopped(settings: &Settings, store: &Store, report: &mut CheckReport) {
    let what = "stopped partitions";
    let positions = match timely(store.positions(&settings.kafka_group_id)).await {
        Ok(positions) => positions,
        Err(why) => return report.wrong(what, why, SERVERS_LOG),
    };
    let stopped: Vec<_> = positions
        .iter()
        .filter(|(_, position)| position.stopped)
        .filter_map(|((name, partition), position)| {
            let topic = name.strip_prefix(&settings.topic_prefix).and_then(Topic::from_name)?;
            Some((topic, *partition, position.dead_in_a_row))
        })
        .collect();
    if stopped.is_empty() {
        return report.ok(what, "none");
    }
    for (topic, partition, count) in stopped {
        report.wrong(
            format!("{} partition {partition}", settings.topic_name(topic)),
            format!("stopped by DEAD_LETTER_LIMIT after {count} unusable records in a row"),
            format!("voiceclone-events dead-letters accept --topic {topic} --partition {partition}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_record_of_each_topic_can_be_used() {
        let limits = crate::event::Limits { record_max_bytes: 8 << 20, cache_ttl_seconds: 60 };
        for topic in Topic::ALL {
            assert!(decode(&plain(topic), limits).is_ok(), "{topic}");
        }
    }
}
