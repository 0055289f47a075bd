//! Disguises a known good record of a topic (contract, section 6): unused identities and the times of a suspect,
//! written so that a row of each table of the topic is inserted and then updated. No I/O, no clock.

use std::borrow::Cow;

use crate::event::{
    CallLifecycle, CallStatus, CloneFailed, CloneReady, CloneTransfer, Event, MappingState, Time,
    VoiceMapping,
};
use crate::fold::{Cached, merge_into};
use crate::identity::uid;
use crate::plan::Plan;
use crate::record::{Record, Topic};

/// Returns an event that no sound database refuses, for a topic of which nothing has landed yet. Its caller is in E.164
/// form.
pub(super) fn plain(topic: Topic) -> Event<'static> {
    let caller_id = Cow::Borrowed("+15550100000");
    let [greeting_call_id, agent_call_id, cloned_voice_id, call_id] =
        ["greeting-000000", "agent-000000", "voice-000000", "call-000000"].map(Cow::Borrowed);
    let never = Time::from_micros(0);
    match topic {
        Topic::CloneReady => Event::Ready(CloneReady {
            caller_id,
            greeting_call_id,
            cloned_voice_id,
            ready_at: never,
            clone_duration_ms: Some(1000),
            clone_created_at: never,
            api_response_time_ms: Some(1000),
            sample_file_size_bytes: Some(1000),
            ttl_expires_at: never,
        }),
        Topic::CloneFailed => Event::Failed(CloneFailed {
            caller_id,
            greeting_call_id,
            error_message: Cow::Borrowed("error"),
            failed_at: never,
            cloned_voice_id: None,
            api_response_time_ms: Some(1000),
            sample_file_size_bytes: Some(1000),
        }),
        Topic::CloneTransfer => Event::Transfer(CloneTransfer {
            greeting_call_id,
            agent_call_id,
            cloned_voice_id,
            transferred_at: never,
        }),
        Topic::CallLifecycle => Event::Call(CallLifecycle {
            caller_id: Some(caller_id),
            ..CallLifecycle::new(call_id, CallStatus::Initiated, never)
        }),
        Topic::CallerVoiceMapping => Event::Mapping(VoiceMapping {
            caller_id,
            updated_at: never,
            state: Some(MappingState {
                voice_sample_url: Cow::Borrowed("https://example.com/voice.wav"),
                voice_name: None,
                description: None,
                account_id: None,
            }),
        }),
    }
}

/// Derives a seed for unused identities from a suspect's topic, partition and offset.
pub(super) fn seed(suspect: &Record) -> u128 {
    let place = [suspect.topic.name(), &suspect.partition.to_string(), &suspect.offset.to_string()];
    uid("trial", &place).as_u128()
}

/// Returns the good event with unused identities and the suspect's event times. Both events are of one topic.
pub(super) fn disguised<'g>(good: Event<'g>, suspect: &Event<'_>, seed: u128) -> Event<'g> {
    match (good, suspect) {
        (Event::Ready(good), Event::Ready(suspect)) => Event::Ready(CloneReady {
            caller_id: fresh(&good.caller_id, seed, 0),
            greeting_call_id: fresh(&good.greeting_call_id, seed, 1),
            cloned_voice_id: fresh(&good.cloned_voice_id, seed, 2),
            ready_at: suspect.ready_at,
            clone_created_at: suspect.clone_created_at,
            ttl_expires_at: suspect.ttl_expires_at,
            ..good
        }),
        (Event::Failed(good), Event::Failed(suspect)) => Event::Failed(CloneFailed {
            caller_id: fresh(&good.caller_id, seed, 0),
            greeting_call_id: fresh(&good.greeting_call_id, seed, 1),
            failed_at: suspect.failed_at,
            ..good
        }),
        (Event::Transfer(good), Event::Transfer(suspect)) => Event::Transfer(CloneTransfer {
            greeting_call_id: fresh(&good.greeting_call_id, seed, 1),
            agent_call_id: fresh(&good.agent_call_id, seed, 3),
            cloned_voice_id: fresh(&good.cloned_voice_id, seed, 2),
            transferred_at: suspect.transferred_at,
        }),
        (Event::Call(good), Event::Call(suspect)) => Event::Call(CallLifecycle {
            call_id: fresh(&good.call_id, seed, 4),
            occurred_at: suspect.occurred_at,
            call_started_at: suspect.call_started_at.or(good.call_started_at),
            call_ended_at: suspect.call_ended_at.or(good.call_ended_at),
            ..good
        }),
        (Event::Mapping(good), Event::Mapping(suspect)) => Event::Mapping(VoiceMapping {
            caller_id: fresh(&good.caller_id, seed, 0),
            updated_at: suspect.updated_at,
            ..good
        }),
        (good, _) => good,
    }
}

