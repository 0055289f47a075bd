//! Calls (contract, section 4).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamp, Untyped, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement, Unnest, from_timestamp};
use super::merged::{MergedTable, StoredFolds, merge};
use super::{StoredTime, WriteContext, Written, at, latest};
use crate::blocking;
use crate::event::{CallLifecycle, CallStatus, Time};
use crate::fold::{Call, Latest, Metadata};
use crate::plan::Plan;

/// A value of a call of which the latest wins.
struct Field {
    /// The column of `call_log`. The event time of its value is in the column of `ingest.calls` with `_at` added.
    column: &'static str,
    /// The values of calls.
    values: for<'p> fn(&[&'p Call<'_>]) -> Column<'p>,
    /// The event time of a call's value.
    at: fn(&Call<'_>) -> Option<Time>,
}

/// All of them. The statements are made from this list.
const FIELDS: &[Field] = &[
    Field {
        column: "threecx_call_id",
        values: |calls| texts(calls, |call| &call.threecx_call_id),
        at: |call| at(&call.threecx_call_id),
    },
    Field {
        column: "caller_id",
        values: |calls| texts(calls, |call| &call.caller_id),
        at: |call| at(&call.caller_id),
    },
    Field {
        column: "cloned_voice_id",
        values: |calls| texts(calls, |call| &call.cloned_voice_id),
        at: |call| at(&call.cloned_voice_id),
    },
    Field {
        column: "call_started_at",
        values: |calls| Column::optional_times(calls.iter().map(|call| call.started_at())),
        at: |call| at(&call.call_started_at),
    },
    Field {
        column: "call_ended_at",
        values: |calls| Column::optional_times(calls.iter().map(|call| call.ended_at())),
        at: |call| at(&call.call_ended_at),
    },
    Field {
        column: "duration_seconds",
        values: |calls| Column::Integers(calls.iter().map(|call| call.duration()).collect()),
        at: |call| at(&call.duration_seconds),
    },
    Field {
        column: "transcript",
        values: |calls| texts(calls, |call| &call.transcript),
        at: |call| at(&call.transcript),
    },
];

fn texts<'p>(
    calls: &[&'p Call<'_>],
    text: for<'c> fn(&'c Call<'_>) -> &'c Latest<Cow<'c, str>>,
) -> Column<'p> {
    Column::Texts(calls.iter().map(|call| text(call).as_ref().map(|(_, text)| text.as_ref())).collect())
}

/// SQL in which the pattern stands once for each field, with the field's column instead of `{}`.
fn each(pattern: &str) -> String {
    FIELDS.iter().map(|field| pattern.replace("{}", field.column)).collect::<Vec<_>>().join(", ")
}

/// The two texts of a statement, put together when it is first used.
type Texts = LazyLock<(String, String)>;

fn borrowed(texts: &'static Texts) -> (&'static str, &'static str) {
    (&texts.0, &texts.1)
}

pub(super) struct LockCalls;

static LOCK: Texts = LazyLock::new(|| {
    let times = each("{}_at");
    let head = format!(
        "WITH made AS (
        INSERT INTO ingest.calls AS t
            (call_id, initiated_at, terminal_at, {times}, metadata_at, metadata_keys_at)
        SELECT * FROM "
    );
    let tail = " AS u ON CONFLICT (call_id) DO UPDATE SET call_id = t.call_id WHERE false
        RETURNING call_id)
        SELECT call_id,
               (SELECT true FROM public.call_log l WHERE l.call_id = made.call_id COLLATE \"default\") IS TRUE
        FROM made";
    (head, tail.to_owned())
});

impl Statement for LockCalls {
    type Row = (Text, Bool);

    fn texts() -> (&'static str, &'static str) {
        borrowed(&LOCK)
    }
}

/// The stored folds of calls: values from `call_log`, event times from `ingest.calls`.
struct ReadCalls;

static READ: Texts = LazyLock::new(|| {
    let (values, times) = (each("l.{}"), each("c.{}_at"));
    let head = format!(
        "SELECT u.call_id, l.id, {values}, l.status, l.metadata::text AS metadata, l.created_at, l.updated_at,
            c.initiated_at, c.terminal_at, {times}, c.metadata_at, c.metadata_keys_at
        FROM "
    );
    let tail = " AS u (call_id)
        JOIN public.call_log l ON l.call_id = u.call_id
        LEFT JOIN ingest.calls c ON c.call_id = u.call_id";
    (head, tail.to_owned())
});

impl Statement for ReadCalls {
    type Row = Untyped;

    fn texts() -> (&'static str, &'static str) {
        borrowed(&READ)
    }
}

