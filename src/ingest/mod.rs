//! A batch of records into the database: decode, plan, write. The world's faults are waited out, a row
//! that PostgreSQL refuses for good is found by halving (contract, section 6). Live records, replays and
//! tests all come through here.

pub mod outcome;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::event::{Limits, Reason, Time, Unusable, decode};
use crate::plan::{Plan, Source};
use crate::record::{Record, Topic};
use crate::retry::{pause_for, pauses};
use crate::store::dead_letters::DeadLetter;
use crate::store::offsets::{Advance, Position};
use crate::store::write::{Mode, Written};
use crate::store::{Fault, Store};

/// Where the partitions of the records at hand stand; by topic and partition.
pub type Positions = BTreeMap<(Topic, i32), Position>;

/// What a batch is written with.
#[derive(Clone)]
pub struct Ingest {
    /// The database.
    pub store: Store,
    /// What decoding depends on.
    pub limits: Limits,
    /// `TOPIC_PREFIX`.
    pub topic_prefix: String,
    /// The group whose offsets move with the rows; `None` in a replay, which moves none.
    pub group: Option<String>,
    /// `DEAD_LETTER_LIMIT`.
    pub dead_letter_limit: i64,
    /// Whether the writes are to stay.
    pub mode: Mode,
}

/// Why a batch did not land as a whole; what did land is in the positions.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// A stored offset is not the expected one: read the positions again.
    Fenced,
    /// The daemon is asked to end, and the world does not let the batch land.
    Cancelled,
}

impl Ingest {
    /// The topic's name as Kafka has it.
    pub fn topic_name(&self, topic: Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }

