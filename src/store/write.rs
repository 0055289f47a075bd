//! A batch in one transaction: offsets first, as the fence; then the locks, in one order; then each
//! table's rows in one statement (contract, sections 4 and 7).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{Array, Nullable, Text, Timestamp, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::dead_letters::{self, DeadLetter};
use super::offsets::{self, Advance};
use super::unnest::{Column, Statement, Unnest, from_timestamp};
use super::{Fault, Store};
use crate::event::{MappingState, Status, Time};
use crate::fold::{Call, Entries, Latest, Mapping, Merge};
use crate::identity::uid;
use crate::plan::Plan;

/// What a write did with a row; of several writes the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Did {
    LeftAlone,
    Changed,
    Made,
}

/// What a write did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// By table: the rows that it met, by id; one that is there twice counts as the greater says.
    pub rows: BTreeMap<&'static str, Vec<(Uuid, Did)>>,
    /// Dead letters that are new.
    pub dead_letters: u64,
    /// Records that cannot be used, whether or not their dead letters are new; `Ingest` counts them.
    pub unusable: u64,
}

impl Written {
    /// Adds what a further write did.
    pub fn add(&mut self, other: Written) {
        self.dead_letters += other.dead_letters;
        self.unusable += other.unusable;
        for (table, rows) in other.rows {
            self.rows.entry(table).or_default().extend(rows);
        }
    }

    fn note(&mut self, table: &'static str, rows: impl Iterator<Item = Uuid>, did: Did) {
        self.rows.entry(table).or_default().extend(rows.map(|id| (id, did)));
    }

    fn count(
        &mut self,
        table: &'static str,
        met: impl Iterator<Item = Uuid>,
        (made, changed): (Vec<Uuid>, Vec<Uuid>),
    ) {
        self.note(table, met, Did::LeftAlone);
        self.note(table, made.into_iter(), Did::Made);
        self.note(table, changed.into_iter(), Did::Changed);
    }
}

/// Whether a write is to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Commits.
    Commit,
    /// Does all and rolls back: says what would happen.
    Rehearse,
}

