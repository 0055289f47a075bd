//! The database: stored positions with their fence, and the records that have landed.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::dice::Dice;
use super::kafka::Kafka;
use crate::ingest::outcome::{Batch, BatchReport, Effort, OffsetSpan, Outcome, Wait, WaitKind};
use crate::record::{Record, Topic, TopicPartition};
use crate::store::offsets::Position;

/// One record in this many is unusable and becomes a dead letter.
const UNUSABLE_EVERY: i64 = 7;

#[derive(Default)]
pub(super) struct Store {
    pub positions: BTreeMap<TopicPartition, Position>,
    /// By partition: the topic's id, and for each offset whether its record landed.
    landed: BTreeMap<TopicPartition, (Uuid, Vec<bool>)>,
    pub away: bool,
    /// Statements take seconds.
    pub slow: bool,
    /// Parts of batches fail with transient errors, and writes end without a result.
    pub unsteady: bool,
    /// Topics whose table accepts no good record.
    pub drifted: BTreeSet<Topic>,
    pub paused: BTreeSet<Topic>,
    /// Partitions whose next batch reaches the limit.
    pub at_limit: BTreeSet<TopicPartition>,
    /// The first broken promise.
    pub broken: Option<String>,
}

/// The result of a write.
pub(super) enum Written {
    Report(BatchReport),
    /// The task died.
    Died,
}

impl Store {
    /// Writes a batch as `Ingest::write_batch` does. `began_before`: the database was reachable when the write began.
    pub fn write(
        &mut self,
        batch: Batch,
        effort: Effort,
        began_before: bool,
        kafka: &Kafka,
        dice: &mut Dice,
    ) -> Written {
        self.check(&batch);
        let (mut outcomes, mut remaining) = (BTreeMap::new(), Vec::new());
        let dies = self.unsteady && dice.chance(5);
        if dies && dice.chance(50) {
            return Written::Died;
        }
        // The commit may have succeeded although its answer was lost.
        let arrives = !self.away || (began_before && dice.chance(30));
        let unsteady = self.unsteady;
        let mut rest = batch.records;
        for (key, span) in batch.spans {
            let (own, others): (Vec<Record>, Vec<Record>) =
                rest.into_iter().partition(|record| record.topic_partition() == key);
            rest = others;
            let stored = self.positions.get(&key).copied();
            if self.away && !arrives {
                outcomes.insert(key, waits(span.from, WaitKind::Database));
                remaining.extend(own);
                continue;
            }
            if stored != Some(span.from) || span.from.stopped {
                let outcome = if self.away { waits(span.from, WaitKind::Database) } else { Outcome::Fenced };
                remaining.extend(own.into_iter().filter(|_| self.away));
                outcomes.insert(key, outcome);
                continue;
            }
            let failure = if self.drifted.contains(&key.topic) && !own.is_empty() {
                let suspects = effort == Effort::Once && dice.chance(50);
                Some(if suspects { WaitKind::Suspects } else { WaitKind::Drift })
            } else if unsteady && dice.chance(20) {
                let once = effort == Effort::Once;
                Some(if once {
                    WaitKind::Suspects
                } else {
                    dice.pick(&[WaitKind::Other, WaitKind::TooLarge])
                })
            } else {
                None
            };
            let Some(kind) = failure else {
                let to = self.land(key, span, &own, span.to_offset, kafka);
                if self.away {
                    outcomes.insert(key, waits(span.from, WaitKind::Database));
                    remaining.extend(own);
                } else {
                    outcomes.insert(key, Outcome::Landed(to));
                }
                continue;
            };
            // Halving lets a part land.
            let part =
                if effort == Effort::Thorough { dice.within(0..own.len() as u64 + 1) as usize } else { 0 };
            let landed = match own[..part].last() {
                Some(last) => self.land(key, span, &own[..part], last.offset + 1, kafka),
                None => span.from,
            };
            outcomes.insert(key, waits(landed, kind));
            remaining.extend(own.into_iter().filter(|record| record.offset >= landed.next_offset));
        }
        if dies {
            Written::Died
        } else {
            Written::Report(BatchReport { outcomes, remaining, ..BatchReport::default() })
        }
    }

