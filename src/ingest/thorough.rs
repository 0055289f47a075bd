//! Writes one partition as far as possible: splits batches that are refused or too large into halves, tries refused
//! records alone, and then writes everything up to the first record that waits (contract, section 6).

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::outcome::{Outcome, Wait, WaitKind};
use super::prepare::{Part, Rejected};
use super::suspects::{Finding, drift, too_large};
use super::{Ingest, counts, traced, wait};
use crate::metrics;
use crate::record::Record;
use crate::store::Fault;
use crate::store::fault::Refusal;
use crate::store::offsets::Position;
use crate::store::write::{Mode, Written};
use crate::traces;

/// Passes without progress after which the partition waits.
const IDLE_PASSES: u32 = 3;
/// Attempts to write one piece that fails with a transient error.
const BUSY_TRIES: u32 = 2;

/// The result of one pass over the records.
struct Pass<'a> {
    /// The position up to which everything landed, offsets included.
    landed: Position,
    /// Records that were refused when written alone. The rows of their neighbours have landed, the offsets have not.
    suspects: Vec<&'a Record>,
    /// The fault that ended the pass before the last record.
    stop: Option<Fault>,
    /// The wait to report in place of the fault's own.
    wait: Option<Wait>,
}

impl Ingest {
    pub(super) async fn write_thoroughly(
        &self,
        part: &Part<'_, '_>,
        cancel: &CancellationToken,
        written: &mut Written,
    ) -> Outcome {
        let mut rejected = Rejected::new();
        let mut landed = part.from;
        // The first innocent record that waits. Nothing from its offset on counts as landed.
        let mut waits: Option<(i64, Wait)> = None;
        let mut idle = 0;
        loop {
            let position = |offset: i64| part.records.partition_point(|record| record.offset < offset);
            let first = position(landed.next_offset);
            let end = waits.as_ref().map_or(part.records.len(), |(offset, _)| position(*offset));
            if let Some((_, wait)) = &waits
                && first >= end
            {
                return Outcome::Waits { landed, wait: wait.clone() };
            }
            let before = landed;
            let rest = Part { from: landed, ..part.piece(first, end) };
            let pass = self.pass(&rest, &rejected, written).await;
            landed = pass.landed;
            if pass.stop == Some(Fault::Fenced) {
                return Outcome::Fenced;
            }
            let stop = pass.wait.or(pass.stop.as_ref().map(wait));
            match (stop, waits.clone()) {
                (Some(wait), _) if pass.suspects.is_empty() || wait.kind == WaitKind::Database => {
                    return Outcome::Waits { landed, wait };
                }
                (None, None) if pass.suspects.is_empty() => return Outcome::Landed(landed),
                (None, Some((_, wait))) if pass.suspects.is_empty() => {
                    return Outcome::Waits { landed, wait };
                }
                _ => {}
            }
            let findings = match self.try_suspects(&pass.suspects, cancel).await {
                Ok(findings) => findings,
                Err(wait) => return Outcome::Waits { landed, wait },
            };
            let mut news = landed != before;
            for (suspect, finding) in pass.suspects.iter().zip(findings) {
                match finding {
                    Finding::Taken => {}
                    Finding::Guilty(unusable) => {
                        news = true;
                        rejected.insert(suspect.offset, unusable);
                    }
                    Finding::Waits(wait) => {
                        if waits.as_ref().is_none_or(|(offset, _)| suspect.offset < *offset) {
                            news = true;
                            waits = Some((suspect.offset, wait));
                        }
                    }
                }
            }
            idle = if news { 0 } else { idle + 1 };
            if idle >= IDLE_PASSES {
                let text =
                    "PostgreSQL sometimes refuses a row, and accepts it when it is written alone".to_owned();
                return Outcome::Waits { landed, wait: Wait { kind: WaitKind::Other, text } };
            }
        }
    }

