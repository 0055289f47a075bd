//! Mappings are locked, read, merged and written like calls; deletes before any state leave only times
//! (contract, section 4).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use diesel::sql_types::{Nullable, Text, Timestamp, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement, Unnest, from_timestamp};
use super::{At, Did, Habit, Written, at, latest};
use crate::event::MappingState;
use crate::fold::{Mapping, Merge};
use crate::identity::uid;
use crate::plan::Plan;

/// Makes the bookkeeping row of each caller, or locks the one that is there. Gives those that it made.
struct LockMappings;

impl Statement for LockMappings {
    const HEAD: &'static str =
        "INSERT INTO ingest.mappings AS t (caller_id, state_at, deleted_at, updated_at, created_at)
        SELECT * FROM unnest(";
    const TAIL: &'static str =
        ") ON CONFLICT (caller_id) DO UPDATE SET caller_id = t.caller_id WHERE false RETURNING caller_id";
    type Row = Text;
}

/// The stored fold of mappings: the state from the table, the times from `ingest.mappings`.
struct ReadMappings;

impl Statement for ReadMappings {
    const HEAD: &'static str = "SELECT u.caller_id, m.id, m.voice_sample_url, m.voice_name, m.description,
            m.account_id, m.created_at, c.state_at, c.deleted_at, c.updated_at, c.created_at
        FROM unnest(";
    const TAIL: &'static str = ") AS u (caller_id)
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
    (At, At, At, At, At),
);

fn stored_mapping(row: StoredMapping, fresh: &HashSet<String>) -> (String, (Option<Uuid>, Mapping<'static>)) {
    let (
        (caller_id, id, voice_sample_url, voice_name, description, account_id),
        (row_created_at, state_at, deleted_at, updated_at, created_at),
    ) = row;
    // Every event has a time, so what no event had met before has none.
    let adopted = updated_at.is_none() || fresh.contains(&caller_id);
    let known = |at: At| at.filter(|_| !adopted);
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

/// Callers with what is to be merged into their mappings, or is the outcome.
type Mappings<'p, 'a> = Vec<(&'p str, &'p Mapping<'a>)>;

/// The times of mappings, as columns of `ingest.mappings`.
fn times<'p>(mappings: &Mappings<'p, '_>) -> Vec<Column<'p>> {
    vec![
        Column::texts(mappings.iter().map(|(caller_id, _)| *caller_id)),
        Column::optional_times(mappings.iter().map(|(_, mapping)| at(&mapping.state))),
        Column::optional_times(mappings.iter().map(|(_, mapping)| mapping.deleted)),
        Column::optional_times(mappings.iter().map(|(_, mapping)| mapping.updated_at)),
        Column::optional_times(mappings.iter().map(|(_, mapping)| mapping.created_at)),
    ]
}

/// The stored folds by caller, with the row's id where there is one; `fresh` as for calls.
async fn read(
    connection: &mut AsyncPgConnection,
    mappings: &Mappings<'_, '_>,
    fresh: &HashSet<String>,
) -> Result<HashMap<String, (Option<Uuid>, Mapping<'static>)>, Fault> {
    let caller_ids = Column::texts(mappings.iter().map(|(caller_id, _)| *caller_id));
    let stored: Vec<StoredMapping> = Unnest::<ReadMappings>::new(vec![caller_ids]).load(connection).await?;
    Ok(stored.into_iter().map(|row| stored_mapping(row, fresh)).collect())
}

fn merged<'a>(before: &Mapping<'static>, events: &Mapping<'a>) -> Mapping<'a> {
    let mut after: Mapping<'a> = before.clone();
    after.merge(events.clone());
    after
}

pub(super) async fn write(
    connection: &mut AsyncPgConnection,
    habit: &Habit,
    plan: &Plan<'_>,
    written: &mut Written,
) -> Result<(), Fault> {
    let met = &plan.caller_voice_mapping;
    let mut mappings: Mappings = met.iter().map(|(caller_id, events)| (caller_id.as_ref(), events)).collect();
    let mut note = |id, did| written.note("caller_voice_mapping", std::iter::once(id), did);
    if habit.looks_first() && !mappings.is_empty() {
        let stored = read(connection, &mappings, &HashSet::new()).await?;
        mappings.retain(|(caller_id, events)| match stored.get(*caller_id) {
            Some((id, before)) if merged(before, events) == *before => {
                id.iter().for_each(|id| note(*id, Did::LeftAlone));
                false
            }
            _ => true,
        });
    }
    if mappings.is_empty() {
        return Ok(());
    }
    let fresh: Vec<String> = Unnest::<LockMappings>::new(times(&mappings)).load(connection).await?;
    let fresh: HashSet<String> = fresh.into_iter().collect();
    let mut stored = read(connection, &mappings, &fresh).await?;

    let mut changed: Vec<(Uuid, &str, Mapping<'_>)> = Vec::new();
    let mut outdated = HashSet::new();
    for (caller_id, events) in &mappings {
        let (stored_id, before) = stored.remove(*caller_id).unwrap_or_default();
        let after = merged(&before, events);
        let id = stored_id.unwrap_or_else(|| uid("caller_voice_mapping", &[caller_id]));
        if after.state.is_some() {
            let did = match stored_id {
                None => Did::Made,
                Some(_) if after != before => Did::Changed,
                Some(_) => Did::LeftAlone,
            };
            note(id, did);
        }
        if after != before {
            if after != **events {
                outdated.insert(*caller_id);
            }
            changed.push((id, caller_id, after));
        }
    }
    habit.learn(met.len(), changed.len());
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
        statement.execute(connection).await?;
    }
    let outdated: Mappings = changed
        .iter()
        .filter(|(_, caller_id, _)| outdated.contains(caller_id) || !fresh.contains(*caller_id))
        .map(|(_, caller_id, mapping)| (*caller_id, mapping))
        .collect();
    if !outdated.is_empty() {
        Unnest::<UpdateMappingTimes>::new(times(&outdated)).execute(connection).await?;
    }
    Ok(())
}
