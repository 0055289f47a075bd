//! Mappings. Deletes before any state leave only times (contract, section 4).

use std::borrow::Cow;
use std::collections::HashSet;

use diesel::sql_types::{Bool, Nullable, Text, Timestamp, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement, Unnest, from_timestamp};
use super::merged::{MergedTable, StoredFolds, merge};
use super::{StoredTime, WriteContext, Written, at, latest};
use crate::event::MappingState;
use crate::fold::Mapping;
use crate::plan::Plan;

pub(super) struct LockMappings;

impl Statement for LockMappings {
    const HEAD: &'static str = "WITH made AS (
        INSERT INTO ingest.mappings AS t (caller_id, state_at, deleted_at, updated_at, created_at)
        SELECT * FROM ";
    const TAIL: &'static str =
        " AS u ON CONFLICT (caller_id) DO UPDATE SET caller_id = t.caller_id WHERE false RETURNING caller_id)
        SELECT caller_id,
               (SELECT true FROM public.caller_voice_mapping m
                WHERE m.caller_id = made.caller_id COLLATE \"default\") IS TRUE
        FROM made";
    type Row = (Text, Bool);
}

/// The stored folds of mappings: the state from the table, the times from `ingest.mappings`.
struct ReadMappings;

impl Statement for ReadMappings {
    const HEAD: &'static str = "SELECT u.caller_id, m.id, m.voice_sample_url, m.voice_name, m.description,
            m.account_id, m.created_at, c.state_at, c.deleted_at, c.updated_at, c.created_at
        FROM ";
    const TAIL: &'static str = " AS u (caller_id)
        LEFT JOIN public.caller_voice_mapping m ON m.caller_id = u.caller_id
        LEFT JOIN ingest.mappings c ON c.caller_id = u.caller_id";
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
    (StoredTime, StoredTime, StoredTime, StoredTime, StoredTime),
);

fn stored_mapping(
    row: StoredMapping,
    taken_over: &HashSet<&str>,
) -> (String, (Option<Uuid>, Mapping<'static>)) {
    let (
        (caller_id, id, voice_sample_url, voice_name, description, account_id),
        (row_created_at, state_at, deleted_at, updated_at, created_at),
    ) = row;
    // Every event has a time, so a row that no event has changed yet has none.
    let adopted = updated_at.is_none() || taken_over.contains(caller_id.as_str());
    let known = |at: StoredTime| at.filter(|_| !adopted);
    let state = id.map(|_| MappingState {
        voice_sample_url: Cow::Owned(voice_sample_url.unwrap_or_default()),
        voice_name: voice_name.map(Cow::Owned),
        description: description.map(Cow::Owned),
        account_id: account_id.map(Cow::Owned),
    });
    let mapping = Mapping {
        state: latest(state, known(state_at), adopted),
        deleted: known(deleted_at).map(from_timestamp),
        updated_at: known(updated_at).map(from_timestamp),
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
     SELECT * FROM ";
    const TAIL: &'static str = " AS u ON CONFLICT (caller_id) DO UPDATE SET
        voice_sample_url = excluded.voice_sample_url, voice_name = excluded.voice_name,
        description = excluded.description, account_id = excluded.account_id,
        created_at = excluded.created_at, updated_at = excluded.updated_at,
        deleted_at = excluded.deleted_at";
    type Row = ();
}

pub(super) struct UpdateMappingTimes;

impl Statement for UpdateMappingTimes {
    const HEAD: &'static str = "UPDATE ingest.mappings c SET state_at = u.state_at,
            deleted_at = u.deleted_at, updated_at = u.updated_at, created_at = u.created_at
        FROM ";
    const TAIL: &'static str = " AS u (caller_id, state_at, deleted_at, updated_at, created_at)
        WHERE c.caller_id = u.caller_id";
    type Row = ();
}

impl MergedTable for Mapping<'_> {
    const TABLE: &'static str = "caller_voice_mapping";
    type Lock = LockMappings;
    type UpdateTimes = UpdateMappingTimes;

    fn times<'p>(mappings: &[(&'p str, &'p Self)]) -> Vec<Column<'p>> {
        vec![
            Column::texts(mappings.iter().map(|(caller_id, _)| *caller_id)),
            Column::optional_times(mappings.iter().map(|(_, mapping)| at(&mapping.state))),
            Column::optional_times(mappings.iter().map(|(_, mapping)| mapping.deleted)),
            Column::optional_times(mappings.iter().map(|(_, mapping)| mapping.updated_at)),
            Column::optional_times(mappings.iter().map(|(_, mapping)| mapping.created_at)),
        ]
    }

    async fn read(
        connection: &AsyncPgConnection,
        caller_ids: Column<'_>,
        taken_over: &HashSet<&str>,
    ) -> Result<StoredFolds<Self>, Fault> {
        let stored: Vec<StoredMapping> =
            Unnest::<ReadMappings>::new(vec![caller_ids]).load(&mut &*connection).await?;
        Ok(stored.into_iter().map(|row| stored_mapping(row, taken_over)).collect())
    }

    fn has_row(&self) -> bool {
        self.state.is_some()
    }
}

pub(super) async fn write(context: WriteContext<'_>, plan: &Plan<'_>) -> Result<Written, Fault> {
    let mut written = Written::default();
    let changed = merge(context, &context.lookups.mappings, &plan.caller_voice_mapping, &mut written).await?;
    let states = || {
        changed.iter().filter_map(|(id, caller_id, mapping)| {
            mapping.state.as_ref().map(|(_, state)| (*id, *caller_id, state, mapping))
        })
    };
    if states().next().is_some() {
        let statement = Unnest::<UpsertMappings>::new(vec![
            Column::Uuids(states().map(|(id, ..)| id).collect()),
            Column::texts(states().map(|(_, caller_id, ..)| caller_id)),
            Column::texts(states().map(|(_, _, state, _)| &state.voice_sample_url)),
            Column::Texts(states().map(|(_, _, state, _)| state.voice_name.as_deref()).collect()),
            Column::Texts(states().map(|(_, _, state, _)| state.description.as_deref()).collect()),
            Column::Texts(states().map(|(_, _, state, _)| state.account_id.as_deref()).collect()),
            Column::optional_times(states().map(|(.., mapping)| mapping.created_at)),
            Column::optional_times(states().map(|(.., mapping)| mapping.updated_at)),
            Column::optional_times(states().map(|(.., mapping)| mapping.deleted_at())),
        ]);
        statement.execute(&mut &*context.connection).await?;
    }
    Ok(written)
}
