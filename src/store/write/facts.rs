//! The tables whose rows are facts: the greatest of several contents counts, and `created_at` is the earliest
//! (contract, section 3).

use diesel::sql_types::Uuid as SqlUuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement};
use super::{UpsertTable, WriteContext, Written, upsert, worth_writing};
use crate::plan::Plan;

async fn write<Look, Upsert, R>(
    context: WriteContext<'_>,
    table: &UpsertTable<'_, R>,
) -> Result<Written, Fault>
where
    Look: Statement<Row = SqlUuid> + Send + 'static,
    Upsert: Statement<Row = ()> + Send + 'static,
{
    let rows = worth_writing::<Look, _>(context.connection, table).await?;
    upsert::<Upsert, _>(context, table, &rows, Vec::new()).await
}

struct LookForReady;

impl Statement for LookForReady {
    const HEAD: &'static str = "SELECT u.id FROM ";
    const TAIL: &'static str = " AS u (id, ready_at, clone_duration_ms, created_at)
        WHERE (SELECT (u.ready_at, COALESCE(u.clone_duration_ms, -1))
                   <= (t.ready_at, COALESCE(t.clone_duration_ms, -1)) AND u.created_at >= t.created_at
               FROM public.clone_ready_events t WHERE t.id = u.id) IS NOT TRUE";
    type Row = SqlUuid;
}

struct UpsertReady;

impl Statement for UpsertReady {
    const HEAD: &'static str = "INSERT INTO public.clone_ready_events AS t
        (id, caller_id, greeting_call_id, cloned_voice_id, ready_at, clone_duration_ms, created_at)
     SELECT * FROM ";
    const TAIL: &'static str = " AS u ON CONFLICT (id) DO UPDATE SET
        (ready_at, clone_duration_ms) =
            (SELECT r, d FROM (VALUES (t.ready_at, t.clone_duration_ms),
                                      (excluded.ready_at, excluded.clone_duration_ms)) AS v (r, d)
             ORDER BY r DESC, d DESC NULLS LAST LIMIT 1),
        created_at = LEAST(t.created_at, excluded.created_at)
     WHERE (excluded.ready_at, COALESCE(excluded.clone_duration_ms, -1))
         > (t.ready_at, COALESCE(t.clone_duration_ms, -1))
        OR excluded.created_at < t.created_at";
    type Row = ();
}

pub(super) async fn write_ready(context: WriteContext<'_>, plan: &Plan<'_>) -> Result<Written, Fault> {
    let table = UpsertTable {
        name: "clone_ready_events",
        lookup: &context.lookups.ready,
        incoming: &plan.clone_ready_events,
        identity: |rows| {
            vec![
                Column::texts(rows.iter().map(|(_, row)| &row.identity.caller_id)),
                Column::texts(rows.iter().map(|(_, row)| &row.identity.greeting_call_id)),
                Column::texts(rows.iter().map(|(_, row)| &row.identity.cloned_voice_id)),
            ]
        },
        compared: |rows| {
            vec![
                Column::times(rows.iter().map(|(_, row)| row.content.ready_at)),
                Column::Integers(rows.iter().map(|(_, row)| row.content.clone_duration_ms).collect()),
                Column::times(rows.iter().map(|(_, row)| row.created_at)),
            ]
        },
    };
    write::<LookForReady, UpsertReady, _>(context, &table).await
}

struct LookForFailed;

impl Statement for LookForFailed {
    const HEAD: &'static str = "SELECT u.id FROM ";
    const TAIL: &'static str = " AS u (id, error_message, created_at)
        WHERE (SELECT u.error_message COLLATE \"C\" <= t.error_message COLLATE \"C\"
                  AND u.created_at >= t.created_at
               FROM public.clone_failed_events t WHERE t.id = u.id) IS NOT TRUE";
    type Row = SqlUuid;
}

struct UpsertFailed;

impl Statement for UpsertFailed {
    const HEAD: &'static str = "INSERT INTO public.clone_failed_events AS t
        (id, caller_id, greeting_call_id, failed_at, error_message, created_at)
     SELECT * FROM ";
    const TAIL: &'static str = " AS u ON CONFLICT (id) DO UPDATE SET
        error_message = CASE WHEN excluded.error_message COLLATE \"C\" > t.error_message COLLATE \"C\"
                             THEN excluded.error_message ELSE t.error_message END,
        created_at = LEAST(t.created_at, excluded.created_at)
     WHERE excluded.error_message COLLATE \"C\" > t.error_message COLLATE \"C\"
        OR excluded.created_at < t.created_at";
    type Row = ();
}

