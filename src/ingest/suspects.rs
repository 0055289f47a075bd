//! The trial of suspects against the database: each alone, and behind it a known good record of its topic, in one session
//! and rolled back. All suspects are tried side by side.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::outcome::{Wait, WaitKind};
use super::prepare::Rejected;
use super::trial::{Step, Try, Verdict, judge};
use super::{Ingest, good, wait};
use crate::event::{Event, Reason, Time, Unusable, decode};
use crate::plan::Plan;
use crate::record::{Record, Topic};
use crate::retry::pause_for;
use crate::store::Fault;
use crate::store::fault::Refusal;
use crate::store::offsets::Advance;
use crate::store::write::Rehearsal;

/// A suspect whose tries fail so often for a passing reason is left for later.
const PASSING_FAILURES: u32 = 5;
/// The pause behind one.
const AFTER_A_PASSING_FAILURE: Duration = Duration::from_millis(200);

/// What becomes of a suspect.
pub(super) enum Finding {
    /// It becomes a dead letter.
    Guilty(Unusable),
    /// It was taken: its batch is tried again.
    Taken,
    /// It is innocent, and cannot be written now.
    Waits(Wait),
}

/// A suspect under trial.
struct Suspect<'a> {
    record: &'a Record,
    event: Event<'a>,
    timestamp: Time,
    tries: Vec<Try>,
    passing_failures: u32,
    not_before: Instant,
    finding: Option<Finding>,
}

impl Ingest {
    /// Tries suspects of one topic, which takes seconds. One finding for each, or why there is none for any.
    pub(super) async fn try_suspects(
        &self,
        records: &[&Record],
        cancel: &CancellationToken,
    ) -> Result<Vec<Finding>, Wait> {
        let start = Instant::now();
        let mut suspects = Vec::new();
        for record in records {
            if let Ok((event, timestamp)) = self.outcome(record, &Rejected::new()) {
                suspects.push(Suspect {
                    record,
                    event,
                    timestamp,
                    tries: Vec::new(),
                    passing_failures: 0,
                    not_before: start,
                    finding: None,
                });
            }
        }
        loop {
            self.try_all_once(&mut suspects).await.map_err(|fault| wait(&fault))?;
            let undecided = suspects.iter().filter(|suspect| suspect.finding.is_none());
            let Some(next) = undecided.map(|suspect| suspect.not_before).min() else { break };
            if !pause_for(next.saturating_duration_since(Instant::now()), cancel).await {
                let text = "the daemon ends before the trial of a record does".to_owned();
                return Err(Wait { kind: WaitKind::Other, text });
            }
        }
        Ok(suspects.into_iter().filter_map(|suspect| suspect.finding).collect())
    }

