//! The tables at the end of the demo: their counts, and the first rows of each.

use anyhow::anyhow;
use comfy_table::Table;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::GROUP;
use crate::config::Settings;
use crate::output::{self, print, say};
use crate::store::Store;
use crate::store::overview::TABLES;

/// Maximum number of rows shown of each table.
const SAMPLE: i64 = 3;

/// The columns shown of each table.
const SHOWN: [(&str, &[&str]); 8] = [
    ("caller_voice_mapping", &["caller_id", "voice_name", "account_id", "updated_at"]),
    ("voice_clone_cache", &["caller_id", "cloned_voice_id", "reuse_count", "ttl_expires_at", "deleted_at"]),
    ("call_log", &["call_id", "caller_id", "status", "duration_seconds", "call_started_at"]),
    ("voice_clone_log", &["caller_id", "cloned_voice_id", "status", "api_response_time_ms", "error_message"]),
    ("clone_ready_events", &["caller_id", "cloned_voice_id", "clone_duration_ms", "ready_at"]),
    ("clone_failed_events", &["caller_id", "greeting_call_id", "error_message", "failed_at"]),
    ("clone_transfer_events", &["greeting_call_id", "agent_call_id", "cloned_voice_id", "transferred_at"]),
    ("ingest.dead_letters", &["topic", "partition", "record_offset", "reason", "message"]),
];

/// Prints the tables. With `--keep` it returns only when `cancel` is.
pub(super) async fn show(
    settings: &Settings,
    store: &Store,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    if cancel.is_cancelled() {
        say("Interrupted.");
        return Ok(());
    }
    let all = store.overview(GROUP).await.map_err(|fault| anyhow!("{fault}"))?;
    let note = |table: &str| match all.expired {
        expired if table == "voice_clone_cache" && expired > 0 => format!("{expired} of them expired"),
        _ => String::new(),
    };
    let rows = TABLES.iter().zip(&all.rows).map(|(table, rows)| {
        let table = (*table).to_owned();
        [table.clone(), rows.to_string(), note(&table)]
    });
    let letters = ["ingest.dead_letters".to_owned(), all.dead_letters.to_string(), String::new()];
    let counts = output::table(["table", "rows", ""], &[1], rows.chain([letters]));
    print(counts)?;
    for (table, columns) in SHOWN {
        let rows = store.sample(table, SAMPLE).await.map_err(|fault| anyhow!("{fault}"))?;
        if !rows.is_empty() {
            print(format!("\n{table}\n{}", sample(columns, &rows)))?;
        }
    }
    if let Some(address) = settings.http_addr {
        let (servers, url) = (&settings.kafka_bootstrap_servers, &settings.database_url);
        print(format!(
            "\nBroker ({servers}), database and daemon keep running. Look at http://{address}/ and with\n\n  \
             psql '{url}'\n"
        ))?;
        print("Ctrl-C ends them.")?;
        cancel.cancelled().await;
    } else {
        print("\nTo look further with psql, give --keep: broker and database then run until Ctrl-C.")?;
    }
    Ok(())
}

/// A table of rows, each a JSON object, cut to the terminal's width.
fn sample(columns: &[&str], rows: &[String]) -> Table {
    let width = Table::new().width().map_or(output::WIDTH, usize::from);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let row: Map<String, Value> = serde_json::from_str(row).unwrap_or_default();
            columns.iter().map(|column| cell_text(column, row.get(*column))).collect()
        })
        .collect();
    // each column takes two spaces
    let available = width.saturating_sub(2 * columns.len());
    let needed = |limit: usize| -> usize {
        let widest = |place: usize| {
            cells.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count().min(limit)).max()
        };
        columns
            .iter()
            .enumerate()
            .map(|(place, column)| widest(place).unwrap_or(0).max(column.chars().count().min(limit)))
            .sum()
    };
    let mut limit = 60;
    while limit > 6 && needed(limit) > available {
        limit -= 1;
    }
    let header = columns.iter().map(|column| cut(column, limit));
    let rows = cells.iter().map(|row| row.iter().map(|cell| cut(cell, limit)).collect::<Vec<_>>());
    output::table(header, &[], rows)
}

fn cell_text(column: &str, value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if column.ends_with("_at") => {
            text.split('.').next().unwrap_or(text).replace('T', " ")
        }
        Some(Value::String(text)) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Some(value) => value.to_string(),
    }
}

fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}
