//! `publish --check`: reports for each line whether the daemon could use it. Needs no broker and no database.

use std::path::Path;

use anyhow::Context as _;
use chrono::Utc;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{MAX_REFUSED_KEPT, Refused, advice, lines_of, next, open, record_of, topic_of};
use crate::config::Settings;
use crate::event::{Time, Unusable, decode, field_names};
use crate::output::{print, say};
use crate::record::Topic;

/// A likely mistake in a line, whether or not the daemon could use the line.
#[derive(Serialize)]
struct Warning {
    line: u64,
    field: String,
    message: String,
}

/// Checks the lines of a file (standard input for none or `-`); `false` where one of them would be a dead letter.
/// Warnings do not count.
pub async fn run(
    settings: &Settings,
    topic: &str,
    file: Option<&Path>,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<bool> {
    let topic = topic_of(settings, topic)?;
    let limits = settings.limits();
    // the message names the field
    let refused_line =
        |refused: &Refused| format!("line {}: {}: {}", refused.line, refused.reason, refused.message);
    let mut chunks = lines_of(open(file)?, settings.record_max_bytes);

    let (mut checked, mut refused_count, mut warnings_count) = (0_u64, 0_u64, 0_u64);
    let (mut refused, mut warnings) = (Vec::new(), Vec::new());
    while let Some(chunk) = next(&mut chunks, &cancel).await {
        for line in chunk.context("the input cannot be read any further")? {
            checked += 1;
            let number = line.number;
            let record = match record_of(topic, line, Utc::now().timestamp_millis()) {
                Ok(record) => record,
                Err(unusable) => {
                    refused_count += 1;
                    report(&mut refused, json, refusal(topic, number, unusable), refused_line)?;
                    continue;
                }
            };
            let decoded = decode(&record, limits);
            let now = Time::from_record(record.timestamp).unwrap_or(Time::MAX);
            let value = record.value.as_deref().unwrap_or_default();
            let advice = advice::on(topic, value, decoded.as_ref().ok(), now);
            if let Err(unusable) = decoded {
                refused_count += 1;
                report(&mut refused, json, refusal(topic, number, unusable), refused_line)?;
            }
            for advice::Advice { field, message } in advice {
                warnings_count += 1;
                let warning = Warning { line: number, field, message };
                report(&mut warnings, json, warning, |Warning { line, field, message }| {
                    format!("line {line}: warning: {field} {message}")
                })?;
            }
        }
    }
    if json {
        let result = json!({
            "lines": checked, "refused_count": refused_count, "refused": refused,
            "warnings_count": warnings_count, "warnings": warnings,
        });
        print(result)?;
    } else {
        let of = |count: u64, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let (lines, warnings) = (of(checked, "line"), of(warnings_count, "warning"));
        print(format!("{lines} checked for {topic}: {refused_count} cannot be used, {warnings}"))?;
        if refused_count > 0 {
            let lines = of(refused_count, "line");
            say(format!("{lines} cannot be used by the daemon: correct the errors above"));
        }
    }
    Ok(refused_count == 0 && !cancel.is_cancelled())
}

/// Prints a finding at once as text, or keeps it for the JSON.
fn report<F>(kept: &mut Vec<F>, json: bool, finding: F, text: impl Fn(&F) -> String) -> anyhow::Result<()> {
    if !json {
        return print(text(&finding));
    }
    if kept.len() < MAX_REFUSED_KEPT {
        kept.push(finding);
    }
    Ok(())
}

fn refusal(topic: Topic, line: u64, Unusable { reason, message }: Unusable) -> Refused {
    Refused { line, field: field(topic, &message), reason: reason.name(), message }
}

/// The field of a message: the first field name in it.
fn field(topic: Topic, message: &str) -> Option<&'static str> {
    let names = || field_names(topic).iter().chain(&["specversion", "type", "time", "data"]);
    let words = message.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter_map(|word| names().find(|name| **name == word)).next().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_the_first_one_that_a_message_names() {
        for (message, expected) in [
            ("caller_id is missing", Some("caller_id")),
            ("ready_at is no time: neither a text nor a number", Some("ready_at")),
            ("ready_at plus ttl_seconds is after the year 9999", Some("ready_at")),
            ("the envelope's type is not clone.ready", Some("type")),
            ("data is missing, or no object", Some("data")),
            ("the value is no JSON (line 1, column 3)", None),
        ] {
            assert_eq!(field(Topic::CloneReady, message), expected, "{message}");
        }
    }
}
