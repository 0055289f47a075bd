//! `dead-letters retry`: processes records again, through the code of live records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::select::{self, chosen, chunks, filter};
use crate::cli::dead_letters::{Bulk, FilterArgs};
use crate::config::Settings;
use crate::event::Unusable;
use crate::ingest::{Ingest, Positions, Stop};
use crate::output::{print, say};
use crate::record::{Record, TopicPartition};
use crate::retry::pause_for;
use crate::store::letters::{Head, LetterState, Retried};
use crate::store::write::Mode;
use crate::traces;

/// Time between two lines of progress with `--json`, which prints no line for each letter.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The outcome of one letter.
#[derive(Serialize)]
struct LetterOutcome {
    id: i64,
    place: String,
    /// `resolved`, or the name of the new reason.
    outcome: &'static str,
    message: Option<String>,
}

/// Retries the selected letters; `false` where some are still unusable or were not tried.
pub async fn run(
    settings: &Settings,
    args: &FilterArgs,
    bulk: Bulk,
    rate: Option<f64>,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<bool> {
    select::allow("Retry", args, bulk, false)?;
    let store = crate::commands::store(settings).await?;
    let filter = filter(settings, args, LetterState::Unresolved);
    let Some(selected) = chosen(&store, "Retry", &filter, args, bulk).await? else {
        print("Nothing was tried.")?;
        return Ok(true);
    };
    let mode = if bulk.dry_run { Mode::Rehearse } else { Mode::Replay };
    let span = traces::root("dead-letters retry", None);
    let ingest = Ingest { span: span.clone(), ..Ingest::new(settings, store, None, mode) };
    let mut retry = Retry { ingest, dry_run: bulk.dry_run, json, lines: Vec::new() };
    let chunk = rate.map_or(usize::MAX, per_second);
    let mut said = tokio::time::Instant::now();
    for ids in chunks(&selected, chunk) {
        if cancel.is_cancelled() {
            break;
        }
        let started = tokio::time::Instant::now();
        if !retry.take(&ids, &cancel).await? {
            break;
        }
        // without --json each letter has its own line
        if json && said.elapsed() >= PROGRESS_EVERY {
            said = tokio::time::Instant::now();
            say(format!("{} of {} tried", retry.lines.len(), selected.len()));
        }
        if let Some(rate) = rate {
            #[allow(clippy::cast_precision_loss, reason = "at most some hundred")]
            let due = Duration::try_from_secs_f64(ids.len() as f64 / rate).unwrap_or(Duration::MAX);
            pause_for(due.saturating_sub(started.elapsed()), &cancel).await;
        }
    }
    span.count("voiceclone.records", retry.lines.len() as u64);
    span.end();
    retry.report(selected.len())
}

/// Letters per second; at least one.
fn per_second(rate: f64) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is above 0")]
    let whole = rate as usize;
    whole.max(1)
}

struct Retry {
    ingest: Ingest,
    dry_run: bool,
    json: bool,
    lines: Vec<LetterOutcome>,
}

impl Retry {
    /// Retries a chunk of letters; `false` where it was interrupted.
    async fn take(&mut self, ids: &[i64], cancel: &CancellationToken) -> anyhow::Result<bool> {
        let letters =
            self.ingest.store.load_letters(ids).await.context("the dead letters could not be read")?;
        let mut records = Vec::with_capacity(letters.len());
        for letter in letters {
            match letter.record(&self.ingest.topic_prefix) {
                Some(record) => records.push((letter.head, record)),
                None => bail!(
                    "dead letter {} is of topic {}, which is none of this program's with TOPIC_PREFIX {:?}: set \
                     TOPIC_PREFIX as the daemon has it",
                    letter.head.id,
                    letter.head.topic,
                    self.ingest.topic_prefix
                ),
            }
        }
        for batch in batches(records) {
            if !self.write(batch, cancel).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn write(
        &mut self,
        batch: Vec<(Head, Record)>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let (heads, records): (Vec<Head>, Vec<Record>) = batch.into_iter().unzip();
        let written = match self.ingest.write(&records, &mut Positions::new(), cancel).await {
            Ok(written) => written,
            Err(Stop::Cancelled) => return Ok(false),
            Err(Stop::Fenced) => bail!("this is a bug: a retry moves no offsets and hit a fence"),
        };
        let refused: BTreeMap<(TopicPartition, i64), Unusable> =
            written.refused.into_iter().map(|(partition, offset, why)| ((partition, offset), why)).collect();
        let mut retried = Vec::with_capacity(heads.len());
        for (head, record) in heads.iter().zip(&records) {
            let unusable = refused.get(&(record.topic_partition(), record.offset)).cloned();
            retried.push(Retried { id: head.id, tries: head.tries, unusable });
        }
        if !self.dry_run {
            let settled = self.ingest.store.settle_retries(&retried).await;
            settled
                .context("the records were tried, which could not be noted; run the same command again")?;
        }
        for (head, retried) in heads.iter().zip(retried) {
            self.line(head, retried.unusable)?;
        }
        Ok(true)
    }

    fn line(&mut self, head: &Head, unusable: Option<Unusable>) -> anyhow::Result<()> {
        let outcome = unusable.as_ref().map_or("resolved", |unusable| unusable.reason.name());
        let message = unusable.map(|unusable| unusable.message);
        if !self.json {
            let why = message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
            let would = if self.dry_run && message.is_none() { "would be " } else { "" };
            print(format!("{} {}: {would}{outcome}{why}", head.id, head.place()))?;
        }
        self.lines.push(LetterOutcome { id: head.id, place: head.place(), outcome, message });
        Ok(())
    }

    fn report(self, selected: usize) -> anyhow::Result<bool> {
        let tried = self.lines.len();
        let failed = self.lines.iter().filter(|line| line.message.is_some()).count();
        let resolved = tried - failed;
        if self.json {
            print(json!({
                "dry_run": self.dry_run, "selected": selected, "tried": tried, "resolved": resolved, "failed": failed,
                "letters": self.lines,
            }))?;
        } else if selected == 0 {
            print("No unresolved dead letter matches: nothing is tried.")?;
        } else {
            let would = if self.dry_run { "would be " } else { "" };
            print(format!("{tried} tried: {resolved} {would}resolved, {failed} still cannot be used."))?;
        }
        if tried < selected {
            say(format!(
                "Interrupted: {} not tried; run the same command again.",
                select::letters(i64::try_from(selected - tried).unwrap_or(i64::MAX))
            ));
        }
        Ok(failed == 0 && tried == selected)
    }
}

/// Sorts the records by offset within each partition. A recreated topic has other records at the same offsets; they get
/// batches of their own.
fn batches(mut letters: Vec<(Head, Record)>) -> Vec<Vec<(Head, Record)>> {
    letters.sort_by_key(|(_, record)| (record.topic_partition(), record.offset, record.timestamp));
    let mut batches = Vec::new();
    while !letters.is_empty() {
        let mut taken = BTreeSet::new();
        let (batch, later) = letters
            .into_iter()
            .partition(|(_, record)| taken.insert((record.topic_partition(), record.offset)));
        batches.push(batch);
        letters = later;
    }
    batches
}
