//! Rows whose fold does not fit one statement: they are locked, read, merged by the same code as within a batch, and
//! written if they changed. A bookkeeping row beside each keeps the event times, and is the lock.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use diesel::sql_types::{Bool, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Column, Statement, Unnest};
use super::{LookupPolicy, RowOutcome, WriteContext, Written};
use crate::fold::Merge;
use crate::identity::uid;

/// The stored folds by key, with the row's id if there is one.
pub(super) type StoredFolds<F> = HashMap<String, (Option<Uuid>, F)>;

/// A table whose rows are folds of events.
pub(super) trait MergedTable: Merge + Clone {
    /// The table of the rows.
    const TABLE: &'static str;
    /// Makes the bookkeeping row of each key, or locks the existing one. Returns the keys whose bookkeeping it made,
    /// and whether they have a row nevertheless, which another tool then made. (Keys have collation C in the
    /// bookkeeping, and the default one in the tables, whose index serves no other.)
    type Lock: Statement<Row = (Text, Bool)> + Send + 'static;
    /// Writes the bookkeeping of locked keys.
    type UpdateTimes: Statement<Row = ()> + Send + 'static;

    /// The key and the event times, as columns of the bookkeeping.
    fn times<'p>(folds: &[(&'p str, &'p Self)]) -> Vec<Column<'p>>;

    /// Reads the stored folds of these keys. This transaction has just made the bookkeeping of the `taken_over` ones,
    /// so its times are not those of the row.
    async fn read(
        connection: &AsyncPgConnection,
        keys: Column<'_>,
        taken_over: &HashSet<&str>,
    ) -> Result<StoredFolds<Self>, Fault>;

    /// Whether the fold has a row; a mapping that was only ever deleted has none.
    fn has_row(&self) -> bool;
}

/// A row to be written: its id, its key, and the fold of all its events.
pub(super) type ChangedRow<'p, F> = (Uuid, &'p str, Cow<'p, F>);

/// Merges a batch into the stored folds, all but the rows themselves. Returns the changed rows, with all bookkeeping
/// up to date.
pub(super) async fn merge<'p, F: MergedTable>(
    context: WriteContext<'_>,
    lookup: &LookupPolicy,
    incoming: &'p BTreeMap<Cow<'_, str>, F>,
    written: &mut Written,
) -> Result<Vec<ChangedRow<'p, F>>, Fault> {
    let connection = context.connection;
    let mut folds: Vec<(&str, &F)> = incoming.iter().map(|(key, fold)| (key.as_ref(), fold)).collect();
    let mut note = |id, outcome| {
        if context.reports_rows {
            written.note(F::TABLE, [id], outcome);
        }
    };
    if lookup.looks_first() && !folds.is_empty() {
        let mut stored = F::read(connection, keys(&folds), &HashSet::new()).await?;
        folds.retain(|(key, events)| {
            let Some((id, mut fold)) = stored.remove(*key) else {
                return true;
            };
            let changes = fold.merge((*events).clone());
            if !changes {
                id.iter().for_each(|id| note(*id, RowOutcome::LeftAlone));
            }
            changes
        });
    }
    if folds.is_empty() {
        written.count_rows(F::TABLE, incoming.len(), 0, 0);
        return Ok(Vec::new());
    }
    let made: Vec<(String, bool)> = Unnest::<F::Lock>::new(F::times(&folds)).load(&mut &*connection).await?;
    let made: HashMap<&str, bool> = made.iter().map(|(key, has_row)| (key.as_str(), *has_row)).collect();
    let mut with_rows = folds.clone();
    with_rows.retain(|(key, _)| made.get(key).is_none_or(|has_row| *has_row));
    let mut stored = StoredFolds::new();
    if !with_rows.is_empty() {
        stored = F::read(connection, keys(&with_rows), &made.keys().copied().collect()).await?;
    }

    let mut changed: Vec<ChangedRow<F>> = Vec::new();
    let (mut made_rows, mut changed_rows) = (0, 0);
    for (key, events) in folds {
        let (stored_id, fold) = match stored.remove(key) {
            Some((id, mut fold)) => (id, fold.merge(events.clone()).then_some(Cow::Owned(fold))),
            None => (None, Some(Cow::Borrowed(events))),
        };
        let id = stored_id.unwrap_or_else(|| uid(F::TABLE, &[key]));
        match fold {
            None => stored_id.iter().for_each(|id| note(*id, RowOutcome::LeftAlone)),
            Some(fold) => {
                if fold.has_row() {
                    let exists = stored_id.is_some();
                    *(if exists { &mut changed_rows } else { &mut made_rows }) += 1;
                    note(id, if exists { RowOutcome::Changed } else { RowOutcome::Made });
                }
                changed.push((id, key, fold));
            }
        }
    }
    lookup.learn(incoming.len(), changed.len());
    written.count_rows(F::TABLE, incoming.len(), made_rows, changed_rows);
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
