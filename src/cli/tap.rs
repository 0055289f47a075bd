//! The arguments of `tap`.

use clap::Args;

use super::dead_letters::reason;
use super::values::{offset, partition, positive, topic};
use crate::event::Reason;
use crate::record::Topic;

/// The selected records, and the detail shown of each.
#[derive(Debug, Clone, Default, Args)]
pub struct TapArgs {
    /// Only this topic, without TOPIC_PREFIX [default: all five]
    #[arg(long, value_parser = topic)]
    pub topic: Option<Topic>,
    /// Only this partition of the topic [default: all]
    #[arg(long, value_name = "P", value_parser = partition, requires = "topic")]
    pub partition: Option<i32>,
    /// Start here: a time such as 2025-06-01T12:00:00Z, or an offset [default: from now on; with --to the oldest record]
    #[arg(long, value_name = "TIME|OFFSET")]
    pub from: Option<String>,
    /// Stop before this time or offset, at the latest at the newest record now [default: never stop]
    #[arg(long, value_name = "TIME|OFFSET")]
    pub to: Option<String>,
    /// Show the outcome of the record at this offset: its errors, whether it is consumed, its dead letter
    #[arg(
        long, value_name = "N", value_parser = offset, requires_all = ["topic", "partition"],
        conflicts_with_all = ["from", "to", "limit", "event_type", "reason", "usable", "unusable"]
    )]
    pub offset: Option<i64>,
    /// Stop after this many records
    #[arg(long, value_name = "N", value_parser = positive)]
    pub limit: Option<u64>,
    /// Only events of this CloudEvents type; a record without one has the topic's name
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Only records that cannot be used for this reason
    #[arg(long, value_parser = reason, conflicts_with = "usable")]
    pub reason: Option<Reason>,
    /// Only records that can be used
    #[arg(long, conflicts_with = "unusable")]
    pub usable: bool,
    /// Only records that cannot be used
    #[arg(long)]
    pub unusable: bool,
    /// Show the rows that each record would make or change: a write that is rolled back; needs DATABASE_URL
    #[arg(long)]
    pub effects: bool,
}
