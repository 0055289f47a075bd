//! Checks of the topic settings that affect records: size, retention, compaction, timestamps.

use std::collections::BTreeMap;

use super::report::CheckReport;
use crate::config::Settings;
use crate::kafka::reason::FailureReason;
use crate::record::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC, Topic};

/// Maximum size in bytes of key and headers together (contract, section 2).
const MAX_KEY_AND_HEADER_BYTES: usize = 1 << 20;

pub(super) fn settings_of(
    settings: &Settings,
    name: &str,
    config: &Result<BTreeMap<String, String>, FailureReason>,
    report: &mut CheckReport,
) {
    let what = format!("settings of {name}");
    let config = match config {
        Ok(config) => config,
        Err(reason) => {
            let why = format!("as they may not be read (DescribeConfigs on the topic): {}", reason.sentence);
            return report.untried(what, why);
        }
    };
    let bare = name.strip_prefix(&settings.topic_prefix).unwrap_or(name);
    let faults = faults(settings, bare, config);
    if faults.is_empty() {
        return report.ok(what, "fit");
    }
    for fault in faults {
        let change = format!(
            "kafka-configs.sh --bootstrap-server {} --alter --topic '{name}' --add-config {}",
            settings.kafka_bootstrap_servers, fault.change
        );
        if fault.is_wrong {
            report.wrong(&what, fault.sentence, change);
        } else {
            report.warning(&what, fault.sentence, change);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct SettingProblem {
    /// Whether it fails the check; otherwise it is a warning.
    is_wrong: bool,
    sentence: String,
    change: String,
}

/// The problems in the settings of a topic, given by its name without prefix.
fn faults(settings: &Settings, topic: &str, config: &BTreeMap<String, String>) -> Vec<SettingProblem> {
    let value = |name: &str| config.get(name).map(String::as_str).unwrap_or_default();
    let mut faults = Vec::new();
    let policy = value("cleanup.policy");
    let is_compacted = policy.split(',').any(|part| part.trim() == "compact");
    let mapping = topic == Topic::CallerVoiceMapping.name();
    if mapping && !policy.is_empty() && !is_compacted {
        faults.push(SettingProblem {
            is_wrong: true,
            sentence: format!(
                "cleanup.policy is {policy}: mappings that are older than its retention are lost"
            ),
            change: "cleanup.policy=compact".to_owned(),
        });
    }
    if !mapping && is_compacted {
        faults.push(SettingProblem {
            is_wrong: topic == DEAD_LETTER_TOPIC,
            sentence: if topic == DEAD_LETTER_TOPIC {
                format!("cleanup.policy is {policy}: the broker takes no dead letter without a key")
            } else {
                format!("cleanup.policy is {policy}: of the events with one key only the last is kept for a replay")
            },
            change: "cleanup.policy=delete".to_owned(),
        });
    }
    let needed = settings.record_max_bytes.saturating_add(MAX_KEY_AND_HEADER_BYTES);
    let most = value("max.message.bytes").parse::<usize>();
    if topic == DEAD_LETTER_TOPIC && most.as_ref().is_ok_and(|most| *most < needed) {
        faults.push(SettingProblem {
            is_wrong: true,
            sentence: format!(
                "max.message.bytes is {}: a dead letter may take {needed} (RECORD_MAX_BYTES, key and headers)",
                most.unwrap_or_default()
            ),
            change: format!("max.message.bytes={needed}"),
        });
    }
    let is_read = topic != DEAD_LETTER_TOPIC && topic != EXPIRED_TOPIC;
    if is_read && value("message.timestamp.type") == "LogAppendTime" {
        faults.push(SettingProblem {
            is_wrong: false,
            sentence: "message.timestamp.type is LogAppendTime: an event without a time of its own gets that of its \
                       arrival, another one each time that it is sent"
                .to_owned(),
            change: "message.timestamp.type=CreateTime".to_owned(),
        });
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::SettingFlags;
    use crate::config::Need;

    fn found(topic: &str, config: &[(&str, &str)]) -> Vec<(bool, String)> {
        let need = Need { database: false, broker: false };
        let settings = Settings::read(&SettingFlags::default(), std::iter::empty(), need).0;
        let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        faults(&settings, topic, &config).into_iter().map(|fault| (fault.is_wrong, fault.change)).collect()
    }

    #[test]
    fn topic_settings_that_lose_records_are_found() {
        let mapping = "caller.voice_mapping";
        assert_eq!(
            found(mapping, &[("cleanup.policy", "delete")]),
            [(true, "cleanup.policy=compact".to_owned())]
        );
        assert_eq!(found(mapping, &[("cleanup.policy", "compact")]), []);
        assert_eq!(found(mapping, &[("cleanup.policy", "compact,delete")]), []);
        assert_eq!(
            found("clone.ready", &[("cleanup.policy", "compact")]),
            [(false, "cleanup.policy=delete".to_owned())]
        );
        let letters = "voiceclone.dead-letters";
        assert_eq!(
            found(letters, &[("cleanup.policy", "compact")]),
            [(true, "cleanup.policy=delete".to_owned())]
        );
        let size = |bytes| found(letters, &[("max.message.bytes", bytes)]);
        assert_eq!(size("1000"), [(true, "max.message.bytes=9437184".to_owned())]);
        assert_eq!(size("9437183").len(), 1);
        assert_eq!(size("9437184"), []);
        assert_eq!(found("clone.ready", &[("max.message.bytes", "1000")]), []);
        let append = [("message.timestamp.type", "LogAppendTime")];
        assert_eq!(found("clone.failed", &append), [(false, "message.timestamp.type=CreateTime".to_owned())]);
        assert_eq!(found("clone.expired", &append), []);
    }
}
