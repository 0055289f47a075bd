//! The problems that the database's answers show.

use std::fmt::Write as _;

use super::{CHECK, STUCK_SECONDS, ago, counted, critical, info, problem, warning};
use crate::status::Problem;
use crate::status::facts::{DatabaseAnswers, Facts};
use crate::status::problems::{Code, Severity};
use crate::store::status::Skipped;

/// A loss that is older needs nobody any more.
const LOSS_SECONDS: f64 = 86_400.0;

pub(super) fn problems(facts: &Facts, answers: &DatabaseAnswers, found: &mut Vec<Problem>) {
    let pending = answers.server.schema.as_ref().map(|schema| schema.pending.as_slice()).unwrap_or_default();
    if !pending.is_empty() {
        let what = format!("the database's schema is behind; missing: {}", pending.join(", "));
        found.push(critical(Code::SchemaBehind, what, "voiceclone-events migrate up"));
    } else {
        found.extend(answers.failed.iter().map(|(question, why)| {
            warning(Code::NotAnswered, format!("PostgreSQL did not answer on {question}: {why}"), CHECK)
        }));
    }
    if answers.read_only {
        let fix = "name the primary in DATABASE_URL, or turn default_transaction_read_only off";
        found.push(critical(Code::DatabaseReadOnly, "the database takes no writes", fix));
    }
    for pause in &answers.pauses {
        let (what, option) = match pause.topic.as_str() {
            "" => ("all topics".to_owned(), String::new()),
            topic => (format!("{}{topic}", facts.topic_prefix), format!(" --topic {topic}")),
        };
        let until = pause.until.as_ref().map_or_else(String::new, |until| format!(" until {until}"));
        let fix = format!("voiceclone-events resume{option}");
        let paused = warning(Code::Paused, format!("`pause` holds {what}{until}"), fix);
        found.push(Problem { since: Some(pause.paused_at.clone()), ..paused });
    }
    found.extend(answers.skips.iter().map(|skip| passed_over(skip, &facts.topic_prefix)));
    letters(answers, found);
    if let Some(outbox) = &answers.outbox
        && outbox.oldest_seconds.is_some_and(|seconds| seconds > STUCK_SECONDS)
    {
        let what = format!(
            "{} clone.expired events wait to be published, the oldest for {}",
            outbox.events,
            ago(outbox.oldest_seconds.unwrap_or_default())
        );
        found.push(warning(Code::OutboxStuck, what, CHECK));
    }
    if let Some(cache) = &answers.cache {
        let limit = (3.0 * facts.expiry_interval.as_secs_f64()).max(STUCK_SECONDS);
        if cache.overdue > 0 && cache.overdue_seconds > limit {
            let are = if cache.overdue == 1 { "is past its" } else { "are past their" };
            let what = format!(
                "{} {are} time and not expired, the first for {}",
                counted(cache.overdue, "cache row"),
                ago(cache.overdue_seconds)
            );
            let fix = "look for lines about the expiry in the daemon's log, and for locks in pg_locks";
            found.push(warning(Code::ExpiryLate, what, fix));
        }
        if cache.estimated {
            let mut what =
                "the cache has over a million rows, or counting them takes too long: expired rows are \
                            estimated, and live ones above 100000"
                    .to_owned();
            if cache.overdue_beyond {
                what.push_str("; over 100000 rows are overdue: their number is estimated, and the first may be overdue for longer");
            }
            let fix = "ANALYZE public.voice_clone_cache makes it more exact";
            found.push(info(Code::CacheEstimated, what, fix));
        }
    }
}

/// Offsets that were passed over, on purpose or because the log had lost them. They stay in the list for good.
fn passed_over(skip: &Skipped, topic_prefix: &str) -> Problem {
    let Skipped { topic, partition, from_offset, note, .. } = skip;
    let found = match (skip.cause.as_str(), skip.to_offset) {
        ("skip", Some(to)) => {
            let what = format!(
                "offsets {from_offset} to {} of {topic} partition {partition} were passed over: {note}",
                to - 1
            );
            info(Code::Skipped, what, "nothing to do; ingest.skips keeps it")
        }
        (_, to) => {
            let severity = if skip.age_seconds < LOSS_SECONDS { Severity::Critical } else { Severity::Info };
            let topic_name = topic.strip_prefix(topic_prefix).unwrap_or(topic);
            let (what, fix) = match to {
                Some(to) => (
                    format!(
                        "{topic} partition {partition}: offsets {from_offset} to {} were lost before they were consumed, \
                         at most {}: {note}",
                        to - 1,
                        counted(to - from_offset, "record")
                    ),
                    format!(
                        "raise retention.ms of {topic}, and let the producer send them again; \
                         `voiceclone-events publish --topic {topic_name}` sends a file of them"
                    ),
                ),
                None => (
                    format!(
                        "{topic} partition {partition}: the log no longer had offset {from_offset}, and the number of \
                         records from there on is not known: {note}"
                    ),
                    "the daemon goes on with the first record of the topic; let the producer send again what was lost"
                        .to_owned(),
                ),
            };
            problem(severity, Code::OffsetsLost, what, fix)
        }
    };
    Problem { since: Some(skip.skipped_at.clone()), ..found }
}

fn letters(answers: &DatabaseAnswers, found: &mut Vec<Problem>) {
    let Some((letters, kinds)) = &answers.letters else { return };
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
