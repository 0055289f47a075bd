//! Rows whose fold does not fit one statement: they are locked, read, merged by the same code as within a batch, and
//! written where they changed. A bookkeeping row beside each keeps the event times, and is the lock.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use diesel::sql_types::Text;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement, Unnest};
use super::{Did, Habit, Target, Written};
use crate::fold::Merge;
use crate::identity::uid;

/// The stored folds by key; with the row's id where there is one.
pub(super) type Stored<F> = HashMap<String, (Option<Uuid>, F)>;

/// The fold of a row's events.
pub(super) trait Fold: Merge + Clone + Default + PartialEq {
    /// The row's table.
    const TABLE: &'static str;
    /// Makes the bookkeeping row of each key, or locks the one that is there. Gives those that it made.
    type Lock: Statement<Row = Text> + Send + 'static;
    /// Writes the bookkeeping of keys that are locked.
    type UpdateTimes: Statement<Row = ()> + Send + 'static;

    /// The key and the event times, as columns of the bookkeeping.
    fn times<'p>(folds: &[(&'p str, &'p Self)]) -> Vec<Column<'p>>;

    /// What is stored of these keys. `fresh` are those whose bookkeeping row this transaction has just made: what
    /// stands in it is not what made the row.
    async fn read(
        connection: &AsyncPgConnection,
        keys: Column<'_>,
        fresh: &HashSet<String>,
    ) -> Result<Stored<Self>, Fault>;

    /// Whether there is a row; a mapping that was only ever deleted has none.
    fn has_row(&self) -> bool;
}

/// Merges what a batch says into what is stored, but for the rows themselves: gives those that changed, with the
/// bookkeeping of all up to date.
pub(super) async fn merge<'p, F: Fold>(
    target: Target<'_>,
    habit: &Habit,
    met: &'p BTreeMap<Cow<'_, str>, F>,
    written: &mut Written,
) -> Result<Vec<(Uuid, &'p str, F)>, Fault> {
    let connection = target.connection;
    let mut folds: Vec<(&str, &F)> = met.iter().map(|(key, fold)| (key.as_ref(), fold)).collect();
    let mut note = |id, did| {
        if target.tells {
            written.note(F::TABLE, [id], did);
        }
    };
    if habit.looks_first() && !folds.is_empty() {
        let stored = F::read(connection, keys(&folds), &HashSet::new()).await?;
        folds.retain(|(key, events)| match stored.get(*key) {
            Some((id, before)) if merged(before, events) == *before => {
                id.iter().for_each(|id| note(*id, Did::LeftAlone));
                false
            }
            _ => true,
        });
    }
    if folds.is_empty() {
        return Ok(Vec::new());
    }
    let fresh: Vec<String> = Unnest::<F::Lock>::new(F::times(&folds)).load(&mut &*connection).await?;
    let fresh: HashSet<String> = fresh.into_iter().collect();
    let mut stored = F::read(connection, keys(&folds), &fresh).await?;

    let mut changed: Vec<(Uuid, &str, F)> = Vec::new();
    let mut outdated = HashSet::new();
    for (key, events) in &folds {
        let (stored_id, before) = stored.remove(*key).unwrap_or_default();
        let after = merged(&before, events);
        let id = stored_id.unwrap_or_else(|| uid(F::TABLE, &[key]));
        if after.has_row() {
            let did = match stored_id {
                None => Did::Made,
                Some(_) if after != before => Did::Changed,
                Some(_) => Did::LeftAlone,
            };
            note(id, did);
        }
        if after != before {
            if after != **events || !fresh.contains(*key) {
                outdated.insert(*key);
            }
            changed.push((id, key, after));
        }
    }
    habit.learn(met.len(), changed.len());
    let outdated: Vec<(&str, &F)> = changed
        .iter()
        .filter(|(_, key, _)| outdated.contains(key))
        .map(|(_, key, fold)| (*key, fold))
        .collect();
    if !outdated.is_empty() {
        Unnest::<F::UpdateTimes>::new(F::times(&outdated)).execute(&mut &*connection).await?;
    }
    Ok(changed)
}

fn keys<'p, F>(folds: &[(&'p str, &'p F)]) -> Column<'p> {
    Column::texts(folds.iter().map(|(key, _)| *key))
}

fn merged<F: Fold>(before: &F, events: &F) -> F {
    let mut after = before.clone();
    after.merge(events.clone());
    after
}
