//! The merge rules (contract, sections 3 and 4) as plain values. Every merge is a maximum or a minimum, so the result
//! does not depend on order, grouping or repetition.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::event::{CallLifecycle, CallStatus, MappingState, Time};

/// Merges two folds of the same row.
pub trait Merge {
    /// Merges `other` into `self`. Returns whether `self` changed.
    fn merge(&mut self, other: Self) -> bool;
}

/// Merges a value into the entry of a key, or inserts it.
pub fn merge_into<K: Ord, V: Merge>(map: &mut BTreeMap<K, V>, key: K, value: V) {
    match map.entry(key) {
        Entry::Vacant(vacant) => {
            vacant.insert(value);
        }
        Entry::Occupied(mut occupied) => {
            occupied.get_mut().merge(value);
        }
    }
}

/// Takes the other value if it is greater. Returns whether it did.
fn raise<T: Ord>(mine: &mut T, other: T) -> bool {
    let greater = other > *mine;
    if greater {
        *mine = other;
    }
    greater
}

/// Takes the other time if it is earlier. Returns whether it did.
fn lower(mine: &mut Time, other: Time) -> bool {
    let earlier = other < *mine;
    if earlier {
        *mine = other;
    }
    earlier
}

/// As [`lower`]; `None` counts as later than any time.
fn lower_from_none(mine: &mut Option<Time>, other: Option<Time>) -> bool {
    let earlier = other.is_some_and(|other| mine.is_none_or(|mine| other < mine));
    if earlier {
        *mine = other;
    }
    earlier
}

/// A row whose identity is a fact. Of two different contents the greater wins, compared column by column with null
/// lowest, as derived [`Ord`] and `None < Some` do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact<Identity, Content> {
    /// The columns that form the row's id.
    pub identity: Identity,
    /// The columns that are compared.
    pub content: Content,
    /// The earliest timestamp of the row's records.
    pub created_at: Time,
}

impl<Identity, Content: Ord> Merge for Fact<Identity, Content> {
    fn merge(&mut self, other: Self) -> bool {
        lower(&mut self.created_at, other.created_at) | raise(&mut self.content, other.content)
    }
}

/// The values of a `voice_clone_cache` row that follow from the `clone.ready` events of one caller and voice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct Cached<'a> {
    pub caller_id: Cow<'a, str>,
    pub cloned_voice_id: Cow<'a, str>,
    pub clone_created_at: Time,
    pub ttl_expires_at: Time,
    pub last_ready_at: Time,
    pub created_at: Time,
}

impl Merge for Cached<'_> {
    fn merge(&mut self, other: Self) -> bool {
        lower(&mut self.clone_created_at, other.clone_created_at)
            | raise(&mut self.ttl_expires_at, other.ttl_expires_at)
            | raise(&mut self.last_ready_at, other.last_ready_at)
            | lower(&mut self.created_at, other.created_at)
    }
}

/// A value with its event time. The latest wins; at equal times the greater value.
pub type Latest<T> = Option<(Time, T)>;

/// The top-level entries of `metadata`: for each key the event time and the value as compact JSON.
pub type Entries<'a> = BTreeMap<Cow<'a, str>, (Time, String)>;

/// The entries, with the time of the latest event that had `metadata`, even an empty one.
pub type Metadata<'a> = Option<(Time, Entries<'a>)>;

/// The fold of a call's events: the latest value of every field, from which the row of `call_log` is derived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct Call<'a> {
    pub threecx_call_id: Latest<Cow<'a, str>>,
    pub caller_id: Latest<Cow<'a, str>>,
    pub cloned_voice_id: Latest<Cow<'a, str>>,
    pub call_started_at: Latest<Time>,
    pub call_ended_at: Latest<Time>,
    pub duration_seconds: Latest<i32>,
    pub transcript: Latest<Cow<'a, str>>,
    pub metadata: Metadata<'a>,
    /// The latest terminal event.
    pub terminal: Latest<CallStatus>,
    /// The earliest `initiated` event.
    pub initiated_at: Option<Time>,
    pub created_at: Option<Time>,
    pub updated_at: Option<Time>,
}

