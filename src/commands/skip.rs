//! `skip`: passes over records of a waiting partition that can never be read or written (contract, section 8).

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::cli::Usage;
use crate::config::Settings;
use crate::kafka::brokers::Brokers;
use crate::output::print;
use crate::record::TopicPartition;
use crate::store::skips::Skip;

/// Moves the group's stored offset of the partition to `to`, and records that in `ingest.skips`.
pub async fn run(
    settings: &Settings,
    partition: TopicPartition,
    to: i64,
    note: &str,
    json: bool,
) -> anyhow::Result<()> {
    let name = settings.topic_name(partition.topic);
    let place = format!("{name} partition {}", partition.partition);
    if note.trim().is_empty() {
        return Err(Usage::new("--note is empty: say why these records are passed over").into());
    }
    let store = super::store(settings).await?;
    let brokers = Brokers::new(settings);
    // A partition without a leader has no known end: `to` is then accepted unchecked.
    let end = tokio::task::spawn_blocking(move || brokers.logs(&[partition])).await?;
    if let Ok(logs) = &end
        && let Some(log) = logs.get(&partition)
        && to > log.high
    {
        bail!("{place} ends at offset {}: give --to an offset up to that", log.high);
    }
    let group = &settings.kafka_group_id;
    let skipped = store.skip(group, &(name.clone(), partition.partition), to, note).await;
    let from = match skipped
        .context("nothing was skipped; fix the database and run the same command again")?
    {
        Skip::Done { from_offset } => from_offset,
        Skip::Unknown => bail!(
            "group {group} has no stored offset of {place}: check --topic, --partition and KAFKA_GROUP_ID"
        ),
        Skip::Stopped => bail!(
            "{place} is stopped by DEAD_LETTER_LIMIT: run `voiceclone-events dead-letters accept --topic {} \
             --partition {}` instead",
            partition.topic,
            partition.partition
        ),
        Skip::NotBefore { next_offset } => {
            bail!("group {group} reads offset {next_offset} of {place} next: give --to a later offset")
        }
    };
    if json {
        let skipped = json!({
            "group": group, "topic": name, "partition": partition.partition,
            "from_offset": from, "to_offset": to, "note": note,
        });
        print(skipped)?;
    } else {
        print(format!(
            "Group {group} passes over offsets {from} to {} of {place} and reads {to} next.",
            to - 1
        ))?;
        print("The running daemons follow within 10 s. ingest.skips keeps the note.")?;
    }
    Ok(())
}
