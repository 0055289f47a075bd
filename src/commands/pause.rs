//! `pause` and `resume`: stop all instances from writing during work on the database. The group keeps its members
//! (contract, section 8).

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::config::Settings;
use crate::output::print;
use crate::record::Topic;

/// Pauses a topic, or all of them, until [`resume`] or for a limited time.
pub async fn pause(
    settings: &Settings,
    topic: Option<Topic>,
    time: Option<Duration>,
    json: bool,
) -> anyhow::Result<()> {
    let store = super::store(settings).await?;
    let group = &settings.kafka_group_id;
    let until =
        store.pause(group, topic, time).await.context("nothing was paused; fix the database first")?;
    if json {
        print(json!({"group": group, "topic": topic.map(Topic::name), "until": until}))?;
        return Ok(());
    }
    let what = topic.map_or_else(|| "all topics".to_owned(), |topic| topic.to_string());
    let until =
        until.map_or_else(|| "until `voiceclone-events resume`".to_owned(), |until| format!("until {until}"));
    print(format!(
        "Group {group} is paused for {what} {until}. Every instance stops reading and expiring within 5 s."
    ))?;
    print("Batches in flight end first: wait for those 5 s before you work on the database.")?;
    Ok(())
}

/// Ends a pause, of one topic or of all.
pub async fn resume(settings: &Settings, topic: Option<Topic>, json: bool) -> anyhow::Result<()> {
    let store = super::store(settings).await?;
    let group = &settings.kafka_group_id;
    let resumed = store.resume(group, topic).await.context("nothing was resumed; fix the database first")?;
    if json {
        print(json!({"group": group, "resumed": resumed}))?;
    } else if resumed.is_empty() {
        print(format!("Nothing was paused for group {group}."))?;
    } else {
        print(format!("Group {group} goes on with {} within 5 s.", resumed.join(", ")))?;
    }
    Ok(())
}