    /// Writes the records in pieces and halves a piece that is refused or too large. After the first record that is
    /// refused alone, only rows are written, as its offset comes before theirs.
    async fn pass<'a>(&self, part: &Part<'a, '_>, rejected: &Rejected, written: &mut Written) -> Pass<'a> {
        let mut pass = Pass { landed: part.from, suspects: Vec::new(), stop: None, wait: None };
        let mut pieces = part.pieces(self.memory.limit(part.key.topic));
        pieces.reverse();
        let mut good_is_accepted = false;
        let mut busy = 0;
        while let Some(piece) = pieces.pop() {
            let result = if pass.suspects.is_empty() {
                let piece = Part { from: pass.landed, ..piece };
                self.land(&[piece], rejected, written).await.map(|after| {
                    pass.landed = after.get(&piece.key).copied().unwrap_or(pass.landed);
                })
            } else {
                self.land_rows(&piece, rejected, written).await
            };
            let Err(fault) = result else {
                busy = 0;
                continue;
            };
            let halved = match &fault {
                Fault::Refused(refusal) if piece.records.len() > 1 => {
                    if !good_is_accepted {
                        if let Err(fault) = self.check_good_beside(&piece, refusal, &pass, rejected).await {
                            pass.wait = Some(environment_wait(&fault));
                            pass.stop = Some(fault);
                            break;
                        }
                        good_is_accepted = true;
                        info!(
                            topic = self.topic_name(part.key.topic),
                            partition = part.key.partition,
                            records = piece.records.len(),
                            trace_id = self.span.trace_id(),
                            "a batch with a refused row is halved"
                        );
                    }
                    true
                }
                Fault::TooLarge(_) => piece.records.len() > 1,
                _ => false,
            };
            if halved {
                metrics::BATCHES_HALVED.add(&[], 1);
                self.span.halved(piece.records.len());
                let half = piece.records.len() / 2;
                pieces.push(piece.piece(half, piece.records.len()));
                pieces.push(piece.piece(0, half));
                continue;
            }
            match (&fault, piece.records) {
                (Fault::Refused(_), [suspect]) if self.outcome(suspect, rejected).is_ok() => {
                    pass.suspects.push(suspect);
                    continue;
                }
                // Its dead letter or its offset was refused, which is no evidence against the record.
                (Fault::Refused(refusal), _) => pass.wait = Some(drift(refusal)),
                (Fault::TooLarge(text), [record]) => {
                    pass.wait = Some(self.too_large_alone(record, text).await);
                    self.memory.forget_limit(part.key.topic);
                }
                (Fault::Busy(_), _) if busy + 1 < BUSY_TRIES => {
                    busy += 1;
                    pieces.push(piece);
                    continue;
                }
                _ => {}
            }
            pass.stop = Some(fault);
            break;
        }
        pass
    }

    /// Writes the rows of records without moving the stored offset.
    async fn land_rows(
        &self,
        piece: &Part<'_, '_>,
        rejected: &Rejected,
        written: &mut Written,
    ) -> Result<(), Fault> {
        let batch = self.prepare(std::slice::from_ref(piece), rejected);
        let span = traces::write(&self.span, piece.records.len());
        let done = self.store.write(&batch.plan, &[], &[], self.mode).await;
        traced::end(&span, &done);
        if let Err(Fault::TooLarge(_)) = done {
            self.memory.too_large(std::slice::from_ref(piece));
        }
        let done = done?;
        if self.mode != Mode::Rehearse {
            counts::rows(&done);
        }
        written.add(done);
        Ok(())
    }

    /// Checks that a known good record is accepted together with the offset of the refused piece.
    async fn check_good_beside(
        &self,
        piece: &Part<'_, '_>,
        refusal: &Refusal,
        pass: &Pass<'_>,
        rejected: &Rejected,
    ) -> Result<(), Fault> {
        let usable = piece.records.iter().find(|record| self.outcome(record, rejected).is_ok());
        let Some(usable) = usable else { return Ok(()) };
        let advances = if pass.suspects.is_empty() {
            self.prepare(&[Part { from: pass.landed, ..*piece }], rejected).advances
        } else {
            Vec::new()
        };
        self.check_good_record(usable, Some(refusal), &advances).await
    }

    async fn too_large_alone(&self, record: &Record, text: &str) -> Wait {
        match self.check_good_record(record, None, &[]).await {
            Err(fault @ (Fault::TooLarge(_) | Fault::Unavailable(_))) => environment_wait(&fault),
            _ => too_large(record, text),
        }
    }
}

/// Returns the wait for a fault that also hits a known good record, so that no record is to blame.
fn environment_wait(fault: &Fault) -> Wait {
    match fault {
        Fault::Refused(refusal) => drift(refusal),
        Fault::TooLarge(text) => {
            Wait { kind: WaitKind::Other, text: format!("{text}, even for a small record") }
        }
        fault => wait(fault),
    }
}
