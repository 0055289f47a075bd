//! The proof by trial (contract, section 6): judges a suspect by how PostgreSQL treated it and a known good record, one
//! after the other and several times. A pure value: no database, no clock.

use std::time::{Duration, Instant};

use crate::store::fault::Refusal;

/// Minimum number of refusals of a guilty record.
const MIN_TRIES: u32 = 3;
/// Minimum time between the first and the last of them.
const MIN_SPAN: Duration = Duration::from_secs(3);

/// One try of a suspect, and of the good record after it.
#[derive(Clone, Debug)]
pub(super) struct Try {
    /// The time when the suspect's outcome was known.
    pub at: Instant,
    /// Whether the suspect was accepted.
    pub suspect: Result<(), Refusal>,
    /// Whether the good record was accepted; irrelevant if the suspect was.
    pub good: Result<(), Refusal>,
}

/// The verdict on a suspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TrialVerdict {
    /// The suspect is refused, and other records are not.
    Guilty(Refusal),
    /// The suspect was accepted.
    Taken,
    /// The table also refuses a good record, or the broken rule is never a record's fault.
    Drift(Refusal),
    /// The error has no kind of its own, and PostgreSQL's messages, which would identify it, are not in English.
    Unreadable(Refusal),
}

/// The next step for a suspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    Decided(TrialVerdict),
    /// Another try is due at this moment.
    TryAgain(Instant),
}

/// Judges the tries of a suspect, of which there is at least one.
pub(super) fn judge(tries: &[Try], messages_are_english: bool) -> NextStep {
    let (Some(first), Some(last)) = (tries.first(), tries.last()) else {
        return NextStep::Decided(TrialVerdict::Taken);
    };
    let Err(refusal) = &last.suspect else {
        return NextStep::Decided(TrialVerdict::Taken);
    };
    if refusal.is_never_a_records_fault() {
        return NextStep::Decided(TrialVerdict::Drift(refusal.clone()));
    }
    if let Err(good_refusal) = &last.good {
        return NextStep::Decided(TrialVerdict::Drift(good_refusal.clone()));
    }
    if !refusal.is_named() && !messages_are_english {
        return NextStep::Decided(TrialVerdict::Unreadable(refusal.clone()));
    }
    let count = u32::try_from(tries.len()).unwrap_or(u32::MAX);
    if count >= MIN_TRIES && last.at.saturating_duration_since(first.at) >= MIN_SPAN {
        return NextStep::Decided(TrialVerdict::Guilty(refusal.clone()));
    }
    NextStep::TryAgain(first.at + MIN_SPAN * count.min(MIN_TRIES - 1) / (MIN_TRIES - 1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::store::fault::Rule;

    fn refusal(rule: Rule) -> Refusal {
        Refusal { rule, constraint: None, column: None, table: Some("call_log".into()) }
    }

    fn refused(rule: Rule) -> Result<(), Refusal> {
        Err(refusal(rule))
    }

    /// Returns tries at these milliseconds, all with the same outcomes.
    fn tries(at: &[u64], suspect: &Result<(), Refusal>, good: &Result<(), Refusal>) -> Vec<Try> {
        let start = Instant::now();
        at.iter()
            .map(|millis| Try {
                at: start + Duration::from_millis(*millis),
                suspect: suspect.clone(),
                good: good.clone(),
            })
            .collect()
    }

    #[test]
    fn three_refusals_over_three_seconds_beside_a_good_record_that_is_taken_are_proof() {
        let suspect = refused(Rule::Check);
        let after = |at: &[u64]| {
            let tries = tries(at, &suspect, &Ok(()));
            match judge(&tries, true) {
                NextStep::TryAgain(moment) => Err((moment - tries[0].at).as_millis()),
                NextStep::Decided(verdict) => Ok(verdict),
            }
        };
        assert_eq!(after(&[0]), Err(1500));
        assert_eq!(after(&[0, 1500]), Err(3000));
        assert_eq!(after(&[0, 4000]), Err(3000), "two are not enough, however far apart");
        assert_eq!(after(&[0, 1500, 2999]), Err(3000), "three are not enough in less than 3 s");
        assert_eq!(after(&[0, 1500, 3000]), Ok(TrialVerdict::Guilty(refusal(Rule::Check))));
        assert_eq!(after(&[0, 1500, 2000, 3001]), Ok(TrialVerdict::Guilty(refusal(Rule::Check))));
    }

    #[test]
    fn a_suspect_that_is_taken_once_is_innocent() {
        let mut tries = tries(&[0, 1500, 3000], &refused(Rule::Unnamed(None)), &Ok(()));
        tries[2].suspect = Ok(());
        assert_eq!(judge(&tries, true), NextStep::Decided(TrialVerdict::Taken));
    }

    #[test]
    fn a_suspect_whose_table_refuses_the_good_record_too_is_innocent() {
        for at in [&[0][..], &[0, 1500], &[0, 1500, 3000]] {
            let mut tries = tries(at, &refused(Rule::Check), &Ok(()));
            tries.last_mut().unwrap().good = refused(Rule::NotNull);
            assert_eq!(judge(&tries, true), NextStep::Decided(TrialVerdict::Drift(refusal(Rule::NotNull))));
        }
    }

    #[test]
    fn a_foreign_key_or_a_missing_partition_is_never_a_records_fault() {
        for rule in [Rule::ForeignKey, Rule::Partitions] {
            let tries = tries(&[0, 1500, 3000], &refused(rule), &Ok(()));
            assert_eq!(judge(&tries, true), NextStep::Decided(TrialVerdict::Drift(refusal(rule))));
        }
    }

    #[test]
    fn an_error_without_a_kind_is_no_proof_where_messages_cannot_be_read() {
        let unnamed = Rule::Unnamed(None);
        let at = [0, 1500, 3000];
        let unreadable = NextStep::Decided(TrialVerdict::Unreadable(refusal(unnamed)));
        assert_eq!(judge(&tries(&at, &refused(unnamed), &Ok(())), false), unreadable);
        let guilty = |rule| NextStep::Decided(TrialVerdict::Guilty(refusal(rule)));
        assert_eq!(judge(&tries(&at, &refused(unnamed), &Ok(())), true), guilty(unnamed));
        assert_eq!(judge(&tries(&at, &refused(Rule::Unique), &Ok(())), false), guilty(Rule::Unique));
    }
}
