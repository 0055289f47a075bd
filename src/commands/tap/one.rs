//! `tap --offset`: the outcome of one record, from the topic and the database.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::effects::rehearse;
use super::record::{Judged, time};
use super::{TapReader, decoded, topics};
use crate::commands::view::printable;
use crate::config::Settings;
use crate::ingest::Ingest;
use crate::kafka::range::Bound;
use crate::kafka::tail::{Tail, TailRange};
use crate::output::print;
use crate::record::{Record, TopicPartition};
use crate::store::Store;
use crate::store::letters::{Filter, Head, LetterState};
use crate::store::offsets::Position;
use crate::store::skips::PassedOver;
use crate::store::write::Mode;

/// The record at an offset, or why there is none.
enum Lookup {
    Record(Box<Record>),
    /// The log begins at this offset.
    Removed(i64),
    /// The log ends at this offset.
    NotYet(i64),
    /// A transaction marker, a record of an aborted transaction, or one removed by compaction.
    NoRecord,
}

/// The database's rows about the offset.
struct OffsetRows {
    position: Option<Position>,
    skipped: Option<PassedOver>,
    letters: Vec<Head>,
}

/// Prints the outcome of the record.
pub(super) async fn run(
    settings: &Settings,
    place: TopicPartition,
    offset: i64,
    with_effects: bool,
    json: bool,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let found = tokio::select! {
        found = find(settings, place, offset) => found?,
        () = cancel.cancelled() => return Ok(()),
    };
    let store = database(settings).await;
    let known = match &store {
        Ok(store) => known(settings, store, place, offset).await.map_err(|error| format!("{error:#}")),
        Err(why) => Err(why.clone()),
    };
    let mut judged = match &found {
        Lookup::Record(record) => Some(decoded(settings, record, settings.limits())),
        _ => None,
    };
    if with_effects {
        let ingest = Ingest::new(settings, store.map_err(anyhow::Error::msg)?, None, Mode::Rehearse);
        if let Some(judged) = judged.as_mut().filter(|judged| judged.unusable.is_none()) {
            match rehearse(&ingest, judged.record, cancel).await? {
                None => return Ok(()),
                Some(Ok(effects)) => judged.effects = Some(effects),
                Some(Err(unusable)) => judged.unusable = Some(unusable),
            }
        }
    }
    let findings = Findings { group: &settings.kafka_group_id, place, offset, found: &found, judged, known };
    let topic_name = settings.topic_name(place.topic);
    if json { print(Value::Object(findings.object(&topic_name))) } else { print(findings.text(&topic_name)) }
}

/// Reads the record from the topic.
async fn find(settings: &Settings, place: TopicPartition, offset: i64) -> anyhow::Result<Lookup> {
    topics(settings, Some(place.topic)).await?;
    let ours = settings.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let tail = Tail::new(&ours)?;
        let all = tail.resolve(place.topic, Some(place.partition), None, None)?;
        let bounds = (Some(Bound::Offset(offset)), Some(Bound::Offset(offset.saturating_add(1))));
        let wanted = tail.resolve(place.topic, Some(place.partition), bounds.0, bounds.1)?;
        anyhow::Ok((tail, all.into_iter().next(), wanted.into_iter().next()))
    });
    let (tail, all, wanted) = asked.await??;
    let (all, wanted) =
        (all.context("the partition has no log")?, wanted.context("the partition has no log")?);
    if offset < all.start {
        return Ok(Lookup::Removed(all.start));
    }
    if wanted.offsets() == 0 {
        return Ok(Lookup::NotYet(all.end));
    }
    let spans = BTreeMap::from([(place, TailRange { from: wanted.start, to: Some(wanted.end) })]);
    let record = TapReader::start(tail, spans).first().await?;
    Ok(record.map_or(Lookup::NoRecord, |record| Lookup::Record(Box::new(record))))
}

/// Connects to the database; the error says why that failed.
async fn database(settings: &Settings) -> Result<Store, String> {
    if settings.database_url.is_empty() {
        return Err("DATABASE_URL is not set".to_owned());
    }
    crate::commands::store(settings).await.map_err(|error| format!("{error:#}"))
}

