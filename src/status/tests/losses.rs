//! Offsets that the log has lost.

use super::*;

#[test]
fn records_that_the_log_lost_are_counted() {
    let document = judge(&facts([Some(4), Some(4)], 20));
    assert_says(
        &document,
        Verdict::Degraded,
        "offsets_lost",
        "offsets 4 to 9 were not consumed",
        "retention.ms",
    );
    let document = judge(&facts([Some(30), Some(30)], 20));
    assert_says(&document, Verdict::Degraded, "offsets_lost", "ends at 20, before the stored offset 30", "");
    assert_eq!(document.partitions[0].lag_records, Some(0));
}

/// The document of a partition that has consumed everything since it lost offsets.
fn after(cause: &str, to_offset: Option<i64>, age_seconds: f64) -> Document {
    let mut facts = facts([Some(20), Some(20)], 20);
    answers(&mut facts).skips = vec![Skipped {
        topic: "p.clone.failed".into(),
        partition: 1,
        from_offset: 4,
        to_offset,
        note: "why".into(),
        skipped_at: "2027-01-15T07:00:00Z".into(),
        cause: cause.into(),
        age_seconds,
    }];
    judge(&facts)
}

#[test]
fn a_loss_stays_in_the_list_with_its_count_and_its_time_and_needs_a_person_for_a_day() {
    let document = after("removed", Some(10), 3_600.0);
    let what = "p.clone.failed partition 1: offsets 4 to 9 were lost before they were consumed, at most 6 records: why";
    assert_says(&document, Verdict::Degraded, "offsets_lost", what, "retention.ms of p.clone.failed");
    assert_says(&document, Verdict::Degraded, "offsets_lost", what, "publish --topic clone.failed");
    assert_eq!(document.problems[0].since.as_deref(), Some("2027-01-15T07:00:00Z"));
    assert_eq!(document.problems[0].severity, Severity::Critical);

    let document = after("removed", Some(10), 90_000.0);
    assert_says(&document, Verdict::Ok, "offsets_lost", what, "");
    assert_eq!(document.problems[0].severity, Severity::Info);
}

#[test]
fn a_recreated_topic_has_lost_a_number_of_records_that_is_not_known() {
    let document = after("recreated", None, 3_600.0);
    assert_says(&document, Verdict::Degraded, "offsets_lost", "no longer had offset 4", "send again");
}
