//! Tests of the plan with generated batches: it has the rows of a model, whatever the order of the events, their
//! repetitions and their division into batches.

mod model;
mod rows;

use std::collections::BTreeMap;

use proptest::prelude::*;

use self::rows::rows;
use super::*;
use crate::event::{CallLifecycle, CallStatus, MappingState};
use crate::fold::Merge;

/// An event and the timestamp of its record.
type Sent = (Event<'static>, Time);

// All values come from small sets, so that events often share a row, a time or a value.

fn texts() -> impl Strategy<Value = Cow<'static, str>> {
    prop::sample::select(vec!["a", "b"]).prop_map(Cow::Borrowed)
}

fn maybe_text() -> impl Strategy<Value = Option<Cow<'static, str>>> {
    prop::option::of(prop::sample::select(vec!["a", "aa", "é"]).prop_map(Cow::Borrowed))
}

fn times() -> impl Strategy<Value = Time> {
    let seconds = prop::sample::select(vec![0, 1_000_000, 1_999_999, 5_000_000_000_000_000]);
    seconds.prop_map(Time::from_micros)
}

fn integers() -> impl Strategy<Value = Option<i32>> {
    prop::option::of(0..3)
}

fn ready() -> impl Strategy<Value = Event<'static>> {
    let ids = (texts(), texts(), texts());
    let given = (times(), integers(), times(), integers(), integers(), times());
    (ids, given).prop_map(|((caller_id, greeting_call_id, cloned_voice_id), given)| {
        let (ready_at, duration, created_at, response_time, size, ttl_expires_at) = given;
        Event::Ready(CloneReady {
            caller_id,
            greeting_call_id,
            cloned_voice_id,
            ready_at,
            clone_duration_ms: duration,
            clone_created_at: created_at,
            api_response_time_ms: response_time,
            sample_file_size_bytes: size,
            ttl_expires_at,
        })
    })
}

fn failed() -> impl Strategy<Value = Event<'static>> {
    (texts(), texts(), texts(), times(), maybe_text(), integers(), integers()).prop_map(|given| {
        let (caller_id, greeting_call_id, error_message, failed_at, voice, response_time, size) = given;
        Event::Failed(CloneFailed {
            caller_id,
            greeting_call_id,
            error_message,
            failed_at,
            cloned_voice_id: voice,
            api_response_time_ms: response_time,
            sample_file_size_bytes: size,
        })
    })
}

fn transfer() -> impl Strategy<Value = Event<'static>> {
    (texts(), texts(), texts(), times()).prop_map(
        |(greeting_call_id, agent_call_id, cloned_voice_id, transferred_at)| {
            Event::Transfer(CloneTransfer {
                greeting_call_id,
                agent_call_id,
                cloned_voice_id,
                transferred_at,
            })
        },
    )
}

fn call() -> impl Strategy<Value = Event<'static>> {
    let status = prop::sample::select(vec![CallStatus::Initiated, CallStatus::Completed, CallStatus::Failed]);
    let key = prop::sample::select(vec!["k".to_owned(), "l".to_owned()]);
    let value = prop::sample::select(vec!["1".to_owned(), "null".to_owned(), "\"a\"".to_owned()]);
    let metadata = prop::option::of(prop::collection::btree_map(key, value, 0..3));
    let given_times = (prop::option::weighted(0.2, times()), prop::option::weighted(0.2, times()));
    let duration = prop::option::weighted(0.2, 0..3);
    let ids = (maybe_text(), maybe_text(), maybe_text());
    (texts(), status, times(), ids, given_times, duration, maybe_text(), metadata).prop_map(
        |(call_id, status, occurred_at, ids, given_times, duration_seconds, transcript, metadata)| {
            let (threecx_call_id, caller_id, cloned_voice_id) = ids;
            let (call_started_at, call_ended_at) = given_times;
            Event::Call(CallLifecycle {
                call_id,
                status,
                occurred_at,
                threecx_call_id,
                caller_id,
                cloned_voice_id,
                call_started_at,
                call_ended_at,
                duration_seconds,
                transcript,
                metadata,
            })
        },
    )
}

fn mapping() -> impl Strategy<Value = Event<'static>> {
    let state = (texts(), maybe_text(), maybe_text(), maybe_text()).prop_map(
        |(voice_sample_url, voice_name, description, account_id)| MappingState {
            voice_sample_url,
            voice_name,
            description,
            account_id,
        },
    );
    (texts(), times(), prop::option::of(state)).prop_map(|(caller_id, updated_at, state)| {
        Event::Mapping(VoiceMapping { caller_id, updated_at, state })
    })
}

