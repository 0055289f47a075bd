//! Transfers and the voice cache, which meet: a cache row counts the transfers of its voice, whichever of
//! them comes first (contract, section 4).

use std::collections::{BTreeMap, HashMap};

use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamp, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement, Unnest, from_timestamp};
use super::{At, Did, Table, Target, Written, touch, upsert, worth_writing};
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

/// Makes or locks the row of each voice, and counts new transfers into it. Gives the voices that have any. Ready and
/// transfer events of one voice come in different partitions and so in transactions that do not see each other: whoever
/// is second waits here, and then sees what the first one wrote. A row with transfers is written anew to be given.
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

/// Brings the cache rows of transferred voices up to date.
struct TouchCache;

impl Statement for TouchCache {
    const HEAD: &'static str = "WITH touched AS (
        UPDATE public.voice_clone_cache AS t
        SET reuse_count = GREATEST(t.reuse_count, u.reuse_count),
            last_used_at = GREATEST(t.last_used_at, u.last_transferred_at)
        FROM ";
    const TAIL: &'static str = " AS u (cloned_voice_id, reuse_count, last_transferred_at)
        WHERE t.cloned_voice_id = u.cloned_voice_id
          AND (u.reuse_count > t.reuse_count OR u.last_transferred_at > t.last_used_at)
        RETURNING t.id)
        SELECT COALESCE(array_agg(id), '{}') FROM touched";
    type Row = Array<SqlUuid>;
}

/// What a batch does to a voice: transfers that are new, and the latest of those that are or that changed. Of a voice
/// that is locked: all its transfers.
#[derive(Clone, Copy, Default)]
struct Voice {
    transfers: i64,
    last_transferred_at: Option<Time>,
}

impl Voice {
    fn reuse_count(self) -> i32 {
        i32::try_from(self.transfers.max(1)).unwrap_or(i32::MAX)
    }
}

/// The columns of a cache row that its voice gives.
fn of_voices(voices: &[Voice]) -> Vec<Column<'static>> {
    vec![
        Column::Integers(voices.iter().map(|voice| Some(voice.reuse_count())).collect()),
        Column::optional_times(voices.iter().map(|voice| voice.last_transferred_at)),
    ]
}

/// A row that is looked up and found to have taken its event in needs no lock: it stays so whatever comes.
pub(super) async fn write(target: Target<'_>, plan: &Plan<'_>) -> Result<Written, Fault> {
    let (connection, habits) = (target.connection, target.habits);
    let mut written = Written::default();
    let transfer_table = Table {
        name: "clone_transfer_events",
        habit: &habits.transfers,
        met: &plan.clone_transfer_events,
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
    let cache_table = Table {
        name: "voice_clone_cache",
        habit: &habits.cache,
        met: &plan.voice_clone_cache,
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
        touch::<UpsertTransfers, _>(connection, &transfer_table, &transfers, Vec::new()).await?;
    let mut voices: BTreeMap<&str, Voice> = BTreeMap::new();
    for (ids, new) in [(&made, 1), (&changed, 0)] {
        for row in ids.iter().filter_map(|id| transfer_table.met.get(id)) {
            let voice = voices.entry(&row.identity.cloned_voice_id).or_default();
            voice.transfers += new;
            voice.last_transferred_at = voice.last_transferred_at.max(Some(row.content));
        }
    }
    let transferred: Vec<&str> = voices.keys().copied().collect();
    for (_, row) in &cached {
        voices.entry(&row.cloned_voice_id).or_default();
    }
    written.count_met(transfer_table.name, transfer_table.met.len(), made.len(), changed.len());
    habits.transfers.learn(transfer_table.met.len(), made.len() + changed.len());
    if target.tells {
        written.tell(transfer_table.name, transfer_table.met, (made, changed));
    }

    let mut locked: HashMap<String, Voice> = HashMap::new();
    if !voices.is_empty() {
        let lock = Unnest::<LockVoices>::new(vec![
            Column::texts(voices.keys().copied()),
            Column::BigInts(voices.values().map(|voice| voice.transfers).collect()),
            Column::optional_times(voices.values().map(|voice| voice.last_transferred_at)),
        ]);
        let rows = lock.load(&mut &*connection).await.map_err(|error| Fault::from(error).on("voices"));
        let rows: Vec<(String, i64, At)> = rows?;
        locked.extend(rows.into_iter().map(|(voice, transfers, last)| {
            (voice, Voice { transfers, last_transferred_at: last.map(from_timestamp) })
        }));
    }
    let of = |voice: &str| locked.get(voice).copied().unwrap_or_default();
    let theirs: Vec<Voice> = cached.iter().map(|(_, row)| of(&row.cloned_voice_id)).collect();
    let cache_fault = |fault: Fault| fault.on(cache_table.name);
    let rows = upsert::<UpsertCache, _>(target, &cache_table, &cached, of_voices(&theirs)).await;
    written.add(rows.map_err(cache_fault)?);
    if !transferred.is_empty() {
        let theirs: Vec<Voice> = transferred.iter().map(|voice| of(voice)).collect();
        let mut columns = vec![Column::texts(transferred.into_iter())];
        columns.extend(of_voices(&theirs));
        let touched = Unnest::<TouchCache>::new(columns).get_result(&mut &*connection).await;
        let touched: Vec<Uuid> = touched.map_err(|error| cache_fault(error.into()))?;
        // those that the batch met are counted already
        let further = touched.iter().filter(|id| !cache_table.met.contains_key(id)).count();
        written.count_met(cache_table.name, further, 0, further);
        if target.tells {
            written.note(cache_table.name, touched, Did::Changed);
        }
    }
    Ok(written)
}