impl<'a> Call<'a> {
    /// Folds one event whose record has this timestamp.
    pub fn of(event: CallLifecycle<'a>, timestamp: Time) -> Call<'a> {
        let at = event.occurred_at;
        let terminal = event.status != CallStatus::Initiated;
        Call {
            threecx_call_id: event.threecx_call_id.map(|value| (at, value)),
            caller_id: event.caller_id.map(|value| (at, value)),
            cloned_voice_id: event.cloned_voice_id.map(|value| (at, value)),
            call_started_at: event.call_started_at.map(|value| (at, value)),
            call_ended_at: event.call_ended_at.map(|value| (at, value)),
            duration_seconds: event.duration_seconds.map(|value| (at, value)),
            transcript: event.transcript.map(|value| (at, value)),
            metadata: event.metadata.map(|metadata| {
                (at, metadata.into_iter().map(|(key, value)| (Cow::Owned(key), (at, value))).collect())
            }),
            terminal: terminal.then_some((at, event.status)),
            initiated_at: (!terminal).then_some(at),
            created_at: Some(timestamp),
            updated_at: Some(timestamp),
        }
    }

    /// `status`: that of the latest terminal event, `initiated` before there is one.
    pub fn status(&self) -> CallStatus {
        self.terminal.map_or(CallStatus::Initiated, |(_, status)| status)
    }

    /// `call_started_at`: the given value, else the time of the `initiated` event.
    pub fn started_at(&self) -> Option<Time> {
        self.call_started_at.map(|(_, given)| given).or(self.initiated_at)
    }

    /// `call_ended_at`: the given value, else the time of the latest terminal event.
    pub fn ended_at(&self) -> Option<Time> {
        let terminal_at = self.terminal.map(|(at, _)| at).filter(|at| *at != Time::OLDER_THAN_ALL);
        self.call_ended_at.map(|(_, given)| given).or(terminal_at)
    }

    /// `duration_seconds`: the given value, else the time from start to end; null if that is negative or too long.
    pub fn duration(&self) -> Option<i32> {
        if let Some((_, given)) = self.duration_seconds {
            return Some(given);
        }
        let micros = self.ended_at()?.micros().saturating_sub(self.started_at()?.micros());
        if micros < 0 { None } else { i32::try_from(micros / 1_000_000).ok() }
    }

    /// `metadata` as compact JSON with its keys sorted by bytes.
    pub fn metadata_json(&self) -> Option<String> {
        let (_, entries) = self.metadata.as_ref()?;
        let members: Vec<String> = entries
            .iter()
            .map(|(key, (_, value))| format!("{}:{value}", serde_json::Value::from(key.as_ref())))
            .collect();
        Some(format!("{{{}}}", members.join(",")))
    }
}

impl Merge for Call<'_> {
    fn merge(&mut self, other: Self) -> bool {
        raise(&mut self.threecx_call_id, other.threecx_call_id)
            | raise(&mut self.caller_id, other.caller_id)
            | raise(&mut self.cloned_voice_id, other.cloned_voice_id)
            | raise(&mut self.call_started_at, other.call_started_at)
            | raise(&mut self.call_ended_at, other.call_ended_at)
            | raise(&mut self.duration_seconds, other.duration_seconds)
            | raise(&mut self.transcript, other.transcript)
            | merge_metadata(&mut self.metadata, other.metadata)
            | raise(&mut self.terminal, other.terminal)
            | lower_from_none(&mut self.initiated_at, other.initiated_at)
            | lower_from_none(&mut self.created_at, other.created_at)
            | raise(&mut self.updated_at, other.updated_at)
    }
}

/// Merges `metadata` key by key.
fn merge_metadata<'a>(mine: &mut Metadata<'a>, other: Metadata<'a>) -> bool {
    let Some((other_at, other_entries)) = other else {
        return false;
    };
    let Some((at, entries)) = mine else {
        *mine = Some((other_at, other_entries));
        return true;
    };
    let mut changed = raise(at, other_at);
    for (key, value) in other_entries {
        changed |= match entries.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(value);
                true
            }
            Entry::Occupied(mut occupied) => raise(occupied.get_mut(), value),
        };
    }
    changed
}

/// The fold of a caller's mapping events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// The latest event that is not a delete, as a whole.
    pub state: Latest<MappingState<'a>>,
    /// The latest delete, even if a later state replaced it.
    pub deleted: Option<Time>,
    /// The time of the latest event.
    pub updated_at: Option<Time>,
    /// The earliest record timestamp.
    pub created_at: Option<Time>,
}

impl Mapping<'_> {
    /// `deleted_at`: the latest delete, unless a later state followed. At equal times the delete wins.
    pub fn deleted_at(&self) -> Option<Time> {
        let state_at = self.state.as_ref().map(|(at, _)| *at);
        self.deleted.filter(|deleted| Some(*deleted) >= state_at)
    }
}

impl Merge for Mapping<'_> {
    fn merge(&mut self, other: Self) -> bool {
        raise(&mut self.state, other.state)
            | raise(&mut self.deleted, other.deleted)
            | raise(&mut self.updated_at, other.updated_at)
            | lower_from_none(&mut self.created_at, other.created_at)
    }
}

#[cfg(test)]
mod tests;
