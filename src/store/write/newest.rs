//! The newest stored row of a topic's table, as the event that would make it. It is found by event time, which has an
//! index.

use std::borrow::Cow;

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::super::Fault;
use super::super::unnest::from_timestamp;
use super::calls;
use crate::event::{CloneFailed, CloneReady, CloneTransfer, Event, MappingState, VoiceMapping};
use crate::identity::uid;
use crate::record::Topic;
use crate::schema::{
    caller_voice_mapping, clone_failed_events, clone_ready_events, clone_transfer_events, voice_clone_log,
};

/// The columns that `voice_clone_log` adds to an event: the voice and two numbers.
type Log = (Option<String>, Option<i32>, Option<i32>);

/// The event of the newest row. It has no lifetime in the cache, as no table holds that.
pub(super) async fn newest(
    connection: &mut AsyncPgConnection,
    topic: Topic,
) -> Result<Option<Event<'static>>, Fault> {
    Ok(match topic {
        Topic::CloneReady => newest_ready(connection).await?.map(Event::Ready),
        Topic::CloneFailed => newest_failed(connection).await?.map(Event::Failed),
        Topic::CloneTransfer => newest_transfer(connection).await?.map(Event::Transfer),
        Topic::CallLifecycle => calls::newest(connection).await?.map(Event::Call),
        Topic::CallerVoiceMapping => newest_mapping(connection).await?.map(Event::Mapping),
    })
}

async fn newest_ready(connection: &mut AsyncPgConnection) -> Result<Option<CloneReady<'static>>, Fault> {
    use clone_ready_events::dsl as t;
    let columns =
        (t::id, t::caller_id, t::greeting_call_id, t::cloned_voice_id, t::ready_at, t::clone_duration_ms);
    let query = t::clone_ready_events.select(columns).order(t::ready_at.desc());
    let row: Option<(uuid::Uuid, String, String, String, PgTimestamp, Option<i32>)> =
        query.first(&mut *connection).await.optional()?;
    let Some((id, caller_id, greeting_call_id, voice, ready_at, clone_duration_ms)) = row else {
        return Ok(None);
    };
    let (_, api_response_time_ms, sample_file_size_bytes) = log(connection, id).await?;
    let ready_at = from_timestamp(ready_at);
    Ok(Some(CloneReady {
        caller_id: Cow::Owned(caller_id),
        greeting_call_id: Cow::Owned(greeting_call_id),
        cloned_voice_id: Cow::Owned(voice),
        ready_at,
        clone_duration_ms,
        clone_created_at: ready_at,
        api_response_time_ms,
        sample_file_size_bytes,
        ttl_expires_at: ready_at,
    }))
}

async fn newest_failed(connection: &mut AsyncPgConnection) -> Result<Option<CloneFailed<'static>>, Fault> {
    use clone_failed_events::dsl as t;
    let columns = (t::id, t::caller_id, t::greeting_call_id, t::error_message, t::failed_at);
    let query = t::clone_failed_events.select(columns).order(t::failed_at.desc());
    let row: Option<(uuid::Uuid, String, String, String, PgTimestamp)> =
        query.first(&mut *connection).await.optional()?;
    let Some((id, caller_id, greeting_call_id, error_message, failed_at)) = row else {
        return Ok(None);
    };
    let (cloned_voice_id, api_response_time_ms, sample_file_size_bytes) = log(connection, id).await?;
    Ok(Some(CloneFailed {
        caller_id: Cow::Owned(caller_id),
        greeting_call_id: Cow::Owned(greeting_call_id),
        error_message: Cow::Owned(error_message),
        failed_at: from_timestamp(failed_at),
        cloned_voice_id: cloned_voice_id.map(Cow::Owned),
        api_response_time_ms,
        sample_file_size_bytes,
    }))
}

async fn log(connection: &mut AsyncPgConnection, event_row: uuid::Uuid) -> Result<Log, Fault> {
    use voice_clone_log::dsl as t;
    let id = uid("voice_clone_log", &[&event_row.hyphenated().to_string()]);
    let columns = (t::cloned_voice_id, t::api_response_time_ms, t::sample_file_size_bytes);
    let row: Option<Log> =
        t::voice_clone_log.find(id).select(columns).first(&mut *connection).await.optional()?;
    Ok(row.unwrap_or_default())
}

async fn newest_transfer(
    connection: &mut AsyncPgConnection,
) -> Result<Option<CloneTransfer<'static>>, Fault> {
    use clone_transfer_events::dsl as t;
    let columns = (t::greeting_call_id, t::agent_call_id, t::cloned_voice_id, t::transferred_at);
    let query = t::clone_transfer_events.select(columns).order(t::transferred_at.desc());
    let row: Option<(String, String, String, PgTimestamp)> =
        query.first(&mut *connection).await.optional()?;
    Ok(row.map(|(greeting_call_id, agent_call_id, cloned_voice_id, transferred_at)| CloneTransfer {
        greeting_call_id: Cow::Owned(greeting_call_id),
        agent_call_id: Cow::Owned(agent_call_id),
        cloned_voice_id: Cow::Owned(cloned_voice_id),
        transferred_at: from_timestamp(transferred_at),
    }))
}

/// A row of [`newest_mapping`].
type MappingRow = (String, String, Option<String>, Option<String>, Option<String>, PgTimestamp);

async fn newest_mapping(connection: &mut AsyncPgConnection) -> Result<Option<VoiceMapping<'static>>, Fault> {
    use caller_voice_mapping::dsl as t;
    let columns =
        (t::caller_id, t::voice_sample_url, t::voice_name, t::description, t::account_id, t::created_at);
    let query = t::caller_voice_mapping.select(columns).order(t::created_at.desc());
    let row: Option<MappingRow> = query.first(&mut *connection).await.optional()?;
    Ok(row.map(|(caller_id, url, voice_name, description, account_id, created_at)| VoiceMapping {
        caller_id: Cow::Owned(caller_id),
        updated_at: from_timestamp(created_at),
        state: Some(MappingState {
            voice_sample_url: Cow::Owned(url),
            voice_name: voice_name.map(Cow::Owned),
            description: description.map(Cow::Owned),
            account_id: account_id.map(Cow::Owned),
        }),
    }))
}
