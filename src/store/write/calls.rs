//! Calls (contract, section 4).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamp, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement, Unnest, from_timestamp};
use super::merged::{MergedTable, StoredFolds, merge};
use super::{StoredTime, WriteContext, Written, at, latest};
use crate::blocking;
use crate::event::{CallStatus, Time};
use crate::fold::{Call, Metadata};
use crate::plan::Plan;

pub(super) struct LockCalls;

impl Statement for LockCalls {
    const HEAD: &'static str = "WITH made AS (
        INSERT INTO ingest.calls AS t
            (call_id, initiated_at, terminal_at, threecx_call_id_at, caller_id_at, cloned_voice_id_at,
             call_started_at_at, call_ended_at_at, duration_seconds_at, transcript_at, metadata_at,
             metadata_keys_at)
        SELECT * FROM ";
    const TAIL: &'static str = " AS u ON CONFLICT (call_id) DO UPDATE SET call_id = t.call_id WHERE false
        RETURNING call_id)
        SELECT call_id,
               (SELECT true FROM public.call_log l WHERE l.call_id = made.call_id COLLATE \"default\") IS TRUE
        FROM made";
    type Row = (Text, Bool);
}

/// The stored folds of calls: values from `call_log`, event times from `ingest.calls`.
struct ReadCalls;

impl Statement for ReadCalls {
    const HEAD: &'static str = "SELECT u.call_id,
            l.id, l.threecx_call_id, l.caller_id, l.cloned_voice_id, l.call_started_at, l.call_ended_at,
            l.duration_seconds, l.transcript, l.status, l.metadata::text, l.created_at, l.updated_at,
            c.initiated_at, c.terminal_at, c.threecx_call_id_at, c.caller_id_at, c.cloned_voice_id_at,
            c.call_started_at_at, c.call_ended_at_at, c.duration_seconds_at, c.transcript_at, c.metadata_at,
            c.metadata_keys_at
        FROM ";
    const TAIL: &'static str = " AS u (call_id)
        JOIN public.call_log l ON l.call_id = u.call_id
        LEFT JOIN ingest.calls c ON c.call_id = u.call_id";
    type Row = (
        (Text, SqlUuid, Nullable<Text>, Nullable<Text>, Nullable<Text>),
        (Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Integer>, Nullable<Text>),
        (Nullable<Text>, Nullable<Text>, Nullable<Timestamp>, Nullable<Timestamp>),
        (Nullable<Timestamp>, Nullable<Timestamp>),
        (Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Timestamp>),
        (Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Text>),
    );
}

/// A row of [`ReadCalls`].
#[allow(clippy::type_complexity, reason = "one row, in groups that Diesel's tuples allow")]
type StoredCall = (
    (String, Uuid, Option<String>, Option<String>, Option<String>),
    (StoredTime, StoredTime, Option<i32>, Option<String>),
    (Option<String>, Option<String>, StoredTime, StoredTime),
    (StoredTime, StoredTime),
    (StoredTime, StoredTime, StoredTime, StoredTime),
    (StoredTime, StoredTime, StoredTime, StoredTime, Option<String>),
);

