//! Tests of the merges: each says whether it changed anything, and each obeys the laws of [`laws`].

mod laws;

use super::*;

fn early_and_late() -> [Time; 2] {
    [1, 2].map(Time::from_micros)
}

/// Merges each fold with every other one, so that some pairs differ in a single field.
fn assert_each_merge_says_whether_it_changes_anything<F: Merge + Clone + PartialEq + std::fmt::Debug>(
    folds: &[F],
) {
    for before in folds {
        for other in folds {
            let mut after = before.clone();
            let changed = after.merge(other.clone());
            assert_eq!(changed, after != *before, "{before:?} took in {other:?}");
        }
    }
}

#[test]
fn a_merge_of_calls_says_whether_it_changes_anything() {
    let [early, late] = early_and_late();
    let none = Call::default;
    let metadata = |at, entries: &[(&'static str, Time, &str)]| {
        let entries = entries.iter().map(|(key, at, value)| ((*key).into(), (*at, (*value).to_owned())));
        Call { metadata: Some((at, entries.collect())), ..none() }
    };
    let mut folds = vec![
        none(),
        metadata(early, &[]),
        metadata(late, &[]),
        metadata(early, &[("a", early, "1")]),
        metadata(early, &[("a", early, "2")]),
        metadata(early, &[("b", early, "1")]),
        metadata(late, &[("a", early, "1")]),
    ];
    for (at, value) in [(early, "1"), (early, "2"), (late, "1")] {
        let text = || Some((at, Cow::Borrowed(value)));
        let status = if value == "1" { CallStatus::Completed } else { CallStatus::Failed };
        folds.extend([
            Call { threecx_call_id: text(), ..none() },
            Call { caller_id: text(), ..none() },
            Call { cloned_voice_id: text(), ..none() },
            Call { call_started_at: Some((at, early)), ..none() },
            Call { call_ended_at: Some((at, late)), ..none() },
            Call { duration_seconds: Some((at, 1)), ..none() },
            Call { transcript: text(), ..none() },
            Call { terminal: Some((at, status)), ..none() },
            Call { initiated_at: Some(at), ..none() },
            Call { created_at: Some(at), ..none() },
            Call { updated_at: Some(at), ..none() },
        ]);
    }
    assert_each_merge_says_whether_it_changes_anything(&folds);
}

#[test]
fn a_merge_of_mappings_says_whether_it_changes_anything() {
    let [early, late] = early_and_late();
    let none = Mapping::default;
    let mut folds = vec![none()];
    for (at, url) in [(early, "1"), (early, "2"), (late, "1")] {
        let state = MappingState {
            voice_sample_url: url.into(),
            voice_name: None,
            description: None,
            account_id: None,
        };
        folds.extend([
            Mapping { state: Some((at, state)), ..none() },
            Mapping { deleted: Some(at), ..none() },
            Mapping { updated_at: Some(at), ..none() },
            Mapping { created_at: Some(at), ..none() },
        ]);
    }
    assert_each_merge_says_whether_it_changes_anything(&folds);
}
