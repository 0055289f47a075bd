//! The laws of every merge: order, grouping and repetition change nothing. The values come from small sets, so that
//! equal times and equal values are frequent.

use std::fmt::Debug;

use proptest::prelude::*;

use super::*;

fn times() -> impl Strategy<Value = Time> {
    prop::sample::select(vec![0, 1, 1_000_000, 3_000_000]).prop_map(Time::from_micros)
}

fn texts() -> impl Strategy<Value = Cow<'static, str>> {
    prop::sample::select(vec!["a", "aa", "b", "é"]).prop_map(Cow::Borrowed)
}

fn latest<T: Clone + Debug>(values: impl Strategy<Value = T>) -> impl Strategy<Value = Latest<T>> {
    prop::option::of((times(), values))
}

fn metadata() -> impl Strategy<Value = Metadata<'static>> {
    let value = texts().prop_map(Cow::into_owned);
    prop::option::of((times(), prop::collection::btree_map(texts(), (times(), value), 0..4)))
}

fn calls() -> impl Strategy<Value = Call<'static>> {
    let statuses = prop::sample::select(vec![CallStatus::Completed, CallStatus::Failed]);
    let given = (
        latest(texts()),
        latest(texts()),
        latest(texts()),
        latest(times()),
        latest(times()),
        latest(0..3),
        latest(texts()),
        metadata(),
    );
    let derived =
        (latest(statuses), prop::option::of(times()), prop::option::of(times()), prop::option::of(times()));
    (given, derived).prop_map(|(given, derived)| {
        let (
            threecx_call_id,
            caller_id,
            cloned_voice_id,
            started_at,
            ended_at,
            duration,
            transcript,
            metadata,
        ) = given;
        let (terminal, initiated_at, created_at, updated_at) = derived;
        Call {
            threecx_call_id,
            caller_id,
            cloned_voice_id,
            call_started_at: started_at,
            call_ended_at: ended_at,
            duration_seconds: duration,
            transcript,
            metadata,
            terminal,
            initiated_at,
            created_at,
            updated_at,
        }
    })
}

fn mappings() -> impl Strategy<Value = Mapping<'static>> {
    let state = (texts(), prop::option::of(texts()), prop::option::of(texts()), prop::option::of(texts()));
    let state = state.prop_map(|(voice_sample_url, voice_name, description, account_id)| MappingState {
        voice_sample_url,
        voice_name,
        description,
        account_id,
    });
    let mapping =
        (latest(state), prop::option::of(times()), prop::option::of(times()), prop::option::of(times()));
    mapping.prop_map(|(state, deleted, updated_at, created_at)| Mapping {
        state,
        deleted,
        updated_at,
        created_at,
    })
}

/// Facts of one row: the identity is that of all of them.
fn facts() -> impl Strategy<Value = Fact<(), (Option<Time>, Option<Cow<'static, str>>)>> {
    let content = (prop::option::of(times()), prop::option::of(texts()));
    (content, times()).prop_map(|(content, created_at)| Fact { identity: (), content, created_at })
}

/// Cache rows of one caller and voice.
fn cached() -> impl Strategy<Value = Cached<'static>> {
    (times(), times(), times(), times()).prop_map(
        |(clone_created_at, ttl_expires_at, last_ready_at, created_at)| Cached {
            caller_id: "caller".into(),
            cloned_voice_id: "voice".into(),
            clone_created_at,
            ttl_expires_at,
            last_ready_at,
            created_at,
        },
    )
}

fn merged<F: Merge + Clone>(one: &F, other: &F) -> F {
    let mut both = one.clone();
    both.merge(other.clone());
    both
}

fn assert_laws<F>(a: &F, b: &F, c: &F) -> Result<(), TestCaseError>
where
    F: Merge + Clone + Debug + PartialEq,
{
    let both = merged(a, b);
    prop_assert_eq!(&both, &merged(b, a), "the order changed the result");
    prop_assert_eq!(merged(&both, c), merged(a, &merged(b, c)), "the grouping changed the result");
    for part in [a, b, &both] {
        let mut again = both.clone();
        prop_assert!(!again.merge(part.clone()), "a repetition said that it changed the result");
        prop_assert_eq!(&again, &both, "a repetition changed the result");
    }
    prop_assert_eq!(a.clone().merge(b.clone()), &both != a, "a merge did not say what it did");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_grouping_and_repetition_of_calls_change_nothing(a in calls(), b in calls(), c in calls()) {
        assert_laws(&a, &b, &c)?;
    }

    #[test]
    fn order_grouping_and_repetition_of_mappings_change_nothing(a in mappings(), b in mappings(), c in mappings()) {
        assert_laws(&a, &b, &c)?;
    }

    #[test]
    fn order_grouping_and_repetition_of_facts_change_nothing(a in facts(), b in facts(), c in facts()) {
        assert_laws(&a, &b, &c)?;
    }

    #[test]
    fn order_grouping_and_repetition_of_cache_rows_change_nothing(a in cached(), b in cached(), c in cached()) {
        assert_laws(&a, &b, &c)?;
    }
}
