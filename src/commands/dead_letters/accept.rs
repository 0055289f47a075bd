//! `dead-letters accept`: an operator acknowledges a run of unusable records (contract, section 6).

use anyhow::Context as _;
use comfy_table::Table;
use serde_json::json;

use crate::config::Settings;
use crate::output::{self, print};
use crate::record::Topic;
use crate::store::dead_letters::Accepted;

/// Resumes stopped partitions of the group, of one topic or partition or of all, and lists them. Nothing to accept is not
/// an error.
pub async fn accept(
    settings: &Settings,
    topic: Option<Topic>,
    partition: Option<i32>,
    json: bool,
) -> anyhow::Result<()> {
    let store = crate::commands::store(settings).await?;
    let group = &settings.kafka_group_id;
    let name = topic.map(|topic| settings.topic_name(topic));
    let accepted = store
        .accept_dead_letters(group, name.as_deref(), partition)
        .await
        .context("nothing was accepted; fix the database and run the same command again")?;
    if json {
        print(json!({ "group": group, "accepted": accepted }))?;
        return Ok(());
    }
    if accepted.is_empty() {
        let place = match (&name, partition) {
            (Some(name), Some(partition)) => format!(" in {name} partition {partition}"),
            (Some(name), None) => format!(" in {name}"),
            _ => String::new(),
        };
        print(format!("Nothing to accept: group {group} has no stopped partition{place}."))?;
        return Ok(());
    }
    print(table(&accepted))?;
    print(format!("Accepted for group {group}: running daemons go on with these partitions within 10 s."))?;
    Ok(())
}

fn table(accepted: &[Accepted]) -> Table {
    let row = |accepted: &Accepted| {
        [accepted.topic.clone(), accepted.partition.to_string(), accepted.count.to_string()]
    };
    output::table(["topic", "partition", "unusable in a row"], &[1, 2], accepted.iter().map(row))
}
