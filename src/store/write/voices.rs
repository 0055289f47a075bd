//! Transfers and the voice cache. A cache row counts the transfers of its voice, whichever comes first (contract,
//! section 4).

use std::collections::{BTreeMap, HashMap};

use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamp, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement, Unnest, from_timestamp};
use super::{
    RowOutcome, StoredTime, UpsertTable, WriteContext, Written, upsert, upsert_returning, worth_writing,
};
use crate::event::Time;
use crate::plan::Plan;

struct LookForTransfers;

impl Statement for LookForTransfers {
    const HEAD: &'static str = "SELECT u.id FROM ";
    const TAIL: &'static str = " AS u (id, transferred_at, created_at)
        WHERE (SELECT u.transferred_at <= t.transferred_at AND u.created_at >= t.created_at
               FROM public.clone_transfer_events t WHERE t.id = u.id) IS NOT TRUE";
    type Row = SqlUuid;
}

struct LookForCache;

impl Statement for LookForCache {
    const HEAD: &'static str = "SELECT u.id FROM ";
    const TAIL: &'static str = " AS u (id, clone_created_at, ttl_expires_at, last_ready_at, created_at)
        WHERE (SELECT u.clone_created_at >= t.clone_created_at AND u.ttl_expires_at <= t.ttl_expires_at
                  AND u.last_ready_at <= t.last_used_at AND u.created_at >= t.created_at
               FROM public.voice_clone_cache t WHERE t.id = u.id) IS NOT TRUE";
    type Row = SqlUuid;
}

struct UpsertTransfers;

impl Statement for UpsertTransfers {
    const HEAD: &'static str = "INSERT INTO public.clone_transfer_events AS t
        (id, greeting_call_id, agent_call_id, cloned_voice_id, transferred_at, created_at)
     SELECT * FROM ";
    const TAIL: &'static str = " AS u ON CONFLICT (id) DO UPDATE SET
        transferred_at = GREATEST(t.transferred_at, excluded.transferred_at),
        created_at = LEAST(t.created_at, excluded.created_at)
     WHERE excluded.transferred_at > t.transferred_at OR excluded.created_at < t.created_at";
    type Row = ();
}

/// Makes or locks the row of each voice, and counts new transfers into it. Returns the voices that have transfers.
/// Ready and transfer events of one voice come in different partitions, and so in transactions that do not see each
/// other: the second one waits here, and then sees what the first one wrote. Rows with transfers are updated even if
/// unchanged, so that RETURNING yields them.
struct LockVoices;

impl Statement for LockVoices {
    const HEAD: &'static str = "WITH locked AS (
        INSERT INTO ingest.voices AS t (cloned_voice_id, transfers, last_transferred_at)
        SELECT * FROM ";
    const TAIL: &'static str = " AS u ON CONFLICT (cloned_voice_id) DO UPDATE SET
            transfers = t.transfers + excluded.transfers,
            last_transferred_at = GREATEST(t.last_transferred_at, excluded.last_transferred_at)
        WHERE t.transfers + excluded.transfers > 0
           OR COALESCE(t.last_transferred_at, excluded.last_transferred_at) IS NOT NULL
        RETURNING cloned_voice_id, transfers, last_transferred_at)
        SELECT cloned_voice_id, transfers, last_transferred_at FROM locked
        WHERE transfers > 0 OR last_transferred_at IS NOT NULL";
    type Row = (Text, BigInt, Nullable<Timestamp>);
}

struct UpsertCache;

impl Statement for UpsertCache {
    const HEAD: &'static str = "INSERT INTO public.voice_clone_cache AS t
        (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at, last_used_at, created_at, reuse_count)
     SELECT id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at,
            GREATEST(last_ready_at, last_transferred_at), created_at, reuse_count
     FROM ";
    const TAIL: &'static str = " AS u (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at,
                last_ready_at, created_at, reuse_count, last_transferred_at)
     ON CONFLICT (id) DO UPDATE SET
        clone_created_at = LEAST(t.clone_created_at, excluded.clone_created_at),
        ttl_expires_at = GREATEST(t.ttl_expires_at, excluded.ttl_expires_at),
        last_used_at = GREATEST(t.last_used_at, excluded.last_used_at),
        created_at = LEAST(t.created_at, excluded.created_at),
        reuse_count = GREATEST(t.reuse_count, excluded.reuse_count),
        deleted_at = CASE WHEN excluded.ttl_expires_at > t.deleted_at THEN NULL ELSE t.deleted_at END
     WHERE excluded.clone_created_at < t.clone_created_at OR excluded.ttl_expires_at > t.ttl_expires_at
        OR excluded.last_used_at > t.last_used_at OR excluded.created_at < t.created_at
        OR excluded.reuse_count > t.reuse_count";
    type Row = ();
}

/// Updates the cache rows of transferred voices.
struct UpdateCache;

impl Statement for UpdateCache {
    const HEAD: &'static str = "WITH updated AS (
        UPDATE public.voice_clone_cache AS t
        SET reuse_count = GREATEST(t.reuse_count, u.reuse_count),
            last_used_at = GREATEST(t.last_used_at, u.last_transferred_at)
        FROM ";
    const TAIL: &'static str = " AS u (cloned_voice_id, reuse_count, last_transferred_at)
        WHERE t.cloned_voice_id = u.cloned_voice_id
          AND (u.reuse_count > t.reuse_count OR u.last_transferred_at > t.last_used_at)
        RETURNING t.id)
        SELECT COALESCE(array_agg(id), '{}') FROM updated";
    type Row = Array<SqlUuid>;
}

/// The transfers of a voice. In a batch: the number of new ones, and the latest that is new or changed. In a locked
/// voice: all of them.
#[derive(Clone, Copy, Default)]
struct VoiceTransfers {
    transfers: i64,
    last_transferred_at: Option<Time>,
}

