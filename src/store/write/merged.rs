//! Rows whose fold does not fit one statement: they are locked, read, merged by the same code as within a batch, and
//! written where they changed. A bookkeeping row beside each keeps the event times, and is the lock.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use diesel::sql_types::{Bool, Text};
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
pub(super) trait Fold: Merge + Clone {
    /// The row's table.
    const TABLE: &'static str;
    /// Makes the bookkeeping row of each key, or locks the one that is there. Gives those that it made, and whether
    /// there is a row all the same, which then another tool has made. (Keys are of collation C in the bookkeeping, and
    /// of the default one in the tables, whose index serves no other.)
    type Lock: Statement<Row = (Text, Bool)> + Send + 'static;
    /// Writes the bookkeeping of keys that are locked.
    type UpdateTimes: Statement<Row = ()> + Send + 'static;

    /// The key and the event times, as columns of the bookkeeping.
    fn times<'p>(folds: &[(&'p str, &'p Self)]) -> Vec<Column<'p>>;

    /// What is stored of these keys. Of those that are `taken_over` this transaction has just made the bookkeeping:
    /// what stands in it is not what made the row.
    async fn read(
        connection: &AsyncPgConnection,
        keys: Column<'_>,
        taken_over: &HashSet<&str>,
    ) -> Result<Stored<Self>, Fault>;

    /// Whether there is a row; a mapping that was only ever deleted has none.
    fn has_row(&self) -> bool;
}

/// A row that is to be written: its id, its key, and the fold of all its events.
pub(super) type Changed<'p, F> = (Uuid, &'p str, Cow<'p, F>);

/// Merges what a batch says into what is stored, but for the rows themselves: gives those that changed, with the
/// bookkeeping of all up to date.
pub(super) async fn merge<'p, F: Fold>(
    target: Target<'_>,
    habit: &Habit,
    met: &'p BTreeMap<Cow<'_, str>, F>,
    written: &mut Written,
) -> Result<Vec<Changed<'p, F>>, Fault> {
    let connection = target.connection;
    let mut folds: Vec<(&str, &F)> = met.iter().map(|(key, fold)| (key.as_ref(), fold)).collect();
    let mut note = |id, did| {
        if target.tells {
            written.note(F::TABLE, [id], did);
        }
    };
    if habit.looks_first() && !folds.is_empty() {
        let mut stored = F::read(connection, keys(&folds), &HashSet::new()).await?;
        folds.retain(|(key, events)| {
            let Some((id, mut fold)) = stored.remove(*key) else {
                return true;
            };
            let news = fold.merge((*events).clone());
            if !news {
                id.iter().for_each(|id| note(*id, Did::LeftAlone));
            }
            news
        });
    }
    if folds.is_empty() {
        written.count_met(F::TABLE, met.len(), 0, 0);
        return Ok(Vec::new());
    }
    let made: Vec<(String, bool)> = Unnest::<F::Lock>::new(F::times(&folds)).load(&mut &*connection).await?;
    let made: HashMap<&str, bool> = made.iter().map(|(key, has_row)| (key.as_str(), *has_row)).collect();
    let mut there = folds.clone();
    there.retain(|(key, _)| made.get(key).is_none_or(|has_row| *has_row));
    let mut stored = Stored::new();
    if !there.is_empty() {
        stored = F::read(connection, keys(&there), &made.keys().copied().collect()).await?;
    }

    let mut changed: Vec<Changed<F>> = Vec::new();
    let (mut made_rows, mut changed_rows) = (0, 0);
    for (key, events) in folds {
        let (stored_id, fold) = match stored.remove(key) {
            Some((id, mut fold)) => (id, fold.merge(events.clone()).then_some(Cow::Owned(fold))),
            None => (None, Some(Cow::Borrowed(events))),
        };
        let id = stored_id.unwrap_or_else(|| uid(F::TABLE, &[key]));
        match fold {
            None => stored_id.iter().for_each(|id| note(*id, Did::LeftAlone)),
            Some(fold) => {
                if fold.has_row() {
                    let is_there = stored_id.is_some();
                    *(if is_there { &mut changed_rows } else { &mut made_rows }) += 1;
                    note(id, if is_there { Did::Changed } else { Did::Made });
                }
                changed.push((id, key, fold));
            }
        }
    }
    habit.learn(met.len(), changed.len());
    written.count_met(F::TABLE, met.len(), made_rows, changed_rows);
    let outdated: Vec<(&str, &F)> = changed
        .iter()
        .filter(|(_, key, fold)| matches!(fold, Cow::Owned(_)) || !made.contains_key(key))
        .map(|(_, key, fold)| (*key, fold.as_ref()))
        .collect();
    if !outdated.is_empty() {
        Unnest::<F::UpdateTimes>::new(F::times(&outdated)).execute(&mut &*connection).await?;
    }
    Ok(changed)
}

fn keys<'p, F>(folds: &[(&'p str, &'p F)]) -> Column<'p> {
    Column::texts(folds.iter().map(|(key, _)| *key))
}
