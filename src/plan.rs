//! A batch of events folded to the rows that it produces: each row once, sorted by its key, so that a statement never
//! contains a key twice and concurrent writers lock rows in the same order. No I/O, no clock.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::event::{CloneFailed, CloneReady, CloneTransfer, Event, Time, VoiceMapping};
use crate::fold::{Cached, Call, Fact, Mapping, merge_into};
use crate::identity::uid;
use crate::record::Record;

/// The columns that identify a `clone_ready_events` row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct ReadyIdentity<'a> {
    pub caller_id: Cow<'a, str>,
    pub greeting_call_id: Cow<'a, str>,
    pub cloned_voice_id: Cow<'a, str>,
}

/// The compared columns of `clone_ready_events`, in the contract's order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct ReadyContent {
    pub ready_at: Time,
    pub clone_duration_ms: Option<i32>,
}

/// The columns that identify a `clone_failed_events` row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct FailedIdentity<'a> {
    pub caller_id: Cow<'a, str>,
    pub greeting_call_id: Cow<'a, str>,
    pub failed_at: Time,
}

/// The columns that identify a `clone_transfer_events` row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct TransferIdentity<'a> {
    pub greeting_call_id: Cow<'a, str>,
    pub agent_call_id: Cow<'a, str>,
    pub cloned_voice_id: Cow<'a, str>,
}

/// The columns of a `voice_clone_log` row that follow from its id, which is derived from the event row's id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct LogIdentity<'a> {
    pub caller_id: Cow<'a, str>,
    pub status: &'static str,
}

/// The compared columns of `voice_clone_log`, in the contract's order for both statuses: a success has no
/// `error_message` and always the same voice, a failure has no `clone_created_at`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct LogContent<'a> {
    pub clone_created_at: Option<Time>,
    pub cloned_voice_id: Option<Cow<'a, str>>,
    pub api_response_time_ms: Option<i32>,
    pub sample_file_size_bytes: Option<i32>,
    pub error_message: Option<Cow<'a, str>>,
}

/// The records of a plan, including those that cannot be used.
#[derive(Clone, Debug, Default)]
pub struct Source<'a> {
    /// The records, in offset order within each partition.
    pub records: Vec<&'a Record>,
    /// `TOPIC_PREFIX`.
    pub topic_prefix: &'a str,
}

/// The rows of a batch by table, sorted by key.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the fields are the tables")]
pub struct Plan<'a> {
    /// The records of the rows; used to resolve dead letters whose record has landed.
    pub source: Source<'a>,
    pub clone_ready_events: BTreeMap<Uuid, Fact<ReadyIdentity<'a>, ReadyContent>>,
    pub clone_failed_events: BTreeMap<Uuid, Fact<FailedIdentity<'a>, Cow<'a, str>>>,
    pub clone_transfer_events: BTreeMap<Uuid, Fact<TransferIdentity<'a>, Time>>,
    pub voice_clone_log: BTreeMap<Uuid, Fact<LogIdentity<'a>, LogContent<'a>>>,
    pub voice_clone_cache: BTreeMap<Uuid, Cached<'a>>,
    /// By `call_id`.
    pub call_log: BTreeMap<Cow<'a, str>, Call<'a>>,
    /// By `caller_id`.
    pub caller_voice_mapping: BTreeMap<Cow<'a, str>, Mapping<'a>>,
}

impl<'a> Plan<'a> {
    /// Adds an event whose record has this timestamp.
    pub fn add(&mut self, event: Event<'a>, timestamp: Time) {
        match event {
            Event::Ready(event) => self.add_ready(event, timestamp),
            Event::Failed(event) => self.add_failed(event, timestamp),
            Event::Transfer(event) => self.add_transfer(event, timestamp),
            Event::Call(event) => {
                let call_id = event.call_id.clone();
                merge_into(&mut self.call_log, call_id, Call::of(event, timestamp));
            }
            Event::Mapping(event) => self.add_mapping(event, timestamp),
        }
    }

