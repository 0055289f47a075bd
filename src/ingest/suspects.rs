//! Tries suspects against the database: each alone, followed by a known good record of its topic, in one session and
//! rolled back. All suspects are tried in the same period.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::outcome::{Wait, WaitKind};
use super::prepare::Rejected;
use super::trial::{NextStep, TrialVerdict, Try, judge};
use super::{Ingest, good, wait};
use crate::event::{Event, Reason, Time, Unusable};
use crate::plan::Plan;
use crate::record::{Record, Topic};
use crate::retry::pause_for;
use crate::store::Fault;
use crate::store::fault::Refusal;
use crate::store::offsets::Advance;
use crate::store::write::Rehearsal;

/// Transient failures after which a suspect is left for later.
const TRANSIENT_FAILURES: u32 = 5;
/// Pause after a transient failure.
const TRANSIENT_FAILURE_PAUSE: Duration = Duration::from_millis(200);

/// The finding on a suspect.
pub(super) enum Finding {
    /// The record becomes a dead letter.
    Guilty(Unusable),
    /// The record was accepted: its batch is tried again.
    Taken,
    /// The record is innocent, but cannot be written now.
    Waits(Wait),
}

/// A suspect under trial.
struct Suspect<'a> {
    record: &'a Record,
    event: Event<'a>,
    timestamp: Time,
    tries: Vec<Try>,
    transient_failures: u32,
    not_before: Instant,
    finding: Option<Finding>,
}

impl Ingest {
    /// Tries suspects of one topic, which takes seconds. Returns one finding for each, or a wait if the trial cannot
    /// finish.
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
                    transient_failures: 0,
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
                let text = "the daemon stops before the trial of a record has finished".to_owned();
                return Err(Wait { kind: WaitKind::Other, text });
            }
        }
        Ok(suspects.into_iter().filter_map(|suspect| suspect.finding).collect())
    }

    /// Tries each suspect that is due once. The session is returned before the pause, as a pool may have few.
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
            // This fault is no evidence against the suspect.
            (Err(fault @ (Fault::Unavailable(_) | Fault::Fenced)), _)
            | (_, Err(fault @ (Fault::Unavailable(_) | Fault::Fenced))) => return Err(fault),
            (Err(Fault::Busy(text) | Fault::TooLarge(text)), _)
            | (_, Err(Fault::Busy(text) | Fault::TooLarge(text))) => {
                suspect.transient_failures += 1;
                if suspect.transient_failures >= TRANSIENT_FAILURES {
                    suspect.finding = Some(Finding::Waits(wait(&Fault::Busy(text))));
                }
                suspect.not_before = at + TRANSIENT_FAILURE_PAUSE;
                return Ok(());
            }
            (Err(fault), _) | (_, Err(fault)) => {
                suspect.finding = Some(Finding::Waits(wait(&fault)));
                return Ok(());
            }
        };
        let taken = match taken {
            Ok(()) => Ok(()),
            Err(refusal) => Err(session.confirmed(refusal).await?),
        };
        suspect.tries.push(Try { at, suspect: taken, good });
        match judge(&suspect.tries, english) {
            NextStep::TryAgain(not_before) => suspect.not_before = not_before,
            NextStep::Decided(verdict) => suspect.finding = Some(self.finding(suspect.record, verdict)),
        }
        Ok(())
    }

    fn finding(&self, record: &Record, verdict: TrialVerdict) -> Finding {
        match verdict {
            TrialVerdict::Taken => Finding::Taken,
            TrialVerdict::Drift(refusal) => Finding::Waits(drift(&refusal)),
            TrialVerdict::Unreadable(refusal) => Finding::Waits(Wait {
                kind: WaitKind::Other,
                text: format!(
                    "PostgreSQL refused a row ({refusal}), and its messages are not in English, so that the reason \
                     cannot be determined: GRANT SET ON PARAMETER lc_messages to this role"
                ),
            }),
            TrialVerdict::Guilty(refusal) => {
                warn!(
                    topic = self.topic_name(record.topic),
                    partition = record.partition,
                    offset = record.offset,
                    refused_by = %refusal,
                    trace_id = self.span.trace_id(),
                    "PostgreSQL refuses a record and takes others: it becomes a dead letter"
                );
                let message = format!("PostgreSQL refuses the record and takes others: {refusal}");
                Finding::Guilty(Unusable::new(Reason::RejectedByDatabase, message))
            }
        }
    }

    /// Checks that PostgreSQL accepts a known good record with a suspect's times, together with these offsets.
    pub(super) async fn check_good_record(
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
        let known = landed.as_ref().and_then(|record| self.decode(record).ok());
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
        // A transfer inserts no cache row. If its own table refuses it, a cache that refuses new rows is another
        // topic's problem, and the transfer is tried without one.
        let own = refusal.and_then(|refusal| refusal.table.as_deref()) == Some("clone_transfer_events");
        if result.is_err() && own && session.write(&[cache_row], &[]).await.is_err() {
            return session.write(&writes, advances).await;
        }
        result
    }
}

/// Returns an event of the newest stored row, or a plain one if there is none or it cannot be read.
async fn newest_or_plain(session: &mut Rehearsal<'_>, topic: Topic) -> Result<Event<'static>, Fault> {
    match session.newest(topic).await {
        Ok(Some(event)) => Ok(event),
        Err(fault @ Fault::Unavailable(_)) => Err(fault),
        Ok(None) | Err(_) => Ok(good::plain(topic)),
    }
}

/// Separates a refusal, which may be the record's fault, from other faults.
fn refusal(result: Result<(), Fault>) -> Result<Result<(), Refusal>, Fault> {
    match result {
        Ok(()) => Ok(Ok(())),
        Err(Fault::Refused(refusal)) => Ok(Err(refusal)),
        Err(fault) => Err(fault),
    }
}

/// Returns the wait for a table that accepts no good record.
pub(super) fn drift(refusal: &Refusal) -> Wait {
    let remedy = refusal.remedy();
    Wait { kind: WaitKind::Drift, text: format!("good rows are refused: {refusal}; {remedy}") }
}

/// Returns the wait for a record that alone is too much for the database.
pub(super) fn too_large(record: &Record, text: &str) -> Wait {
    let offset = record.offset;
    let text = format!(
        "the record at offset {offset} is too slow or too large for the database ({text}): raise the limit, or pass \
         over it with `skip`"
    );
    Wait { kind: WaitKind::TooLarge, text }
}