/// A row of [`ReadCalls`]. A column of another tool may be null where the contract's cannot.
#[derive(QueryableByName)]
struct StoredCall {
    #[diesel(sql_type = Text)]
    call_id: String,
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Nullable<Text>)]
    threecx_call_id: Option<String>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    threecx_call_id_at: StoredTime,
    #[diesel(sql_type = Nullable<Text>)]
    caller_id: Option<String>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    caller_id_at: StoredTime,
    #[diesel(sql_type = Nullable<Text>)]
    cloned_voice_id: Option<String>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    cloned_voice_id_at: StoredTime,
    #[diesel(sql_type = Nullable<Timestamp>)]
    call_started_at: StoredTime,
    #[diesel(sql_type = Nullable<Timestamp>)]
    call_started_at_at: StoredTime,
    #[diesel(sql_type = Nullable<Timestamp>)]
    call_ended_at: StoredTime,
    #[diesel(sql_type = Nullable<Timestamp>)]
    call_ended_at_at: StoredTime,
    #[diesel(sql_type = Nullable<Integer>)]
    duration_seconds: Option<i32>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    duration_seconds_at: StoredTime,
    #[diesel(sql_type = Nullable<Text>)]
    transcript: Option<String>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    transcript_at: StoredTime,
    #[diesel(sql_type = Nullable<Text>)]
    metadata: Option<String>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    metadata_at: StoredTime,
    #[diesel(sql_type = Nullable<Text>)]
    metadata_keys_at: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    status: Option<String>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    initiated_at: StoredTime,
    #[diesel(sql_type = Nullable<Timestamp>)]
    terminal_at: StoredTime,
    #[diesel(sql_type = Nullable<Timestamp>)]
    created_at: StoredTime,
    #[diesel(sql_type = Nullable<Timestamp>)]
    updated_at: StoredTime,
}

