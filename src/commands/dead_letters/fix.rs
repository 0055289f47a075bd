//! `dead-letters fix`: publishes a corrected record to the letter's own topic and partition. A write to the tables alone
//! would be lost in the next replay.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::Utc;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::correct::corrected;
use super::stamp::{Stamp, stamp};
use crate::cli::Usage;
use crate::cli::dead_letters::FixArgs;
use crate::commands::tap::effects::{Effects, rehearse};
use crate::commands::view::RecordView;
use crate::config::Settings;
use crate::event::{Unusable, decode, states_every_time};
use crate::ingest::Ingest;
use crate::kafka::admin;
use crate::kafka::send::Sender;
use crate::output::{print, say};
use crate::record::{Outgoing, Record};
use crate::store::letters::{Head, Letter, hold};
use crate::store::write::Mode;

/// Maximum time for a request to the broker.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// Fixes a letter; `false` where the corrected record still cannot be used.
pub async fn run(
    settings: &Settings,
    args: &FixArgs,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<bool> {
    if !args.changes() {
        let text = "nothing is to be changed: give --set, --value, --key, --header, --drop-header or --timestamp; \
                    `dead-letters retry` takes a record as it is";
        return Err(Usage::new(text).into());
    }
    let value = args.value.as_deref().map(|file| read(file, settings.record_max_bytes)).transpose()?;
    let store = crate::commands::store(settings).await?;
    let unread = "the dead letter could not be read";
    // Wait for another `fix` of the same letter, so that its outcome is read below.
    let _held = hold(&settings.database_url, args.id).await.context(unread)?;
    let Some(letter) = store.load_letters(&[args.id]).await.context(unread)?.pop() else {
        bail!("there is no dead letter {}: `voiceclone-events dead-letters list` shows them", args.id);
    };
    let report = FixReport { head: &letter.head, dry_run: args.dry_run, json };
    if letter.head.resolved_at.is_some() {
        return report.resolved_before();
    }
    let Some(record) = letter.record(&settings.topic_prefix) else {
        bail!(
            "dead letter {} is of topic {}, which is none of this program's with TOPIC_PREFIX {:?}: set TOPIC_PREFIX \
             as the daemon has it",
            args.id,
            letter.head.topic,
            settings.topic_prefix
        );
    };
    let mut record = corrected(record, args, value)?;
    if let Err(unusable) = decode(&record, settings.limits()) {
        return report.unusable(unusable);
    }
    let stamp = allowed_stamp(settings, &letter, &record).await?;
    if stamp == Stamp::Now {
        record.timestamp = Utc::now().timestamp_millis();
    }
    let ingest = Ingest::new(settings, store.clone(), None, Mode::Rehearse);
    let effects = match rehearse(&ingest, &record, &cancel).await? {
        Some(Ok(effects)) => effects,
        Some(Err(unusable)) => return report.unusable(unusable),
        None => bail!("interrupted: nothing was sent, and the dead letter stays as it was"),
    };
    if args.dry_run {
        return report.would_publish(&record, &effects);
    }
    let again = "run the same command again: a record that is sent twice counts once";
    let (topic, partition) = (record.topic.name(), record.partition);
    let timestamp = Some(record.timestamp).filter(|_| stamp == Stamp::Own);
    let outgoing =
        Outgoing { topic, key: record.key, value: record.value, headers: record.headers, timestamp };
    let sender = Sender::new(settings)?;
    let offset = match sender.send_to(&outgoing, partition).await {
        Ok(offset) => offset,
        Err(error) if error.refused => {
            bail!("the broker refuses the corrected record ({error}); nothing was sent")
        }
        Err(error) => bail!("the corrected record could not be sent ({error}); once that is fixed, {again}"),
    };
    let place = format!("{}/{partition}@{offset}", letter.head.topic);
    let settled = store.settle_fix(args.id, &format!("fixed by the record {place}")).await;
    settled.with_context(|| format!("the corrected record is {place}, which could not be noted; {again}"))?;
    report.published(&place, offset)
}

/// Reads `--value`, at most one byte more than a record may have.
fn read(file: &Path, most: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(bytes)
}

/// The timestamp with which the topic accepts the record.
async fn allowed_stamp(settings: &Settings, letter: &Letter, record: &Record) -> anyhow::Result<Stamp> {
    let topic = letter.head.topic.clone();
    let config = admin::configs(settings, std::slice::from_ref(&topic), None, BROKER_TIMEOUT).await?.pop();
    let config = match config {
        Some(Ok(config)) => Ok(config),
        Some(Err(reason)) => Err(reason.sentence),
        None => Err("no answer".to_owned()),
    };
    let at = (record.timestamp, Utc::now().timestamp_millis());
    let decided = stamp(&config, at, states_every_time(record, settings.limits()));
    decided.map_err(|why| anyhow::anyhow!("{}: {why}. Nothing was sent", letter.head.place()))
}

/// Prints the outcome for a letter.
struct FixReport<'a> {
    head: &'a Head,
    dry_run: bool,
    json: bool,
}

impl FixReport<'_> {
    fn print_outcome(&self, outcome: &str, more: Value, words: &str) -> anyhow::Result<()> {
        if !self.json {
            return print(format!("{} {}: {words}", self.head.id, self.head.place()));
        }
        let mut object = json!({
            "dry_run": self.dry_run, "id": self.head.id, "place": self.head.place(), "outcome": outcome,
        });
        if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        print(object)
    }

    /// Reports a letter that is already resolved: success if it was fixed, else an error.
    fn resolved_before(&self) -> anyhow::Result<bool> {
        let (id, state) = (self.head.id, self.head.state());
        let at = self.head.resolved_at.as_deref().unwrap_or_default();
        if state != "fixed" {
            bail!(
                "dead letter {id} is resolved already ({state} at {at}), and nothing was sent: `publish` sends \
                 another event"
            );
        }
        let note = self.head.note.as_deref().unwrap_or("fixed");
        self.print_outcome(
            "fixed_before",
            json!({ "note": note, "resolved_at": at }),
            &format!("already {note} at {at}; nothing is sent"),
        )?;
        Ok(true)
    }

    fn unusable(&self, Unusable { reason, message }: Unusable) -> anyhow::Result<bool> {
        let words = format!("the corrected record still cannot be used: {reason}: {message}");
        self.print_outcome("unusable", json!({ "reason": reason.name(), "message": message }), &words)?;
        say(
            "Nothing was sent, and the dead letter stays as it was: change the options, and run the command again.",
        );
        Ok(false)
    }

    fn would_publish(&self, record: &Record, effects: &Effects) -> anyhow::Result<bool> {
        let view =
            RecordView::new(record.key.as_deref(), record.value.as_deref(), &record.headers, None, false);
        let place = format!("{}/{}", self.head.topic, self.head.partition);
        let shown: serde_json::Map<String, Value> = view.members().into_iter().collect();
        let more = json!({ "timestamp": record.timestamp, "rows": effects.rows, "record": shown });
        let words = format!("this record would be published to {place}; rows: {effects}\n{}", view.text());
        self.print_outcome("would_be_fixed", more, &words)?;
        Ok(true)
    }

    fn published(&self, place: &str, offset: i64) -> anyhow::Result<bool> {
        let more = json!({ "offset": offset, "record": place });
        self.print_outcome(
            "fixed",
            more,
            &format!("fixed by the record {place}; the daemon takes it as any other"),
        )?;
        Ok(true)
    }
}