/// The stored fold of a call, with its id.
fn stored_call(row: StoredCall, taken_over: &HashSet<&str>) -> (String, (Option<Uuid>, Call<'static>)) {
    let (
        (call_id, id, threecx_call_id, caller_id, cloned_voice_id),
        (started_at, ended_at, duration_seconds, transcript),
        (status, metadata, created_at, updated_at),
        (initiated_at, terminal_at),
        (threecx_at, caller_at, voice_at, started_at_at),
        (ended_at_at, duration_at, transcript_at, metadata_at, metadata_keys_at),
    ) = row;
    // Every event has a status, so a row that no event has changed yet has neither time.
    let adopted = (initiated_at.is_none() && terminal_at.is_none()) || taken_over.contains(call_id.as_str());
    let known = |at: StoredTime| at.filter(|_| !adopted);
    let status = status.as_deref().and_then(CallStatus::from_name).filter(|s| *s != CallStatus::Initiated);
    let call = Call {
        threecx_call_id: latest(threecx_call_id.map(Cow::Owned), known(threecx_at), adopted),
        caller_id: latest(caller_id.map(Cow::Owned), known(caller_at), adopted),
        cloned_voice_id: latest(cloned_voice_id.map(Cow::Owned), known(voice_at), adopted),
        call_started_at: latest(started_at.map(from_timestamp), known(started_at_at), adopted),
        call_ended_at: latest(ended_at.map(from_timestamp), known(ended_at_at), adopted),
        duration_seconds: latest(duration_seconds, known(duration_at), adopted),
        transcript: latest(transcript.map(Cow::Owned), known(transcript_at), adopted),
        metadata: stored_metadata(metadata, metadata_at, metadata_keys_at.filter(|_| !adopted), adopted),
        terminal: latest(status, known(terminal_at), adopted),
        initiated_at: known(initiated_at).map(from_timestamp),
        created_at: created_at.map(from_timestamp),
        // In a row that no event has changed, `updated_at` is older than every record's timestamp.
        updated_at: updated_at.map(from_timestamp).filter(|_| !adopted),
    };
    (call_id, (Some(id), call))
}

fn stored_metadata(
    text: Option<String>,
    at: StoredTime,
    keys_at: Option<String>,
    adopted: bool,
) -> Metadata<'static> {
    let at = if adopted { Time::OLDER_THAN_ALL } else { from_timestamp(at?) };
    let keys_at: HashMap<String, i64> =
        keys_at.and_then(|keys_at| serde_json::from_str(&keys_at).ok()).unwrap_or_default();
    let members = crate::event::stored_metadata(&text?)?.into_iter().map(|(key, value)| {
        let at = keys_at.get(&key).map_or(Time::OLDER_THAN_ALL, |micros| Time::from_micros(*micros));
        (Cow::Owned(key), (at, value))
    });
    Some((at, members.collect()))
}

/// Writes the calls that changed. `metadata` that cannot be merged, in another tool's row, is not written: it stays
/// until an event gives some.
struct UpsertCalls;

impl Statement for UpsertCalls {
    const HEAD: &'static str = "INSERT INTO public.call_log AS t
        (id, call_id, threecx_call_id, caller_id, cloned_voice_id, call_started_at, call_ended_at,
         duration_seconds, transcript, status, metadata, created_at, updated_at)
     SELECT id, call_id, threecx_call_id, caller_id, cloned_voice_id, call_started_at, call_ended_at,
            duration_seconds, transcript, status, metadata::json, created_at, updated_at
     FROM ";
    const TAIL: &'static str =
        " AS u (id, call_id, threecx_call_id, caller_id, cloned_voice_id, call_started_at, call_ended_at,
             duration_seconds, transcript, status, metadata, created_at, updated_at)
     ON CONFLICT (call_id) DO UPDATE SET
        threecx_call_id = excluded.threecx_call_id, caller_id = excluded.caller_id,
        cloned_voice_id = excluded.cloned_voice_id, call_started_at = excluded.call_started_at,
        call_ended_at = excluded.call_ended_at, duration_seconds = excluded.duration_seconds,
        transcript = excluded.transcript, status = excluded.status,
        metadata = COALESCE(excluded.metadata, t.metadata),
        created_at = excluded.created_at, updated_at = excluded.updated_at";
    type Row = ();
}

pub(super) struct UpdateCallTimes;

impl Statement for UpdateCallTimes {
    const HEAD: &'static str = "UPDATE ingest.calls c SET
            initiated_at = u.initiated_at, terminal_at = u.terminal_at,
            threecx_call_id_at = u.threecx_call_id_at, caller_id_at = u.caller_id_at,
            cloned_voice_id_at = u.cloned_voice_id_at, call_started_at_at = u.call_started_at_at,
            call_ended_at_at = u.call_ended_at_at, duration_seconds_at = u.duration_seconds_at,
            transcript_at = u.transcript_at, metadata_at = u.metadata_at,
            metadata_keys_at = u.metadata_keys_at
        FROM ";
    const TAIL: &'static str = " AS u (call_id, initiated_at, terminal_at, threecx_call_id_at, caller_id_at,
            cloned_voice_id_at, call_started_at_at, call_ended_at_at, duration_seconds_at, transcript_at,
            metadata_at, metadata_keys_at)
        WHERE c.call_id = u.call_id";
    type Row = ();
}

