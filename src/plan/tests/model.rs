//! A model of the rows of the contract, section 4: all events of a row in one list, and then the greatest or the
//! least of the list. It uses neither `fold` nor `plan`.

use std::collections::BTreeMap;

use super::Sent;
use super::rows::{Row, Rows, Value, number, numbers, text, texts};
use crate::event::{CallLifecycle, CallStatus, Event, MappingState, Time};
use crate::identity::uid;

/// The columns of a row in the order of the contract.
type Columns = Vec<(&'static str, Value)>;

/// An event of a row that is a fact.
struct FactEvent {
    identity: Columns,
    content: Columns,
    timestamp: i64,
}

/// An event of a mapping.
struct MappingEvent<'b> {
    updated_at: i64,
    /// `None` for a delete.
    state: Option<&'b MappingState<'static>>,
    timestamp: i64,
}

/// The events of each row.
#[derive(Default)]
struct Lists<'b> {
    /// By table and id.
    facts: BTreeMap<(&'static str, String), Vec<FactEvent>>,
    /// By id: identity, `clone_created_at`, `ttl_expires_at`, `ready_at` and timestamp.
    cache: BTreeMap<String, Vec<(Columns, [i64; 4])>>,
    /// By `call_id`.
    calls: BTreeMap<&'b str, Vec<(&'b CallLifecycle<'static>, i64)>>,
    /// By `caller_id`.
    mappings: BTreeMap<&'b str, Vec<MappingEvent<'b>>>,
}

impl<'b> Lists<'b> {
    fn add(&mut self, event: &'b Event<'static>, timestamp: i64) {
        match event {
            Event::Ready(e) => {
                let id =
                    uid("clone.ready", &[&e.caller_id, &e.greeting_call_id, &e.cloned_voice_id]).to_string();
                let ids = vec![
                    ("caller_id", text(&e.caller_id)),
                    ("greeting_call_id", text(&e.greeting_call_id)),
                    ("cloned_voice_id", text(&e.cloned_voice_id)),
                ];
                let content = vec![
                    ("ready_at", number(e.ready_at.micros())),
                    ("clone_duration_ms", numbers(e.clone_duration_ms)),
                ];
                let log = vec![
                    ("clone_created_at", number(e.clone_created_at.micros())),
                    ("cloned_voice_id", text(&e.cloned_voice_id)),
                    ("api_response_time_ms", numbers(e.api_response_time_ms)),
                    ("sample_file_size_bytes", numbers(e.sample_file_size_bytes)),
                    ("error_message", None),
                ];
                self.log(&id, &e.caller_id, "success", log, timestamp);
                self.fact("clone_ready_events", id, ids, content, timestamp);
                let id = uid("voice_clone_cache", &[&e.caller_id, &e.cloned_voice_id]).to_string();
                let ids =
                    vec![("caller_id", text(&e.caller_id)), ("cloned_voice_id", text(&e.cloned_voice_id))];
                let times = [e.clone_created_at, e.ttl_expires_at, e.ready_at].map(Time::micros);
                let [created, expires, ready] = times;
                self.cache.entry(id).or_default().push((ids, [created, expires, ready, timestamp]));
            }
            Event::Failed(e) => {
                let failed_at = e.failed_at.micros();
                let parts: [&str; 3] = [&e.caller_id, &e.greeting_call_id, &failed_at.to_string()];
                let id = uid("clone.failed", &parts).to_string();
                let ids = vec![
                    ("caller_id", text(&e.caller_id)),
                    ("greeting_call_id", text(&e.greeting_call_id)),
                    ("failed_at", number(failed_at)),
                ];
                let log = vec![
                    ("clone_created_at", None),
                    ("cloned_voice_id", texts(e.cloned_voice_id.as_deref())),
                    ("api_response_time_ms", numbers(e.api_response_time_ms)),
                    ("sample_file_size_bytes", numbers(e.sample_file_size_bytes)),
                    ("error_message", text(&e.error_message)),
                ];
                self.log(&id, &e.caller_id, "failed", log, timestamp);
                let content = vec![("error_message", text(&e.error_message))];
                self.fact("clone_failed_events", id, ids, content, timestamp);
            }
            Event::Transfer(e) => {
                let parts: [&str; 3] = [&e.greeting_call_id, &e.agent_call_id, &e.cloned_voice_id];
                let ids = vec![
                    ("greeting_call_id", text(&e.greeting_call_id)),
                    ("agent_call_id", text(&e.agent_call_id)),
                    ("cloned_voice_id", text(&e.cloned_voice_id)),
                ];
                let content = vec![("transferred_at", number(e.transferred_at.micros()))];
                let id = uid("clone.transfer", &parts).to_string();
                self.fact("clone_transfer_events", id, ids, content, timestamp);
            }
            Event::Call(e) => self.calls.entry(&e.call_id).or_default().push((e, timestamp)),
            Event::Mapping(e) => {
                let (updated_at, state) = (e.updated_at.micros(), e.state.as_ref());
                let list = self.mappings.entry(&e.caller_id).or_default();
                list.push(MappingEvent { updated_at, state, timestamp });
            }
        }
    }

    fn fact(&mut self, table: &'static str, id: String, identity: Columns, content: Columns, timestamp: i64) {
        let list = self.facts.entry((table, id)).or_default();
        list.push(FactEvent { identity, content, timestamp });
    }

    fn log(&mut self, event_row: &str, caller_id: &str, status: &str, content: Columns, timestamp: i64) {
        let id = uid("voice_clone_log", &[event_row]).to_string();
        let ids = vec![("caller_id", text(caller_id)), ("status", text(status))];
        self.fact("voice_clone_log", id, ids, content, timestamp);
    }
}

