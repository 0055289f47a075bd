//! Transfers and the voice cache, which meet: a cache row counts the transfers of its voice, whichever of
//! them comes first (contract, section 4).

use std::collections::BTreeSet;

use diesel::sql_types::{Array, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement, Unnest};
use super::{Did, Habits, Touched, Written, counted, note, worth_writing};
use crate::plan::Plan;

struct LookForTransfers;

impl Statement for LookForTransfers {
    const HEAD: &'static str = "SELECT u.id FROM unnest(";
    const TAIL: &'static str = ") AS u (id, transferred_at, created_at)
        WHERE (SELECT u.transferred_at <= t.transferred_at AND u.created_at >= t.created_at
               FROM public.clone_transfer_events t WHERE t.id = u.id) IS NOT TRUE";
    type Row = SqlUuid;
}

struct LookForCache;

impl Statement for LookForCache {
    const HEAD: &'static str = "SELECT u.id FROM unnest(";
    const TAIL: &'static str = ") AS u (id, clone_created_at, ttl_expires_at, last_ready_at, created_at)
        WHERE (SELECT u.clone_created_at >= t.clone_created_at AND u.ttl_expires_at <= t.ttl_expires_at
                  AND u.last_ready_at <= t.last_used_at AND u.created_at >= t.created_at
               FROM public.voice_clone_cache t WHERE t.id = u.id) IS NOT TRUE";
    type Row = SqlUuid;
}

/// Makes or locks the row of each voice. Ready and transfer events of one voice come in different
/// partitions and so in transactions that do not see each other: whoever is second waits here, and then
/// sees what the first one wrote.
struct LockVoices;

impl Statement for LockVoices {
    const HEAD: &'static str = "INSERT INTO ingest.voices AS t (cloned_voice_id) SELECT * FROM unnest(";
    const TAIL: &'static str =
        ") ON CONFLICT (cloned_voice_id) DO UPDATE SET transfers = t.transfers WHERE false";
    type Row = ();
}

/// Writes the transfers and counts the new ones into their voices, which are locked.
struct UpsertTransfers;

impl Statement for UpsertTransfers {
    const HEAD: &'static str = "WITH written AS (
        INSERT INTO public.clone_transfer_events AS t
            (id, greeting_call_id, agent_call_id, cloned_voice_id, transferred_at, created_at)
        SELECT * FROM unnest(";
    const TAIL: &'static str = ") ON CONFLICT (id) DO UPDATE SET
            transferred_at = GREATEST(t.transferred_at, excluded.transferred_at),
            created_at = LEAST(t.created_at, excluded.created_at)
        WHERE excluded.transferred_at > t.transferred_at OR excluded.created_at < t.created_at
        RETURNING id, cloned_voice_id, transferred_at, (xmax = 0) AS made),
    counted AS (
        UPDATE ingest.voices v
        SET transfers = v.transfers + s.made,
            last_transferred_at = GREATEST(v.last_transferred_at, s.last_transferred_at)
        FROM (SELECT cloned_voice_id, count(*) FILTER (WHERE made) AS made,
                     max(transferred_at) AS last_transferred_at
              FROM written GROUP BY cloned_voice_id) AS s
        WHERE v.cloned_voice_id = s.cloned_voice_id)
    SELECT COALESCE(array_agg(id) FILTER (WHERE made), '{}'),
           COALESCE(array_agg(id) FILTER (WHERE NOT made), '{}') FROM written";
    type Row = Touched;
}