    /// One try of each that is due. The session is given back before the pause, as a pool may have few.
    async fn try_all_once(&self, suspects: &mut [Suspect<'_>]) -> Result<(), Fault> {
        let mut session = self.store.rehearsal().await?;
        let english = session.messages_are_english().await?;
        for suspect in suspects.iter_mut().filter(|suspect| suspect.finding.is_none()) {
            if suspect.not_before <= Instant::now() {
                self.try_once(&mut session, suspect, english).await?;
            }
        }
        Ok(())
    }

    async fn try_once(
        &self,
        session: &mut Rehearsal<'_>,
        suspect: &mut Suspect<'_>,
        english: bool,
    ) -> Result<(), Fault> {
        let mut alone = Plan::default();
        alone.add(suspect.event.clone(), suspect.timestamp);
        let taken = session.write(&[alone], &[]).await;
        let at = Instant::now();
        let good = match &taken {
            Ok(()) => Ok(()),
            Err(Fault::Refused(refusal)) => {
                let as_of = (&suspect.event, suspect.timestamp);
                self.write_good(session, suspect.record, as_of, Some(refusal), &[]).await
            }
            Err(_) => Ok(()),
        };
        let (taken, good) = match (refusal(taken), refusal(good)) {
            (Ok(taken), Ok(good)) => (taken, good),
            // it says nothing of the suspect
            (Err(fault @ (Fault::Unavailable(_) | Fault::Fenced)), _)
            | (_, Err(fault @ (Fault::Unavailable(_) | Fault::Fenced))) => return Err(fault),
            (Err(Fault::Busy(text) | Fault::TooLarge(text)), _)
            | (_, Err(Fault::Busy(text) | Fault::TooLarge(text))) => {
                suspect.passing_failures += 1;
                if suspect.passing_failures >= PASSING_FAILURES {
                    suspect.finding = Some(Finding::Waits(wait(&Fault::Busy(text))));
                }
                suspect.not_before = at + AFTER_A_PASSING_FAILURE;
                return Ok(());
            }
            (Err(fault), _) | (_, Err(fault)) => {
                suspect.finding = Some(Finding::Waits(wait(&fault)));
                return Ok(());
            }
        };
        suspect.tries.push(Try { at, suspect: taken, good });
        match judge(&suspect.tries, english) {
            Step::TryAgain(not_before) => suspect.not_before = not_before,
            Step::Decided(verdict) => suspect.finding = Some(self.finding(suspect.record, verdict)),
        }
        Ok(())
    }

    fn finding(&self, record: &Record, verdict: Verdict) -> Finding {
        match verdict {
            Verdict::Taken => Finding::Taken,
            Verdict::Drift(refusal) => Finding::Waits(drift(&refusal)),
            Verdict::Unreadable(refusal) => Finding::Waits(Wait {
                kind: WaitKind::Other,
                text: format!(
                    "PostgreSQL refused a row ({refusal}), and its messages are not in English, so that the reason \
                     cannot be told: GRANT SET ON PARAMETER lc_messages to this role"
                ),
            }),
            Verdict::Guilty(refusal) => {
                warn!(
                    topic = self.topic_name(record.topic),
                    partition = record.partition,
                    offset = record.offset,
                    refused_by = %refusal,
                    "PostgreSQL refuses a record and takes others: it becomes a dead letter"
                );
                let message = format!("PostgreSQL refuses the record and takes others: {refusal}");
                Finding::Guilty(Unusable::new(Reason::RejectedByDatabase, message))
            }
        }
    }

    /// Whether PostgreSQL takes a known good record with the times of a suspect, and what else is to be written with
    /// it. `Ok` where it does.
    pub(super) async fn takes_a_good_one(
        &self,
        suspect: &Record,
        refusal: Option<&Refusal>,
        advances: &[Advance],
    ) -> Result<(), Fault> {
        let Ok((event, timestamp)) = self.outcome(suspect, &Rejected::new()) else {
            return Ok(());
        };
        let mut session = self.store.rehearsal().await?;
        self.write_good(&mut session, suspect, (&event, timestamp), refusal, advances).await
    }

    async fn write_good(
        &self,
        session: &mut Rehearsal<'_>,
        suspect: &Record,
        (event, timestamp): (&Event<'_>, Time),
        refusal: Option<&Refusal>,
        advances: &[Advance],
    ) -> Result<(), Fault> {
        let landed = self.memory.good(suspect.topic);
        let known = landed.as_ref().and_then(|record| decode(record, self.limits).ok());
        let known = match known {
            Some(known) => known,
            None => newest_or_plain(session, suspect.topic).await?,
        };
        let good = good::disguised(known, event, good::seed(suspect));
        let writes = good::writes(&good, timestamp);
        let Some(cache_row) = good::cache_row(&good, timestamp) else {
            return session.write(&writes, advances).await;
        };
        let mut all = vec![cache_row.clone()];
        all.extend(writes.iter().cloned());
        let result = session.write(&all, advances).await;
        // A cache that takes no new row is the trouble of another topic: a transfer makes none, and where its own table
        // refuses it, the cache has no part in that.
        let own = refusal.and_then(|refusal| refusal.table.as_deref()) == Some("clone_transfer_events");
        if result.is_err() && own && session.write(&[cache_row], &[]).await.is_err() {
            return session.write(&writes, advances).await;
        }
        result
    }
}

/// An event of the newest stored row; a plain one where there is none, or where it cannot be read.
async fn newest_or_plain(session: &mut Rehearsal<'_>, topic: Topic) -> Result<Event<'static>, Fault> {
    match session.newest(topic).await {
        Ok(Some(event)) => Ok(event),
        Err(fault @ Fault::Unavailable(_)) => Err(fault),
        Ok(None) | Err(_) => Ok(good::plain(topic)),
    }
}

/// Splits a refusal from what says nothing of the record.
fn refusal(result: Result<(), Fault>) -> Result<Result<(), Refusal>, Fault> {
    match result {
        Ok(()) => Ok(Ok(())),
        Err(Fault::Refused(refusal)) => Ok(Err(refusal)),
        Err(fault) => Err(fault),
    }
}

/// The wait for a table that takes no good record.
pub(super) fn drift(refusal: &Refusal) -> Wait {
    let remedy = refusal.remedy();
    Wait { kind: WaitKind::Drift, text: format!("good rows are refused: {refusal}; {remedy}") }
}

/// The wait of a record that is too much for the database by itself.
pub(super) fn too_large(record: &Record, text: &str) -> Wait {
    let offset = record.offset;
    let text = format!(
        "the record at offset {offset} is too slow or too large for the database ({text}): raise the limit, or pass \
         over it with `skip`"
    );
    Wait { kind: WaitKind::TooLarge, text }
}