/// The rows of a batch.
pub(super) fn rows(batch: &[Sent]) -> Rows {
    let mut lists = Lists::default();
    batch.iter().for_each(|(event, timestamp)| lists.add(event, timestamp.micros()));
    let mut rows = Rows::new();
    for (key, list) in lists.facts {
        let content = list.iter().map(|event| event.content.clone()).max().unwrap();
        let created_at = number(list.iter().map(|event| event.timestamp).min().unwrap());
        let columns = list[0].identity.iter().cloned().chain(content).chain([("created_at", created_at)]);
        rows.insert(key, columns.collect());
    }
    for (id, list) in lists.cache {
        let of = |position: usize| list.iter().map(move |(_, times)| times[position]);
        let times = [
            ("clone_created_at", number(of(0).min().unwrap())),
            ("ttl_expires_at", number(of(1).max().unwrap())),
            ("last_ready_at", number(of(2).max().unwrap())),
            ("created_at", number(of(3).min().unwrap())),
        ];
        rows.insert(("voice_clone_cache", id), list[0].0.iter().cloned().chain(times).collect());
    }
    rows.extend(lists.calls.iter().map(|(id, list)| (("call_log", (*id).to_owned()), call(list))));
    let mappings = lists.mappings.iter();
    rows.extend(mappings.map(|(id, list)| (("caller_voice_mapping", (*id).to_owned()), mapping(list))));
    rows
}

/// The value of the latest event that has one; of equally late ones the greatest.
fn latest<T: Ord>(values: impl Iterator<Item = (i64, Option<T>)>) -> Option<(i64, T)> {
    let mut given: Vec<(i64, T)> = values.filter_map(|(at, value)| Some((at, value?))).collect();
    given.sort();
    given.pop()
}

fn call(list: &[(&CallLifecycle<'static>, i64)]) -> Row {
    let events = || list.iter().map(|(event, _)| (event.occurred_at.micros(), *event));
    let of = |value: fn(&CallLifecycle<'static>) -> Value| {
        latest(events().map(|(at, event)| (at, value(event)))).map(|(_, value)| value)
    };
    let time = |time: Option<Time>| time.map(Time::micros);
    let given = |value: fn(&CallLifecycle<'static>) -> Option<Time>| {
        latest(events().map(|(at, event)| (at, time(value(event))))).map(|(_, value)| value)
    };
    let terminal = latest(
        events().map(|(at, event)| (at, Some(event.status.name()).filter(|name| *name != "initiated"))),
    );
    let initiated =
        events().filter(|(_, event)| event.status == CallStatus::Initiated).map(|(at, _)| at).min();
    let started_at = given(|event| event.call_started_at).or(initiated);
    let ended_at = given(|event| event.call_ended_at).or(terminal.map(|(at, _)| at));
    let between = started_at.zip(ended_at).map(|(start, end)| end - start);
    let derived = between.filter(|micros| *micros >= 0).map(|micros| micros / 1_000_000);
    let derived = derived.filter(|seconds| *seconds <= 2_147_483_647).and_then(number);
    let has_metadata = events().any(|(_, event)| event.metadata.is_some());
    let mut keys: Vec<&String> =
        events().flat_map(|(_, event)| event.metadata.iter().flatten()).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let member = |key: &String| {
        let values =
            events().map(|(at, event)| (at, event.metadata.as_ref().and_then(|entries| entries.get(key))));
        format!("\"{key}\":{}", latest(values).unwrap().1)
    };
    let metadata = format!("{{{}}}", keys.into_iter().map(member).collect::<Vec<_>>().join(","));
    Row::from([
        ("status", text(terminal.map_or("initiated", |(_, status)| status))),
        ("threecx_call_id", of(|event| texts(event.threecx_call_id.as_deref()))),
        ("caller_id", of(|event| texts(event.caller_id.as_deref()))),
        ("cloned_voice_id", of(|event| texts(event.cloned_voice_id.as_deref()))),
        ("call_started_at", started_at.and_then(number)),
        ("call_ended_at", ended_at.and_then(number)),
        ("duration_seconds", of(|event| numbers(event.duration_seconds)).or(derived)),
        ("transcript", of(|event| texts(event.transcript.as_deref()))),
        ("metadata", has_metadata.then_some(metadata).and_then(|json| text(&json))),
        ("created_at", list.iter().map(|(_, timestamp)| *timestamp).min().and_then(number)),
        ("updated_at", list.iter().map(|(_, timestamp)| *timestamp).max().and_then(number)),
    ])
}

fn mapping(list: &[MappingEvent<'_>]) -> Row {
    let columns = |state: &MappingState<'static>| {
        [
            text(&state.voice_sample_url),
            texts(state.voice_name.as_deref()),
            texts(state.description.as_deref()),
            texts(state.account_id.as_deref()),
        ]
    };
    let state = latest(list.iter().map(|event| (event.updated_at, event.state.map(columns))));
    let state_at = state.as_ref().map(|(at, _)| *at);
    let deleted_at = list.iter().filter(|event| event.state.is_none()).map(|event| event.updated_at).max();
    let [url, name, description, account_id] = state.map(|(_, state)| state).unwrap_or_default();
    Row::from([
        ("voice_sample_url", url),
        ("voice_name", name),
        ("description", description),
        ("account_id", account_id),
        ("updated_at", list.iter().map(|event| event.updated_at).max().and_then(number)),
        ("created_at", list.iter().map(|event| event.timestamp).min().and_then(number)),
        (
            "deleted_at",
            deleted_at.filter(|at| state_at.is_none_or(|state_at| *at >= state_at)).and_then(number),
        ),
    ])
}