impl Store {
    /// Writes a batch in one transaction: all of it, or nothing.
    pub async fn write(
        &self,
        plan: &Plan<'_>,
        dead_letters: &[DeadLetter<'_>],
        advances: &[Advance],
        mode: Mode,
    ) -> Result<Written, Fault> {
        let mut connection = self.connection().await?;
        let mut rehearsed = None;
        let result = connection
            .transaction::<Written, Fault, _>(async |connection| {
                let written = write_all(connection, plan, dead_letters, advances).await?;
                if mode == Mode::Rehearse {
                    rehearsed = Some(written);
                    return Err(Fault::from(diesel::result::Error::RollbackTransaction));
                }
                Ok(written)
            })
            .await;
        match rehearsed {
            Some(written) => Ok(written),
            None => result,
        }
    }
}

async fn write_all(
    connection: &mut AsyncPgConnection,
    plan: &Plan<'_>,
    dead_letters: &[DeadLetter<'_>],
    advances: &[Advance],
) -> Result<Written, Fault> {
    let mut written = Written::default();
    offsets::advance(connection, advances).await?;
    write_ready(connection, plan, &mut written).await?;
    write_failed(connection, plan, &mut written).await?;
    write_clone_log(connection, plan, &mut written).await?;
    write_transfers_and_cache(connection, plan, &mut written).await?;
    write_calls(connection, plan, &mut written).await?;
    write_mappings(connection, plan, &mut written).await?;
    written.dead_letters = dead_letters::insert(connection, dead_letters).await?;
    Ok(written)
}

/// Ids of rows made, and of rows changed.
type Touched = (Array<SqlUuid>, Array<SqlUuid>);

/// Declares a statement that returns [`Touched`].
macro_rules! counted {
    ($name:ident, $head:expr, $tail:expr) => {
        struct $name;
        impl Statement for $name {
            const HEAD: &'static str = concat!("WITH written AS (", $head);
            const TAIL: &'static str = concat!(
                $tail,
                " RETURNING (xmax = 0) AS made, id)
                 SELECT COALESCE(array_agg(id) FILTER (WHERE made), '{}'),
                        COALESCE(array_agg(id) FILTER (WHERE NOT made), '{}') FROM written"
            );
            type Row = Touched;
        }
    };
}

counted!(
    UpsertReady,
    "INSERT INTO public.clone_ready_events AS t
        (id, caller_id, greeting_call_id, cloned_voice_id, ready_at, clone_duration_ms, created_at)
     SELECT * FROM unnest(",
    ") ON CONFLICT (id) DO UPDATE SET
        (ready_at, clone_duration_ms) =
            (SELECT r, d FROM (VALUES (t.ready_at, t.clone_duration_ms),
                                      (excluded.ready_at, excluded.clone_duration_ms)) AS v (r, d)
             ORDER BY r DESC, d DESC NULLS LAST LIMIT 1),
        created_at = LEAST(t.created_at, excluded.created_at)
     WHERE (excluded.ready_at, COALESCE(excluded.clone_duration_ms, -1))
         > (t.ready_at, COALESCE(t.clone_duration_ms, -1))
        OR excluded.created_at < t.created_at"
);

async fn write_ready(
    connection: &mut AsyncPgConnection,
    plan: &Plan<'_>,
    written: &mut Written,
) -> Result<(), Fault> {
    let rows = &plan.clone_ready_events;
    if rows.is_empty() {
        return Ok(());
    }
    let statement = Unnest::<UpsertReady>::new(vec![
        Column::Uuids(rows.keys().copied().collect()),
        Column::texts(rows.values().map(|row| &row.identity.caller_id)),
        Column::texts(rows.values().map(|row| &row.identity.greeting_call_id)),
        Column::texts(rows.values().map(|row| &row.identity.cloned_voice_id)),
        Column::times(rows.values().map(|row| row.content.ready_at)),
        Column::Integers(rows.values().map(|row| row.content.clone_duration_ms).collect()),
        Column::times(rows.values().map(|row| row.created_at)),
    ]);
    written.count("clone_ready_events", rows.keys().copied(), statement.get_result(connection).await?);
    Ok(())
}

counted!(
    UpsertFailed,
    "INSERT INTO public.clone_failed_events AS t
        (id, caller_id, greeting_call_id, failed_at, error_message, created_at)
     SELECT * FROM unnest(",
    ") ON CONFLICT (id) DO UPDATE SET
        error_message = CASE WHEN excluded.error_message COLLATE \"C\" > t.error_message COLLATE \"C\"
                             THEN excluded.error_message ELSE t.error_message END,
        created_at = LEAST(t.created_at, excluded.created_at)
     WHERE excluded.error_message COLLATE \"C\" > t.error_message COLLATE \"C\"
        OR excluded.created_at < t.created_at"
);

async fn write_failed(
    connection: &mut AsyncPgConnection,
    plan: &Plan<'_>,
    written: &mut Written,
) -> Result<(), Fault> {
    let rows = &plan.clone_failed_events;
    if rows.is_empty() {
        return Ok(());
    }
    let statement = Unnest::<UpsertFailed>::new(vec![
        Column::Uuids(rows.keys().copied().collect()),
        Column::texts(rows.values().map(|row| &row.identity.caller_id)),
        Column::texts(rows.values().map(|row| &row.identity.greeting_call_id)),
        Column::times(rows.values().map(|row| row.identity.failed_at)),
        Column::texts(rows.values().map(|row| &row.content)),
        Column::times(rows.values().map(|row| row.created_at)),
    ]);
    written.count("clone_failed_events", rows.keys().copied(), statement.get_result(connection).await?);
    Ok(())
}

counted!(
    UpsertCloneLog,
    "INSERT INTO public.voice_clone_log AS t
        (id, caller_id, status, clone_created_at, cloned_voice_id, api_response_time_ms,
         sample_file_size_bytes, error_message, created_at)
     SELECT * FROM unnest(",
    ") ON CONFLICT (id) DO UPDATE SET
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
        OR excluded.created_at < t.created_at"
);

async fn write_clone_log(
    connection: &mut AsyncPgConnection,
    plan: &Plan<'_>,
    written: &mut Written,
) -> Result<(), Fault> {
    let rows = &plan.voice_clone_log;
    if rows.is_empty() {
        return Ok(());
    }
    let statement = Unnest::<UpsertCloneLog>::new(vec![
        Column::Uuids(rows.keys().copied().collect()),
        Column::texts(rows.values().map(|row| &row.identity.caller_id)),
        Column::texts(rows.values().map(|row| row.identity.status)),
        Column::optional_times(rows.values().map(|row| row.content.clone_created_at)),
        Column::Texts(rows.values().map(|row| row.content.cloned_voice_id.as_deref()).collect()),
        Column::Integers(rows.values().map(|row| row.content.api_response_time_ms).collect()),
        Column::Integers(rows.values().map(|row| row.content.sample_file_size_bytes).collect()),
        Column::Texts(rows.values().map(|row| row.content.error_message.as_deref()).collect()),
        Column::times(rows.values().map(|row| row.created_at)),
    ]);
    written.count("voice_clone_log", rows.keys().copied(), statement.get_result(connection).await?);
    Ok(())
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
        FROM ingest.voices v
        WHERE t.cloned_voice_id = v.cloned_voice_id AND v.cloned_voice_id IN (SELECT unnest(";
    const TAIL: &'static str = "))
          AND (v.transfers > t.reuse_count OR v.last_transferred_at > t.last_used_at)
        RETURNING t.id)
        SELECT COALESCE(array_agg(id), '{}') FROM touched";
    type Row = Array<SqlUuid>;
}

async fn write_transfers_and_cache(
    connection: &mut AsyncPgConnection,
    plan: &Plan<'_>,
    written: &mut Written,
) -> Result<(), Fault> {
    let voices = plan.voices();
    if voices.is_empty() {
        return Ok(());
    }
    let column = || Column::texts(voices.iter().copied());
    Unnest::<LockVoices>::new(vec![column()]).execute(connection).await?;

    let rows = &plan.clone_transfer_events;
    if !rows.is_empty() {
        let statement = Unnest::<UpsertTransfers>::new(vec![
            Column::Uuids(rows.keys().copied().collect()),
            Column::texts(rows.values().map(|row| &row.identity.greeting_call_id)),
            Column::texts(rows.values().map(|row| &row.identity.agent_call_id)),
            Column::texts(rows.values().map(|row| &row.identity.cloned_voice_id)),
            Column::times(rows.values().map(|row| row.content)),
            Column::times(rows.values().map(|row| row.created_at)),
        ]);
        written.count("clone_transfer_events", rows.keys().copied(), statement.get_result(connection).await?);
    }
    let cached = &plan.voice_clone_cache;
    if !cached.is_empty() {
        let statement = Unnest::<UpsertCache>::new(vec![
            Column::Uuids(cached.keys().copied().collect()),
            Column::texts(cached.values().map(|row| &row.caller_id)),
            Column::texts(cached.values().map(|row| &row.cloned_voice_id)),
            Column::times(cached.values().map(|row| row.clone_created_at)),
            Column::times(cached.values().map(|row| row.ttl_expires_at)),
            Column::times(cached.values().map(|row| row.last_ready_at)),
            Column::times(cached.values().map(|row| row.created_at)),
        ]);
        written.count("voice_clone_cache", cached.keys().copied(), statement.get_result(connection).await?);
    }
    if !rows.is_empty() {
        let touched: Vec<Uuid> = Unnest::<TouchCache>::new(vec![column()]).get_result(connection).await?;
        written.note("voice_clone_cache", touched.into_iter(), Did::Changed);
    }
    Ok(())
}

/// Makes or locks the bookkeeping row of each call.
struct LockCalls;

impl Statement for LockCalls {
    const HEAD: &'static str = "INSERT INTO ingest.calls AS t (call_id) SELECT * FROM unnest(";
    const TAIL: &'static str = ") ON CONFLICT (call_id) DO UPDATE SET call_id = t.call_id WHERE false";
    type Row = ();
}

/// The stored fold of calls: values from `call_log`, their event times from `ingest.calls`.
struct ReadCalls;

impl Statement for ReadCalls {
    const HEAD: &'static str = "SELECT c.call_id,
            l.id, l.threecx_call_id, l.caller_id, l.cloned_voice_id, l.call_started_at, l.call_ended_at,
            l.duration_seconds, l.transcript, l.status, l.metadata::text, l.created_at, l.updated_at,
            c.initiated_at, c.terminal_at, c.threecx_call_id_at, c.caller_id_at, c.cloned_voice_id_at,
            c.call_started_at_at, c.call_ended_at_at, c.duration_seconds_at, c.transcript_at, c.metadata_at,
            c.metadata_keys_at
        FROM ingest.calls c JOIN public.call_log l ON l.call_id = c.call_id
        WHERE c.call_id IN (SELECT unnest(";
    const TAIL: &'static str = "))";
    type Row = (
        (Text, SqlUuid, Nullable<Text>, Nullable<Text>, Nullable<Text>),
        (Nullable<Timestamp>, Nullable<Timestamp>, Nullable<diesel::sql_types::Integer>, Nullable<Text>),
        (Nullable<Text>, Nullable<Text>, Nullable<Timestamp>, Nullable<Timestamp>),
        (Nullable<Timestamp>, Nullable<Timestamp>),
        (Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Timestamp>),
        (Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Timestamp>, Nullable<Text>),
    );
}

type At = Option<PgTimestamp>;

/// A row of [`ReadCalls`].
#[allow(clippy::type_complexity, reason = "one row, in groups that Diesel's tuples allow")]
type StoredCall = (
    (String, Uuid, Option<String>, Option<String>, Option<String>),
    (At, At, Option<i32>, Option<String>),
    (Option<String>, Option<String>, At, At),
    (At, At),
    (At, At, At, At),
    (At, At, At, At, Option<String>),
);

/// The event time of a stored value. One that no event gave, of a row that another tool made, is older
/// than all; one that is derived has no event time and is no value of the fold.
fn latest<T>(value: Option<T>, at: At, adopted: bool) -> Latest<T> {
    match (at, adopted) {
        (Some(at), _) => value.map(|value| (from_timestamp(at), value)),
        (None, true) => value.map(|value| (Time::OLDER_THAN_ALL, value)),
        (None, false) => None,
    }
}

/// The fold that is stored, by call.
fn stored_call(row: StoredCall) -> (String, (Uuid, Call<'static>)) {
    let (
        (call_id, id, threecx_call_id, caller_id, cloned_voice_id),
        (started_at, ended_at, duration_seconds, transcript),
        (status, metadata, created_at, updated_at),
        (initiated_at, terminal_at),
        (threecx_at, caller_at, voice_at, started_at_at),
        (ended_at_at, duration_at, transcript_at, metadata_at, metadata_keys_at),
    ) = row;
    // Every event has a status, so a row that no event has met has neither time.
    let adopted = initiated_at.is_none() && terminal_at.is_none();
    let status = status.as_deref().and_then(Status::from_name).filter(|s| *s != Status::Initiated);
    let call = Call {
        threecx_call_id: latest(threecx_call_id.map(Cow::Owned), threecx_at, adopted),
        caller_id: latest(caller_id.map(Cow::Owned), caller_at, adopted),
        cloned_voice_id: latest(cloned_voice_id.map(Cow::Owned), voice_at, adopted),
        call_started_at: latest(started_at.map(from_timestamp), started_at_at, adopted),
        call_ended_at: latest(ended_at.map(from_timestamp), ended_at_at, adopted),
        duration_seconds: latest(duration_seconds, duration_at, adopted),
        transcript: latest(transcript.map(Cow::Owned), transcript_at, adopted),
        metadata: stored_metadata(metadata, metadata_at, metadata_keys_at, adopted),
        terminal: latest(status, terminal_at, adopted),
        initiated_at: initiated_at.map(from_timestamp),
        created_at: created_at.map(from_timestamp),
        // Of a row that no event has met, `updated_at` is older than every record's timestamp.
        updated_at: updated_at.map(from_timestamp).filter(|_| !adopted),
    };
    (call_id, (id, call))
}

fn stored_metadata(
    text: Option<String>,
    at: At,
    keys_at: Option<String>,
    adopted: bool,
) -> Option<(Time, Entries<'static>)> {
    let at = if adopted { Time::OLDER_THAN_ALL } else { from_timestamp(at?) };
    let keys_at: HashMap<String, i64> =
        keys_at.and_then(|keys_at| serde_json::from_str(&keys_at).ok()).unwrap_or_default();
    let members = crate::event::stored_metadata(&text?)?.into_iter().map(|(key, value)| {
        let at = keys_at.get(&key).map_or(Time::OLDER_THAN_ALL, |micros| Time::from_micros(*micros));
        (Cow::Owned(key), (at, value))
    });
    Some((at, members.collect()))
}

/// Writes the calls that changed.
struct UpsertCalls;

impl Statement for UpsertCalls {
    const HEAD: &'static str = "INSERT INTO public.call_log AS t
        (id, call_id, threecx_call_id, caller_id, cloned_voice_id, call_started_at, call_ended_at,
         duration_seconds, transcript, status, metadata, created_at, updated_at)
     SELECT id, call_id, threecx_call_id, caller_id, cloned_voice_id, call_started_at, call_ended_at,
            duration_seconds, transcript, status, metadata::json, created_at, updated_at
     FROM unnest(";
    const TAIL: &'static str =
        ") AS u (id, call_id, threecx_call_id, caller_id, cloned_voice_id, call_started_at, call_ended_at,
             duration_seconds, transcript, status, metadata, created_at, updated_at)
     ON CONFLICT (call_id) DO UPDATE SET
        threecx_call_id = excluded.threecx_call_id, caller_id = excluded.caller_id,
        cloned_voice_id = excluded.cloned_voice_id, call_started_at = excluded.call_started_at,
        call_ended_at = excluded.call_ended_at, duration_seconds = excluded.duration_seconds,
        transcript = excluded.transcript, status = excluded.status, metadata = excluded.metadata,
        created_at = excluded.created_at, updated_at = excluded.updated_at";
    type Row = ();
}

/// The event times of calls that are locked.
struct UpdateCallTimes;

impl Statement for UpdateCallTimes {
    const HEAD: &'static str = "UPDATE ingest.calls c SET
            initiated_at = u.initiated_at, terminal_at = u.terminal_at,
            threecx_call_id_at = u.threecx_call_id_at, caller_id_at = u.caller_id_at,
            cloned_voice_id_at = u.cloned_voice_id_at, call_started_at_at = u.call_started_at_at,
            call_ended_at_at = u.call_ended_at_at, duration_seconds_at = u.duration_seconds_at,
            transcript_at = u.transcript_at, metadata_at = u.metadata_at,
            metadata_keys_at = u.metadata_keys_at
        FROM unnest(";
    const TAIL: &'static str = ") AS u (call_id, initiated_at, terminal_at, threecx_call_id_at, caller_id_at,
            cloned_voice_id_at, call_started_at_at, call_ended_at_at, duration_seconds_at, transcript_at,
            metadata_at, metadata_keys_at)
        WHERE c.call_id = u.call_id";
    type Row = ();
}

fn at<T>(latest: &Latest<T>) -> Option<Time> {
    latest.as_ref().map(|(at, _)| *at)
}

/// The fold of calls does not fit one statement: it is locked, read, merged by the same code as within a
/// batch, and written where it changed.
async fn write_calls(
    connection: &mut AsyncPgConnection,
    plan: &Plan<'_>,
    written: &mut Written,
) -> Result<(), Fault> {
    let events = &plan.call_log;
    if events.is_empty() {
        return Ok(());
    }
    let call_ids = || Column::texts(events.keys());
    Unnest::<LockCalls>::new(vec![call_ids()]).execute(connection).await?;
    let stored: Vec<StoredCall> = Unnest::<ReadCalls>::new(vec![call_ids()]).load(connection).await?;
    let mut stored: HashMap<String, (Uuid, Call<'static>)> = stored.into_iter().map(stored_call).collect();

    let mut rows: Vec<(Uuid, &str, Call<'_>)> = Vec::new();
    for (call_id, events) in events {
        let (id, did) = match stored.remove(call_id.as_ref()) {
            None => {
                let id = uid("call_log", &[call_id]);
                rows.push((id, call_id, events.clone()));
                (id, Did::Made)
            }
            Some((id, before)) => {
                let mut after: Call<'_> = before.clone();
                after.merge(events.clone());
                let changed = after != before;
                if changed {
                    rows.push((id, call_id, after));
                }
                (id, if changed { Did::Changed } else { Did::LeftAlone })
            }
        };
        written.note("call_log", std::iter::once(id), did);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let calls = || rows.iter().map(|(_, _, call)| call);
    let metadata: Vec<Option<String>> = calls().map(Call::metadata_json).collect();
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
        Column::Texts(metadata.iter().map(Option::as_deref).collect()),
        Column::optional_times(calls().map(|call| call.created_at)),
        Column::optional_times(calls().map(|call| call.updated_at)),
    ]);
    statement.execute(connection).await?;

    let keys_at: Vec<Option<String>> = calls()
        .map(|call| {
            let (_, entries) = call.metadata.as_ref()?;
            let keys_at: BTreeMap<&str, i64> =
                entries.iter().map(|(key, (at, _))| (key.as_ref(), at.micros())).collect();
            serde_json::to_string(&keys_at).ok()
        })
        .collect();
    let statement = Unnest::<UpdateCallTimes>::new(vec![
        Column::texts(rows.iter().map(|(_, call_id, _)| *call_id)),
        Column::optional_times(calls().map(|call| call.initiated_at)),
        Column::optional_times(calls().map(|call| at(&call.terminal))),
        Column::optional_times(calls().map(|call| at(&call.threecx_call_id))),
        Column::optional_times(calls().map(|call| at(&call.caller_id))),
        Column::optional_times(calls().map(|call| at(&call.cloned_voice_id))),
        Column::optional_times(calls().map(|call| at(&call.call_started_at))),
        Column::optional_times(calls().map(|call| at(&call.call_ended_at))),
        Column::optional_times(calls().map(|call| at(&call.duration_seconds))),
        Column::optional_times(calls().map(|call| at(&call.transcript))),
        Column::optional_times(calls().map(|call| at(&call.metadata))),
        Column::Texts(keys_at.iter().map(Option::as_deref).collect()),
    ]);
    statement.execute(connection).await?;
    Ok(())
}

/// Makes or locks the bookkeeping row of each caller.
struct LockMappings;

impl Statement for LockMappings {
    const HEAD: &'static str = "INSERT INTO ingest.mappings AS t (caller_id) SELECT * FROM unnest(";
    const TAIL: &'static str = ") ON CONFLICT (caller_id) DO UPDATE SET caller_id = t.caller_id WHERE false";
    type Row = ();
}

/// The stored fold of mappings: the state from the table, the times from `ingest.mappings`.
struct ReadMappings;

impl Statement for ReadMappings {
    const HEAD: &'static str = "SELECT c.caller_id, m.id, m.voice_sample_url, m.voice_name, m.description,
            m.account_id, m.created_at, c.state_at, c.deleted_at, c.updated_at, c.created_at
        FROM ingest.mappings c LEFT JOIN public.caller_voice_mapping m ON m.caller_id = c.caller_id
        WHERE c.caller_id IN (SELECT unnest(";
    const TAIL: &'static str = "))";
    type Row = (
        (Text, Nullable<SqlUuid>, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>),
        (
            Nullable<Timestamp>,
            Nullable<Timestamp>,
            Nullable<Timestamp>,
            Nullable<Timestamp>,
            Nullable<Timestamp>,
        ),
    );
}

/// A row of [`ReadMappings`].
type StoredMapping = (
    (String, Option<Uuid>, Option<String>, Option<String>, Option<String>, Option<String>),
    (At, At, At, At, At),
);

fn stored_mapping(row: StoredMapping) -> (String, (Option<Uuid>, Mapping<'static>)) {
    let (
        (caller_id, id, voice_sample_url, voice_name, description, account_id),
        (row_created_at, state_at, deleted_at, updated_at, created_at),
    ) = row;
    let adopted = updated_at.is_none();
    let state = id.map(|_| MappingState {
        voice_sample_url: Cow::Owned(voice_sample_url.unwrap_or_default()),
        voice_name: voice_name.map(Cow::Owned),
        description: description.map(Cow::Owned),
        account_id: account_id.map(Cow::Owned),
    });
    let mapping = Mapping {
        state: latest(state, state_at, adopted),
        deleted: deleted_at.map(from_timestamp),
        updated_at: updated_at.map(from_timestamp),
        created_at: if adopted { row_created_at } else { created_at }.map(from_timestamp),
    };
    (caller_id, (id, mapping))
}

/// Writes the mappings that changed and have a state.
struct UpsertMappings;

impl Statement for UpsertMappings {
    const HEAD: &'static str = "INSERT INTO public.caller_voice_mapping AS t
        (id, caller_id, voice_sample_url, voice_name, description, account_id, created_at, updated_at,
         deleted_at)
     SELECT * FROM unnest(";
    const TAIL: &'static str = ") ON CONFLICT (caller_id) DO UPDATE SET
        voice_sample_url = excluded.voice_sample_url, voice_name = excluded.voice_name,
        description = excluded.description, account_id = excluded.account_id,
        created_at = excluded.created_at, updated_at = excluded.updated_at,
        deleted_at = excluded.deleted_at";
    type Row = ();
}

/// The times of mappings that are locked.
struct UpdateMappingTimes;

impl Statement for UpdateMappingTimes {
    const HEAD: &'static str = "UPDATE ingest.mappings c SET state_at = u.state_at,
            deleted_at = u.deleted_at, updated_at = u.updated_at, created_at = u.created_at
        FROM unnest(";
    const TAIL: &'static str = ") AS u (caller_id, state_at, deleted_at, updated_at, created_at)
        WHERE c.caller_id = u.caller_id";
    type Row = ();
}

/// Mappings are locked, read, merged and written like calls; deletes before any state leave only times.
async fn write_mappings(
    connection: &mut AsyncPgConnection,
    plan: &Plan<'_>,
    written: &mut Written,
) -> Result<(), Fault> {
    let events = &plan.caller_voice_mapping;
    if events.is_empty() {
        return Ok(());
    }
    let caller_ids = || Column::texts(events.keys());
    Unnest::<LockMappings>::new(vec![caller_ids()]).execute(connection).await?;
    let stored: Vec<StoredMapping> = Unnest::<ReadMappings>::new(vec![caller_ids()]).load(connection).await?;
    let mut stored: HashMap<String, (Option<Uuid>, Mapping<'static>)> =
        stored.into_iter().map(stored_mapping).collect();

    let mut changed: Vec<(Uuid, &str, Mapping<'_>)> = Vec::new();
    for (caller_id, events) in events {
        let (stored_id, before) = stored.remove(caller_id.as_ref()).unwrap_or_default();
        let mut after: Mapping<'_> = before.clone();
        after.merge(events.clone());
        let id = stored_id.unwrap_or_else(|| uid("caller_voice_mapping", &[caller_id]));
        if after.state.is_some() {
            let did = match stored_id {
                None => Did::Made,
                Some(_) if after != before => Did::Changed,
                Some(_) => Did::LeftAlone,
            };
            written.note("caller_voice_mapping", std::iter::once(id), did);
        }
        if after != before {
            changed.push((id, caller_id, after));
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let rows = || {
        changed.iter().filter_map(|(id, caller_id, mapping)| {
            mapping.state.as_ref().map(|(_, state)| (*id, *caller_id, state, mapping))
        })
    };
    let statement = Unnest::<UpsertMappings>::new(vec![
        Column::Uuids(rows().map(|(id, ..)| id).collect()),
        Column::texts(rows().map(|(_, caller_id, ..)| caller_id)),
        Column::texts(rows().map(|(_, _, state, _)| &state.voice_sample_url)),
        Column::Texts(rows().map(|(_, _, state, _)| state.voice_name.as_deref()).collect()),
        Column::Texts(rows().map(|(_, _, state, _)| state.description.as_deref()).collect()),
        Column::Texts(rows().map(|(_, _, state, _)| state.account_id.as_deref()).collect()),
        Column::optional_times(rows().map(|(.., mapping)| mapping.created_at)),
        Column::optional_times(rows().map(|(.., mapping)| mapping.updated_at)),
        Column::optional_times(rows().map(|(.., mapping)| mapping.deleted_at())),
    ]);
    statement.execute(connection).await?;
    let mappings = || changed.iter().map(|(_, _, mapping)| mapping);
    let statement = Unnest::<UpdateMappingTimes>::new(vec![
        Column::texts(changed.iter().map(|(_, caller_id, _)| *caller_id)),
        Column::optional_times(mappings().map(|mapping| at(&mapping.state))),
        Column::optional_times(mappings().map(|mapping| mapping.deleted)),
        Column::optional_times(mappings().map(|mapping| mapping.updated_at)),
        Column::optional_times(mappings().map(|mapping| mapping.created_at)),
    ]);
    statement.execute(connection).await?;
    Ok(())
}
