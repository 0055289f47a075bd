//! The rows of a plan as plain columns, in which a plan and the model are compared.

use std::collections::BTreeMap;

use super::super::Plan;
use crate::event::{MappingState, Time};
use crate::fold::Latest;

/// A value of a column; times are in microseconds.
pub(super) type Value = Option<Content>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Content {
    Number(i64),
    Text(String),
}

pub(super) type Row = BTreeMap<&'static str, Value>;

/// The rows by table and key.
pub(super) type Rows = BTreeMap<(&'static str, String), Row>;

pub(super) fn number(value: i64) -> Value {
    Some(Content::Number(value))
}

pub(super) fn numbers(value: Option<i32>) -> Value {
    value.map(|value| Content::Number(i64::from(value)))
}

pub(super) fn text(value: &str) -> Value {
    Some(Content::Text(value.to_owned()))
}

pub(super) fn texts(value: Option<&str>) -> Value {
    value.and_then(text)
}

fn time(time: Time) -> Value {
    number(time.micros())
}

fn latest_text<T: AsRef<str>>(latest: &Latest<T>) -> Value {
    latest.as_ref().and_then(|(_, value)| text(value.as_ref()))
}

pub(super) fn rows(plan: &Plan<'_>) -> Rows {
    let mut rows = Rows::new();
    for (id, row) in &plan.clone_ready_events {
        let columns = [
            ("caller_id", text(&row.identity.caller_id)),
            ("greeting_call_id", text(&row.identity.greeting_call_id)),
            ("cloned_voice_id", text(&row.identity.cloned_voice_id)),
            ("ready_at", time(row.content.ready_at)),
            ("clone_duration_ms", numbers(row.content.clone_duration_ms)),
            ("created_at", time(row.created_at)),
        ];
        rows.insert(("clone_ready_events", id.to_string()), Row::from(columns));
    }
    for (id, row) in &plan.clone_failed_events {
        let columns = [
            ("caller_id", text(&row.identity.caller_id)),
            ("greeting_call_id", text(&row.identity.greeting_call_id)),
            ("failed_at", time(row.identity.failed_at)),
            ("error_message", text(&row.content)),
            ("created_at", time(row.created_at)),
        ];
        rows.insert(("clone_failed_events", id.to_string()), Row::from(columns));
    }
    for (id, row) in &plan.clone_transfer_events {
        let columns = [
            ("greeting_call_id", text(&row.identity.greeting_call_id)),
            ("agent_call_id", text(&row.identity.agent_call_id)),
            ("cloned_voice_id", text(&row.identity.cloned_voice_id)),
            ("transferred_at", time(row.content)),
            ("created_at", time(row.created_at)),
        ];
        rows.insert(("clone_transfer_events", id.to_string()), Row::from(columns));
    }
    for (id, row) in &plan.voice_clone_log {
        let columns = [
            ("caller_id", text(&row.identity.caller_id)),
            ("status", text(row.identity.status)),
            ("clone_created_at", row.content.clone_created_at.and_then(time)),
            ("cloned_voice_id", texts(row.content.cloned_voice_id.as_deref())),
            ("api_response_time_ms", numbers(row.content.api_response_time_ms)),
            ("sample_file_size_bytes", numbers(row.content.sample_file_size_bytes)),
            ("error_message", texts(row.content.error_message.as_deref())),
            ("created_at", time(row.created_at)),
        ];
        rows.insert(("voice_clone_log", id.to_string()), Row::from(columns));
    }
    for (id, row) in &plan.voice_clone_cache {
        let columns = [
            ("caller_id", text(&row.caller_id)),
            ("cloned_voice_id", text(&row.cloned_voice_id)),
            ("clone_created_at", time(row.clone_created_at)),
            ("ttl_expires_at", time(row.ttl_expires_at)),
            ("last_ready_at", time(row.last_ready_at)),
            ("created_at", time(row.created_at)),
        ];
        rows.insert(("voice_clone_cache", id.to_string()), Row::from(columns));
    }
    for (call_id, call) in &plan.call_log {
        let columns = [
            ("status", text(call.status().name())),
            ("threecx_call_id", latest_text(&call.threecx_call_id)),
            ("caller_id", latest_text(&call.caller_id)),
            ("cloned_voice_id", latest_text(&call.cloned_voice_id)),
            ("call_started_at", call.started_at().and_then(time)),
            ("call_ended_at", call.ended_at().and_then(time)),
            ("duration_seconds", numbers(call.duration())),
            ("transcript", latest_text(&call.transcript)),
            ("metadata", texts(call.metadata_json().as_deref())),
            ("created_at", call.created_at.and_then(time)),
            ("updated_at", call.updated_at.and_then(time)),
        ];
        rows.insert(("call_log", call_id.to_string()), Row::from(columns));
    }
    for (caller_id, mapping) in &plan.caller_voice_mapping {
        let state = mapping.state.as_ref().map(|(_, state)| state);
        let column = |of: fn(&MappingState<'_>) -> Value| state.and_then(of);
        let columns = [
            ("voice_sample_url", column(|state| text(&state.voice_sample_url))),
            ("voice_name", column(|state| texts(state.voice_name.as_deref()))),
            ("description", column(|state| texts(state.description.as_deref()))),
            ("account_id", column(|state| texts(state.account_id.as_deref()))),
            ("updated_at", mapping.updated_at.and_then(time)),
            ("created_at", mapping.created_at.and_then(time)),
            ("deleted_at", mapping.deleted_at().and_then(time)),
        ];
        rows.insert(("caller_voice_mapping", caller_id.to_string()), Row::from(columns));
    }
    rows
}