pub(super) async fn write_failed(context: WriteContext<'_>, plan: &Plan<'_>) -> Result<Written, Fault> {
    let table = UpsertTable {
        name: "clone_failed_events",
        lookup: &context.lookups.failed,
        incoming: &plan.clone_failed_events,
        identity: |rows| {
            vec![
                Column::texts(rows.iter().map(|(_, row)| &row.identity.caller_id)),
                Column::texts(rows.iter().map(|(_, row)| &row.identity.greeting_call_id)),
                Column::times(rows.iter().map(|(_, row)| row.identity.failed_at)),
            ]
        },
        compared: |rows| {
            vec![
                Column::texts(rows.iter().map(|(_, row)| &row.content)),
                Column::times(rows.iter().map(|(_, row)| row.created_at)),
            ]
        },
    };
    write::<LookForFailed, UpsertFailed, _>(context, &table).await
}

struct LookForCloneLog;

impl Statement for LookForCloneLog {
    const HEAD: &'static str = "SELECT u.id FROM ";
    const TAIL: &'static str = " AS u (id, clone_created_at, cloned_voice_id, api_response_time_ms,
               sample_file_size_bytes, error_message, created_at)
        WHERE (SELECT (COALESCE(u.clone_created_at, '-infinity'),
                       COALESCE(u.cloned_voice_id, '') COLLATE \"C\",
                       COALESCE(u.api_response_time_ms, -1), COALESCE(u.sample_file_size_bytes, -1),
                       COALESCE(u.error_message, '') COLLATE \"C\")
                   <= (COALESCE(t.clone_created_at, '-infinity'),
                       COALESCE(t.cloned_voice_id, '') COLLATE \"C\",
                       COALESCE(t.api_response_time_ms, -1), COALESCE(t.sample_file_size_bytes, -1),
                       COALESCE(t.error_message, '') COLLATE \"C\")
                  AND u.created_at >= t.created_at
               FROM public.voice_clone_log t WHERE t.id = u.id) IS NOT TRUE";
    type Row = SqlUuid;
}

struct UpsertCloneLog;

impl Statement for UpsertCloneLog {
    const HEAD: &'static str = "INSERT INTO public.voice_clone_log AS t
        (id, caller_id, status, clone_created_at, cloned_voice_id, api_response_time_ms,
         sample_file_size_bytes, error_message, created_at)
     SELECT * FROM ";
    const TAIL: &'static str = " AS u ON CONFLICT (id) DO UPDATE SET
        (clone_created_at, cloned_voice_id, api_response_time_ms, sample_file_size_bytes, error_message) =
            (SELECT c, v, a, s, e FROM (VALUES
                (t.clone_created_at, t.cloned_voice_id, t.api_response_time_ms, t.sample_file_size_bytes,
                 t.error_message),
                (excluded.clone_created_at, excluded.cloned_voice_id, excluded.api_response_time_ms,
                 excluded.sample_file_size_bytes, excluded.error_message)) AS w (c, v, a, s, e)
             ORDER BY c DESC NULLS LAST, v COLLATE \"C\" DESC NULLS LAST, a DESC NULLS LAST,
                      s DESC NULLS LAST, e COLLATE \"C\" DESC NULLS LAST LIMIT 1),
        created_at = LEAST(t.created_at, excluded.created_at)
     WHERE (COALESCE(excluded.clone_created_at, '-infinity'),
            COALESCE(excluded.cloned_voice_id, '') COLLATE \"C\",
            COALESCE(excluded.api_response_time_ms, -1), COALESCE(excluded.sample_file_size_bytes, -1),
            COALESCE(excluded.error_message, '') COLLATE \"C\")
         > (COALESCE(t.clone_created_at, '-infinity'), COALESCE(t.cloned_voice_id, '') COLLATE \"C\",
            COALESCE(t.api_response_time_ms, -1), COALESCE(t.sample_file_size_bytes, -1),
            COALESCE(t.error_message, '') COLLATE \"C\")
        OR excluded.created_at < t.created_at";
    type Row = ();
}

pub(super) async fn write_clone_log(context: WriteContext<'_>, plan: &Plan<'_>) -> Result<Written, Fault> {
    let table = UpsertTable {
        name: "voice_clone_log",
        lookup: &context.lookups.clone_log,
        incoming: &plan.voice_clone_log,
        identity: |rows| {
            vec![
                Column::texts(rows.iter().map(|(_, row)| &row.identity.caller_id)),
                Column::texts(rows.iter().map(|(_, row)| row.identity.status)),
            ]
        },
        compared: |rows| {
            vec![
                Column::optional_times(rows.iter().map(|(_, row)| row.content.clone_created_at)),
                Column::Texts(rows.iter().map(|(_, row)| row.content.cloned_voice_id.as_deref()).collect()),
                Column::Integers(rows.iter().map(|(_, row)| row.content.api_response_time_ms).collect()),
                Column::Integers(rows.iter().map(|(_, row)| row.content.sample_file_size_bytes).collect()),
                Column::Texts(rows.iter().map(|(_, row)| row.content.error_message.as_deref()).collect()),
                Column::times(rows.iter().map(|(_, row)| row.created_at)),
            ]
        },
    };
    write::<LookForCloneLog, UpsertCloneLog, _>(context, &table).await
}
