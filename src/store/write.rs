//! A batch in one transaction: offsets first, as the fence; then the tables in one order, each with its
//! locks first and its rows in one statement (contract, sections 4 and 7).

mod calls;
mod facts;
mod mappings;
mod voices;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::connection::CacheSize;
use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{Array, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::dead_letters::{self, DeadLetter};
use super::offsets::{self, Advance};
use super::unnest::{Column, Statement, Unnest, from_timestamp};
use super::{Fault, Store};
use crate::event::Time;
use crate::fold::Latest;
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
                let written = write_all(connection, &self.habits, plan, dead_letters, advances).await?;
                if mode == Mode::Rehearse {
                    rehearsed = Some(written);
                    return Err(Fault::from(diesel::result::Error::RollbackTransaction));
                }
                Ok(written)
            })
            .await;
        if let Some(written) = rehearsed {
            return Ok(written);
        }
        if result.is_err() {
            // A table may have been altered under the connection's prepared statements: new ones are prepared.
            connection.set_prepared_statement_cache_size(CacheSize::Disabled);
            connection.set_prepared_statement_cache_size(CacheSize::Unbounded);
        }
        result
    }
}

async fn write_all(
    connection: &mut AsyncPgConnection,
    habits: &Habits,
    plan: &Plan<'_>,
    dead_letters: &[DeadLetter<'_>],
    advances: &[Advance],
) -> Result<Written, Fault> {
    let mut written = Written::default();
    offsets::advance(connection, advances).await?;
    facts::write_ready(connection, &habits.ready, plan, &mut written).await?;
    facts::write_failed(connection, &habits.failed, plan, &mut written).await?;
    facts::write_clone_log(connection, &habits.clone_log, plan, &mut written).await?;
    voices::write(connection, habits, plan, &mut written).await?;
    calls::write(connection, &habits.calls, plan, &mut written).await?;
    mappings::write(connection, &habits.mappings, plan, &mut written).await?;
    written.dead_letters = dead_letters::insert(connection, dead_letters).await?;
    Ok(written)
}

/// Whether the rows of a table are looked up before they are written. An upsert locks the row that it meets,
/// which writes WAL also where nothing changes; looking first costs a little where rows are new, and saves
/// most of the work where they are there, as when a topic is read again. So the last batch decides. Either
/// way the same rows come out: what a row has taken in once, it never loses.
#[derive(Debug, Default)]
struct Habit(AtomicBool);

impl Habit {
    fn looks_first(&self) -> bool {
        AtomicBool::load(&self.0, Ordering::Relaxed)
    }

    fn learn(&self, met: usize, touched: usize) {
        self.0.store(2 * touched < met, Ordering::Relaxed);
    }
}

/// One for each table.
#[derive(Debug, Default)]
pub(super) struct Habits {
    ready: Habit,
    failed: Habit,
    clone_log: Habit,
    transfers: Habit,
    cache: Habit,
    calls: Habit,
    mappings: Habit,
}

/// The rows of a plan with their ids.
type Rows<'p, R> = Vec<(Uuid, &'p R)>;

/// Those rows that would make or change something. `Look` gives the ids of such; without the habit of
/// looking first, all.
async fn worth_writing<'p, Look, R>(
    connection: &mut AsyncPgConnection,
    habit: &Habit,
    rows: &'p BTreeMap<Uuid, R>,
    columns: impl FnOnce(&Rows<'p, R>) -> Vec<Column<'p>>,
) -> Result<Rows<'p, R>, Fault>
where
    Look: Statement<Row = SqlUuid> + Send + 'static,
{
    let all: Rows<R> = rows.iter().map(|(id, row)| (*id, row)).collect();
    if all.is_empty() || !habit.looks_first() {
        return Ok(all);
    }
    let ids: Vec<Uuid> = Unnest::<Look>::new(columns(&all)).load(connection).await?;
    let ids: HashSet<Uuid> = ids.into_iter().collect();
    Ok(all.into_iter().filter(|(id, _)| ids.contains(id)).collect())
}

/// Notes what was done with the rows of a table, and learns from it.
fn note<R>(
    written: &mut Written,
    habit: &Habit,
    table: &'static str,
    met: &BTreeMap<Uuid, R>,
    (made, changed): (Vec<Uuid>, Vec<Uuid>),
) {
    if met.is_empty() {
        return;
    }
    habit.learn(met.len(), made.len() + changed.len());
    written.note(table, met.keys().copied(), Did::LeftAlone);
    written.note(table, made.into_iter(), Did::Made);
    written.note(table, changed.into_iter(), Did::Changed);
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

use counted;

type At = Option<PgTimestamp>;

/// The event time of a stored value. One that no event gave, of a row that another tool made, is older
/// than all; one that is derived has no event time and is no value of the fold.
fn latest<T>(value: Option<T>, at: At, adopted: bool) -> Latest<T> {
    match (at, adopted) {
        (Some(at), _) => value.map(|value| (from_timestamp(at), value)),
        (None, true) => value.map(|value| (Time::OLDER_THAN_ALL, value)),
        (None, false) => None,
    }
}

fn at<T>(latest: &Latest<T>) -> Option<Time> {
    latest.as_ref().map(|(at, _)| *at)
}