counted!(
    UpsertCache,
    "INSERT INTO public.voice_clone_cache AS t
        (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at, last_used_at, created_at,
         reuse_count)
     SELECT u.id, u.caller_id, u.cloned_voice_id, u.clone_created_at, u.ttl_expires_at,
            GREATEST(u.last_ready_at, v.last_transferred_at), u.created_at,
            LEAST(GREATEST(v.transfers, 1), 2147483647)
     FROM unnest(",
    ") AS u (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at, last_ready_at, created_at)
     JOIN ingest.voices v ON v.cloned_voice_id = u.cloned_voice_id
     ORDER BY u.id
     ON CONFLICT (id) DO UPDATE SET
        clone_created_at = LEAST(t.clone_created_at, excluded.clone_created_at),
        ttl_expires_at = GREATEST(t.ttl_expires_at, excluded.ttl_expires_at),
        last_used_at = GREATEST(t.last_used_at, excluded.last_used_at),
        created_at = LEAST(t.created_at, excluded.created_at),
        reuse_count = GREATEST(t.reuse_count, excluded.reuse_count),
        deleted_at = CASE WHEN excluded.ttl_expires_at > t.deleted_at THEN NULL ELSE t.deleted_at END
     WHERE excluded.clone_created_at < t.clone_created_at OR excluded.ttl_expires_at > t.ttl_expires_at
        OR excluded.last_used_at > t.last_used_at OR excluded.created_at < t.created_at
        OR excluded.reuse_count > t.reuse_count"
);

/// Brings the cache rows of transferred voices up to date.
struct TouchCache;

impl Statement for TouchCache {
    const HEAD: &'static str = "WITH touched AS (
        UPDATE public.voice_clone_cache AS t
        SET reuse_count = LEAST(GREATEST(t.reuse_count, v.transfers), 2147483647),
            last_used_at = GREATEST(t.last_used_at, v.last_transferred_at)
        FROM unnest(";
    const TAIL: &'static str = ") AS u (cloned_voice_id)
        JOIN ingest.voices v ON v.cloned_voice_id = u.cloned_voice_id
        WHERE t.cloned_voice_id = u.cloned_voice_id
          AND (v.transfers > t.reuse_count OR v.last_transferred_at > t.last_used_at)
        RETURNING t.id)
        SELECT COALESCE(array_agg(id), '{}') FROM touched";
    type Row = Array<SqlUuid>;
}

/// A row that is looked up and found to have taken its event in needs no lock: it stays so whatever comes.
pub(super) async fn write(
    connection: &mut AsyncPgConnection,
    habits: &Habits,
    plan: &Plan<'_>,
    written: &mut Written,
) -> Result<(), Fault> {
    let met = &plan.clone_transfer_events;
    let transfers = worth_writing::<LookForTransfers, _>(connection, &habits.transfers, met, |rows| {
        vec![
            Column::Uuids(rows.iter().map(|(id, _)| *id).collect()),
            Column::times(rows.iter().map(|(_, row)| row.content)),
            Column::times(rows.iter().map(|(_, row)| row.created_at)),
        ]
    })
    .await?;
    let met_cached = &plan.voice_clone_cache;
    let cached = worth_writing::<LookForCache, _>(connection, &habits.cache, met_cached, |rows| {
        vec![
            Column::Uuids(rows.iter().map(|(id, _)| *id).collect()),
            Column::times(rows.iter().map(|(_, row)| row.clone_created_at)),
            Column::times(rows.iter().map(|(_, row)| row.ttl_expires_at)),
            Column::times(rows.iter().map(|(_, row)| row.last_ready_at)),
            Column::times(rows.iter().map(|(_, row)| row.created_at)),
        ]
    })
    .await?;

    let transferred: BTreeSet<&str> =
        transfers.iter().map(|(_, row)| row.identity.cloned_voice_id.as_ref()).collect();
    let ready = cached.iter().map(|(_, row)| row.cloned_voice_id.as_ref());
    let voices: BTreeSet<&str> = transferred.iter().copied().chain(ready).collect();
    if !voices.is_empty() {
        Unnest::<LockVoices>::new(vec![Column::texts(voices.into_iter())]).execute(connection).await?;
    }

    let touched = if transfers.is_empty() {
        Default::default()
    } else {
        Unnest::<UpsertTransfers>::new(vec![
            Column::Uuids(transfers.iter().map(|(id, _)| *id).collect()),
            Column::texts(transfers.iter().map(|(_, row)| &row.identity.greeting_call_id)),
            Column::texts(transfers.iter().map(|(_, row)| &row.identity.agent_call_id)),
            Column::texts(transfers.iter().map(|(_, row)| &row.identity.cloned_voice_id)),
            Column::times(transfers.iter().map(|(_, row)| row.content)),
            Column::times(transfers.iter().map(|(_, row)| row.created_at)),
        ])
        .get_result(connection)
        .await?
    };
    note(written, &habits.transfers, "clone_transfer_events", met, touched);

    let touched = if cached.is_empty() {
        Default::default()
    } else {
        Unnest::<UpsertCache>::new(vec![
            Column::Uuids(cached.iter().map(|(id, _)| *id).collect()),
            Column::texts(cached.iter().map(|(_, row)| &row.caller_id)),
            Column::texts(cached.iter().map(|(_, row)| &row.cloned_voice_id)),
            Column::times(cached.iter().map(|(_, row)| row.clone_created_at)),
            Column::times(cached.iter().map(|(_, row)| row.ttl_expires_at)),
            Column::times(cached.iter().map(|(_, row)| row.last_ready_at)),
            Column::times(cached.iter().map(|(_, row)| row.created_at)),
        ])
        .get_result(connection)
        .await?
    };
    note(written, &habits.cache, "voice_clone_cache", met_cached, touched);

    if !transferred.is_empty() {
        let touched: Vec<Uuid> = Unnest::<TouchCache>::new(vec![Column::texts(transferred.into_iter())])
            .get_result(connection)
            .await?;
        written.note("voice_clone_cache", touched.into_iter(), Did::Changed);
    }
    Ok(())
}
