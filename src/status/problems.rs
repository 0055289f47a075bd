//! The kinds of problems. Each code is the anchor of an entry in `docs/runbooks.md`.

use serde::Serialize;

/// The severity of a problem, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Records are not consumed, or were lost.
    Critical,
    /// The problem needs a person soon.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

/// The kinds, in the order in which a person should look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "docs/runbooks.md says what each means")]
pub enum Code {
    DatabaseAway,
    BrokersAway,
    DatabaseReadOnly,
    SchemaBehind,
    NoMember,
    TopicMissing,
    TopicRefused,
    NoLeader,
    PartitionStopped,
    OffsetsLost,
    Drift,
    Unreadable,
    Stalled,
    Waits,
    Unassigned,
    Paused,
    LagNotShrinking,
    NearDeadLetterLimit,
    DeadLetters,
    DeadLettersUnpublished,
    DeadLettersUnpublishable,
    OutboxStuck,
    ExpiryLate,
    NotAnswered,
    LagSecondsUnknown,
    CacheEstimated,
    Skipped,
}

impl Code {
    /// All codes.
    pub const ALL: [Code; 27] = [
        Code::DatabaseAway,
        Code::BrokersAway,
        Code::DatabaseReadOnly,
        Code::SchemaBehind,
        Code::NoMember,
        Code::TopicMissing,
        Code::TopicRefused,
        Code::NoLeader,
        Code::PartitionStopped,
        Code::OffsetsLost,
        Code::Drift,
        Code::Unreadable,
        Code::Stalled,
        Code::Waits,
        Code::Unassigned,
        Code::Paused,
        Code::LagNotShrinking,
        Code::NearDeadLetterLimit,
        Code::DeadLetters,
        Code::DeadLettersUnpublished,
        Code::DeadLettersUnpublishable,
        Code::OutboxStuck,
        Code::ExpiryLate,
        Code::NotAnswered,
        Code::LagSecondsUnknown,
        Code::CacheEstimated,
        Code::Skipped,
    ];

    /// The name in JSON, also the anchor in the runbooks.
    pub fn name(self) -> &'static str {
        match self {
            Code::DatabaseAway => "database_away",
            Code::BrokersAway => "brokers_away",
            Code::DatabaseReadOnly => "database_read_only",
            Code::SchemaBehind => "schema_behind",
            Code::NoMember => "no_member",
            Code::TopicMissing => "topic_missing",
            Code::TopicRefused => "topic_refused",
            Code::NoLeader => "no_leader",
            Code::PartitionStopped => "partition_stopped",
            Code::OffsetsLost => "offsets_lost",
            Code::Drift => "drift",
            Code::Unreadable => "unreadable",
            Code::Stalled => "stalled",
            Code::Waits => "waits",
            Code::Unassigned => "unassigned",
            Code::Paused => "paused",
            Code::LagNotShrinking => "lag_not_shrinking",
            Code::NearDeadLetterLimit => "near_dead_letter_limit",
            Code::DeadLetters => "dead_letters",
            Code::DeadLettersUnpublished => "dead_letters_unpublished",
            Code::DeadLettersUnpublishable => "dead_letters_unpublishable",
            Code::OutboxStuck => "outbox_stuck",
            Code::ExpiryLate => "expiry_late",
            Code::NotAnswered => "not_answered",
            Code::LagSecondsUnknown => "lag_seconds_unknown",
            Code::CacheEstimated => "cache_estimated",
            Code::Skipped => "skipped",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_entry_in_the_runbooks_and_each_entry_its_code() {
        // the alerts' entries come after these, and have a test of their own
        let (runbooks, _) = include_str!("../../docs/runbooks.md").split_once("\n# Alerts\n").unwrap();
        let entries: Vec<&str> = runbooks.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(entries, Code::ALL.map(Code::name));
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }
}