async fn known(
    settings: &Settings,
    store: &Store,
    place: TopicPartition,
    offset: i64,
) -> anyhow::Result<OffsetRows> {
    let partition = (settings.topic_name(place.topic), place.partition);
    let group = &settings.kafka_group_id;
    let filter = Filter {
        topic: Some(partition.0.clone()),
        partition: Some(place.partition),
        offsets: Some((offset, offset)),
        state: LetterState::All,
        ..Filter::default()
    };
    let letters = store.list_letters(&filter).await?;
    let skipped = store.passed_over(group, &partition, offset).await?;
    let position = store.positions(group).await?.remove(&partition);
    Ok(OffsetRows { position, skipped, letters })
}

/// All findings on the record.
struct Findings<'a> {
    group: &'a str,
    place: TopicPartition,
    offset: i64,
    found: &'a Lookup,
    judged: Option<Judged<'a>>,
    known: Result<OffsetRows, String>,
}

impl Findings<'_> {
    /// The letters of this record. A letter with another timestamp belongs to a topic of the same name from before it was
    /// recreated.
    fn letters(&self) -> Vec<&Head> {
        let Ok(known) = &self.known else { return Vec::new() };
        let at = self.judged.as_ref().map(|judged| time(judged.record.timestamp));
        let is_its = |letter: &&Head| {
            let written = letter.record_timestamp.as_ref();
            // a timestamp that RFC 3339 cannot express is not compared
            at.as_ref().is_none_or(|at| at.is_none() || at.as_ref() == written)
        };
        known.letters.iter().filter(is_its).collect()
    }

    /// Whether the group has read the record; `None` where that is not known. A stored offset behind the record is no
    /// proof: `skip` passes over records, and retention may have removed it before it was read.
    fn consumed(&self) -> Option<bool> {
        let known = self.known.as_ref().ok()?;
        if known.position.is_none_or(|position| position.next_offset <= self.offset) {
            return Some(false);
        }
        if !self.letters().is_empty() {
            return Some(true);
        }
        if known.skipped.is_some() {
            return Some(false);
        }
        (!matches!(self.found, Lookup::Removed(_))).then_some(true)
    }

    fn object(&self, topic_name: &str) -> Map<String, Value> {
        let known = self.known.as_ref();
        let position = known.ok().and_then(|known| known.position);
        let mut object = Map::new();
        let own = [
            ("topic", json!(topic_name)),
            ("partition", json!(self.place.partition)),
            ("offset", json!(self.offset)),
            ("found", json!(self.judged.is_some())),
            ("absent", json!(self.absent())),
            ("group", json!(self.group)),
            ("consumed", json!(self.consumed())),
            ("next_offset", json!(position.map(|position| position.next_offset))),
            ("stopped", json!(position.map(|position| position.stopped))),
            ("skipped", json!(known.ok().and_then(|known| known.skipped.as_ref()))),
            ("dead_letters", json!(known.ok().map(|_| self.letters()))),
            ("unknown_because", json!(known.err())),
            ("record", json!(self.judged.as_ref().map(Judged::object))),
        ];
        object.extend(own.map(|(name, value)| (name.to_owned(), value)));
        object
    }

    /// The reason why there is no record.
    fn absent(&self) -> Option<String> {
        match self.found {
            Lookup::Record(_) => None,
            Lookup::Removed(low) => Some(format!("retention has removed it: the log begins at offset {low}")),
            Lookup::NotYet(end) => Some(format!("it is not there yet: the log ends at offset {end}")),
            Lookup::NoRecord => Some(
                "the offset holds no record: it is a transaction's marker, belongs to an aborted transaction, or was \
                 removed by compaction"
                    .to_owned(),
            ),
        }
    }

    fn text(&self, topic_name: &str) -> String {
        let place = format!("{topic_name}/{}@{}", self.place.partition, self.offset);
        let mut lines = vec![("place", place)];
        match &self.judged {
            None => lines.push(("record", format!("none: {}", self.absent().unwrap_or_default()))),
            Some(judged) => {
                let at = time(judged.record.timestamp).unwrap_or_else(|| "none".to_owned());
                lines.push(("timestamp", at));
                lines.push(("outcome", judged.outcome()));
                if let Some(effects) = &judged.effects {
                    lines.push(("rows", effects.to_string()));
                }
            }
        }
        lines.push(("consumed", self.consumed_words()));
        if let Some(skipped) = self.known.as_ref().ok().and_then(|known| known.skipped.as_ref()) {
            let PassedOver { skipped_at, note, cause, .. } = skipped;
            let name = if cause == "skip" { "skipped" } else { "lost" };
            lines.push((name, printable(&format!("at {skipped_at}: {note}"))));
        }
        for letter in self.letters() {
            let (id, state) = (letter.id, letter.state());
            let note = letter.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
            let words = format!("{id}, {state}{note}: {}: `dead-letters show {id}`", letter.reason);
            lines.push(("letter", printable(&words)));
        }
        let lines = lines.iter().map(|(name, value)| format!("{name:<11}{value}"));
        let mut text = lines.collect::<Vec<_>>().join("\n");
        if let Some(judged) = &self.judged {
            text.push('\n');
            text.push_str(&judged.view().text());
        }
        text
    }

    fn consumed_words(&self) -> String {
        let group = self.group;
        match &self.known {
            Err(why) => format!("unknown: {why}"),
            Ok(OffsetRows { position: None, .. }) => {
                format!("no: group {group} has read nothing of this partition")
            }
            Ok(OffsetRows { position: Some(Position { next_offset, stopped, .. }), skipped, .. }) => {
                let answer = match self.consumed() {
                    Some(true) => "yes",
                    Some(false) if *next_offset > self.offset => match skipped {
                        Some(lost) if lost.cause != "skip" => "no, it was removed before it was consumed",
                        _ => "no, it was passed over by `skip`",
                    },
                    Some(false) => "no",
                    None => {
                        "unknown, as ingest has no row of it: it was read, or lost before losses were recorded \
                         there"
                    }
                };
                let stop = match stopped {
                    true => ", and DEAD_LETTER_LIMIT has stopped the partition: see `dead-letters accept`",
                    false => "",
                };
                format!("{answer}: group {group} reads offset {next_offset} next{stop}")
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::record::Topic;

    const PLACE: TopicPartition = TopicPartition { topic: Topic::CloneReady, partition: 0 };

    fn skip() -> PassedOver {
        let (note, skipped_at) = ("cannot be read".to_owned(), "2026-01-05T12:00:00Z".to_owned());
        PassedOver { from_offset: 10, to_offset: 20, note, skipped_at, cause: "skip".to_owned() }
    }

    /// The answer and the words for offset 15, where the group reads this offset next.
    fn answer(found: &Lookup, next_offset: i64, skipped: Option<PassedOver>) -> (Option<bool>, String) {
        let position = Some(Position::at(next_offset, None));
        let known = Ok(OffsetRows { position, skipped, letters: Vec::new() });
        let findings = Findings { group: "g", place: PLACE, offset: 15, found, judged: None, known };
        (findings.consumed(), findings.consumed_words())
    }

    #[test]
    fn a_record_before_the_stored_offset_was_consumed() {
        let (consumed, words) = answer(&Lookup::NoRecord, 20, None);
        assert_eq!(consumed, Some(true));
        assert!(words.starts_with("yes: group g reads offset 20 next"), "{words}");
        assert_eq!(answer(&Lookup::NoRecord, 15, None).0, Some(false));
    }

    #[test]
    fn a_record_that_skip_passed_over_was_not_consumed() {
        let (consumed, words) = answer(&Lookup::Removed(30), 20, Some(skip()));
        assert_eq!(consumed, Some(false));
        assert!(words.starts_with("no, it was passed over by `skip`: group g"), "{words}");
    }

    #[test]
    fn a_record_that_was_lost_was_not_consumed() {
        let lost = PassedOver { cause: "removed".to_owned(), ..skip() };
        let (consumed, words) = answer(&Lookup::Removed(30), 20, Some(lost));
        assert_eq!(consumed, Some(false));
        assert!(words.starts_with("no, it was removed before it was consumed: group g"), "{words}");
    }

    #[test]
    fn a_record_that_retention_removed_is_not_said_to_be_consumed() {
        let (consumed, words) = answer(&Lookup::Removed(30), 40, None);
        assert_eq!(consumed, None);
        assert!(words.starts_with("unknown, as ingest has no row of it"), "{words}");
        let (consumed, words) = answer(&Lookup::Removed(30), 15, None);
        assert_eq!(consumed, Some(false));
        assert!(words.starts_with("no: group g reads offset 15 next"), "{words}");
    }
}