/// The stored fold of a call, with its id.
fn stored_call(row: StoredCall, taken_over: &HashSet<&str>) -> (String, (Option<Uuid>, Call<'static>)) {
    // Every event has a status, so a row that no event has changed yet has neither time.
    let unchanged = row.initiated_at.is_none() && row.terminal_at.is_none();
    let adopted = unchanged || taken_over.contains(row.call_id.as_str());
    let known = |at: StoredTime| at.filter(|_| !adopted);
    let status =
        row.status.as_deref().and_then(CallStatus::from_name).filter(|s| *s != CallStatus::Initiated);
    let keys_at = row.metadata_keys_at.filter(|_| !adopted);
    let call = Call {
        threecx_call_id: latest(row.threecx_call_id.map(Cow::Owned), known(row.threecx_call_id_at), adopted),
        caller_id: latest(row.caller_id.map(Cow::Owned), known(row.caller_id_at), adopted),
        cloned_voice_id: latest(row.cloned_voice_id.map(Cow::Owned), known(row.cloned_voice_id_at), adopted),
        call_started_at: latest(
            row.call_started_at.map(from_timestamp),
            known(row.call_started_at_at),
            adopted,
        ),
        call_ended_at: latest(row.call_ended_at.map(from_timestamp), known(row.call_ended_at_at), adopted),
        duration_seconds: latest(row.duration_seconds, known(row.duration_seconds_at), adopted),
        transcript: latest(row.transcript.map(Cow::Owned), known(row.transcript_at), adopted),
        metadata: stored_metadata(row.metadata, row.metadata_at, keys_at, adopted),
        terminal: latest(status, known(row.terminal_at), adopted),
        initiated_at: known(row.initiated_at).map(from_timestamp),
        created_at: row.created_at.map(from_timestamp),
        // In a row that no event has changed, `updated_at` is older than every record's timestamp.
        updated_at: row.updated_at.map(from_timestamp).filter(|_| !adopted),
    };
    (row.call_id, (Some(row.id), call))
}

/// The newest call as the event that would make it. Very long values are left out, as the event is read for a trial
/// only.
pub(super) async fn newest(
    connection: &mut AsyncPgConnection,
) -> Result<Option<CallLifecycle<'static>>, Fault> {
    let short = "CASE WHEN octet_length({}::text) < 65536 THEN {} END AS {}";
    let (values, times) = (each(short), each("NULL::timestamp AS {}_at"));
    let metadata = short.replace("{}", "metadata").replace("THEN metadata", "THEN metadata::text");
    let row: Option<StoredCall> = diesel::sql_query(format!(
        "SELECT call_id, id, {values}, status, {metadata}, created_at, updated_at, NULL::timestamp AS initiated_at,
                NULL::timestamp AS terminal_at, {times}, NULL::timestamp AS metadata_at, NULL AS metadata_keys_at
         FROM public.call_log ORDER BY created_at DESC LIMIT 1"
    ))
    .get_result(connection)
    .await
    .optional()?;
    let event = |row: StoredCall| {
        let occurred_at = from_timestamp(row.created_at?);
        Some(CallLifecycle {
            call_id: Cow::Owned(row.call_id),
            status: row.status.as_deref().and_then(CallStatus::from_name).unwrap_or(CallStatus::Initiated),
            occurred_at,
            threecx_call_id: row.threecx_call_id.map(Cow::Owned),
            caller_id: row.caller_id.map(Cow::Owned),
            cloned_voice_id: row.cloned_voice_id.map(Cow::Owned),
            call_started_at: row.call_started_at.map(from_timestamp),
            call_ended_at: row.call_ended_at.map(from_timestamp),
            duration_seconds: row.duration_seconds,
            transcript: row.transcript.map(Cow::Owned),
            metadata: row.metadata.and_then(|text| crate::event::stored_metadata(&text)),
        })
    };
    Ok(row.and_then(event))
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

static UPSERT: Texts = LazyLock::new(|| {
    let (values, assignments) = (each("{}"), each("{} = excluded.{}"));
    let columns = |metadata| format!("id, call_id, {values}, status, {metadata}, created_at, updated_at");
    let (names, selected) = (columns("metadata"), columns("metadata::json"));
    let head = format!("INSERT INTO public.call_log AS t ({names}) SELECT {selected} FROM ");
    let tail = format!(
        " AS u ({names})
     ON CONFLICT (call_id) DO UPDATE SET
        {assignments}, status = excluded.status, metadata = COALESCE(excluded.metadata, t.metadata),
        created_at = excluded.created_at, updated_at = excluded.updated_at"
    );
    (head, tail)
});

impl Statement for UpsertCalls {
    type Row = ();

    fn texts() -> (&'static str, &'static str) {
        borrowed(&UPSERT)
    }
}

pub(super) struct UpdateCallTimes;

static UPDATE_TIMES: Texts = LazyLock::new(|| {
    let (times, assignments) = (each("{}_at"), each("{}_at = u.{}_at"));
    let head = format!(
        "UPDATE ingest.calls c SET
            initiated_at = u.initiated_at, terminal_at = u.terminal_at, {assignments},
            metadata_at = u.metadata_at, metadata_keys_at = u.metadata_keys_at
        FROM "
    );
    let tail = format!(
        " AS u (call_id, initiated_at, terminal_at, {times}, metadata_at, metadata_keys_at)
        WHERE c.call_id = u.call_id"
    );
    (head, tail)
});

impl Statement for UpdateCallTimes {
    type Row = ();

    fn texts() -> (&'static str, &'static str) {
        borrowed(&UPDATE_TIMES)
    }
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
        let mut times = vec![
            Column::texts(calls.iter().map(|(call_id, _)| *call_id)),
            of(|call| call.initiated_at),
            of(|call| at(&call.terminal)),
        ];
        times.extend(FIELDS.iter().map(|field| of(field.at)));
        times.push(of(|call| at(&call.metadata)));
        times.push(Column::Strings(calls.iter().map(|(_, call)| keys_at(call)).collect()));
        times
    }

    async fn read(
        connection: &AsyncPgConnection,
        call_ids: Column<'_>,
        taken_over: &HashSet<&str>,
    ) -> Result<StoredFolds<Self>, Fault> {
        let stored: Vec<StoredCall> =
            Unnest::<ReadCalls>::new(vec![call_ids]).load(&mut &*connection).await?;
        let metadata = |row: &StoredCall| row.metadata.as_ref().map_or(0, String::len);
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
    let calls: Vec<&Call<'_>> = rows.iter().map(|(_, _, call)| call.as_ref()).collect();
    let mut columns = vec![
        Column::Uuids(rows.iter().map(|(id, _, _)| *id).collect()),
        Column::texts(rows.iter().map(|(_, call_id, _)| *call_id)),
    ];
    columns.extend(FIELDS.iter().map(|field| (field.values)(&calls)));
    columns.extend([
        Column::texts(calls.iter().map(|call| call.status().name())),
        Column::Strings(calls.iter().map(|call| call.metadata_json()).collect()),
        Column::optional_times(calls.iter().map(|call| call.created_at)),
        Column::optional_times(calls.iter().map(|call| call.updated_at)),
    ]);
    Unnest::<UpsertCalls>::new(columns).execute(&mut &*context.connection).await?;
    Ok(written)
}