    /// Writes the records, which are in offset order within each partition, and moves the positions of
    /// their partitions on. Returns what was written.
    pub async fn write(
        &self,
        records: &[Record],
        positions: &mut Positions,
        cancel: &CancellationToken,
    ) -> Result<Written, Stop> {
        let mut written = Written::default();
        let mut pieces: Vec<&[Record]> = vec![records];
        while let Some(piece) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            match self.write_piece(piece, positions, cancel).await? {
                Some(done) => written.add(done),
                None => {
                    let (first, second) = piece.split_at(piece.len() / 2);
                    info!(records = piece.len(), "a batch with a refused row is halved");
                    pieces.push(second);
                    pieces.push(first);
                }
            }
        }
        Ok(written)
    }

    /// Writes one piece, waiting out the world's faults. `None` where a row is refused and there is more
    /// than one record to suspect.
    async fn write_piece(
        &self,
        piece: &[Record],
        positions: &mut Positions,
        cancel: &CancellationToken,
    ) -> Result<Option<Written>, Stop> {
        let mut rejected: Option<Unusable> = None;
        let mut refused_before = false;
        let mut pauses = pauses();
        loop {
            let batch = self.prepare(piece, positions, rejected.as_ref());
            let write = self.store.write(&batch.plan, &batch.dead_letters, &batch.advances, self.mode);
            let problem = match write.await {
                Ok(mut written) => {
                    written.unusable = batch.dead_letters.len() as u64;
                    for (unusable, count) in batch.reasons() {
                        metrics::counter!("voiceclone_dead_letters_total", "reason" => unusable.name())
                            .increment(count);
                    }
                    positions.extend(batch.after);
                    return Ok(Some(written));
                }
                Err(Fault::Fenced) => return Err(Stop::Fenced),
                Err(Fault::Refused { .. }) if piece.len() > 1 => return Ok(None),
                Err(Fault::Refused { message, certain }) if rejected.is_none() => {
                    match if certain { Ok(()) } else { self.database_takes_others(piece).await } {
                        // What passes by itself, and is not known to, is not met twice.
                        Ok(()) if !certain && !refused_before => {
                            refused_before = true;
                            continue;
                        }
                        Ok(()) => {
                            rejected = Some(Unusable::new(Reason::RejectedByDatabase, message));
                            continue;
                        }
                        Err(why) => format!("a row is refused, and {why}; {message}"),
                    }
                }
                Err(fault) => fault.to_string(),
            };
            let pause = pauses.next().unwrap_or(Duration::from_secs(5));
            warn!(
                records = piece.len(),
                problem,
                pause_ms = pause.as_millis(),
                "a batch is kept and tried again"
            );
            metrics::counter!("voiceclone_write_retries_total").increment(1);
            if !pause_for(pause, cancel).await {
                return Err(Stop::Cancelled);
            }
        }
    }

    /// An error of a kind that Diesel does not name might be the world's. It is the row's where PostgreSQL takes a
    /// harmless event of the same topic, which is rolled back, and where its messages, by which the world's faults
    /// are known, are in English. The error says why it is not.
    async fn database_takes_others(&self, piece: &[Record]) -> Result<(), String> {
        let Some(record) = piece.first() else {
            return Err("there is no record".to_owned());
        };
        match self.store.messages_are_english().await {
            Ok(true) => {}
            Ok(false) => {
                return Err("PostgreSQL's messages are not in English, so that the reason cannot be told: \
                            GRANT SET ON PARAMETER lc_messages to this role"
                    .to_owned());
            }
            Err(fault) => return Err(fault.to_string()),
        }
        let mut harmless = harmless(record.topic);
        harmless.timestamp = record.timestamp;
        let batch = self.prepare(std::slice::from_ref(&harmless), &Positions::new(), None);
        match self.store.write(&batch.plan, &[], &[], Mode::Rehearse).await {
            Ok(_) => Ok(()),
            Err(fault) => {
                error!(%fault, topic = %record.topic, "PostgreSQL refuses a harmless row as well");
                Err("a harmless one is refused as well".to_owned())
            }
        }
    }

    fn prepare<'a>(
        &'a self,
        piece: &'a [Record],
        positions: &Positions,
        rejected: Option<&Unusable>,
    ) -> Prepared<'a> {
        let source = Source { records: piece, topic_prefix: &self.topic_prefix };
        let mut plan = Plan { source, ..Plan::default() };
        let mut dead_letters = Vec::new();
        let mut after = Positions::new();
        for record in piece {
            let outcome = match rejected {
                Some(unusable) => Err(unusable.clone()),
                None => decode(record, self.limits),
            };
            let usable = outcome.is_ok();
            match (outcome, Time::from_record(record.timestamp)) {
                (Ok(event), Some(timestamp)) => plan.add(event, timestamp),
                // Decoding has checked the timestamp.
                (Ok(_), None) => {}
                (Err(unusable), _) => {
                    dead_letters.push(DeadLetter {
                        topic_name: self.topic_name(record.topic),
                        record,
                        unusable,
                    });
                }
            }
            let key = (record.topic, record.partition);
            if let Some(before) = after.get(&key).or_else(|| positions.get(&key)).copied() {
                let dead_in_a_row = match before.dead_in_a_row {
                    reached if reached >= self.dead_letter_limit => reached,
                    _ if usable => 0,
                    count => count + 1,
                };
                after.insert(key, Position { next_offset: record.offset + 1, dead_in_a_row, ..before });
            }
        }
        let advances = match &self.group {
            None => Vec::new(),
            Some(group) => after
                .iter()
                .filter_map(|(key, to)| {
                    Some(Advance {
                        group: group.clone(),
                        partition: (self.topic_name(key.0), key.1),
                        expected: *positions.get(key)?,
                        to: *to,
                    })
                })
                .collect(),
        };
        Prepared { plan, dead_letters, advances, after }
    }
}

/// A piece, ready to be written.
struct Prepared<'a> {
    plan: Plan<'a>,
    dead_letters: Vec<DeadLetter<'a>>,
    advances: Vec<Advance>,
    after: Positions,
}

impl Prepared<'_> {
    fn reasons(&self) -> BTreeMap<Reason, u64> {
        let mut reasons = BTreeMap::new();
        for dead_letter in &self.dead_letters {
            *reasons.entry(dead_letter.unusable.reason).or_default() += 1;
        }
        reasons
    }
}

/// A record of a topic that no sound database refuses.
fn harmless(topic: Topic) -> Record {
    let name =
        format!("harmless-{}", uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, topic.name().as_bytes()));
    let value = serde_json::json!({
        "caller_id": name, "greeting_call_id": name, "agent_call_id": name, "cloned_voice_id": name,
        "call_id": name, "status": "initiated", "error_message": "none", "voice_sample_url": "none",
    });
    Record {
        topic,
        partition: 0,
        offset: 0,
        timestamp: 0,
        key: None,
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
    }
}