impl VoiceTransfers {
    fn reuse_count(self) -> i32 {
        i32::try_from(self.transfers.max(1)).unwrap_or(i32::MAX)
    }
}

/// The columns of a cache row that depend on its voice.
fn voice_columns(voices: &[VoiceTransfers]) -> Vec<Column<'static>> {
    vec![
        Column::Integers(voices.iter().map(|voice| Some(voice.reuse_count())).collect()),
        Column::optional_times(voices.iter().map(|voice| voice.last_transferred_at)),
    ]
}

/// A row that is found to have taken its event in needs no lock: it stays so, whatever follows.
pub(super) async fn write(context: WriteContext<'_>, plan: &Plan<'_>) -> Result<Written, Fault> {
    let (connection, lookups) = (context.connection, context.lookups);
    let mut written = Written::default();
    let transfer_table = UpsertTable {
        name: "clone_transfer_events",
        lookup: &lookups.transfers,
        incoming: &plan.clone_transfer_events,
        identity: |rows| {
            vec![
                Column::texts(rows.iter().map(|(_, row)| &row.identity.greeting_call_id)),
                Column::texts(rows.iter().map(|(_, row)| &row.identity.agent_call_id)),
                Column::texts(rows.iter().map(|(_, row)| &row.identity.cloned_voice_id)),
            ]
        },
        compared: |rows| {
            vec![
                Column::times(rows.iter().map(|(_, row)| row.content)),
                Column::times(rows.iter().map(|(_, row)| row.created_at)),
            ]
        },
    };
    let cache_table = UpsertTable {
        name: "voice_clone_cache",
        lookup: &lookups.cache,
        incoming: &plan.voice_clone_cache,
        identity: |rows| {
            vec![
                Column::texts(rows.iter().map(|(_, row)| &row.caller_id)),
                Column::texts(rows.iter().map(|(_, row)| &row.cloned_voice_id)),
            ]
        },
        compared: |rows| {
            vec![
                Column::times(rows.iter().map(|(_, row)| row.clone_created_at)),
                Column::times(rows.iter().map(|(_, row)| row.ttl_expires_at)),
                Column::times(rows.iter().map(|(_, row)| row.last_ready_at)),
                Column::times(rows.iter().map(|(_, row)| row.created_at)),
            ]
        },
    };
    let (transfers, cached) = futures_util::try_join!(
        worth_writing::<LookForTransfers, _>(connection, &transfer_table),
        worth_writing::<LookForCache, _>(connection, &cache_table),
    )?;
    let (made, changed) =
        upsert_returning::<UpsertTransfers, _>(connection, &transfer_table, &transfers, Vec::new()).await?;
    let mut voices: BTreeMap<&str, VoiceTransfers> = BTreeMap::new();
    for (ids, new) in [(&made, 1), (&changed, 0)] {
        for row in ids.iter().filter_map(|id| transfer_table.incoming.get(id)) {
            let voice = voices.entry(&row.identity.cloned_voice_id).or_default();
            voice.transfers += new;
            voice.last_transferred_at = voice.last_transferred_at.max(Some(row.content));
        }
    }
    let transferred: Vec<&str> = voices.keys().copied().collect();
    for (_, row) in &cached {
        voices.entry(&row.cloned_voice_id).or_default();
    }
    written.count_rows(transfer_table.name, transfer_table.incoming.len(), made.len(), changed.len());
    lookups.transfers.learn(transfer_table.incoming.len(), made.len() + changed.len());
    if context.reports_rows {
        written.record_outcomes(transfer_table.name, transfer_table.incoming, (made, changed));
    }

    let mut locked: HashMap<String, VoiceTransfers> = HashMap::new();
    if !voices.is_empty() {
        let lock = Unnest::<LockVoices>::new(vec![
            Column::texts(voices.keys().copied()),
            Column::BigInts(voices.values().map(|voice| voice.transfers).collect()),
            Column::optional_times(voices.values().map(|voice| voice.last_transferred_at)),
        ]);
        let rows = lock.load(&mut &*connection).await.map_err(|error| Fault::from(error).on("voices"));
        let rows: Vec<(String, i64, StoredTime)> = rows?;
        locked.extend(rows.into_iter().map(|(voice, transfers, last)| {
            (voice, VoiceTransfers { transfers, last_transferred_at: last.map(from_timestamp) })
        }));
    }
    let of = |voice: &str| locked.get(voice).copied().unwrap_or_default();
    let voices_of_rows: Vec<VoiceTransfers> =
        cached.iter().map(|(_, row)| of(&row.cloned_voice_id)).collect();
    let cache_fault = |fault: Fault| fault.on(cache_table.name);
    let rows = upsert::<UpsertCache, _>(context, &cache_table, &cached, voice_columns(&voices_of_rows)).await;
    written.add(rows.map_err(cache_fault)?);
    if !transferred.is_empty() {
        let voices_of_rows: Vec<VoiceTransfers> = transferred.iter().map(|voice| of(voice)).collect();
        let mut columns = vec![Column::texts(transferred.into_iter())];
        columns.extend(voice_columns(&voices_of_rows));
        let updated = Unnest::<UpdateCache>::new(columns).get_result(&mut &*connection).await;
        let updated: Vec<Uuid> = updated.map_err(|error| cache_fault(error.into()))?;
        // the rows of the batch are counted already
        let others = updated.iter().filter(|id| !cache_table.incoming.contains_key(id)).count();
        written.count_rows(cache_table.name, others, 0, others);
        if context.reports_rows {
            written.note(cache_table.name, updated, RowOutcome::Changed);
        }
    }
    Ok(written)
}