/// Batches of one topic or of all.
fn batches() -> impl Strategy<Value = Vec<Sent>> {
    let of = |events: BoxedStrategy<Event<'static>>| prop::collection::vec((events, times()), 0..10);
    let any = prop_oneof![ready(), failed(), transfer(), call(), mapping()].boxed();
    prop_oneof![
        of(ready().boxed()),
        of(failed().boxed()),
        of(transfer().boxed()),
        of(call().boxed()),
        of(mapping().boxed()),
        of(any),
    ]
}

/// A batch, and the same events in another order with some of them repeated.
fn batches_disordered() -> impl Strategy<Value = (Vec<Sent>, Vec<Sent>)> {
    batches().prop_flat_map(|batch| {
        let times = prop::collection::vec(1..3_usize, batch.len());
        let repeated = times.prop_flat_map({
            let batch = batch.clone();
            move |times| {
                let sent = batch.iter().zip(times);
                let repeated: Vec<Sent> =
                    sent.flat_map(|(sent, times)| std::iter::repeat_n(sent.clone(), times)).collect();
                Just(repeated).prop_shuffle()
            }
        });
        (Just(batch), repeated)
    })
}

/// A batch, and two that hold its events, each in one of them or in both.
fn batches_divided() -> impl Strategy<Value = (Vec<Sent>, Vec<Sent>, Vec<Sent>)> {
    batches().prop_flat_map(|batch| {
        let places = prop::collection::vec(
            prop::sample::select(vec![(true, false), (false, true), (true, true)]),
            batch.len(),
        );
        (Just(batch), places).prop_map(|(batch, places)| {
            let part = |is_in: fn(&(bool, bool)) -> bool| {
                let placed = batch.iter().zip(&places);
                placed.filter(|(_, place)| is_in(place)).map(|(sent, _)| sent.clone()).collect()
            };
            let (one, other) = (part(|place| place.0), part(|place| place.1));
            (batch, one, other)
        })
    })
}

fn plan(batch: &[Sent]) -> Plan<'static> {
    let mut plan = Plan::default();
    batch.iter().for_each(|(event, timestamp)| plan.add(event.clone(), *timestamp));
    plan
}

/// Merges two plans row by row, as the statements merge a batch with the stored rows.
fn merged(mut one: Plan<'static>, other: Plan<'static>) -> Plan<'static> {
    fn merge_all<K: Ord, V: Merge>(rows: &mut BTreeMap<K, V>, other: BTreeMap<K, V>) {
        other.into_iter().for_each(|(key, row)| merge_into(rows, key, row));
    }
    merge_all(&mut one.clone_ready_events, other.clone_ready_events);
    merge_all(&mut one.clone_failed_events, other.clone_failed_events);
    merge_all(&mut one.clone_transfer_events, other.clone_transfer_events);
    merge_all(&mut one.voice_clone_log, other.voice_clone_log);
    merge_all(&mut one.voice_clone_cache, other.voice_clone_cache);
    merge_all(&mut one.call_log, other.call_log);
    merge_all(&mut one.caller_voice_mapping, other.caller_voice_mapping);
    one
}

/// Compares all that the plans hold, and not only the rows that follow from it.
fn assert_same(one: &Plan<'_>, other: &Plan<'_>) -> Result<(), TestCaseError> {
    prop_assert_eq!(&one.clone_ready_events, &other.clone_ready_events);
    prop_assert_eq!(&one.clone_failed_events, &other.clone_failed_events);
    prop_assert_eq!(&one.clone_transfer_events, &other.clone_transfer_events);
    prop_assert_eq!(&one.voice_clone_log, &other.voice_clone_log);
    prop_assert_eq!(&one.voice_clone_cache, &other.voice_clone_cache);
    prop_assert_eq!(&one.call_log, &other.call_log);
    prop_assert_eq!(&one.caller_voice_mapping, &other.caller_voice_mapping);
    prop_assert_eq!(one.voices(), other.voices());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_has_the_rows_of_the_model(batch in batches()) {
        prop_assert_eq!(rows(&plan(&batch)), model::rows(&batch));
    }

    #[test]
    fn order_and_repetition_of_events_change_nothing((batch, disordered) in batches_disordered()) {
        assert_same(&plan(&disordered), &plan(&batch))?;
    }

    #[test]
    fn two_batches_merged_are_the_whole_batch((batch, one, other) in batches_divided()) {
        assert_same(&merged(plan(&one), plan(&other)), &plan(&batch))?;
        assert_same(&merged(plan(&other), plan(&one)), &plan(&batch))?;
    }

    #[test]
    fn the_voices_to_lock_are_those_of_ready_and_transfer_events(batch in batches()) {
        let expected: BTreeSet<&str> = batch.iter().filter_map(|(event, _)| match event {
            Event::Ready(event) => Some(event.cloned_voice_id.as_ref()),
            Event::Transfer(event) => Some(event.cloned_voice_id.as_ref()),
            _ => None,
        }).collect();
        let plan = plan(&batch);
        prop_assert_eq!(plan.voices(), expected);
    }
}