/// Returns the writes of an event: a row in each table of its topic, and then a change of each.
pub(super) fn writes<'g>(event: &Event<'g>, timestamp: Time) -> Vec<Plan<'g>> {
    // `created_at` is the earliest timestamp, so a row changes when an earlier one follows. The insert uses the later
    // one, as a microsecond before the suspect's time might fall outside the bounds of its table partition.
    let later = Time::from_micros(timestamp.micros().saturating_add(1));
    let mut first = Plan::default();
    first.add(event.clone(), later);
    let mut second = Plan::default();
    second.add(event.clone(), timestamp);
    if let Event::Transfer(transfer) = event {
        // The second transfer of a voice changes another column of its cache row than the first.
        let another = |text: &str| Cow::Owned(fresh(text, 0, 5).into_owned());
        let (greeting_call_id, agent_call_id) =
            (another(&transfer.greeting_call_id), another(&transfer.agent_call_id));
        second.add(
            Event::Transfer(CloneTransfer { greeting_call_id, agent_call_id, ..transfer.clone() }),
            timestamp,
        );
    }
    vec![first, second]
}

/// Returns the cache row that a transfer updates; without it the transfer would update none.
pub(super) fn cache_row<'g>(event: &Event<'g>, timestamp: Time) -> Option<Plan<'g>> {
    let Event::Transfer(transfer) = event else {
        return None;
    };
    let caller_id: Cow<'_, str> = Cow::Borrowed("+15550100000");
    let before = Time::from_micros(transfer.transferred_at.micros().saturating_sub(1));
    let mut plan = Plan::default();
    merge_into(
        &mut plan.voice_clone_cache,
        uid("voice_clone_cache", &[&caller_id, &transfer.cloned_voice_id]),
        Cached {
            caller_id,
            cloned_voice_id: transfer.cloned_voice_id.clone(),
            clone_created_at: before,
            ttl_expires_at: transfer.transferred_at,
            last_ready_at: before,
            created_at: timestamp,
        },
    );
    Some(plan)
}

/// Maximum number of digits of an identity that are replaced.
const REPLACED: usize = 9;