    fn add_ready(&mut self, event: CloneReady<'a>, created_at: Time) {
        let id = uid("clone.ready", &[&event.caller_id, &event.greeting_call_id, &event.cloned_voice_id]);
        merge_into(
            &mut self.voice_clone_log,
            log_id(id),
            Fact {
                identity: LogIdentity { caller_id: event.caller_id.clone(), status: "success" },
                content: LogContent {
                    clone_created_at: Some(event.clone_created_at),
                    cloned_voice_id: Some(event.cloned_voice_id.clone()),
                    api_response_time_ms: event.api_response_time_ms,
                    sample_file_size_bytes: event.sample_file_size_bytes,
                    error_message: None,
                },
                created_at,
            },
        );
        merge_into(
            &mut self.voice_clone_cache,
            uid("voice_clone_cache", &[&event.caller_id, &event.cloned_voice_id]),
            Cached {
                caller_id: event.caller_id.clone(),
                cloned_voice_id: event.cloned_voice_id.clone(),
                clone_created_at: event.clone_created_at,
                ttl_expires_at: event.ttl_expires_at,
                last_ready_at: event.ready_at,
                created_at,
            },
        );
        merge_into(
            &mut self.clone_ready_events,
            id,
            Fact {
                identity: ReadyIdentity {
                    caller_id: event.caller_id,
                    greeting_call_id: event.greeting_call_id,
                    cloned_voice_id: event.cloned_voice_id,
                },
                content: ReadyContent {
                    ready_at: event.ready_at,
                    clone_duration_ms: event.clone_duration_ms,
                },
                created_at,
            },
        );
    }

    fn add_failed(&mut self, event: CloneFailed<'a>, created_at: Time) {
        let failed_at = event.failed_at.micros().to_string();
        let id = uid("clone.failed", &[&event.caller_id, &event.greeting_call_id, &failed_at]);
        merge_into(
            &mut self.voice_clone_log,
            log_id(id),
            Fact {
                identity: LogIdentity { caller_id: event.caller_id.clone(), status: "failed" },
                content: LogContent {
                    clone_created_at: None,
                    cloned_voice_id: event.cloned_voice_id,
                    api_response_time_ms: event.api_response_time_ms,
                    sample_file_size_bytes: event.sample_file_size_bytes,
                    error_message: Some(event.error_message.clone()),
                },
                created_at,
            },
        );
        merge_into(
            &mut self.clone_failed_events,
            id,
            Fact {
                identity: FailedIdentity {
                    caller_id: event.caller_id,
                    greeting_call_id: event.greeting_call_id,
                    failed_at: event.failed_at,
                },
                content: event.error_message,
                created_at,
            },
        );
    }

    fn add_transfer(&mut self, event: CloneTransfer<'a>, created_at: Time) {
        let id =
            uid("clone.transfer", &[&event.greeting_call_id, &event.agent_call_id, &event.cloned_voice_id]);
        merge_into(
            &mut self.clone_transfer_events,
            id,
            Fact {
                identity: TransferIdentity {
                    greeting_call_id: event.greeting_call_id,
                    agent_call_id: event.agent_call_id,
                    cloned_voice_id: event.cloned_voice_id,
                },
                content: event.transferred_at,
                created_at,
            },
        );
    }

    fn add_mapping(&mut self, event: VoiceMapping<'a>, timestamp: Time) {
        let at = event.updated_at;
        let mapping = Mapping {
            deleted: event.state.is_none().then_some(at),
            state: event.state.map(|state| (at, state)),
            updated_at: Some(at),
            created_at: Some(timestamp),
        };
        merge_into(&mut self.caller_voice_mapping, event.caller_id, mapping);
    }

    /// Returns the voices of the batch's ready and transfer events, sorted: the rows to lock.
    pub fn voices(&self) -> BTreeSet<&str> {
        let ready = self.voice_clone_cache.values().map(|row| row.cloned_voice_id.as_ref());
        let transferred =
            self.clone_transfer_events.values().map(|row| row.identity.cloned_voice_id.as_ref());
        ready.chain(transferred).collect()
    }
}

fn log_id(event_row: Uuid) -> Uuid {
    uid("voice_clone_log", &[&event_row.hyphenated().to_string()])
}

#[cfg(test)]
mod tests;