impl MergedTable for Call<'_> {
    const TABLE: &'static str = "call_log";
    type Lock = LockCalls;
    type UpdateTimes = UpdateCallTimes;

    fn times<'p>(calls: &[(&'p str, &'p Self)]) -> Vec<Column<'p>> {
        let of = |time: fn(&Call<'_>) -> Option<Time>| {
            Column::optional_times(calls.iter().map(move |(_, call)| time(call)))
        };
        let keys_at = |call: &Call<'_>| {
            let (_, entries) = call.metadata.as_ref()?;
            let keys_at: BTreeMap<&str, i64> =
                entries.iter().map(|(key, (at, _))| (key.as_ref(), at.micros())).collect();
            serde_json::to_string(&keys_at).ok()
        };
        vec![
            Column::texts(calls.iter().map(|(call_id, _)| *call_id)),
            of(|call| call.initiated_at),
            of(|call| at(&call.terminal)),
            of(|call| at(&call.threecx_call_id)),
            of(|call| at(&call.caller_id)),
            of(|call| at(&call.cloned_voice_id)),
            of(|call| at(&call.call_started_at)),
            of(|call| at(&call.call_ended_at)),
            of(|call| at(&call.duration_seconds)),
            of(|call| at(&call.transcript)),
            of(|call| at(&call.metadata)),
            Column::Strings(calls.iter().map(|(_, call)| keys_at(call)).collect()),
        ]
    }

    async fn read(
        connection: &AsyncPgConnection,
        call_ids: Column<'_>,
        taken_over: &HashSet<&str>,
    ) -> Result<StoredFolds<Self>, Fault> {
        let stored: Vec<StoredCall> =
            Unnest::<ReadCalls>::new(vec![call_ids]).load(&mut &*connection).await?;
        let metadata = |row: &StoredCall| row.2.1.as_ref().map_or(0, String::len);
        let bytes = stored.iter().map(metadata).sum();
        Ok(blocking::compute(bytes, || stored.into_iter().map(|row| stored_call(row, taken_over)).collect()))
    }

    fn has_row(&self) -> bool {
        true
    }
}

pub(super) async fn write(context: WriteContext<'_>, plan: &Plan<'_>) -> Result<Written, Fault> {
    let mut written = Written::default();
    let rows = merge(context, &context.lookups.calls, &plan.call_log, &mut written).await?;
    if rows.is_empty() {
        return Ok(written);
    }
    let calls = || rows.iter().map(|(_, _, call)| call.as_ref());
    let statement = Unnest::<UpsertCalls>::new(vec![
        Column::Uuids(rows.iter().map(|(id, _, _)| *id).collect()),
        Column::texts(rows.iter().map(|(_, call_id, _)| *call_id)),
        Column::Texts(calls().map(|call| call.threecx_call_id.as_ref().map(|(_, v)| v.as_ref())).collect()),
        Column::Texts(calls().map(|call| call.caller_id.as_ref().map(|(_, v)| v.as_ref())).collect()),
        Column::Texts(calls().map(|call| call.cloned_voice_id.as_ref().map(|(_, v)| v.as_ref())).collect()),
        Column::optional_times(calls().map(Call::started_at)),
        Column::optional_times(calls().map(Call::ended_at)),
        Column::Integers(calls().map(Call::duration).collect()),
        Column::Texts(calls().map(|call| call.transcript.as_ref().map(|(_, v)| v.as_ref())).collect()),
        Column::texts(calls().map(|call| call.status().name())),
        Column::Strings(calls().map(Call::metadata_json).collect()),
        Column::optional_times(calls().map(|call| call.created_at)),
        Column::optional_times(calls().map(|call| call.updated_at)),
    ]);
    statement.execute(&mut &*context.connection).await?;
    Ok(written)
}