    /// Checks the invariants of a batch.
    fn check(&mut self, batch: &Batch) {
        let mut next: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        for record in &batch.records {
            let key = record.topic_partition();
            let Some(span) = batch.spans.get(&key) else {
                return self.break_promise(format!("{key}: a record without a span is written"));
            };
            let least = next.entry(key).or_insert(span.from.next_offset);
            if record.offset < *least || record.offset >= span.to_offset {
                return self.break_promise(format!("{key}: offset {} is not in its place", record.offset));
            }
            *least = record.offset + 1;
            // Ids increase. A record of a newer topic under the id of an older one is read again: the start detects it.
            if span.from.topic_id.is_some_and(|id| (id.as_u128() as i64) > record.timestamp) {
                return self.break_promise(format!(
                    "{key}: a record of a deleted topic moves the offset of the new one"
                ));
            }
        }
    }

    fn break_promise(&mut self, text: String) {
        self.broken.get_or_insert(text);
    }

    fn land(
        &mut self,
        key: TopicPartition,
        span: OffsetSpan,
        own: &[Record],
        to: i64,
        kafka: &Kafka,
    ) -> Position {
        let id = span.from.topic_id.unwrap_or_default();
        let log = kafka.logs.get(&key).filter(|_| kafka.ids.get(&key.topic) == Some(&id));
        let flags = self.landed.entry(key).or_default();
        if flags.0 != id {
            *flags = (id, Vec::new());
        }
        let end = flags.1.len().max(to.max(0) as usize);
        flags.1.resize(end, false);
        own.iter().for_each(|record| flags.1[record.offset as usize] = true);
        let passed = (span.from.next_offset..to).find(|offset| {
            let there = log.is_some_and(|log| log.entries.get(*offset as usize).copied().unwrap_or(false));
            there && !flags.1[*offset as usize]
        });
        if let Some(offset) = passed {
            self.break_promise(format!(
                "{key}: offset {offset} holds a record that did not land, and {to} is stored"
            ));
        }
        let mut dead = span.from.dead_in_a_row;
        for record in own {
            dead = if record.offset % UNUSABLE_EVERY == 0 { dead + 1 } else { 0 };
        }
        let stopped = !own.is_empty() && self.at_limit.remove(&key);
        let position =
            Position { next_offset: to, dead_in_a_row: dead, topic_id: span.from.topic_id, stopped };
        self.positions.insert(key, position);
        position
    }

    /// `Store::set_positions`, for one partition. Returns whether it was stored.
    pub fn set_position(
        &mut self,
        key: TopicPartition,
        from: Option<Position>,
        to: Position,
        kafka: &Kafka,
    ) -> bool {
        let stored = self.positions.get(&key).copied();
        let expected = from.map(|from| from.next_offset);
        if stored.map(|stored| stored.next_offset) != expected {
            return false;
        }
        let log = kafka.logs.get(&key).filter(|_| kafka.ids.get(&key.topic).copied() == to.topic_id);
        let same_topic = stored.is_none_or(|stored| stored.topic_id == to.topic_id);
        let begin = if same_topic { expected.unwrap_or(0) } else { 0 };
        if let Some(log) = log
            && let Some(offset) =
                (begin..to.next_offset).find(|offset| log.has_record(*offset) && !self.has(key, *offset))
        {
            self.break_promise(format!("{key}: offset {offset} is there and is passed over at a start"));
        }
        self.positions.insert(key, Position { stopped: stored.is_some_and(|stored| stored.stopped), ..to });
        true
    }

    fn has(&self, key: TopicPartition, offset: i64) -> bool {
        let flags = self.landed.get(&key).and_then(|(_, flags)| flags.get(offset as usize));
        flags.copied().unwrap_or(false)
    }

    pub fn accept(&mut self) {
        for position in self.positions.values_mut().filter(|position| position.stopped) {
            (position.stopped, position.dead_in_a_row) = (false, 0);
        }
    }

    /// `skip`: moves past unreadable offsets, which count as landed.
    pub fn skip(&mut self, key: TopicPartition, to: i64) {
        let Some(position) = self.positions.get_mut(&key).filter(|position| position.next_offset < to) else {
            return;
        };
        position.next_offset = to;
    }

    /// Restores a backup: rows and offsets return to an earlier state.
    pub fn restore(&mut self, dice: &mut Dice) {
        for (key, position) in &mut self.positions {
            let back = dice.within(0..20) as i64;
            position.next_offset = (position.next_offset - back).max(0);
            if let Some((_, flags)) = self.landed.get_mut(key) {
                flags.truncate(position.next_offset as usize);
            }
        }
    }
}

fn waits(landed: Position, kind: WaitKind) -> Outcome {
    Outcome::Waits { landed, wait: Wait { kind, text: "why".into() } }
}