/// Returns a text of the same form with other digits, so that a constraint on its form accepts it as well. The first
/// digit stays, as a phone number does not begin with 0. Digits are appended to a text that has too few.
fn fresh<'t>(text: &str, seed: u128, part: u128) -> Cow<'t, str> {
    let mut source = uid("trial", &[&seed.to_string(), &part.to_string()]).as_u128();
    let mut digit = || {
        let next = (source % 10) as u8;
        source /= 10;
        char::from(b'0' + next)
    };
    let mut characters: Vec<char> = text.chars().collect();
    let digits: Vec<usize> = (0..characters.len())
        .filter(|at| characters.get(*at).is_some_and(char::is_ascii_digit))
        .skip(1)
        .collect();
    if digits.len() >= 4 {
        for at in digits.iter().rev().take(REPLACED) {
            if let Some(character) = characters.get_mut(*at) {
                *character = digit();
            }
        }
    } else {
        characters.truncate(255 - REPLACED);
        characters.extend((0..REPLACED).map(|_| digit()));
    }
    Cow::Owned(characters.into_iter().collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_keeps_its_form() {
        let form = |text: &str| -> String {
            fresh(text, 7, 0).chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()
        };
        assert_eq!(form("+15550100123"), "+00000000000");
        assert!(fresh("+15550100123", 7, 0).starts_with("+15"), "the first digits stay");
        assert_eq!(form("f3a7c10b-58ac-4372-a567-0e02b2c3d479"), "f0a0c00b-00ac-0000-a000-0e00b0c0d000");
        assert_eq!(form("anonymous"), "anonymous000000000");
        assert_eq!(fresh(&"é".repeat(255), 7, 0).chars().count(), 255);
    }

    #[test]
    fn identities_differ_by_suspect_and_by_field() {
        let text = "+15550100123";
        let all = [(7, 0), (7, 1), (8, 0)].map(|(seed, part)| fresh(text, seed, part));
        assert!(
            all[0] != all[1] && all[0] != all[2] && all[1] != all[2] && !all.contains(&Cow::Borrowed(text))
        );
    }

    #[test]
    fn a_disguised_event_has_the_suspects_times_and_neither_ones_identity() {
        let at = Time::from_micros;
        for topic in Topic::ALL {
            let suspect = match plain(topic) {
                Event::Ready(event) => Event::Ready(CloneReady {
                    ready_at: at(1),
                    clone_created_at: at(2),
                    ttl_expires_at: at(3),
                    ..event
                }),
                Event::Failed(event) => Event::Failed(CloneFailed { failed_at: at(1), ..event }),
                Event::Transfer(event) => Event::Transfer(CloneTransfer { transferred_at: at(1), ..event }),
                Event::Call(event) => {
                    Event::Call(CallLifecycle { occurred_at: at(1), call_started_at: Some(at(2)), ..event })
                }
                Event::Mapping(event) => {
                    Event::Mapping(VoiceMapping { updated_at: at(1), state: None, ..event })
                }
            };
            match (disguised(plain(topic), &suspect, 7), plain(topic)) {
                (Event::Ready(event), Event::Ready(plain)) => {
                    assert_eq!(
                        (event.ready_at, event.clone_created_at, event.ttl_expires_at),
                        (at(1), at(2), at(3))
                    );
                    assert!(
                        event.caller_id != plain.caller_id && event.cloned_voice_id != plain.cloned_voice_id
                    );
                }
                (Event::Failed(event), Event::Failed(plain)) => {
                    assert_eq!(event.failed_at, at(1));
                    assert!(
                        event.caller_id != plain.caller_id
                            && event.greeting_call_id != plain.greeting_call_id
                    );
                }
                (Event::Transfer(event), Event::Transfer(plain)) => {
                    assert_eq!(event.transferred_at, at(1));
                    assert!(
                        event.cloned_voice_id != plain.cloned_voice_id
                            && event.agent_call_id != plain.agent_call_id
                    );
                }
                (Event::Call(event), Event::Call(plain)) => {
                    assert_eq!((event.occurred_at, event.call_started_at), (at(1), Some(at(2))));
                    assert!(event.call_id != plain.call_id && event.caller_id == plain.caller_id);
                }
                (Event::Mapping(event), Event::Mapping(plain)) => {
                    assert_eq!((event.updated_at, &event.state), (at(1), &plain.state), "a row is made");
                    assert!(event.caller_id != plain.caller_id);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn each_table_of_the_topic_is_written_twice() {
        let tables = |plan: &Plan<'_>| {
            [
                plan.clone_ready_events.len(),
                plan.clone_failed_events.len(),
                plan.clone_transfer_events.len(),
                plan.voice_clone_log.len(),
                plan.voice_clone_cache.len(),
                plan.call_log.len(),
                plan.caller_voice_mapping.len(),
            ]
        };
        for (topic, first, second) in [
            (Topic::CloneReady, [1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0, 0]),
            (Topic::CloneFailed, [0, 1, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 0, 0]),
            (Topic::CloneTransfer, [0, 0, 1, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0, 0]),
            (Topic::CallLifecycle, [0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0]),
            (Topic::CallerVoiceMapping, [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1]),
        ] {
            let event = plain(topic);
            let plans = writes(&event, Time::from_micros(5));
            assert_eq!((tables(&plans[0]), tables(&plans[1])), (first, second), "{topic}");
            let cached = cache_row(&event, Time::from_micros(5)).map(|plan| plan.voice_clone_cache.len());
            assert_eq!(cached, (topic == Topic::CloneTransfer).then_some(1), "{topic}");
        }
    }
}
